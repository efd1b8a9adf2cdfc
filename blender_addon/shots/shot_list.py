"""A shot list: every selected strip becomes a clip over its own range, each with what the strip gives to it.

    text strip            its words are the prompt
    image strip           its picture is the still
    strip of ours         one more take of it, with the settings that its shown take was made with
    any other picture     what it shows is made anew

What a strip does not say, the panel does. One that can't become a clip is named with the reason, the others are made.
"""

from __future__ import annotations

import datetime
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import bpy

from .. import forecast, gather, outlook, prompt_track, session, strips
from ..clips import clip_folder, recall, stack, takes
from ..gather import REFUSALS, SettingsError
from ..making.jobs import Job
from ..protocol import MAX_FRAMES, MAX_WAITING, ClipRequest
from ..translations import tr
from . import shot_record
from .shot import AsIf, Shot
from .shot_record import Entry, ShotList

HIGHEST_SEED = ClipRequest.__dataclass_fields__["seed"].metadata["high"]


@dataclass(frozen=True)
class Planned:
    """What is to become of one selected strip. shot, request: of its clip, the inputs named but not read; None where
    why_not says why there will be none."""

    strip: str
    span: tuple[int, int]
    shot: Shot | None = None
    request: ClipRequest | None = None
    why_not: str = ""


def selected(scene: bpy.types.Scene) -> list:
    """The selected strips that the timeline shows, in the order in which they play."""
    found = [strip for strip in strips.shown_strips(scene) if strip.select]
    return sorted(found, key=lambda strip: (strips.span(strip)[0], strip.channel))


def plan(scene: bpy.types.Scene, new_seeds: bool) -> list[Planned]:
    """What is to become of each selected strip; reads files only where strips of ours are among them. new_seeds: those
    get a seed that none of their takes has."""
    planned: list[Planned] = []
    for strip in selected(scene):
        planned.append(_plan(scene, strip, new_seeds, sum(each.shot is not None for each in planned)))
    return planned


def _plan(scene: bpy.types.Scene, strip, new_seeds: bool, shots: int) -> Planned:
    """What is to become of one strip, before which there are so many shots."""
    span = strips.span(strip)
    try:
        if shots == MAX_WAITING:
            raise SettingsError(
                tr("An engine's queue has {most} clips at most; generate it later.", most=MAX_WAITING)
            )
        shot = _shot(scene, strip, new_seeds)
        span = shot.span
        if (beyond := span[1] - span[0] - MAX_FRAMES) > 0:
            raise SettingsError(
                tr("It is {beyond} frames too long: a clip has at most {most}. Cut the strip.",
                   beyond=beyond, most=MAX_FRAMES)
            )  # fmt: skip
        request = outlook.request_of(scene, shot.settings, span)
        outlook.check_model(shot.settings.model)
        gather.check_extras(shot.settings)
        return Planned(strip.name, span, shot, request)
    except REFUSALS as problem:
        return Planned(strip.name, span, why_not=str(problem))


# --- what a strip gives ---------------------------------------------------------------------------


def _shot(scene: bpy.types.Scene, strip, new_seeds: bool) -> Shot:
    """Raises REFUSALS for a strip that can't become a clip."""
    panel, span = scene.musev, strips.span(strip)
    if strips.is_sound(strip):
        raise strips.StripError(tr("It is a sound strip and shows nothing."))
    if strip.musev.compares:
        raise strips.StripError(tr("It is part of a comparison; end that first."))
    if stack.is_ours(strip):
        return _another_take(scene, strip, new_seeds)
    if strip.type == "TEXT":
        if not (words := strip.text.strip()):
            raise strips.StripError(tr("It says nothing; write the prompt into it."))
        if panel.mode == "video" and panel.source.choice == "SELECTED":
            raise SettingsError(
                tr(
                    "Its source would be the selected strips, which are the shots; choose another source or mode."
                )
            )
        return Shot(AsIf(panel, prompt=words), words, span, text_strip=strip.name)
    if getattr(strip, "input_1", None) is not None:
        raise strips.StripError(
            tr("It is an effect on other strips; make one meta strip of them to have them as one shot.")
        )
    if strips.is_image(strip) and len(strip.elements) == 1:
        mode = "pose" if panel.mode == "pose" else "still"
        settings = AsIf(panel, mode=mode, still_source="STRIP", still_strip=strip.name)
        return Shot(settings, strip.name, span, still_at=span[0])
    settings = AsIf(panel, mode="video")
    settings.source.choice, settings.source.strip = "STRIP", strip.name
    return Shot(settings, strip.name, span)


def _another_take(scene: bpy.types.Scene, strip, new_seeds: bool) -> Shot:
    """One more take as the shown one was asked for, from the scene as it is now. Raises REFUSALS."""
    clip = stack.read(strip)
    take = clip.take(stack.shown(strip).name)
    if not take.finished:
        raise SettingsError(tr("The strip shows a clip in the making; wait until it is finished"))
    settings = AsIf(scene.musev)
    lost = [line for line in recall.recall(settings, take) if not isinstance(line, recall.Aside)]
    if lost:
        raise SettingsError(
            tr("It can't be made as {take} was: {lost}.", take=take.name, lost="; ".join(lost))
        )
    if new_seeds:
        settings.seed = _free_seed(clip)
    start, count = strips.content(strip)
    return Shot(settings, strip.musev.clip, (start, start + count), clip.folder, recall.still_frame(take))


def _free_seed(clip: clip_folder.Clip) -> int:
    """The seed after the highest of a clip's takes, those in the making among them."""
    making = [
        job.request.seed for job in session.current.jobs if job.take.parent == clip.folder and not job.ended
    ]
    seeds = [take.seed for take in clip.takes if take.seed is not None] + making
    return (max(seeds, default=-1) + 1) % (HIGHEST_SEED + 1)


# --- shots out of words ---------------------------------------------------------------------------


def from_lines(scene: bpy.types.Scene, lines: list[str], start: int, frames: int) -> list:
    """Text strips of so many frames each, one after the other from `start` on, for all lines but empty ones and those
    that begin with #; selected alone. They lie on a prompt channel, which shows nothing. Raises StripError."""
    said = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not said:
        raise strips.StripError(tr("The text has 0 lines that say something; write a shot on each."))
    end = start + frames * len(said)
    channel = prompt_track.channel_for(scene, scene.musev.prompt_track.channel, start, end)
    for strip in strips.every_strip(scene):
        strip.select = False
    placed = []
    for number, words in enumerate(said):
        name = textwrap.shorten(words, 40, placeholder="…")
        begin = start + frames * number
        placed.append(strips.place_text(scene, name, words, channel, begin, begin + frames))
        placed[-1].select = True
    return placed


# --- before it happens ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """sentence: what would be made; "" for nothing. refused: (strip, why it can't) of the others. tight: why not all
    fits into the memory."""

    sentence: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    tight: str = ""


@dataclass(frozen=True)
class _Seen:
    """What is told of one strip. facts: of its request, as `forecast.facts` has them; None where why_not says why there
    is none. Unlike `Planned` it holds nothing of Blender's."""

    strip: str
    frames: int
    facts: ClipRequest | None
    why_not: str
    research_only: bool


@dataclass
class _Look:
    """A look at the selected strips, some at a drawing. of: what they were. to_do: the names of those that come.
    until: it holds for a while that grows with the time that it took, so that drawing stays quick. told: the whole of
    it, or what was told before of the same strips."""

    of: tuple = ()
    to_do: list[str] = field(default_factory=list)
    seen: list[_Seen] = field(default_factory=list)
    took: float = 0.0
    until: float = 0.0
    told: Told | None = None


_recent = _Look()
KEPT_FOR = 20  # times as long as it took
LOOK_S = 0.004  # at each drawing, about


def told(scene: bpy.types.Scene, new_seeds: bool) -> Told:
    """What a panel says of the selected strips. Where they are many, it says more with every drawing, and has the next
    one come. Notes that their estimates are wanted."""
    global _recent
    started = time.perf_counter()
    chosen = selected(scene)
    of = (scene.name, new_seeds, *((s.name, *strips.span(s), s.channel) for s in chosen))
    if of != _recent.of or (not _recent.to_do and started >= _recent.until):
        _recent = _Look(of, [s.name for s in chosen], told=_recent.told if of == _recent.of else None)
    look = _recent
    if not look.to_do:
        return look.told or Told()
    shown = strips.shown_strips(scene)
    until = time.perf_counter() + LOOK_S
    while look.to_do:
        look.seen.append(_see(scene, shown[look.to_do.pop(0)], new_seeds, look.seen))
        if time.perf_counter() >= until:
            break
    if not look.to_do:
        look.told = _told(look.seen)
    elif not bpy.app.timers.is_registered(session.redraw):
        bpy.app.timers.register(session.redraw)
    now = time.perf_counter()
    look.took += now - started
    look.until = now + KEPT_FOR * look.took
    return look.told or _told(look.seen, len(look.to_do))


def _see(scene: bpy.types.Scene, strip, new_seeds: bool, before: list[_Seen]) -> _Seen:
    each = _plan(scene, strip, new_seeds, sum(one.facts is not None for one in before))
    if each.shot is None:
        return _Seen(each.strip, 0, None, each.why_not, False)
    wanted, limited = forecast.facts(each.request), outlook.research_only(each.shot.settings)
    return _Seen(each.strip, each.span[1] - each.span[0], wanted, "", limited)


def _told(seen: list[_Seen], more: int = 0) -> Told:
    """more: how many strips are still to be looked at; until then no time is told."""
    refused = tuple((each.strip, each.why_not) for each in seen if each.facts is None)
    wanted = [each for each in seen if each.facts is not None]
    said = counted(len(wanted), sum(each.frames for each in wanted)) if wanted else []
    if more:
        return Told(", ".join([*said, tr("and {count} more strips", count=more)]), refused)
    if not wanted:
        return Told("", refused)
    estimates = session.current.forecast.look_each(each.facts for each in wanted)
    known = [each for each in estimates if each is not None]
    if len(known) == len(wanted):
        time_s = outlook.duration(sum(each.seconds for each in known))
        sure = all(each.num_jobs_known for each in known)  # a guess, until a clip was made
        said.append(tr("about {time}", time=time_s) if sure else tr("roughly {time}", time=time_s))
    if any(each.research_only for each in wanted):
        said.append(tr("research-only weights"))
    tight = [e for e in known if e.free_memory_mb is not None and e.memory_mb > e.free_memory_mb]
    if not tight:
        return Told(", ".join(said), refused)
    most = max(tight, key=lambda each: each.memory_mb)
    warning = tr(
        "{count} may not fit: up to {needed} GiB of memory are needed, and {free} GiB are free. Lower the size.",
        count=len(tight), needed=f"{most.memory_mb / 1024:.1f}", free=f"{most.free_memory_mb / 1024:.1f}",
    )  # fmt: skip
    return Told(", ".join(said), refused, warning)


def counted(clips: int, frames: int) -> list[str]:
    """['6 clips', '288 frames']."""
    return [
        tr("1 clip") if clips == 1 else tr("{count} clips", count=clips),
        tr("1 frame") if frames == 1 else tr("{count} frames", count=frames),
    ]


# --- the clips ------------------------------------------------------------------------------------


def submit(context: bpy.types.Context, name: str, new_seeds: bool, place: str) -> tuple[list[Job], ShotList]:
    """Has a clip made of each selected strip, one after the other. name: of the list; "" for its date.

    Returns the clips and the list, whose refused entries tell why they are none. Raises SettingsError where there would
    be no clip at all, and TakeError; nothing is left then.
    """
    scene = strips.shown_scene(context)
    root = gather.takes_root(gather.preferences(context))
    now = datetime.datetime.now().astimezone()
    made = now.isoformat(timespec="seconds")
    stamp = now.strftime("%Y-%m-%d_%H-%M-%S")
    file = root / shot_record.FOLDER / (f"{stamp}_{takes.clip_name(name)}.json" if name else f"{stamp}.json")
    shots = ShotList(takes.free_name(file), name or now.strftime("%Y-%m-%d %H:%M"), made, ())
    jobs: list[Job] = []
    entries = []
    for number, each in enumerate(plan(scene, new_seeds), 1):
        job, why_not = None, each.why_not
        if each.shot is not None:
            try:
                job = gather.clip_job(context, shot=each.shot)
            except REFUSALS as problem:
                why_not = str(problem)
        if job is not None:
            jobs.append(job)
            shot_record.join(job, shots, number, each.strip)
        entries.append(_entry(number, each, job, shots.file, why_not))
    shots = ShotList(shots.file, shots.name, shots.made, tuple(entries))
    if not jobs:
        reasons = " ".join(f"'{each.label}': {each.problem}" for each in entries)
        raise SettingsError(reasons or tr("0 strips are selected; select those that are to become clips."))
    try:
        shot_record.write(shots)
    except takes.TakeError:
        for job in jobs:
            takes.discard(job.take)
        raise
    session.current.submit_all(jobs, place, alike=False)
    return jobs, shots


def _entry(number: int, each: Planned, job: Job | None, file: Path, why_not: str) -> Entry:
    start, end = each.span
    if job is None:
        return Entry(number, each.strip, "", 0, start, end - start, "", "refused", why_not)
    take = shot_record.way(job.take, file.parent)
    return Entry(number, each.strip, job.request.prompt, job.request.seed, start, end - start, take)
