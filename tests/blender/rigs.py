"""Small armatures for the tests: a standing figure in A-pose, facing -Y, under any family's bone names."""

from __future__ import annotations

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


def figure(names, name: str = "Rig", face: bool = False, roll: float = 0.0) -> bpy.types.Object:
    """An armature whose bones are called as `names` (a pose.RigNames) says, in the scene and active."""
    data = bpy.data.armatures.new(name)
    rig = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")

    def bone(bone_name, head, tail, mirror=False):
        edit = data.edit_bones.new(bone_name)
        sign = -1 if mirror else 1
        edit.head = (sign * head[0], *head[1:])
        edit.tail = (sign * tail[0], *tail[1:])
        edit.roll = roll
        return edit

    root = bone("root", (0, 0, 0.95), (0, 0, 1.2))
    head = bone(names.head, *HEAD)
    head.parent = root
    for token, mirror in zip(names.sides, (False, True), strict=True):
        made = {limb: bone(name.format(s=token), *LIMBS[limb], mirror) for limb, name in names.limbs.items()}
        for limb, parent in (("elbow", "shoulder"), ("wrist", "elbow"), ("knee", "hip"), ("ankle", "knee")):
            made[limb].parent = made[parent]
        made["shoulder"].parent = made["hip"].parent = root
    if face:
        for part, place in (
            ("nose", (0.0, -0.19, 1.63)),
            ("eye", (0.04, -0.1, 1.68)),
            ("ear", (0.09, 0.0, 1.65)),
        ):
            bone_name = names.face[part][0]
            tail = (place[0], place[1] - 0.03, place[2])
            for token, mirror in zip(names.sides, (False, True), strict=True):
                if part == "nose" and mirror:
                    continue
                bone(bone_name.format(s=token), place, tail, mirror).parent = head
    bpy.ops.object.mode_set(mode="OBJECT")
    return rig


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
