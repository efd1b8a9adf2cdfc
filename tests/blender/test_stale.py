"""The stale badge: every kind of change wears it, no unrelated edit does, and what is undone takes it away."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import session, strips  # fmt: skip
from bl_ext.user_default.musev.clips import clip_folder, stack, stack_panel, takes
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.rig import leads
from bl_ext.user_default.musev.staleness import motion, stale, stale_badge, stale_rig, stale_watch
from bl_ext.user_default.musev.weights import loras
from rigs import RIGIFY_METARIG, figure
from test_extension import draw
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)


def curves(thing):
    """The F-curves of a data-block's action, in every Blender."""
    data = thing.animation_data
    if hasattr(data.action, "fcurves"):
        return data.action.fcurves
    return data.action.layers[0].strips[0].channelbag(data.action_slot).fcurves


def key(thing, name: str, values: dict[int, float]) -> None:
    """Keys the first number of a property."""
    for frame, value in values.items():
        getattr(thing, name)[0] = value
        thing.keyframe_insert(name, frame=frame)


@pytest.fixture
def still(tmp_path):
    """A picture in a file, and its image data-block."""
    painted = bpy.data.images.new("paint", 64, 64)
    paint(painted, 0.25)
    painted.filepath_raw, painted.file_format = str(tmp_path / "face.png"), "PNG"
    painted.save()
    bpy.data.images.remove(painted)
    image = bpy.data.images.load(str(tmp_path / "face.png"))
    image.name = "Face"
    return image


def paint(image, shade: float) -> None:
    image.pixels.foreach_set(np.full(image.size[0] * image.size[1] * 4, shade, np.float32))
    image.update()


@pytest.fixture
def made(engine, shot, still):  # noqa: F811
    """The settings of a finished pose clip of frames 5 to 16, whose rig is keyed, at frame 9. The rig's hip moves, its
    camera does not, and a cube has nothing to do with either."""
    scene = bpy.context.scene
    dancer = shot.armature
    key(dancer, "location", {1: 0.0, 20: 0.4})
    bone = dancer.pose.bones["upper_arm.L"]
    for frame, angle in ((1, 0.0), (20, 0.3)):
        bone.rotation_quaternion = (1.0, angle, 0.0, 0.0)
        bone.keyframe_insert("rotation_quaternion", frame=frame)
    cube = bpy.data.objects.new("Bystander", bpy.data.meshes.new("Bystander"))
    scene.collection.objects.link(cube)
    key(cube, "location", {1: 0.0, 20: 5.0})
    shot.still_image, shot.prompt, shot.negative_prompt = still, "a dancer", "fog"
    scene.frame_set(9)
    stale_watch.current.forget()
    assert finish(generate(engine())).state is JobState.DONE
    assert worn() == []
    return shot


def take() -> clip_folder.Take:
    strip = stack.active(bpy.context.scene)
    return stack.read(strip).take(stack.shown(strip).name)


def worn(thorough: bool = False) -> list[str]:
    """What has changed since the shown take was made, as scripts ask; the watch must say the same."""
    scene, strip = bpy.context.scene, stack.active(bpy.context.scene)
    found = stale.verdict(scene, take(), strips.content(strip)[0], thorough)
    if not thorough:
        assert watched() == [change.what for change in found]
    return [change.what for change in found]


def watched() -> list[str]:
    bpy.context.view_layer.update()  # as Blender does before anything is drawn
    stale_watch.current.settle()
    return [change.what for change in stale_watch.current.changes(bpy.context.scene.name, take().folder)]


def told() -> str:
    changes = stale_watch.current.changes(bpy.context.scene.name, take().folder)
    return " ".join(change.told for change in changes)


# --- what is a change -----------------------------------------------------------------------------


def pose_a_bone(settings):
    settings.armature.pose.bones["thigh.R"].rotation_quaternion = (1.0, 0.4, 0.0, 0.0)


def move_the_rig(settings):
    curves(settings.armature)[0].keyframe_points[1].co.y += 1.0


def key_a_bone_elsewhere(settings):
    """At the frame in view, and at the first, everything stays."""
    curve = next(c for c in curves(settings.armature) if "quaternion" in c.data_path and c.array_index == 1)
    for frame in (5, 9, 10, 16):
        curve.keyframe_points.insert(frame, curve.evaluate(frame))
    curve.keyframe_points.insert(12, 0.9)
    curve.update()


def constrain(settings):
    limit = settings.armature.pose.bones["forearm.L"].constraints.new("LIMIT_ROTATION")
    limit.use_limit_x, limit.min_x, limit.max_x, limit.owner_space = True, 1.0, 1.0, "LOCAL"


def another_rig(settings):
    settings.armature = figure(RIGIFY_METARIG, "Other")


def zoom(settings):
    bpy.data.objects["Camera"].data.lens *= 1.1


def move_the_camera(settings):
    bpy.data.objects["Camera"].location.x += 0.2


def key_the_camera(settings):
    camera = bpy.data.objects["Camera"]
    x = camera.location.x
    key(camera, "location", {5: x, 9: x, 13: x + 0.4})
    camera.location.x = x


def another_camera(settings):
    other = bpy.data.objects.new("Other", bpy.data.cameras.new("Other"))
    bpy.context.scene.collection.objects.link(other)
    other.location = (1.0, -5.0, 1.0)
    settings.camera = other


def narrower_render(settings):
    bpy.context.scene.render.resolution_x //= 2


def repaint(settings):
    paint(settings.still_image, 0.75)


def another_file(settings):
    settings.still_image.scale(32, 32)
    settings.still_image.filepath_raw += ".2.png"
    settings.still_image.save()


def no_still(settings):
    settings.still_image = None


def another_still(settings):
    settings.still_image = bpy.data.images.new("Other", 80, 80)


def reword(settings):
    settings.prompt = "a dancer in the rain"


def avoid(settings):
    settings.negative_prompt = "snow"


def text_strip(settings):
    scene = bpy.context.scene
    scene.sequence_editor.channels[7].name = "Prompts"
    strips.place_text(scene, "Words", "snow falls", 7, 8, 12)


def add_a_lora(settings):
    loras.add(settings.extras, "style", 0.5)


def another_model(settings):
    settings.model = "absent"


CHANGES = {
    pose_a_bone: ["rig"], move_the_rig: ["rig"], key_a_bone_elsewhere: ["rig"], constrain: ["rig"],
    another_rig: ["rig"],
    zoom: ["camera"], move_the_camera: ["camera"], key_the_camera: ["camera"], another_camera: ["camera"],
    narrower_render: ["camera"],
    repaint: ["still"], another_file: ["still"], no_still: ["still"], another_still: ["still"],
    reword: ["prompt"], avoid: ["prompt"], text_strip: ["prompt"], another_model: ["model"], add_a_lora: ["model"],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_worn_and_undone_it_is_gone(made, change):
    bpy.ops.ed.undo_push(message="before")
    change(bpy.context.scene.musev)
    assert worn() == CHANGES[change]
    bpy.ops.ed.undo_push(message=change.__name__)
    assert worn() == CHANGES[change]
    if change in (repaint, another_file):
        return  # Blender's undo takes no pixels along that Python has set
    bpy.ops.ed.undo()
    assert worn() == []
    bpy.ops.ed.redo()
    assert worn() == CHANGES[change]


def test_all_that_has_changed_is_named(made):
    for change in (move_the_rig, zoom, repaint, reword, another_model):
        change(made)
    assert worn() == ["rig", "camera", "still", "prompt", "model"]
    assert stale.badge(stale_watch.current.changes("Scene", take().folder)) == (
        "Stale: rig, camera, still, prompt, model"
    )
    said = told()
    assert "Keys of the rig were edited: frames 5 - 16." in said and "The prompt was 'a dancer'." in said
    assert "The still 'Face' is another picture now." in said and "The model was 'mini'." in said
    assert "The camera sees it otherwise: frames 9." in said


def test_the_panel_shows_it_on_the_take(made):
    assert "musev.take_check" in draw(stack_panel.MUSEV_PT_takes)
    before = draw(stack_panel.MUSEV_PT_takes).count("musev.take_check")
    reword(made)
    assert worn() == ["prompt"]
    assert draw(stack_panel.MUSEV_PT_takes).count("musev.take_check") == before + 1


def test_the_strip_wears_a_mark_in_its_corner(made):
    watch, strip = stale_watch.current, stack.active(bpy.context.scene)
    assert watch.stale_strips("Scene") == []
    reword(made)
    assert worn() == ["prompt"]
    assert watch.stale_strips("Scene") == [strip.name] and watch.stale_strips("Other") == []
    copy = strips.place_images(bpy.context.scene, "Copy", take().frames(), 60)
    copy.musev.clip = strip.musev.clip
    watch.settle()
    assert len(watch.stale_strips("Scene")) == 2
    assert stale_badge.corner((100.0, 50.0), 60.0, 9.0) == [(91.0, 50.0), (100.0, 50.0), (100.0, 41.0)]
    assert stale_badge.corner((100.0, 50.0), 3.0, 9.0)[0] == (97.0, 50.0)  # no wider than the strip


# --- what is none ---------------------------------------------------------------------------------


def other_frames(settings):
    for frame in (1, 5, 6, 16, 17, 40, 12):
        bpy.context.scene.frame_set(frame)
        assert watched() == []
    bpy.context.scene.frame_set(12, subframe=0.5)


def select_things(settings):
    for thing in bpy.data.objects:
        thing.select_set(True)
    bpy.context.view_layer.objects.active = settings.armature
    bpy.ops.object.mode_set(mode="POSE")
    bpy.ops.pose.select_all(action="SELECT")
    bpy.ops.object.mode_set(mode="OBJECT")


def enter_edit_mode(settings):
    bpy.context.view_layer.objects.active = settings.armature
    bpy.ops.object.mode_set(mode="EDIT")
    assert watched() == []
    bpy.ops.object.mode_set(mode="OBJECT")


def edit_a_bystander(settings):
    bystander = bpy.data.objects["Bystander"]
    curves(bystander)[0].keyframe_points[1].co.y += 3.0
    bystander.data.from_pydata([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [], [(0, 1, 2)])
    figure(RIGIFY_METARIG, "Another").location.x = 3.0


def paint_a_bystander(settings):
    paint(bpy.data.images.new("Another", 16, 16), 0.5)


def move_the_strip(settings):
    strip = stack.active(bpy.context.scene)
    setattr(strip, "content_start" if hasattr(strip, "content_start") else "frame_start", 40)


def cut_the_strip(settings):
    strips.set_span(stack.active(bpy.context.scene), 7, 12)


def other_settings(settings):
    """How a take is made, not from what."""
    settings.seed, settings.steps, settings.variations, settings.new_strip = 9, 4, 3, True
    settings.width, settings.height, settings.draft.use = 128, 64, True
    settings.overlay.show = True


def the_next_clip(settings):
    """Words and a model for other frames."""
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 30, 40
    settings.prompt, settings.model, settings.still_image = "something else", "absent", None
    settings.armature = figure(RIGIFY_METARIG, "Next")


def rename(settings):
    settings.armature.name, bpy.data.objects["Camera"].name = "Renamed", "Eye"
    settings.still_image.name, bpy.data.objects["Bystander"].name = "Portrait", "Dancer"


def key_what_stands_still(settings):
    dancer = settings.armature
    for bone in dancer.pose.bones:
        bone.keyframe_insert("scale", frame=9)
        bone.keyframe_insert("scale", frame=14)
    camera = bpy.data.objects["Camera"]
    camera.keyframe_insert("location", frame=7)
    camera.data.keyframe_insert("lens", frame=7)


def pack_the_still(settings):
    settings.still_image.pack()


def words_elsewhere(settings):
    scene = bpy.context.scene
    scene.sequence_editor.channels[7].name = "Prompts"
    strips.place_text(scene, "Words", "snow falls", 7, 50, 60)
    strips.place_text(scene, "Title", "The End", 3, 5, 16)


def spaces(settings):
    settings.prompt = " a dancer "


NO_CHANGES = [
    other_frames, select_things, enter_edit_mode, edit_a_bystander, paint_a_bystander, move_the_strip, cut_the_strip,
    other_settings, the_next_clip, rename, key_what_stands_still, pack_the_still, words_elsewhere, spaces,
]  # fmt: skip


@pytest.mark.parametrize("edit", NO_CHANGES, ids=lambda edit: edit.__name__)
def test_an_unrelated_edit_is_no_change(made, edit):
    edit(made)
    assert worn() == []


def test_keys_outside_the_take_that_change_nothing_in_it_are_no_change(made):
    curve = curves(made.armature)[0]
    for point in curve.keyframe_points:
        point.interpolation = "LINEAR"
    curve.update()
    assert worn() == ["rig"]
    made.new_strip = True
    finish(generate(session.current))
    assert worn() == []
    curve.keyframe_points.insert(200, 3.0)
    curve.keyframe_points.insert(10, curve.evaluate(10)).interpolation = "LINEAR"
    curve.update()
    assert worn() == []


# --- what a take goes through ---------------------------------------------------------------------


def reopened(path: Path) -> None:
    bpy.ops.wm.open_mainfile(filepath=str(path))
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = bpy.context.scene


def test_saved_moved_and_reopened_it_is_as_it_was(made, tmp_path):
    before, after = tmp_path / "here", tmp_path / "there"
    before.mkdir()
    made.still_image.pack()
    made.new_strip = True
    bpy.ops.wm.save_as_mainfile(filepath=str(before / "shot.blend"))
    finish(generate(session.current))
    bpy.ops.wm.save_mainfile()
    session.current.stop_engine()
    shutil.move(before, after)
    reopened(after / "shot.blend")
    assert stack.shown(stack.active(bpy.context.scene)).is_relative_to(after) and worn() == []
    move_the_rig(bpy.context.scene.musev)
    reword(bpy.context.scene.musev)
    assert worn() == ["rig", "prompt"]
    bpy.ops.wm.save_mainfile()
    bpy.context.scene.frame_set(100)
    reopened(after / "shot.blend")
    assert worn() == ["rig", "prompt"]


def test_each_take_is_compared_by_itself_and_switching_shows_it(made):
    reword(made)
    finish(generate(session.current))
    assert take().name == "take_002" and worn() == []
    one, other = (each.folder for each in stack.read(stack.active(bpy.context.scene)).takes)
    of = stale_watch.current.changes
    assert [change.what for change in of("Scene", one)] == ["prompt"] and of("Scene", other) == ()
    bpy.ops.musev.take_previous()
    assert worn() == ["prompt"]
    zoom(made)
    assert worn() == ["camera", "prompt"]
    assert [change.what for change in of("Scene", other)] == ["camera"]
    bpy.ops.musev.take_next()
    assert worn() == ["camera"]


def test_a_newer_take_tells_that_the_models_files_are_others(made):
    finish(generate(session.current))
    record = takes.read_sidecar(take().folder)
    record["model"]["sha256"] = "cd" * 32
    record["made"] = "2999-01-01T00:00:00+00:00"
    takes.write_sidecar(take().folder, record)
    assert worn() == []
    bpy.ops.musev.take_previous()
    assert worn() == ["model"] and told() == "The files of the model 'mini' were others."


def test_variations_know_what_they_were_made_from(made):
    made.variations = 2
    bpy.ops.musev.generate()
    for job in session.current.jobs[-2:]:
        assert finish(job).state is JobState.DONE
        assert job.about["scene"]["cameras"] and len(job.about["scene"]["rig"]) == 12 * 8
    assert worn() == []
    move_the_rig(made)
    assert worn() == ["rig"]


def test_frames_made_anew_after_an_edit_are_up_to_date(made):
    curve = next(c for c in curves(made.armature) if "quaternion" in c.data_path and c.array_index == 1)
    for frame in range(1, 21):
        curve.keyframe_points.insert(frame, curve.evaluate(frame))
    finish(generate(session.current))
    assert worn() == []
    for index in (10, 11):  # frames 11 and 12
        curve.keyframe_points[index].co.y += 0.5
    for point in curve.keyframe_points:
        point.interpolation = "LINEAR"
    curve.update()
    assert worn() == ["rig"]
    bpy.ops.musev.redo_range(frame_start=5, frame_end=14)
    assert finish(session.current.jobs[-1]).state is JobState.DONE
    assert take().name == "take_003" and "redo" in take().record["inputs"]
    assert (worn() == ["rig"] and "frames 15 - 16" in told()) or worn() == []
    curve.keyframe_points[15].co.y += 0.5  # frame 16, which stayed
    curve.update()
    assert worn() == ["rig"]
    assert told() == "Keys of the rig were edited: frames 16."


def test_texts_that_move_along_with_their_strip_stay_its_prompts(made):
    text_strip(made)
    made.prompt_track.use = True
    finish(generate(session.current))
    assert worn() == []
    words = next(strip for strip in all_strips() if strip.type == "TEXT")
    start = "content_start" if hasattr(words, "content_start") else "frame_start"
    for strip in (words, stack.active(bpy.context.scene)):
        setattr(strip, start, getattr(strip, start) + 100)
    assert worn() == []
    made.prompt = "which no frame within it is told"
    assert worn() == ["prompt"]
    words.text = "rain falls"
    assert worn() == ["prompt"]


def test_the_prompt_counts_for_nothing_where_texts_lie_over_all_of_it(made):
    bpy.context.scene.sequence_editor.channels[7].name = "Prompts"
    strips.place_text(bpy.context.scene, "Words", "snow falls", 7, 1, 20)
    finish(generate(session.current))
    reword(made)
    assert worn() == []


def test_what_a_shot_list_gave_is_not_the_panels(made):
    words = strips.place_text(bpy.context.scene, "Shot", "rain falls", 9, 1, 13)
    for strip in all_strips():
        strip.select = strip.name == "Shot"
    bpy.ops.musev.generate_each()
    assert finish(session.current.jobs[-1]).state is JobState.DONE
    strip = next(s for s in all_strips() if stack.is_ours(s) and s.musev.clip.startswith("rain"))
    bpy.context.scene.sequence_editor.active_strip = strip
    assert take().request["prompt"] == "rain falls" and worn() == []
    reword(made)
    assert worn() == []
    words.text = "snow falls"
    assert worn() == ["prompt"] and told() == "The prompt was 'rain falls'."
    words.text = "rain falls"
    another_model(made)
    assert worn() == ["model"]


def test_a_take_that_tells_nothing_wears_nothing(made):
    folder, record = take().folder, takes.read_sidecar(take().folder)
    del record["inputs"]["scene"]
    takes.write_sidecar(folder, record)
    assert worn() == []
    repaint(made)
    assert worn() == [] and worn(thorough=True) == ["still"]
    move_the_rig(made)  # the poses are kept
    assert worn() == ["rig"]
    stale_watch.current.forget()
    takes.write_sidecar(folder, {"request": record["request"]})
    assert worn() == []
    assert "does not tell what it was made from" in refusal(bpy.ops.musev.take_check)
    takes.write_sidecar(folder, record | {"inputs": [], "frame_start": None})
    assert worn() == []


# --- rigs of all sorts ----------------------------------------------------------------------------


def test_markers_that_switch_the_camera_count(made):
    camera = bpy.data.objects["Camera"]
    other = camera.copy()
    other.location.x += 0.5
    bpy.context.scene.collection.objects.link(other)
    markers = bpy.context.scene.timeline_markers
    markers.new("one", frame=1).camera = camera
    switch = markers.new("two", frame=14)
    switch.camera = other
    assert worn() == ["camera"] and told() == "Keys of the camera were edited: frames 5 - 16."
    finish(generate(session.current))
    assert worn() == []
    switch.frame = 12
    assert worn() == ["camera"]
    switch.frame = 14
    assert worn() == []


def test_what_the_rig_hangs_on_counts(made):
    scene = bpy.context.scene
    for name in ("Parent", "Aim", "Wheel", "Idle"):
        scene.collection.objects.link(bpy.data.objects.new(name, None))
        key(bpy.data.objects[name], "location", {1: 0.0, 20: 0.1})
    made.armature.parent = bpy.data.objects["Parent"]
    made.armature.pose.bones["thigh.L"].constraints.new("COPY_ROTATION").target = bpy.data.objects["Aim"]
    driven = made.armature.driver_add("location", 2).driver
    target = driven.variables.new().targets[0]
    target.id, target.data_path, driven.expression = bpy.data.objects["Wheel"], "location.x", "var"
    finish(generate(session.current))
    assert worn() == []
    for name, expected in (("Parent", ["rig"]), ("Aim", ["rig"]), ("Wheel", ["rig"]), ("Idle", [])):
        point = curves(bpy.data.objects[name])[0].keyframe_points[1]
        point.co.y += 1.0
        assert worn() == expected, name
        point.co.y -= 1.0
        assert worn() == [], name


def test_strips_of_actions_count(made):
    data = made.armature.animation_data
    track, action = data.nla_tracks.new(), data.action
    strip = track.strips.new("Walk", 1, action)
    data.action = None
    finish(generate(session.current))
    assert worn() == []
    strip.frame_start_ui = 4
    assert worn() == ["rig"]
    strip.frame_start_ui = 1
    assert worn() == []
    data.nla_tracks[0].mute = True
    assert worn() == ["rig"]


def test_characters_of_the_list(made):
    second = figure(RIGIFY_METARIG, "Second")
    second.location.x = 1.0
    bpy.context.view_layer.update()
    from bl_ext.user_default.musev.rig import characters

    for armature in (made.armature, second):
        characters.add(made, armature)
    finish(generate(session.current))
    assert worn() == []
    second.location.x = 1.5
    assert worn() == ["rig"]
    second.location.x = 1.0
    assert worn() == []
    made.people[1].use = False
    assert worn() == ["rig"] and told() == "The rig was 'Dancer, Second'."


# --- the frame in view ----------------------------------------------------------------------------


def test_a_pose_without_keys_that_is_lost_is_no_change(made):
    made.armature.pose.bones["upper_arm.L"].rotation_quaternion = (1.0, 0.9, 0.0, 0.0)
    assert worn() == ["rig"]
    bpy.context.scene.frame_set(10)
    assert worn() == []


def test_what_was_seen_stays_while_the_playhead_is_elsewhere(made):
    zoom(made)
    assert watched() == ["camera"]
    bpy.context.scene.frame_set(200)
    assert watched() == ["camera"]
    bpy.data.objects["Camera"].data.lens /= 1.1  # another edit: who knows
    assert watched() == []


def test_no_frame_is_stepped_to(made):
    stepped = []
    bpy.app.handlers.frame_change_post.append(lambda *_: stepped.append(1))
    try:
        move_the_rig(made)
        assert worn() == ["rig"] and not stepped
        assert worn(thorough=True) == ["rig"] and stepped
    finally:
        bpy.app.handlers.frame_change_post.pop()
    assert bpy.context.scene.frame_current == 9


# --- the thorough check ---------------------------------------------------------------------------


def checked() -> str:
    """What the verb says."""
    bpy.ops.musev.take_check()
    return told()


def test_the_check_names_the_frames_at_which_the_rig_stands_otherwise(made):
    limit = made.armature.pose.bones["forearm.L"].constraints.new("LIMIT_ROTATION")
    limit.use_limit_x, limit.min_x, limit.max_x, limit.owner_space = True, 1.0, 1.0, "LOCAL"
    limit.influence = 0.0
    curve = limit.driver_add("influence").driver
    curve.expression = "1 if 11 <= frame <= 13 else 0"
    bpy.context.view_layer.update()
    assert worn() == []
    assert checked() == "The rig stands otherwise: frames 11 - 13."
    bpy.context.view_layer.objects.active = bpy.data.objects["Bystander"]
    assert watched() == ["rig"]  # choosing a thing is no edit
    bpy.data.objects["Camera"].location.x += 0.1
    assert "The camera sees it otherwise: frames 5 - 16." in checked() and "frames 11 - 13" in told()


def key_the_spine(settings):
    """A bone that leads none of those that are read."""
    bone = settings.armature.pose.bones["spine"]
    for frame, angle in ((5, 0.0), (16, 0.5)):
        bone.rotation_quaternion = (1.0, angle, 0.0, 0.0)
        bone.keyframe_insert("rotation_quaternion", frame=frame)
    bpy.context.scene.frame_set(9)


def test_keys_that_move_nothing_which_counts_are_cleared_by_a_check(made):
    copied = made.armature.pose.bones["upper_arm.L"].constraints.new("COPY_ROTATION")
    copied.target, copied.subtarget, copied.influence = made.armature, "spine", 0.0
    key_the_spine(made)
    assert watched() == ["rig"]
    assert checked() == "" and watched() == []
    bpy.data.objects["Bystander"].location.z += 1.0
    assert watched() == []
    move_the_rig(made)
    assert watched() == ["rig"]


def test_only_keys_of_bones_that_lead_those_which_are_read_count(made):
    key_the_spine(made)
    assert worn() == []
    looked_at = bpy.data.objects.new("Looks", None)  # and the rig at it
    bpy.context.scene.collection.objects.link(looked_at)
    looked_at.constraints.new("COPY_ROTATION").target = made.armature
    made.armature.pose.bones["upper_arm.R"].constraints.new("COPY_LOCATION").target = looked_at
    made.armature.pose.bones["upper_arm.R"].constraints[0].influence = 0.0
    assert worn() == ["rig"]


def test_bones_that_lead_others(empty_scene):
    rig = figure(RIGIFY_METARIG, "Leader")
    bones = rig.pose.bones

    def found(*read):
        return set(leads.leading(rig, read, leads.constrained(rig)))

    arm = {"upper_arm.L", "forearm.L", "hand.L"}
    up = {bone.name for bone in bones["hand.L"].parent_recursive}
    assert arm - {"hand.L"} <= up and found("hand.L") == {"hand.L"} | up
    reach = bones["hand.L"].constraints.new("IK")
    reach.target, reach.subtarget, reach.chain_count = rig, "spine", 2
    assert found("forearm.L") == {"forearm.L", "hand.L", "spine"} | up
    driven = bones["thigh.R"].driver_add("location", 0).driver
    target = driven.variables.new().targets[0]
    target.id, target.data_path = rig, 'pose.bones["foot.L"]["bend"]'
    assert "foot.L" in found("thigh.R") and "foot.L" not in found("hand.L")
    rig.driver_add("location", 0).driver.variables.new().targets[0].data_path = 'pose.bones["toe.L"]["x"]'
    assert "toe.L" in found("hand.L")
    assert leads.named('pose.bones["a\\"b"].location') == 'a"b' and leads.named("location") is None


def test_the_check_reads_the_whole_still(made):
    image = bpy.data.images.new("Large", 600, 600)  # too large to be read in between
    paint(image, 0.5)
    made.still_image = image
    finish(generate(session.current))
    assert worn() == []
    paint(image, 0.6)
    assert worn() == []
    assert worn(thorough=True) == ["still"]
    paint(image, 0.5)
    assert worn(thorough=True) == []


def test_the_check_reads_a_still_from_a_strip(made, tmp_path):
    from montage import Montage

    Montage(bpy.context.scene, tmp_path).image(count=6).name = "Plate"
    finish(generate(session.current))
    made.still_source, made.still_strip, made.new_strip = "STRIP", "Plate", True
    assert worn() == ["still"]
    finish(generate(session.current))
    assert worn() == [] and worn(thorough=True) == []
    plate = next(strip for strip in all_strips() if strip.name == "Plate")
    plate.use_flip_x = True
    assert worn() == ["still"] and worn(thorough=True) == ["still"]


def test_a_check_without_kept_poses_is_refused_and_nothing_is_worn(made):
    file = take().folder.parent / "inputs" / take().request["poses"]
    file.rename(file.with_name("elsewhere"))
    stale_watch.current.forget()
    zoom(made)
    assert worn() == [] and worn(thorough=True) == []
    assert "An input of this take is not kept" in refusal(bpy.ops.musev.take_check)
    file.with_name("elsewhere").rename(file)  # as when a clip's inputs arrive after its frames
    bpy.context.scene.frame_set(10)
    assert watched() == ["camera"]


def test_a_check_goes_on_in_slices_and_survives_undo(made, monkeypatch):
    monkeypatch.setattr(stale_watch, "TICK_S", 0.0)
    monkeypatch.setattr(stale_rig, "SLICE_S", 0.0)
    watch = stale_watch.current
    bpy.ops.ed.undo_push(message="before")
    zoom(made)
    bpy.ops.ed.undo_push(message="zoomed")
    target = stale_watch.Target("Scene", take().folder, 5)
    watch.check(target)
    for number in range(400):
        watch.tick()
        assert bpy.context.scene.frame_current == 9
        if number == 8:
            bpy.ops.ed.undo()
        if not watch.checking:
            break
    assert number > 12 + 8 and not watch.checking
    watch.settle()
    assert watch.changes("Scene", take().folder) == ()


# --- the watch ------------------------------------------------------------------------------------


def test_nothing_is_compared_while_an_animation_plays_or_a_clip_is_read(made, monkeypatch):
    watch = stale_watch.current
    reword(made)
    for busy in ("_is_busy",):
        monkeypatch.setattr(stale_watch, busy, lambda: True)
    watch._edited_at = 0.0
    for _ in range(5):
        assert watch.tick() == (stale_watch.PASS_S, False)
    assert watch.changes("Scene", take().folder) == ()
    monkeypatch.undo()
    seen = [watch.tick() for _ in range(400)]
    assert any(changed for _, changed in seen)
    assert [change.what for change in watch.changes("Scene", take().folder)] == ["prompt"]


def test_it_waits_until_nobody_edits(made):
    watch = stale_watch.current
    made.armature.location.y += 1.0
    bpy.context.view_layer.update()
    wait, changed = watch.tick()
    assert 0 < wait <= stale_watch.QUIET_S and not changed


def test_handlers_and_timer_come_and_go():
    module = stale_watch
    for name, handler in module.HANDLERS.items():
        assert getattr(bpy.app.handlers, name).count(handler) == 1
    assert bpy.app.timers.is_registered(module._timer)
    module.unregister()
    try:
        assert not bpy.app.timers.is_registered(module._timer)
        assert not any(h in getattr(bpy.app.handlers, name) for name, h in module.HANDLERS.items())
    finally:
        module.register()


def test_keys_are_summed_up_alike_however_they_are_sliced(made):
    blocks = motion.sources([made.armature])
    assert [(block.collection, block.name) for block in blocks] == [
        ("objects", "Dancer"), ("armatures", made.armature.data.name),
    ]  # fmt: skip
    whole, sliced = (motion.Motion(blocks, range(5, 17)) for _ in range(2))
    assert whole.advance(float("inf"))
    slices = 1
    while not sliced.advance(time.perf_counter()):
        slices += 1
    assert sliced.told() == whole.told() and slices > 2 and len(whole.told()) == 12 * 8
    assert motion.different(whole.told(), whole.told()) == []
    assert motion.different(whole.told(), "0" * 96) == list(range(12)) and motion.different("", "0" * 8) == [
        0
    ]
