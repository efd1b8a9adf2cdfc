"""`make demo`: what an artist does, with the real parts, from the extension's zip to a rendered strip.

Runs in Blender's own Python (the bpy module). Builds and installs the extension in a temporary user folder, opens the
dancer's scene, starts the engine as a process of its own, presses Generate, pumps the session until the strip stands,
renders the sequencer, and leaves everything under `out/`.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ENGINE_PYTHON = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
TIME_LIMIT_S = 600
COLUMNS = 8  # of the contact sheet


class Stopwatch:
    """Seconds per phase, for the table at the end."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._name, self._since = "", time.perf_counter()

    def start(self, name: str) -> None:
        self.stop()
        self._name, self._since = name, time.perf_counter()
        print(f"\n{name} …", flush=True)

    def stop(self) -> None:
        if self._name:
            self.phases[self._name] = self.phases.get(self._name, 0) + time.perf_counter() - self._since
        self._name = ""


def peak_megabytes(pid: int) -> float | None:
    """The most memory a process has held so far, where the system tells (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), None
    )


def descendants(pid: int) -> list[int]:
    """A process's children and theirs, where the system tells (Linux)."""
    try:
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return own + [grandchild for child in own for grandchild in descendants(child)]


def main() -> int:
    out = ROOT / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    watch = Stopwatch()

    watch.start("make the dancer's scene")
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "dancer.py"), str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
    )

    watch.start("build the extension")
    import build_extension

    engine = f'"{ENGINE_PYTHON}" -m server'  # so that this zip, in any Blender here, finds it by itself
    archive = build_extension.build(out, engine=engine)

    watch.start("install it in Blender")
    import bpy

    bpy.ops.extensions.package_install_files(
        filepath=str(archive), repo="user_default", enable_on_install=True, overwrite=True
    )
    package = "bl_ext.user_default.musev"
    current = importlib.import_module(f"{package}.session").current
    engine_state = importlib.import_module(f"{package}.engine_link").EngineState
    job_state = importlib.import_module(f"{package}.making.jobs").JobState

    watch.start("open the dancer's scene")
    bpy.ops.wm.open_mainfile(filepath=str(out / "dancer.blend"))
    scene = bpy.context.scene
    scene.musev.mode = "pose"
    scene.musev.armature = scene.objects["Dancer"]
    scene.musev.still_image = bpy.data.images.load(str(out / "still.png"))
    scene.musev.seed = 7

    watch.start("start the engine")
    command = [str(ENGINE_PYTHON), "-m", "server", "--state-dir", str(out / "engine")]
    quoted = " ".join(f'"{word}"' for word in command)
    bpy.context.preferences.addons[package].preferences.engine_command = quoted
    bpy.ops.musev.engine_start()
    deadline = time.monotonic() + TIME_LIMIT_S
    while current.engine.state is not engine_state.ON:
        tick(current)
        if current.engine.state is engine_state.OFF or time.monotonic() > deadline:
            raise SystemExit(f"The engine did not start: {current.engine.problem}")
    server = current.engine.process.pid
    if not bpy.ops.musev.generate.poll():
        raise SystemExit("Generate can't be pressed")

    bpy.ops.musev.generate()
    job, told, phase, seen = current.jobs[-1], "", "", {server}
    while not job.ended:
        if (now := job.phase or job.state.value) != phase:
            phase = now
            watch.start(f"generate: {phase}")
        tick(current)
        seen.update(descendants(server))
        eta = f", about {job.eta_s:.0f} s left" if job.eta_s is not None else ""
        line = f"  {phase} {job.step}/{job.num_steps}{eta}; {len(job.have)} of {job.request.num_frames} frames here"
        if line != told:
            print(f"\r{line:78}", end="", flush=True)
            told = line
        if time.monotonic() > deadline:
            raise SystemExit(f"The clip is not done after {TIME_LIMIT_S} s: {told}")
    if job.state is not job_state.DONE:
        raise SystemExit(f"The clip ended as {job.state.value}: {job.problem}")
    memory = {pid: peak_megabytes(pid) for pid in seen}

    watch.start("draw the poses")
    bpy.ops.musev.preview_alignment()  # what the pose ControlNet was shown
    poses = current.jobs[-1]
    while not poses.ended and time.monotonic() < deadline:
        tick(current)
    if poses.state is not job_state.DONE:
        raise SystemExit(f"The poses ended as {poses.state.value}: {poses.problem}")
    shutil.copytree(poses.take, out / "poses")
    bpy.ops.musev.engine_stop()

    watch.start("render depth, normals and the mask")
    shown = shown_frames(scene)
    render_passes(package, scene, shown, out)

    watch.start("render the rig and the sequencer")
    frames, rig = out / "frames", out / "rig"
    render(scene, rig, sequencer=False)
    render(scene, frames, sequencer=True)
    render(scene, out / "clip.mp4", sequencer=True)
    bpy.ops.wm.save_mainfile()

    watch.start("draw the contact sheet")
    sheet = [str(ENGINE_PYTHON), str(ROOT / "examples" / "contact_sheet.py"), str(out)]
    numbers = [str(frame - scene.frame_start) for frame in shown]
    subprocess.run([*sheet, *numbers], check=True, cwd=ROOT)
    watch.stop()
    while current.busy:
        tick(current)

    made = sum(seconds for name, seconds in watch.phases.items() if name.startswith("generate"))
    print("\n\nseconds  phase")
    for name, seconds in watch.phases.items():
        print(f"{seconds:7.1f}  {name}")
    print(f"{sum(watch.phases.values()):7.1f}  in all\n")
    print(
        f"frames per second: {job.request.num_frames / made:.1f} ({job.request.num_frames} frames in {made:.1f} s)"
    )
    told_memory = [f"{mb:.0f} MB" for mb in (memory.pop(server, None),) if mb]
    told_memory += [f"{mb:.0f} MB" for mb in sorted((mb for mb in memory.values() if mb), reverse=True)[:1]]
    print(
        f"peak memory, engine's server and worker: {' and '.join(told_memory) or 'not told by this system'}"
    )
    print(
        f"longest tick of Blender's main thread: {current.longest_tick_s * 1000:.1f} ms; "
        f"placing the strip: {current.longest_place_s * 1000:.1f} ms"
    )
    print(
        f"left in {out.relative_to(ROOT)}/: dancer.blend, musev/ (the take), frames/, clip.mp4, contact_sheet.png"
    )
    return 0


def tick(current) -> None:
    """One turn of the session's timer (timers do not fire in the bpy module), and Blender's pause between two."""
    current.tick()
    time.sleep(0.005)


def shown_frames(scene) -> list[int]:
    """The frames that the contact sheet shows, from the first to the last."""
    length = scene.frame_end - scene.frame_start
    return [scene.frame_start + round(length * column / (COLUMNS - 1)) for column in range(COLUMNS)]


def render_passes(package: str, scene, frames: list[int], out: Path) -> None:
    """What the renderer gives for a clip of these frames: a folder of PNG files for each kind of picture."""
    wanted, settings = importlib.import_module(f"{package}.render.settings"), scene.musev
    settings.render.depth.use = settings.render.normal.use = settings.render.use_mask = True
    (capture,) = wanted.captures(scene, settings, frames, settings.width, settings.height)
    try:
        while not capture.advance(time.perf_counter() + 1.0):
            pass
        for name, pngs in capture.pngs.items():
            (out / name).mkdir()
            for index, png in enumerate(pngs):
                (out / name / f"{index + 1:04d}.png").write_bytes(png)
    finally:
        capture.cancel()
        settings.render.depth.use = settings.render.normal.use = settings.render.use_mask = False


def render(scene, path: Path, sequencer: bool) -> None:
    """The scene's range as PNG files into a folder, or as an mp4."""
    import bpy

    settings, image = scene.render, scene.render.image_settings
    settings.use_sequencer, settings.use_file_extension = sequencer, True
    if path.suffix == ".mp4":
        image.file_format = "FFMPEG"
        settings.ffmpeg.format, settings.ffmpeg.codec, settings.ffmpeg.constant_rate_factor = (
            "MPEG4",
            "H264",
            "HIGH",
        )
        settings.filepath = str(path)
    else:
        image.file_format, image.color_mode = "PNG", "RGB"
        settings.filepath = str(path) + os.sep
    bpy.ops.render.render(animation=True)
    image.file_format = "PNG"


if __name__ == "__main__":
    status, user_folder = 1, tempfile.mkdtemp(prefix="musev-demo-")
    os.environ["BLENDER_USER_RESOURCES"] = user_folder  # read when bpy is imported
    try:
        status = main()
    except SystemExit as end:
        print(end, file=sys.stderr)
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        shutil.rmtree(user_folder, ignore_errors=True)
        os._exit(status)  # some releases of bpy hang in the interpreter's own exit
