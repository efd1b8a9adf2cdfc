"""Renders the training and test clips; runs in Blender's Python (`python -m musev_engine.training.render_clips`).

A clip is one character in one motion before one set. Each is drawn from `(seed, index)` alone, so any part of a
data set can be made again, anywhere, in any order; clips that stand already are skipped. File `<index>.npz`:

    frames     uint8 (1 + t, h, w, 4)  sRGB and coverage; frame 0 is the still, from another moment
    plate      uint8 (h, w, 3)         the empty set, sRGB
    keypoints  float32 (1 + t, 18, 3)  OpenPose body points: x px, y px, visible
    about      JSON text               look, motion, frames a second
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import bpy
import numpy as np

from musev_engine.training import characters

LARGE_MOTIONS = ("dance", "jumping jack", "wave", "kick", "reach")  # what the held-out set is made of


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every clip of a data set has in common."""

    seed: int
    num_frames: int = 12
    size: int = 128  # pixels, both ways
    frame_rates: tuple[int, ...] = (8, 8, 12, 24)
    motions: tuple[str, ...] = ()  # empty: all kinds


def render_clip(plan: Plan, index: int, path: Path) -> None:
    """Builds, poses and renders one clip and writes it whole or not at all."""
    rng = np.random.default_rng((plan.seed, index))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    characters.plain_render(scene, plan.size, plan.size)
    scene.render.threads_mode, scene.render.threads = "FIXED", 1

    look = characters.random_look(rng)
    kind = str(rng.choice(plan.motions)) if plan.motions else None
    motion = characters.random_motion(rng, kind)
    rig = characters.build_character(look)
    wall, floor = _set_colours(rng, look)
    backdrop = characters.build_set(wall, floor)
    characters.light_set(rng.uniform(-1.0, 1.0))
    camera = characters.aim_camera(
        azimuth=rng.uniform(-0.5, 0.5),
        elevation=rng.uniform(0.0, 0.3),
        distance=look.height * rng.uniform(1.7, 2.2),
        target_z=look.height * rng.uniform(0.5, 0.58),
    )
    fps = int(rng.choice(plan.frame_rates))
    start = rng.uniform(0, 10)
    still_motion = characters.random_motion(rng, str(rng.choice(["sway", "wave", "dance", "walk"])))

    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "frame.png")
        rig.children[0].hide_render = True
        plate = _render(scene, target)[..., :3]
        rig.children[0].hide_render = False
        for plane in backdrop:
            plane.hide_render = True
        scene.render.film_transparent = True
        frames, keypoints = [], []
        for k in range(plan.num_frames + 1):
            shown, seconds = (still_motion, rng.uniform(0, 10)) if k == 0 else (motion, start + (k - 1) / fps)
            characters.apply_pose(rig, look, shown, seconds)
            bpy.context.view_layer.update()
            frames.append(_render(scene, target))
            keypoints.append(characters.body_18(rig, camera, plan.size, plan.size))

    about = {
        "look": dataclasses.asdict(look),
        "motion": motion.kind,
        "fps": fps,
        "wall": wall,
        "floor": floor,
    }
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez_compressed(
            file,
            frames=np.stack(frames),
            plate=plate,
            keypoints=np.stack(keypoints),
            about=np.array(json.dumps(about)),
        )
    os.replace(part, path)


def _set_colours(
    rng: np.random.Generator, look: characters.Look
) -> tuple[characters.Colour, characters.Colour]:
    """A wall and a floor that the figure stands out from."""
    own = np.array([look.shirt, look.trousers, look.skin])
    wall: characters.Colour = (0.5, 0.5, 0.5)
    for _ in range(30):
        wall = tuple(float(c) for c in rng.uniform(0.15, 0.95, 3))  # type: ignore[assignment]
        if np.abs(own - np.array(wall)).max(axis=1).min() > 0.25:
            break
    shade = rng.uniform(0.55, 0.9)
    return wall, tuple(c * shade for c in wall)  # type: ignore[return-value]


def _render(scene: bpy.types.Scene, target: str) -> np.ndarray:
    """Renders the scene as it stands: uint8 (h, w, 4), sRGB."""
    scene.render.filepath = target
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(target)
    pixels = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(pixels)
    width, height = image.size
    bpy.data.images.remove(image)
    return np.rint(pixels.reshape(height, width, 4)[::-1] * 255).astype(np.uint8)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder the clips are written to")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument(
        "--first", type=int, default=0, help="index of the first clip (to share the work out)"
    )
    parser.add_argument(
        "--step", type=int, default=1, help="render every so-manieth clip (to share the work out)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=12, help="frames of a clip, beside the still")
    parser.add_argument("--fps", type=int, nargs="+", default=[8, 8, 12, 24], help="frame rates to draw from")
    parser.add_argument("--size", type=int, default=128, help="pixels, both ways")
    parser.add_argument("--large-motions", action="store_true", help="only motions that move far (for tests)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        args.seed, args.frames, args.size, tuple(args.fps), LARGE_MOTIONS if args.large_motions else ()
    )
    for index in range(args.first, args.clips, args.step):
        path = args.out / f"{index:05d}.npz"
        if not path.exists():
            render_clip(plan, index, path)
            print(json.dumps({"clip": index, "of": args.clips}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # some releases of bpy hang or crash in the interpreter's own exit
