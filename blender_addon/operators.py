"""The artist's verbs: refuse with what, value and remedy, hand the session a job."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from . import outlook, session, strips
from .engine_address import is_loopback
from .engine_link import EngineState
from .gather import SettingsError, clip_jobs
from .props import MAX_VARIATIONS, preferences
from .rig.people import caution
from .translations import tr
from .verbs import Verb, no_scene, refusable

PLACES = (
    ("back", "At the Back", "After all clips that wait"),
    ("front", "At the Front", "Before all clips that wait"),
    (
        "replace",
        "Instead of Waiting Ones",
        "In place of this file's clips that wait; the running one goes on",
    ),
)


def engine_command(text: str) -> list[str]:
    """The command line as an argument list. Raises SettingsError if it is empty or a quote stays open."""
    try:
        words = shlex.split(text, posix=os.name != "nt")
    except ValueError as error:
        raise SettingsError(
            tr(
                "The engine's command {text!r} can't be read ({error}); correct its quotes.",
                text=text,
                error=error,
            )
        ) from None
    if not words:
        raise SettingsError(
            tr("The engine's command is empty; set it in the extension's preferences, say: musev serve.")
        )
    return [word.strip('"') for word in words] if os.name == "nt" else words


def engine_token(path: str) -> str:
    """The token in a running engine's token file. Raises SettingsError if there is none."""
    file = Path(bpy.path.abspath(path))
    try:
        token = file.read_text(encoding="utf-8").strip() if path else ""
    except (OSError, ValueError) as error:
        raise SettingsError(
            tr(
                "The token file {file} can't be read ({error}); set it in the preferences.",
                file=file,
                error=error,
            )
        ) from None
    if not token:
        raise SettingsError(
            tr(
                "The token file '{path}' holds no token; set the running engine's file in the preferences.",
                path=path,
            )
        )
    return token


class MUSEV_OT_engine_start(Verb, bpy.types.Operator):
    bl_idname = "musev.engine_start"
    bl_label = "Start Engine"
    bl_description = "Start the MuseV engine, or connect to the one set in the preferences"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        state = session.current.engine.state
        return "" if state is EngineState.OFF else tr("The engine is {state}", state=tr(state.value))

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        prefs = preferences(context)
        if url := prefs.engine_url.strip():
            if not is_loopback(url) and not bpy.app.online_access:
                raise SettingsError(
                    tr(
                        "The engine {url} is on another computer and Blender is offline; allow online access in "
                        "Preferences, System, or use an engine on this computer.",
                        url=url,
                    )
                )
            session.current.engine.connect(url, engine_token(prefs.token_file))
        else:
            folder = bpy.utils.extension_path_user(__package__, path="engine", create=True)
            session.current.engine.start(engine_command(prefs.engine_command), Path(folder))


class MUSEV_OT_engine_stop(Verb, bpy.types.Operator):
    bl_idname = "musev.engine_stop"
    bl_label = "Stop Engine"
    bl_description = (
        "End the engine that was started here, or disconnect. Clips being made wait for the next start"
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return tr("The engine is not running") if session.current.engine.state is EngineState.OFF else ""

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        session.current.stop_engine()


class MUSEV_OT_generate(Verb, bpy.types.Operator):
    bl_idname = "musev.generate"
    bl_label = "Generate"
    bl_description = (
        "Make the clip; it comes as one more take of the strip over the same frames, else as a new strip on the first "
        "free channel"
    )
    # No UNDO: nothing changes now. The strip's arrival is the one undo step of this verb.

    place: EnumProperty(
        name="Place",
        description="Where the clip comes in the engine's queue",
        items=PLACES,
        options={"SKIP_SAVE"},
    )
    variations: IntProperty(
        name="Variations",
        description="How many takes are made, with seeds from the set one on; 0: as many as the panel says",
        default=0, min=0, max=MAX_VARIATIONS, options={"SKIP_SAVE"},
    )  # fmt: skip

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return outlook.why_not(context)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        settings = strips.shown_scene(context).musev
        jobs = clip_jobs(context, self.variations or settings.variations)
        session.current.submit_all(jobs, self.place)
        job = jobs[0]
        first, last = job.start, job.start + job.request.frames_out - 1
        if len(jobs) == 1:
            said = tr("{clip}: frames {first} to {last}", clip=job.clip, first=first, last=last)
        else:
            said = tr(
                "{clip}: {count} takes of frames {first} to {last}",
                clip=job.clip,
                count=len(jobs),
                first=first,
                last=last,
            )
        self.report({"INFO"}, said)
        for person in (person for capture in job.captures for person in getattr(capture, "people", ())):
            if said := caution(person):
                self.report({"WARNING"}, said)


class MUSEV_OT_apply_remedy(Verb, bpy.types.Operator):
    bl_idname = "musev.apply_remedy"
    bl_label = "Make It Fit"
    bl_description = "Change the settings to these, with which the clip can be made"
    bl_options = {"REGISTER", "UNDO", "INTERNAL"}

    changes: StringProperty(
        name="Changes", description="Settings and their new values, as 'width=448 height=256'",
        options={"SKIP_SAVE"},
    )  # fmt: skip

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_scene(context)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        settings = strips.shown_scene(context).musev
        for setting, value in outlook.parsed(self.changes).items():
            setattr(settings, setting, value)


register, unregister = bpy.utils.register_classes_factory(
    (
        MUSEV_OT_engine_start,
        MUSEV_OT_engine_stop,
        MUSEV_OT_generate,
        MUSEV_OT_apply_remedy,
    )
)
