"""Strips read as pictures: exactly the frames that the viewer shows.

A copy of the scene keeps the wanted strips alone, and Blender's own sequencer renders it at full size, whatever the
strips are and whatever alters them. Colour is what the scene's view shows: its display, view, look, exposure and curves
are in the levels, as on the artist's screen. Each frame is then cut and scaled as stills are (`stills.cover`).
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np

from .. import strips
from ..captures import CaptureError, picture_blobs
from ..making import live_strip
from ..protocol import ClipRequest, Control, blob_sha256
from ..stills import cover, png_pieces
from ..translations import tr
from .scene_copy import SceneCopy

BAND = 64  # rows of a clip's picture that are made at a time
TARGA_HEADER = 18  # bytes; what follows is rows of blue, green, red from the lowest up


class SourceError(CaptureError):
    """Strips can't be read: which, why, and what to do about it."""


def nearest_frames(times: Iterable[float]) -> tuple[int, ...]:
    """The timeline frame nearest to each time; halfway between two, the later: strips show whole frames."""
    return tuple(math.floor(moment + 0.5) for moment in times)


@dataclass(frozen=True)
class Choice:
    """Strips of one scene to show. names: theirs and those of what they need; None: all that the viewer shows.
    meta: the meta strip that is open, in which they lie; "" on top."""

    scene: str
    names: frozenset[str] | None
    meta: str = ""

    def gone(self, scene: bpy.types.Scene) -> str:
        """The first of its strips, and of the meta they lie in, that the scene no longer has; "" for none."""
        here = {strip.name for strip in strips.every_strip(scene)}
        return min(
            (name for name in (self.meta, *(self.names or ())) if name and name not in here), default=""
        )

    def among(self, level: Iterable) -> list:
        """The strips of `level` that it names."""
        return [strip for strip in level if self.names is None or strip.name in self.names]


@dataclass
class StripCapture:
    """A `captures.Capture` of strips at `times`, frames of the timeline (the nearest whole frame of each).

    source_strength: they become the clip's source with it; None: they don't. control: they become its pictures.
    rendered: how many frames were.
    """

    choice: Choice
    width: int
    height: int
    times: tuple[float, ...]
    source_strength: float | None = None
    control: Control | None = None
    phase: str = "reading strips"
    done: int = 0
    rendered: int = 0
    pngs: dict[int, bytes] = field(default_factory=dict)  # by frame
    _blobs: list[tuple[str, bytes]] = field(default_factory=list)
    _work: Iterator[bool] | None = None
    _copy: SceneCopy | None = None
    _folder: Path | None = None

    @property
    def total(self) -> int:
        """A step for each frame, and one to pack them."""
        return len(self.times) + 1

    def advance(self, deadline: float) -> bool:
        """Renders, or looks whether a render is there, until `deadline`. Raises SourceError.

        Without a window a frame's render is waited for, in one it goes on in Blender's render job.
        """
        if self._work is None:
            self._work = self._read()
        for went_on in self._work:
            if not went_on or time.perf_counter() >= deadline:
                break
        return self.done == self.total

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        """The request with the source and the control named in it, and their blobs. Raises ProtocolError."""
        names = tuple(name for name, _ in self._blobs)
        changed: dict = {}
        if self.source_strength is not None:
            changed |= {"source": names, "source_strength": self.source_strength}
        if self.control is not None:
            changed["controls"] = (*request.controls, dataclasses.replace(self.control, pictures=names))
        return dataclasses.replace(request, **changed), dict(self._blobs)

    def told(self) -> dict:
        """What a take says of it."""
        names = sorted(self.choice.names) if self.choice.names is not None else "all that is shown"
        return {
            "strips": names,
            "strength": self.source_strength,
            "control": self.control and self.control.name,
        }

    def cancel(self) -> None:
        """Takes away the copy of the scene and the files. A render on its way ends by itself."""
        self._work = iter(())
        if self._copy is not None:
            self._copy.remove()
            self._copy = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # --- step by step -----------------------------------------------------------------------------

    def _read(self) -> Iterator[bool]:
        """Does a little at each step; False: nothing can be done until a render has ended."""
        self._copy = SceneCopy(self.choice.scene, self._set_up)
        self._folder = Path(tempfile.mkdtemp(prefix="musev-strips-"))
        frames = nearest_frames(self.times)
        for frame in frames:
            if frame not in self.pngs:
                yield from self._render(frame)
                yield from self._scale(frame)
            self.done += 1
            yield True
        yield from self._pack(frames)
        self.done += 1

    def _scale(self, frame: int) -> Iterator[bool]:
        """Makes the PNG of what was rendered, some rows at a time."""
        pixels = read_targa(self._folder / "frame.tga")
        yield True
        bands = []
        for first in range(0, self.height, BAND):
            last = min(first + BAND, self.height)
            bands.append(np.rint(cover(pixels, self.width, self.height, first, last)).astype(np.uint8))
            yield True
        pieces = []
        for piece in png_pieces(np.concatenate(bands), BAND):
            pieces.append(piece)
            yield True
        self.pngs[frame] = b"".join(pieces)

    def _pack(self, frames: tuple[int, ...]) -> Iterator[bool]:
        for blob in picture_blobs(self.width, self.height, (self.pngs[frame] for frame in frames)):
            self._blobs.append(blob)
            yield True

    def _render(self, frame: int) -> Iterator[bool]:
        """Until frame.tga is there; once more where an undo came between."""
        path = self._folder / "frame.tga"
        path.unlink(missing_ok=True)
        while not path.exists():
            while bpy.app.is_job_running("RENDER"):
                yield False
            self._copy.stand_at(frame)
            if not self._copy.render(path):
                yield False
                while bpy.app.is_job_running("RENDER"):
                    yield False
            if self._copy.disturbed:
                path.unlink(missing_ok=True)
            elif not path.exists():
                raise SourceError(
                    tr(
                        "The render of the strips was stopped at frame {frame} (Esc does that); generate again.",
                        frame=frame,
                    )
                )
        self.rendered += 1

    def _set_up(self, scene: bpy.types.Scene, copy: SceneCopy) -> None:
        """Makes the copy of the scene one that renders the strips alone, at full size, to a file without loss."""
        animation = scene.animation_data
        if animation is not None and animation.action is not None:
            slot = getattr(animation, "action_slot", None)
            animation.action = copy.mark(animation.action.copy())
            if slot is not None:
                animation.action_slot = animation.action.slots[slot.identifier]
        if gone := self.choice.gone(scene):
            raise SourceError(
                tr(
                    "Strip '{strip}' is no longer in scene '{scene}'; generate again.",
                    strip=gone,
                    scene=self.choice.scene,
                )
            )
        last = max(nearest_frames(self.times))
        strips.keep_only(scene, self.choice.names, self.choice.meta, last)
        if self.choice.names is None:  # what is only half made isn't among what is shown
            live_strip.take_all_away(scene)
        things = scene.collection  # of the 3-D scene, which is not looked at
        for child in list(things.children):
            things.children.unlink(child)
        for thing in list(things.objects):
            things.objects.unlink(thing)
        render, file = scene.render, scene.render.image_settings
        render.use_sequencer, render.resolution_percentage = True, 100
        render.use_border = render.use_stamp = render.use_multiview = render.use_compositing = False
        render.use_file_extension = render.use_overwrite = True
        if hasattr(file, "media_type"):
            file.media_type = "IMAGE"
        file.file_format, file.color_mode = "TARGA_RAW", "RGB"
        file.color_management = "FOLLOW_SCENE"


@dataclass
class StillCapture(StripCapture):
    """The same of one frame, which becomes the clip's reference still."""

    phase: str = "reading the still"

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        (png,) = self.pngs.values()
        return dataclasses.replace(request, still=blob_sha256(png)), {blob_sha256(png): png}


def read_targa(path: Path) -> np.ndarray:
    """(h, w, 3) uint8, the first row on top, of a picture that Blender wrote; the file is then removed.

    Raises SourceError if it is not whole.
    """
    raw = np.fromfile(path, np.uint8)
    path.unlink()
    width, height = (int(raw[at]) + 256 * int(raw[at + 1]) for at in (12, 14)) if raw.size > 18 else (0, 0)
    end = TARGA_HEADER + width * height * 3
    if not width * height or raw.size < end or raw[2] != 2 or raw[16] != 24:
        raise SourceError(
            tr(
                "Blender wrote no whole picture to {path} ({size} bytes); is the disk full?",
                path=path,
                size=raw.size,
            )
        )
    pixels = raw[TARGA_HEADER:end].reshape(height, width, 3)
    return pixels[::-1, :, ::-1]
