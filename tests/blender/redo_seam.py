"""Measures the seams of a redone range: `.venv-blender/bin/python tests/blender/redo_seam.py FOLDER [FIRST LAST]`.

FOLDER: where `make demo` left `dancer.blend` and `still.png` (`out`); it is only read. The dancer's clip is made by the
real engine with the embedded model, then frames FIRST to LAST (16 to 23) of it anew, with the same and with a new seed,
for several numbers of steps of the dance. A step of the picture is the mean difference of two neighbouring frames, in
levels of 255. Ends with 1 where a seam's is more than 1.2 times the median of the clip's.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
ENGINE_PYTHON = Path(os.environ.get("ENGINE_PYTHON", ROOT / ".venv" / "bin" / "python"))
PACKAGE = "bl_ext.user_default.musev"
ALLOWED = 1.2  # times the clip's median


def steps(take: Path, bpy) -> np.ndarray:
    """(num_frames - 1,) mean difference of neighbouring frames, 0..255."""
    frames = []
    for path in sorted(take.glob("*.png")):
        image = bpy.data.images.load(str(path))
        pixels = np.empty(len(image.pixels), np.float32)
        image.pixels.foreach_get(pixels)
        frames.append(pixels.reshape(-1, image.channels)[:, :3] * 255)
        bpy.data.images.remove(image)
    return np.array([np.abs(b - a).mean() for a, b in itertools.pairwise(frames)])


def main() -> int:
    given = Path(sys.argv[1]).resolve()
    first, last = map(int, sys.argv[2:4]) if len(sys.argv) > 2 else (16, 23)
    work = Path(tempfile.mkdtemp(prefix="musev-seam-"))
    for name in ("dancer.blend", "still.png"):
        shutil.copy(given / name, work)
    os.environ["BLENDER_USER_RESOURCES"] = str(work / "user")  # read when bpy is imported
    sys.path.insert(0, str(ROOT))
    import bpy

    import build_extension

    bpy.ops.extensions.package_install_files(
        filepath=str(build_extension.build(work)),
        repo="user_default",
        enable_on_install=True,
        overwrite=True,
    )
    session = importlib.import_module(f"{PACKAGE}.session")
    state = importlib.import_module(f"{PACKAGE}.engine_link").EngineState
    current = session.current
    bpy.ops.wm.open_mainfile(filepath=str(work / "dancer.blend"))
    settings = bpy.context.scene.musev
    settings.mode, settings.seed = "pose", 7
    settings.armature = bpy.context.scene.objects["Dancer"]
    settings.still_image = bpy.data.images.load(str(work / "still.png"))
    command = f'"{ENGINE_PYTHON}" -m server --state-dir "{work / "engine"}"'
    bpy.context.preferences.addons[PACKAGE].preferences.engine_command = command

    def pump(done) -> None:
        while not done():
            current.tick()
            time.sleep(0.002)

    def made():
        job = current.jobs[-1]
        pump(lambda: job.ended)
        if job.problem:
            raise SystemExit(job.problem)
        return job

    os.chdir(ROOT)
    bpy.ops.musev.engine_start()
    pump(lambda: current.engine.state is state.ON)
    bpy.ops.musev.generate()
    whole = made()
    median = float(np.median(steps(whole.take, bpy)))
    print(f"whole: median step {median:.2f}, largest {steps(whole.take, bpy).max():.2f}")
    worst = 0.0
    for new_seed in (False, True):
        bpy.ops.musev.redo_range(
            frame_start=whole.start + first, frame_end=whole.start + last, new_seed=new_seed
        )
        redone = steps(made().take, bpy)
        seams = redone[first - 1], redone[last]
        before = steps(whole.take, bpy)
        worst = max(worst, *seams)
        print(
            f"{'new' if new_seed else 'same'} seed: steps at {first} and {last + 1}: {seams[0]:.2f} and {seams[1]:.2f} "
            f"(before {before[first - 1]:.2f} and {before[last]:.2f}), {max(seams) / median:.2f} of the median"
        )
    bpy.ops.musev.engine_stop()
    pump(lambda: not current.engine.busy)
    shutil.rmtree(work, ignore_errors=True)
    return int(worst > ALLOWED * median)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # bpy may hang at exit while classes are registered
