"""A take made of new frames and of frames of another take, which stay byte for byte. Knows files, not `bpy`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import takes

KEY = "redo"  # in what a job tells of itself, and so in `take.json`


@dataclass(frozen=True)
class Splice:
    """Which frames of a take are new, and where the others come from. All frames are counted from 0 in the new take.

    first_new, last_new: the new ones. count: of all. offset: where the first frame that comes back from the engine
    belongs; before first_new (below 0 too) where frames around the new ones were asked for with them. of: the take
    whose frames stay, seen from the folder of the new take's clip; "" for none. of_offset: where its first one belongs.
    """

    first_new: int
    last_new: int
    count: int
    offset: int
    of: str = ""
    of_offset: int = 0

    @property
    def new(self) -> range:
        return range(self.first_new, self.last_new + 1)

    @property
    def told(self) -> dict:
        """As plain values, for `take.json`."""
        told = dataclasses.asdict(self)
        return {"of": told.pop("of"), "from": told.pop("first_new"), "to": told.pop("last_new"), **told}

    @classmethod
    def of_job(cls, about: dict) -> Splice | None:
        """What a job tells; None where all its frames are new."""
        if (told := about.get(KEY)) is None:
            return None
        rest = {key: value for key, value in told.items() if key not in ("from", "to")}
        return cls(first_new=told["from"], last_new=told["to"], **rest)

    @classmethod
    def of_record(cls, record: dict) -> Splice | None:
        """What a `take.json` says; None for a take that was made as a whole. Raises TakeError."""
        inputs = record.get("inputs")
        try:
            return cls.of_job(inputs) if isinstance(inputs, dict) else None
        except (KeyError, TypeError, AttributeError) as error:
            raise takes.TakeError(
                f"The take's take.json is damaged: its '{KEY}' lacks or has too much ({error}); generate it again."
            ) from error

    def files(self, take: Path, clip: Path) -> list[Path]:
        """Where each frame of the whole take lies before it is joined: made ones in `take` as they came, others in the
        other take."""
        other = clip / self.of
        return [
            takes.frame_file(take, frame - self.offset)
            if frame in self.new
            else takes.frame_file(other, frame - self.of_offset)
            for frame in range(self.count)
        ]


def num_frames(about: dict, frames_out: int) -> int:
    """How many frames a job's finished take has; frames_out: how many come back from the engine."""
    splice = Splice.of_job(about)
    return frames_out if splice is None else splice.count


def join(take: Path, about: dict) -> None:
    """Puts a take's frames together, if it is to have frames of another one: as hard links where the disk has them,
    which nobody may write into then, for what is painted into one take's file would be in the other's, too.

    It is built beside the take and then takes its place, so it can be done again if it fails. Raises TakeError.
    """
    for _ in joining(take, about):
        pass


def joining(take: Path, about: dict) -> Iterator[None]:
    """`join` in slices; given up in between, the take is as it was."""
    splice = Splice.of_job(about)
    if splice is None:
        return
    whole = take.with_name(f"{take.name}.joined")
    if whole.exists():
        takes.discard(whole)
    takes.make_folder(whole)
    try:
        for frame, file in enumerate(splice.files(take, take.parent)):
            put = takes.link if frame in splice.new else takes.share
            put(file, takes.frame_file(whole, frame))
            yield
    except GeneratorExit:
        takes.discard(whole)
        raise
    if (job := take / takes.JOB).exists():  # until the take is placed
        takes.link(job, whole / takes.JOB)
    takes.discard(take)
    takes.move(whole, take)
