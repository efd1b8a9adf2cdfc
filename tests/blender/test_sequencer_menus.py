"""Verbs where Blender's users look for them: the sequencer's menus and keys; strips as stills and sources."""

from __future__ import annotations

import dataclasses
import sys

import bpy
import pytest
from bl_ext.user_default.musev import menus
from bl_ext.user_default.musev.clips import stack
from bl_ext.user_default.musev.making.jobs import JobState
from conftest import MODULE, pump
from montage import Montage
from test_extension import Layout
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)
from test_stack import project, the_strip  # noqa: F401 (a fixture)

TAKES = {"musev.take_next", "musev.take_previous", "musev.redo_range", "musev.extend", "musev.vary"}


def drawn(menu) -> list[str]:
    """What our parts of a menu of Blender's draw, or a menu of ours."""
    layout = Layout([])
    if menu.__name__.startswith("MUSEV"):
        facts = {name: value for name, value in vars(menu).items() if name.startswith("draw")}
        type("Fake", (), facts | {"layout": layout})().draw(bpy.context)
        return layout.drawn
    ours = [draw for draw in menu._dyn_ui_initialize() if draw.__module__.startswith(MODULE)]
    for draw in ours:
        draw(type("Fake", (), {"layout": layout})(), bpy.context)
    return layout.drawn


def test_the_add_menu_offers_a_clip_and_a_prompt(empty_scene):
    assert [what for what in drawn(bpy.types.SEQUENCER_MT_add) if what.startswith("musev")] == [
        "musev.generate", "musev.prompt_add",
    ]  # fmt: skip


def test_a_strip_of_ours_offers_its_takes(project):  # noqa: F811
    for menu in (bpy.types.SEQUENCER_MT_context_menu, bpy.types.SEQUENCER_MT_strip):
        assert "menu" in drawn(menu)
    assert set(drawn(menus.MUSEV_MT_strip)) >= TAKES | {"musev.use_as_still", "musev.use_as_source"}
    bpy.ops.musev.take_compare(take="2", kind="SIDE")
    assert "musev.take_compare_end" in drawn(menus.MUSEV_MT_strip)


def test_any_other_strip_can_be_a_still_or_a_source(empty_scene, tmp_path):
    assert drawn(bpy.types.SEQUENCER_MT_context_menu) == []  # nothing is there
    picture = Montage(empty_scene, tmp_path).image(count=3)
    empty_scene.sequence_editor.active_strip = picture
    assert not TAKES & set(drawn(menus.MUSEV_MT_strip))
    settings = empty_scene.musev
    settings.mode = "text"
    bpy.ops.musev.use_as_still()
    assert (settings.still_source, settings.still_strip, settings.mode) == ("STRIP", picture.name, "still")
    bpy.ops.musev.use_as_source(use="DETECT", strength=0.25)
    source = settings.source
    assert (settings.mode, source.choice, source.strip) == ("video", "STRIP", picture.name)
    assert (source.use, source.strength) == ("DETECT", 0.25)


def test_a_strip_that_shows_nothing_is_refused(empty_scene, tmp_path):
    assert "no strip with pictures" in refusal(bpy.ops.musev.use_as_still)
    Montage(empty_scene, tmp_path).image(count=3)
    empty_scene.sequence_editor.active_strip = None
    assert "active strip shows no pictures" in refusal(bpy.ops.musev.use_as_still)
    assert "no strip 'gone'" in refusal(lambda: bpy.ops.musev.use_as_source(strip="gone"))


# --- keys -----------------------------------------------------------------------------------------


def our_keys(keyconfig) -> list[bpy.types.KeyMapItem]:
    keymap = keyconfig.keymaps.get(menus.keymap_name())
    return [item for item in keymap.keymap_items if item.idname.startswith("musev.")] if keymap else []


@pytest.mark.parametrize("keymap", ["blender_default", "industry_compatible_data"])
def test_no_key_of_ours_is_taken_already(empty_scene, monkeypatch, keymap):
    folder = bpy.utils.system_resource("SCRIPTS", path="presets/keyconfig/keymap_data")
    monkeypatch.setattr(sys, "path", [folder, *sys.path])
    module = __import__(keymap)
    taken = {}
    for name, where, data in module.generate_keymaps(module.Params()):
        if where["space_type"] not in ("EMPTY", "SEQUENCE_EDITOR"):
            continue
        if where["space_type"] == "EMPTY" and name not in ("Window", "Screen", "Screen Editing", "Frames"):
            continue
        for verb, event, _ in data["items"]:
            held = tuple(bool(event.get(key)) for key in ("ctrl", "shift", "alt", "oskey"))
            taken[event["type"], held] = verb
            if event.get("any"):
                taken[event["type"], "any"] = verb
    assert ("SPACE", (False, False, False, False)) in taken  # it was read
    for verb, key in menus.KEYS:
        assert (key, (True, True, False, False)) not in taken and (key, "any") not in taken, verb


def test_keys_come_with_the_extension_and_go_with_it(empty_scene):
    addon = bpy.context.window_manager.keyconfigs.addon
    keys = {item.idname: (item.type, item.ctrl, item.shift, item.alt) for item in our_keys(addon)}
    assert keys == {verb: (key, True, True, False) for verb, key in menus.KEYS}
    default = bpy.context.window_manager.keyconfigs.default
    assert menus.keymap_name() in default.keymaps  # Blender's own name for it
    bpy.ops.preferences.addon_disable(module=MODULE)
    assert our_keys(addon) == [] and drawn(bpy.types.SEQUENCER_MT_add) == []
    bpy.ops.preferences.addon_enable(module=MODULE)
    assert len(our_keys(addon)) == len(menus.KEYS)


def test_the_preferences_show_the_keys_as_the_user_has_them(empty_scene):
    bpy.context.window_manager.keyconfigs.update()
    there = our_keys(bpy.context.window_manager.keyconfigs.user)
    assert {item.idname for item in there} == set(dict(menus.KEYS))
    layout = Layout([])
    menus.draw_keys(layout, bpy.context)
    assert layout.drawn == ["active", "type"] * len(menus.KEYS)  # a field in which another key can be pressed


# --- verbs without an id, from F3 or a script -----------------------------------------------------


def test_a_verb_without_an_id_is_on_the_newest_clip_that_needs_it(engine, shot):  # noqa: F811
    current = engine("wait")
    first, second = generate(current), generate(current)
    pump(lambda: second.accepted)
    bpy.ops.musev.cancel()
    assert (first.state, second.state) != (JobState.CANCELLED, JobState.CANCELLED)
    assert second.state is JobState.CANCELLED and not first.ended
    bpy.ops.musev.cancel()
    assert first.state is JobState.CANCELLED
    assert "no clip on the list is in need of that" in refusal(bpy.ops.musev.cancel)
    bpy.ops.musev.clear()
    assert "No clip is on the list" in refusal(bpy.ops.musev.retry)


def test_a_script_waits_for_its_clips(engine, shot):  # noqa: F811
    assert "not running" in refusal(bpy.ops.musev.wait)
    current = engine()
    bpy.ops.musev.generate(variations=2)
    bpy.ops.musev.wait(at_most=60)
    assert [job.state for job in current.jobs] == [JobState.DONE, JobState.DONE]
    left = {path.name for job in current.jobs for path in job.take.parent.iterdir()}
    assert not [name for name in left if name.endswith((".live", ".lock"))]


def test_a_script_waits_for_no_clip_of_another_file(engine, shot, tmp_path):  # noqa: F811
    current = engine()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "first.blend"))
    bpy.ops.musev.generate()
    pump(lambda: current.jobs[0].accepted)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "second.blend"), copy=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "second.blend"))
    bpy.ops.musev.wait(at_most=60)
    assert not current.jobs[0].ended  # it is placed once its own file is open


def test_waiting_ends_with_a_failed_clip_or_when_it_takes_too_long(engine, shot):  # noqa: F811
    current = engine("fail")
    bpy.ops.musev.generate()
    said = refusal(lambda: bpy.ops.musev.wait(at_most=60))
    assert current.jobs[-1].problem and current.jobs[-1].problem in said
    bpy.ops.musev.engine_stop()
    pump(lambda: not current.engine.busy)
    engine("wait")
    bpy.ops.musev.generate()
    assert "Clips still in the making after 0 s: 1" in refusal(lambda: bpy.ops.musev.wait(at_most=0))


# --- more takes like one --------------------------------------------------------------------------


def test_a_take_is_varied_in_nothing_but_its_seed(engine, shot):  # noqa: F811
    current = engine()
    shot.seed = 7
    first = finish(generate(current))
    shot.prompt, shot.seed = "something else", 99  # not looked at
    bpy.ops.musev.vary(count=2)
    jobs = [finish(job) for job in current.jobs[-2:]]
    assert [job.state for job in jobs] == [JobState.DONE] * 2
    assert [job.request.seed for job in jobs] == [8, 9]
    for job in jobs:
        assert dataclasses.replace(job.request, seed=7) == first.request
    assert stack.shown(the_strip()) == jobs[-1].take and len(all_strips()) == 1


def test_a_take_whose_inputs_are_gone_is_not_varied_and_leaves_no_folder(engine, shot):  # noqa: F811
    first = finish(generate(engine()))
    before = sorted(path.name for path in first.take.parent.iterdir())
    kept = [path for path in (first.take.parent / "inputs").iterdir()]
    for path in kept:
        path.rename(path.with_suffix(".gone"))
    assert "is not kept" in refusal(bpy.ops.musev.vary)
    assert sorted(path.name for path in first.take.parent.iterdir()) == before
