"""Who there is to read: armatures of the scene, each standing for itself or for one of its instances.

A person is known by names alone, so it can be kept between ticks and found again: the armature's, its library's, and,
where it is an instance, the instancing object's name and Blender's persistent id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix

from .camera import PoseError
from .maps import _face_estimate, families
from .skeleton import INDEX, NAMES


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
    title of the name map; missing: the limbs without a bone.
    """

    name: str
    armature: str
    library: str
    instance: Instance | None
    bones: tuple[str, ...]
    rows: np.ndarray
    offsets: np.ndarray
    map: str
    missing: tuple[str, ...] = ()


def evaluated_armature(depsgraph: bpy.types.Depsgraph, person: Person) -> bpy.types.Object:
    """The person's armature as it stands in the depsgraph. Raises PoseError if it is not there."""
    armature = bpy.data.objects.get((person.armature, person.library or None))
    if armature is None or armature.type != "ARMATURE":
        raise PoseError(f"Armature '{person.armature}' is no longer in this file; choose it again.")
    evaluated = armature.evaluated_get(depsgraph)
    if not evaluated.is_evaluated:
        raise PoseError(
            f"Armature '{person.armature}' takes no part in scene '{depsgraph.scene.name}'; "
            "add it to the scene, or include its collection in the view layer."
        )
    return evaluated


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
            f"'{person.name}' is no longer among the instances of '{person.instance.parent}'; "
            "find the characters again."
        )
    if person.instance.source == person.armature:
        return placed
    source = bpy.data.objects[person.instance.source, person.library or None].evaluated_get(depsgraph)
    armature = evaluated_armature(depsgraph, person)
    return placed @ source.matrix_world.inverted() @ armature.matrix_world


def instance_of(copy: bpy.types.DepsgraphObjectInstance) -> Instance:
    """The identity of a copy, the same in every frame."""
    path = tuple(number for number in copy.persistent_id if number != 0x7FFFFFFF)
    return Instance(copy.parent.name, copy.object.name, path)


def resolve(armature: bpy.types.Object) -> Person:
    """Finds the points of an armature by its bones' names.

    Raises PoseError for an object that is no armature, and for missing bones: names them and the map tried.
    """
    if armature.type != "ARMATURE":
        raise PoseError(
            f"'{armature.name}' is a {armature.type.lower()}, not an armature; choose the rig itself."
        )
    bones = armature.data.bones
    tried = families(bones.keys())
    missing = [[b for b in (*names.body().values(), names.head) if b not in bones] for names in tried]
    best = min(range(len(tried)), key=lambda i: len(missing[i]))
    names = tried[best]
    if missing[best]:
        others = [family for family in tried if family is not names]
        raise PoseError(
            f"Armature '{armature.name}' has no bone {', '.join(missing[best])} "
            f"(closest name map: {names.title}; also tried: {', '.join(n.title for n in others)}). "
            "Rename the bones to one of these."
        )
    body = names.body()
    face = _face_estimate(bones, names)
    bone_of = body | dict.fromkeys(face, names.head)
    offset_of = {point: np.zeros(3) for point in body} | face
    for point, (bone, end) in names.face_bones().items():
        if bone in bones:
            bone_of[point] = bone
            offset_of[point] = np.array([0.0, bones[bone].length if end == "tail" else 0.0, 0.0])
    used = tuple(dict.fromkeys(bone_of.values()))
    rows, offsets = np.zeros(len(NAMES), int), np.zeros((len(NAMES), 4))
    for point, bone in bone_of.items():
        rows[INDEX[point]] = used.index(bone)
        offsets[INDEX[point]] = (*offset_of[point], 1.0)
    library = armature.library.filepath if armature.library else ""
    return Person(armature.name, armature.name, library, None, used, rows, offsets, names.title)
