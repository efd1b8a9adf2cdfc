"""The panel "Prompt Track", and the verb that puts a prompt there."""

from __future__ import annotations

import textwrap

import bpy
from bpy.props import IntProperty, StringProperty

from . import gather, prompt_track, strips, ui
from .translations import tr
from .verbs import Verb, no_scene, refusable


class MUSEV_OT_prompt_add(Verb, bpy.types.Operator):
    bl_idname = "musev.prompt_add"
    bl_label = "MuseV Prompt"
    bl_description = (
        "Add a text strip on a prompt channel: its text says what the frames under it show. Where two overlap, one "
        "goes over into the next"
    )
    bl_options = {"REGISTER", "UNDO"}

    text: StringProperty(
        name="Prompt",
        description="What these frames show; the clip's own prompt if empty",
        options={"SKIP_SAVE"},
    )
    frame: IntProperty(
        name="Frame", description="Its first frame; the current one if -1", default=-1, options={"SKIP_SAVE"},
        subtype="TIME",
    )  # fmt: skip
    length: IntProperty(
        name="Length", description="How many frames it lies over", default=24, min=1, subtype="TIME"
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_scene(context)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        scene = strips.shown_scene(context)
        start = scene.frame_current if self.frame == -1 else self.frame
        end, text = start + self.length, self.text or scene.musev.prompt or "Prompt"
        channel = prompt_track.channel_for(scene, scene.musev.prompt_track.channel, start, end)
        strips.place_text(scene, textwrap.shorten(text, 40, placeholder="…"), text, channel, start, end)


class MUSEV_PT_prompt_track(ui.Sidebar, bpy.types.Panel):
    bl_label = "Prompt Track"
    bl_idname = "MUSEV_PT_prompt_track"
    bl_parent_id = "MUSEV_PT_clip"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return strips.shown_scene(context) is not None

    def draw_header(self, context: bpy.types.Context) -> None:
        self.layout.prop(strips.shown_scene(context).musev.prompt_track, "use", text="")

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        settings, width = scene.musev.prompt_track, ui.line_width(context)
        layout.active = settings.use
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(settings, "channel")
        try:
            track = prompt_track.read(scene, settings, gather.clip_plan(scene, scene.musev))
        except gather.REFUSALS as problem:
            ui.draw_text(layout, str(problem), width, "ERROR")
            return
        ui.draw_text(layout, track.sentence or tr("0 prompts over the clip"), width, "TEXT")
        for span, (first, last) in zip(track.spans, track.lie, strict=True):
            where = tr("{first} to {last}: ", first=first, last=last)
            layout.label(
                text=where + textwrap.shorten(span.text, max(width - len(where), 8), placeholder="…")
            )
        layout.operator("musev.prompt_add", text="Add Prompt", icon="ADD")


register, unregister = bpy.utils.register_classes_factory((MUSEV_OT_prompt_add, MUSEV_PT_prompt_track))
