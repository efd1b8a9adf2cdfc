"""An armature at rest with a name map laid on it: which way it faces, and where its face lies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from . import face
from .maps import FINGER_POINTS, Hook
from .skeleton import DERIVED, FACE, mirrored

# What the lower jaw carries along.
ON_JAW = frozenset((
    *(f"jaw_{number}" for number in range(4, 15)),
    *(f"outer_lips_{number}" for number in range(8, 13)), *(f"inner_lips_{number}" for number in (6, 7, 8)),
))  # fmt: skip


class Rest:
    """An armature at rest, with a map laid on it."""

    def __init__(self, bones, hooks: Mapping[str, Hook]) -> None:
        self.bones, self.hooks = bones, dict(hooks)
        self._into: dict[str, np.ndarray] = {}  # (4, 4) from the armature's space into a bone's

    def in_bone(self, hook: Hook) -> np.ndarray:
        """(4,): the hook's place in its bone's space, homogeneous."""
        along = hook.end * self.bones[hook.bone].length
        return np.array([hook.offset[0], along + hook.offset[1], hook.offset[2], 1.0])

    def at(self, point: str) -> np.ndarray | None:
        """(3,): where the point is in the armature at rest; None without a bone."""
        if (hook := self.hooks.get(point)) is None:
            return None
        return (np.array(self.bones[hook.bone].matrix_local) @ self.in_bone(hook))[:3]

    def hang(self, point: str, bone: str, place: np.ndarray) -> None:
        """Hangs the point on the bone, at a place (3,) of the armature at rest."""
        if bone not in self._into:  # most of a face hangs on one
            self._into[bone] = np.linalg.inv(np.array(self.bones[bone].matrix_local))
        inside = self._into[bone] @ (*place, 1.0)
        self.hooks[point] = Hook(bone, 0.0, tuple(inside[:3]))

    def _middle(self, limb: str) -> np.ndarray | None:
        pair = self.at(f"left_{limb}"), self.at(f"right_{limb}")
        return None if pair[0] is None or pair[1] is None else (pair[0] + pair[1]) / 2

    def axes(self) -> np.ndarray | None:
        """(3, 3), rows: to the figure's left, its front, up. From shoulders and hips, not from a bone's roll, which
        every exporter sets its own way; None where there are too few of them."""
        shoulders, hips = self._middle("shoulder"), self._middle("hip")
        limb = "shoulder" if shoulders is not None else "hip"
        if shoulders is None or hips is None:  # what there is of the two, and the head above it
            bottom, top = (hips if shoulders is None else shoulders), self.at("head")
        else:
            bottom, top = hips, shoulders
        if top is None or bottom is None:
            return None
        up, left = top - bottom, self.at(f"left_{limb}") - self.at(f"right_{limb}")
        if np.linalg.norm(up) < 1e-9:
            return None
        up = up / np.linalg.norm(up)
        left = left - up * (left @ up)
        if np.linalg.norm(left) < 1e-9:
            return None
        left /= np.linalg.norm(left)
        return np.stack([left, np.cross(left, up), up])  # one that faces -Y has its left at +X

    def names_are_swapped(self) -> bool:
        """Whether what is called left lies on the right: both feet, and eyes or nose where there are such bones, point
        the other way than the front that the names give."""
        axes = self.axes()
        if axes is None:
            return False
        signs = []
        for side in ("left", "right"):
            ankle, toe = self.at(f"{side}_ankle"), self.at(f"{side}_toe")
            if ankle is None or toe is None:
                return False
            step = (toe - ankle) @ axes.T
            if abs(step[1]) < 0.5 * np.linalg.norm(step):  # a foot that points down or aside says nothing
                return False
            signs.append(step[1])
        head = self.at("head")
        looks = [self.at(point) for point in ("nose", "left_eye", "right_eye")]
        signs += [(look - head) @ axes[1] for look in looks if look is not None and head is not None]
        return all(sign < 0 for sign in signs)

    def swap(self) -> None:
        other = {"left": "right", "right": "left"}
        swapped = {}
        for point, hook in self.hooks.items():
            side, _, rest = point.partition("_")
            swapped[f"{other[side]}_{rest}" if rest == "toe" else mirrored(point)] = hook
        self.hooks = swapped

    def derive(self) -> None:
        """Pupils are where the eyes are; a hand has a wrist of its own where it has a finger."""
        for side in ("left", "right"):
            if (eye := self.hooks.get(f"{side}_eye")) is not None:
                self.hooks.setdefault(f"{side}_pupil", eye)
            wrist = self.hooks.get(DERIVED[f"{side}_hand"][0])
            if wrist and any(point in self.hooks for point in FINGER_POINTS if point.startswith(side)):
                self.hooks[f"{side}_hand"] = wrist

    def put_face(self, head_has_length: bool) -> None:
        """Hangs what of the face has no bone on the head, where an average face has it."""
        axes, head = self.axes(), self.at("head")
        if axes is None or head is None:
            return
        bone = self.hooks["head"].bone
        crown, hips, shoulders = self.at("crown"), self._middle("hip"), self._middle("shoulder")
        if crown is not None:
            size = float(np.linalg.norm(crown - head))
        elif head_has_length or hips is None or shoulders is None:
            size = self.bones[bone].length
        else:
            size = face.HEAD_PER_TORSO * float(np.linalg.norm(shoulders - hips))
        known = {
            point: (self.at(point) - head) @ axes.T for point in face.ON_HEAD if self.at(point) is not None
        }
        places = face.on_head(size, known)
        for point, place in places.items():
            if point not in self.hooks:
                self.hang(point, bone, head + place @ axes)
        self._inner_lips()
        seen = {point: (self.at(point) - head) @ axes.T for point in FACE if point in self.hooks}
        for point, place in zip(FACE, face.drawn(face.fitted(places), seen), strict=True):
            if point not in self.hooks:
                self.hang(point, self._carrier(point, seen), head + place @ axes)

    def _carrier(self, point: str, seen: Mapping[str, np.ndarray]) -> str:
        """The bone that a point of the face without one moves with: the jaw's, that of the same brow's nearest point
        of those seen, or the head's."""
        if point in ON_JAW and "jaw" in self.hooks:
            return self.hooks["jaw"].bone
        curve, _, number = point.rpartition("_")
        same = [other for other in seen if curve.endswith("brow") and other.startswith(curve)]
        nearest = min(same, key=lambda other: abs(int(other[-1]) - int(number)), default="head")
        return self.hooks[nearest].bone

    def _inner_lips(self) -> None:
        """Where the lips have bones, the inner rim moves with the outer one, a third of the way in."""
        outer = {number: self.at(f"outer_lips_{number}") for number in range(1, 13)}
        if any(place is None for place in outer.values()):
            return
        middle = np.mean(list(outer.values()), axis=0)
        for inner, number in enumerate((1, 3, 4, 5, 7, 9, 10, 11), start=1):
            place = outer[number] + (middle - outer[number]) / 3
            if f"inner_lips_{inner}" not in self.hooks:
                self.hang(f"inner_lips_{inner}", self.hooks[f"outer_lips_{number}"].bone, place)
