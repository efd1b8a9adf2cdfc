"""Context windows: they cover the clip, have equal lengths, and the seams of `shifting` move."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musev_engine import plugins
from musev_engine.errors import EngineError
from musev_engine.windows import (
    OVERLAP_WEIGHTS,
    Timeline,
    Window,
    halving,
    plan_windows,
    window_weights,
)

SCHEDULES = ("shifting", "uniform_v2", "uniform")

sizes = st.tuples(st.integers(1, 150), st.integers(1, 24), st.integers(0, 23), st.integers(0, 40)).filter(
    lambda size: size[2] < size[1]
)


def counted_frames(window: Window) -> list[int]:
    return [window.frames[position] for position in window.counted]


def borders(windows: list[Window], num_frames: int) -> set[int]:
    """Frames before which some window begins or ends to count, the clip's own ends left out."""
    edges = {edge for w in windows for edge in (counted_frames(w)[0], counted_frames(w)[-1] + 1)}
    return edges - {0, num_frames}


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(deadline=None)
@given(size=sizes, stride=st.integers(1, 3))
def test_every_frame_counts_somewhere(schedule, size, stride):
    num_frames, context_frames, overlap, step = size
    windows = plan_windows(schedule, num_frames, context_frames, overlap, context_stride=stride, step=step)
    assert {frame for w in windows for frame in counted_frames(w)} == set(range(num_frames))
    assert all(len(w.frames) <= context_frames for w in windows)


@settings(deadline=None)
@given(size=sizes)
def test_shifting_windows_are_equally_long_and_in_order(size):
    num_frames, context_frames, overlap, step = size
    windows = plan_windows("shifting", num_frames, context_frames, overlap, step=step)
    length = min(num_frames, context_frames)
    for window in windows:
        assert window.frames == list(range(window.frames[0], window.frames[0] + length))
    for window, following in itertools.pairwise(windows):
        shared = set(counted_frames(window)) & set(counted_frames(following))
        assert len(shared) == overlap  # never less than asked, the tail included


@settings(deadline=None)
@given(size=sizes)
def test_no_seam_of_shifting_stays(size):
    num_frames, context_frames, overlap, first_step = size
    distance = context_frames - overlap
    plans = [
        plan_windows("shifting", num_frames, context_frames, overlap, step=first_step + i)
        for i in range(distance)
    ]
    seams = [borders(plan, num_frames) for plan in plans]
    for frame in range(num_frames):
        assert sum(frame in of_step for of_step in seams) <= 2  # one window's begin, one window's end


def test_shifting_moves_at_every_step_and_repeats_exactly():
    plans = [plan_windows("shifting", 48, 12, 4, step=step) for step in range(9)]
    assert all(one != other for one, other in itertools.pairwise(plans))
    assert plans[8] == plans[0] and plans[3] == plan_windows("shifting", 48, 12, 4, step=3)


@settings(deadline=None)
@given(size=sizes, name=st.sampled_from(sorted(OVERLAP_WEIGHTS)))
def test_weights_are_positive_where_they_count_and_average_to_one(size, name):
    num_frames, context_frames, overlap, step = size
    total = np.zeros(num_frames, np.float32)
    mean = np.zeros(num_frames, np.float32)
    windows = plan_windows("shifting", num_frames, context_frames, overlap, step=step)
    for window in windows:
        weights = window_weights(name, window)
        assert weights.dtype == np.float32 and weights.max() <= 1
        assert (weights > 0).tolist() == [i in window.counted for i in range(len(window.frames))]
        total[window.frames] += weights
    for window in windows:
        mean[window.frames] += window_weights(name, window) / total[window.frames]
    assert np.allclose(mean, 1, atol=1e-6)


def test_triangular_is_symmetric_and_highest_in_the_middle():
    weights = window_weights("triangular", Window(list(range(6)), range(6)))
    assert np.allclose(weights, [1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3])


def test_tail_of_uniform_v2_may_be_short():
    assert [w.frames for w in plan_windows("uniform_v2", 13, 12, 4)] == [list(range(12)), list(range(8, 13))]


def test_halving_mirrors_the_steps_bits():
    assert [halving(step) for step in range(5)] == [0.0, 0.5, 0.25, 0.75, 0.125]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_overlap_of_a_whole_window_is_refused(schedule):
    with pytest.raises(ValueError, match="context_overlap is 12; choose 0 to 11"):
        plan_windows(schedule, 48, 12, 12)


def test_unknown_names_and_empty_sizes_are_refused():
    with pytest.raises(EngineError, match=r"got unifrom\)\. Did you mean uniform"):
        plan_windows("unifrom", 48, 12, 4)
    with pytest.raises(ValueError, match="'round'; choose one of flat, triangular"):
        window_weights("round", Window([0], range(1)))
    with pytest.raises(ValueError, match="num_frames 0"):
        plan_windows("uniform", 0, 12, 4)


def test_our_schedules_are_found_as_anyones_are():
    assert set(SCHEDULES) <= set(plugins.found("musev.window_schedules"))


def seen(timeline: Timeline, window: list[int]) -> tuple[list[int], list[int]]:
    """The frames that the network sees, and those of them that are given."""
    sequence = timeline.seen(window)
    return sequence, [frame for frame in sequence if frame in timeline.pinned]


def test_a_head_stands_before_every_window_as_in_musev():
    timeline = Timeline(20, [0, 1])
    assert seen(timeline, [0, 1, 2]) == ([0, 1, 2, 3, 4], [0, 1])
    assert seen(timeline, [10, 11]) == ([0, 1, 12, 13], [0, 1])


def test_a_last_frame_stands_behind_the_frames_it_follows_and_no_others():
    timeline = Timeline(10, [0, 9])
    assert seen(timeline, list(range(8))) == (list(range(10)), [0, 9])
    assert seen(timeline, [0, 1, 2]) == ([0, 1, 2, 3], [0])
    assert seen(timeline, [6, 7]) == ([0, 7, 8, 9], [0, 9])


def test_a_frame_between_stands_at_its_place_in_every_window_that_reaches_it():
    timeline = Timeline(12, [0, 5, 6])
    assert seen(timeline, [3, 4, 5])[0] == [0, 4, 5, 6, 7, 8]
    assert seen(timeline, [1, 2, 3])[0] == [0, 2, 3, 4, 5, 6]
    assert seen(timeline, [4, 5])[0] == [0, 5, 6, 7, 8]
    assert seen(timeline, [5, 6])[0] == [0, 8, 9]


def test_a_window_that_reaches_none_sees_the_nearest():
    timeline = Timeline(30, [10, 29])
    assert seen(timeline, [0, 1, 2])[0] == [10, 0, 1, 2]
    assert seen(timeline, [22, 23])[0] == [29, 23, 24]
    assert seen(timeline, [26, 27])[0] == [27, 28, 29]


@settings(deadline=None)
@given(size=sizes, pinned=st.sets(st.integers(0, 150), max_size=6), schedule=st.sampled_from(SCHEDULES))
def test_no_slot_is_lost_and_none_is_taken_twice(size, pinned, schedule):
    num_frames, context_frames, overlap, step = size
    timeline = Timeline(num_frames, {frame for frame in pinned if frame < num_frames})
    assert sorted([*timeline.free, *timeline.pinned]) == list(range(num_frames))
    if not timeline.free:
        return
    for window in plan_windows(schedule, len(timeline.free), context_frames, overlap, step=step):
        sequence, given = seen(timeline, window.frames)
        made = [frame for frame in sequence if frame not in timeline.pinned]
        assert made == [timeline.free[i] for i in window.frames]
        assert len(set(given)) == len(given)
        assert given or not timeline.pinned


def test_a_condition_frame_outside_the_timeline_is_refused():
    with pytest.raises(ValueError, match="condition frame 7 isn't in a timeline of 7"):
        Timeline(7, [0, 7])
