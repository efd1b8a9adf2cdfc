"""Face points from a mesh's vertex groups, against vertices that Blender evaluates and projects itself."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
import rigs
from bl_ext.user_default.musev.rig import face, face_mesh, people, pose
from bl_ext.user_default.musev.rig.skeleton import FACE, INDEX
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector
from rigs import camera, figure, wave

FIRST = INDEX[FACE[0]]
SIZE = 1920, 1080


def read(scene, persons, times=(1,)):
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    return pose.keypoints(scene, persons, None, *SIZE, times)


def head_of(rig, points=FACE, prefix="musev_", name="Head", stray=7):
    """A head that the rig moves: an average face's points, each a group of two vertices of unequal weights, and some
    vertices of no point; a driven and a keyed shape key. Returns the object and the vertices of every point."""
    places = face.AVERAGE * 0.001 * (1, -1, 1) + (0, -0.1, 1.68)
    vertices, owned = [(0.0, 0.1 * n, 1.9) for n in range(stray)], {}
    for point in points:
        owned[point] = len(vertices), len(vertices) + 1
        x, y, z = places[INDEX[point] - FIRST]
        vertices += [(x, y, z), (x + 0.004, y, z + 0.002)]
    data = bpy.data.meshes.new(name)
    # Faces, so that a subdivision has something to divide.
    faces = [(n, n + 1, n + 2) for n in range(0, len(vertices) - 2, 2)]
    data.from_pydata(vertices, [], faces)
    item = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(item)
    for point, (first, second) in owned.items():
        group = item.vertex_groups.new(name=prefix + point)
        group.add([first], 0.75, "REPLACE")
        group.add([second], 0.25, "REPLACE")
    bone = next(
        bone.name for bone in rig.data.bones if bone.name in (rigs.UNREAL.head, rigs.RIGIFY_METARIG.head)
    )
    item.vertex_groups.new(name=bone).add(range(len(vertices)), 1.0, "REPLACE")
    item.modifiers.new("Armature", "ARMATURE").object = rig
    item.parent = rig
    item.shape_key_add(name="Basis")
    for number, key in enumerate(("Open", "Smile")):
        block = item.shape_key_add(name=key)
        moved = np.array(vertices) + np.random.default_rng(number).uniform(-0.02, 0.02, (len(vertices), 3))
        block.data.foreach_set("co", moved.astype(np.float32).ravel())
    keys = data.shape_keys.key_blocks
    driver = keys["Open"].driver_add("value").driver
    driver.expression = "frame / 20"
    for frame, value in ((1, 0.0), (20, 1.0)):
        keys["Smile"].value = value
        keys["Smile"].keyframe_insert("value", frame=frame)
    bpy.context.view_layer.update()
    return item, owned


def truth(scene, item, owned):
    """Pixels of each point now: a copy of the evaluated mesh, vertex by vertex, through Blender's own projection."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    shown = item.evaluated_get(depsgraph)
    copy = shown.to_mesh()
    pixels = {}
    for point, (first, second) in owned.items():
        place = 0.75 * copy.vertices[first].co + 0.25 * copy.vertices[second].co
        seen = world_to_camera_view(scene, scene.camera, shown.matrix_world @ Vector(place))
        pixels[point] = seen.x * SIZE[0], (1 - seen.y) * SIZE[1]
    shown.to_mesh_clear()
    return pixels


@pytest.mark.parametrize("prefix", ["", "musev_"])
def test_points_follow_the_evaluated_mesh(empty_scene, prefix):
    rig = figure(rigs.UNREAL)
    item, owned = head_of(rig, prefix=prefix)
    camera()
    wave(rig, range(1, 21), every=6)
    person = people.resolve(rig)
    assert not person.face_approximated
    times = (1, 9, 20)
    track = read(empty_scene, [person], times)[:, 0]
    for points, frame in zip(track, times, strict=True):
        empty_scene.frame_set(frame)
        for point, expected in truth(empty_scene, item, owned).items():
            assert points[INDEX[point], :2] == pytest.approx(expected, abs=0.05), (point, frame)
        # Nose and eyes of the body are where the face's are, for the rig has no bones for them.
        for point, twin in face_mesh.TWINS.items():
            assert (points[INDEX[point]] == points[INDEX[twin]]).all()


def test_modifiers_that_add_vertices_are_followed(empty_scene):
    rig = figure(rigs.UNREAL)
    item, owned = head_of(rig)
    camera()
    before = read(empty_scene, [people.resolve(rig)])[0, 0]
    double = item.modifiers.new("Array", "ARRAY")
    double.use_relative_offset, double.use_constant_offset, double.count = False, True, 2
    double.constant_offset_displace = (0.1, 0.0, 0.0)
    bpy.context.view_layer.update()
    after = read(empty_scene, [people.resolve(rig)])[0, 0]
    moved = after[list(map(INDEX.get, owned)), :2] - before[list(map(INDEX.get, owned)), :2]
    # Each group has its vertices twice now, 10 cm apart: their mean lies 5 cm to the left.
    view = empty_scene.camera
    a, b = (world_to_camera_view(empty_scene, view, Vector((x, -0.1, 1.68))).x * SIZE[0] for x in (0, 0.05))
    assert moved[:, 0] == pytest.approx(np.full(len(owned), b - a), rel=0.05)
    assert moved[:, 1] == pytest.approx(np.zeros(len(owned)), abs=0.05)


def test_without_groups_or_with_empty_ones_nothing_changes_by_a_bit(empty_scene):
    rig = figure(rigs.UNREAL, hands=True)
    wave(rig, range(1, 21), every=6)
    camera()
    before = read(empty_scene, [people.resolve(rig)], (1, 8, 20))
    item, _ = head_of(rig, points=(), stray=3)
    assert people.resolve(rig).faces == ()
    bpy.context.view_layer.objects.active = item
    count = len(item.vertex_groups)
    assert bpy.ops.musev.character_face_groups() == {"FINISHED"}
    assert len(item.vertex_groups) == count + len(FACE) and "musev_jaw_9" in item.vertex_groups
    bpy.ops.musev.character_face_groups()
    assert len(item.vertex_groups) == count + len(FACE)
    assert people.resolve(rig).faces == () and people.resolve(rig).face_approximated
    assert (read(empty_scene, [people.resolve(rig)], (1, 8, 20)) == before).all()


def test_a_group_that_is_a_bones_skin_is_no_point(empty_scene):
    rig = figure(rigs.UNREAL)
    rig.data.bones["root"].name = "nose"
    item, _ = head_of(rig, points=("jaw_9",), prefix="")
    item.vertex_groups.new(name="nose").add([0], 1.0, "REPLACE")
    assert face_mesh.groups_of(item, rig) == {"jaw_9": "jaw_9"}
    item.vertex_groups.new(name="musev_nose").add([0], 1.0, "REPLACE")
    assert face_mesh.groups_of(item, rig) == {"jaw_9": "jaw_9", "nose": "musev_nose"}
    assert set(people.resolve(rig).faces[0].groups) == {"jaw_9", "nose", "nose_bridge_4"}


def test_missing_points_are_fitted_to_those_given(empty_scene):
    rig = figure(rigs.UNREAL)
    camera()
    average = read(empty_scene, [people.resolve(rig)])[0, 0]
    item, owned = head_of(rig, points=("jaw_9", "left_pupil", "right_pupil", "nose_bridge_4"))
    person = people.resolve(rig)
    assert person.face_approximated
    fitted = read(empty_scene, [person])[0, 0]
    for point, expected in truth(empty_scene, item, owned).items():
        assert fitted[INDEX[point], :2] == pytest.approx(expected, abs=0.05)
    chin = float(fitted[INDEX["jaw_9"], 1] - fitted[INDEX["nose_bridge_4"], 1])
    lips = fitted[INDEX["outer_lips_10"], 1] - fitted[INDEX["nose_bridge_4"], 1]
    assert 0.3 * chin < lips < 0.8 * chin  # between nose and chin, as in a face
    assert fitted[INDEX["jaw_8"], 1] == pytest.approx(fitted[INDEX["jaw_9"], 1], abs=0.1 * chin)
    assert np.abs(fitted - average).max() > 1
    body = slice(1, 14)
    assert (fitted[body] == average[body]).all()


def test_a_point_set_by_hand_and_a_hidden_mesh(empty_scene):
    from bl_ext.user_default.musev.rig.maps import Hook

    rig = figure(rigs.UNREAL)
    camera()
    item, _ = head_of(rig)
    by_mesh = read(empty_scene, [people.resolve(rig)])[0, 0]
    person = people.resolve(rig, overrides={"jaw_9": Hook("pelvis")})
    by_hand = read(empty_scene, [person])[0, 0]
    changed = np.flatnonzero((by_mesh != by_hand).any(axis=1))
    assert list(changed) == [INDEX["jaw_9"]]
    # A hidden mesh stands still: its modifiers are not worked out. Its points then hang on the head.
    wave(rig, range(1, 12), every=5)
    item.hide_set(True)
    hidden = people.resolve(rig)
    empty_scene.frame_set(11)
    track = read(empty_scene, [hidden], (1, 11))[:, 0]
    depsgraph = bpy.context.evaluated_depsgraph_get()
    posed = rig.evaluated_get(depsgraph)
    turn = (
        posed.matrix_world @ posed.pose.bones["head"].matrix @ rig.data.bones["head"].matrix_local.inverted()
    )
    place = turn @ Vector(hidden.faces[0].places["jaw_9"])
    seen = world_to_camera_view(empty_scene, empty_scene.camera, place)
    expected = seen.x * SIZE[0], (1 - seen.y) * SIZE[1]
    assert track[1, INDEX["jaw_9"], :2] == pytest.approx(expected, abs=0.05)


def test_instances_carry_their_face(empty_scene):
    rig = figure(rigs.UNREAL, "Dancer")
    item, _ = head_of(rig)
    camera(type="ORTHO", ortho_scale=8.0)
    wave(rig, range(1, 12), every=5)
    alone = read(empty_scene, [people.resolve(rig)], (1, 8))[:, 0]
    group = bpy.data.collections.new("Crowd")
    for member in (rig, item):
        group.objects.link(member)
        empty_scene.collection.objects.unlink(member)
    for name, x in (("One", -1.0), ("Two", 1.0)):
        empty = bpy.data.objects.new(name, None)
        empty.instance_type, empty.instance_collection, empty.location = "COLLECTION", group, (x, 0, 0)
        empty_scene.collection.objects.link(empty)
    bpy.context.view_layer.update()
    found = people.candidates(empty_scene, bpy.context.evaluated_depsgraph_get())
    persons = [people.resolve(armature, instance=which) for armature, which in list(found)]
    assert len(persons) == 2
    track = read(empty_scene, persons, (1, 8))
    for number, sign in enumerate((-1, 1)):
        moved = track[:, number, FIRST:, :2] - alone[:, FIRST:, :2]
        assert moved == pytest.approx(np.broadcast_to((sign * SIZE[0] / 8, 0), moved.shape), abs=0.05)


def test_the_panel_counts_points_of_groups_that_have_vertices(empty_scene):
    rig = figure(rigs.UNREAL)
    item, _ = head_of(rig, points=FACE[:12])
    item.vertex_groups.new(name="musev_jaw_17")
    assert face_mesh.told(rig) == {"Head": 12}


def test_face_groups_are_refused_without_a_mesh(empty_scene):
    bpy.context.view_layer.objects.active = figure(rigs.UNREAL)
    assert not bpy.ops.musev.character_face_groups.poll()


# --- bones of some of the face --------------------------------------------------------------------


def add_bones(rig, places: dict[str, tuple]) -> None:
    """More bones on the head: name -> head in metres of the figure; their tails mean nothing."""
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    for name, place in places.items():
        bone = rig.data.edit_bones.new(name)
        bone.head, bone.tail = place, (place[0] + 0.004, place[1] + 0.01, place[2] + 0.003)
        bone.parent = (
            rig.data.edit_bones["head"] if "head" in rig.data.edit_bones else rig.data.edit_bones["head.x"]
        )
    bpy.ops.object.mode_set(mode="OBJECT")


JAWS = {
    "mpfb": (rigs.MPFB, "jaw"), "auto-rig pro": (rigs.ARP_CONTROL, "jawbone.x"),
    "exported": (rigs.ARP_EXPORTED, "c_jawbone.x"), "daz": (rigs.GENESIS_8, "lowerJaw"), "vrm": (rigs.VRM1, "jaw"),
}  # fmt: skip


@pytest.mark.parametrize(("naming", "jaw"), JAWS.values(), ids=JAWS)
def test_chin_and_lower_lip_move_with_the_jaw(empty_scene, naming, jaw):
    rig = figure(naming, face=True)
    still = people.resolve(rig)
    camera()
    before = read(empty_scene, [still])[0, 0]
    if jaw not in rig.data.bones:
        add_bones(rig, {jaw: (0.0, -0.02, 1.64)})
    person = people.resolve(rig)
    assert read(empty_scene, [person])[0, 0] == pytest.approx(before, abs=0.01)  # shut, it is the same face
    rig.pose.bones[jaw].location.y = 0.03
    bpy.context.view_layer.update()
    after = read(empty_scene, [person])[0, 0]
    moved = {FACE[n] for n in np.flatnonzero(np.abs(after - before)[FIRST:].max(axis=1) > 0.5)}
    jaw_line = {f"jaw_{number}" for number in range(4, 15)}
    lower_lip = {f"outer_lips_{n}" for n in range(8, 13)} | {f"inner_lips_{n}" for n in (6, 7, 8)}
    assert moved == jaw_line | lower_lip


def test_daz_brows_and_lips_have_their_bones(empty_scene):
    # Where a Genesis 8 figure has them, put on the tests' figure: metres from the middle between the eyeballs.
    left = {
        "{s}BrowInner": (19.5, 17.8, -25.5), "{s}BrowMid": (38.6, 20.5, -23.0), "{s}BrowOuter": (54.7, 14.5, -10.5),
        "{s}LipCorner": (32.6, -69.1, -11.3), "{s}LipUpperInner": (10.9, -63.8, -26.3),
        "{s}LipUpperOuter": (21.0, -65.6, -23.3), "{s}LipLowerInner": (10.9, -76.8, -22.0),
        "{s}LipLowerOuter": (21.3, -75.0, -19.3),
    }  # fmt: skip
    middle = {"LipUpperMiddle": (0, -61, -30), "LipLowerMiddle": (0, -79, -25), "Nose": (0, -37.5, -41.5)}
    at = {
        name.format(s=side): (sign * x, y, z)
        for name, (x, y, z) in left.items()
        for side, sign in (("l", 1), ("r", -1))
    } | middle
    rig = figure(rigs.GENESIS_8, face=True)
    camera()
    eye = rigs.EYE
    add_bones(rig, {name: (x / 1000, eye[1] + z / 1000, eye[2] + y / 1000) for name, (x, y, z) in at.items()})
    wave(rig, range(1, 12), every=5)
    person = people.resolve(rig)
    points = read(empty_scene, [person], (8,))[0, 0]
    empty_scene.frame_set(8)
    posed = rig.evaluated_get(bpy.context.evaluated_depsgraph_get())
    expected = {
        "left_brow_1": "lBrowInner", "left_brow_5": "lBrowOuter", "right_brow_5": "rBrowInner",
        "right_brow_3": "rBrowMid", "outer_lips_1": "rLipCorner", "outer_lips_7": "lLipCorner",
        "outer_lips_4": "LipUpperMiddle", "outer_lips_10": "LipLowerMiddle", "outer_lips_8": "lLipLowerOuter",
        "outer_lips_11": "rLipLowerInner", "nose_bridge_4": "Nose", "nose": "Nose",
    }  # fmt: skip
    for point, bone in expected.items():
        place = posed.matrix_world @ posed.pose.bones[bone].head
        seen = world_to_camera_view(empty_scene, empty_scene.camera, place)
        assert points[INDEX[point], :2] == pytest.approx(
            (seen.x * SIZE[0], (1 - seen.y) * SIZE[1]), abs=0.05
        ), point
    # At rest the whole is a face: no curve doubles back.
    rig.animation_data_clear()
    for bone in rig.pose.bones:
        bone.matrix_basis.identity()
    rig.matrix_world.identity()
    bpy.context.view_layer.update()
    face_points = read(empty_scene, [people.resolve(rig)])[0, 0, FIRST:, :2]
    by_name = dict(zip(FACE, face_points, strict=True))
    brows = [f"{side}_brow_{n}" for side in ("right", "left") for n in range(1, 6)]
    assert (np.diff([by_name[name][0] for name in brows]) > 0).all()
    assert (np.diff([by_name[f"jaw_{n}"][0] for n in range(1, 18)]) > 0).all()
    assert by_name["nose_base_3"][1] < by_name["outer_lips_4"][1] < by_name["inner_lips_3"][1]
    assert by_name["inner_lips_7"][1] < by_name["outer_lips_10"][1] < by_name["jaw_9"][1]


def test_points_without_a_group_follow_those_near_them(empty_scene):
    rig = figure(rigs.UNREAL)
    camera()
    points = ("jaw_9", *(f"outer_lips_{n}" for n in range(1, 13)))
    item, owned = head_of(rig, points=points)
    item.animation_data_clear()
    item.data.shape_keys.animation_data_clear()
    keys = item.data.shape_keys.key_blocks
    for key in ("Open", "Smile"):
        keys[key].value = 0.0
    lower = item.shape_key_add(name="Down")
    lower.value = 0.0  # from 5.0 on a new key starts at 1
    for point in ("jaw_9", *(f"outer_lips_{n}" for n in range(8, 13))):
        for vertex in owned[point]:
            lower.data[vertex].co.z -= 0.03
    bpy.context.view_layer.update()
    person = people.resolve(rig)
    shut = read(empty_scene, [person])[0, 0]
    lower.value = 1.0
    bpy.context.view_layer.update()
    wide = read(empty_scene, [person])[0, 0]
    fallen = {point: float(wide[INDEX[point], 1] - shut[INDEX[point], 1]) for point in FACE}
    whole = fallen["jaw_9"]
    assert fallen["outer_lips_10"] == pytest.approx(whole, rel=0.02) and whole > 5
    assert fallen["outer_lips_4"] == pytest.approx(0, abs=0.01)
    assert fallen["jaw_8"] > 0.7 * whole and fallen["inner_lips_7"] > 0.6 * whole
    assert 0 <= fallen["inner_lips_3"] < 0.3 * whole
    assert all(abs(fallen[f"{side}_pupil"]) < 1e-3 for side in ("left", "right"))
    assert all(
        abs(fallen[f"{side}_lid_{n}"]) < 0.1 * whole for side in ("left", "right") for n in range(1, 7)
    )
    for point, expected in truth(empty_scene, item, owned).items():
        assert wide[INDEX[point], :2] == pytest.approx(expected, abs=0.05), point
