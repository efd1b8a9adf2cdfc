"""What Generate would do, told before it happens: one sentence, whether it fits, or why it can't be.

Cheap enough for `draw` and `poll`: nothing is read from the scene, no rig is resolved, no strip rendered.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import bpy

from . import forecast, gather, session, strips, timing
from .clips import stack
from .clips.clip_folder import is_research_only
from .footage import sources
from .gather import TO_COME, SettingsError
from .props import MusevSettings, preferences
from .protocol import ClipRequest, Control, Estimate, Remedy
from .render import settings as renders
from .rig.cast import stage
from .translations import tr
from .verbs import no_engine, no_scene
from .weights import loras

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
    if why := no_scene(context) or no_engine():
        return why
    scene = strips.shown_scene(context)
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
    frames, count = when.output_frames, settings.variations
    what = tr("1 frame") if frames == 1 else tr("{count} frames", count=frames)
    if count > 1:
        what = tr(
            "{count} takes with seeds from {seed}, each of {frames}",
            count=count,
            seed=settings.seed,
            frames=what,
        )
    said = [what, _where(scene, settings, when), tr("{fps:.5g} fps", fps=float(when.output_fps))]
    if estimate is not None:
        said.append(_time(estimate, settings.variations))
    if research_only(settings):
        said.append(tr("research-only weights"))
    needed, free = (estimate.memory_mb, estimate.free_memory_mb) if estimate else (0.0, None)
    if free is None or needed <= free:
        return Outlook(", ".join(said))
    where = tr(" on {device}", device=estimate.device) if estimate.device else ""
    tight = tr(
        "It needs about {needed:.1f} GiB of memory, and {free:.1f} GiB are free{where}.",
        needed=needed / 1024,
        free=free / 1024,
        where=where,
    )
    return Outlook(", ".join(said), tight, estimate.remedies)


def of_part(scene: bpy.types.Scene, span: tuple[int, int], new: int, stay: int) -> str:
    """What making a part of a clip would do: '12 frames anew, 36 stay, about 9 s'; notes that its estimate is wanted.

    span: the timeline's frames that are asked for. new, stay: how many of the take's frames are made, and are not.
    Raises gather.REFUSALS.
    """
    settings: MusevSettings = scene.musev
    said = [tr("1 frame anew") if new == 1 else tr("{count} frames anew", count=new)]
    if stay:
        said.append(tr("1 stays") if stay == 1 else tr("{count} stay", count=stay))
    if time := time_of(request_of(scene, settings, span)):
        said.append(time)
    if research_only(settings):
        said.append(tr("research-only weights"))
    return ", ".join(said)


def time_of(request: ClipRequest) -> str:
    """'about 9 s', or "" until the engine has told; notes that this is wanted."""
    (estimate,) = session.current.forecast.look_each([forecast.facts(request)])
    return _time(estimate, 1) if estimate is not None else ""


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
                tr(
                    "'{word}' is no change of a setting; use {names}, each as NAME=NUMBER.",
                    word=word,
                    names=", ".join(SETTING.values()),
                )
            )
        told[name] = int(value)
    if not told:
        raise SettingsError(tr("No change is given; use, say, 'width=448 height=256'."))
    return told


def _where(scene: bpy.types.Scene, settings: MusevSettings, when: timing.Plan) -> str:
    if not settings.new_strip:
        strip = stack.joined(scene, when.start, when.output_frames, gather.clip_title(settings))
        if strip is not None:
            return tr("one more take of the strip on channel {channel}", channel=strip.channel)
    channel = strips.first_free_channel(scene, when.start, when.start + when.output_frames)
    if strips.open_meta(scene) is not None:  # where the artist will not see it yet
        return tr("1 strip on channel {channel}, outside the meta strip that is open", channel=channel)
    return tr("1 strip on channel {channel}", channel=channel)


def _time(estimate: Estimate, variations: int) -> str:
    time = duration(estimate.seconds * max(variations, 1))
    known = estimate.num_jobs_known > 0  # else it is a guess, until a clip was made
    said = tr("about {time}", time=time) if known else tr("roughly {time}", time=time)
    return said + (
        tr(" after {time} of waiting", time=duration(estimate.wait_s)) if estimate.wait_s >= 1 else ""
    )


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def research_only(settings: MusevSettings) -> bool:
    """Whether what these settings make may not be sold."""
    return any(
        is_research_only(each) for each in (_licence(settings.model), *loras.licences(settings.extras))
    )


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
            tr(
                "The engine has no model '{model}' (it has: {models}); choose one of these, or download it.",
                model=name,
                models=", ".join(there),
            )
        )
