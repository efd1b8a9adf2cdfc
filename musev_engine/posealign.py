"""Posealign: a driving pose sequence brought to the figure of a still, so that any dancer's moves fit any character.

The idea is MusePose's (Tong et al. 2024, github.com/TMElyralab/MusePose, "pose align"): measure in one frame of the
sequence how long each limb is, compare with the still's, and rebuild every frame with the still's lengths, place and
size. Limbs keep their directions, so the movement stays what it was. Written anew from that description.
"""

import numpy as np

from musev_engine.drawing import MIN_VISIBILITY, NUM_BODY_POINTS
from musev_engine.errors import EngineError

# Joint -> the joint it hangs on, from the neck outwards; every parent stands before its children.
PARENTS = {
    0: 1, 2: 1, 5: 1, 8: 1, 11: 1, 3: 2, 4: 3, 6: 5, 7: 6, 9: 8, 10: 9, 12: 11, 13: 12, 14: 0, 15: 0, 16: 14, 17: 15,
}  # fmt: skip
ROOT = 1
MIRROR = {2: 5, 3: 6, 4: 7, 8: 11, 9: 12, 10: 13} | {5: 2, 6: 3, 7: 4, 11: 8, 12: 9, 13: 10}
HEAD = (
    14,
    15,
    16,
    17,
)  # eyes and ears: a turn of the head changes each by itself, so that they have one ratio
MOST = 3.0  # how far a limb's ratio may lie from the whole figure's; beyond it the limb points at the camera
MIN_LENGTH = 1e-3  # pixels


def align_poses(poses: np.ndarray, still_pose: np.ndarray, reference: int | None = None) -> np.ndarray:
    """Bring a pose sequence to a still's figure.

    poses: float (t, people, 18, 3) of x, y in pixels and visibility 0…1, as `drawing.draw_poses` takes them.
    still_pose: (18, 3), or (figures, 18, 3) for person 0, 1, …; further people follow the first one. Its pixels are
    the result's. reference: the frame that is measured; None takes, for each person, the one whose limbs point most
    like the still's (of those, the first), for there lengths in the picture compare fairly.

    In that frame the neck comes to lie on the still's and every limb gets the still's length; in the others the same
    ratios hold, and the neck's way is scaled as the whole figure. A limb that can't be measured takes the ratio of its
    mirror image, else the figure's. What isn't visible stays as it was.

    Returns float32 (t, people, 18, 3). Raises EngineError for another shape, a reference that isn't a frame, or a
    sequence that shows no limb which the still shows too.
    """
    poses, still_pose = np.array(poses, dtype=np.float32), np.asarray(still_pose, dtype=np.float32)
    figures = still_pose[None] if still_pose.ndim == 2 else still_pose
    for what, array, dimensions in (("poses", poses, 4), ("still_pose", figures, 3)):
        if array.ndim != dimensions or array.shape[-2:] != (NUM_BODY_POINTS, 3):
            raise EngineError(f"{what} has another shape", array.shape, "Give (…, 18, 3), see align_poses.")
    if reference is not None and not 0 <= reference < len(poses):
        raise EngineError(
            "The reference isn't a frame of the sequence", reference, f"Choose 0 to {len(poses) - 1}."
        )
    if not poses.size or not len(figures):
        return poses
    aligned = poses.copy()
    for person in range(poses.shape[1]):
        leader = person if person < len(figures) else 0
        measured, still = poses[:, leader], figures[leader]
        frame = _best_frame(measured, still) if reference is None else reference
        shared = _shared_limbs(measured[frame], still)
        if not shared:
            raise EngineError(
                "The poses and the still's figure have no limb in common that both show",
                f"person {leader}, frame {frame}",
                "Choose another reference frame, a still that shows more of the figure, or turn posealign off.",
            )
        aligned[:, person, :, :2] = _rebuilt(poses[:, person], measured[frame], still, shared)
    return aligned


def _seen(points: np.ndarray) -> np.ndarray:
    return points[..., 2] >= MIN_VISIBILITY


def _shared_limbs(one: np.ndarray, other: np.ndarray) -> list[int]:
    """The joints whose limb (to their parent) both figures (18, 3) show, long enough to be measured."""
    both = _seen(one) & _seen(other)
    return [
        joint
        for joint, parent in PARENTS.items()
        if both[joint] and both[parent] and min(_length(one, joint), _length(other, joint)) > MIN_LENGTH
    ]


def _length(points: np.ndarray, joint: int) -> float:
    return float(np.hypot(*(points[joint, :2] - points[PARENTS[joint], :2])))


def _best_frame(track: np.ndarray, still: np.ndarray) -> int:
    """The frame of a track (t, 18, 3) in which the most limbs point the still's way: the sum of their cosines."""
    joints, parents = list(PARENTS), list(PARENTS.values())
    ours, its = (points[..., joints, :2] - points[..., parents, :2] for points in (track, still))
    lengths = np.hypot(ours[..., 0], ours[..., 1]) * np.hypot(its[..., 0], its[..., 1])
    both = _seen(track) & _seen(still)
    shown = both[:, joints] & both[:, parents] & (lengths > MIN_LENGTH**2)
    cosines = np.divide((ours * its).sum(-1), lengths, out=np.zeros_like(lengths), where=shown)
    return int(np.argmax(np.round(cosines.sum(axis=1), 4)))  # rounded: of equals, the first


def _ratios(measured: np.ndarray, still: np.ndarray, shared: list[int]) -> tuple[dict[int, float], float]:
    """Joint -> how much longer its limb is in the still, and the same of the whole figure."""
    whole = sum(_length(still, joint) for joint in shared) / sum(_length(measured, joint) for joint in shared)
    own = {joint: _length(still, joint) / _length(measured, joint) for joint in shared}
    if head := [joint for joint in shared if joint in HEAD]:
        ratio = sum(_length(still, j) for j in head) / sum(_length(measured, j) for j in head)
        own |= dict.fromkeys(HEAD, ratio)
    own = {joint: float(np.clip(ratio, whole / MOST, whole * MOST)) for joint, ratio in own.items()}
    return {joint: own.get(joint, own.get(MIRROR.get(joint), whole)) for joint in PARENTS}, whole


def _rebuilt(track: np.ndarray, measured: np.ndarray, still: np.ndarray, shared: list[int]) -> np.ndarray:
    """x and y of a track (t, 18, 3), with the lengths that `measured` has in the still: (t, 18, 2)."""
    ratios, whole = _ratios(measured, still, shared)
    both = _seen(measured) & _seen(still)
    anchors = [ROOT] if both[ROOT] else np.flatnonzero(both)
    here, there = measured[anchors, :2].mean(axis=0), still[anchors, :2].mean(axis=0)
    old, seen = track[..., :2].astype(np.float64), _seen(track)
    # Where nothing that a joint hangs on is seen, the whole figure's place counts.
    new = there + whole * (old - here)
    for joint in PARENTS:
        done, ratio, ancestor = ~seen[:, joint], ratios[joint], PARENTS[joint]
        while True:
            hangs = ~done & seen[:, ancestor]
            new[hangs, joint] = new[hangs, ancestor] + ratio * (old[hangs, joint] - old[hangs, ancestor])
            done |= hangs
            if ancestor == ROOT:
                break
            ratio, ancestor = whole, PARENTS[ancestor]  # over a joint that isn't seen: no limb of its own
    return np.where(seen[..., None], new, old)


# What a hand or face hangs on, and the joint whose distance to that says how large it is.
LEFT_HAND, RIGHT_HAND, FACE = (7, 6), (4, 3), (0, ROOT)


def align_people(
    bodies: np.ndarray,
    hands: np.ndarray,
    faces: np.ndarray,
    still_pose: np.ndarray,
    reference: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`align_poses` for whole people: hands go with their wrists and faces with their noses, as much larger or smaller
    as the forearms and necks become.

    bodies: float (t, people, 18, 3); hands: (t, people, 2, 21, 3), the left one first; faces: (t, people, n, 3). Gives
    the same three. Raises EngineError as `align_poses` does.
    """
    aligned = align_poses(bodies, still_pose, reference)
    bodies = np.asarray(bodies, dtype=np.float32)
    moved = [
        _carried(hands[:, :, side], bodies, aligned, *on) for side, on in enumerate((LEFT_HAND, RIGHT_HAND))
    ]
    return aligned, np.stack(moved, axis=2), _carried(faces, bodies, aligned, *FACE)


def _carried(
    points: np.ndarray, before: np.ndarray, after: np.ndarray, anchor: int, other: int
) -> np.ndarray:
    """points (t, people, n, 3), moved with a joint of the bodies and scaled as its distance to another; where the joint
    isn't seen, they stay."""
    points = np.array(points, dtype=np.float32)
    lengths = [
        np.hypot(*np.moveaxis(body[:, :, anchor, :2] - body[:, :, other, :2], -1, 0))
        for body in (after, before)
    ]
    both = _seen(before)[:, :, anchor] & _seen(before)[:, :, other] & (lengths[1] > MIN_LENGTH)
    scale = np.divide(*lengths, out=np.ones_like(lengths[0]), where=both)[..., None, None]
    old, new = before[:, :, anchor, None, :2], after[:, :, anchor, None, :2]
    moved = new + scale * (points[..., :2] - old)
    points[..., :2] = np.where(_seen(before)[:, :, anchor, None, None], moved, points[..., :2])
    return points
