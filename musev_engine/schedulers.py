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
)

SCHEDULERS: dict[str, type[SchedulerMixin]] = {
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "lcm": LCMScheduler,
}


def make_scheduler(config: dict, name: str | None = None) -> SchedulerMixin:
    """A fresh scheduler for a model trained as `config` (a diffusers `scheduler_config.json`) says.

    `name` is one of `SCHEDULERS`, or None for the config's own class; a class that isn't among them (SD1.5's
    PNDM) gives Euler, as in MuseV. Prediction type, betas and spacing are the config's in each case.
    Raises ValueError for an unknown name.
    """
    if name is not None and name not in SCHEDULERS:
        raise ValueError(f"no scheduler is called {name!r}; choose one of {', '.join(SCHEDULERS)}")
    own = {cls.__name__: cls for cls in SCHEDULERS.values()}.get(config.get("_class_name"))
    cls = SCHEDULERS[name] if name else own or EulerDiscreteScheduler
    return cls.from_config(config)


def set_timesteps(
    scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device | str = "cpu", compat: str = ""
) -> torch.Tensor:
    """Spread the steps and return their timesteps, (num_inference_steps,), noisiest first.

    Raises ValueError where the scheduler can't take as many steps (diffusers' own words).
    """
    scheduler.set_timesteps(num_inference_steps, device=device)
    if compat == "musev" and isinstance(scheduler, DPMSolverMultistepScheduler):
        # MuseV's older copy looks noise levels up at the rounded timesteps and ends at timestep 0.
        noise_levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
        rounded = scheduler.timesteps.cpu().long()
        scheduler.sigmas = torch.cat([noise_levels[rounded], noise_levels[:1]])
    return scheduler.timesteps
