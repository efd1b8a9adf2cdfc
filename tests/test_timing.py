"""When a clip's frames are: both halves of the way, the extension's times and the engine's places, must fit."""

from fractions import Fraction
from math import ceil

import pytest

from blender_addon.protocol import ClipRequest, exact_rate
from blender_addon.timing import plan, scene_rate
from musev_engine.inbetween import HOW, places

NTSC = Fraction(1000, 1001)
SCENES = {  # as Blender keeps them: fps and its base, a float32
    (24, 1.0010000467300415): 24 * NTSC, (24, 1.0): 24, (25, 1.0): 25, (30, 1.0010000467300415): 30 * NTSC,
    (30, 1.0): 30, (50, 1.0): 50, (60, 1.0): 60, (60, 1.0010000467300415): 60 * NTSC, (48, 2.0): 24,
}  # fmt: skip
RATES = [Fraction(3), Fraction(8), 3 * NTSC, Fraction(25, 2), Fraction(24)]


@pytest.mark.parametrize(("scene", "fps"), SCENES.items())
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("between", HOW)
@pytest.mark.parametrize("count", [1, 7, 96, 1000])
def test_what_is_generated_at_a_time_is_shown_there(scene, fps, rate, between, count):
    made = plan(101, count, scene_rate(*scene), rate, between)
    assert made.output_fps == fps and made.output_frames == count
    request = ClipRequest(mode="text", **made.request)
    assert request.frames_out == count
    generated, output = request.rates
    assert (generated, output) == (rate, fps)  # the wire carries floats, and they mean the same
    where = places(request.num_frames, generated, request.frames_out, output, between)
    for k, place in enumerate(where):
        shown = made.times[place.frame] + float(place.part * fps / rate)
        behind = float(fps / rate) if between == "held" else 1e-9
        assert -1e-9 <= 101 + k - shown < behind
    assert where[-1].frame + (where[-1].part > 0) == request.num_frames - 1  # none too few, none for nothing


def test_the_length_of_a_clip():
    held = plan(1, 96, Fraction(24), Fraction(3))
    assert held.times == tuple(range(1, 97, 8)) and (held.num_frames, held.output_frames) == (12, 96)
    blended = plan(1, 96, Fraction(24), Fraction(3), "blended")
    assert blended.times == tuple(range(1, 98, 8))  # the last one is a frame beyond the clip
    assert (blended.num_frames, blended.output_frames) == (13, 96)
    assert plan(1, 97, Fraction(24), Fraction(3), "flow").num_frames == 13
    assert plan(1, 10, Fraction(25), Fraction(3)).num_frames == ceil(10 * 3 / 25)


def test_every_frame_is_asked_for_as_ever():
    made = plan(5, 12, 24 * NTSC)
    assert made.times == tuple(range(5, 17)) and (made.num_frames, made.output_frames) == (12, 12)
    assert made.request == {"num_frames": 12, "fps": float(24 * NTSC)}
    assert exact_rate(made.request["fps"]) == 24 * NTSC
    assert plan(5, 1, Fraction(24)).num_frames == 1


def test_times_lie_between_frames_where_the_rates_do():
    assert plan(1, 10, Fraction(25), Fraction(10)).times == (1.0, 3.5, 6.0, 8.5)
