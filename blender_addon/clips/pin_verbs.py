"""Pin a frame, paint over it, unpin: the verbs, and their panel."""

from __future__ import annotations

import bpy

from .. import gather, strips, ui
from ..translations import tr
from ..verbs import Verb, no_scene, refusable
from . import pins, stack
from .stack_verbs import StackOperator, unfinished


class PinOperator(StackOperator):
    """On the frame in view of the active strip's take."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := unfinished(context):
            return why
        scene = strips.shown_scene(context)
        strip, frame = stack.active(scene), scene.frame_current
        (start, end) = strips.span(strip)
        if not start <= frame < end:
            return tr(
                "Frame {frame} is not in the strip '{strip}' ({start} to {end}); go to a frame of it",
                frame=frame,
                strip=strip.name,
                start=start,
                end=end - 1,
            )
        return ""


class MUSEV_OT_pin_frame(PinOperator, bpy.types.Operator):
    bl_idname = "musev.pin_frame"
    bl_label = "Pin This Frame"
    bl_description = (
        "Hold the frame in view: a copy of its picture goes to the pins channel, and what is generated over it passes "
        "through it. The take's own file is left alone"
    )
    bl_options = {"REGISTER", "UNDO"}

    def do(self, scene, strip):
        placed = pins.pin(scene, scene.musev.pins_channel, strip, scene.frame_current)
        self.report(
            {"INFO"},
            tr(
                "Frame {frame} is pinned on channel {channel}",
                frame=scene.frame_current,
                channel=placed.channel,
            ),
        )


class MUSEV_OT_paint_over(PinOperator, bpy.types.Operator):
    bl_idname = "musev.paint_over"
    bl_label = "Paint Over"
    bl_description = (
        "Pin the frame in view, if it isn't yet, and open its copy in an Image editor to paint on; what is generated "
        "over it passes through what you painted"
    )
    bl_options = {"REGISTER", "UNDO"}

    def do(self, scene, strip):
        frame, channel = scene.frame_current, scene.musev.pins_channel
        there = pins.at(scene, channel, frame)
        placed = there[0] if there else pins.pin(scene, channel, strip, frame)
        file = strips.file_at(placed, frame)
        try:
            image = bpy.data.images.load(str(file), check_existing=True)
        except RuntimeError as error:
            raise strips.StripError(tr("{file} can't be opened: {error}", file=file, error=error)) from error
        image.name = f"Pin {frame}"
        where = show_to_paint(bpy.context, image)
        self.report(
            {"INFO"},
            tr(
                "'{image}' is {where}; Generate and Redo use it as it is painted then",
                image=image.name,
                where=where,
            ),
        )


class MUSEV_OT_unpin(Verb, bpy.types.Operator):
    bl_idname = "musev.unpin_frame"
    bl_label = "Unpin"
    bl_description = "Take the pin at the frame in view off the timeline; its picture's file stays"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := no_scene(context):
            return why
        scene = strips.shown_scene(context)
        there = pins.at(scene, scene.musev.pins_channel, scene.frame_current)
        return (
            ""
            if there
            else tr("No pin begins at frame {frame}; go to that of one", frame=scene.frame_current)
        )

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        scene = strips.shown_scene(context)
        for strip in pins.at(scene, scene.musev.pins_channel, scene.frame_current):
            strips.remove(scene, strip)


def show_to_paint(context: bpy.types.Context, image: bpy.types.Image) -> str:
    """Shows an image in an Image editor, ready to be painted on: one that is open, else a new window's. Returns where,
    as a sentence goes on."""
    windows = context.window_manager.windows
    areas = [area for window in windows for area in window.screen.areas if area.type == "IMAGE_EDITOR"]
    if not areas and bpy.app.background:
        return tr("an image of this file")
    if not areas:
        bpy.ops.wm.window_new()
        area = max(windows[-1].screen.areas, key=lambda each: each.width * each.height)
        area.ui_type = "IMAGE_EDITOR"
        areas = [area]
    space = areas[0].spaces.active
    space.image, space.ui_mode = image, "PAINT"
    areas[0].tag_redraw()
    return tr("in the Image editor")


class MUSEV_PT_pins(ui.Sidebar, bpy.types.Panel):
    bl_label = "Pins"
    bl_idname = "MUSEV_PT_pins"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return strips.shown_scene(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        layout.operator("musev.pin_frame", icon="PINNED")
        layout.operator("musev.paint_over", icon="BRUSH_DATA")
        layout.operator("musev.unpin_frame", icon="UNPINNED")
        column = layout.column()
        column.use_property_split, column.use_property_decorate = True, False
        column.prop(scene.musev, "pins_channel", text="Channel")
        try:
            start, end = gather.clip_range(scene, scene.musev)
            held = pins.on_channel(scene, scene.musev.pins_channel, start, end)
        except gather.REFUSALS as problem:
            ui.draw_text(layout, str(problem), ui.line_width(context), "ERROR")
            return
        ui.draw_text(
            layout, pins.sentence(list(held)) if held else "No pins in the range", ui.line_width(context)
        )


register, unregister = bpy.utils.register_classes_factory(
    (MUSEV_OT_pin_frame, MUSEV_OT_paint_over, MUSEV_OT_unpin, MUSEV_PT_pins)
)
