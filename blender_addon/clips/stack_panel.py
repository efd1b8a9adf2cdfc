"""The panel "Takes": the takes of the active strip, each with a picture. Decides nothing; reads files and draws."""

from __future__ import annotations

import textwrap

import bpy
import bpy.utils.previews

from .. import session, strips, ui
from ..staleness import stale_badge
from ..translations import tr
from . import clip_folder, compare, stack, takes
from .stack_verbs import being_made

AROUND = 6  # takes that are listed before and after the shown one

_pictures: bpy.utils.previews.ImagePreviewCollection | None = None


def thumbnail(take: clip_folder.Take) -> int:
    """The icon of a take's middle frame; 0 while there is none, as in a Blender without a window. Loads one at a call:
    `draw` asks for as few as it can.
    """
    files = take.frames()
    middle = files[len(files) // 2]
    return _pictures.load(_key(take), str(middle), "IMAGE").icon_id


def _key(take: clip_folder.Take) -> str:
    return str(take.folder)


def known_thumbnail(take: clip_folder.Take) -> int | None:
    """The icon of a take whose picture was loaded; None where it was not."""
    return _pictures[_key(take)].icon_id if _key(take) in _pictures else None


def listed(clip: clip_folder.Clip, now: str) -> tuple[tuple[clip_folder.Take, ...], int, int]:
    """The takes around the shown one, and how many there are before and after them."""
    middle = next((i for i, take in enumerate(clip.takes) if take.name == now), 0)
    first = max(0, min(middle - AROUND, len(clip.takes) - 2 * AROUND - 1))
    some = clip.takes[first : first + 2 * AROUND + 1]
    return some, first, len(clip.takes) - first - len(some)


class MUSEV_PT_takes(ui.Sidebar, bpy.types.Panel):
    bl_label = "Takes"
    bl_idname = "MUSEV_PT_takes"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        scene = strips.shown_scene(context)
        return stack.active(scene) is not None or bool(compare.parts(scene))

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        if compare.parts(scene):
            if scene.musev_comparison.kind == "WIPE":
                layout.prop(scene.musev_comparison, "line", slider=True)
            layout.operator("musev.take_compare_end", icon="X")
        strip = stack.active(scene)
        if strip is None:
            return
        width, now = ui.line_width(context), stack.shown(strip).name
        try:
            clip = stack.read(strip)
            gone = clip_folder.removed(clip.folder)
        except takes.TakeError as problem:
            self.draw_problem(layout, str(problem), width)
            return
        if clip.problem:
            self.draw_problem(layout, clip.problem, width)
        row = layout.row(align=True)
        row.operator("musev.take_previous", text="", icon="TRIA_LEFT")
        row.operator("musev.take_show", text=now.replace("_", " ").title()).take = ""
        row.operator("musev.take_next", text="", icon="TRIA_RIGHT")
        if now not in (take.name for take in clip.takes):
            if now in gone:
                why = tr("{take} was removed; press Restore Takes, or show another take.", take=now)
            else:
                why = tr(
                    "{take} is not in {folder}; bring it back, or show another take.",
                    take=now,
                    folder=clip.folder,
                )
            self.draw_problem(layout, why, width)
        some, before, after = listed(clip, now)
        if before:
            layout.label(text=tr("{before} more before", before=before))
        making, loaded = being_made(clip), False
        for take in some:
            loaded = self.draw_take(layout, take, now, take.name in making, width, loaded)
        if after:
            layout.label(text=tr("{after} more after", after=after))
        if loaded:  # the next picture with the next drawing
            bpy.app.timers.register(_draw_again, first_interval=0.0)
        self.draw_verbs(layout, clip, gone, width)
        if any(take.research_only for take in clip.takes):
            layout.operator("musev.licence_report", icon="TEXT")

    def draw_problem(self, layout, text: str, width: int) -> None:
        box = layout.box()
        box.alert = True
        ui.draw_text(box, text, width, "ERROR")

    def draw_take(self, layout, take, now: str, is_made: bool, width: int, loaded: bool) -> bool:
        """One take's box; returns whether a picture was loaded in this drawing."""
        box = layout.box()
        if not take.finished:
            state = tr("being made") if is_made else tr("not finished")
            box.label(text=f"{take.number}: {state}", icon="SORTTIME")
            return loaded
        row = box.row()
        icon = known_thumbnail(take)
        if icon is None and not loaded:
            loaded = True
            try:
                icon = thumbnail(take)
            except (takes.TakeError, RuntimeError, KeyError):
                icon = None
        if icon:
            row.column().template_icon(icon_value=icon, scale=3.0)
        column = row.column(align=True)
        top = column.row(align=True)
        is_shown = take.name == now
        title = f"{take.number}  {take.mark.label}".rstrip()
        top.operator(
            "musev.take_show", text=textwrap.shorten(title, max(width - 16, 8), placeholder="…"), depress=is_shown,
        ).take = take.name  # fmt: skip
        top.operator(
            "musev.take_star", text="", icon="SOLO_ON" if take.mark.star else "SOLO_OFF"
        ).take = take.name
        top.operator("musev.take_label", text="", icon="GREASEPENCIL").take = take.name
        if take.problem:
            ui.draw_text(column, take.problem, width - 8, "ERROR")
            return loaded
        words = textwrap.shorten(take.prompt, max(width - 10, 8), placeholder="…")
        if words:
            column.label(text=words)
        column.label(text=tr("Seed {seed}", seed=take.seed))
        if take.research_only:
            column.label(text="Research only", icon="ERROR")
        stale_badge.draw_badge(column, strips.shown_scene(bpy.context), take)
        verbs = column.row(align=True)
        if not is_shown:
            side = verbs.operator("musev.take_compare", text="", icon="UV_SYNC_SELECT")
            side.take, side.kind = take.name, "SIDE"
            wipe = verbs.operator("musev.take_compare", text="", icon="MOD_MIRROR")
            wipe.take, wipe.kind = take.name, "WIPE"
        verbs.operator("musev.take_promote", text="", icon="SORT_DESC").take = take.name
        verbs.operator("musev.recall_settings", text="", icon="LOOP_BACK").take = take.name
        return loaded

    def draw_verbs(self, layout, clip, gone: list[str], width: int) -> None:
        layout.operator("musev.take_check", icon="VIEWZOOM").take = ""
        layout.operator("musev.takes_prune", icon="TRASH")
        if gone:
            ui.draw_text(
                layout,
                tr(
                    "Removed takes in {folder}/{removed}: {count}",
                    count=len(gone),
                    folder=clip.folder.name,
                    removed=takes.REMOVED,
                ),
                width,
            )
            layout.operator("musev.takes_restore", icon="LOOP_BACK")
            layout.operator("musev.takes_empty", icon="TRASH")


def _draw_again() -> None:
    session.redraw()


_register, _unregister = bpy.utils.register_classes_factory((MUSEV_PT_takes,))


def register() -> None:
    global _pictures
    _pictures = bpy.utils.previews.new()
    _register()


def unregister() -> None:
    global _pictures
    _unregister()
    if bpy.app.timers.is_registered(_draw_again):
        bpy.app.timers.unregister(_draw_again)
    bpy.utils.previews.remove(_pictures)
    _pictures = None
