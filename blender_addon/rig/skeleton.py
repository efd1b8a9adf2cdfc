"""The 130 points of a person: their names, their order and what each part of them is.

Body: OpenPose's COCO-18 (Cao et al., arXiv 1812.08008). Hands: 21 each, the wrist and four points a finger from palm
to tip (Simon et al., arXiv 1704.07809). Face: the 68 of iBUG 300-W (Sagonas et al., 2013) and OpenPose's two pupils.
Left and right are the person's own. Plain names and numpy: no Blender here.
"""

from __future__ import annotations

import numpy as np

from ..protocol import BODY_POINTS, FACE_POINTS, HAND_POINTS, POINTS

BODY = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
FINGERS = ("thumb", "index", "middle", "ring", "little")


def _numbered(name: str, count: int, first: int = 1) -> tuple[str, ...]:
    return tuple(f"{name}_{number}" for number in range(first, first + count))


def _hand(side: str) -> tuple[str, ...]:
    """'left_hand' (the wrist again), 'left_thumb_1' at the palm … 'left_little_4' at the tip."""
    return (f"{side}_hand", *(point for finger in FINGERS for point in _numbered(f"{side}_{finger}", 4)))


LEFT_HAND, RIGHT_HAND = _hand("left"), _hand("right")
# iBUG's order, as one sees it in a picture of someone who looks at us: the person's right side comes first.
FACE = (
    *_numbered("jaw", 17),  # from the right ear over the chin (jaw_9) to the left ear
    *_numbered("right_brow", 5), *_numbered("left_brow", 5),  # each from the picture's left to its right
    *_numbered("nose_bridge", 4), *_numbered("nose_base", 5),  # nose_bridge_4 is the tip
    *_numbered("right_lid", 6), *_numbered("left_lid", 6),  # from the picture's left corner, over the top
    *_numbered("outer_lips", 12), *_numbered("inner_lips", 8),  # from the right corner, over the upper lip
    "right_pupil", "left_pupil",
)  # fmt: skip

NAMES: tuple[str, ...] = (*BODY, *LEFT_HAND, *RIGHT_HAND, *FACE)
INDEX: dict[str, int] = {name: index for index, name in enumerate(NAMES)}
PARTS: dict[str, slice] = {
    "body": slice(0, BODY_POINTS),
    "left hand": slice(BODY_POINTS, BODY_POINTS + HAND_POINTS),
    "right hand": slice(BODY_POINTS + HAND_POINTS, BODY_POINTS + 2 * HAND_POINTS),
    "face": slice(POINTS - FACE_POINTS, POINTS),
}
# What has no bone of its own: the neck is the middle of the shoulders, a hand's first point the body's wrist.
DERIVED: dict[str, tuple[str, ...]] = {
    "neck": ("left_shoulder", "right_shoulder"),
    "left_hand": ("left_wrist",),
    "right_hand": ("right_wrist",),
}
NECK = INDEX["neck"]
SHOULDERS = [INDEX["right_shoulder"], INDEX["left_shoulder"]]

# A curve of the face that runs across it -> which of its points lies where the mirrored one does.
_ACROSS = {"jaw": 17, "nose_base": 5}
_LIDS = (4, 3, 2, 1, 6, 5)
_OUTER_LIPS = (7, 6, 5, 4, 3, 2, 1, 12, 11, 10, 9, 8)
_INNER_LIPS = (5, 4, 3, 2, 1, 8, 7, 6)


def mirrored(name: str) -> str:
    """The point on the other side of the body, itself where it lies in the middle."""
    side, _, rest = name.partition("_")
    curve, _, number = name.rpartition("_")
    if curve in _ACROSS:
        return f"{curve}_{_ACROSS[curve] + 1 - int(number)}"
    if curve == "outer_lips":
        return f"{curve}_{_OUTER_LIPS[int(number) - 1]}"
    if curve == "inner_lips":
        return f"{curve}_{_INNER_LIPS[int(number) - 1]}"
    if side not in ("left", "right"):
        return name
    other = "left" if side == "right" else "right"
    if curve == f"{side}_brow":
        return f"{other}_brow_{6 - int(number)}"
    if curve == f"{side}_lid":
        return f"{other}_lid_{_LIDS[int(number) - 1]}"
    return f"{other}_{rest}"


MIRROR: np.ndarray = np.array([INDEX[mirrored(name)] for name in NAMES])  # (130,) int
"""`points[MIRROR]` are the points of the same body, named as if left were right."""
