"""ReferenceNet: reads a still with SD1.5's way down and middle, and hands on what every level saw."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor, nn

from musev_engine.models.attention import Cues
from musev_engine.models.blocks import DownBlock, MidBlock
from musev_engine.models.config import ReferenceNetConfig


class ReferenceNet(nn.Module):
    """SD1.5's 2-D UNet without a way up. Evaluated once a clip; its maps go to `UNet3D` as `reference`."""

    def __init__(self, config: ReferenceNetConfig):
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0])
        attended = config.has_attention(config.down_block_types, "down_block_types")
        self.down_blocks = nn.ModuleList(
            DownBlock(config, widths[max(k - 1, 0)], width, config.heads[k], attended[k], k < len(widths) - 1)
            for k, width in enumerate(widths)
        )
        self.mid_block = MidBlock(config)

    @classmethod
    def from_config(cls, published: Mapping[str, Any]) -> Self:
        """Build from a config's values; published weights want `config.SD15`, not the file beside them.

        Raises `config.ConfigError` naming an unknown, missing or unsupported value.
        """
        return cls(ReferenceNetConfig.from_dict(published))

    def forward(self, sample: Tensor, timestep: Tensor | float, text: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps (b, c, t, h, w) of conv_in and of every layer and downsampler, and the middle's.

        sample (b, 4, t, h, w): clean latents (VAE mean times scaling) of t stills, each read alone.
        timestep: 0 for clean stills. text (b, n, d) or per still (b, t, n, d): image tokens where an image
        prompt is used, otherwise the prompt's embeddings. Raises `ValueError` for what does not fit.
        """
        if sample.ndim != 5 or sample.shape[1] != self.config.in_channels:
            raise ValueError(f"sample is {tuple(sample.shape)}, not (b, {self.config.in_channels}, t, h, w).")
        b, _, t = sample.shape[:3]
        d = self.config.cross_attention_dim
        if text.ndim not in (3, 4) or text.shape[:-2] not in ((b,), (b, t)) or text.shape[-1] != d:
            raise ValueError(f"text is {tuple(text.shape)}, not ({b}, n, {d}) or ({b}, {t}, n, {d}).")
        dtype = self.conv_in.weight.dtype

        steps = torch.as_tensor(timestep, device=sample.device).expand(b).repeat_interleave(t)
        sinusoid = get_timestep_embedding(
            steps, self.config.block_out_channels[0], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        cues = Cues(frames=t, temb=self.time_embedding(sinusoid.to(dtype)), text=text.to(dtype))

        x = self.conv_in(sample.to(dtype).transpose(1, 2).flatten(0, 1))
        maps = [x]
        for block in self.down_blocks:
            x, left = block(x, cues)
            maps += left
        mid = self.mid_block(x, cues)
        *maps, mid = (each.unflatten(0, (b, t)).transpose(1, 2) for each in (*maps, mid))
        return maps, mid
