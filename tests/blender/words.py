"""All that the add-on shows, by introspection: its classes as Blender registered them, and their properties."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import bpy
from conftest import MODULE, ROOT

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


# --- what a dictionary has to know ----------------------------------------------------------------


def labels() -> set[str]:
    """The labels of all that is shown. The points of a body are left out: their names are made of numbers."""
    found = {
        cls.bl_label for kind in ("Operator", "Panel", "Menu") for cls in classes(getattr(bpy.types, kind))
    }
    for where, item in every_property():
        found |= {item.name}
        if item.type == "ENUM" and where != "MUSEV_OT_character_set_point.point":
            found |= {choice.name for choice in item.enum_items}
    return found


def descriptions() -> set[str]:
    """What is shown where the pointer rests."""
    found = {cls.bl_description for kind in ("Operator", "Menu") for cls in classes(getattr(bpy.types, kind))}
    for where, item in every_property():
        found |= {item.description}
        if item.type == "ENUM" and where != "MUSEV_OT_character_set_point.point":
            found |= {choice.description for choice in item.enum_items}
    return found


def trees() -> Iterator[tuple[str, ast.Module]]:
    """(file's name, its syntax) of the add-on's source."""
    source = ROOT / "blender_addon"
    for file in sorted(source.rglob("*.py")):
        yield file.relative_to(source).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def lookups(tree: ast.Module) -> Iterator[ast.expr]:
    """What `tr` is called with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr":
            yield node.args[0]


def templates() -> set[str]:
    """The sentences that `tr` looks up."""
    return {said.value for _, tree in trees() for said in lookups(tree) if isinstance(said, ast.Constant)}


def literals() -> set[str]:
    """Every text in the source."""
    return {
        node.value
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def finished_shapes() -> set[str]:
    """Every sentence that the extension, the engine and the library put together, `{}` for each value in it; and every
    text."""
    found = set()
    for folder in ("blender_addon", "server", "musev_engine"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                    found.add("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found
