"""Rendered pictures are found again when nothing changed, and never when something did."""

from __future__ import annotations

import math
import os

import bpy
import numpy as np
import pytest
from analytic import FRONT, View, read_png, sphere
from bl_ext.user_default.musev.protocol import Control
from bl_ext.user_default.musev.render import cache, passes
from bl_ext.user_default.musev.render.passes import RenderCapture, Wanted

SIZE = (64, 48)
CONTROLS = (Control("depth", ()), Control("normal_bae", ()), Control("lineart", ()))


@pytest.fixture
def ball(empty_scene, tmp_path):
    """A sphere that moves through frames 1 to 3, a camera; gives (the sphere, render).

    `render(times, …)` gives (how many renders it took, the pictures).
    """
    thing = sphere(segments=16).add()
    for frame, x in ((1, -0.3), (3, 0.3)):
        thing.location.x = x
        thing.keyframe_insert("location", frame=frame)
    rig = bpy.data.objects.new("Rig", bpy.data.armatures.new("Rig"))
    empty_scene.collection.objects.link(rig)
    thing.parent = rig
    View((0, -6, 0), FRONT).add()
    store = cache.Store(tmp_path)

    def render(times=(1,), people=("Rig",), size=SIZE, into=store):
        made = RenderCapture(empty_scene.name, None, *size, tuple(times), Wanted(CONTROLS, people), into)
        try:
            while not made.advance(math.inf):
                pass
        finally:
            made.cancel()
        return made.rendered, made.pngs

    render.store = store
    return thing, render


def test_what_is_unchanged_is_not_rendered_again_and_looks_the_same(ball):
    _, render = ball
    first = render((1, 2))
    assert first[0] == 2
    assert render((1, 2)) == (0, first[1])
    assert render((1, 2, 1.5))[0] == 1


CHANGES = {
    "a vertex": lambda thing: setattr(thing.data.vertices[40], "co", (0.2, 0.1, 1.3)),
    "smoothness": lambda thing: thing.data.polygons.foreach_set("use_smooth", [False] * len(thing.data.polygons)),
    "the place": lambda thing: setattr(bpy.data.objects["Rig"], "location", (0, 0, 0.2)),
    "the lens": lambda thing: setattr(bpy.data.cameras[0], "lens", 60.0),
    "clipping": lambda thing: setattr(bpy.data.cameras[0], "clip_start", 5.5),
    "the camera": lambda thing: setattr(bpy.context.scene.camera, "location", (0, -5, 0)),
    "a modifier": lambda thing: setattr(thing.modifiers["Bevel"], "width", 0.3),
    "a modifier, in renders alone": lambda thing: setattr(thing.modifiers["Smooth"], "render_levels", 3),
    "being rendered": lambda thing: setattr(bpy.data.objects["Second"], "hide_render", True),
    "being seen by cameras": lambda thing: setattr(bpy.data.objects["Second"], "visible_camera", False),
    "the render's proportions": lambda thing: setattr(bpy.context.scene.render, "resolution_x", 500),
    "something new": lambda thing: bpy.ops.mesh.primitive_cube_add(size=0.2, location=(0, -2, 0.5)),
    "a curve, in renders alone": lambda thing: setattr(bpy.data.curves["Text"], "render_resolution_u", 3),
    "a text": lambda thing: setattr(bpy.data.curves["Text"], "body", "other"),
    "a collection": lambda thing: setattr(
        bpy.context.view_layer.layer_collection.children["Apart"], "exclude", True
    ),
    "an instance": lambda thing: setattr(bpy.data.objects["Copies"], "location", (0.4, 0, 0)),
}  # fmt: skip


def test_every_change_that_shows_is_noticed(ball):
    thing, render = ball
    thing.modifiers.new("Bevel", "BEVEL").width = 0.1
    smooth = thing.modifiers.new("Smooth", "SUBSURF")
    smooth.levels, smooth.render_levels = 0, 1
    bpy.ops.mesh.primitive_cube_add(size=0.3, location=(0.7, 0, 0.7))
    second = bpy.context.object
    second.name = "Second"
    text = bpy.data.objects.new("Text", bpy.data.curves.new("Text", "FONT"))
    text.data.body = "one"
    bpy.context.scene.collection.objects.link(text)
    apart = bpy.data.collections.new("Apart")
    bpy.context.scene.collection.children.link(apart)
    bpy.ops.mesh.primitive_cube_add(size=0.3, location=(-0.7, 0, 0.7))
    (cube := bpy.context.object).users_collection[0].objects.unlink(cube)
    apart.objects.link(cube)
    copies = bpy.data.objects.new("Copies", None)
    copies.instance_type, copies.instance_collection = "COLLECTION", apart
    bpy.context.scene.collection.objects.link(copies)
    assert render()[0] == 1 and render()[0] == 0
    for name, change in CHANGES.items():
        change(thing)
        assert render()[0] == 1, name
        assert render()[0] == 0, f"unchanged after {name}"


def test_other_sizes_and_people_are_other_pictures(ball):
    thing, render = ball
    assert render()[0] == 1
    assert render(size=(48, 64))[0] == 1
    assert render(people=None)[0] == 1
    thing.parent = None
    count, pngs = render()
    assert count == 1 and not read_png(pngs["mask"][0]).any()


def hide_in_viewport(thing):
    thing.hide_viewport = True


def only_in_renders(thing):
    thing.modifiers.new("Wave", "WAVE").show_viewport = False


def see_through(thing):
    material = bpy.data.materials.new("Glass")
    if not material.node_tree:
        material.use_nodes = True
    node = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    node.inputs["Alpha"].default_value = 0.4
    thing.data.materials.append(material)


@pytest.mark.parametrize("make", [hide_in_viewport, only_in_renders, see_through])
def test_what_no_hash_can_tell_is_rendered_every_time(ball, make):
    thing, render = ball
    make(thing)
    assert render()[0] == 1 and render()[0] == 1


def test_without_a_store_nothing_is_kept(ball):
    _, render = ball
    assert render(into=None)[0] == 1 and render(into=None)[0] == 1
    assert not os.listdir(render.store.folder)


def test_a_damaged_file_is_rendered_anew(ball):
    _, render = ball
    render()
    (path,) = render.store.folder.iterdir()
    data = path.read_bytes()
    for broken in (
        b"",
        data[:100],
        data[:-1],
        data[:60] + bytes([data[60] ^ 1]) + data[61:],
        b"x" + data[1:],
    ):
        path.write_bytes(broken)
        assert render()[0] == 1
        assert path.read_bytes() == data


def test_the_oldest_go_when_there_are_too_many(tmp_path):
    record = cache.Record(4, 4, b"d", b"n" * 500, b"l", b"")
    store = cache.Store(tmp_path, limit=3 * len(record.to_bytes()))
    for number in range(3):
        store.put(f"{number}", record)
        os.utime(tmp_path / f"{number}.frame", (number, number))
    assert store.get("0") is not None  # used again, so it is the newest now
    store.put("3", record)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["0", "2", "3"]
    assert 0 < store.size <= store.limit
    store.clear()
    assert store.size == 0 and store.get("0") is None


def test_a_record_is_read_as_it_was_written():
    depths = np.random.default_rng(0).random((2, 5, 7), np.float32)
    packer = cache.DepthPacker()
    for rows in (slice(0, 3), slice(3, 5)):
        packer.add(*depths[:, rows])
    record = cache.Record(5, 7, packer.finish(), b"normal", b"line", b"mask")
    again = cache.Record.from_bytes(record.to_bytes())
    assert again == record
    assert all(np.array_equal(found, true) for found, true in zip(again.depths, depths, strict=True))


def test_fewer_points_a_pixel_for_larger_pictures():
    sides = [passes.points_a_side(size, size) for size in (64, 256, 512, 2048)]
    assert sides == sorted(sides, reverse=True) and sides[0] == 4 and sides[-1] == 2
