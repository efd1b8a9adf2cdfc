"""Skins for the tests' armatures, and things that stand before them."""

from __future__ import annotations

import itertools
import math

import bmesh
import bpy
from mathutils import Matrix, Vector

# bone of `rigs.figure`: how thick the flesh on it is, in metres
LIMB_RADII = {"shoulder": 0.06, "elbow": 0.05, "wrist": 0.04, "hip": 0.09, "knee": 0.06, "ankle": 0.05}


def skin(rig: bpy.types.Object, names, segments: int = 16, rings: int = 6) -> bpy.types.Object:
    """A closed body on a `rigs.figure`, deformed by it: trunk, head and limbs, overlapping, about
    14 * segments * (rings + 2) faces."""
    mesh = bmesh.new()
    groups: dict[str, list] = {}

    def part(bone: str, where: Matrix, radius: tuple[float, float], length: float) -> None:
        """A barrel along the local z of `where`, from 0 to length, closed by points."""
        rows = []
        for ring in range(rings + 1):
            angle = math.pi * (ring + 0.5) / (rings + 1)
            wide, high = math.sin(angle) ** 0.5, (1 - math.cos(angle)) / 2 * length
            rows.append([
                mesh.verts.new(where @ Vector((radius[0] * wide * math.cos(a), radius[1] * wide * math.sin(a), high)))
                for a in (2 * math.pi * k / segments for k in range(segments))
            ])  # fmt: skip
        ends = [mesh.verts.new(where @ Vector((0, 0, height))) for height in (0, length)]
        for k in range(segments):
            after = (k + 1) % segments
            for low, high in itertools.pairwise(rows):
                mesh.faces.new((low[k], low[after], high[after], high[k]))
            mesh.faces.new((ends[0], rows[0][after], rows[0][k]))
            mesh.faces.new((ends[1], rows[-1][k], rows[-1][after]))
        groups.setdefault(bone, []).extend([*ends, *(vertex for row in rows for vertex in row)])

    bones = rig.data.bones
    part("root", Matrix.Translation((0, 0, 0.85)), (0.17, 0.11), 0.72)
    part(names.head, Matrix.Translation((0, -0.04, 1.5)), (0.09, 0.14), 0.3)
    for token in names.sides:
        for limb, radius in LIMB_RADII.items():
            bone = bones[names.limbs[limb].format(s=token)]
            along = Vector(bone.tail_local) - Vector(bone.head_local)
            start = Vector(bone.head_local) - 0.15 * along
            turn = along.to_track_quat("Z", "Y").to_matrix().to_4x4()
            part(bone.name, Matrix.Translation(start) @ turn, (radius, radius), 1.3 * along.length)
    mesh.verts.index_update()
    data = bpy.data.meshes.new(f"{rig.name} skin")
    body = bpy.data.objects.new(f"{rig.name} skin", data)
    indices = {bone: [vertex.index for vertex in vertices] for bone, vertices in groups.items()}
    mesh.to_mesh(data)
    mesh.free()
    for bone, vertices in indices.items():
        body.vertex_groups.new(name=bone).add(vertices, 1.0, "REPLACE")
    body.modifiers.new("Armature", "ARMATURE").object = rig
    body.parent = rig
    bpy.context.scene.collection.objects.link(body)
    return body


def box(name: str, low, high, link: bool = True) -> bpy.types.Object:
    """An axis-aligned box between two corners."""
    mesh = bmesh.new()
    size = [b - a for a, b in zip(low, high, strict=True)]
    bmesh.ops.create_cube(mesh, size=1.0, matrix=Matrix.LocRotScale(None, None, Vector(size)))
    data = bpy.data.meshes.new(name)
    mesh.to_mesh(data)
    mesh.free()
    item = bpy.data.objects.new(name, data)
    item.location = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    if link:
        bpy.context.scene.collection.objects.link(item)
    return item
