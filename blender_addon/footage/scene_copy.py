"""A copy of the artist's scene to render from, while their own stays as it is.

It is marked, and removed after use; what undo or a saved file brings back of it is swept away.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bpy

from ..captures import CaptureError
from ..translations import tr

MARK = "musev_copy"  # custom property of every data-block that is ours
BLOCKS = ("scenes", "objects", "cameras", "materials", "node_groups", "actions")
_live: set[str] = set()
_undos = 0  # undos, redos and opened files so far


@dataclass
class SceneCopy:
    """scene: the original's name. setup: makes of a fresh copy what is wanted; called whenever it has to be made anew,
    as after an undo.
    """

    scene: str
    setup: Callable[[bpy.types.Scene, SceneCopy], None]
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    _had_result: bool = True
    _undos: int = 0

    @property
    def found(self) -> bpy.types.Scene | None:
        """The copy, where there is one (still)."""
        return next((scene for scene in bpy.data.scenes if scene.get(MARK) == self.token), None)

    @property
    def disturbed(self) -> bool:
        """Whether what `render` last made is to be made again: an undo ends Blender's renders, and its file may be
        there and wrong."""
        return self.found is None or self._undos != _undos

    def get(self) -> bpy.types.Scene:
        """The copy, made where there is none. Raises CaptureError where the original is gone."""
        if (found := self.found) is not None:
            return found
        original = bpy.data.scenes.get(self.scene)
        if original is None:
            raise CaptureError(
                tr("Scene '{scene}' is no longer in this file; generate again.", scene=self.scene)
            )
        self._had_result = _render_result() is not None
        _live.add(self.token)
        copy = self.mark(original.copy())
        copy.name = f"MuseV {original.name}"
        self.setup(copy, self)
        return copy

    def mark(self, block: bpy.types.ID) -> bpy.types.ID:
        """Has a data-block of ours removed with the copy."""
        block[MARK] = self.token
        return block

    def stand_at(self, frame: int) -> None:
        """Makes `frame`, below 0 as well, the copy's current one. Raises CaptureError.

        After `frame_set`, Blender (4.2 to 5.2) renders a fresh copy's first frame with its animation not applied.
        """
        copy = self.get()
        with _kept_preferences() as preferences:
            preferences.edit.use_negative_frames = True
            copy.frame_current = frame

    def render(self, path: Path) -> bool:
        """Renders the copy's current frame to a file. True: it is there; False: it comes from Blender's render job,
        while the artist works on. Raises CaptureError.
        """
        copy = self.get()
        self._undos = _undos
        copy.render.filepath = str(path)
        path.unlink(missing_ok=True)
        in_job = not bpy.app.background and len(bpy.context.window_manager.windows) > 0
        try:
            # The operator's own `scene` would set the copy's frame to that of the artist's scene.
            if in_job:
                window = bpy.context.window_manager.windows[0]
                # The scene is overridden inside: together with a window it would stay the window's own, and the
                # artist's scene be rendered to the artist's path.
                with _kept_preferences() as preferences, bpy.context.temp_override(window=window):
                    preferences.view.render_display_type = "NONE"  # no window or editor opens for it
                    with bpy.context.temp_override(scene=copy):
                        bpy.ops.render.render("INVOKE_DEFAULT", write_still=True)
            else:
                with bpy.context.temp_override(scene=copy):
                    bpy.ops.render.render(write_still=True)
        except RuntimeError as error:  # what Blender reports: no camera, no memory, …
            raise CaptureError(
                tr(
                    "Blender could not render scene '{scene}' ({why}); render a frame of it yourself to "
                    "see why.",
                    scene=self.scene,
                    why=str(error).strip(),
                )
            ) from None
        return not in_job

    def remove(self) -> None:
        """Takes the copy away, now or once a render that still uses it has ended."""
        _live.discard(self.token)
        if bpy.app.is_job_running("RENDER"):
            if not bpy.app.timers.is_registered(_later):
                bpy.app.timers.register(_later, first_interval=0.2, persistent=True)
            return
        sweep()
        result = _render_result()
        if not self._had_result and result is not None and not _shown(result):
            bpy.data.images.remove(result)


def sweep() -> None:
    """Removes every copy that is no longer in use."""
    for kind in BLOCKS:
        blocks = getattr(bpy.data, kind)
        for block in [block for block in blocks if block.get(MARK, "") not in ("", *_live)]:
            blocks.remove(block)


def _render_result() -> bpy.types.Image | None:
    return next((image for image in bpy.data.images if image.type == "RENDER_RESULT"), None)


def _shown(image: bpy.types.Image) -> bool:
    areas = (area for window in bpy.context.window_manager.windows for area in window.screen.areas)
    return any(area.type == "IMAGE_EDITOR" and area.spaces.active.image == image for area in areas)


def _later() -> float | None:
    if bpy.app.is_job_running("RENDER"):
        return 0.2
    sweep()
    return None


@contextlib.contextmanager
def _kept_preferences() -> Iterator[bpy.types.Preferences]:
    """The preferences; what Blender does while this lasts may need other ones than the artist's."""
    preferences = bpy.context.preferences
    display, negative = preferences.view.render_display_type, preferences.edit.use_negative_frames
    dirty = preferences.is_dirty
    try:
        yield preferences
    finally:
        preferences.view.render_display_type, preferences.edit.use_negative_frames = display, negative
        preferences.is_dirty = dirty


@bpy.app.handlers.persistent
def _swept(*_) -> None:
    global _undos
    _undos += 1
    if not bpy.app.is_job_running("RENDER"):
        sweep()


@bpy.app.handlers.persistent
def _before_saving(*_) -> None:
    """A saved file holds nothing of ours; a copy in use is made anew."""
    if not bpy.app.is_job_running("RENDER"):
        live = set(_live)
        _live.clear()
        sweep()
        _live.update(live)


def register() -> None:
    for handlers in (bpy.app.handlers.load_post, bpy.app.handlers.undo_post, bpy.app.handlers.redo_post):
        handlers.append(_swept)
    bpy.app.handlers.save_pre.append(_before_saving)


def unregister() -> None:
    bpy.app.handlers.save_pre.remove(_before_saving)
    for handlers in (bpy.app.handlers.redo_post, bpy.app.handlers.undo_post, bpy.app.handlers.load_post):
        handlers.remove(_swept)
    if bpy.app.timers.is_registered(_later):
        bpy.app.timers.unregister(_later)
    if not bpy.app.is_job_running("RENDER"):
        _live.clear()
        sweep()
