"""Which steps the noise is removed in: diffusers' own schedulers, chosen by name or by the model's config.

MuseV carries copies of them; their formulas are stock, and what is not stands in `set_timesteps`.
"""

import torch
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    TCDScheduler,
)

from musev_engine.errors import EngineError

SCHEDULERS: dict[str, type[SchedulerMixin]] = {
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "lcm": LCMScheduler,
    "tcd": TCDScheduler,
    "ddim_zero_snr": DDIMScheduler,
}
# What a name says beyond its class. `ddim_zero_snr` is MuseV's `enable_zero_snr`, for models trained so.
SETTINGS: dict[str, dict] = {
    "ddim_zero_snr": {
        "beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction",
        "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "clip_sample": False,
    },
}  # fmt: skip


def make_scheduler(config: dict, name: str | None = None) -> SchedulerMixin:
    """A fresh scheduler for a model trained as `config` (a diffusers `scheduler_config.json`) says.

    `name` is one of `SCHEDULERS`, or None for the config's own class; a class that isn't among them (SD1.5's
    PNDM) gives Euler, as in MuseV. Prediction type, betas and spacing are the config's in each case.
    Raises EngineError for an unknown name.
    """
    if name is not None and name not in SCHEDULERS:
        raise EngineError("No scheduler has this name", name, f"Choose one of {', '.join(SCHEDULERS)}.")
    own = {cls.__name__: cls for cls in SCHEDULERS.values()}.get(config.get("_class_name"))
    cls = SCHEDULERS[name] if name else own or EulerDiscreteScheduler
    return cls.from_config(config, **SETTINGS.get(name, {}))


def set_timesteps(
    scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device | str = "cpu", compat: str = ""
) -> torch.Tensor:
    """Spread the steps and return their timesteps, (num_inference_steps,), noisiest first.

    Raises EngineError where the scheduler can't take as many steps: those of models distilled to few steps
    ("lcm", "tcd") take 50 at most, as many as their training did.
    """
    try:
        scheduler.set_timesteps(num_inference_steps, device=device)
    except ValueError as error:
        raise EngineError(
            "The scheduler can't take so many steps", num_inference_steps, f"Choose fewer: {error}"
        ) from error
    if compat == "musev" and isinstance(scheduler, DPMSolverMultistepScheduler):
        # MuseV's older copy looks noise levels up at the rounded timesteps and ends at timestep 0.
        noise_levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
        rounded = scheduler.timesteps.cpu().long()
        scheduler.sigmas = torch.cat([noise_levels[rounded], noise_levels[:1]])
    return scheduler.timesteps
