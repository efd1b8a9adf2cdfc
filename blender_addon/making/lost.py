"""Clips that an earlier Blender had not read from the scene when it was closed: asked for once more."""

from __future__ import annotations

import dataclasses

import bpy

from .. import gather, session, strips
from ..clips import recall, splice
from ..clips.clip_folder import Take
from ..gather import SettingsError
from ..shots.shot import AsIf, Shot
from ..translations import tr
from ..verbs import no_engine, no_scene, refusable
from .job_verbs import JobOperator
from .jobs import Job


def once_more(context: bpy.types.Context, job: Job) -> Job:
    """The clip with the settings that it had, over the frames that it had, read from the scene as it is now. Raises
    REFUSALS."""
    if splice.KEY in job.about:
        raise SettingsError(
            tr("Only a part of {clip} was to be made; redo that part of its strip.", clip=job.clip)
        )
    request = dataclasses.asdict(job.request)
    take = Take(job.take, record={"request": request, "inputs": job.about, "frame_start": job.start})
    settings = AsIf(strips.shown_scene(context).musev)
    lost = [line for line in recall.recall(settings, take) if not isinstance(line, recall.Aside)]
    if lost:
        raise SettingsError(tr("It can't be asked for as it was: {lost}.", lost="; ".join(lost)))
    span = (job.start, job.start + job.request.frames_out)
    shot = Shot(settings, job.clip, span, job.take.parent, recall.still_frame(take))
    return gather.clip_job(context, shot=shot)


class MUSEV_OT_generate_again(JobOperator, bpy.types.Operator):
    bl_idname = "musev.generate_again"
    bl_label = "Generate Again"
    bl_description = (
        "Ask once more for a clip that Blender was closed over: with the settings and frames that it had, from the "
        "scene as it is now"
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return super().why_not(context) or no_scene(context) or no_engine()

    @staticmethod
    def fits(job: Job) -> bool:
        return job.was_unread

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        job = self.chosen()
        if not job.was_unread:
            raise SettingsError(
                tr("The scene was read for clip '{clip}'; use its other verbs.", clip=job.clip)
            )
        again = once_more(context, job)
        session.current.replace_unread(job, again)
        self.report({"INFO"}, tr("{clip} is asked for again", clip=again.clip))


register, unregister = bpy.utils.register_classes_factory((MUSEV_OT_generate_again,))
