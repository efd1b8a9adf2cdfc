"""Locks that are files: the system lets go of one when its process ends, however it ends.

Whatever changes a model's files is done by one process at a time, an engine's or a command's: it holds the model.
Nobody waits for a lock; who doesn't get it is told who has it. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO

from musev_engine.errors import EngineError

LOCKS = ".locks"  # in the models folder
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what systems say where another has it
MAX_NOTE_BYTES = 10_000


class Lock:
    """One that this process has, until it is closed; also a context that closes it."""

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file

    def close(self) -> None:
        # Windows takes no open file away: it stays, and is taken by the next.
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def lock(path: Path, note: str = "") -> Lock | None:
    """Lock a file, which is made if need be; None where another process has it. note: what `noted` gives to others.

    A disk that knows no locks is gone without. Raises OSError where the file can't be written."""
    while True:
        file = path.open("a+b")
        try:
            _lock(file)
        except OSError as error:
            if error.errno in TAKEN:
                file.close()
                return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # its last owner took the file away in between
    file.truncate(0)
    file.write(b"\n" + note.encode())  # what is locked is the first byte, which Windows then lets nobody read
    file.flush()
    return Lock(path, file)


def noted(path: Path) -> str | None:
    """What the process that has this lock noted there; None where nobody has it, and then the file goes."""
    if not path.exists():
        return None
    if (mine := lock(path)) is not None:
        mine.close()
        return None
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # it may just have ended
        file.seek(1)
        return file.read(MAX_NOTE_BYTES).decode(errors="replace")
    return None


def hold(root: Path, id: str, doing: str) -> Lock:
    """Be the only one who changes a model's files in the models folder `root`. doing: as in "being downloaded".

    Raises EngineError, code "model_busy", OSError where `root` can't be written."""
    path = root / LOCKS / id
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = lock(path, f"{doing} by process {os.getpid()}")
    if mine is None:
        raise _busy(id, noted(path))
    return mine


def check_free(root: Path, id: str) -> None:
    """Raises EngineError, code "model_busy", while another process changes a model's files."""
    if (note := noted(root / LOCKS / id)) is not None:
        raise _busy(id, note)


def _busy(id: str, note: str | None) -> EngineError:
    return EngineError(
        f"This model is {note or 'being seen to by another process'}", id,
        "Wait until that is done, or stop it there: in the extension's preferences, or that command.",
        code="model_busy",
    )  # fmt: skip


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
