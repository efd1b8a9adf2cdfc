"""Keypoints → pose drawings, in the body-18 form that pose ControlNets were trained on.

Point order, limb order and colours are those of OpenPose's COCO model (Cao et al., arXiv 1812.08008) as
`control_v11p_sd15_openpose` expects them. Nothing here knows networks or Blender.
"""

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

MIN_VISIBILITY = 0.3  # below this a point counts as not seen (the field's usual confidence threshold)
STICK_RADIUS_AT_512 = 4.0  # pixels
MIN_STICK_RADIUS = 2.0  # pixels; thinner sticks are lost in a 128 px picture
LIMB_SHADE = 0.6  # limbs are darker than points
MAX_DISTANCE = 1e5  # pixels; a point farther off lies next to the camera's plane and gives no limb
SUBPIXEL_BITS = 4


def draw_poses(keypoints: np.ndarray, width: int, height: int) -> np.ndarray:
    """Draw every frame's people on black.

    `keypoints`: float (t, people, 18, 3) of x, y, visibility. x and y are in pixels of a `width` × `height`
    picture, from its top-left corner (the first pixel's centre is 0.5, 0.5), and may lie outside it;
    visibility is 0…1, and points under 0.3 are left out together with their limbs.

    Returns uint8 (t, height, width, 3), sRGB. Raises ValueError for another shape, a size under 1, or a
    visible point that isn't finite.
    """
    keypoints = np.asarray(keypoints, dtype=np.float32)
    if keypoints.ndim != 4 or keypoints.shape[2:] != (NUM_BODY_POINTS, 3):
        raise ValueError(f"keypoints are {keypoints.shape}; give (frames, people, {NUM_BODY_POINTS}, 3)")
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width}×{height} can't be drawn; give at least 1×1")
    seen = keypoints[..., 2] >= MIN_VISIBILITY
    if not np.isfinite(keypoints[seen]).all():
        frame, person, point = np.argwhere(seen & ~np.isfinite(keypoints).all(axis=-1))[0]
        value = keypoints[frame, person, point].tolist()
        raise ValueError(
            f"point {point} of person {person} in frame {frame} is {value}; "
            "give finite pixels, or visibility 0 where it isn't seen"
        )
    seen &= np.abs(keypoints[..., :2]).max(axis=-1, initial=0.0) <= MAX_DISTANCE

    radius = max(MIN_STICK_RADIUS, STICK_RADIUS_AT_512 * min(width, height) / 512)
    drawings = np.zeros((len(keypoints), height, width, 3), dtype=np.uint8)
    for drawing, people, people_seen in zip(drawings, keypoints[..., :2], seen, strict=True):
        for points, points_seen in zip(people, people_seen, strict=True):
            _draw_person(drawing, points - 0.5, points_seen, radius)  # cv2 counts from the pixels' centres
    return drawings


def _draw_person(drawing: np.ndarray, points: np.ndarray, seen: np.ndarray, radius: float) -> None:
    """Add one person, points (18, 2), to `drawing` in place: limbs first, points on top."""
    for (start, end), colour in zip(BODY_LIMBS, BODY_COLOURS, strict=False):  # 17 limbs, 18 colours
        if seen[start] and seen[end]:
            shade = tuple(int(channel * LIMB_SHADE) for channel in colour)
            _fill(drawing, _ellipse_along(points[start], points[end], radius), shade)
    for point, point_seen, colour in zip(points, seen, BODY_COLOURS, strict=True):
        if point_seen:
            _fill(drawing, _ellipse_along(point, point, radius), colour)


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
