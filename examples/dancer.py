"""Makes the demo's scene: a dancer with Rigify's bone names, 48 frames at 24 a second, and a still of her.

    .venv-blender/bin/python examples/dancer.py FOLDER
    blender -b --python examples/dancer.py -- FOLDER

Leaves FOLDER/dancer.blend and FOLDER/still.png. The still shows the dancer standing, at no moment of the dance.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from musev_engine.training.characters import (
    Look,
    Motion,
    aim_camera,
    apply_pose,
    build_character,
    build_set,
    key_pose,
    light_set,
    plain_render,
)

FRAMES, FPS, SIZE = 48, 24, 128

LOOK = Look(
    height=1.7, head=0.16, girth=1.4, skin=(0.89, 0.70, 0.56), hair=(0.30, 0.12, 0.08), hair_style="bun",
    shirt=(0.93, 0.76, 0.18), sleeves="short", bottom="trousers", trousers=(0.16, 0.22, 0.52), shoes=(0.85, 0.25, 0.2),
)  # fmt: skip

# channel: (base, amplitude, multiple of the rate, phase in turns)
DANCE = Motion("dance", rate=0.5, joints={
    "arm_out.L": (1.3, 0.9, 1, 0.0), "arm_out.R": (1.3, 0.9, 1, 0.5),
    "elbow.L": (0.6, 0.5, 2, 0.2), "elbow.R": (0.6, 0.5, 2, 0.7),
    "elbow_plane.L": (1.0, 0.0, 1, 0.0), "elbow_plane.R": (1.0, 0.0, 1, 0.0),
    "leg_out.L": (0.2, 0.2, 1, 0.25), "leg_out.R": (0.2, 0.2, 1, 0.75),
    "knee.L": (0.3, 0.3, 2, 0.0), "knee.R": (0.3, 0.3, 2, 0.5),
    "leg_fwd.L": (0.15, 0.2, 2, 0.0), "leg_fwd.R": (0.15, 0.2, 2, 0.5),
    "lean": (0.0, 0.25, 1, 0.1), "sway": (0.0, 0.12, 1, 0.0), "yaw": (0.0, 0.35, 1, 0.3),
    "tilt_head": (0.0, 0.15, 1, 0.6),
})  # fmt: skip

STANDING = Motion("stand", rate=0.0, joints={
    "arm_out.L": (0.35, 0, 1, 0), "arm_out.R": (0.5, 0, 1, 0), "elbow.L": (0.3, 0, 1, 0), "elbow.R": (0.4, 0, 1, 0),
    "yaw": (0.15, 0, 1, 0),
})  # fmt: skip


def build(folder: Path) -> Path:
    """Builds, renders the still and saves; returns the .blend's path."""
    folder.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True, app_template="Video_Editing")
    scene = bpy.context.scene
    scene.name = "Dancer"
    scene.render.fps, scene.frame_start, scene.frame_end = FPS, 1, FRAMES
    plain_render(scene, SIZE, SIZE)

    rig = build_character(LOOK, "Dancer")
    build_set(wall=(0.42, 0.66, 0.62), floor=(0.30, 0.47, 0.44))
    light_set(azimuth=0.4)
    aim_camera(
        azimuth=math.radians(8), elevation=0.12, distance=LOOK.height * 1.95, target_z=LOOK.height * 0.54
    )

    apply_pose(rig, LOOK, STANDING, 0.0)
    scene.render.filepath = str(folder / "still.png")
    bpy.ops.render.render(write_still=True)

    for frame in range(1, FRAMES + 1):
        apply_pose(rig, LOOK, DANCE, (frame - 1) / FPS)
        key_pose(rig, frame)
    scene.frame_set(1)
    scene.sequence_editor_create()
    for window in bpy.context.window_manager.windows:  # opened, it shows the sequencer with its sidebar
        for area in window.screen.areas:
            if area.type == "SEQUENCE_EDITOR" and area.spaces.active.view_type != "PREVIEW":
                area.spaces.active.show_region_ui = True
    path = folder / "dancer.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    return path


if __name__ == "__main__":
    print(build(Path(sys.argv[-1])))
    sys.stdout.flush()
    os._exit(0)  # some releases of bpy hang in the interpreter's own exit
