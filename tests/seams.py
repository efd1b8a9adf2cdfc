"""How visible the seams are of redone ranges, extensions and bridges: `python -m tests.seams`, in a Python with bpy.

    .venv-blender/bin/python -m tests.seams [--characters 3] [--keep FOLDER]

Builds characters that the embedded model was never trained on, each with another motion and another seed, and has the
extension and the real engine make a clip of 48 frames of each; then redoes ranges of it (with the seed it had and with
a new one), extends it both ways, and bridges gaps: one inside the clip, and one to the next character's clip.

A step is the mean difference of two neighbouring frames, in levels of 255. Each line tells the steps at the two ends of
the new frames, over the median step of the clip that stays (of both, between two). `there`: the same for the whole
clip's own steps at these places, where it had any: a fast movement has large steps without a seam. `within`: of a
bridge to another character, which is to become that one little by little, its largest step over its median one. Ends
with 1 where a seam's is more than 1.2, and more than 1.2 times what was there, or a bridge has a step of more than 2.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ENGINE_PYTHON = Path(os.environ.get("ENGINE_PYTHON", ROOT / ".venv" / "bin" / "python"))
PACKAGE = "bl_ext.user_default.musev"
ALLOWED = 1.2  # times the clip's median
ALLOWED_WITHIN = 2.0  # times the bridge's own
FRAMES, FPS, SIZE = 48, 24, 128
SEED = 11  # of the characters; the training's was 1
RANGES = {
    "start": (0, 7), "middle": (16, 23), "end": (40, 47), "long": (8, 39),
    "one": (20, 20), "two": (30, 31), "three": (12, 14), "four": (41, 44), "first": (0, 0), "last": (46, 47),
}  # fmt: skip
GAP = 16, 31  # that is bridged inside a clip
FURTHER = 24  # frames of an extension, and of the gap between two clips


def build(folder: Path, number: int) -> None:
    """Leaves a scene with one character, `<number>.blend`, and a still of it, `<number>.png`."""
    import bpy

    from musev_engine.training import characters

    rng = np.random.default_rng((SEED, number))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.fps, scene.frame_start, scene.frame_end = FPS, 1, FRAMES
    characters.plain_render(scene, SIZE, SIZE)
    look = characters.random_look(rng)
    motion = characters.random_motion(rng, ("dance", "wave", "reach", "walk", "squat")[number % 5])
    rig = characters.build_character(look, "Figure")
    characters.build_set(rng.uniform(0.2, 0.7, 3).tolist(), rng.uniform(0.2, 0.5, 3).tolist())
    characters.light_set(rng.uniform(-1, 1))
    characters.aim_camera(rng.uniform(-0.4, 0.4), rng.uniform(0, 0.3), look.height * 1.95, look.height * 0.54)
    characters.apply_pose(rig, look, characters.random_motion(rng, "sway"), 0.0)
    scene.render.filepath = str(folder / f"{number}.png")
    bpy.ops.render.render(write_still=True)
    for frame in range(-FURTHER, FRAMES + 2 * FURTHER):
        characters.apply_pose(rig, look, motion, frame / FPS)
        characters.key_pose(rig, frame + 1)
    scene.sequence_editor_create()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / f"{number}.blend"))


def pictures(files: list[Path]) -> np.ndarray:
    """(n, h, w, 3) in levels of 255."""
    import bpy

    read = []
    for path in files:
        image = bpy.data.images.load(str(path))
        pixels = np.empty(len(image.pixels), np.float32)
        image.pixels.foreach_get(pixels)
        read.append(pixels.reshape(*tuple(image.size)[::-1], image.channels)[..., :3] * 255)
        bpy.data.images.remove(image)
    return np.stack(read)


def steps(take: Path) -> np.ndarray:
    """(num_frames - 1,) mean differences of a take's neighbouring frames."""
    frames = pictures(sorted(take.glob("*.png")))
    return np.array([np.abs(b - a).mean() for a, b in itertools.pairwise(frames)])


def step(one: Path, other: Path) -> float:
    a, b = pictures([one, other])
    return float(np.abs(b - a).mean())


class Artist:
    """Blender with the extension, and an engine."""

    def __init__(self, work: Path):
        import bpy

        import build_extension

        bpy.ops.extensions.package_install_files(
            filepath=str(build_extension.build(work)),
            repo="user_default",
            enable_on_install=True,
            overwrite=True,
        )
        self.ops, self.work = bpy.ops.musev, work
        self.session = importlib.import_module(f"{PACKAGE}.session").current
        self.states = importlib.import_module(f"{PACKAGE}.engine_link").EngineState
        command = f'"{ENGINE_PYTHON}" -m server --state-dir "{work / "engine"}"'
        bpy.context.preferences.addons[PACKAGE].preferences.engine_command = command
        self.ops.engine_start()
        self.pump(lambda: self.session.engine.state is self.states.ON)

    def pump(self, done: Callable[[], bool]) -> None:
        while not done():
            self.session.tick()
            time.sleep(0.002)

    def open(self, number: int):
        """The scene of a character, its settings filled in."""
        import bpy

        bpy.ops.wm.open_mainfile(filepath=str(self.work / f"{number}.blend"))
        scene = bpy.context.scene
        scene.musev.mode, scene.musev.seed = "pose", 100 + number
        scene.musev.armature = scene.objects["Figure"]
        scene.musev.still_image = bpy.data.images.load(str(self.work / f"{number}.png"))
        self.pump(lambda: self.session.engine.state is self.states.ON)
        return scene

    def makes(self, verb, **how):
        """The job that an operator hands in, once it has ended."""
        verb(**how)
        job = self.session.jobs[-1]
        self.pump(lambda: job.ended)
        if job.problem:
            raise SystemExit(job.problem)
        return job

    def stop(self) -> None:
        self.ops.engine_stop()
        self.pump(lambda: not self.session.engine.busy)


class Table:
    """Prints as it goes, and knows the worst."""

    def __init__(self):
        self.too_large, self.ratios = 0, []
        print(
            f"{'character':>9}  {'what':30} {'at a':>6} {'at b':>6}   {'there':>6} {'there':>6} {'within':>6}",
            flush=True,
        )

    def row(
        self,
        number: int,
        what: str,
        median: float,
        ends: list[float],
        there: list[float],
        within: float = math.nan,
    ) -> None:
        """ends, there: steps; NaN where there is none. within: how much larger than its median one is the largest."""
        now, was = np.array(ends) / median, np.array(there) / median
        told = ["" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in (*now, *was, within)]
        line = f"{number:>9}  {what:30} {told[0]:>6} {told[1]:>6}   {told[2]:>6} {told[3]:>6} {told[4]:>6}"
        self.ratios += [ratio for ratio in now if not math.isnan(ratio)]
        over = (now > ALLOWED) & ~(now <= ALLOWED * np.nan_to_num(was))
        self.too_large += int(over.sum()) + (within > ALLOWED_WITHIN)
        print(line + ("  <" if over.any() or within > ALLOWED_WITHIN else ""), flush=True)


def at(values: np.ndarray, place: int) -> float:
    return float(values[place]) if 0 <= place < len(values) else math.nan


def measure(
    artist: Artist, number: int, next_clip: tuple[Path, float] | None, table: Table
) -> tuple[Path, float]:
    """All of one character; returns its clip's take, and that one's median step."""
    scene = artist.open(number)
    stack, strips = (importlib.import_module(f"{PACKAGE}.{name}") for name in ("clips.stack", "strips"))
    whole = artist.makes(artist.ops.generate)
    own = steps(whole.take)
    median = float(np.median(own))
    print(
        f"{number:>9}  whole clip: median step {median:.2f}, largest {own.max() / median:.2f} of it",
        flush=True,
    )
    for new_seed, (name, (first, last)) in itertools.product((False, True), RANGES.items()):
        job = artist.makes(
            artist.ops.redo_range, frame_start=1 + first, frame_end=1 + last, new_seed=new_seed
        )
        now = steps(job.take)
        what = f"redo {first}-{last} ({name}){', new seed' if new_seed else ''}"
        table.row(number, what, median, *([at(each, first - 1), at(each, last)] for each in (now, own)))
        strip = stack.active(scene)
        stack.show(strip, sorted(whole.take.glob("*.png")))
    mine = strips.top_strips(scene)[whole.strip]
    for direction, first in (("AFTER", FRAMES - 1), ("BEFORE", FURTHER - 1)):
        scene.sequence_editor.active_strip = mine
        job = artist.makes(artist.ops.extend, frames=FURTHER, direction=direction)
        now = steps(job.take)
        ends = [at(now, first), math.nan] if direction == "AFTER" else [math.nan, at(now, first)]
        table.row(number, f"extend {direction.lower()}", median, ends, [math.nan, math.nan])
        strips.remove(scene, strips.top_strips(scene)[job.strip])
    strips.remove(scene, mine)

    def bridge(
        what: str, one: list[Path], other: list[Path], gap: int, level: float, there: list[float]
    ) -> None:
        placed = [
            strips.place_images(scene, "One", one, 1, 1),
            strips.place_images(scene, "Other", other, 1 + len(one) + gap, 1),
        ]
        for strip in strips.top_strips(scene):
            strip.select = strip in placed
        job = artist.makes(artist.ops.bridge)
        made = sorted(job.take.glob("*.png"))
        ends = [step(one[-1], made[0]), step(made[-1], other[0])]
        inside = np.array([ends[0], *steps(job.take), ends[1]])
        turns = math.isnan(there[0])  # into another character
        within = float(inside.max() / np.median(inside)) if turns else math.nan
        table.row(number, what, level, ends, there, within)
        for strip in (*placed, strips.top_strips(scene)[job.strip]):
            strips.remove(scene, strip)

    files = sorted(whole.take.glob("*.png"))
    first, last = GAP
    gap = last + 1 - first
    bridge(
        f"bridge {first}-{last}", files[:first], files[last + 1 :], gap, median,
        [at(own, first - 1), at(own, last)],
    )  # fmt: skip
    if next_clip is not None:
        other, other_median = next_clip
        level = (median + other_median) / 2
        bridge("bridge to another clip", files, sorted(other.glob("*.png")), FURTHER, level, [math.nan] * 2)
    return whole.take, median


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--characters", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="work in this folder and leave all in it")
    args = parser.parse_args()
    work = (args.keep or Path(tempfile.mkdtemp(prefix="musev-seams-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["BLENDER_USER_RESOURCES"] = str(work / "user")  # read when bpy is imported
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    for number in range(args.characters):
        build(work, number)
    artist, table, clip = Artist(work), Table(), None
    random.seed(SEED)  # of the new seeds
    for number in range(args.characters):
        clip = measure(artist, number, clip, table)
    artist.stop()
    if not args.keep:
        shutil.rmtree(work, ignore_errors=True)
    print(
        f"{len(table.ratios)} seams: median {np.median(table.ratios):.2f}, largest {max(table.ratios):.2f}; "
        f"{table.too_large} too large"
    )
    return int(table.too_large > 0)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # bpy may hang at exit while classes are registered
