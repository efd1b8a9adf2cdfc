"""What the camera sees of a person: the truth table, with the figure facing the camera at y = -5."""

from __future__ import annotations

import dataclasses
import math

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import gather
from bl_ext.user_default.musev.rig import people, pose
from bl_ext.user_default.musev.rig.occlusion import Occlusion, behind_own_body, torsos
from bl_ext.user_default.musev.rig.skeleton import BODY, INDEX
from bl_ext.user_default.musev.rig.surfaces import is_see_through
from bodies import box, skin
from mathutils import Matrix, Vector
from rigs import RIGIFY_METARIG, camera, figure

SIZE = 512
WALL = (-2, -1.1, 0), (2, -1.0, 3)  # between the camera and the figure


@pytest.fixture
def rig(empty_scene):
    rig = figure(RIGIFY_METARIG, "Dancer", face=True)
    skin(rig, RIGIFY_METARIG)
    camera()
    return rig


def covered(*rigs, own="hide", others="hide", size=SIZE):
    """For each person the names of the body's points that something covers."""
    scene = bpy.context.scene
    bpy.context.view_layer.update()
    depsgraph = bpy.context.evaluated_depsgraph_get()
    found = [people.resolve(rig) for rig in rigs]
    points = pose.world_points(scene, depsgraph, found)
    light = Occlusion(own, others).visible(scene, depsgraph, found, points, None, size, size)
    assert light.shape == (len(rigs), 130) and light.dtype == np.float32
    names = [{name for name in BODY if light[person, INDEX[name]] < 1} for person in range(len(rigs))]
    return names[0] if len(rigs) == 1 else names


def aim(rig, bone: str, *direction: float) -> None:
    """Turns a pose bone so that it points in a direction of the world."""
    bpy.context.view_layer.update()
    posed = rig.pose.bones[bone]
    turn = (posed.tail - posed.head).rotation_difference(Vector(direction)).to_matrix().to_4x4()
    place = Matrix.Translation(posed.head)
    posed.matrix = place @ turn @ place.inverted() @ posed.matrix
    bpy.context.view_layer.update()


FAR_SIDE_FROM_BEHIND = {"nose", "right_eye", "left_eye"}


def test_nothing_covers_a_figure_that_faces_the_camera(rig):
    assert covered(rig) == set()


def test_from_behind_the_face_is_covered_by_the_head(rig):
    camera(location=(0, 5, 1), rotation=(math.pi / 2, 0, math.pi))
    assert covered(rig) == FAR_SIDE_FROM_BEHIND
    assert covered(rig, own="keep") == set()


def test_from_the_side_the_far_half_is_covered(rig):
    camera(location=(5, 0, 1), rotation=(math.pi / 2, 0, math.pi / 2))  # from the figure's left
    hidden = covered(rig)
    assert {"right_hip", "right_shoulder", "right_ear", "right_eye"} <= hidden
    assert "left_hip" in hidden  # behind the left hand
    assert not {"left_shoulder", "left_ear", "left_eye", "left_elbow", "nose"} & hidden


def test_a_wall_covers_all_that_is_behind_it(rig):
    wall = box("Wall", *WALL)
    assert covered(rig) == set(BODY)
    assert covered(rig, others="keep") == set()
    wall.location.y = 1.0
    assert covered(rig) == set()


def test_a_low_wall_covers_the_legs(rig):
    box("Low Wall", (-2, -1.1, -1), (2, -1.0, 0.8))
    assert covered(rig) == {f"{side}_{part}" for side in ("left", "right") for part in ("knee", "ankle")}


def test_a_pillar_covers_what_is_behind_it_alone(rig):
    box("Pillar", (0.3, -1.1, -1), (0.6, -1.0, 4))
    assert covered(rig) == {"left_elbow", "left_wrist"}


def test_a_hand_behind_the_back_is_covered_by_the_trunk(rig):
    aim(rig, "upper_arm.R", -0.1, 0.25, -0.25)
    aim(rig, "forearm.R", 0.25, 0.1, -0.1)
    hand = rig.pose.bones["hand.R"].head
    assert abs(hand.x) < 0.15 and hand.y > 0.15  # it lies behind the trunk
    assert covered(rig) == {"right_wrist"}
    assert covered(rig, own="keep") == set()


def test_an_arm_before_the_face_covers_it(rig):
    aim(rig, "upper_arm.L", 0.0, -0.3, 0.1)
    aim(rig, "forearm.L", -0.2, -0.05, 0.1)
    hidden = covered(rig)
    assert hidden and hidden <= {"nose", "left_eye", "right_eye", "left_ear", "right_ear", "neck"}
    assert covered(rig, own="keep", others="hide") == set()


def test_another_character_covers_as_anything_else_does(rig):
    other = figure(RIGIFY_METARIG, "Other", face=True)
    skin(other, RIGIFY_METARIG)
    other.location.y = -1.0
    behind, before = covered(rig, other)
    assert {"left_hip", "right_knee", "nose", "neck"} <= behind and not before
    behind, before = covered(rig, other, others="keep")
    assert not behind and not before


def test_what_is_outside_the_picture_and_behind_the_camera_is_left_alone(rig):
    box("Wall", *WALL)
    rig.location.x = 50
    assert covered(rig) == set()
    rig.location = 0, -20, 0
    assert covered(rig) == set()


def test_render_visibility_counts(rig):
    wall = box("Wall", *WALL)
    wall.hide_render = True
    assert covered(rig) == set()
    wall.hide_render = False
    wall.hide_set(True)
    assert covered(rig) == set(BODY)
    wall.hide_set(False)
    wall.hide_viewport = True
    assert covered(rig) == set(BODY)
    wall.hide_viewport = False
    wall.visible_camera = False
    assert covered(rig) == set()
    wall.visible_camera = True
    hidden = bpy.data.collections.new("Not rendered")
    bpy.context.scene.collection.children.link(hidden)
    hidden.objects.link(wall)
    bpy.context.scene.collection.objects.unlink(wall)
    assert covered(rig) == set(BODY)
    hidden.hide_render = True
    assert covered(rig) == set()


def material(name: str, shader: str = "ShaderNodeBsdfPrincipled", **values) -> bpy.types.Material:
    made = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0):
        made.use_nodes = True
    nodes = made.node_tree.nodes
    nodes.clear()
    node, output = nodes.new(shader), nodes.new("ShaderNodeOutputMaterial")
    for name, value in values.items():
        node.inputs[name.replace("_", " ")].default_value = value
    made.node_tree.links.new(node.outputs[0], output.inputs["Surface"])
    return made


@pytest.mark.parametrize(
    ("shader", "values", "clear"),
    [
        ("ShaderNodeBsdfPrincipled", {}, False),
        ("ShaderNodeBsdfPrincipled", {"Alpha": 0.2}, True),
        ("ShaderNodeBsdfPrincipled", {"Alpha": 0.8}, False),
        ("ShaderNodeBsdfPrincipled", {"Transmission_Weight": 1.0}, True),
        ("ShaderNodeBsdfGlass", {}, True),
        ("ShaderNodeBsdfTransparent", {}, True),
        ("ShaderNodeBsdfDiffuse", {}, False),
    ],
)
def test_one_sees_through_glass(rig, shader, values, clear):
    wall = box("Wall", *WALL)
    wall.data.materials.append(material("Wall", shader, **values))
    assert is_see_through(wall.data.materials[0]) is clear
    assert covered(rig) == (set() if clear else set(BODY))


def test_a_wall_with_a_window_covers_what_is_not_behind_the_window(rig):
    wall = box("Wall", (-2, -1.1, -1), (2, -1.0, 4))
    wall.data.materials.append(material("Wall"))
    wall.data.materials.append(material("Glass", "ShaderNodeBsdfGlass"))
    for face in wall.data.polygons:
        face.material_index = 1  # all of it but what is added now
    low = box("Low Wall", (-2, -1.1, -1), (2, -1.0, 0.8))
    low.data.materials.append(wall.data.materials[0])
    with bpy.context.temp_override(active_object=wall, selected_editable_objects=[wall, low], object=wall):
        bpy.ops.object.join()
    assert len(wall.data.polygons) == 12
    assert covered(rig) == {f"{side}_{part}" for side in ("left", "right") for part in ("knee", "ankle")}


def test_instanced_things_and_curves_and_modifiers_cover_too(rig):
    wall = box("Wall", *WALL, link=False)
    props = bpy.data.collections.new("Props")
    props.objects.link(wall)
    empty = bpy.data.objects.new("Instancer", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", props
    empty.location.x = 30
    bpy.context.scene.collection.objects.link(empty)
    assert covered(rig) == set()
    empty.location.x = 0
    assert covered(rig) == set(BODY)
    empty.hide_render = True
    assert covered(rig) == set()
    text = bpy.data.curves.new("Sheet", "SURFACE")
    bpy.data.objects.remove(empty)
    flat = bpy.data.curves.new("Sheet", "CURVE")
    flat.dimensions, flat.fill_mode, flat.extrude = "2D", "BOTH", 0.01
    line = flat.splines.new("POLY")
    line.points.add(3)
    for point, place in zip(line.points, ((-2, -2), (2, -2), (2, 3), (-2, 3)), strict=True):
        point.co = (*place, 0, 1)
    line.use_cyclic_u = True
    bpy.data.curves.remove(text)
    sheet = bpy.data.objects.new("Sheet", flat)
    sheet.rotation_euler.x, sheet.location = math.pi / 2, (0, -1, 0)
    bpy.context.scene.collection.objects.link(sheet)
    assert covered(rig) == set(BODY)
    sheet.location.y = 2
    slab = box("Slab", (-2, -1.1, -1), (2, -1.0, -0.9))
    assert covered(rig) == set()
    array = slab.modifiers.new("Array", "ARRAY")
    array.use_relative_offset, array.use_constant_offset = False, True
    array.constant_offset_displace, array.count = (0, 0, 0.1), 18
    assert covered(rig) == {f"{side}_{part}" for side in ("left", "right") for part in ("knee", "ankle")}


def test_an_orthographic_camera_sees_along_parallel_lines(rig):
    camera(location=(0, -5, 1), type="ORTHO", ortho_scale=3)
    assert covered(rig) == set()
    box("Pillar", (0.3, -1.1, -1), (0.5, -1.0, 4))  # straight before the elbow at 0.42
    assert covered(rig) == {"left_elbow"}


def test_what_stands_nearer_than_the_camera_begins_to_see_covers_nothing(rig):
    wall = box("Wall", *WALL)
    bpy.context.scene.camera.data.clip_start = 4.5
    assert covered(rig) == set()
    wall.location.y = -0.3
    assert covered(rig) >= {"nose", "left_hip", "right_hip"}


def test_what_the_bones_carry_is_of_the_body(rig):
    shield = box("Shield", (-0.3, -0.4, 0.8), (0.3, -0.35, 1.3))
    shield.parent, shield.parent_type, shield.parent_bone = rig, "BONE", "root"
    shield.matrix_world = shield.matrix_basis
    bpy.context.view_layer.update()
    hidden = covered(rig, others="keep")
    assert (
        {"left_hip", "right_hip"}
        <= hidden
        <= {"left_hip", "right_hip", "neck", "left_shoulder", "right_shoulder"}
    )
    assert covered(rig, own="keep") == set()


def test_covered_points_are_dimmed_or_hidden_as_asked(rig):
    scene = bpy.context.scene
    box("Low Wall", (-2, -1.1, -1), (2, -1.0, 0.8))
    bpy.context.view_layer.update()
    depsgraph, found = bpy.context.evaluated_depsgraph_get(), [people.resolve(rig)]
    points = pose.world_points(scene, depsgraph, found)
    for how, light in (("keep", 1.0), ("dim", 0.5), ("hide", 0.0)):
        seen = Occlusion("keep", how).visible(scene, depsgraph, found, points, None, SIZE, SIZE)
        assert seen[0, INDEX["left_ankle"]] == light and seen[0, INDEX["nose"]] == 1
    assert not Occlusion().needed and Occlusion("dim").needed


def test_poses_are_read_with_what_covers_them_frame_by_frame(rig):
    wall = box("Wall", *WALL)
    for frame, y in ((1, 0.0), (2, 2.0)):
        wall.location.y = y - 1.05
        wall.keyframe_insert("location", frame=frame)
    scene = bpy.context.scene
    found = (people.resolve(rig),)
    for occlusion, seen in ((Occlusion(), [1, 1]), (Occlusion("keep", "dim"), [0.5, 1])):
        capture = pose.PoseCapture(scene.name, found, None, SIZE, SIZE, (1, 2), occlusion=occlusion)
        while not capture.advance(float("inf")):
            pass
        assert [keypoints[0, INDEX["nose"], 2] for keypoints in capture.read] == seen


@pytest.mark.parametrize("lens", [{}, {"type": "ORTHO", "ortho_scale": 3.0}])
@pytest.mark.parametrize(
    ("angle", "away"),
    [
        (0, set()),
        (20, set()),
        (50, {"right_ear"}),
        (80, {"right_ear", "right_eye"}),  # seen from the figure's left
        (-80, {"left_ear", "left_eye"}),
        (110, {"right_ear", "right_eye", "nose"}),
        (150, {"right_ear", "right_eye", "left_eye", "nose"}),
        (180, {"right_eye", "left_eye", "nose"}),
    ],
)
def test_a_face_that_looks_away_is_left_out(rig, lens, angle, away):
    turn = math.radians(angle)
    camera(location=(5 * math.sin(turn), -5 * math.cos(turn), 1.6), rotation=(math.pi / 2, 0, turn), **lens)
    scene, found = bpy.context.scene, (people.resolve(rig),)
    by_choice = {}
    for own in ("keep", "face", "dim"):
        capture = pose.PoseCapture(scene.name, found, None, SIZE, SIZE, (1,), occlusion=Occlusion(own))
        assert capture.advance(float("inf"))
        by_choice[own] = capture.read[0][0]
    seen = {own: dict(zip(BODY, keypoints[:18, 2], strict=True)) for own, keypoints in by_choice.items()}
    assert {name for name, light in seen["face"].items() if not light} == away
    assert all(seen["keep"].values()) and all(seen["dim"][name] == 0.5 for name in away)
    assert bool(by_choice["face"][60:, 2].any()) is ("nose" not in away)
    assert np.array_equal(by_choice["face"][..., :2], by_choice["keep"][..., :2])


def test_faces_that_look_away_are_left_out_by_default_and_clips_follow_the_settings(rig):
    scene = bpy.context.scene
    settings = scene.musev
    settings.armature = rig
    assert gather.pose_capture(scene, settings, (1.0,)).occlusion == Occlusion("face", "keep")
    assert not Occlusion("face").needed
    settings.occlusion.own, settings.occlusion.others = "dim", "hide"
    assert gather.pose_capture(scene, settings, (1.0,)).occlusion == Occlusion("dim", "hide")


def test_an_instanced_figure_knows_its_own_skin(rig):
    """Its own copy of the skin is its body; the copy beside it is something else."""
    troupe = bpy.data.collections.new("Troupe")
    for item in (rig, bpy.data.objects["Dancer skin"]):
        troupe.objects.link(item)
        bpy.context.scene.collection.objects.unlink(item)
    for number, y in enumerate((0.0, -1.0)):
        empty = bpy.data.objects.new(f"Copy {number}", None)
        empty.instance_type, empty.instance_collection, empty.location.y = "COLLECTION", troupe, y
        bpy.context.scene.collection.objects.link(empty)
    bpy.context.view_layer.update()
    scene, depsgraph = bpy.context.scene, bpy.context.evaluated_depsgraph_get()
    copies = {
        people.instance_of(copy).parent: people.instance_of(copy)
        for copy in depsgraph.object_instances
        if copy.is_instance and copy.object.name == "Dancer"
    }
    found = [dataclasses.replace(people.resolve(rig), instance=copies[f"Copy {n}"]) for n in (0, 1)]
    points = pose.world_points(scene, depsgraph, found)
    light = Occlusion("hide", "hide").visible(scene, depsgraph, found, points, None, SIZE, SIZE)
    assert light[1, :18].all()
    assert not light[0, [INDEX["nose"], INDEX["left_hip"], INDEX["neck"]]].any()
    alone = Occlusion("hide", "keep").visible(scene, depsgraph, found, points, None, SIZE, SIZE)
    assert alone[:, :18].all()


@pytest.mark.parametrize(
    ("hits", "is_behind"),
    [
        ([(0.05, True)], False),  # its own skin
        ([(0.05, True), (0.06, False), (0.07, True)], False),  # a sleeve on it
        ([(0.05, True), (0.2, False), (0.25, True)], True),  # an arm before it
        ([(0.2, True)], True),  # through the head
        ([(0.03, True), (0.04, False), (0.06, True)], False),  # a bracelet
        ([(0.02, False), (0.05, True), (0.09, True)], False),  # in a part that another part is stuck in
        ([(0.3, False), (0.5, True)], True),  # outside, behind the trunk
        ([(0.01, False), (0.03, True)], False),  # outside, under its hair
    ],
)
def test_the_skin_over_a_joint_does_not_cover_it(hits, is_behind):
    assert behind_own_body(hits, depth=0.12, margin=0.04) is is_behind


def test_a_torso_is_measured_or_taken_from_what_is_there():
    points = np.zeros((3, 130, 4))
    for name, place in (("left_shoulder", (0.2, 0, 1.5)), ("right_shoulder", (-0.2, 0, 1.5)),
                        ("left_hip", (0.1, 0, 0.9)), ("right_hip", (-0.1, 0, 0.9))):  # fmt: skip
        points[0, INDEX[name]] = (*place, 1)
    points[1, :2] = (0, 0, 0, 1), (0, 0, 1.8, 1)
    assert np.allclose(torsos(points), (0.6, 0.6, 0))
