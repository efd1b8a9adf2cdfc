"""Pose drawings: what is seen is drawn where it is, what isn't seen is left out."""

import numpy as np
import pytest

from blender_addon.rig import drawing as in_blender
from musev_engine import drawing
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


def in_engine(people: np.ndarray, width: int, height: int) -> np.ndarray:
    """One picture of people with 130 points each, as the engine draws it."""
    hands = people[None, :, 18:60].reshape(1, -1, 2, 21, 3)
    return draw_poses(people[None, :, :18], width, height, hands, people[None, :, 60:])[0]


def whole_person(random: np.random.Generator, size: float) -> np.ndarray:
    """A figure somewhere in the picture in a pose of its own, hands and face and all, (130, 3)."""
    points = np.ones((130, 3), np.float32)
    points[:18] = person(size / 128)
    points[:18, :2] += random.normal(0, size / 40, (18, 2))
    for first, wrist in ((18, 7), (39, 4)):
        points[first : first + 21] = hand(*points[wrist, :2], size / 512)
    turn = np.linspace(0, 2 * np.pi, 70)
    points[60:, :2] = points[0, :2] + size / 18 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points[:, :2] += random.uniform(-size / 6, size / 6, 2)
    return points


@pytest.mark.parametrize(("width", "height"), [(128, 128), (512, 512), (768, 448), (320, 1024)])
def test_blenders_own_drawing_is_the_engines(width, height):
    random = np.random.default_rng(width)
    palette = {(0, 0, 0), (255, 255, 255), *BODY_COLOURS, *HAND_COLOURS}
    palette |= {tuple(int(channel * 0.6) for channel in colour) for colour in BODY_COLOURS}
    palette = np.array(sorted(palette))
    for _ in range(4):
        people = np.stack([whole_person(random, min(width, height)) for _ in range(2)])
        people[0, random.integers(0, 130, 9), 2] = 0  # some are not seen
        people[1, random.integers(0, 130, 9), 2] = 0.4  # and some dimmed
        wanted, drawn = in_engine(people, width, height), in_blender.draw(people, width, height)
        apart = np.abs(wanted.astype(int) - drawn).max(axis=-1)
        assert (apart <= 32).mean() >= (0.99 if min(width, height) >= 256 else 0.98)
        assert apart.mean() < 2.5
        people[1, :, 2] = 1
        wanted, drawn = in_engine(people, width, height), in_blender.draw(people, width, height)
        named = [np.abs(p[..., None, :].astype(int) - palette).sum(-1).argmin(-1) for p in (wanted, drawn)]
        shared = sum(((named[0] == c) & (named[1] == c)).sum() for c in range(1, len(palette)))
        assert shared / ((named[0] > 0) | (named[1] > 0)).sum() >= (
            0.92 if min(width, height) >= 448 else 0.84
        )


def test_both_drawings_have_one_vocabulary():
    assert in_blender.BODY_LIMBS.tolist() == [list(limb) for limb in BODY_LIMBS]
    assert in_blender.HAND_LIMBS.tolist() == [list(limb) for limb in HAND_LIMBS]
    assert in_blender.BODY_COLOURS.tolist() == [list(colour) for colour in BODY_COLOURS]
    assert in_blender.HAND_COLOURS.tolist() == [list(colour) for colour in HAND_COLOURS]
    for name in ("MIN_VISIBILITY", "LIMB_SHADE", "MAX_DISTANCE"):
        assert getattr(in_blender, name) == getattr(drawing, name)


def test_blenders_own_drawing_leaves_out_what_the_engine_does():
    people = np.ones((1, 130, 3), np.float32)
    assert in_blender.draw(people * (300, 300, 0), 64, 64).shape == (64, 64, 3)
    assert not in_blender.draw(people * (30, 30, 0.29), 64, 64).any()
    assert not in_blender.draw(people * (5000, 30, 1), 64, 64).any()
    assert not in_blender.draw(people[:0], 64, 64).any()
    people[0, :, 0] = 1e9
    assert not in_blender.draw(people, 64, 64).any()
    with pytest.raises(ValueError, match=r"\(18, 3\); give \(people, 130, 3\)"):
        in_blender.draw(np.zeros((18, 3)), 64, 64)


@pytest.mark.parametrize("draw", [in_engine, in_blender.draw])
def test_a_point_is_as_dark_as_its_visibility_and_a_limb_as_its_darker_end(draw):
    people = np.zeros((1, 130, 3), np.float32)
    people[0, [8, 9]] = (100.5, 100.5, 0.5), (100.5, 300.5, 0.8)  # right hip and knee
    people[0, [18, 19]] = (300.5, 100.5, 0.4), (300.5, 300.5, 1.0)  # left wrist, first of the thumb
    people[0, 60] = (400.5, 100.5, 0.6)
    picture = draw(people, 512, 512).astype(int)
    for (x, y), wanted in {
        (100, 100): np.array(BODY_COLOURS[8]) * 0.5,
        (100, 300): np.array(BODY_COLOURS[9]) * 0.8,
        (100, 200): np.array(BODY_COLOURS[7]) * 0.6 * 0.5,
        (300, 100): np.array((0, 0, 255)) * 0.4,
        (300, 200): np.array(HAND_COLOURS[0]) * 0.4,
        (300, 300): np.array((0, 0, 255)),
        (400, 100): np.array((255, 255, 255)) * 0.6,
    }.items():
        assert np.abs(picture[y, x] - wanted).max() <= 4, (x, y)


@pytest.mark.parametrize("draw", [in_engine, in_blender.draw])
def test_more_than_full_visibility_is_full(draw):
    people = np.stack([whole_person(np.random.default_rng(0), 256)])
    more = people * np.array((1, 1, 3), np.float32)
    assert np.array_equal(draw(people, 256, 256), draw(more, 256, 256))
