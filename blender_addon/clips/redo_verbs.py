"""Redo a range, extend, bridge: the verbs, and their panel."""

from __future__ import annotations

import dataclasses
import random
from fractions import Fraction

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty

from .. import gather, outlook, session, strips, timing, ui
from ..props import preferences
from ..translations import tr
from ..verbs import Verb, no_engine, no_scene, refusable
from . import draft, redo, splice, stack
from .stack_verbs import unfinished

DIRECTIONS = (
    ("AFTER", "After", "New frames after the last one"),
    ("BEFORE", "Before", "New frames before the first one"),
)


def around(scene: bpy.types.Scene) -> int:
    """How many frames of the timeline stay on each side of new ones and are given. Raises SettingsError."""
    scene_fps = timing.scene_rate(scene.render.fps, scene.render.fps_base)
    rate: Fraction | None = gather.generation_rate(scene.musev)
    return redo.generated_apart(scene_fps, rate)


def fits_draft(settings, strip) -> bool:
    """Whether new frames are a draft's: they must be as large as those beside them, so as the settings say, or as a
    draft of that is. Raises StripError."""
    size = stack.picture_size(strips.file_at(strip, strips.span(strip)[0]))
    if size is None or size == (settings.width, settings.height):
        return False
    if settings.draft.use and size == draft.size(settings, settings.draft):
        return True
    raise strips.StripError(
        tr(
            "The take has {columns} x {rows} pixels and the settings {width} x {height}; set its "
            "size, or press Recall Settings.",
            columns=size[0],
            rows=size[1],
            width=settings.width,
            height=settings.height,
        )
    )


class RedoOperator(Verb):
    """Hands the session a part of a clip. Without a seed of its own it takes the take's, so that it looks alike."""

    asked: tuple[str, ...] = ()  # the names of what can be set besides the seed

    new_seed: BoolProperty(
        name="New Seed",
        description="Begin each new frame otherwise; what all frames of the clip share stays, so that they look alike",
    )  # fmt: skip

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return unfinished(context) or no_engine()

    def seeds(self, scene: bpy.types.Scene, strip) -> tuple[int, int | None]:
        """The seed, and that of the noise which the frames share with those around them."""
        take = stack.read(strip).take(stack.shown(strip).name) if stack.is_ours(strip) else None
        own = scene.musev.seed if take is None or take.seed is None else take.seed
        shared = take.request.get("shared_seed") if take is not None else None
        if not self.new_seed:
            return own, shared
        return random.randrange(2**31), own if shared is None else shared

    def draw(self, context: bpy.types.Context) -> None:
        """The dialog: what can be set, and what it would do."""
        layout, width = self.layout, 46
        column = layout.column()
        column.use_property_split, column.use_property_decorate = True, False
        for name in (*self.asked, "new_seed"):
            column.prop(self, name)
        try:
            ui.draw_text(layout, self.sentence(context), width, "INFO")
        except gather.REFUSALS as problem:
            ui.draw_text(layout, str(problem), width, "ERROR")

    def sentence(self, context: bpy.types.Context) -> str:
        """What it would do. Raises gather.REFUSALS."""
        scene = strips.shown_scene(context)
        part, _ = self.part(context, scene)
        new = part.splice.last_new - part.splice.first_new + 1
        return outlook.of_part(scene, part.span, new, part.splice.count - new)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        scene = strips.shown_scene(context)
        part, (seed, shared_seed) = self.part(context, scene)
        job = gather.clip_job(context, seed=seed, folder=part.folder, part=part)
        job.request = dataclasses.replace(job.request, shared_seed=shared_seed)
        job.clip, job.start = part.clip, part.start
        job.about[splice.KEY] = part.splice.told
        session.current.submit(job)
        first, last = part.new
        self.report(
            {"INFO"}, tr("{clip}: new frames {first} to {last}", clip=job.clip, first=first, last=last)
        )


class MUSEV_OT_redo_range(RedoOperator, bpy.types.Operator):
    bl_idname = "musev.redo_range"
    bl_label = "Redo Range"
    bl_description = (
        "Make some frames of the shown take anew, led by the frames beside them; it comes as another take, in which "
        "all other frames are the same files"
    )
    asked = ("frame_start", "frame_end")

    frame_start: IntProperty(
        name="From", description="The first frame of the timeline that is made anew", subtype="TIME"
    )
    frame_end: IntProperty(
        name="To", description="The last frame of the timeline that is made anew", subtype="TIME"
    )

    def invoke(self, context, event):
        scene = strips.shown_scene(context)
        start, count = strips.content(stack.active(scene))
        if scene.use_preview_range:
            self.frame_start, self.frame_end = scene.frame_preview_start, scene.frame_preview_end
        else:
            self.frame_start = min(max(scene.frame_current, start), start + count - 1)
            self.frame_end = min(self.frame_start + 7, start + count - 1)
        return context.window_manager.invoke_props_dialog(self)

    def part(self, context, scene):
        strip = stack.active(scene)
        is_draft = fits_draft(scene.musev, strip)
        part = redo.redo_range(strip, self.frame_start, self.frame_end, around(scene))
        return dataclasses.replace(part, is_draft=is_draft), self.seeds(scene, strip)


class MUSEV_OT_extend(RedoOperator, bpy.types.Operator):
    bl_idname = "musev.extend"
    bl_label = "Extend Clip"
    bl_description = (
        "Make the shown take longer: a new strip with its frames and new ones that go on from them; the strip that "
        "is active stays as it is"
    )
    asked = ("frames", "direction")

    frames: IntProperty(
        name="Frames", description="How many new frames", default=24, min=1, max=10_000, subtype="TIME"
    )
    direction: EnumProperty(name="Direction", description="Where the new frames are", items=DIRECTIONS)

    def invoke(self, context, event):
        return context.window_manager.invoke_props_dialog(self)

    def part(self, context, scene):
        strip = stack.active(scene)
        is_draft = fits_draft(scene.musev, strip)
        part = redo.extend(scene, strip, self.frames, self.direction == "BEFORE", around(scene))
        return dataclasses.replace(part, is_draft=is_draft), self.seeds(scene, strip)


class MUSEV_OT_bridge(RedoOperator, bpy.types.Operator):
    bl_idname = "musev.bridge"
    bl_label = "Bridge Gap"
    bl_description = (
        "Fill the gap between two selected image strips with frames that lead from one to the other"
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := no_scene(context) or no_engine():
            return why
        count = len(cls.ends(strips.shown_scene(context)))
        why = tr("{count} image strips are selected; select the two with the gap between them", count=count)
        return "" if count == 2 else why

    def invoke(self, context, event):
        return context.window_manager.invoke_props_dialog(self)

    @staticmethod
    def ends(scene: bpy.types.Scene) -> list:
        return [strip for strip in strips.top_strips(scene) if strip.select and strips.is_image(strip)]

    def part(self, context, scene):
        one, other = sorted(self.ends(scene), key=lambda strip: strips.span(strip)[0])
        root = gather.takes_root(preferences(context))
        return redo.bridge(scene, one, other, root, around(scene)), self.seeds(scene, one)


class MUSEV_PT_redo(ui.Sidebar, bpy.types.Panel):
    bl_label = "Redo and Extend"
    bl_idname = "MUSEV_PT_redo"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        if scene is None:
            layout.label(text="The sequencer shows no scene", icon="INFO")
            return
        layout.operator("musev.redo_range", icon="FILE_REFRESH")
        layout.operator("musev.extend", icon="TRACKING_FORWARDS")
        layout.operator("musev.bridge", icon="ARROW_LEFTRIGHT")


register, unregister = bpy.utils.register_classes_factory(
    (MUSEV_OT_redo_range, MUSEV_OT_extend, MUSEV_OT_bridge, MUSEV_PT_redo)
)
