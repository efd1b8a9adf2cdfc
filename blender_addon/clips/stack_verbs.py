"""What an artist does with the takes of the active strip: flip, star, label, compare, prune, recall."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, FloatProperty, StringProperty

from .. import session, strips
from ..translations import tr
from ..verbs import Verb, no_scene, refusable
from . import clip_folder, compare, kept, recall, splice, stack, takes


def take_names(operator, context: bpy.types.Context, text: str) -> list[str]:
    """The takes of the active strip, for a field's menu."""
    strip = stack.active(strips.shown_scene(context))
    try:
        return [take.name for take in stack.read(strip).takes if text in take.name] if strip else []
    except takes.TakeError:
        return []


def being_made(clip: clip_folder.Clip) -> set[str]:
    """The names of the takes that jobs are writing into."""
    return {job.take.name for job in session.current.jobs if not job.ended and job.take.parent == clip.folder}


def no_takes(context: bpy.types.Context) -> str:
    """A reason for `why_not`: there is no strip of ours to do something with."""
    if why := no_scene(context):
        return why
    there = stack.active(strips.shown_scene(context)) is not None
    return "" if there else tr("The active strip shows no takes; choose a strip that MuseV made")


def unfinished(context: bpy.types.Context) -> str:
    """A reason for `why_not`: there is no strip of ours, or its shown take is still in the making."""
    if why := no_takes(context):
        return why
    shown = stack.shown(stack.active(strips.shown_scene(context)))
    making = any(job.take == shown and not job.ended for job in session.current.jobs)
    return tr("The strip shows a clip in the making; wait until it is finished") if making else ""


class StackOperator(Verb):
    """An operator on the active strip's takes."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_takes(context)

    @refusable
    def execute(self, context: bpy.types.Context) -> set[str] | None:
        scene = strips.shown_scene(context)
        try:
            return self.do(scene, stack.active(scene))
        finally:
            session.redraw()  # files changed, of which Blender knows nothing


class TakeOperator(StackOperator):
    """An operator on one of them."""

    take: StringProperty(
        name="Take", description="Its name or number, as take_003 or 3; empty for the take that is shown",
        search=take_names, options={"SKIP_SAVE"},
    )  # fmt: skip

    def chosen(self, strip) -> clip_folder.Take:
        """Raises TakeError."""
        return stack.read(strip).take(self.take or stack.shown(strip).name)


def show(strip, take: clip_folder.Take) -> None:
    """Has a strip show a take. Raises TakeError and StripError."""
    if strip.lock:
        raise strips.StripError(
            tr("The strip '{strip}' is locked; unlock it to show another take.", strip=strip.name)
        )
    stack.show(strip, take.frames())


class Step(StackOperator):
    by = 1

    def do(self, scene, strip):
        there = [take for take in stack.read(strip).takes if take.finished]
        names = [take.name for take in there]
        if not [name for name in names if name != stack.shown(strip).name]:
            raise takes.TakeError(
                tr("There is no other take in {folder}; generate one.", folder=stack.folder(strip))
            )
        now = stack.shown(strip).name
        if now in names:
            take = there[(names.index(now) + self.by) % len(there)]
        else:  # what it showed is gone: go on from its number
            later = [take for take in there if take.number > takes.number(now)]
            take = (later or there)[0] if self.by > 0 else there[len(there) - len(later) - 1]
        show(strip, take)
        self.report(
            {"INFO"},
            tr("{take}, {number} of {count}", take=take.name, number=there.index(take) + 1, count=len(there)),
        )


class MUSEV_OT_take_next(Step, bpy.types.Operator):
    bl_idname = "musev.take_next"
    bl_label = "Next Take"
    bl_description = "Show the next take of the active strip; the first one after the last"
    bl_options = {"REGISTER", "UNDO"}


class MUSEV_OT_take_previous(Step, bpy.types.Operator):
    bl_idname = "musev.take_previous"
    bl_label = "Previous Take"
    bl_description = "Show the take before in the active strip; the last one before the first"
    bl_options = {"REGISTER", "UNDO"}
    by = -1


class MUSEV_OT_take_show(TakeOperator, bpy.types.Operator):
    bl_idname = "musev.take_show"
    bl_label = "Show Take"
    bl_description = "Show this take in the active strip"
    bl_options = {"REGISTER", "UNDO"}

    def invoke(self, context, event):
        return self.execute(context) if self.take else context.window_manager.invoke_props_dialog(self)

    def do(self, scene, strip):
        show(strip, self.chosen(strip))


class MUSEV_OT_take_promote(TakeOperator, bpy.types.Operator):
    bl_idname = "musev.take_promote"
    bl_label = "Promote Take"
    bl_description = "Star this take and show it: it is the one to go on with. The others stay"
    bl_options = {"REGISTER", "UNDO"}

    def do(self, scene, strip):
        take = self.chosen(strip)
        show(strip, take)
        note(self, clip_folder.mark(take.folder.parent, take.name, star=True))


def note(operator: bpy.types.Operator, aside) -> None:
    """Says where marks went that could not be read."""
    if aside is not None:
        operator.report(
            {"WARNING"},
            tr("The stars and labels before could not be read; they are kept in {aside}.", aside=aside),
        )


class MUSEV_OT_take_star(TakeOperator, bpy.types.Operator):
    bl_idname = "musev.take_star"
    bl_label = "Star Take"
    bl_description = "Give this take a star, or take it away. Starred takes are never pruned"
    bl_options = {"REGISTER"}  # marks are a file beside the takes: nothing to undo in the .blend

    def do(self, scene, strip):
        take = self.chosen(strip)
        note(self, clip_folder.mark(take.folder.parent, take.name, star=not take.mark.star))


class MUSEV_OT_take_label(TakeOperator, bpy.types.Operator):
    bl_idname = "musev.take_label"
    bl_label = "Label Take"
    bl_description = "Give this take a name of your own, shown in the list"
    bl_options = {"REGISTER"}

    label: StringProperty(
        name="Label", description="A few words; empty for none", maxlen=80, options={"SKIP_SAVE"}
    )

    @refusable
    def invoke(self, context, event):
        take = self.chosen(stack.active(strips.shown_scene(context)))
        self.take, self.label = take.name, take.mark.label
        return context.window_manager.invoke_props_dialog(self)

    def draw(self, context):
        self.layout.activate_init = True  # it is typed at once
        self.layout.prop(self, "label")

    def do(self, scene, strip):
        take = self.chosen(strip)
        note(self, clip_folder.mark(take.folder.parent, take.name, label=self.label))


def prunable(strip) -> list[str]:
    """The takes that pruning takes away: finished, without a star, shown by no strip of this file. Raises TakeError."""
    clip = stack.read(strip)
    if clip.problem:
        raise takes.TakeError(
            tr(
                "{problem} Correct or remove that file before you prune, or starred takes go too.",
                problem=clip.problem,
            )
        )
    kept = stack.shown_anywhere(clip.folder) | being_made(clip)
    return [
        take.name for take in clip.takes if take.finished and not take.mark.star and take.name not in kept
    ]


class MUSEV_OT_takes_prune(StackOperator, bpy.types.Operator):
    bl_idname = "musev.takes_prune"
    bl_label = "Prune Takes"
    bl_description = (
        "Move all takes of the active strip that have no star and that no strip shows into the folder _removed "
        "beside them, from which Restore Takes brings them back"
    )
    bl_options = {"REGISTER"}

    @refusable
    def invoke(self, context, event):
        strip = stack.active(strips.shown_scene(context))
        names = prunable(strip)
        if not names:
            return self.execute(context)
        return context.window_manager.invoke_confirm(
            self, event, title=tr("Prune Takes"), confirm_text=tr("Prune"),
            message=tr(
                "Move the takes that are neither starred nor shown ({count}) into {folder}?", count=len(names),
                folder=f"{stack.folder(strip).name}/{takes.REMOVED}",
            ),
        )  # fmt: skip

    def do(self, scene, strip):
        names = prunable(strip)
        if not names:
            self.report({"INFO"}, tr("0 takes to prune: all are starred, shown or in the making"))
            return {"CANCELLED"}
        trash = clip_folder.remove(stack.folder(strip), names)
        self.report(
            {"INFO"},
            tr(
                "Takes moved to {trash}: {count}. Restore Takes brings them back",
                count=len(names),
                trash=trash,
            ),
        )


class MUSEV_OT_takes_restore(StackOperator, bpy.types.Operator):
    bl_idname = "musev.takes_restore"
    bl_label = "Restore Takes"
    bl_description = "Bring the takes back that were pruned from the active strip"
    bl_options = {"REGISTER"}

    def do(self, scene, strip):
        names = clip_folder.restore(stack.folder(strip))
        self.report({"INFO"}, tr("Takes brought back: {count}", count=len(names)))


class MUSEV_OT_takes_empty(StackOperator, bpy.types.Operator):
    bl_idname = "musev.takes_empty"
    bl_label = "Delete Removed Takes"
    bl_description = (
        "Delete the takes that were pruned from the active strip, and the kept inputs that no take needs any more. "
        "They can't be had back"
    )
    bl_options = {"REGISTER"}

    @refusable
    def invoke(self, context, event):
        folder = stack.folder(stack.active(strips.shown_scene(context)))
        return context.window_manager.invoke_confirm(
            self, event, title=tr("Delete Removed Takes"),
            message=tr("Delete the removed takes ({count}) for good?", count=len(clip_folder.removed(folder))),
            confirm_text=tr("Delete"), icon="WARNING",
        )  # fmt: skip

    def do(self, scene, strip):
        folder = stack.folder(strip)
        parts = (splice.Splice.of_job(job.about) for job in session.current.jobs if not job.ended)
        needed = {part.of for part in parts if part is not None} & set(clip_folder.removed(folder))
        if needed:
            raise takes.TakeError(
                tr(
                    "{take} has frames of a clip in the making; wait until that is finished.",
                    take=min(needed),
                )
            )
        names, freed = clip_folder.empty(folder)
        count, more = kept.prune(folder)
        self.report(
            {"INFO"},
            tr(
                "Deleted: takes {takes}, inputs {inputs}, {size:.1f} MB",
                takes=len(names),
                inputs=count,
                size=(freed + more) / 1e6,
            ),
        )


class MUSEV_OT_take_compare(TakeOperator, bpy.types.Operator):
    bl_idname = "musev.take_compare"
    bl_label = "Compare Takes"
    bl_description = "See this take beside the one that the strip shows, in temporary strips above it"
    bl_options = {"REGISTER", "UNDO"}

    kind: EnumProperty(name="As", description="How both takes are seen", items=compare.KINDS)
    line: FloatProperty(
        name="Line", description="Where the wipe's line stands: 0 at the left edge, 1 at the right",
        default=0.5, min=0.0, max=1.0, subtype="FACTOR",
    )  # fmt: skip

    @classmethod
    def description(cls, context, properties):
        if properties.kind == "WIPE":
            return tr("See the shown take left of a line and this one right of it, in temporary strips above")
        return tr("See the shown take and this one side by side, in temporary strips above")

    def invoke(self, context, event):
        return self.execute(context) if self.take else context.window_manager.invoke_props_dialog(self)

    def do(self, scene, strip):
        clip, now = stack.read(strip), stack.shown(strip).name
        if not self.take or clip.take(self.take).name == now:
            raise takes.TakeError(
                tr("{now} is the take that is shown; choose another one to compare it with.", now=now)
            )
        shown, other = clip.take(now).frames(), clip.take(self.take).frames()
        compare.compare(scene, strip, shown, other, self.kind, self.line)


class MUSEV_OT_take_compare_end(Verb, bpy.types.Operator):
    bl_idname = "musev.take_compare_end"
    bl_label = "End Comparison of Takes"
    bl_description = "Remove the comparison's temporary strips"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return "" if compare.parts(strips.shown_scene(context)) else tr("No takes are being compared")

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        compare.finish(strips.shown_scene(context))


class MUSEV_OT_recall_settings(TakeOperator, bpy.types.Operator):
    bl_idname = "musev.recall_settings"
    bl_label = "Recall Settings"
    bl_description = "Set prompt, seed, size and everything else as this take was made; the range stays"
    bl_options = {"REGISTER", "UNDO"}

    def do(self, scene, strip):
        take = self.chosen(strip)
        if not take.request:
            raise takes.TakeError(f"{take.name}: {take.problem or 'its take.json tells no request'}")
        if left := recall.recall(scene.musev, take):
            self.report(
                {"WARNING"},
                tr("Recalled from {take}, but not: {names}", take=take.name, names="; ".join(left)),
            )
        else:
            self.report({"INFO"}, tr("Recalled from {take}", take=take.name))


register, unregister = bpy.utils.register_classes_factory(
    (
        MUSEV_OT_take_next,
        MUSEV_OT_take_previous,
        MUSEV_OT_take_show,
        MUSEV_OT_take_promote,
        MUSEV_OT_take_star,
        MUSEV_OT_take_label,
        MUSEV_OT_takes_prune,
        MUSEV_OT_takes_restore,
        MUSEV_OT_takes_empty,
        MUSEV_OT_take_compare,
        MUSEV_OT_take_compare_end,
        MUSEV_OT_recall_settings,
    )
)
