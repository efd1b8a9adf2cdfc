"""Face points that a mesh gives: those of its vertex groups that are called as the points are.

A point is the weighted mean of its group's vertices in the evaluated mesh, so shape keys, drivers, the armature and
every other modifier move it. Groups are asked for by name and vertices looked up once a reading; a frame then costs
one bulk read of the mesh's coordinates. Rigs without such groups cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import bpy
import numpy as np

from ..translations import tr
from .skeleton import FACE, INDEX

PREFIX = "musev_"  # may stand before a group's name; it must where a bone of the rig has the same one
HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
POINTS: tuple[str, ...] = (*FACE, *HEAD)
# One place, two points: whichever has no group and no bone of its own is where the other is.
TWINS = {"nose": "nose_bridge_4", "left_eye": "left_pupil", "right_eye": "right_pupil"}
TWINS |= {twin: point for point, twin in TWINS.items()}
KEEP_S = 1.0  # for which `told` takes a rig's groups to be as they were: the panel asks at every redraw


@dataclass(frozen=True)
class FaceMesh:
    """A mesh that gives points, by names alone. library: the file it is linked from, '' for this one; groups: the
    vertex group of every point; places: (3,) of every point in the armature at rest; found: by how many vertices a mesh
    has, which of them the groups have, so that they are looked up once for all readings."""

    mesh: str
    library: str
    groups: dict[str, str]
    places: dict[str, np.ndarray] = field(compare=False)
    found: dict[int, Weights] = field(compare=False, repr=False)


def groups_of(mesh: bpy.types.Object, armature: bpy.types.Object) -> dict[str, str]:
    """The mesh's groups that are called as a point is, point -> group. A name that a bone of the armature has too is
    its skin, and no point, unless it has the prefix."""
    groups, bones = mesh.vertex_groups, armature.data.bones
    found = {point: point for point in POINTS if point in groups and point not in bones}
    return found | {point: PREFIX + point for point in POINTS if PREFIX + point in groups}


def deformed(armature: bpy.types.Object) -> list[bpy.types.Object]:
    """The meshes that the armature deforms, and that are not disabled in viewports, by name."""
    meshes = [item for item in bpy.data.objects if item.type == "MESH" and item.vertex_groups]
    bound = [item for item in meshes if not item.hide_viewport and _is_bound(item, armature)]
    return sorted(bound, key=lambda item: item.name)


def _is_bound(item: bpy.types.Object, armature: bpy.types.Object) -> bool:
    if item.parent == armature and item.parent_type == "ARMATURE":
        return True
    return any(each.type == "ARMATURE" and each.object == armature for each in item.modifiers)


def find(
    armature: bpy.types.Object, bones: Container[str] = (), by_hand: Container[str] = ()
) -> list[FaceMesh]:
    """The meshes that give points of an armature's face, each point by one mesh. bones: the points that a bone gives;
    by_hand: those that were set by hand, which stay so. A group without vertices gives none."""
    found: list[FaceMesh] = []
    taken: set[str] = set()
    for item in deformed(armature):
        groups = {
            point: group
            for point, group in groups_of(item, armature).items()
            if point not in by_hand and point not in taken
        }
        if not groups:
            continue
        weights = Weights(item, item.data, tuple(groups.values()))
        places = weights.means(item.data)
        groups = {
            point: group for (point, group), place in zip(groups.items(), places, strict=True) if place[3]
        }
        to_armature = np.array(armature.matrix_world.inverted_safe() @ item.matrix_world)
        at = dict(zip(weights.groups, places @ to_armature.T, strict=True))
        for point, group in tuple(groups.items()):
            twin = TWINS.get(point)
            if twin and not (twin in bones or twin in by_hand or twin in taken):
                groups.setdefault(twin, group)
        if groups:
            taken |= groups.keys()
            library = item.library.filepath if item.library else ""
            where = {point: at[group][:3] for point, group in groups.items()}
            found.append(FaceMesh(item.name, library, groups, where, {weights.count: weights}))
    return found


class Weights:
    """Which vertices of a mesh its groups have, and how much of each."""

    def __init__(self, item: bpy.types.Object, mesh: bpy.types.Mesh, groups: Sequence[str]) -> None:
        self.groups, self.count = tuple(groups), len(mesh.vertices)
        there = {
            item.vertex_groups[name].index: row
            for row, name in enumerate(groups)
            if name in item.vertex_groups
        }
        entries = sorted(
            (there[each.group], vertex.index, each.weight)
            for vertex in mesh.vertices
            for each in vertex.groups
            if each.group in there and each.weight > 0
        )
        table = np.array(entries, np.float64).reshape(-1, 3)
        self.vertices = table[:, 1].astype(int)
        self.rows, self.starts = np.unique(table[:, 0].astype(int), return_index=True)
        self.shares = table[:, 2:].astype(np.float32)
        if len(entries):
            sums = np.add.reduceat(table[:, 2], self.starts)
            self.shares /= np.repeat(sums, np.diff([*self.starts, len(entries)]))[:, None].astype(np.float32)

    def means(self, mesh: bpy.types.Mesh) -> np.ndarray:
        """(groups, 4) float32: the mean of each group's vertices in the mesh's space and 1, all 0 where it has none."""
        means = np.zeros((len(self.groups), 4), np.float32)
        if len(self.vertices):
            raw = np.empty(self.count * 3, np.float32)
            mesh.attributes["position"].data.foreach_get("vector", raw)
            means[self.rows, :3] = np.add.reduceat(
                raw.reshape(-1, 3)[self.vertices] * self.shares, self.starts
            )
            means[self.rows, 3] = 1.0
        return means


class Reader:
    """Reads a FaceMesh frame by frame. Holds no Blender reference."""

    def __init__(self, face: FaceMesh) -> None:
        self.face = face
        self.rows = np.array([INDEX[point] for point in face.groups])
        self.names = next(iter(face.found.values())).groups
        self.columns = np.array([self.names.index(group) for group in face.groups.values()])

    def read(self, depsgraph: bpy.types.Depsgraph, posed: bpy.types.Object) -> np.ndarray:
        """(points, 4) float32 in the space of the evaluated armature `posed`, and 1; all 0 for a point that the mesh
        does not give now: it is not there, is hidden, or its modifiers have left no vertex of the group."""
        nothing = np.zeros((len(self.rows), 4), np.float32)
        item = bpy.data.objects.get((self.face.mesh, self.face.library or None))
        if item is None or not _is_shown(item, depsgraph):
            return nothing
        shown = item.evaluated_get(depsgraph)
        mesh = shown.data
        # Modifiers may add and take vertices, and not the same ones in every frame.
        weights = self.face.found.get(len(mesh.vertices))
        if weights is None:
            weights = self.face.found[len(mesh.vertices)] = Weights(shown, mesh, self.names)
        to_armature = np.array(posed.matrix_world.inverted_safe() @ shown.matrix_world, np.float32)
        return (weights.means(mesh) @ to_armature.T)[self.columns]


def _is_shown(item: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> bool:
    """Whether the depsgraph evaluates the mesh: itself, or what an instance of it shows. Others' modifiers stand
    still."""
    if item.visible_get(view_layer=depsgraph.view_layer):
        return True
    return any(copy.is_instance and copy.object.original == item for copy in depsgraph.object_instances)


_told: dict[tuple, tuple[float, dict[str, int]]] = {}


def told(armature: bpy.types.Object) -> dict[str, int]:
    """How many points of the face each mesh gives, by the mesh's name; looked up again once in a while."""
    key, now = (armature.name_full, armature.as_pointer()), time.monotonic()
    until, counts = _told.get(key, (0.0, {}))
    if now >= until:
        counts = {face.mesh: sum(point in FACE for point in face.groups) for face in find(armature)}
        _told.clear()
        _told[key] = now + KEEP_S, counts
    return counts


class MUSEV_OT_character_face_groups(bpy.types.Operator):
    bl_idname = "musev.character_face_groups"
    bl_label = "Add Face Groups"
    bl_description = (
        "Give the active mesh an empty vertex group for every point of the face. Assign vertices to those that you "
        "know, in Edit Mode: the clip then follows them; groups left empty count for nothing"
    )
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        item = context.active_object
        if item is None or item.type != "MESH" or item.library is not None:
            cls.poll_message_set(tr("The active object is not a mesh of this file; choose the head's mesh"))
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        item = context.active_object
        armature = item.find_armature()
        there = groups_of(item, armature) if armature else {}
        missing = [point for point in FACE if point not in there and PREFIX + point not in item.vertex_groups]
        before = item.vertex_groups.active_index
        for point in missing:
            item.vertex_groups.new(name=PREFIX + point)
        item.vertex_groups.active_index = max(before, 0)
        said = tr("{count} groups added to '{mesh}'", count=len(missing), mesh=item.name)
        if armature is None:
            said += tr(
                "; no armature deforms it yet: give it an Armature modifier, or they count for nothing"
            )
        self.report({"INFO"}, said)
        return {"FINISHED"}
