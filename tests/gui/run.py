"""`make test-gui BLENDER="command"`: the artist's flows in a real Blender window, by simulated events.

The command may be a wrapper that sees nothing but the temporary directory: everything that Blender needs is copied
into one folder there, and what it is to do stands in a file in it. The engines run here, outside, and are reached over
loopback. The window is on an X server of our own where there is an Xvfb, here or behind the wrapper; else on $DISPLAY.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENGINE_PYTHON = ROOT / ".venv" / "bin" / "python"
FAKES = ("work", "queue", "fail", "tight", "offline", "old", "fail_some")
WIDTH, HEIGHT = 960, 2400  # pixels: high, for the sidebar; software GL takes its time for each
sys.path.insert(0, str(ROOT))
ENGINE_OUTSIDE = """# The engine that Blender starts: has a real one started outside, tells its greeting, and lives.
cd "$(dirname "$0")" && umask 077 && printf %s "$MUSEV_TOKEN" > wanted.part && mv wanted.part wanted
while [ ! -s greeting ]; do sleep 0.1; done
cat greeting
exec sleep 86400
"""


def stage(folder: Path) -> None:
    """Everything that Blender needs, in one folder."""
    import build_extension

    for file in HERE.glob("*.py"):
        shutil.copy2(file, folder)
    (folder / "engine.sh").write_text(ENGINE_OUTSIDE)
    build_extension.build(folder, engine=f"/bin/sh {folder / 'engine.sh'}")
    maker = [sys.executable, str(ROOT / "examples" / "dancer.py"), str(folder)]
    subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
    (folder / "shots").mkdir()


@contextlib.contextmanager
def engine(name: str, folder: Path, token: str = "") -> Iterator[dict]:
    """An engine while the block runs: its greeting, its address, and the file with its token."""
    token = token or secrets.token_urlsafe(24)
    token_file = folder / f"token_{name}"
    token_file.touch(0o600)
    token_file.write_text(token)
    if name in ("real", "started"):
        command = [str(ENGINE_PYTHON), "-m", "server", "--state-dir", str(folder / f"engine_{name}")]
    else:
        command = [str(ENGINE_PYTHON), str(ROOT / "tests" / "blender" / "fake_engine.py"), "--do", name]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "MUSEV_TOKEN": token}, stdout=subprocess.PIPE,
        stderr=(folder / f"engine_{name}.log").open("wb"), text=True,
    )  # fmt: skip
    try:
        greeting = json.loads(process.stdout.readline())
        yield {"url": greeting["url"], "token_file": str(token_file), "greeting": greeting}
    finally:
        process.terminate()
        process.wait(30)


def x_server(blender: list[str], folder: Path) -> tuple[subprocess.Popen | None, str]:
    """An X server of our own whose screen lies in a file, and its display; or none, and $DISPLAY. Raises SystemExit."""
    screen = folder / "screen"
    screen.mkdir()
    options = ["-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-nolisten", "tcp", "-fbdir", str(screen)]
    for wrapper in ([], blender[:-1]) if len(blender) > 1 else ([],):
        if not wrapper and shutil.which("Xvfb") is None:
            continue
        for number in range(91, 111):  # another run may take one at the same time
            display = f":{number}"
            socket = Path(f"/tmp/.X11-unix/X{number}")
            if socket.exists():
                continue
            with (folder / "xvfb.log").open("wb") as log:
                server = subprocess.Popen([*wrapper, "Xvfb", display, *options], stdout=log, stderr=log)
            while server.poll() is None:
                if socket.exists() and (screen / "Xvfb_screen0").exists():
                    return server, display
                time.sleep(0.05)
    screen.rmdir()
    if display := os.environ.get("DISPLAY", ""):
        return None, display
    raise SystemExit(
        "There is no X server: neither Xvfb, here or behind the command, nor $DISPLAY. Install xvfb."
    )


def run(blender: list[str], folder: Path, limit_s: float, stack: contextlib.ExitStack) -> int:
    """Blender with the flows until it ends by itself; its exit status, 124 when it took too long. The engine that it
    starts runs here, until `stack` ends.
    """
    server, display = x_server(blender, folder)
    command = [
        *blender, "--factory-startup", "--offline-mode", "--enable-event-simulate", "--gpu-backend", "opengl",
        "--window-geometry", "0", "0", str(WIDTH), str(HEIGHT), "--python-exit-code", "3",
        "--python", str(folder / "start.py"),
    ]  # fmt: skip
    try:
        with (folder / "blender.log").open("wb") as log:
            process = subprocess.Popen(
                command, env={**os.environ, "DISPLAY": display, "LIBGL_ALWAYS_SOFTWARE": "1"},
                stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
            )  # fmt: skip
            deadline = time.monotonic() + limit_s
            while process.poll() is None:
                if (folder / "wanted").exists():
                    token = (folder / "wanted").read_text()
                    (folder / "wanted").unlink()
                    told = stack.enter_context(engine("started", folder, token))["greeting"]
                    (folder / "greeting").write_text(json.dumps(told) + "\n")
                if time.monotonic() > deadline:
                    os.killpg(process.pid, 9)
                    process.wait()
                    return 124
                time.sleep(0.1)
            return process.returncode
    finally:
        if server is not None:
            server.terminate()
            server.wait()


def is_valid(blender: list[str], folder: Path) -> bool:
    """Whether this Blender's own tool finds the zip in order."""
    (archive,) = folder.glob("*.zip")
    command = [*blender, "--factory-startup", "--command", "extension", "validate", str(archive)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    well = done.returncode == 0 and "Success" in done.stdout
    print("extension validate: clean" if well else f"FAILED  extension validate:\n{done.stdout}")
    return well


def report(folder: Path, status: int) -> bool:
    """Tells what was seen; True if every flow ended well."""
    file = folder / "results.json"
    if not file.exists():
        print((folder / "blender.log").read_text(errors="replace")[-4000:])
        print(f"Blender ended with {status} before it began.")
        return False
    results = json.loads(file.read_text())
    well = status == 0 and results["finished"]
    print(f"Blender {results['blender']}")
    for flow in results["flows"]:
        problem = flow["problem"]
        ended = "seconds" in flow
        word = "FAILED" if problem else "passed" if ended else "STOPPED"
        print(f"  {word}  {flow['flow']}" + (f", {flow['seconds']} s" if ended else ""))
        for name, value in flow.get("facts", {}).items():
            print(f"          {name}: {value}")
        if problem or not ended:
            well = False
            print(f"          at: {(flow.get('steps') or ['the beginning'])[-1]}")
            print("          " + problem.strip().replace("\n", "\n          "))
            print(f"          picture: {flow.get('picture', 'none')}")
    said = (folder / "blender.log").read_text(errors="replace")
    if found := re.search(r"Traceback \(most recent|Python script error", said):
        told = said[max(0, found.start() - 200) : found.start() + 1500]
        print("  FAILED  Blender's console has:\n          " + told.strip().replace("\n", "\n          "))
        well = False
    if status:
        print(f"Blender ended with {status}: see blender.log")
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("blender", help="the command that starts a windowed Blender, 4.2 or later")
    parser.add_argument("--only", nargs="*", default=[], help="these flows alone")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "out" / "gui", help="where screenshots and logs are left"
    )
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="musev-gui-", ignore_cleanup_errors=True))
        )
        stage(folder)
        engines = {name: stack.enter_context(engine(name, folder)) for name in ("real", *FAKES)}
        plan = {"engines": engines, "only": arguments.only}
        (folder / "plan.json").write_text(json.dumps(plan))
        valid = is_valid(shlex.split(arguments.blender), folder)
        status = run(shlex.split(arguments.blender), folder, arguments.limit, stack)
        well = report(folder, status) and valid
        shutil.rmtree(arguments.output, ignore_errors=True)
        arguments.output.mkdir(parents=True)
        for name in ("results.json", "blender.log"):
            if (folder / name).exists():
                shutil.copy2(folder / name, arguments.output)
        shutil.copytree(folder / "shots", arguments.output / "shots")
    print(f"Screenshots: {arguments.output / 'shots'}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
