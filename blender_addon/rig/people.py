"""Who there is to read: armatures of the scene, each standing for itself or for one of its instances.

A person is known by names alone, so it can be kept between ticks and found again: the armature's, its library's, and,
where it is an instance, the instancing object's name and Blender's persistent id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import bpy
import numpy as np
from mathutils import Matrix

from ..translations import tr
from . import face_mesh, vrm
from .camera import PoseError
from .face import FIXED, pulls
from .face_mesh import FaceMesh
from .known_maps import BY_TITLE, KNOWN
from .maps import FINGER_POINTS, Hook, Match, Names, RigMap, best, from_json, lay, told
from .rest import Rest
from .skeleton import FACE, INDEX, NAMES, NECK, SHOULDERS

NO_PLACE = 0x7FFFFFFF  # what Blender fills a persistent id up with


@dataclass(frozen=True)
class Instance:
    """One of the copies that an object makes. source: the instanced object, the armature itself or a mesh that it
    moves; path: Blender's persistent id, without its empty places."""

    parent: str
    source: str
    path: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Person:
    """One figure whose points are read: point k is `bones[rows[k]]`'s pose matrix @ offsets[k]. Plain data.

    name: what the artist calls it. library: the file that the armature is linked from, '' for this one. rows: (130,)
    int; offsets: (130, 4) float64 in bone space, the last 1, and all 0 where the person has no such point. map: the
    title of the name map, score: how much of the rig it explains; missing: points without a bone, left out.
    face_approximated: most of the face lies where an average one would. swapped: the rig names its sides the other way
    round, seen by where its feet point to. faces: meshes whose vertex groups give points; what one does not give at a
    frame hangs on the bone as `rows` and `offsets` say. follow: of each point of the face (70), how much it makes of
    the moves of `given`, the mesh's points of the face, on top of its bone's.
    """

    name: str
    armature: str
    library: str
    instance: Instance | None
    bones: tuple[str, ...]
    rows: np.ndarray
    offsets: np.ndarray
    map: str
    score: float = 1.0
    missing: tuple[str, ...] = ()
    face_approximated: bool = False
    swapped: bool = False
    faces: tuple[FaceMesh, ...] = ()
    given: tuple[int, ...] = ()
    follow: np.ndarray | None = None

    # What every reading of the person needs, worked out once.

    @cached_property
    def carrier(self) -> int:
        """The bone that most points hang on."""
        return int(np.bincount(self.rows).argmax())

    @cached_property
    def apart(self) -> np.ndarray:
        """The points that hang on other bones."""
        return np.flatnonzero(self.rows != self.carrier)

    @cached_property
    def in_order(self) -> np.ndarray:
        """(130,): of each point, where it stands among those apart, followed by the carrier's."""
        return np.argsort(np.concatenate([self.apart, np.flatnonzero(self.rows == self.carrier)]))

    @cached_property
    def offsets_apart(self) -> np.ndarray:
        """(n, 1, 4) float32."""
        return self.offsets[self.apart, None].astype(np.float32)

    @cached_property
    def offsets_carried(self) -> np.ndarray:
        """(130 - n, 4) float32."""
        return self.offsets[self.rows == self.carrier].astype(np.float32)

    @cached_property
    def neck_between_shoulders(self) -> bool:
        return not self.offsets[NECK, 3] and bool(self.offsets[SHOULDERS, 3].all())


# --- where a person's points hang -----------------------------------------------------------------


def find(
    armature: bpy.types.Object,
    rig_map: RigMap | None = None,
    overrides: Mapping[str, Hook] | None = None,
) -> Match:
    """The name map of an armature: the one given, the one saved with it, or the best of those known and of what the VRM
    add-on's artist assigned.

    overrides: points set by hand, on top of those saved with the armature. Raises PoseError for an object that is no
    armature, and MapError for a saved map that can't be read.
    """
    if armature.type != "ARMATURE":
        raise PoseError(
            tr(
                "'{thing}' is a {kind}, not an armature; choose the rig itself.",
                thing=armature.name,
                kind=armature.type.lower(),
            )
        )
    saved_map, saved = saved_rig(armature)
    by_hand = tuple({**saved, **(overrides or {})}.items())
    rig_map = rig_map or saved_map
    assigned = None if rig_map else vrm.assigned(armature.data)
    return _find(tuple(armature.data.bones.keys()), rig_map, assigned, by_hand)


@lru_cache(maxsize=64)  # the panel asks at every redraw
def _find(
    bones: tuple[str, ...],
    rig_map: RigMap | None,
    assigned: RigMap | None,
    overrides: tuple[tuple[str, Hook], ...],
) -> Match:
    by_hand = dict(overrides)
    if rig_map:
        return lay(rig_map, Names(bones), by_hand)
    return best(bones, (*KNOWN, assigned) if assigned else KNOWN, by_hand)


def saved_rig(holder) -> tuple[RigMap | None, dict[str, Hook]]:
    """The map and the overrides of an armature object, or of a settings group that has them. Raises MapError."""
    saved = getattr(holder.data, "musev_rig", None) if isinstance(holder, bpy.types.Object) else holder
    if saved is None:  # the extension's settings are not registered: a script uses this module alone
        return None, {}
    rig_map = from_json(saved.custom) if saved.map == "CUSTOM" else BY_TITLE.get(saved.map)
    return rig_map, {item.name: Hook(item.bone, item.end, tuple(item.offset)) for item in saved.overrides}


def resolve(
    armature: bpy.types.Object,
    rig_map: RigMap | None = None,
    overrides: Mapping[str, Hook] | None = None,
    instance: Instance | None = None,
) -> Person:
    """The person that an armature is, or that one of its instances is.

    Limbs without a bone are left out and named in `missing`. Raises PoseError for an object that is no armature, and
    where too few limbs are found (its `unmapped` lists the points), and MapError as `find` does.
    """
    match = find(armature, rig_map, overrides)
    if not match.usable:
        closest = (
            tr(" by the closest name map, {title}", title=match.map.title)
            if match.limbs
            else tr("; no name map knows its names")
        )
        raise PoseError(
            tr(
                "Armature '{armature}' has bones for {limbs} of 12 limb points{closest}. Not found: "
                "{points}. Give these points a bone in the Characters panel, or import a map.",
                armature=armature.name,
                limbs=match.limbs,
                closest=closest,
                points=told(match.missing),
            ),
            unmapped=match.missing,
        )
    rig = Rest(armature.data.bones, match.hooks)
    swapped = rig.names_are_swapped()
    if swapped:
        rig.swap()
        rig.hooks |= {point: match.hooks[point] for point in match.overrides}  # a hand knows its left
    faces = face_mesh.find(armature, match.hooks, match.overrides)
    rig.derive()
    carrier = rig.hooks.get("head") or next(iter(rig.hooks.values()))
    for face in faces:
        for point, place in face.places.items():
            rig.hang(point, carrier.bone, place)
    faceless = sum(point in rig.hooks for point in FACE) < len(FACE) / 2
    on_bones = frozenset(rig.hooks)
    rig.put_face(match.map.head_has_length)
    given = tuple(point for face in faces for point in face.groups if point in FACE)
    follow = _follow(rig, given, on_bones) if given else None
    used = tuple(dict.fromkeys(hook.bone for hook in rig.hooks.values()))
    rows, offsets = np.zeros(len(NAMES), int), np.zeros((len(NAMES), 4))
    for point, hook in rig.hooks.items():
        if point in INDEX:
            rows[INDEX[point]] = used.index(hook.bone)
            offsets[INDEX[point]] = rig.in_bone(hook)
    return Person(
        name=instance_name(armature.name, instance), armature=armature.name,
        library=armature.library.filepath if armature.library else "", instance=instance,
        bones=used, rows=rows, offsets=offsets, map=match.map.title, score=match.score,
        missing=tuple(point for point in match.missing if point not in rig.hooks),
        face_approximated=faceless if faces else match.face_approximated, swapped=swapped, faces=tuple(faces),
        given=tuple(INDEX[point] for point in given), follow=follow,
    )  # fmt: skip


def _follow(rig: Rest, given: tuple[str, ...], on_bones: frozenset[str]) -> np.ndarray | None:
    """(70, given): how the points of a face that have neither bone nor group move with those that have a group."""
    places = [rig.at(point) for point in FACE]
    if any(place is None for place in places):  # no head, so no average face
        return None
    anchors = (*given, *(point for point in FIXED if point not in given))
    shares = pulls(np.array(places), anchors)[:, : len(given)]
    jaw = rig.hooks["jaw"].bone if "jaw" in rig.hooks else None
    for row, point in enumerate(FACE):
        if point in on_bones or rig.hooks[point].bone == jaw:
            shares[row] = 0.0
    return shares


def caution(person: Person) -> str | None:
    """What the artist should know of how a person's rig was read: limbs left out, sides named the wrong way round."""
    said = []
    if limbs := [point for point in person.missing if point not in FINGER_POINTS]:
        said.append(tr("left out without a bone: {points}", points=told(limbs)))
    if person.swapped:
        said.append(
            tr("its names call left what lies on the right; its sides are taken by where its feet point to")
        )
    return f"{person.name}: {'; '.join(said)}" if said else None


# --- where a person stands ------------------------------------------------------------------------


def armature_of(person: Person) -> bpy.types.Object:
    """The person's armature; not to be kept. Raises PoseError if it is no longer in the file."""
    armature = bpy.data.objects.get((person.armature, person.library or None))
    if armature is None or armature.type != "ARMATURE":
        raise PoseError(
            tr("Armature '{armature}' is no longer in this file; choose it again.", armature=person.armature)
        )
    return armature


def evaluated(armature: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> bpy.types.Object:
    """The armature as it stands in the depsgraph. Raises PoseError if it has no part in it."""
    posed = armature.evaluated_get(depsgraph)
    if not posed.is_evaluated:
        raise PoseError(
            tr(
                "Armature '{armature}' takes no part in scene '{scene}'; add it to the scene, include "
                "its collection in the view layer, and do not disable it in viewports.",
                armature=armature.name,
                scene=depsgraph.scene.name,
            )
        )
    return posed


def evaluated_armature(depsgraph: bpy.types.Depsgraph, person: Person) -> bpy.types.Object:
    """The person's armature as it stands in the depsgraph. Raises PoseError."""
    return evaluated(armature_of(person), depsgraph)


def placements(depsgraph: bpy.types.Depsgraph, people: Sequence[Person]) -> list[Matrix | None]:
    """For every person the world matrix of its armature's copy; None for one that is no instance.

    Raises PoseError where an instance has gone.
    """
    wanted = {person.instance for person in people if person.instance}
    if not wanted:
        return [None] * len(people)
    found = {}
    for copy in depsgraph.object_instances:
        if copy.is_instance and (which := instance_of(copy)) in wanted:
            found[which] = copy.matrix_world.copy()
    return [person.instance and _placed(depsgraph, person, found) for person in people]


def _placed(depsgraph: bpy.types.Depsgraph, person: Person, found: dict[Instance, Matrix]) -> Matrix:
    placed = found.get(person.instance)
    if placed is None:
        raise PoseError(
            tr(
                "'{person}' is no longer among the instances of '{parent}'; find the characters again.",
                person=person.name,
                parent=person.instance.parent,
            )
        )
    if person.instance.source == person.armature:
        return placed
    source = bpy.data.objects[person.instance.source, person.library or None].evaluated_get(depsgraph)
    armature = evaluated_armature(depsgraph, person)
    return placed @ source.matrix_world.inverted() @ armature.matrix_world


def instance_of(copy: bpy.types.DepsgraphObjectInstance) -> Instance:
    """The identity of a copy, the same in every frame."""
    path = tuple(number for number in copy.persistent_id if number != NO_PLACE)
    return Instance(copy.parent.name, copy.object.name, path)


def instance_name(armature: str, instance: Instance | None) -> str:
    """'Dancer'; 'Dancer in Crowd.003' for what an object instances; with Blender's numbers where it makes several."""
    if instance is None:
        return armature
    name = f"{armature} in {instance.parent}"
    return name if len(instance.path) == 1 else f"{name} #{'.'.join(map(str, instance.path))}"


def candidates(
    scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph
) -> Iterator[tuple[bpy.types.Object, Instance | None]]:
    """Every armature that the depsgraph shows, by itself or by a mesh that it moves, and every instance of one: the
    original object, and which copy; in Blender's order, hidden armatures with visible meshes last."""
    meshes: dict[tuple, tuple[bpy.types.Object, Instance | None]] = {}
    with_armature = set()
    for copy in depsgraph.object_instances:
        thing = copy.object
        which = instance_of(copy) if copy.is_instance else None
        place = (which.parent, which.path[1:]) if which else ()
        if thing.type == "ARMATURE":
            with_armature.add((place, thing.original))
            yield thing.original, which
        elif thing.type == "MESH" and (armature := thing.find_armature()) is not None:
            meshes.setdefault((place, armature.original), (armature.original, which))
    yield from (found for key, found in meshes.items() if key not in with_armature)
