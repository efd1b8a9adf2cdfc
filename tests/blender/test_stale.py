"""The stale badge: every kind of change wears it, no unrelated edit does, and what is undone takes it away."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import (
    clip_folder,
    session,
    stack,
    stack_panel,
    stale,
    stale_watch,
    strips,
)  # fmt: skip
from bl_ext.user_default.musev.jobs import JobState
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


def another_model(settings):
    settings.model = "absent"


CHANGES = {
    pose_a_bone: ["rig"], move_the_rig: ["rig"], key_a_bone_elsewhere: ["rig"], constrain: ["rig"],
    another_rig: ["rig"],
    zoom: ["camera"], move_the_camera: ["camera"], key_the_camera: ["camera"], another_camera: ["camera"],
    narrower_render: ["camera"],
    repaint: ["still"], another_file: ["still"], no_still: ["still"], another_still: ["still"],
    reword: ["prompt"], avoid: ["prompt"], text_strip: ["prompt"], another_model: ["model"],
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
