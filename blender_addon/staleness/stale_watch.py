"""Keeps an eye on the takes that the sequencer shows: which of them are stale, found out while nobody does anything.

A timer compares them in slices, some time after the last edit, and never while an animation plays or a render runs.
What it says of a rig at the frame in view is the last look: it stays while the playhead is elsewhere, and goes with the
next edit there. Keeps names, paths and numbers between ticks, never Blender references.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bpy

from .. import session, strips
from ..clips import clip_folder, stack, takes
from ..making.jobs import JobState
from . import stale, stale_rig, take_parts
from .take_parts import Change, Memo, Steps

QUIET_S = 0.3  # without an edit, before anything is compared
PASS_S = 0.5  # between two rounds
TICK_S = 0.004  # of the main thread, in one tick


@dataclass(frozen=True)
class Target:
    """A take to be compared with a scene. strips: the names of those that show it."""

    scene: str
    folder: Path
    start: int
    strips: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, Path]:
        return self.scene, self.folder

    def take(self) -> clip_folder.Take:
        """Raises TakeError."""
        return clip_folder.read(self.folder.parent).take(self.folder.name)


class Watch:
    """`tick` does all the work. longest_slice_s: the longest so far."""

    def __init__(self):
        self.memo = Memo()
        self.longest_slice_s = 0.0
        self._found: dict[tuple, tuple[Change, ...]] = {}  # by scene and take, without what was looked at
        self._looks: dict[tuple, tuple[Change, ...]] = {}
        self._looked: dict[tuple, tuple] = {}  # what was in view then
        self._thorough: dict[tuple, tuple[Change, ...]] = {}  # what a check of all frames found
        self._targets: list[Target] = []  # of the last round
        self._to_check: list[Target] = []
        self._work: Iterator[None] | None = None
        self._edited_at = 0.0

    # --- what is known ----------------------------------------------------------------------------

    def changes(self, scene: str, folder: Path) -> tuple[Change, ...] | None:
        """What has changed since a take was made; None while it isn't known."""
        key = (scene, folder)
        if key not in self._found:
            return None
        words = self._found[key]
        checked = self._thorough.get(key)
        if checked is None:
            return stale.merged((*words, *self._looks.get(key, ())))
        moved = tuple(change for change in checked if change.what not in ("prompt", "model"))
        return stale.merged(
            (*moved, *(each for each in words if each.what not in ("rig", "camera", "still")))
        )

    def stale_strips(self, scene: str) -> list[str]:
        """The names of the scene's strips that show stale takes, as of the last round."""
        found = (each for each in self._targets if each.scene == scene and each.strips)
        return [strip for target in found if self.changes(*target.key) for strip in target.strips]

    # --- what happens -----------------------------------------------------------------------------

    def edited(self, depsgraph: bpy.types.Depsgraph) -> None:
        """Notes that something was changed in a scene."""
        keys, images = depsgraph.id_type_updated("ACTION"), depsgraph.id_type_updated("IMAGE")
        self._edited_at = time.monotonic()
        self.memo.edits += 1
        self.memo.keys += keys
        self.memo.images += images
        for update in depsgraph.updates:
            if update.is_updated_geometry and isinstance(update.id, bpy.types.Mesh):
                touched = self.memo.scenes.touched
                touched[update.id.name_full] = touched.get(update.id.name_full, 0) + 1
        if keys or images or any(u.is_updated_transform or u.is_updated_geometry for u in depsgraph.updates):
            self._thorough.clear()

    def stepped(self) -> None:
        """Notes that another frame is in view. Keys may have been set just before, which nobody tells then."""
        self._edited_at = time.monotonic()
        self.memo.keys += 1

    def doubt(self) -> None:
        """Anything may be otherwise: something was undone."""
        memo = self.memo
        memo.edits, memo.keys, memo.images = memo.edits + 1, memo.keys + 1, memo.images + 1
        memo.scenes.doubts += 1
        self._thorough.clear()
        self._work = None  # a check that is on its way begins anew

    def forget(self) -> None:
        """Another file is open."""
        self.memo = Memo()
        self._thorough.clear()
        for known in (self._found, self._looks, self._looked, self._targets, self._to_check):
            known.clear()
        self._work = None

    def check(self, target: Target) -> None:
        """Has a take compared thoroughly, by and by."""
        self._to_check.append(target)

    def note(self, target: Target, found: tuple[Change, ...]) -> None:
        """Takes up what a thorough check has found."""
        self._found[target.key] = self._thorough[target.key] = found

    @property
    def checking(self) -> bool:
        return bool(self._to_check)

    # --- the tick ---------------------------------------------------------------------------------

    def tick(self) -> tuple[float, bool]:
        """Compares for about TICK_S; (seconds until the next tick, whether something else is to be shown)."""
        if _is_busy():  # with a render of a check's own, perhaps
            return (0.05 if self._to_check else PASS_S), False
        wait = self._edited_at + QUIET_S - time.monotonic()
        if wait > 0 and not self._to_check:
            return wait, False
        before, started = self._shown(), time.perf_counter()
        if self._work is None:
            self._work = self._round()
        going = True
        while going:
            began = time.perf_counter()
            going = next(self._work, self) is not self
            now = time.perf_counter()
            self.longest_slice_s = max(self.longest_slice_s, now - began)
            if now - started >= TICK_S:
                break
        if not going:
            self._work = None
        return (0.02 if going else PASS_S), self._shown() != before

    def settle(self) -> None:
        """A whole round at once, for scripts and tests that can't wait for the timer."""
        self._edited_at = 0.0
        self._work = None
        for _ in self._round():
            pass

    def _shown(self) -> tuple:
        return dict(self._found), dict(self._looks), dict(self._thorough), len(self._to_check)

    def _round(self) -> Iterator[None]:
        """Compares everything that is shown, once."""
        self.memo.lying.clear()
        self.memo.newest.clear()
        while self._to_check:
            target = self._to_check[0]
            self._thorough[target.key] = yield from self._examine(target, thorough=True)
            self._to_check.remove(target)
        targets = _targets()
        for folder in {target.folder.parent for target in targets}:
            try:
                for take in clip_folder.read(folder).takes:
                    take_parts.note_model(self.memo, take)
            except takes.TakeError:
                pass  # the panel says so
            yield
        for target in targets:
            self._found[target.key] = yield from self._examine(target)
            yield
            self._look(target)
            yield
        self._targets = targets
        for known in (self._found, self._looks, self._looked, self._thorough):
            for key in known.keys() - {target.key for target in targets}:
                del known[key]

    def _examine(self, target: Target, thorough: bool = False) -> Steps:
        try:
            take = target.take()
        except takes.TakeError:
            return ()
        return (yield from stale.examine(target.scene, take, self.memo, target.start, thorough))

    def _look(self, target: Target) -> None:
        in_view = self.memo.edits, *((scene.name, scene.frame_current_final) for scene in bpy.data.scenes)
        if self._looked.get(target.key) == in_view:
            return
        edited = self._looked.get(target.key, in_view)[0] != in_view[0]
        self._looked[target.key] = in_view
        try:
            seen = stale_rig.look(target.scene, target.take(), self.memo)
        except takes.TakeError:
            seen = None
        if seen is not None:
            self._looks[target.key] = seen
        elif edited:
            self._looks.pop(target.key, None)


def _is_busy() -> bool:
    """Whether someone else steps through the frames."""
    windows = bpy.context.window_manager.windows
    return (
        any(window.screen.is_animation_playing for window in windows)
        or bpy.app.is_job_running("RENDER")
        or any(job.state is JobState.CAPTURING for job in session.current.jobs)
    )


def _targets() -> list[Target]:
    """What the sequencers show: of the active strip all takes, of the others those that they show."""
    shown = {}
    for window in bpy.context.window_manager.windows:
        scene = getattr(window.workspace, "sequencer_scene", window.scene)
        if scene is not None:
            shown[scene.name] = scene
    found: dict[tuple, Target] = {}
    for scene in shown.values():
        active = stack.active(scene)
        for strip in stack.ours(scene):
            target = Target(scene.name, stack.shown(strip), strips.content(strip)[0])
            before = found.get(target.key, target)
            found[target.key] = dataclasses.replace(before, strips=(*before.strips, strip.name))
            if strip != active:
                continue
            try:
                there = [take.folder for take in stack.read(strip).takes if take.finished]
            except takes.TakeError:
                continue
            for folder in there:
                found.setdefault((scene.name, folder), dataclasses.replace(target, folder=folder))
    return list(found.values())


current = Watch()


def _timer() -> float:
    try:
        wait, changed = current.tick()
    except Exception:  # a bug of ours costs the badges alone
        traceback.print_exc()
        current.forget()
        return 10.0
    if changed:
        session.redraw()
    return wait


@bpy.app.handlers.persistent
def _updated(scene, depsgraph) -> None:
    current.edited(depsgraph)


@bpy.app.handlers.persistent
def _stepped(*_) -> None:
    current.stepped()


@bpy.app.handlers.persistent
def _undone(*_) -> None:
    current.doubt()


@bpy.app.handlers.persistent
def _loaded(*_) -> None:
    current.forget()


HANDLERS = {
    "depsgraph_update_post": _updated,
    "frame_change_post": _stepped,
    "undo_post": _undone,
    "redo_post": _undone,
    "load_post": _loaded,
}


def register() -> None:
    for name, handler in HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)
    bpy.app.timers.register(_timer, persistent=True)


def unregister() -> None:
    bpy.app.timers.unregister(_timer)
    for name, handler in HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
    current.forget()
