"""How exactly strips become a clip's frames: Blender's own render of the sequencer against what the capture gives.

    PYTHON -m tests.strip_accuracy [--json] [--kind NAME]      (PYTHON has a bpy)

For every kind of strip and every view it tells the largest difference of any pixel, in levels of 255, over all frames;
for image strips also against the PNG files themselves. The size is the scene's, so that nothing is scaled.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "blender"))

import bpy
import montage
import numpy as np

from blender_addon import strips
from blender_addon.footage import sources

VIEWS = ("Standard", "AgX", "Filmic", "Raw")
SLOW = ("scene_camera",)  # rendered by Cycles: two frames do


def measure(name: str, view: str, folder: Path) -> dict[str, int]:
    """The largest differences, in levels, of one kind of strip under one view."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    if hasattr(bpy.context.workspace, "sequencer_scene"):  # 5.0 crashes without it where a modifier is added
        bpy.context.workspace.sequencer_scene = scene
    scene.view_settings.view_transform = view
    timeline = montage.Montage(scene, folder)
    selected = {strip.name for strip in montage.KINDS[name](timeline)}
    for strip in strips.top_strips(scene):
        strip.select = strip.name in selected
    frames = (1, montage.LENGTH) if name in SLOW else tuple(range(1, montage.LENGTH + 1))
    shown = montage.plain_frames(scene, frames, folder)
    captured = capture(scene, frames, folder)
    told = {"px_error": difference(shown, captured)}
    if name == "images":
        files = [montage.read_image(file) for file in timeline.files()]
        told["px_error_to_files"] = difference(files, captured)
    return told


def capture(scene: bpy.types.Scene, frames: tuple[int, ...], folder: Path) -> list[np.ndarray]:
    choice = sources.chosen(scene, "SELECTED")
    sources.check(scene, choice, frames)
    reading = sources.StripCapture(choice, montage.WIDTH, montage.HEIGHT, tuple(map(float, frames)), 0.5)
    while not reading.advance(float("inf")):
        pass
    reading.cancel()
    pictures = []
    for frame in frames:
        file = folder / "captured.png"
        file.write_bytes(reading.pngs[frame])
        pictures.append(montage.read_image(file))
    return pictures


def difference(these: list[np.ndarray], those: list[np.ndarray]) -> int:
    pairs = zip(these, those, strict=True)
    return max(int(np.abs(this.astype(int) - that.astype(int)).max()) for this, that in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="figures as one JSON object")
    parser.add_argument(
        "--kind", choices=montage.KINDS, action="append", help="of strip; all of them otherwise"
    )
    options = parser.parse_args()
    told: dict = {"bpy": bpy.app.version_string, "kinds": {}}
    with tempfile.TemporaryDirectory() as folder:
        standard_output = os.dup(1)
        os.dup2(2, 1)  # Blender tells of every frame it has rendered
        for name in options.kind or montage.KINDS:
            told["kinds"][name] = {view: measure(name, view, Path(folder)) for view in VIEWS}
        os.dup2(standard_output, 1)
    every = [figures for views in told["kinds"].values() for figures in views.values()]
    told["max_px_error"] = max(figures["px_error"] for figures in every)
    images = told["kinds"].get("images", {})
    told["images_to_files"] = {view: figures["px_error_to_files"] for view, figures in images.items()}
    if options.json:
        print(json.dumps(told), flush=True)
    else:
        for name, views in told["kinds"].items():
            print(
                f"{name:24}" + "  ".join(f"{view} {figures['px_error']}" for view, figures in views.items())
            )
        print(
            f"bpy {told['bpy']}: largest error {told['max_px_error']}; image files {told['images_to_files']}"
        )
    sys.stdout.flush()
    os._exit(0)  # bpy 4.2 crashes and 4.5 hangs at interpreter exit


if __name__ == "__main__":
    main()
