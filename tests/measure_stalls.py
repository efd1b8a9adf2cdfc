"""How long Blender's main thread stands still for a clip of 240 frames of 512 x 512, and for what.

    .venv-blender/bin/python -m tests.measure_stalls [--frames 240] [--size 512]

Runs in Blender's Python (the bpy module): installs the extension, reads the poses of a rig, and has an engine that is
nothing but a real process with a real socket send real pictures as fast as it can: 16 previews after each of 20 steps,
then the frames. Prints what pressing Generate takes, the longest turns of the extension's timer and what they did, and
Python's collections of garbage in them. Where other programs are at work, the time that passed is theirs too; "at work"
is this thread's alone, without waiting for the disk. Other add-ons have objects that Python has to look through too:
--objects makes that many, as a Blender with some of them has.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "blender")]
UNDO = "Blender's undo step"
GARBAGE = "Python's garbage"
STEPS, SKETCHES, PAUSE_S = 20, 16, 0.005
LIMIT_S = 300


# --- the engine -----------------------------------------------------------------------------------


def picture(width: int, height: int, seed: int, by_left: bool = False) -> bytes:
    """A PNG about as large as a real frame: soft shapes and some grain. by_left: rows stored as the engine's previews
    are, by their differences to the left."""
    from blender_addon.stills import encode_png

    rng = np.random.default_rng(seed)
    across, down = np.linspace(0, 6, width), np.linspace(0, 6, height)[:, None]
    soft = np.sin(across * rng.uniform(0.5, 2) + seed) * np.cos(down * rng.uniform(0.5, 2)) * 90 + 128
    grain = rng.normal(0, 4, (height, width, 3))
    drawn = np.clip(soft[..., None] * rng.uniform(0.5, 1, 3) + grain, 0, 255).astype(np.uint8)
    if not by_left:
        return encode_png(drawn)
    lines = np.ones((height, 1 + 3 * width), np.uint8)  # 1: that filter
    lines[:, 1:] = np.diff(drawn, axis=1, prepend=np.zeros((height, 1, 3), np.uint8)).reshape(height, -1)
    plain = encode_png(drawn)
    packed = b"IDAT" + zlib.compress(lines.tobytes())
    chunk = struct.pack(">I", len(packed) - 4) + packed + struct.pack(">I", zlib.crc32(packed))
    return plain[: plain.index(b"IDAT") - 4] + chunk + plain[plain.rindex(b"IEND") - 4 :]


def serve() -> None:
    import fake_engine
    from fake_engine import p

    class Flood(fake_engine.FakeEngine):
        async def make(self, connection, job, have):
            request = self.requests[job]
            large = [picture(request.width, request.height, seed) for seed in range(8)]
            small = [
                picture(request.width // 4, request.height // 4, seed, by_left=True) for seed in range(8)
            ]
            places = range(0, request.num_frames, max(request.num_frames // SKETCHES, 1))
            for step in range(STEPS):
                await connection.send(p.encode(p.Progress(job, "denoise", step, STEPS)))
                for frame in places:
                    await connection.send(p.encode(p.Preview(job, step, frame, small[(step + frame) % 8])))
                await asyncio.sleep(0.05)  # no step is quicker
            for frame in range(request.frames_out):
                await connection.send(p.encode(p.FrameReady(job, frame, large[frame % 8])))
            done = p.Done(job, request.frames_out, (), 12.0, "cpu", "ab" * 32, "free", "flood")
            await connection.send(p.encode(done))

    fake_engine.FakeEngine = Flood
    asyncio.run(fake_engine.main())


# --- the measuring --------------------------------------------------------------------------------


@dataclass
class Turn:
    """One of the timer's: seconds that passed, seconds of this thread's work, and what they were spent on. left: how
    many objects more there are that Python looks through for garbage; None where it did so just then."""

    seconds: float
    work: float
    left: int | None
    spent: (
        list  # what, seconds, of work; and again: one list, so that watching leaves next to no objects itself
    )

    @property
    def parts(self) -> list[tuple[str, float, float]]:
        return list(zip(self.spent[::3], self.spent[1::3], self.spent[2::3], strict=True))

    @property
    def ours(self) -> float:
        return self.seconds - sum(seconds for name, seconds, _ in self.parts if name == UNDO)

    def __str__(self) -> str:
        """The parts, those of one name together, the longest first."""
        sums: dict[str, list[tuple[float, float]]] = {}
        for name, *spent in self.parts:
            sums.setdefault(name, []).append(spent)
        totals = [(*np.sum(each, axis=0) * 1e3, len(each), name) for name, each in sums.items()]
        parts = [
            f"{name} {passed:.1f}/{work:.1f}" + (f" ({count})" if count > 1 else "")
            for passed, work, count, name in sorted(totals, reverse=True)
            if passed >= 0.5
        ]
        return f"{self.ours * 1e3:5.1f} ms, of which at work {self.work * 1e3:.1f}: {', '.join(parts)}"


class Watch:
    """What each turn was spent on: the calls of some functions, one inside another."""

    def __init__(self):
        self.turns: list[Turn] = []
        self._now: list = []
        self._at_work = self._collected = False

    def look_at_garbage(self) -> None:
        began = 0.0, 0.0

        def collects(phase: str, info: dict) -> None:
            nonlocal began
            if phase == "start":
                began = clocks()
            elif self._at_work:
                self._now += (f"{GARBAGE} {info['generation']}", *since(began))
                self._collected = True

        gc.callbacks.append(collects)

    def look_at(self, owner, name: str, label: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def timed(*given, **named):
            began = clocks()
            try:
                return original(*given, **named)
            finally:
                self._now += (label(*given), *since(began))

        setattr(owner, name, timed)

    def turn(self, tick: Callable[[], object]) -> None:
        self._now, self._collected, self._at_work = [], False, True
        before, began = gc.get_count()[0], clocks()
        tick()
        spent, left = since(began), gc.get_count()[0] - before
        self._at_work = False
        self.turns.append(Turn(*spent, None if self._collected else left, self._now))


def clocks() -> tuple[float, float]:
    """Seconds that pass, and that this thread is at work."""
    return time.perf_counter(), time.thread_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - began[0], time.thread_time() - began[1]


def measure(frames: int, size: int, shown: int, folder: Path, objects: int) -> None:
    import bpy

    others = [[] for _ in range(objects)]  # noqa: F841

    from build_extension import build

    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.extensions.package_install_files(
        filepath=str(build(folder / "dist")), repo="user_default", enable_on_install=True, overwrite=True
    )
    from bl_ext.user_default.musev import outlook, session
    from bl_ext.user_default.musev.clips import stack
    from bl_ext.user_default.musev.engine_link import EngineLink, EngineState
    from bl_ext.user_default.musev.making import live_strip, placing
    from bl_ext.user_default.musev.making.jobs import JobState
    from rigs import RIGIFY_METARIG, camera, figure

    scene, current = bpy.context.scene, session.current
    figure(RIGIFY_METARIG, "Dancer")
    camera()
    scene.frame_start, scene.frame_end = 1, frames
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = scene
    settings = scene.musev
    settings.width = settings.height = size
    settings.armature = bpy.data.objects["Dancer"]
    still = folder / "still.png"
    still.write_bytes(picture(2 * size, 2 * size, 0))
    settings.still_image = bpy.data.images.load(str(still))
    preferences = bpy.context.preferences.addons["bl_ext.user_default.musev"].preferences
    preferences.engine_command = f'"{sys.executable}" "{__file__}" --serve'
    preferences.output_folder = str(folder / "takes")
    bpy.ops.musev.engine_start()

    watch = Watch()
    watch.look_at(EngineLink, "pump", lambda *_: "socket")
    watch.look_at(session.Session, "_take_event", lambda _, event: type(event).__name__)
    watch.look_at(session.Session, "_advance", lambda _, job, *__: job.phase or job.state.value)
    watch.look_at(live_strip.LiveStrips, "_place", lambda *_: "live strip placed")
    watch.look_at(live_strip.LiveStrips, "_refresh", lambda *_: "live strip read again")
    watch.look_at(live_strip.LiveFrames, "advance", lambda *_: "live frames")
    watch.look_at(stack, "place", lambda *_: "take placed")
    watch.look_at(placing, "push_undo", lambda *_: UNDO)

    watch.look_at_garbage()

    deadline = time.monotonic() + LIMIT_S

    def until(condition: Callable[[], object]) -> None:
        while not condition():
            watch.turn(current.tick)
            time.sleep(PAUSE_S)
            if time.monotonic() > deadline:
                raise SystemExit(f"not done after {LIMIT_S} s: {current.jobs} {current.engine.problem}")

    until(lambda: current.engine.state is EngineState.ON)
    began = clocks()
    if not bpy.ops.musev.generate.poll():
        raise SystemExit(f"Generate can't be pressed: {outlook.why_not(bpy.context)}")
    bpy.ops.musev.generate()
    pressed, work = since(began)
    job = current.jobs[-1]
    until(lambda: job.ended)
    until(lambda: not current.live.busy)
    if job.state is not JobState.DONE:
        raise SystemExit(f"the clip ended as {job.state.value}: {job.problem}")
    bpy.ops.musev.engine_stop()
    while current.busy:
        current.tick()

    print(f"\nBlender {bpy.app.version_string}, {frames} frames of {size} x {size}: {len(watch.turns)} turns")
    print(f"Generate pressed: {pressed * 1e3:.1f} ms, of which at work {work * 1e3:.1f}")
    for by, first in (("time", lambda turn: -turn.ours), ("work", lambda turn: -turn.work)):
        print(f"the longest turns by {by}:")
        for turn in sorted(watch.turns, key=first)[:shown]:
            print(f"  {turn}")
    pieces: dict[str, list[tuple[float, float]]] = {}
    for name, passed, work in (part for turn in watch.turns for part in turn.parts):
        pieces.setdefault(name, []).append((work, passed))
    print("the longest of each kind, by work:")
    for name, each in sorted(pieces.items(), key=lambda item: -max(item[1])[0]):
        print(
            f"  {name}: at work {max(each)[0] * 1e3:.1f} ms of {max(each)[1] * 1e3:.1f}; {len(each)} of them"
        )
    left = sum(turn.left or 0 for turn in watch.turns)
    print(f"Of {len(gc.get_objects())} objects that Python looks through, {left} are left of these turns")
    long = [sum(turn.ours > limit for turn in watch.turns) for limit in (0.008, 0.016)]
    busiest = max(turn.work for turn in watch.turns)
    print(f"{long[0]} turns above 8 ms, {long[1]} above 16 ms; the most work in one: {busiest * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--turns", type=int, default=5, help="of the longest ones are printed")
    parser.add_argument("--objects", type=int, default=0, help="of other add-ons, for Python's garbage")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked, rest = parser.parse_known_args()
    if asked.serve:
        sys.argv[1:] = rest
        serve()
        return
    folder = Path(tempfile.mkdtemp(prefix="musev-stalls-"))
    os.environ["BLENDER_USER_RESOURCES"] = str(folder / "user")  # before bpy comes
    status = 1
    try:
        measure(asked.frames, asked.size, asked.turns, folder, asked.objects)
        status = 0
    except SystemExit as end:
        print(end, file=sys.stderr)
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        session = sys.modules.get("bl_ext.user_default.musev.session")
        if session is not None and (engine := session.current.engine.process) is not None:
            engine.kill()
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # some releases of bpy hang in the interpreter's own exit


if __name__ == "__main__":
    main()
