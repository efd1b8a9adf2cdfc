"""Contact sheets as the artist asks for them: drawn on a timer a little at a time, then opened in an Image editor."""

from __future__ import annotations

import datetime
import functools
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bpy
from bpy.props import EnumProperty, StringProperty

from .. import session, strips, ui
from ..clips import stack, takes
from ..gather import SettingsError, takes_root
from ..props import preferences
from ..translations import tr
from ..verbs import Verb, no_scene, refusable
from . import contact_sheet, lettering, sheet_rows, shot_record
from .contact_sheet import Row
from .shot_record import ShotList
from .shot_verbs import MUSEV_PT_shots

TICK_S = 0.006  # what a tick may take, but for one frame's reading
LISTED = 3  # shot lists that the panel shows
OF = (
    ("LIST", "Shot List", "A row for each shot of a list, also of those that failed"),
    ("STRIPS", "Selected Strips", "A row for each selected clip of MuseV, with the take that it shows"),
    ("TAKES", "Takes", "A row for each take of the active strip"),
)


# --- the lists of this file -----------------------------------------------------------------------


def lists() -> list[Path]:
    """The files of this .blend's shot lists, the newest first."""
    unsaved = preferences(bpy.context).output_folder
    roots = ["//musev"] if bpy.data.filepath else [unsaved] if unsaved else []
    return shot_record.found(Path(bpy.path.abspath(root)) for root in roots)


def list_names(operator, context: bpy.types.Context, text: str) -> list[str]:
    """What may be typed for a list: its file's name."""
    return [file.stem for file in lists() if text.lower() in file.stem.lower()]


def chosen_list(name: str) -> ShotList:
    """The list of that name or file name; the newest where none is given. Raises SettingsError and TakeError."""
    there = lists()
    if not there:
        raise SettingsError(tr("There is no shot list yet; select strips and press Generate Each."))
    if not name:
        return shot_record.read(there[0])
    for file in there:
        if name == file.stem or name == shot_record.read(file).name:
            return shot_record.read(file)
    raise SettingsError(
        tr("There is no shot list '{name}'; choose one of these: {there}.", name=name,
           there=", ".join(file.stem for file in there[:8]))
    )  # fmt: skip


# --- drawing it -----------------------------------------------------------------------------------


@dataclass
class Drawing:
    """The sheet that is drawn. work: what `contact_sheet.write` does step by step; None while there is none. problem:
    why the last one could not be drawn. slowest_s: the longest step so far."""

    work: Iterator[Path | None] | None = None
    problem: str = ""
    slowest_s: float = 0.0

    def start(self, work: Iterator[Path | None]) -> None:
        self.work, self.problem = work, ""

    def advance(self, deadline: float) -> bool:
        """Draws on until about `deadline`, one step at least, and shows each picture once it is there; False when there
        is nothing left to do."""
        try:
            while self.work is not None:
                started = time.perf_counter()
                file = next(self.work)
                self.slowest_s = max(self.slowest_s, time.perf_counter() - started)
                if file is not None:
                    show(file)
                if time.perf_counter() >= deadline:
                    break
        except StopIteration:
            self.stop()
        except takes.TakeError as problem:
            self.stop(str(problem))
        except Exception as error:  # a bug of ours: said aloud
            traceback.print_exc()
            self.stop(tr("The contact sheet could not be drawn: {error}.", error=repr(error)))
        return self.work is not None

    def stop(self, problem: str = "") -> None:
        self.work, self.problem = None, problem
        lettering.close()


current = Drawing()


def _tick() -> float | None:
    """The timer while a sheet is drawn."""
    if current.advance(time.perf_counter() + TICK_S):
        return 0.01
    session.redraw()
    return None


def show(file: Path) -> bpy.types.Image:
    """Has Blender hold the picture, by a relative path where the .blend is saved, and an Image editor show it."""
    path = str(file)
    if bpy.data.filepath and strips.same_drive(path, bpy.data.filepath):
        path = bpy.path.relpath(path)
    absolute = os.path.normpath(file)
    known = (
        i
        for i in bpy.data.images
        if i.filepath and os.path.normpath(bpy.path.abspath(i.filepath)) == absolute
    )
    image = next(known, None)
    if image is None:
        image = bpy.data.images.load(str(file))
        image.filepath = path
    image.reload()
    areas = [(w, area) for w in bpy.context.window_manager.windows for area in w.screen.areas]
    editor = next((area for _, area in areas if area.type == "IMAGE_EDITOR"), None)
    if editor is None and areas and not bpy.app.background:
        editor = _new_editor()
    if editor is not None:
        editor.spaces.active.image = image
        # Once it is drawn.
        bpy.app.timers.register(functools.partial(_see_all, image.name), first_interval=0.1)
    return image


def _see_all(name: str) -> None:
    """Has the Image editors that show a picture show all of it."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "IMAGE_EDITOR" and getattr(area.spaces.active.image, "name", "") == name:
                region = next(region for region in area.regions if region.type == "WINDOW")
                with bpy.context.temp_override(window=window, area=area, region=region):
                    bpy.ops.image.view_all(fit_view=True)


def _new_editor() -> bpy.types.Area:
    """An Image editor in a window of its own, as renders have."""
    manager = bpy.context.window_manager
    with bpy.context.temp_override(window=manager.windows[0]):
        bpy.ops.wm.window_new()
    area = manager.windows[-1].screen.areas[0]
    area.type = "IMAGE_EDITOR"
    return area


class MUSEV_OT_contact_sheet(Verb, bpy.types.Operator):
    bl_idname = "musev.contact_sheet"
    bl_label = "Contact Sheet"
    bl_description = (
        "Make one picture with a row for each shot: its prompt, seed, time taken and what became of it, beside a few "
        "of its frames. It is saved beside the takes and opened in an Image editor"
    )

    of: EnumProperty(name="Of", description="Which shots the sheet shows", items=OF, options={"SKIP_SAVE"})
    name: StringProperty(
        name="Shot List", description="The list's name or that of its file; empty: the newest",
        search=list_names, options={"SKIP_SAVE"},
    )  # fmt: skip

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_scene(context) or (tr("A contact sheet is being drawn") if current.work is not None else "")

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        file, title, rows = self.wanted(context)
        work = contact_sheet.write(file, title, self.said(rows), rows)
        if not bpy.app.background:
            current.start(work)
            bpy.app.timers.register(_tick)
            return
        try:
            for written in filter(None, work):
                show(written)
                self.report({"INFO"}, tr("The contact sheet is {file}", file=written))
        finally:
            lettering.close()

    def wanted(self, context: bpy.types.Context) -> tuple[Path, str, list[Row]]:
        """Where the sheet goes, what stands above it, its rows. Raises REFUSALS."""
        scene = strips.shown_scene(context)
        if self.of == "LIST":
            shots = chosen_list(self.name)
            return shots.file.with_suffix(".png"), shots.name, sheet_rows.of_list(shots)
        if self.of == "TAKES":
            if (strip := stack.active(scene)) is None:
                raise SettingsError(tr("The active strip shows no takes; choose a strip that MuseV made."))
            title = tr("Takes of {clip}", clip=strip.musev.clip)
            return stack.folder(strip) / "contact_sheet.png", title, sheet_rows.of_takes(strip)
        rows = sheet_rows.of_strips(scene)
        if not rows:
            raise SettingsError(tr("0 strips of MuseV are selected; select those that the sheet is to show."))
        now = datetime.datetime.now().astimezone()
        folder = takes_root(preferences(context)) / shot_record.FOLDER
        file = takes.free_name(folder / now.strftime("%Y-%m-%d_%H-%M-%S_strips.png"))
        return file, tr("Selected Strips"), rows

    def said(self, rows: list[Row]) -> str:
        blend = Path(bpy.data.filepath).name if bpy.data.filepath else tr("not saved")
        told = sheet_rows.summary(rows, self.of == "TAKES")
        return f"{told} · {blend} · {datetime.datetime.now():%Y-%m-%d %H:%M}"


class MUSEV_PT_sheets(ui.Sidebar, bpy.types.Panel):
    bl_label = "Contact Sheet"
    bl_idname = "MUSEV_PT_sheets"
    bl_parent_id = MUSEV_PT_shots.bl_idname

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        there = lists()
        for file in there[:LISTED]:
            self.draw_list(layout, file, ui.line_width(context))
        if (more := len(there) - LISTED) > 0:
            layout.label(text=tr("{count} older lists", count=more))
        column = layout.column(align=True)
        column.operator("musev.contact_sheet", text=tr("Of Selected Strips"), icon="IMAGE_DATA").of = "STRIPS"
        row = column.row()
        row.enabled = stack.active(scene) is not None
        row.operator("musev.contact_sheet", text=tr("Of the Strip's Takes"), icon="RENDERLAYERS").of = "TAKES"
        if current.work is not None:
            layout.label(text=tr("Drawing"), icon="SORTTIME")
        if current.problem:
            ui.draw_text(layout, current.problem, ui.line_width(context), "ERROR")

    def draw_list(self, layout: bpy.types.UILayout, file: Path, width: int) -> None:
        try:
            shots = shot_record.read(file)
        except takes.TakeError as problem:
            ui.draw_text(layout, str(problem), width, "ERROR")
            return
        outcomes = [entry.outcome for entry in shots.entries]
        done, to_come = outcomes.count("done"), outcomes.count("")
        box = layout.box()
        ui.draw_text(box, shots.name, width - 4)
        told = tr("{done} of {count} done, {left} to come", done=done, count=len(outcomes), left=to_come)
        box.label(
            text=told, icon="SORTTIME" if to_come else "CHECKMARK" if done == len(outcomes) else "ERROR"
        )
        sheet = box.operator("musev.contact_sheet", icon="IMAGE_DATA")
        sheet.of, sheet.name = "LIST", file.stem


register, _unregister = bpy.utils.register_classes_factory((MUSEV_OT_contact_sheet, MUSEV_PT_sheets))


def unregister() -> None:
    current.stop()
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    _unregister()
