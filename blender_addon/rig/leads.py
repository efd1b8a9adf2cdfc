"""Which bones lead those that are read: parents, what constraints look at, what drives them, and whole IK chains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import bpy

BONE = re.compile(r'(?:pose\.)?bones\["((?:[^"\\]|\\.)*)"\]')  # in a data path
ESCAPED = re.compile(r"\\(.)")


def named(data_path: str) -> str | None:
    """The bone whose property a data path is; None where it is none's."""
    found = BONE.match(data_path)
    return ESCAPED.sub(r"\1", found[1]) if found else None


def constrained(armature: bpy.types.Object) -> list[tuple[bpy.types.PoseBone, bpy.types.Constraint]]:
    """Every bone that has constraints, with each of them; not to be kept."""
    return [(bone, constraint) for bone in armature.pose.bones for constraint in bone.constraints]


def leading(
    armature: bpy.types.Object,
    read: Iterable[str],
    constraints: Iterable[tuple[bpy.types.PoseBone, bpy.types.Constraint]],
) -> frozenset[str]:
    """Of an armature's bones, those that can move one of the bones `read`, these among them. constraints: as
    `constrained` gives them. Other objects that look at its bones are not followed."""
    bones, hangs, free = armature.pose.bones, _hangs(constraints), set()
    for path, seen in _drivers(armature):
        if (driven := named(path)) is None:
            free |= seen
        else:
            hangs.setdefault(driven, set()).update(seen)
    waiting, found = [*read, *free], set()
    while waiting:
        name = waiting.pop()
        if name in found or (bone := bones.get(name)) is None:
            continue
        found.add(name)
        waiting += hangs.get(name, ())
        if (parent := bone.parent) is not None:
            waiting.append(parent.name)
    return frozenset(found)


def _hangs(constraints: Iterable[tuple[bpy.types.PoseBone, bpy.types.Constraint]]) -> dict[str, set[str]]:
    """By bone, the bones that its constraints look at; an IK's chain looks at all that it does."""
    hangs: dict[str, set[str]] = {}
    for bone, constraint in constraints:
        seen = {getattr(constraint, "subtarget", ""), getattr(constraint, "pole_subtarget", "")}
        if constraint.type == "ARMATURE":
            seen |= {each.subtarget for each in constraint.targets}
        hangs.setdefault(bone.name, set()).update(seen)
        if constraint.type in ("IK", "SPLINE_IK"):
            for above in bone.parent_recursive[: constraint.chain_count or None]:
                hangs.setdefault(above.name, set()).update(seen | {bone.name})
    return hangs


def _drivers(armature: bpy.types.Object) -> Iterator[tuple[str, set[str]]]:
    """What each driver sets, and the bones that it reads."""
    for holder in (armature, armature.data):
        for driver in holder.animation_data.drivers if holder.animation_data is not None else ():
            targets = [target for variable in driver.driver.variables for target in variable.targets]
            paths = (named(target.data_path) for target in targets)
            yield driver.data_path, {name for name in (*paths, *(t.bone_target for t in targets)) if name}
