"""Files of the artist's added to the engine as models: sent in small pieces, told, cancelled, refused."""

from __future__ import annotations

import os

import bpy
import pytest
from bl_ext.user_default.musev import session
from bl_ext.user_default.musev.protocol import blob_sha256
from bl_ext.user_default.musev.weights import model_add, models, shelf
from conftest import pump
from test_generate import refusal
from test_models import done, preferences, rows

add = bpy.ops.musev.model_add


@pytest.fixture
def lora(tmp_path):
    path = tmp_path / "My Style (v1).safetensors"
    path.write_bytes(os.urandom(700_000))  # three slices
    return path


def test_a_file_arrives_under_its_own_name_with_its_licence(told, lora):
    current = told()
    add(
        filepath=str(lora),
        licence=" CC-BY 4.0 ",
        licence_url="https://example.org/l",
        commercial="YES",
        kind="lora",
    )
    assert done(current, "My_Style_v1").state == "done"
    pump(lambda: "My_Style_v1" in current.shelf.models)
    model = current.shelf.models["My_Style_v1"]
    assert (model.licence, model.commercial, model.role, model.added) == ("CC-BY 4.0", True, "lora", True)
    assert model.trigger == blob_sha256(lora.read_bytes())[:8]  # as the fake engine says it: every byte came
    assert "My_Style_v1" in rows() and current.engine.problem == ""
    bpy.context.window_manager.musev_model_index = rows().index("My_Style_v1")
    assert "CC-BY 4.0; commercial use allowed" in preferences()
    assert f"Say in the prompt: {model.trigger}" in preferences()


def test_nothing_told_is_unknown_and_the_engine_finds_the_kind(told, lora):
    current = told()
    add(filepath=str(lora), model="style")
    done(current, "style")
    pump(lambda: "style" in current.shelf.models)
    assert (
        current.shelf.models["style"].licence == "unknown"
        and current.shelf.models["style"].commercial is None
    )
    properties = add.get_rna_type().properties
    kept = [p.identifier for p in properties if not p.is_skip_save and not p.is_hidden]
    # Never told of the next file by itself.
    assert not {"licence", "model", "commercial", "kind", "title"} & set(kept)
    assert all(p.description for p in properties if p.identifier != "rna_type")


def test_progress_is_drawn_and_cancelled(told, tmp_path):
    current = told()
    path = tmp_path / "slow.safetensors"
    path.write_bytes(bytes(600_000))
    add(filepath=str(path))
    pump(lambda: current.shelf.working("slow") and current.shelf.working("slow").done_bytes == 600_000)
    assert "add 100 % slow" in preferences()
    assert "is being seen to already" in refusal(lambda: add(filepath=str(path)))
    bpy.ops.musev.model_cancel(model="slow")
    assert done(current, "slow").state == "cancelled" and "slow" not in preferences()
    add(filepath=str(path), model="other")
    assert done(current, "other").state == "done"


def test_what_the_engine_refuses_is_shown_until_it_is_put_away(told, tmp_path):
    current = told()
    path = tmp_path / "sdxl.safetensors"
    path.write_bytes(b"XL" + bytes(9_000_000))
    add(filepath=str(path))
    assert done(current, "sdxl").problem.code == "wrong_kind"
    pump(lambda: not current.engine.client._uploads.files)  # the rest isn't sent
    assert "sdxl was not added" in preferences() and "it seems to be XL" in preferences()
    bpy.ops.musev.model_cancel(model="sdxl")
    assert "sdxl" not in preferences()
    assert "nothing to cancel" in refusal(lambda: bpy.ops.musev.model_cancel(model="sdxl"))
    add(filepath=str(path), model="ink")
    pump(lambda: current.shelf.problem("ink"))
    assert current.shelf.problem("ink").code == "name_taken" and current.engine.problem == ""


def test_a_file_that_is_none_is_refused_here(told, tmp_path):
    current = told()
    (tmp_path / "note.txt").write_text("no model")
    (tmp_path / "tiny.safetensors").write_bytes(b"x")
    for path, said in (
        (tmp_path / "note.txt", "no model's file"),
        (tmp_path / "gone.safetensors", "can't be read"),
        (tmp_path / "tiny.safetensors", "has 1 bytes"),
    ):
        assert said in refusal(lambda path=path: add(filepath=str(path)))
    good = tmp_path / "good.safetensors"
    good.write_bytes(bytes(100))
    assert "not of the form" in refusal(lambda: add(filepath=str(good), model="a b"))
    assert current.shelf.work == {} and not current.engine.client._uploads.files


def test_a_file_that_is_cut_on_the_way_is_told(told, tmp_path):
    current = told()
    path = tmp_path / "slow.safetensors"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    add(filepath=str(path))
    pump(lambda: current.shelf.working("slow"))
    with path.open("r+b") as file:
        file.truncate(1_000_000)
    pump(lambda: current.shelf.problem("slow"))
    assert "ends after" in current.shelf.problem("slow").message
    assert current.engine.problem == ""


def test_without_an_engine_it_says_why_not(told, lora):
    told()
    session.current.stop_engine()
    assert not add.poll()


def test_a_lost_connection_closes_the_file_and_the_next_goes_on(told, tmp_path):
    current = told()
    path = tmp_path / "slow.safetensors"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    add(filepath=str(path))
    pump(lambda: current.shelf.working("slow"))
    file = current.engine.client._uploads.files["slow"]
    pump(lambda: file.sending)
    opened = file._file
    current.engine.client.close()
    assert opened.closed and not file.sending
    pump(lambda: file.sending)  # the next connection goes on with it
    bpy.ops.musev.model_cancel(model="slow")
    assert not current.engine.client.adding


def test_a_clip_is_made_while_a_file_is_sent(told, tmp_path):
    current = told()
    path = tmp_path / "slow.safetensors"
    with path.open("wb") as file:
        file.truncate(400_000_000)
    add(filepath=str(path))
    settings = bpy.context.scene.musev
    settings.mode, settings.prompt, settings.width, settings.height = "text", "a wave", 64, 64
    bpy.context.scene.frame_end = 4
    bpy.ops.musev.generate()
    pump(lambda: current.jobs and current.jobs[-1].ended)
    assert current.jobs[-1].strip and "slow" in current.engine.client._uploads.files  # it is still on its way
    bpy.ops.musev.model_cancel(model="slow")


def test_removal_says_what_it_means(told):
    current = told()
    settings = bpy.context.scene.musev
    ink, added = current.shelf.models["ink"], current.shelf.models["base"]
    assert models.removal(ink) == "ink, 5.0 MB, is deleted. It can be downloaded again."
    settings.extras.loras.add().name = "ink"
    assert models.removal(ink).endswith("The next clip of Scene is to be made with it.")
    settings.extras.loras[0].use = False
    assert "next clip" not in models.removal(ink)
    settings.model = "moves.base"
    assert "next clip" in models.removal(added)


@pytest.mark.parametrize(
    ("name", "id"), [("My Style (v1.2)", "My_Style_v1.2"), ("ä", "model"), ("x" * 60, "x" * 40)]
)
def test_a_files_name_becomes_one_that_can_be_said(tmp_path, name, id):
    assert model_add.name_of(tmp_path / f"{name}.safetensors") == id


def test_a_shelf_without_an_engine_has_no_newcomers():
    assert shelf.Shelf().newcomers == []
