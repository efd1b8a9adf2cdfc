"""Scenes whose depths and normals are known by formula, and the rays of their cameras, worked out without Blender."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import bpy
import numpy as np

LENS, SENSOR, ORTHO = 50.0, 36.0, 6.0
FULL = (1920, 1080)  # pixels of the render that the clip is cut from


@dataclass(frozen=True)
class View:
    """A camera. turn: radians about x, y, z; shift: as Blender's."""

    location: tuple[float, float, float]
    turn: tuple[float, float, float]
    orthographic: bool = False
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def axes(self) -> np.ndarray:
        """(3, 3): the camera's axes as columns, x right, y up, z backwards."""
        (cx, sx), (cy, sy), (cz, sz) = ((math.cos(a), math.sin(a)) for a in self.turn)
        about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        return about_z @ about_y @ about_x

    def add(self) -> bpy.types.Object:
        data = bpy.data.cameras.new("View")
        data.lens, data.sensor_width, data.ortho_scale = LENS, SENSOR, ORTHO
        data.type = "ORTHO" if self.orthographic else "PERSP"
        data.shift_x, data.shift_y = self.shift
        camera = bpy.data.objects.new("View", data)
        camera.location, camera.rotation_euler = self.location, self.turn
        scene = bpy.context.scene
        scene.collection.objects.link(camera)
        scene.camera = camera
        scene.render.resolution_x, scene.render.resolution_y = FULL
        return camera

    def rays(self, width: int, height: int, points: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Origins and directions, (h·points, w·points, 3), through the middles of a clip's pixels (`points` a side in
        each). Directions are 1 long along the axis of view, so that a ray's length is a depth."""
        scale = min(FULL[0] / width, FULL[1] / height)  # the clip is cut from the middle
        columns = (np.arange(width * points) + 0.5) / points * scale + (FULL[0] - width * scale) / 2
        rows = (np.arange(height * points) + 0.5) / points * scale + (FULL[1] - height * scale) / 2
        side = max(FULL)
        x, y = np.meshgrid(
            (columns - FULL[0] / 2) / side + self.shift[0], (FULL[1] / 2 - rows) / side + self.shift[1]
        )
        nothing, ahead = np.zeros_like(x), -np.ones_like(x)
        if self.orthographic:
            start = np.stack([x * ORTHO, y * ORTHO, nothing], -1)
            along = np.stack([nothing, nothing, ahead], -1)
        else:
            start = np.zeros((*x.shape, 3))
            along = np.stack([x * SENSOR / LENS, y * SENSOR / LENS, ahead], -1)
        return start @ self.axes.T + np.array(self.location), along @ self.axes.T


@dataclass(frozen=True)
class Shape:
    """Something to see. add: puts it in the scene; trace: origins, directions -> lengths of the rays (inf: missed)
    and world normals."""

    add: Callable[[], bpy.types.Object]
    trace: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def sphere(centre=(0.0, 0.0, 0.0), radius=1.0, name="Sphere", segments=512) -> Shape:
    def add() -> bpy.types.Object:
        bpy.ops.mesh.primitive_uv_sphere_add(
            segments=segments, ring_count=segments // 2, radius=radius, location=centre
        )
        bpy.ops.object.shade_smooth()
        bpy.context.object.name = name
        return bpy.context.object

    def trace(origins, directions):
        away = origins - np.array(centre)
        a = (directions**2).sum(-1)
        b = (away * directions).sum(-1)
        inside = b**2 - a * ((away**2).sum(-1) - radius**2)
        length = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, np.inf)
        at = np.where(np.isfinite(length), length, 0)[..., None] * directions + away
        return length, at / np.linalg.norm(at, axis=-1, keepdims=True)

    return Shape(add, trace)


def plane(point=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0), name="Plane") -> Shape:
    """40 x 40 m through `point`, its normal z turned; seen from above it."""
    axes = View((0, 0, 0), turn).axes
    normal = axes[:, 2]

    def add() -> bpy.types.Object:
        bpy.ops.mesh.primitive_plane_add(size=40, location=point, rotation=turn)
        bpy.context.object.name = name
        return bpy.context.object

    def trace(origins, directions):
        slope = directions @ normal
        length = ((np.array(point) - origins) @ normal) / np.where(np.abs(slope) < 1e-9, 1e-9, slope)
        at = (origins + length[..., None] * directions - np.array(point)) @ axes
        hit = (length > 0) & (np.abs(at[..., :2]) < 20).all(-1)
        return np.where(hit, length, np.inf), np.broadcast_to(normal, origins.shape)

    return Shape(add, trace)


def seen(view: View, shapes: list[Shape], width: int, height: int, points: int = 1):
    """Depths (inf: nothing), normals in the camera's axes, and which of the shapes is nearest (-1: none)."""
    origins, directions = view.rays(width, height, points)
    traced = [shape.trace(origins, directions) for shape in shapes]
    depths = np.stack([length for length, _ in traced])
    nearest = depths.argmin(0)
    depth = depths.min(0)
    normals = np.take_along_axis(
        np.stack([np.broadcast_to(normal, origins.shape) for _, normal in traced]),
        nearest[None, ..., None],
        0,
    )[0]
    return depth, normals @ view.axes, np.where(np.isfinite(depth), nearest, -1)


FRONT = (math.radians(90), 0.0, 0.0)
ASKEW = (math.radians(78), math.radians(7), math.radians(21))
VIEWS = {
    "perspective": View((0, -6, 0), FRONT),
    "orthographic": View((0, -6, 0), FRONT, orthographic=True),
    "shifted, turned": View((2.0, -5.5, 1.4), ASKEW, shift=(0.06, -0.04)),
    "orthographic, turned": View((2.0, -5.5, 1.4), ASKEW, True, (0.06, -0.04)),
}
SHAPES = {
    "sphere": [sphere()],
    "plane": [plane((0, 1.5, 0), (math.radians(90), 0, 0))],
    "ramp": [plane((0, 0, -0.4), (math.radians(35), math.radians(12), 0))],
}


def read_png(data: bytes) -> np.ndarray:
    """uint8 (h, w) or (h, w, 3) from an 8-bit PNG without row filters, as the extension writes them."""
    width, height, _, colour = struct.unpack(">IIBB", data[16:26])
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        packed += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape((height, width, 3) if colour == 2 else (height, width))
