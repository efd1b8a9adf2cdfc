"""Everything the network is told besides noise and time, prepared once before the loop.

`predictor` turns it into the one function that the loop knows. Under guidance every tensor holds the
unconditional half first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ControlNetModel
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from musev_engine.frames import to_tensor
from musev_engine.models.projections import ImageProjection
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import ReferenceTokens, UNet3D
from musev_engine.sampling import Predict

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Control:
    """A ControlNet and the pictures it follows.

    `pictures`: frame indices -> uint8 (len(indices), 8h, 8w, 3), asked for at each window, so that a long
    clip needs no memory for them. `condition_pictures`: the same of the condition frames, (n_c, 8h, 8w, 3).
    `scale` multiplies its residuals. It acts at step i of n where `start` <= i/n and (i + 1)/n <= `end`.
    """

    net: ControlNetModel
    pictures: Callable[[list[int]], np.ndarray]
    condition_pictures: np.ndarray | None = None
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Conditions:
    """What a clip's predictions depend on. B is b, or 2b under guidance with the unconditional half first.

    prompt_embeds: (B, n, d). guided: whether there are two halves.
    condition_latents: (b, c, n_c, h, w) clean frames that stand before the noisy ones in every window.
    reference: ReferenceNet's keys and values, of batch B. image_tokens, face_tokens: (B, n, d).
    image_scale, face_scale: their weights in cross-attention. controls: their residuals are added up.
    motion_speed: of the frame indices. skip_temporal: single frames, without the layers along time.
    """

    prompt_embeds: torch.Tensor
    guided: bool
    condition_latents: torch.Tensor | None = None
    reference: ReferenceTokens | None = None
    image_tokens: torch.Tensor | None = None
    image_scale: float = 1.0
    face_tokens: torch.Tensor | None = None
    face_scale: float = 1.0
    controls: tuple[Control, ...] = ()
    motion_speed: float = 8.0
    skip_temporal: bool = False


def predictor(
    unet: UNet3D, conditions: Conditions, timesteps: torch.Tensor, guidance: Sequence[float]
) -> Predict:
    """The function `denoise` calls. `timesteps`: the run's; `guidance`: the scale of each of its steps.

    A window's prediction is guided before the windows are averaged (classifier-free guidance, arXiv
    2207.12598). MuseV averages first; guidance is linear and has one scale a step, so the result is the same.
    """
    steps = {float(t): number for number, t in enumerate(timesteps)}
    clean = conditions.condition_latents
    num_clean = 0 if clean is None else clean.shape[2]

    def predict(latents: torch.Tensor, t: torch.Tensor, frames: list[int]) -> torch.Tensor:
        step = steps[float(t)]
        sample = latents if clean is None else torch.cat([clean, latents], dim=2)
        if conditions.guided:
            sample = torch.cat([sample, sample])
        noise_pred = unet(
            sample,
            t,
            conditions.prompt_embeds,
            condition_index=range(num_clean),
            motion_speed=conditions.motion_speed,
            image_tokens=conditions.image_tokens,
            image_scale=conditions.image_scale,
            face_tokens=conditions.face_tokens,
            face_scale=conditions.face_scale,
            reference=conditions.reference,
            control_residuals=_control_residuals(conditions, sample, t, frames, step, len(timesteps)),
            skip_temporal=conditions.skip_temporal,
        )[:, :, num_clean:].float()  # fmt: skip
        if not conditions.guided:
            return noise_pred
        unconditional, conditional = noise_pred.chunk(2)
        return unconditional + guidance[step] * (conditional - unconditional)

    return predict


@torch.no_grad()
def image_tokens(
    image_encoder: CLIPVisionModelWithProjection,
    image_proj: ImageProjection,
    stills: np.ndarray,
    guided: bool,
) -> torch.Tensor:
    """Stills, uint8 (n, h, w, 3), as tokens for cross-attention, (1, 4n, d), of IP-Adapter Plus (1, 16n, d): an image
    prompt (IP-Adapter, arXiv 2308.06721). Under guidance (2, 4n, d): the unconditional ones are the projection of
    zeros, of IP-Adapter Plus that of a picture of zeros."""
    pictures = torch.stack([_seen_by_clip(still, image_encoder.config.image_size) for still in stills])
    pictures = pictures.to(image_encoder.device, image_encoder.dtype)
    if image_proj.reads == "hidden_states":
        halves = [
            image_encoder(each, output_hidden_states=True).hidden_states[-2]
            for each in ([torch.zeros_like(pictures), pictures] if guided else [pictures])
        ]
    else:
        embeds = image_encoder(pictures).image_embeds
        halves = [torch.zeros_like(embeds), embeds] if guided else [embeds]
    return torch.stack([image_proj(half).flatten(0, 1) for half in halves])


@torch.no_grad()
def reference_tokens(
    referencenet: ReferenceNet, unet: UNet3D, still_latents: torch.Tensor, text: torch.Tensor
) -> ReferenceTokens:
    """What the UNet's fusion layers read of the stills, once for all windows and steps.

    still_latents: (1, c, n, h, w) clean; text: (B, n, d), the image tokens if there are any, else the
    prompt's embeddings.
    """
    maps = referencenet(still_latents.expand(len(text), -1, -1, -1, -1), 0, text)
    return unet.prepare_reference(*maps)


def _control_residuals(
    conditions: Conditions,
    sample: torch.Tensor,
    t: torch.Tensor,
    frames: list[int],
    step: int,
    num_steps: int,
) -> tuple[list[torch.Tensor], torch.Tensor] | None:
    """The ControlNets' residuals for one window's whole sequence, its condition frames included, or None.

    The nets are diffusers' own, for single pictures: frames are folded into the batch."""
    total = None
    for control in conditions.controls:
        if step / num_steps < control.start or (step + 1) / num_steps > control.end or not control.scale:
            continue
        pictures = control.pictures(frames)
        if control.condition_pictures is not None:
            pictures = np.concatenate([control.condition_pictures, pictures])
        down, mid = control.net(
            sample.transpose(1, 2).flatten(0, 1).to(control.net.dtype),
            t,
            conditions.prompt_embeds.repeat_interleave(sample.shape[2], dim=0).to(control.net.dtype),
            to_tensor(pictures, sample.device).to(control.net.dtype).repeat(len(sample), 1, 1, 1),
            conditioning_scale=control.scale,
            return_dict=False,
        )
        if total is not None:
            down = [one + other for one, other in zip(total[0], down, strict=True)]
            mid = total[1] + mid
        total = (list(down), mid)
    return total


def _seen_by_clip(still: np.ndarray, size: int) -> torch.Tensor:
    """uint8 (h, w, 3) -> (3, size, size), cut and normalised as CLIP's own preprocessing does."""
    height, width = still.shape[:2]
    scale = size / min(height, width)
    width, height = (size if side == min(height, width) else int(side * scale) for side in (width, height))
    resized = np.asarray(Image.fromarray(still).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    cut = torch.from_numpy(resized[top : top + size, left : left + size].astype(np.float32) / 255)
    return ((cut - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(2, 0, 1)
