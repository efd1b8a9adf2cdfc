"""What stale takes wear, in the list of takes and on the timeline, and the verb that compares a take thoroughly."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty

from . import clip_folder, stack, stale, stale_watch, strips, take_parts, takes
from .stack_verbs import TakeOperator
from .take_parts import Memo
from .translations import tr


class MUSEV_OT_take_check(TakeOperator, bpy.types.Operator):
    bl_idname = "musev.take_check"
    bl_label = "Check Against the Scene"
    bl_description = (
        "Read the rig, the camera and the still over all frames of the take, and say what has changed since it was "
        "made. Steps through the frames, and comes back to the one in view"
    )

    wait: BoolProperty(
        name="Wait", options={"HIDDEN", "SKIP_SAVE"},
        description="Return when everything is compared; without it, Blender stays free meanwhile",
    )  # fmt: skip

    @classmethod
    def description(cls, context, properties):
        scene, strip = strips.shown_scene(context), stack.active(strips.shown_scene(context))
        if strip is None or not properties.take:
            return tr(cls.bl_description)
        changes = stale_watch.current.changes(scene.name, stack.folder(strip) / properties.take)
        return "\n".join([*(change.told for change in changes or ()), tr(cls.bl_description)])

    def do(self, scene, strip):
        take, start = self.chosen(strip), strips.content(strip)[0]
        if not take_parts.parts(take):
            raise takes.TakeError(
                tr(
                    "{take} does not tell what it was made from, so there is nothing to compare; generate it "
                    "again.",
                    take=take.name,
                )
            )
        target = stale_watch.Target(scene.name, take.folder, start, True)
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
        worn = layout.operator(
            "musev.take_check", text=stale.badge(changes), icon="FILE_REFRESH", emboss=False
        )
        worn.take = take.name


register, unregister = bpy.utils.register_classes_factory((MUSEV_OT_take_check,))
