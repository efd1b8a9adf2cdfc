"""The socket: who may come in, and what goes where. Makes nothing itself and knows no torch.

Every client's connection is served by one coroutine, and what everybody is told by a second; each job that a
client follows, by another, which sends what has changed since it last looked: the newest progress and previews,
every frame not sent yet, then the ending. It looks at the store, so a client that comes back, a slow client and
one that was there all along are the same case, and nothing piles up in memory.
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
    ClipRequest,
    Done,
    Estimate,
    Failed,
    FrameReady,
    Menus,
    Message,
    ModelInfo,
    ModelProgress,
    ModelShelf,
    Preview,
    Problem,
    Progress,
    Queue,
    Refused,
    Welcome,
)
from server import catalogue, in_use
from server.connection import Client
from server.estimates import Estimator, Remaining, free_mb
from server.jobs import JobStore
from server.models import engine_version, models_here
from server.problems import problem_of, sayable
from server.shelf import ENDED, Shelf
from server.worker import ENDINGS, Worker

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
        self._find_menus = menus
        self._menus: Menus | None = None
        self.stopped = asyncio.Event()
        self._token, self._models = token.encode(), models
        self.running: str | None = None
        self.progress: Progress | None = None  # the running job's newest
        self.estimator = Estimator(store.measures)
        self._remaining = Remaining({}, False)
        self._loaded: tuple[int | None, str] = (None, "")  # the worker process, and the model that it has
        self.previews: dict[int, Preview] = {}  # its newest of each frame
        self.shelf = Shelf(self._shelf_changed)
        self._in_use = in_use.InUse(store.database)
        self._shelf_told: ModelShelf | None = None
        self._trouble: Refused | None = None  # why no clip can be begun
        self._queue = Queue()
        self._connections = 0
        self.changes = 0  # counts what followers might want to know
        self._changed = asyncio.Condition()

    async def listen(self, host: str, port: int) -> Server:
        """Open the socket (port 0: the system chooses). Raises OSError if it can't be had."""
        self._looking = asyncio.create_task(self.look_for_menus())
        await self.tell_use()
        return await serve(
            self._converse,
            host,
            port,
            process_request=self._admit,
            subprotocols=[protocol.SUBPROTOCOL],
            compression=None,  # frames are PNG already
            max_size=protocol.MAX_CLIENT_BYTES,
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
                if self._trouble is None:
                    self._trouble = Refused(problem_of(error))
                    await self.announce()
                await asyncio.sleep(STORE_RETRY_S)
                continue
            self._trouble = None
            if job is None:
                await self.change_since(seen)
            else:
                await self._make(*job)

    async def watch_parent(self, parent_lives: Callable[[], bool]) -> None:
        """Stop once the parent is gone and nothing is left to do."""
        while parent_lives() or any(self.store.counts().values()):
            await asyncio.sleep(PARENT_CHECK_S)
        self.stopped.set()

    async def stop(self) -> None:
        """End the processes, and take back what was told to others."""
        await self.shelf.stop()
        await self.worker.stop()
        self._in_use.close()

    # --- jobs -----------------------------------------------------------------------------------------

    async def _make(self, job: str, request: ClipRequest) -> None:
        self.running, ended, cold = job, False, self._is_cold(request.model)
        expected = self.estimator.seconds(request, cold)
        self._remaining = Remaining(expected, bool(self.estimator.known(request)))
        await self.announce()
        async for message in self.worker.run(job, request, self.store.wants_previews(job)):
            if ended:  # the store did not take a frame: the worker's remaining words are not needed
                continue
            try:
                self._take(message, request, cold)
            except (OSError, sqlite3.Error) as error:
                self.store.finish(Failed(job, problem_of(error)))
                ended = True
                await self.worker.cancel(job)
            await self.announce()
        self.running = self.progress = None
        self.previews = {}
        await self.announce()

    def _take(self, message: Message, request: ClipRequest, cold: bool) -> None:
        match message:
            case FrameReady():
                self.store.add_frame(message)
            case Progress():
                self.progress = self._remaining.timed(message)
                if message.phase not in ("load", "draw"):
                    self._loaded = (self.worker.pid, request.model)
            case Preview():
                self.previews[message.frame] = message
            case _ if isinstance(message, ENDINGS):
                self.store.finish(message)
                if message == self.store.ending(message.job) and isinstance(message, Done):
                    self.estimator.learn(request, message, cold)

    def _is_cold(self, model: str) -> bool:
        return self.worker.pid is None or self._loaded != (self.worker.pid, model)

    async def estimate(self, number: int, request: ClipRequest) -> Estimate:
        """What a clip would take that were submitted now."""
        estimator, queue, model, wait_s = self.estimator, self.store.queue(), "", 0.0
        free = await free_mb(estimator.device(), self.worker.pid)
        for job in (*filter(None, (queue.running,)), *queue.waiting):
            before = self.store.request(job)
            cold = model != before.model if model else self._is_cold(before.model)
            told = self.progress.total_eta_s if job == self.running and self.progress else None
            wait_s += sum(estimator.seconds(before, cold).values()) if told is None else told
            model = before.model
        cold = model != request.model if model else self._is_cold(request.model)
        return estimator.estimate(number, request, cold=cold, wait_s=wait_s, free_mb=free)

    async def announce(self) -> None:
        async with self._changed:
            self.changes += 1
            self._changed.notify_all()

    async def change_since(self, seen: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.changes != seen)

    # --- what everybody is told -----------------------------------------------------------------------

    def news(self) -> dict[str, Message]:
        """The newest of what every client is told, by topic; the same object until there is a newer one."""
        queue = self.store.queue()
        self._queue = queue if queue != self._queue else self._queue
        topics = {
            "queue": self._queue,
            "menus": self._menus,
            "shelf": self._shelf_told,
            "trouble": self._trouble,
        }
        topics |= {f"model {id}": progress for id, progress in self.shelf.work.items()}
        return {topic: message for topic, message in topics.items() if message is not None}

    def old_news(self) -> dict[str, Message]:
        """What a client that comes now needs not be told: which models came and went."""
        return {
            topic: message
            for topic, message in self.news().items()
            if topic == "shelf" or (isinstance(message, ModelProgress) and message.state in ENDED)
        }

    async def look_at_shelf(self) -> ModelShelf:
        return await asyncio.to_thread(lambda: catalogue.told(models_here()))

    async def check_unused(self, id: str) -> None:
        """Raises EngineError as `in_use.check`."""
        await self.tell_use()
        await asyncio.to_thread(in_use.check, id)

    async def tell_use(self) -> None:
        """See that others who share the models folder can know what our clips need."""
        await asyncio.to_thread(self._in_use.tell)

    async def _shelf_changed(self, models_changed: bool) -> None:
        if models_changed:
            try:
                self._shelf_told = await self.look_at_shelf()
                self._models = self._shelf_told.ready
            except (OSError, ValueError) as error:
                print(f"The models can't be read: {error}", file=sys.stderr)
            self._looking = asyncio.create_task(self.look_for_menus())
        await self.announce()

    async def look_for_menus(self) -> None:
        try:
            self._menus = await asyncio.to_thread(self._find_menus)
        except (OSError, ValueError) as error:
            print(f"What one may choose from can't be read: {error}", file=sys.stderr)
        await self.announce()

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
            problem = Problem("protocol_mismatch", message, sayable(offered)[:100], remedy)
            return _refuse(connection, HTTPStatus.UPGRADE_REQUIRED, problem)
        if self._connections >= MAX_CONNECTIONS:
            return _refuse(connection, HTTPStatus.SERVICE_UNAVAILABLE, _too_many(self._connections))
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        if self._connections >= MAX_CONNECTIONS:  # many came in the same breath
            with contextlib.suppress(ConnectionClosed):
                await connection.send(protocol.encode(Refused(_too_many(self._connections))))
            return
        self._connections += 1
        client = Client(self, connection)
        try:
            welcome = Welcome(protocol.PROTOCOL_VERSION, engine_version(), os.getpid(), self._models)
            await client.send(welcome)
            client.tell_news()
            async for raw in connection:
                await client.take(raw)
        except ConnectionClosed:
            pass  # the client is gone; its jobs go on
        finally:
            self._connections -= 1
            client.leave()


def _too_many(connections: int) -> Problem:
    message, remedy = "Too many clients are connected", "Close one of them."
    return Problem("too_many_clients", message, str(connections), remedy)


def _refuse(connection: ServerConnection, status: HTTPStatus, problem: Problem) -> Response:
    return connection.respond(status, protocol.encode(Refused(problem)))
