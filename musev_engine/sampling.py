"""The parallel loop: noise becomes latents, in overlapping windows that all move one step together.

`denoise` knows only `predict(latents, t, windows) -> noise_pred` and what `guide` makes of the windows' average:
not what is predicted from, nor pixels. Visual-conditioned parallel denoising is MuseV's (TMElyralab/MuseV); noise
shared between frames is VideoFusion's (arXiv 2303.08320).
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.schedulers import EulerDiscreteScheduler, SchedulerMixin
from torch.overrides import TorchFunctionMode

from musev_engine.windows import Window, window_weights

Generators = torch.Generator | list[torch.Generator]
# (k, b, c, f, h, w) scaled latents of k windows of f frames each, the timestep (a 0-d tensor), the windows' frame
# indices -> their predictions, (k, rows, c, f, h, w): rows is b, or more where `guide` joins them
Predict = Callable[[torch.Tensor, torch.Tensor, list[list[int]]], torch.Tensor]
# (rows, c, t, h, w) the windows' average, the step's number -> (b, c, t, h, w) what the scheduler is given
Guide = Callable[[torch.Tensor, int], torch.Tensor]
# (b, c, t, h, w) latents after a step, the step's number -> the same: where the next step begins
Settle = Callable[[torch.Tensor, int], torch.Tensor]

NOISE_TYPES = ("random", "video_fusion")


@dataclass(frozen=True)
class Denoised:
    """Where the loop stands: after `window` of `num_windows` windows of step `step` (from 0) of `num_steps`.

    `latents`: (b, c, t, h, w) float32; those the step began with until the step is done.
    `noise_pred`: the guided average of the same shape, once the step is done, else None.
    `original`: the scheduler's present guess at the clean latents, once the step is done and if it makes one.
    """

    step: int
    num_steps: int
    window: int
    num_windows: int
    latents: torch.Tensor
    noise_pred: torch.Tensor | None = None
    original: torch.Tensor | None = None

    @property
    def step_done(self) -> bool:
        return self.noise_pred is not None


@torch.no_grad()
def denoise(
    predict: Predict,
    latents: torch.Tensor,
    scheduler: SchedulerMixin,
    timesteps: torch.Tensor,
    *,
    plan: Callable[[int], list[Window]],
    guide: Guide = lambda noise_pred, step: noise_pred,
    settle: Settle = lambda latents, step: latents,
    context_batch_size: int = 1,
    overlap_weights: str = "flat",
    generator: Generators | None = None,
    eta: float = 0.0,
    noise_type: str = "random",
    w_ind_noise: float = 0.5,
    compat: str = "",
) -> Iterator[Denoised]:
    """Denoise all frames together; yields after every batch of windows and every step, the last one with the
    result. Without timesteps it yields nothing: the latents are what they were.

    latents: (b, c, t, h, w), noisy as the first of `timesteps` asks. timesteps: those of `scheduler` that are
    to be taken. plan: the windows of a step, by its number. context_batch_size: how many neighbouring windows of
    one length are predicted in one call. overlap_weights: "flat" or "triangular".
    generator, eta, noise_type, w_ind_noise: for schedulers that add noise at a step (see `draw_noise`).
    compat="musev": Euler also draws, and throws away, the noise that it doesn't use, as MuseV's does; values
    are the same, but what is drawn from the generator afterwards isn't.

    Predictions accumulate in float32. Raises FloatingPointError when a prediction isn't finite.
    """
    latents = latents.float()
    for step, t in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, t)
        total, weight_sum = None, torch.zeros(latents.shape[2], device=latents.device)

        windows, done = plan(step), 0
        for batch in _batches(windows, context_batch_size):
            parts = torch.stack([scaled[:, :, window.frames] for window in batch])
            predictions = predict(parts, t, [window.frames for window in batch]).float()
            if total is None:
                total = latents.new_zeros(predictions.shape[1], *latents.shape[1:])
            for window, noise_pred in zip(batch, predictions, strict=True):
                frames = torch.tensor(window.frames, device=latents.device)
                weights = torch.from_numpy(window_weights(overlap_weights, window)).to(latents.device)
                total.index_add_(2, frames, noise_pred * weights[:, None, None])
                weight_sum.index_add_(0, frames, weights)
            done += len(batch)
            yield Denoised(step, len(timesteps), done, len(windows), latents)

        noise_pred = guide(total / weight_sum[:, None, None], step)
        if not noise_pred.isfinite().all():
            raise FloatingPointError(
                f"the prediction at step {step + 1} of {len(timesteps)} isn't finite; "
                "run the model in float32 or bfloat16, or lower guidance_scale"
            )
        latents, original = scheduler_step(
            scheduler, noise_pred, t, latents, generator, eta, noise_type, w_ind_noise, compat
        )
        latents = settle(latents, step)
        yield Denoised(step, len(timesteps), done, len(windows), latents, noise_pred, original)


def _batches(windows: list[Window], size: int) -> Iterator[list[Window]]:
    """Up to `size` neighbours of one length at a time."""
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) == size or len(window.frames) != len(batch[0].frames)):
            yield batch
            batch = []
        batch.append(window)
    yield batch


def draw_noise(
    shape: tuple[int, ...],
    generator: Generators,
    *,
    noise_type: str = "random",
    w_ind_noise: float = 0.5,
    common: torch.Tensor | None = None,
    drawn_at: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Unit noise for a clip, (b, c, t, h, w) float32, drawn on the generator's device (the CPU's: then a seed
    means the same everywhere).

    "random": every frame for itself. "video_fusion": √(1-w) · what all frames share + √w · each frame's own,
    w = `w_ind_noise` in [0, 1]; `common` (b, c, 1, h, w) takes the place of the first draw. drawn_at: draws are of
    this size (h, w) or larger, and made smaller by `smaller_noise`. A list of
    generators has one for each clip of the batch. Raises ValueError for another type, weight or list length.
    """
    if noise_type not in NOISE_TYPES:
        raise ValueError(f"no noise is called {noise_type!r}; choose one of {', '.join(NOISE_TYPES)}")
    if not 0 <= w_ind_noise <= 1:
        raise ValueError(f"w_ind_noise is {w_ind_noise}; choose 0 (all frames share one noise) to 1 (none)")
    batch, channels, _, height, width = shape
    if isinstance(generator, list):
        if len(generator) != batch:
            raise ValueError(f"{len(generator)} generators for {batch} clips; give one for each")
        rows = [common[i : i + 1] if common is not None else None for i in range(batch)]
        each = [
            draw_noise(
                (1, *shape[1:]), one,
                noise_type=noise_type, w_ind_noise=w_ind_noise, common=row, drawn_at=drawn_at,
            )
            for one, row in zip(generator, rows, strict=True)
        ]  # fmt: skip
        return torch.cat(each)

    def draw(*size: int) -> torch.Tensor:
        whole = (*size[:3], *(drawn_at or size[3:]))
        return smaller_noise(torch.randn(whole, generator=generator, device=generator.device), size[3:])

    if noise_type == "random":
        return draw(*shape)
    shared = draw(batch, channels, 1, height, width) if common is None else common
    return (1 - w_ind_noise) ** 0.5 * shared + w_ind_noise**0.5 * draw(*shape)


def smaller_noise(noise: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Unit noise (…, h, w) averaged over areas to (…, *size), each side at most as long, and still of unit variance:
    for whole factors the mean times the square root of the area. The same size is the noise itself.

    Averages over areas that share a pixel, as those of other factors do, are a little alike.
    """
    for axis, length in ((-1, size[1]), (-2, size[0])):
        if noise.shape[axis] != length:
            shares = _area_shares(noise.shape[axis], length).to(noise)
            noise = (noise.transpose(axis, -1) @ shares).transpose(axis, -1)
    return noise.contiguous()


def _area_shares(before: int, after: int) -> torch.Tensor:
    """(before, after): how much each of the long side's pixels adds to each of the short one's, every column a unit
    vector."""
    edges = torch.arange(after + 1, dtype=torch.float64) * before / after
    pixels = torch.arange(before, dtype=torch.float64)[:, None]
    shares = (torch.minimum(edges[1:], pixels + 1) - torch.maximum(edges[:-1], pixels)).clamp(min=0)
    return shares / shares.norm(dim=0)


def lean_noise(noise: torch.Tensor, condition_latents: torch.Tensor, img_weight: float) -> torch.Tensor:
    """Noise that leans a little towards the condition frames' mean picture: √k · mean + √(1-k) · noise.

    noise (b, c, t, h, w), condition_latents (b, c, n, h, w), k = img_weight in [0, 1] (MuseV: 0.001).
    """
    mean = condition_latents.mean(dim=2, keepdim=True)
    return img_weight**0.5 * mean + (1 - img_weight) ** 0.5 * noise


def initial_latents(
    scheduler: SchedulerMixin, noise: torch.Tensor, t: torch.Tensor, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Where the loop begins: pure noise at the scheduler's scale or, if given, clean `start` latents
    (b, c, t, h, w) noised to timestep `t` (0-d)."""
    if start is None:
        return noise * scheduler.init_noise_sigma
    return scheduler.add_noise(start, noise, t.reshape(1))


def guidance_scales(start: float, end: float | None, num_steps: int, method: str = "linear") -> list[float]:
    """Guidance of each step, from `start` to `end` (None: constant).

    "linear"; "two_stage": half and half; "three_stage": thirds, the middle one (start + end) // 2;
    "fix_two_stage": `start` for the first three steps (and so never fewer than three values), then `end`.
    Raises ValueError for another method.
    """
    if method not in GUIDANCE_METHODS:
        choices = ", ".join(GUIDANCE_METHODS)
        raise ValueError(f"no guidance method is called {method!r}; choose one of {choices}")
    if end is None or end == start:
        return [float(start)] * num_steps
    return [float(scale) for scale in GUIDANCE_METHODS[method](start, end, num_steps)]


def classifier_free(scales: list[float]) -> Guide:
    """Guidance away from the unconditional half of the rows, which comes first, by each step's scale
    (arXiv 2207.12598)."""

    def guide(noise_pred: torch.Tensor, step: int) -> torch.Tensor:
        unconditional, conditional = noise_pred.chunk(2)
        return unconditional + scales[step] * (conditional - unconditional)

    return guide


def steps_of_strength(timesteps: torch.Tensor, strength: float) -> torch.Tensor:
    """The last of the run's timesteps that a start of clean latents is to go through: all at strength 1, none at
    0 (img2img, SDEdit, arXiv 2108.01073)."""
    return timesteps[len(timesteps) - min(int(len(timesteps) * strength), len(timesteps)) :]


GUIDANCE_METHODS: dict[str, Callable[[float, float, int], list[float]]] = {
    "linear": lambda start, end, n: np.linspace(start, end, n).tolist(),
    "two_stage": lambda start, end, n: [start] * (n // 2) + [end] * (n - n // 2),
    "three_stage": lambda start, end, n: (
        [start] * (n // 3) + [(start + end) // 2] * (n // 3) + [end] * (n - 2 * (n // 3))
    ),
    "fix_two_stage": lambda start, end, n: [start] * 3 + [end] * (n - 3),
}


def scheduler_step(
    scheduler: SchedulerMixin,
    noise_pred: torch.Tensor,
    t: torch.Tensor,
    latents: torch.Tensor,
    generator: Generators | None,
    eta: float,
    noise_type: str,
    w_ind_noise: float,
    compat: str,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One step of the scheduler: the less noisy latents, and its guess at the clean ones if it makes one."""
    taken = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in (("generator", generator), ("eta", eta)) if name in taken}
    draws = _SharedDraws(w_ind_noise) if noise_type == "video_fusion" else nullcontext()
    with draws:
        result = scheduler.step(noise_pred, t, latents, **options)
    if compat == "musev" and isinstance(scheduler, EulerDiscreteScheduler) and generator is not None:
        draw_noise(tuple(latents.shape), generator, noise_type=noise_type, w_ind_noise=w_ind_noise)
    original = getattr(result, "pred_original_sample", None)
    if original is None:
        original = getattr(result, "denoised", None)
    return result.prev_sample, original


class _SharedDraws(TorchFunctionMode):
    """While active, a scheduler's draws are `video_fusion` noise; its formulas stay diffusers' own."""

    def __init__(self, w_ind_noise: float) -> None:
        super().__init__()
        self.w_ind_noise = w_ind_noise

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.randn and kwargs.get("generator") is not None:
            return draw_noise(
                tuple(args[0]), kwargs["generator"], noise_type="video_fusion", w_ind_noise=self.w_ind_noise
            )
        return func(*args, **kwargs)
