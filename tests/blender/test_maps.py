"""Which bone is which point: found by name on rigs of every convention, never the wrong side, never a silent guess."""

from __future__ import annotations

import json

import bpy
import numpy as np
import pytest
import rigs
from bl_ext.user_default.musev.rig import known_maps, maps, people, pose, skeleton
from rigs import NAMINGS, camera, figure


def bone_of(person, point: str) -> str | None:
    """The bone that a person's point hangs on; None where there is no such point."""
    row = skeleton.INDEX[point]
    return person.bones[person.rows[row]] if person.offsets[row, 3] else None


def test_the_130_points_are_named_and_mirrored():
    assert len(skeleton.NAMES) == len(set(skeleton.NAMES)) == 130
    assert skeleton.NAMES[18:20] == ("left_hand", "left_thumb_1") and skeleton.NAMES[39] == "right_hand"
    assert skeleton.NAMES[60] == "jaw_1" and skeleton.NAMES[128:] == ("right_pupil", "left_pupil")
    there = skeleton.MIRROR
    assert (there[there] == np.arange(130)).all()
    assert skeleton.mirrored("jaw_9") == "jaw_9" and skeleton.mirrored("jaw_1") == "jaw_17"
    assert skeleton.mirrored("left_lid_2") == "right_lid_3"
    assert skeleton.mirrored("left_brow_1") == "right_brow_5"
    assert skeleton.mirrored("outer_lips_8") == "outer_lips_12"


@pytest.mark.parametrize("name", NAMINGS)
def test_every_convention_is_known_by_its_names(empty_scene, name):
    naming = NAMINGS[name]
    rig = figure(naming, face=True, hands=True)
    match = people.find(rig)
    assert match.map.title == naming.title
    assert match.score > 0.8
    person = people.resolve(rig)
    for point, (bone, end) in naming.points().items():
        assert bone_of(person, point) == bone, point
        length = rig.data.bones[bone].length
        assert person.offsets[skeleton.INDEX[point], 1] == pytest.approx(end * length), point
    assert not set(person.missing) & set(naming.points())
    assert not person.swapped


@pytest.mark.parametrize(
    ("rename", "title"),
    [
        (lambda name: "Character1:" + name.removeprefix("mixamorig:"), "Mixamo"),
        (lambda name: "Armature|" + name, "Mixamo"),
        (lambda name: name.replace("mixamorig:", "mixamorig_"), "Mixamo"),
        (lambda name: name.upper(), "Mixamo"),
    ],
)
def test_prefixes_namespaces_and_case_do_not_matter(empty_scene, rename, title):
    rig = figure(rigs.mixamo(), hands=True)
    for bone in rig.data.bones:
        bone.name = rename(bone.name)
    person = people.resolve(rig)
    assert person.map == title and not person.missing
    assert bone_of(person, "left_elbow") == rename("mixamorig:LeftForeArm")


def test_a_side_may_be_written_any_way_where_one_bone_alone_fits(empty_scene):
    rig = figure(rigs.VRM_ADDON, hands=True)
    for bone in rig.data.bones:
        bone.name = bone.name.replace("upper_arm.", "UpperArm_").replace("lower_leg.L", "Left lower-leg")
    person = people.resolve(rig)
    assert (
        bone_of(person, "left_shoulder") == "UpperArm_L" and bone_of(person, "left_knee") == "Left lower-leg"
    )
    twin = figure(rigs.VRM_ADDON, "Twin")
    twin.data.bones["foot.L"].name = "Foot_L"
    twin.data.bones["root"].name = "foot.l"  # now two bones could be it
    assert bone_of(people.resolve(twin), "left_ankle") is None
    assert "left_ankle" in people.resolve(twin).missing


@pytest.mark.parametrize(
    ("bones", "title"), [(["LHipJoint"], "CMU BVH"), (["mixamorig:Spine2"], "Mixamo")]
)  # fmt: skip
def test_marks_tell_rigs_with_the_same_limbs_apart(bones, title):
    limbs = [hook[0].bone for point, hook in known_maps.CMU.hooks.items() if point in maps.LIMB_POINTS]
    assert maps.best([*limbs, "Head", *bones], known_maps.KNOWN).map.title == title


def test_a_partial_hand_keeps_what_is_missing_missing(empty_scene):
    person = people.resolve(figure(rigs.CMU, hands=True))
    assert bone_of(person, "left_index_4") == "LeftHandIndex1" and bone_of(person, "left_index_2") is None
    assert "left_index_2" in person.missing and "left_index_4" not in person.missing
    assert "left index 2, 3" in maps.told(person.missing)


def test_a_missing_limb_is_left_out_and_named(empty_scene):
    rig = figure(rigs.mixamo())
    rig.data.bones["mixamorig:LeftFoot"].name = "pied gauche"
    camera()
    person = people.resolve(rig)
    assert "left_ankle" in person.missing and "left ankle" in maps.told(person.missing)
    read = pose.keypoints(empty_scene, [person], None, 64, 64, [1])[0, 0]
    assert (read[skeleton.INDEX["left_ankle"]] == 0).all() and read[skeleton.INDEX["right_ankle"], 2] == 1
    assert (read[skeleton.PARTS["left hand"], 2] == 0).all()  # no fingers: no lone wrist either
    assert people.caution(person) == "Rig: left out without a bone: left ankle"


def test_unknown_names_give_the_list_of_what_to_map(empty_scene):
    rig = figure(rigs.UNREAL)
    for number, bone in enumerate(rig.data.bones):
        bone.name = f"os{number}"
    with pytest.raises(
        pose.PoseError, match=r"'Rig' has bones for 0 of 12.*left shoulder, left elbow.*Characters"
    ) as caught:
        people.resolve(rig)
    assert set(caught.value.unmapped) >= {*maps.LIMB_POINTS, "head", "left_thumb_1"}


def test_sides_named_the_wrong_way_round_are_seen_by_the_feet(empty_scene):
    rig, right = figure(rigs.UNREAL, hands=True), figure(rigs.UNREAL, "Right", hands=True)
    for bone in rig.data.bones:  # what lies at the figure's left is called right
        base, _, side = bone.name.rpartition("_")
        if side in ("l", "r"):
            bone.name = f"{base}_was{side}"
    for bone in rig.data.bones:
        bone.name = bone.name.replace("_wasl", "_r").replace("_wasr", "_l")
    camera()
    person = people.resolve(rig)
    assert person.swapped and not people.resolve(right).swapped
    assert "where its feet point" in people.caution(person) and people.caution(people.resolve(right)) is None
    ours, theirs = pose.keypoints(empty_scene, [person, people.resolve(right)], None, 512, 512, [1])[0]
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_points_set_by_hand_keep_their_side_where_names_are_swapped(empty_scene):
    rig = figure(rigs.UNREAL)
    for side, other in (("l", "x"), ("r", "l"), ("x", "r")):
        for bone in rig.data.bones:
            if bone.name.endswith("_" + side):
                bone.name = bone.name[: -len(side)] + other
    person = people.resolve(rig, overrides={"left_wrist": maps.Hook("hand_l", 1.0)})
    assert person.swapped and bone_of(person, "left_elbow") == "lowerarm_r"
    assert bone_of(person, "left_wrist") == "hand_l"


def test_feet_that_tell_nothing_leave_the_names_alone(empty_scene):
    rig = figure(rigs.UNREAL)
    bpy.ops.object.mode_set(mode="EDIT")
    for side in "lr":
        toe = rig.data.edit_bones[f"ball_{side}"]
        toe.head.y, toe.tail.y = 0.3, 0.4  # one figure's feet point back, but its eyes look to the front
    eye = rig.data.edit_bones.new("eye_l")
    eye.head, eye.tail = (0.04, -0.1, 1.68), (0.04, -0.13, 1.68)
    bpy.ops.object.mode_set(mode="OBJECT")
    assert not people.resolve(rig).swapped


def test_a_wrong_object_is_refused(empty_scene):
    with pytest.raises(pose.PoseError, match="'Camera' is a camera, not an armature"):
        people.resolve(camera())


# --- the face ---------------------------------------------------------------------------------------


def face_of(scene, rig) -> tuple[np.ndarray, object]:
    camera(location=(0, -2.5, 1.65), lens=85.0)
    person = people.resolve(rig)
    return pose.keypoints(scene, [person], None, 512, 512, [1])[0, 0], person


def test_an_average_face_lies_on_a_head_without_face_bones(empty_scene):
    read, person = face_of(empty_scene, figure(rigs.UNREAL))
    assert person.face_approximated and (read[skeleton.PARTS["face"], 2] == 1).all()
    x = {name: read[skeleton.INDEX[name], 0] for name in skeleton.NAMES}
    y = {name: read[skeleton.INDEX[name], 1] for name in skeleton.NAMES}
    # It faces us: its right is on our left, and iBUG counts from there.
    assert x["jaw_1"] < x["right_brow_1"] < x["right_pupil"] < x["jaw_9"] < x["left_pupil"] < x["jaw_17"]
    assert y["left_brow_3"] < y["left_pupil"] < y["nose_bridge_4"] < y["outer_lips_4"] < y["inner_lips_7"]
    assert y["inner_lips_7"] < y["outer_lips_10"] < y["jaw_9"]
    for side in ("left", "right"):
        assert read[skeleton.INDEX[f"{side}_pupil"]] == pytest.approx(
            read[skeleton.INDEX[f"{side}_eye"]], abs=0.01
        )
    assert read[skeleton.INDEX["nose_bridge_4"]] == pytest.approx(read[skeleton.INDEX["nose"]], abs=0.01)


def test_the_average_face_meets_eyes_nose_and_ears_where_there_are_bones(empty_scene):
    read, _ = face_of(empty_scene, figure(rigs.RIGIFY_METARIG, face=True))
    for face, body in (("left_pupil", "left_eye"), ("right_pupil", "right_eye"), ("nose_bridge_4", "nose")):
        assert read[skeleton.INDEX[face]] == pytest.approx(read[skeleton.INDEX[body]], abs=0.05)
    mirrored = read[skeleton.MIRROR]
    face = skeleton.PARTS["face"]
    assert 512 - mirrored[face, 0] == pytest.approx(read[face, 0], abs=0.1)  # as even as the figure is


def test_rigifys_face_bones_are_the_face(empty_scene):
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_human_metarig_add()
    rig = bpy.context.object
    before, person = face_of(empty_scene, rig)
    assert not person.face_approximated
    assert bone_of(person, "outer_lips_7") == "lip.T.L.001" and bone_of(person, "jaw_9") == "jaw"
    lip = rig.pose.bones["lip.B.L"]
    lip.location.z += 0.02
    bpy.context.view_layer.update()
    after = pose.keypoints(empty_scene, [person], None, 512, 512, [1])[0, 0]
    moved = {skeleton.NAMES[row] for row in np.flatnonzero(np.abs(after - before).max(axis=1) > 0.5)}
    assert {"outer_lips_10", "outer_lips_9", "inner_lips_7"} <= moved and "outer_lips_4" not in moved
    assert not moved & set(skeleton.BODY)


# --- by hand, and as JSON ---------------------------------------------------------------------------


def test_a_point_set_by_hand_comes_first(empty_scene):
    rig = figure(rigs.UNREAL)
    person = people.resolve(rig, overrides={"left_elbow": maps.Hook("spine_01", 0.5, (0.1, 0.0, 0.0))})
    row = skeleton.INDEX["left_elbow"]
    assert bone_of(person, "left_elbow") == "spine_01"
    length = rig.data.bones["spine_01"].length
    assert person.offsets[row] == pytest.approx((0.1, length / 2, 0.0, 1.0))
    lost = people.find(rig, overrides={"left_elbow": maps.Hook("gone")})
    assert lost.lost == ("left_elbow",) and lost.hooks["left_elbow"].bone == "lowerarm_l"


@pytest.mark.parametrize("rig_map", known_maps.KNOWN, ids=lambda rig_map: rig_map.title)
def test_a_map_comes_back_from_json_as_it_was(rig_map):
    assert maps.from_json(maps.to_json(rig_map)) == rig_map


def damaged(**changes) -> str:
    raw = json.loads(maps.to_json(known_maps.UNREAL))
    return json.dumps(raw | changes)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not a rig map"),
        ("[1]", "not a rig map"),
        (damaged(format="else"), "format"),
        (damaged(version=2), "version 2"),
        (damaged(title=""), "title"),
        (damaged(points={}), "points"),
        (damaged(points={"left_elbow": [{"bone": "a"}], "tail": [], "third_eye": []}), "tail, third_eye"),
        (damaged(points={"left_elbow": []}), "left_elbow needs"),
        (damaged(points={"left_elbow": [{"bone": "a", "end": 1.5}]}), "end is a number"),
        (damaged(points={"left_elbow": [{"bone": "a", "offset": [0, 1e9, 0]}]}), "offset is three"),
        (damaged(points={"left_elbow": [{"bone": "a\nb"}]}), "bone is a name"),
        (damaged(points={"left_elbow": [{"bone": "a", "eval": "1"}]}), "left_elbow: a bone"),
        (damaged(points={"left_elbow": [{"bone": "x" * 300}]}), "bone is a name"),
        (damaged(marks="x"), "marks"),
        ('{"format": "musev.rig_map", "version": 1, "title": "a", "points": ' + "[" * 50000, "not a rig map"),
        (" " * 300_000, "at most"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_by_what_is_wrong(text, told):
    with pytest.raises(maps.MapError, match=told):
        maps.from_json(text)
