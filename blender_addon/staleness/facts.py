"""What Blender's things are set to, as plain values: keyed ones as they are at one moment, whichever frame is in view.

So nothing here changes as an animation plays, and a key that leaves a value as it was makes no difference.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Collection, Iterable

import bpy

from .motion import curves_of, nla_strips

SHOWN_ALONE = (  # how the interface shows a thing; names, which may be changed at will
    "rna_type", "name", "type", "use_pin_to_last", "execution_time", "persistent_uid", "select", "levels",
    "sculpt_levels",
)  # fmt: skip
HIDDEN = ("is_", "show_")  # how the names of such ones begin, but for "show_render"
MAX_ITEMS = 64  # of a list that are looked at, say the points of a curve in a strip's modifier


class Keyed:
    """What moves the properties of one data-block. Not kept between ticks."""

    def __init__(self, thing: bpy.types.ID | None) -> None:
        data = thing.animation_data if thing is not None else None
        self._own = curves_of(data) if data is not None else []
        self._others = (
            [] if data is None else [data.drivers, *(c for s in nla_strips(data) for c in curves_of(s))]
        )

    def by(self, path: str, index: int) -> bpy.types.FCurve | None:
        """The curve that moves a property, by itself."""
        found = (curves.find(path, index=index) for curves in self._own)
        return next((curve for curve in found if curve is not None and not curve.mute), None)

    def by_others(self, path: str, index: int) -> bool:
        """Whether a driver or an NLA strip moves it, so that nobody knows how it is at another frame."""
        return any(curves.find(path, index=index) is not None for curves in self._others)


class Facts:
    """Values of some things in order, and which of them are keyed."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._keyed: dict[int, bpy.types.FCurve] = {}

    def add(self, *values: object) -> None:
        """Values that nothing moves."""
        self._told += map(_said, values)

    def add_of(
        self, struct: bpy.types.bpy_struct, names: Iterable[str], keyed: Keyed, path: str = ""
    ) -> None:
        """Properties of a struct that lies at a path of its data-block ("": is it), as they are set or keyed."""
        for name in names:
            value = getattr(struct, name)
            place = f"{path}.{name}" if path else name
            if isinstance(value, str | bool | int | float):
                self._add(value, place, 0, keyed)
                continue
            for index, number in enumerate(_flat(value)):
                self._add(number, place, index, keyed)

    def add_all(
        self, struct: bpy.types.bpy_struct, keyed: Keyed, path: str, without: Collection[str] = (), depth: int = 0
    ) -> None:  # fmt: skip
        """All its properties. depth: how deep with those of structs and lists in it; never of other data-blocks."""
        with warnings.catch_warnings():  # 5.x warns of old names that it still has
            warnings.simplefilter("ignore", DeprecationWarning)
            for spec in struct.bl_rna.properties:
                name = spec.identifier
                if (
                    name in SHOWN_ALONE
                    or name in without
                    or (name.startswith(HIDDEN) and name != "show_render")
                ):
                    continue
                if spec.type not in ("POINTER", "COLLECTION"):
                    self.add_of(struct, [name], keyed, path)
                elif depth and spec.type == "POINTER":
                    inner = getattr(struct, name)
                    if inner is not None and not isinstance(inner, bpy.types.ID | _strip()):
                        self.add_all(inner, keyed, f"{path}.{name}", (), depth - 1)
                elif depth:
                    for index, item in enumerate(list(getattr(struct, name))[:MAX_ITEMS]):
                        if not isinstance(item, bpy.types.ID | _strip()):
                            self.add_all(item, keyed, f"{path}.{name}[{index}]", (), depth - 1)

    def _add(self, value: object, path: str, index: int, keyed: Keyed) -> None:
        if keyed.by_others(path, index):
            return
        if (curve := keyed.by(path, index)) is not None:
            self._keyed[len(self._told)] = curve
        self._told.append(_said(value))

    def at(self, moment: float) -> int:
        """One number for all of them, at a frame."""
        told = list(self._told)
        for index, curve in self._keyed.items():
            told[index] = _said(curve.evaluate(moment))
        return zlib.crc32("|".join(told).encode())


def _strip() -> type:
    return bpy.types.Strip if hasattr(bpy.types, "Strip") else bpy.types.Sequence


def _flat(value: object) -> list:
    """The numbers of an array of Blender's, by rows where it has some; a set in order."""
    if value is None:
        return []
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [number for row in value for number in (row if hasattr(row, "__len__") else (row,))]


def _said(value: object) -> str:
    """True, 1 and 1.0 are told alike: curves know numbers alone."""
    return f"{value + 0.0:.5g}" if isinstance(value, bool | int | float) else str(value)
