"""Posealign: what is aligned stays, what was moved and scaled comes back, proportions become the still's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musev_engine.errors import EngineError
from musev_engine.posealign import HEAD, PARENTS, align_people, align_poses
from tests.test_drawing import person


def dance(frames: int = 9, seed: int = 0) -> np.ndarray:
    """One person who walks to the right and turns every limb about its joint, (t, 1, 18, 3); frame 0 stands still."""
    random = np.random.default_rng(seed)
    body, swing = person(), random.uniform(-0.8, 0.8, 18)
    track = np.repeat(body[None], frames, axis=0)
    for frame, points in enumerate(track):
        points[1, :2] += (3 * frame, np.sin(frame))
        for joint, parent in PARENTS.items():
            x, y = body[joint, :2] - body[parent, :2]
            angle = swing[joint] * np.sin(frame)
            turned = (x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle))
            points[joint, :2] = points[parent, :2] + turned
    return track[:, None]


def lengths(points: np.ndarray) -> np.ndarray:
    """(…, 18, 3) -> the 13 limbs of arms, legs and trunk, (…, 13)."""
    limbs = [(joint, parent) for joint, parent in PARENTS.items() if joint not in HEAD]
    return np.stack(
        [np.hypot(*np.moveaxis(points[..., a, :2] - points[..., b, :2], -1, 0)) for a, b in limbs], -1
    )


def test_what_is_aligned_stays_as_it_is():
    track = dance()
    assert np.allclose(align_poses(track, track[0, 0]), track, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(0.2, 5),
    x=st.floats(-300, 300),
    y=st.floats(-300, 300),
    frame=st.integers(0, 8),
    chosen=st.booleans(),
)
def test_a_scaled_and_shifted_copy_is_brought_back_exactly(scale, x, y, frame, chosen):
    track = dance()
    moved = track * np.float32([scale, scale, 1]) + np.float32([x, y, 0])
    back = align_poses(moved, track[frame, 0], frame if chosen else None)
    assert np.allclose(back, track, atol=0.02)


def test_every_frame_gets_the_stills_proportions():
    track, still = dance(), person(1.5, x=20)
    still[[3, 4], :2] += (still[3, :2] - still[2, :2]) * 0.5  # a longer upper arm
    for knee, ankle, hip in ((9, 10, 8), (12, 13, 11)):  # shorter thighs
        still[[knee, ankle], :2] -= (still[knee, :2] - still[hip, :2]) * 0.4
    aligned = align_poses(track, still)
    assert np.allclose(lengths(aligned[:, 0]), lengths(still), rtol=1e-3)
    assert np.allclose(aligned[0, 0, :14], still[:14], atol=0.05)


def test_limbs_keep_their_directions():
    track = dance()
    aligned = align_poses(track, person(0.7, x=50, y=9))
    for joint, parent in PARENTS.items():
        before = track[:, 0, joint, :2] - track[:, 0, parent, :2]
        after = aligned[:, 0, joint, :2] - aligned[:, 0, parent, :2]
        angle = np.arctan2(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0], (before * after).sum(-1))
        assert np.abs(angle).max() < 1e-3


def test_missing_joints_stay_missing_and_the_others_are_aligned():
    track = dance()
    moved = track * np.float32([2, 2, 1]) + np.float32([30, -40, 0])
    random = np.random.default_rng(1)
    hidden = random.random(track.shape[:3]) < 0.3
    moved[hidden, 2] = 0.1
    moved[hidden, :2] = -1
    back = align_poses(moved, track[0, 0])
    assert np.array_equal(back[hidden], moved[hidden])
    assert np.allclose(back[~hidden], track[~hidden], atol=0.02)


def test_a_limb_that_the_still_hides_takes_its_mirrors_ratio():
    track, still = dance(), person()
    for arm in ((2, 3, 4), (5, 6, 7)):
        still[arm[2], :2] = still[arm[1], :2] + 2 * (person()[arm[2], :2] - person()[arm[1], :2])
    still[7, 2] = 0
    aligned = lengths(align_poses(track, still))[:, 0]
    forearms = [list(PARENTS).index(wrist) for wrist in (4, 7)]
    assert np.allclose(aligned[:, forearms], 2 * lengths(person())[forearms], rtol=1e-3)


def test_a_still_without_a_neck_places_the_figure_by_what_it_shows():
    track = dance()
    still = track[0, 0].copy()
    still[1, 2] = 0
    moved = track * np.float32([0.5, 0.5, 1]) + np.float32([9, 9, 0])
    assert np.allclose(align_poses(moved, still), track, atol=0.02)


def test_the_frame_most_like_the_still_is_measured_not_one_with_an_arm_at_the_camera():
    track = dance()
    # The right forearm is foreshortened at first.
    track[:4, 0, 4] = track[:4, 0, 3] + np.float32([0.5, 0.5, 0])
    still = dance()[6, 0]
    assert np.allclose(align_poses(track, still)[4:], track[4:], atol=1e-3)


def test_a_foreshortened_limb_does_not_grow_without_bounds():
    track = dance()
    track[0, 0, 4] = track[0, 0, 3] + np.float32([0.01, 0, 0])
    aligned = align_poses(track, person(), reference=0)
    assert lengths(aligned[:, 0]).max() < 3.5 * lengths(track[:, 0]).max()


def test_several_people_go_to_their_own_figures_and_others_follow_the_first():
    one, other, third = dance(), dance(seed=1), dance(seed=2)
    track = np.concatenate([one, other, third], axis=1)
    stills = np.stack([person(2.0), person(0.5, x=100)])
    aligned = align_poses(track, stills)
    assert np.allclose(lengths(aligned[:, 0]), lengths(stills[0]), rtol=1e-3)
    assert np.allclose(lengths(aligned[:, 1]), lengths(stills[1]), rtol=1e-3)
    assert np.allclose(lengths(aligned[:, 2]), lengths(stills[0]), rtol=1e-3)


def test_hands_and_faces_go_with_the_body():
    track = dance()
    random = np.random.default_rng(0)
    around = np.stack([track[:, :, 7], track[:, :, 4]], axis=2)[:, :, :, None]
    hands = np.concatenate(
        [around[..., :2] + random.normal(0, 3, (9, 1, 2, 21, 2)), np.ones((9, 1, 2, 21, 1))], -1
    )
    faces = np.concatenate(
        [track[:, :, :1, :2] + random.normal(0, 4, (9, 1, 68, 2)), np.ones((9, 1, 68, 1))], -1
    )
    scale, shift = np.float32([0.5, 0.5, 1]), np.float32([40, -9, 0])
    moved = [part * scale + shift for part in (track, hands, faces)]
    for back, wanted in zip(align_people(*moved, track[0, 0]), (track, hands, faces), strict=True):
        assert np.allclose(back, wanted, atol=0.02)
    moved[0][:, :, 7, 2] = 0  # without a wrist, its hand stays where it is
    _, back, _ = align_people(*moved, track[0, 0])
    assert np.allclose(back[:, :, 0], moved[1][:, :, 0]) and np.allclose(
        back[:, :, 1], hands[:, :, 1], atol=0.02
    )


def test_nobody_is_aligned_to_nothing():
    nobody = np.zeros((3, 0, 18, 3), np.float32)
    assert align_poses(nobody, person()).shape == nobody.shape


def test_what_cannot_be_aligned_is_told():
    with pytest.raises(EngineError, match="no limb in common"):
        align_poses(dance() * np.float32([1, 1, 0]), person())
    with pytest.raises(EngineError, match="another shape"):
        align_poses(np.zeros((3, 18, 3)), person())
    with pytest.raises(EngineError, match=r"isn't a frame.*99"):
        align_poses(dance(), person(), reference=99)
