"""Pose pictures without an engine: seen in the viewport and as a strip, written as PNGs and as OpenPose's JSON."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from .. import strips
from ..clips import takes
from ..gather import SettingsError, clip_plan, clip_range, takes_root
from ..props import preferences
from ..translations import tr
from ..ui import Sidebar, draw_text, line_width
from ..verbs import Verb, no_scene, refusable
from . import export
from .cast import cast
from .pose import PoseCapture

FORMATS = (
    ("PNG", "PNG Sequence", "The pose picture of every frame, as the model is shown it"),
    ("JSON", "OpenPose JSON", "The keypoints of every frame: body 18, hands 2 x 21, face 70, in pixels"),
)
FRAMES = (
    ("TIMELINE", "Every Frame", "Every frame of the clip's range on the timeline"),
    ("GENERATED", "Generated Frames", "Only those moments of the clip at which a frame is generated"),
    ("CUSTOM", "Custom Range", "Every frame from the first to the last that you set"),
)


def reading(
    owner: bpy.types.Scene, times: tuple[float, ...], size: tuple[int, int] | None = None
) -> PoseCapture:
    """The reading of the poses of a scene's settings at `times`. size: (width, height); None: the clip's. Raises
    CaptureError."""
    who = cast(owner)
    width, height = size or (who.width, who.height)
    return PoseCapture(
        who.scene, who.people, who.camera, width, height, times, occlusion=owner.musev.occlusion.chosen()
    )


class ExportOperator(Verb):
    """What the verbs that read poses have in common."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        busy = tr("Poses are being exported; wait for the end, or cancel") if export.current.running else ""
        return no_scene(context) or busy


class MUSEV_OT_export_poses(ExportOperator, bpy.types.Operator):
    bl_idname = "musev.export_poses"
    bl_label = "Export Poses"
    bl_description = (
        "Write the pose pictures, or the points in them as OpenPose does, one file a frame; needs no engine"
    )

    directory: StringProperty(
        name="Folder", description="Where the files go; made if it is not there", subtype="DIR_PATH"
    )
    name: StringProperty(
        name="Name",
        description="What the files are called: name_0001.png, name_0001_keypoints.json",
        default="pose",
    )
    formats: EnumProperty(
        name="Formats", description="What is written", items=FORMATS, options={"ENUM_FLAG"}, default={"PNG"}
    )
    frames: EnumProperty(name="Frames", description="Which moments are written", items=FRAMES)
    frame_start: IntProperty(
        name="First", description="First frame of a custom range", default=1, subtype="TIME"
    )
    frame_end: IntProperty(
        name="Last", description="Last frame of a custom range, included", default=1, subtype="TIME"
    )
    width: IntProperty(
        name="Width",
        description="Pixels; 0: as wide as the clip",
        default=0,
        min=0,
        max=16384,
        subtype="PIXEL",
    )
    height: IntProperty(
        name="Height",
        description="Pixels; 0: as high as the clip",
        default=0,
        min=0,
        max=16384,
        subtype="PIXEL",
    )
    overwrite: BoolProperty(
        name="Overwrite", description="Replace files of the same names that lie in the folder already"
    )
    wait: BoolProperty(
        name="Wait", options={"HIDDEN", "SKIP_SAVE"},
        description="Return when everything is written; without it, Blender stays free meanwhile",
    )  # fmt: skip
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self.directory = self.directory or str(
            Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
        )
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(self, "name")
        layout.column().prop(self, "formats")
        layout.prop(self, "frames")
        if self.frames == "CUSTOM":
            column = layout.column(align=True)
            column.prop(self, "frame_start")
            column.prop(self, "frame_end")
        column = layout.column(align=True)
        column.prop(self, "width")
        column.prop(self, "height")
        layout.prop(self, "overwrite")

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        work = self.work(strips.shown_scene(context))
        export.current.start(work, at_once=self.wait or bpy.app.background)
        self.report({"INFO"}, tr("{count} frames to {folder}", count=work.total, folder=work.folder))

    def work(self, owner: bpy.types.Scene) -> export.PoseExport:
        """What is to be exported, checked as far as can be now; makes the folder. Raises REFUSALS."""
        settings = owner.musev
        if not self.directory:
            raise SettingsError(tr("No folder is set; choose where the files go."))
        if not self.formats:
            raise SettingsError(tr("No format is chosen; choose PNG Sequence, OpenPose JSON, or both."))
        size = self.width or settings.width, self.height or settings.height
        times = self.times(owner)
        folder = Path(bpy.path.abspath(self.directory))
        work = export.PoseExport(
            reading(owner, times, size), folder, takes.clip_name(self.name), int(times[0]),
            pictures="PNG" in self.formats, keypoints="JSON" in self.formats,
        )  # fmt: skip
        takes.make_folder(folder)
        there = [path.name for path in work.files() if path.exists()]
        if there and not self.overwrite:
            raise SettingsError(
                tr(
                    "{folder} already holds {file} ({count} files of these names); choose another folder or "
                    "name, or allow overwriting.",
                    folder=folder,
                    file=there[0],
                    count=len(there),
                )
            )
        return work

    def times(self, owner: bpy.types.Scene) -> tuple[float, ...]:
        if self.frames == "GENERATED":
            return clip_plan(owner, owner.musev).times
        start, end = clip_range(owner, owner.musev)
        if self.frames == "CUSTOM":
            start, end = self.frame_start, self.frame_end + 1
            if end <= start:
                raise SettingsError(
                    tr(
                        "The range {first} to {last} has 0 frames; it needs at least 1.",
                        first=self.frame_start,
                        last=self.frame_end,
                    )
                )
        return tuple(map(float, range(start, end)))


class MUSEV_OT_preview_strip(ExportOperator, bpy.types.Operator):
    bl_idname = "musev.preview_strip"
    bl_label = "Pose Strip"
    bl_description = (
        "Place the pose pictures as one strip on the first free channel, each for as long as it counts"
    )
    # No UNDO: nothing changes now. The strip's arrival is the one undo step of this verb.

    wait: BoolProperty(
        name="Wait", options={"HIDDEN", "SKIP_SAVE"},
        description="Return when the strip is there; without it, Blender stays free meanwhile",
    )  # fmt: skip

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        owner = strips.shown_scene(context)
        plan = clip_plan(owner, owner.musev)
        capture = reading(owner, plan.times)
        name = takes.clip_name(f"{capture.people[0].name}_poses")
        folder = takes.new_take(takes_root(preferences(context)), name)
        shown = tuple(
            min(int(frame * plan.fps / plan.output_fps), plan.num_frames - 1)
            for frame in range(plan.output_frames)
        )
        strip = export.Strip(owner.name, name, int(plan.times[0]), shown)
        work = export.PoseExport(capture, folder, name, 1, strip=strip)
        export.current.start(work, at_once=self.wait or bpy.app.background)


class MUSEV_OT_export_cancel(Verb, bpy.types.Operator):
    bl_idname = "musev.export_cancel"
    bl_label = "Cancel Export of Poses"
    bl_description = "Stop writing poses and remove what was written"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return "" if export.current.running else tr("No poses are being written")

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        export.current.stop()


class MUSEV_PT_views(Sidebar, bpy.types.Panel):
    bl_label = "Pose Pictures"
    bl_idname = "MUSEV_PT_views"
    bl_parent_id = "MUSEV_PT_clip"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return strips.shown_scene(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, strips.shown_scene(context).musev
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        column.prop(settings.overlay, "show")
        row = column.row()
        row.active = settings.overlay.show
        row.prop(settings.overlay, "opacity")
        column = layout.column(align=True)
        column.prop(settings.occlusion, "own")
        column.prop(settings.occlusion, "others")
        layout.operator("musev.preview_strip", icon="SEQUENCE")
        layout.operator("musev.export_poses", icon="EXPORT")
        self.draw_progress(layout, context)

    def draw_progress(self, layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
        work = export.current.export
        if export.current.running:
            row = layout.row()
            row.progress(factor=work.done / max(work.total, 1), text=f"{work.phase} {work.done}/{work.total}")
            row.operator("musev.export_cancel", text="", icon="X")
        elif work is not None and work.problem:
            draw_text(layout, work.problem, line_width(context), "ERROR")
        elif work is not None:
            draw_text(
                layout,
                tr("{count} frames in {folder}", count=work.total, folder=work.folder),
                line_width(context),
                "CHECKMARK",
            )


_register, _unregister = bpy.utils.register_classes_factory(
    (MUSEV_OT_export_poses, MUSEV_OT_preview_strip, MUSEV_OT_export_cancel, MUSEV_PT_views)
)


def register() -> None:
    _register()
    export.register()


def unregister() -> None:
    export.unregister()
    _unregister()
