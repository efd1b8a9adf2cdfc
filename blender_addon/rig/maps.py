"""The bone names of the rigs people really have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Where the face sits on a head bone without face bones: (to the character's left, to the front, up) from the
# bone's head, in head lengths. Measured on Rigify's human metarig, whose head bone spans neck to crown.
FACE_ON_HEAD = {
    "nose": (0.0, 0.875, 0.297),
    "left_eye": (0.26, 0.623, 0.552),
    "right_eye": (-0.26, 0.623, 0.552),
    "left_ear": (0.463, 0.043, 0.407),
    "right_ear": (-0.463, 0.043, 0.407),
}
HEAD_PER_TORSO = 0.39  # head length over the distance hips-shoulders, on the same metarig


@dataclass(frozen=True)
class RigNames:
    """One family of rigs. `{s}` in a name stands for the side; every limb name means the bone's head."""

    title: str
    sides: tuple[str, str]  # (left, right)
    limbs: dict[str, str]
    head: str
    face: dict[str, tuple[str, str]]  # nose, eye, ear -> (bone, "head" | "tail"); used where present
    head_has_length: bool = True  # False: leaf bones of this family come in with arbitrary lengths

    def body(self) -> dict[str, str]:
        """Keypoint -> bone for the twelve limb points."""
        left, right = self.sides
        return {
            f"{side}_{limb}": name.format(s=token)
            for side, token in (("right", right), ("left", left))
            for limb, name in self.limbs.items()
        }

    def face_bones(self) -> dict[str, tuple[str, str]]:
        """Keypoint -> (bone, end) for nose, eyes and ears, as far as this family has bones for them."""
        left, right = self.sides
        found = {}
        for part, (name, end) in self.face.items():
            if part == "nose":
                found["nose"] = (name, end)
            else:
                found[f"left_{part}"] = (name.format(s=left), end)
                found[f"right_{part}"] = (name.format(s=right), end)
        return found


RIGIFY_LIMBS = {
    "shoulder": "upper_arm.{s}", "elbow": "forearm.{s}", "wrist": "hand.{s}",
    "hip": "thigh.{s}", "knee": "shin.{s}", "ankle": "foot.{s}",
}  # fmt: skip
MIXAMO_LIMBS = {
    "shoulder": "{s}Arm", "elbow": "{s}ForeArm", "wrist": "{s}Hand",
    "hip": "{s}UpLeg", "knee": "{s}Leg", "ankle": "{s}Foot",
}  # fmt: skip
UNREAL_LIMBS = {
    "shoulder": "upperarm_{s}", "elbow": "lowerarm_{s}", "wrist": "hand_{s}",
    "hip": "thigh_{s}", "knee": "calf_{s}", "ankle": "foot_{s}",
}  # fmt: skip

RIGIFY_GENERATED = RigNames(
    "Rigify generated rig", ("L", "R"),
    {limb: "DEF-" + name for limb, name in RIGIFY_LIMBS.items()}, "DEF-spine.006",
    {"nose": ("DEF-nose.002", "head"), "eye": ("ORG-eye.{s}", "tail"), "ear": ("DEF-ear.{s}", "head")},
)  # fmt: skip
RIGIFY_METARIG = RigNames(
    "Rigify metarig", ("L", "R"), RIGIFY_LIMBS, "spine.006",
    {"nose": ("nose.002", "head"), "eye": ("eye.{s}", "tail"), "ear": ("ear.{s}", "head")},
)  # fmt: skip
UNREAL = RigNames("Unreal", ("l", "r"), UNREAL_LIMBS, "head", {}, head_has_length=False)


def mixamo(prefix: str) -> RigNames:
    """Mixamo's names behind `prefix` ("mixamorig:", "mixamorig1:", or nothing after a rename)."""
    return RigNames(
        f"Mixamo ({prefix or 'no prefix'})", ("Left", "Right"),
        {limb: prefix + name for limb, name in MIXAMO_LIMBS.items()}, prefix + "Head",
        {"eye": (prefix + "{s}Eye", "head")},
    )  # fmt: skip


def families(bone_names: Iterable[str]) -> list[RigNames]:
    """The families to try on these bones, in order. A Mixamo prefix is read off the bones themselves."""
    prefixes = sorted({name.removesuffix("LeftArm") for name in bone_names if name.endswith("LeftArm")})
    return [RIGIFY_GENERATED, RIGIFY_METARIG, *(mixamo(p) for p in prefixes or ["mixamorig:"]), UNREAL]


def _face_estimate(bones, names: RigNames) -> dict[str, np.ndarray]:
    """Nose, eyes and ears in the head bone's space, guessed from the rest pose.

    Left, up and front come from hips and shoulders, not from the bone's roll, which every exporter sets
    its own way.
    """
    at = {point: np.array(bones[bone].head_local) for point, bone in names.body().items()}
    shoulders = (at["left_shoulder"] + at["right_shoulder"]) / 2
    spine = shoulders - (at["left_hip"] + at["right_hip"]) / 2
    left = at["left_shoulder"] - at["right_shoulder"]
    up = spine / np.linalg.norm(spine)
    left = left - up * (left @ up)
    left /= np.linalg.norm(left)
    axes = np.stack([left, np.cross(left, up), up])  # a character facing -Y has its left at +X
    head = bones[names.head]
    size = head.length if names.head_has_length else HEAD_PER_TORSO * np.linalg.norm(spine)
    to_bone = np.array(head.matrix_local.to_3x3().inverted())
    return {point: to_bone @ (size * np.array(where) @ axes) for point, where in FACE_ON_HEAD.items()}
