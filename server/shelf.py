"""The known models as clients see and change them: told, downloaded, verified, removed, added by a file.

One thing is done at a time, in a process of its own (`shelf_process`) that may be ended at any moment: a download goes
on where it stopped. Only files that are added arrive beside that, and are looked into when they are whole. Imports
musev_engine's registry, which is light, when it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Coroutine

from blender_addon import protocol
from blender_addon.protocol import (
    AddModel,
    ModelProgress,
    ModelSlice,
    Problem,
    ProtocolError,
)
from server import catalogue
from server.arrivals import Arrival
from server.problems import problem_of

ENDED = ("done", "failed", "cancelled")
TOLD_BYTES = 4 * 2**20  # of a file that arrives, from one word about it to the next
MAX_ARRIVALS = 8  # files that arrive at one time
MAX_WORK = 500  # models of which one remembers what was done last; more than are known, and may be added


class Shelf:
    """changed: called after each step, told whether models have come or gone. work: what is or was done with each
    model, by its id."""

    def __init__(self, changed: Callable[[bool], Awaitable[None]]):
        self._changed = changed
        self.work: dict[str, ModelProgress] = {}
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._processes: dict[str, Process | None] = {}  # of the models that are seen to now
        self._cancelled: set[str] = set()  # of these
        self._arrivals: dict[str, Arrival] = {}
        self._beginning: dict[str, asyncio.Event] = {}  # what came of these before is being read
        self._tasks: set[asyncio.Task] = set()

    async def download(self, id: str, licence_accepted: str) -> None:
        """Raises EngineError: "unknown_model"; ProtocolError: "not_on_hub", "offline" or "licence_not_accepted"."""
        model = _known(id)
        shown = catalogue.licence_of(model)
        if model.added:
            remedy = "Add its file again, from where you have it."
            raise ProtocolError(
                "This model was added by a file and can't be downloaded", id, remedy, "not_on_hub"
            )
        if reason := catalogue.offline():
            remedy = "Start the engine online, or put the model's files into its models folder by hand."
            raise ProtocolError(reason, id, remedy, "offline")
        if licence_accepted != shown:
            remedy = f"Read it at {model.licence_url}; who accepts it says its name: {shown}"
            raise ProtocolError(
                "The model's licence was not accepted", licence_accepted, remedy, "licence_not_accepted"
            )
        await self._begin(id, "download")

    async def verify(self, id: str) -> None:
        """Raises EngineError, code "unknown_model"."""
        _known(id)
        await self._begin(id, "verify")

    async def remove(self, id: str) -> None:
        """Raises EngineError: "unknown_model"; ProtocolError: "missing_model", for one that isn't in the models folder.
        Whether a clip needs it is not asked here."""
        if not catalogue.removable(_known(id)):
            remedy = "Models of other folders are removed there."
            raise ProtocolError("This model isn't in the engine's models folder", id, remedy, "missing_model")
        await self._begin(id, "remove")

    async def cancel(self, id: str) -> None:
        """Stop what is being done with a model, or take it off what waits; nothing if there is none."""
        now = self.work.get(id)
        if now is None or now.state in ENDED:
            return
        if arrival := self._arrivals.pop(id, None):
            arrival.drop()
        elif now.state == "running":
            self._cancelled.add(id)
            if (process := self._processes.get(id)) is not None:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    process.kill()
        await self._tell(dataclasses.replace(now, state="cancelled"))

    # --- files that are added -------------------------------------------------------------------------

    async def add(self, wanted: AddModel) -> Arrival | None:
        """Take a file; its bytes are to be given to `take`. None where it has come whole already: its end is told.

        Raises ProtocolError: "model_busy", "too_many_models", and EngineError as `added.begin`."""
        id = wanted.id
        while id in self._beginning:  # on a connection that is gone, or about to be
            await self._beginning[id].wait()
        now = self.work.get(id)
        if wanted.sha256 and await self._has_come(wanted):
            return None
        if (before := self._arrivals.get(id)) is not None and before.is_of(wanted):
            del self._arrivals[id]  # of a connection that hangs: its client has come back on another one
            before.keep()
        elif now is not None and now.state not in ENDED:
            raise _busy(now)
        if sum(one.action == "add" and one.state not in ENDED for one in self.work.values()) >= MAX_ARRIVALS:
            raise ProtocolError(
                f"{MAX_ARRIVALS} models' files are on their way already",
                id,
                "Wait for one.",
                "too_many_models",
            )
        arriving = ModelProgress(id, "add", "waiting", total_bytes=wanted.size)
        self.work[id] = arriving
        promised = sum(one.wanted.size - one.received for one in self._arrivals.values())
        self._beginning[id] = asyncio.Event()
        try:
            arrival = await asyncio.to_thread(Arrival, wanted, promised)
        except (ValueError, OSError):
            if self.work.get(id) is arriving:
                del self.work[id]
            raise
        finally:
            self._beginning.pop(id).set()
        if self.work.get(id) is not arriving:
            arrival.drop()
            raise ProtocolError("It was cancelled", id, "Add the file again.", "cancelled")
        self._arrivals[id] = arrival
        await self._tell(dataclasses.replace(arriving, state="running", done_bytes=arrival.received))
        return arrival

    async def _has_come(self, wanted: AddModel) -> bool:
        """Whether all of this very file is here already, which a client that was cut off doesn't know."""
        from musev_engine import registry

        id, now = wanted.id, self.work.get(wanted.id)
        if now is not None and now.action == "add" and now.state == "running" and id not in self._arrivals:
            return True  # it is being looked into
        known = (await asyncio.to_thread(registry.listing)).get(id)
        same = known is not None and known.added and known.files[0].sha256 == wanted.sha256
        if same:
            await self._tell(ModelProgress(id, "add", "done", "", wanted.size, wanted.size))
        return same

    async def take(self, arrival: Arrival, piece: ModelSlice) -> None:
        """The next bytes of a file; once it is whole it is looked into. Those of one that was cancelled or has failed
        are passed over."""
        id = arrival.wanted.id
        if self._arrivals.get(id) is not arrival:
            return
        before = arrival.received
        try:
            whole = await arrival.add(piece)
        except (ValueError, OSError) as error:
            if self._arrivals.get(id) is arrival:  # not cancelled meanwhile
                del self._arrivals[id]
                arrival.drop()
                failed = dataclasses.replace(self.work[id], state="failed", problem=problem_of(error))
                await self._tell(failed)
            return
        if self._arrivals.get(id) is not arrival:
            return
        if whole:
            del self._arrivals[id]
        if whole or before // TOLD_BYTES != arrival.received // TOLD_BYTES:
            await self._tell(dataclasses.replace(self.work[id], done_bytes=arrival.received))
        if whole:
            self._start(self._do(id, "add"))

    def lost(self, arrivals: list[Arrival]) -> None:
        """The client of these is gone: what has come of them is kept, for it may come back."""
        for arrival in arrivals:
            id = arrival.wanted.id
            if self._arrivals.get(id) is arrival:
                del self._arrivals[id]
                arrival.keep()
                problem = Problem(
                    "connection_lost", "Its client is gone, and the rest of the file with it",
                    f"{arrival.received:,} of {arrival.wanted.size:,} bytes",
                    "Add the same file under the same name once more: it goes on from there.",
                )  # fmt: skip
                self._start(self._tell(dataclasses.replace(self.work[id], state="failed", problem=problem)))

    def _start(self, work: Coroutine) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the work -------------------------------------------------------------------------------------

    async def keep_working(self) -> None:
        """Do what waits, one after another, for ever."""
        await asyncio.to_thread(_forget_old)
        while True:
            id = await self._waiting.get()
            now = self.work.get(id)
            if now is not None and now.state == "waiting":  # and wasn't cancelled
                await self._do(id, now.action)

    async def stop(self) -> None:
        """End the processes, in the middle of whatever they do; files that haven't come whole can be gone on with."""
        for arrival in self._arrivals.values():
            arrival.keep()
        for process in self._processes.values():
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    async def _begin(self, id: str, action: str) -> None:
        now = self.work.get(id)
        if now is not None and now.state not in ENDED and now.action == action:
            return  # asked for twice it is done once
        if now is not None and now.state not in ENDED:
            raise _busy(now)
        if self._waiting.qsize() >= MAX_WORK:
            raise ProtocolError(
                "Too much is to be done with models", id, "Wait for some of it.", "model_busy"
            )
        await self._tell(ModelProgress(id, action, "waiting"))
        self._waiting.put_nowait(id)

    async def _do(self, id: str, action: str) -> None:
        self._processes[id] = None
        self._cancelled.discard(id)
        await self._tell(dataclasses.replace(self.work[id], action=action, state="running"))
        try:
            broke_off = await self._run(id, action)
        except (OSError, ValueError) as error:  # it can't be started, or understood
            broke_off = problem_of(error)
        if broke_off is not None and id not in self._cancelled:
            await self._tell(ModelProgress(id, action, "failed", problem=broke_off))

    async def _run(self, id: str, action: str) -> Problem | None:
        """Why the process broke off; None where it told an end itself. Raises OSError, ValueError."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HF_HUB_DISABLE_TELEMETRY": "1",  # the hub is asked for the model's files and nothing else
        }
        command = (sys.executable, "-P", "-m", "server.shelf_process", action, id)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, env=environment, limit=protocol.MAX_JSON_BYTES
        )
        self._processes[id], ended = process, False
        try:
            if id in self._cancelled:  # while the process was starting
                process.kill()
            async for line in process.stdout:
                if id not in self._cancelled:
                    progress = protocol.decode(line.decode())
                    ended = progress.state in ENDED
                    await self._tell(progress)
        except ValueError:
            process.kill()
            raise
        finally:
            status = await process.wait()
            # the next thing may have begun as soon as this one's end was told
            if self._processes.get(id) is process:
                del self._processes[id]
        if id in self._cancelled and action == "add":  # it was being looked into
            await asyncio.to_thread(_drop, id)
        return None if ended else Problem(
            "engine_error", "What was done with the model broke off", f"exit status {status}",
            "Try again: a download goes on where it stopped. See the engine's log.",
        )  # fmt: skip

    async def _tell(self, progress: ModelProgress) -> None:
        self.work.pop(progress.id, None)
        self.work[progress.id] = progress
        if len(self.work) > MAX_WORK:  # the oldest that nobody needs any more
            del self.work[next(id for id, one in self.work.items() if one.state in ENDED)]
        changed = progress.state == "done" if progress.action == "add" else progress.state in ENDED
        await self._changed(changed and progress.action != "verify")


def _forget_old() -> None:
    from musev_engine import added

    try:
        added.forget_old()
    except OSError as error:
        print(f"What is left of files that broke off can't be removed: {error}", file=sys.stderr)


def _drop(id: str) -> None:
    from musev_engine import added

    added.drop(id)


def _busy(now: ModelProgress) -> ProtocolError:
    return ProtocolError(f"This model is busy: {now.action}", now.id, "Wait, or cancel it.", "model_busy")


def _known(id: str):
    """Raises EngineError, code "unknown_model"."""
    from musev_engine import registry

    return registry.model(id)
