"""What a clip sees: one matrix from the world to the clip's pixels.

The clip's picture is cut from the render's as `stills.cover` cuts a still: scaled until it covers the clip's width and
height, the middle kept, so a still rendered from the same camera and the keypoints lie over each other. The render's
picture is what Blender would save: resolution times percentage in whole pixels, and only the border where it is
cropped to it. Its pixels are taken as they are: with a pixel aspect other than 1 both still and keypoints are squeezed
alike, as every file of that render is.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix

from ..captures import CaptureError
from ..translations import tr


class PoseError(CaptureError):
    """No pose can be read: what was looked for, where, and what to do about it. unmapped: the points that a rig has no
    bones for, where that is why."""

    def __init__(self, message: str, unmapped: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.unmapped = unmapped


@dataclass(frozen=True)
class Cut:
    """Which part of the full render the clip shows. full: (width, height) of the uncropped render in pixels;
    aspect: how wide and how tall a pixel of it is shown; left, top: of the clip's upper-left corner in it; scale:
    render pixels a clip's pixel."""

    full: tuple[int, int]
    aspect: tuple[float, float]
    left: float
    top: float
    scale: float


def cut(render: bpy.types.RenderSettings, width: int, height: int) -> Cut:
    """The part of the render that a width x height clip shows. Raises PoseError for an empty border."""
    full = tuple(
        max(1, int(size * render.resolution_percentage / 100))
        for size in (render.resolution_x, render.resolution_y)
    )
    left, right, top, bottom = 0, full[0], 0, full[1]
    if render.use_border and render.use_crop_to_border:
        # Whole pixels, rounded down, as Blender's re_init_resolution counts them, from the lower edge.
        left, right = int(render.border_min_x * full[0]), int(render.border_max_x * full[0])
        top, bottom = (
            full[1] - int(render.border_max_y * full[1]),
            full[1] - int(render.border_min_y * full[1]),
        )
        if right <= left or bottom <= top:
            raise PoseError(
                tr(
                    "The render border is {width} x {height} pixels; draw a larger one, or turn it off.",
                    width=right - left,
                    height=bottom - top,
                )
            )
    scale = min((right - left) / width, (bottom - top) / height)
    aspect = render.pixel_aspect_x, render.pixel_aspect_y
    return Cut(full, aspect, (left + right - width * scale) / 2, (top + bottom - height * scale) / 2, scale)


def find_camera(scene: bpy.types.Scene, name: str | None) -> bpy.types.Object:
    """The camera object `name` of the scene; None: the scene's own, which its markers switch.

    Raises PoseError if it is not there, or makes pictures in which straight lines are bent.
    """
    camera = scene.objects.get(name) if name else scene.camera
    if camera is None or camera.type != "CAMERA":
        raise PoseError(
            tr(
                "Scene '{scene}' has no camera '{camera}'; choose a camera that is in this scene.",
                scene=scene.name,
                camera=name,
            )
            if name
            else tr("Scene '{scene}' has no camera; add one, or choose one.", scene=scene.name)
        )
    if camera.data.type not in ("PERSP", "ORTHO"):
        raise PoseError(
            tr(
                "Camera '{camera}' is of the type {type}; its pictures bend straight limbs, which no "
                "model has learned. Make it perspective or orthographic, or choose another.",
                camera=camera.name,
                type=camera.data.type,
            )
        )
    return camera


class Matrices:
    """Blender's 4 x 4 matrices, one frame's after another's: many times faster than numpy's own way of reading them,
    and faster again where one stays as it was."""

    def __init__(self) -> None:
        self.last: Matrix | None = None
        self.numbers: list[float] = []  # of each matrix that differs from the one before
        self.which: list[int] = []  # of those, at each frame

    def __len__(self) -> int:
        return len(self.which)

    def add(self, matrix: Matrix) -> None:
        if matrix != self.last:
            self.last = matrix.copy()
            self.numbers += [*matrix[0], *matrix[1], *matrix[2], *matrix[3]]
        self.which.append(len(self.numbers) // 16 - 1)

    def array(self) -> np.ndarray:
        """(t, 4, 4) float64."""
        return np.array(self.numbers).reshape(-1, 4, 4)[self.which]


class Sights:
    """Collects what a camera says of one moment after another, and works it out for all of them at once.

    Holds no Blender reference: the camera's name (None: the scene's own, as its markers switch it) and numbers alone.
    """

    def __init__(self, camera: str | None, part: Cut) -> None:
        self.camera, self.part = camera, part
        self.lenses, self.places = Matrices(), Matrices()

    def __len__(self) -> int:
        return len(self.places)

    def add(self, scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
        """Takes the camera as it stands in the depsgraph. Raises PoseError."""
        seeing = find_camera(scene, self.camera).evaluated_get(depsgraph)
        (columns, rows), (wide, tall) = self.part.full, self.part.aspect
        lens = seeing.calc_matrix_camera(depsgraph, x=columns, y=rows, scale_x=wide, scale_y=tall)
        self.lenses.add(lens)
        self.places.add(seeing.matrix_world)

    def pictures(self) -> np.ndarray:
        """(t, 4, 4) float64: `matrix @ (x, y, z, 1)` of a world point is (u w, v w, depth, w), where u, v are its
        pixels in the clip (right and down from the upper-left corner) and depth is its distance in front of the camera,
        along the axis of view, negative behind it.
        """
        view = _views(self.places.array())
        clip = self.lenses.array() @ view
        part, w, (columns, rows) = self.part, clip[:, 3], self.part.full
        picture = np.empty_like(clip)
        picture[:, 0] = ((clip[:, 0] + w) / 2 * columns - part.left * w) / part.scale
        picture[:, 1] = ((w - clip[:, 1]) / 2 * rows - part.top * w) / part.scale
        picture[:, 2] = -view[:, 2]
        picture[:, 3] = w
        return picture


def _views(places: np.ndarray) -> np.ndarray:
    """(t, 4, 4) from the world to cameras that stand at `places`, (t, 4, 4).

    As when rendering, an object's scale does not reach its camera; a parent's shear does. Inverted by cofactors: some
    Blender's numpy needs 4 us a matrix for its own way, which is much beside a frame's step of 150.
    """
    turn = places[:, :3, :3] / np.sqrt((places[:, :3, :3] ** 2).sum(axis=1, keepdims=True))
    after, last = turn[:, [1, 2, 0]], turn[:, [2, 0, 1]]
    cofactors = (
        after[:, :, [1, 2, 0]] * last[:, :, [2, 0, 1]] - after[:, :, [2, 0, 1]] * last[:, :, [1, 2, 0]]
    )
    back = (cofactors / (cofactors[:, :1] * turn[:, :1]).sum(axis=2, keepdims=True)).swapaxes(1, 2)
    views = np.zeros_like(places)
    views[:, :3, :3] = back
    views[:, :3, 3:] = -back @ places[:, :3, 3:]
    views[:, 3, 3] = 1.0
    return views


def picture_matrix(
    scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph, camera: str | None, width: int, height: int
) -> np.ndarray:
    """(4, 4) float64 of `Sights.pictures`, for the moment the depsgraph stands at. Raises PoseError."""
    sights = Sights(camera, cut(scene.render, width, height))
    sights.add(scene, depsgraph)
    return sights.pictures()[0]


def project(points: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """World points (..., 4), the last 0 where there is none, through a `picture_matrix` -> (..., 3) float32: x px,
    y px, and visibility, 1 or, where there is no point or it lies behind the camera, 0 (with x = y = 0)."""
    seen_at = points @ np.swapaxes(picture, -1, -2)
    seen = (points[..., 3] > 0) & (seen_at[..., 2] > 1e-6)
    keypoints = np.empty((*points.shape[:-1], 3), np.float32)
    w = np.where(seen, seen_at[..., 3], np.inf)[..., None]
    np.divide(seen_at[..., :2], w, out=keypoints[..., :2], casting="same_kind")
    keypoints[..., 2] = seen
    return keypoints
