"""What moves things: their keys, summed up as one number for each moment, without stepping to any frame.

Two sums that are alike mean that no key was edited in a way that matters there. Values that stay the same over all
moments count for nothing, so a key set on what doesn't move is no change; what they are, a look at any frame tells.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import bpy
import numpy as np

from ..rig.leads import constrained, leading, named

STEP = 1e-4  # of a key's value: what is nearer than that is the same
AT_ONCE = 32  # curves that are looked up together: Blender makes an object of each


class Block(NamedTuple):
    """A data-block that can be animated, known by name: which collection of `bpy.data`, its name there, its library.
    bones: of its pose, those that count; None: all."""

    collection: str
    name: str
    library: str
    bones: frozenset[str] | None = None

    @classmethod
    def of(cls, thing: bpy.types.ID, collection: str, bones: frozenset[str] | None = None) -> Block:
        return cls(collection, thing.name, thing.library.filepath if thing.library else "", bones)

    def find(self) -> bpy.types.ID | None:
        return getattr(bpy.data, self.collection).get((self.name, self.library or None))


DATA = {"ARMATURE": "armatures", "CAMERA": "cameras"}  # objects whose data can move what we read


def sources(
    things: Iterable[bpy.types.Object], read: Mapping[bpy.types.Object, Collection[str]] | None = None
) -> tuple[Block, ...]:
    """These objects and all those that they hang on: parents, the targets of constraints and of drivers. Always in the
    same order.

    read: the bones that are read of an armature, where it is not all of them. Only those that lead them count then,
    unless another one of these objects looks at it.
    """
    waiting, found, seen = list(things), {}, set()
    while waiting:
        thing = waiting.pop(0)
        if thing is None or not isinstance(thing, bpy.types.Object) or thing in found:
            continue
        found[thing] = constrained(thing) if thing.pose is not None else []
        looks = hangs_on(thing, found[thing])
        seen |= {other for other in looks if other not in (None, thing)}
        waiting += looks
    blocks = []
    for thing, constraints in found.items():
        part = (read or {}).get(thing) if thing not in seen else None
        bones = None if part is None else leading(thing, part, constraints)
        blocks += blocks_of(thing, bones)
    return tuple(blocks)


def hangs_on(thing: bpy.types.Object, constraints: Iterable | None = None) -> list[bpy.types.Object | None]:
    """What moves an object that moves: its parent, the targets of its constraints and drivers. constraints: of its
    bones, as `leads.constrained` gives them."""
    if constraints is None:
        constraints = constrained(thing) if thing.pose is not None else ()
    looks = [thing.parent, *_targets(thing.constraints), *_driven_by(thing)]
    return looks + _targets(constraint for _, constraint in constraints)


def blocks_of(thing: bpy.types.Object, bones: frozenset[str] | None = None) -> list[Block]:
    """The data-blocks of an object whose keys move it."""
    blocks = [Block.of(thing, "objects", bones)]
    if thing.type in DATA:
        blocks.append(Block.of(thing.data, DATA[thing.type]))
    elif thing.type == "MESH" and thing.data.shape_keys is not None:
        blocks.append(Block.of(thing.data.shape_keys, "shape_keys"))
    return blocks


def _targets(constraints: Iterable[bpy.types.Constraint]) -> list[bpy.types.Object | None]:
    found = []
    for constraint in constraints:
        found += [getattr(constraint, "target", None), getattr(constraint, "pole_target", None)]
        if constraint.type == "ARMATURE":
            found += [each.target for each in constraint.targets]
    return found


def _driven_by(thing: bpy.types.Object) -> list[bpy.types.ID | None]:
    holders = [thing, thing.data] if thing.type in DATA else [thing]
    return [
        target.id
        for holder in holders
        if holder.animation_data is not None
        for driver in holder.animation_data.drivers
        for variable in driver.driver.variables
        for target in variable.targets
    ]


def assigned(blocks: Iterable[Block]) -> tuple:
    """Which actions the blocks have, and how their strips lie: cheap, and changed wherever another action plays."""
    told = []
    for block in blocks:
        if (thing := block.find()) is None or (data := thing.animation_data) is None:
            told.append(None)
            continue
        action = data.action
        slot = getattr(data, "action_slot_handle", 0)
        told.append((action and (action.name, slot), *(_laid(strip) for strip in nla_strips(data))))
    return tuple(told)


def _laid(strip: bpy.types.NlaStrip) -> tuple:
    action = strip.action
    facts = (strip.frame_start, strip.frame_end, strip.scale, strip.repeat, strip.influence, strip.blend_type)
    return (action and action.name, strip.action_frame_start, strip.action_frame_end, *facts)


def nla_strips(data: bpy.types.AnimData) -> Iterator[bpy.types.NlaStrip]:
    """Those that play."""
    if data.use_nla:
        for track in data.nla_tracks:
            if not track.mute:
                yield from (strip for strip in track.strips if not strip.mute)


class Played(NamedTuple):
    """F-curves that play together, in one or more of Blender's collections. start, end: between which frames, else
    None; at a frame `t` between them they are read at (t - start) / scale + first."""

    curves: Sequence[Sequence[bpy.types.FCurve]]
    start: float | None = None
    end: float = 0.0
    scale: float = 1.0
    first: float = 0.0


def _played(thing: bpy.types.ID) -> list[Played]:
    """Everything keyed that moves a data-block."""
    data = thing.animation_data
    if data is None:
        return []
    played = [Played(curves_of(data))] if data.action else []
    for strip in nla_strips(data):
        if strip.action is not None:
            curves = _curves(strip.action, getattr(strip, "action_slot", None))
            place = (strip.frame_start, strip.frame_end, strip.scale or 1.0, strip.action_frame_start)
            played.append(Played(curves, *place))
    return played


def curves_of(data: bpy.types.AnimData | bpy.types.NlaStrip) -> list[Sequence[bpy.types.FCurve]]:
    """The F-curves of its action, in one or more of Blender's collections."""
    return _curves(data.action, getattr(data, "action_slot", None)) if data.action else []


def _curves(action: bpy.types.Action, slot) -> list[Sequence[bpy.types.FCurve]]:
    """The collections of an action's F-curves: of one slot, from 4.4 on."""
    if not hasattr(bpy.types, "ActionSlot"):
        return [action.fcurves]
    if slot is None:
        return []
    bags = (strip.channelbag(slot) for layer in action.layers for strip in layer.strips)
    return [bag.fcurves for bag in bags if bag is not None]


class Motion:
    """Sums up in slices what some blocks' keys say at `times`, in frames. Holds names and numbers alone.

    by_kind: the same keys on another block of the same kind count for the same, so that blocks may come in any order,
    be renamed, and be joined by others.
    """

    def __init__(self, blocks: Sequence[Block], times: Sequence[float], by_kind: bool = False) -> None:
        self.blocks, self.times, self.by_kind = tuple(blocks), tuple(times), by_kind
        self.block = self.curve = 0  # where to go on
        self.sums = np.zeros(len(self.times), np.uint64)

    def advance(self, deadline: float) -> bool:
        """Reads on until about `deadline` (time.perf_counter's clock), one curve at least; True once all are read."""
        while self.block < len(self.blocks):
            thing, before = self.blocks[self.block].find(), 0
            for number, played in enumerate(_played(thing) if thing is not None else ()):
                for curves in played.curves:
                    count = len(curves)
                    while self.curve < before + count:
                        first = self.curve - before
                        for curve in curves[first : first + AT_ONCE]:
                            self._add(curve, number, played)
                            self.curve += 1
                            if time.perf_counter() >= deadline:
                                return False
                    before += count
            self.block, self.curve = self.block + 1, 0
            if time.perf_counter() >= deadline and self.block < len(self.blocks):
                return False
        return True

    def _add(self, curve: bpy.types.FCurve, number: int, played: Played) -> None:
        bones = self.blocks[self.block].bones
        if bones is not None and (bone := named(curve.data_path)) is not None and bone not in bones:
            return
        if curve.mute or (len(curve.keyframe_points) < 2 and not curve.modifiers):
            return
        times = np.array(self.times)
        if played.start is not None:
            times = (np.clip(times, played.start, played.end) - played.start) / played.scale + played.first
        block = self.blocks[self.block].collection if self.by_kind else self.block
        self.add(f"{block} {number} {curve.data_path} {curve.array_index}", [*map(curve.evaluate, times)])

    def add(self, name: str, values: Sequence[float]) -> None:
        """Adds something else that has a value at every time."""
        steps = np.rint(np.asarray(values, float) / STEP)
        if not len(steps) or (steps == steps[0]).all():
            return
        mixed = steps.astype(np.int64).view(np.uint64) ^ np.uint64(zlib.crc32(name.encode()) << 32)
        for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # splitmix64's, Steele et al. 2014
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(factor)
        self.sums += mixed ^ (mixed >> np.uint64(31))

    def told(self) -> str:
        """8 hexadecimal digits for each time, one after another."""
        return (self.sums >> np.uint64(32)).astype(">u4").tobytes().hex()


def different(one: str, other: str) -> list[int]:
    """At which of the times two sums differ; all of them where they are not of as many."""
    count = max(len(one), len(other)) // 8
    return [i for i in range(count) if one[8 * i : 8 * i + 8] != other[8 * i : 8 * i + 8]]
