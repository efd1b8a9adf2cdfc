"""MuseV's denoiser: Stable Diffusion 1.5's UNet with layers along time, in its three published variants.

It sees whole sequences in which clean condition frames stand among the noisy ones. It knows nothing of
windows, guidance or schedulers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor, nn

from musev_engine.models.attention import Cues, KeysValues, ReferenceFusion, SelfTokens
from musev_engine.models.blocks import DownBlock, MidBlock, UpBlock
from musev_engine.models.config import TEMPORAL_GROUPS, UNetConfig
from musev_engine.models.temporal import TemporalTransformer


@dataclass(frozen=True)
class ReferenceTokens:
    """Keys and values of a reference at every fusion layer, as `UNet3D.prepare_reference` makes them.

    They depend on the reference alone: one set serves every window, step and frame of a clip.
    """

    first: KeysValues
    down: tuple[tuple[KeysValues, ...], ...]
    mid: KeysValues

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """With each tensor changed."""
        return type(self)(
            first=tuple(map(change, self.first)),
            down=tuple(tuple(tuple(map(change, kv)) for kv in block) for block in self.down),
            mid=tuple(map(change, self.mid)),
        )


class UNet3D(nn.Module):
    """The 3-D UNet of `musev`, `musev_referencenet` and `musev_referencenet_pose`, with or without FaceID."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, heads = config.block_out_channels, config.heads
        base = widths[0]
        levels, layers = len(widths), config.layers_per_block

        self.conv_in = nn.Conv2d(config.in_channels, base, 3, padding=1)
        self.time_embedding = TimestepEmbedding(base, 4 * base)
        self.frame_embedding = TimestepEmbedding(base, 4 * base)
        if config.need_transformer_in:
            self.transformer_in = TemporalTransformer(base, heads[0], TEMPORAL_GROUPS, 4 * base)
        if config.need_refer_emb:
            self.first_refer_emb_attns = ReferenceFusion(base, heads[0])
            self.mid_block_refer_emb_attns = ReferenceFusion(widths[-1], heads[-1])

        self.down_blocks = nn.ModuleList()
        skip_channels = [base]
        for k, attention in enumerate(config.has_attention(config.down_block_types, "down_block_types")):
            last = k == levels - 1
            block = DownBlock(config, widths[max(k - 1, 0)], widths[k], heads[k], attention, not last)
            self.down_blocks.append(block)
            skip_channels += [widths[k]] * block.outputs

        self.mid_block = MidBlock(config)

        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for k, attention in enumerate(config.has_attention(config.up_block_types, "up_block_types")):
            level = levels - 1 - k
            skips = [skip_channels.pop() for _ in range(layers + 1)]
            self.up_blocks.append(
                UpBlock(config, below, skips, widths[level], heads[level], attention, level > 0)
            )
            below = widths[level]

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, base, eps=config.norm_eps)
        self.conv_out = nn.Conv2d(base, config.out_channels, 3, padding=1)

    @classmethod
    def from_config(cls, published: Mapping[str, Any]) -> Self:
        """Build from the values of a published `config.json` (or `config.unet_config`).

        Weights start random, the temporal and reference layers as the identity.
        Raises `config.ConfigError` naming an unknown, missing or unsupported value.
        """
        return cls(UNetConfig.from_dict(published))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        text: Tensor,
        *,
        condition_index: Sequence[int] | Tensor | None = None,
        frame_index: Tensor | None = None,
        motion_speed: float = 1.0,
        image_tokens: Tensor | None = None,
        image_scale: float = 1.0,
        face_tokens: Tensor | None = None,
        face_scale: float = 1.0,
        reference: ReferenceTokens | tuple[Sequence[Tensor], Tensor] | None = None,
        control_residuals: tuple[Sequence[Tensor], Tensor] | None = None,
        pose_embedding: Tensor | None = None,
        self_reference: Mapping[nn.Module, KeysValues] | None = None,
        skip_temporal: bool = False,
        written: SelfTokens | None = None,
    ) -> Tensor:
        """Predict the noise (or what the weights were trained to predict): (b, 4, t, h, w), as `sample`.

        sample (b, 4, t, h, w): latents of the whole sequence, condition frames among them.
        timestep: 0..999, a number, () or (b,).
        text (b, n, d), or per frame (b, t, n, d).
        condition_index: positions along t of the clean condition frames, which every frame sees.
        frame_index (b, t) or (t,): 0, 1, 2, ... when None. The `*_referencenet*` variants multiply it
            by `motion_speed` and truncate to whole numbers; `musev` ignores the speed.
        image_tokens, face_tokens (b, n, d) or (b, t, n, d): of `projections`; left out at scale 0.
        reference: ReferenceNet's ([(b, c, t2, h, w)], mid map), or what `prepare_reference` made of it.
        control_residuals: a ControlNet's ([(b*t, c, h, w)] for every skip, mid), batch-major.
        pose_embedding (b*t, c0, h, w): added after conv_in (PoseGuider).
        self_reference: what `read_pictures` made of pictures that every frame shall look at.
        skip_temporal: leave out every layer along time: the image model, for single frames.
        written: takes every self-attention's keys and values, see `read_pictures`.

        Runs in the dtype of its weights, whatever the inputs'. Raises `ValueError` for what does not fit.
        """
        if sample.ndim != 5 or sample.shape[1] != self.config.in_channels:
            raise ValueError(f"sample is {tuple(sample.shape)}, not (b, {self.config.in_channels}, t, h, w).")
        b, _, t = sample.shape[:3]
        dtype = self.conv_in.weight.dtype

        condition = self._condition_index(condition_index, t, sample.device)
        femb = None
        if not skip_temporal:
            femb = self._frame_embedding(frame_index, motion_speed, b, t, sample.device)
        cues = Cues(
            frames=t,
            temb=self._time_embedding(timestep, condition, b, t, sample.device),
            femb=femb,
            text=self._tokens("text", text, b, t),
            image=self._tokens("image_tokens", image_tokens, b, t) if image_scale else None,
            image_scale=image_scale,
            face=self._tokens("face_tokens", face_tokens, b, t) if face_scale else None,
            face_scale=face_scale,
            condition_index=condition,
            seen=self_reference,
            written=written,
        )
        if reference is not None and not isinstance(reference, ReferenceTokens):
            reference = self.prepare_reference(*reference)

        x = self.conv_in(sample.to(dtype).transpose(1, 2).flatten(0, 1))
        if pose_embedding is not None:
            x = x + pose_embedding.to(dtype)
        if self.config.need_transformer_in and femb is not None:
            x = self.transformer_in(x, femb)
        if reference is not None:
            x = self.first_refer_emb_attns(x, reference.first)

        skips = [x]
        for k, block in enumerate(self.down_blocks):
            x, left = block(x, cues, reference.down[k] if reference is not None else ())
            skips += left
        x = self.mid_block(x, cues)
        if reference is not None:
            x = self.mid_block_refer_emb_attns(x, reference.mid)
        if control_residuals is not None:
            skips, x = self._controlled(skips, x, *control_residuals)
        for block in self.up_blocks:
            x = block(x, cues, skips)

        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x.unflatten(0, (b, t)).transpose(1, 2)

    def prepare_reference(self, down: Sequence[Tensor], mid: Tensor) -> ReferenceTokens:
        """Project ReferenceNet's maps (b, c, t2, h, w) once, for all windows and steps of a clip.

        Which maps the last block takes: see `config.UNetConfig.last_block_own_reference`.
        Raises `ValueError` if this network has no reference fusion, or needs another number of maps.
        """
        if not self.config.need_refer_emb:
            raise ValueError("This UNet has no reference fusion (need_refer_emb is False).")
        expected = 1 + sum(block.outputs for block in self.down_blocks)
        if len(down) != expected:
            raise ValueError(f"{len(down)} reference maps were given; this UNet takes {expected}.")
        dtype = self.conv_in.weight.dtype
        down = [each.to(dtype) for each in down]
        return ReferenceTokens(
            first=self.first_refer_emb_attns.tokens(down[0]),
            down=tuple(
                tuple(fusion.tokens(down[i]) for fusion, i in zip(block.refer_emb_attns, maps, strict=True))
                for block, maps in zip(self.down_blocks, self.config.reference_maps(), strict=True)
            ),
            mid=self.mid_block_refer_emb_attns.tokens(mid.to(dtype)),
        )

    def read_pictures(self, pictures: Tensor, text: Tensor) -> SelfTokens:
        """What this network's own self-attention sees in pictures, as `self_reference` for other sequences, for all
        windows and steps of a clip: a reference without a ReferenceNet ("reference-only", Mikubill/sd-webui-controlnet,
        discussion 1236; the reading as ReferenceNet's).

        pictures (b, 4, n, h, w): clean latents, each read alone, at timestep 0, by the image model. text (b, n, d).
        """
        written: SelfTokens = {}
        self(pictures, 0, text, skip_temporal=True, written=written)
        return written

    def _time_embedding(self, timestep: Any, condition: Tensor | None, b: int, t: int, device: Any) -> Tensor:
        """(b*t, 4*c0); condition frames, which carry no noise, get zeros where the variant says so."""
        timestep = torch.as_tensor(timestep, device=device).expand(b)
        temb = self.time_embedding(self._sinusoid(timestep))
        if self.config.use_anivv1_cfg:
            temb = F.silu(temb)
        temb = temb[:, None].expand(b, t, -1)
        keeps = self.config.keep_vision_condtion and self.config.need_zero_vis_cond_temb
        if keeps and condition is not None and t > 1:
            temb = temb.index_fill(1, condition, 0.0)
        return temb.flatten(0, 1)

    def _frame_embedding(
        self, index: Tensor | None, motion_speed: float, b: int, t: int, device: Any
    ) -> Tensor:
        """(b, t, 4*c0)."""
        index = torch.arange(t, device=device) if index is None else torch.as_tensor(index, device=device)
        if index.shape not in ((t,), (b, t)):
            raise ValueError(f"frame_index is {tuple(index.shape)}; it must be ({t},) or ({b}, {t}).")
        if self.config.use_anivv1_cfg:
            index = (index * motion_speed).long()
        femb = self.frame_embedding(self._sinusoid(index.expand(b, t).flatten())).unflatten(0, (b, t))
        return F.silu(femb) if self.config.use_anivv1_cfg else femb

    def _sinusoid(self, position: Tensor) -> Tensor:
        embedding = get_timestep_embedding(
            position, self.config.block_out_channels[0], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return embedding.to(self.conv_in.weight.dtype)

    def _condition_index(self, index: Sequence[int] | Tensor | None, t: int, device: Any) -> Tensor | None:
        if index is None or len(index) == 0:
            return None
        if not isinstance(index, Tensor):
            if wrong := [i for i in index if not 0 <= i < t]:
                raise ValueError(f"condition_index holds {wrong[0]}; the sequence has frames 0..{t - 1}.")
            index = torch.tensor(list(index))
        return index.to(device)

    def _tokens(self, name: str, tokens: Tensor | None, b: int, t: int) -> Tensor | None:
        if tokens is None:
            return None
        flag = {"image_tokens": "ip_adapter_cross_attn", "face_tokens": "need_t2i_ip_adapter_face"}.get(name)
        if flag and not getattr(self.config, flag):
            raise ValueError(f"{name} were given, but this UNet has no weights for them ({flag} is False).")
        d = self.config.cross_attention_dim
        if tokens.ndim not in (3, 4) or tokens.shape[:-2] not in ((b,), (b, t)) or tokens.shape[-1] != d:
            raise ValueError(f"{name} is {tuple(tokens.shape)}, not ({b}, n, {d}) or ({b}, {t}, n, {d}).")
        return tokens.to(self.conv_in.weight.dtype)

    def _controlled(self, skips: list[Tensor], mid: Tensor, down: Sequence[Tensor], middle: Tensor):
        if len(down) != len(skips):
            raise ValueError(f"{len(down)} control residuals were given; this UNet has {len(skips)} skips.")
        skips = [skip + residual.to(skip.dtype) for skip, residual in zip(skips, down, strict=True)]
        return skips, mid + middle.to(mid.dtype)


def insert_condition_frames(
    latents: Tensor, condition_latents: Tensor, latents_index: Tensor, condition_index: Tensor
) -> Tensor:
    """Lay noisy latents (b, c, n, h, w) and clean ones (b, c, k, h, w) into one sequence (b, c, n + k, h, w).

    The index vectors (n,) and (k,) are positions in the sequence; together they must name each once.
    Raises `ValueError` if they do not.
    """
    index = torch.cat([torch.as_tensor(latents_index), torch.as_tensor(condition_index)])
    if sorted(index.tolist()) != list(range(latents.shape[2] + condition_latents.shape[2])):
        raise ValueError(f"Positions {index.tolist()} do not name each frame of the sequence once.")
    both = torch.cat([latents, condition_latents.to(latents)], dim=2)
    return both.index_select(2, index.argsort().to(both.device))
