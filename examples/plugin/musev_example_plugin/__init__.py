"""Two things that this package adds to MuseV for Blender; pyproject.toml says under which names."""

import math

import numpy as np

from musev_engine.windows import Window


def centred(
    num_frames: int, context_frames: int, context_overlap: int, *, context_stride: int = 1, step: int = 0
) -> list[Window]:
    """Windows laid from the clip's middle outwards, so that its middle never falls on a seam.

    Those that would stick out at either end are pushed back inside: all have `context_frames` frames.
    """
    if num_frames <= context_frames:
        return [Window(list(range(num_frames)), range(num_frames))]
    distance, last = context_frames - context_overlap, num_frames - context_frames
    middle = last // 2
    laid = range(-math.ceil(middle / distance), math.ceil((last - middle) / distance) + 1)
    starts = sorted({min(max(middle + number * distance, 0), last) for number in laid})
    return [Window(list(range(start, start + context_frames)), range(context_frames)) for start in starts]


def sketch(frames: np.ndarray, resolution: int | None = None) -> np.ndarray:
    """White outlines on black, where brightness changes; uint8 (t, h, w, 3) -> the same shape.

    resolution: about the shorter side at which outlines are found, in pixels; fewer make them coarser.
    """
    _, height, width, _ = frames.shape
    coarse = max(1, round(min(height, width) / resolution)) if resolution else 1
    grey = frames[:, ::coarse, ::coarse].astype(np.float32).mean(axis=-1)
    down = np.diff(grey, axis=1, prepend=grey[:, :1])
    right = np.diff(grey, axis=2, prepend=grey[:, :, :1])
    strength = np.clip(np.hypot(down, right) * 4, 0, 255).astype(np.uint8)
    whole = strength.repeat(coarse, axis=1).repeat(coarse, axis=2)[:, :height, :width]
    return np.repeat(whole[..., None], 3, axis=-1)


sketch.controlnet = "control_v11p_sd15_scribble"  # the ControlNet that reads these pictures
