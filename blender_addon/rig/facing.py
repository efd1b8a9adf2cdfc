"""Whether a face looks away from the camera: told by the head's own points, with no ray and no mesh.

People's pictures that pose ControlNets learned from have no nose and no eyes where a head is seen from behind, only
ears: that is how they know which way it looks. COCO's annotators marked eyes, ears and nose only where they saw them.
"""

from __future__ import annotations

import numpy as np

from .skeleton import INDEX, PARTS

# Up to which angle between the camera and the way a part looks it is seen, and how far that way is turned from the
# face's to the part's own side; degrees. In profile one eye is seen, and in half profile one ear.
NOSE, EYE, EAR = (97.0, 0.0), (95.0, 25.0), (115.0, 90.0)
FACE_PARTS = {
    "nose": NOSE,
    "left_eye": EYE, "right_eye": EYE,
    "left_ear": EAR, "right_ear": EAR,
}  # fmt: skip


def turned_away(points: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """bool (..., people, 130): nose, eyes, ears and face points on the side of the head that looks away.

    points: (..., people, 130, 4) as `pose.world_points` gives them; picture: (..., 4, 4) as `camera.picture_matrix`
    does. A person without nose and ears has none that look away.
    """
    nose, left, right = (points[..., INDEX[name], :] for name in ("nose", "left_ear", "right_ear"))
    there = (nose[..., 3] > 0) & (left[..., 3] > 0) & (right[..., 3] > 0)
    middle = (left + right)[..., :3] / 2
    to_left = _unit((left - right)[..., :3])
    ahead = (nose - 0.5 * (left + right))[..., :3]
    ahead = _unit(ahead - to_left * (ahead * to_left).sum(-1, keepdims=True))
    to_camera = _to_camera(middle, picture)
    away = np.zeros(points.shape[:-1], bool)
    for name, (reach, turn) in FACE_PARTS.items():
        side = to_left if name.startswith("left") else -to_left
        looks = ahead * np.cos(np.radians(turn)) + side * np.sin(np.radians(turn))
        away[..., INDEX[name]] = there & ((looks * to_camera).sum(-1) < np.cos(np.radians(reach)))
    away[..., PARTS["face"]] = away[..., INDEX["nose"], None]  # such networks tell all of a face or nothing
    return away


def _to_camera(places: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Unit vectors (..., people, 3) from places towards the camera of a picture matrix (..., 4, 4)."""
    forward = picture[..., 2, :3]
    rows = picture[..., [0, 1, 3], :]
    is_flat = np.abs(rows[..., 2, :3]).max(-1) < 1e-12  # orthographic: it looks along parallel lines
    # Where all three rows are 0 is the eye; without one, any solvable rows do.
    solvable = np.where(is_flat[..., None, None], np.eye(3), rows[..., :3])
    eye = np.linalg.solve(solvable, -rows[..., 3:])[..., 0]
    return np.where(is_flat[..., None, None], -forward[..., None, :], _unit(eye[..., None, :] - places))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
