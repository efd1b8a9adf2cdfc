"""The connection to the engine: a WebSocket pumped from a timer, never waiting.

`websockets`' Sans-I/O `ClientProtocol` over a non-blocking socket: `pump` sends and receives what is possible
within a time budget and returns what arrived. No thread, no asyncio, no `bpy`. It remembers a job only until
the engine has taken it; jobs live in `session.py`, which after a loss connects anew and resumes them.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from . import protocol
from .engine_address import split_url
from .protocol import (
    AddModel,
    Cancel,
    CancelModel,
    ClipRequest,
    Menus,
    Message,
    ModelShelf,
    Problem,
    ProtocolError,
    Refused,
    Resume,
    Submit,
    Welcome,
)
from .uploads import Uploads

READ_BYTES = 256 * 1024
CONNECT_TIMEOUT_S = 10.0  # until the engine's Welcome


@dataclass(frozen=True)
class ConnectionLost:
    """The connection has ended, or never came about. Jobs go on in the engine: connect again and `resume`."""

    problem: Problem


Event = Message | ConnectionLost


class ClientState(enum.Enum):
    CLOSED = "closed"
    CONNECTING = "connecting"  # until the engine's Welcome
    OPEN = "open"


class _Lost(Exception):
    def __init__(self, code: str, message: str, value: object, remedy: str):
        self.problem = Problem(code, message, str(value)[:1000], remedy)


class EngineClient:
    """One connection at a time; `longest_tick_s` is the longest that one `pump` has taken."""

    def __init__(self):
        self.state = ClientState.CLOSED
        self.url = ""
        self.welcome: Welcome | None = None
        self.menus: Menus | None = None  # the newest engine's, also after it is gone
        self.longest_tick_s = 0.0
        self._socket: socket.socket | None = None
        self._uploads = Uploads()

    # --- verbs ------------------------------------------------------------------------------------

    def connect(self, url: str, token: str) -> None:
        """Begin to connect to ws://HOST:PORT; `pump` then gives Welcome or ConnectionLost.

        A host that is a name, not an address, is looked up here, which may take as long as the system lets
        it. Raises ProtocolError if `url` is not of that form or names no host.
        """
        self.close()
        host, port = split_url(url)
        if self.url and split_url(self.url)[0] != host:  # another's: our models were not meant for it
            for id in self.adding:
                self._uploads.end_file(id)
        try:
            family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise ProtocolError(
                f"The engine's host is unknown: {error}", url, "Correct its address.", "bad_url"
            ) from None
        self._protocol = ClientProtocol(
            parse_uri(url), subprotocols=[protocol.SUBPROTOCOL], max_size=protocol.MAX_MESSAGE_BYTES
        )
        handshake = self._protocol.connect()
        handshake.headers["Authorization"] = f"Bearer {token}"
        self._protocol.send_request(handshake)
        self._socket = socket.socket(family, kind, number)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = self._socket.connect_ex(address)
        self._connect_error = 0 if error in (errno.EINPROGRESS, errno.EWOULDBLOCK) else error
        self._linked = False
        self._deadline = time.monotonic() + CONNECT_TIMEOUT_S
        self._unsent: deque[memoryview] = deque()  # bytes that the socket has not taken yet
        self._control: deque[Message] = deque()  # goes before the next slice of any upload
        self._pieces: list[bytes] = []  # of a fragmented message
        self.url, self.welcome, self.state = url, None, ClientState.CONNECTING

    def submit(
        self,
        job: str,
        request: ClipRequest,
        blobs: Mapping[str, bytes],
        *,
        place: str = "back",
        owner: str = "",
        previews: bool = True,
    ) -> None:
        """Ask for a clip; `blobs` maps the sha256 of each input to its bytes (sent only if the engine lacks
        them); the others are `Submit`'s.

        Raises ProtocolError where an input is missing, too large, or nothing is connected.
        """
        wanted = Submit(job, request, place, owner, previews)
        self._check_open()
        self._uploads.submit(wanted, blobs)
        self._send_message(wanted)

    def resume(self, job: str, have: tuple[int, ...] = ()) -> None:
        """Ask for the frames of `job` that are not in `have`, and its ending. Refused with code
        'unknown_job' if the engine never got it: submit it again."""
        self._send_message(Resume(job, tuple(have)))

    def cancel(self, job: str) -> None:
        """Stop a job. It ends with Cancelled, unless it ended otherwise before."""
        self._uploads.forget(job)
        self._send_message(Cancel(job))

    def send(self, message: Message) -> None:
        """Say one of the words that need nothing remembered: Move, Retry, AskJobs, AskEstimate, AskModels and so on.
        Raises ProtocolError where nothing is connected."""
        self._send_message(message)

    def add_model(self, wanted: AddModel, path: Path) -> None:
        """Give the engine a file of `wanted.size` bytes as a model: piece by piece, after all else that is to be sent.
        Told by ModelProgress, or Refused. A connection to the same host that comes after this one was lost goes on with
        it. Raises ProtocolError where nothing is connected."""
        self._send_message(wanted)
        self._uploads.add_model(wanted, path)

    def cancel_model(self, id: str) -> None:
        """Stop what is being done with a model. Raises ProtocolError where nothing is connected."""
        self._uploads.end_file(id)
        self._send_message(CancelModel(id))

    @property
    def adding(self) -> tuple[str, ...]:
        """The ids of the models whose files are on their way, or wait for a connection."""
        return tuple(self._uploads.files)

    def ask_status(self) -> None:
        self._send_message(protocol.AskStatus())

    def shut_down_engine(self) -> None:
        self._send_message(protocol.Shutdown())

    def close(self) -> None:
        """Drop the connection, if there is one. Jobs go on in the engine."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.welcome, self.state = None, None, ClientState.CLOSED
        self._uploads.close()

    @property
    def uploading(self) -> bool:
        return self.state is ClientState.OPEN and self._uploads.inputs_wait

    def pump(self, budget_s: float = 0.004) -> list[Event]:
        """Send and receive what is possible now, for about `budget_s` seconds. Never waits, never raises for
        what the network or the engine does: that is an event."""
        start = time.monotonic()
        events: list[Event] = []
        try:
            if self.state is not ClientState.CLOSED and self._is_linked():
                steps = self._send, partial(self._receive, events), self._uploads.compare
                while any([step() for step in steps]) and time.monotonic() < start + budget_s:
                    pass
            if self.state is ClientState.CONNECTING and time.monotonic() > self._deadline:
                raise _Lost(
                    "engine_unreachable",
                    f"The engine did not answer within {CONNECT_TIMEOUT_S:.0f} s",
                    self.url,
                    "Check its address, or start it again.",
                )
        except _Lost as lost:
            self.close()
            events.append(ConnectionLost(lost.problem))
        events += self._uploads.said
        self._uploads.said = []
        self.longest_tick_s = max(self.longest_tick_s, time.monotonic() - start)
        return events

    # --- the socket -------------------------------------------------------------------------------

    def _is_linked(self) -> bool:
        """Whether TCP is connected."""
        if not self._linked:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, selectors.EVENT_WRITE)
                if not selector.select(0):
                    return False
            if error := self._connect_error or self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise _Lost(
                    "engine_unreachable",
                    f"No engine answers there ({os.strerror(error)})",
                    self.url,
                    "Start the engine, or correct its address.",
                )
            self._linked = True
        return True

    def _send(self) -> bool:
        """Give the socket what it takes now; True if something went."""
        if not self._unsent:
            self._queue_message()
            self._unsent.extend(memoryview(data) for data in self._protocol.data_to_send() if data)
        if not self._unsent:
            return False
        try:
            sent = self._socket.send(self._unsent[0])
        except BlockingIOError:
            return False
        except OSError:
            return False  # what the engine said before it left is still to be read; reading finds the end
        rest = self._unsent.popleft()[sent:]
        if rest:
            self._unsent.appendleft(rest)
        return True

    def _queue_message(self) -> None:
        """Frame one message: control before uploads, these before models' files, one slice at a time."""
        if self.state is not ClientState.OPEN or self._protocol.state is not State.OPEN:
            return
        message = self._control.popleft() if self._control else self._uploads.next()
        if message is not None:
            raw = protocol.encode(message)
            if isinstance(raw, str):
                self._protocol.send_text(raw.encode())
            else:
                self._protocol.send_binary(raw)

    def _receive(self, events: list[Event]) -> bool:
        """Read once; True if something came. Raises _Lost at the connection's end."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._end(str(error)) from None
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._take_frame(event, events)
        if (
            not data
            or self._protocol.state not in (State.OPEN, State.CONNECTING)
            or self._protocol.parser_exc
        ):
            raise self._end("the connection was closed")
        if isinstance(self._protocol.handshake_exc, InvalidHandshake):
            raise self._end("the handshake failed")
        return True

    def _take_frame(self, frame: Frame, events: list[Event]) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._pieces.append(bytes(frame.data))
        if not frame.fin:
            return
        raw, self._pieces = b"".join(self._pieces), []
        try:
            message = protocol.decode(raw.decode() if self._is_text else raw)
        except (ProtocolError, UnicodeDecodeError) as error:
            raise _Lost(
                "protocol_mismatch",
                f"The engine sent what this extension does not understand: {error}",
                self.url,
                "Update the engine or the extension so that both are of one version.",
            ) from None
        self._take_message(message)
        events.append(self._uploads.take(message))

    # --- messages ---------------------------------------------------------------------------------

    def _send_message(self, message: Message) -> None:
        self._check_open()
        self._control.append(message)

    def _check_open(self) -> None:
        if self.state is ClientState.CLOSED:
            raise ProtocolError(
                "The engine is not connected",
                self.url or "no engine",
                "Start the engine first.",
                "engine_not_connected",
            )

    def _take_message(self, message: Message) -> None:
        if isinstance(message, Welcome):
            if message.protocol_version != protocol.PROTOCOL_VERSION:
                raise _version_mismatch(message.protocol_version)
            self.welcome, self.state = message, ClientState.OPEN
            files = (file.wanted for file in self._uploads.files.values())
            self._control.extend(wanted for wanted in files if wanted not in self._control)
        elif isinstance(message, Menus):
            self.menus = message
        elif isinstance(message, ModelShelf) and self.welcome is not None:
            self.welcome = dataclasses.replace(self.welcome, models=message.ready)

    def _end(self, how: str) -> _Lost:
        """Why the connection ended, as well as we know."""
        refusal = self._protocol.handshake_exc
        if isinstance(refusal, InvalidStatus):
            return _refusal(refusal, self.url)
        if self.state is ClientState.CONNECTING:
            return _Lost(
                "not_an_engine",
                f"What answers there is no MuseV engine: {refusal or how}",
                self.url,
                "Correct the engine's address.",
            )
        said = self._protocol.close_reason
        return _Lost(
            "connection_lost",
            f"The engine's connection ended: {said or how}",
            self.url,
            "Start the engine again; finished frames are kept.",
        )


def _version_mismatch(theirs: object) -> _Lost:
    older = "engine" if isinstance(theirs, int) and theirs < protocol.PROTOCOL_VERSION else "extension"
    return _Lost(
        "protocol_mismatch",
        f"The engine speaks another protocol than this extension, which speaks version "
        f"{protocol.PROTOCOL_VERSION}",
        theirs,
        f"Update the {older}.",
    )


def _refusal(refusal: InvalidStatus, url: str) -> _Lost:
    """The engine refuses with an HTTP status and a Refused message as the body."""
    status, body = refusal.response.status_code, refusal.response.body or b""
    try:
        said = protocol.decode(bytes(body).decode())
    except (ProtocolError, UnicodeDecodeError):
        said = None
    if isinstance(said, Refused):
        problem = said.problem
        return _Lost(problem.code, problem.message, problem.value, problem.remedy)
    if status == HTTPStatus.UPGRADE_REQUIRED:
        return _version_mismatch(bytes(body[:80]).decode(errors="replace"))
    return _Lost(
        "not_an_engine",
        f"What answers there is no MuseV engine: HTTP status {status}",
        url,
        "Correct the engine's address.",
    )
