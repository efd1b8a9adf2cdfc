"""Rigged characters, their clothes and their motions, built from numbers inside Blender.

Runs in Blender's Python alone (`bpy`, `mathutils`, numpy). The training clips and the dancer of `examples/`
come from here, so the embedded model and the demo speak of the same kind of figure. Bones carry the names of
Rigify's human meta-rig (https://docs.blender.org/manual/en/latest/addons/rigging/rigify/), so whatever reads
a Rigify character reads these.

Units are metres, radians and seconds; the figure stands at the origin, looks along -Y, its left is +X.
Colours are sRGB triples in [0, 1].
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, field

import bpy
import numpy as np
from mathutils import Matrix, Quaternion, Vector

Colour = tuple[float, float, float]

SKIN_TONES: tuple[Colour, ...] = (
    (0.96, 0.84, 0.74),
    (0.89, 0.70, 0.56),
    (0.76, 0.56, 0.42),
    (0.55, 0.37, 0.26),
    (0.36, 0.23, 0.17),
)


@dataclass(frozen=True)
class Look:
    """What a character is made of. Lengths in metres, colours sRGB in [0, 1]."""

    height: float = 1.7
    head: float = 0.125  # radius of the skull
    shoulders: float = 0.21  # half the distance between the shoulder joints
    hips: float = 0.10  # half the distance between the hip joints
    girth: float = 1.0  # thickness of every limb and of the torso
    legs: float = 0.50  # share of the height below the hip joints
    skin: Colour = SKIN_TONES[1]
    hair: Colour = (0.2, 0.12, 0.08)
    shirt: Colour = (0.8, 0.2, 0.2)
    trousers: Colour = (0.2, 0.3, 0.7)
    shoes: Colour = (0.1, 0.1, 0.1)
    hair_style: str = "short"  # bald, short, long, bun, hat
    sleeves: str = "long"  # none, short, long
    bottom: str = "trousers"  # trousers, shorts, skirt
    baggy: float = 1.0  # how much wider than the leg the trousers are


@dataclass(frozen=True)
class Motion:
    """A periodic motion: each joint angle is `base + amplitude * sin(2 pi (rate * t + phase))`.

    `joints` maps a channel of `CHANNELS` to (base, amplitude, multiple of `rate`, phase in turns).
    """

    kind: str
    rate: float  # cycles a second
    joints: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)

    def at(self, seconds: float) -> dict[str, float]:
        """Value of every channel at a time."""
        return {
            name: base + amplitude * math.sin(2 * math.pi * (self.rate * multiple * seconds + phase))
            for name, (base, amplitude, multiple, phase) in self.joints.items()
        }


# Channels a motion may drive; `.L` and `.R` mirror each other, so equal values are a symmetric pose.
# arm_out lifts the arm sideways, arm_fwd swings it forward, elbow bends it (elbow_plane 0: to the front, 1: upward
# and inward).
CHANNELS = (
    "arm_out.L",
    "arm_out.R",
    "arm_fwd.L",
    "arm_fwd.R",
    "elbow.L",
    "elbow.R",
    "elbow_plane.L",
    "elbow_plane.R",
    "leg_out.L",
    "leg_out.R",
    "leg_fwd.L",
    "leg_fwd.R",
    "knee.L",
    "knee.R",
    "lean",
    "bend",
    "twist",
    "nod",
    "turn_head",
    "tilt_head",
    "yaw",
    "sway",
    "crouch",
)


# -------------------------------------------------------------------------------------------------- choosing
def _vivid(rng: np.random.Generator) -> Colour:
    value = rng.uniform(0.25, 1.0)
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.35, 1.0) if rng.uniform() > 0.15 else 0.05, value)


def random_look(rng: np.random.Generator) -> Look:
    """Proportions, colours and clothes of one character."""
    return Look(
        height=rng.uniform(1.45, 1.85),
        head=rng.uniform(0.125, 0.185),
        shoulders=rng.uniform(0.17, 0.25),
        hips=rng.uniform(0.085, 0.125),
        girth=rng.uniform(1.1, 1.7),
        legs=rng.uniform(0.44, 0.53),
        skin=SKIN_TONES[rng.integers(len(SKIN_TONES))],
        hair=_vivid(rng),
        shirt=_vivid(rng),
        trousers=_vivid(rng),
        shoes=_vivid(rng),
        hair_style=str(rng.choice(["bald", "short", "long", "bun", "hat"], p=[0.1, 0.35, 0.25, 0.15, 0.15])),
        sleeves=str(rng.choice(["none", "short", "long"])),
        bottom=str(rng.choice(["trousers", "shorts", "skirt"], p=[0.55, 0.25, 0.2])),
        baggy=rng.uniform(1.0, 1.5),
    )


MOTION_KINDS = ("dance", "walk", "wave", "jumping jack", "squat", "kick", "sway", "reach")


def random_motion(rng: np.random.Generator, kind: str | None = None) -> Motion:
    """A motion of a kind of `MOTION_KINDS` (any if not given), with its own size, speed and phase."""
    kind = kind or str(rng.choice(MOTION_KINDS, p=[0.36, 0.12, 0.12, 0.1, 0.08, 0.08, 0.04, 0.1]))
    u = rng.uniform
    phase = u()
    joints: dict[str, tuple[float, float, float, float]] = {
        "arm_out.L": (0.25, 0.1, 1, u()), "arm_out.R": (0.25, 0.1, 1, u()),
        "elbow.L": (u(0.1, 0.5), 0.1, 1, u()), "elbow.R": (u(0.1, 0.5), 0.1, 1, u()),
        "lean": (0, u(0, 0.1), 1, u()), "yaw": (u(-0.4, 0.4), u(0, 0.3), 0.5, u()),
        "turn_head": (0, u(0, 0.4), 1, u()), "tilt_head": (0, u(0, 0.2), 1, u()),
        "sway": (0, u(0, 0.06), 1, u()),
    }  # fmt: skip
    if kind == "dance":
        for side in "LR":
            joints[f"arm_out.{side}"] = (u(0.7, 1.7), u(0.5, 1.2), rng.choice([1, 2]), u())
            joints[f"arm_fwd.{side}"] = (0, u(0, 0.7), rng.choice([1, 2]), u())
            joints[f"elbow.{side}"] = (u(0.4, 1.3), u(0.3, 1.0), rng.choice([1, 2]), u())
            joints[f"elbow_plane.{side}"] = (u(0, 1), 0, 1, 0)
            joints[f"leg_out.{side}"] = (u(0.05, 0.3), u(0.05, 0.25), 1, u())
            joints[f"knee.{side}"] = (u(0.1, 0.5), u(0.1, 0.4), 1, u())
            joints[f"leg_fwd.{side}"] = (0.15, u(0.1, 0.4), 1, u())
        joints |= {"lean": (0, u(0.1, 0.35), 1, u()), "twist": (0, u(0.1, 0.4), 1, u()),
                   "yaw": (u(-0.5, 0.5), u(0, 0.8), 0.5, u()), "sway": (0, u(0.05, 0.2), 1, u()),
                   "crouch": (0.15, u(0, 0.15), 2, u())}  # fmt: skip
    elif kind == "walk":
        stride = u(0.35, 0.7)
        for side, offset in (("L", 0.0), ("R", 0.5)):
            joints[f"leg_fwd.{side}"] = (0.05, stride, 1, phase + offset)
            joints[f"knee.{side}"] = (0.4, 0.4, 1, phase + offset + 0.3)
            joints[f"arm_fwd.{side}"] = (0, stride * u(0.8, 1.3), 1, phase + offset + 0.5)
            joints[f"arm_out.{side}"] = (u(0.1, 0.3), 0, 1, 0)
            joints[f"elbow.{side}"] = (u(0.3, 0.9), 0.2, 1, phase + offset + 0.5)
        joints["yaw"] = (u(-1.4, 1.4), u(0, 0.2), 0.5, u())
    elif kind == "wave":
        for side in rng.permutation(["L", "R"])[: rng.integers(1, 3)]:
            joints[f"arm_out.{side}"] = (u(1.5, 2.4), u(0.1, 0.5), 1, u())
            joints[f"elbow.{side}"] = (u(0.4, 0.9), u(0.3, 0.8), 2, u())
            joints[f"elbow_plane.{side}"] = (1, 0, 1, 0)
    elif kind == "jumping jack":
        for side in "LR":
            joints[f"arm_out.{side}"] = (1.5, u(0.9, 1.3), 1, phase)
            joints[f"leg_out.{side}"] = (u(0.25, 0.35), u(0.2, 0.3), 1, phase)
            joints[f"elbow.{side}"] = (u(0, 0.3), 0, 1, 0)
    elif kind == "squat":
        joints["crouch"] = (u(0.45, 0.65), u(0.35, 0.5), 1, phase)
        arm = u(0.3, 1.2)
        for side in "LR":
            joints[f"arm_fwd.{side}"] = (arm, arm * 0.8, 1, phase)
            joints[f"leg_out.{side}"] = (u(0.1, 0.35), 0, 1, 0)
        joints["yaw"] = (u(-1.2, 1.2), 0.1, 0.5, u())
    elif kind == "kick":
        side, other = rng.permutation(["L", "R"])
        joints[f"leg_fwd.{side}"] = (u(0.3, 0.6), u(0.5, 0.8), 1, phase)
        joints[f"leg_out.{side}"] = (u(0.1, 0.5), u(0, 0.4), 1, phase)
        joints[f"knee.{side}"] = (u(0.4, 0.7), u(0.3, 0.5), 1, phase + 0.4)
        joints[f"arm_out.{side}"] = (u(0.6, 1.2), u(0.2, 0.6), 1, phase + 0.5)
        joints[f"arm_out.{other}"] = (u(0.6, 1.2), u(0.2, 0.6), 1, phase)
        joints["yaw"] = (u(-1.3, 1.3), u(0, 0.3), 0.5, u())
    elif kind == "sway":
        joints |= {
            "lean": (0, u(0.2, 0.4), 1, phase),
            "sway": (0, u(0.1, 0.25), 1, phase),
            "twist": (0, u(0, 0.4), 1, u()),
        }
    elif kind == "reach":
        for side in "LR":
            joints[f"arm_out.{side}"] = (u(0.2, 1.2), u(0, 0.8), 1, u())
            joints[f"arm_fwd.{side}"] = (u(0.6, 1.6), u(0.3, 1.0), 1, u())
            joints[f"elbow.{side}"] = (u(0, 0.6), u(0, 0.5), 1, u())
        joints |= {"bend": (u(0, 0.4), u(0, 0.4), 1, u()), "yaw": (u(-1.2, 1.2), u(0, 0.5), 0.5, u())}
    else:
        raise ValueError(f"unknown motion {kind!r}: choose one of {', '.join(MOTION_KINDS)}")
    return Motion(kind, rate=u(0.35, 0.8), joints=joints)


# -------------------------------------------------------------------------------------------------- building
class _Solid:
    """Gathers rigid parts (each bound to one bone, with one material) into one mesh."""

    SEGMENTS = 12

    def __init__(self) -> None:
        self.vertices: list[Vector] = []
        self.faces: list[tuple[int, ...]] = []
        self.face_materials: list[int] = []
        self.bones: dict[str, list[int]] = {}
        self.colours: list[Colour] = []

    def _material(self, colour: Colour) -> int:
        if colour not in self.colours:
            self.colours.append(colour)
        return self.colours.index(colour)

    def lathe(
        self, bone: str, colour: Colour, axis: Matrix, profile: list[tuple[float, float]], flat: float = 1.0
    ) -> None:
        """A surface of revolution: `profile` lists (position along the axis' Z, radius); `flat` scales its Y."""
        first, ring = len(self.vertices), self.SEGMENTS
        for z, radius in profile:
            for k in range(ring):
                angle = 2 * math.pi * k / ring
                self.vertices.append(
                    axis @ Vector((radius * math.cos(angle), flat * radius * math.sin(angle), z))
                )
        for j in range(len(profile) - 1):
            for k in range(ring):
                a, b = first + j * ring + k, first + j * ring + (k + 1) % ring
                self.faces.append((a, b, b + ring, a + ring))
        self.faces.append(tuple(first + k for k in reversed(range(ring))))
        self.faces.append(tuple(first + (len(profile) - 1) * ring + k for k in range(ring)))
        new_faces = len(self.faces) - len(self.face_materials)
        self.face_materials += [self._material(colour)] * new_faces
        self.bones.setdefault(bone, []).extend(range(first, len(self.vertices)))

    def capsule(
        self, bone: str, colour: Colour, start: Vector, end: Vector, r0: float, r1: float, flat: float = 1.0
    ) -> None:
        """A rounded limb from `start` (radius r0) to `end` (radius r1)."""
        direction = end - start
        axis = Matrix.Translation(start) @ _towards(direction)
        arc = [math.radians(a) for a in (85, 60, 30)]
        profile = [(-r0 * math.sin(a), r0 * math.cos(a)) for a in arc] + [(0.0, r0), (direction.length, r1)]
        profile += [(direction.length + r1 * math.sin(a), r1 * math.cos(a)) for a in reversed(arc)]
        self.lathe(bone, colour, axis, profile, flat)

    def ball(
        self,
        bone: str,
        colour: Colour,
        centre: Vector,
        radius: Vector | float,
        lower: float = -85,
        upper: float = 85,
    ) -> None:
        """An ellipsoid, or the part of it between two latitudes in degrees."""
        size = Vector((radius,) * 3) if isinstance(radius, float) else radius
        axis = Matrix.Translation(centre) @ Matrix.Diagonal((*size, 1.0))
        angles = np.radians(np.linspace(lower, upper, 8))
        self.lathe(bone, colour, axis, [(math.sin(a), math.cos(a)) for a in angles])


def _towards(direction: Vector) -> Matrix:
    """Rotation taking +Z to a direction, with Y kept as near the world's Y as it goes."""
    z = direction.normalized()
    x = Vector((0, 1, 0)).cross(z)
    x = x.normalized() if x.length > 1e-4 else Vector((1, 0, 0))
    return Matrix((x, z.cross(x), z)).transposed().to_4x4()


def joints_of(look: Look) -> dict[str, tuple[Vector, Vector, str | None]]:
    """Bone name -> (head, tail, parent) of the rest pose."""
    h = look.height
    hip, neck = h * look.legs, h - 2.15 * look.head
    chest = hip + (neck - hip) * 0.55
    head_centre = h - look.head
    front, r = -0.9 * look.head, look.head
    bones: dict[str, tuple[Vector, Vector, str | None]] = {
        "spine": (Vector((0, 0, hip)), Vector((0, 0, hip + (chest - hip) / 2)), None),
        "spine.001": (Vector((0, 0, hip + (chest - hip) / 2)), Vector((0, 0, chest)), "spine"),
        "spine.003": (Vector((0, 0, chest)), Vector((0, 0, neck)), "spine.001"),
        "spine.004": (Vector((0, 0, neck)), Vector((0, 0, neck + 0.3 * r)), "spine.003"),
        "spine.006": (Vector((0, 0, neck + 0.3 * r)), Vector((0, 0, h)), "spine.004"),
        "nose.002": (
            Vector((0, front * 1.15, head_centre - 0.05 * r)),
            Vector((0, front * 1.3, head_centre - 0.05 * r)),
            "spine.006",
        ),
    }
    upper, fore = 0.165 * h, 0.15 * h
    for side, s in (("L", 1.0), ("R", -1.0)):
        shoulder = Vector((s * look.shoulders, 0, neck - 0.035 * h))
        down = Vector((s * 0.12, 0, -1)).normalized()
        elbow, wrist = shoulder + upper * down, shoulder + (upper + fore) * down
        thigh = Vector((s * look.hips, 0, hip))
        knee, ankle = Vector((s * look.hips, 0, hip * 0.53)), Vector((s * look.hips, 0, hip * 0.085))
        eye = Vector((s * 0.36 * r, front * 0.98, head_centre + 0.12 * r))
        ear = Vector((s * 0.98 * r, 0, head_centre + 0.05 * r))
        bones |= {
            f"eye.{side}": (eye * 1.0 + Vector((0, 0.3 * r, 0)), eye, "spine.006"),
            f"ear.{side}": (ear, ear + Vector((s * 0.1 * r, 0, 0)), "spine.006"),
            f"shoulder.{side}": (Vector((s * 0.02, 0, shoulder.z)), shoulder, "spine.003"),
            f"upper_arm.{side}": (shoulder, elbow, f"shoulder.{side}"),
            f"forearm.{side}": (elbow, wrist, f"upper_arm.{side}"),
            f"hand.{side}": (wrist, wrist + 0.08 * h * down * 0.6, f"forearm.{side}"),
            f"thigh.{side}": (thigh, knee, "spine"),
            f"shin.{side}": (knee, ankle, f"thigh.{side}"),
            f"foot.{side}": (ankle, ankle + Vector((0, -0.07 * h, -0.05)), f"shin.{side}"),
        }
    return bones


def _body(look: Look, bones: dict[str, tuple[Vector, Vector, str | None]]) -> _Solid:
    solid, g, h, r = _Solid(), look.girth, look.height, look.head
    head_centre = Vector((0, 0, h - r))
    solid.ball("spine.006", look.skin, head_centre, Vector((r, r * 0.95, r)))
    solid.ball(
        "spine.006",
        look.skin,
        bones["nose.002"][0] + Vector((0, 0.03 * r, 0)),
        Vector((0.13 * r, 0.22 * r, 0.16 * r)),
    )
    solid.capsule(
        "spine.004",
        look.skin,
        bones["spine.004"][0] - Vector((0, 0, 0.03)),
        bones["spine.006"][0],
        0.045 * g,
        0.045 * g,
    )
    for side in "LR":
        solid.ball(
            "spine.006", (0.05, 0.05, 0.06), bones[f"eye.{side}"][1], Vector((0.14 * r, 0.1 * r, 0.17 * r))
        )
    if look.hair_style != "bald":
        back = head_centre + Vector((0, 0.12 * r, 0.12 * r))
        solid.ball("spine.006", look.hair, back, Vector((1.07 * r, 1.04 * r, 1.02 * r)), lower=8)
        solid.ball(
            "spine.006",
            look.hair,
            head_centre + Vector((0, 0.3 * r, 0)),
            Vector((0.98 * r, 0.85 * r, 0.98 * r)),
        )
    if look.hair_style == "long":
        solid.capsule(
            "spine.006",
            look.hair,
            head_centre + Vector((0, 0.5 * r, 0)),
            head_centre + Vector((0, 0.6 * r, -1.5 * r)),
            0.85 * r,
            0.55 * r,
            0.5,
        )
    elif look.hair_style == "bun":
        solid.ball("spine.006", look.hair, head_centre + Vector((0, 0.35 * r, 1.15 * r)), 0.45 * r)
    elif look.hair_style == "hat":
        tilt = Matrix.Translation(head_centre + Vector((0, 0.05 * r, 0.45 * r)))
        solid.lathe(
            "spine.006",
            look.hair,
            tilt,
            [(0, 1.5 * r), (0.08 * r, 1.5 * r), (0.1 * r, 1.0 * r), (0.8 * r, 0.85 * r), (0.85 * r, 0.8 * r)],
        )
    # torso: chest and belly in the shirt's colour, pelvis in the trousers'
    chest, hip = bones["spine.003"][0], bones["spine"][0]
    width = look.shoulders * 0.80
    top = bones["spine.003"][1] - Vector((0, 0, 0.05 * h))
    solid.capsule("spine.003", look.shirt, chest, top, width * 0.92, width * 0.98, flat=0.62)
    solid.capsule(
        "spine.001", look.shirt, hip + Vector((0, 0, 0.05 * h)), chest, width * 0.8, width * 0.9, flat=0.66
    )
    solid.capsule(
        "spine",
        look.trousers,
        hip,
        hip + Vector((0, 0, 0.04 * h)),
        look.hips * 1.45,
        look.hips * 1.5,
        flat=0.75,
    )
    if look.bottom == "skirt":
        drop = 0.24 * h
        axis = Matrix.Translation(hip - Vector((0, 0, drop)))
        solid.lathe(
            "spine",
            look.trousers,
            axis,
            [(0, 0.19 * g * look.baggy), (drop, look.hips * 1.5), (drop + 0.02, look.hips * 1.2)],
            0.85,
        )
    for side in "LR":
        arm, fore, hand = bones[f"upper_arm.{side}"], bones[f"forearm.{side}"], bones[f"hand.{side}"]
        sleeve, cuff = look.sleeves != "none", look.sleeves == "long"
        solid.capsule(
            f"upper_arm.{side}", look.shirt if sleeve else look.skin, arm[0], arm[1], 0.054 * g, 0.045 * g
        )
        solid.ball(f"shoulder.{side}", look.shirt, arm[0], 0.062 * g)
        solid.capsule(
            f"forearm.{side}", look.shirt if cuff else look.skin, fore[0], fore[1], 0.044 * g, 0.036 * g
        )
        solid.capsule(f"hand.{side}", look.skin, hand[0], hand[1], 0.042 * g, 0.038 * g)
        thigh, shin, foot = bones[f"thigh.{side}"], bones[f"shin.{side}"], bones[f"foot.{side}"]
        wide = g * (look.baggy if look.bottom == "trousers" else 1.0)
        solid.capsule(
            f"thigh.{side}",
            look.skin if look.bottom == "skirt" else look.trousers,
            thigh[0],
            thigh[1],
            0.078 * wide,
            0.06 * wide,
        )
        solid.capsule(
            f"shin.{side}",
            look.trousers if look.bottom == "trousers" else look.skin,
            shin[0],
            shin[1],
            0.058 * wide,
            0.045 * wide,
        )
        solid.capsule(
            f"foot.{side}", look.shoes, foot[0] + Vector((0, 0.02, -0.02)), foot[1], 0.055 * g, 0.048 * g
        )
    return solid


def material(name: str, colour: Colour, ambient: float) -> bpy.types.Material:
    """Lambert shading plus a constant share of the colour: lit by the scene's suns, free of sampling noise."""
    made = bpy.data.materials.new(name)
    if made.node_tree is None:  # from 5.0 on there always is one
        made.use_nodes = True
    nodes, links = made.node_tree.nodes, made.node_tree.links
    nodes.clear()
    rgba = (*_linear(colour), 1.0)
    diffuse, glow = nodes.new("ShaderNodeBsdfDiffuse"), nodes.new("ShaderNodeEmission")
    diffuse.inputs["Color"].default_value = glow.inputs["Color"].default_value = rgba
    glow.inputs["Strength"].default_value = ambient
    both, output = nodes.new("ShaderNodeAddShader"), nodes.new("ShaderNodeOutputMaterial")
    links.new(diffuse.outputs[0], both.inputs[0])
    links.new(glow.outputs[0], both.inputs[1])
    links.new(both.outputs[0], output.inputs["Surface"])
    return made


def _linear(colour: Colour) -> Colour:
    return tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)  # type: ignore[return-value]


def build_character(look: Look, name: str = "Character", ambient: float = 0.45) -> bpy.types.Object:
    """Adds the rig and its mesh to the current scene; returns the armature object."""
    bones = joints_of(look)
    armature = bpy.data.armatures.new(name)
    rig = bpy.data.objects.new(name, armature)
    bpy.context.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    for bone, (head, tail, parent) in bones.items():
        edit = armature.edit_bones.new(bone)
        edit.head, edit.tail = head, tail
        edit.parent = armature.edit_bones[parent] if parent else None
    bpy.ops.object.mode_set(mode="OBJECT")
    for bone in rig.pose.bones:
        bone.rotation_mode = "QUATERNION"

    solid = _body(look, bones)
    mesh = bpy.data.meshes.new(f"{name} body")
    mesh.from_pydata([tuple(v) for v in solid.vertices], [], solid.faces)
    mesh.polygons.foreach_set("material_index", solid.face_materials)
    mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
    for colour in solid.colours:
        mesh.materials.append(material(name, colour, ambient))
    mesh.update()
    body = bpy.data.objects.new(f"{name} body", mesh)
    bpy.context.collection.objects.link(body)
    for bone, vertices in solid.bones.items():
        body.vertex_groups.new(name=bone).add(vertices, 1.0, "REPLACE")
    body.parent = rig
    body.modifiers.new("Armature", "ARMATURE").object = rig
    return rig


# -------------------------------------------------------------------------------------------------- posing
def apply_pose(rig: bpy.types.Object, look: Look, motion: Motion, seconds: float) -> None:
    """Sets every driven pose bone to the motion's pose at a time (nothing is keyed)."""
    v = {name: 0.0 for name in CHANNELS} | motion.at(seconds)
    crouch = max(0.0, v["crouch"])

    def turn(bone: str, *turns: tuple[str, float]) -> None:
        """Rotations about the armature's axes, in the frame of the posed parent, first to last."""
        total = Quaternion()
        for axis, angle in turns:
            total = Quaternion({"X": (1, 0, 0), "Y": (0, 1, 0), "Z": (0, 0, 1)}[axis], angle) @ total
        rest = rig.data.bones[bone].matrix_local.to_quaternion()
        rig.pose.bones[bone].rotation_quaternion = rest.inverted() @ total @ rest

    turn("spine", ("Y", v["lean"] * 0.4), ("Z", v["yaw"]))
    turn("spine.001", ("X", v["bend"] * 0.5 + crouch * 0.25), ("Y", v["lean"] * 0.5), ("Z", v["twist"] * 0.5))
    turn("spine.003", ("X", v["bend"] * 0.5 + crouch * 0.15), ("Y", v["lean"] * 0.5), ("Z", v["twist"] * 0.5))
    turn("spine.006", ("X", v["nod"] - crouch * 0.3), ("Y", v["tilt_head"]), ("Z", v["turn_head"]))
    for side, s in (("L", 1.0), ("R", -1.0)):
        plane = min(1.0, max(0.0, v[f"elbow_plane.{side}"]))
        bend = max(0.0, v[f"elbow.{side}"])
        out = min(2.9, max(0.0, v[f"arm_out.{side}"]))
        turn(f"upper_arm.{side}", ("X", -v[f"arm_fwd.{side}"]), ("Y", -s * out))
        turn(f"forearm.{side}", ("X", -bend * (1 - plane)), ("Y", -s * bend * plane))
        hip_out, hip_fwd, knee = (
            v[f"leg_out.{side}"],
            v[f"leg_fwd.{side}"] + crouch,
            max(0.0, v[f"knee.{side}"]) + 2 * crouch,
        )
        turn(f"thigh.{side}", ("X", -hip_fwd), ("Y", -s * hip_out))
        turn(f"shin.{side}", ("X", knee))
        turn(f"foot.{side}", ("X", -max(0.0, knee - hip_fwd) * 0.3))
    # Blender's bone space: the root bone's own axes carry the shift of the whole body.
    root = rig.pose.bones["spine"]
    drop = look.height * look.legs * 0.92 * (1 - math.cos(crouch))
    root.location = rig.data.bones["spine"].matrix_local.to_3x3().inverted() @ Vector((v["sway"], 0, -drop))


def key_pose(rig: bpy.types.Object, frame: int) -> None:
    """Keys the pose that stands now at a frame."""
    for bone in rig.pose.bones:
        bone.keyframe_insert("rotation_quaternion", frame=frame)
    rig.pose.bones["spine"].keyframe_insert("location", frame=frame)


BODY_18 = (
    "nose.002", None, "upper_arm.R", "forearm.R", "hand.R", "upper_arm.L", "forearm.L", "hand.L",
    "thigh.R", "shin.R", "foot.R", "thigh.L", "shin.L", "foot.L", "eye.R", "eye.L", "ear.R", "ear.L",
)  # fmt: skip


def body_18(rig: bpy.types.Object, camera: bpy.types.Object, width: int, height: int) -> np.ndarray:
    """Exact OpenPose body points of the rig as posed now: (18, 3) float32, x and y in pixels, visibility 0 or 1."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    posed = rig.evaluated_get(depsgraph)
    points = np.ones((18, 4))
    for k, name in enumerate(BODY_18):
        if name is not None:
            bone = posed.pose.bones[name]
            points[k, :3] = posed.matrix_world @ (bone.tail if name.startswith("eye") else bone.head)
    points[1, :3] = (points[2, :3] + points[5, :3]) / 2
    seen = camera.evaluated_get(depsgraph)
    projection = np.array(
        seen.calc_matrix_camera(depsgraph, x=width, y=height) @ seen.matrix_world.inverted()
    )
    clip = points @ projection.T
    ahead = clip[:, 3] > 1e-6
    ndc = clip[:, :2] / np.where(ahead, clip[:, 3], 1.0)[:, None]
    return np.stack([(ndc[:, 0] + 1) / 2 * width, (1 - ndc[:, 1]) / 2 * height, ahead], axis=1).astype(
        np.float32
    )


# -------------------------------------------------------------------------------------------------- the set
def build_set(wall: Colour, floor: Colour) -> list[bpy.types.Object]:
    """A floor and a wall that glow in one colour each, so that they take no shadow and no noise."""
    made = []
    for name, colour, rotation, location in (
        ("Floor", floor, (0, 0, 0), (0, 0, 0)),
        ("Wall", wall, (math.pi / 2, 0, 0), (0, 6, 0)),
    ):
        mesh = bpy.data.meshes.new(name)
        mesh.from_pydata([(-60, -60, 0), (60, -60, 0), (60, 60, 0), (-60, 60, 0)], [], [(0, 1, 2, 3)])
        glow = material(name, colour, ambient=1.0)
        for link in list(glow.node_tree.links):  # the glow alone, without the lit share
            if link.from_node.type == "BSDF_DIFFUSE":
                glow.node_tree.links.remove(link)
        mesh.materials.append(glow)
        plane = bpy.data.objects.new(name, mesh)
        plane.rotation_euler, plane.location = rotation, location
        bpy.context.collection.objects.link(plane)
        made.append(plane)
    return made


def light_set(azimuth: float) -> None:
    """A hard key sun and a weak fill: no soft shadow, so no noise at a handful of samples."""
    for name, strength, angles in (("Key", 2.2, (0.9, 0, azimuth)), ("Fill", 0.5, (1.2, 0, azimuth + 2.2))):
        sun = bpy.data.lights.new(name, "SUN")
        sun.energy, sun.angle = strength, 0.0
        light = bpy.data.objects.new(name, sun)
        light.rotation_euler = angles
        bpy.context.collection.objects.link(light)


def aim_camera(
    azimuth: float, elevation: float, distance: float, target_z: float, lens: float = 50.0
) -> bpy.types.Object:
    """A camera on a circle round the figure (azimuth 0 = in front of it), looking at the height `target_z`."""
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.data.lens = lens
    bpy.context.collection.objects.link(camera)
    target = Vector((0, 0, target_z))
    offset = Vector(
        (
            math.sin(azimuth) * math.cos(elevation),
            -math.cos(azimuth) * math.cos(elevation),
            math.sin(elevation),
        )
    )
    camera.location = target + distance * offset
    camera.rotation_euler = (-offset).to_track_quat("-Z", "Y").to_euler()
    bpy.context.scene.camera = camera
    return camera


def plain_render(scene: bpy.types.Scene, width: int, height: int, samples: int = 8) -> None:
    """Cycles as these scenes want it: few samples, no bounces, no denoiser, colours as they are ("Standard")."""
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples = "CPU", samples
    scene.cycles.use_denoising = scene.cycles.use_adaptive_sampling = False
    scene.cycles.max_bounces = 0
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = (
        width,
        height,
        100,
    )
    scene.render.use_persistent_data = True
    scene.view_settings.view_transform = "Standard"
    if hasattr(scene.render.image_settings, "media_type"):  # 5.0 splits stills from video first
        scene.render.image_settings.media_type = "IMAGE"
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.image_settings.compression = 15
