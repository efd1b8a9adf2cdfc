"""A clip's folder: the takes in it, and what the artist thinks of each. Knows files, not `bpy`.

    <clip>/take_001/0001.png …, take.json      marks.json: stars and labels      _removed/take_002/…

Which takes there are, the folders alone say: marks that can't be read lose stars and labels, never a take.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import takes

MARKS = "marks.json"
RESEARCH_ONLY = re.compile(r"(?i)research|non-?\s?commercial|(?<![a-z])nc(?![a-z])")  # in a licence's name


@dataclass(frozen=True)
class Mark:
    star: bool = False
    label: str = ""


@dataclass(frozen=True)
class Take:
    """One take. finished: it has a take.json; else it is being made, or was left half made. record: what that says.
    problem: why it says nothing; "" where it does."""

    folder: Path
    finished: bool = False
    record: dict = field(default_factory=dict, repr=False)
    mark: Mark = Mark()
    problem: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def number(self) -> int:
        return takes.number(self.name)

    @property
    def request(self) -> dict:
        return _part(self.record, "request", {})

    @property
    def seed(self) -> int | None:
        return _part(self.request, "seed", None, int)

    @property
    def prompt(self) -> str:
        return _part(self.request, "prompt", "")

    @property
    def licence(self) -> str:
        """Under which licence the model stands that made it; "" where none is told."""
        return _part(_part(self.record, "model", {}), "licence", "")

    @property
    def research_only(self) -> bool:
        return is_research_only(self.licence)

    def frames(self) -> list[Path]:
        """The files of its frames, in order. Raises TakeError where there are none."""
        try:
            files = sorted(p for p in self.folder.iterdir() if re.fullmatch(r"\d{4,}\.png", p.name))
        except OSError as error:
            raise takes.TakeError(
                f"{self.folder} can't be read ({error.strerror or error}). Bring the folder back, or show another take."
            ) from error
        if not files:
            raise takes.TakeError(f"{self.folder} holds 0 frames; show another take.")
        return files


@dataclass(frozen=True)
class Clip:
    """takes: by number. problem: what of the marks could not be read; ""."""

    folder: Path
    takes: tuple[Take, ...]
    problem: str = ""

    def take(self, name: str) -> Take:
        """The take of that name ("take_003") or number ("3"). Raises TakeError."""
        for take in self.takes:
            if name == take.name or name == str(take.number):
                return take
        there = ", ".join(str(take.number) for take in self.takes) or "none"
        raise takes.TakeError(f"There is no take '{name}' in {self.folder}; choose one of these: {there}.")


def is_research_only(licence: str) -> bool:
    """Whether a licence's name says that what the model makes may not be sold."""
    return bool(RESEARCH_ONLY.search(licence))


_read: dict[Path, tuple[tuple, Clip]] = {}  # by folder: what it looked like, and what was in it


def read(folder: Path) -> Clip:
    """The takes of a clip. Quick enough for a panel: files are read again only where they have changed. Raises
    TakeError where the folder is missing.
    """
    try:
        with os.scandir(folder) as entries:
            dirs = sorted((takes.number(e.name), e.name) for e in entries if _is_take(e))
        looks = (
            _stamp(folder / MARKS),
            *((name, _stamp(folder / name / takes.SIDECAR)) for _, name in dirs),
        )
    except OSError as error:
        raise takes.TakeError(
            f"The takes of this strip are missing: {folder} can't be read ({error.strerror or error}). Bring the "
            "folder back, or correct the strip's source folder."
        ) from error
    known = _read.get(folder)
    if known is None or known[0] != looks:
        marks, problem = _marks(folder)
        found = tuple(look(folder / name, marks.get(name, Mark())) for _, name in dirs)
        _read[folder] = known = (looks, Clip(folder, found, problem))
    return known[1]


def mark(folder: Path, name: str, star: bool | None = None, label: str | None = None) -> Path | None:
    """Sets a take's star and label; None leaves it. Marks that can't be read are moved aside: returns where to, else
    None. Raises TakeError, and nothing is changed then.
    """
    marks, problem = _marks(folder)
    aside = None
    if problem and (folder / MARKS).exists():
        aside = takes.free_name(folder / "marks.unreadable.json")
        takes.move(folder / MARKS, aside)
    old = marks.get(name, Mark())
    marks[name] = Mark(old.star if star is None else star, old.label if label is None else label.strip())
    said = {
        name: {"star": each.star, "label": each.label}
        for name, each in sorted(marks.items())
        if each != Mark()
    }
    record = {"format": "musev.marks", "version": 1, "takes": said}
    takes.write_whole(folder / MARKS, json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n")
    _read.pop(folder, None)
    return aside


def remove(folder: Path, names: Iterable[str]) -> Path:
    """Moves takes into the folder's `_removed`, from which `restore` fetches them; returns it. Raises TakeError."""
    trash = folder / takes.REMOVED
    takes.make_folder(trash)
    for name in names:
        takes.move(folder / name, trash / name)
    return trash


def removed(folder: Path) -> list[str]:
    """The names of the takes that were removed and can be fetched back."""
    try:
        with os.scandir(folder / takes.REMOVED) as entries:
            return sorted((e.name for e in entries if _is_take(e)), key=takes.number)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise takes.TakeError(f"{folder / takes.REMOVED} can't be read: {error}.") from error


def restore(folder: Path) -> list[str]:
    """Brings all removed takes back; returns their names. Raises TakeError."""
    names = removed(folder)
    for name in names:
        takes.move(folder / takes.REMOVED / name, folder / name)
    return names


def empty(folder: Path) -> tuple[list[str], int]:
    """Deletes the removed takes for good; returns their names and the bytes of their files that no other take shares.
    Raises TakeError."""
    names, freed = removed(folder), 0
    for name in names:
        take = folder / takes.REMOVED / name
        states = [path.stat() for path in take.iterdir()]
        freed += sum(state.st_size for state in states if state.st_nlink == 1)
        takes.discard(take)
    return names, freed


def _is_take(entry: os.DirEntry) -> bool:
    return takes.number(entry.name) > 0 and entry.is_dir()


def _stamp(path: Path) -> tuple[int, int]:
    """What a file looks like from outside: it changes when the file does."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (state.st_mtime_ns, state.st_size)


def look(folder: Path, its_mark: Mark = Mark()) -> Take:
    """One take as it lies there, or doesn't."""
    if not (folder / takes.SIDECAR).exists():
        return Take(folder, mark=its_mark, problem="Not finished: it has no take.json")
    try:
        return Take(folder, True, takes.read_sidecar(folder), its_mark)
    except takes.TakeError as error:
        return Take(folder, True, mark=its_mark, problem=str(error))


def _marks(folder: Path) -> tuple[dict[str, Mark], str]:
    """What marks.json says, and what of it can't be read."""
    path = folder / MARKS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        return {}, f"Stars and labels can't be read from {path} ({error}); the takes are all here."
    told = record.get("takes") if isinstance(record, dict) else None
    if not isinstance(told, dict) or not all(isinstance(each, dict) for each in told.values()):
        return {}, f"Stars and labels can't be read from {path} (no marks in it); the takes are all here."
    return {
        name: Mark(_part(each, "star", False), _part(each, "label", "")) for name, each in told.items()
    }, ""


def _part(record: dict, key: str, otherwise, kind: type | None = None):
    """A value of the right kind out of a file that anyone may have written."""
    value = record.get(key, otherwise)
    return value if isinstance(value, kind or type(otherwise)) else otherwise
