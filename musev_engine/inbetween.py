"""Frames generated at one rate -> the frames of another: which lie where, and what is shown between two of them.

Output frame k shows the time k / output_fps; generated frame i stands at i / fps. Rates are fractions, so that 23.976
(24000/1001) and its kin stay exact however long a clip is: an output frame that falls on a generated one is that one,
bit for bit. Frames are taken and given one after another; two of them are in memory.

Mixing is done in linear light, with alpha multiplied in, as a shutter mixes what it sees: a fade keeps its light, and
what is transparent lends no colour. Frames without alpha are uint8 (h, w, 3), those with it (h, w, 4), straight; sRGB.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

import cv2
import numpy as np

from musev_engine.errors import EngineError

HOW = ("held", "blended", "flow")
INVERSIONS = (
    6  # fixed-point steps; flow between neighbouring frames is smooth, and each halves the error at least
)
BAD_PX = 1.0  # how far a flow may miss and still be half believed
NEVER = 1e-3  # what is hidden in both frames is mixed as if it were seen in both


@dataclass(frozen=True)
class Place:
    """Where an output frame lies: on generated frame `frame`, or the share `part` (0..1) of the way to the next."""

    frame: int
    part: Fraction


def places(
    num_frames: int, fps: Fraction, output_frames: int, output_fps: Fraction, how: str = "held"
) -> list[Place]:
    """Where each output frame lies among `num_frames` generated at `fps`; what comes after the last one is the last.

    Held frames lie on the generated frame before. Raises EngineError for another `how`, and for rates and numbers
    under or at 0.
    """
    if how not in HOW:
        raise EngineError("Frames can't be made between others like that", how, f"Choose {', '.join(HOW)}.")
    for name, value in (
        ("num_frames", num_frames), ("fps", fps), ("output_frames", output_frames), ("output_fps", output_fps),
    ):  # fmt: skip
        if value <= 0:
            raise EngineError(f"{name} must be more than 0", value, "Give a positive number.")
    found = []
    for k in range(output_frames):
        frame, part = divmod(k * Fraction(fps) / Fraction(output_fps), 1)
        if how == "held" or frame >= num_frames - 1:
            part = Fraction(0)
        found.append(Place(min(int(frame), num_frames - 1), part))
    return found


class Inbetween:
    """Takes generated frames in order and gives each output frame as soon as it can be made."""

    def __init__(self, where: list[Place], how: str = "held"):
        self._groups = [
            (place, [k for k, _ in group])
            for place, group in groupby(enumerate(where), key=lambda numbered: numbered[1])
        ]
        self._how, self._taken = how, 0
        self._before: np.ndarray | None = None

    def take(self, frame: np.ndarray) -> Iterator[tuple[list[int], np.ndarray]]:
        """The next generated frame, uint8 (h, w, 3 or 4) -> (numbers, picture) of the output frames that show the
        same picture. To be read to its end before the next frame is given."""
        mix = None
        while self._groups:
            place, numbers = self._groups[0]
            if place.frame + (place.part > 0) > self._taken:
                break
            del self._groups[0]
            if place.frame == self._taken:
                yield numbers, frame
                continue
            mix = mix or mixer(self._before, frame, self._how)
            yield numbers, mix(float(place.part))
        self._before, self._taken = frame, self._taken + 1


def mixer(one: np.ndarray, other: np.ndarray, how: str):
    """A function from a share 0..1 of the way to the picture there, between two frames."""
    if np.array_equal(one, other):
        return lambda part: one
    lights = to_light(one), to_light(other)
    if how == "blended":
        return lambda part: from_light((1 - part) * lights[0] + part * lights[1])
    return Flow(one, other, lights)


class Flow:
    """Pictures between two frames: both warped along optical flow to where things are at the time, and mixed there.

    Flow is OpenCV's DIS (Kroeger et al. 2016, arXiv 1603.03590), found in both directions. A pixel at the time t came
    from y where y + t·flow(y) is its place, solved by fixed-point steps. Where no pixel of a frame arrives, or where
    that pixel's flow does not lead back from the other frame (it is hidden there), the frame that does see the place
    counts alone (after Baker et al. 2011, "A Database and Evaluation Methodology for Optical Flow", section 3.3.2).
    """

    def __init__(self, one: np.ndarray, other: np.ndarray, lights: tuple[np.ndarray, np.ndarray]):
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        dis.setFinestScale(0)
        greys = [
            cv2.cvtColor(np.ascontiguousarray(each[..., :3]), cv2.COLOR_RGB2GRAY) for each in (one, other)
        ]
        self._lights = lights
        self._flows = [dis.calc(greys[0], greys[1], None), dis.calc(greys[1], greys[0], None)]
        rows, columns = greys[0].shape
        grid = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
        self._grid = np.stack(grid, axis=-1)
        self._hidden = [  # 0..1: how surely a pixel of this frame has no likeness in the other
            1 - _belief(flow + _sampled(back, self._grid + flow))
            for flow, back in (self._flows, self._flows[::-1])
        ]

    def __call__(self, part: float) -> np.ndarray:
        """uint8 (h, w, 3 or 4) at the share `part` of the way."""
        sources, arrived, hidden = [], [], []
        for light, flow, lost, way in zip(
            self._lights, self._flows, self._hidden, (part, 1 - part), strict=True
        ):
            at = self._grid - way * flow
            for _ in range(INVERSIONS):
                at = self._grid - way * _sampled(flow, at)
            miss = at + way * _sampled(flow, at) - self._grid
            outside = ((at < -0.5) | (at > np.array(lost.shape[::-1]) - 0.5)).any(axis=-1)
            sources.append(_sampled(light, at))
            arrived.append(np.where(outside, 0.0, _belief(miss)))
            hidden.append(_sampled(lost, at))
        weights = [
            share * (NEVER + arrived[k] * (1 - hidden[1 - k])) for k, share in enumerate((1 - part, part))
        ]
        weights = [each[..., None] / (weights[0] + weights[1])[..., None] for each in weights]
        return from_light(weights[0] * sources[0] + weights[1] * sources[1])


def _belief(miss: np.ndarray) -> np.ndarray:
    """Pixels (h, w, 2) by which a flow misses -> 1 for none, 1/2 at BAD_PX, towards 0 beyond."""
    return np.exp2(-(miss**2).sum(axis=-1) / BAD_PX**2)


def _sampled(picture: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A picture's values at the pixels `at` (h, w, 2), linearly interpolated, its edge repeated outside."""
    return cv2.remap(
        picture.astype(np.float32, copy=False), at.astype(np.float32, copy=False), None,
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


# --- light ----------------------------------------------------------------------------------------------


def _linear(values: np.ndarray) -> np.ndarray:
    """sRGB (IEC 61966-2-1) as linear light, both 0..1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


LIGHT_STEPS = 2**16 - 1  # the darkest byte is 20 of them
LIGHT_OF_BYTE = _linear(np.arange(256) / 255).astype(np.float32)
BYTE_OF_LIGHT = np.rint(_srgb(np.arange(LIGHT_STEPS + 1) / LIGHT_STEPS) * 255).astype(np.uint8)


def to_light(frame: np.ndarray) -> np.ndarray:
    """uint8 sRGB (h, w, 3 or 4) -> float32 linear light 0..1, multiplied by alpha where there is one."""
    light = LIGHT_OF_BYTE[frame[..., :3]]
    if frame.shape[-1] == 3:
        return light
    alpha = frame[..., 3:].astype(np.float32) / 255
    return np.concatenate([light * alpha, alpha], axis=-1)


def from_light(light: np.ndarray) -> np.ndarray:
    """The way back: uint8 sRGB; colour that nothing shows is black."""
    colour = light[..., :3]
    if light.shape[-1] == 4:
        alpha = light[..., 3:]
        colour = np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0)
    seen = BYTE_OF_LIGHT[np.rint(np.clip(colour, 0, 1) * LIGHT_STEPS).astype(np.uint16)]
    if light.shape[-1] == 3:
        return seen
    return np.concatenate([seen, np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8)], axis=-1)
