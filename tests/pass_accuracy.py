"""How far rendered depths, normals and masks are from what formulas say of spheres, planes and ramps.

    .venv-blender/bin/python -m tests.pass_accuracy --json

Runs in the bpy of its Python. depth_rel: error of the depth over the depth; normal_deg: angle between the normal that
the 8-bit picture tells and the true one; both over pixels that lie wholly on a surface. mask_iou: of a sphere's mask
and its silhouette. near_far_drift: how much the picture's brightness of one depth differs between the frames of a
moving camera, in levels of 255.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def render(scene, wanted, times=(1,), size=(96, 96)):
    """The finished capture."""
    from blender_addon.render.passes import RenderCapture

    capture = RenderCapture(scene.name, None, *size, tuple(times), wanted)
    try:
        while not capture.advance(math.inf):
            pass
    finally:
        capture.cancel()
    return capture


def measure(view, shapes, size) -> dict[str, float]:
    """Errors of one scene."""
    import analytic
    import bpy
    from analytic import read_png

    from blender_addon.protocol import Control
    from blender_addon.render import pictures
    from blender_addon.render.passes import Wanted

    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    things = [shape.add() for shape in shapes]
    view.add()
    rig = bpy.data.objects.new("Rig", bpy.data.armatures.new("Rig"))
    scene.collection.objects.link(rig)
    things[0].parent = rig
    controls = (Control("depth", ()), Control("normal_bae", ()))
    capture = render(scene, Wanted(controls, ("Rig",)), size=size)
    ((inverse, covered),) = capture.depths
    depth, normals, _ = analytic.seen(view, shapes, *size)
    sure = inner(covered == 1) & np.isfinite(depth)
    error = np.abs(1 / inverse[sure] / depth[sure] - 1)
    found = pictures.normals_of(read_png(capture.pngs["normal_bae"][0]))
    cosine = np.clip((found * normals).sum(-1)[sure], -1, 1)
    angles = np.degrees(np.arccos(cosine))
    fine = np.isfinite(analytic.seen(view, shapes[:1], *size, points=8)[0])
    true = fine.reshape(size[1], 8, size[0], 8).mean((1, 3))
    mask = read_png(capture.pngs["mask"][0]) / 255
    return {
        "depth_rel_max": float(error.max()), "depth_rel_mean": float(error.mean()),
        "normal_deg_max": float(angles.max()), "normal_deg_mean": float(angles.mean()),
        "mask_iou": float(np.minimum(mask, true).sum() / np.maximum(mask, true).sum()), "pixels": int(sure.sum()),
    }  # fmt: skip


def inner(mask: np.ndarray) -> np.ndarray:
    """A mask without the pixels at its edge."""
    padded = np.pad(mask, 1, constant_values=True)
    rows, columns = mask.shape
    return np.logical_and.reduce([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)])


def drift(size) -> float:
    """Levels by which the picture's brightness of one depth differs between frames, the camera moving nearer."""
    import analytic
    import bpy
    from analytic import read_png

    from blender_addon.protocol import Control
    from blender_addon.render.passes import Wanted

    bpy.ops.wm.read_factory_settings(use_empty=True)
    for shape in (analytic.sphere(segments=64), analytic.plane((0, 0, -1))):
        shape.add()
    camera = analytic.VIEWS["perspective"].add()
    for frame, y in ((1, -9.0), (5, -4.0)):
        camera.location.y = y
        camera.keyframe_insert("location", frame=frame)
    capture = render(bpy.context.scene, Wanted((Control("depth", ()),)), range(1, 6), size)
    levels: list[tuple[np.ndarray, np.ndarray]] = []
    for (inverse, covered), png in zip(capture.depths, capture.pngs["depth"], strict=True):
        sure = covered == 1
        levels.append((inverse[sure], read_png(png)[sure].astype(float)))
    inverse, level = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    free = (level > 0) & (level < 255)
    line = np.polyfit(inverse[free], level[free], 1)
    return float(np.abs(np.polyval(line, inverse[free]) - level[free]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 96), metavar=("WIDTH", "HEIGHT"))
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "blender")]
    import analytic
    import bpy

    size = tuple(given.size)
    told = {
        f"{shape}, {view}": measure(analytic.VIEWS[view], analytic.SHAPES[shape], size)
        for shape in analytic.SHAPES
        for view in analytic.VIEWS
    }
    summary = {
        "blender": bpy.app.version_string,
        "depth_rel_max": max(case["depth_rel_max"] for case in told.values()),
        "normal_deg_max": max(case["normal_deg_max"] for case in told.values()),
        "mask_iou_min": min(case["mask_iou"] for case in told.values()),
        "near_far_drift": drift(size), "cases": told,
    }  # fmt: skip
    if given.json:
        print(json.dumps(summary))
    else:
        for name, case in told.items():
            print(f"{name:34}", {key: float(f"{value:.3g}") for key, value in case.items()})
        print({key: value for key, value in summary.items() if key != "cases"})
    sys.stdout.flush()
    os._exit(0)  # some releases of bpy hang in the interpreter's own exit


if __name__ == "__main__":
    main()
