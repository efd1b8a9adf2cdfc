"""One client's connection: what it asks for, what it is told, the jobs it follows."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from blender_addon import protocol
from blender_addon.protocol import (
    Accepted,
    AddModel,
    AskEstimate,
    AskJobs,
    AskModels,
    AskStatus,
    BlobSlice,
    Cancel,
    Cancelled,
    CancelModel,
    DownloadModel,
    EngineStatus,
    Message,
    ModelSlice,
    Move,
    NeedBlobs,
    ProtocolError,
    Refused,
    RemoveModel,
    Resume,
    Retry,
    Shutdown,
    Submit,
    VerifyModel,
)
from server import extras
from server.arrivals import Arrival
from server.problems import problem_of
from server.uploads import Upload

if TYPE_CHECKING:
    from server.app import App

MAX_BEGUN = 16  # files of models, of which one sees what is here already
REFUSED = (ValueError, OSError, sqlite3.Error)  # ProtocolError and EngineError are ValueErrors


class Client:
    """One connection: its upload, and the jobs it follows."""

    def __init__(self, app: App, connection: ServerConnection):
        self._app, self._connection = app, connection
        self._name = uuid.uuid4().hex  # the owner of what it submits without a name
        self._upload: Upload | None = None
        self._arrivals: dict[str, Arrival] = {}  # models' files on their way, by what they will be called
        self._followers: dict[str, asyncio.Task] = {}
        self._telling: asyncio.Task | None = None
        self._begun: set[asyncio.Task] = set()  # so that each is kept to its end
        self._left = False
        # Read at a time, however many jobs it follows and however slow it is.
        self._one_frame = asyncio.Lock()

    async def send(self, message: Message) -> None:
        await self._connection.send(protocol.encode(message))

    # --- what it asks for -----------------------------------------------------------------------------

    async def take(self, raw: str | bytes) -> None:
        """Do what a message asks. What can't be done is refused, and the connection stays."""
        message = None
        try:
            message = protocol.decode(raw)
            await self._do(message)
        except REFUSED as error:
            whose = (getattr(message, name, None) for name in ("job", "id"))
            await self.send(Refused(problem_of(error), *whose))

    async def _do(self, message: Message) -> None:
        app = self._app
        match message:
            case Submit():
                await self._submit(message)
            case Retry():
                await self._submit(message)
            case BlobSlice():
                self._store_slice(message)
            case Cancel(job):
                await self._cancel(job)
            case Move(job, place):
                app.store.move(job, place)
                await app.announce()
            case Resume(job, have):
                if not app.store.knows(job):
                    raise ProtocolError("The engine has no such job", job, "Generate again.", "unknown_job")
                self._follow(job, frozenset(have))
            case AskJobs(owner, skip):
                await self.send(app.store.listing(owner, skip))
            case AskEstimate(number, request):
                await self.send(await app.estimate(number, request))
            case AskModels():
                await self.send(await app.look_at_shelf())
            case DownloadModel(id, licence_accepted):
                await app.shelf.download(id, licence_accepted)
            case VerifyModel(id):
                await app.shelf.verify(id)
            case RemoveModel(id):
                await app.check_unused(id)
                await app.shelf.remove(id)
            case AddModel(id) if len(self._begun) >= MAX_BEGUN:
                raise ProtocolError(
                    "Too many models are being added", id, "Wait for some.", "too_many_models"
                )
            case AddModel():
                self._start(self._begin_arrival(message))
            case ModelSlice(id) if id in self._arrivals:
                await app.shelf.take(self._arrivals[id], message)
            case ModelSlice():
                pass  # it was refused, and the client hasn't heard yet
            case CancelModel(id):
                await app.shelf.cancel(id)
            case AskStatus():
                counts = app.store.counts()
                await self.send(EngineStatus(counts["queued"], counts["running"], app.worker.pid))
            case Shutdown():
                app.stopped.set()
            case _:
                name = type(message).__name__
                raise ProtocolError("Only the engine says this", name, "Send what a client sends.")

    async def _submit(self, wanted: Submit | Retry) -> None:
        store, job = self._app.store, wanted.job
        request = wanted.request if isinstance(wanted, Submit) else store.request(wanted.of)
        if not store.knows(job):
            await self._app.tell_use()
            await asyncio.to_thread(extras.find, request)
        if not store.knows(job) and (missing := store.inputs.missing(request)):
            if isinstance(wanted, Retry):
                remedy = "Generate again from Blender, which has it."
                raise ProtocolError("An input of the clip is gone", missing[0], remedy, "inputs_gone")
            await self.send(NeedBlobs(job, missing))
            return
        how = {
            "place": wanted.place,
            "owner": wanted.owner or self._name,
            "previews": wanted.previews,
        }
        if isinstance(wanted, Submit):
            position, replaced = store.submit(job, request, **how)
        else:
            position, replaced = store.retry(job, wanted.of, **how)
        await self.send(Accepted(job, position, replaced))
        await self._app.announce()
        if job not in self._followers:
            self._follow(job, frozenset())

    async def _cancel(self, job: str) -> None:
        app = self._app
        if not app.store.knows(job):  # it was never submitted whole, and now it won't be
            await self.send(Cancelled(job))
        elif job == app.running:
            await app.worker.cancel(job)
        elif app.store.finish(Cancelled(job)):
            await app.announce()

    def _store_slice(self, piece: BlobSlice) -> None:
        if self._upload is None or (piece.offset == 0 and piece.sha256 != self._upload.sha256):
            self._drop_upload()
            self._upload = Upload(self._app.store.inputs, piece)
        try:
            if self._upload.add(piece):
                self._upload = None
        except (ProtocolError, OSError):
            self._upload = None
            raise

    async def _begin_arrival(self, wanted: AddModel) -> None:
        """Takes as long as reading what is here of the file already; other messages go on meanwhile."""
        with contextlib.suppress(ConnectionClosed):
            try:
                arrival = await self._app.shelf.add(wanted)
            except REFUSED as error:
                await self.send(Refused(problem_of(error), model=wanted.id))
                return
            if arrival is not None:
                self._arrivals[wanted.id] = arrival
                if self._left:
                    self._app.shelf.lost([arrival])
                await self.send(arrival.ask)

    def _start(self, work: Coroutine) -> None:
        task = asyncio.create_task(work)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    # --- what it is told ------------------------------------------------------------------------------

    def tell_news(self) -> None:
        """Tell it from now on what everybody is told."""
        self._telling = asyncio.create_task(self._tell_news())

    async def _tell_news(self) -> None:
        app, told = self._app, self._app.old_news()
        with contextlib.suppress(ConnectionClosed):
            while True:
                seen = app.changes
                try:
                    for topic, message in app.news().items():
                        if told.get(topic) is not message:
                            told[topic] = message
                            await self.send(message)
                except (ProtocolError, sqlite3.Error) as error:
                    # Too long to be said; or the store can't be read.
                    print(f"What is new can't be told: {error}", file=sys.stderr)
                await app.change_since(seen)

    def _follow(self, job: str, have: frozenset[int]) -> None:
        if job in self._followers:
            self._followers.pop(job).cancel()
        self._followers[job] = asyncio.create_task(self._tell(job, have))

    async def _tell(self, job: str, have: frozenset[int]) -> None:
        """Send what is new about a job, until it has ended."""
        with contextlib.suppress(ConnectionClosed):
            try:
                await self._tell_all(job, have)
            except (OSError, sqlite3.Error) as error:  # a frame can't be read: to be asked for again
                await self.send(Refused(problem_of(error), job))

    async def _tell_all(self, job: str, have: frozenset[int]) -> None:
        app, place, last_progress, shown = self._app, 0, None, {}
        while True:
            seen, ending = app.changes, app.store.ending(job)  # asked first: no frame comes after the ending
            if app.running == job and app.progress and app.progress is not last_progress:
                last_progress = app.progress
                await self.send(last_progress)
            for frame, preview in list(app.previews.items()) if app.running == job else ():
                if shown.get(frame) is not preview:
                    shown[frame] = preview
                    await self.send(preview)
            for stored_at, frame in app.store.frames_after(job, place):
                place = stored_at
                if frame not in have:
                    async with self._one_frame:
                        await self.send(app.store.read_frame(job, frame))
            if ending is not None:
                await self.send(ending)
                with contextlib.suppress(OSError, sqlite3.Error):  # noted or not, it was given
                    app.store.give(job)
                return
            await app.change_since(seen)

    def leave(self) -> None:
        self._left = True
        self._drop_upload()
        self._app.shelf.lost(list(self._arrivals.values()))
        for task in (self._telling, *self._followers.values()):
            if task is not None:
                task.cancel()

    def _drop_upload(self) -> None:
        if self._upload is not None:
            self._upload.drop()
            self._upload = None
