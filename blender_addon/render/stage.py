"""A copy of the artist's scene to render from: set up for us, while their own stays as it is.

The copy shares the objects and has settings, view layer and dependency graph of its own, so neither rendering nor
stepping through its frames touches theirs. It is marked, and removed after use; what undo or a saved file brings back
of it is swept away. Its camera is one of our own, set at every frame so that it sees what the clip shows of the
artist's picture (`rig.camera.cut`).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np

from ..captures import CaptureError
from ..rig.camera import cut, find_camera, picture_matrix

MARK = "musev_stage"  # custom property of every data-block that is ours
BLOCKS = ("scenes", "objects", "cameras", "materials", "node_groups")
_live: set[str] = set()


class RenderError(CaptureError):
    """The scene can't be rendered for a clip: what was looked for, where, and what to do about it."""


@dataclass
class Stage:
    """scene, camera: names; camera None: the scene's own, which its markers switch. width, height: of the clip.

    setup: gives the copy its settings; called whenever the copy has to be made anew. After `at`: picture, the
    `rig.camera.picture_matrix` of the frame; to_camera: (3, 3), from the world's axes to the camera's; orthographic:
    whether it is; clip_distances: in metres.
    """

    scene: str
    camera: str | None
    width: int
    height: int
    setup: Callable[[bpy.types.Scene, Stage], None]
    picture: np.ndarray | None = None
    to_camera: np.ndarray | None = None
    orthographic: bool = False
    clip_distances: tuple[float, float] = (0.0, 0.0)
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    _had_result: bool = True

    def copy(self) -> bpy.types.Scene:
        """The copy; made where there is none (yet, or since an undo). Raises RenderError."""
        found = next((scene for scene in bpy.data.scenes if scene.get(MARK) == self.token), None)
        if found is not None:
            return found
        scene = self._original()
        find_camera(scene, self.camera)
        self._had_result = _render_result() is not None
        _live.add(self.token)
        copy = scene.copy()
        self.mark(copy).name = f"MuseV {scene.name}"
        if copy.sequence_editor is not None:
            copy.sequence_editor_clear()
        copy.timeline_markers.clear()  # they would switch the camera
        camera = self.mark(
            bpy.data.objects.new("MuseV camera", self.mark(bpy.data.cameras.new("MuseV camera")))
        )
        copy.collection.objects.link(camera)
        copy.camera = camera
        self.setup(copy, self)
        return copy

    def mark(self, block: bpy.types.ID) -> bpy.types.ID:
        """Has a data-block of ours removed with the copy."""
        block[MARK] = self.token
        return block

    def at(self, moment: float) -> tuple[bpy.types.Scene, bpy.types.Depsgraph]:
        """The copy at a frame of the timeline (between two as well), and its evaluated dependency graph."""
        copy, scene = self.copy(), self._original()
        frame, part = divmod(moment, 1)
        copy.frame_set(int(frame), subframe=part)
        depsgraph = copy.view_layers[0].depsgraph
        name = self.camera or _switched_camera(scene, int(frame))
        self.picture = picture_matrix(scene, depsgraph, name, self.width, self.height)
        camera = find_camera(scene, name)
        evaluated = camera.evaluated_get(depsgraph)
        self.to_camera = np.array(evaluated.matrix_world.normalized().to_3x3()).T
        self.orthographic = evaluated.data.type == "ORTHO"
        self.clip_distances = evaluated.data.clip_start, evaluated.data.clip_end
        ours = next(thing for thing in copy.collection.objects if thing.get(MARK) == self.token)
        whole = _look(ours, evaluated, scene.render, self.width, self.height)
        # Theirs is animated, and so is blurred as it moves; ours can only see another part.
        blurred = copy.render.use_motion_blur
        copy.camera = camera if whole and blurred else ours
        if not whole:
            copy.render.use_motion_blur = False
        return copy, depsgraph

    def _original(self) -> bpy.types.Scene:
        scene = bpy.data.scenes.get(self.scene)
        if scene is None:
            raise RenderError(f"Scene '{self.scene}' is no longer in this file; generate again.")
        return scene

    def render(self, path: Path) -> bool:
        """Renders the frame that the copy stands at to a file. True: it is there; False: it comes from Blender's
        render job, while the artist works on. Raises RenderError.
        """
        copy = self.copy()
        copy.render.filepath = str(path)
        path.unlink(missing_ok=True)
        wait = not bpy.app.background and len(bpy.context.window_manager.windows) > 0
        try:
            if wait:
                window = bpy.context.window_manager.windows[0]
                with _no_render_window(), bpy.context.temp_override(window=window, scene=copy):
                    bpy.ops.render.render("INVOKE_DEFAULT", write_still=True)
            else:
                # Not by the operator's own `scene`, which would render it at the frame that the artist's stands at.
                with bpy.context.temp_override(scene=copy):
                    bpy.ops.render.render(write_still=True)
        except RuntimeError as error:  # what Blender reports: no camera, no memory, …
            raise RenderError(
                f"Blender could not render scene '{self.scene}' ({str(error).strip()}); render a frame of it "
                "yourself to see why."
            ) from None
        return not wait

    def remove(self) -> None:
        """Takes the copy away, now or once a render that still uses it has ended."""
        _live.discard(self.token)
        if bpy.app.is_job_running("RENDER"):
            bpy.app.timers.register(_later, first_interval=0.2)
            return
        sweep()
        result = _render_result()
        if not self._had_result and result is not None and result.users <= 1:  # shown nowhere
            bpy.data.images.remove(result)


def sweep() -> None:
    """Removes every data-block that a stage has left behind."""
    for kind in BLOCKS:
        blocks = getattr(bpy.data, kind)
        for block in [block for block in blocks if block.get(MARK, "") not in ("", *_live)]:
            blocks.remove(block)


def render_layer(scene: bpy.types.Scene) -> str:
    """The view layer that is rendered: the first that is switched on."""
    return next((layer.name for layer in scene.view_layers if layer.use), scene.view_layers[0].name)


def _switched_camera(scene: bpy.types.Scene, frame: int) -> str | None:
    """The camera that the scene's markers switch to at a frame; None where no marker does."""
    markers = sorted(
        (marker for marker in scene.timeline_markers if marker.camera and not marker.camera.hide_render),
        key=lambda marker: marker.frame,
    )
    before = [marker for marker in markers if marker.frame <= frame]
    chosen = before[-1:] or markers[:1]
    return chosen[0].camera.name if chosen else None


def _look(
    ours: bpy.types.Object,
    theirs: bpy.types.Object,
    render: bpy.types.RenderSettings,
    width: int,
    height: int,
) -> bool:
    """Makes our camera see what a width x height clip shows of their picture. True: that is all of it.

    Blender's view plane is sensor / lens (or the orthographic scale) wide along the side that the sensor fits, and is
    shifted by shares of that side.
    """
    part, lens, mine = cut(render, width, height), theirs.data, ours.data
    columns, rows = part.full
    tall = render.pixel_aspect_y / render.pixel_aspect_x
    if (fit := lens.sensor_fit) == "AUTO":
        fit = "HORIZONTAL" if columns >= rows * tall else "VERTICAL"
    side = columns if fit == "HORIZONTAL" else rows * tall  # in pixel widths
    sensor = lens.sensor_height if lens.sensor_fit == "VERTICAL" else lens.sensor_width
    shown = width * part.scale
    right = part.left + shown / 2 - columns / 2
    up = rows / 2 - part.top - height * part.scale / 2
    ours.matrix_world = theirs.matrix_world.normalized()
    mine.type, mine.sensor_fit, mine.sensor_width = lens.type, "HORIZONTAL", sensor
    mine.lens, mine.ortho_scale = lens.lens * side / shown, lens.ortho_scale * shown / side
    mine.shift_x = (right + lens.shift_x * side) / shown
    mine.shift_y = (up * tall + lens.shift_y * side) / shown
    mine.clip_start, mine.clip_end = lens.clip_start, lens.clip_end
    mine.dof.use_dof = lens.dof.use_dof
    mine.dof.aperture_fstop = lens.dof.aperture_fstop * mine.lens / lens.lens  # the lens stays as wide
    mine.dof.focus_object = lens.dof.focus_object.original if lens.dof.focus_object else None
    mine.dof.focus_distance = lens.dof.focus_distance
    mine.dof.aperture_blades, mine.dof.aperture_ratio = lens.dof.aperture_blades, lens.dof.aperture_ratio
    mine.dof.aperture_rotation = lens.dof.aperture_rotation
    return abs(shown - columns) < 0.5 and abs(height * part.scale - rows) < 0.5


def _render_result() -> bpy.types.Image | None:
    return next((image for image in bpy.data.images if image.type == "RENDER_RESULT"), None)


def _later() -> float | None:
    if bpy.app.is_job_running("RENDER"):
        return 0.2
    sweep()
    return None


@contextlib.contextmanager
def _no_render_window() -> Iterator[None]:
    """Blender opens no window or editor for the render while this lasts."""
    preferences = bpy.context.preferences
    before, dirty = preferences.view.render_display_type, preferences.is_dirty
    preferences.view.render_display_type = "NONE"
    try:
        yield
    finally:
        preferences.view.render_display_type = before
        preferences.is_dirty = dirty


@bpy.app.handlers.persistent
def _swept(*_) -> None:
    if not bpy.app.is_job_running("RENDER"):
        sweep()


@bpy.app.handlers.persistent
def _before_saving(*_) -> None:
    """A saved file holds nothing of ours; a stage in use makes itself anew."""
    if not bpy.app.is_job_running("RENDER"):
        live = set(_live)
        _live.clear()
        sweep()
        _live.update(live)


def register() -> None:
    bpy.app.handlers.load_post.append(_swept)
    bpy.app.handlers.undo_post.append(_swept)
    bpy.app.handlers.redo_post.append(_swept)
    bpy.app.handlers.save_pre.append(_before_saving)


def unregister() -> None:
    bpy.app.handlers.save_pre.remove(_before_saving)
    bpy.app.handlers.redo_post.remove(_swept)
    bpy.app.handlers.undo_post.remove(_swept)
    bpy.app.handlers.load_post.remove(_swept)
    if bpy.app.timers.is_registered(_later):
        bpy.app.timers.unregister(_later)
    if not bpy.app.is_job_running("RENDER"):
        _live.clear()
        sweep()
