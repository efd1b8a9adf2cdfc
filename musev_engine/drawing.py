"""Keypoints → pose drawings, in the form that pose ControlNets were trained on: body 18, hands 2×21, face 68 or 70.

Point order, limb order and colours are those of OpenPose (Cao et al., arXiv 1812.08008; hands: Simon et al., arXiv
1704.07809) as `control_v11p_sd15_openpose` expects them. Nothing here knows networks or Blender.
"""

import colorsys
import math

import cv2
import numpy as np

# Points: 0 nose, 1 neck, 2-4 right shoulder/elbow/wrist, 5-7 left, 8-10 right hip/knee/ankle, 11-13 left,
# 14 right eye, 15 left eye, 16 right ear, 17 left ear.
NUM_BODY_POINTS = 18
BODY_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
# One hue step of 20° a colour, RGB; limb i takes colour i, point i takes colour i.
BODY_COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
    (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip

# A hand's points: 0 wrist, then thumb, index, middle, ring and little finger, four each, from palm to tip.
NUM_HAND_POINTS = 21
HAND_LIMBS = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, NUM_HAND_POINTS))
HAND_COLOURS = tuple(
    tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(limb / len(HAND_LIMBS), 1, 1))
    for limb in range(len(HAND_LIMBS))
)
HAND_POINT_COLOUR, FACE_COLOUR = (0, 0, 255), (255, 255, 255)
NUM_FACE_POINTS = (68, 70)  # the 68 of iBUG 300-W; OpenPose adds the two pupils

MIN_VISIBILITY = 0.3  # below this a point counts as not seen (the field's usual confidence threshold)
STICK_RADIUS_AT_512 = 4.0  # pixels
MIN_STICK_RADIUS = 2.0  # pixels; thinner sticks are lost in a 128 px picture
HAND_LINE_AT_512, FACE_RADIUS_AT_512 = 1.0, 3.0  # half a line's width, a point's radius; pixels
MIN_HAND_LINE, MIN_FACE_RADIUS = 0.5, 0.75  # pixels
LIMB_SHADE = 0.6  # limbs are darker than points
MAX_DISTANCE = 1e5  # pixels; a point farther off lies next to the camera's plane and gives no limb
SUBPIXEL_BITS = 4


def draw_poses(
    keypoints: np.ndarray,
    width: int,
    height: int,
    hands: np.ndarray | None = None,
    faces: np.ndarray | None = None,
) -> np.ndarray:
    """Draw every frame's people on black.

    `keypoints`: float (t, people, 18, 3) of x, y, visibility; `hands`: (t, people, 2, 21, 3), `faces`: (t, people,
    68 or 70, 3), of the same people. x and y are in pixels of a `width` × `height` picture, from its top-left corner
    (the first pixel's centre is 0.5, 0.5), and may lie outside it; visibility is 0…1: points under 0.3 are left out
    together with their limbs, and up to 1 a point's colour is multiplied by it, a limb's by the lower of its ends'.
    Bodies lie under hands, and hands under faces.

    Returns uint8 (t, height, width, 3), sRGB. Raises ValueError for another shape, a size under 1, or a visible
    point that isn't finite.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width}×{height} can't be drawn; give at least 1×1")
    points, light = _points_and_light("keypoints", keypoints, (None, None, NUM_BODY_POINTS, 3))
    num_frames, people = points.shape[:2]
    drawings = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    scale = min(width, height) / 512
    radius = max(MIN_STICK_RADIUS, STICK_RADIUS_AT_512 * scale)
    for frame, person in np.ndindex(num_frames, people):
        _draw_body(drawings[frame], points[frame, person], light[frame, person], radius)
    if hands is not None:
        points, light = _points_and_light("hands", hands, (num_frames, people, 2, NUM_HAND_POINTS, 3))
        line = max(MIN_HAND_LINE, HAND_LINE_AT_512 * scale)
        point = max(2 * MIN_HAND_LINE, STICK_RADIUS_AT_512 * scale)
        for frame, person, hand in np.ndindex(num_frames, people, 2):
            _draw_hand(drawings[frame], points[frame, person, hand], light[frame, person, hand], line, point)
    if faces is not None:
        points, light = _points_and_light("faces", faces, (num_frames, people, NUM_FACE_POINTS, 3))
        radius = max(MIN_FACE_RADIUS, FACE_RADIUS_AT_512 * scale)
        for index in np.argwhere(light):
            point = points[tuple(index)]
            dimmed = _dimmed(FACE_COLOUR, light[tuple(index)])
            _fill(drawings[index[0]], _ellipse_along(point, point, radius), dimmed)
    return drawings


def _points_and_light(what: str, keypoints: np.ndarray, shape: tuple) -> tuple[np.ndarray, np.ndarray]:
    """x and y as cv2 counts them, and how bright each point is drawn, 0 (not at all) to 1; the border check of
    `draw_poses`."""
    keypoints = np.asarray(keypoints, dtype=np.float32)
    fits = keypoints.ndim == len(shape) and all(
        wanted is None or size in np.atleast_1d(wanted)
        for size, wanted in zip(keypoints.shape, shape, strict=True)
    )
    if not fits:
        named = ", ".join(
            {0: "frames", 1: "people"}.get(axis, "?")
            if n is None
            else " or ".join(map(str, np.atleast_1d(n)))
            for axis, n in enumerate(shape)
        )
        raise ValueError(f"{what} are {keypoints.shape}; give ({named})")
    seen = keypoints[..., 2] >= MIN_VISIBILITY
    if not np.isfinite(keypoints[seen]).all():
        index = np.argwhere(seen & ~np.isfinite(keypoints).all(axis=-1))[0]
        where = f"point {index[-1]} of person {index[1]} in frame {index[0]}"
        where += f" ({what}, {('left', 'right')[index[2]]})" if what == "hands" else ""
        raise ValueError(
            f"{where} is {keypoints[tuple(index)].tolist()}; "
            "give finite pixels, or visibility 0 where it isn't seen"
        )
    seen &= np.abs(keypoints[..., :2]).max(axis=-1, initial=0.0) <= MAX_DISTANCE
    # cv2 counts from the pixels' centres
    return keypoints[..., :2] - 0.5, np.where(seen, np.minimum(keypoints[..., 2], 1.0), 0.0)


def _draw_body(drawing: np.ndarray, points: np.ndarray, light: np.ndarray, radius: float) -> None:
    """Add one person, points (18, 2), to `drawing` in place: limbs first, points on top."""
    for (start, end), colour in zip(BODY_LIMBS, BODY_COLOURS, strict=False):  # 17 limbs, 18 colours
        if bright := min(light[start], light[end]):
            _fill(
                drawing,
                _ellipse_along(points[start], points[end], radius),
                _dimmed(colour, LIMB_SHADE, bright),
            )
    for point, bright, colour in zip(points, light, BODY_COLOURS, strict=True):
        if bright:
            _fill(drawing, _ellipse_along(point, point, radius), _dimmed(colour, bright))


def _draw_hand(
    drawing: np.ndarray, points: np.ndarray, light: np.ndarray, line: float, radius: float
) -> None:
    """Add one hand, points (21, 2): lines of half-width `line`, and points on top."""
    for (start, end), colour in zip(HAND_LIMBS, HAND_COLOURS, strict=True):
        along = points[end] - points[start]
        length = float(np.hypot(*along))
        bright = min(light[start], light[end])
        if bright and length > 0:
            across = np.array([-along[1], along[0]]) / length * line
            corners = [
                points[start] + across,
                points[end] + across,
                points[end] - across,
                points[start] - across,
            ]
            _fill(drawing, np.stack(corners), _dimmed(colour, bright))
    for point, bright in zip(points, light, strict=True):
        if bright:
            _fill(drawing, _ellipse_along(point, point, radius), _dimmed(HAND_POINT_COLOUR, bright))


def _dimmed(colour: tuple[int, int, int], *factors: float) -> tuple[int, ...]:
    return tuple(int(channel * math.prod(map(float, factors))) for channel in colour)


def _ellipse_along(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """Polygon (36, 2) of the ellipse whose long axis joins `start` and `end`; a circle when they meet."""
    half = (end - start) / 2
    length = float(np.hypot(*half))
    along = half / length if length > 0 else np.array([1.0, 0.0])
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)[:, None]
    long_axis = length if length > 0 else radius
    across = np.array([-along[1], along[0]])
    return (start + end) / 2 + np.cos(angle) * long_axis * along + np.sin(angle) * radius * across


def _fill(drawing: np.ndarray, polygon: np.ndarray, colour: tuple[int, int, int]) -> None:
    fixed = np.round(polygon * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillConvexPoly(drawing, fixed, colour, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
