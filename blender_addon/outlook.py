"""What Generate would do, told before it happens: one sentence, whether it fits, or why it can't be.

Cheap enough for `draw` and `poll`: nothing is read from the scene, no rig is resolved, no strip rendered.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import bpy

from . import gather, loras, session, sources, stack, strips, timing
from .clip_folder import is_research_only
from .engine_link import EngineState
from .gather import TO_COME, SettingsError
from .props import MusevSettings, preferences
from .protocol import ClipRequest, Control, Estimate, Remedy
from .render import settings as renders
from .rig.cast import stage

SETTING = {  # of a request's field that a remedy changes
    "width": "width", "height": "height", "num_inference_steps": "steps", "context_frames": "context_frames",
    "context_overlap": "context_overlap",
}  # fmt: skip


@dataclass(frozen=True)
class Outlook:
    """sentence: what Generate would do. tight: why it would not fit into the memory, "" where it does or nobody knows.
    remedies: what would make it fit."""

    sentence: str
    tight: str = ""
    remedies: tuple[Remedy, ...] = ()


def why_not(context: bpy.types.Context) -> str:
    """Why Generate can't be pressed, with the remedy; "" if it can. What only reading shows comes later."""
    scene = strips.shown_scene(context)
    if scene is None:
        return "The sequencer shows no scene; choose one in its header"
    if session.current.engine.state is not EngineState.ON:
        return f"The engine is {session.current.engine.state.value}; press Start Engine first"
    try:
        request_of(scene, scene.musev)
        gather.takes_root(preferences(context))
        check_model(scene.musev.model)
        gather.check_extras(scene.musev)
    except gather.REFUSALS as problem:
        return str(problem)
    return ""


def outlook(scene: bpy.types.Scene) -> Outlook:
    """What Generate would do in this scene; notes that its estimate is wanted. Raises gather.REFUSALS."""
    settings: MusevSettings = scene.musev
    request, when = request_of(scene, settings), gather.clip_plan(scene, settings)
    estimate = session.current.forecast.look(request)
    frames = when.output_frames
    said = [
        f"{frames} frame{'s' * (frames != 1)}",
        _where(scene, settings, when),
        f"{float(when.output_fps):.5g} fps",
    ]
    if settings.variations > 1:
        said.insert(0, f"{settings.variations} takes with seeds from {settings.seed}, each of")
        said[0:2] = [" ".join(said[0:2])]
    if estimate is not None:
        said.append(_time(estimate, settings.variations))
    if any(is_research_only(each) for each in (_licence(settings.model), *loras.licences(settings.extras))):
        said.append("research-only weights")
    needed, free = (estimate.memory_mb, estimate.free_memory_mb) if estimate else (0.0, None)
    if free is None or needed <= free:
        return Outlook(", ".join(said))
    tight = (
        f"It needs about {needed / 1024:.1f} GiB of memory, and {free / 1024:.1f} GiB are free"
        f"{' on ' + estimate.device if estimate.device else ''}."
    )
    return Outlook(", ".join(said), tight, estimate.remedies)


def request_of(
    scene: bpy.types.Scene, settings: MusevSettings, span: tuple[int, int] | None = None
) -> ClipRequest:
    """The request that the settings describe, its inputs named but not read. span: other frames than the settings'
    range. Raises gather.REFUSALS."""
    when, mode = gather.clip_plan(scene, settings, span), settings.mode
    image = settings.still_image if settings.still_source == "IMAGE" else settings.still_strip
    still = TO_COME if mode != "text" and image else None
    wanted = renders.wanted(settings)
    controls = [dataclasses.replace(control, pictures=(TO_COME,)) for control in wanted.controls]
    source = wanted.source_strength
    if mode == "pose":
        stage(scene, settings)
    if mode == "video":
        made_from = settings.source
        sources.chosen(scene, made_from.choice, made_from.strip)
        if made_from.use != "FRAMES":
            detect = made_from.use == "DETECT"
            controls.append(Control(made_from.control, (TO_COME,), detect, made_from.control_scale))
        mode = sources.request_mode(made_from, still is not None)
        source = made_from.strength if mode == "video" else None
    named = gather.request(settings, when, mode, still)
    return dataclasses.replace(
        named, controls=tuple(controls), mask=(TO_COME,) if wanted.people is not None else (),
        **{} if source is None else {"source": (TO_COME,), "source_strength": source},
    )  # fmt: skip


def changes(remedy: Remedy) -> str:
    """The settings that a remedy changes and what they become, as `parsed` reads them; "" where we lack one of them."""
    if any(change.name not in SETTING for change in remedy.changes):
        return ""
    return " ".join(f"{SETTING[change.name]}={change.value}" for change in remedy.changes)


def parsed(text: str) -> dict[str, int]:
    """'width=448 height=256' as settings. Raises SettingsError for anything else."""
    told = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in SETTING.values() or not value.isdecimal():
            raise SettingsError(
                f"'{word}' is no change of a setting; use {', '.join(SETTING.values())}, each as NAME=NUMBER."
            )
        told[name] = int(value)
    if not told:
        raise SettingsError("No change is given; use, say, 'width=448 height=256'.")
    return told


def _where(scene: bpy.types.Scene, settings: MusevSettings, when: timing.Plan) -> str:
    if not settings.new_strip:
        strip = stack.joined(scene, when.start, when.output_frames, gather.clip_title(settings))
        if strip is not None:
            return f"one more take of the strip on channel {strip.channel}"
    channel = strips.first_free_channel(scene, when.start, when.start + when.output_frames)
    return f"1 strip on channel {channel}"


def _time(estimate: Estimate, variations: int) -> str:
    about = "about" if estimate.num_jobs_known else "roughly"  # a guess, until a clip was made
    said = f"{about} {duration(estimate.seconds * max(variations, 1))}"
    return said + (f" after {duration(estimate.wait_s)} of waiting" if estimate.wait_s >= 1 else "")


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def research_only(model: str) -> bool:
    """Whether what this model makes may not be sold."""
    return is_research_only(_licence(model))


def _licence(model: str) -> str:
    return next((each.licence for each in _models() if each.name == model), "")


def _models():
    welcome = session.current.engine.client.welcome
    return welcome.models if welcome else ()


def check_model(name: str) -> None:
    """Raises SettingsError where the engine has told that it can't make clips with it."""
    there = [each.name for each in _models() if each.installed]
    if there and name not in there:
        raise SettingsError(
            f"The engine has no model '{name}' (it has: {', '.join(there)}); choose one of these, or download it."
        )
