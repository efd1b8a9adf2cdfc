"""Keypoints against Blender's own projection and against its own pictures; instances, libraries, every camera."""

from __future__ import annotations

import dataclasses
import time

import bpy
import numpy as np
import pytest
import rigs
from bl_ext.user_default.musev.rig import camera as cameras
from bl_ext.user_default.musev.rig import people, pose
from bl_ext.user_default.musev.rig.skeleton import INDEX, MIRROR
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Matrix, Vector
from rigs import camera, figure, wave


def read(scene, persons, size=(512, 512), times=(1,), view=None):
    """(t, people, 130, 3), the render being as large as the clip."""
    scene.render.resolution_x, scene.render.resolution_y = size
    return pose.keypoints(scene, persons, view, *size, times)


def at(points, name: str):
    return points[INDEX[name]]


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
    empty_scene.render.pixel_aspect_x, empty_scene.render.pixel_aspect_y = pixel_aspect
    rig = figure(rigs.RIGIFY_METARIG, face=True, hands=True)
    rig.scale = (1.1, 1.1, 1.1)
    view = camera(rotation=(1.4, 0.1, 0.05), **lens)
    view.scale = (2, 2, 2)
    wave(rig, range(1, 13), every=11)
    view.keyframe_insert("location", frame=1)
    view.location.z += 0.6
    view.keyframe_insert("location", frame=12)
    times = (1, 7, 9.5)
    track = read(empty_scene, [people.resolve(rig)], size, times)
    assert track.shape == (3, 1, 130, 3) and track.dtype == np.float32
    for t, moment in enumerate(times):
        empty_scene.frame_set(int(moment), subframe=moment % 1)
        bones = rig.evaluated_get(bpy.context.evaluated_depsgraph_get()).pose.bones
        where = {
            point: bones[bone].head.lerp(bones[bone].tail, end)
            for point, (bone, end) in rigs.RIGIFY_METARIG.points().items()
        }
        where["neck"] = (where["left_shoulder"] + where["right_shoulder"]) / 2
        for point, place in where.items():
            seen = world_to_camera_view(empty_scene, view, rig.matrix_world @ Vector(place))
            expected = (seen.x * width, (1 - seen.y) * height, 1.0)
            assert at(track[t, 0], point) == pytest.approx(expected, abs=3e-3), (point, moment)


def test_the_picture_is_the_right_way_round(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG, hands=True)
    camera()
    body = read(empty_scene, [people.resolve(rig)])[0, 0]
    assert at(body, "nose")[1] < at(body, "neck")[1] < at(body, "left_hip")[1] < at(body, "left_ankle")[1]
    # It faces us, so its left is on our right.
    assert at(body, "left_wrist")[0] > at(body, "neck")[0] > at(body, "right_wrist")[0]
    assert at(body, "left_eye")[0] > at(body, "nose")[0] > at(body, "right_eye")[0]
    assert at(body, "left_middle_4")[0] > at(body, "left_hand")[0] == at(body, "left_wrist")[0]


def test_a_mirrored_figure_has_its_left_where_one_sees_it(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG, hands=True)
    camera()
    person = people.resolve(rig)
    before = read(empty_scene, [person])[0, 0]
    rig.scale.x = -1
    bpy.context.view_layer.update()
    assert read(empty_scene, [person])[0, 0] == pytest.approx(before, abs=1e-2)


@pytest.mark.parametrize("lens", [{}, {"type": "ORTHO", "ortho_scale": 6.0}])
def test_points_behind_the_camera_are_not_there_and_those_beside_the_picture_are(empty_scene, lens):
    rig = figure(rigs.RIGIFY_METARIG)
    # inside the figure, looking along +X
    view = camera(location=(0.3, 0.0, 1.0), rotation=(1.5708, 0.0, -1.5708), **lens)
    body = read(empty_scene, [people.resolve(rig)])[0, 0]
    assert at(body, "left_wrist")[2] == 1
    assert (at(body, "right_wrist") == 0).all()
    view.location, view.rotation_euler = (4.0, -3.0, 1.0), (1.5708, 0, 0)
    bpy.context.view_layer.update()
    body = read(empty_scene, [people.resolve(rig)])[0, 0]
    assert at(body, "right_wrist")[0] < 0 and at(body, "right_wrist")[2] == 1


# --- the part of the render that a clip shows -----------------------------------------------------


def marked_pixel(scene, place, path) -> tuple[float, float, int, int]:
    """Renders a small ball at a world point; where its middle lies, in pixels, and the picture's size."""
    bpy.ops.mesh.primitive_uv_sphere_add(radius=0.02, location=place, segments=16, ring_count=8)
    render = scene.render
    render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 16, False
    render.film_transparent = True
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGBA"
    render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path))
    columns, rows = image.size
    ball = np.array(image.pixels[:]).reshape(rows, columns, 4)[::-1, :, 3]
    y, x = np.mgrid[:rows, :columns] + 0.5
    return float((x * ball).sum() / ball.sum()), float((y * ball).sum() / ball.sum()), columns, rows


@pytest.mark.parametrize(
    "settings",
    [
        {"resolution_percentage": 53},
        {"use_border": True, "use_crop_to_border": True, "border_min_x": 0.213, "border_max_x": 0.871,
         "border_min_y": 0.307, "border_max_y": 0.95},
        {"use_border": True, "border_min_x": 0.213},
        {"pixel_aspect_x": 1.5, "pixel_aspect_y": 1.0},
    ],
)  # fmt: skip
def test_points_lie_where_blender_renders_them(empty_scene, settings, tmp_path):
    render = empty_scene.render
    render.resolution_x, render.resolution_y = 161, 121
    for key, value in settings.items():
        setattr(render, key, value)
    camera(location=(0, -3, 1), shift_x=0.04, lens=40.0)
    place = (0.21, 0.1, 1.13)
    x, y, columns, rows = marked_pixel(empty_scene, place, tmp_path / "ball.png")
    part = cameras.cut(render, columns, rows)
    assert part.scale == 1.0  # a clip of the render's size shows the render's pixels
    depsgraph = bpy.context.evaluated_depsgraph_get()
    point = np.array([[*place, 1.0]])
    matrix = cameras.picture_matrix(empty_scene, depsgraph, None, columns, rows)
    assert cameras.project(point, matrix)[0, :2] == pytest.approx((x, y), abs=0.15)


@pytest.mark.parametrize("size", [(256, 256), (512, 128), (128, 640)])
def test_a_clip_of_other_proportions_shows_the_middle_as_a_still_would(empty_scene, size):
    from bl_ext.user_default.musev import stills

    empty_scene.render.resolution_x, empty_scene.render.resolution_y = 640, 360
    rig = figure(rigs.RIGIFY_METARIG)
    camera(shift_x=0.02)
    person = people.resolve(rig)
    full = pose.keypoints(empty_scene, [person], None, 640, 360, [1])[0, 0, :, :2]
    clip = pose.keypoints(empty_scene, [person], None, *size, [1])[0, 0, :, :2]
    # Where does `stills.cover` bring a picture's columns and rows? Ask it: ramps go through it unharmed.
    ramp = np.stack(np.meshgrid(np.arange(640) + 0.5, np.arange(360) + 0.5), axis=-1).astype(np.float32)
    covered = stills.cover(ramp, *size)
    inside = (clip > 3).all(axis=1) & (clip < np.array(size) - 3).all(axis=1)
    assert inside.sum() > 5
    for (x, y), (column, row) in zip(clip[inside], full[inside], strict=True):
        left, top = int(x - 0.5), int(y - 0.5)
        near, step = covered[top, left], covered[top + 1, left + 1] - covered[top, left]
        shown = near + (x - 0.5 - left, y - 0.5 - top) * step
        assert (column, row) == pytest.approx(tuple(shown), abs=0.6)


@pytest.mark.parametrize(
    ("kind", "told"),
    [("PANO", "bend straight limbs"), (None, "has no camera; add one")],
)
def test_cameras_that_can_not_be_followed_are_refused(empty_scene, kind, told):
    rig = figure(rigs.RIGIFY_METARIG)
    if kind:
        camera(type=kind)
    with pytest.raises(pose.PoseError, match=told):
        read(empty_scene, [people.resolve(rig)])


def test_an_empty_border_is_refused(empty_scene):
    rig, render = figure(rigs.RIGIFY_METARIG), empty_scene.render
    camera()
    render.use_border = render.use_crop_to_border = True
    render.border_min_x, render.border_max_x = 0.5, 0.5001
    with pytest.raises(pose.PoseError, match="border is 0 x"):
        read(empty_scene, [people.resolve(rig)])


def test_markers_switch_the_camera_and_it_is_as_before(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG)
    near = camera()
    far = camera(location=(0, -10, 1))
    empty_scene.camera = near
    for frame, view in ((1, near), (10, far)):
        empty_scene.timeline_markers.new(f"at {frame}", frame=frame).camera = view
    empty_scene.frame_set(20)
    empty_scene.camera = near  # the artist looks through another one than the marker's
    person = people.resolve(rig)
    cut = read(empty_scene, [person], times=(1, 9.5, 10, 30))[:, 0]
    assert empty_scene.camera == near and empty_scene.frame_current == 20
    by_name = {
        view.name: read(empty_scene, [person], times=(1,), view=view.name)[0, 0] for view in (near, far)
    }
    for shot, view in zip(cut, (near, near, far, far), strict=True):
        assert shot == pytest.approx(by_name[view.name], abs=1e-3)


# --- several people, instances, libraries ---------------------------------------------------------


def crowd(scene, *members, name="Crowd"):
    """A collection of these objects, which the scene does not show itself."""
    group = bpy.data.collections.new(name)
    for member in members:
        group.objects.link(member)
        scene.collection.objects.unlink(member)
    return group


def instancer(scene, group, name, location=(0, 0, 0)):
    empty = bpy.data.objects.new(name, None)
    empty.instance_type, empty.instance_collection, empty.location = "COLLECTION", group, location
    scene.collection.objects.link(empty)
    return empty


def body_of(rig):
    """A mesh that the armature moves."""
    data = bpy.data.meshes.new("Body")
    data.from_pydata([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [], [(0, 1, 2)])
    body = bpy.data.objects.new("Body", data)
    body.modifiers.new("Armature", "ARMATURE").object = rig
    body.location = (0.3, 0.1, 0.0)
    bpy.context.scene.collection.objects.link(body)
    return body


def scatter(scene, group=None, item=None):
    """A mesh of two points whose geometry nodes stand an instance on each."""
    data = bpy.data.meshes.new("Points")
    data.from_pydata([(-1, 0, 0), (1.5, 0, 0)], [], [])
    points = bpy.data.objects.new("Scatter", data)
    scene.collection.objects.link(points)
    tree = bpy.data.node_groups.new("Scatter", "GeometryNodeTree")
    for way in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=way, socket_type="NodeSocketGeometry")
    start, end = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    stand = tree.nodes.new("GeometryNodeInstanceOnPoints")
    if group:
        what = tree.nodes.new("GeometryNodeCollectionInfo")
        what.inputs["Collection"].default_value = group
        tree.links.new(what.outputs["Instances"], stand.inputs["Instance"])
    else:
        what = tree.nodes.new("GeometryNodeObjectInfo")
        what.inputs["Object"].default_value, what.inputs["As Instance"].default_value = item, True
        tree.links.new(what.outputs["Geometry"], stand.inputs["Instance"])
    tree.links.new(start.outputs[0], stand.inputs["Points"])
    tree.links.new(stand.outputs[0], end.inputs[0])
    points.modifiers.new("Scatter", "NODES").node_group = tree
    return points


def everybody(scene):
    found = people.candidates(scene, bpy.context.evaluated_depsgraph_get())
    return {
        person.name: person for person in (people.resolve(rig, instance=which) for rig, which in list(found))
    }


def shifted(points, by, pixels):
    """The points moved along the picture's x, where the camera is orthographic."""
    moved = points.copy()
    moved[points[:, 2] > 0, 0] += by * pixels
    return moved


def test_people_are_read_in_the_order_of_the_list(empty_scene):
    one, two = figure(rigs.RIGIFY_METARIG, "One"), figure(rigs.UNREAL, "Two", hands=True)
    two.location.x = 0.7
    camera()
    persons = [people.resolve(one), people.resolve(two)]
    both = read(empty_scene, persons)[0]
    assert both[1] == pytest.approx(read(empty_scene, persons[1:])[0, 0])
    assert read(empty_scene, persons[::-1])[0] == pytest.approx(both[::-1])


def test_collection_instances_are_people_of_their_own(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG, "Dancer")
    wave(rig, range(1, 12), every=5)
    group = crowd(empty_scene, rig, body_of(rig))
    instancer(empty_scene, group, "Crowd", (-1, 0, 0))
    second = instancer(empty_scene, group, "Crowd", (1, 0, 0))
    outer = crowd(empty_scene, instancer(empty_scene, group, "Inner", (0, 0, 0.5)), name="Outer")
    instancer(empty_scene, outer, "Stage", (0.5, 0, 0))
    camera(type="ORTHO", ortho_scale=8.0)
    found = everybody(empty_scene)
    assert set(found) == {"Dancer in Crowd", f"Dancer in {second.name}", "Dancer in Stage #0.0"}
    persons = [found["Dancer in Crowd"], found[f"Dancer in {second.name}"], found["Dancer in Stage #0.0"]]
    track = read(empty_scene, persons, times=(1, 8))
    per_metre = 512 / 8
    for first, other, stage in track:
        assert other == pytest.approx(shifted(first, 2, per_metre), abs=0.01)
        assert stage[:, :2] - first[:, :2] == pytest.approx(
            np.tile((1.5 * per_metre, -0.5 * per_metre), (130, 1)) * first[:, 2:], abs=0.01
        )
    assert np.abs(track[1] - track[0]).max() > 1  # they dance
    second.rotation_euler.z = np.pi
    second.scale.x = -1
    bpy.context.view_layer.update()
    turned = read(empty_scene, persons[1:2])[0, 0]
    # Mirrored and turned its back: each joint is where it was, and the other side's.
    assert turned == pytest.approx(track[0, 1][MIRROR], abs=0.01)


@pytest.mark.parametrize("whole", [True, False], ids=["collection", "mesh alone"])
def test_geometry_nodes_instances_are_people_of_their_own(empty_scene, whole):
    rig = figure(rigs.RIGIFY_METARIG, "Dancer")
    rig.location = (0.3, 0.1, 0.0)
    body = body_of(rig)
    camera(type="ORTHO", ortho_scale=8.0)
    bpy.context.view_layer.update()
    alone = read(empty_scene, [people.resolve(rig)])[0, 0]
    scatter(empty_scene, crowd(empty_scene, rig, body)) if whole else scatter(empty_scene, item=body)
    found = {name: person for name, person in everybody(empty_scene).items() if person.instance}
    assert len(found) == 2 and all(name.startswith("Dancer in Scatter #") for name in found)
    left, right = read(empty_scene, list(found.values()))[0]
    assert right == pytest.approx(shifted(left, 2.5, 64), abs=0.01)
    # A mesh stands on the point with its own origin, a collection with the world's.
    assert left == pytest.approx(shifted(alone, -1 if whole else -1.3, 64), abs=0.01)


def test_an_instance_that_has_gone_is_named(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG, "Dancer")
    empty = instancer(empty_scene, crowd(empty_scene, rig), "Crowd")
    camera()
    (person,) = everybody(empty_scene).values()
    empty.instance_collection = None
    bpy.context.view_layer.update()
    with pytest.raises(pose.PoseError, match=r"'Dancer in Crowd' is no longer|takes no part"):
        read(empty_scene, [person])


def library(tmp_path) -> str:
    """A .blend with a dancing rig in a collection, closed again."""
    rig = figure(rigs.RIGIFY_METARIG, "Dancer")
    wave(rig, range(1, 12), every=5)
    group = bpy.data.collections.new("Cast")
    bpy.context.scene.collection.children.link(group)
    group.objects.link(rig)
    path = str(tmp_path / "cast.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path, copy=True)
    return path


@pytest.mark.parametrize("how", ["linked", "overridden", "instanced"])
def test_rigs_of_other_files_are_read_beside_their_namesakes(empty_scene, how, tmp_path):
    path = library(tmp_path)
    own = bpy.data.objects["Dancer"]
    own.location.x = 5
    own.animation_data_clear()
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        wanted.collections = ["Cast"]
    (group,) = wanted.collections
    if how == "instanced":
        instancer(empty_scene, group, "Stage")
    else:
        empty_scene.collection.children.link(group)
    rig = group.objects["Dancer"]
    if how == "overridden":
        root = group.override_hierarchy_create(empty_scene, bpy.context.view_layer)
        rig = root.all_objects[0]
        assert rig.override_library
        rig.location.x += 0.4
    camera()
    bpy.context.view_layer.update()
    found = [
        people.resolve(item, instance=which)
        for item, which in people.candidates(empty_scene, bpy.context.evaluated_depsgraph_get())
        if item == rig
    ]
    (person,) = found
    track = read(empty_scene, [person], times=(1, 8))[:, 0]
    for t, frame in enumerate((1, 8)):
        empty_scene.frame_set(frame)
        posed = rig.evaluated_get(bpy.context.evaluated_depsgraph_get())
        place = posed.matrix_world @ posed.pose.bones["hand.L"].head
        seen = world_to_camera_view(empty_scene, empty_scene.camera, place)
        assert at(track[t], "left_wrist")[:2] == pytest.approx((seen.x * 512, (1 - seen.y) * 512), abs=0.01)


def test_constraints_drivers_and_nla_are_followed(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG)
    camera()
    person = people.resolve(rig)
    still = read(empty_scene, [person])[0, 0]
    target = bpy.data.objects.new("Target", None)
    target.location = (0.5, -0.3, 1.2)
    empty_scene.collection.objects.link(target)
    ik = rig.pose.bones["forearm.L"].constraints.new("IK")
    ik.target, ik.chain_count = target, 2
    driver = rig.pose.bones["shin.R"].driver_add("rotation_quaternion", 1).driver
    driver.expression = "0.5"
    rig.keyframe_insert("location", frame=1)
    rig.location.z = 0.3
    rig.keyframe_insert("location", frame=10)
    action = rig.animation_data.action
    rig.animation_data.action = None
    rig.animation_data.nla_tracks.new().strips.new("jump", 1, action)
    moved = read(empty_scene, [person], times=(10,))[0, 0]
    rise = at(moved, "right_hip")[1] - at(still, "right_hip")[1]
    assert rise < -10  # NLA
    assert abs(at(moved, "right_ankle")[1] - at(still, "right_ankle")[1] - rise) > 5  # driver
    seen = world_to_camera_view(empty_scene, empty_scene.camera, target.location)
    assert at(moved, "left_wrist")[:2] == pytest.approx((seen.x * 512, (1 - seen.y) * 512), abs=60)
    assert np.abs(at(moved, "left_wrist") - at(still, "left_wrist")).max() > 20  # IK


def test_a_generated_rigify_rig_follows_its_controls(empty_scene):
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_basic_human_metarig_add()
    metarig = bpy.context.object
    bpy.ops.pose.rigify_generate()
    rig = next(o for o in bpy.data.objects if o.type == "ARMATURE" and o is not metarig)
    camera()
    person = people.resolve(rig)
    assert person.map == "Rigify generated rig"
    still, same = read(empty_scene, [person, people.resolve(metarig)])[0]
    assert still == pytest.approx(same, abs=1.0)
    rig.pose.bones["upper_arm_parent.L"]["IK_FK"] = 1.0
    rig.pose.bones["upper_arm_fk.L"].rotation_mode = "XYZ"
    rig.pose.bones["upper_arm_fk.L"].rotation_euler = (0.0, 0.0, 1.0)
    rig.update_tag()
    bpy.context.view_layer.update()
    moved = read(empty_scene, [person])[0, 0]
    changed = np.abs(moved - still).max(axis=1) > 1
    assert set(np.flatnonzero(changed)) == {INDEX["left_elbow"], INDEX["left_wrist"]}


# --- in slices ------------------------------------------------------------------------------------


def test_slices_give_what_one_go_gives_and_leave_the_scene_alone(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG)
    wave(rig, range(1, 60))
    camera()
    bpy.ops.object.mode_set(mode="POSE")
    rig.data.bones.active = rig.data.bones["hand.L"]
    selected = [item.name for item in bpy.context.selected_objects]
    empty_scene.frame_set(5, subframe=0.25)
    person = people.resolve(rig)
    capture = pose.PoseCapture(empty_scene.name, (person,), None, 64, 64, tuple(range(1, 60)))
    slices = 0
    while not capture.advance(time.perf_counter()):
        slices += 1
        assert empty_scene.frame_current_final == pytest.approx(5.25)
    assert slices == 58 and capture.done == capture.total == 59  # no time at all: a frame a slice
    assert np.stack(capture.read) == pytest.approx(
        pose.keypoints(empty_scene, [person], None, 64, 64, range(1, 60))
    )
    assert bpy.context.mode == "POSE" and rig.data.bones.active.name == "hand.L"
    assert [item.name for item in bpy.context.selected_objects] == selected


def test_what_has_gone_between_two_slices_is_named(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG)
    camera()
    person = people.resolve(rig)
    capture = pose.PoseCapture(empty_scene.name, (person,), None, 64, 64, (1.0, 2.0, 3.0))
    capture.advance(0.0)
    rig.data.bones["hand.L"].name = "main"
    with pytest.raises(pose.PoseError, match=r"lost the bone hand\.L"):
        capture.advance(0.0)
    rig.data.bones["main"].name = "hand.L"
    rig.hide_viewport = True
    bpy.context.view_layer.update()
    with pytest.raises(pose.PoseError, match="takes no part"):
        capture.advance(0.0)
    bpy.data.objects.remove(rig)
    with pytest.raises(pose.PoseError, match="'Rig' is no longer in this file"):
        capture.advance(0.0)


def test_no_frames_and_no_camera_of_that_name_are_refused(empty_scene):
    rig = figure(rigs.RIGIFY_METARIG)
    camera()
    person = people.resolve(rig)
    with pytest.raises(pose.PoseError, match="0 frames"):
        read(empty_scene, [person], times=[])
    with pytest.raises(pose.PoseError, match="no camera 'Rig'"):
        read(empty_scene, [person], view="Rig")
    ghost = dataclasses.replace(person, armature="Ghost")
    with pytest.raises(pose.PoseError, match="'Ghost' is no longer in this file"):
        read(empty_scene, [ghost])


def test_world_points_say_what_is_there(empty_scene):
    rig = figure(rigs.UNREAL)
    rig.matrix_world = Matrix.Translation((1, 2, 3)) @ Matrix.Rotation(0.5, 4, "Z")
    bpy.context.view_layer.update()
    depsgraph = bpy.context.evaluated_depsgraph_get()
    points = pose.world_points(empty_scene, depsgraph, [people.resolve(rig)])
    assert points.shape == (1, 130, 4)
    assert points[0, INDEX["left_hip"], :3] == pytest.approx(
        tuple(rig.matrix_world @ rig.data.bones["thigh_l"].head_local), abs=1e-5
    )
    assert points[0, INDEX["left_thumb_1"], 3] == 0 and points[0, INDEX["neck"], 3] == 1
    assert pose.world_points(empty_scene, depsgraph, []).shape == (0, 130, 4)
    assert (points[0, MIRROR, 3] == points[0, :, 3]).all()
