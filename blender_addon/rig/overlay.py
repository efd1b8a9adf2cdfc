"""The pose picture in the 3-D viewport: what would be sent, drawn over the characters in the very shapes and colours.

Through the camera it lies as it will in the clip, whose frame is outlined; from elsewhere the figures are drawn where
they stand. It is worked out anew whenever Blender draws the viewport, and nothing of Blender's is kept between.
"""

from __future__ import annotations

import time

import blf
import bpy
import gpu
import numpy as np
from bpy.props import BoolProperty, FloatProperty
from gpu_extras.batch import batch_for_shader
from mathutils import Vector

from ..captures import CaptureError
from .camera import cut, find_camera
from .cast import Cast, cast
from .drawing import Shapes, shapes
from .maps import MapError
from .occlusion import Occlusion, redraw_views
from .pose import world_points

CORNERS = 24  # of an ellipse
SOFT = 0.5  # region pixels on both sides of an edge, in which it fades
KEEP_S = 1.0  # for which the points' bones are taken to be the same ones
FRAME_COLOUR = (1.0, 1.0, 1.0, 0.5)


class MusevOverlaySettings(bpy.types.PropertyGroup):
    show: BoolProperty(
        name="Show in Viewport", update=redraw_views,
        description="Draw the pose picture over the chosen characters in the 3-D viewports of their scene",
    )  # fmt: skip
    opacity: FloatProperty(
        name="Opacity", description="How opaque the drawing in the viewport is", update=redraw_views,
        default=1.0, min=0.0, max=1.0, subtype="FACTOR",
    )  # fmt: skip


def region_points(world: np.ndarray, matrix: np.ndarray, width: int, height: int) -> np.ndarray:
    """World points (people, 130, 4), the last 0 where there is none -> (people, 130, 3) of x, y in pixels of a region
    (from its lower left corner) whose perspective matrix is `matrix` (4, 4), and visibility, 0 behind the viewer."""
    seen_at = np.concatenate([world[..., :3], np.ones_like(world[..., :1])], axis=-1) @ matrix.T
    there = (world[..., 3] > 0) & (seen_at[..., 3] > 1e-6)
    ndc = seen_at[..., :2] / np.where(there, seen_at[..., 3], 1.0)[..., None]
    points = np.concatenate([(ndc + 1) / 2 * (width, height), np.ones_like(seen_at[..., :1])], axis=-1)
    return np.where(there[..., None], points, 0.0)


def triangles(what: Shapes, opacity: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shapes -> vertices float32 (v, 3), colours float32 (v, 4) and triangles int32 (t, 3), painted in their order.

    Each has an inner ring in full colour and an outer one in none, between which its edge fades.
    """
    count = len(what.radius)
    span = (what.end - what.start) / 2
    length = np.hypot(*span.T)
    along = np.where(length[:, None] > 0, span / np.maximum(length, 1e-9)[:, None], (1.0, 0.0))
    half = np.where(length > 0, length, what.radius)
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False) + np.pi / CORNERS
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)  # (corners, 2)
    rings = np.where(what.is_bar[:, None, None], np.sign(ring), ring)  # a bar's corners fall together
    axes = np.stack([along, np.stack([-along[:, 1], along[:, 0]], axis=1)], axis=1)  # (n, 2, 2)
    middle = (what.start + what.end) / 2
    vertices = np.zeros((count, 2, CORNERS, 3), np.float32)
    for side, grown in enumerate((-SOFT, SOFT)):
        size = np.maximum(np.stack([half, what.radius], axis=1) + grown, 0.0)
        vertices[:, side, :, :2] = middle[:, None] + (rings * size[:, None]) @ axes
    colours = np.zeros((count, 2, CORNERS, 4), np.float32)
    colours[..., :3] = what.colours[:, None, None] / 255.0
    colours[:, 0, :, 3] = opacity
    this = np.arange(CORNERS)
    after = (this + 1) % CORNERS
    fan = np.stack([np.zeros(CORNERS - 2, int), this[1:-1], this[2:]], axis=1)
    edge = np.concatenate([
        np.stack([this, after, after + CORNERS], axis=1), np.stack([this, after + CORNERS, this + CORNERS], axis=1),
    ])  # fmt: skip
    one = np.concatenate([fan, edge])
    indices = one + 2 * CORNERS * np.arange(count)[:, None, None]
    return vertices.reshape(-1, 3), colours.reshape(-1, 4), indices.reshape(-1, 3).astype(np.int32)


def frame_corners(
    scene: bpy.types.Scene,
    camera: bpy.types.Object,
    matrix: np.ndarray,
    region: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """The corners (4, 2) of the clip's frame in a region that looks through the camera, in its pixels, from the upper
    left one on, clockwise. size: (width, height) of the clip. Raises PoseError."""
    part = cut(scene.render, *size)
    upper_right, _, lower_left, upper_left = (
        camera.matrix_world.normalized() @ Vector(corner) for corner in camera.data.view_frame(scene=scene)
    )
    places = np.array([[*upper_left, 1], [*upper_right, 1], [*lower_left, 1]])
    left_top, right_top, left_low = region_points(places[None], matrix, *region)[0, :, :2]
    right, down = (right_top - left_top) / part.full[0], (left_low - left_top) / part.full[1]
    first = left_top + right * part.left + down * part.top
    across, along = right * size[0] * part.scale, down * size[1] * part.scale
    return np.stack([first, first + across, first + across + along, first + along])


def draw_view(context: bpy.types.Context, shown: Cast, occlusion: Occlusion, opacity: float) -> None:
    """Draws a cast into the region that is being drawn. Raises CaptureError."""
    scene, region, view = context.scene, context.region, context.region_data
    # As this view shows it. The context's own would belong to a scene that may be freed, in Blender 4.2 (see the tests'
    # conftest).
    depsgraph = context.view_layer.depsgraph
    world = world_points(scene, depsgraph, shown.people)
    area = (region.width, region.height)
    matrix = np.array(view.perspective_matrix)
    points = region_points(world, matrix, *area)
    seen_by = np.stack([matrix[0], matrix[1], -np.array(view.view_matrix)[2], matrix[3]])
    light = occlusion.of_faces(world, seen_by)
    camera = find_camera(scene, shown.camera)
    looked_through = context.space_data.camera if context.space_data.use_local_camera else scene.camera
    if view.view_perspective == "CAMERA" and looked_through == camera:
        size = (shown.width, shown.height)
        corners = frame_corners(scene, camera.evaluated_get(depsgraph), matrix, area, size)
        zoom = float(np.linalg.norm(corners[1] - corners[0])) / shown.width
        covered = occlusion.visible(scene, depsgraph, shown.people, world, shown.camera, *size)
        light = np.minimum(light, covered)
        _draw_frame(corners)
    else:
        size, zoom = (512, 512), context.preferences.system.ui_scale
    points[..., 2] *= light
    _draw_shapes(zoomed_shapes(points, size, zoom), opacity)


def zoomed_shapes(points: np.ndarray, size: tuple[int, int], zoom: float) -> Shapes:
    """The shapes of a picture of that (width, height) at `points` (people, 130, 3) of a region that shows it `zoom`
    times as large: as thick as they are in the picture."""
    what = shapes(points / (zoom, zoom, 1.0), *size)
    return what._replace(start=what.start * zoom, end=what.end * zoom, radius=what.radius * zoom)


def _draw_shapes(what: Shapes, opacity: float) -> None:
    if not len(what.radius):
        return
    places, colours, indices = triangles(what, opacity)
    shader = gpu.shader.from_builtin("SMOOTH_COLOR")
    gpu.state.blend_set("ALPHA")
    batch_for_shader(shader, "TRIS", {"pos": places, "color": colours}, indices=indices).draw(shader)
    gpu.state.blend_set("NONE")


def _draw_frame(corners: np.ndarray) -> None:
    shader = gpu.shader.from_builtin("UNIFORM_COLOR")
    gpu.state.blend_set("ALPHA")
    shader.uniform_float("color", FRAME_COLOUR)
    places = [(*corner, 0.0) for corner in (*corners, corners[0])]
    batch_for_shader(shader, "LINE_STRIP", {"pos": places}).draw(shader)
    gpu.state.blend_set("NONE")


def _draw_problem(text: str) -> None:
    scale = bpy.context.preferences.system.ui_scale or 1.0
    blf.size(0, 12 * scale)
    blf.color(0, 1.0, 0.4, 0.3, 1.0)
    blf.position(0, 20 * scale, 20 * scale, 0)
    blf.draw(0, f"MuseV: {text}")


_casts: dict[tuple, tuple[float, Cast]] = {}  # what settings said, and until when that is taken for true


def recent_cast(owner: bpy.types.Scene) -> Cast:
    """As `cast`, but looked up again only once in a while: finding bones by name takes longer than all the drawing."""
    settings, now = owner.musev, time.monotonic()
    named = (owner, settings.camera, owner.camera, settings.armature)
    used = tuple((item.name, item.use) for item in settings.people)
    key = (settings.width, settings.height, *(item and item.name for item in named), used)
    until, found = _casts.get(key, (0.0, None))
    if now >= until:
        _casts.clear()
        found = cast(owner)
        _casts[key] = now + KEEP_S, found
    return found


def draw() -> None:
    """What Blender calls for every 3-D viewport that it draws."""
    context = bpy.context
    if context.region_data is None or not context.space_data.overlay.show_overlays:
        return
    for owner in bpy.data.scenes:
        settings = owner.musev
        if not settings.overlay.show:
            continue
        try:
            shown = recent_cast(owner)
            if shown.scene == context.scene.name:
                draw_view(context, shown, settings.occlusion.chosen(), settings.overlay.opacity)
        except (CaptureError, MapError) as error:
            _draw_problem(str(error))


def draw_in_overlay_menu(self, context: bpy.types.Context) -> None:
    """Our line in the viewport's own list of overlays."""
    self.layout.prop(context.scene.musev.overlay, "show", text="MuseV Poses")


_handle = None


def register() -> None:
    global _handle
    bpy.utils.register_class(MusevOverlaySettings)
    _handle = bpy.types.SpaceView3D.draw_handler_add(draw, (), "WINDOW", "POST_PIXEL")
    bpy.types.VIEW3D_PT_overlay.append(draw_in_overlay_menu)


def unregister() -> None:
    global _handle
    bpy.types.VIEW3D_PT_overlay.remove(draw_in_overlay_menu)
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    _handle = None
    bpy.utils.unregister_class(MusevOverlaySettings)
