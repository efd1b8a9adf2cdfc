"""The socket: who may come in, and what goes where. Makes nothing itself and knows no torch.

Every client's connection is served by one coroutine; each job that a client follows, by another, which sends
what has changed since it last looked: the newest progress and preview, every frame not sent yet, then the
ending. It looks at the store, so a client that comes back, a slow client and one that was there all along are
the same case, and nothing piles up in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import sqlite3
import sys
from collections.abc import Callable
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from blender_addon import protocol
from blender_addon.protocol import (
    Accepted,
    AskStatus,
    BlobSlice,
    Cancel,
    Cancelled,
    ClipRequest,
    EngineStatus,
    Failed,
    FrameReady,
    Menus,
    Message,
    ModelInfo,
    NeedBlobs,
    Preview,
    Problem,
    Progress,
    ProtocolError,
    Refused,
    Resume,
    Shutdown,
    Submit,
    Welcome,
)
from server.jobs import JobStore, Upload
from server.models import engine_version
from server.worker import ENDINGS, Worker
from server.worker_process import problem_of

MAX_CONNECTIONS = 16
PARENT_CHECK_S = 0.5
STORE_RETRY_S = 5.0


class App:
    """One engine. models: told to every client, and what `menus` gives, which may take its time in a thread. Runs
    until `stopped` is set."""

    def __init__(
        self,
        store: JobStore,
        worker: Worker,
        token: str,
        models: tuple[ModelInfo, ...] = (),
        menus: Callable[[], Menus] = Menus,
    ):
        self.store, self.worker = store, worker
        self._find_menus, self._menus = menus, None
        self.stopped = asyncio.Event()
        self._token, self._models = token.encode(), models
        self.running: str | None = None
        self.progress: Progress | None = None  # the running job's newest
        self.preview: Preview | None = None
        self._connections = 0
        self.changes = 0  # counts what followers might want to know
        self._changed = asyncio.Condition()

    async def listen(self, host: str, port: int) -> Server:
        """Open the socket (port 0: the system chooses). Raises OSError if it can't be had."""
        self._menus = asyncio.create_task(asyncio.to_thread(self._find_menus))
        return await serve(
            self._converse,
            host,
            port,
            process_request=self._admit,
            subprotocols=[protocol.SUBPROTOCOL],
            compression=None,  # frames are PNG already
            max_size=protocol.MAX_MESSAGE_BYTES,
            max_queue=4,
            close_timeout=2,  # nor does a client that stands still hold up the engine's end
            ping_timeout=None,  # Blender's timer stands still while it renders; TCP finds a peer that is gone
            server_header=None,
        )

    async def work(self) -> None:
        """Make the queued clips, one after another, for ever."""
        while True:
            seen = self.changes
            try:
                job = self.store.take_next()
            except sqlite3.Error as error:
                print(f"The job store can't be written: {error}", file=sys.stderr)
                await asyncio.sleep(STORE_RETRY_S)
                continue
            if job is None:
                await self.change_since(seen)
            else:
                await self._make(*job)

    async def watch_parent(self, parent_lives: Callable[[], bool]) -> None:
        """Stop once the parent is gone and nothing is left to do."""
        while parent_lives() or any(self.store.counts().values()):
            await asyncio.sleep(PARENT_CHECK_S)
        self.stopped.set()

    # --- jobs -----------------------------------------------------------------------------------------

    async def _make(self, job: str, request: ClipRequest) -> None:
        self.running, ended = job, False
        async for message in self.worker.run(job, request):
            if ended:  # the store did not take a frame: the worker's remaining words are not needed
                continue
            try:
                self._take(message)
            except (OSError, sqlite3.Error) as error:
                self.store.finish(Failed(job, problem_of(error)))
                ended = True
                await self.worker.cancel(job)
            await self.announce()
        self.running = self.progress = self.preview = None
        await self.announce()

    def _take(self, message: Message) -> None:
        match message:
            case FrameReady():
                self.store.add_frame(message)
            case Progress():
                self.progress = message
            case Preview():
                self.preview = message
            case _ if isinstance(message, ENDINGS):
                self.store.finish(message)

    async def announce(self) -> None:
        async with self._changed:
            self.changes += 1
            self._changed.notify_all()

    async def change_since(self, seen: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.changes != seen)

    # --- clients --------------------------------------------------------------------------------------

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse, before the WebSocket opens, whoever has no business here."""
        given = request.headers.get_all("Authorization")
        offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
        if request.headers.get_all("Origin"):
            return _refuse(
                connection,
                HTTPStatus.FORBIDDEN,
                Problem("origin_refused", "Web pages may not use this engine", "", "Connect from Blender."),
            )
        expected = b"Bearer " + self._token
        if len(given) != 1 or not hmac.compare_digest(given[0].encode(errors="replace"), expected):
            remedy = (
                "Give the engine's token in the extension's preferences, or let Blender start the engine."
            )
            problem = Problem("bad_token", "The engine does not know this token", "", remedy)
            return _refuse(connection, HTTPStatus.UNAUTHORIZED, problem)
        if protocol.SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
            message = f"The engine speaks {protocol.SUBPROTOCOL}, the extension another protocol"
            remedy = "Update the engine or the extension so that both are of one version."
            problem = Problem("protocol_mismatch", message, offered[:100], remedy)
            return _refuse(connection, HTTPStatus.UPGRADE_REQUIRED, problem)
        if self._connections >= MAX_CONNECTIONS:
            message, remedy = "Too many clients are connected", "Close one of them."
            problem = Problem("too_many_clients", message, str(self._connections), remedy)
            return _refuse(connection, HTTPStatus.SERVICE_UNAVAILABLE, problem)
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        self._connections += 1
        client, telling = _Client(self, connection), None
        try:
            welcome = Welcome(protocol.PROTOCOL_VERSION, engine_version(), os.getpid(), self._models)
            await client.send(welcome)
            telling = asyncio.create_task(self._tell_menus(client))
            async for raw in connection:
                await client.take(raw)
        except ConnectionClosed:
            pass  # the client is gone; its jobs go on
        finally:
            self._connections -= 1
            client.leave()
            if telling is not None:
                telling.cancel()

    async def _tell_menus(self, client: _Client) -> None:
        with contextlib.suppress(ConnectionClosed):
            await client.send(await asyncio.shield(self._menus))


class _Client:
    """One connection: its upload, and the jobs it follows."""

    def __init__(self, app: App, connection: ServerConnection):
        self._app, self._connection = app, connection
        self._upload: Upload | None = None
        self._followers: dict[str, asyncio.Task] = {}

    async def send(self, message: Message) -> None:
        await self._connection.send(protocol.encode(message))

    async def take(self, raw: str | bytes) -> None:
        """Do what a message asks. What can't be done is refused, and the connection stays."""
        job = None
        try:
            message = protocol.decode(raw)
            job = getattr(message, "job", None)
            await self._do(message)
        except (ProtocolError, OSError, sqlite3.Error) as error:
            await self.send(Refused(problem_of(error), job))

    async def _do(self, message: Message) -> None:
        app = self._app
        match message:
            case Submit(job, request):
                await self._submit(job, request)
            case BlobSlice():
                self._store_slice(message)
            case Cancel(job):
                await self._cancel(job)
            case Resume(job, have):
                if not app.store.knows(job):
                    raise ProtocolError("The engine has no such job", job, "Generate again.", "unknown_job")
                self._follow(job, frozenset(have))
            case AskStatus():
                counts = app.store.counts()
                await self.send(EngineStatus(counts["queued"], counts["running"], app.worker.pid))
            case Shutdown():
                app.stopped.set()
            case _:
                name = type(message).__name__
                raise ProtocolError("Only the engine says this", name, "Send what a client sends.")

    async def _submit(self, job: str, request: ClipRequest) -> None:
        store = self._app.store
        if not store.knows(job) and (missing := store.missing_blobs(request)):
            await self.send(NeedBlobs(job, missing))
            return
        await self.send(Accepted(job, store.submit(job, request)))
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
            self._upload = Upload(self._app.store, piece)
        try:
            if self._upload.add(piece):
                self._upload = None
        except (ProtocolError, OSError):
            self._upload = None
            raise

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
        app, place, last_progress, last_preview = self._app, 0, None, None
        while True:
            seen, ending = app.changes, app.store.ending(job)  # asked first: no frame comes after the ending
            if app.running == job and app.progress and app.progress is not last_progress:
                last_progress = app.progress
                await self.send(last_progress)
            if app.running == job and app.preview and app.preview is not last_preview:
                last_preview = app.preview
                await self.send(last_preview)
            for stored_at, frame in app.store.frames_after(job, place):
                place = stored_at
                if frame not in have:
                    await self.send(app.store.read_frame(job, frame))
            if ending is not None:
                await self.send(ending)
                return
            await app.change_since(seen)

    def leave(self) -> None:
        self._drop_upload()
        for follower in self._followers.values():
            follower.cancel()

    def _drop_upload(self) -> None:
        if self._upload is not None:
            self._upload.drop()
            self._upload = None


def _refuse(connection: ServerConnection, status: HTTPStatus, problem: Problem) -> Response:
    return connection.respond(status, protocol.encode(Refused(problem)))
