"""What the engine reckons a clip would take: asked now and then as the settings change, never while a panel is drawn.

Knows no Blender: a panel says which request it shows, the session's tick asks.
"""

from __future__ import annotations

import dataclasses
import time

from .client import EngineClient
from .protocol import AskEstimate, ClipRequest, Estimate

ASK_EVERY_S = 0.5


class Forecast:
    """changes: a number that grows with each new estimate."""

    def __init__(self):
        self.changes = 0
        self._wanted: ClipRequest | None = None
        self._asked: ClipRequest | None = None
        self._asked_at = float("-inf")
        self._number = 0
        self._told: tuple[ClipRequest, Estimate] | None = None

    def look(self, request: ClipRequest) -> Estimate | None:
        """What a request would take, where the engine has told; else it is asked soon."""
        self._wanted = facts(request)
        return self._told[1] if self._told and self._told[0] == self._wanted else None

    def ask(self, client: EngineClient) -> None:
        """Asks for what was looked at last, if it was not asked for yet and the last time is long enough ago."""
        now = time.monotonic()
        if self._wanted in (None, self._asked) or now < self._asked_at + ASK_EVERY_S:
            return
        self._number += 1
        self._asked, self._asked_at = self._wanted, now
        client.send(AskEstimate(self._number, self._wanted))

    def take(self, estimate: Estimate) -> None:
        if estimate.number == self._number:
            self._told = (self._asked, estimate)
            self.changes += 1

    def doubt(self) -> None:
        """The queue has changed: asks again; until then the old estimate stands."""
        self._asked = None

    def forget(self) -> None:
        """The engine is gone; the next one may be another."""
        self._asked = self._told = None


def facts(request: ClipRequest) -> ClipRequest:
    """A request without what makes no difference to time and memory, so that typing a prompt asks nothing."""
    return dataclasses.replace(request, prompt="", negative_prompt="", seed=0)
