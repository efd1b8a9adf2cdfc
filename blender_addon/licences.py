"""Which shots of the project may not be sold: a report over every scene's strips and the takes that they show.

A take's licence is what its `take.json` says of the models that made it; that of a take that keeps frames of another
one (a redone range, say) is both of theirs. One that isn't told is reported as not known, never as free.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import bpy
from bpy.props import StringProperty

from . import strips
from .clips import clip_folder, stack, takes
from .translations import finished, tr
from .verbs import Verb, refusable

TEXT = "MuseV Licences"
NOT_KNOWN = ("", "unknown", "other", "see its model card")  # what models say that say nothing
ORDER = RESEARCH, UNKNOWN, NAMED = "research only", "not known", "named"


@dataclass(frozen=True)
class Shot:
    """A strip of ours. terms: RESEARCH, UNKNOWN, or NAMED, where a licence is told that isn't for research alone.
    first, last: the frames of the timeline. note: what else is to be known."""

    terms: str
    scene: str
    strip: str
    channel: int
    first: int
    last: int
    take: str
    model: str
    licence: str
    note: str


def shots() -> list[Shot]:
    """Every strip of ours in this file, in metas too: research-only ones first, then by scene and time."""
    found = [
        shot(scene, strip)
        for scene in bpy.data.scenes
        for strip in strips.every_strip(scene)
        if strips.is_image(strip) and strip.musev.clip
    ]
    return sorted(found, key=lambda s: (ORDER.index(s.terms), s.scene, s.first, s.channel, s.strip))


def shot(scene: bpy.types.Scene, strip) -> Shot:
    """What is known of one strip and the take that it shows."""
    first, end = strips.span(strip)
    folder = stack.shown(strip)
    made, notes = made_with(folder)
    if strip.mute:
        notes.append(tr("muted"))
    if strip.musev.compares:
        notes.append(tr("part of a comparison"))
    models = dict.fromkeys(model for model, _ in made if model)
    kinds = [terms(licence) for _, licence in made]
    licences = dict.fromkeys(licence or tr("not told") for _, licence in made)
    return Shot(
        min(kinds, key=ORDER.index), scene.name, strip.name, strip.channel, first, end - 1,
        f"{folder.parent.name}/{folder.name}", " and ".join(models), " and ".join(licences), "; ".join(notes),
    )  # fmt: skip


def made_with(folder: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """(model, licence) of a take, and of those whose frames it keeps, one at least; and what can't be read of it."""
    made, notes, seen = [], [], set()
    while folder not in seen:
        seen.add(folder)
        try:
            record = takes.read_sidecar(folder)
        except takes.TakeError as error:
            return [*made, ("", "")], [*notes, finished(str(error))]
        told = record.get("model")
        told = told if isinstance(told, dict) else {}
        made.append((str(told.get("name") or ""), str(told.get("licence") or "")))
        inputs = record.get("inputs")
        redo = inputs.get("redo") if isinstance(inputs, dict) else None
        kept = str(redo.get("of") or "") if isinstance(redo, dict) else ""
        if not kept:
            break
        notes.append(tr("keeps frames of {take}", take=kept))
        clip = folder.parent
        folder = Path(os.path.normpath(clip / kept))
        if not folder.is_dir():  # pruned
            folder = folder.parent / takes.REMOVED / folder.name
    return made, notes


def terms(licence: str) -> str:
    """RESEARCH, UNKNOWN or NAMED, from a licence's name. Models that were used together have theirs in one, joined by
    "and": one for research alone makes the whole so, one that isn't told makes the rest unknown."""
    if clip_folder.RESEARCH_ONLY.search(licence):
        return RESEARCH
    parts = [part.strip().lower() for part in licence.split(" and ")]
    return UNKNOWN if any(part in NOT_KNOWN or part.startswith("see ") for part in parts) else NAMED


def as_text(found: Sequence[Shot]) -> str:
    """The report for people."""
    counts = {kind: sum(shot.terms == kind for shot in found) for kind in (RESEARCH, UNKNOWN, NAMED)}
    lines = [
        tr("Licences of the MuseV shots in this project"),
        "",
        tr(
            "{count} shots: {research} research only, {unknown} with a licence that is not known, {named} with another "
            "one.",
            count=len(found),
            research=counts[RESEARCH],
            unknown=counts[UNKNOWN],
            named=counts[NAMED],
        ),
        tr("Each shot is reported by the take that its strip shows now."),
    ]
    for kind, heading in (
        (RESEARCH, tr("Research only: not for commercial use")),
        (UNKNOWN, tr("Licence not known: find out before you use them commercially")),
        (NAMED, tr("Other licences: read what each asks for")),
    ):
        if counts[kind]:
            lines += ["", heading, ""]
        for shot in (shot for shot in found if shot.terms == kind):
            said = tr(
                "{scene}, channel {channel}, frames {first} to {last}: '{strip}' shows {take}, model {model}, licence: "
                "{licence}",
                scene=shot.scene,
                channel=shot.channel,
                first=shot.first,
                last=shot.last,
                strip=shot.strip,
                take=shot.take,
                model=shot.model or tr("not told"),
                licence=shot.licence or tr("not told"),
            )
            lines.append(f"  {said}")
            if shot.note:
                lines.append(f"    ({shot.note})")
    return "\n".join(lines) + "\n"


def as_csv(found: Sequence[Shot]) -> str:
    """The same as a table. What a spreadsheet would take for a formula stands behind an apostrophe."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow([field.name for field in fields(Shot)])
    for each in found:
        writer.writerow([_plain(value) for value in astuple(each)])
    return table.getvalue()


def _plain(value: str | int) -> str | int:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


class MUSEV_OT_licence_report(Verb, bpy.types.Operator):
    bl_idname = "musev.licence_report"
    bl_label = "Licence Report"
    bl_description = (
        "List the strips whose takes were made with research-only models, in a text data-block, and in a CSV file if "
        "one is named"
    )
    bl_options = {"REGISTER", "UNDO"}

    filepath: StringProperty(
        name="CSV File",
        description="Where the table is written, say //licences.csv; empty: no file",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"} | ({"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5) else set()),
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self, width=400)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        found = shots()
        if self.filepath:
            takes.write_whole(Path(bpy.path.abspath(self.filepath)), as_csv(found).encode())
        text = bpy.data.texts.get(TEXT) or bpy.data.texts.new(TEXT)
        text.clear()
        text.write(as_text(found))
        text.cursor_set(0)
        research, unknown = (sum(shot.terms == kind for shot in found) for kind in (RESEARCH, UNKNOWN))
        self.report(
            {"WARNING" if research or unknown else "INFO"},
            tr(
                "{research} of {count} shots are research only, {unknown} not known; see the text '{text}'",
                research=research,
                count=len(found),
                unknown=unknown,
                text=TEXT,
            ),
        )


register, unregister = bpy.utils.register_classes_factory((MUSEV_OT_licence_report,))
