"""The stale badge of takes made from rendered pictures of the scene, or from strips: true alarms, and no false ones."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import bpy
import montage
import numpy as np
import pytest
from analytic import sphere
from bl_ext.user_default.musev import session, strips  # fmt: skip
from bl_ext.user_default.musev.clips import stack
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.render import settings as renders
from bl_ext.user_default.musev.staleness import facts, rendered, stale_watch, strip_sums
from montage import Montage
from test_generate import all_strips, finish, generate, shot  # noqa: F401 (a fixture)
from test_stale import curves, key, reopened, take, told, watched, worn


def again() -> None:
    """Another take of the same, of the scene as it is now."""
    assert finish(generate(session.current)).state is JobState.DONE


# --- rendered -------------------------------------------------------------------------------------


@pytest.fixture
def rendered_shot(engine, shot):  # noqa: F811
    """A finished clip of frames 5 to 8 that follows the depths of a moving ball on a floor that an empty turns."""
    scene = bpy.context.scene
    ball, floor = (bpy.data.objects.new(name, bpy.data.meshes.new(name)) for name in ("Ball", "Floor"))
    sphere(segments=16).add()
    made = next(thing for thing in scene.objects if thing.type == "MESH")
    ball.data = made.data
    bpy.data.objects.remove(made)
    floor.data.from_pydata([(-2, -2, 0), (2, -2, 0), (2, 2, 0), (-2, 2, 0)], [], [(0, 1, 2, 3)])
    for thing in (ball, floor, bpy.data.objects.new("Handle", None), bpy.data.objects.new("Idle", None)):
        scene.collection.objects.link(thing)
    floor.parent = bpy.data.objects["Handle"]
    key(ball, "location", {1: 0.0, 20: 1.0})
    ball.modifiers.new("Smooth", "SUBSURF")
    scene.collection.objects.link(bpy.data.objects.new("Lamp", bpy.data.lights.new("Lamp", "POINT")))
    shot.mode, shot.prompt = "text", "a ball"
    shot.render.depth.use, shot.render.use_cache = True, True
    scene.frame_start, scene.frame_end = 5, 8
    scene.frame_set(2)
    stale_watch.current.forget()
    assert finish(generate(engine())).state is JobState.DONE
    assert worn() == []
    return shot


def move_the_ball(settings):
    curves(bpy.data.objects["Ball"])[0].keyframe_points[1].co.y += 1.0


def move_the_floor(settings):
    bpy.data.objects["Floor"].location.z += 0.1


def turn_the_handle(settings):
    bpy.data.objects["Handle"].rotation_euler.x += 0.1


def reshape(settings):
    mesh = bpy.data.objects["Floor"].data
    mesh.vertices[0].co.z += 0.5
    mesh.update()


def thicken(settings):
    bpy.data.objects["Floor"].modifiers.new("Thick", "SOLIDIFY").thickness = 0.3


def hide(settings):
    bpy.data.objects["Ball"].hide_render = True


def another_thing(settings):
    bpy.context.scene.collection.objects.link(bpy.data.objects.new("New", bpy.data.objects["Floor"].data))


def gone(settings):
    bpy.data.objects.remove(bpy.data.objects["Floor"])


def move_the_camera(settings):
    bpy.data.objects["Camera"].location.x += 0.2


def key_the_camera(settings):
    x = bpy.data.objects["Camera"].location.x
    key(bpy.data.objects["Camera"], "location", {5: x, 7: x + 0.4})


def zoom(settings):
    bpy.data.objects["Camera"].data.lens *= 1.1


def other_passes(settings):
    settings.render.line.use = True


def no_passes(settings):
    settings.render.depth.use = False


CHANGES = {
    move_the_ball: ["scene"], move_the_floor: ["scene"], turn_the_handle: ["scene"], reshape: ["scene"],
    thicken: ["scene"], hide: ["scene"], another_thing: ["scene"], gone: ["scene"], other_passes: ["scene"],
    no_passes: ["scene"], move_the_camera: ["camera"], key_the_camera: ["camera"], zoom: ["camera"],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_what_was_rendered_is_worn_and_undone_it_is_gone(rendered_shot, change):
    bpy.ops.ed.undo_push(message="before")
    change(bpy.context.scene.musev)
    assert worn() == CHANGES[change]
    bpy.ops.ed.undo_push(message=change.__name__)
    bpy.ops.ed.undo()
    assert worn() == []
    bpy.ops.ed.redo()
    assert worn() == CHANGES[change]


def test_it_says_what_is_otherwise(rendered_shot):
    reshape(rendered_shot)
    assert worn() == ["scene"]
    assert told() == "In the rendered scene, these are new or otherwise: 'Floor'."
    move_the_ball(rendered_shot)
    assert worn() == ["scene"] and told() == "Keys in the rendered scene were edited: frames 5 - 8."
    again()
    no_passes(rendered_shot)
    assert worn() == ["scene"] and told() == "Rendered for it was: Depth."


@pytest.mark.parametrize("kept", [False, True], ids=["unkept", "kept"])
def test_a_thorough_check_keeps_what_it_renders_where_that_is_wished(rendered_shot, kept):
    folder = renders.cache_folder()
    shutil.rmtree(folder)
    rendered_shot.render.use_cache = kept
    assert worn(thorough=True) == []
    assert any(renders.cache_folder().iterdir()) == kept


def other_frames(settings):
    for frame in (1, 5, 6, 8, 9, 40, 7):
        bpy.context.scene.frame_set(frame)
        assert watched() == []


def select_things(settings):
    for thing in bpy.data.objects:
        thing.select_set(True)
    bpy.context.view_layer.objects.active = bpy.data.objects["Floor"]
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    assert watched() == []
    bpy.ops.object.mode_set(mode="OBJECT")


def rename(settings):
    for name, other in (("Ball", "Zebra"), ("Floor", "Aardvark"), ("Camera", "Eye"), ("Handle", "Knob")):
        bpy.data.objects[name].name = other
    bpy.data.meshes[0].name = "Other"


def what_is_not_rendered(settings):
    bpy.data.objects["Idle"].location.x += 3.0
    bpy.data.objects["Lamp"].location.x += 3.0
    bpy.data.objects["Lamp"].data.energy = 5.0
    hidden = bpy.data.objects.new("Hidden", bpy.data.objects["Floor"].data)
    bpy.context.scene.collection.objects.link(hidden)
    hidden.hide_render = True
    elsewhere = bpy.data.scenes.new("Elsewhere")
    elsewhere.collection.objects.link(bpy.data.objects.new("There", bpy.data.objects["Floor"].data))


def colour(settings):
    material = bpy.data.materials.new("Red")
    bpy.data.objects["Ball"].data.materials.append(material)
    bpy.data.objects["Ball"].hide_set(True)


def key_what_stands_still(settings):
    for name in ("Floor", "Handle", "Camera"):
        thing = bpy.data.objects[name]
        for frame in (5, 8):
            thing.keyframe_insert("location", frame=frame)
            thing.keyframe_insert("rotation_euler", frame=frame)


def look_of_the_viewport(settings):
    smooth = bpy.data.objects["Ball"].modifiers["Smooth"]
    smooth.levels, smooth.show_viewport, smooth.show_on_cage, smooth.name = 0, False, True, "Renamed"


def how_it_is_made(settings):
    settings.render.depth.scale, settings.render.depth.end, settings.steps = 0.5, 0.9, 3


def the_next_clip(settings):
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 30, 40
    settings.render.depth.use, settings.render.line.use = False, True


NO_CHANGES = [
    other_frames, select_things, rename, what_is_not_rendered, colour, key_what_stands_still, look_of_the_viewport,
    how_it_is_made,
    the_next_clip,
]  # fmt: skip


@pytest.mark.parametrize("edit", NO_CHANGES, ids=lambda edit: edit.__name__)
def test_an_edit_that_no_rendered_picture_shows_is_no_change(rendered_shot, edit):
    edit(rendered_shot)
    assert worn() == []


def test_saved_moved_and_reopened_the_scene_is_as_it_was(rendered_shot, tmp_path):
    (tmp_path / "here").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "here" / "shot.blend"))
    rendered_shot.new_strip = True
    again()
    bpy.ops.wm.save_mainfile()
    session.current.stop_engine()
    shutil.move(tmp_path / "here", tmp_path / "there")
    reopened(tmp_path / "there" / "shot.blend")
    assert worn() == []
    move_the_floor(bpy.context.scene.musev)
    assert worn() == ["scene"]


def test_the_check_renders_again_and_clears_what_nobody_sees(rendered_shot):
    assert worn(thorough=True) == []
    behind = bpy.data.objects.new("Behind", bpy.data.objects["Floor"].data)
    bpy.context.scene.collection.objects.link(behind)
    behind.location.y = -200.0  # the camera looks the other way
    assert worn() == ["scene"]
    assert bpy.ops.musev.take_check() == {"FINISHED"} and told() == "" and watched() == []
    driven = bpy.data.objects["Floor"].driver_add("location", 2).driver
    driven.expression = "0.3 if frame == 7 else 0"
    assert worn(thorough=True) == ["scene"]


def test_a_take_without_rendered_pictures_keeps_nothing_of_the_scene(rendered_shot):
    no_passes(rendered_shot)
    again()
    assert "rendered" not in take().record["inputs"]["scene"] and worn() == []
    move_the_floor(rendered_shot)
    assert worn() == []


def test_masks_and_plain_renders_count_too(rendered_shot):
    rig = rendered_shot.armature
    bpy.data.objects["Ball"].parent = rig
    rendered_shot.mode, rendered_shot.render.depth.use = "pose", False
    rendered_shot.render.use_mask = rendered_shot.render.use_source = True
    again()
    assert take().record["inputs"]["scene"]["rendered"]["people"] == [rig.name] and worn() == []
    reshape(rendered_shot)
    assert worn() == ["scene"]


def test_sums_do_not_step_and_take_their_time_in_slices(rendered_shot):
    stepped = []
    bpy.app.handlers.frame_change_post.append(lambda *_: stepped.append(1))
    try:
        work, slices = rendered.sums("Scene", None, (5.0, 6.0), rendered.Known()), 0
        for _ in work:
            slices += 1
    finally:
        bpy.app.handlers.frame_change_post.pop()
    assert slices > 3 and not stepped


# --- strips ---------------------------------------------------------------------------------------


@pytest.fixture
def filmed(engine, shot, tmp_path):  # noqa: F811
    """A finished clip of frames 5 to 10, made anew from those that a strip of eight pictures shows there."""
    scene = bpy.context.scene
    (tmp_path / "media").mkdir()
    timeline = Montage(scene, tmp_path / "media")
    timeline.image(start=4, name="plate").name = "Plate"
    timeline.colour(5, (1, 0, 0), start=40, name="Elsewhere")
    scene.frame_start, scene.frame_end = 5, 10
    shot.mode, shot.source.choice, shot.source.strip = "video", "STRIP", "Plate"
    scene.frame_set(2)
    stale_watch.current.forget()
    assert finish(generate(engine())).state is JobState.DONE
    assert worn() == []
    return shot


def plate():
    return next(strip for strip in all_strips() if strip.name == "Plate")


def start_of(strip) -> str:
    return "content_start" if hasattr(strip, "content_start") else "frame_start"


def replace_a_file(settings):
    file = strips.file_at(plate(), 7)
    montage.write_image(file, np.full((32, 48, 3), 99, np.uint8))


def another_folder(settings):
    strip = plate()
    other = Montage(bpy.context.scene, Path(strip.directory))
    strips.set_files(strip, other.folder, [file.name for file in other.files("other")])


def move_it(settings):
    setattr(plate(), start_of(plate()), 3)


def cut_it(settings):
    strips.set_span(plate(), 4, 9)


def flip(settings):
    plate().use_flip_x = True


def shift(settings):
    plate().transform.offset_x = 3


def brighten(settings):
    plate().modifiers.new("Bright", "BRIGHT_CONTRAST").bright = 0.2


def fade(settings):
    plate().blend_alpha = 0.0
    plate().keyframe_insert("blend_alpha", frame=6)
    plate().blend_alpha = 1.0
    plate().keyframe_insert("blend_alpha", frame=9)


def retime(settings):
    plate().use_reverse_frames = True


def remove_it(settings):
    strips.remove(bpy.context.scene, plate())


def another_source(settings):
    settings.source.strip = "Elsewhere"


SOURCES = [
    replace_a_file, another_folder, move_it, cut_it, flip, shift, brighten, fade, retime, remove_it, another_source,
]  # fmt: skip


@pytest.mark.parametrize("change", SOURCES, ids=lambda change: change.__name__)
def test_a_change_of_the_source_is_worn_and_undone_it_is_gone(filmed, change):
    bpy.ops.ed.undo_push(message="before")
    change(bpy.context.scene.musev)
    stale_watch.current.memo.strips.clear()  # files are looked at from time to time
    assert worn() == ["source"]
    bpy.ops.ed.undo_push(message=change.__name__)
    bpy.ops.ed.undo()
    assert worn() == (["source"] if change is replace_a_file else [])


def test_it_names_the_frames(filmed):
    cut_it(filmed)
    assert worn() == ["source"] and told() == "What 'Plate' showed is otherwise now: frames 9 - 10."
    filmed.source.strip = "Elsewhere"
    assert worn() == ["source"] and told() == "The source was 'Plate'."


def other_frames_and_selections(settings):
    for frame in (1, 5, 10, 40):
        bpy.context.scene.frame_set(frame)
        for strip in all_strips():
            strip.select = frame % 2 == 0
        assert watched() == []


def put_it_away(settings):
    plate().mute = plate().lock = True
    plate().channel = 9
    plate().color_tag = "COLOR_04"


def rename_it(settings):
    plate().name = "Original"


def split_it(settings):
    for strip in all_strips():
        strip.select = strip.name == "Plate"
    other = Montage(bpy.context.scene, Path(plate().directory)).image(channel=7, start=4, name="plate")
    strips.set_span(plate(), 4, 8)
    strips.set_span(other, 8, 12)


def trim_what_is_not_read(settings):
    strips.set_span(plate(), 5, 11)


def other_strips(settings):
    timeline = Montage(bpy.context.scene, Path(plate().directory))
    bpy.context.scene.frame_start, bpy.context.scene.frame_end = 5, 10
    timeline.colour(8, (0, 1, 0), start=1, length=30, name="Over it")
    next(strip for strip in all_strips() if strip.name == "Elsewhere").color = (0, 0, 1)


def ripple(settings):
    """Everything moves along."""
    for strip in all_strips():
        setattr(strip, start_of(strip), getattr(strip, start_of(strip)) + 100)


def key_it_as_it_is(settings):
    for frame in (4, 11):
        plate().keyframe_insert("blend_alpha", frame=frame)


def strength(settings):
    settings.source.strength = 0.2


HARMLESS = [
    other_frames_and_selections, put_it_away, rename_it, split_it, trim_what_is_not_read, other_strips, ripple,
    key_it_as_it_is, strength,
]  # fmt: skip


@pytest.mark.parametrize("edit", HARMLESS, ids=lambda edit: edit.__name__)
def test_an_edit_that_leaves_what_the_source_shows_is_no_change(filmed, edit):
    edit(filmed)
    assert worn() == []


def test_saved_moved_and_reopened_the_source_is_as_it_was(filmed, tmp_path):
    (tmp_path / "here").mkdir()
    shutil.move(tmp_path / "media", tmp_path / "here" / "media")
    strips.set_folder(plate(), tmp_path / "here" / "media")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "here" / "shot.blend"))
    strips.set_folder(plate(), tmp_path / "here" / "media")
    filmed.new_strip = True
    again()
    bpy.ops.wm.save_mainfile()
    session.current.stop_engine()
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)  # with new times
    shutil.rmtree(tmp_path / "here")
    reopened(tmp_path / "there" / "shot.blend")
    assert worn() == []
    flip(bpy.context.scene.musev)
    assert worn() == ["source"]


def test_lost_files_are_no_change_of_what_they_showed(filmed, tmp_path):
    (tmp_path / "media").rename(tmp_path / "unplugged")
    stale_watch.current.memo.strips.clear()
    assert worn() == []


def test_the_check_reads_the_source_again(filmed):
    assert worn(thorough=True) == []
    put_it_away(filmed)
    assert worn(thorough=True) == []
    bpy.context.scene.view_settings.exposure = 1.0
    assert worn() == [] and worn(thorough=True) == ["source"]


def test_all_that_was_shown_and_what_lies_in_metas(filmed):
    filmed.source.choice = "ALL"
    stack.active(bpy.context.scene).mute = True
    filmed.new_strip = True
    bpy.context.scene.musev.range = "SCENE"
    again()
    assert "Plate" in take().record["inputs"]["scene"]["source"]["strips"] and worn() == []
    flip(filmed)
    assert worn() == ["source"]


def test_a_still_from_a_strip(filmed):
    filmed.mode, filmed.still_source, filmed.still_strip, filmed.new_strip = "still", "STRIP", "Plate", True
    bpy.context.scene.frame_set(6)
    again()
    assert worn() == []
    bpy.context.scene.frame_set(20)
    assert worn() == []
    flip(filmed)
    assert worn() == ["still"]


def test_facts_are_the_same_at_every_frame_in_view(empty_scene):
    thing = bpy.data.objects.new("Thing", None)
    empty_scene.collection.objects.link(thing)

    def number(at: float) -> int:
        told = facts.Facts()
        told.add_of(thing, ("location", "scale", "empty_display_type"), facts.Keyed(thing))
        return told.at(at)

    still = number(1.0)
    key(thing, "location", {1: 0.0, 11: 1.0})
    empty_scene.frame_set(6)
    assert number(1.0) == still != number(11.0)
    thing.driver_add("scale", 0).driver.expression = "frame"
    empty_scene.frame_set(9)
    before = number(1.0)
    empty_scene.frame_set(3)
    assert number(1.0) == before and math.isclose(thing.scale.x, 3.0)


def test_a_files_sum_is_of_its_bytes(tmp_path):
    files, file = strip_sums.Files(), tmp_path / "a"
    assert files.sum(file) is None
    file.write_bytes(b"1" * 200_000)
    first = files.sum(file)
    shutil.copyfile(file, tmp_path / "b")
    assert files.sum(tmp_path / "b") == first
    file.write_bytes(b"1" * 199_999 + b"2")
    assert files.sum(file) != first
