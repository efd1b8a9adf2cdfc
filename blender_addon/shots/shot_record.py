"""What is kept of a shot list: a file that says which clips belong to it and what became of each. Knows no `bpy`.

    <root>/_sheets/2026-11-23_21-40-05.json        <root>/rain/take_001/…

It outlives Blender, so that a contact sheet of the night can be made in the morning; that lies beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..clips import takes
from ..making.jobs import Job
from ..translations import tr

FOLDER = "_sheets"  # no clip is called so: their names begin with a letter
KEY = "shot"  # in what a job tells of itself, and so in `job.json` and `take.json`: which shot of which list it is


@dataclass(frozen=True)
class Entry:
    """One shot of a list. label: of the strip that it was made from. take: the folder, from that of the list's file;
    "" where none was made. outcome: "done", "failed", "cancelled", "refused"; "" while it is on its way. problem: why
    there is no clip."""

    number: int
    label: str
    prompt: str = ""
    seed: int = 0
    frame_start: int = 1
    frames: int = 0
    take: str = ""
    outcome: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ShotList:
    """file: where it is kept."""

    file: Path
    name: str
    made: str
    entries: tuple[Entry, ...]

    def folder(self, entry: Entry) -> Path | None:
        """A shot's take."""
        return Path(os.path.normpath(self.file.parent / entry.take)) if entry.take else None


def join(job: Job, shots: ShotList, number: int, label: str) -> None:
    """Has a job, and so its `job.json` and `take.json`, tell that it is a shot of a list."""
    file = way(shots.file, job.take)
    job.about[KEY] = {"list": shots.name, "file": file, "number": number, "label": label}


def of(job: Job) -> tuple[Path, int] | None:
    """(the list's file, the shot's number) of a job that is a shot; else None."""
    told = job.about.get(KEY)
    if not isinstance(told, dict) or not isinstance(told.get("number"), int):
        return None
    file = Path(os.path.normpath(job.take / str(told.get("file"))))
    return (file, told["number"]) if file.parent.name == FOLDER and file.suffix == ".json" else None


def write(shots: ShotList) -> None:
    """Raises TakeError."""
    takes.make_folder(shots.file.parent)
    record = {"format": "musev.shot_list", "version": 1, "name": shots.name, "made": shots.made}
    record["shots"] = [asdict(entry) for entry in shots.entries]
    takes.write_whole(shots.file, json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n")


def read(file: Path) -> ShotList:
    """Raises TakeError where it can't be read."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        entries = tuple(_entry(each) for each in record["shots"])
        return ShotList(file, str(record["name"]), str(record["made"]), entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise takes.TakeError(
            tr(
                "The shot list {file} can't be read: {error}. Its takes are all there.",
                file=file,
                error=error,
            )
        ) from error


def found(roots: Iterable[Path]) -> list[Path]:
    """The files of all lists below these folders, the newest first: their names begin with when they were made."""
    files = [file for root in dict.fromkeys(roots) for file in (root / FOLDER).glob("*.json")]
    return sorted(files, key=lambda file: file.name, reverse=True)


def note(job: Job) -> None:
    """Notes what became of a job that has ended, if it is a shot of a list. Raises TakeError."""
    file, number = of(job) or (None, 0)
    if file is None or not file.exists():
        return
    shots = read(file)
    ended = {"take": way(job.take, file.parent), "outcome": job.state.name.lower(), "problem": job.problem}
    entries = (replace(each, **ended) if each.number == number else each for each in shots.entries)
    write(replace(shots, entries=tuple(entries)))


def way(there: Path, here: Path) -> str:
    """A path as seen from a folder, in any system's words, so that both may move; whole where no way leads there."""
    try:
        return Path(os.path.relpath(there, here)).as_posix()
    except ValueError:  # another drive
        return there.as_posix()


def _entry(told: dict) -> Entry:
    known = {field.name: field.default for field in fields(Entry)}
    entry = Entry(**{name: value for name, value in told.items() if name in known})
    for name, default in known.items():
        if name not in ("number", "label") and not isinstance(getattr(entry, name), type(default)):
            raise ValueError(f"{name} is {getattr(entry, name)!r}")
    return entry
