"""Who is in a clip, and who watches: the settings' characters and camera, found in the scene that they stand in."""

from __future__ import annotations

from dataclasses import dataclass

import bpy

from ..protocol import MAX_PEOPLE
from ..translations import tr
from .camera import PoseError
from .people import Person, resolve


@dataclass(frozen=True)
class Cast:
    """scene: the name of the one that the people stand in, which need not be the one that the clip is for. camera: an
    object's name, or None for that scene's own, as its markers switch it. width, height: of the clip, pixels."""

    scene: str
    people: tuple[Person, ...]
    camera: str | None
    width: int
    height: int


def cast(
    owner: bpy.types.Scene,
    settings: bpy.types.PropertyGroup | None = None,
    rig: bpy.types.Object | None = None,
) -> Cast:
    """What the settings (None: the scene's own) say: the characters of the list, in its order, or the one armature
    while the list is empty; or `rig` in their place. Raises PoseError where a character or a camera is missing, and
    MapError for a saved map that can't be read.
    """
    settings = settings or owner.musev
    world, rig, used = _stage(owner, settings, rig)
    people = (resolve(rig),) if rig else tuple(item.person() for item in used)
    camera = settings.camera.name if settings.camera else None
    return Cast(world.name, people, camera, settings.width, settings.height)


def stage(owner: bpy.types.Scene, settings: bpy.types.PropertyGroup | None = None) -> bpy.types.Scene:
    """The scene that the characters stand in. Quick: no rig is read. Raises PoseError as `cast` does."""
    return _stage(owner, settings or owner.musev, None)[0]


def _stage(owner: bpy.types.Scene, settings: bpy.types.PropertyGroup, rig: bpy.types.Object | None) -> tuple:
    """The scene, and the one rig or the characters of the list. Raises PoseError."""
    used = [] if rig else [item for item in settings.people if item.use]
    rig = rig or (None if settings.people else settings.armature)
    if rig is None and not used:
        raise PoseError(
            tr("No character of the list is used; tick one.")
            if settings.people
            else tr("No armature is set; choose the rig that drives the clip.")
        )
    if len(used) > MAX_PEOPLE:
        raise PoseError(
            tr(
                "{count} characters are used; a clip has at most {most}. Untick some.",
                count=len(used),
                most=MAX_PEOPLE,
            )
        )
    # An instance stands where its instancer does.
    things = [rig] if rig else [item.parent or item.armature for item in used]
    if None in things:
        raise PoseError(tr("A character's armature was removed; take the character off the list."))
    world = next((s for s in (owner, *bpy.data.scenes) if things[0].name in s.objects), None)
    if world is None:
        raise PoseError(
            tr("Armature '{name}' is in no scene of this file; choose another.", name=things[0].name)
        )
    if elsewhere := [thing.name for thing in things if thing.name not in world.objects]:
        raise PoseError(
            tr(
                "'{name}' is in scene '{world}' and {names} not; use characters of one scene.",
                name=things[0].name,
                world=world.name,
                names=", ".join(elsewhere),
            )
        )
    if settings.camera is None and world.camera is None:
        raise PoseError(
            tr("Scene '{world}' has no camera; choose one, or add one to the scene.", world=world.name)
        )
    return world, rig, used
