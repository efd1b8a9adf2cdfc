"""Name maps: which bone of a rig each point hangs on, found by the bones' names. Plain data, no Blender.

A map's names are tried exactly, then without namespace and case ("Character1:LeftArm", "Armature|leftarm"), then with
the side written any way ("UpperArm_L", "upper_arm.L", "LeftUpperArm"), and only where one bone alone fits.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..captures import CaptureError
from .skeleton import DERIVED, FACE, FINGERS, LIMBS, NAMES

FORMAT, VERSION = "musev.rig_map", 1
MAX_BYTES, MAX_HOOKS, MAX_NAME = 256 * 1024, 8, 255
LIMB_POINTS = tuple(f"{side}_{limb}" for side in ("left", "right") for limb in LIMBS)
FINGER_POINTS = tuple(
    f"{side}_{finger}_{joint}" for side in ("left", "right") for finger in FINGERS for joint in (1, 2, 3, 4)
)
FACE_POINTS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
# Not points, but places that tell how a figure stands: what carries the face, its top, what carries the chin and the
# lower lip, and where the feet point to.
LANDMARKS = ("head", "crown", "jaw", "left_toe", "right_toe")
MAPPABLE = tuple(name for name in NAMES if name not in DERIVED or name == "neck") + LANDMARKS
# Shares of the score: a wrong arm costs more than a missing finger.
SHARES = {"body": 0.8, "fingers": 0.12, "face": 0.04, "marks": 0.04}
MIN_LIMBS = 6  # of twelve; with fewer it is not the map of such a rig


class MapError(CaptureError):
    """A map's text does not fit: what, the value, and the remedy."""


@dataclass(frozen=True)
class Hook:
    """A place on a bone: end 0 is its head, 1 its tail; offset is added in the bone's own axes, in its units."""

    bone: str
    end: float = 0.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class RigMap:
    """One way of naming bones. hooks: point or landmark -> the places to try, in order. marks: bones that tell such
    rigs from others. head_has_length: the head bone reaches from the neck to the crown (in many exported rigs the
    last bone of a chain has an arbitrary length)."""

    title: str
    hooks: Mapping[str, tuple[Hook, ...]]
    marks: tuple[str, ...] = ()
    head_has_length: bool = True

    def __hash__(self) -> int:
        return hash(self.title)


@dataclass(frozen=True)
class Match:
    """A map laid on a rig. hooks: point or landmark -> the place found, under the rig's own bone names. missing: the
    points without a bone, of those that need one (twelve limb points, head, fingers). overrides: points set by hand;
    lost: overrides whose bone the rig does not have.
    """

    map: RigMap
    score: float
    hooks: Mapping[str, Hook]
    missing: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def limbs(self) -> int:
        """How many of the twelve limb points there are."""
        return sum(point in self.hooks for point in LIMB_POINTS)

    @property
    def usable(self) -> bool:
        return self.limbs >= MIN_LIMBS

    @property
    def face_approximated(self) -> bool:
        """Whether most of the face has no bones, so that an average one is put on the head."""
        return sum(point in self.hooks for point in FACE) < len(FACE) / 2


_NAMESPACE = re.compile(r"^(?:.*[:|])?(?:mixamorig\d*_?)?", re.IGNORECASE)
_SIDE = re.compile(r"^(left|right)[ ._-]*(?=.)|[ ._-](l|r|left|right)$|(left|right)$", re.IGNORECASE)
_MIDDLE_SIDE = re.compile(r"(?<=[ ._-])(l|r|left|right)(?=[ ._-])", re.IGNORECASE)


def plain(name: str) -> str:
    """A bone's name without namespace and case."""
    return _NAMESPACE.sub("", name).lower() or name.lower()


def sided(name: str) -> str:
    """The plain name without separators, its side at the end: 'upperarm|l' for 'LeftUpperArm' and 'upper_arm.L'."""
    name = plain(name)
    found = _SIDE.search(name) or _MIDDLE_SIDE.search(name)
    side = ""
    if found:
        side = "|" + next(filter(None, found.groups()))[0]
        name = name[: found.start()] + name[found.end() :]
    return re.sub(r"[ ._-]", "", name) + side


class Names:
    """A rig's bone names, found again under other spellings where that leaves no doubt."""

    def __init__(self, bones: Iterable[str]) -> None:
        self.bones = tuple(bones)
        self.exact = set(self.bones)
        self.plain, self.sided = _unique(plain, self.bones), _unique(sided, self.bones)

    def find(self, name: str) -> str | None:
        if name in self.exact:
            return name
        return self.plain.get(plain(name)) or self.sided.get(sided(name))


def _unique(spelling, bones: Sequence[str]) -> dict[str, str]:
    found: dict[str, str | None] = {}
    for bone in bones:
        key = spelling(bone)
        found[key] = None if key in found else bone
    return {key: bone for key, bone in found.items() if bone is not None}


def lay(rig_map: RigMap, names: Names, overrides: Mapping[str, Hook] | None = None) -> Match:
    """The map on a rig, with points set by hand put first."""
    hooks = {}
    for point, places in rig_map.hooks.items():
        for place in places:
            if bone := names.find(place.bone):
                hooks[point] = Hook(bone, place.end, place.offset)
                break
    score = _score(rig_map, names, hooks)
    kept = {point: hook for point, hook in (overrides or {}).items() if hook.bone in names.exact}
    hooks |= kept
    missing = tuple(point for point in (*LIMB_POINTS, "head", *FINGER_POINTS) if point not in hooks)
    lost = tuple(point for point in overrides or {} if point not in kept)
    return Match(rig_map, score, hooks, missing, tuple(kept), lost)


def score(rig_map: RigMap, bones: Iterable[str]) -> float:
    """How much of a rig the map explains, 0..1: the body counts most, then fingers, then the head's parts."""
    return lay(rig_map, Names(bones)).score


def _score(rig_map: RigMap, names: Names, hooks: Mapping[str, Hook]) -> float:
    def share(wanted: Sequence[str], found: Iterable) -> float:
        return sum(name in found for name in wanted) / len(wanted) if wanted else 1.0

    marks = {mark for mark in rig_map.marks if names.find(mark)}
    return (
        SHARES["body"] * share((*LIMB_POINTS, "head"), hooks)
        + SHARES["fingers"] * share(FINGER_POINTS, hooks)
        + SHARES["face"] * share(FACE_POINTS, hooks)
        + SHARES["marks"] * share(rig_map.marks, marks)
    )


def best(bones: Iterable[str], maps: Sequence[RigMap], overrides: Mapping[str, Hook] | None = None) -> Match:
    """The map that explains most of a rig; the first of equals."""
    names = Names(bones)
    return max((lay(rig_map, names, overrides) for rig_map in maps), key=lambda match: match.score)


def told(points: Iterable[str]) -> str:
    """Points as a reader wants them: 'left ankle, left hand: index 1 to 4'."""
    points = list(points)
    said = [point.replace("_", " ") for point in points if point not in FINGER_POINTS]
    for side in ("left", "right"):
        whole = [f"{side}_{finger}_{joint}" for finger in FINGERS for joint in (1, 2, 3, 4)]
        if set(whole) <= set(points):
            said.append(f"all fingers of the {side} hand")
            continue
        for finger in FINGERS:
            joints = [point[-1] for point in whole if point in points and f"_{finger}_" in point]
            if joints:
                said.append(f"{side} {finger} {', '.join(joints)}")
    return ", ".join(said)


# --- as JSON --------------------------------------------------------------------------------------


def to_json(rig_map: RigMap) -> str:
    """The map as text, for a file or a property."""
    points = {
        point: [{"bone": hook.bone, "end": hook.end, "offset": list(hook.offset)} for hook in places]
        for point, places in rig_map.hooks.items()
    }
    head = {"format": FORMAT, "version": VERSION, "title": rig_map.title}
    rest = {"head_has_length": rig_map.head_has_length, "marks": list(rig_map.marks), "points": points}
    return json.dumps(head | rest, indent=1, allow_nan=False)


@lru_cache(maxsize=32)
def from_json(text: str) -> RigMap:
    """The map that `to_json` wrote. Raises MapError for anything else, naming what does not fit."""
    if len(text) > MAX_BYTES:
        raise MapError(f"A rig map has at most {MAX_BYTES} characters (got {len(text)}); remove points.")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MapError(f"This is not a rig map: {error}; export one again.") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise MapError(f"This is not a rig map: its format is not {FORMAT!r}; export one again.")
    if raw.get("version") != VERSION:
        raise MapError(
            f"The rig map has version {raw.get('version')!r}, this extension reads {VERSION}; update it."
        )
    title, points, marks = raw.get("title"), raw.get("points"), raw.get("marks", [])
    has_length = raw.get("head_has_length", True)
    if not _is_name(title):
        raise MapError(f"A rig map's title is a text of 1 to {MAX_NAME} letters (got {title!r}).")
    if not isinstance(points, dict) or not points:
        raise MapError("A rig map has 'points', an object of point names; this one has none.")
    if not isinstance(marks, list) or len(marks) > MAX_HOOKS or not all(map(_is_name, marks)):
        raise MapError(f"A rig map's marks are at most {MAX_HOOKS} bone names (got {marks!r}).")
    if not isinstance(has_length, bool):
        raise MapError(f"head_has_length is true or false (got {has_length!r}).")
    if unknown := sorted(set(points) - set(MAPPABLE)):
        raise MapError(
            f"The rig map names unknown points: {', '.join(unknown[:8])}; known are {', '.join(MAPPABLE[:6])}, … "
            "and OpenPose's others."
        )
    return RigMap(
        title, {point: _places(point, raw) for point, raw in points.items()}, tuple(marks), has_length
    )


def _places(point: str, raw: object) -> tuple[Hook, ...]:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_HOOKS:
        raise MapError(f"{point} needs a list of 1 to {MAX_HOOKS} bones (got {str(raw)[:80]}).")
    return tuple(_hook(point, place) for place in raw)


def _hook(point: str, raw: object) -> Hook:
    if not isinstance(raw, dict) or set(raw) - {"bone", "end", "offset"}:
        raise MapError(f"{point}: a bone is written with bone, end and offset (got {str(raw)[:80]}).")
    bone, end, offset = raw.get("bone"), raw.get("end", 0.0), raw.get("offset", [0.0, 0.0, 0.0])
    if not _is_name(bone):
        raise MapError(f"{point}: bone is a name of 1 to {MAX_NAME} letters (got {str(bone)[:80]!r}).")
    if not _is_number(end, 1.0) or end < 0:
        raise MapError(f"{point}: end is a number from 0 (head) to 1 (tail) (got {str(end)[:80]}).")
    if not isinstance(offset, list) or len(offset) != 3 or not all(_is_number(x, 1e4) for x in offset):
        raise MapError(f"{point}: offset is three numbers from -10000 to 10000 (got {str(offset)[:80]}).")
    return Hook(bone, float(end), tuple(map(float, offset)))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME and value.isprintable()


def _is_number(value: object, bound: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= bound
