"""The artist's scene set up to be rendered for a clip, in a copy of it (`scene_copy`), while theirs stays as it is.

The copy shares the objects and has settings, view layers and dependency graph of its own. Its camera is one of our own,
set at every frame so that it sees what the clip shows of the artist's picture (`rig.camera.cut`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np

from ..captures import CaptureError
from ..footage.scene_copy import MARK, SceneCopy
from ..rig.camera import cut, find_camera, picture_matrix
from ..translations import tr


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
    _copy: SceneCopy = field(init=False)

    def __post_init__(self) -> None:
        self._copy = SceneCopy(self.scene, self._set_up)

    def _set_up(self, copy: bpy.types.Scene, _: SceneCopy) -> None:
        if copy.sequence_editor is not None:
            copy.sequence_editor_clear()
        copy.timeline_markers.clear()  # they would switch the camera
        data = self.mark(bpy.data.cameras.new("MuseV camera"))
        camera = self.mark(bpy.data.objects.new("MuseV camera", data))
        copy.collection.objects.link(camera)
        copy.camera = camera
        self.setup(copy, self)

    def mark(self, block: bpy.types.ID) -> bpy.types.ID:
        """Has a data-block of ours removed with the copy."""
        return self._copy.mark(block)

    @property
    def disturbed(self) -> bool:
        """Whether an undo came between, so that what was rendered last is to be rendered again."""
        return self._copy.disturbed

    def material(self) -> bpy.types.Material:
        """The stage's own material for everything, so that no texture is read and no shader is compiled."""
        found = next((each for each in bpy.data.materials if each.get(MARK) == self._copy.token), None)
        return found or self.mark(bpy.data.materials.new("MuseV clay"))

    def at(self, moment: float) -> tuple[bpy.types.Scene, bpy.types.Depsgraph]:
        """The copy at a frame of the timeline (between two as well), and its evaluated dependency graph."""
        scene = bpy.data.scenes.get(self.scene)
        if scene is None:
            raise RenderError(
                tr("Scene '{scene}' is no longer in this file; generate again.", scene=self.scene)
            )
        copy = self._copy.get()
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
        ours = next(thing for thing in copy.collection.objects if thing.get(MARK) == self._copy.token)
        whole = _look(ours, evaluated, scene.render, self.width, self.height)
        # Theirs is animated, and so is blurred as it moves; ours can only see another part.
        blurred = copy.render.use_motion_blur
        copy.camera = camera if whole and blurred else ours
        if not whole:
            copy.render.use_motion_blur = False
        return copy, depsgraph

    def render(self, path: Path) -> bool:
        """Renders the frame that the copy stands at to a file. True: it is there; False: it comes from Blender's
        render job, while the artist works on. Raises CaptureError."""
        return self._copy.render(path)

    def remove(self) -> None:
        """Takes the copy away, now or once a render that still uses it has ended."""
        self._copy.remove()


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
