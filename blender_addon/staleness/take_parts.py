"""What the frames of a take were made from, and when: one request, or those of all takes that it is joined from; and
what has been found out about that since."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import bpy

from .. import gather
from ..clips import clip_folder, splice, takes
from ..clips.clip_folder import Take
from ..protocol import PoseTrack
from ..timing import Plan
from . import origins
from .rendered import Known, Sums
from .strip_sums import Files

MAX_JOINED = 32  # takes that a take is joined from, one after another

Steps = Generator[None, None, "tuple[Change, ...]"]  # stops where others may have the main thread


class Change(NamedTuple):
    """what: one of `stale.names`. told: a sentence."""

    what: str
    told: str


@dataclass(frozen=True)
class Part:
    """What one request made of a take. plan: when its frames were generated; times: of each, on the timeline. counts:
    which of them are in the take."""

    take: Take
    plan: Plan
    times: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def inputs(self) -> dict:
        return self.take.record["inputs"]

    @property
    def origins(self) -> dict:
        told = self.inputs.get(origins.KEY)
        return told if isinstance(told, dict) else {}

    @property
    def follows_a_rig(self) -> bool:
        """Whether poses made it, of which frames are in the take."""
        return self.take.request.get("mode") == "pose" and bool(self.counts)

    def own(self, *settings: str) -> bool:
        """Whether any of these settings was not the panel's but the clip's own, as in a shot list."""
        own = self.origins.get("own")
        return isinstance(own, list) and any(name in own for name in settings)

    def starts(self, shown_at: int | None) -> set[int]:
        """Where the first frame was generated, and where it is in a strip that begins at `shown_at` now."""
        told = self.inputs.get(splice.KEY) or {}
        now = () if shown_at is None else (shown_at + told.get("offset", 0),)
        return {self.plan.start, *now}


@dataclass
class Memo:
    """What needs no second reading: plain data. edits, keys, images: grow with every edit, and with every edit of keys
    and of images. newest: of each model, when the newest take with it was made, and the sum of its files."""

    edits: int = 0
    keys: int = 0
    images: int = 0
    parts: dict = field(default_factory=dict)
    blocks: dict = field(default_factory=dict)
    digests: dict = field(default_factory=dict)
    sums: dict = field(default_factory=dict)
    harmless: set = field(default_factory=set)  # sums of keys that move nothing, as a thorough check has seen
    lying: dict = field(default_factory=dict)
    tracks: dict[str, PoseTrack] = field(default_factory=dict)
    people: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)
    newest: dict[tuple, tuple[str, str]] = field(default_factory=dict)
    scenes: Known = field(default_factory=Known)
    rendered: dict[tuple, Sums] = field(default_factory=dict)
    files: Files = field(default_factory=Files)
    strips: dict[tuple, tuple[tuple, str]] = field(default_factory=dict)


def parts_of(take: Take, memo: Memo) -> list[Part]:
    """`parts`, worked out once for a record that stays as it is."""
    known = memo.parts.get(take.folder)
    if known is None or known[0] is not take.record:
        memo.parts[take.folder] = known = (take.record, parts(take))
    return known[1]


def parts(take: Take) -> list[Part]:
    """The requests that made a take's frames: one, or more where it is joined; the newest first. [] where its record
    doesn't tell."""
    found: list[Part] = []
    newer: list[range] = []  # frames that newer parts have made, counted as in the whole take
    shift = 0  # of the first frame of a part's take in the whole one
    for _ in range(MAX_JOINED):
        if (plan := plan_of(take)) is None:
            break
        told = take.record["inputs"].get(splice.KEY)
        own = range(told["from"] + shift, told["to"] + shift + 1) if told else None
        offset = shift + (told["offset"] if told else 0)
        times = plan.times
        made = [round(moment - plan.start) + offset for moment in times]
        counts = tuple(
            i for i, n in enumerate(made)
            if (own is None or n in own) and not any(n in frames for frames in newer)
        )  # fmt: skip
        found.append(Part(take, plan, times, counts))
        if own is None or not told["of"]:
            break
        newer.append(own)
        shift += told["of_offset"]
        folder = take.folder.parent / told["of"]
        try:
            take = clip_folder.read(folder.parent).take(folder.name)
        except takes.TakeError:
            break
    return found


def plan_of(take: Take) -> Plan | None:
    """When a take's frames were generated; None where its record doesn't tell."""
    request, inputs = take.request, take.record.get("inputs")
    try:
        start, told = int(take.record["frame_start"]), inputs.get(origins.KEY) or {}
        if splice.KEY in inputs:
            start += inputs[splice.KEY]["offset"]
        count, rates = int(request["num_frames"]), inputs["rates"]
        return Plan(
            int(told.get("start", start)), count, Fraction(rates["generated"]),
            int(request.get("output_frames") or count), Fraction(rates["timeline"]), request.get("between", "held"),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None


def note_model(memo: Memo, take: Take) -> None:
    """Takes up which files a take's model had."""
    model, made = take.record.get("model"), take.record.get("made")
    if isinstance(model, dict) and model.get("sha256") and isinstance(made, str):
        key = model_key(take.request)
        memo.newest[key] = max(memo.newest.get(key, ("", "")), (made, str(model["sha256"])))


def model_key(request: dict) -> tuple:
    """What the sum of a model's files depends on: what is added to it counts, the ControlNets too."""
    controls = sorted(
        str(each.get("name")) for each in request.get("controls") or () if isinstance(each, dict)
    )
    added = [str(request.get(name) or "") for name in ("loras", "vae", "ip_adapter")]
    return str(request.get("model")), *added, *controls, bool(request.get("poses"))


def concerns(scene: bpy.types.Scene, part: Part, shown_at: int | None = None) -> bool:
    """Whether the panel's settings are for frames of this take."""
    try:
        start, end = gather.clip_range(scene, scene.musev)
    except gather.REFUSALS:
        return True  # it says no other range
    count = part.plan.output_frames
    return any(first < end and start < first + count for first in part.starts(shown_at))
