"""Generate Each: every selected strip as a clip, told before it happens. What each becomes, `shot_list` decides."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from .. import session, strips, ui
from ..gather import SettingsError
from ..making.jobs import Job
from ..operators import PLACES
from ..protocol import MAX_FRAMES
from ..translations import finished, tr
from ..verbs import Verb, no_engine, no_scene, refusable
from . import shot_list

MOST_REFUSED = 6  # that are named; the others are counted


def draw_told(layout: bpy.types.UILayout, told: shot_list.Told, width: int) -> None:
    """What would be made of the selected strips, and which can't be. width: characters a line."""
    if told.sentence:
        ui.draw_text(layout, told.sentence, width, "INFO")
    if told.tight:
        box = layout.box()
        box.alert = True
        ui.draw_text(box, told.tight, width, "ERROR")
    for strip, why_not in told.refused[:MOST_REFUSED]:
        ui.draw_text(layout, f"{strip}: {why_not}", width, "CANCEL")
    if (more := len(told.refused) - MOST_REFUSED) > 0:
        layout.label(text=tr("{count} more can't be made", count=more))


class MUSEV_OT_generate_each(Verb, bpy.types.Operator):
    bl_idname = "musev.generate_each"
    bl_label = "Generate Each"
    bl_description = (
        "Make a clip of every selected strip, over its own range, one after the other. A text strip's words are the "
        "prompt; a picture is the still; a clip of MuseV gets one more take with its own settings; of any other strip, "
        "what it shows is made anew. All else is as the panel says. A strip that can't become a clip is named with the "
        "reason, and the others are made"
    )
    # No UNDO: nothing changes now. Each strip's arrival is an undo step.

    name: StringProperty(
        name="Name", description="What the list is called on its contact sheet; empty: date and time", maxlen=60,
        options={"SKIP_SAVE"},
    )  # fmt: skip
    new_seeds: BoolProperty(
        name="New Seeds for Takes",
        description="Clips of MuseV get a seed that none of their takes has; else that of the take they show, for the "
        "same picture after a change in the scene",
        default=True,
    )
    place: EnumProperty(
        name="Place",
        description="Where the clips come in the engine's queue",
        items=PLACES,
        options={"SKIP_SAVE"},
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := no_scene(context) or no_engine():
            return why
        if shot_list.selected(strips.shown_scene(context)):
            return ""
        return tr("0 strips are selected; select those that are to become clips")

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self, width=420)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        draw_told(layout, shot_list.told(strips.shown_scene(context), self.new_seeds), 56)
        for setting in ("name", "place", "new_seeds"):
            layout.prop(self, setting)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        jobs, shots = shot_list.submit(context, self.name.strip(), self.new_seeds, self.place)
        frames = sum(entry.frames for entry in shots.entries if entry.outcome != "refused")
        self.report({"INFO"}, ", ".join(shot_list.counted(len(jobs), frames)))
        for entry in shots.entries:
            if entry.outcome == "refused":
                self.report({"WARNING"}, f"{entry.label}: {finished(entry.problem)}")


def text_names(operator, context: bpy.types.Context, text: str) -> list[str]:
    """The texts of this file, for a field's menu."""
    return [block.name for block in bpy.data.texts if text.lower() in block.name.lower()]


class MUSEV_OT_shots_from_text(Verb, bpy.types.Operator):
    bl_idname = "musev.shots_from_text"
    bl_label = "Shots from Text"
    bl_description = (
        "Place a text strip for each line of a text, one after the other, and select them: Generate Each then makes a "
        "clip of each. Empty lines and those that begin with # are left out"
    )
    bl_options = {"REGISTER", "UNDO"}

    text: StringProperty(
        name="Text",
        description="A text of Blender's text editor, with a shot on each line",
        search=text_names,
    )
    frames: IntProperty(
        name="Length", description="Frames of each shot", default=48, min=1, max=MAX_FRAMES, subtype="TIME"
    )
    frame: IntProperty(
        name="Frame", description="The first shot's first frame; the current one if -1", default=-1, subtype="TIME",
        options={"SKIP_SAVE"},
    )  # fmt: skip

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := no_scene(context):
            return why
        return "" if bpy.data.texts else tr("This file has no text; write one in Blender's text editor")

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if self.text not in bpy.data.texts:
            self.text = bpy.data.texts[0].name
        return context.window_manager.invoke_props_dialog(self)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        scene = strips.shown_scene(context)
        if (block := bpy.data.texts.get(self.text)) is None:
            raise SettingsError(tr("There is no text '{name}'; choose another.", name=self.text))
        start = scene.frame_current if self.frame == -1 else self.frame
        placed = shot_list.from_lines(scene, [line.body for line in block.lines], start, self.frames)
        self.report({"INFO"}, tr("{count} shots from frame {start} on", count=len(placed), start=start))


class MUSEV_OT_retry_each(Verb, bpy.types.Operator):
    bl_idname = "musev.retry_each"
    bl_label = "Retry Failed"
    bl_description = (
        "Make all clips on the list once more at which the engine failed, from what it still has of them"
    )

    @classmethod
    def failed(cls) -> list[Job]:
        return [job for job in session.current.jobs if job.retriable]

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return "" if cls.failed() else tr("The engine failed at none of the clips on the list")

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        failed = self.failed()
        for job in failed:
            session.current.retry(job.id)
        self.report({"INFO"}, tr("Tried again: {clips}", clips=", ".join(job.clip for job in failed)))


class MUSEV_PT_shots(ui.Sidebar, bpy.types.Panel):
    bl_label = "Shot List"
    bl_idname = "MUSEV_PT_shots"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return strips.shown_scene(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        width = ui.line_width(context)
        row = layout.row(align=True)
        row.operator_context = "EXEC_DEFAULT"  # the list stands below
        row.operator("musev.generate_each", icon="SEQ_SEQUENCER")
        row.operator_menu_enum("musev.generate_each", "place", text="", icon="DOWNARROW_HLT")
        if shot_list.selected(scene):
            draw_told(layout, shot_list.told(scene, True), width)
        else:
            ui.draw_text(
                layout, tr("Select the strips that are to become clips, each over its range"), width, "INFO"
            )
        if bpy.data.texts:
            layout.operator("musev.shots_from_text", icon="TEXT")
        if MUSEV_OT_retry_each.failed():
            layout.operator("musev.retry_each", icon="FILE_REFRESH")


register, unregister = bpy.utils.register_classes_factory(
    (MUSEV_OT_generate_each, MUSEV_OT_shots_from_text, MUSEV_OT_retry_each, MUSEV_PT_shots)
)
