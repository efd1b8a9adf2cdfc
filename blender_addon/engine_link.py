"""The engine as the session sees it: started or found, connected to, and again after a loss.

Joins the process and the connection into one state and one stream of events. No `bpy`.
"""

from __future__ import annotations

import enum
import time
from pathlib import Path

from .client import ClientState, ConnectionLost, EngineClient, Event
from .engine_process import EngineProcess, EngineStartError, left_running
from .protocol import Refused, Welcome

RECONNECT_S = 1.0
RECONNECT_TRIES = 5
STOP_S = 5.0  # what a stopped engine gets to end by itself
FINAL = ("protocol_mismatch", "not_an_engine", "bad_token", "origin_refused")  # trying again would not help


class EngineState(enum.Enum):
    OFF = "not running"
    STARTING = "starting"
    CONNECTING = "connecting"
    ON = "ready"


class EngineLink:
    """problem: the last thing that went wrong with the engine or the way to it; "" once it is on."""

    def __init__(self):
        self.client = EngineClient()
        self.process: EngineProcess | None = None
        self.problem = ""
        self._address: tuple[str, str] | None = None  # url and token, while we want to be connected
        self._tries_left = 0
        self._try_at = 0.0
        self._stopping: tuple[EngineProcess, float] | None = None
        self._instead: tuple[list[str], Path] | None = None  # to be started once the engine found is gone

    @property
    def state(self) -> EngineState:
        if self.client.state is ClientState.OPEN:
            return EngineState.ON
        if self._address:
            return EngineState.CONNECTING
        return EngineState.STARTING if self.process else EngineState.OFF

    @property
    def busy(self) -> bool:
        """Whether `pump` has something to look at."""
        return self.state is not EngineState.OFF or self._stopping is not None

    def start(self, command: list[str], folder: Path) -> None:
        """Starts a local engine; `pump` then connects to it. Where an earlier Blender left one that still works,
        that is taken up, and ours started when it has ended. Raises EngineStartError if the command can't be run.
        """
        self.stop()
        self.problem = ""
        if (left := left_running(folder)) is not None:
            self.connect(*left)
            self._instead = (command, folder)
        else:
            self.process = EngineProcess(command, folder)

    def connect(self, url: str, token: str) -> None:
        """Connects to an engine that runs. Raises ProtocolError if `url` is none."""
        self.client.connect(url, token)
        self.problem = ""
        self._address, self._tries_left = (url, token), 0

    def stop(self) -> None:
        """Ends the engine that was started here, or leaves the one that was found."""
        self.client.close()
        self._address = self._instead = None
        if self.process is not None:
            self.process.stop()
            self._stopping = (self.process, time.monotonic() + STOP_S)
            self.process = None

    def pump(self, budget_s: float) -> list[Event]:
        """What came from the engine; watches over process and connection on the way. Never waits."""
        self._watch_process()
        if self._address and self.client.state is ClientState.CLOSED and time.monotonic() >= self._try_at:
            self._tries_left -= 1
            self.client.connect(*self._address)
        events = self.client.pump(budget_s)
        for event in events:
            if isinstance(event, Welcome):
                self.problem, self._tries_left = "", RECONNECT_TRIES
            elif isinstance(event, ConnectionLost):
                self._lose(event)
            elif isinstance(event, Refused) and event.job is None and event.model is None:
                self.problem = str(event.problem)
        return events

    def _watch_process(self) -> None:
        if self._stopping and (not self._stopping[0].alive or time.monotonic() > self._stopping[1]):
            self._stopping[0].kill()
            self._stopping = None
        if self.process and not self._address:
            try:
                greeting = self.process.read_greeting()
            except EngineStartError as error:
                self.stop()
                self.problem = str(error)
            else:
                if greeting:
                    self.connect(greeting.url, self.process.token)

    def _lose(self, lost: ConnectionLost) -> None:
        self.problem = str(lost.problem)
        self._try_at = time.monotonic() + RECONNECT_S
        ended = self.process is not None and not self.process.alive
        if ended and (tail := self.process.log_tail()):
            self.problem += f" Its log {self.process.log_path} ends: {tail[-600:]}"
        if ended or not self._tries_left or lost.problem.code in FINAL:
            instead = self._instead
            self.stop()
            if instead is not None:
                self._start_instead(*instead)

    def _start_instead(self, command: list[str], folder: Path) -> None:
        self.problem = ""
        try:
            self.process = EngineProcess(command, folder)
        except EngineStartError as error:
            self.problem = str(error)
