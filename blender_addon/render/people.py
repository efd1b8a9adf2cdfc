"""Which objects are a character's: what its armature moves."""

from __future__ import annotations

from collections.abc import Iterable

import bpy

MOVED_BY = ("ARMATURE", "CHILD_OF", "COPY_TRANSFORMS", "COPY_LOCATION")  # constraints that carry things


def parts_of(armature: str) -> set[str]:
    """The names of all objects that the armature object deforms or carries: by a modifier, by a parent (its bones or
    itself), or by a constraint, and what is parented to those in turn. Other armatures are people of their own.
    """
    rig = bpy.data.objects.get(armature)
    if rig is None:
        return set()
    children: dict = {}
    for thing in bpy.data.objects:
        if thing.parent is not None:
            children.setdefault(thing.parent, []).append(thing)
    found = {thing for thing in bpy.data.objects if _hangs_on(thing, rig)} | set(children.get(rig, ()))
    stack = list(found)
    while stack:
        for child in children.get(stack.pop(), ()):
            if child not in found:
                found.add(child)
                stack.append(child)
    return {thing.name for thing in found if thing.type != "ARMATURE" and thing != rig}


def parts_of_all(armatures: Iterable[str]) -> set[str]:
    return {part for armature in armatures for part in parts_of(armature)}


def _hangs_on(thing: bpy.types.Object, rig: bpy.types.Object) -> bool:
    if any(modifier.type == "ARMATURE" and modifier.object == rig for modifier in thing.modifiers):
        return True
    for constraint in thing.constraints:
        if constraint.type not in MOVED_BY or not constraint.enabled:
            continue
        targets = constraint.targets if constraint.type == "ARMATURE" else (constraint,)
        if thing.type not in ("CAMERA", "LIGHT", "ARMATURE") and any(part.target == rig for part in targets):
            return True
    return False
