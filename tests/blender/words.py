"""All that the add-on shows, by introspection: its classes as Blender registered them, and their properties."""

from __future__ import annotations

from collections.abc import Iterator

import bpy
from conftest import MODULE

OWNERS = (
    "Scene",
    "Armature",
    "WindowManager",
)  # of Blender's types, what we register properties on; and strips


def classes(base: type) -> list[type]:
    """Our registered classes of one of Blender's kinds, by name."""
    found, todo = set(), [base]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if cls.__module__.startswith(MODULE) and getattr(cls, "is_registered", False):
                found.add(cls)
    return sorted(found, key=lambda cls: cls.__name__)


def operators() -> list[type]:
    return classes(bpy.types.Operator)


def call(cls: type):
    """bpy.ops.musev.… of an operator's class."""
    area, name = cls.bl_idname.split(".")
    return getattr(getattr(bpy.ops, area), name)


def own_properties(cls: type) -> Iterator[bpy.types.Property]:
    """The properties that our code gives a class, those of our bases among them; none that come from Blender's."""
    names = [
        name
        for base in cls.__mro__
        if base.__module__.startswith(MODULE)
        for name in vars(base).get("__annotations__", ())
        if not name.startswith("filter_")
    ]
    there = (call(cls).get_rna_type() if issubclass(cls, bpy.types.Operator) else cls.bl_rna).properties
    yield from (there[name] for name in dict.fromkeys(names) if name in there)


def registered_properties() -> Iterator[tuple[str, bpy.types.Property]]:
    """(owner, property) of what we put on Blender's own types."""
    strip = "Strip" if hasattr(bpy.types, "Strip") else "Sequence"
    for owner in (*OWNERS, strip):
        for item in getattr(bpy.types, owner).bl_rna.properties:
            if item.identifier.startswith("musev"):
                yield owner, item


def every_property() -> Iterator[tuple[str, bpy.types.Property]]:
    """(where, property) of all."""
    for base in (bpy.types.Operator, bpy.types.PropertyGroup, bpy.types.AddonPreferences):
        for cls in classes(base):
            for item in own_properties(cls):
                yield f"{cls.__name__}.{item.identifier}", item
    for owner, item in registered_properties():
        yield f"{owner}.{item.identifier}", item
