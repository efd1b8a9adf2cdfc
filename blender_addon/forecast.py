"""What the engine reckons a clip would take: asked now and then as the settings change, never while a panel is drawn.

Knows no Blender: a panel says which request it shows, the session's tick asks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

from .client import EngineClient
from .protocol import AskEstimate, ClipRequest, Estimate

ASK_EVERY_S = 0.5
MOST_AT_ONCE = 16


class Forecast:
    """changes: a number that grows with each new estimate."""

    def __init__(self):
        self.changes = 0
        self._wanted: ClipRequest | None = None
        self._asked: ClipRequest | None = None
        self._asked_at = float("-inf")
        self._last = 0  # number that was sent
        self._number = 0  # of what was looked at last
        self._told: tuple[ClipRequest, Estimate] | None = None
        self._several: dict[ClipRequest, None] = {}  # wanted, each by itself, in order, and not known yet
        self._open: dict[int, ClipRequest] = {}  # asked for
        self._known: dict[ClipRequest, Estimate] = {}
        self._doubted: set[ClipRequest] = set()  # of those that are known

    def look(self, request: ClipRequest) -> Estimate | None:
        """What a request would take, where the engine has told; else it is asked soon."""
        self._wanted = facts(request)
        return self._told[1] if self._told and self._told[0] == self._wanted else None

    def look_each(self, wanted: Iterable[ClipRequest]) -> list[Estimate | None]:
        """What each of several clips would take by itself, where the engine has told; the others are asked soon.
        wanted: their `facts`."""
        wanted = list(wanted)
        unknown = [each for each in wanted if each not in self._known or each in self._doubted]
        self._several |= dict.fromkeys(each for each in unknown if each not in self._open.values())
        return [self._known.get(each) for each in wanted]

    def ask(self, client: EngineClient) -> None:
        """Asks for what was looked at last, if it was not asked for yet and the last time is long enough ago."""
        now = time.monotonic()
        if now < self._asked_at + ASK_EVERY_S:
            return
        if self._wanted not in (None, self._asked):
            self._asked = self._wanted
            self._number = self._send(client, self._wanted)
        for request in list(self._several)[:MOST_AT_ONCE]:
            del self._several[request]
            self._open[self._send(client, request)] = request

    def _send(self, client: EngineClient, request: ClipRequest) -> int:
        self._asked_at = time.monotonic()
        self._last += 1
        client.send(AskEstimate(self._last, request))
        return self._last

    def take(self, estimate: Estimate) -> None:
        if estimate.number == self._number:
            self._told = (self._asked, estimate)
            self.changes += 1
        elif (request := self._open.pop(estimate.number, None)) is not None:
            self._known[request] = estimate
            self._doubted.discard(request)
            self.changes += 1

    def doubt(self) -> None:
        """The queue has changed: asks again; until then the old estimate stands."""
        self._asked = None
        self._doubted = set(self._known)

    def forget(self) -> None:
        """The engine is gone; the next one may be another."""
        self._asked = self._told = None
        self._open, self._known = {}, {}


def facts(request: ClipRequest) -> ClipRequest:
    """A request without what makes no difference to time and memory, so that typing a prompt asks nothing."""
    return dataclasses.replace(request, prompt="", negative_prompt="", seed=0)
