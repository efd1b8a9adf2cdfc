"""Verbs on the clips in the making: cancel, resume, move, retry, wait for them, and clear the list."""

from __future__ import annotations

import time

import bpy
from bpy.props import EnumProperty, FloatProperty, StringProperty

from .. import session
from ..engine_link import EngineState
from ..gather import SettingsError
from ..operators import PLACES
from ..translations import tr
from ..verbs import Verb, refusable
from . import placing
from .jobs import Job, JobState


class JobOperator(Verb):
    """An operator on one clip of the list."""

    job: StringProperty(
        name="Clip", description="The id of the clip; empty: the newest one that this can be done to",
        options={"HIDDEN", "SKIP_SAVE"},
    )  # fmt: skip

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return "" if session.current.jobs else tr("No clip is on the list; generate one")

    @staticmethod
    def fits(job: Job) -> bool:
        """Whether it can be done to this clip."""
        raise NotImplementedError

    def chosen(self) -> Job:
        """Raises SettingsError if the clip is not on the list, or none is named and none fits."""
        if self.job:
            job = session.current.job(self.job)
        else:
            job = next((job for job in reversed(session.current.jobs) if self.fits(job)), None)
        if job is None:
            raise SettingsError(
                tr("There is no clip '{job}' on the list; choose one from the panel.", job=self.job)
                if self.job
                else tr("{verb}: no clip on the list is in need of that.", verb=tr(self.bl_label))
            )
        return job


class MUSEV_OT_cancel(JobOperator, bpy.types.Operator):
    bl_idname = "musev.cancel"
    bl_label = "Cancel Clip"
    bl_description = "Stop this clip and remove the frames it has so far"

    @staticmethod
    def fits(job: Job) -> bool:
        return not job.ended

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        session.current.cancel(self.chosen().id)


class MUSEV_OT_resume(JobOperator, bpy.types.Operator):
    bl_idname = "musev.resume"
    bl_label = "Resume Clip"
    bl_description = "Fetch the frames that are still missing; the engine has kept them"

    @staticmethod
    def fits(job: Job) -> bool:
        return job.resumable

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        job = self.chosen()
        if not job.resumable:
            raise SettingsError(
                tr(
                    "Clip '{clip}' is {state} and can't be resumed; generate again.",
                    clip=job.clip,
                    state=tr(job.state.value),
                )
            )
        session.current.resume(job.id)


class MUSEV_OT_move(JobOperator, bpy.types.Operator):
    bl_idname = "musev.move"
    bl_label = "Move Clip in Queue"
    bl_description = "Put a clip that waits to the front or the back of the engine's queue"

    place: EnumProperty(name="Place", description="Where it comes", items=PLACES[:2], options={"SKIP_SAVE"})

    @staticmethod
    def fits(job: Job) -> bool:
        return session.current.jobs_before(job) is not None

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        job = self.chosen()
        if session.current.jobs_before(job) is None:
            raise SettingsError(
                tr(
                    "Clip '{clip}' is {state} and does not wait in the queue; move one that does.",
                    clip=job.clip,
                    state=tr(job.state.value),
                )
            )
        session.current.move(job.id, self.place)


class MUSEV_OT_retry(JobOperator, bpy.types.Operator):
    bl_idname = "musev.retry"
    bl_label = "Retry Clip"
    bl_description = "Make this clip once more, from what the engine still has of it"

    @staticmethod
    def fits(job: Job) -> bool:
        return job.retriable

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        job = self.chosen()
        if session.current.retry(job.id) is None:
            raise SettingsError(
                tr(
                    "Clip '{clip}' is {state} and can't be tried again; generate again.",
                    clip=job.clip,
                    state=tr(job.state.value),
                )
            )


class MUSEV_OT_wait(Verb, bpy.types.Operator):
    bl_idname = "musev.wait"
    bl_label = "Wait for Clips"
    bl_description = (
        "For scripts: return once the engine is connected and every clip of the open file has ended, and fail if one "
        "did. Blender does nothing else meanwhile"
    )
    bl_options = {"INTERNAL"}

    at_most: FloatProperty(
        name="At Most", description="After how long to give up, in seconds", default=3600.0, min=0.0,
        subtype="TIME_ABSOLUTE", unit="TIME_ABSOLUTE", options={"SKIP_SAVE"},
    )  # fmt: skip

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        current, until = session.current, time.monotonic() + self.at_most

        def to_come() -> list[Job]:  # clips of another file are placed once that is open
            return [job for job in current.jobs if job.file_number == current.file_number and not job.ended]

        waited_for: dict[str, Job] = {}
        while current.engine.state is not EngineState.ON or current.has_unread or to_come():
            # Connecting may find those of an earlier Blender.
            waited_for |= {job.id: job for job in to_come()}
            if current.engine.state is EngineState.OFF:
                problem = current.engine.problem or tr("The engine is not running; start it first.")
                raise SettingsError(problem)
            if time.monotonic() > until:
                raise SettingsError(
                    tr("Clips still in the making after {seconds} s: {count}; wait longer.", count=len(to_come()),
                       seconds=f"{self.at_most:.0f}")
                )  # fmt: skip
            if not current.tick():
                time.sleep(0.005)
        while current.live.busy and not placing.why_untouched() and time.monotonic() < until:
            current.tick()  # else the previews' files would be left beside the takes
        for job in waited_for.values():
            if job.state is JobState.FAILED:
                raise SettingsError(job.problem)


class MUSEV_OT_clear(Verb, bpy.types.Operator):
    bl_idname = "musev.clear"
    bl_label = "Clear Ended Clips"
    bl_description = "Take ended clips off the list; their frames and strips stay"

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        session.current.forget_ended()


register, unregister = bpy.utils.register_classes_factory(
    (MUSEV_OT_cancel, MUSEV_OT_resume, MUSEV_OT_move, MUSEV_OT_retry, MUSEV_OT_wait, MUSEV_OT_clear)
)
