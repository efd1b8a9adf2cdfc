"""The overlay's geometry, and that nothing of it stays; its pixels are looked at in a real window."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev.rig import drawing, overlay, pose, views
from bl_ext.user_default.musev.rig.camera import find_camera
from rigs import RIGIFY_METARIG, camera, figure


@pytest.fixture
def scene(empty_scene):
    rig = figure(RIGIFY_METARIG, "Dancer", face=True)
    empty_scene.musev.armature = rig
    empty_scene.musev.width, empty_scene.musev.height = 320, 480
    empty_scene.render.resolution_x, empty_scene.render.resolution_y = 1000, 700
    camera(shift_x=0.1, lens=40)
    return empty_scene


def view_matrix(scene, zoom: float, region: tuple[int, int], offset: tuple[float, float]) -> np.ndarray:
    """A region's perspective matrix in camera view, `zoom` region pixels a render pixel, `offset` from the middle."""
    view = find_camera(scene, None)
    depsgraph = bpy.context.evaluated_depsgraph_get()
    width, height = scene.render.resolution_x, scene.render.resolution_y
    matrix = np.array(view.calc_matrix_camera(depsgraph, x=width, y=height) @ view.matrix_world.inverted())
    scale = np.diag([width * zoom / region[0], height * zoom / region[1], 1, 1])
    scale[:2, 3] = 2 * np.array(offset) / region
    return scale @ matrix


def test_through_the_camera_the_drawing_lies_as_in_the_clip(scene):
    """The overlay's points are the clip's, laid into the frame that is outlined."""
    region, size = (900, 640), (320, 480)
    matrix = view_matrix(scene, 0.6, region, (30, -20))
    depsgraph = bpy.context.evaluated_depsgraph_get()
    shown = overlay.cast(scene)
    world = pose.world_points(scene, depsgraph, shown.people)
    points = overlay.region_points(world, matrix, *region)
    corners = overlay.frame_corners(scene, find_camera(scene, None), matrix, region, size)
    in_clip = pose.read_frame(scene, depsgraph, shown.people, None, *size)
    there = in_clip[0, :, 2] > 0
    assert there.sum() >= 18
    expected = (
        corners[0]
        + in_clip[0, there, :1] / size[0] * (corners[1] - corners[0])
        + in_clip[0, there, 1:2] / size[1] * (corners[3] - corners[0])
    )
    assert np.allclose(points[0, there, :2], expected, atol=0.02)
    # The clip is as high as the render, and its middle.
    assert np.allclose(np.linalg.norm(corners[3] - corners[0]), 700 * 0.6, atol=0.02)
    assert np.allclose(corners.mean(axis=0), (450 + 30, 320 - 20), atol=0.02)


def test_what_is_behind_the_viewer_is_not_drawn():
    matrix = np.diag([1.0, 1.0, 1.0, 0.0])
    matrix[3, 2] = -1.0  # looks along -z from the origin
    world = np.array([[[0, 0, -1, 1], [0, 0, 1, 1], [0, 0, -1, 0]]], float)
    points = overlay.region_points(world, matrix, 100, 50)
    assert points[0].tolist() == [[50, 25, 1], [0, 0, 0], [0, 0, 0]]


def area_of(vertices: np.ndarray, corners: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[corners[:, k], :2].astype(float) for k in range(3))
    return np.abs(np.linalg.det(np.stack([b - a, c - a], axis=-1))) / 2


def test_the_triangles_cover_the_shapes(scene):
    people = np.zeros((1, 130, 3))
    people[0, 0] = (100, 100, 1)  # a disk of radius 4
    people[0, [8, 9]] = (200, 100, 0.5), (200, 300, 0.5)  # a dimmed limb between two disks
    people[0, [19, 20]] = (300, 100, 1), (340, 100, 1)  # a bar, half-width 1, and two disks
    what = drawing.shapes(people, 512, 512)
    vertices, colours, corners = overlay.triangles(what, opacity=0.7)
    per_shape = len(corners) // len(what.radius)
    full = colours[corners][:, :, 3].min(axis=1) > 0.5  # the triangles inside the inner rings
    for number, (start, end, radius, is_bar, colour) in enumerate(zip(*what, strict=True)):
        mine = np.arange(number * per_shape, (number + 1) * per_shape)
        length = np.linalg.norm(end - start) / 2 or radius
        soft = overlay.SOFT
        expected = (4 if is_bar else np.pi) * (length - soft) * (radius - soft)
        assert np.isclose(area_of(vertices, corners[mine][full[mine]]).sum(), expected, rtol=0.03)
        seen = colours[corners[mine]].reshape(-1, 4)
        assert np.allclose(seen[:, :3], colour / 255) and np.isclose(seen[:, 3].max(), 0.7)
    assert np.isfinite(vertices).all()


def test_the_shapes_are_as_thick_as_in_the_clips_picture():
    people = np.zeros((1, 130, 3))
    people[0, [8, 9]] = (20, 30, 1), (100, 90, 1)
    sent = drawing.shapes(people, 128, 128)
    shown = overlay.zoomed_shapes(people * (3, 3, 1), (128, 128), 3.0)
    assert np.allclose(shown.radius, 3 * sent.radius) and np.allclose(shown.end, 3 * sent.end)
    assert np.array_equal(shown.colours, sent.colours)


def test_the_bones_are_looked_up_once_in_a_while(scene, monkeypatch):
    calls = []
    monkeypatch.setattr(overlay, "cast", lambda owner: calls.append(owner.name))
    for _ in range(3):
        overlay.recent_cast(scene)
    assert len(calls) == 1
    scene.musev.width = 256
    overlay.recent_cast(scene)
    assert len(calls) == 2
    scene.musev.people.add().name = "Other"
    overlay.recent_cast(scene)
    assert len(calls) == 3
    monkeypatch.setattr(overlay, "KEEP_S", 0.0)
    overlay._casts.clear()
    for _ in range(2):
        overlay.recent_cast(scene)
    assert len(calls) == 5


def test_nobody_makes_no_triangles():
    vertices, colours, corners = overlay.triangles(drawing.shapes(np.zeros((0, 130, 3)), 64, 64))
    assert len(vertices) == len(colours) == len(corners) == 0


def test_the_handler_goes_with_the_extension(scene):
    module = "bl_ext.user_default.musev"
    assert overlay._handle is not None
    drawn = bpy.types.VIEW3D_PT_overlay.draw._draw_funcs
    assert overlay.draw_in_overlay_menu in drawn
    bpy.ops.preferences.addon_disable(module=module)
    assert overlay._handle is None and overlay.draw_in_overlay_menu not in drawn
    bpy.ops.preferences.addon_enable(module=module)


class Layout:
    """Takes down what a panel draws."""

    def __init__(self, drawn: list | None = None):
        self.drawn = [] if drawn is None else drawn

    def __getattr__(self, name):
        def call(*given, **options):
            if name in ("prop", "operator", "label", "progress"):
                self.drawn.append((name, *given, options.get("text", "")))
            return Layout(self.drawn)

        return call


def test_the_panel_draws_every_setting_with_its_description(scene):
    panel = type("Panel", (), {"layout": Layout(), "draw_progress": views.MUSEV_PT_views.draw_progress})()
    views.MUSEV_PT_views.draw(panel, bpy.context)
    settings = [line[1:3] for line in panel.layout.drawn if line[0] == "prop"]
    assert len(settings) == 4
    for owner, name in settings:
        assert owner.bl_rna.properties[name].description
    assert {line[1] for line in panel.layout.drawn if line[0] == "operator"} == {
        "musev.preview_strip", "musev.export_poses",
    }  # fmt: skip
