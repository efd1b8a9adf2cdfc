"""Who is in a clip, and who watches: the settings' characters and camera, found in the scene that they stand in."""

from __future__ import annotations

from dataclasses import dataclass

import bpy

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


def cast(owner: bpy.types.Scene) -> Cast:
    """What the settings of a scene say. Raises PoseError where a character or a camera is missing."""
    settings = owner.musev
    rig = settings.armature
    if rig is None:
        raise PoseError("No armature is set; choose the rig that drives the clip.")
    world = next((s for s in (owner, *bpy.data.scenes) if rig.name in s.objects), None)
    if world is None:
        raise PoseError(f"Armature '{rig.name}' is in no scene of this file; choose another.")
    if settings.camera is None and world.camera is None:
        raise PoseError(f"Scene '{world.name}' has no camera; choose one, or add one to the scene.")
    camera = settings.camera.name if settings.camera else None
    return Cast(world.name, (resolve(rig),), camera, settings.width, settings.height)
