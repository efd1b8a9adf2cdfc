"""The rows of a contact sheet: what became of the shots of a list, of selected clips, of the takes of one."""

from __future__ import annotations

from pathlib import Path

import bpy

from .. import outlook, session, strips, ui
from ..clips import clip_folder, stack, takes
from ..clips.stack_verbs import being_made
from ..making.jobs import Job
from ..translations import tr
from . import shot_record
from .contact_sheet import Row
from .shot_record import Entry, ShotList


def of_list(shots: ShotList) -> list[Row]:
    """What became of each shot so far."""
    return [_shot_row(shots, entry) for entry in shots.entries]


def of_strips(scene: bpy.types.Scene) -> list[Row]:
    """The selected clips of MuseV, in the order in which they play."""
    chosen = [strip for strip in strips.every_strip(scene) if strip.select and stack.is_ours(strip)]
    chosen.sort(key=lambda strip: (strips.content(strip)[0], strip.channel))
    return [_folder_row(stack.shown(strip), strip.name, strips.content(strip)[0]) for strip in chosen]


def of_takes(strip) -> list[Row]:
    """All takes of a strip but those in the making. Raises TakeError."""
    clip = stack.read(strip)
    making = being_made(clip)
    start = strips.content(strip)[0]
    return [
        _take_row(take, tr("Take {number}  {label}", number=take.number, label=take.mark.label), start)
        for take in clip.takes
        if take.name not in making
    ]


def _shot_row(shots: ShotList, entry: Entry) -> Row:
    title, folder = f"{entry.number}  {entry.label}", shots.folder(entry)
    job = next(
        (job for job in session.current.jobs[::-1] if shot_record.of(job) == (shots.file, entry.number)), None
    )
    folder = job.take if job is not None else folder
    if folder is not None and (folder / takes.SIDECAR).exists():
        return _folder_row(folder, title, entry.frame_start)
    facts = [tr("seed {seed}", seed=entry.seed), _range(entry.frame_start, entry.frames)]
    if entry.outcome == "refused":
        said, facts = tr("Can't be made"), facts[1:]
    elif job is not None and not job.ended:
        return Row(title, "waiting", _now(job), entry.prompt, " · ".join(facts))
    elif entry.outcome in ("failed", "cancelled"):
        said = tr("Failed") if entry.outcome == "failed" else tr("Cancelled")
    elif folder is not None and (folder / takes.JOB).exists():
        said = tr("Not here yet: start the engine, which may have it")
        return Row(title, "waiting", said, entry.prompt, " · ".join(facts))
    else:
        gone = tr("Its take is no longer in {folder}.", folder=folder)
        return Row(title, "cancelled", tr("Gone"), entry.prompt, " · ".join(facts), gone)
    return Row(title, entry.outcome, said, entry.prompt, " · ".join(facts), entry.problem)


def _folder_row(folder: Path, title: str, start: int) -> Row:
    try:
        return _take_row(clip_folder.read(folder.parent).take(folder.name), title, start)
    except takes.TakeError as problem:
        return Row(title, "failed", tr("Missing"), problem=str(problem))


def _take_row(take: clip_folder.Take, title: str, start: int) -> Row:
    try:
        files = take.frames()
    except takes.TakeError as problem:
        return Row(title, "failed", tr("Missing"), problem=str(problem))
    if take.problem:
        return Row(title, "failed", tr("Not finished"), facts=take.name, problem=take.problem, start=start)
    request = take.request
    facts = [
        tr("seed {seed}", seed=take.seed), _range(start, len(files)), take.name,
        f"{request.get('width')} × {request.get('height')}", str(request.get("model")),
    ]  # fmt: skip
    facts += [tr("starred")] if take.mark.star else []
    facts += [tr("research only")] if take.research_only else []
    seconds = _seconds(take)
    said = tr("Done in {time}", time=outlook.duration(seconds)) if seconds is not None else tr("Done")
    return Row(title, "done", said, take.prompt, " · ".join(facts), frames=files, start=start)


def _seconds(take: clip_folder.Take) -> float | None:
    """How long the engine took for it, where that is told."""
    engine = take.record.get("engine")
    phases = engine.get("seconds") if isinstance(engine, dict) else None
    if not isinstance(phases, dict) or not all(isinstance(each, int | float) for each in phases.values()):
        return None
    return float(sum(phases.values()))


def _range(start: int, count: int) -> str:
    return tr("frames {first}–{last}", first=start, last=start + count - 1)


def _now(job: Job) -> str:
    return tr("On its way: {state}", state=ui.job_line(job))


def summary(rows: list[Row], of_one: bool = False) -> str:
    """'6 shots: 4 done, 1 failed, 1 on their way'. of_one: the rows are takes of one clip."""
    names = {
        "done": tr("done"), "failed": tr("failed"), "refused": tr("can't be made"), "cancelled": tr("cancelled"),
        "waiting": tr("on their way"),
    }  # fmt: skip
    counts = {state: sum(row.state == state for row in rows) for state in names}
    told = ", ".join(f"{count} {names[state]}" for state, count in counts.items() if count)
    counted = tr("{count} takes", count=len(rows)) if of_one else tr("{count} shots", count=len(rows))
    return f"{counted}: {told}"
