"""Clips on the timeline while they are made: the strip stands in its place, and its frames fill in.

No undo step is made of it: the finished take is the one step. A strip that shows a clip in the making says so in itself
(`strip.musev.making`, `.before`), for undo, redo and opening a file bring strips of any time; they are then looked at
anew. A saved file names the finished take's files, never those of `live_frames`.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import bpy

from .. import strips
from ..clips import clip_folder, stack, takes
from ..footage.scene_copy import MARK as COPY
from ..protocol import Preview
from ..shots import shot_record
from ..translations import tr
from .jobs import Job, JobState
from .live_frames import LiveFrames, sweep

REFRESH_S = 0.25  # between two readings of the files by the viewer, at least


class Place(enum.Enum):
    """Where a job's strip is. AWAY: the artist has it show another take. DELETED: by the artist."""

    TO_COME = 0
    SHOWN = 1
    AWAY = 2
    DELETED = 3


@dataclass
class Live:
    """One job's. shown: which of the frames' changes the viewer knows. at: since when."""

    frames: LiveFrames
    place: Place = Place.TO_COME
    strip: str = ""  # its name when it was last seen
    shown: int = 0
    at: float = 0.0

    @property
    def is_behind(self) -> bool:
        """Whether the viewer should look at the frames again."""
        late = time.perf_counter() - self.at >= REFRESH_S
        return self.place is Place.SHOWN and self.frames.changes != self.shown and late


class LiveStrips:
    """Those of all jobs. job_of: finds one by its id. why_not: what keeps a strip from being touched now; "" for
    nothing. changes: counts what can be seen.
    """

    def __init__(self, job_of: Callable[[str], Job | None], why_not: Callable[[], str]):
        self.changes = 0
        self._job_of, self._why_not = job_of, why_not
        self._live: dict[str, Live] = {}
        self._to_look = self._opened = False  # at all strips anew; because another file was opened
        self._given_up: set[str] = set()  # jobs that can't be shown
        self._folders: list[Path] = []  # no longer needed, once no strip shows them

    @property
    def busy(self) -> bool:
        """Whether `advance` has something to do, whatever the jobs do."""
        return self._to_look or bool(self._folders)

    # --- what comes -------------------------------------------------------------------------------

    def preview(self, job: Job, preview: Preview) -> None:
        if self._to_be_shown(job):
            self._live_of(job).frames.preview(preview)

    def frame(self, job: Job, frame: int) -> None:
        """A frame is in the job's take."""
        if job.id in self._live:
            self._live[job.id].frames.add(frame)

    def end(self, job: Job) -> None:
        """The job has ended: strips that still show it will show what they did before, or go."""
        self._let_go(job)
        left = takes.live_folder(job.take)  # by an earlier Blender
        if left not in self._folders and left.is_dir():
            self._folders.append(left)
            self._to_look = True

    def _let_go(self, job: Job) -> None:
        if (live := self._live.pop(job.id, None)) is not None:
            self._folders.append(live.frames.folder)
            self._to_look = True
            self._look()

    def undone(self) -> None:
        """Something was undone or redone."""
        self._to_look = True

    def file_opened(self) -> None:
        self._to_look = self._opened = True

    def before_saving(self) -> None:
        for _, strip in marked():
            names = [takes.frame_file(Path(), frame).name for frame in range(len(strip.elements))]
            strips.set_files(strip, stack.shown(strip), names)

    def after_saving(self) -> None:
        for _, strip in marked():
            live = self._live.get(strip.musev.making)
            if live is not None and live.place is Place.SHOWN:
                strips.set_files(strip, live.frames.folder, live.frames.names)

    # --- the tick ---------------------------------------------------------------------------------

    def _to_be_shown(self, job: Job) -> bool:
        if job.ended or job.id in self._given_up or job.request.result != "clip" or job.reproduces:
            return False
        scene = bpy.data.scenes.get(job.scene)
        return scene is not None and scene.musev.show_making

    def show(self, jobs: Iterable[Job]) -> None:
        """Places or reads anew at most one strip: either is one piece, and so comes first in a tick. jobs: those
        of the open file."""
        if self._to_look or self._why_not():
            return
        for job in jobs:
            live = self._live.get(job.id)
            if (
                live is None
                or not live.frames.ready
                or job.state is JobState.READY
                or not self._to_be_shown(job)
            ):
                continue
            scene = bpy.data.scenes[job.scene]
            if live.place is Place.TO_COME and self._attempt(job, self._place, job, live, scene):
                return
            if live.is_behind:
                self._attempt(job, self._refresh, job, live, scene)
                return

    def advance(self, jobs: Iterable[Job], deadline: float) -> None:
        """What else can be done until about `deadline`. jobs: those of the open file."""
        self._look()
        for job in jobs:
            if time.perf_counter() >= deadline:
                return
            if not self._to_be_shown(job):
                self._let_go(job)  # not wished any more
            elif job.state is JobState.RUNNING or (job.id in self._live and job.state is not JobState.READY):
                live = self._live_of(job)
                if live.place not in (Place.AWAY, Place.DELETED):
                    self._attempt(job, live.frames.advance, deadline)
        while self._folders and not self._to_look and time.perf_counter() < deadline:
            try:
                if not sweep(self._folders[0], deadline):
                    return
            except takes.TakeError as error:  # previews are left over; no clip is the worse for it
                print(f"MuseV: {error}")
            self._folders.pop(0)

    def _live_of(self, job: Job) -> Live:
        if job.id not in self._live:
            frames = LiveFrames(job.take, job.request, job.about, job.have)
            self._live[job.id] = Live(frames)
            if frames.folder in self._folders:  # wished again
                self._folders.remove(frames.folder)
        return self._live[job.id]

    def _attempt(self, job: Job, step: Callable, *given) -> object:
        """What a step gives; True where it fails, and the job is then shown no more."""
        try:
            return step(*given)
        except (takes.TakeError, strips.StripError) as error:  # the clip itself goes on
            job.problem = tr("It is not shown while it is made: {why}", why=error)
            self._given_up.add(job.id)
            self.end(job)
            return True

    def _place(self, job: Job, live: Live, scene: bpy.types.Scene) -> bool:
        """In a strip that says so already; in that of the clip's other takes, once there is something to see; else in a
        new one. True if it is there. Raises StripError."""
        strip = self._found(job, live, scene)
        if strip is not None:
            before = strip.musev.before
            stack.show(strip, live.frames.files)
        elif (strip := stack.strip_of(scene, job.take, len(live.frames.names), job.start)) is not None:
            if not live.frames.has_picture or strip.musev.making:
                return False
            before = stack.shown(strip).name
            stack.show(strip, live.frames.files)
        else:
            before = ""
            alone = shot_record.of(job) is None  # many clips at once leave the selection as it is
            strip = stack.new_strip(scene, job.clip, live.frames.files, job.start, select=alone)
        strip.musev.making, strip.musev.before = job.id, before
        live.place = Place.SHOWN
        self._note(live, strip)
        return True

    def _refresh(self, job: Job, live: Live, scene: bpy.types.Scene) -> None:
        if (strip := self._found(job, live, scene)) is not None:
            strips.set_files(strip, live.frames.folder, live.frames.names)
            self._note(live, strip)
        elif any(stack.folder(other) == job.take.parent for other in stack.ours(scene)):
            live.place = Place.AWAY
        else:
            live.place = Place.DELETED

    def _note(self, live: Live, strip) -> None:
        live.strip, live.shown, live.at = strip.name, live.frames.changes, time.perf_counter()
        self.changes += 1

    def _found(self, job: Job, live: Live, scene: bpy.types.Scene):
        """The strip that shows the job; None where there is none."""
        there = strips.every_strip(scene)
        by_name = there.get(live.strip) if live.strip and len(there) else None
        if by_name is not None and by_name.musev.making == job.id:
            return by_name
        return next((strip for strip in there if strip.musev.making == job.id), None)

    # --- what undo, redo, opening and an end leave ------------------------------------------------

    def _look(self) -> None:
        """Where that is due, every strip that shows a clip in the making goes on with it or is as it was before."""
        if not self._to_look or self._why_not():
            return
        found = set()
        for scene, strip in list(marked()):
            job = self._job_of(strip.musev.making)
            if job is not None and self._to_be_shown(job):
                live = self._live_of(job)
                live.strip, live.place = strip.name, Place.TO_COME  # its folder may be any of its time
                found.add(job.id)
            elif self._opened and (strip_take := clip_folder.look(stack.shown(strip))).finished:
                stack.show(strip, strip_take.frames())
            else:
                take_away(scene, strip)
        for job_id, live in self._live.items():
            if live.place is Place.SHOWN and job_id not in found:  # undo took it along
                live.place = Place.TO_COME
        self._to_look = self._opened = False
        self.changes += 1

    def deleted(self, job: Job) -> bool:
        """Whether the artist took the job's strip off the timeline. Asked before its finished take is placed."""
        live, scene = self._live.get(job.id), bpy.data.scenes.get(job.scene)
        if live is None or scene is None:
            return False
        if live.place is Place.SHOWN and not self._to_look:
            self._refresh(job, live, scene)
        return live.place is Place.DELETED

    def finish(self, job: Job, files: list[Path]) -> None:
        """Copies of the job's strip show the finished take too."""
        for _, strip in marked():
            if strip.musev.making == job.id:
                stack.show(strip, files)


def marked() -> Iterator[tuple[bpy.types.Scene, object]]:
    """Every strip of the file that shows a clip in the making, and its scene."""
    for scene in bpy.data.scenes:
        if not scene.get(COPY):
            yield from ((scene, strip) for strip in list(strips.every_strip(scene)) if strip.musev.making)


def take_all_away(scene: bpy.types.Scene) -> None:
    """The same of all strips of one scene."""
    for strip in [strip for strip in strips.every_strip(scene) if strip.musev.making]:
        take_away(scene, strip)


def take_away(scene: bpy.types.Scene, strip) -> None:
    """Has a strip show the take that it did before its clip was made; without one, it goes."""
    before = clip_folder.look(stack.folder(strip) / strip.musev.before) if strip.musev.before else None
    try:
        files = before.frames() if before is not None else []
    except takes.TakeError:  # gone since
        files = []
    if files:
        stack.show(strip, files)
    else:
        strips.remove(scene, strip)
