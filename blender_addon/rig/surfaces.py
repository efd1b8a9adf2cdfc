"""What a render shows of a scene, as rays meet it: every mesh where it stands, and whose body it is.

Objects count as a render shows them, which is not always as the viewport does. `occlusion` asks; this knows Blender's
objects, visibilities and materials, and nothing of points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import bpy
import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree

from .camera import find_camera, picture_matrix, project
from .people import Person, evaluated_armature, placements

# What binds an object to another, which then moves or shapes it.
BINDING_MODIFIERS = {
    "ARMATURE": "object", "LATTICE": "object", "MESH_DEFORM": "object",
    "SURFACE_DEFORM": "target", "SHRINKWRAP": "target",
}  # fmt: skip
BINDING_CONSTRAINTS = {"CHILD_OF", "COPY_TRANSFORMS"}
SOLID = {"MESH", "CURVE", "SURFACE", "FONT", "META"}

Cast = Callable[[Vector, Vector, float], tuple]


@dataclass
class Surfaces:
    """What is known of the objects of a scene, by name, while one reading of it goes on."""

    # The armatures whose body an object is.
    _owners: dict[tuple, set] = field(default_factory=dict, repr=False)
    _rendered: dict[tuple, str] | None = field(default=None, repr=False)  # with their types
    _unseen: dict[tuple, BVHTree | None] = field(default_factory=dict, repr=False)

    def met(
        self, depsgraph: bpy.types.Depsgraph, people: Sequence[Person]
    ) -> Iterator[tuple[set[int], Surface]]:
        """Everything that a render shows and a ray can meet, with the numbers of the people whose body it is."""
        if self._rendered is None:
            shown = _rendered(depsgraph.view_layer.layer_collection)
            self._rendered = {_key(item): item.type for item in shown}
        armatures = [_key(evaluated_armature(depsgraph, person)) for person in people]
        moved = [
            np.array(placed @ evaluated_armature(depsgraph, person).matrix_world.inverted_safe())
            if placed is not None
            else np.eye(4)
            for person, placed in zip(people, placements(depsgraph, people), strict=True)
        ]
        evaluated = set()
        for copy in depsgraph.object_instances:
            item = copy.object
            if item.type not in SOLID:
                continue
            if not copy.is_instance:
                evaluated.add(_key(item))
            source = copy.parent if copy.is_instance else item
            if (
                not copy.show_self
                or not _shows(item)
                or _key(source) not in self._rendered
                or source.hide_render
            ):
                continue
            if _key(item) not in self._owners:
                self._owners[_key(item)] = _armatures_of(item)
            owners = set()
            for number, armature in enumerate(armatures):
                if armature in self._owners[_key(item)]:
                    itself = item.original.evaluated_get(depsgraph)  # where it stands, were it no copy
                    offset = copy.matrix_world @ itself.matrix_world.inverted_safe()
                    if np.allclose(offset, moved[number], atol=1e-4):
                        owners.add(number)
            if surface := Surface.of(item, np.array(copy.matrix_world)):
                yield owners, surface
        # What is hidden in the viewport alone; but no body, of which only the rest pose is known then.
        for name, library in {key for key, kind in self._rendered.items() if kind == "MESH"} - evaluated:
            item = bpy.data.objects.get((name, library or None))
            if item is None or not _shows(item) or item.visible_get(view_layer=depsgraph.view_layer):
                continue
            if (name, library) not in self._unseen:
                self._unseen[name, library] = None if _armatures_of(item) else _tree(item.data)
            tree = self._unseen[name, library]
            if tree and (surface := Surface.of(item, np.array(item.matrix_world), tree)):
                yield set(), surface


@dataclass(frozen=True)
class Rays:
    """From points towards the camera, up to where it begins to see. person, point: (n,) int; start, end: (n, 3)
    float64 in the world; length: (n,)."""

    person: np.ndarray
    point: np.ndarray
    start: np.ndarray
    end: np.ndarray
    length: np.ndarray

    @classmethod
    def to_camera(
        cls, scene, depsgraph, points: np.ndarray, camera: str | None, width: int, height: int
    ) -> Rays:
        """Those of the points that lie in the picture, and farther off than the camera's near clipping."""
        found = find_camera(scene, camera).evaluated_get(depsgraph)
        place = np.array(found.matrix_world.normalized())
        seen = project(points, picture_matrix(scene, depsgraph, camera, width, height))
        depth = (points[..., :3] - place[:3, 3]) @ -place[:3, 2]
        near = found.data.clip_start
        inside = (seen[..., 2] > 0) & (depth > near)
        inside &= ((seen[..., :2] >= 0) & (seen[..., :2] <= (width, height))).all(-1)
        person, point = np.nonzero(inside)
        start, depth = points[person, point, :3], depth[person, point, None]
        if found.data.type == "ORTHO":
            end = start + place[:3, 2] * (depth - near)
        else:
            end = place[:3, 3] + (start - place[:3, 3]) * (near / depth)
        return cls(person, point, start, end, np.linalg.norm(end - start, axis=1))


@dataclass(frozen=True)
class Surface:
    """A mesh where it stands. cast: (origin, direction, distance) in its own space -> (location or None, normal, face);
    box: (2, 3), its lowest and highest corner there; see_through: bool a material slot; material_of: face -> slot."""

    cast: Cast
    to_local: np.ndarray
    box: np.ndarray
    see_through: tuple[bool, ...]
    material_of: Callable[[int], int]

    @classmethod
    def of(cls, item: bpy.types.Object, world: np.ndarray, tree: BVHTree | None = None) -> Surface | None:
        """Of an object at the matrix `world`; None where it has no faces, or only see-through ones.

        Blender keeps the tree of an evaluated mesh until the mesh changes; other kinds get a new one every time.
        """
        see_through = tuple(
            slot.material is not None and is_see_through(slot.material) for slot in item.material_slots
        )
        if (see_through and all(see_through)) or abs(np.linalg.det(world[:3, :3])) < 1e-12:
            return None
        corners = np.array(item.bound_box)
        if tree is not None or item.type != "MESH":
            if tree is None:
                mesh = item.to_mesh()
                tree = _tree(mesh) if mesh else None
                item.to_mesh_clear()
                see_through = ()
                if tree is None:
                    return None

            def cast(origin, direction, distance):
                return tree.ray_cast(origin, direction, distance)[:3]
        elif not item.data.polygons:
            return None
        else:

            def cast(origin, direction, distance):
                met, location, normal, face = item.ray_cast(origin, direction, distance=distance)
                return (location if met else None), normal, face

        def material_of(face: int) -> int:
            return item.data.polygons[face].material_index

        box = np.stack([corners.min(0), corners.max(0)])
        return cls(cast, np.linalg.inv(world), box, see_through if any(see_through) else (), material_of)

    def near(self, rays: Rays, wanted: np.ndarray) -> Iterator[tuple[int, Callable]]:
        """The wanted rays, bool (n,), that pass through the mesh's box: each one's number, and `hits(beyond, most)`,
        what it meets farther than `beyond` from its start, in order, `most` at most: (distance, whether it leaves the
        mesh there), in the world's units."""
        turn, shift = self.to_local[:3, :3].T, self.to_local[:3, 3]
        start = rays.start @ turn + shift
        way = rays.end @ turn + shift - start
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = (self.box[:, None] - start) / way  # (2, n, 3)
        reach = np.where(np.isnan(reach), [[[-np.inf]], [[np.inf]]], reach)
        first, last = reach.min(0).max(-1), reach.max(0).min(-1)
        for ray in np.flatnonzero(wanted & (first <= last) & (last >= 0) & (first <= 1)):
            yield ray, partial(self._hits, Vector(start[ray]), Vector(way[ray]), float(rays.length[ray]))

    def _hits(
        self, start: Vector, way: Vector, length: float, beyond: float, most: int
    ) -> list[tuple[float, bool]]:
        whole, hits = way.length, []
        direction, at, step = way.normalized(), beyond / length * whole, 1e-5 * whole
        while at < whole and len(hits) < most:
            location, normal, face = self.cast(start + direction * at, direction, whole - at)
            if location is None:
                break
            met = (location - start).dot(direction)
            if not (self.see_through and self.see_through[self.material_of(face)]):
                hits.append((met / whole * length, normal.dot(direction) > 0))
            at = max(met, at) + step
        return hits


def _tree(mesh: bpy.types.Mesh) -> BVHTree | None:
    """Of a mesh as it is now; None where it has no faces."""
    faces = [tuple(face.vertices) for face in mesh.polygons]
    return BVHTree.FromPolygons([vertex.co.copy() for vertex in mesh.vertices], faces) if faces else None


def is_see_through(material: bpy.types.Material) -> bool:
    """Whether one sees through a material in the main: glass, a transparent shader, or an alpha under one half that no
    texture tells."""
    if material.node_tree is None or (bpy.app.version < (5, 0) and not material.use_nodes):
        return False
    output = material.node_tree.get_output_node("ALL")
    if output is None or not output.inputs["Surface"].is_linked:
        return output is not None and output.inputs["Volume"].is_linked
    shader = output.inputs["Surface"].links[0].from_node
    if shader.type != "BSDF_PRINCIPLED":
        return shader.type in ("BSDF_TRANSPARENT", "BSDF_GLASS", "BSDF_REFRACTION")
    alpha, glass = shader.inputs["Alpha"], shader.inputs["Transmission Weight"]
    clear = not alpha.is_linked and alpha.default_value < 0.5
    return clear or (not glass.is_linked and glass.default_value > 0.5)


def _key(item: bpy.types.ID) -> tuple[str, str]:
    return item.name, item.library.filepath if item.library else ""


def _shows(item: bpy.types.Object) -> bool:
    return not item.hide_render and item.visible_camera


def _rendered(layer: bpy.types.LayerCollection) -> Iterator[bpy.types.Object]:
    """The objects of the collections that a render shows."""
    if layer.exclude or layer.collection.hide_render:
        return
    yield from layer.collection.objects
    for child in layer.children:
        yield from _rendered(child)


def _armatures_of(item: bpy.types.Object, deep: int = 4) -> set[tuple[str, str]]:
    """The armatures whose body an object belongs to: those that deform it or carry it, or do so with what it is bound
    or parented to."""
    if item.type == "ARMATURE":
        return {_key(item)}
    if not deep:
        return set()
    bound = [item.parent]
    bound += [
        getattr(each, BINDING_MODIFIERS[each.type])
        for each in item.modifiers
        if each.type in BINDING_MODIFIERS
    ]
    for constraint in item.constraints:
        if constraint.type == "ARMATURE":
            bound += [target.target for target in constraint.targets]
        elif constraint.type in BINDING_CONSTRAINTS:
            bound.append(constraint.target)
    return set().union(*(_armatures_of(other, deep - 1) for other in bound if other is not None))
