"""Keypoints → pose pictures, in numpy alone: what the engine draws for the pose ControlNet, with no engine there.

Points, limbs, colours and widths are those of `musev_engine/drawing.py` (OpenPose, arXiv 1812.08008; hands: arXiv
1704.07809), which draws with OpenCV; `tests/test_drawing.py` compares the two. Knows neither bpy nor files.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np

from ..protocol import BODY_POINTS, HAND_POINTS, POINTS

# As points are numbered in OpenPose's body 18; limb i takes colour i, point i takes colour i.
BODY_LIMBS = np.array([
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
])  # fmt: skip
BODY_COLOURS = np.array([
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
    (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
])  # fmt: skip
HAND_LIMBS = np.array([(0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, HAND_POINTS)])
HAND_COLOURS = np.array([
    [round(255 * channel) for channel in colorsys.hsv_to_rgb(limb / len(HAND_LIMBS), 1, 1)]
    for limb in range(len(HAND_LIMBS))
])  # fmt: skip
HAND_POINT_COLOUR, FACE_COLOUR = np.array([(0, 0, 255)]), np.array([(255, 255, 255)])
LEFT_HAND, RIGHT_HAND = BODY_POINTS, BODY_POINTS + HAND_POINTS  # the first of the 130 points that is theirs
FACE = RIGHT_HAND + HAND_POINTS

MIN_VISIBILITY = 0.3  # below this a point counts as not seen
LIMB_SHADE = 0.6  # limbs are darker than points
MAX_DISTANCE = 1e5  # pixels; a point farther off lies next to the camera's plane and gives no limb
# (pixels where the picture has 512, pixels at least): radius or half a width
STICK, HAND_LINE, HAND_POINT, FACE_POINT = (4.0, 2.0), (1.0, 0.5), (4.0, 1.0), (3.0, 0.75)
SOFT_FROM, SOFT_TO = -0.1, 1.37  # pixels beyond a shape's edge between which OpenCV's antialiasing fades


class Shapes(NamedTuple):
    """What is to be painted, in this order, n shapes: ellipses that join two points, disks, straight bars.

    start, end: float64 (n, 2), pixels from the picture's top-left corner; a disk's are the same point. radius: (n,)
    pixels, of a disk, or half an ellipse's or a bar's width. is_bar: bool (n,). colours: uint8 (n, 3), sRGB.
    """

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    is_bar: np.ndarray
    colours: np.ndarray

    def part(self, first: int, last: int) -> Shapes:
        """The shapes from the first-th to before the last-th."""
        return Shapes(*(field[first:last] for field in self))


def shapes(people: np.ndarray, width: int, height: int) -> Shapes:
    """The shapes of one picture: bodies under hands under faces.

    people: float (people, 130, 3) of x, y in pixels of the width × height picture, and visibility: under 0.3 a point
    and its limbs are left out, up to 1 its colour is multiplied by it, a limb's by the lower of its ends'. Raises
    ValueError for another shape.
    """
    people = np.asarray(people, np.float64)
    if people.ndim != 3 or people.shape[1:] != (POINTS, 3):
        raise ValueError(f"people are {people.shape}; give (people, {POINTS}, 3)")
    visibility = np.where(np.abs(people[..., :2]).max(-1) <= MAX_DISTANCE, people[..., 2], 0.0)
    radii = [
        max(low, at_512 * min(width, height) / 512)
        for at_512, low in (STICK, HAND_LINE, HAND_POINT, FACE_POINT)
    ]
    stick, hand_line, hand_point, face_point = radii
    groups = []

    def add(person: int, pairs: np.ndarray, radius: float, colours: np.ndarray, is_bar: bool = False) -> None:
        bright = visibility[person, pairs].min(axis=1)
        start, end = people[person, pairs[:, 0], :2], people[person, pairs[:, 1], :2]
        drawn = bright >= MIN_VISIBILITY
        if is_bar:
            drawn &= (start != end).any(axis=1)
        shaded = np.floor(colours * np.minimum(bright, 1.0)[:, None] + 1e-9).astype(np.uint8)
        count = int(drawn.sum())
        groups.append(
            (start[drawn], end[drawn], np.full(count, radius), np.full(count, is_bar), shaded[drawn])
        )

    for person in range(len(people)):
        add(person, BODY_LIMBS, stick, BODY_COLOURS[:-1] * LIMB_SHADE)
        add(person, _points(0, BODY_POINTS), stick, BODY_COLOURS)
    for person in range(len(people)):
        for first in (LEFT_HAND, RIGHT_HAND):
            add(person, HAND_LIMBS + first, hand_line, HAND_COLOURS, is_bar=True)
            add(person, _points(first, HAND_POINTS), hand_point, HAND_POINT_COLOUR)
    for person in range(len(people)):
        add(person, _points(FACE, POINTS - FACE), face_point, FACE_COLOUR)
    if not groups:
        return Shapes(
            np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, bool), np.zeros((0, 3), np.uint8)
        )
    return Shapes(*map(np.concatenate, zip(*groups, strict=True)))


def _points(first: int, count: int) -> np.ndarray:
    """Pairs that join each point with itself: disks."""
    return np.repeat(np.arange(first, first + count)[:, None], 2, axis=1)


def draw(people: np.ndarray, width: int, height: int) -> np.ndarray:
    """One pose picture on black, uint8 (height, width, 3), sRGB; arguments and errors as for `shapes`."""
    picture = np.zeros((height, width, 3), np.uint8)
    paint(picture, shapes(people, width, height))
    return picture


def paint(picture: np.ndarray, what: Shapes) -> None:
    """Adds shapes to a picture, uint8 (height, width, 3), in place."""
    height, width, _ = picture.shape
    flat = picture.reshape(-1, 3)
    rows, columns, cover, counts = _coverage(what, width, height)
    pixels, last = rows * width + columns, 0
    for count, colour in zip(counts, what.colours.astype(np.float32), strict=True):
        first, last = last, last + count
        where = pixels[first:last]
        under = flat[where]
        flat[where] = under + (colour - under) * cover[first:last, None]


def _coverage(what: Shapes, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels each shape may touch, and how much of them it covers: rows, columns (int), cover (float32, 0…1) of
    all shapes' pixels one after another, and (n,) how many are each shape's.

    Every shape is walked along the axis of the picture that it follows more, over a strip as wide as the shape.
    """
    start, end, radius = what.start - 0.5, what.end - 0.5, what.radius  # so that pixels' centres are whole
    length = np.hypot(*(end - start).T) / 2
    along = np.where(length > 0, 1.0, 0.0)[:, None] * (end - start) / np.maximum(2 * length, 1e-12)[:, None]
    along[length == 0] = 1.0, 0.0
    half = np.where(length > 0, length, radius)
    centre = (start + end) / 2
    steep = np.abs(along[:, 1]) > np.abs(along[:, 0])
    walked = steep.astype(int)  # 0: columns, 1: rows
    shape = np.arange(len(radius))
    reach = radius + SOFT_TO
    span = half * np.abs(along[shape, walked]) + reach
    limit = np.where(steep, height, width)
    first = np.clip(np.ceil(centre[shape, walked] - span), 0, limit).astype(int)
    last = np.clip(np.floor(centre[shape, walked] + span) + 1, first, limit).astype(int)
    wide = 2 * np.ceil(reach / np.abs(along[shape, walked])).astype(int) + 1
    counts = (last - first) * wide
    of = np.repeat(shape, counts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)  # of the pixel in its shape
    step, across = np.divmod(number, wide[of])
    slope = along[shape, 1 - walked] / along[shape, walked]
    begin = centre[shape, 1 - walked] + (first - centre[shape, walked]) * slope
    main = first[of] + step
    side = np.rint(begin[of] + step * slope[of]).astype(int) + across - (wide // 2)[of]
    inside = (side >= 0) & (side < np.where(steep, width, height)[of])
    of, main, side = of[inside], main[inside], side[inside]
    rows, columns = np.where(steep[of], main, side), np.where(steep[of], side, main)
    # Distance to the edge, in the shape's own axes; for an ellipse to first order, for a disk and a bar exactly.
    axes = np.concatenate([centre, along, half[:, None], radius[:, None]], axis=1).astype(np.float32)
    centre_x, centre_y, along_x, along_y, a, b = axes.T[:, of]
    x, y = columns.astype(np.float32) - centre_x, rows.astype(np.float32) - centre_y
    u, v = (x * along_x + y * along_y) / a, (y * along_x - x * along_y) / b
    level = np.sqrt(u * u + v * v)
    distance = level * (level - 1) / np.maximum(np.sqrt((u / a) ** 2 + (v / b) ** 2), np.float32(1e-9))
    bar = np.flatnonzero(what.is_bar[of])
    du, dv = (np.abs(u[bar]) - 1) * a[bar], (np.abs(v[bar]) - 1) * b[bar]
    distance[bar] = np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)
    fade = np.clip((SOFT_TO - distance) / (SOFT_TO - SOFT_FROM), 0, 1)
    return rows, columns, fade * fade * (3 - 2 * fade), np.bincount(of, minlength=len(shape))
