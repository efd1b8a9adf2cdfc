"""Pose pictures and OpenPose's JSON on disk, with no engine: one file a frame, read and written in slices.

The JSON is what OpenPose writes (CMU-Perceptual-Computing-Lab/openpose, doc/02_output.md, version 1.3), with its 18
COCO body points, which pose ControlNets know, rather than its own 25, and with the canvas's size, as the ControlNet
editors add it: a file of each frame, in which person k is the same in every file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np

from .. import session, stills, strips
from ..captures import CaptureError
from ..clips import takes
from ..making.jobs import JobState
from ..translations import tr
from .drawing import MIN_VISIBILITY, paint, shapes
from .pose import PoseCapture
from .skeleton import PARTS

TICK_S = 0.006  # what a tick may take of Blender's main thread; the session's own timer ticks beside it
PAUSE_S = 0.005  # between two ticks
TOLD_PARTS = 50  # of the whole, each of which is a redraw of the panel
SHAPES_AT_ONCE = 32  # that are drawn in one step at 512 x 512 pixels
PIXELS_AT_ONCE = 128 * 1024  # that are packed into a PNG in one step
OPENPOSE_VERSION = 1.3
JSON_PARTS = {
    "pose_keypoints_2d": "body",
    "face_keypoints_2d": "face",
    "hand_left_keypoints_2d": "left hand",
    "hand_right_keypoints_2d": "right hand",
}


def openpose_json(people: np.ndarray, width: int, height: int) -> bytes:
    """One frame's file.

    people: float (people, 130, 3) of x, y in pixels of a width × height picture, and visibility, which becomes
    OpenPose's confidence. What isn't drawn (under 0.3) is written as 0, 0, 0; points outside the picture stay.
    """
    shown = np.where(people[..., 2:] >= MIN_VISIBILITY, people, 0.0)
    written = [
        {"person_id": [-1]}
        | {
            name: np.round(person[PARTS[part]].astype(float), 3).ravel().tolist()
            for name, part in JSON_PARTS.items()
        }
        | {name.replace("2d", "3d"): [] for name in JSON_PARTS}
        for person in shown
    ]
    return json.dumps(
        {"version": OPENPOSE_VERSION, "people": written, "canvas_width": width, "canvas_height": height}
    ).encode()


@dataclass(frozen=True)
class Strip:
    """Where written pictures go on a timeline: one strip of `scene` from the frame `start` on. order: for each of its
    frames, which picture it shows."""

    scene: str
    name: str
    start: int
    order: tuple[int, ...]


@dataclass
class PoseExport:
    """Poses on their way to files, driven in slices as `captures.Capture` is; holds names and plain data.

    capture: what is read first. folder, name: files are `folder/name_0001.png` and `name_0001_keypoints.json`,
    numbered from first_number on. pictures, keypoints: which of the two are written. strip: where the pictures are
    placed in the end, if at all.
    """

    capture: PoseCapture
    folder: Path
    name: str
    first_number: int
    pictures: bool = True
    keypoints: bool = False
    strip: Strip | None = None
    file_number: int = 0  # which of the files opened in this Blender it belongs to, and its path
    blend_file: str = ""
    problem: str = ""
    frames_written: int = 0
    written: list[Path] = field(default_factory=list)
    longest_step_s: float = 0.0
    _work: Iterator[None] | None = field(default=None, repr=False)

    @property
    def take(self) -> Path:
        return self.folder

    @property
    def phase(self) -> str:
        return self.capture.phase if self.capture.done < self.capture.total else "writing poses"

    @property
    def done(self) -> int:
        return self.capture.done if self.capture.done < self.capture.total else self.frames_written

    @property
    def total(self) -> int:
        return self.capture.total

    def picture_file(self, frame: int) -> Path:
        """Where the picture of the frame-th pose, from 0, goes."""
        return self.folder / f"{self.name}_{self.first_number + frame:04d}.png"

    def keypoints_file(self, frame: int) -> Path:
        return self.folder / f"{self.name}_{self.first_number + frame:04d}_keypoints.json"

    def files(self) -> list[Path]:
        """All that will be written."""
        frames = range(self.total)
        return [
            *(self.picture_file(frame) for frame in frames if self.pictures),
            *(self.keypoints_file(frame) for frame in frames if self.keypoints),
        ]

    def advance(self, deadline: float) -> bool:
        """Reads, draws and writes on until about `deadline`; True once every file is there. Raises CaptureError and
        TakeError."""
        if self.capture.done < self.capture.total:
            self.capture.advance(deadline)
            return False
        self._work = self._work or self._steps()
        started = time.perf_counter()
        for _ in self._work:
            now = time.perf_counter()
            self.longest_step_s = max(self.longest_step_s, now - started)
            if now + (now - started) > deadline:
                return False
            started = now
        return True

    def _steps(self) -> Iterator[None]:
        """Draws and writes one frame after another; pauses wherever a tick may end."""
        width, height = self.capture.width, self.capture.height
        at_once = max(4, SHAPES_AT_ONCE * 512 * 512 // (width * height))
        for frame, people in enumerate(self.capture.read):
            if self.pictures:
                picture, what = np.zeros((height, width, 3), np.uint8), shapes(people, width, height)
                for first in range(0, len(what.radius), at_once):
                    paint(picture, what.part(first, first + at_once))
                    yield
                png = []
                for piece in stills.png_pieces(picture, max(1, PIXELS_AT_ONCE // width)):
                    png.append(piece)
                    yield
                self._write(self.picture_file(frame), b"".join(png))
            if self.keypoints:
                self._write(self.keypoints_file(frame), openpose_json(people, width, height))
            self.frames_written += 1
            yield

    def _write(self, path: Path, data: bytes) -> None:
        takes.write_whole(path, data)
        self.written.append(path)

    def place(self) -> None:
        """Puts the pictures on the timeline as one strip, in one undo step. Raises StripError."""
        scene = bpy.data.scenes.get(self.strip.scene)
        if scene is None:
            raise strips.StripError(
                tr(
                    "Scene '{scene}' is gone; the pictures lie in {folder}.",
                    scene=self.strip.scene,
                    folder=self.folder,
                )
            )
        files = [self.picture_file(picture) for picture in self.strip.order]
        strips.place_images(scene, self.strip.name, files, self.strip.start)
        windows = bpy.context.window_manager.windows
        with bpy.context.temp_override(**({"window": windows[0]} if len(windows) else {})):
            bpy.ops.ed.undo_push(message=f"MuseV {self.strip.name}")

    def cancel(self) -> None:
        """Removes what was written, and a preview's folder with it. Raises TakeError."""
        self.capture.cancel()
        while self.written:
            takes.remove(self.written.pop())
        if self.strip:
            takes.discard(self.folder)


@dataclass
class Runner:
    """The one export that is under way, driven by a timer of its own; in background it runs to its end at once.

    export: it, or the last one, for the panel to tell of.
    """

    export: PoseExport | None = None
    running: bool = False

    def start(self, export: PoseExport, at_once: bool = False) -> None:
        """Takes an export; at_once: does not return before its end, and raises what it raises."""
        export.file_number, export.blend_file = session.current.file_number, bpy.data.filepath
        self.export, self.running = export, True
        if not at_once:
            bpy.app.timers.register(_timer)
            return
        try:
            while not export.advance(float("inf")):
                pass
            if export.strip:
                export.place()
        except FAILURES as error:
            self.stop(str(error))
            raise
        self.running = False

    def tick(self) -> float | None:
        """What Blender's timer calls: the seconds to the next call, or None at the end."""
        if not self.running:
            return None
        if any(job.state is JobState.CAPTURING for job in session.current.jobs):
            return 0.1  # one at a time is read from the scene
        told = self._told
        try:
            if self.export.advance(time.perf_counter() + TICK_S) and self._placed():
                self.running = False
        except FAILURES as error:
            self.stop(str(error))
        if self._told != told:
            session.redraw()
        return PAUSE_S if self.running else None

    @property
    def _told(self) -> tuple:
        """What the panel says, in coarse steps: drawing it costs more than reading a pose."""
        export = self.export
        return self.running, export.phase, TOLD_PARTS * export.done // max(export.total, 1), export.problem

    def _placed(self) -> bool:
        """Whether the pictures are on the timeline, or need not be; some modes keep them waiting."""
        if self.export.strip is None:
            return True
        if session.current.why_not_placed(self.export):
            return False
        self.export.place()
        return True

    def stop(self, problem: str = "Cancelled.") -> None:
        """Ends what runs; what it has written is removed."""
        self.running = False
        self.export.problem = problem
        try:
            self.export.cancel()
        except takes.TakeError as error:
            self.export.problem += f" {error}"


FAILURES = (CaptureError, takes.TakeError, strips.StripError)
current = Runner()


def _timer() -> float | None:
    return current.tick()


@bpy.app.handlers.persistent
def _closing(*_) -> None:
    """Another file is about to be opened, in which the names mean something else."""
    if current.running:
        current.stop(tr("The file was closed while its poses were exported."))


def register() -> None:
    bpy.app.handlers.load_pre.append(_closing)


def unregister() -> None:
    bpy.app.handlers.load_pre.remove(_closing)
    if current.running:
        current.stop(tr("The extension was disabled."))
    if bpy.app.timers.is_registered(_timer):
        bpy.app.timers.unregister(_timer)
