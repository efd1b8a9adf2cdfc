"""The bone names of the rigs people have, as public sources give them.

In a table `{s}` stands for the side; a name alone means the bone's head, `name > 1` its tail, `> 0.5` its middle, and
several names are tried in order. A fingertip is the tail of the last bone, or the head of an end bone where one is
exported. Face points are the left half; the right one mirrors it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .maps import Hook, RigMap
from .skeleton import FINGERS, mirrored

Table = Mapping[str, str | Sequence[str]]


def _hook(text: str) -> Hook:
    bone, _, end = text.partition(" > ")
    return Hook(bone, float(end or 0))


def _map(
    title: str, sides: tuple[str, str], limbs: Table, middle: Table, face: Table | None = None, **more
) -> RigMap:
    """limbs: for both sides, without 'left_'; middle: as they are; face: by the name of the left or middle point."""
    hooks: dict[str, tuple[Hook, ...]] = {}

    def put(point: str, names: str | Sequence[str], side: str = "") -> None:
        names = (names,) if isinstance(names, str) else names
        hooks[point] = tuple(_hook(name.replace("{s}", side)) for name in names)

    for side, token in zip(("left", "right"), sides, strict=True):
        for limb, names in limbs.items():
            put(f"{side}_{limb}", names, token)
    for point, names in middle.items():
        put(point, names)
    for point, names in (face or {}).items():
        put(point, names, sides[0])
        put(mirrored(point), names, sides[1] if mirrored(point) != point else sides[0])
    return RigMap(title, hooks, **more)


def _fingers(
    pattern: str, called: Sequence[str], numbers: Sequence[str], tip: str = ""
) -> dict[str, list[str]]:
    """The four points of each finger; {f}: what the rig calls it, {n}: its bone's number. tip: an end bone's name."""
    table: dict[str, list[str]] = {}
    for finger, name in zip(FINGERS, called, strict=True):
        bones = [pattern.replace("{f}", name).replace("{n}", number) for number in numbers]
        for joint, bone in enumerate(bones, start=1):
            table[f"{finger}_{joint}"] = [bone]
        table[f"{finger}_4"] = [tip.replace("{f}", name)] * bool(tip) + [f"{bones[-1]} > 1"]
    return table


# Rigify's human metarig and what is generated from it (read off the add-on in Blender 4.2 to 5.2; projects.blender.org,
# scripts/addons_core/rigify/metarigs/human.py). The face is the "classic" one.
_RIGIFY_FACE = {
    "left_eye": "eye.{s} > 1", "left_ear": "ear.{s}", "nose": "nose.002",
    "jaw_17": "jaw.{s}", "jaw_16": "jaw.{s} > 0.33", "jaw_15": "jaw.{s} > 0.67",
    "jaw_14": "jaw.{s}.001", "jaw_13": "jaw.{s}.001 > 0.25", "jaw_12": "jaw.{s}.001 > 0.5",
    "jaw_11": "jaw.{s}.001 > 0.75", "jaw_10": "jaw.{s}.001 > 1", "jaw_9": "jaw > 1",
    "left_brow_1": "brow.T.{s}.002 > 1", "left_brow_2": "brow.T.{s}.002 > 0.5", "left_brow_3": "brow.T.{s}.002",
    "left_brow_4": "brow.T.{s}.001 > 0.5", "left_brow_5": "brow.T.{s}.001",
    "nose_bridge_1": "nose", "nose_bridge_2": "nose > 0.5", "nose_bridge_3": "nose.001", "nose_bridge_4": "nose.002",
    "nose_base_3": "nose.004", "nose_base_4": "nose.{s}.001 > 0.4", "nose_base_5": "nose.{s}.001",
    "left_lid_1": "lid.T.{s}.003 > 1", "left_lid_2": "lid.T.{s}.003", "left_lid_3": "lid.T.{s}.001",
    "left_lid_4": "lid.T.{s}", "left_lid_5": "lid.B.{s}.003", "left_lid_6": "lid.B.{s}.001",
    "outer_lips_4": "lip.T.{s}", "outer_lips_5": "lip.T.{s} > 0.4", "outer_lips_6": "lip.T.{s}.001",
    "outer_lips_7": "lip.T.{s}.001 > 1", "outer_lips_8": "lip.B.{s}.001", "outer_lips_9": "lip.B.{s} > 0.4",
    "outer_lips_10": "lip.B.{s}",
}  # fmt: skip
_RIGIFY_LIMBS = {
    "shoulder": "upper_arm.{s}", "elbow": "forearm.{s}", "wrist": "hand.{s}",
    "hip": "thigh.{s}", "knee": "shin.{s}", "ankle": "foot.{s}", "toe": "toe.{s}",
} | _fingers("{f}.{n}.{s}", ("thumb", "f_index", "f_middle", "f_ring", "f_pinky"), ("01", "02", "03"))  # fmt: skip
RIGIFY_METARIG = _map(
    "Rigify metarig", ("L", "R"), _RIGIFY_LIMBS, {"head": "spine.006"}, _RIGIFY_FACE,
    marks=("spine", "spine.003", "toe.L"),
)  # fmt: skip


def _generated(table: Table) -> dict[str, list[str]]:
    return {
        point: ["DEF-" + name for name in ((names,) if isinstance(names, str) else names)]
        for point, names in table.items()
    }


RIGIFY_GENERATED = _map(
    "Rigify generated rig", ("L", "R"), _generated(_RIGIFY_LIMBS), {"head": "DEF-spine.006"},
    _generated(_RIGIFY_FACE) | {"left_eye": "ORG-eye.{s} > 1"},  # the deforming eye has no bone of its own
    marks=("DEF-spine", "ORG-spine", "DEF-toe.L"),
)  # fmt: skip

# Mixamo behind any prefix ("mixamorig:", "mixamorig7:", none), Ready Player Me, MPFB's and MakeHuman's Mixamo rigs
# (github.com/makehumancommunity/mpfb2, data/rigs/standard/rig.mixamo.json; github.com/saturday06/VRM-Addon-for-Blender,
# common/human_bone_mapper/mixamo_mapping.py).
MIXAMO = _map(
    "Mixamo", ("Left", "Right"),
    {
        "shoulder": "mixamorig:{s}Arm", "elbow": "mixamorig:{s}ForeArm", "wrist": "mixamorig:{s}Hand",
        "hip": "mixamorig:{s}UpLeg", "knee": "mixamorig:{s}Leg", "ankle": "mixamorig:{s}Foot",
        "toe": "mixamorig:{s}ToeBase", "eye": "mixamorig:{s}Eye",
    } | _fingers(
        "mixamorig:{s}Hand{f}{n}", ("Thumb", "Index", "Middle", "Ring", "Pinky"), "123", "mixamorig:{s}Hand{f}4"
    ),
    {"head": "mixamorig:Head", "crown": "mixamorig:HeadTop_End"},
    marks=("mixamorig:Hips", "mixamorig:Spine2", "mixamorig:LeftHandMiddle1"), head_has_length=False,
)  # fmt: skip

# Unreal's mannequins of UE4 and UE5 (SK_Mannequin, SKM_Manny), MetaHuman bodies, MPFB's and MakeHuman's game engine rig
# (makehumancommunity/mpfb2, rig.game_engine.json and rig.ue5.json; VRM-Addon-for-Blender, unreal_mapping.py).
UNREAL = _map(
    "Unreal mannequin", ("l", "r"),
    {
        "shoulder": "upperarm_{s}", "elbow": "lowerarm_{s}", "wrist": "hand_{s}",
        "hip": "thigh_{s}", "knee": "calf_{s}", "ankle": "foot_{s}", "toe": "ball_{s}",
        "eye": ("FACIAL_{s}_Eye", "eye_{s}"),
    } | _fingers("{f}_{n}_{s}", ("thumb", "index", "middle", "ring", "pinky"), ("01", "02", "03")),
    {"head": "head"}, marks=("pelvis", "spine_01", "clavicle_l"), head_has_length=False,
)  # fmt: skip

# VRoid Studio's bones (VRM-Addon-for-Blender, vroid_mapping.py), with the end bones that its files bring.
VROID = _map(
    "VRM (VRoid)", ("L", "R"),
    {
        "shoulder": "J_Bip_{s}_UpperArm", "elbow": "J_Bip_{s}_LowerArm", "wrist": "J_Bip_{s}_Hand",
        "hip": "J_Bip_{s}_UpperLeg", "knee": "J_Bip_{s}_LowerLeg", "ankle": "J_Bip_{s}_Foot",
        "toe": "J_Bip_{s}_ToeBase", "eye": "J_Adj_{s}_FaceEye",
    } | _fingers(
        "J_Bip_{s}_{f}{n}", ("Thumb", "Index", "Middle", "Ring", "Little"), "123", "J_Bip_{s}_{f}3_end"
    ),
    {"head": "J_Bip_C_Head", "crown": "J_Bip_C_Head_end"},
    marks=("J_Bip_C_Hips", "J_Bip_C_Chest"), head_has_length=False,
)  # fmt: skip


# VRM's humanoid bones by their own names: VRM 1.0's, and 0.x's thumb, which starts a bone's name earlier
# (github.com/vrm-c/vrm-specification, specification/VRMC_vrm-1.0/humanoid.md and 0.0/README.md), as the VRM add-on
# writes them too (upper_arm.L …; vrm_addon_mapping.py).
_VRM_BONES = ("Proximal", "Intermediate", "Distal")


def _vrm_fingers() -> dict[str, list[str]]:
    table = _fingers(
        "{s}{f}{n}", ("Thumb", "Index", "Middle", "Ring", "Little"), ("Proximal", "Intermediate", "Distal")
    )
    table["thumb_1"] = ["{s}ThumbMetacarpal", "{s}ThumbProximal"]
    table["thumb_2"] = ["{s}ThumbIntermediate", "{s}ThumbProximal"]
    return table


VRM = _map(
    "VRM", ("left", "right"),
    {
        "shoulder": "{s}UpperArm", "elbow": "{s}LowerArm", "wrist": "{s}Hand",
        "hip": "{s}UpperLeg", "knee": "{s}LowerLeg", "ankle": "{s}Foot", "toe": "{s}Toes", "eye": "{s}Eye",
    } | _vrm_fingers(),
    {"head": "head", "jaw": "jaw"}, marks=("hips", "chest"), head_has_length=False,
)  # fmt: skip

# Carnegie Mellon's motions as BVH (B. Hahne's conversion, cgspeed.com; the joints in the files themselves). A hand has
# a thumb and one finger of a bone each: knuckle and tip are known, the joints between are not.
CMU = _map(
    "CMU BVH", ("Left", "Right"),
    {
        "shoulder": "{s}Arm", "elbow": "{s}ForeArm", "wrist": "{s}Hand",
        "hip": "{s}UpLeg", "knee": "{s}Leg", "ankle": "{s}Foot", "toe": "{s}ToeBase",
        "index_1": "{s}HandIndex1", "index_4": "{s}HandIndex1 > 1",
    },
    {
        "head": "Head", "left_thumb_1": "LThumb", "left_thumb_4": "LThumb > 1",
        "right_thumb_1": "RThumb", "right_thumb_4": "RThumb > 1",
    },
    marks=("LHipJoint", "RHipJoint", "LowerBack", "LeftFingerBase"),
)  # fmt: skip

# Joints named for what they are, as many BVH files have them (Bandai Namco's motion data set, LaFAN1-like exports and
# the "3dsMax-friendly" CMU files name them so or nearly so).
BVH_JOINTS = _map(
    "BVH by joints", ("Left", "Right"),
    {
        "shoulder": ("{s}UpArm", "{s}Shoulder"), "elbow": ("{s}LowArm", "{s}Elbow"), "wrist": ("{s}Wrist", "{s}Hand"),
        "hip": ("{s}UpLeg", "{s}Hip"), "knee": ("{s}LowLeg", "{s}Knee"), "ankle": ("{s}Ankle", "{s}Foot"),
        "toe": ("{s}Toe", "{s}ToeBase"),
    },
    {"head": "Head"}, marks=("LeftCollar", "Chest"),
)  # fmt: skip

# Auto-Rig Pro's control rig, where arm.l and thigh.l follow both IK and FK, and its exported rig, which has the
# _stretch bones alone and c_ before every finger bone (docs: lucky3d.fr/auto-rig-pro/doc; names as games' and tools'
# public sources list them). Of its face the jaw is taken: sources (MustardUI's, for one) name the controls of lips,
# lids and brows (c_lips_smile.l, c_eyebrow_03.l), but not which end of theirs lies on the skin.
AUTO_RIG_PRO = _map(
    "Auto-Rig Pro", ("l", "r"),
    {
        "shoulder": ("arm.{s}", "c_arm_twist_offset.{s}", "arm_stretch.{s}", "c_arm_fk.{s}"),
        "elbow": ("forearm_stretch.{s}", "forearm.{s}", "c_forearm_fk.{s}"),
        "wrist": ("hand.{s}", "c_hand_fk.{s}"),
        "hip": ("thigh.{s}", "thigh_stretch.{s}", "c_thigh_fk.{s}"),
        "knee": ("leg_stretch.{s}", "leg.{s}", "c_leg_fk.{s}"),
        "ankle": ("foot.{s}", "c_foot_fk.{s}"), "toe": ("toes_01.{s}", "c_toes_fk.{s}"),
        "eye": ("c_eye.{s}", "eye.{s}"), "ear": ("c_ear_01.{s}", "ear_01.{s}"),
    } | {
        f"{finger}_{joint}": [f"{bone} > 1" if joint == 4 else bone for bone in (
            f"{name}{min(joint, 3)}.{{s}}", f"c_{name}{min(joint, 3)}.{{s}}")]
        for finger, name in zip(FINGERS, ("thumb", "index", "middle", "ring", "pinky"), strict=True)
        for joint in (1, 2, 3, 4)
    },
    {"head": ("head.x", "c_head.x"), "jaw": ("jawbone.x", "c_jawbone.x")}, marks=("root.x", "spine_01.x", "neck.x"),
)  # fmt: skip

# MPFB's and MakeHuman's default rig (makehumancommunity/mpfb2, rig.default.json; VRM-Addon-for-Blender,
# mpfb_mapping.py). Fingers are numbered from the thumb. Its bones of lips and brows are named after muscles (oris03.L,
# levator05.L), and are left alone; the jaw's is not in doubt.
MPFB = _map(
    "MPFB / MakeHuman", ("L", "R"),
    {
        "shoulder": "upperarm01.{s}", "elbow": "lowerarm01.{s}", "wrist": "wrist.{s}",
        "hip": "upperleg01.{s}", "knee": "lowerleg01.{s}", "ankle": "foot.{s}", "toe": "toe1-1.{s}",
        "eye": "eye.{s}",
    } | _fingers("finger{f}-{n}.{s}", "12345", "123"),
    {"head": "head", "jaw": "jaw"}, marks=("root", "spine05", "neck01"),
)  # fmt: skip

# Poser and DAZ figures (Genesis 1 to 8), and the "DAZ-friendly" files of CMU's motions (names as in the DAZ importer's
# and other public retargeting tables). Genesis 3 and 8 split the upper bones: the Bend part starts at the joint.
# Their face bones start on the skin where an average face has these points, within a centimetre (a Genesis 8 figure's
# joints in centimetres, as a public DAZ Studio to Maya script lists them: mouth corner 3.3 out and 6.9 below the
# pupils, upper lip's middle 6.1 below, nose 3.75). The lids' bones start in the eyeball, the chin's inside the chin:
# their other ends are an importer's choice, so they are left alone.
_DAZ_FACE = {
    "left_brow_1": "{s}BrowInner", "left_brow_3": "{s}BrowMid", "left_brow_5": "{s}BrowOuter",
    "nose_bridge_4": "Nose", "nose": "Nose",
    "outer_lips_4": "LipUpperMiddle", "outer_lips_5": "{s}LipUpperInner", "outer_lips_6": "{s}LipUpperOuter",
    "outer_lips_7": "{s}LipCorner", "outer_lips_8": "{s}LipLowerOuter", "outer_lips_9": "{s}LipLowerInner",
    "outer_lips_10": "LipLowerMiddle",
}  # fmt: skip
DAZ = _map(
    "DAZ / Poser", ("l", "r"),
    {
        "shoulder": ("{s}ShldrBend", "{s}Shldr"), "elbow": ("{s}ForearmBend", "{s}ForeArm"), "wrist": "{s}Hand",
        "hip": ("{s}ThighBend", "{s}Thigh"), "knee": "{s}Shin", "ankle": "{s}Foot", "toe": "{s}Toe", "eye": "{s}Eye",
    } | _fingers("{s}{f}{n}", ("Thumb", "Index", "Mid", "Ring", "Pinky"), "123"),
    {"head": "head", "jaw": "lowerJaw"}, _DAZ_FACE, marks=("hip", "lCollar", "rCollar"),
)  # fmt: skip

# 3ds Max's Biped (VRM-Addon-for-Blender, biped_mapping.py); a hand's fingers are 0 to 4, their bones "", 1 and 2.
_BIPED = {
    "shoulder": "UpperArm", "elbow": "Forearm", "wrist": "Hand", "hip": "Thigh", "knee": "Calf", "ankle": "Foot",
    "toe": "Toe0",
} | {point: names[0] for point, names in _fingers("Finger{f}{n}", "01234", ("", "1", "2")).items()}  # fmt: skip
BIPED = _map(
    "3ds Max Biped", ("L", "R"),
    {point: [f"{biped} {{s}} {name}" for biped in ("Bip01", "Bip001")] for point, name in _BIPED.items()},
    {"head": ("Bip01 Head", "Bip001 Head"), "crown": ("Bip01 HeadNub", "Bip001 HeadNub")}, head_has_length=False,
)  # fmt: skip

KNOWN: tuple[RigMap, ...] = (
    RIGIFY_GENERATED, RIGIFY_METARIG, MIXAMO, UNREAL, VROID, VRM, CMU, BVH_JOINTS, AUTO_RIG_PRO, MPFB, DAZ, BIPED,
)  # fmt: skip
BY_TITLE: dict[str, RigMap] = {rig_map.title: rig_map for rig_map in KNOWN}
