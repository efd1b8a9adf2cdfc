"""What the sidebar asks about the strips that a 'video' clip is made from, and what it tells of them."""

from __future__ import annotations

import bpy

from .. import gather, strips, ui
from ..translations import tr
from . import sources


def sentences(scene: bpy.types.Scene) -> list[tuple[str, str]]:
    """(text, icon) of what would be read, or of why it can't be. Looks at no file: a panel is drawn often."""
    settings = scene.musev.source
    try:
        choice = sources.chosen(scene, settings.choice, settings.strip)
        frames = sources.nearest_frames(gather.clip_plan(scene, scene.musev).times)
    except gather.REFUSALS as problem:
        return [(str(problem), "ERROR")]
    names = [strip.name for strip in choice.among(strips.shown_strips(scene)) if not strips.is_sound(strip)]
    said = tr("Reads {strips}", strips=", ".join(names[:3]))
    if len(names) > 3:
        said += tr(" and {count} more", count=len(names) - 3)
    told = [(said, "SEQUENCE")]
    if empty := sources.empty_frames(scene, choice, frames):
        said = tr("{empty} of {count} frames show nothing: black is sent", empty=empty, count=len(frames))
        told.append((said, "ERROR"))
    return told


class MUSEV_PT_source(ui.Sidebar, bpy.types.Panel):
    bl_label = "Source"
    bl_idname = "MUSEV_PT_source"
    bl_parent_id = "MUSEV_PT_clip"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        scene = strips.shown_scene(context)
        return scene is not None and scene.musev.mode == "video"

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        settings = scene.musev.source
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(settings, "choice")
        if settings.choice == "STRIP" and scene.sequence_editor is not None:
            strips.draw_strip_search(layout, settings, "strip", scene)
        layout.prop(settings, "use")
        if settings.use != "CONTROL":
            layout.prop(settings, "strength")
        if settings.use != "FRAMES":
            layout.prop(settings, "control")
            layout.prop(settings, "control_scale")
        for text, icon in sentences(scene):
            ui.draw_text(layout, text, ui.line_width(context), icon)


register, unregister = bpy.utils.register_classes_factory((MUSEV_PT_source,))
