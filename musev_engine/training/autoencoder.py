"""Trains the embedded model's VAE: an `AutoencoderKL` of Stable Diffusion's shape (f8, 4 channels), only narrower.

Two terms beside the usual ones keep colours honest in so few channels: the pictures averaged over 8 x 8 pixels must
agree, and a linear probe must read each latent's mean colour. Both were found by measuring: without them a small VAE
drops a colour axis. After training, each latent channel's mean and deviation are folded into `quant_conv` and
`post_quant_conv`, so that `scaling_factor` 0.18215 gives unit variance as it does in Stable Diffusion 1.5.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from musev_engine.training.data import PERMUTATIONS, Clips, sample
from musev_engine.training.loop import Schedule, train

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 64, 96, 128],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 16,
    "scaling_factor": 0.18215,
    "sample_size": 128,
}


class Autoencoder(nn.Module):
    """The VAE and the probe that is trained along with it."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKL.from_config(CONFIG)
        self.probe = nn.Conv2d(4, 3, 1)


def picture_batch(
    clips: Clips, rng: np.random.Generator, size: int, crop: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random frames in [-1, 1] (b, 3, h, w) and their person masks in [0, 1] (b, 1, h, w).

    With `crop`, windows of so many pixels (both ways) round a point of the person.
    """
    pictures, masks = [], []
    for _ in range(size):
        index, colours = int(rng.integers(len(clips))), PERMUTATIONS[rng.integers(6)]
        frame = int(rng.integers(clips.frames.shape[1]))
        one = Clips(clips.frames[index : index + 1, frame : frame + 1], clips.plates[index : index + 1],
                    clips.keypoints[index : index + 1, frame : frame + 1], [clips.about[index]])  # fmt: skip
        drawn = sample(one, 0, bool(rng.integers(2)), colours)
        rows = columns = slice(None)
        if crop:
            x, y = drawn.keypoints[0, rng.integers(18), :2] + rng.uniform(-crop / 3, crop / 3, 2) - crop / 2
            highest = drawn.masks.shape[1] - crop, drawn.masks.shape[2] - crop
            top, left = (int(np.clip(v, 0, high)) for v, high in zip((y, x), highest, strict=True))
            rows, columns = slice(top, top + crop), slice(left, left + crop)
        pictures.append(drawn.pictures[0][rows, columns])
        masks.append(drawn.masks[0][rows, columns])
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, torch.from_numpy(np.stack(masks))[:, None].float() / 255


def reconstruction_loss(drawn: torch.Tensor, pixels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """L1, L2, gradients and low-pass between pictures (b, 3, h, w) in [-1, 1]; the person (b, 1, h, w) counts more."""
    weight = 1 + 2 * masks
    error = drawn - pixels
    loss = (weight * (error.abs() + 2 * error.square())).mean()
    for dim in (2, 3):
        loss = (
            loss
            + 0.5 * (torch.diff(error, dim=dim).abs() * weight.narrow(dim, 1, weight.shape[dim] - 1)).mean()
        )
    return loss + 8 * F.mse_loss(F.avg_pool2d(drawn, 8), F.avg_pool2d(pixels, 8))


def reconstruct(
    vae: AutoencoderKL, pixels: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (b, 3, h, w) in [-1, 1] -> drawn again from latents plus noise (b, 4, h / 8, w / 8), and the latents."""
    with torch.autocast(pixels.device.type, torch.bfloat16):
        latents = vae.encode(pixels).latent_dist.mean
        drawn = vae.decode(latents + noise).sample
    return drawn.float(), latents.float()


def autoencoder_loss(
    model: Autoencoder, reconstruct, pixels: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Reconstruction (L1, L2, gradients; the person counts more), low-pass, probe and a little KL."""
    b, _, h, w = pixels.shape
    noise = 0.03 * torch.randn(b, 4, h // 8, w // 8, device=pixels.device)  # a denoiser leaves some
    drawn, mean = reconstruct(model.vae, pixels, noise)
    loss = reconstruction_loss(drawn, pixels, masks)
    loss = loss + 4 * F.mse_loss(model.probe(mean), F.avg_pool2d(pixels, 8))
    return loss + 1e-3 * F.relu(mean.square().mean() - 1) + 1e-5 * mean.square().mean()


def train_autoencoder(
    clips: Clips,
    folder: Path,
    schedule: Schedule,
    device: str,
    seed: int,
    batch: int = 24,
    start: AutoencoderKL | None = None,
    compiled: bool = False,
) -> AutoencoderKL:
    """Trains (or resumes) and returns the VAE, its latents already of unit variance times 1 / scaling_factor.

    `start` is one to go on from. `compiled` saves a third of a step on a CPU, and needs a C++ compiler there.
    """
    torch.manual_seed(seed)
    model = Autoencoder()
    if start is not None:
        model.vae = start
        _standardise(
            start, picture_batch(clips, np.random.default_rng(seed + 1), 256)[0], device, deviation=1.0
        )
    model.to(device, memory_format=torch.channels_last)
    draw = torch.compile(reconstruct, dynamic=False) if compiled else reconstruct
    shown, _ = picture_batch(clips, np.random.default_rng(seed), 16)

    def loss_of(step: int, progress: float) -> torch.Tensor:
        """Windows round the person at first: most of a whole picture is a plain wall, which is soon learnt."""
        torch.manual_seed(seed + step)
        rng = np.random.default_rng((seed, step))
        pixels, masks = (
            picture_batch(clips, rng, batch, crop=64)
            if progress < 0.75
            else picture_batch(clips, rng, batch // 2)
        )
        pixels = pixels.to(device, memory_format=torch.channels_last)
        return autoencoder_loss(model, draw, pixels, masks.to(device))

    train("VAE", model, loss_of, schedule, folder / "vae.pt", partial(_sheet, "VAE", model.vae, shown))
    _standardise(model.vae, picture_batch(clips, np.random.default_rng(seed + 1), 256)[0], device)
    return model.vae


def sharpen_decoder(
    vae: AutoencoderKL,
    clips: Clips,
    folder: Path,
    schedule: Schedule,
    device: str,
    seed: int,
    batch: int = 24,
) -> None:
    """Trains the decoder further on latents that stand still, so whatever learnt from them stays right."""
    vae.requires_grad_(False)
    for part in (vae.post_quant_conv, vae.decoder):
        part.requires_grad_(True)
    scale = vae.config.scaling_factor

    def loss_of(step: int, progress: float) -> torch.Tensor:
        torch.manual_seed(seed + step)
        pixels, masks = picture_batch(clips, np.random.default_rng((seed, 7, step)), batch, crop=96)
        pixels = pixels.to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.mean
                latents = latents + 0.03 / scale * torch.randn_like(latents)  # a denoiser leaves them so
            drawn = vae.decode(latents).sample.float()
        return reconstruction_loss(drawn, pixels, masks.to(device))

    shown, _ = picture_batch(clips, np.random.default_rng(seed), 16)

    train("decoder", vae, loss_of, schedule, folder / "decoder.pt", partial(_sheet, "decoder", vae, shown))


@torch.no_grad()
def _sheet(name: str, vae: AutoencoderKL, shown: torch.Tensor, path: Path) -> None:
    """Pictures (b, 3, h, w) in [-1, 1] above what the VAE makes of them, and how near that is in dB."""
    drawn = vae(shown.to(vae.device)).sample.float().cpu().clamp(-1, 1)
    mse = (drawn - shown).square().mean(dim=(1, 2, 3)) / 4
    print(f"\n{name}: {(-10 * mse.log10()).mean():.2f} dB", flush=True)
    rows = torch.cat([shown, drawn], dim=2).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    cv2.imwrite(str(path), np.hstack(list(rows))[..., ::-1])


def _standardise(
    vae: AutoencoderKL, pixels: torch.Tensor, device: str, deviation: float = 1 / CONFIG["scaling_factor"]
) -> None:
    """Gives each latent channel mean 0 and the deviation, by the 1 x 1 convolutions on either side of the latents."""
    with torch.no_grad():
        means = torch.cat([vae.encode(part.to(device)).latent_dist.mean for part in pixels.split(32)])
        mean, scale = means.mean((0, 2, 3)), means.std((0, 2, 3)) / deviation
        before, after = vae.quant_conv, vae.post_quant_conv
        after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
        after.weight *= scale[None, :, None, None]
        before.weight[:4] /= scale[:, None, None, None]
        before.bias[:4] = (before.bias[:4] - mean) / scale
