"""A local engine as a child process: start it, read its greeting, find whether it lives, stop it.

Nothing here waits: the child writes to files, which are looked at when the timer asks. The token goes through
the child's environment, where other users can't read it; the child learns our process id and ends when we do.
No `bpy`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import protocol
from .protocol import Greeting, Problem, ProtocolError, Refused

TOKEN_VARIABLE = "MUSEV_TOKEN"
LOG_TAIL_BYTES = 2000
RUNNING = "engine.running"  # where an engine listens, and its token: for a Blender that comes after this one
# Blender's own Python must not leak into another one.
FOREIGN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONEXECUTABLE")


class EngineStartError(Exception):
    """The engine did not start; `problem` says why, with the end of its log."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


def left_running(folder: Path) -> tuple[str, str] | None:
    """Url and token of an engine that an earlier Blender started and did not stop; whether it still runs, connecting
    tells. None where none was left, and for a file that no engine's start wrote."""
    try:
        told = json.loads((folder / RUNNING).read_text(encoding="utf-8"))
        url, token = str(told["url"]), str(told["token"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (url, token) if re.fullmatch(r"ws://127\.0\.0\.1:\d{1,5}", url) else None


class EngineProcess:
    """command: the argument list that serves, say ["musev", "serve"]. folder: where its
    greeting and log are kept; made if need be. Raises EngineStartError if the command can't be run."""

    def __init__(self, command: Sequence[str], folder: Path):
        self.command, self.token = tuple(command), secrets.token_urlsafe(32)
        self.greeting: Greeting | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path, self._greeting_path = folder / "engine.log", folder / "engine.greeting"
        self._running_path = folder / RUNNING
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
        environment |= {TOKEN_VARIABLE: self.token, "PYTHONUNBUFFERED": "1"}
        no_window = {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
        with self.log_path.open("wb") as log, self._greeting_path.open("wb") as greeting:
            try:
                self._child = subprocess.Popen(
                    [*self.command, "--parent-pid", str(os.getpid())],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=greeting,
                    stderr=log,
                    **no_window,
                )
            except (OSError, ValueError, IndexError) as error:
                raise EngineStartError(
                    Problem(
                        "engine_not_started",
                        f"The engine's command can't be run: {error}",
                        " ".join(self.command)[:1000],
                        "Set the command in the extension's preferences.",
                    )
                ) from error

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    @property
    def pid(self) -> int:
        return self._child.pid

    def read_greeting(self) -> Greeting | None:
        """The engine's greeting, or None while it has not spoken yet. Raises EngineStartError if it ended
        first, refused to serve, or is of another protocol version."""
        if self.greeting is None:
            ended = not self.alive  # asked before reading, so that its last words are not missed
            line, complete, _ = self._greeting_path.read_bytes()[: protocol.MAX_JSON_BYTES].partition(b"\n")
            if complete:
                self.greeting = self._parse(line)
                self._tell_where()
            elif ended:
                raise self._failed(
                    "engine_not_started",
                    f"The engine ended with status {self._child.returncode} before it served",
                    " ".join(self.command),
                    "Read the log.",
                )
        return self.greeting

    def log_tail(self) -> str:
        """The end of what the engine wrote to its log."""
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def stop(self) -> None:
        """Ask it to end; `alive` tells when it has."""
        self._running_path.unlink(missing_ok=True)
        if self.alive:
            self._child.terminate()

    def kill(self) -> None:
        """End it at once; its worker ends with it."""
        if self.alive:
            self._child.kill()

    def _tell_where(self) -> None:
        """Writes RUNNING, for its user's eyes alone."""
        self._running_path.unlink(missing_ok=True)
        number = os.open(self._running_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(number, "w", encoding="utf-8") as file:
            json.dump({"url": self.greeting.url, "token": self.token}, file)

    def _parse(self, line: bytes) -> Greeting:
        try:
            spoken = json.loads(line)
        except (ValueError, RecursionError):
            spoken = None
        if not isinstance(spoken, dict):
            raise self._not_an_engine(line[:200].decode(errors="replace"))
        version = spoken.get("protocol_version", protocol.PROTOCOL_VERSION)
        if version != protocol.PROTOCOL_VERSION:
            message = f"The extension speaks protocol {protocol.PROTOCOL_VERSION}, the engine another one"
            raise self._failed("protocol_mismatch", message, str(version), "Update the older of the two.")
        try:
            message = protocol.decode(line.decode())
        except ProtocolError as error:
            raise self._not_an_engine(str(error)) from None
        if isinstance(message, Refused):
            raise EngineStartError(message.problem)
        if not isinstance(message, Greeting):
            raise self._not_an_engine(type(message).__name__)
        return message

    def _not_an_engine(self, value: str) -> EngineStartError:
        remedy = "Set the engine's command in the extension's preferences, say: musev serve."
        return self._failed("not_an_engine", "The command printed no engine's greeting", value, remedy)

    def _failed(self, code: str, message: str, value: str, remedy: str) -> EngineStartError:
        tail = self.log_tail()
        remedy = f"{remedy} Its log {self.log_path} ends: {tail[-600:]}" if tail else remedy
        return EngineStartError(Problem(code, message[:4000], value[:1000], remedy[:1000]))
