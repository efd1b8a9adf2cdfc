"""Pose drawings: what is seen is drawn where it is, what isn't seen is left out."""

import numpy as np
import pytest

from musev_engine.drawing import BODY_COLOURS, BODY_LIMBS, HAND_COLOURS, HAND_LIMBS, draw_poses


def person(scale: float = 1.0, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """A standing figure in a 128×128 picture, (18, 3)."""
    points = [
        (64, 20), (64, 36), (50, 36), (44, 54), (40, 72), (78, 36), (84, 54), (88, 72), (56, 72),
        (54, 94), (53, 116), (72, 72), (74, 94), (75, 116), (60, 16), (68, 16), (55, 18), (73, 18),
    ]  # fmt: skip
    body = np.ones((18, 3), np.float32)
    body[:, :2] = np.array(points) * scale + (x, y)
    return body


def centre_of(drawing: np.ndarray) -> np.ndarray:
    """Brightness-weighted centre (x, y), with pixel centres at .5."""
    weight = drawing.astype(np.float64).sum(axis=-1)
    rows, columns = np.indices(weight.shape) + 0.5
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


def test_every_point_stands_in_its_own_colour():
    body = person()
    drawing = draw_poses(body[None, None], 128, 128)
    assert drawing.shape == (1, 128, 128, 3) and drawing.dtype == np.uint8
    for (x, y, _), colour in zip(body[:14], BODY_COLOURS, strict=False):  # the face's points overlap
        assert tuple(drawing[0, int(y), int(x)]) == colour


def test_limbs_are_darker_than_points():
    drawing = draw_poses(person()[None, None], 512, 512)[0]
    start, end = (person()[index, :2] for index in BODY_LIMBS[8])  # right knee to ankle
    x, y = (start + end) / 2
    assert tuple(drawing[int(y), int(x)]) == tuple(int(c * 0.6) for c in BODY_COLOURS[8])


@pytest.mark.parametrize("shift", [0.25, 0.5, 0.8])
def test_drawing_moves_by_parts_of_a_pixel(shift):
    still = centre_of(draw_poses(person()[None, None], 128, 128)[0])
    moved = centre_of(draw_poses(person(x=shift)[None, None], 128, 128)[0])
    assert np.allclose(moved - still, (shift, 0), atol=0.06)


def test_a_point_lies_on_its_pixels_centre():
    body = np.zeros((18, 3), np.float32)
    body[0] = (40.5, 90.5, 1)
    assert np.allclose(centre_of(draw_poses(body[None, None], 128, 128)[0]), (40.5, 90.5), atol=0.02)


def test_small_pictures_keep_readable_sticks_and_large_ones_scale():
    body = np.zeros((18, 3), np.float32)
    body[0] = (60.5, 60.5, 1)
    drawings = [draw_poses(body[None, None], size, size)[0] for size in (128, 512, 1024)]
    widths = [int((drawing[60, :, 0] > 127).sum()) for drawing in drawings]
    assert widths[0] >= 4 and widths[1] in (8, 9) and widths[2] in (16, 17)


def test_unseen_points_take_their_limbs_with_them():
    body = person()
    body[4, 2] = 0.0  # the right wrist
    without = draw_poses(body[None, None], 128, 128)[0]
    assert not without[66:80, 34:44].any()
    body[:, 2] = 0.0
    assert not draw_poses(body[None, None], 128, 128).any()


def test_nobody_and_outside_and_far_away_draw_nothing():
    assert not draw_poses(np.zeros((2, 0, 18, 3)), 64, 64).any()
    assert not draw_poses(person(x=5000)[None, None], 64, 64).any()
    far = person()
    far[4, :2] = 1e9  # beside the camera's plane
    assert draw_poses(far[None, None], 128, 128).any()


def test_two_people_are_both_drawn():
    two = np.stack([person(0.5), person(0.5, x=64)])[None]
    one, other = (draw_poses(two[:, [i]], 128, 128)[0] for i in (0, 1))
    assert np.array_equal(draw_poses(two, 128, 128)[0], np.maximum(one, other))


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match=r"\(1, 17, 3\)"):
        draw_poses(np.zeros((1, 17, 3)), 64, 64)
    with pytest.raises(ValueError, match="0×64"):
        draw_poses(np.zeros((1, 1, 18, 3)), 0, 64)
    body = person()
    body[3, 0] = np.nan
    with pytest.raises(ValueError, match="point 3 of person 0 in frame 0"):
        draw_poses(body[None, None], 64, 64)


def hand(x: float, y: float, size: float = 1.0) -> np.ndarray:
    """A spread hand with its wrist at (x, y), (21, 3)."""
    points = np.ones((21, 3), np.float32)
    points[0, :2] = x, y
    for finger in range(5):
        angle = np.deg2rad(-150 + 30 * finger)
        for joint in range(4):
            reach = size * 12 * (joint + 1)
            points[1 + 4 * finger + joint, :2] = x + reach * np.cos(angle), y + reach * np.sin(angle)
    return points


def test_hands_and_faces_change_nothing_of_the_body_beside_them():
    bodies = person()[None, None]
    nothing = {"hands": np.zeros((1, 1, 2, 21, 3)), "faces": np.zeros((1, 1, 68, 3))}
    assert np.array_equal(draw_poses(bodies, 128, 128, **nothing), draw_poses(bodies, 128, 128))


def test_a_hand_is_drawn_as_the_training_pictures_have_it():
    nobody, hands = np.zeros((1, 1, 18, 3)), np.zeros((1, 1, 2, 21, 3), np.float32)
    hands[0, 0, 1] = hand(256.5, 400.5, size=5)
    drawing = draw_poses(nobody, 512, 512, hands=hands)[0]
    for x, y, _ in hands[0, 0, 1]:
        assert tuple(drawing[int(y), int(x)]) == (0, 0, 255)
    for (start, end), colour in zip(HAND_LIMBS, HAND_COLOURS, strict=True):
        x, y = hands[0, 0, 1, [start, end], :2].mean(axis=0) - 0.5
        near = drawing[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].reshape(-1, 3).astype(int)
        assert np.abs(near - colour).sum(axis=1).min() < 60, (start, end)
    assert len(set(HAND_COLOURS)) == 20


def test_an_unseen_finger_joint_takes_its_two_lines_with_it():
    nobody, hands = np.zeros((1, 1, 18, 3)), np.zeros((1, 1, 2, 21, 3), np.float32)
    hands[0, 0, 0] = hand(256, 400, size=5)
    hands[0, 0, 0, 11, 2] = 0.1  # the middle finger's second joint from the tip
    drawing = draw_poses(nobody, 512, 512, hands=hands)[0]
    before, after = hands[0, 0, 0, [10, 11], :2].mean(0), hands[0, 0, 0, [11, 12], :2].mean(0)
    for x, y in (before, after, hands[0, 0, 0, 11, :2]):
        assert not drawing[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].any()


@pytest.mark.parametrize("count", [68, 70])
def test_a_face_is_white_dots_on_top_of_everything(count):
    bodies = person(4)[None, None]
    faces = np.ones((1, 1, count, 3), np.float32)
    faces[0, 0, :, 0], faces[0, 0, :, 1] = np.linspace(230, 290, count), bodies[0, 0, 0, 1]
    drawing = draw_poses(bodies, 512, 512, faces=faces)[0]
    for x, y, _ in faces[0, 0]:
        assert tuple(drawing[int(y), int(x)]) == (255, 255, 255)
    white = (drawing == 255).all(axis=-1)
    assert white[:, :220].sum() == 0 and white.sum() < 70 * 12


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"hands": np.zeros((1, 1, 21, 3))}, r"hands are \(1, 1, 21, 3\); give \(1, 1, 2, 21, 3\)"),
        ({"faces": np.zeros((1, 1, 5, 3))}, r"faces are \(1, 1, 5, 3\); give \(1, 1, 68 or 70, 3\)"),
        ({"faces": np.full((1, 1, 68, 3), np.inf)}, "point 0 of person 0 in frame 0"),
    ],
)
def test_hands_and_faces_that_cannot_be_drawn_are_named(parts, told):
    with pytest.raises(ValueError, match=told):
        draw_poses(person()[None, None], 64, 64, **parts)
