"""Small armatures for the tests: a standing figure in A-pose, facing -Y, under any family's bone names.

The names are written down here once more, apart from the extension's own tables, so that each proves the other.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import bpy

# point: (head, tail) in metres for the left side (x > 0) or the middle
LIMBS = {
    "shoulder": ((0.18, 0.0, 1.45), (0.42, 0.02, 1.25)),
    "elbow": ((0.42, 0.02, 1.25), (0.62, 0.0, 1.05)),
    "wrist": ((0.62, 0.0, 1.05), (0.70, 0.0, 0.97)),
    "hip": ((0.10, 0.0, 0.95), (0.11, -0.02, 0.50)),
    "knee": ((0.11, -0.02, 0.50), (0.11, 0.02, 0.08)),
    "ankle": ((0.11, 0.02, 0.08), (0.11, -0.12, 0.02)),
}
HEAD = ((0.0, 0.0, 1.56), (0.0, 0.0, 1.78))
TOE = (0.11, -0.12, 0.02), (0.11, -0.2, 0.02)
EYE, NOSE, EAR = (0.04, -0.1, 1.68), (0.0, -0.19, 1.63), (0.09, 0.0, 1.65)
FINGERS = ("thumb", "index", "middle", "ring", "little")
PARENT = {"elbow": "shoulder", "wrist": "elbow", "knee": "hip", "ankle": "knee"}


def finger_joint(finger: str, joint: int) -> tuple[float, float, float]:
    """Where joint 1 (at the palm) to 4 (the tip) of a left finger is."""
    number = FINGERS.index(finger)
    if finger == "thumb":
        return (0.64 + 0.02 * joint, -0.03 - 0.015 * joint, 1.03 - 0.012 * joint)
    along = 0.08 + 0.028 * (joint - 1)
    return (0.62 + along * 0.7, -0.04 + 0.02 * number, 1.05 - along * 0.7)


@dataclass(frozen=True)
class Naming:
    """What one family of rigs calls its bones. `{s}` stands for the side. limbs: by their bone's head; face: nose, eye,
    ear -> (bone, end); hands: 'thumb_1' … -> (bone, end); others: bones that are no point."""

    title: str
    sides: tuple[str, str]
    limbs: dict[str, str]
    head: str
    face: dict[str, tuple[str, float]] = field(default_factory=dict)
    hands: dict[str, tuple[str, float]] = field(default_factory=dict)
    toe: str = ""
    others: tuple[str, ...] = ()

    def points(self) -> dict[str, tuple[str, float]]:
        """Every point with a bone -> (bone, 0 for its head, 1 for its tail)."""
        found = {}
        for side, token in zip(("left", "right"), self.sides, strict=True):
            for limb, bone in self.limbs.items():
                found[f"{side}_{limb}"] = (bone.format(s=token), 0)
            for joint, (bone, end) in self.hands.items():
                found[f"{side}_{joint}"] = (bone.format(s=token), end)
            if self.hands:
                found[f"{side}_hand"] = found[f"{side}_wrist"]
            for part, (bone, end) in self.face.items():
                found["nose" if part == "nose" else f"{side}_{part}"] = (bone.format(s=token), end)
        return found


def _limbs(*names: str) -> dict[str, str]:
    return dict(zip(LIMBS, names, strict=True))


def _hands(pattern: str, fingers: str, numbers: str = "1 2 3", tip: str = "") -> dict[str, tuple[str, float]]:
    found = {}
    for finger, called in zip(FINGERS, fingers.split(), strict=True):
        bones = [pattern.replace("{f}", called).replace("{n}", number) for number in numbers.split()]
        found |= {f"{finger}_{joint}": (bone, 0) for joint, bone in enumerate(bones, start=1)}
        found[f"{finger}_4"] = (tip.replace("{f}", called), 0) if tip else (bones[-1], 1)
    return found


RIGIFY_METARIG = Naming(
    "Rigify metarig", ("L", "R"),
    _limbs("upper_arm.{s}", "forearm.{s}", "hand.{s}", "thigh.{s}", "shin.{s}", "foot.{s}"), "spine.006",
    {"nose": ("nose.002", 0), "eye": ("eye.{s}", 1), "ear": ("ear.{s}", 0)},
    _hands("{f}.{n}.{s}", "thumb f_index f_middle f_ring f_pinky", "01 02 03"), "toe.{s}",
    ("spine", "spine.001", "spine.002", "spine.003"),
)  # fmt: skip
RIGIFY_GENERATED = Naming(
    "Rigify generated rig", ("L", "R"),
    {limb: "DEF-" + name for limb, name in RIGIFY_METARIG.limbs.items()}, "DEF-spine.006",
    {"nose": ("DEF-nose.002", 0), "eye": ("ORG-eye.{s}", 1), "ear": ("DEF-ear.{s}", 0)},
    {joint: ("DEF-" + bone, end) for joint, (bone, end) in RIGIFY_METARIG.hands.items()}, "DEF-toe.{s}",
    ("DEF-spine", "ORG-spine", "ORG-upper_arm.L", "upper_arm_fk.L", "hand_ik.L"),
)  # fmt: skip


def mixamo(prefix: str = "mixamorig:", end_bones: bool = True) -> Naming:
    return Naming(
        "Mixamo", ("Left", "Right"),
        _limbs(*(prefix + "{s}" + name for name in ("Arm", "ForeArm", "Hand", "UpLeg", "Leg", "Foot"))),
        prefix + "Head", {"eye": (prefix + "{s}Eye", 0)},
        _hands(
            prefix + "{s}Hand{f}{n}", "Thumb Index Middle Ring Pinky",
            tip=prefix + "{s}Hand{f}4" if end_bones else "",
        ),
        prefix + "{s}ToeBase",
        tuple(prefix + name for name in ("Hips", "Spine", "Spine1", "Spine2", "LeftShoulder", "RightShoulder")),
    )  # fmt: skip


UNREAL = Naming(
    "Unreal mannequin", ("l", "r"),
    _limbs("upperarm_{s}", "lowerarm_{s}", "hand_{s}", "thigh_{s}", "calf_{s}", "foot_{s}"), "head", {},
    _hands("{f}_{n}_{s}", "thumb index middle ring pinky", "01 02 03"), "ball_{s}",
    ("pelvis", "spine_01", "spine_02", "spine_03", "clavicle_l", "clavicle_r", "ik_foot_root", "ik_hand_root"),
)  # fmt: skip
MPFB_GAME = Naming(
    "Unreal mannequin", UNREAL.sides, UNREAL.limbs, "head", {}, UNREAL.hands, "ball_{s}",
    ("Root", "pelvis", "spine_01", "spine_02", "spine_03", "clavicle_l", "clavicle_r", "neck_01"),
)  # fmt: skip
VROID = Naming(
    "VRM (VRoid)", ("L", "R"),
    _limbs(*(f"J_Bip_{{s}}_{name}" for name in ("UpperArm", "LowerArm", "Hand", "UpperLeg", "LowerLeg", "Foot"))),
    "J_Bip_C_Head", {"eye": ("J_Adj_{s}_FaceEye", 0)},
    _hands("J_Bip_{s}_{f}{n}", "Thumb Index Middle Ring Little"), "J_Bip_{s}_ToeBase",
    ("J_Bip_C_Hips", "J_Bip_C_Chest", "J_Sec_Hair1_01"),
)  # fmt: skip
_VRM_LIMBS = _limbs(
    *("{s}" + name for name in ("UpperArm", "LowerArm", "Hand", "UpperLeg", "LowerLeg", "Foot"))
)
_VRM_HANDS = _hands("{s}{f}{n}", "Thumb Index Middle Ring Little", "Proximal Intermediate Distal")
VRM0 = Naming(
    "VRM", ("left", "right"), _VRM_LIMBS, "head", {"eye": ("{s}Eye", 0)}, _VRM_HANDS, "{s}Toes",
    ("hips", "spine", "chest", "neck"),
)  # fmt: skip
VRM1 = Naming(
    "VRM", ("left", "right"), _VRM_LIMBS, "head", {"eye": ("{s}Eye", 0)},
    _VRM_HANDS | {"thumb_1": ("{s}ThumbMetacarpal", 0), "thumb_2": ("{s}ThumbProximal", 0)}, "{s}Toes",
    ("hips", "spine", "chest", "neck"),
)  # fmt: skip
VRM_ADDON = Naming(
    "VRM", ("L", "R"),
    _limbs("upper_arm.{s}", "lower_arm.{s}", "hand.{s}", "upper_leg.{s}", "lower_leg.{s}", "foot.{s}"), "head",
    {"eye": ("eye.{s}", 0)}, _hands("{f}_{n}.{s}", "thumb index middle ring little", "proximal intermediate distal"),
    "toes.{s}", ("hips", "spine", "chest", "neck"),
)  # fmt: skip
CMU = Naming(
    "CMU BVH", ("Left", "Right"),
    _limbs("{s}Arm", "{s}ForeArm", "{s}Hand", "{s}UpLeg", "{s}Leg", "{s}Foot"), "Head", {},
    {"index_1": ("{s}HandIndex1", 0), "index_4": ("{s}HandIndex1", 1)}, "{s}ToeBase",
    ("Hips", "LHipJoint", "RHipJoint", "LowerBack", "Spine", "Spine1", "Neck", "Neck1",
     "LeftShoulder", "RightShoulder", "LeftFingerBase", "RightFingerBase"),
)  # fmt: skip
BVH_JOINTS = Naming(
    "BVH by joints", ("Left", "Right"),
    _limbs("{s}Shoulder", "{s}Elbow", "{s}Wrist", "{s}Hip", "{s}Knee", "{s}Ankle"), "Head", {}, {}, "{s}Toe",
    ("Hips", "Chest", "LeftCollar", "RightCollar", "Neck"),
)  # fmt: skip
ARP_CONTROL = Naming(
    "Auto-Rig Pro", ("l", "r"),
    _limbs("arm.{s}", "forearm.{s}", "hand.{s}", "thigh.{s}", "leg.{s}", "foot.{s}"), "head.x",
    {"eye": ("c_eye.{s}", 0), "ear": ("c_ear_01.{s}", 0)},
    _hands("{f}{n}.{s}", "thumb index middle ring pinky"), "toes_01.{s}",
    ("root.x", "spine_01.x", "neck.x", "c_arm_fk.l", "c_hand_ik.l", "c_foot_ik.l", "c_root_master.x", "arm_twist.l"),
)  # fmt: skip
ARP_EXPORTED = Naming(
    "Auto-Rig Pro", ("l", "r"),
    _limbs("arm_stretch.{s}", "forearm_stretch.{s}", "hand.{s}", "thigh_stretch.{s}", "leg_stretch.{s}", "foot.{s}"),
    "head.x", {}, _hands("c_{f}{n}.{s}", "thumb index middle ring pinky"), "toes_01.{s}",
    ("root.x", "spine_01.x", "spine_02.x", "neck.x", "shoulder.l", "shoulder.r"),
)  # fmt: skip
MPFB = Naming(
    "MPFB / MakeHuman", ("L", "R"),
    _limbs("upperarm01.{s}", "lowerarm01.{s}", "wrist.{s}", "upperleg01.{s}", "lowerleg01.{s}", "foot.{s}"), "head",
    {"eye": ("eye.{s}", 0)}, _hands("finger{f}-{n}.{s}", "1 2 3 4 5"), "toe1-1.{s}",
    ("root", "spine05", "spine01", "neck01", "clavicle.L", "clavicle.R", "upperarm02.L", "jaw"),
)  # fmt: skip
GENESIS_8 = Naming(
    "DAZ / Poser", ("l", "r"),
    _limbs("{s}ShldrBend", "{s}ForearmBend", "{s}Hand", "{s}ThighBend", "{s}Shin", "{s}Foot"), "head",
    {"eye": ("{s}Eye", 0)}, _hands("{s}{f}{n}", "Thumb Index Mid Ring Pinky"), "{s}Toe",
    ("hip", "pelvis", "abdomenLower", "chestUpper", "lCollar", "rCollar", "lShldrTwist", "lForearmTwist", "lCarpal1"),
)  # fmt: skip
CMU_DAZ = Naming(
    "DAZ / Poser", ("l", "r"),
    _limbs("{s}Shldr", "{s}ForeArm", "{s}Hand", "{s}Thigh", "{s}Shin", "{s}Foot"), "head", {}, {}, "",
    ("hip", "abdomen", "chest", "lCollar", "rCollar", "neck"),
)  # fmt: skip
BIPED = Naming(
    "3ds Max Biped", ("L", "R"),
    _limbs(*(f"Bip001 {{s}} {name}" for name in ("UpperArm", "Forearm", "Hand", "Thigh", "Calf", "Foot"))),
    "Bip001 Head", {},
    {
        f"{finger}_{joint}": (f"Bip001 {{s}} Finger{number}{('', '1', '2', '2')[joint - 1]}", joint // 4)
        for number, finger in enumerate(FINGERS)
        for joint in (1, 2, 3, 4)
    },
    "Bip001 {s} Toe0", ("Bip001", "Bip001 Pelvis", "Bip001 Spine", "Bip001 L Clavicle", "Bip001 R Clavicle"),
)  # fmt: skip
NAMINGS = {
    "rigify metarig names": RIGIFY_METARIG, "rigify generated names": RIGIFY_GENERATED, "mixamo": mixamo(),
    "mixamo 7 without end bones": mixamo("mixamorig7:", end_bones=False), "mixamo without prefix": mixamo(""),
    "unreal": UNREAL, "mpfb game engine": MPFB_GAME, "vroid": VROID, "vrm 0": VRM0, "vrm 1": VRM1,
    "vrm add-on": VRM_ADDON, "cmu": CMU, "bvh joints": BVH_JOINTS, "auto-rig pro": ARP_CONTROL,
    "auto-rig pro exported": ARP_EXPORTED, "mpfb": MPFB, "genesis 8": GENESIS_8, "cmu for daz": CMU_DAZ,
    "biped": BIPED,
}  # fmt: skip


def figure(
    names: Naming, name: str = "Rig", face: bool = False, hands: bool = False, roll: float = 0.0
) -> bpy.types.Object:
    """An armature whose bones are called as `names` says, in the scene and active."""
    data = bpy.data.armatures.new(name)
    rig = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")

    def bone(bone_name, head, tail, mirror=False, parent=None):
        edit = data.edit_bones.new(bone_name)
        sign = -1 if mirror else 1
        edit.head = (sign * head[0], *head[1:])
        edit.tail = (sign * tail[0], *tail[1:])
        edit.roll, edit.parent = roll, parent
        return edit

    root = bone("root", (0, 0, 0.95), (0, 0, 1.2))
    for other in names.others:
        if other not in data.edit_bones:
            bone(other, (0, 0.02, 1.0), (0, 0.02, 1.1), parent=root)
    head = bone(names.head, *HEAD, parent=root)
    for token, mirror in zip(names.sides, (False, True), strict=True):
        made = {
            limb: bone(called.format(s=token), *LIMBS[limb], mirror) for limb, called in names.limbs.items()
        }
        for limb in LIMBS:
            made[limb].parent = made[PARENT[limb]] if limb in PARENT else root
        if names.toe:
            bone(names.toe.format(s=token), *TOE, mirror, made["ankle"])
        if hands:
            _add_hand(names, token, mirror, bone, made["wrist"])
        if face:
            _add_face(names, token, mirror, bone, head)
    bpy.ops.object.mode_set(mode="OBJECT")
    return rig


def _add_hand(names: Naming, token: str, mirror: bool, bone, wrist) -> None:
    for finger in FINGERS:
        parent = wrist
        heads = [joint for joint in (1, 2, 3, 4) if names.hands.get(f"{finger}_{joint}", ("", 1))[1] == 0]
        for joint in heads:
            following = next((n for n in heads if n > joint), 4)
            place = finger_joint(finger, joint)
            tail = finger_joint(finger, following) if joint < 4 else tuple(x + 0.01 for x in place)
            parent = bone(names.hands[f"{finger}_{joint}"][0].format(s=token), place, tail, mirror, parent)


def _add_face(names: Naming, token: str, mirror: bool, bone, head) -> None:
    for part, place in (("nose", NOSE), ("eye", EYE), ("ear", EAR)):
        if part in names.face and not (part == "nose" and mirror):
            called, end = names.face[part]
            # The point lies at the end that the naming says.
            start = (place[0], place[1] + 0.03 * end, place[2])
            bone(called.format(s=token), start, (start[0], start[1] - 0.03, start[2]), mirror, head)


def wave(rig: bpy.types.Object, frames: range, seed: int = 1, every: int = 10, only=None) -> None:
    """Keys every bone of the rig (or those named), and the rig's own place, to random small turns."""
    draw = random.Random(seed)
    bones = [bone for bone in rig.pose.bones if only is None or bone.name in only]
    for frame in frames[::every]:
        for bone in bones:
            bone.rotation_mode = "XYZ"
            bone.rotation_euler = [draw.uniform(-0.3, 0.3) for _ in range(3)]
            bone.keyframe_insert("rotation_euler", frame=frame)
        rig.location = [draw.uniform(-0.3, 0.3) for _ in range(3)]
        rig.rotation_euler = (0, 0, draw.uniform(-math.pi, math.pi))
        rig.keyframe_insert("location", frame=frame)
        rig.keyframe_insert("rotation_euler", frame=frame)


def camera(location=(0.0, -5.0, 1.0), rotation=(1.5708, 0.0, 0.0), **lens) -> bpy.types.Object:
    """A camera in front of the figure; `lens` sets the camera data's properties."""
    data = bpy.data.cameras.new("Camera")
    for key, value in lens.items():
        setattr(data, key, value)
    view = bpy.data.objects.new("Camera", data)
    view.location, view.rotation_euler = location, rotation
    bpy.context.scene.collection.objects.link(view)
    bpy.context.scene.camera = view
    bpy.context.view_layer.update()
    return view
