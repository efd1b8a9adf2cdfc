"""The known models as clients see and change them: told, downloaded, verified, removed.

One thing is done at a time, in a process of its own (`shelf_process`) that may be ended at any moment: a download goes
on where it stopped. Imports musev_engine's registry, which is light, when it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable

from blender_addon import protocol
from blender_addon.protocol import ModelInfo, ModelProgress, ModelShelf, Problem, ProtocolError, ShelfModel

ENDED = ("done", "failed", "cancelled")


class Shelf:
    """changed: called after each step, told whether models have come or gone. work: what is or was done with each
    model, by its id."""

    def __init__(self, changed: Callable[[bool], Awaitable[None]]):
        self._changed = changed
        self.work: dict[str, ModelProgress] = {}
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._process: Process | None = None
        self._cancelled = False  # what is being done now

    async def download(self, id: str, licence_accepted: str) -> None:
        """Raises ProtocolError: "unknown_model", "offline" or "licence_not_accepted"."""
        model, shown = _known(id), licence_of(_known(id))
        if reason := offline():
            remedy = "Start the engine online, or put the model's files into its models folder by hand."
            raise ProtocolError(reason, id, remedy, "offline")
        if licence_accepted != shown:
            remedy = f"Read it at {model.licence_url}; who accepts it says its name: {shown}"
            raise ProtocolError(
                "The model's licence was not accepted", licence_accepted, remedy, "licence_not_accepted"
            )
        await self._begin(id, "download")

    async def verify(self, id: str) -> None:
        """Raises ProtocolError, code "unknown_model"."""
        _known(id)
        await self._begin(id, "verify")

    async def remove(self, id: str) -> None:
        """Raises ProtocolError: "unknown_model", or "missing_model" for one that isn't in the models folder."""
        if not removable(_known(id)):
            remedy = "Models of other folders are removed there."
            raise ProtocolError("This model isn't in the engine's models folder", id, remedy, "missing_model")
        await self._begin(id, "remove")

    async def cancel(self, id: str) -> None:
        """Stop what is being done with a model, or take it off what waits; nothing if there is none."""
        now = self.work.get(id)
        if now is None or now.state in ENDED:
            return
        if now.state == "running":
            self._cancelled = True
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    self._process.kill()
        await self._tell(dataclasses.replace(now, state="cancelled"))

    async def keep_working(self) -> None:
        """Do what waits, one after another, for ever."""
        while True:
            id = await self._waiting.get()
            if self.work[id].state == "waiting":  # and wasn't cancelled
                await self._do(id, self.work[id].action)

    async def stop(self) -> None:
        """End the process, in the middle of whatever it does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _begin(self, id: str, action: str) -> None:
        now = self.work.get(id)
        if now is not None and now.state not in ENDED:
            if now.action == action:  # asked for twice it is done once
                return
            remedy = "Wait, or cancel it."
            raise ProtocolError(f"This model is busy: {now.action}", id, remedy, "model_busy")
        await self._tell(ModelProgress(id, action, "waiting"))
        self._waiting.put_nowait(id)

    async def _do(self, id: str, action: str) -> None:
        self._process, self._cancelled, ended = None, False, False
        await self._tell(ModelProgress(id, action))
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HF_HUB_DISABLE_TELEMETRY": "1",  # the hub is asked for the model's files and nothing else
        }
        command = (sys.executable, "-P", "-m", "server.shelf_process", action, id)
        self._process = process = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, env=environment, limit=protocol.MAX_JSON_BYTES
        )
        if self._cancelled:  # while the process was starting
            process.kill()
        async for line in process.stdout:
            if not self._cancelled:
                progress = protocol.decode(line.decode())
                ended = progress.state in ENDED
                await self._tell(progress)
        status = await process.wait()
        if not (ended or self._cancelled):
            problem = Problem(
                "engine_error", "What was done with the model broke off", f"exit status {status}",
                "Try again: a download goes on where it stopped. See the engine's log.",
            )  # fmt: skip
            await self._tell(ModelProgress(id, action, "failed", problem=problem))

    async def _tell(self, progress: ModelProgress) -> None:
        self.work[progress.id] = progress
        await self._changed(progress.state in ENDED and progress.action != "verify")


def told(ready: tuple[ModelInfo, ...]) -> ModelShelf:
    """All known models. Looks for each one's files, which takes a moment."""
    from musev_engine import registry

    models = tuple(
        ShelfModel(
            model.id, model.role, model.about, licence_of(model), model.licence_url, model.commercial, model.size,
            registry.installed(model.id), removable(model), model.source,
        )
        for model in registry.known().values()
    )  # fmt: skip
    return ModelShelf(models, ready, offline())


def licence_of(model) -> str:
    """What a known model's licence is called: as it is shown, and as it is accepted."""
    from musev_engine import registry

    return model.licence or registry.UNKNOWN


def offline() -> str:
    """Why nothing can be downloaded, or ""."""
    from musev_engine import downloads

    return "The engine works offline (--offline or HF_HUB_OFFLINE)" if downloads.offline() else ""


def removable(model) -> bool:
    """Whether a known model, or a part of it, is in the models folder and nowhere else."""
    from musev_engine import registry

    paths, root = registry.here(model).values(), registry.models_folder()
    return bool(paths) and all(path.is_relative_to(root) for path in paths)


def _known(id: str):
    from musev_engine import registry
    from musev_engine.errors import EngineError

    try:
        return registry.model(id)
    except EngineError as error:
        raise ProtocolError(error.message, error.value, error.remedy, error.code) from error
