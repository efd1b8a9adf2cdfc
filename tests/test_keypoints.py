"""A person's points in one array: taken apart, put together, drawn and brought to a figure."""

import numpy as np
import pytest

from musev_engine import keypoints
from musev_engine.clip import Clip
from musev_engine.drawing import draw_poses
from musev_engine.errors import EngineError
from musev_engine.posealign import align_people


@pytest.fixture
def points():
    """Two frames of three people with hands and faces, in a 96 x 64 picture."""
    made = np.random.default_rng(0).uniform((0, 0, 1), (96, 64, 1), (2, 3, keypoints.NUM_POINTS, 3))
    return made.astype(np.float32)


def test_taken_apart_and_put_together(points):
    bodies, hands, faces = keypoints.split(points)
    assert (bodies.shape, hands.shape, faces.shape) == ((2, 3, 18, 3), (2, 3, 2, 21, 3), (2, 3, 70, 3))
    assert np.array_equal(hands[1, 2, 0, 4], points[1, 2, 18 + 4])  # the left one stands first
    assert np.array_equal(hands[1, 2, 1, 4], points[1, 2, 18 + 21 + 4])
    assert np.array_equal(keypoints.join(bodies, hands, faces), points)
    assert keypoints.split(bodies)[1:] == (None, None)


def test_drawn_with_hands_and_faces_where_there_are_any(points):
    bodies, hands, faces = keypoints.split(points)
    assert np.array_equal(keypoints.draw(points, 96, 64), draw_poses(bodies, 96, 64, hands, faces))
    assert np.array_equal(keypoints.draw(bodies, 96, 64), draw_poses(bodies, 96, 64))


def test_hands_and_faces_go_with_the_body_to_the_stills_figure(points):
    figure = points[0, :1] * (2, 2, 1)
    whole = keypoints.align(points, figure)
    assert np.array_equal(whole, keypoints.join(*align_people(*keypoints.split(points), figure[:, :18])))
    assert np.array_equal(keypoints.align(points[:, :, :18], figure), whole[:, :, :18])


def test_a_clip_takes_bodies_and_whole_people(points):
    for poses in (points, points[:, :, :18]):
        assert Clip(num_frames=2, poses=poses, still_pose=poses[0]).poses is poses
    with pytest.raises(EngineError, match="poses has another shape"):
        Clip(num_frames=2, poses=points[:, :, :60])
