"""A person's points in one array: body 18, left hand 21, right hand 21, face 70, or the body alone.

The orders are OpenPose's, see `drawing`. Arrays are float (…, 18 or 130, 3) of x, y and visibility.
"""

import numpy as np

from musev_engine.drawing import NUM_BODY_POINTS, NUM_HAND_POINTS, draw_poses
from musev_engine.posealign import align_people, align_poses

NUM_FACE_POINTS = 70
NUM_POINTS = NUM_BODY_POINTS + 2 * NUM_HAND_POINTS + NUM_FACE_POINTS


def split(points: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Bodies (…, 18, 3), hands (…, 2, 21, 3), the left one first, and faces (…, 70, 3); None for what isn't there."""
    bodies, rest = points[..., :NUM_BODY_POINTS, :], points[..., NUM_BODY_POINTS:, :]
    if not rest.shape[-2]:
        return bodies, None, None
    hands, faces = rest[..., : 2 * NUM_HAND_POINTS, :], rest[..., 2 * NUM_HAND_POINTS :, :]
    return bodies, hands.reshape(*hands.shape[:-2], 2, NUM_HAND_POINTS, 3), faces


def join(bodies: np.ndarray, hands: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """What `split` took apart: (…, 130, 3)."""
    hands = hands.reshape(*hands.shape[:-3], 2 * NUM_HAND_POINTS, 3)
    return np.concatenate([bodies, hands, faces], axis=-2)


def draw(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Points (t, people, 18 or 130, 3) in pixels -> uint8 (t, height, width, 3), as `drawing.draw_poses`."""
    bodies, hands, faces = split(points)
    return draw_poses(bodies, width, height, hands, faces)


def align(points: np.ndarray, still_pose: np.ndarray) -> np.ndarray:
    """Points (t, people, 18 or 130, 3) brought to the figures of a still, (people, 18 or 130, 3), as
    `posealign.align_people` does. Raises EngineError."""
    bodies, hands, faces = split(points)
    figure, _, _ = split(still_pose)
    if hands is None:
        return align_poses(bodies, figure)
    return join(*align_people(bodies, hands, faces, figure)).astype(np.float32)
