"""LoRAs that were trained for few steps, and what they want besides their weights. Imports no torch."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class FewStep:
    """What a LoRA that was trained for few steps wants: `scheduler`, one of `schedulers.SCHEDULERS`, and the values
    it was made for. scheduler_config: what that changes in the model's."""

    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    scheduler_config: dict = field(default_factory=dict)


def few_step(paths: Iterable[Path]) -> FewStep | None:
    """What the last few-step LoRA among these wants; they are known by the names of file and folder alone."""
    found = None
    for path in paths:
        for pattern, wants in _FEW_STEP:
            if match := re.search(pattern, f"{path.parent.name}/{path.name}".lower()):
                found = wants(match)
                break
    return found


def _hyper(steps: int, guidance_scale: float) -> FewStep:
    config = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
    return FewStep("ddim", steps, guidance_scale, config)


_FEW_STEP: tuple[tuple[str, Callable[[re.Match], FewStep]], ...] = (
    # https://huggingface.co/ByteDance/Hyper-SD
    (r"hyper-?sd.*?(\d+)-?steps?-cfg", lambda match: _hyper(int(match[1]), 5.0)),
    (r"hyper-?sd.*?[^\d]1-?steps?", lambda _: FewStep("tcd", 1, 1.0, {"_class_name": "TCDScheduler"})),
    (r"hyper-?sd.*?(\d+)-?steps?", lambda match: _hyper(int(match[1]), 1.0)),
    # https://huggingface.co/h1t/TCD-SD15-LoRA, https://huggingface.co/latent-consistency/lcm-lora-sdv1-5
    (r"\btcd\b|\btcd[-_]", lambda _: FewStep("tcd", 4, 1.0, {"_class_name": "TCDScheduler"})),
    (r"\blcm\b|lcm[-_]", lambda _: FewStep("lcm", 4, 1.0, {"_class_name": "LCMScheduler"})),
)
