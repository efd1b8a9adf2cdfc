"""The artist's verbs: read the settings, refuse with what, value and remedy, hand the session a job."""

from __future__ import annotations

import os
import shlex
import uuid
from pathlib import Path

import bpy
from bpy.props import StringProperty

from . import session, stills, strips, takes
from .captures import CaptureError
from .client import is_loopback
from .engine_link import EngineState
from .engine_process import EngineStartError
from .jobs import Job
from .props import MusevPreferences, MusevSettings, preferences
from .protocol import ClipRequest, ProtocolError, blob_sha256
from .rig import camera as rig_camera
from .rig import people as rig_people
from .rig import pose

TO_COME = "0" * 64  # stands for the poses' sha256 until they are read, so that the rest is checked at once


class SettingsError(ValueError):
    """Something is not set, or not as it must be: the value and the remedy."""


REFUSALS = (
    SettingsError, CaptureError, strips.StripError, stills.StillError, takes.TakeError, ProtocolError,
    EngineStartError,
)  # fmt: skip


def refuse(operator: bpy.types.Operator, error: Exception) -> set[str]:
    """The one place where errors become reports."""
    operator.report({"ERROR"}, str(error))
    return {"CANCELLED"}


def clip_range(scene: bpy.types.Scene, settings: MusevSettings) -> tuple[int, int]:
    """(first frame, first frame after) of the clip. Raises SettingsError and StripError."""
    match settings.range:
        case "STRIPS":
            return strips.selected_span(scene)
        case "PREVIEW" if not scene.use_preview_range:
            raise SettingsError(
                "The preview range is off; set one in the timeline with P, or use another range."
            )
        case "PREVIEW":
            start, end = scene.frame_preview_start, scene.frame_preview_end
        case _:
            start, end = scene.frame_start, scene.frame_end
    if end < start:
        raise SettingsError(f"The range {start} to {end} has 0 frames; it needs at least 1.")
    return start, end + 1


def still_bytes(scene: bpy.types.Scene, settings: MusevSettings) -> tuple[bytes, str] | None:
    """The reference still as PNG bytes, and where it came from; None if none is set. Raises StillError,
    StripError.
    """
    if settings.still_source == "IMAGE":
        if (image := settings.still_image) is None:
            return None
        return stills.from_image(image, settings.width, settings.height), image.name
    if not settings.still_strip:
        return None
    path = strips.still_file(scene, settings.still_strip, scene.frame_current)
    return stills.from_file(path, settings.width, settings.height), str(path)


def pose_capture(scene: bpy.types.Scene, settings: MusevSettings, frames: range) -> pose.PoseCapture:
    """What is to be read from the rig; the still's own frame last, where one is set. Raises
    SettingsError and PoseError."""
    rig = settings.armature
    if rig is None:
        raise SettingsError("No armature is set; choose the rig that drives the clip.")
    world = next((s for s in (scene, *bpy.data.scenes) if rig.name in s.objects), None)
    if world is None:
        raise SettingsError(f"Armature '{rig.name}' is in no scene of this file; choose another.")
    camera = settings.camera or world.camera
    if camera is None:
        raise SettingsError(f"Scene '{world.name}' has no camera; choose one, or add one to the scene.")
    people = (rig_people.resolve(rig),)
    read = (*frames, settings.still_frame) if settings.use_still_frame else tuple(frames)
    capture = pose.PoseCapture(
        world.name, people, camera.name, settings.width, settings.height, read, settings.use_still_frame
    )
    # Asked for once now, so that a camera of another scene is refused at once.
    world.view_layers[0].update()
    depsgraph = world.view_layers[0].depsgraph
    rig_camera.picture_matrix(world, depsgraph, camera.name, settings.width, settings.height)
    return capture


def takes_root(prefs: MusevPreferences) -> Path:
    """The folder that clips go to. Raises SettingsError while there is none."""
    if bpy.data.filepath:
        return Path(bpy.path.abspath("//musev"))
    if not prefs.output_folder:
        raise SettingsError(
            "The .blend is not saved, so takes have no place yet; save it, or set a folder in the "
            "extension's preferences."
        )
    return Path(bpy.path.abspath(prefs.output_folder))


def clip_job(context: bpy.types.Context) -> Job:
    """The clip that the settings describe, checked as far as can be now. Makes its take's folder last.

    Raises REFUSALS.
    """
    scene = strips.shown_scene(context)
    settings: MusevSettings = scene.musev
    start, end = clip_range(scene, settings)
    mode, blobs, about = settings.mode, {}, {}
    still = still_bytes(scene, settings) if mode != "text" else None
    if still:
        blobs[blob_sha256(still[0])] = still[0]
        about["still_source"] = still[1]
    captures = []
    request = ClipRequest(
        mode=mode, prompt=settings.prompt, negative_prompt=settings.negative_prompt,
        width=settings.width, height=settings.height, num_frames=end - start,
        fps=scene.render.fps / scene.render.fps_base,
        num_inference_steps=settings.steps, seed=settings.seed,
        model=settings.model, context_schedule=settings.context_schedule, predictor=settings.predictor,
        still=next(iter(blobs), None), poses=TO_COME if mode == "pose" else None,
    )  # fmt: skip
    if mode == "pose":
        captures.append(capture := pose_capture(scene, settings, range(start, end)))
        about |= {
            "armature": settings.armature.name,
            "camera": capture.camera,
            "name_map": capture.people[0].map,
        }
    clip = takes.clip_name(settings.armature.name if mode == "pose" else settings.prompt or mode)
    take = takes.new_take(takes_root(preferences(context)), clip)
    return Job(
        id=str(uuid.uuid4()), clip=clip, scene=scene.name, start=start, take=take, request=request,
        blobs=blobs, captures=captures, about=about,
    )  # fmt: skip


def engine_command(text: str) -> list[str]:
    """The command line as an argument list. Raises SettingsError if it is empty or a quote stays open."""
    try:
        words = shlex.split(text, posix=os.name != "nt")
    except ValueError as error:
        raise SettingsError(
            f"The engine's command {text!r} can't be read ({error}); correct its quotes."
        ) from None
    if not words:
        raise SettingsError(
            "The engine's command is empty; set it in the extension's preferences, say: musev serve."
        )
    return [word.strip('"') for word in words] if os.name == "nt" else words


def engine_token(path: str) -> str:
    """The token in a running engine's token file. Raises SettingsError if there is none."""
    file = Path(bpy.path.abspath(path))
    try:
        token = file.read_text(encoding="utf-8").strip() if path else ""
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"The token file {file} can't be read ({error}); set it in the preferences."
        ) from None
    if not token:
        raise SettingsError(
            f"The token file '{path}' holds no token; set the running engine's file in the preferences."
        )
    return token


class MUSEV_OT_engine_start(bpy.types.Operator):
    bl_idname = "musev.engine_start"
    bl_label = "Start Engine"
    bl_description = "Start the MuseV engine, or connect to the one set in the preferences"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if session.current.engine.state is not EngineState.OFF:
            cls.poll_message_set(f"The engine is {session.current.engine.state.value}")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        prefs = preferences(context)
        try:
            if url := prefs.engine_url.strip():
                if not is_loopback(url) and not bpy.app.online_access:
                    raise SettingsError(
                        f"The engine {url} is on another computer and Blender is offline; allow online "
                        "access in Preferences, System, or use an engine on this computer."
                    )
                session.current.engine.connect(url, engine_token(prefs.token_file))
            else:
                folder = bpy.utils.extension_path_user(__package__, path="engine", create=True)
                session.current.engine.start(engine_command(prefs.engine_command), Path(folder))
        except REFUSALS as error:
            return refuse(self, error)
        return {"FINISHED"}


class MUSEV_OT_engine_stop(bpy.types.Operator):
    bl_idname = "musev.engine_stop"
    bl_label = "Stop Engine"
    bl_description = (
        "End the engine that was started here, or disconnect. Clips being made wait for the next start"
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if session.current.engine.state is EngineState.OFF:
            cls.poll_message_set("The engine is not running")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.current.stop_engine()
        return {"FINISHED"}


class MUSEV_OT_generate(bpy.types.Operator):
    bl_idname = "musev.generate"
    bl_label = "Generate"
    bl_description = "Make the clip; it comes as one strip on the first free channel"
    # No UNDO: nothing changes now. The strip's arrival is the one undo step of this verb.

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if strips.shown_scene(context) is None:
            cls.poll_message_set("The sequencer shows no scene; choose one in its header")
            return False
        if session.current.engine.state is not EngineState.ON:
            cls.poll_message_set(
                f"The engine is {session.current.engine.state.value}; press Start Engine first"
            )
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            job = clip_job(context)
        except REFUSALS as error:
            return refuse(self, error)
        session.current.submit(job)
        self.report({"INFO"}, f"{job.clip}: {job.request.frames_out} frames at {job.start}")
        return {"FINISHED"}


class JobOperator:
    """An operator on one clip."""

    job: StringProperty(name="Clip", description="The id of the clip", options={"HIDDEN", "SKIP_SAVE"})

    def chosen(self) -> Job:
        """Raises SettingsError if the clip is not on the list."""
        if (job := session.current.job(self.job)) is None:
            raise SettingsError(f"There is no clip '{self.job}' on the list; choose one from the panel.")
        return job


class MUSEV_OT_cancel(JobOperator, bpy.types.Operator):
    bl_idname = "musev.cancel"
    bl_label = "Cancel"
    bl_description = "Stop this clip and remove the frames it has so far"

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            session.current.cancel(self.chosen().id)
        except REFUSALS as error:
            return refuse(self, error)
        return {"FINISHED"}


class MUSEV_OT_resume(JobOperator, bpy.types.Operator):
    bl_idname = "musev.resume"
    bl_label = "Resume"
    bl_description = "Fetch the frames that are still missing; the engine has kept them"

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            job = self.chosen()
            if not job.resumable:
                raise SettingsError(
                    f"Clip '{job.clip}' is {job.state.value} and can't be resumed; generate again."
                )
            session.current.resume(job.id)
        except REFUSALS as error:
            return refuse(self, error)
        return {"FINISHED"}


class MUSEV_OT_clear(bpy.types.Operator):
    bl_idname = "musev.clear"
    bl_label = "Clear Ended"
    bl_description = "Take ended clips off the list; their frames and strips stay"

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.current.forget_ended()
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (
        MUSEV_OT_engine_start,
        MUSEV_OT_engine_stop,
        MUSEV_OT_generate,
        MUSEV_OT_cancel,
        MUSEV_OT_resume,
        MUSEV_OT_clear,
    )
)
