"""A finished clip's way onto the timeline: when it may be touched, and the one undo step."""

from __future__ import annotations

from collections.abc import Iterable

import bpy

from ..clips import splice, stack, takes
from ..shots import shot_record
from ..strips import StripError
from ..translations import tr
from . import job_files
from .jobs import Job
from .live_strip import LiveStrips


def place(job: Job, live: LiveStrips) -> str:
    """The take becomes a strip, or joins the takes of one, in one undo step. Returns what there is to say of it. Raises
    StripError."""
    scene = bpy.data.scenes.get(job.scene)
    if scene is None:
        raise StripError(
            tr("Scene '{scene}' is gone; the finished take lies in {take}.", scene=job.scene, take=job.take)
        )
    if live.deleted(job):
        return tr("You deleted its strip while it was made; the take lies in {take}.", take=job.take)
    count = splice.num_frames(job.about, job.request.frames_out)
    files = [takes.frame_file(job.take, frame) for frame in range(count)]
    alone = shot_record.of(job) is None  # many clips at once leave the selection as it is
    job.strip = stack.place(scene, job.clip, files, job.start, select=alone).name
    live.finish(job, files)
    push_undo(f"MuseV {job.clip}")
    return ""


def follow_scenes(jobs: Iterable[Job]) -> None:
    """A scene that was renamed is still the one that its clips go to. jobs: of the open file."""
    for job in jobs:
        if job.ended:
            continue
        scene = bpy.data.scenes.get(job.scene)
        if scene is not None and job.scene_uid in (0, scene.session_uid):
            job.scene_uid = scene.session_uid
        elif renamed := next((each for each in bpy.data.scenes if each.session_uid == job.scene_uid), None):
            job.scene = renamed.name
            try:
                if job.stage:
                    job_files.write(job, job_files.Stage(job.stage))
            except takes.TakeError as error:  # only a Blender that opens the file anew would miss it
                job.problem = str(error)


def push_undo(message: str) -> None:
    """Makes an undo step, as a verb of the artist's does. What it takes is Blender's, and grows with the file."""
    windows = bpy.context.window_manager.windows
    with bpy.context.temp_override(**({"window": windows[0]} if len(windows) else {})):
        bpy.ops.ed.undo_push(message=message)


def why_untouched() -> str:
    """What keeps strips from being placed or altered now, as 'after the render'; "" for nothing.

    Edit, sculpt and paint modes have undo steps of their own, in which a new strip would be lost; a verb that goes on
    over several events, such as moving strips, holds on to those that there were when it began.
    """
    if bpy.app.is_job_running("RENDER"):
        return tr("after the render")
    windows = bpy.context.window_manager.windows
    active = (window.view_layer.objects.active for window in windows)
    if any(item is not None and item.mode not in ("OBJECT", "POSE") for item in active):
        return tr("when you are back in Object or Pose Mode")
    held = (verb.bl_idname for window in windows for verb in getattr(window, "modal_operators", ()))
    if any(name.startswith(("TRANSFORM_OT_", "SEQUENCER_OT_")) for name in held):
        return tr("when you let go of the strips")
    return ""
