"""The training loop that every stage shares: schedule, average, checkpoints, progress, sample sheets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The learning rate warms up, then falls along a cosine to a hundredth of its peak.

    With `minutes` the cosine ends at whichever comes first, the last step or the last minute, so that a run with a
    deadline is still annealed. (A run cut by its deadline is not repeatable to the bit; one by steps is.)
    """

    steps: int
    learning_rate: float
    warm_up: int = 100
    minutes: float | None = None
    ema: float = 0.999

    def progress(self, step: int, seconds: float) -> float:
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, by_time))

    def rate(self, step: int, seconds: float) -> float:
        cosine = 0.505 + 0.495 * math.cos(math.pi * self.progress(step, seconds))
        return self.learning_rate * cosine * min(1.0, (step + 1) / self.warm_up)


class Average:
    """Exponential moving average of parameters, kept beside them in float32."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.shadow = [p.detach().clone().float() for p in self.parameters]

    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach().float() for p in self.parameters], 1 - decay)

    def swap(self) -> None:
        """Exchanges the averaged and the current values (call twice to come back)."""
        for parameter, shadow in zip(self.parameters, self.shadow, strict=True):
            kept = parameter.detach().clone()
            parameter.data.copy_(shadow)
            shadow.copy_(kept)


def train(
    name: str,
    module: nn.Module,
    loss_of: Callable[[int, float], torch.Tensor],
    schedule: Schedule,
    checkpoint: Path,
    sheet: Callable[[Path], None],
    every: int = 500,
) -> None:
    """Trains the module's parameters that require gradients; leaves their moving average in it.

    `loss_of(step, progress)` makes the step's own batch (seeded by the step, so a resumed run goes on as if never cut)
    and returns its loss; progress runs from 0 to 1. `sheet(path)` draws what the averaged module makes: a look
    at it is worth more than the loss.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    average, first, seconds = Average(parameters, schedule.ema), 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        for shadow, saved in zip(average.shadow, state["average"], strict=True):
            shadow.copy_(saved)
        first, seconds = state["step"], state["seconds"]

    def save(step: int) -> None:
        part = checkpoint.with_suffix(".part")
        state = {
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.shadow,
        }
        torch.save(state | {"step": step, "seconds": seconds}, part)
        part.replace(checkpoint)
        average.swap()
        module.eval()
        sheet(checkpoint.with_name(f"{checkpoint.stem}-{step:06d}.png"))
        module.train()
        average.swap()

    module.train()
    smooth, last = None, time.monotonic()
    with tqdm(total=schedule.steps, initial=first, desc=name, mininterval=5, dynamic_ncols=True) as bar:
        step = first
        while schedule.progress(step, seconds) < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step, seconds)
            loss = loss_of(step, schedule.progress(step, seconds))
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"{name}: the loss is {loss.item()} at step {step}; resume with a lower learning rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average.update(step)
            value = loss.item()
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            step += 1
            now = time.monotonic()
            seconds, last = seconds + now - last, now
            bar.update()
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            if step % every == 0:
                save(step)
                last = time.monotonic()
    save(step)
    average.swap()
    module.eval()
