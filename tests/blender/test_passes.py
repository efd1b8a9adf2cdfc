"""Rendered depths, normals, lines and masks against formulas; the artist's file is afterwards as it was."""

from __future__ import annotations

import math
import os

import analytic
import bpy
import numpy as np
import pytest
from analytic import VIEWS, View, plane, read_png, sphere
from bl_ext.user_default.musev.captures import CaptureError
from bl_ext.user_default.musev.footage import scene_copy
from bl_ext.user_default.musev.protocol import ClipRequest, Control, Pictures
from bl_ext.user_default.musev.render import exr, pictures
from bl_ext.user_default.musev.render.passes import RenderCapture, Wanted

SIZE = (64, 48)
DEPTH, NORMAL, LINE = (Control(name, ()) for name in ("depth", "normal_bae", "lineart"))


def capture(scene, *controls, times=(1,), people=None, source=None, store=None, camera=None, size=SIZE):
    wanted = Wanted(controls, people, source)
    return RenderCapture(scene.name, camera, *size, tuple(times), wanted, store)


def finished(made: RenderCapture) -> RenderCapture:
    try:
        while not made.advance(math.inf):
            pass
    finally:
        made.cancel()
    return made


def rig_of(*things: bpy.types.Object, name: str = "Rig") -> str:
    """An armature that carries them."""
    rig = bpy.data.objects.new(name, bpy.data.armatures.new(name))
    bpy.context.scene.collection.objects.link(rig)
    for thing in things:
        thing.parent = rig
    return rig.name


def agreement(mask: np.ndarray, true: np.ndarray) -> float:
    return float(np.minimum(mask, true).sum() / np.maximum(mask, true).sum())


def coverage(view: View, shapes, which: set[int], points: int = 8) -> np.ndarray:
    nearest = analytic.seen(view, shapes, *SIZE, points=points)[2]
    return np.isin(nearest, list(which)).reshape(SIZE[1], points, SIZE[0], points).mean((1, 3))


@pytest.mark.parametrize(
    ("view", "shapes"),
    [("shifted, turned", [sphere(segments=256)]), ("orthographic, turned", analytic.SHAPES["ramp"])],
)
def test_depths_and_normals_are_what_formulas_say(empty_scene, view, shapes):
    for shape in shapes:
        shape.add()
    VIEWS[view].add()
    made = finished(capture(empty_scene, DEPTH, NORMAL))
    depth, normals, _ = analytic.seen(VIEWS[view], shapes, *SIZE)
    ((inverse, covered),) = made.depths
    sure = (covered == 1) & np.isfinite(depth)
    sure[1:] &= covered[:-1] == 1  # not at the silhouette
    sure[:-1] &= covered[1:] == 1
    assert sure.sum() > 500
    assert np.abs(1 / inverse[sure] / depth[sure] - 1).max() < 2e-3
    found = pictures.normals_of(read_png(made.pngs["normal_bae"][0]))
    cosine = (found * normals).sum(-1)[sure]
    assert np.degrees(np.arccos(cosine.min())) < 1.0
    assert not read_png(made.pngs["depth"][0])[covered == 0].any()


@pytest.mark.parametrize(
    ("turn", "colour"),
    [
        ((90, 0, 0), (128, 128, 255)),  # faces the viewer: blue
        ((90, 0, -45), (218, 128, 218)),  # and the viewer's left: red
        ((45, 0, 0), (128, 218, 218)),  # and upwards: green
    ],
)
def test_red_is_left_green_is_up_blue_faces_the_viewer(empty_scene, turn, colour):
    plane((0, 1, 0), tuple(map(math.radians, turn))).add()
    View((0, -4, 0), analytic.FRONT).add()
    picture = read_png(finished(capture(empty_scene, NORMAL)).pngs["normal_bae"][0])
    assert np.abs(picture[24, 32].astype(int) - colour).max() <= 1


def test_near_and_far_are_the_same_for_all_frames(empty_scene):
    sphere(segments=48).add()
    camera = VIEWS["perspective"].add()
    for frame, y in ((1, -9.0), (3, -4.0)):
        camera.location.y = y
        camera.keyframe_insert("location", frame=frame)
    made = finished(capture(empty_scene, DEPTH, times=(1, 2, 3)))
    tops = [read_png(png).max() for png in made.pngs["depth"]]
    assert tops[2] == 255 and tops[0] < tops[1] < 250
    levels = [read_png(png).astype(float) for png in made.pngs["depth"]]
    sure = [
        (covered == 1) & (level > 0) & (level < 255)
        for (_, covered), level in zip(made.depths, levels, strict=True)
    ]
    inverse = np.concatenate([inverse[where] for (inverse, _), where in zip(made.depths, sure, strict=True)])
    level = np.concatenate([picture[where] for picture, where in zip(levels, sure, strict=True)])
    line = np.polyfit(inverse, level, 1)
    assert np.abs(np.polyval(line, inverse) - level).max() < 0.75  # one line for all frames, rounded


def test_masks_of_two_characters_where_the_nearer_hides_the_other(empty_scene):
    view = VIEWS["perspective"]
    shapes = [sphere((-0.4, 0, 0), name="Near", segments=128), sphere((0.8, 2, 0), name="Far", segments=128)]
    near, far = (shape.add() for shape in shapes)
    view.add()
    rigs = rig_of(near, name="A"), rig_of(far, name="B")
    for people, which in (((rigs[0],), {0}), ((rigs[1],), {1}), (rigs, {0, 1})):
        mask = read_png(finished(capture(empty_scene, people=people)).pngs["mask"][0]) / 255
        assert agreement(mask, coverage(view, shapes, which)) > 0.985
    assert len(np.unique(mask)) > 4  # its edge is soft


def test_a_character_is_what_its_armature_deforms_and_carries(empty_scene):
    from bl_ext.user_default.musev.render.people import parts_of

    things = {}
    for name in ("body", "hat", "feather", "sword", "floor"):
        things[name] = bpy.data.objects.new(name, bpy.data.meshes.new(name))
        empty_scene.collection.objects.link(things[name])
    rig = bpy.data.objects[rig_of(things["hat"])]
    things["body"].modifiers.new("Armature", "ARMATURE").object = rig
    things["feather"].parent = things["hat"]
    things["sword"].constraints.new("CHILD_OF").target = rig
    assert parts_of(rig.name) == {"body", "hat", "feather", "sword"}
    assert parts_of("nobody") == set()


def test_lines_are_where_silhouettes_occlusions_and_creases_are(empty_scene):
    bpy.ops.mesh.primitive_cube_add(size=2, location=(0, 0, 0), rotation=(0, 0, math.radians(45)))
    plane((0, 8, 0), (math.radians(90), 0, 0)).add()
    View((0, -6, 0), analytic.FRONT).add()
    line = read_png(finished(capture(empty_scene, LINE, size=(96, 96))).pngs["lineart"][0])
    row = line[48].astype(int)
    found = np.flatnonzero(row > 100)
    assert abs(found.min() + found.max() - 95) <= 1  # both silhouettes, and the edge between them
    assert ((found > 45) & (found < 51)).any() and len(found) <= 9
    inner = row[found.min() + 4 : 44]
    assert not inner.any() and not row[:10].any()  # nothing on flat faces


def test_a_hole_of_transparency_is_a_hole(empty_scene):
    thing = plane((0, 0, 0), (math.radians(90), 0, 0)).add()
    material = bpy.data.materials.new("Glass")
    if not material.node_tree:
        material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Alpha"].default_value = 0.0
    thing.data.materials.append(material)
    View((0, -6, 0), analytic.FRONT).add()
    ((_, covered),) = finished(capture(empty_scene, DEPTH)).depths
    assert not covered.any()


def test_frames_between_two_are_rendered(empty_scene):
    thing = sphere(segments=48).add()
    for frame, x in ((1, -0.5), (2, 0.5)):
        thing.location.x = x
        thing.keyframe_insert("location", frame=frame)
    for curve in _curves(thing):
        for key in curve.keyframe_points:
            key.interpolation = "LINEAR"
    View((0, -6, 0), analytic.FRONT).add()
    made = finished(capture(empty_scene, times=(1, 1.25, 2), people=(rig_of(thing),)))
    columns = np.arange(SIZE[0]) + 0.5
    middles = [(read_png(png).sum(0) * columns).sum() / read_png(png).sum() for png in made.pngs["mask"]]
    assert middles[1] == pytest.approx(middles[0] + 0.25 * (middles[2] - middles[0]), abs=0.6)


def _curves(thing):
    action = thing.animation_data.action
    if hasattr(action, "fcurves"):
        return action.fcurves
    return action.layers[0].strips[0].channelbags[0].fcurves


def test_the_picture_is_the_one_that_poses_are_projected_on(empty_scene):
    """A still cut from the render, the keypoints and these pictures lie over each other, whatever the camera."""
    from bl_ext.user_default.musev.rig.camera import picture_matrix

    camera = View((0.3, -6, 0.2), analytic.ASKEW, shift=(0.11, -0.07)).add()
    render = empty_scene.render
    for change in (
        {}, {"resolution_x": 400, "resolution_y": 900}, {"pixel_aspect_x": 1.5}, {"resolution_percentage": 37},
        {"use_border": True, "use_crop_to_border": True, "border_min_x": 0.3, "border_max_y": 0.8},
    ):  # fmt: skip
        for kind, fit in (("PERSP", "AUTO"), ("PERSP", "VERTICAL"), ("ORTHO", "HORIZONTAL")):
            camera.data.type, camera.data.sensor_fit = kind, fit
            for name, value in change.items():
                setattr(render, name, value)
            made = capture(empty_scene, DEPTH)
            copy, _ = made._stage("geometry").at(1)
            copy.view_layers[0].update()
            graph = copy.view_layers[0].depsgraph
            ours = picture_matrix(
                copy, graph, copy.camera.name, copy.render.resolution_x, copy.render.resolution_y
            )
            points = copy.render.resolution_x / SIZE[0]
            theirs = made._stages["geometry"].picture
            spot = np.array([0.4, 0.7, 0.3, 1.0])
            at, should = (matrix @ spot for matrix in (ours, theirs))
            made.cancel()
            assert at[:2] / at[3] / points == pytest.approx(should[:2] / should[3], abs=2e-3), (
                change,
                kind,
                fit,
            )
        for name in change:
            render.property_unset(name)


def test_markers_switch_the_camera_unless_one_is_chosen(empty_scene):
    sphere(segments=32).add()
    first, second = View((0, -6, 0), analytic.FRONT).add(), View((0, -30, 0), analytic.FRONT).add()
    for frame, camera in ((1, first), (5, second)):
        empty_scene.timeline_markers.new("cut", frame=frame).camera = camera
    made = finished(capture(empty_scene, DEPTH, times=(4, 5)))
    near, far = (covered.sum() for _, covered in made.depths)
    assert near > 4 * far > 0
    ((_, covered),) = finished(capture(empty_scene, DEPTH, times=(4,), camera=second.name)).depths
    assert covered.sum() == far


# --- the artist's file ----------------------------------------------------------------------------


def state(scene: bpy.types.Scene) -> dict:
    """Everything of a file that rendering could change, as plain data."""

    def plain(struct, depth: int):
        told = {}
        for spec in struct.bl_rna.properties:
            if spec.identifier in ("rna_type", "bl_rna", "depsgraph") or depth > 4:
                continue
            value = getattr(struct, spec.identifier)
            if spec.type == "POINTER":
                nested = value is not None and not isinstance(value, bpy.types.ID)
                told[spec.identifier] = (
                    plain(value, depth + 1) if nested else getattr(value, "name_full", None)
                )
            elif spec.type == "COLLECTION":
                told[spec.identifier] = [getattr(item, "name", "") for item in value]
            else:
                told[spec.identifier] = tuple(value) if getattr(spec, "is_array", False) else value
        return told

    bpy.context.view_layer.update()
    if hasattr(scene, "compositing_node_group"):
        tree = scene.compositing_node_group
    else:
        tree = scene.node_tree if scene.use_nodes else None
    return {
        "blocks": {
            kind: sorted(block.name for block in getattr(bpy.data, kind))
            for kind in ("scenes", "objects", "cameras", "materials", "images", "node_groups", "collections", "worlds")
        },
        "render": plain(scene.render, 0), "cycles": plain(scene.cycles, 0),
        "view": plain(scene.view_settings, 0), "layers": [plain(layer, 0) for layer in scene.view_layers],
        "frame": scene.frame_current_final, "camera": scene.camera.name, "world": scene.world,
        "nodes": tree and sorted(node.name for node in tree.nodes),
        "selected": sorted(thing.name for thing in bpy.context.selected_objects),
        "active": bpy.context.view_layer.objects.active.name, "mode": bpy.context.mode,
        "markers": [(marker.name, marker.frame) for marker in scene.timeline_markers],
        "places": {thing.name: [tuple(row) for row in thing.matrix_world] for thing in scene.objects},
        "shown": bpy.context.scene.name,
    }  # fmt: skip


@pytest.fixture
def moving_scene(empty_scene):
    """A sphere that moves, a camera, two view layers, own render settings, the playhead between two frames."""
    thing = sphere(segments=24).add()
    for frame, x in ((1, -1.0), (9, 1.0)):
        thing.location.x = x
        thing.keyframe_insert("location", frame=frame)
    VIEWS["perspective"].add()
    empty_scene.view_layers.new("Second")
    empty_scene.render.filepath, empty_scene.render.resolution_percentage = "//mine_", 50
    empty_scene.cycles.samples = 7
    empty_scene.timeline_markers.new("here", frame=3)
    empty_scene.frame_set(4, subframe=0.25)
    return empty_scene


def test_the_artists_scene_is_as_before(moving_scene):
    before = state(moving_scene)
    finished(capture(moving_scene, DEPTH, NORMAL, LINE, times=(1, 6.5), source=0.5))
    assert state(moving_scene) == before


def test_so_it_is_when_cancelled_half_way_and_no_file_stays(moving_scene):
    before = state(moving_scene)
    made = capture(moving_scene, DEPTH, times=(1, 2, 3), source=0.5)
    while made.rendered < 2:
        made.advance(0.0)
    folder = made._folder
    assert os.path.exists(folder) and state(moving_scene) != before
    made.cancel()
    assert state(moving_scene) == before and not os.path.exists(folder)
    made.cancel()  # twice does no harm


def test_so_it_is_after_an_error(moving_scene):
    before = state(moving_scene)
    made = capture(moving_scene, DEPTH, times=(1, 2))
    while made.done < 1:
        made.advance(0.0)
    moving_scene.camera.data.type = "PANO"
    with pytest.raises(CaptureError, match=r"View.*PANO"):
        finished(made)
    moving_scene.camera.data.type = "PERSP"
    assert state(moving_scene) == before


def test_no_undo_step_is_made_and_undo_half_way_does_no_harm(moving_scene):
    bpy.ops.ed.undo_push(message="one")
    moving_scene.musev.prompt = "two"
    bpy.ops.ed.undo_push(message="two")
    made = capture(moving_scene, DEPTH, times=(1, 2))
    while made.done < 1:
        made.advance(0.0)
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    assert scene.musev.prompt == ""
    finished(made)
    assert len(made.pngs["depth"]) == 2
    assert [each.name for each in bpy.data.scenes] == [scene.name] and len(bpy.data.cameras) == 1


def test_a_file_saved_half_way_holds_nothing_of_ours(moving_scene, tmp_path):
    made = capture(moving_scene, DEPTH, times=(1, 2))
    while made.done < 1:
        made.advance(0.0)
    path = tmp_path / "saved.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path), copy=True)
    assert len(finished(made).pngs["depth"]) == 2
    with bpy.data.libraries.load(str(path)) as (inside, _):
        assert len(inside.scenes) == 1 and len(inside.cameras) == 1


def test_another_file_ends_it(moving_scene):
    made = capture(moving_scene, DEPTH, times=(1, 2))
    while made.done < 1:
        made.advance(0.0)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.context.scene.name = "Other"
    with pytest.raises(CaptureError, match=r"no longer in this file"):
        finished(made)
    assert len(bpy.data.scenes) == 1


def test_a_stage_left_by_a_crash_is_swept_away(moving_scene, tmp_path):
    made = capture(moving_scene, DEPTH)
    made._stage("geometry").at(1)
    path = tmp_path / "left.blend"
    bpy.app.handlers.save_pre.remove(scene_copy._before_saving)
    bpy.ops.wm.save_as_mainfile(filepath=str(path), copy=True)
    bpy.app.handlers.save_pre.append(scene_copy._before_saving)
    made.cancel()
    bpy.ops.wm.open_mainfile(filepath=str(path))
    assert len(bpy.data.scenes) == 1 and len(bpy.data.cameras) == 1


# --- the plain render -----------------------------------------------------------------------------


def glowing(colour) -> bpy.types.Material:
    material = bpy.data.materials.new("Glow")
    if not material.node_tree:
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    light, out = tree.nodes.new("ShaderNodeEmission"), tree.nodes.new("ShaderNodeOutputMaterial")
    light.inputs["Color"].default_value = (*colour, 1)
    tree.links.new(light.outputs[0], out.inputs["Surface"])
    return material


def test_the_plain_render_is_the_scenes_own_and_writes_no_files_of_its_compositor(empty_scene, tmp_path):
    thing = plane((0, 0, 0), (math.radians(90), 0, 0)).add()
    thing.data.materials.append(glowing((1.0, 0.0, 0.214)))  # sRGB 255, 0, 128
    VIEWS["perspective"].add()
    if hasattr(empty_scene, "compositing_node_group"):
        tree = bpy.data.node_groups.new("Compositor", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        empty_scene.compositing_node_group = tree
        out = tree.nodes.new("NodeGroupOutput")
        writer = tree.nodes.new("CompositorNodeOutputFile")
        writer.directory = str(tmp_path)
        writer.file_output_items.new("RGBA", "written")
    else:
        empty_scene.use_nodes = True
        tree = empty_scene.node_tree
        tree.nodes.clear()
        out = tree.nodes.new("CompositorNodeComposite")
        writer = tree.nodes.new("CompositorNodeOutputFile")
        writer.base_path = str(tmp_path)
    layers = tree.nodes.new("CompositorNodeRLayers")
    tree.links.new(layers.outputs["Image"], out.inputs[0])
    tree.links.new(layers.outputs["Image"], writer.inputs[0])
    before = state(empty_scene)
    (png,) = finished(capture(empty_scene, source=0.5)).pngs["source"]
    image = bpy.data.images.load(_written(tmp_path / "plain.png", png))
    pixel = np.array(image.pixels[:]).reshape(SIZE[1], SIZE[0], 4)[24, 32, :3] * 255
    bpy.data.images.remove(image)
    assert np.abs(pixel - (255, 0, 128)).max() <= 2
    assert sorted(os.listdir(tmp_path)) == ["plain.png"] and state(empty_scene) == before


def _written(path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_the_request_names_what_was_rendered(moving_scene):
    name = rig_of(bpy.data.objects["Sphere"])
    strong = Control("depth", (), False, 0.7, 0.1, 0.9)
    made = finished(
        capture(moving_scene, strong, LINE, times=(1, 2), people=(name,), source=0.4, size=(64, 64))
    )
    asked = ClipRequest(mode="pose", poses="0" * 64, width=64, height=64, num_frames=2)
    request, blobs = made.finish(asked)
    assert [(c.name, c.scale, c.start, c.end) for c in request.controls] == [
        ("depth", 0.7, 0.1, 0.9), ("lineart", 1.0, 0.0, 1.0),
    ]  # fmt: skip
    assert request.source_strength == 0.4 and request.source and request.mask
    for named in (*(c.pictures for c in request.controls), request.mask, request.source):
        files = [file for sha256 in named for file in Pictures.from_bytes(blobs[sha256]).files]
        assert len(files) == 2
    assert set(request.blobs) == {*blobs, "0" * 64}
    assert made.done == made.total


def test_what_is_no_render_of_ours_is_refused(tmp_path):
    path = tmp_path / "x.exr"
    for data in (b"", b"no exr at all", (20000630).to_bytes(4, "little") + bytes(8)):
        path.write_bytes(data)
        with pytest.raises(exr.ExrError, match=r"x\.exr"):
            exr.Exr(path)
