"""Which frames are made anew, and between which, when part of a take is redone, or a clip extended or bridged.

All three are a request for the new frames and a few that stay beside them, which are given as pins; the new take is
then joined from new and old frames (`splice`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import bpy

from .. import session, strips
from ..protocol import ClipRequest
from ..translations import tr
from . import clip_folder, stack, takes
from .splice import Splice

KEPT = ClipRequest.context_overlap  # generated frames on each side that stay and that the new ones go on from


@dataclass(frozen=True)
class Part:
    """What is asked for in place of a whole clip.

    span: (first, first after) of the timeline's frames that are asked for, those that stay among them. kept: the files
    of those, by their frames. start: where the new take begins. begins: whether the span begins where a still that is
    animated would be the first frame. folder, clip: of the clip that the take joins, and its name. sides: of a gap
    between two strips, which of `kept` are of the one and which of the other. is_draft: whether what stays is small.
    """

    span: tuple[int, int]
    kept: dict[int, Path]
    splice: Splice
    start: int
    begins: bool
    folder: Path
    clip: str
    sides: tuple[dict[int, Path], dict[int, Path]] | None = None
    is_draft: bool = False

    @property
    def new(self) -> tuple[int, int]:
        """(first, last) of the timeline's frames that are made anew."""
        return self.start + self.splice.first_new, self.start + self.splice.last_new

    def pictures(self, times: Sequence[float]) -> dict[int, Path]:
        """Which generated frames, whose times on the timeline these are, are given. Raises StripError where that leaves
        none to generate."""
        first, last = self.new
        if not any(first - 0.5 <= time <= last + 0.5 for time in times):
            raise strips.StripError(
                tr(
                    "No frame is generated between {first} and {last} at this rate; choose a wider range, or "
                    "generate at every frame.",
                    first=first,
                    last=last,
                )
            )
        return {i: self.kept[round(time)] for i, time in enumerate(times) if round(time) in self.kept}


def generated_apart(scene_fps: Fraction, fps: Fraction | None) -> int:
    """How many frames of the timeline `KEPT` generated ones take, fps of them a second (None: all)."""
    return KEPT if fps is None else ceil(KEPT * scene_fps / fps)


def redo_range(strip, first: int, last: int, around: int) -> Part:
    """Frames first to last of the timeline in the take that a strip of ours shows, made anew as another take of it.
    around: how many frames that stay are given on each side. Raises StripError and TakeError.
    """
    take, files, start = _shown(strip)
    end = start + len(files)
    if last < first:
        raise strips.StripError(
            tr(
                "The last frame ({last}) lies before the first one ({first}); swap them.",
                first=first,
                last=last,
            )
        )
    if not start <= first <= last < end:
        raise strips.StripError(
            tr(
                "The frames {first} to {last} are not all in the strip '{strip}', which has {start} to "
                "{end}; choose frames of it.",
                first=first,
                last=last,
                strip=strip.name,
                start=start,
                end=end - 1,
            )
        )
    span = max(start, first - around), min(end, last + 1 + around)
    kept = {f: files[f - start] for f in range(*span) if not first <= f <= last}
    splice = Splice(first - start, last - start, len(files), span[0] - start, take.name)
    return Part(span, kept, splice, start, span[0] == start, take.folder.parent, strip.musev.clip)


def extend(scene: bpy.types.Scene, strip, frames: int, before: bool, around: int) -> Part:
    """A longer clip: the shown take and so many new frames after or before it. It has another length, so it is a clip
    of its own, in a strip of its own; the strip that it goes on from stays as it is. Raises StripError and TakeError.
    """
    take, files, start = _shown(strip)
    end, count = start + len(files), len(files) + frames
    if before:
        span, new_start, new = (start - frames, min(end, start + around)), start - frames, (0, frames - 1)
    else:
        span, new_start, new = (max(start, end - around), end + frames), start, (len(files), count - 1)
    kept = {f: files[f - start] for f in range(*span) if start <= f < end}
    clip = strip.musev.clip
    folder = stack.clip_for(
        scene, take.folder.parent.parent, clip, new_start, count, session.current.jobs, [strip.name]
    )
    of = Path(os.path.relpath(take.folder, folder)).as_posix()
    splice = Splice(*new, count, span[0] - new_start, of, frames if before else 0)
    return Part(span, kept, splice, new_start, False, folder, clip)


def bridge(scene: bpy.types.Scene, one, other, root: Path, around: int) -> Part:
    """New frames in the gap between two image strips, led out of the one and into the other. root: where clips lie.
    Raises StripError and TakeError."""
    one, other = sorted((one, other), key=lambda strip: strips.span(strip)[0])
    (begin, first), (after, end) = strips.span(one), strips.span(other)
    if first >= after:
        raise strips.StripError(
            tr(
                "There is no gap between '{one}' (to {first}) and '{other}' (from {after}); move them apart.",
                one=one.name,
                first=first - 1,
                other=other.name,
                after=after,
            )
        )
    for strip in (one, other):
        if not strips.is_image(strip) or strips.is_retimed(strip):
            raise strips.StripError(
                tr(
                    "'{strip}' is no image strip at its own speed; a gap is bridged between image strips.",
                    strip=strip.name,
                )
            )
    span = max(begin, first - around), min(end, after + around)
    before = {f: strips.file_at(one, f) for f in range(span[0], first)}
    behind = {f: strips.file_at(other, f) for f in range(after, span[1])}
    clip = takes.clip_name(f"{one.name} to {other.name}")
    folder = stack.clip_for(scene, root, clip, first, after - first, session.current.jobs)
    splice = Splice(0, after - first - 1, after - first, span[0] - first)
    return Part(span, before | behind, splice, first, False, folder, clip, (before, behind))


def _shown(strip) -> tuple[clip_folder.Take, list[Path], int]:
    """The take that a strip of ours shows, the files that it shows of it, and the first one's frame. Raises StripError
    and TakeError."""
    if strips.is_retimed(strip):
        raise strips.StripError(
            tr(
                "The strip '{strip}' is retimed, so its frames are not the take's; remove its retiming keys.",
                strip=strip.name,
            )
        )
    take = stack.read(strip).take(stack.shown(strip).name)
    files = take.frames()
    start, count = strips.content(strip)
    if len(files) != count:
        raise takes.TakeError(
            tr(
                "{take} has {there} frames, and its strip shows {count}; bring the missing ones back.",
                take=take.name,
                there=len(files),
                count=count,
            )
        )
    return take, files, start
