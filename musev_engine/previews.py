"""Latents as small pictures without the VAE: what an artist sees while a clip is made.

A VAE's latents hold coarse colours nearly linearly, so four numbers (or however many channels it has) become red,
green and blue by one small matrix. It is fitted to the model's own VAE, by least squares over pictures of soft random
colours, once.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from musev_engine.frames import encode, to_pixels

NUM_PICTURES, SIDE = 6, 64  # that a VAE is fitted with
SOFTNESS = (2, 3, 4, 6, 8, 12)  # random colours along a side of each of them
RIDGE = 1e-6  # keeps what doubled or dead channels weigh small
ENLARGED = 2  # pixels of a preview along a latent's side
_fitted: WeakKeyDictionary = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class LatentColours:
    """weight (3, c), bias (3,): colour in 0…1 = weight · latent + bias. residual: the root mean square of what is left
    of the colours that it was fitted to."""

    weight: torch.Tensor
    bias: torch.Tensor
    residual: float

    @torch.no_grad()
    def draw(self, latents: torch.Tensor) -> np.ndarray:
        """Clean latents (c, n, h, w) -> uint8 (n, 2h, 2w, 3)."""
        colours = torch.einsum("kc,cnhw->nkhw", self.weight, latents.float()) + self.bias[:, None, None]
        larger = functional.interpolate(colours, scale_factor=ENLARGED, mode="bilinear", align_corners=False)
        return to_pixels(larger)


def colours_of(vae: AutoencoderKL) -> LatentColours:
    """The colours of a VAE's latents; fitted at the first call, in about the time of encoding six small pictures."""
    if vae not in _fitted:
        _fitted[vae] = _fit(vae)
    return _fitted[vae]


def _fit(vae: AutoencoderKL) -> LatentColours:
    pictures = soft_pictures()
    latents = encode(vae, to_pixels(pictures))[0].transpose(0, 1).cpu()  # (n, c, h, w)
    colours = functional.adaptive_avg_pool2d(pictures, latents.shape[-2:])
    known = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
    known = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype)], dim=1)
    wanted = colours.permute(0, 2, 3, 1).flatten(0, 2).double()
    ridge = RIDGE * len(known) * torch.eye(known.shape[1], dtype=known.dtype)
    solved = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted)  # (c + 1, 3)
    residual = float((known @ solved - wanted).square().mean().sqrt())
    weight, bias = solved[:-1].T.float().contiguous(), solved[-1].float()
    return LatentColours(weight.to(vae.device), bias.to(vae.device), residual)


def soft_pictures() -> torch.Tensor:
    """Random colours that run into each other, the same ones always: float32 (n, 3, side, side) in 0…1."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(NUM_PICTURES):
        side = SOFTNESS[number % len(SOFTNESS)]
        few = torch.from_numpy(rng.random((1, 3, side, side), np.float32))
        rows.append(
            functional.interpolate(few, size=(SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
        )
    return torch.cat(rows)
