"""When the frames of a clip are: generated at one rate, shown at the scene's. Exact for 23.976 and its like.

A clip of `count` timeline frames is generated at times on that timeline, between two frames too, and shown again at
every frame; `musev_engine.inbetween` does that half. Knows no Blender: rates are fractions, times are frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from .protocol import exact_rate


@dataclass(frozen=True)
class Plan:
    """num_frames are generated, fps of them a second, the first one at `start` of the timeline; output_frames,
    output_fps: what comes back, one for each frame of the timeline."""

    start: int
    num_frames: int
    fps: Fraction
    output_frames: int
    output_fps: Fraction
    between: str = "held"

    @property
    def times(self) -> tuple[float, ...]:
        """Where on the timeline the generated frames stand, between two of its frames too."""
        step = self.output_fps / self.fps
        above, below = step.numerator, step.denominator  # whole numbers divide as exactly, and much quicker
        return tuple((self.start * below + i * above) / below for i in range(self.num_frames))

    @property
    def request(self) -> dict:
        """The fields of a ClipRequest; what comes back is told only where that is not what is generated."""
        fields = {"num_frames": self.num_frames, "fps": float(self.fps)}
        if self.fps == self.output_fps:
            return fields
        return fields | {
            "output_frames": self.output_frames, "output_fps": float(self.output_fps), "between": self.between,
        }  # fmt: skip


def plan(
    start: int, count: int, scene_fps: Fraction, generation_fps: Fraction | None = None, between: str = "held"
) -> Plan:
    """How to generate `count` frames of the timeline from `start` on at `generation_fps` (None: at every frame).

    between: 'held', 'blended' or 'flow'. Held frames need no frame beyond the last one shown; the others have one at
    or after it, so that the last frames move too.
    """
    fps = scene_fps if generation_fps is None else generation_fps
    last = (count - 1) * fps / scene_fps  # where the last frame shown lies among those generated
    num_frames = 1 + (int(last) if between == "held" else ceil(last))
    return Plan(start, num_frames, fps, count, scene_fps, between)


def scene_rate(fps: int, fps_base: float) -> Fraction:
    """A scene's exact rate: 24 over a base of 1.001 is 24000/1001."""
    return exact_rate(fps / fps_base)
