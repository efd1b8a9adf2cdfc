"""From a clip's request to its frames: prepare -> denoise in windows -> decode.

`generate` is a generator: whoever asks for its next event lets it go on to the next window, and whoever
closes it stops it there. It knows no sockets, jobs or files.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from musev_engine import frames
from musev_engine.clip import Clip, Event, Frames, Preview, Progress
from musev_engine.conditions import Conditions, Control, image_tokens, predictor, reference_tokens
from musev_engine.control import NUM_BODY_POINTS, draw_poses
from musev_engine.errors import EngineError
from musev_engine.loading import POSE_CONTROLNET, Models
from musev_engine.prompts import encode_prompts
from musev_engine.sampling import denoise, draw_noise, guidance_scales, initial_latents, lean_noise
from musev_engine.schedulers import make_scheduler, set_timesteps
from musev_engine.windows import plan_windows

__all__ = ["Clip", "Event", "Frames", "Preview", "Progress", "generate"]

NOBODY = np.zeros((0, NUM_BODY_POINTS, 3), np.float32)


def generate(clip: Clip, models: Models) -> Iterator[Event]:
    """Make a clip: exactly `clip.num_frames` frames come out.

    It may be closed between any two events, and there is one after every window at least. Without a still,
    a first frame is made alone, by the image model. Where there are both a still and poses, the clip's frames
    are all new; otherwise frame 0 is the still, or that first frame, itself (see `Clip.begins_with_still`).

    Raises EngineError when the model lacks what the clip needs, FloatingPointError as `denoise` does.
    """
    if clip.poses is not None and POSE_CONTROLNET not in models.controlnets:
        raise EngineError(
            "This model can't follow poses", models.name, "Choose one with a controlnet.", code="bad_model"
        )
    generator = torch.Generator().manual_seed(clip.seed)

    yield Progress("prepare", 0, 1)
    guided = clip.guidance_scale > 1
    texts = [clip.negative_prompt, clip.prompt] if guided else [clip.prompt]
    embeds = encode_prompts(models.text_encoder, models.tokenizer, texts).to(models.device)
    plain = Conditions(embeds, guided, motion_speed=clip.motion_speed)
    if clip.still is None:
        alone = replace(plain, controls=_controls(clip, models), skip_temporal=True)
        still_latents = yield from _denoise("first frame", clip, models, alone, 0, 1, generator)
        still = frames.to_pixels(torch.cat(list(frames.decode(models.vae, still_latents))))
    else:
        still = frames.fit_still(clip.still, clip.width, clip.height, clip.compat)[None]
        still_latents = frames.encode(models.vae, still)
    first = int(clip.begins_with_still)
    conditions = _with_still(plain, clip, models, still, still_latents)
    yield Progress("prepare", 1, 1)

    latents = still_latents[:, :, :first]
    if clip.num_frames > first:
        made = yield from _denoise("denoise", clip, models, conditions, first, clip.num_frames, generator)
        latents = torch.cat([latents, made], dim=2)

    done = 0
    for pictures in frames.decode(models.vae, latents):
        yield Frames(done, frames.to_pixels(pictures))
        done += len(pictures)
        yield Progress("decode", done, clip.num_frames)


def _with_still(
    plain: Conditions, clip: Clip, models: Models, still: np.ndarray, still_latents: torch.Tensor
) -> Conditions:
    """The still stands, clean, before the frames of every window; where the model has the parts for it, it is
    also read by the ReferenceNet and as an image prompt."""
    tokens, reference = None, None
    if models.image_encoder is not None:
        prompt = frames.fit_still(still[0], clip.width, clip.height, clip.compat, Image.Resampling.BICUBIC)
        tokens = image_tokens(models.image_encoder, models.image_proj, prompt[None], plain.guided)
    if models.referencenet is not None:
        text = plain.prompt_embeds if tokens is None else tokens
        reference = reference_tokens(models.referencenet, models.unet, still_latents, text)
    return replace(
        plain,
        condition_latents=still_latents,
        reference=reference,
        image_tokens=tokens,
        image_scale=clip.ip_adapter_scale,
        controls=_controls(clip, models, with_still=True),
    )


def _controls(clip: Clip, models: Models, with_still: bool = False) -> tuple[Control, ...]:
    """The poses as drawings, of the frames alone or with the still before them. A still whose pose
    isn't known has an empty drawing."""
    if clip.poses is None:
        return ()
    first, still_pose = 0, None
    if with_still:
        first = int(clip.begins_with_still)
        still_pose = clip.poses[0] if first else clip.still_pose if clip.still_pose is not None else NOBODY

    def draw(indices: list[int]) -> np.ndarray:
        return draw_poses(clip.poses[first:][indices], clip.width, clip.height)

    still_drawing = None if still_pose is None else draw_poses(still_pose[None], clip.width, clip.height)
    return (Control(models.controlnets[POSE_CONTROLNET], draw, still_drawing, clip.control_scale),)


def _denoise(
    phase: str,
    clip: Clip,
    models: Models,
    conditions: Conditions,
    first: int,
    end: int,
    generator: torch.Generator,
) -> Generator[Event, None, torch.Tensor]:
    """Frames [first, end) of the clip from noise to clean latents, float32 (1, c, end - first, h, w)."""
    num_frames = end - first
    scheduler = make_scheduler(models.scheduler_config, None if clip.scheduler == "model" else clip.scheduler)
    timesteps = set_timesteps(scheduler, clip.num_inference_steps, models.device, clip.compat)
    guidance = guidance_scales(
        clip.guidance_scale, clip.guidance_scale_end, len(timesteps), clip.guidance_method
    )
    shape = (1, models.vae.config.latent_channels, num_frames, clip.height // 8, clip.width // 8)
    noise = draw_noise(shape, generator, noise_type=clip.noise_type, w_ind_noise=clip.w_ind_noise)
    noise = noise.to(models.device)
    if conditions.condition_latents is not None:
        noise = lean_noise(noise, conditions.condition_latents, clip.img_weight)
    states = denoise(
        predictor(models.unet, conditions, timesteps, guidance),
        initial_latents(scheduler, noise, timesteps[0]),
        scheduler,
        timesteps,
        plan=lambda step: plan_windows(
            clip.context_schedule, num_frames, clip.context_frames, clip.context_overlap, step=step
        ),
        overlap_weights=clip.overlap_weights,
        generator=generator,
        eta=clip.eta,
        noise_type=clip.noise_type,
        w_ind_noise=clip.w_ind_noise,
        compat=clip.compat,
    )
    yield Progress(phase, 0, len(timesteps))
    for state in states:
        if not state.step_done:
            yield Progress(phase, state.step, state.num_steps, state.window, state.num_windows)
            continue
        yield Progress(phase, state.step + 1, state.num_steps)
        if state.original is not None and state.step + 1 < state.num_steps:
            middle = num_frames // 2
            pictures = frames.decode(models.vae, state.original[:, :, middle : middle + 1])
            yield Preview(first + middle, frames.to_pixels(next(pictures)))
    return state.latents
