"""Which frames each context window of the parallel loop covers, and how much each of them counts.

Pure index arithmetic: this file knows no networks, latents or time, only the step's number. A schedule is a
function `(num_frames, context_frames, context_overlap, *, context_stride, step) -> list[Window]`, found by name
through `plugins`. Parallel denoising in overlapping windows is MuseV's (TMElyralab/MuseV) and MultiDiffusion's
(arXiv 2302.08113); `uniform` is AnimateDiff's schedule.
"""

import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from musev_engine import plugins
from musev_engine.errors import EngineError


class Window(NamedTuple):
    """Frames that are denoised together, and which of them count.

    `frames`: indices into [0, num_frames), in the order in which the network sees them.
    `counted`: the positions within `frames` whose prediction is used; the others are there for context.
    """

    frames: list[int]
    counted: range


def uniform_v2(
    num_frames: int, context_frames: int, context_overlap: int, *, context_stride: int = 1, step: int = 0
) -> list[Window]:
    """MuseV's default: windows every `context_frames - context_overlap` frames, the same at every step.

    The tail may be shorter than the rest. Only the very last window is dropped, and only when it ends on
    the same frame as the one before it: with an overlap above half a window, redundant tails remain.
    """
    starts = range(0, num_frames, context_frames - context_overlap)
    windows = [list(range(start, min(start + context_frames, num_frames))) for start in starts]
    if len(windows) > 1 and windows[-1][-1] == windows[-2][-1]:
        windows.pop()
    return [_whole(frames) for frames in windows]


def uniform(
    num_frames: int, context_frames: int, context_overlap: int, *, context_stride: int = 1, step: int = 0
) -> list[Window]:
    """AnimateDiff's schedule as MuseV uses it: frozen at step 0; after the last frame comes the first."""
    return uniform_at_step(num_frames, context_frames, context_overlap, context_stride=context_stride, step=0)


def uniform_at_step(
    num_frames: int,
    context_frames: int,
    context_overlap: int,
    *,
    context_stride: int = 1,
    step: int = 0,
    closed_loop: bool = True,
) -> list[Window]:
    """AnimateDiff's schedule in full: strides 1, 2, 4…, all indices modulo `num_frames`, moved at each step
    by `halving(step)` of the clip. `closed_loop=False` leaves out starts in its last `context_overlap` ones.
    """
    if num_frames <= context_frames:
        return [_whole(list(range(num_frames)))]
    doublings = min(context_stride, math.ceil(math.log2(num_frames / context_frames)) + 1)
    moved = round(num_frames * halving(step))
    windows = []
    for stride in (1 << power for power in range(doublings)):
        first = int(halving(step) * stride) + moved
        end = num_frames + moved - (0 if closed_loop else context_overlap)
        for start in range(first, end, context_frames * stride - context_overlap):
            windows.append([(start + i * stride) % num_frames for i in range(context_frames)])
    return [_whole(frames) for frames in windows]


def shifting(
    num_frames: int, context_frames: int, context_overlap: int, *, context_stride: int = 1, step: int = 0
) -> list[Window]:
    """Ours: windows of equal length whose borders move at every step, so that no seam stays in one place.

    A comb of windows, one every `context_frames - context_overlap` frames, slides over the clip by another
    whole number of frames at each step; in as many steps as that distance has frames it takes each offset
    exactly once. A window that sticks out of the clip is pushed back inside, so every window has full
    context, but only the frames it was meant for count: the borders near the clip's ends move as well.
    """
    if num_frames <= context_frames:
        return [_whole(list(range(num_frames)))]
    distance = context_frames - context_overlap
    offset = step * _golden_stride(distance) % distance
    windows = []
    for meant in range(-offset, num_frames - context_overlap, distance):
        start = min(max(meant, 0), num_frames - context_frames)
        counted = range(max(meant, 0) - start, min(meant + context_frames, num_frames) - start)
        windows.append(Window(list(range(start, start + context_frames)), counted))
    return windows


def plan_windows(
    schedule: str,
    num_frames: int,
    context_frames: int,
    context_overlap: int,
    *,
    context_stride: int = 1,
    step: int = 0,
) -> list[Window]:
    """The named schedule's windows for one step; together they count every frame of [0, num_frames).

    Raises EngineError for an unknown name or a schedule that leaves a frame out, ValueError for an empty clip or
    window, or an overlap outside [0, context_frames): at an overlap of a whole window the next window would never
    come.
    """
    laid_by = plugins.found("musev.window_schedules")[schedule]
    if num_frames < 1 or context_frames < 1 or context_stride < 1:
        raise ValueError(
            f"num_frames {num_frames}, context_frames {context_frames} and context_stride {context_stride} "
            "must each be at least 1"
        )
    if not 0 <= context_overlap < context_frames:
        raise ValueError(
            f"context_overlap is {context_overlap}; choose 0 to {context_frames - 1}, "
            f"less than the window's {context_frames} frames"
        )
    windows = laid_by(num_frames, context_frames, context_overlap, context_stride=context_stride, step=step)
    counted = {window.frames[place] for window in windows for place in window.counted}
    if counted != set(range(num_frames)):  # another package's: what no window counts would be no picture
        wrong = sorted(counted ^ set(range(num_frames)))
        raise EngineError(
            f"The window schedule {schedule!r} doesn't count each of {num_frames} frames",
            f"frames {', '.join(map(str, wrong[:5]))}{' …' if len(wrong) > 5 else ''}",
            "Choose another schedule, or update its package.",
            code="broken_plugin",
        )
    return windows


class Timeline:
    """Condition frames among the frames that are made: who sees whom.

    A timeline has `num_frames` frames. Those in `pinned` are given, clean; the others are made, and windows are
    laid over these alone, counted from 0, as in MuseV. What the network sees of a window also has condition
    frames, by these rules:

    - The condition frames at the timeline's head stand before every window, however far off, as in MuseV: its
      networks learned to take the clip's looks from there, and its frame indices begin with them.
    - Any other condition frame stands at its true place in each window that reaches one of its neighbours, and is
      left out of the others: a last frame put behind frames it doesn't follow would make every window hurry there.
    - A window that would then have none sees the nearest one before its frames, as it would one at the head.
    - One of `twins` at the head, though, stands only before windows with the frame that it is the twin of.

    `free`: the timeline's frames that are made. Raises ValueError for a pinned frame outside the timeline.
    """

    def __init__(
        self, num_frames: int, pinned: Collection[int] = (), twins: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        if wrong := [frame for frame in pinned if not 0 <= frame < num_frames]:
            raise ValueError(f"condition frame {wrong[0]} isn't in a timeline of {num_frames} frames")
        self.num_frames, self.pinned, self._twins = num_frames, sorted(pinned), twins
        given = set(pinned)
        self.free = [frame for frame in range(num_frames) if frame not in given]
        first = self.free[0] if self.free else num_frames
        self._head = [frame for frame in self.pinned if frame < first]
        self._after: dict[int, list[int]] = {}
        self._before: dict[int, list[int]] = {}
        self._previous: dict[int, int] = {}
        for frame in self.pinned[len(self._head) :]:
            self._previous[frame] = max(other for other in self.free if other < frame)
            self._after.setdefault(self._previous[frame], []).append(frame)
            following = next((other for other in self.free if other > frame), None)
            if following is not None:
                self._before.setdefault(following, []).append(frame)

    def seen(self, window: list[int]) -> list[int]:
        """What the network sees of a window (indices into `free`): frames of the timeline, in its order."""
        frames = [self.free[i] for i in window]
        present, sequence = set(frames), []
        for frame in frames:
            sequence += [p for p in self._before.get(frame, ()) if self._previous[p] not in present]
            sequence += [frame, *self._after.get(frame, ())]
        head = [frame for frame in self._head if self._twins.get(frame, frames[0]) in present]
        if not head and self.pinned and len(sequence) == len(frames):
            head = [min(self.pinned, key=lambda p: min(abs(p - frame) for frame in frames))]
        return head + sequence


def flat(length: int) -> np.ndarray:
    """Every frame counts alike (MuseV's mean)."""
    return np.ones(length, dtype=np.float32)


def triangular(length: int) -> np.ndarray:
    """A frame counts by its distance from the window's border, 1 in the middle and never 0."""
    place = np.arange(1, length + 1, dtype=np.float32)
    rise = np.minimum(place, place[::-1])
    return rise / rise.max()


OVERLAP_WEIGHTS: dict[str, Callable[[int], np.ndarray]] = {"flat": flat, "triangular": triangular}


def window_weights(name: str, window: Window) -> np.ndarray:
    """Weight of each of the window's frames, float32 (len(window.frames),): 0 where it doesn't count.

    Raises ValueError for an unknown name.
    """
    if name not in OVERLAP_WEIGHTS:
        choices = ", ".join(OVERLAP_WEIGHTS)
        raise ValueError(f"no overlap weights are called {name!r}; choose one of {choices}")
    weights = np.zeros(len(window.frames), dtype=np.float32)
    weights[window.counted.start : window.counted.stop] = OVERLAP_WEIGHTS[name](len(window.counted))
    return weights


def halving(step: int) -> float:
    """Van der Corput's sequence in [0, 1): the step's binary digits mirrored at the point (0, ½, ¼, ¾, …)."""
    return int(f"{step:064b}"[::-1], 2) / 2**64


def _golden_stride(distance: int) -> int:
    """The number nearest distance/φ that has no common factor with it, so its multiples visit every offset
    once before any twice, each far from the one before."""
    target = distance / ((1 + math.sqrt(5)) / 2)
    return min((n for n in range(distance + 1) if math.gcd(n, distance) == 1), key=lambda n: abs(n - target))


def _whole(frames: list[int]) -> Window:
    return Window(frames, range(len(frames)))
