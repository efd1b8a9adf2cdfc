"""Pictures kept on disk by a hash of everything they depend on, and that hash.

Nothing is taken from the cache on trust: where the hash can't tell all that a render depends on, there is no hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..clips.takes import write_whole

VERSION = 1  # of the pictures; another one is another hash
LIMIT_BYTES = 1 << 30  # of the whole folder; what was used longest ago goes first
MAGIC, HEAD = b"musev.r2", "<8s7I"
# Element type of an attribute -> the property that holds it, its kind, numbers in it. UV maps and colours aren't among
# them: overridden materials read none, and the Bevel modifier's UVs differ in their last bit from time to time.
ATTRIBUTES = {
    "FLOAT": ("value", np.float32, 1), "INT": ("value", np.int32, 1), "INT8": ("value", np.int32, 1),
    "BOOLEAN": ("value", np.bool_, 1), "FLOAT_VECTOR": ("vector", np.float32, 3),
    "QUATERNION": ("value", np.float32, 4), "INT32_2D": ("value", np.int32, 2), "INT16_2D": ("value", np.int32, 2),
    "FLOAT4X4": ("value", np.float32, 16),
}  # fmt: skip
RESOLUTIONS = ("render_resolution_u", "render_resolution_v", "render_resolution")  # of curves and metaballs
AS_MESH = ("MESH", "CURVE", "SURFACE", "FONT", "META")
WITH_ATTRIBUTES = ("CURVES", "POINTCLOUD")
UNSEEN = ("is_active", "execution_time", "show_expanded")  # properties of modifiers that no picture shows
OWN_SHAPE = (
    "BSDF_TRANSPARENT",
    "HOLDOUT",
    "VOLUME_ABSORPTION",
    "VOLUME_SCATTER",
    "PRINCIPLED_VOLUME",
)  # shader nodes
RENDERED = (*AS_MESH, *WITH_ATTRIBUTES, "VOLUME", "GPENCIL", "GREASEPENCIL")


@dataclass(frozen=True)
class Record:
    """What is kept of one frame. packed: its depths, by `DepthPacker`; normal, line: PNG files; mask: one, or empty."""

    height: int
    width: int
    packed: bytes
    normal: bytes
    line: bytes
    mask: bytes

    @property
    def depths(self) -> tuple[np.ndarray, np.ndarray]:
        """Inverse depth and coverage, (h, w) float32, as `pictures.inverse_depth` gives them."""
        rows = np.frombuffer(zlib.decompress(self.packed), "<f4").reshape(self.height, 2, self.width)
        return rows[:, 0], rows[:, 1]

    def to_bytes(self) -> bytes:
        parts = (self.packed, self.normal, self.line, self.mask)
        body = b"".join(parts)
        return struct.pack(HEAD, MAGIC, zlib.crc32(body), self.height, self.width, *map(len, parts)) + body

    @classmethod
    def from_bytes(cls, raw: bytes) -> Record | None:
        """None for anything but a whole record."""
        at = struct.calcsize(HEAD)
        if len(raw) < at:
            return None
        magic, checksum, height, width, *sizes = struct.unpack_from(HEAD, raw)
        if magic != MAGIC or len(raw) != at + sum(sizes) or zlib.crc32(raw[at:]) != checksum:
            return None
        parts = []
        for size in sizes:
            parts.append(raw[at : at + size])
            at += size
        return cls(height, width, *parts)


class DepthPacker:
    """Packs a frame's depths some rows at a time."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(1)
        self._packed: list[bytes] = []

    def add(self, inverse: np.ndarray, coverage: np.ndarray) -> None:
        """The next rows, both (rows, w) float32."""
        self._packed.append(
            self._packer.compress(np.stack([inverse, coverage], axis=1).astype("<f4").tobytes())
        )

    def finish(self) -> bytes:
        return b"".join((*self._packed, self._packer.flush()))


@dataclass(frozen=True)
class Store:
    """A folder of records by their keys."""

    folder: Path
    limit: int = LIMIT_BYTES

    def get(self, key: str) -> Record | None:
        path = self.folder / f"{key}.frame"
        try:
            raw = path.read_bytes()
        except OSError:  # not there, or another Blender has just thrown it out
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return Record.from_bytes(raw)

    def put(self, key: str, record: Record) -> None:
        """Keeps a record, and throws out the oldest beyond the limit. Raises TakeError where the disk is full."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"{key}.frame", record.to_bytes())
        files = sorted(((s.st_mtime, s.st_size, p) for p, s in self._files()), reverse=True)
        total = 0
        for _, size, path in files:
            total += size
            if total > self.limit:
                path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(stat.st_size for _, stat in self._files())

    def clear(self) -> None:
        for path, _ in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.folder.glob("*.frame*"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return found


def fingerprint(
    scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph, about: tuple, own_materials: bool
) -> str | None:
    """The hash of what the geometry's pictures depend on at the frame the depsgraph stands at, or None where that
    can't be told: `why_uncached` says why. about: what else they depend on, the camera first of all.

    Hashes the evaluated geometry itself, with the settings of modifiers, which may differ in a render. Materials have
    no say while they are overridden (not `own_materials`).
    """
    if own_materials or why_uncached(scene):
        return None
    digest = hashlib.sha1(repr((VERSION, bpy.app.version, about)).encode(), usedforsecurity=False)
    render = scene.render
    told = (
        render.pixel_aspect_x, render.pixel_aspect_y, render.use_simplify, render.simplify_subdivision_render,
        *_layers(scene.view_layers[0].layer_collection), *_settings(scene.cycles_curves),
    )  # fmt: skip
    digest.update(repr(told).encode())
    seen: dict[int, int] = {}  # address of evaluated data -> which one it was
    for instance in depsgraph.object_instances:
        thing = instance.object
        if thing.type not in RENDERED:
            continue
        flags = (
            thing.name, thing.type, thing.hide_render, instance.show_self, thing.visible_camera, thing.is_holdout,
            thing.is_shadow_catcher,
        )  # fmt: skip
        digest.update(repr(flags).encode())
        digest.update(np.array(instance.matrix_world, np.float32).tobytes())
        data = thing.data
        if thing.type not in (*AS_MESH, *WITH_ATTRIBUTES):
            continue
        in_renders = [getattr(thing.data, name, None) for name in RESOLUTIONS]
        digest.update(repr(in_renders).encode())
        digest.update(repr(_settings(thing.original.cycles)).encode())
        new = data.as_pointer() not in seen
        digest.update(seen.setdefault(data.as_pointer(), len(seen)).to_bytes(4, "little"))
        if new:
            _hash_geometry(digest, thing)
        for modifier in thing.original.modifiers:
            digest.update(repr(_settings(modifier)).encode())
    return digest.hexdigest()


def why_uncached(scene: bpy.types.Scene) -> str:
    """What in the scene renders otherwise than it is evaluated for the viewport, so that no hash can tell; "" if
    nothing does."""
    shown, rendered = set(), set()
    stack = [(scene.view_layers[0].layer_collection, True, True)]
    while stack:
        layer, seen, drawn = stack.pop()
        if layer.exclude:
            seen = drawn = False
        collection = layer.collection
        seen &= not (collection.hide_viewport or layer.hide_viewport)
        drawn &= not collection.hide_render
        if seen:
            shown.update(collection.objects)
        if drawn:
            rendered.update(thing for thing in collection.objects if not thing.hide_render)
        stack.extend((child, seen, drawn) for child in layer.children)
    inside: set = set()
    for thing in list(rendered):
        if thing.instance_type == "COLLECTION" and thing.instance_collection not in (None, *inside):
            inside.add(thing.instance_collection)
            parts = [part for part in thing.instance_collection.all_objects if not part.hide_render]
            rendered.update(parts)
            shown.update(part for part in parts if thing in shown)
    for thing in rendered:
        if thing.type not in RENDERED:
            continue
        if thing not in shown or thing.hide_viewport or thing.hide_get(view_layer=scene.view_layers[0]):
            return f"'{thing.name}' is rendered, but hidden in the viewport"
        if thing.type in ("VOLUME", "GPENCIL", "GREASEPENCIL"):
            return f"'{thing.name}' is of the kind {thing.type.title()}"
        for modifier in thing.modifiers:
            if modifier.type == "PARTICLE_SYSTEM":
                return f"'{thing.name}' has particles"
            hidden = modifier.show_render and not modifier.show_viewport
            if hidden and modifier.type not in ("SUBSURF", "MULTIRES"):
                return f"'{modifier.name}' of '{thing.name}' is off in the viewport and on in renders"
    return ""


def _layers(layer: bpy.types.LayerCollection) -> list[tuple]:
    flags = (layer.name, layer.exclude, layer.holdout, layer.indirect_only, layer.collection.hide_render)
    return [flags, *(flag for child in layer.children for flag in _layers(child))]


def _hash_geometry(digest, thing: bpy.types.Object) -> None:
    if thing.type in ("CURVE", "SURFACE", "FONT", "META"):
        mesh = thing.to_mesh()
        try:
            _hash_attributes(digest, mesh)
        finally:
            thing.to_mesh_clear()
    else:
        _hash_attributes(digest, thing.data)


def _hash_attributes(digest, data) -> None:
    for attribute in data.attributes:
        digest.update(f"{attribute.name}|{attribute.domain}|{attribute.data_type}".encode())
        if attribute.data_type in ATTRIBUTES:
            name, kind, width = ATTRIBUTES[attribute.data_type]
            numbers = np.empty(len(attribute.data) * width, kind)
            attribute.data.foreach_get(name, numbers)
            digest.update(numbers)
    if hasattr(data, "polygons"):
        starts = np.empty(len(data.polygons), np.int32)
        data.polygons.foreach_get("loop_start", starts)
        digest.update(starts)
        if data.has_custom_normals:
            normals = np.empty(len(data.loops) * 3, np.float32)
            data.corner_normals.foreach_get("vector", normals)
            digest.update(normals)
    elif hasattr(data, "curves"):
        digest.update(np.array([curve.points_length for curve in data.curves], np.int32))


def _settings(struct: bpy.types.bpy_struct) -> list:
    """Every setting of a modifier (those of geometry nodes among them) or of Cycles.

    Settings may say less or more than what is seen, so a picture may be rendered in vain, but never be a wrong one.
    """
    told = []
    for spec in struct.bl_rna.properties:
        value = getattr(struct, spec.identifier, None)
        if spec.type == "POINTER":
            told.append(getattr(value, "name_full", None))
        elif spec.type != "COLLECTION" and spec.identifier not in UNSEEN:
            told.append(tuple(value) if getattr(spec, "is_array", False) else value)
    if isinstance(struct, bpy.types.NodesModifier):
        told.extend((name, str(value)) for name, value in struct.items())
    return told


def own_materials(depsgraph: bpy.types.Depsgraph) -> bool:
    """Whether a material decides on what is seen: by transparency or by displacement. Then it isn't overridden."""
    materials = {
        slot.material for instance in depsgraph.object_instances for slot in instance.object.material_slots
        if slot.material is not None
    }  # fmt: skip
    return any(_shapes(material) for material in materials)


def _shapes(material: bpy.types.Material) -> bool:
    tree = material.node_tree
    if tree is None:
        return False
    stack, seen = [tree], set()
    while stack:
        tree = stack.pop()
        if tree is None or tree.name_full in seen:
            continue
        seen.add(tree.name_full)
        for node in tree.nodes:
            if node.type in OWN_SHAPE:
                return True
            if node.type == "GROUP":
                stack.append(node.node_tree)
            alpha = node.inputs.get("Alpha") if node.type == "BSDF_PRINCIPLED" else None
            if alpha is not None and (alpha.is_linked or alpha.default_value < 1):
                return True
            if node.type == "OUTPUT_MATERIAL" and node.inputs["Displacement"].is_linked:
                return material.cycles.displacement_method != "BUMP" if hasattr(material, "cycles") else True
    return False
