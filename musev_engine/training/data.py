"""Training clips in memory: reading, compositing, mirroring and recolouring them, and their captions."""

from __future__ import annotations

import colorsys
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# OpenPose body points with left and right exchanged.
MIRRORED = np.array([0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16])
PERMUTATIONS = tuple(itertools.permutations(range(3)))


@dataclass(frozen=True)
class Clips:
    """n clips of 1 + t frames; frame 0 is the still (see `render_clips`)."""

    frames: np.ndarray  # uint8 (n, 1 + t, h, w, 4), sRGB and coverage
    plates: np.ndarray  # uint8 (n, h, w, 3)
    keypoints: np.ndarray  # float32 (n, 1 + t, 18, 3)
    about: list[dict]

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Sample:
    """One clip as pictures: its still first."""

    pictures: np.ndarray  # uint8 (1 + t, h, w, 3)
    masks: np.ndarray  # uint8 (1 + t, h, w), coverage of the person
    keypoints: np.ndarray  # float32 (1 + t, 18, 3)
    caption: str


def load_clips(folder: Path, limit: int | None = None) -> Clips:
    """Reads the clips that stand in a folder.

    Raises:
        FileNotFoundError: there are none.
    """
    paths = sorted(folder.glob("*.npz"))[:limit]
    if not paths:
        raise FileNotFoundError(
            f"no clips in {folder}: make some with `python -m musev_engine.training.render_clips`"
        )

    def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
        with np.load(path) as clip:
            return clip["frames"], clip["plate"], clip["keypoints"], json.loads(str(clip["about"]))

    with ThreadPoolExecutor(2) as pool:
        frames, plates, keypoints, about = zip(*pool.map(read, paths), strict=True)
    return Clips(np.stack(frames), np.stack(plates), np.stack(keypoints), list(about))


def sample(clips: Clips, index: int, flip: bool = False, colours: tuple[int, ...] = (0, 1, 2)) -> Sample:
    """A clip over its plate, mirrored if wanted, with its colour channels in another order."""
    frames, keypoints = clips.frames[index], clips.keypoints[index]
    cover = frames[..., 3:].astype(np.uint16)
    mixed = frames[..., :3] * cover + clips.plates[index] * (255 - cover)
    pictures, masks = ((mixed + 127) // 255).astype(np.uint8)[..., list(colours)], frames[..., 3]
    if flip:
        pictures, masks = pictures[:, :, ::-1], masks[:, :, ::-1]
        keypoints = keypoints[:, MIRRORED] * np.float32([-1, 1, 1]) + np.float32([frames.shape[2], 0, 0])
    return Sample(
        np.ascontiguousarray(pictures),
        np.ascontiguousarray(masks),
        keypoints,
        caption(clips.about[index], colours),
    )


def random_samples(clips: Clips, rng: np.random.Generator) -> Iterator[Sample]:
    """Clips for ever, each time mirrored or recoloured by chance."""
    while True:
        for index in rng.permutation(len(clips)):
            yield sample(clips, int(index), bool(rng.integers(2)), PERMUTATIONS[rng.integers(6)])


def caption(about: dict, colours: tuple[int, ...] = (0, 1, 2)) -> str:
    """What a person would say of the clip: who, in which clothes, doing what, before which wall."""
    look = about["look"]

    def name(what: str) -> str:
        colour = look.get(what) or about[what]
        return colour_name(tuple(colour[c] for c in colours))

    hair = {"bald": "a bald person", "hat": f"a person with a {name('hair')} hat"}.get(
        look["hair_style"], f"a person with {name('hair')} hair"
    )
    clothes = f"a {name('shirt')} shirt and {name('trousers')} {look['bottom']}"
    return f"{hair} in {clothes}, {about['motion']}, {name('wall')} wall"


COLOUR_NAMES = (
    "black",
    "grey",
    "white",
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "brown",
)


HUES = (
    (15, "red"), (42, "orange"), (70, "yellow"), (160, "green"), (200, "cyan"), (255, "blue"), (290, "purple"),
    (340, "pink"),
)  # fmt: skip


def colour_name(colour: tuple[float, ...]) -> str:
    """Name of an sRGB colour in [0, 1], one of `COLOUR_NAMES`."""
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    if value < 0.2:
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.8 else "grey"
    hue *= 360
    for limit, named in HUES:
        if hue < limit:
            return "brown" if named in ("red", "orange") and value < 0.6 and hue > 10 else named
    return "red"
