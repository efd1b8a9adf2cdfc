"""Whether what a take was made from has changed since: its rig, camera, rendered scene, source, still, prompt or model.

What the take came from is compared always: how the rigs and the camera are keyed, how they stand at the frame in
view, the scene that was rendered, the strips that were read, the still's picture, the prompts on the track, the model's
files. What is set in the panel (another prompt, model, still, camera, rig or source, other rendered pictures) counts
where the panel's range lies over frames of the take: there a new take would come out otherwise. Seeds, sizes, steps and
rates are how a take is made, not from what; they count for nothing. A take belongs to the frames that it was made for,
so its strip may be moved.

No frame is stepped to but by a thorough check, and nothing is written.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable, Sequence

import bpy

from .. import gather, prompt_track, stills, strips
from ..clips import clip_folder, reproduce
from ..clips.clip_folder import Take
from ..footage import sources
from ..protocol import ProtocolError
from ..timing import Plan
from ..translations import tr
from ..weights import loras
from . import origins, stale_rig, stale_scene, stale_source
from .take_parts import Change, Memo, Part, Steps, concerns, model_key, note_model, parts_of

SLICE_S = 0.003
KINDS = ("rig", "camera", "scene", "source", "still", "prompt", "model")
FROM_STRIP = re.compile(r", frame \S+$")  # how a still from a strip is told


def examine(scene: str, take: Take, memo: Memo, shown_at: int | None = None, thorough: bool = False) -> Steps:
    """Compares a take with a scene, of that name; returns what has changed. shown_at: where its strip begins now.
    thorough: by stepping through all its frames, and reading the still whole."""
    whole = parts_of(take, memo)
    if not whole:
        return ()
    found = list(_words(scene, whole[0], memo, shown_at))
    yield
    found += (yield from _exact_still(scene, whole[0])) if thorough else _still(scene, whole[0], memo)
    yield
    for part in whole:
        if not part.counts:
            continue
        if part.follows_a_rig:
            found += yield from (stale_rig.poses if thorough else stale_rig.keys)(scene, part, memo)
            yield
        found += yield from (stale_scene.exact if thorough else stale_scene.examine)(scene, part, memo)
        yield
        look = stale_source.exact if thorough else stale_source.examine
        found += yield from look(scene, part, memo, shown_at)
        yield
    return tuple(found)


def verdict(
    scene: bpy.types.Scene,
    take: Take,
    shown_at: int | None = None,
    thorough: bool = False,
    memo: Memo | None = None,
) -> tuple[Change, ...]:
    """`examine` in one go, and a look at the frame in view: for scripts. Moves no frame unless it is thorough."""
    memo = memo or Memo()
    for other in clip_folder.read(take.folder.parent).takes:
        note_model(memo, other)
    steps = examine(scene.name, take, memo, shown_at, thorough)
    found: tuple[Change, ...] = ()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
    if not thorough:
        found += stale_rig.look(scene.name, take, memo, update=True) or ()
    return merged(found)


def merged(found: Iterable[Change]) -> tuple[Change, ...]:
    """One change of each kind, the first; in the order of the kinds."""
    first = {change.what: change for change in reversed(list(found))}
    return tuple(first[what] for what in KINDS if what in first)


def names() -> dict[str, str]:
    """What each kind of change is called."""
    return {
        "rig": tr("rig"),
        "camera": tr("camera"),
        "scene": tr("scene"),
        "source": tr("source"),
        "still": tr("still"),
        "prompt": tr("prompt"),
        "model": tr("model"),
    }


def badge(changes: Sequence[Change]) -> str:
    """'Stale: rig, prompt'; "" for none."""
    called = names()
    return tr("Stale: {what}", what=", ".join(called[change.what] for change in changes)) if changes else ""


# --- words and settings ---------------------------------------------------------------------------


def _words(name: str, part: Part, memo: Memo, shown_at: int | None) -> list[Change]:
    """Prompt and model, and what the panel would have rendered and read."""
    if (scene := bpy.data.scenes.get(name)) is None:
        return []
    pictures = [*stale_scene.chosen(scene, part, shown_at), *stale_source.chosen(scene, part, shown_at)]
    return [*pictures, *_prompts(scene, part, memo, shown_at)[:1], *_model(scene, part, memo, shown_at)[:1]]


def _prompts(scene: bpy.types.Scene, part: Part, memo: Memo, shown_at: int | None) -> list[Change]:
    request = part.take.request
    asked = request.get("prompts") or []
    starts = sorted(part.starts(shown_at))  # texts may have moved along, or not
    lying = [_lying(scene, dataclasses.replace(part.plan, start=start), memo) for start in starts]
    if asked not in lying and None not in lying:
        return [Change("prompt", tr("The prompts of the text strips were others."))]
    if _covers(asked, part.counts):
        return []
    now = {}
    if part.own("prompt"):
        now["prompt"] = _says(scene, str(part.origins.get("text_strip")))
    elif concerns(scene, part, shown_at):
        now["prompt"] = scene.musev.prompt
    if not part.own("negative_prompt") and concerns(scene, part, shown_at):
        now["negative_prompt"] = scene.musev.negative_prompt
    labels = {"prompt": tr("The prompt"), "negative_prompt": tr("The negative prompt")}
    return [
        Change("prompt", tr("{what} was '{text}'.", what=labels[key], text=request.get(key, "")))
        for key, words in now.items()
        if words is not None and words.strip() != str(request.get(key, "")).strip()
    ]


def _says(scene: bpy.types.Scene, text_strip: str) -> str | None:
    """What a text strip of that name says; None where there is none."""
    found = (
        strip for strip in strips.every_strip(scene) if strip.name == text_strip and strip.type == "TEXT"
    )
    return next((strip.text for strip in found), None)


def _model(scene: bpy.types.Scene, part: Part, memo: Memo, shown_at: int | None) -> list[Change]:
    request, settings, found = part.take.request, scene.musev, []
    if concerns(scene, part, shown_at) and not part.own("model", "extras"):
        if settings.model != request.get("model"):
            found.append(Change("model", tr("The model was '{name}'.", name=request.get("model"))))
        elif (was := loras.told(request)) != loras.now(settings.extras):
            found.append(
                Change("model", tr("What was added to the model was {what}.", what=loras.sentence(was)))
            )
    newest = memo.newest.get(model_key(request), ("", ""))[1]
    if newest and newest != part.take.record["model"].get("sha256"):
        found.append(
            Change("model", tr("The files of the model '{name}' were others.", name=request.get("model")))
        )
    return found


def _lying(scene: bpy.types.Scene, plan: Plan, memo: Memo) -> list[dict] | None:
    """The prompts that the track has over a plan's frames, as a request tells them; None where it can't be read."""
    key = (scene.name, plan)
    if key not in memo.lying:
        try:
            spans = prompt_track.read(scene, scene.musev.prompt_track, plan).spans
            memo.lying[key] = [dataclasses.asdict(span) for span in spans]
        except ProtocolError:
            memo.lying[key] = None
    return memo.lying[key]


def _covers(prompts: Sequence[dict], counts: Iterable[int]) -> bool:
    """Whether prompts of the track stand for all these frames, so that the clip's own is never told."""
    return bool(prompts) and all(any(each["first"] <= i <= each["last"] for each in prompts) for i in counts)


# --- the still ------------------------------------------------------------------------------------


def _chosen_still(scene: bpy.types.Scene, part: Part) -> bpy.types.Image | Change | None:
    """The image to compare with the take's still; or that another is chosen; None where there is nothing to compare."""
    settings, was = scene.musev, part.inputs.get("still_source")
    was_strip = isinstance(was, str) and FROM_STRIP.search(was) and not part.origins.get("still")
    own = part.own("mode", "still_source", "still_image", "still_strip")
    if settings.mode == "text" or own or not concerns(scene, part):
        return bpy.data.images.get(was) if isinstance(was, str) else None
    if settings.still_source == "STRIP":
        name = str(was).rpartition(", frame ")[0]
        if settings.still_strip and name != settings.still_strip:
            return Change(
                "still", tr("The still was '{name}'.", name=was) if was else tr("There was no still.")
            )
        return None
    image = settings.still_image
    if not part.take.request.get("still"):
        return Change("still", tr("There was no still.")) if image is not None else None
    if image is None or (was_strip and image.name != was):
        return Change("still", tr("The still was '{name}'.", name=was))
    return image


def _still(name: str, part: Part, memo: Memo) -> list[Change]:
    if (scene := bpy.data.scenes.get(name)) is None:
        return []
    image = _chosen_still(scene, part)
    if not isinstance(image, bpy.types.Image):
        return [image] if image else []
    if not (was := part.origins.get("still")):
        return []  # it is only known by its name
    key = (memo.images, *origins.appearance(image), was.get("file"), was.get("pixels"))
    if key not in memo.pictures:
        if len(memo.pictures) > 32:
            memo.pictures.clear()
        memo.pictures[key] = origins.shows(image, was)
    return [_otherwise(image.name)] if memo.pictures[key] is False else []


def _otherwise(name: str) -> Change:
    return Change("still", tr("The still '{name}' is another picture now.", name=name))


def _exact_still(name: str, part: Part) -> Steps:
    """The still as the engine would be given it, of the size that the take's had."""
    scene, request = bpy.data.scenes.get(name), part.take.request
    image = _chosen_still(scene, part) if scene is not None else None
    if isinstance(image, Change):
        return [image]
    size = [request.get(f"noise_{side}") or request.get(side) for side in ("width", "height")]
    told, _, frame = str(part.inputs.get("still_source", "")).rpartition(", frame ")
    try:
        if image is not None:
            told = image.name
            # Its file as it is, or its pixels: the take may have been given either.
            captures = [
                stills.ImageCapture(image.name_full, *size, fitted=fitted) for fitted in (False, True)
            ]
        elif told and request.get("still"):
            captures = [sources.still_capture(scene, told, round(float(frame)), *size)]
        else:
            return []
        del scene, image
        for capture in captures:
            try:
                while not capture.advance(time.perf_counter() + SLICE_S):
                    yield
                if capture.finish(reproduce.request_of(part.take.record))[0].still == request.get("still"):
                    return []
            finally:
                capture.cancel()
    except (*gather.REFUSALS, ValueError) as error:
        return [Change("still", tr("The still can't be read: {why}", why=error))]
    return [_otherwise(told)]
