"""One clip of several: the settings of the panel as they would be for it, while the panel's stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy


class AsIf:
    """Settings with some of them otherwise. Reads and is set like the property group that it stands for, the groups and
    lists in it too, but nothing is set there: so it may be used while a panel is drawn. Not kept between ticks.
    """

    def __init__(self, settings: bpy.types.PropertyGroup, **otherwise: Any):
        object.__setattr__(self, "_settings", settings)
        object.__setattr__(self, "_otherwise", {})
        for name, value in otherwise.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        otherwise = self._otherwise
        if name not in otherwise:
            value = getattr(self._settings, name)
            if isinstance(value, bpy.types.PropertyGroup):
                otherwise[name] = AsIf(value)
            elif isinstance(value, bpy.types.bpy_prop_collection):
                kind = self._settings.bl_rna.properties[name].fixed_type
                otherwise[name] = Items(kind, map(AsIf, value))
            else:
                return value
        return otherwise[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._settings.bl_rna.properties:
            raise AttributeError(f"{type(self._settings).__name__} has no setting '{name}'")
        self._otherwise[name] = value

    def says(self, name: str) -> bool:
        """Whether a setting, or anything in it, is set here."""
        value = self._otherwise.get(name)
        if isinstance(value, AsIf | list):
            parts = value if isinstance(value, list) else [value]
            return any(part.says(each) for part in parts for each in part._otherwise)
        return name in self._otherwise


class Items(list):
    """A list of such settings, with what Blender's lists have."""

    def __init__(self, kind: bpy.types.Struct, items: Iterable[AsIf]):
        super().__init__(items)
        self._kind = kind

    def add(self) -> AsIf:
        """A new one at the end, with its defaults."""
        self.append(AsIf(_Defaults(self._kind)))
        return self[-1]

    def find(self, name: str) -> int:
        return next((place for place, item in enumerate(self) if item.name == name), -1)

    def remove(self, place: int) -> None:
        del self[place]


class _Defaults:
    """A property group that nobody has set."""

    def __init__(self, kind: bpy.types.Struct):
        self.bl_rna = kind

    def __getattr__(self, name: str) -> Any:
        if name not in self.bl_rna.properties:
            raise AttributeError(f"{self.bl_rna.identifier} has no setting '{name}'")
        return self.bl_rna.properties[name].default


@dataclass(frozen=True)
class Shot:
    """What `gather.clip_job` makes one clip of. settings: for this clip alone. title: what it is called. span: (first
    frame, first frame after) on the timeline. folder: of the clip that it becomes a take of; None: as for any clip.
    still_at: the frame at which a strip shows the still; None: the current one. text_strip: the one whose words are the
    prompt; "" for none."""

    settings: AsIf
    title: str
    span: tuple[int, int]
    folder: Path | None = None
    still_at: int | None = None
    text_strip: str = ""
