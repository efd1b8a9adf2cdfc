"""Who is in the clip: the list of characters, and the bones that their points hang on.

Points set by hand are saved with the armature's data, so that every file that uses the rig has them. Where that data
comes from another file and can't be written, they are saved with the character in this scene, on top of the rig's own.
"""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)  # fmt: skip

from ..captures import CaptureError
from ..translations import tr
from . import maps, people, pose
from .camera import PoseError
from .known_maps import KNOWN
from .skeleton import NECK

MAPS = (
    ("AUTO", "Automatic", "The known name map that explains most of the rig"),
    *((rig_map.title, rig_map.title, "These names, whatever others would explain") for rig_map in KNOWN),
    ("CUSTOM", "Imported", "The map that was imported for this rig"),
)


class MusevPoint(bpy.types.PropertyGroup):
    """A point set by hand; its name is the point's."""

    bone: StringProperty(name="Bone", description="The bone that this point hangs on")
    end: FloatProperty(
        name="Along", description="Where on the bone: 0 is its head, 1 its tail", min=0.0, max=1.0, subtype="FACTOR"
    )  # fmt: skip
    offset: FloatVectorProperty(
        name="Offset", description="How far from there, along the bone's own axes", size=3, subtype="TRANSLATION"
    )  # fmt: skip


class MusevRig(bpy.types.PropertyGroup):
    """How a rig's points are found."""

    map: EnumProperty(name="Names", description="Which names the rig's bones have", items=MAPS)
    custom: StringProperty(name="Imported Map", description="A rig map as text (JSON)", options={"HIDDEN"})
    overrides: CollectionProperty(name="Points", description="Those set by hand", type=MusevPoint)
    active: IntProperty(name="Point", description="The point shown", options={"HIDDEN"})


def is_armature(_, item: bpy.types.Object) -> bool:
    return item.type == "ARMATURE"


class MusevPerson(bpy.types.PropertyGroup):
    """One character of the list: an armature, or one of the copies that an object makes of it."""

    armature: PointerProperty(
        name="Armature", description="The rig of this character", type=bpy.types.Object, poll=is_armature
    )
    use: BoolProperty(name="Use", description="The clip shows this character", default=True)
    parent: PointerProperty(
        name="Instancer", description="The object that makes this copy", type=bpy.types.Object
    )
    source: PointerProperty(
        name="Instance Of", description="The object that is copied", type=bpy.types.Object
    )
    path: StringProperty(name="Number", description="Which copy, in Blender's numbers", options={"HIDDEN"})
    rig: PointerProperty(
        name="Own Points", description="What the rig's own file can't be told, because it can't be written here",
        type=MusevRig,
    )  # fmt: skip

    @property
    def instance(self) -> people.Instance | None:
        if self.parent is None or self.source is None:
            return None
        return people.Instance(self.parent.name, self.source.name, tuple(map(int, self.path.split("."))))

    @property
    def shown_name(self) -> str:
        if self.armature is None:
            return "(removed)"
        return people.instance_name(self.armature.name, self.instance)

    @property
    def settings(self) -> MusevRig:
        """Where this character's map and overrides are saved: with the armature's data if that can be written."""
        data = self.armature.data
        return data.musev_rig if data.library is None and data.override_library is None else self.rig

    def own(self) -> tuple[maps.RigMap | None, dict[str, maps.Hook]]:
        """The map and overrides that the armature's data could not take. Raises MapError."""
        return people.saved_rig(self.rig) if self.settings == self.rig else (None, {})

    def match(self) -> maps.Match:
        """Raises PoseError and MapError."""
        return people.find(self.armature, *self.own())

    def person(self) -> people.Person:
        """Raises PoseError and MapError."""
        if self.armature is None:
            raise PoseError(tr("A character's armature was removed; take the character off the list."))
        return people.resolve(self.armature, *self.own(), instance=self.instance)


def add(settings, armature: bpy.types.Object, instance: people.Instance | None = None) -> MusevPerson | None:
    """Puts a character at the end of the list; None where it is there already."""
    if any(item.armature == armature and item.instance == instance for item in settings.people):
        return None
    item = settings.people.add()
    item.armature = armature
    if instance is not None:
        item.parent, item.source = bpy.data.objects[instance.parent], bpy.data.objects[instance.source]
        item.path = ".".join(map(str, instance.path))
    item.name = item.shown_name
    settings.people_index = len(settings.people) - 1
    return item


def active(settings) -> MusevPerson | None:
    """The character chosen in the list, if its armature is still there."""
    if not 0 <= settings.people_index < len(settings.people):
        return None
    item = settings.people[settings.people_index]
    return item if item.armature is not None else None


def armatures(settings) -> list[bpy.types.Object]:
    """The rigs of a clip, once each: those of the list that are used, or the one chosen alone while it is empty."""
    chosen = (
        [item.armature for item in settings.people if item.use] if settings.people else [settings.armature]
    )
    return list(dict.fromkeys(armature for armature in chosen if armature is not None))


def recognised(
    scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph, seen_by: str | None
) -> tuple[list[people.Person], list[bpy.types.Object]]:
    """The visible characters whose rigs a name map knows, from left to right as the camera sees them now (in Blender's
    order without a camera), and the armatures that no map knows. A Rigify metarig whose rig is here is left out.
    """
    everyone = list(people.candidates(scene, depsgraph))
    rigs = {armature for armature, _ in everyone}
    known, unknown = [], []
    for armature, instance in everyone:
        if getattr(armature.data, "rigify_target_rig", None) in rigs:
            continue
        try:
            known.append(people.resolve(armature, instance=instance))
        except CaptureError:
            unknown.append(armature)
    try:
        necks = pose.read_frame(scene, depsgraph, known, seen_by, 1000, 1000)[:, NECK, 0]
    except PoseError:  # no camera yet: there is no left
        return known, unknown
    return [known[number] for number in sorted(range(len(known)), key=lambda n: float(necks[n]))], unknown


_register, _unregister = bpy.utils.register_classes_factory((MusevPoint, MusevRig, MusevPerson))


def register() -> None:
    _register()
    bpy.types.Armature.musev_rig = PointerProperty(
        name="MuseV Rig", description="Which bones MuseV's points hang on", type=MusevRig
    )


def unregister() -> None:
    del bpy.types.Armature.musev_rig
    _unregister()
