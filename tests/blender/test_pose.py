"""Keypoints against Blender's own projection, and bone names against rigs as they really are named."""

from __future__ import annotations

import dataclasses

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev.rig import maps, pose, skeleton
from bl_ext.user_default.musev.rig import people as rig_people
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Euler, Matrix, Vector
from rigs import camera, figure

BODY = {name: index for index, name in enumerate(skeleton.BODY)}


def read(scene, rig, width, height, frames=(1,)):
    scene.render.resolution_x, scene.render.resolution_y = width, height
    return pose.keypoints(scene, [rig_people.resolve(rig)], scene.camera.name, width, height, frames)


def animate(rig, view=None):
    arm = rig.pose.bones[maps.RIGIFY_METARIG.body()["left_shoulder"]]
    arm.rotation_mode = "XYZ"
    for frame, angle in ((1, 0.0), (12, 1.2)):
        arm.rotation_euler = Euler((angle, 0, angle / 2))
        arm.keyframe_insert("rotation_euler", frame=frame)
        rig.location.x = angle / 4
        rig.keyframe_insert("location", frame=frame)
        if view:
            view.location.z = 1 + angle / 3
            view.keyframe_insert("location", frame=frame)


@pytest.mark.parametrize(
    ("size", "pixel_aspect", "lens"),
    [
        ((512, 512), (1, 1), {}),
        ((512, 320), (1, 1), {"shift_x": 0.13, "shift_y": -0.07}),
        ((320, 512), (1, 1), {"type": "ORTHO", "ortho_scale": 3.2, "shift_x": 0.05}),
        ((640, 360), (2, 1), {"sensor_fit": "VERTICAL", "lens": 35.0}),
    ],
)
def test_projection_equals_blenders_own(empty_scene, size, pixel_aspect, lens):
    width, height = size
    render = empty_scene.render
    render.resolution_x, render.resolution_y = size
    render.pixel_aspect_x, render.pixel_aspect_y = pixel_aspect
    rig = figure(maps.RIGIFY_METARIG, face=True)
    rig.scale = (1.1, 1.1, 1.1)
    view = camera(rotation=(1.4, 0.1, 0.05), **lens)
    view.scale = (2, 2, 2)
    animate(rig, view)
    frames = (1, 7, 12)
    track = read(empty_scene, rig, width, height, frames)
    assert track.shape == (3, 1, 130, 3) and track.dtype == np.float32
    for t, frame in enumerate(frames):
        empty_scene.frame_set(frame)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        bones = rig.evaluated_get(depsgraph).pose.bones
        where = {point: bones[bone].head for point, bone in maps.RIGIFY_METARIG.body().items()}
        where["neck"] = (where["left_shoulder"] + where["right_shoulder"]) / 2
        where["nose"], where["left_eye"] = bones["nose.002"].head, bones["eye.L"].tail
        for point, place in where.items():
            seen = world_to_camera_view(empty_scene, view, rig.matrix_world @ Vector(place))
            expected = (seen.x * width, (1 - seen.y) * height, 1.0)
            assert track[t, 0, BODY[point]] == pytest.approx(expected, abs=2e-3), (point, frame)


def test_the_picture_is_the_right_way_round(empty_scene):
    rig = figure(maps.RIGIFY_METARIG)
    camera()
    body = read(empty_scene, rig, 512, 512)[0, 0]
    assert (
        body[BODY["nose"], 1]
        < body[BODY["neck"], 1]
        < body[BODY["left_hip"], 1]
        < body[BODY["left_ankle"], 1]
    )
    # It faces us, so its left is on our right.
    assert body[BODY["left_wrist"], 0] > body[BODY["neck"], 0] > body[BODY["right_wrist"], 0]
    assert body[BODY["left_eye"], 0] > body[BODY["nose"], 0] > body[BODY["right_eye"], 0]


def test_points_behind_the_camera_are_not_visible(empty_scene):
    rig = figure(maps.RIGIFY_METARIG)
    camera(location=(0.3, 0.0, 1.0), rotation=(1.5708, 0.0, -1.5708))  # inside the figure, looking along +X
    body = read(empty_scene, rig, 512, 512)[0, 0]
    assert body[BODY["left_wrist"], 2] == 1
    assert (body[BODY["right_wrist"]] == 0).all()


@pytest.mark.parametrize(
    "names",
    [maps.RIGIFY_GENERATED, maps.RIGIFY_METARIG, maps.UNREAL]
    + [maps.mixamo(prefix) for prefix in ("mixamorig:", "mixamorig7:", "")],
    ids=lambda names: names.title,
)  # fmt: skip
def test_every_family_is_known_by_its_names_and_gives_the_same_body(empty_scene, names):
    reference = figure(maps.RIGIFY_METARIG, "Reference")
    rig = figure(names, roll=0.7)
    camera()
    assert rig_people.resolve(rig).map == names.title
    limbs = [BODY[point] for point in names.body()]
    ours, theirs = read(empty_scene, rig, 512, 512)[0, 0], read(empty_scene, reference, 512, 512)[0, 0]
    assert ours[limbs] == pytest.approx(theirs[limbs], abs=1e-3)
    assert np.abs(ours - theirs).max() < 6  # the face is an estimate; Unreal's from the torso's size


def test_the_estimated_face_lies_where_rigify_puts_it_and_turns_with_the_head(empty_scene):
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_human_metarig_add()
    rig = bpy.context.object
    camera(location=(0, -3, 1.6))
    face = [BODY[point] for point in maps.FACE_ON_HEAD]
    head = rig.pose.bones["spine.006"]
    for turn in (0.0, 0.6):
        head.matrix = head.matrix @ Matrix.Rotation(turn, 4, "Y")
        bpy.context.view_layer.update()
        measured = read(empty_scene, rig, 512, 512)[0, 0]
        person = rig_people.resolve(rig)
        rows, offsets = person.rows.copy(), person.offsets.copy()
        for point, offset in maps._face_estimate(rig.data.bones, maps.RIGIFY_METARIG).items():
            rows[BODY[point]] = len(person.bones)
            offsets[BODY[point], :3] = offset
        blind = dataclasses.replace(person, bones=(*person.bones, "spine.006"), rows=rows, offsets=offsets)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        guessed = pose.read_frame(empty_scene, depsgraph, [blind], "Camera", 512, 512)[0]
        assert guessed[face] == pytest.approx(measured[face], abs=0.5)


def test_the_full_human_gives_the_same_points_before_and_after_generating(empty_scene):
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_human_metarig_add()
    metarig = bpy.context.object
    bpy.ops.pose.rigify_generate()
    rig = next(o for o in bpy.data.objects if o.type == "ARMATURE" and o is not metarig)
    camera()
    anchors = rig_people.resolve(rig)
    assert {anchors.bones[anchors.rows[BODY[point]]] for point in ("nose", "left_eye", "right_ear")} == {
        "DEF-nose.002", "ORG-eye.L", "DEF-ear.R",
    }  # fmt: skip
    before, after = read(empty_scene, metarig, 512, 512), read(empty_scene, rig, 512, 512)
    assert after == pytest.approx(before, abs=1.0)


def test_a_generated_rigify_rig_follows_its_controls(empty_scene):
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_basic_human_metarig_add()
    metarig = bpy.context.object
    bpy.ops.pose.rigify_generate()
    rig = next(o for o in bpy.data.objects if o.type == "ARMATURE" and o is not metarig)
    camera()
    assert rig_people.resolve(rig).map == maps.RIGIFY_GENERATED.title
    still, same = read(empty_scene, rig, 512, 512)[0, 0], read(empty_scene, metarig, 512, 512)[0, 0]
    assert still == pytest.approx(same, abs=1.0)
    rig.pose.bones["upper_arm_parent.L"]["IK_FK"] = 1.0
    rig.pose.bones["upper_arm_fk.L"].rotation_mode = "XYZ"
    rig.pose.bones["upper_arm_fk.L"].rotation_euler = (0.0, 0.0, 1.0)
    rig.update_tag()
    bpy.context.view_layer.update()
    moved = read(empty_scene, rig, 512, 512)[0, 0]
    changed = np.abs(moved - still).max(axis=1) > 1
    assert set(np.flatnonzero(changed)) == {BODY["left_elbow"], BODY["left_wrist"]}


def test_the_scene_is_left_where_it_stood(empty_scene):
    rig = figure(maps.RIGIFY_METARIG)
    camera()
    empty_scene.frame_set(5, subframe=0.25)
    read(empty_scene, rig, 64, 64, range(10, 20))
    assert empty_scene.frame_current_final == pytest.approx(5.25)


def test_missing_bones_are_named_with_the_map_tried(empty_scene):
    rig = figure(maps.mixamo("mixamorig:"))
    rig.data.bones["mixamorig:LeftFoot"].name = "pied gauche"
    with pytest.raises(
        pose.PoseError, match=r"'Rig' has no bone mixamorig:LeftFoot .*Mixamo \(mixamorig:\).*Rename"
    ):
        rig_people.resolve(rig)


def test_wrong_objects_and_no_frames_are_refused(empty_scene):
    rig = figure(maps.RIGIFY_METARIG)
    view = camera()
    with pytest.raises(pose.PoseError, match="'Camera' is a camera, not an armature"):
        rig_people.resolve(view)
    with pytest.raises(pose.PoseError, match="no camera 'Rig'"):
        pose.read_frame(empty_scene, bpy.context.evaluated_depsgraph_get(), [], "Rig", 64, 64)
    ghost = dataclasses.replace(rig_people.resolve(rig), armature="Ghost")
    with pytest.raises(pose.PoseError, match="'Ghost' is no longer in this file"):
        pose.keypoints(empty_scene, [ghost], "Camera", 64, 64, [1])
    with pytest.raises(pose.PoseError, match="0 frames"):
        read(empty_scene, rig, 64, 64, [])
