"""The UNet's down, middle and up blocks: SD1.5's, with layers along time and fusion with a reference.

Without `motion` and `refer` they are SD1.5's alone: ReferenceNet is built of these.
"""

from collections.abc import Sequence

from diffusers.models.attention import FeedForward
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, cat, nn

from musev_engine.models.attention import (
    ConditionedSelfAttention,
    Cues,
    KeysValues,
    PromptAttention,
    ReferenceFusion,
)
from musev_engine.models.config import NetworkConfig, UNetConfig
from musev_engine.models.temporal import TemporalConv, TemporalTransformer


class SpatialBlock(nn.Module):
    """Self-attention, attention to the prompts, gated feed-forward, over (b*t, h*w, c).

    norm1 and norm3 have eps 0, norm2 1e-5: the published weights were trained with that.
    """

    def __init__(self, config: NetworkConfig, channels: int, heads: int):
        super().__init__()
        image = isinstance(config, UNetConfig) and config.ip_adapter_cross_attn
        face = isinstance(config, UNetConfig) and config.need_t2i_ip_adapter_face
        self.norm1 = nn.LayerNorm(channels, eps=0.0)
        self.attn1 = ConditionedSelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-5)
        self.attn2 = PromptAttention(channels, heads, config.cross_attention_dim, image, face)
        self.norm3 = nn.LayerNorm(channels, eps=0.0)
        self.ff = FeedForward(channels, activation_fn="geglu")

    def forward(self, x: Tensor, cues: Cues) -> Tensor:
        x = x + self.attn1(self.norm1(x), cues)
        x = x + self.attn2(self.norm2(x), cues)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """One `SpatialBlock` between 1x1 convolutions, added to its input (b*t, c, h, w)."""

    def __init__(self, config: NetworkConfig, channels: int, heads: int):
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_num_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(config, channels, heads)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, cues: Cues) -> Tensor:
        found = self.proj_in(self.norm(x))
        tokens = found.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, cues)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(found.shape))


class Block(nn.Module):
    """Layers of resnet, temporal convolution, spatial transformer and temporal transformer.

    channels_in holds one number for each resnet; `attentions` says how many layers have transformers.
    """

    def __init__(
        self, config: NetworkConfig, channels_in: Sequence[int], channels: int, heads: int, attentions: int
    ):
        super().__init__()
        motion = isinstance(config, UNetConfig)
        temb_channels = 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock2D(
                in_channels=each,
                out_channels=channels,
                temb_channels=temb_channels,
                groups=config.norm_num_groups,
                eps=config.norm_eps,
                skip_time_act=motion and config.resnet_2d_skip_time_act,
            )
            for each in channels_in
        )
        self.attentions = nn.ModuleList(
            SpatialTransformer(config, channels, heads) for _ in range(attentions)
        )
        self.temp_convs = nn.ModuleList(TemporalConv(channels) for _ in channels_in if motion)
        self.temp_attentions = nn.ModuleList(
            TemporalTransformer(channels, heads, config.norm_num_groups, temb_channels)
            for _ in range(attentions)
            if motion
        )

    def layer(self, i: int, x: Tensor, cues: Cues) -> Tensor:
        along_time = cues.femb is not None
        x = self.resnets[i](x, cues.temb)
        if along_time:
            x = self.temp_convs[i](x, cues.frames)
        if i < len(self.attentions):
            x = self.attentions[i](x, cues)
            if along_time:
                x = self.temp_attentions[i](x, cues.femb)
        return x


class DownBlock(Block):
    """Layers, each followed by fusion with the reference; then, but for the last block, half the size."""

    def __init__(
        self,
        config: NetworkConfig,
        channels_in: int,
        channels: int,
        heads: int,
        attention: bool,
        downsample: bool,
    ):
        layers = config.layers_per_block
        super().__init__(
            config, [channels_in] + [channels] * (layers - 1), channels, heads, layers if attention else 0
        )
        sizes = [Downsample2D(channels, use_conv=True, name="op")] if downsample else []
        self.downsamplers = nn.ModuleList(sizes)
        refer = isinstance(config, UNetConfig) and config.need_refer_emb
        self.refer_emb_attns = nn.ModuleList(
            ReferenceFusion(channels, heads) for _ in range(self.outputs) if refer
        )

    @property
    def outputs(self) -> int:
        """How many maps this block leaves for the way up."""
        return len(self.resnets) + len(self.downsamplers)

    def forward(
        self, x: Tensor, cues: Cues, reference: Sequence[KeysValues] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i in range(self.outputs):
            x = self.layer(i, x, cues) if i < len(self.resnets) else self.downsamplers[0](x)
            if reference:
                x = self.refer_emb_attns[i](x, reference[i])
            skips.append(x)
        return x, skips


class MidBlock(Block):
    """Two layers, transformers in the first alone."""

    def __init__(self, config: NetworkConfig):
        channels = config.block_out_channels[-1]
        super().__init__(config, [channels] * 2, channels, config.heads[-1], 1)

    def forward(self, x: Tensor, cues: Cues) -> Tensor:
        return self.layer(1, self.layer(0, x, cues), cues)


class UpBlock(Block):
    """One layer more than on the way down, each fed a skip; then, but in the last, the next skip's size."""

    def __init__(
        self,
        config: NetworkConfig,
        channels_in: int,
        skip_channels: Sequence[int],
        channels: int,
        heads: int,
        attention: bool,
        upsample: bool,
    ):
        came_in = [channels_in] + [channels] * (len(skip_channels) - 1)
        both = [below + skip for below, skip in zip(came_in, skip_channels, strict=True)]
        super().__init__(config, both, channels, heads, len(both) if attention else 0)
        self.upsamplers = nn.ModuleList([Upsample2D(channels, use_conv=True)] if upsample else [])

    def forward(self, x: Tensor, cues: Cues, skips: list[Tensor]) -> Tensor:
        """Takes its skips off the end of `skips`."""
        for i in range(len(self.resnets)):
            x = self.layer(i, cat([x, skips.pop()], dim=1), cues)
        for upsampler in self.upsamplers:
            x = upsampler(x, skips[-1].shape[-2:])
        return x
