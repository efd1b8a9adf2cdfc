"""The worker's supervisor: a spawned process that makes one clip at a time, and may die without harm.

The process is started for the first job and kept, with its loaded model, for the next. If it dies in the
middle of a job, that job fails and the next one gets a new process. Imports no torch and no numpy.

A job that is cancelled ends between two windows, and the process stays. While a model is loaded nobody looks up, and
there is nothing in the process yet that is worth keeping: it is killed, which also gives the memory back at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

from blender_addon import protocol
from blender_addon.protocol import (
    Cancel,
    Cancelled,
    ClipRequest,
    Done,
    Failed,
    Message,
    Problem,
    Progress,
    Submit,
)
from server.problems import problem_of
from server.worker_process import FRAMING, framed, unframed

ENDINGS = (Done, Failed, Cancelled)
PATIENCE_S = 3.0  # for a cancelled job that loads or prepares with the model already there
READ_AHEAD = 1024 * 1024  # bytes of the worker's output held here before it has to wait


class Worker:
    """engine: `module:function`, see `worker_process`. blobs: the folder that holds the inputs by their
    sha256."""

    def __init__(self, engine: str, blobs: Path):
        self._engine, self._blobs = engine, blobs
        self._process: Process | None = None
        self._at_work = self._cancelled = ""  # the job that the process has, and the one it is to stop
        self._model = self._wanted = ""  # what the process has loaded, and what the job is made with
        self._phase = "load"  # of the job

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self, job: str, request: ClipRequest, previews: bool = True) -> AsyncIterator[Message]:
        """What comes of the job, its one ending last, whatever happens to the process."""
        try:
            process = await self._ready()
            if self._cancelled == job:  # while the process was starting
                yield Cancelled(job)
                return
            process.stdin.write(framed(Submit(job, request, previews=previews)))
            self._at_work, self._wanted, self._phase = job, request.model, "load"
            await process.stdin.drain()
            while True:
                is_text, size = FRAMING.unpack(await process.stdout.readexactly(FRAMING.size))
                if size > protocol.MAX_MESSAGE_BYTES:
                    raise ConnectionError("the worker sent an endless message")
                message = unframed(is_text, await process.stdout.readexactly(size))
                if getattr(message, "job", None) != job:
                    continue  # the last words of the job before
                if isinstance(message, Progress):
                    self._phase = message.phase
                    if message.phase not in ("load", "draw"):
                        self._model = self._wanted
                yield message
                if isinstance(message, ENDINGS):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            problem = await self._crashed(error)
            yield Cancelled(job) if self._cancelled == job else Failed(job, problem)
        except OSError as error:  # no process can be started
            yield Failed(job, problem_of(error))
        finally:
            self._at_work = ""

    async def cancel(self, job: str) -> None:
        """Have the job stopped; `run` then gives Cancelled."""
        self._cancelled = job
        if self._at_work != job or self.pid is None:
            return
        if self._phase == "load" and self._model != self._wanted:
            self._process.kill()
            return
        asyncio.get_running_loop().call_later(PATIENCE_S, self._lose_patience, job)
        with contextlib.suppress(ConnectionError):  # it has just died, and `run` says so
            self._process.stdin.write(framed(Cancel(job)))
            await self._process.stdin.drain()

    def _lose_patience(self, job: str) -> None:
        if self._at_work == job and self.pid is not None and self._phase in ("load", "prepare"):
            self._process.kill()

    async def stop(self) -> None:
        """End the process, in the middle of whatever it does."""
        if self.pid is not None:
            self._process.kill()
            await self._process.wait()
        self._process = None

    async def _ready(self) -> Process:
        if self.pid is None:
            # -P and the server's own path: nothing is imported that happens to lie in the current folder
            command = (sys.executable, "-P", "-m", "server.worker_process", self._engine, str(self._blobs))
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._model = ""
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, limit=READ_AHEAD, env=environment
            )
        return self._process

    async def _crashed(self, error: Exception) -> Problem:
        process = self._process
        if isinstance(error, ValueError):  # alive, but what it says can't be trusted
            how = str(error)
            await self.stop()
        else:
            how = _status(await process.wait())
            self._process = None
        return Problem(
            "worker_crashed",
            "The engine's worker process died while it made this clip",
            how[:1000],
            "Generate again; if memory ran out, use a smaller size or fewer context_frames.",
        )


def _status(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"
