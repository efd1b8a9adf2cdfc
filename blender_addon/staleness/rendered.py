"""What a take keeps of the scene that depth, normals, line art, masks or a plain render were rendered from.

In `take.json` among its origins, under `KEY`:

    scene, camera   their names; camera null: the scene's own
    people          the armatures of the mask's characters; null for no mask
    keys            how everything that is rendered is keyed, as `motion.Motion` tells it, whichever object it is
    shapes          8 hexadecimal digits for each object that is rendered or moves one, in order: how it is set up at
                    the first generated frame. Its name and its materials count for nothing
    view            the same of the camera, and of the size of the picture; view_keys: how the camera is keyed
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import bpy
import numpy as np

from ..protocol import ClipRequest
from ..render.cache import RENDERED
from ..render.passes import RenderCapture
from ..render.stage import render_layer
from . import motion, origins
from .facts import Facts, Keyed
from .motion import Block

KEY = "rendered"
WHOLE_MESH = 60_000  # vertices of a mesh that is summed up whole; of a larger one, SAMPLED
SAMPLED = 300
SLICE_S = 0.002
PLACED = (
    "location", "scale", "delta_location", "delta_scale", "parent_type", "parent_bone", "matrix_parent_inverse",
    "instance_type",
)  # fmt: skip
ROTATIONS = {
    "QUATERNION": ("rotation_quaternion", "delta_rotation_quaternion"), "AXIS_ANGLE": ("rotation_axis_angle",),
}  # fmt: skip
EULER = ("rotation_euler", "delta_rotation_euler")
OF_CURVES = (
    "dimensions",
    "extrude",
    "offset",
    "bevel_depth",
    "bevel_resolution",
    "resolution_u",
    "use_fill_caps",
)
OF_TEXTS = ("body", "size", "shear", "align_x", "align_y", "space_character", "space_line", "space_word")
OF_LENSES = (
    "type", "lens", "ortho_scale", "shift_x", "shift_y", "sensor_fit", "sensor_width", "sensor_height", "clip_start",
    "clip_end",
)  # fmt: skip
Sliced = Generator[None, None, "Sums"]  # stops where others may have the main thread


class Sums(NamedTuple):
    """keys, view_keys: told by frame; shapes: of each object, by its name and the path of its library."""

    keys: str
    shapes: dict[tuple[str, str], str]
    view: str
    view_keys: str

    @property
    def told(self) -> dict[str, str]:
        shapes = "".join(sorted(self.shapes.values()))
        return {"keys": self.keys, "shapes": shapes, "view": self.view, "view_keys": self.view_keys}


@dataclass
class Known:
    """What needs no second reading: sums of meshes and of keys. touched: how often a mesh was edited, by its name;
    doubts: grows where anything may be otherwise."""

    touched: dict[str, int] = field(default_factory=dict)
    doubts: int = 0
    meshes: dict[tuple, int] = field(default_factory=dict)
    keys: dict[tuple, str] = field(default_factory=dict)


def sums(scene: str, camera: str | None, times: Sequence[float], known: Known, keys: int = 0) -> Sliced:
    """Sums up a scene, by its name, as it is now. camera: as in `RenderCapture`. keys: grows with edits of keys."""
    world = bpy.data.scenes.get(scene)
    if world is None:
        return Sums("", {}, "", "")
    waiting = [(name, False) for name in _shown(world)]
    del world
    seen, blocks, playing, shapes = set(), [], [], {}
    while waiting:
        yield
        name, moves_another = waiting.pop()
        if name in seen or (read := _read(name, moves_another, times[0], known)) is None:
            continue
        seen.add(name)
        shapes[name], own, others = read
        blocks += own
        playing += motion.assigned(own)
        waiting += others
    yield
    key = (keys, known.doubts, frozenset(blocks), frozenset(playing), tuple(times))
    told = yield from _keys(key, motion.Motion(blocks, times, by_kind=True), known)
    view, view_keys = "", ""
    if (world := bpy.data.scenes.get(scene)) is not None:
        seen_by = origins.camera_blocks(world, camera)
        summed = motion.Motion(seen_by, times)
        origins.add_switches(summed, world, camera)
        view = f"{_view(world, camera, seen_by, times[0]):08x}"
        key = (keys, known.doubts, seen_by, motion.assigned(seen_by), summed.told(), tuple(times))
        del world
        view_keys = yield from _keys(key, summed, known)
    return Sums(told, shapes, view, view_keys)


def _read(
    name: tuple[str, str], moves_another: bool, moment: float, known: Known
) -> tuple[str, list[Block], list[tuple[tuple[str, str], bool]]] | None:
    """Of an object its shape, what is keyed, and whom to read besides, each with whether it moves another; None for one
    that has gone, or is never rendered and moves nothing."""
    thing = bpy.data.objects.get((name[0], name[1] or None))
    if thing is None:
        return None
    keyed = Keyed(thing)
    if thing.hide_render and not moves_another and keyed.by("hide_render", 0) is None:
        return None
    blocks = [block for block in motion.blocks_of(thing) if block.find().animation_data is not None]
    looks = (*motion.hangs_on(thing), *_shaped_by(thing))
    others = [(_name(other), True) for other in looks if isinstance(other, bpy.types.Object)]
    if thing.instance_type == "COLLECTION" and thing.instance_collection is not None:
        others += [(_name(part), False) for part in thing.instance_collection.all_objects]
    return f"{_shape(thing, keyed, moment, known):08x}", blocks, others


def _keys(key: tuple, summed: motion.Motion, known: Known) -> Generator[None, None, str]:
    if key not in known.keys:
        while not summed.advance(time.perf_counter() + SLICE_S):
            yield
        if len(known.keys) > 32:
            known.keys.clear()
        known.keys[key] = summed.told()
    return known.keys[key]


def _name(thing: bpy.types.Object) -> tuple[str, str]:
    return thing.name, thing.library.filepath if thing.library else ""


def _shown(world: bpy.types.Scene) -> list[tuple[str, str]]:
    """The objects that may be rendered: of some kind that shows, in a collection that does."""
    found, stack = [], [world.view_layers[render_layer(world)].layer_collection]
    while stack:
        layer = stack.pop()
        if layer.exclude or layer.collection.hide_render:
            continue
        found += [
            _name(thing) for thing in layer.collection.objects
            if thing.type in RENDERED or thing.instance_type == "COLLECTION"
        ]  # fmt: skip
        stack += layer.children
    return found


def _shaped_by(thing: bpy.types.Object) -> list[bpy.types.Object | None]:
    """What its modifiers look at: the armature that bends it, a curve that it runs along."""
    return [
        getattr(modifier, spec.identifier)
        for modifier in thing.modifiers
        for spec in modifier.bl_rna.properties
        if spec.type == "POINTER" and spec.fixed_type.identifier == "Object"
    ]


def _shape(thing: bpy.types.Object, keyed: Keyed, moment: float, known: Known) -> int:
    """How an object is set up at a frame."""
    facts = Facts()
    _place(facts, thing, keyed)
    facts.add_of(thing, ["hide_render"], keyed)
    for modifier in thing.modifiers:
        facts.add(modifier.type)
        facts.add_all(modifier, keyed, modifier.path_from_id())
        if modifier.type == "NODES":
            facts.add(
                *(value for _, value in modifier.items() if isinstance(value, str | bool | int | float))
            )
    data = thing.data
    if thing.type == "MESH":
        facts.add(_mesh(data, known))
        if data.shape_keys is not None:
            moved = Keyed(data.shape_keys)
            for block in data.shape_keys.key_blocks:
                facts.add_of(block, ("value", "mute"), moved, block.path_from_id())
    elif thing.type in ("CURVE", "SURFACE", "FONT"):
        moved = Keyed(data)
        facts.add_of(data, OF_CURVES if thing.type != "FONT" else (*OF_CURVES[1:], *OF_TEXTS), moved)
        for spline in data.splines if thing.type != "FONT" else ():
            facts.add(_points(spline.bezier_points or spline.points))
    elif thing.type == "META":
        facts.add(data.threshold, *(number for ball in data.elements for number in (*ball.co, ball.radius)))
    return facts.at(moment)


def _place(facts: Facts, thing: bpy.types.Object, keyed: Keyed) -> None:
    facts.add(thing.type, thing.rotation_mode)
    facts.add_of(thing, (*PLACED, *ROTATIONS.get(thing.rotation_mode, EULER)), keyed)
    for constraint in thing.constraints:
        facts.add(constraint.type, constraint.mute)
        facts.add_of(constraint, ["influence"], keyed, constraint.path_from_id())


def _mesh(mesh: bpy.types.Mesh, known: Known) -> int:
    """Where its vertices lie; of a large mesh some of them."""
    count = len(mesh.vertices)
    key = (mesh.name_full, known.touched.get(mesh.name_full, 0), known.doubts, count, len(mesh.polygons))
    if key not in known.meshes:
        if len(known.meshes) > 4096:
            known.meshes.clear()
        if count > WHOLE_MESH:
            places = np.array([mesh.vertices[i].co[:] for i in range(0, count, count // SAMPLED)], np.float32)
        else:
            places = np.empty(3 * count, np.float32)
            mesh.vertices.foreach_get("co", places)
        known.meshes[key] = zlib.crc32(
            f"{count} {len(mesh.edges)} {len(mesh.polygons)}".encode(), zlib.crc32(places)
        )
    return known.meshes[key]


def _points(points: Sequence) -> int:
    places = np.empty(len(points) * len(points[0].co) if len(points) else 0, np.float32)
    points.foreach_get("co", places)
    return zlib.crc32(places)


def _view(world: bpy.types.Scene, camera: str | None, seen_by: Iterable[Block], moment: float) -> int:
    """How the camera is set up at a frame, and which part of its picture a clip shows."""
    facts, render = Facts(), world.render
    for block in seen_by:
        thing = block.find()
        if block.collection == "objects":
            _place(facts, thing, Keyed(thing))
        elif block.collection == "cameras":
            facts.add_of(thing, OF_LENSES, Keyed(thing))
    size = render.resolution_percentage / 100
    facts.add(round(render.resolution_x * size), round(render.resolution_y * size))
    facts.add(render.pixel_aspect_x, render.pixel_aspect_y)
    if render.use_border and render.use_crop_to_border:
        facts.add(render.border_min_x, render.border_max_x, render.border_min_y, render.border_max_y)
    return facts.at(moment)


@dataclass
class RenderedCapture:
    """A `captures.Capture` that only looks on: it notes in `about` how the scene was that `render`, read just before,
    was rendered from."""

    about: dict
    render: RenderCapture
    _work: Sliced | None = None
    _sums: Sums | None = None

    phase = "reading the scene"
    done = 0
    total = 1

    def advance(self, deadline: float) -> bool:
        if self._work is None:
            self._work = sums(self.render.scene, self.render.camera, self.render.times, Known())
        while self._sums is None and time.perf_counter() < deadline:
            try:
                next(self._work)
            except StopIteration as end:
                self._sums = end.value
        return self._sums is not None

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        people = self.render.wanted.people
        told = {
            "scene": self.render.scene, "camera": self.render.camera,
            "people": None if people is None else list(people),
        }  # fmt: skip
        noted = self.about.get(origins.KEY, {})
        self.about[origins.KEY] = noted | {"system": origins.system(), KEY: told | self._sums.told}
        return request, {}

    def cancel(self) -> None:
        """Nothing was changed."""
