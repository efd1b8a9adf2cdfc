"""An average face, fitted to a head: where the points lie that a rig has no bones for.

The face's numbers are ours, in millimetres from the middle between the pupils, put together from published averages of
adults (distance of the pupils 63, inner eye corners 32, outer 90, mouth 52, nose 30 wide and 37 below the pupils,
bizygomatic breadth 136, bigonial 106, pupils to chin 115; Farkas, "Anthropometry of the Head and Face", 1994; Gordon et
al., ANSUR, 1989). It is stretched so that its pupils, nose tip and ears meet the rig's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .skeleton import FACE, INDEX, MIRROR

# (to the person's left, to the front, up); the right half and the middle, in the order of the points.
_RIGHT_HALF = {
    "jaw": [(-68, -62, 2), (-67, -60, -18), (-65, -57, -38), (-61, -52, -57), (-54, -40, -75), (-43, -22, -91),
            (-30, -6, -104), (-15, 5, -112), (0, 8, -115)],
    "right_brow": [(-53, -8, 18), (-43, 2, 25), (-32, 7, 27), (-22, 10, 25), (-12, 11, 20)],
    "nose_bridge": [(0, 8, 2), (0, 13, -11), (0, 19, -24), (0, 26, -37)],
    "nose_base": [(-15, 8, -45), (-8, 13, -48), (0, 15, -50)],
    "right_lid": [(-45, -8, 1), (-37, -1, 6), (-26, 1, 6), (-16, -3, -2), (-25, 0, -4), (-36, -2, -4)],
    "outer_lips": [(-26, 4, -73), (-16, 10, -68), (-6, 14, -65), (0, 13.5, -66), None, None, None, None, None,
                   (0, 13, -84), (-7, 12, -83), (-15, 10, -79)],
    "inner_lips": [(-22, 6, -73), (-8, 11, -71), (0, 12, -71.5), None, None, None, (0, 11.5, -74.5), (-8, 11, -74)],
}  # fmt: skip
PUPIL, NOSE, EAR = (
    (31.5, 0.0, 0.0),
    (0.0, 26.0, -37.0),
    (74.0, -85.0, -10.0),
)  # the left ones, on the same face

# Without a bone for them: in head lengths from the head bone's head. Measured on Rigify's human metarig, whose head
# bone spans neck to crown.
ON_HEAD = {
    "nose": (0.0, 0.875, 0.297),
    "left_eye": (0.26, 0.623, 0.552),
    "right_eye": (-0.26, 0.623, 0.552),
    "left_ear": (0.463, 0.043, 0.407),
    "right_ear": (-0.463, 0.043, 0.407),
}
HEAD_PER_TORSO = 0.39  # head length over the distance hips-shoulders, on the same metarig


def _average() -> np.ndarray:
    face = np.full((len(FACE), 3), np.nan)
    first = INDEX[FACE[0]]
    for curve, places in _RIGHT_HALF.items():
        for number, place in enumerate(places, start=1):
            if place is not None:
                point = INDEX[f"{curve}_{number}"]
                face[point - first] = place
                face[MIRROR[point] - first] = (-place[0], place[1], place[2])
    face[-2:] = (-PUPIL[0], 0, 0), PUPIL
    return face


AVERAGE: np.ndarray = _average()  # (70, 3), mm


def fitted(places: dict[str, np.ndarray]) -> np.ndarray:
    """The average face on a head. places: nose, eyes and ears, each (3,): to the person's left, to the front, up, in
    any unit. Returns (70, 3) in the same axes and unit; pupils, nose tip and the ears' distance meet the places'.
    """
    middle = (places["left_eye"] + places["right_eye"]) / 2
    ears = (places["left_ear"] + places["right_ear"]) / 2 - middle
    nose = places["nose"] - middle
    wide = abs(places["left_eye"][0] - places["right_eye"][0]) / 2 / PUPIL[0]
    behind_wide = abs(places["left_ear"][0] - places["right_ear"][0]) / 2 / EAR[0]

    def scale(measured: float, average: float) -> float:
        # A nose bone may lie anywhere inside a nose; a face is never squashed flat for it.
        return float(np.clip(measured / average, wide / 2, wide * 2))

    front, behind, up = scale(nose[1], NOSE[1]), scale(ears[1], EAR[1]), scale(nose[2], NOSE[2])
    depth = AVERAGE[:, 1]
    back = np.clip(depth / EAR[1], 0.0, 1.0)  # 0 at the pupils, 1 at the ears
    return middle + np.stack([
        AVERAGE[:, 0] * (wide + (behind_wide - wide) * back),
        depth * np.where(depth > 0, front, behind),
        AVERAGE[:, 2] * up,
    ], axis=1)  # fmt: skip


# The fitted face lies right here, and so holds its surroundings in place.
FIXED = ("right_pupil", "left_pupil", "nose_bridge_4")


def pulls(places: np.ndarray, anchors: Sequence[str]) -> np.ndarray:
    """(70, anchors): how much of each anchor's move every point of a face (70, 3) makes too, by one over the fourth
    power of their distance; a row sums to 1, and an anchor's own row is its own move."""
    rows = [INDEX[point] - INDEX[FACE[0]] for point in anchors]
    apart = np.linalg.norm(places[:, None] - places[rows][None], axis=-1)
    near = 1.0 / np.maximum(apart, 1e-6 * apart.max()) ** 4
    return near / near.sum(axis=1, keepdims=True)


def drawn(places: np.ndarray, known: dict[str, np.ndarray]) -> np.ndarray:
    """The fitted face (70, 3), drawn to the points of it that are known, each (3,): those lie where they are, and the
    others move with the nearest ones, but for FIXED points' surroundings. Without points other than those it stays as
    it is, to the bit."""
    if not known.keys() - set(FIXED):
        return places
    first = INDEX[FACE[0]]
    moves = dict.fromkeys(FIXED, np.zeros(3)) | {
        point: place - places[INDEX[point] - first] for point, place in known.items()
    }
    return places + pulls(places, tuple(moves)) @ np.array(list(moves.values()))


def on_head(size: float, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Nose, eyes and ears from the head bone's head, in axes left, front, up: those known as they are, the others in
    average proportions of a head of that size, moved to where the known ones say that the face is."""
    guess = {point: size * np.array(place) for point, place in ON_HEAD.items()}
    if known:
        moved = np.mean([place - guess[point] for point, place in known.items()], axis=0)
        if not {"left_eye", "right_eye", "nose"} & known.keys():
            moved[1] = 0.0  # ears alone do not say how far the face stands out
        moved[0] = 0.0 if len(known) == 1 else moved[0]
        guess = {point: place + moved for point, place in guess.items()}
    return guess | known
