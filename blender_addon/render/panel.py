"""Panel "From the Renderer", and the verbs that render pictures without an engine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import bpy
from bpy.props import BoolProperty, StringProperty

from .. import gather, props, session, strips, ui
from ..captures import CaptureError
from ..clips import takes
from ..translations import tr
from ..verbs import Verb, no_scene, refusable
from . import settings as render_settings
from .cache import Store
from .passes import RenderCapture
from .stage import RenderError

LABELS = {"depth": "Depth", "normal": "Normals", "line": "Line Art"}


@dataclass
class Export:
    """Pictures on their way to a folder. scene: the name of the sequencer's; start: of the strips, in its frames."""

    capture: RenderCapture
    scene: str
    start: int
    folder: Path
    place: bool

    def advance(self, deadline: float) -> bool:
        """Renders on; True once the pictures are written. Raises CaptureError, TakeError and StripError."""
        if not self.capture.advance(deadline):
            return False
        for name, pngs in self.capture.pngs.items():
            folder = self.folder / name
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise takes.TakeError(
                    tr("{folder} can't be made ({error}); choose another folder.", folder=folder, error=error)
                ) from error
            for index, png in enumerate(pngs):
                takes.write_frame(folder, index, png)
        if self.place:
            self._place()
        self.capture.cancel()
        return True

    def _place(self) -> None:
        scene = bpy.data.scenes.get(self.scene)
        if scene is None:
            raise strips.StripError(
                tr(
                    "Scene '{scene}' is gone; the pictures lie in {folder}.",
                    scene=self.scene,
                    folder=self.folder,
                )
            )
        for name, pngs in self.capture.pngs.items():
            files = [takes.frame_file(self.folder / name, index) for index in range(len(pngs))]
            strips.place_images(scene, name, files, self.start)


current: Export | None = None
problem = ""


def _tick() -> float | None:
    """Blender's timer, while pictures are rendered beside the artist's work."""
    global current, problem
    if current is None:
        return None
    try:
        ended = current.advance(time.perf_counter() + session.TICK_S)
        if ended and current.place:
            windows = bpy.context.window_manager.windows
            with bpy.context.temp_override(**({"window": windows[0]} if len(windows) else {})):
                bpy.ops.ed.undo_push(message="MuseV Render Controls")
    except (CaptureError, takes.TakeError, strips.StripError) as error:
        current.capture.cancel()
        ended, problem = True, str(error)
    if ended:
        current = None
    session.redraw()
    return None if ended else 0.02


def is_background() -> bool:
    """Whether there is no window, so that nobody waits for it and no timer runs."""
    return bpy.app.background


class MUSEV_OT_render_controls(Verb, bpy.types.Operator):
    bl_idname = "musev.render_controls"
    bl_label = "Render Pictures"
    bl_description = (
        "Render the chosen pictures of every frame of the clip's range as PNG files, without an engine: a folder for "
        "each kind"
    )
    bl_options = {"REGISTER"}  # its strips' arrival is the one undo step

    directory: StringProperty(
        name="Folder", description="Where the pictures go; a new take if empty", subtype="DIR_PATH"
    )
    place: BoolProperty(
        name="Place Strips", description="Show each kind of picture as a strip over the range", default=True
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_scene(context) or ("" if current is None else tr("Pictures are being rendered already"))

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        global current, problem
        scene = strips.shown_scene(context)
        settings = scene.musev
        problem = ""
        start, end = gather.clip_range(scene, settings)
        made = render_settings.captures(scene, settings, range(start, end), settings.width, settings.height)
        if not made:
            raise RenderError(tr("No kind of picture is chosen; turn on Depth, Normals, Line Art or a mask."))
        folder = Path(bpy.path.abspath(self.directory)) if self.directory else None
        if folder is None:
            folder = takes.new_take(gather.takes_root(props.preferences(context)), "pictures")
        export = Export(made[0], scene.name, start, folder, self.place)
        if is_background():
            self.wait(export)
        else:
            current = export
            bpy.app.timers.register(_tick, first_interval=0.0)
        self.report({"INFO"}, tr("{count} frames to {folder}", count=end - start, folder=folder))

    def wait(self, export: Export) -> None:
        try:
            while not export.advance(math.inf):
                pass
            if export.place:
                bpy.ops.ed.undo_push(message="MuseV Render Controls")
        finally:
            export.capture.cancel()


class MUSEV_OT_render_controls_cancel(Verb, bpy.types.Operator):
    bl_idname = "musev.render_controls_cancel"
    bl_label = "Cancel Rendered Pictures"
    bl_description = "Stop rendering pictures"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return tr("No pictures are being rendered") if current is None else ""

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        _stop()


class MUSEV_OT_render_cache_clear(Verb, bpy.types.Operator):
    bl_idname = "musev.render_cache_clear"
    bl_label = "Clear Kept Pictures"
    bl_description = "Remove all rendered pictures that are kept on disk; they are rendered anew when needed"

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        store = Store(render_settings.cache_folder())
        size = store.size
        try:
            store.clear()
        except OSError as error:
            raise RenderError(
                tr("The pictures in {folder} can't be removed: {error}", folder=store.folder, error=error)
            ) from None
        self.report({"INFO"}, tr("{size:.1f} MB removed", size=size / 1e6))


class MUSEV_PT_render(ui.Sidebar, bpy.types.Panel):
    bl_label = "From the Renderer"
    bl_idname = "MUSEV_PT_render"
    bl_parent_id = "MUSEV_PT_clip"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        scene = strips.shown_scene(context)
        if scene is None:
            layout.label(text="The sequencer shows no scene", icon="INFO")
            return
        settings = scene.musev
        render = settings.render
        layout.use_property_split = True
        layout.use_property_decorate = False
        for key, label in LABELS.items():
            control = getattr(render, key)
            column = layout.column(align=True)
            column.prop(control, "use", text=label)
            if control.use:
                for name in ("scale", "start", "end"):
                    column.prop(control, name)
        layout.prop(render, "use_mask")
        if settings.mode == "pose":
            column = layout.column(align=True)
            column.prop(render, "use_source")
            if render.use_source:
                column.prop(render, "source_strength")
                column.prop(render, "engine")
        row = layout.row()
        row.prop(render, "use_cache")
        row.operator("musev.render_cache_clear", text="", icon="TRASH")
        if current is not None:
            capture = current.capture
            row = layout.row()
            text = f"{capture.phase} {capture.done}/{capture.total}"
            row.progress(factor=capture.done / capture.total, text=text)
            row.operator("musev.render_controls_cancel", text="", icon="X")
        else:
            layout.operator("musev.render_controls", icon="RENDER_ANIMATION")
        if problem:
            box = layout.box()
            box.alert = True
            ui.draw_text(box, problem, ui.line_width(context), "ERROR")


def _stop() -> None:
    global current
    if current is not None:
        current.capture.cancel()
        current = None


@bpy.app.handlers.persistent
def _loading(*_) -> None:
    _stop()


_register, _unregister = bpy.utils.register_classes_factory(
    (
        MUSEV_OT_render_controls,
        MUSEV_OT_render_controls_cancel,
        MUSEV_OT_render_cache_clear,
        MUSEV_PT_render,
    )
)


def register() -> None:
    _register()
    bpy.app.handlers.load_pre.append(_loading)


def unregister() -> None:
    _stop()
    bpy.app.handlers.load_pre.remove(_loading)
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    _unregister()
