"""What it costs to look whether something covers the points: `python -m tests.occlusion_cost --json`, where bpy is.

Milliseconds a frame for 1 and 3 skinned, moving characters of about 10 000 faces each, hands and faces and all, among
30 props on a floor, beside what stepping the frame costs (the skins' deformation is evaluated in it), and beside two
other ways to the same answer: `scene.ray_cast`, of which one ray finds only the first thing it meets, and a BVHTree
made anew of every skin. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import bpy
from mathutils import Vector
from mathutils.bvhtree import BVHTree

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "blender")]
import bodies  # noqa: E402
import rigs  # noqa: E402

from blender_addon.rig import people, pose  # noqa: E402
from blender_addon.rig.occlusion import Occlusion  # noqa: E402

SIZE = 512, 512
CHOICES = {
    "own_and_others_ms": Occlusion("hide", "hide"),
    "own_ms": Occlusion("hide", "keep"),
    "others_ms": Occlusion("face", "hide"),
}


def crowd(count: int) -> list[people.Person]:
    """A new scene with `count` moving characters before a camera."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    rigs.camera()
    found = []
    for number in range(count):
        rig = rigs.figure(rigs.RIGIFY_METARIG, f"Dancer {number}", face=True, hands=True)
        bodies.skin(rig, rigs.RIGIFY_METARIG, segments=32, rings=21)
        rigs.wave(rig, range(1, 41), seed=number)
        for curve_of in (1, 40):
            rig.location.x = number - (count - 1) / 2
            rig.keyframe_insert("location", index=0, frame=curve_of)
        found.append(people.resolve(rig))
    bodies.box("Floor", (-20, -20, -0.2), (20, 20, -0.1))
    for number in range(30):
        bodies.box(f"Prop {number}", (number - 15, 2, 0), (number - 14.5, 3, 1))
    return found


def cost(count: int, frames: range) -> dict:
    """The medians of the frames, in milliseconds."""
    found = crowd(count)
    scene = bpy.context.scene
    skins = [item for item in scene.objects if item.name.endswith("skin")]
    spent: dict[str, list[float]] = {
        name: [] for name in ("frame_set_ms", *CHOICES, "scene_ray_cast_ms", "bvh_ms")
    }

    def clocked(name: str, work) -> None:
        started = time.perf_counter()
        work()
        spent[name].append(1000 * (time.perf_counter() - started))

    for frame in frames:
        clocked("frame_set_ms", lambda frame=frame: scene.frame_set(frame))
        depsgraph = scene.view_layers[0].depsgraph
        points = pose.world_points(scene, depsgraph, found)
        eye = scene.camera.location

        def first_hits(points=points, depsgraph=depsgraph, eye=eye) -> None:
            for place in points[points[..., 3] > 0, :3]:
                way = eye - Vector(place)
                scene.ray_cast(depsgraph, Vector(place), way.normalized(), distance=way.length)

        for name, occlusion in CHOICES.items():
            scene.frame_set(frame)  # the meshes forget their trees
            clocked(
                name, lambda o=occlusion, p=points, d=depsgraph: o.visible(scene, d, found, p, None, *SIZE)
            )
        scene.frame_set(frame)
        clocked("scene_ray_cast_ms", first_hits)
        clocked("bvh_ms", lambda depsgraph=depsgraph: [BVHTree.FromObject(skin, depsgraph) for skin in skins])
    told = {name: round(statistics.median(values), 2) for name, values in spent.items()}
    return told | {"faces": [len(skin.data.polygons) for skin in skins]}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.occlusion_cost", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="only the JSON object, on one line")
    parser.add_argument("--frames", type=int, default=40)
    options = parser.parse_args()
    told = {f"{count}_characters": cost(count, range(1, options.frames + 1)) for count in (1, 3)}
    print(json.dumps(told | {"bpy": bpy.app.version_string}, indent=None if options.json else 1))


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # some releases of bpy hang in the interpreter's own exit
