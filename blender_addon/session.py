"""The clips being made and the engine that makes them, driven by one timer that never waits.

Owns the client and the engine's process. Keeps names and paths between ticks, never Blender references: undo
and file loading free what they point to. Knows neither panels nor settings: operators give it complete
`Job`s.
"""

from __future__ import annotations

import time
import traceback
import uuid
from collections import deque
from pathlib import Path

import bpy

from . import strips
from .captures import CaptureError
from .client import ConnectionLost, Event
from .clips import kept, stack, takes
from .engine_link import EngineLink, EngineState
from .forecast import Forecast
from .making import arrivals, job_files, job_inputs, live_picture, placing
from .making.job_files import Stage
from .making.jobs import IN_ENGINE, Job, JobState
from .making.live_strip import LiveStrips
from .protocol import (
    Accepted,
    Cancelled,
    Done,
    Estimate,
    Failed,
    FrameReady,
    Move,
    NeedBlobs,
    Preview,
    Progress,
    ProtocolError,
    Queue,
    Refused,
    Retry,
    Welcome,
)
from .shots import shot_record
from .translations import tr
from .weights.shelf import Shelf

TICK_S = 0.008  # what a tick may take of Blender's main thread
# No piece of work is begun after this much of it: few take longer than 2 ms, and those that may come first in a tick.
BEGUN_IN = 0.75


class Session:
    """`tick` does all the work; everything else only notes what to do.

    longest_tick_s: the longest tick so far that placed no strip. longest_place_s: the longest placing, which
    includes Blender's own undo step and so grows with the file.
    """

    def __init__(self):
        self.engine = EngineLink()
        self.shelf = Shelf()
        self.forecast = Forecast()
        self.queue = Queue()  # the engine's
        self.jobs: list[Job] = []
        self.live = LiveStrips(self.job, placing.why_untouched)
        self.longest_tick_s = 0.0
        self.longest_place_s = 0.0
        self.file_number = 0
        self._inbox: deque = deque()
        self._to_cancel: set[str] = set()  # cancelled while there was no connection
        self._owner = ""  # of the open file

    def stop_engine(self) -> None:
        """Ends our engine, or leaves the one we are connected to. Its clips wait for the next connection."""
        self.engine.stop()
        self._inbox.clear()
        self._lose_engine()

    # --- the clips --------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Takes a clip; the ticks do the rest."""
        job.file_number, job.blend_file, job.owner = self.file_number, bpy.data.filepath, self.owner()
        if job.place == "replace":
            for other in self.jobs:
                if other.owner == job.owner and not other.accepted and not other.ended:
                    self.cancel(other.id)
        job.state = JobState.CAPTURING if job.captures else JobState.HELD
        self.jobs.append(job)

    def submit_all(self, jobs: list[Job], place: str = "back", alike: bool = True) -> None:
        """Takes several clips, to be made in this order. alike: they are variations of one, and the scene is read for
        the first of them alone."""
        order = jobs[::-1] if place == "front" else jobs  # each comes before the one that came before it
        for index, job in enumerate(order):
            job.like = order[index - 1] if alike and index and job.captures else None
            job.place = place if index == 0 or place == "front" else "back"
            self.submit(job)

    def cancel(self, job_id: str) -> None:
        """Cancels a clip that has not ended; what it has written is removed."""
        job = self.job(job_id)
        if job is None or job.ended:
            return
        if job.state in IN_ENGINE and self.engine.state is EngineState.ON:
            self.engine.client.cancel(job.id)
        elif job.state is JobState.HELD and job.phase:
            self._to_cancel.add(job.id)
        self._end(job, JobState.CANCELLED)

    def resume(self, job_id: str) -> None:
        """Fetches the rest of a clip that failed on this side."""
        job = self.job(job_id)
        if job is not None and job.resumable:
            job.state, job.problem, job.cause, job.resumable = JobState.HELD, "", None, False

    def retry(self, job_id: str) -> Job | None:
        """Has a clip that the engine failed to make made once more; its place on the list is the new one's. Raises
        TakeError."""
        old = self.job(job_id)
        if old is None or not old.retriable:
            return None
        if old.take.is_dir():
            takes.discard(old.take)  # the same frames come again
        new = old.again(takes.next_take(old.take.parent))
        self.jobs[self.jobs.index(old)] = new
        return new

    def move(self, job_id: str, place: str) -> None:
        """Puts a clip that waits in the engine's queue to its "front" or "back"."""
        if job_id in self.queue.waiting and self.engine.state is EngineState.ON:
            self.engine.client.send(Move(job_id, place))

    def jobs_before(self, job: Job) -> int | None:
        """How many clips the engine makes before this one, whoever wants them; None where it doesn't wait there."""
        if job.id not in self.queue.waiting:
            return None
        return self.queue.waiting.index(job.id) + (self.queue.running is not None)

    def owner(self) -> str:
        """The name under which the engine knows the open file's clips; kept in the file, whatever is undone."""
        self._owner = job_files.owner() or self._owner or str(uuid.uuid4())
        job_files.keep_owner(self._owner)
        return self._owner

    def forget_ended(self) -> None:
        """Takes ended clips off the list; their takes stay. Raises TakeError."""
        for job in self.jobs:
            if job.was_unread:
                self._forget_unread(job)
        self.jobs = [job for job in self.jobs if not job.ended]

    def replace_unread(self, old: Job, new: Job) -> None:
        """Takes a clip in place of one that an earlier Blender had not read. Raises TakeError."""
        self._forget_unread(old)
        self.jobs.remove(old)
        self.submit(new)

    def _forget_unread(self, job: Job) -> None:
        """Takes away what an earlier Blender left of a clip that it had not read. Raises TakeError."""
        job_files.remove(job)
        takes.discard(job.take)

    def job(self, job_id: str | None) -> Job | None:
        return next((job for job in self.jobs if job.id == job_id), None)

    @property
    def busy(self) -> bool:
        return self.engine.busy or any(not job.ended for job in self.jobs)

    # --- the tick ---------------------------------------------------------------------------------

    @property
    def has_unread(self) -> bool:
        """Whether the engine has told something that no tick had the time for yet."""
        return bool(self._inbox)

    def tick(self, budget_s: float = TICK_S) -> bool:
        """Does what can be done now within about `budget_s` seconds; True if something changed."""
        started = time.perf_counter()
        deadline = started + BEGUN_IN * budget_s
        before = self._appearance()
        shown_here = [job for job in self.jobs if job.file_number == self.file_number]
        placing.follow_scenes(shown_here)
        placed = self._place_ready()
        if not placed:
            self.live.show(shown_here)
        if not self._inbox and (left := deadline - time.perf_counter()) > 0:
            self._inbox.extend(self.engine.pump(min(budget_s / 2, left)))
        while self._inbox and time.perf_counter() < deadline:
            self._take_event(self._inbox.popleft())
        if self.engine.state is EngineState.ON:
            self.forecast.ask(self.engine.client)
        self._advance_jobs(deadline)
        self.live.advance(shown_here, deadline)
        if not placed:
            self.longest_tick_s = max(self.longest_tick_s, time.perf_counter() - started)
        return self._appearance() != before

    def _appearance(self) -> tuple:
        return (
            self.engine.state,
            self.engine.problem,
            self.engine.client.menus,
            self.shelf.changes,
            self.forecast.changes,
            self.queue,
            self.live.changes,
            *((j.state, j.phase, j.step, len(j.have), j.eta_s, j.preview) for j in self.jobs),
        )

    def _advance_jobs(self, deadline: float) -> None:
        """One clip at a time is read from the scene, so that no two are in each other's way."""
        reading = next((job for job in self.jobs if job.state is JobState.CAPTURING), None)
        for job in self.jobs:
            if time.perf_counter() >= deadline:
                break
            if job.state is JobState.CAPTURING and job is not reading and (job.stage or not job.is_kept):
                continue
            try:
                self._advance(job, deadline)
            except (CaptureError, ProtocolError, takes.TakeError) as error:
                self._end(job, JobState.FAILED, str(error), resumable=bool(job.have))
            except Exception as error:  # a bug of ours costs this clip alone, and what it changed is put back
                traceback.print_exc()
                problem = tr(
                    "The extension itself failed: {error}. See Blender's console.", error=repr(error)
                )
                self._end(job, JobState.FAILED, problem)

    def _advance(self, job: Job, deadline: float) -> None:
        if job.state is JobState.CAPTURING and not job.stage and job.is_kept:
            job_files.write(job, Stage.READING)
        elif job.state is JobState.CAPTURING and job.like is not None:
            job.share_capture()
        elif job.state is JobState.CAPTURING:
            if job_inputs.make_room(self.jobs, job):
                job.capture(deadline)
        elif job.state is JobState.READY and job.finishing is not None:
            for _ in job.finishing:
                if time.perf_counter() >= deadline:
                    return
            job.finishing = None
        elif job.state is JobState.HELD and self.engine.state is EngineState.ON:
            if job.phase:  # the engine had it
                job.state = JobState.WAITING
                self.engine.client.resume(job.id, tuple(sorted(job.have)))
            elif job.retry_of or job_inputs.read_next(job):
                job.state = JobState.WAITING
                self._hand_over(job)
        elif job.state is JobState.HELD and not job.phase and job.stage != Stage.KEPT:
            self._keep(job)  # while there is no engine, so that Blender may be closed

    def _keep(self, job: Job) -> None:
        """Keeps one more input of a clip on the disk, and at last that all are there. Raises TakeError."""
        if not job.is_kept:
            return
        if kept.KEY not in job.about:
            job_files.write(job, Stage.READING)  # names them: what no take names may be removed
        if job_inputs.keep_next(job):
            job_files.write(job, Stage.KEPT)

    def _hand_over(self, job: Job) -> None:
        """Gives a clip to the engine; from now on its folder says whose it is. Raises TakeError."""
        if job.is_kept:
            job_files.write(job, Stage.GIVEN)
        if job.retry_of:
            self.engine.client.send(Retry(job.id, job.retry_of, job.place, job.owner))
        else:
            blobs, job.fetched = job.blobs | job.fetched, {}
            self.engine.client.submit(job.id, job.request, blobs, place=job.place, owner=job.owner)

    def _place_ready(self) -> bool:
        """One finished clip at most, in one piece; the next one waits for the next tick. True if there was one."""
        ready = (j for j in self.jobs if j.state is JobState.READY and j.finishing is None)
        job = next((j for j in ready if not self.why_not_placed(j)), None)
        if job is None:
            return False
        started = time.perf_counter()
        try:
            said = placing.place(job, self.live)
        except strips.StripError as error:
            self._end(job, JobState.FAILED, str(error), resumable=True)
        else:
            self._end(job, JobState.DONE, said)
        self.longest_place_s = max(self.longest_place_s, time.perf_counter() - started)
        return True

    def why_not_placed(self, job: Job) -> str:
        """What a finished clip waits for before it becomes a strip; "" if nothing."""
        if job.file_number != self.file_number:
            file = job.blend_file or tr("its file")
            return tr("Ready in {take}; open {file} to place it.", take=job.take, file=file)
        return tr("Ready; it is placed {when}.", when=when) if (when := placing.why_untouched()) else ""

    def _end(self, job: Job, state: JobState, problem: str = "", resumable: bool = False) -> None:
        """The one place where a clip ends. Without a chance to go on, a take that never got a frame is
        removed.
        """
        job.stop_capturing()
        job.finishing, job.fetched = None, {}
        job.state, job.problem, job.resumable, job.eta_s = state, problem, resumable, None
        live_picture.forget(job)
        self.live.end(job)
        if not resumable:
            job.blobs = {}
        try:
            shot_record.note(job)
            if resumable:
                return
            job_files.remove(job)
            if state is JobState.CANCELLED or (state is JobState.FAILED and not job.have):
                takes.discard(job.take)
                job_inputs.forget(job)
        except takes.TakeError as error:
            job.problem = " ".join(filter(None, (problem, str(error))))

    # --- what the engine says ---------------------------------------------------------------------

    def _take_event(self, event: Event) -> None:
        self.shelf.take(event, self.engine.client)
        job = self.job(getattr(event, "job", None))
        if isinstance(event, Welcome):
            for job_id in self._to_cancel:
                self.engine.client.cancel(job_id)
            self._to_cancel.clear()
            self.find_jobs()
        elif isinstance(event, ConnectionLost):
            self._lose_engine()
        elif isinstance(event, Queue):
            self.queue = event
            self.forecast.doubt()
        elif isinstance(event, Estimate):
            self.forecast.take(event)
        elif job is not None and job.state in IN_ENGINE:  # a cancelled clip's last words are not needed
            try:
                self._take_job_event(job, event)
            except (takes.TakeError, ProtocolError) as error:
                self._end(job, JobState.FAILED, str(error), resumable=True)

    def _take_job_event(self, job: Job, event) -> None:
        match event:
            case Accepted():
                job.state, job.phase = JobState.QUEUED, job.phase or "queue"
                job.accepted, job.place = True, "back"
                for other in filter(None, map(self.job, event.replaced)):
                    self._end(
                        other, JobState.CANCELLED, tr("A newer clip, {clip}, took its place.", clip=job.clip)
                    )
            case NeedBlobs():
                job.phase = ""
            case Progress():
                job.state, job.phase = JobState.RUNNING, event.phase
                job.step, job.num_steps = event.step, event.num_steps
                job.eta_s = event.eta_s if event.total_eta_s is None else event.total_eta_s
            case Preview():
                live_picture.keep(job, event.data)
                self.live.preview(job, event)
            case FrameReady():
                arrivals.keep_frame(job, event)
                self.live.frame(job, event.frame)
            case Done():
                said = arrivals.finish(job, event, self.engine.client.welcome)
                if job.state is not JobState.READY:
                    self._end(job, JobState.DONE, said)
            case Failed():
                job.cause = event.problem
                self._end(job, JobState.FAILED, str(event.problem))
            case Cancelled():
                self._end(job, JobState.CANCELLED, tr("The engine cancelled it."))
            case Refused() if event.problem.code == "not_waiting":
                pass  # its turn came before it was moved
            case Refused() if event.problem.code == "unknown_job" and job.has_inputs:
                job.state, job.phase = JobState.HELD, ""
            case Refused():
                job.cause = event.problem
                gone = event.problem.code == "unknown_job"
                self._end(job, JobState.FAILED, str(event.problem), resumable=bool(job.have) and not gone)

    def _lose_engine(self) -> None:
        self.queue = Queue()
        self.forecast.forget()
        for job in self.jobs:
            if job.state in IN_ENGINE:
                job.state, job.eta_s = JobState.HELD, None

    # --- files ------------------------------------------------------------------------------------

    def file_loaded(self) -> None:
        """Another file is open: clips of it, made before, may be placed again; those of others wait."""
        self.file_number += 1
        self._owner = ""
        for job in self.jobs:
            if job.blend_file and job.blend_file == bpy.data.filepath:
                job.file_number, job.scene_uid = self.file_number, 0
            elif job.state is JobState.CAPTURING:
                self._end(
                    job,
                    JobState.FAILED,
                    tr("{file} was closed while the scene was read.", file=job.blend_file or tr("The file")),
                )

        self.find_jobs()
        self.live.file_opened()

    def find_jobs(self) -> None:
        """Puts those of the open file's unfinished clips on the list that an earlier Blender had begun."""
        blend = bpy.data.filepath
        if not blend:
            return
        shown = (stack.folder(strip) for scene in bpy.data.scenes for strip in stack.ours(scene))
        unsaved = bpy.context.preferences.addons[__package__].preferences.output_folder
        roots = [Path(bpy.path.abspath(root)) for root in ("//musev", unsaved) if root]
        clips = {*shown, *(path for root in roots for path in root.glob("*") if path.is_dir())}
        for job in job_files.found(sorted(clips), job_files.owner(), blend):
            if self.job(job.id) is not None:  # on a disk without locks
                job_files.release(job)
                continue
            job.file_number = self.file_number
            self.jobs.append(job)
            if job.was_unread:
                shot_record.note(job)

    def leave(self) -> None:
        """Leaves the clips to the next Blender: those that the engine has, those that it lacks, which are kept, and
        those that are not read yet, which that one will tell of."""
        for job in self.jobs:
            job.stop_capturing()
            live_picture.forget(job)
            try:
                while (
                    job.state is JobState.HELD and not job.phase and job.is_kept and job.stage != Stage.KEPT
                ):
                    self._keep(job)
            except takes.TakeError as error:
                print(f"MuseV: {job.clip} is lost: {error}")
            job_files.release(job)
        self.jobs = []

    def file_saved(self) -> None:
        for job in self.jobs:
            if job.file_number == self.file_number:
                job.blend_file = bpy.data.filepath


current = Session()


def _timer() -> float:
    try:
        changed = current.tick()
    except Exception:  # a bug of ours: said aloud, and not a reason to stop serving the other clips
        traceback.print_exc()
        error = traceback.format_exc(limit=0).strip()
        current.engine.problem = tr(
            "The extension itself failed: {error}. See Blender's console.", error=error
        )
        changed = True
    return 0.02 if _draw(changed) or current.busy else 0.25


REDRAW_S = 0.1  # between two drawings, each of which takes as much of the main thread as a tick
_to_draw, _drawn_at = False, 0.0


def _draw(changed: bool) -> bool:
    """Has what we draw drawn anew where something has changed, ten times a second at most. True if that is to come."""
    global _to_draw, _drawn_at
    _to_draw |= changed
    if _to_draw and (now := time.perf_counter()) >= _drawn_at + REDRAW_S:
        _to_draw, _drawn_at = False, now
        redraw()
    return _to_draw


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("SEQUENCE_EDITOR", "PREFERENCES"):
                area.tag_redraw()


@bpy.app.handlers.persistent
def _loaded(*_) -> None:
    current.file_loaded()


@bpy.app.handlers.persistent
def _saving(*_) -> None:
    current.live.before_saving()


@bpy.app.handlers.persistent
def _saved(*_) -> None:
    current.file_saved()
    current.live.after_saving()


@bpy.app.handlers.persistent
def _not_saved(*_) -> None:
    current.live.after_saving()


@bpy.app.handlers.persistent
def _undone(*_) -> None:
    current.live.undone()


HANDLERS = {
    "load_post": _loaded, "save_pre": _saving, "save_post": _saved, "save_post_fail": _not_saved,
    "undo_post": _undone, "redo_post": _undone,
}  # fmt: skip


def register() -> None:
    for event, handler in HANDLERS.items():
        getattr(bpy.app.handlers, event).append(handler)
    bpy.app.timers.register(_timer, persistent=True)


def unregister() -> None:
    bpy.app.timers.unregister(_timer)
    for event, handler in HANDLERS.items():
        getattr(bpy.app.handlers, event).remove(handler)
    goes_on = any(job.state in (*IN_ENGINE, JobState.HELD) for job in current.jobs)
    current.leave()
    if goes_on:
        # The engine goes on, and ends once Blender has ended and its queue is empty.
        current.engine.client.close()
    else:
        current.stop_engine()
