"""Whether the scene that a take's depth, normals, line art, masks or plain render came from has changed.

What is keyed and how everything is set up is compared with what the take has kept (`rendered`). A thorough check makes
the pictures again, from those that are kept where nothing has changed, and compares them to the last bit.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Generator

import bpy

from .. import gather
from ..clips import reproduce
from ..protocol import Control
from ..render import settings as renders
from ..render.passes import GEOMETRY_CONTROLS, RenderCapture, Wanted
from ..translations import tr
from . import motion, origins, rendered
from .rendered import Sums
from .stale_rig import frames
from .take_parts import Change, Memo, Part, Steps, concerns

SLICE_S = 0.003
SAID = 3  # objects that are named


def _kept(part: Part) -> dict:
    """What the take tells of its scene; {} where it tells nothing, or another system has summed it up."""
    told = part.origins.get(rendered.KEY)
    return told if isinstance(told, dict) and part.origins.get("system") == origins.system() else {}


def chosen(scene: bpy.types.Scene, part: Part, shown_at: int | None) -> list[Change]:
    """Whether the panel asks for other pictures of the scene."""
    if part.own("mode", "render", "source") or not concerns(scene, part, shown_at):
        return []
    was, now = _asked(part), _wanted(scene)
    if was == now:
        return []
    names = ", ".join(map(tr, sorted(was))) or tr("nothing")
    return [Change("scene", tr("Rendered for it was: {names}.", names=names))]


LABELS = {
    control: name for control, name in zip(GEOMETRY_CONTROLS, ("Depth", "Normals", "Line Art"), strict=True)
}


def _asked(part: Part) -> set[str]:
    """What was rendered for the take, by the labels of the settings."""
    request, source = part.take.request, part.inputs.get("source")
    names = [each.get("name") for each in request.get("controls") or () if isinstance(each, dict)]
    if isinstance(source, dict) and source.get("control") is not None:
        del names[:1]  # what strips showed comes first
    found = {LABELS[name] for name in names if name in LABELS}
    if request.get("mask"):
        found.add("Characters Alone")
    if request.get("source") and request.get("mode") == "pose":
        found.add("Render as Source")
    return found


def _wanted(scene: bpy.types.Scene) -> set[str]:
    settings = scene.musev.render
    found = {LABELS[name] for key, name in renders.KINDS.items() if getattr(settings, key).use}
    if settings.use_mask:
        found.add("Characters Alone")
    if settings.use_source and scene.musev.mode == "pose":
        found.add("Render as Source")
    return found


def examine(_: str, part: Part, memo: Memo) -> Steps:
    """Whether the scene that was rendered is set up and keyed as it was."""
    if not (was := _kept(part)):
        return ()
    now = yield from _sums(was, part, memo)
    if (part.take.folder, "scene", now.keys, now.told["shapes"], now.view, now.view_keys) in memo.harmless:
        return ()
    found = []
    moved = sorted(set(motion.different(was.get("keys", ""), now.keys)) & set(part.counts))
    if moved:
        said = tr("Keys in the rendered scene were edited: frames {where}.", where=frames(part, moved))
        found.append(Change("scene", said))
    elif others := _others(str(was.get("shapes", "")), now.shapes):
        found.append(Change("scene", others))
    if not part.follows_a_rig:
        turned = sorted(set(motion.different(was.get("view_keys", ""), now.view_keys)) & set(part.counts))
        if turned:
            said = tr("Keys of the camera were edited: frames {where}.", where=frames(part, turned))
            found.append(Change("camera", said))
        elif was.get("view") != now.view:
            found.append(Change("camera", tr("The camera sees the scene otherwise.")))
    return tuple(found)


def _sums(was: dict, part: Part, memo: Memo) -> Generator[None, None, Sums]:
    """As the scene is now, summed up once after each edit."""
    name, camera = str(was.get("scene")), was.get("camera")
    key = (memo.edits, memo.keys, memo.scenes.doubts, name, camera, part.times)
    if key not in memo.rendered:
        now = yield from rendered.sums(name, camera, part.times, memo.scenes, memo.keys)
        if len(memo.rendered) > 16:
            memo.rendered.clear()
        memo.rendered[key] = now
    return memo.rendered[key]


def _others(was: str, now: dict[tuple[str, str], str]) -> str:
    """A sentence about objects that are otherwise; "" for none."""
    left, names = Counter(was[at : at + 8] for at in range(0, len(was), 8)), []
    for (name, _), shape in sorted(now.items()):
        if left[shape] > 0:
            left[shape] -= 1
        else:
            names.append(name)
    if names:
        said = ", ".join(f"'{name}'" for name in names[:SAID]) + (" …" if len(names) > SAID else "")
        return tr("In the rendered scene, these are new or otherwise: {names}.", names=said)
    gone = left.total()
    return tr("Objects that are gone from the rendered scene: {count}.", count=gone) if gone else ""


def exact(scene: str, part: Part, memo: Memo) -> Steps:
    """Depth, normals, line art and mask rendered anew, or found kept, and compared. scene: whose panel says whether
    rendered pictures are kept."""
    was, request = _kept(part), reproduce.request_of(part.take.record)
    asked = {label for label in _asked(part) if label != "Render as Source"}
    if not was or not asked:
        return (yield from examine(scene, part, memo))
    people, width, height = was.get("people"), request.noise_width, request.noise_height
    controls = tuple(Control(name, ()) for name in GEOMETRY_CONTROLS if LABELS[name] in asked)
    owner = bpy.data.scenes.get(scene)
    keeps = owner is not None and owner.musev.render.use_cache
    del owner
    capture = RenderCapture(
        str(was.get("scene")), was.get("camera"), width or request.width, height or request.height, part.times,
        Wanted(controls, tuple(people) if people else None),
        renders.Store(renders.cache_folder()) if keeps else None,
    )  # fmt: skip
    bare = dataclasses.replace(request, controls=(), mask=())
    try:
        while not capture.advance(time.perf_counter() + SLICE_S):
            yield
        made, _ = capture.finish(bare)
    except gather.REFUSALS as error:
        return (Change("scene", tr("The scene can't be rendered: {why}", why=error)),)
    finally:
        capture.cancel()
    then = {control.name: control.pictures for control in request.controls}
    same = made.mask == request.mask and all(then[each.name] == each.pictures for each in made.controls)
    if not same:
        return (Change("scene", tr("The scene is rendered otherwise now.")),)
    now = yield from _sums(was, part, memo)
    memo.harmless.add((part.take.folder, "scene", now.keys, now.told["shapes"], now.view, now.view_keys))
    return ()
