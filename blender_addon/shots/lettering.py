"""Text as pixels: the outlines of Blender's own font, in whatever script it knows, filled in numpy.

Needs no window, and comes out the same in one. Between calls only names are kept: undo frees what they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy
import numpy as np

NAME = ".musev lettering"  # of the text that is never in a scene
SUB = 5  # scanlines a row of pixels
LINE = 1.35  # a line's height, of the letters' size
LONGEST = 1000  # characters that are looked at
NARROW = 0.2  # of the letters' size: how wide the letters of a line are on average at least


def width(text: str, size: float) -> float:
    """How far a line reaches, pixels. size: of the letters, pixels an em."""
    points, _ = _outlines(text, size)
    return float(points[:, 0].max()) if len(points) else 0.0


def line(text: str, size: float) -> np.ndarray:
    """One line of text -> (round(LINE * size), w) float32, how much of each pixel is covered, 0 to 1."""
    points, edges = _outlines(text, size)
    height = round(LINE * size)
    if not len(edges):
        return np.zeros((height, 1), np.float32)
    points = points * (1, -1) + (0, size)  # rows go down; the base line is one em below the top
    return _filled(points[edges[:, 0]], points[edges[:, 1]], int(points[:, 0].max()) + 2, height)


def wrapped(text: str, size: float, room: float, lines: int) -> Iterator[str]:
    """A text in at most so many lines of `room` pixels, broken between words where that goes; "…" ends what is cut."""
    left = " ".join(text[:LONGEST].split())
    for number in range(lines):
        if not left:
            return
        count = _fitting(left, "", size, room)
        if count < len(left) and number == lines - 1:
            yield left[: _fitting(left, "…", size, room)].rstrip() + "…"
            return
        if count < len(left) and (space := left.rfind(" ", 0, count + 1)) > 0:
            count = space
        yield left[:count].rstrip()
        left = left[count:].lstrip()


def close() -> None:
    """Removes what is kept in the file between calls."""
    if (thing := bpy.data.objects.get(NAME)) is not None:
        bpy.data.objects.remove(thing)
    if (curve := bpy.data.curves.get(NAME)) is not None:
        bpy.data.curves.remove(curve)


def _fitting(text: str, end: str, size: float, room: float) -> int:
    """How many of the characters fit, with `end` after them; at least one."""
    low, high = 1, min(len(text), int(room / size / NARROW) + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(text[:middle] + end, size) <= room else (low, middle - 1)
    return low


def _outlines(text: str, size: float) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) float32 points, y upwards from the base line, and (m, 2) edges that go around the letters, each in the
    direction of its outline."""
    thing = bpy.data.objects.get(NAME)
    if thing is None:
        curve = bpy.data.curves.new(NAME, "FONT")
        curve.fill_mode, curve.resolution_u = "NONE", 3
        thing = bpy.data.objects.new(NAME, curve)
    thing.data.size, thing.data.body = size, text
    mesh = thing.to_mesh()
    if mesh is None:  # of no text at all
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.int32)
    points = np.empty(len(mesh.vertices) * 3, np.float32)
    edges = np.empty(len(mesh.edges) * 2, np.int32)
    mesh.vertices.foreach_get("co", points)
    mesh.edges.foreach_get("vertices", edges)
    thing.to_mesh_clear()
    return points.reshape(-1, 3)[:, :2], edges.reshape(-1, 2)


def _filled(starts: np.ndarray, ends: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Directed edges, (m, 2) each -> (rows, columns) coverage: what the outlines wind around, exact along a scanline.

    Each crossing of a scanline adds its direction to all pixels right of it, so the sum along the line is the winding.
    """
    (x0, y0), (x1, y1) = starts.T * [[1], [SUB]], ends.T * [[1], [SUB]]
    first = np.ceil(np.minimum(y0, y1) - 0.5).clip(0, rows * SUB).astype(int)
    last = np.ceil(np.maximum(y0, y1) - 0.5).clip(0, rows * SUB).astype(int)
    edge = np.repeat(np.arange(len(x0)), last - first)
    scanline = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    share = (scanline + 0.5 - y0[edge]) / (y1 - y0)[edge]
    x = (x0[edge] + share * (x1 - x0)[edge]).clip(0, columns - 1.001)
    column, direction = x.astype(int), np.sign(y1 - y0)[edge]
    at = scanline * (columns + 1) + column
    beside = direction * (x - column)
    winding = np.bincount(at, direction - beside, rows * SUB * (columns + 1))
    winding += np.bincount(at + 1, beside, rows * SUB * (columns + 1))
    covered = np.abs(np.cumsum(winding.reshape(-1, columns + 1), axis=1)).clip(0, 1)[:, :columns]
    return covered.reshape(rows, SUB, columns).mean(axis=1).astype(np.float32)
