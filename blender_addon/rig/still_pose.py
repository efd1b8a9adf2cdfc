"""The pose in a reference still that shows another rig than the one that drives the clip."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..protocol import ClipRequest
from .people import Person
from .pose import PoseCapture


@dataclass
class StillOfAnother:
    """A `captures.Capture`: the poses of one rig at many times, and of the still's rig at its one time."""

    poses: PoseCapture
    still: PoseCapture

    @property
    def phase(self) -> str:
        return self.poses.phase

    @property
    def people(self) -> tuple[Person, ...]:
        return self.poses.people

    @property
    def camera(self) -> str | None:
        return self.poses.camera

    @property
    def done(self) -> int:
        return self.poses.done + self.still.done

    @property
    def total(self) -> int:
        return self.poses.total + self.still.total

    def advance(self, deadline: float) -> bool:
        """As `PoseCapture.advance`; the still's time is a slice of its own."""
        if not self.still.read:
            self.still.advance(deadline)
            return False
        return self.poses.advance(deadline)

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        """Person k of the still stands for person k of the clip; further ones have no pose in the still."""
        figures = np.zeros_like(self.poses.read[0])
        known = min(len(figures), len(self.still.read[0]))
        figures[:known] = self.still.read[0][:known]
        both = dataclasses.replace(self.poses, with_still=True, read=[*self.poses.read, figures])
        return both.finish(request)

    def cancel(self) -> None:
        self.still.cancel()
        self.poses.cancel()
