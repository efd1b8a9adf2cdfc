"""From one frame rate to another: where output frames lie, and what is shown between two generated ones."""

from fractions import Fraction
from math import ceil

import cv2
import numpy as np
import pytest

from musev_engine.errors import EngineError
from musev_engine.inbetween import HOW, Inbetween, from_light, mixer, places, to_light

SCENES = [Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, 60]
GENERATED = [3, 6, 8, 12, Fraction(25, 2), Fraction(24000, 1001), 24]


def run(frames, where, how):
    """Output number -> picture."""
    between = Inbetween(where, how)
    return {number: shown for frame in frames for numbers, shown in between.take(frame) for number in numbers}


def texture(seed=0, size=(96, 128)):
    """Soft noise, uint8 (h, w, 3), that flow can hold on to."""
    rng = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(rng.uniform(0, 255, (*size, 3)).astype(np.float32), (0, 0), 2)
    return cv2.normalize(soft, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def moved(picture, x, y):
    matrix = np.float32([[1, 0, x], [0, 1, y]])
    return cv2.warpAffine(
        picture, matrix, picture.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("fps", GENERATED)
@pytest.mark.parametrize("how", HOW)
def test_every_output_frame_comes_once_and_in_order(scene, fps, how):
    length = 97
    last = (length - 1) * Fraction(fps) / scene
    num_frames = int(last) + 1 if how == "held" else ceil(last) + 1
    where = places(num_frames, Fraction(fps), length, Fraction(scene), how)
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(num_frames)]
    between, came = Inbetween(where, how if how != "flow" else "blended"), []
    for frame in frames:
        came += [number for numbers, _ in between.take(frame) for number in numbers]
    assert came == list(range(length))
    for k, place in enumerate(where):
        at = k * Fraction(fps) / scene
        assert place.frame == int(at) and place.part == (0 if how == "held" else at - int(at))


def test_an_ntsc_hour_does_not_drift():
    ntsc = Fraction(24000, 1001)
    where = places(10_000, 3 * Fraction(1000, 1001), 80_000, ntsc, "flow")
    assert all(
        place.frame == k // 8 and place.part == Fraction(k % 8, 8) for k, place in enumerate(where[:79_992])
    )


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("channels", [3, 4])
def test_generated_frames_come_back_bit_for_bit(how, channels):
    rng = np.random.default_rng(1)
    frames = list(rng.integers(0, 256, (4, 64, 72, channels), np.uint8))
    where = places(4, Fraction(6), 16, Fraction(24), how)
    shown = run(frames, where, how)
    assert sorted(shown) == list(range(16))
    for k in range(0, 16, 4):
        assert np.array_equal(shown[k], frames[k // 4])
    assert all(
        picture.shape == (64, 72, channels) and picture.dtype == np.uint8 for picture in shown.values()
    )
    assert np.array_equal(shown[15], frames[3])  # nothing comes after the last one


def test_held_frames_are_given_once_for_all_who_show_them():
    between = Inbetween(places(2, Fraction(3), 16, Fraction(24)))
    frames = list(np.zeros((2, 4, 4, 3), np.uint8))
    assert [numbers for frame in frames for numbers, _ in between.take(frame)] == [
        list(range(8)),
        list(range(8, 16)),
    ]


@pytest.mark.parametrize("how", HOW)
def test_a_clip_that_stands_still_stays_as_it_is(how):
    frame = texture()
    shown = run([frame.copy() for _ in range(3)], places(3, Fraction(8), 9, Fraction(24), how), how)
    assert len(shown) == 9 and all(np.array_equal(picture, frame) for picture in shown.values())


def test_what_stands_still_beside_a_movement_is_not_touched():
    one, other = np.zeros((2, 96, 128, 3), np.uint8) + texture(2)
    other[:, :40] = moved(one, 3, 0)[:, :40]
    between = mixer(one, other, "flow")(0.5)
    assert np.abs(between[:, 64:].astype(int) - one[:, 64:]).mean() < 0.5


def test_bytes_survive_the_way_through_light():
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(from_light(to_light(greys)), greys)


def test_a_blend_keeps_the_light():
    dark, bright = np.zeros((2, 4, 4, 3), np.uint8)
    bright[:] = 255
    for part in (0.25, 0.5, 0.75):
        assert to_light(mixer(dark, bright, "blended")(part)) == pytest.approx(part, abs=0.004)


def test_what_is_transparent_lends_no_colour():
    red, clear = np.zeros((2, 4, 4, 4), np.uint8)
    red[:] = (255, 0, 0, 255)
    clear[:] = (0, 0, 255, 0)
    assert mixer(red, clear, "blended")(0.5)[0, 0].tolist() == [255, 0, 0, 128]


@pytest.mark.parametrize("shift", [(5, 0), (0, -4), (7.5, 3.25)])
@pytest.mark.parametrize("part", [0.25, 0.5, 0.8])
def test_along_the_flow_things_are_where_they_would_be(shift, part):
    one = texture(3)
    between = mixer(one, moved(one, *shift), "flow")(part)
    found = measured_shift(one, between)
    assert np.hypot(*(np.subtract(found, np.multiply(shift, part)))) < 0.5
    assert (
        np.abs(
            between[16:-16, 16:-16].astype(float) - moved(one, *np.multiply(shift, part))[16:-16, 16:-16]
        ).mean()
        < 2
    )


def measured_shift(one, other):
    """How far the middle of a picture has moved, by phase correlation, which knows nothing of flow."""
    greys = [
        cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float32)[16:-16, 16:-16] for each in (one, other)
    ]
    window = cv2.createHanningWindow(greys[0].shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(*greys, window)
    return x, y


def test_the_mask_moves_with_its_picture():
    one = np.dstack([texture(4), np.zeros((96, 128), np.uint8)])
    one[30:60, 40:70, 3] = 255
    other = np.dstack([moved(one[..., :3], 8, 0), np.zeros((96, 128), np.uint8)])
    other[30:60, 48:78, 3] = 255
    alpha = mixer(one, other, "flow")(0.5)[..., 3].astype(float)
    columns = (alpha[30:60] * np.arange(128)).sum() / alpha[30:60].sum()
    assert columns == pytest.approx(58.5, abs=0.5)
    assert alpha[45, 46:72].min() > 200 and alpha[45, :40].max() < 55 and alpha[45, 79:].max() < 55


def test_a_thing_before_a_wall_moves_and_the_wall_stays_whole():
    """A square before a textured wall: blending shows it twice, flow once, half way."""
    wall, thing = texture(5), texture(6)[:32, :32]
    thing = 255 - thing // 4

    def at(x):
        picture = wall.copy()
        picture[32:64, x : x + 32] = thing
        return picture

    truth = at(46).astype(float)
    error = {how: np.abs(mixer(at(40), at(52), how)(0.5) - truth).mean() for how in ("blended", "flow")}
    assert error["flow"] < 0.5 * error["blended"]


def test_rates_that_make_no_sense_are_told():
    with pytest.raises(EngineError, match="fps must be more than 0"):
        places(3, Fraction(0), 3, Fraction(24))
    with pytest.raises(EngineError, match="like that"):
        places(3, Fraction(3), 3, Fraction(24), "dreamt")
