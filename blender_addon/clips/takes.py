"""Takes on disk: a folder of PNG frames and `take.json` beside them. Knows files, not `bpy`.

    <root>/<clip>/<take>/0001.png …, take.json        root: `//musev`, or a chosen folder while the .blend
    is unsaved

A new take is a new folder, never an old one overwritten: the sequencer keeps showing pictures whose files
change under it, and an artist keeps the take that was better.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

SIDECAR = "take.json"
JOB = "job.json"  # while the take is being made: what `job_files` needs to find its job again
WINDOWS_DEVICE = "con|prn|aux|nul|com[0-9]|lpt[0-9]"  # can't be a folder's name there
SLICE_BYTES = 4 << 20  # of a file that is written in slices
REMOVED = "_removed"  # inside a clip's folder: the takes that the artist took away


class TakeError(OSError):
    """A take can't be written: which file, why, and the remedy."""


def clip_name(text: str) -> str:
    """A folder name that every system takes, from whatever the artist wrote; at most 40 characters."""
    name = re.sub(r"[^\w-]+", "_", text).strip("_")[:40].rstrip("_")
    return f"{name}_" if re.fullmatch(WINDOWS_DEVICE, name.lower()) else name or "clip"


def number(name: str) -> int:
    """The number in a take's name, from 1; 0 for any other name."""
    found = re.fullmatch(r"take_(\d+)", name)
    return int(found[1]) if found else 0


def free_clip(root: Path, clip: str) -> Path:
    """`<root>/<clip>`, or `<root>/<clip>_2` and so on where another clip lies. Makes nothing. Raises TakeError."""
    name, count = clip_name(clip), 1
    folder = root / name
    try:
        while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            count += 1
            folder = root / f"{name[:34].rstrip('_')}_{count}"
    except OSError as error:
        raise explained(error, folder) from error
    return folder


def new_take(root: Path, clip: str) -> Path:
    """Makes and returns the next free `<root>/<clip>/take_NNN`. Raises TakeError if it can't be made."""
    return next_take(root / clip_name(clip))


def next_take(folder: Path) -> Path:
    """The same in the folder of a clip. A number that was removed does not come again. Raises TakeError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        removed = folder / REMOVED
        there = [*folder.iterdir(), *(removed.iterdir() if removed.is_dir() else ())]
        take = folder / f"take_{max((number(path.name) for path in there), default=0) + 1:03d}"
        take.mkdir()
    except OSError as error:
        raise explained(error, folder) from error
    return take


def live_folder(take: Path) -> Path:
    """Where `live_frames` shows a take that is being made."""
    return take.with_name(f"{take.name}.live")


def of_live(folder: Path) -> Path:
    """The take that such a folder shows; any other folder as it is."""
    return folder.with_suffix("") if folder.suffix == ".live" else folder


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, where they are missing. Raises TakeError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, folder) from error


def frame_file(take: Path, frame: int) -> Path:
    """The file of a clip's 0-based `frame`: `0001.png` is the first."""
    return take / f"{frame + 1:04d}.png"


def write_frame(take: Path, frame: int, png: bytes) -> Path:
    """Writes one frame, whole or not at all. Raises TakeError, saying so where the disk is full."""
    path = frame_file(take, frame)
    write_whole(path, png)
    return path


def write_sidecar(take: Path, record: dict) -> None:
    """Writes `take.json`, whole or not at all. Raises TakeError."""
    write_whole(take / SIDECAR, json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n")


def read_sidecar(take: Path) -> dict:
    """What `take.json` says. Raises TakeError if it can't be read or is no JSON object."""
    path = take / SIDECAR
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TakeError(f"{path} can't be read: {error}. Generate the take again.") from error
    if not isinstance(record, dict):
        raise TakeError(f"{path} holds no JSON object. Generate the take again.")
    return record


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and moves it in place, so that no reader sees half of it."""
    for _ in writing(path, data):
        pass


def writing(path: Path, data: bytes) -> Iterator[None]:
    """`write_whole` in slices; given up in between, nothing is left. Raises TakeError."""
    partial = path.with_name(path.name + ".part")
    try:
        with open(partial, "wb") as file:
            for at in range(0, len(data), SLICE_BYTES):
                file.write(data[at : at + SLICE_BYTES])
                if at + SLICE_BYTES < len(data):
                    yield
        os.replace(partial, path)
    except (OSError, GeneratorExit) as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too, also where nothing lies there
            partial.unlink(missing_ok=True)
        if isinstance(error, GeneratorExit):
            raise
        raise explained(error, path) from error


def free_name(path: Path) -> Path:
    """`path`, or `name.2.ext` and so on where something lies there."""
    free, count = path, 1
    while free.exists():
        count += 1
        free = path.with_name(f"{path.stem}.{count}{path.suffix}")
    return free


def link(source: Path, target: Path) -> None:
    """Has a file lie at `target` too: as a hard link, or as a copy where the disk has none. Raises TakeError."""
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise TakeError(f"{source} is missing; bring it back, then press Resume.") from error
    except OSError:
        try:
            data = source.read_bytes()
        except OSError as error:
            raise TakeError(f"{source} can't be read ({error.strerror or error}).") from error
        write_whole(target, data)


def move(source: Path, target: Path) -> None:
    """Moves a file or folder to a name that is free, on the same disk. Raises TakeError, and nothing is moved then."""
    if target.exists():
        raise TakeError(f"{source} can't be moved: {target} is there already; rename that folder.")
    try:
        os.rename(source, target)
    except OSError as error:
        raise explained(error, source) from error


def remove(path: Path) -> None:
    """Removes a file that we wrote, if it is still there. Raises TakeError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, path) from error


def share(source: Path, target: Path) -> None:
    """As `link`, and nobody may write into the file then, which would be to write into both; where that can't be
    forbidden, as with another user's file, it is a copy. Raises TakeError."""
    link(source, target)
    try:
        if target.stat().st_nlink > 1:
            target.chmod(stat.S_IREAD | stat.S_IRGRP | stat.S_IROTH)
    except PermissionError:
        write_whole(target, source.read_bytes())
    except OSError as error:
        raise explained(error, target) from error


def unlink(path: Path) -> None:
    """Removes a file, also one that nobody is to write into (which Windows would keep). Raises OSError."""
    try:
        path.unlink()
    except PermissionError:
        path.chmod(stat.S_IWRITE | stat.S_IREAD)
        path.unlink()


def discard(take: Path) -> None:
    """Removes a take: our own files, then its folder if nothing else lies there. Raises TakeError."""
    try:
        for path in take.iterdir():
            if re.fullmatch(r"(\d{4,}\.png|take\.json|job\.json)(\.part)?", path.name):
                unlink(path)
        if not any(take.iterdir()):
            take.rmdir()
    except OSError as error:
        raise explained(error, take) from error


def explained(error: OSError, path: Path) -> TakeError:
    """What went wrong with a file of ours, as the artist is told it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"The disk is full: {path} was not written. Free some space and try again; no frame is lost."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        text = f"No right to write {path} ({error.strerror}). Save the .blend elsewhere."
    else:
        text = f"{path} can't be written: {error.strerror or error}. Choose another output folder."
    return TakeError(text)
