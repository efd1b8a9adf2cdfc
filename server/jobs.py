"""The job store: what was promised, in SQLite (WAL), with frames and inputs (`uploads`) as files beside it.

Beside them lies what finished clips took (`measures`). The store survives `kill -9`: a job is in it before it is
accepted, a frame is a whole file before it is listed, and a job that ran when the engine died is queued again. That
a job ends exactly once is the database's own rule (a trigger), not a habit of its callers. Every file's name is made
from a checked UUID, a checked sha256 or a number, never from text that came over the wire. Knows no socket and no
picture format.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path

from blender_addon import protocol
from blender_addon.protocol import (
    Cancelled,
    ClipRequest,
    Done,
    Ending,
    Failed,
    FrameReady,
    JobInfo,
    Jobs,
    Problem,
    ProtocolError,
    Queue,
)
from server.measures import Measures
from server.uploads import Inputs

# requests are kept in the protocol's own words; the second number is the tables'
DATABASE = f"jobs-v{protocol.PROTOCOL_VERSION}-2.sqlite"
MAX_UNFINISHED = protocol.MAX_WAITING  # jobs waiting or running
MAX_ATTEMPTS = 2  # a job that took the engine down twice is not tried a third time
KEEP_S = 7 * 24 * 3600.0  # an ended job, its frames and its inputs, after its end
MAX_ENDED = 1000  # ended jobs that are kept, and some more before one looks
MAX_GIVEN_BYTES = 8 * 2**30  # of the frames of ended jobs that a client was given all of
LOOK_S = 24 * 3600.0  # how often one looks for those to be forgotten

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,
    owner TEXT NOT NULL,
    previews INTEGER NOT NULL,
    retry_of TEXT,
    turn INTEGER NOT NULL,
    submitted_at REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    attempts INTEGER NOT NULL DEFAULT 0,
    ending TEXT,
    changed_at REAL NOT NULL,
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (ending IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, turn);
CREATE TABLE IF NOT EXISTS frames (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    frame INTEGER NOT NULL,
    UNIQUE (job, frame)
);
CREATE TABLE IF NOT EXISTS given (
    job TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    bytes INTEGER NOT NULL
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
        from musev_engine import locks

        self.folder = folder.absolute()
        self.frames = self.folder / "frames"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = locks.lock(self.folder / "engine.lock")
        if self._lock is None:
            raise ProtocolError(
                "Another engine has this state folder",
                str(self.folder),
                "Connect to that engine, stop it, or give another folder with --state-dir.",
                "state_in_use",
            )
        self.frames.mkdir(mode=0o700, exist_ok=True)
        self.database = self.folder / DATABASE
        self._database = sqlite3.connect(self.database, isolation_level=None)
        self._unwritten: dict[str, Ending] = {}  # endings that a full disk did not take
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("PRAGMA foreign_keys = ON")
        self._database.executescript(SCHEMA)
        self.measures = Measures(self._database)
        self.inputs = Inputs(self.folder, self._needed)
        self.forget_old()
        self._requeue()

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    # --- jobs -----------------------------------------------------------------------------------------

    def submit(
        self,
        job: str,
        request: ClipRequest,
        *,
        place: str = "back",
        owner: str = "",
        previews: bool = True,
        retry_of: str | None = None,
    ) -> tuple[int, tuple[str, ...]]:
        """Put a job into the queue: how many are before it, and the jobs cancelled for it (place "replace": those of
        its owner that wait). The same job again changes nothing.

        Raises ProtocolError if `job` stands for another request, or too many jobs wait.
        """
        text, replaced = protocol.request_json(request), ()
        known = self._one("SELECT request FROM jobs WHERE id = ?", job)
        if known is None:
            if place == "replace":
                rows = self._rows(
                    "SELECT id FROM jobs WHERE state = 'queued' AND owner = ? ORDER BY turn", owner
                )
                replaced = tuple(waiting for (waiting,) in rows if self.finish(Cancelled(waiting)))
            ended = self._one("SELECT count(*) FROM jobs WHERE ending IS NOT NULL")
            if ended > MAX_ENDED * 1.1 or time.time() > self._look_at:
                self.forget_old()
            unfinished = sum(self.counts().values())
            if unfinished >= MAX_UNFINISHED:
                raise ProtocolError(
                    "The engine's queue is full", unfinished, "Wait, or cancel jobs.", "queue_full"
                )
            now = time.time()
            self._do(
                "INSERT INTO jobs (id, request, owner, previews, retry_of, turn, submitted_at, changed_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                job, text, owner, previews, retry_of, self._turn(place), now, now,
            )  # fmt: skip
        elif known != text:
            raise ProtocolError(
                "This job's id already stands for another request", job, "Use a new id.", "job_differs"
            )
        queue = self.queue()
        before = queue.waiting.index(job) + (queue.running is not None) if job in queue.waiting else 0
        return before, replaced

    def retry(
        self, job: str, of: str, *, place: str = "back", owner: str = "", previews: bool = True
    ) -> tuple[int, tuple[str, ...]]:
        """`submit` once more what a job that has ended asked for. Raises ProtocolError as it does, and codes
        "unknown_job" and "not_ended"."""
        request = self.request(of)
        if self.ending(of) is None:
            raise ProtocolError(
                "Only a job that has ended can be made again", of, "Cancel it first.", "not_ended"
            )
        return self.submit(job, request, place=place, owner=owner, previews=previews, retry_of=of)

    def move(self, job: str, place: str) -> None:
        """Put a waiting job to the front or the back. Raises ProtocolError, code "not_waiting"."""
        if not self.waits(job):
            remedy = "Only jobs that wait can be moved; see the queue."
            raise ProtocolError("This job doesn't wait", job, remedy, "not_waiting")
        self._do("UPDATE jobs SET turn = ? WHERE id = ?", self._turn(place), job)

    def knows(self, job: str) -> bool:
        return self._one("SELECT 1 FROM jobs WHERE id = ?", job) is not None

    def waits(self, job: str) -> bool:
        return self._one("SELECT 1 FROM jobs WHERE id = ? AND state = 'queued'", job) is not None

    def request(self, job: str) -> ClipRequest:
        """Raises ProtocolError, code "unknown_job"."""
        text = self._one("SELECT request FROM jobs WHERE id = ?", job)
        if text is None:
            raise ProtocolError("The engine has no such job", job, "Generate again.", "unknown_job")
        return protocol.request_from_json(text)

    def wants_previews(self, job: str) -> bool:
        return bool(self._one("SELECT previews FROM jobs WHERE id = ?", job))

    def queue(self) -> Queue:
        rows = self._rows("SELECT id, state FROM jobs WHERE ending IS NULL ORDER BY turn")
        running = next((job for job, state in rows if state == "running"), None)
        return Queue(
            running, tuple(job for job, state in rows if state == "queued" and job not in self._unwritten)
        )

    def listing(self, owner: str = "", skip: int = 0) -> Jobs:
        """The newest jobs of an owner, or of all."""
        rows = self._rows(
            "SELECT id, state, owner, (SELECT count(*) FROM frames WHERE job = id), request, submitted_at, "
            "CASE WHEN ending IS NULL THEN NULL ELSE changed_at END, retry_of FROM jobs "
            "WHERE ? IN ('', owner) ORDER BY place DESC LIMIT ? OFFSET ?",
            owner, protocol.JOBS_A_PAGE, skip,
        )  # fmt: skip
        total = self._one("SELECT count(*) FROM jobs WHERE ? IN ('', owner)", owner)
        return Jobs(tuple(self._told(*row) for row in rows), total)

    def _told(self, job, state, owner, frames, request, submitted_at, ended_at, retry_of) -> JobInfo:
        asked, ending = protocol.request_from_json(request), self.ending(job)
        return JobInfo(
            job, state if ending is None else type(ending).__name__.lower(), owner, frames, asked.frames_out,
            submitted_at, ended_at, retry_of, asked.mode, asked.result, asked.model, asked.prompt[:80],
            asked.width, asked.height, asked.seed,
            str(ending.problem)[:160] if isinstance(ending, Failed) else "",
        )  # fmt: skip

    def _turn(self, place: str) -> int:
        if place == "front":
            return (self._one("SELECT min(turn) FROM jobs WHERE ending IS NULL") or 0) - 1
        return (self._one("SELECT max(turn) FROM jobs") or 0) + 1

    def take_next(self) -> tuple[str, ClipRequest] | None:
        """The job whose turn it is, which now runs. Raises sqlite3.Error if the disk does not take that."""
        for job in list(self._unwritten):
            self._write_ending(self._unwritten[job])
            del self._unwritten[job]
        row = self._database.execute(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, changed_at = ? WHERE place = "
            "(SELECT place FROM jobs WHERE state = 'queued' ORDER BY turn LIMIT 1) RETURNING id, request",
            (time.time(),),
        ).fetchone()
        return None if row is None else (row[0], protocol.request_from_json(row[1]))

    def finish(self, ending: Ending) -> bool:
        """End a job, unless it has ended already (False). A clip that lacks frames is not done but failed."""
        if isinstance(ending, Done):
            request = self.request(ending.job)
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
        rows = self._rows("SELECT state, count(*) FROM jobs WHERE ending IS NULL GROUP BY state")
        return {"queued": 0, "running": 0} | dict(rows)

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
        return self._rows(query, job, place)

    def read_frame(self, job: str, frame: int) -> FrameReady:
        return FrameReady(job, frame, self._frame_path(job, frame).read_bytes())

    def give(self, job: str) -> None:
        """Note that a client was given all of an ended job. Of such jobs, whose frames lie with their clients now, the
        oldest are forgotten where they hold more than MAX_GIVEN_BYTES; others stay. Raises OSError, sqlite3.Error."""
        folder = self.frames / job
        size = sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0
        self._do("INSERT OR IGNORE INTO given SELECT id, ? FROM jobs WHERE id = ?", size, job)
        held = self._one("SELECT sum(bytes) FROM given") or 0
        if held <= MAX_GIVEN_BYTES:
            return
        query = "SELECT job, bytes FROM given JOIN jobs ON id = job WHERE job != ? ORDER BY changed_at, place"
        for old, size in self._rows(query, job):
            if held > MAX_GIVEN_BYTES:
                self._do("DELETE FROM jobs WHERE id = ?", old)
                shutil.rmtree(self.frames / old, ignore_errors=True)
                held -= size

    def _frame_path(self, job: str, frame: int) -> Path:
        return self.frames / job / f"{frame:06d}.png"

    # --- upkeep ---------------------------------------------------------------------------------------

    def _requeue(self) -> None:
        """Jobs that ran when the engine died run again, but not for ever."""
        for job, attempts in self._rows("SELECT id, attempts FROM jobs WHERE state = 'running'"):
            if attempts < MAX_ATTEMPTS:
                self._do("UPDATE jobs SET state = 'queued' WHERE id = ?", job)
            else:
                remedy = "Use a smaller size or fewer frames, and see the engine's log."
                problem = Problem(
                    "engine_died", "The engine died while it made this clip", str(attempts), remedy
                )
                self.finish(Failed(job, problem))

    def forget_old(self) -> None:
        """Forget jobs that ended long ago, or are too many; those that another release of the engine wrote and this one
        can't read; and inputs that no job names. Raises sqlite3.Error."""
        old, self._look_at = time.time() - KEEP_S, time.time() + LOOK_S
        self._do(
            "DELETE FROM jobs WHERE ending IS NOT NULL AND (changed_at < ? OR place NOT IN "
            "(SELECT place FROM jobs WHERE ending IS NOT NULL ORDER BY changed_at DESC LIMIT ?))",
            old, MAX_ENDED,
        )  # fmt: skip
        jobs, needed = self._rows("SELECT id, request FROM jobs"), set()
        for job, text in jobs:
            try:
                needed.update(protocol.request_from_json(text).blobs)
            except ProtocolError as error:
                print(f"Job {job} can't be read, and is forgotten: {error}", file=sys.stderr)
                self._do("DELETE FROM jobs WHERE id = ?", job)
        known = {job for job, _ in jobs}
        for path in self.frames.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
        self.inputs.forget(old, needed)

    def _needed(self) -> set[str]:
        """The inputs of the jobs that have not ended."""
        texts = self._rows("SELECT request FROM jobs WHERE ending IS NULL")
        return {blob for (text,) in texts for blob in protocol.request_from_json(text).blobs}

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

    def _rows(self, query: str, *values) -> list[tuple]:
        return self._database.execute(query, values).fetchall()

    def _do(self, query: str, *values) -> int:
        return self._database.execute(query, values).rowcount


def _write_whole(path: Path, data: bytes) -> None:
    """The file is either not there or whole."""
    part = path.with_suffix(".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
