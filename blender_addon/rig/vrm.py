"""The bones that the VRM add-on's artist assigned: a name map that a file carries, for any names whatsoever.

The add-on (github.com/saturday06/VRM-Addon-for-Blender, src/io_scene_vrm/editor/{extension,property_group}.py and
{vrm0,vrm1}/property_group.py) gives every bone a uuid, and keeps for each of VRM's humanoid bones the uuid of the one
that plays it: by name in VRM 1.0 (left_upper_arm), as a list of names (leftUpperArm) in 0.x. Both are read as they are
saved, so the add-on need not be there.
"""

from __future__ import annotations

import re
from collections import Counter

import bpy

from .known_maps import VRM
from .maps import Hook, RigMap

TITLE = "VRM assignment"
EXTENSION = "vrm_addon_extension"


def assigned(armature: bpy.types.Armature) -> RigMap | None:
    """The map that the VRM add-on's assignments make; None where the armature has none."""
    stored = _stored(armature)
    if not hasattr(stored, "get"):
        return None
    uuids = [(bone.name, _text(_stored(bone), "uuid")) for bone in armature.bones]
    counts = Counter(uuid for _, uuid in uuids)
    # A bone that was copied has the uuid of the one it was copied from.
    bones = {uuid: name for name, uuid in uuids if uuid and counts[uuid] == 1}
    ways = [_version_0, _version_1]
    if stored.get("spec_version", 0) == 1:
        ways.reverse()
    for way in ways:
        played = {human: bones[uuid] for human, uuid in way(stored).items() if uuid in bones}
        hooks = {
            point: tuple(Hook(played[place.bone], place.end) for place in places if place.bone in played)
            for point, places in VRM.hooks.items()
        }
        if any(hooks.values()):
            found = {point: places for point, places in hooks.items() if places}
            return RigMap(TITLE, found, head_has_length=False)
    return None


def _stored(item: bpy.types.Armature | bpy.types.Bone):
    """What the add-on saved with it, as an IDPropertyGroup. Since Blender 5.0 add-ons' properties lie apart from those
    that artists make."""
    system = getattr(item, "bl_system_properties_get", None)
    places = (item,) if system is None else (system(), item)
    return next((found for place in places if place is not None and (found := place.get(EXTENSION))), None)


def _version_0(stored) -> dict[str, str]:
    listed = _under(stored, "vrm0", "humanoid").get("human_bones", ())
    return {_text(each, "bone"): _text(each.get("node"), "bone_uuid") for each in listed}


def _version_1(stored) -> dict[str, str]:
    named = _under(stored, "vrm1", "humanoid", "human_bones")
    return {_camel(human): _text(_under(named, human, "node"), "bone_uuid") for human in named.keys()}  # noqa: SIM118


def _under(group, *path: str):
    """The group at the end of the path, or an empty one: only what differs from its default is saved."""
    for name in path:
        group = group.get(name) if hasattr(group, "get") else None
    return group if hasattr(group, "get") else {}


def _text(group, name: str) -> str:
    value = group.get(name, "") if hasattr(group, "get") else ""
    return value if isinstance(value, str) else ""


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
