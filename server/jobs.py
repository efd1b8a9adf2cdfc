"""The job store: what was promised, in SQLite (WAL), with blobs and frames as files beside it.

It survives `kill -9`: a job is in the store before it is accepted, a frame is a whole file before it is
listed, and a job that ran when the engine died is queued again. That a job ends exactly once is the
database's own rule (a trigger), not a habit of its callers. Every file's name is made from a checked UUID, a
checked sha256 or a number, never from text that came over the wire. Knows no socket and no picture format.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import sys
import time
import uuid
from pathlib import Path

from blender_addon import protocol
from blender_addon.protocol import (
    BlobSlice,
    ClipRequest,
    Done,
    Ending,
    Failed,
    FrameReady,
    Problem,
    ProtocolError,
)

DATABASE = f"jobs-v{protocol.PROTOCOL_VERSION}.sqlite"  # requests are kept in the protocol's own words
MAX_UNFINISHED = 256  # jobs waiting or running
MAX_ATTEMPTS = 2  # a job that took the engine down twice is not tried a third time
KEEP_S = 7 * 24 * 3600.0  # an ended job, its frames and its inputs, after its end

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    attempts INTEGER NOT NULL DEFAULT 0,
    ending TEXT,
    changed_at REAL NOT NULL,
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (ending IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, place);
CREATE TABLE IF NOT EXISTS frames (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    frame INTEGER NOT NULL,
    UNIQUE (job, frame)
);
CREATE TRIGGER IF NOT EXISTS ended_once BEFORE UPDATE ON jobs WHEN OLD.ending IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a job ends once'); END;
CREATE TRIGGER IF NOT EXISTS no_frame_after_the_end BEFORE INSERT ON frames
WHEN (SELECT ending FROM jobs WHERE id = NEW.job) IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a job ends once'); END;
"""


class JobStore:
    """The store in `folder` (made if need be, readable by its user alone), locked for this process.

    Raises ProtocolError if another engine has it, OSError or sqlite3.Error if it can't be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.blobs, self.frames, self.incoming = (
            self.folder / name for name in ("blobs", "frames", "incoming")
        )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(self.folder / "engine.lock")
        shutil.rmtree(self.incoming, ignore_errors=True)  # uploads that were cut off
        for part in (self.blobs, self.frames, self.incoming):
            part.mkdir(mode=0o700, exist_ok=True)
        self._database = sqlite3.connect(self.folder / DATABASE, isolation_level=None)
        self._unwritten: dict[str, Ending] = {}  # endings that a full disk did not take
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("PRAGMA foreign_keys = ON")
        self._database.executescript(SCHEMA)
        self._prune()
        self._requeue()

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    # --- jobs -----------------------------------------------------------------------------------------

    def submit(self, job: str, request: ClipRequest) -> int:
        """Put a job into the queue and return how many are before it; the same job again changes nothing.

        Raises ProtocolError if `job` stands for another request, or too many jobs wait.
        """
        text = protocol.request_json(request)
        known = self._one("SELECT request FROM jobs WHERE id = ?", job)
        if known is None:
            unfinished = sum(self.counts().values())
            if unfinished >= MAX_UNFINISHED:
                raise ProtocolError(
                    "The engine's queue is full", unfinished, "Wait, or cancel jobs.", "queue_full"
                )
            self._do("INSERT INTO jobs (id, request, changed_at) VALUES (?, ?, ?)", job, text, time.time())
        elif known != text:
            raise ProtocolError(
                "This job's id already stands for another request", job, "Use a new id.", "job_differs"
            )
        return self._one(
            "SELECT count(*) FROM jobs WHERE ending IS NULL AND place < "
            "(SELECT place FROM jobs WHERE id = ?)",
            job,
        )

    def knows(self, job: str) -> bool:
        return self._one("SELECT 1 FROM jobs WHERE id = ?", job) is not None

    def take_next(self) -> tuple[str, ClipRequest] | None:
        """The oldest queued job, which now runs. Raises sqlite3.Error if the disk does not take that."""
        for job in list(self._unwritten):
            self._write_ending(self._unwritten[job])
            del self._unwritten[job]
        row = self._database.execute(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, changed_at = ? WHERE place = "
            "(SELECT min(place) FROM jobs WHERE state = 'queued') RETURNING id, request",
            (time.time(),),
        ).fetchone()
        return None if row is None else (row[0], protocol.request_from_json(row[1]))

    def finish(self, ending: Ending) -> bool:
        """End a job, unless it has ended already (False). A clip that lacks frames is not done but failed."""
        if isinstance(ending, Done):
            request = protocol.request_from_json(
                self._one("SELECT request FROM jobs WHERE id = ?", ending.job)
            )
            stored = self._one("SELECT count(*) FROM frames WHERE job = ?", ending.job)
            if not stored == ending.num_frames == request.frames_out:
                message = f"The engine made {stored} of {request.frames_out} frames"
                problem = Problem(
                    "frames_missing", message, str(stored), "Report this, with the engine's log."
                )
                ending = Failed(ending.job, problem)
        if self.ending(ending.job) is not None:
            return False
        try:
            self._write_ending(ending)
        except sqlite3.OperationalError as error:  # the disk is full: it is tried again, and told meanwhile
            print(f"The end of job {ending.job} can't be written yet: {error}", file=sys.stderr)
            self._unwritten[ending.job] = ending
        return True

    def ending(self, job: str) -> Ending | None:
        if job in self._unwritten:
            return self._unwritten[job]
        text = self._one("SELECT ending FROM jobs WHERE id = ?", job)
        return None if text is None else protocol.decode(text)

    def counts(self) -> dict[str, int]:
        """How many jobs are queued and running."""
        rows = self._database.execute("SELECT state, count(*) FROM jobs WHERE ending IS NULL GROUP BY state")
        return {"queued": 0, "running": 0} | dict(rows.fetchall())

    # --- frames ---------------------------------------------------------------------------------------

    def add_frame(self, frame: FrameReady) -> None:
        """Keep a finished frame. Raises OSError or sqlite3.Error if the disk does not take it."""
        path = self._frame_path(frame.job, frame.frame)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _write_whole(path, frame.data)
        self._do("INSERT OR IGNORE INTO frames (job, frame) VALUES (?, ?)", frame.job, frame.frame)

    def frames_after(self, job: str, place: int) -> list[tuple[int, int]]:
        """(place, frame) of the frames that were stored after `place`, in order."""
        query = "SELECT place, frame FROM frames WHERE job = ? AND place > ? ORDER BY place"
        return self._database.execute(query, (job, place)).fetchall()

    def read_frame(self, job: str, frame: int) -> FrameReady:
        return FrameReady(job, frame, self._frame_path(job, frame).read_bytes())

    def _frame_path(self, job: str, frame: int) -> Path:
        return self.frames / job / f"{frame:06d}.png"

    # --- blobs ----------------------------------------------------------------------------------------

    def missing_blobs(self, request: ClipRequest) -> tuple[str, ...]:
        return tuple(sha256 for sha256 in request.blobs if not (self.blobs / sha256).exists())

    # --- upkeep ---------------------------------------------------------------------------------------

    def _requeue(self) -> None:
        """Jobs that ran when the engine died run again, but not for ever."""
        for job, attempts in self._database.execute(
            "SELECT id, attempts FROM jobs WHERE state = 'running'"
        ).fetchall():
            if attempts < MAX_ATTEMPTS:
                self._do("UPDATE jobs SET state = 'queued' WHERE id = ?", job)
            else:
                remedy = "Use a smaller size or fewer frames, and see the engine's log."
                problem = Problem(
                    "engine_died", "The engine died while it made this clip", str(attempts), remedy
                )
                self.finish(Failed(job, problem))

    def _prune(self) -> None:
        """Forget what ended long ago, and inputs that no job names."""
        old = time.time() - KEEP_S
        self._do("DELETE FROM jobs WHERE ending IS NOT NULL AND changed_at < ?", old)
        jobs = dict(self._database.execute("SELECT id, request FROM jobs").fetchall())
        for path in self.frames.iterdir():
            if path.name not in jobs:
                shutil.rmtree(path, ignore_errors=True)
        needed = {blob for text in jobs.values() for blob in protocol.request_from_json(text).blobs}
        for path in self.blobs.iterdir():
            if path.name not in needed and path.stat().st_mtime < old:
                path.unlink()

    def _write_ending(self, ending: Ending) -> None:
        self._do(
            "UPDATE jobs SET state = ?, ending = ?, changed_at = ? WHERE id = ?",
            type(ending).__name__.lower(),
            protocol.encode(ending),
            time.time(),
            ending.job,
        )

    def _one(self, query: str, *values):
        row = self._database.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _do(self, query: str, *values) -> int:
        return self._database.execute(query, values).rowcount


class Upload:
    """One blob as it arrives, slice by slice, in a file that gets its name only when the sha256 is right."""

    def __init__(self, store: JobStore, first: BlobSlice):
        self.sha256, self._size, self._received = first.sha256, first.size, 0
        self._hash = hashlib.sha256()
        self._store, self._path = store, store.incoming / uuid.uuid4().hex
        self._file = self._path.open("wb")

    def add(self, piece: BlobSlice) -> bool:
        """Whether the blob is now whole and stored. Raises ProtocolError (and drops the upload) if the slice
        does not continue it, or the whole is not what its name says; OSError if the disk does not take it."""
        end = self._received + len(piece.data)
        if (piece.sha256, piece.size, piece.offset) != (
            self.sha256,
            self._size,
            self._received,
        ) or end > self._size:
            self.drop()
            raise ProtocolError(
                f"This slice does not continue the upload at byte {self._received}",
                piece.offset,
                "Send the blob again from its beginning, in order.",
                "bad_upload",
            )
        try:
            self._file.write(piece.data)
            self._hash.update(piece.data)
            self._received = end
            if end < self._size:
                return False
            self._file.close()
        except OSError:
            self.drop()
            raise
        if self._hash.hexdigest() != self.sha256:
            self.drop()
            raise ProtocolError(
                "The blob is not what its sha256 says", self.sha256, "Send it again.", "bad_upload"
            )
        os.replace(self._path, self._store.blobs / self.sha256)
        return True

    def drop(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def open_store(folder: Path | None) -> JobStore:
    """The store in `folder`, or in the first folder of this user's cache that no other engine holds."""
    if folder is not None:
        return JobStore(folder)
    for number in range(16):
        try:
            return JobStore(cache_folder() / f"engine-{number}")
        except ProtocolError as error:
            if error.code != "state_in_use":
                raise
    raise ProtocolError("Sixteen engines run already", 16, "Stop one, or give --state-dir.", "state_in_use")


def cache_folder() -> Path:
    """This user's cache for MuseV, by the system's custom."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "musev"


def _lock(path: Path):
    """The open lock file; the system lets go of the lock when this process ends, however it ends."""
    file = path.open("a+b")
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ProtocolError(
            "Another engine has this state folder",
            str(path.parent),
            "Connect to that engine, stop it, or give another folder with --state-dir.",
            "state_in_use",
        ) from None
    return file


def _write_whole(path: Path, data: bytes) -> None:
    """The file is either not there or whole."""
    part = path.with_suffix(".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
