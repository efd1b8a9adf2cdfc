"""How frames were made to look: from which still, and where people stood in them; so that new ones can go over from one
strip's look into another's. Knows files, not `bpy`.

It is known of a take's frames, whichever strip shows them, from what their clip has kept. Of any other picture, nothing
more is known than the picture.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..captures import Capture
from ..protocol import ClipRequest, PoseTrack, blob_sha256
from . import clip_folder, kept, takes
from .splice import Splice

MAX_JOINS = 1000  # of takes that were joined from one another
Points = Mapping[
    int, np.ndarray
]  # by frames of the timeline: (people, 130, 3), x and y as shares of the picture


@dataclass(frozen=True)
class Look:
    """still: an image file's bytes, of the take's still or of the frame. source: what it is known from, a clip's folder
    or the frame itself. inputs: what the `take.json` tells of them. still_pose: (people, 130, 3), as `points`."""

    still: bytes = field(repr=False)
    source: Path
    inputs: dict = field(default_factory=dict, repr=False)
    points: Points = field(default_factory=dict, repr=False)
    still_pose: np.ndarray | None = field(default=None, repr=False)

    def is_like(self, other: Look) -> bool:
        return self.source == other.source or self.still == other.still


def apart(one: dict[int, Path], other: dict[int, Path]) -> tuple[Look, Look] | None:
    """The looks at the end of one strip and at the begin of another one; None where they are alike. one, other: files
    by frames of the timeline. Raises TakeError and ProtocolError."""
    ends = _at(one, max(one)), _at(other, min(other))
    return None if ends[0].is_like(ends[1]) else ends


def _at(files: dict[int, Path], frame: int) -> Look:
    """The look at one of some frames, with where people stand at all of them."""
    made = made_by(files[frame])
    take = made[0] if made is not None else clip_folder.Take(files[frame].parent)
    inputs = take.record.get("inputs")
    inputs = inputs if isinstance(inputs, dict) else {}
    there = inputs.get(kept.KEY) or {}
    still, poses = (
        sha256 if sha256 in there else None for sha256 in map(take.request.get, ("still", "poses"))
    )
    clip = take.folder.parent
    blobs = kept.read(clip, filter(None, (still, poses)))
    points, still_pose = _points(take, files, PoseTrack.from_bytes(blobs[poses])) if poses else ({}, None)
    if still:
        return Look(blobs[still], clip, inputs, points, still_pose)
    try:
        picture = files[frame].read_bytes()
    except OSError as error:
        raise takes.TakeError(
            f"{files[frame]} can't be read ({error.strerror or error}); bring it back, or remove its strip."
        ) from error
    return Look(picture, files[frame] if made is None else clip, inputs, points)


def made_by(file: Path) -> tuple[clip_folder.Take, int] | None:
    """The take whose request made a file, and which of the frames that came back it is; None for any other picture.
    Raises TakeError."""
    take = clip_folder.look(Path(os.path.normpath(file.parent)))
    if not take.request or not file.stem.isdecimal():
        return None
    place = int(file.stem) - 1
    for _ in range(MAX_JOINS):
        part = Splice.of_record(take.record)
        if part is None or place in part.new:
            return take, place - (part.offset if part else 0)
        folder = Path(os.path.normpath(take.folder.parent / part.of))
        take, place = clip_folder.look(folder), place - part.of_offset
        if not part.of or not take.request:
            return None
    raise takes.TakeError(f"{file} is joined from more than {MAX_JOINS} takes; show another take.")


def _points(
    take: clip_folder.Take, files: dict[int, Path], track: PoseTrack
) -> tuple[Points, np.ndarray | None]:
    """Where people stand at those of the frames that one take's request made, and in its still."""
    size = np.array([track.width, track.height, 1], "f4")
    points = np.frombuffer(track.points, "<f4").reshape(track.shape) / size
    still_pose = track.still_pose and np.frombuffer(track.still_pose, "<f4").reshape(track.shape[1:]) / size
    generated, shown = (take.request.get(rate) for rate in ("fps", "output_fps"))
    found = {}
    for frame, file in files.items():
        made = made_by(file)
        if made is not None and made[0].folder == take.folder:
            number = round(made[1] * generated / (shown or generated))
            found[frame] = points[min(number, len(points) - 1)]
    return found, still_pose


@dataclass
class Led:
    """A `captures.Capture`: the poses that another one reads, led as `led` says. times, new: as there; one, other: the
    looks."""

    poses: Capture
    times: Sequence[float]
    new: tuple[int, int]
    one: Look
    other: Look

    @property
    def phase(self) -> str:
        return self.poses.phase

    @property
    def done(self) -> int:
        return self.poses.done

    @property
    def total(self) -> int:
        return self.poses.total

    def advance(self, deadline: float) -> bool:
        return self.poses.advance(deadline)

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        request, blobs = self.poses.finish(request)
        track = PoseTrack.from_bytes(blobs[request.poses])
        size = np.array([track.width, track.height, 1], "f4")
        points = np.frombuffer(track.points, "<f4").reshape(track.shape) / size
        still_pose = np.zeros_like(points[0])  # of the still that the one look has
        if (figures := self.one.still_pose) is not None:
            known = min(len(figures), len(still_pose))
            still_pose[:known] = figures[:known]
        told = dataclasses.replace(
            track,
            points=_bytes(led(points, self.times, self.new, {**self.one.points, **self.other.points}) * size),
            still_pose=None if figures is None else _bytes(still_pose * size),
        ).to_bytes()
        sha256 = blob_sha256(told)
        return dataclasses.replace(request, poses=sha256), {sha256: told}

    def cancel(self) -> None:
        self.poses.cancel()


def led(points: np.ndarray, times: Sequence[float], new: tuple[int, int], known: Points) -> np.ndarray:
    """A rig's points, (t, people, 130, 3), led from where people stand in the frames before new ones to where they do
    in those after them: there as `known` has it, and in the new frames moved by what the rig lacks at either end, less
    and less of the one and more and more of the other. Where a rig is as known, nothing changes.

    times: of the generated frames on the timeline. new: the first and the last of its frames that are made.
    """
    moved, (first, last) = points.copy(), new
    lacks = {i: _lack(points[i], known[round(t)]) for i, t in enumerate(times) if round(t) in known}
    one = lacks.get(max((i for i in lacks if times[i] < first), default=-1), np.zeros_like(points[0]))
    other = lacks.get(min((i for i in lacks if times[i] > last), default=-1), np.zeros_like(points[0]))
    for i, time in enumerate(times):
        share = min(max((time - first + 1) / (last - first + 2), 0), 1)
        moved[i] += lacks[i] if i in lacks else (1 - share) * one + share * other
    return moved


def _lack(points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What takes one frame's points to where they are known to be, as far as they are seen here and there."""
    lack, people = np.zeros_like(points), min(len(points), len(known))
    seen = (points[:people, :, 2] > 0) & (known[:people, :, 2] > 0)
    lack[:people, :, :2] = (known[:people] - points[:people])[..., :2] * seen[..., None]
    return lack


def _bytes(points: np.ndarray) -> bytes:
    return points.astype("<f4").tobytes()
