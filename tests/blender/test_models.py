"""The engine's models in the preferences: told, downloaded with their licence accepted, verified, removed."""

from __future__ import annotations

import dataclasses

import bpy
import pytest
from bl_ext.user_default.musev import session
from bl_ext.user_default.musev.weights import models, models_panel, shelf
from conftest import MODULE, pump
from test_extension import Layout
from test_generate import refusal


@pytest.fixture
def online(empty_scene):
    system = bpy.context.preferences.system
    was, system.use_online_access = system.use_online_access, True
    yield system
    system.use_online_access = was


def done(current, id: str):
    """What came of the last thing wanted of a model."""
    pump(lambda: id in current.shelf.work and current.shelf.working(id) is None)
    return current.shelf.work[id]


def preferences() -> str:
    """What is drawn of the models, in one text."""
    layout = Layout([])
    models_panel.draw_models(layout, bpy.context)
    return " ".join(layout.drawn)


def rows() -> list[str]:
    return [row.name for row in bpy.context.window_manager.musev_models]


def test_the_shelf_is_told_by_role_as_soon_as_the_engine_is_there(told):
    known = told().shelf
    assert (
        list(known.models) == ["moves", "large", "base", "ink", "chalk", "words"] == rows()
        and known.offline == ""
    )
    assert known.models["base"].installed and not known.models["moves"].installed
    ready = session.current.engine.client.welcome.models
    assert [(model.name, model.installed) for model in ready] == [
        ("mini", True), ("absent", False), ("moves", False),
    ]  # fmt: skip


def test_a_download_needs_the_licence_by_its_name(told, online):
    current = told()
    download = bpy.ops.musev.model_download
    for wrong in ({}, {"licence_accepted": "MIT"}, {"licence_accepted": "Research Only"}):
        said = refusal(lambda wrong=wrong: download(model="moves", **wrong))
        assert "research only" in said and "https://example.org/moves" in said
    assert current.shelf.work == {}
    download(model="moves", licence_accepted="research only")
    assert done(current, "moves").state == "done"
    pump(lambda: current.shelf.models["moves"].installed)
    assert {m.name: m.installed for m in current.engine.client.welcome.models}[
        "moves"
    ]  # now to choose for a clip
    assert "installed already" in refusal(lambda: download(model="moves", licence_accepted="research only"))
    assert "no model 'nothing'" in refusal(lambda: download(model="nothing", licence_accepted="MIT"))


def test_the_dialogs_tick_accepts_the_licence_that_it_shows(told, online):
    current = told()
    bpy.ops.musev.model_download(model="moves", accept=True)
    assert done(current, "moves").state == "done"
    properties = bpy.ops.musev.model_download.get_rna_type().properties
    # Never by itself.
    assert all(properties[name].is_skip_save for name in ("accept", "licence_accepted", "model"))


def test_nothing_is_downloaded_while_blender_is_offline(told, online):
    current, online.use_online_access = told(), False
    said = refusal(lambda: bpy.ops.musev.model_download(model="moves", licence_accepted="research only"))
    assert "online access is off" in said and "Preferences, System" in said
    assert "use_online_access" in preferences()
    bpy.ops.musev.model_verify(model="base")  # needs no network
    assert done(current, "base").state == "done"


def test_the_engines_own_offline_mode_is_told(told, online):
    told("offline")
    assert "The engine works offline: it downloads nothing." in preferences()
    said = refusal(lambda: bpy.ops.musev.model_download(model="moves", licence_accepted="research only"))
    assert "The engine works offline; start it online" in said


def test_what_the_engine_refuses_is_shown_with_its_model(told, online):
    current = told("offline")
    current.shelf.offline = ""  # it went offline after it had told
    bpy.ops.musev.model_download(model="moves", licence_accepted="research only")
    pump(lambda: current.shelf.problem("moves"))
    assert current.shelf.problem("moves").code == "offline" and current.engine.problem == ""
    bpy.context.window_manager.musev_model_index = rows().index("moves")
    assert "Start it online." in preferences()
    bpy.ops.musev.model_verify(model="base")
    assert done(current, "base").state == "done" and current.shelf.problem("moves")


def test_progress_is_drawn_and_cancelled(told, online, monkeypatch):
    current = told()
    bpy.context.window_manager.musev_model_index = rows().index("large")
    assert "musev.model_download" in preferences() and "musev.model_remove" not in preferences()
    bpy.ops.musev.model_download(licence_accepted="MIT")  # of the chosen one
    pump(lambda: current.shelf.working("large"))
    drawn = preferences()
    assert "download 50 % unet.safetensors" in drawn and "musev.model_cancel" in drawn
    assert "musev.model_download" not in drawn
    bpy.ops.musev.model_cancel(model="large")
    assert done(current, "large").state == "cancelled" and "musev.model_download" in preferences()
    assert "nothing to cancel" in refusal(lambda: bpy.ops.musev.model_cancel(model="large"))


def test_a_damaged_file_is_named_and_the_model_removed(told):
    current = told()
    bpy.context.window_manager.musev_model_index = rows().index("base")
    assert "isn't installed" in refusal(lambda: bpy.ops.musev.model_verify(model="moves"))
    assert "nothing to remove" in refusal(lambda: bpy.ops.musev.model_remove(model="moves"))
    base = current.shelf.models["base"]
    current.shelf.models["base"] = dataclasses.replace(base, installed=True, removable=False)
    assert "models folder" in refusal(lambda: bpy.ops.musev.model_remove(model="base"))
    current.shelf.models["base"] = dataclasses.replace(base, removable=False, role="shipped")
    assert "came with the engine" in refusal(lambda: bpy.ops.musev.model_remove(model="base"))
    current.shelf.models["base"] = base
    bpy.ops.musev.model_verify()
    assert done(current, "base").intact is False
    assert "Not as published" in preferences() and "unet.safetensors: damaged" in preferences()
    bpy.ops.musev.model_remove()
    pump(lambda: not current.shelf.models["base"].installed)
    assert "base: not installed, 2.1 GB" in preferences() and models.chosen(bpy.context) == "base"


def test_licence_size_and_sale_are_told_of_the_chosen_model(told):
    told()
    for id, said in (
        (
            "words",
            "words: not installed, size not known Words to avoid Licence: unknown; commercial use not known",
        ),
        ("moves", "3.0 MB Makes it move Licence: research only; no commercial use wm.url_open"),
        ("base", "base: installed, 2.1 GB An image model Licence: OpenRAIL; commercial use allowed"),
    ):
        bpy.context.window_manager.musev_model_index = rows().index(id)
        assert said in preferences()


def test_without_an_engine_there_is_a_button_to_start_it(told):
    current = told()
    session.current.stop_engine()
    assert "not running" in preferences() and "musev.engine_start" in preferences()
    assert "template_list" in preferences() and rows() == list(current.shelf.models)  # as it was last told
    assert not bpy.ops.musev.model_verify.poll()
    session.current.shelf = shelf.Shelf()
    assert preferences().endswith("musev.engine_start")


def test_the_search_finds_roles_titles_and_licences(told):
    told()

    class Search:
        bitflag_filter_item = 1 << 30

    def found(text: str) -> set[str]:
        view = type("View", (Search,), {"filter_name": text})()
        flags, _ = models_panel.MUSEV_UL_models.filter_items(
            view, bpy.context, bpy.context.window_manager, "musev_models"
        )
        return {name for name, flag in zip(rows(), flags, strict=True) if flag} if flags else set(rows())

    assert found("") == set(rows()) and found("motion") == {"moves", "large"}
    assert found("to avoid") == {"words"} and found("openrail") == {"base"}


def test_every_row_is_drawn(told):
    told()
    drawn: list[str] = []
    for row in bpy.context.window_manager.musev_models:
        models_panel.MUSEV_UL_models.draw_item(None, bpy.context, Layout(drawn), None, row, 0, None, "")
    assert {"Motion", "moves", "3.0 MB", "research only", "Words", "size not known"} <= set(drawn)


def test_the_list_is_there_in_the_next_file(told):
    current = told()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    if MODULE not in bpy.context.preferences.addons:
        bpy.ops.preferences.addon_enable(module=MODULE)
    assert rows() == list(current.shelf.models)


def test_another_engines_models_are_asked_for_anew(told, engine):
    current = told()
    bpy.ops.musev.model_verify(model="base")
    done(current, "base")
    current.stop_engine()
    before = current.shelf.changes
    engine()
    pump(lambda: current.shelf.changes > before + 1)
    assert current.shelf.work == {} and current.shelf.models["base"].installed
