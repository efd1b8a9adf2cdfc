"""Whether the strips that a take, or its still, was made from show what they showed."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import bpy

from .. import gather, strips
from ..clips import reproduce
from ..footage.strip_capture import Choice, StripCapture, nearest_frames
from ..translations import tr
from . import origins, strip_sums
from .stale_rig import frames as told_frames
from .strip_sums import LOST, NONE, SOURCE, STILL
from .take_parts import Change, Memo, Part, Steps, concerns

SLICE_S = 0.003
LOOKED_S = 3.0  # after which files are looked at again, though nothing was edited


# --- what is compared -----------------------------------------------------------------------------


def _kept(part: Part, key: str) -> dict:
    """What the take tells; {} where it tells nothing, or another system has summed it up."""
    told = part.origins.get(key)
    sound = (
        isinstance(told, dict) and isinstance(told.get("strips"), dict) and isinstance(told.get("at"), int)
    )
    return told if sound and part.origins.get("system") == origins.system() else {}


def _frames(part: Part, key: str, told: dict) -> tuple[int, ...]:
    return nearest_frames(part.times) if key == SOURCE else (told["at"],)


def examine(scene: str, part: Part, memo: Memo, shown_at: int | None) -> Steps:
    """Whether the strips show what they showed, where they lie or where the take's own strip has moved to with them."""
    found: list[Change] = []
    for key, what in ((SOURCE, "source"), (STILL, "still")):
        if not (told := _kept(part, key)):
            continue
        frames = _frames(part, key, told)
        counts = part.counts if key == SOURCE else (0,)
        others = []
        for start in sorted(part.starts(shown_at), key=lambda each: each != part.plan.start):
            shifted = tuple(frame - part.plan.start + start for frame in frames)
            others.append((yield from _others(scene, told["strips"], shifted, counts, memo)))
            if not others[-1]:
                break
        if others[-1] if others else False:
            where = told_frames(part, min(others, key=len)) if key == SOURCE else f"{told['at']}"
            names = ", ".join(f"'{name}'" for name in told["strips"])
            said = tr("What {strips} showed is otherwise now: frames {where}.", strips=names, where=where)
            found.append(Change(what, said))
    return tuple(found)


def _others(
    scene: str, was: dict[str, str], frames: tuple[int, ...], counts: Sequence[int], memo: Memo
) -> Generator[None, None, list[int]]:
    """At which of the frames (those of `counts`) something that was shown is shown by no strip now."""
    missing: dict[int, set[str]] = {}
    for name, told in was.items():
        now = yield from _sums(scene, name, frames, memo)
        for i in counts:
            then, at = told[8 * i : 8 * i + 8], now[8 * i : 8 * i + 8]
            if then not in ("", NONE, LOST, at) and at != LOST:
                missing.setdefault(i, set()).add(then)
    if missing and (world := bpy.data.scenes.get(scene)) is not None:
        names = [name for name in strip_sums.over(world, [frames[i] for i in missing]) if name not in was]
        del world
        for name in names:  # it may have been renamed, or cut in two
            now = yield from _sums(scene, name, frames, memo)
            for i in missing:
                missing[i].discard(now[8 * i : 8 * i + 8])
    return sorted(i for i, left in missing.items() if left)


def _sums(scene: str, name: str, frames: tuple[int, ...], memo: Memo) -> Generator[None, None, str]:
    """As the strip is now, summed up once after each edit, and from time to time, for its files may have changed."""
    key, state = (scene, name, frames), (memo.edits, memo.keys, int(time.monotonic() / LOOKED_S))
    known = memo.strips.get(key)
    if known is None or known[0] != state:
        told = yield from strip_sums.sums(scene, name, frames, memo.files)
        if len(memo.strips) > 256:
            memo.strips.clear()
        memo.strips[key] = known = (state, NONE * len(frames) if told is None else told)
    return known[1]


def chosen(scene: bpy.types.Scene, part: Part, shown_at: int | None) -> list[Change]:
    """Whether the panel names another strip as source. What is selected is no choice to hold anyone to."""
    settings, was = scene.musev, part.inputs.get("source")
    if not isinstance(was, dict) or settings.mode != "video" or settings.source.choice != "STRIP":
        return []
    names = was.get("strips")
    if part.own("mode", "source") or not concerns(scene, part, shown_at) or not isinstance(names, list):
        return []
    gone = not any(strip.name in names for strip in strips.every_strip(scene))  # perhaps it was renamed
    if not settings.source.strip or settings.source.strip in names or gone:
        return []
    return [Change("source", tr("The source was {strips}.", strips=", ".join(f"'{name}'" for name in names)))]


# --- the thorough check ---------------------------------------------------------------------------


class Anew(StripCapture):
    """The strips as they were read, though they may be muted now, under the clip that was made from them."""

    def _set_up(self, scene: bpy.types.Scene, copy) -> None:
        super()._set_up(scene, copy)
        level, channels = strips.level_of(scene, self.choice.meta)
        for strip in self.choice.among(level):
            strip.mute = channels[strip.channel].mute = False


def exact(scene: str, part: Part, memo: Memo, shown_at: int | None) -> Steps:
    """The source rendered anew and compared to the last bit, where its strips are still there."""
    found = yield from examine(scene, part, memo, shown_at)
    told, world = _kept(part, SOURCE), bpy.data.scenes.get(scene)
    if not told or world is None or any(change.what == "source" for change in found):
        return found
    here = {strip.name for strip in strips.every_strip(world)}
    if not {*told["strips"], *filter(None, [told.get("meta")])} <= here or part.starts(shown_at) != {
        part.plan.start
    }:
        return found
    del world
    request = reproduce.request_of(part.take.record)
    size = request.noise_width or request.width, request.noise_height or request.height
    choice = Choice(scene, frozenset(told["strips"]), str(told.get("meta") or ""))
    capture = Anew(choice, *size, part.times, 1.0)
    try:
        while not capture.advance(time.perf_counter() + SLICE_S):
            yield
        made = capture.finish(request)[0].source
    except gather.REFUSALS as error:
        return (*found, Change("source", tr("The source can't be read: {why}", why=error)))
    finally:
        capture.cancel()
    if made in (request.source, *(control.pictures for control in request.controls[:1])):
        return found
    return (*found, Change("source", tr("The source shows something else now.")))
