"""Posealign: the poses brought to the figure of the reference still, and a look at them before anything is generated.

The engine aligns and draws them (`ClipRequest.result` "poses"); the panel shows them over the still.
"""

from __future__ import annotations

from pathlib import Path

import bpy
import bpy.utils.previews
import numpy as np

from . import gather, session, strips, ui
from .clips import takes
from .making.jobs import Job, JobState
from .translations import tr
from .verbs import Verb, no_engine, no_scene, refusable

STILL_FILE = "still.png"  # beside a preview's pose pictures
DIMMED = 0.5  # of the still, under the poses
PICTURE_UNITS = 10.0  # of the interface, that the picture is wide and high
_pictures: bpy.utils.previews.ImagePreviewCollection | None = None


class MUSEV_OT_preview_alignment(Verb, bpy.types.Operator):
    bl_idname = "musev.preview_alignment"
    bl_label = "Preview Alignment"
    bl_description = (
        "Read the poses of the whole clip and show them over the still, brought to its figure as they will be when "
        "the clip is made. Nothing is generated"
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := no_scene(context):
            return why
        if strips.shown_scene(context).musev.mode != "pose":
            return tr("Only Pose to Clip has poses to align")
        return no_engine()

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        job = gather.clip_job(context, "poses")
        forget(job.scene)
        session.current.submit(job)


def newest(scene: str) -> Job | None:
    """The preview of a scene, being made or made."""
    jobs = (job for job in reversed(session.current.jobs) if job.request.result == "poses")
    return next((job for job in jobs if job.scene == scene), None)


def forget(scene: str) -> None:
    """Drops the previews of a scene."""
    for job in [job for job in session.current.jobs if job.request.result == "poses" and job.scene == scene]:
        session.current.cancel(job.id)
        session.current.jobs.remove(job)


def picture(job: Job, timeline_frame: int) -> bpy.types.ImagePreview | None:
    """What a finished preview shows at a frame of the timeline: the poses over the darkened still. None while there
    is nothing to show."""
    frame = min(max(timeline_frame - job.start, 0), job.request.frames_out - 1)
    name = f"{job.id} {frame}"
    if _pictures is None or frame not in job.have:
        return None
    if name not in _pictures:
        file = takes.frame_file(job.take, frame)
        if not file.is_file():
            return None
        poses, size = _pixels(f"poses {name}", file)
        still = np.zeros_like(poses)
        if job.still is not None:
            if not (file := job.take / STILL_FILE).is_file():
                takes.write_whole(file, job.still)
            still, _ = _pixels(f"still {job.id}", file)
        shown = over(poses, still)
        made = _pictures.new(name)
        made.image_size = size
        made.image_pixels_float.foreach_set(shown.ravel())
    return _pictures[name]


def over(poses: np.ndarray, still: np.ndarray) -> np.ndarray:
    """A drawing on black over a darkened picture, float (pixels, 4) of 0..1 each: opaque."""
    drawn = poses[:, :3].max(axis=1, keepdims=True)
    shown = np.ones_like(poses)
    shown[:, :3] = poses[:, :3] + DIMMED * still[:, :3] * (1 - drawn)
    return np.clip(shown, 0, 1)


def _pixels(name: str, file: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture file as float (pixels, 4), at most 256 pixels a side, and its width and height then."""
    if name not in _pictures:
        _pictures.load(name, str(file), "IMAGE")
    width, height = _pictures[name].image_size
    pixels = np.empty(width * height * 4, np.float32)
    _pictures[name].image_pixels_float.foreach_get(pixels)
    return pixels.reshape(-1, 4), (width, height)


class MUSEV_PT_alignment(ui.Sidebar, bpy.types.Panel):
    bl_label = "Align to Still"
    bl_idname = "MUSEV_PT_alignment"
    bl_parent_id = "MUSEV_PT_clip"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        scene = strips.shown_scene(context)
        return scene is not None and scene.musev.mode == "pose"

    def draw_header(self, context: bpy.types.Context) -> None:
        self.layout.prop(strips.shown_scene(context).musev, "posealign", text="")

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        layout.operator("musev.preview_alignment", icon="HIDE_OFF")
        if (job := newest(scene.name)) is None:
            return
        if job.state is not JobState.DONE:
            return  # the list of clips in the making says how far it is, or what went wrong
        if (shown := picture(job, scene.frame_current)) is not None:
            layout.template_icon(shown.icon_id, scale=PICTURE_UNITS)
            layout.label(text="At the playhead, as the engine aligns it", icon="INFO")


_register, _unregister = bpy.utils.register_classes_factory((MUSEV_OT_preview_alignment, MUSEV_PT_alignment))


def register() -> None:
    global _pictures
    _register()
    _pictures = bpy.utils.previews.new()


def unregister() -> None:
    global _pictures
    bpy.utils.previews.remove(_pictures)
    _pictures = None
    _unregister()
