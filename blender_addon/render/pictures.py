"""Depths, normals and object ids of a render -> the pictures that ControlNets were trained on. numpy alone, no bpy.

- `depth`: inverse depth, near is white, as MiDaS draws it (Ranftl et al., arXiv 1907.01341), which leaves scale and
  shift open. We choose them once for a whole range of frames, so that a clip doesn't flicker.
- `normal_bae`: red is left, green is up, blue faces the viewer. ControlNet 1.1's README says so ("blue is front, red
  is left, green is top"), and so do the axes of the network's authors: right, down and front, for normals that point
  into the surface (baegwangbin/DSINE, README and issue 8). A channel holds (component + 1) / 2.
- `lineart`: white lines on black, of silhouettes, occlusions and creases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOTHING = 1e9  # metres; Cycles writes 1e10 where a ray hits nothing
BACKGROUND_STEP = 0.25  # brightness of the farthest surface where the background, black, is seen too
LEAST_SPAN = 0.01  # of the inverse depth: a wall seen square on is white, not noise
TAILS = 0.001  # share of a frame's surfaces, at both ends of its depths, that may be clipped
OCCLUSION = 0.02  # bend of the (inverse) depth from pixel to pixel, as a share of it, that is an edge
CREASE = (25.0, 45.0)  # degrees between neighbouring normals where a line begins to show, and shows fully


@dataclass(frozen=True)
class Surface:
    """What some rows of a render show. depth: (h, w) float32, metres along the camera's axis, inf where there is
    nothing. normals: (h, w, 3) float32, unit length, x right, y up, z to the viewer (0, 0, 1 where there is nothing).
    ids: (h, w) uint32, 0 for nothing."""

    depth: np.ndarray
    normals: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(
        cls, depth: np.ndarray, world_normals: np.ndarray, ids: np.ndarray, to_camera: np.ndarray
    ) -> Surface:
        """From Cycles' passes; `to_camera`: the (3, 3) rotation from the world's axes to the camera's."""
        depth = np.where(depth < NOTHING, depth, np.inf).astype(np.float32)
        normals = world_normals @ np.asarray(to_camera, np.float32).T
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        facing = np.array([0, 0, 1], np.float32)
        normals = np.where(length > 0.5, normals / np.maximum(length, 1e-6), facing)
        return cls(depth, normals, np.where(np.isfinite(depth), ids, 0))


def block_mean(values: np.ndarray, block: int) -> np.ndarray:
    """(h·block, w·block, …) -> (h, w, …): the mean of each block."""
    rows, columns = values.shape[0] // block, values.shape[1] // block
    return values.reshape(rows, block, columns, block, *values.shape[2:]).mean(axis=(1, 3), dtype=np.float32)


def inverse_depth(depth: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(h·block, w·block) metres -> (h, w) float32 1/metres over what was hit, 0 for nothing, and how much was, 0..1.

    The inverse depth of a plane is linear over a perspective picture, so its mean is its value at the middle.
    """
    hit = np.isfinite(depth)
    inverse = np.zeros_like(depth)
    np.divide(1.0, depth, out=inverse, where=hit & (depth > 0))
    coverage = block_mean(hit, block)
    return block_mean(inverse, block) / np.maximum(coverage, 1e-6), coverage


def depth_limits(inverse: np.ndarray, coverage: np.ndarray) -> tuple[float, float, bool] | None:
    """(far, near) in 1/metres of a frame without its tails, and whether the background is seen; None: no surface."""
    seen = inverse[coverage > 0]
    if not seen.size:
        return None
    far, near = np.quantile(seen, (TAILS, 1 - TAILS))
    return float(far), float(near), bool(coverage.min() < 1)


def range_limits(frames: list[tuple[float, float, bool] | None]) -> tuple[float, float]:
    """What is black and what is white, in 1/metres, over the frames that `depth_limits` describes."""
    found = [frame for frame in frames if frame]
    if not found:
        return 0.0, 1.0
    far, near = min(frame[0] for frame in found), max(frame[1] for frame in found)
    far = min(far, near * (1 - LEAST_SPAN))
    if len(found) < len(frames) or any(frame[2] for frame in found):
        far = max(0.0, near - (near - far) / (1 - BACKGROUND_STEP))
    return far, near


def depth_picture(inverse: np.ndarray, coverage: np.ndarray, far: float, near: float) -> np.ndarray:
    """uint8 (h, w): near is 255, far 0, nothing 0; a pixel that is half covered is half as bright."""
    return _bytes(np.clip((inverse - far) / (near - far), 0, 1) * coverage)


def normal_picture(normals: np.ndarray, block: int) -> np.ndarray:
    """(h·block, w·block, 3) in camera axes -> uint8 (h, w, 3) with the colours of `normal_bae`."""
    mean = block_mean(normals, block)
    mean /= np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)
    return _bytes((mean * (-1, 1, 1) + 1) / 2)


def normals_of(picture: np.ndarray) -> np.ndarray:
    """`normal_picture` backwards: uint8 (h, w, 3) -> unit vectors, x right, y up, z to the viewer."""
    normals = (picture.astype(np.float32) / 127.5 - 1) * (-1, 1, 1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def lines(surface: Surface, orthographic: bool, width: int) -> np.ndarray:
    """(h, w) float32, 0..1: where silhouettes, occlusions and creases are, `width` pixels wide.

    A line lies on the nearer of the two surfaces that it parts. The depth whose bend tells an occlusion is the one
    that is linear over a plane: the inverse in a perspective picture, the depth itself in an orthographic one.
    """
    hit = np.isfinite(surface.depth)
    depth = np.where(hit, surface.depth, 0)
    level = depth if orthographic else np.divide(1.0, depth, out=np.zeros_like(depth), where=depth > 0)
    strength = np.zeros(depth.shape, np.float32)
    for axis in (0, 1):
        a, b = _halves(depth.ndim, axis)
        nearer_a = hit[a] & (~hit[b] | (depth[a] <= depth[b]))
        edge = (surface.ids[a] != surface.ids[b]).astype(np.float32)
        cosine = np.einsum("hwc,hwc->hw", surface.normals[a], surface.normals[b])
        low, high = np.cos(np.radians(CREASE))
        np.maximum(edge, np.clip((low - cosine) / (low - high), 0, 1), out=edge)
        edge *= hit[a] | hit[b]
        np.maximum(strength[a], np.where(nearer_a, edge, 0), out=strength[a])
        np.maximum(strength[b], np.where(nearer_a, 0, edge), out=strength[b])
        before, middle, after = (
            tuple(part if other == axis else slice(None) for other in range(2))
            for part in (slice(None, -2), slice(1, -1), slice(2, None))
        )
        bend = np.abs(level[before] - 2 * level[middle] + level[after])
        # On the nearer side: the bend is seen from both, and there the depth is the smaller.
        beside = np.minimum(
            np.where(hit[before], depth[before], np.inf), np.where(hit[after], depth[after], np.inf)
        )
        broken = (
            hit[middle] & (bend > OCCLUSION * level[middle]) & (depth[middle] <= beside * (1 + OCCLUSION))
        )
        np.maximum(strength[middle], broken, out=strength[middle])
    return _wider(strength, width)


def mask(ids: np.ndarray, wanted: list[int], block: int) -> np.ndarray:
    """uint8 (h, w): how much of each pixel the wanted ids cover."""
    return _bytes(block_mean(np.isin(ids, np.array(wanted, np.uint32)), block))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _halves(ndim: int, axis: int) -> tuple[tuple, tuple]:
    """Slices of every pixel but the last and of every one but the first along an axis: neighbours."""
    first, second = [slice(None)] * ndim, [slice(None)] * ndim
    first[axis], second[axis] = slice(None, -1), slice(1, None)
    return tuple(first), tuple(second)


def _wider(strength: np.ndarray, width: int) -> np.ndarray:
    """Lines of one pixel made `width` pixels wide: the largest value within a square."""
    for axis in (0, 1):
        wide = strength.copy()
        for step in range(1, width):
            shift = (step + 1) // 2 * (1 if step % 2 else -1)
            a, b = [slice(None)] * 2, [slice(None)] * 2
            a[axis] = slice(max(shift, 0), strength.shape[axis] + min(shift, 0))
            b[axis] = slice(max(-shift, 0), strength.shape[axis] + min(-shift, 0))
            np.maximum(wide[tuple(a)], strength[tuple(b)], out=wide[tuple(a)])
        strength = wide
    return strength
