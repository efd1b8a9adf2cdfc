"""The `musev` command. Each verb's own arguments are read by the verb; nothing heavy is imported before."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import importlib
import ipaddress
import os
import secrets
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from blender_addon import protocol
from blender_addon.protocol import Greeting, ProtocolError, Refused
from server.cli_generate import text2video, text2video_arguments, video2video, video2video_arguments
from server.cli_models import models, models_arguments, plugins, plugins_arguments
from server.doctor import doctor, doctor_arguments

TOKEN_VARIABLE = "MUSEV_TOKEN"
DELEGATED = {  # verb: (module, what it does)
    "train mini": ("musev_engine.training.mini", "train the embedded model"),
    "bench quality": ("musev_engine.training.quality", "measure the embedded model against the truth"),
    "bench parity": ("tests.parity", "compare with the original's recorded outputs (in a checkout)"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    verbs: dict[str, tuple[Callable, Callable, str]] = {
        "serve": (serve_arguments, serve, "make clips for Blender until its parent ends"),
        "text2video": (text2video_arguments, text2video, "make clips from texts and pictures"),
        "video2video": (video2video_arguments, video2video, "make clips from videos"),
        "models": (models_arguments, models, "list, download, verify and remove models"),
        "plugins": (plugins_arguments, plugins, "list what this engine and other packages add to it"),
        "doctor": (
            doctor_arguments,
            doctor,
            "see what is here, what is missing, and what this machine can run",
        ),
    }
    if " ".join(argv[:2]) in DELEGATED:
        return delegate(" ".join(argv[:2]), argv[2:])
    if not argv or argv[0] not in verbs:
        helps = {verb: text for verb, (_, _, text) in verbs.items()} | {
            v: t for v, (_, t) in DELEGATED.items()
        }
        asked = argv[:1] in (["-h"], ["--help"])
        if argv and not asked:
            near = difflib.get_close_matches(" ".join(argv[:2]), helps, n=1, cutoff=0.5)
            near = near or difflib.get_close_matches(argv[0], helps, n=1)
            meant = f". Did you mean: musev {near[0]}?" if near else ""
            print(f"musev: there is no verb {argv[0]!r}{meant}\n", file=sys.stderr)
        told = sys.stdout if asked else sys.stderr
        print("usage: musev VERB [--help]\n", file=told)
        print("\n".join(f"  {verb:14} {text}" for verb, text in helps.items()), file=told)
        return 0 if asked else 2
    add_arguments, run, text = verbs[argv[0]]
    parser = argparse.ArgumentParser(prog=f"musev {argv[0]}", description=text)
    add_arguments(parser)
    return run(parser.parse_args(argv[1:]))


def delegate(verb: str, rest: list[str]) -> int:
    module_name, text = DELEGATED[verb]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        print(
            f"musev {verb}: {error}. Run it in a checkout, in the environment of `make setup`.",
            file=sys.stderr,
        )
        return 1
    if hasattr(module, "main"):  # a program of its own
        return module.main(rest)
    parser = argparse.ArgumentParser(prog=f"musev {verb}", description=text)
    module.add_arguments(parser)
    return module.run(parser.parse_args(rest))


# --- serve --------------------------------------------------------------------------------------------


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=0, help="default: the system chooses")
    parser.add_argument(
        "--token-file", type=Path, help=f"who connects must know its content (or ${TOKEN_VARIABLE})"
    )
    parser.add_argument("--parent-pid", type=int, help="end when this process is gone and the queue is empty")
    parser.add_argument("--state-dir", type=Path, help="jobs, inputs and frames (default: this user's cache)")
    parser.add_argument(
        "--offline", action="store_true", help="never touch the network (as HF_HUB_OFFLINE=1)"
    )
    parser.add_argument(
        "--engine", default="server.clips:make_clip", help="module:function that makes the clips"
    )


def serve(args: argparse.Namespace) -> int:
    """Listen, print one line (a Greeting, or Refused with the problem), and serve."""
    from server.problems import problem_of
    from server.state_folder import open_store

    if args.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # the worker's too
    try:
        parent_lives = parent_watch(args.parent_pid)
        store = open_store(args.state_dir)
        token = find_token(args.token_file, store.folder)
        asyncio.run(_serve(args, store, token, parent_lives))
    except (ProtocolError, OSError, sqlite3.Error) as error:
        print(protocol.encode(Refused(problem_of(error))), flush=True)
        return 1
    return 0


async def _serve(args, store, token: str, parent_lives: Callable[[], bool]) -> None:
    from server.app import App
    from server.models import menus, models_here
    from server.worker import Worker

    worker = Worker(args.engine, store.inputs.folder)
    app = App(store, worker, token, models_here(), menus)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows ends the process instead
            loop.add_signal_handler(name, app.stopped.set)
    try:
        listening = await app.listen(args.host, args.port)
    except OSError as error:
        message = f"The engine can't listen there: {error.strerror}"
        remedy = "Choose another --port (0: the system chooses), or stop what uses it."
        raise ProtocolError(message, f"{args.host}:{args.port}", remedy, "cannot_listen") from error
    port = listening.sockets[0].getsockname()[1]
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(
        protocol.encode(Greeting(protocol.PROTOCOL_VERSION, f"ws://{host}:{port}", os.getpid())), flush=True
    )
    if not ipaddress.ip_address(args.host).is_loopback:
        print(f"{args.host} can be reached from other machines, and nothing is encrypted.", file=sys.stderr)
    try:
        async with listening:
            tasks = {
                asyncio.create_task(work)
                for work in (
                    app.stopped.wait(),
                    app.work(),
                    app.shelf.keep_working(),
                    app.watch_parent(parent_lives),
                )
            }
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            for task in done:
                task.result()  # raises what ended it, if it was not asked to end
    finally:
        await app.stop()
        store.close()


def find_token(file: Path | None, folder: Path) -> str:
    """The token: from a file that its user alone can read, else from the environment (which forgets it),
    else a new one, left in the state folder. Raises ProtocolError where the file is open to others or
    empty."""
    from_environment = os.environ.pop(TOKEN_VARIABLE, "")
    if file is not None:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise ProtocolError(
                "Others can read the token's file", str(file), f"Run: chmod 600 {file}", "open_token"
            )
        token = file.read_text().strip()
        if not token:
            raise ProtocolError(
                "The token's file is empty", str(file), "Write a long random word into it.", "no_token"
            )
        return token
    if from_environment:
        return from_environment
    token, path = secrets.token_urlsafe(32), folder / "token"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as kept:
        kept.write(token)
    print(f"The token is in {path}", file=sys.stderr)
    return token


def parent_watch(pid: int | None) -> Callable[[], bool]:
    """A function that says whether the parent lives; without a parent, always."""
    if pid is None:
        return lambda: True
    if sys.platform == "win32":
        import ctypes

        synchronize, still_running = 0x00100000, 0x102
        handle = ctypes.windll.kernel32.OpenProcess(synchronize, False, pid)
        return lambda: bool(handle) and ctypes.windll.kernel32.WaitForSingleObject(handle, 0) == still_running
    child = os.getppid() == pid  # then an orphan is told by its new parent, even if the number is used again

    def lives() -> bool:
        if child:
            return os.getppid() == pid
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    return lives
