"""Rigs of any names, by what the VRM add-on saved with them: its layout made by property groups like its own."""

from __future__ import annotations

import re
import uuid

import bpy
import pytest
import rigs
from bl_ext.user_default.musev.rig import people, pose, vrm
from bl_ext.user_default.musev.rig.skeleton import INDEX
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector

MMD = rigs.Naming(
    vrm.TITLE, ("左", "右"), rigs._limbs("{s}腕", "{s}ひじ", "{s}手首", "{s}足", "{s}ひざ", "{s}足首"), "頭",
    {"eye": ("{s}目", 0)}, rigs._hands("{s}{f}{n}", "親指 人指 中指 薬指 小指"), "{s}つま先", ("センター", "首"),
)  # fmt: skip
LIMBS = dict(zip(rigs.LIMBS, ("upperArm", "lowerArm", "hand", "upperLeg", "lowerLeg", "foot"), strict=True))
JOINTS = ("Proximal", "Intermediate", "Distal")


def played(naming, thumb=JOINTS) -> dict[str, str]:
    """VRM's humanoid bone -> the rig's."""
    found = {"head": naming.head}
    for side, token in zip(("left", "right"), naming.sides, strict=True):
        for limb, human in LIMBS.items():
            found[side + human[0].upper() + human[1:]] = naming.limbs[limb].format(s=token)
        found[f"{side}Eye"] = naming.face["eye"][0].format(s=token)
        found[f"{side}Toes"] = naming.toe.format(s=token)
        for finger in rigs.FINGERS:
            for number, joint in enumerate(thumb if finger == "thumb" else JOINTS, start=1):
                bone = naming.hands[f"{finger}_{number}"][0].format(s=token)
                found[f"{side}{finger.capitalize()}{joint}"] = bone
    return found


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)


def assign(armature, bones: dict[str, str], version: int) -> None:
    """Saves the assignment as the add-on does, and takes the add-on away again."""

    def group(title, **fields):
        made = type(title, (bpy.types.PropertyGroup,), {"__annotations__": fields})
        bpy.utils.register_class(made)
        classes.append(made)
        return bpy.props.PointerProperty(type=made), made

    classes: list[type] = []
    text = bpy.props.StringProperty()
    node, _ = group("TestVrmNode", bone_uuid=text, armature_data_name=text)
    human_1, _ = group("TestVrm1Human", node=node)
    humans_1, _ = group("TestVrm1Humans", **{snake(name): human_1 for name in bones})
    _, human_0 = group("TestVrm0Human", bone=text, node=node)
    humanoid_0, _ = group("TestVrm0Humanoid", human_bones=bpy.props.CollectionProperty(type=human_0))
    humanoid_1, _ = group("TestVrm1Humanoid", human_bones=humans_1)
    vrm0, _ = group("TestVrm0", humanoid=humanoid_0)
    vrm1, _ = group("TestVrm1", humanoid=humanoid_1)
    spec = bpy.props.EnumProperty(items=(("0.0", "0", "", "NONE", 0), ("1.0", "1", "", "NONE", 1)))
    bpy.types.Armature.vrm_addon_extension, _ = group("TestVrm", vrm0=vrm0, vrm1=vrm1, spec_version=spec)
    bpy.types.Bone.vrm_addon_extension, _ = group("TestVrmBone", uuid=text)
    try:
        for bone in armature.bones:
            bone.vrm_addon_extension.uuid = uuid.uuid4().hex
        extension = armature.vrm_addon_extension
        extension.spec_version = ("0.0", "1.0")[version]
        for human, bone in bones.items():
            if version == 0:
                entry = extension.vrm0.humanoid.human_bones.add()
                entry.bone = human
            else:
                entry = getattr(extension.vrm1.humanoid.human_bones, snake(human))
            entry.node.bone_uuid = armature.bones[bone].vrm_addon_extension.uuid
    finally:
        del bpy.types.Armature.vrm_addon_extension, bpy.types.Bone.vrm_addon_extension
        for made in reversed(classes):
            bpy.utils.unregister_class(made)


@pytest.mark.parametrize(
    ("version", "thumb"), [(0, JOINTS), (1, ("Metacarpal", "Proximal", "Distal"))], ids=["vrm 0", "vrm 1"]
)
def test_assigned_bones_are_the_map(empty_scene, version, thumb):
    rig = rigs.figure(MMD, face=True, hands=True)
    assert not people.find(rig).usable and vrm.assigned(rig.data) is None
    assign(rig.data, played(MMD, thumb), version)
    rig.data.bones["左腕"].name = "renamed since"  # a bone is known by its uuid
    rigs.camera()
    rigs.wave(rig, range(1, 12), every=5)
    person = people.resolve(rig)
    assert person.map == vrm.TITLE and person.score > 0.95 and not person.missing and not person.swapped
    empty_scene.render.resolution_x, empty_scene.render.resolution_y = 512, 512
    points = pose.keypoints(empty_scene, [person], None, 512, 512, [8])[0, 0]
    empty_scene.frame_set(8)
    posed = rig.evaluated_get(bpy.context.evaluated_depsgraph_get())
    for point, (name, end) in MMD.points().items():
        bone = posed.pose.bones["renamed since" if name == "左腕" else name]
        place = posed.matrix_world @ Vector(bone.head.lerp(bone.tail, end))
        seen = world_to_camera_view(empty_scene, empty_scene.camera, place)
        assert points[INDEX[point], :2] == pytest.approx((seen.x * 512, (1 - seen.y) * 512), abs=0.01), point


def test_names_that_are_known_stay_so_and_a_map_chosen_by_hand_comes_first(empty_scene):
    rig = rigs.figure(rigs.VROID, face=True, hands=True)
    before = people.find(rig)
    assign(rig.data, played(rigs.VROID), 0)
    assert people.find(rig) == before and before.map.title == "VRM (VRoid)"
    rig = rigs.figure(MMD, "Other", hands=True)
    assign(rig.data, {key: bone for key, bone in played(MMD).items() if "Eye" not in key}, 1)
    rig.data.musev_rig.map = "Mixamo"
    assert people.find(rig).map.title == "Mixamo"


def test_what_is_not_an_assignment_is_none(empty_scene):
    rig = rigs.figure(MMD)
    for value in ("text", {"vrm0": 3}, {"vrm1": {"humanoid": {"human_bones": {"hips": {"node": "x"}}}}}):
        rig.data["vrm_addon_extension"] = value
        assert vrm.assigned(rig.data) is None
