"""Settings recalled from a take: what its request says becomes the scene's settings again."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import bpy

from ..props import MusevSettings
from ..protocol import ClipRequest
from ..translations import tr
from ..weights import loras
from . import draft
from .clip_folder import Take

# setting: field of the request
DIRECT = {
    "prompt": "prompt", "negative_prompt": "negative_prompt", "width": "width", "height": "height",
    "steps": "num_inference_steps", "guidance_scale": "guidance_scale", "seed": "seed", "model": "model",
    "between": "between", "context_schedule": "context_schedule", "predictor": "predictor",
    "context_frames": "context_frames", "context_overlap": "context_overlap",
}  # fmt: skip
CONTROLS = {
    "depth": "depth",
    "normal_bae": "normal",
    "lineart": "line",
}  # a control's name: of the render settings
# Told by the settings' other halves, or by the strip itself.
ELSEWHERE = {
    "mode", "result", "num_frames", "fps", "output_frames", "output_fps", "still", "poses", "posealign", "source",
    "source_strength", "controls", "mask", "pins",
    "prompts", "noise_width", "noise_height", "loras", "vae", "ip_adapter", "end_still", "shared_seed",
}  # fmt: skip


class Aside(str):
    """A line of what could not be set that is in the timeline's hands; the others are lost."""


def recall(settings: MusevSettings, take: Take) -> list[str]:
    """Sets all that it can; returns what could not be set, and why, a line each. The range stays as it is."""
    request, inputs = take.request, take.record.get("inputs")
    inputs = inputs if isinstance(inputs, dict) else {}
    if not request:
        return [take.problem or tr("{take} tells no request", take=take.name)]
    left = []
    for setting, name in DIRECT.items():
        _set(settings, setting, request.get(name), left)
    if (shared := request.get("shared_seed")) is not None:  # that of the clip of which frames were made anew
        _set(settings, "seed", shared, left)
    if shared not in (None, request.get("seed")):
        left.append(Aside(tr("its new frames had a seed of their own, {seed}", seed=request.get("seed"))))
    _draft(settings, request, inputs.get(draft.KEY), left)
    _extras(settings.extras, request, left)
    if request.get("prompts"):
        count = len(request["prompts"])
        left.append(
            Aside(tr("{count} prompts lay on the prompt track; what lies there now stays", count=count))
        )
    _rates(settings, inputs.get("rates"), left)
    _mode(settings, request, inputs, left)
    _still(settings, request, inputs.get("still_source"), left)
    if request.get("mode") == "pose":
        settings.posealign = request.get("posealign") == "auto"
        _cast(settings, inputs, left)
    _render(settings, request, inputs, left)
    known = {*DIRECT.values(), *ELSEWHERE}
    for spec in dataclasses.fields(ClipRequest):
        value = request.get(spec.name, spec.default)
        value = tuple(value) if isinstance(value, list) else value
        if spec.name not in known and value != spec.default:
            left.append(
                tr("{setting} was {value!r}, for which there is no setting", setting=spec.name, value=value)
            )
    return left


def _set(owner, name: str, value, left: list[str]) -> None:
    """Sets a property, if Blender takes the value as it is."""
    try:
        setattr(owner, name, value)
        kept = getattr(owner, name)
    except (TypeError, ValueError):
        kept = None
    if kept != value and not (isinstance(value, float) and abs(kept - value) < 1e-6):
        left.append(tr("{name} was {value!r}", name=owner.bl_rna.properties[name].name, value=value))


def _draft(settings: MusevSettings, request: dict, whole, left: list[str]) -> None:
    """Of a draft, the size and steps of the clip whose draft it is."""
    settings.draft.use = isinstance(whole, dict)
    if not settings.draft.use:
        return
    for setting, name in (("width", "width"), ("height", "height"), ("steps", "steps")):
        _set(settings, setting, whole.get(name), left)
    _set(settings.draft, "steps", request.get("num_inference_steps"), left)
    if settings.width:
        settings.draft.share = request.get("width", settings.width) / settings.width


def _extras(extras: loras.MusevExtraSettings, request: dict, left: list[str]) -> None:
    """What the take's model had beside it. What the engine hasn't got now is set too, and told where it is drawn."""
    extras.loras.clear()
    for each in request.get("loras") or ():
        if isinstance(each, dict) and isinstance(each.get("name"), str):
            item = loras.add(extras, each["name"])
            _set(item, "weight", each.get("weight", 1.0), left)
    for name in ("vae", "ip_adapter"):
        _set(extras, name, request.get(name) or "", left)


def _rates(settings: MusevSettings, rates, left: list[str]) -> None:
    try:
        generated, timeline = Fraction(rates["generated"]), Fraction(rates["timeline"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        left.append(tr("the rate isn't told"))
        return
    settings.generate_at = "EVERY" if generated == timeline else "RATE"
    if generated != timeline:
        settings.generation_fps = float(generated)


def _mode(settings: MusevSettings, request: dict, inputs: dict, left: list[str]) -> None:
    if isinstance(
        inputs.get("source"), dict
    ):  # a 'video' clip whose strips are controls asks for 'still' or 'text'
        settings.mode = "video"
        _source(settings.source, request, inputs["source"], left)
    else:
        _set(settings, "mode", request.get("mode"), left)


def _source(source, request: dict, told: dict, left: list[str]) -> None:
    """Which strips a 'video' clip was made from, and how."""
    names, strength, control = told.get("strips"), told.get("strength"), told.get("control")
    source.use = "FRAMES" if control is None else "CONTROL" if strength is None else "DETECT"
    if strength is not None:
        _set(source, "strength", strength, left)
    if control is not None:
        _set(source, "control", control, left)
        scale = next((each.get("scale") for each in _controls(request) if each["name"] == control), None)
        _set(source, "control_scale", scale, left)
    if not isinstance(names, list):
        source.choice = "ALL"
    elif len(names) == 1:
        source.choice = "STRIP"
        _set(source, "strip", names[0], left)
    else:
        source.choice = "SELECTED"
        left.append(tr("it was made from the strips {names}; select them", names=", ".join(map(str, names))))


def _controls(request: dict) -> list[dict]:
    return [each for each in request.get("controls") or () if isinstance(each, dict) and "name" in each]


def _still(settings: MusevSettings, request: dict, source, left: list[str]) -> None:
    if not request.get("still"):
        if settings.mode != "text":
            settings.still_source, settings.still_image = "IMAGE", None
        return
    strip, comma, frame = _still_strip(source)
    if isinstance(source, str) and source in bpy.data.images:
        settings.still_source, settings.still_image = "IMAGE", bpy.data.images[source]
    elif comma:
        settings.still_source, settings.still_strip = "STRIP", strip
        said = tr("the still is what '{strip}' shows at frame {frame}; go there", strip=strip, frame=frame)
        left.append(Aside(said))
    else:
        left.append(tr("the still '{source}', which is not in this file", source=source))


def _still_strip(source) -> tuple[str, str, str]:
    """(the strip's name, ", frame ", the frame) of a still that a strip showed; its first two are "" for another."""
    return source.rpartition(", frame ") if isinstance(source, str) else ("", "", "")


def still_frame(take: Take) -> int | None:
    """The frame at which a strip showed the take's still; None where none did."""
    inputs = take.record.get("inputs")
    _, comma, frame = _still_strip(inputs.get("still_source") if isinstance(inputs, dict) else None)
    return int(frame) if comma and frame.lstrip("-").isdigit() else None


def _cast(settings: MusevSettings, inputs: dict, left: list[str]) -> None:
    names = [
        person["name"]
        for person in inputs.get("people") or ()
        if isinstance(person, dict) and "name" in person
    ]
    if settings.people:
        for item in settings.people:
            item.use = item.name in names
        names = [name for name in names if name not in {item.name for item in settings.people}]
    elif len(names) == 1 and names[0] in bpy.data.objects:
        settings.armature, names = bpy.data.objects[names[0]], []
    left.extend(tr("the character '{name}'", name=name) for name in names)
    still_rig = inputs.get("still_rig")
    settings.use_still_frame = isinstance(still_rig, dict)
    if settings.use_still_frame:
        _set(settings, "still_frame", still_rig.get("frame"), left)
        rig = still_rig.get("rig")
        settings.still_rig = bpy.data.objects.get(rig) if isinstance(rig, str) else None
        if rig and settings.still_rig is None:
            left.append(tr("the still's rig '{rig}', which is not in this file", rig=rig))
    camera = inputs.get("camera")
    if camera is None or camera in bpy.data.objects:
        settings.camera = bpy.data.objects[camera] if camera else None
    else:
        left.append(tr("the camera '{camera}', which is not in this file", camera=camera))


def _render(settings: MusevSettings, request: dict, inputs: dict, left: list[str]) -> None:
    """The pictures that the scene's renderer made; those from strips come before them."""
    asked, render = _controls(request), settings.render
    told = inputs.get("source")
    if isinstance(told, dict) and told.get("control") is not None:
        asked = asked[1:]
    by_name = {each["name"]: each for each in asked}
    for name, setting in CONTROLS.items():
        control, was = getattr(render, setting), by_name.pop(name, None)
        control.use = was is not None
        for part in ("scale", "start", "end") if was else ():
            _set(control, part, was.get(part, getattr(control, part)), left)
    left.extend(tr("the control '{name}'", name=name) for name in by_name)
    render.use_mask = bool(request.get("mask"))
    render.use_source = bool(request.get("source")) and settings.mode == "pose"
    if render.use_source:
        _set(render, "source_strength", request.get("source_strength"), left)
