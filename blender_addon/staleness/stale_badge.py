"""What stale takes wear, in the list of takes and on the timeline, and the verb that compares a take thoroughly."""

from __future__ import annotations

import bpy
import gpu
from bpy.props import BoolProperty
from gpu_extras.batch import batch_for_shader

from .. import strips
from ..clips import clip_folder, kept, stack, takes
from ..clips.stack_verbs import TakeOperator
from ..translations import tr
from . import stale, stale_watch, take_parts
from .take_parts import Memo


class MUSEV_OT_take_check(TakeOperator, bpy.types.Operator):
    bl_idname = "musev.take_check"
    bl_label = "Check Against the Scene"
    bl_description = (
        "Read the rig, the camera, rendered pictures, the source and the still over all frames of the take, and say "
        "what has changed since it was made. Steps through the frames, and comes back to the one in view"
    )

    wait: BoolProperty(
        name="Wait", options={"HIDDEN", "SKIP_SAVE"},
        description="Return when everything is compared; without it, Blender stays free meanwhile",
    )  # fmt: skip

    @classmethod
    def description(cls, context, properties):
        said = bpy.app.translations.pgettext_tip(cls.bl_description)
        scene, strip = strips.shown_scene(context), stack.active(strips.shown_scene(context))
        if strip is None or not properties.take:
            return said
        changes = stale_watch.current.changes(scene.name, stack.folder(strip) / properties.take)
        return "\n".join([*(change.told for change in changes or ()), said])

    def do(self, scene, strip):
        take, start = self.chosen(strip), strips.content(strip)[0]
        if not (made := take_parts.parts(take)):
            raise takes.TakeError(
                tr(
                    "{take} does not tell what it was made from, so there is nothing to compare; generate it "
                    "again.",
                    take=take.name,
                )
            )
        kept.read(take.folder.parent, [part.take.request["poses"] for part in made if part.follows_a_rig])
        target = stale_watch.Target(scene.name, take.folder, start)
        if not (self.wait or bpy.app.background):
            stale_watch.current.check(target)
            return
        memo = Memo(harmless=stale_watch.current.memo.harmless)
        found = stale.verdict(scene, take, start, True, memo)
        stale_watch.current.note(target, found)
        said = " ".join(change.told for change in found) or tr("nothing has changed since it was made")
        self.report({"WARNING"} if found else {"INFO"}, f"{take.name}: {said}")


def draw_badge(layout: bpy.types.UILayout, scene: bpy.types.Scene, take: clip_folder.Take) -> None:
    """What a take wears that is stale; its tooltip says more."""
    changes = stale_watch.current.changes(scene.name, take.folder)
    if changes:
        row = layout.row()
        row.alignment = "LEFT"
        worn = row.operator("musev.take_check", text=stale.badge(changes), icon="FILE_REFRESH", emboss=False)
        worn.take = take.name


# --- on the timeline ------------------------------------------------------------------------------

SIDE = 12  # of the mark in a strip's corner, pixels of the interface
TOP = 0.9  # of a channel, where its strips end
AMBER = (1.0, 0.62, 0.1, 1.0)


def corner(upper_right: tuple[float, float], width: float, side: float) -> list[tuple[float, float]]:
    """The triangle in the upper right corner of a strip that is `width` wide; all in pixels of the region."""
    x, y = upper_right
    side = min(side, width)
    return [(x - side, y), (x, y), (x, y - side)]


def draw_marks() -> None:
    """What Blender calls for every timeline that it draws: a mark on each strip that shows a stale take."""
    context = bpy.context
    scene = strips.shown_scene(context)
    names = stale_watch.current.stale_strips(scene.name) if scene is not None else ()
    if not names or not context.space_data.show_overlays:
        return
    view, shown = context.region.view2d, strips.shown_strips(scene)
    places = []
    for strip in filter(None, map(shown.get, names)):
        start, end = strips.span(strip)
        left, top = view.view_to_region(start, strip.channel + TOP, clip=False)
        right, _ = view.view_to_region(end, strip.channel + TOP, clip=False)
        places += corner((right, top), right - left, SIDE * (context.preferences.system.ui_scale or 1.0))
    if places:
        shader = gpu.shader.from_builtin("UNIFORM_COLOR")
        shader.uniform_float("color", AMBER)
        batch_for_shader(shader, "TRIS", {"pos": [(*place, 0.0) for place in places]}).draw(shader)


_register, _unregister = bpy.utils.register_classes_factory((MUSEV_OT_take_check,))
_handle = None


def register() -> None:
    global _handle
    _register()
    _handle = bpy.types.SpaceSequenceEditor.draw_handler_add(draw_marks, (), "WINDOW", "POST_PIXEL")


def unregister() -> None:
    global _handle
    bpy.types.SpaceSequenceEditor.draw_handler_remove(_handle, "WINDOW")
    _handle = None
    _unregister()
