"""docs/scripting.md's lists of verbs and settings, as Blender itself tells them."""

from __future__ import annotations

from collections.abc import Iterator

import bpy
from conftest import MODULE, ROOT
from words import call, operators, own_properties

PAGE = ROOT / "docs" / "scripting.md"
MARK = "<!-- What follows is written by tests/blender/test_scripting.py; see there. -->\n"
KINDS = {"INT": "whole number", "FLOAT": "number", "STRING": "text", "BOOLEAN": "yes or no", "ENUM": "one of"}
WHERE = (  # what a script writes before a setting's name, and which group it is in
    ("scene.musev", ("Scene", "musev")),
    ("strip.musev", ("Strip" if hasattr(bpy.types, "Strip") else "Sequence", "musev")),
)


def generated() -> str:
    """Both lists."""
    lines = ["## Verbs", ""]
    for cls in sorted(operators(), key=lambda cls: cls.bl_idname):
        lines += verb(cls)
    lines += ["## Settings", ""]
    for path, (owner, name) in WHERE:
        group = getattr(bpy.types, owner).bl_rna.properties[name].fixed_type
        lines += table(path, list(settings(group)))
    preferences = type(bpy.context.preferences.addons[MODULE].preferences)
    lines += table("preferences", [(item.identifier, item) for item in own_properties(preferences)])
    return "\n".join(lines)


def verb(cls: type) -> Iterator[str]:
    yield from (f"### bpy.ops.{cls.bl_idname}", "", f"**{cls.bl_label}.** {cls.bl_description}.", "")
    there = call(cls).get_rna_type().properties
    # Blender's own, of what reads or writes a file.
    files = [there["filepath"]] if "filepath" in there else []
    rows = [row(item.identifier, item) for item in dict.fromkeys([*files, *own_properties(cls)])]
    if rows:
        yield from ("| property | | what it is |", "|---|---|---|", *rows, "")


def settings(group, before: str = "") -> Iterator[tuple[str, bpy.types.Property]]:
    """(path, property) of a group of settings and those inside it."""
    for item in group.properties:
        if item.identifier in ("rna_type", "name"):
            continue
        base = item.fixed_type.base if item.type == "POINTER" else None
        if base is not None and base.identifier == "PropertyGroup":
            yield from settings(item.fixed_type, f"{before}{item.identifier}.")
        else:
            yield before + item.identifier, item


def table(path: str, items: list[tuple[str, bpy.types.Property]]) -> list[str]:
    rows = [row(name, item) for name, item in items]
    return [f"### {path}", "", "| setting | | what it is |", "|---|---|---|", *rows, ""]


def row(name: str, item: bpy.types.Property) -> str:
    return f"| `{name}` | {kind(item)} | {plain(item.description)} |"


def kind(item: bpy.types.Property) -> str:
    """'whole number, 1 to 200, 10 unless set'."""
    if item.type == "POINTER":
        return item.fixed_type.name.lower()
    if item.type == "COLLECTION":
        return "a list"
    if item.type == "ENUM":
        names = [f"`{choice.identifier}`" for choice in item.enum_items]
        some = ", ".join(names if len(names) <= 16 else [*names[:3], f"… ({len(names)})"])
        chosen = sorted(item.default_flag) if item.is_enum_flag else [item.default]
        return f"{'any' if item.is_enum_flag else 'one'} of {some}; {plain(' '.join(chosen))} unless set"
    told = [KINDS[item.type]]
    if item.type in ("INT", "FLOAT"):
        if getattr(item, "is_array", False):
            told[0] = f"{item.array_length} numbers"
        elif abs(item.hard_min) < 2**30 and abs(item.hard_max) < 2**30:
            told.append(f"{item.hard_min:g} to {item.hard_max:g}")
    default = list(item.default_array) if getattr(item, "is_array", False) else item.default
    if item.type == "STRING":
        told += [f"`{default}` unless set"] if default else []
    elif item.type == "FLOAT" and not getattr(item, "is_array", False):
        told.append(f"{default:.4g} unless set")
    else:
        told.append(f"{default} unless set")
    return ", ".join(told)


def plain(text: str) -> str:
    """Within a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
