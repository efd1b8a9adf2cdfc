"""What a network is built from: the values of a published `config.json`, checked one by one.

A value this engine does not know is an error with its name, never a silent difference in the pictures.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

TEMPORAL_GROUPS = 32  # temp_convs and transformer_in always use 32 groups, whatever norm_num_groups says


class ConfigError(ValueError):
    """A network config that this engine cannot build: what is wrong, the value, the remedy."""


@dataclass(frozen=True)
class NetworkConfig:
    """The values that `UNet3D` and `ReferenceNet` share, named as in the published files.

    `attention_head_dim` is the number of heads, as in SD1.5 (head width = channels / heads): one number, or
    one for each level. Block types are written with their 2D or 3D suffix: both mean the same.
    """

    in_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    down_block_types: tuple[str, ...]
    attention_head_dim: int | tuple[int, ...]
    cross_attention_dim: int
    norm_num_groups: int
    norm_eps: float

    # Values with one supported meaning (absent is fine), and values that change no number.
    _FIXED = {
        "act_fn": "silu",
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "center_input_sample": False,
        "dual_cross_attention": False,
        "class_embed_type": None,
        "only_cross_attention": False,
        "use_linear_projection": False,
        "num_class_embeds": None,
        "resnet_time_scale_shift": "default",
        "need_spatial_position_emb": False,
        "need_t2i_facein": False,
        "need_vis_cond_mask": False,
        "temporal_conv_block": "TemporalConvLayer",
        "temporal_transformer": "TransformerTemporalModel",
        "need_self_attn_block_embs": False,
        "need_block_embs": True,
    }
    _WITHOUT_EFFECT = frozenset({
        "_class_name", "_diffusers_version", "_name_or_path", "sample_size", "upcast_attention",
        "need_adain_temporal_cond",  # the original calls AdaIN and throws its result away
        "need_t2i_ip_adapter", "t2i_ip_adapter_attn_processor", "t2i_crossattn_ip_adapter_attn_processor",
        "norm_spatial_length", "spatial_max_length",
    })  # fmt: skip

    @classmethod
    def from_dict(cls, published: Mapping[str, Any]) -> Self:
        """Check a published config and keep what matters. Raises `ConfigError`, which names every culprit."""
        names = [field.name for field in fields(cls)]
        known = {*names, *cls._FIXED, *cls._WITHOUT_EFFECT}
        if unknown := sorted(set(published) - known):
            given = ", ".join(f"{key} = {published[key]!r}" for key in unknown)
            raise ConfigError(
                f"{cls.__name__} has no value named {given}. "
                "Remove it, or use an engine that knows this model."
            )
        needed = [field.name for field in fields(cls) if field.default is MISSING]
        if missing := [name for name in needed if name not in published]:
            raise ConfigError(f"{cls.__name__} lacks {', '.join(missing)}. Take the model's own config.json.")
        for key, supported in cls._FIXED.items():
            if key in published and published[key] != supported:
                raise ConfigError(
                    f"{cls.__name__}: {key} = {published[key]!r} is not supported; only {supported!r} is."
                )
        return cls(**{name: _frozen(published[name]) for name in names if name in published})

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for name in ("in_channels", "layers_per_block", "cross_attention_dim", "norm_num_groups"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                self._refuse(name, "must be a whole number, at least 1")
        if not levels or len(self.down_block_types) != levels:
            self._refuse("down_block_types", f"must name one block for each of {levels} block_out_channels")
        if isinstance(self.attention_head_dim, tuple) and len(self.attention_head_dim) != levels:
            self._refuse("attention_head_dim", f"must be one number of heads, or {levels}")
        for channels, heads in zip(self.block_out_channels, self.heads, strict=True):
            if channels % heads or channels % self.norm_num_groups:
                self._refuse(
                    "block_out_channels",
                    f"{channels} must be a multiple of {heads} heads and of {self.norm_num_groups} groups",
                )
        self.has_attention(self.down_block_types, "down_block_types")

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads of each level."""
        heads = self.attention_head_dim
        return heads if isinstance(heads, tuple) else (heads,) * len(self.block_out_channels)

    def has_attention(self, types: tuple[str, ...], name: str) -> list[bool]:
        """Which of these blocks hold spatial attention, by their type names."""
        direction = name.split("_")[0].title()
        plain = {f"{direction}Block2D", f"{direction}Block3D"}
        attended = {f"CrossAttn{block}" for block in plain}
        if unknown := set(types) - plain - attended:
            self._refuse(name, f"{sorted(unknown)[0]!r} is none of {', '.join(sorted(plain | attended))}")
        return [block in attended for block in types]

    def _refuse(self, name: str, why: str) -> None:
        raise ConfigError(f"{type(self).__name__}: {name} = {getattr(self, name)!r}: {why}.")


@dataclass(frozen=True)
class UNetConfig(NetworkConfig):
    """The 3-D UNet's config. The names, one misspelt, are the published ones.

    need_transformer_in: a temporal transformer directly after conv_in (`musev`).
    need_refer_emb: reference fusion attention in the down and mid blocks (`musev_referencenet*`).
    ip_adapter_cross_attn, need_t2i_ip_adapter_face: keys and values for image and for face tokens.
    keep_vision_condtion and need_zero_vis_cond_temb: condition frames get no time embedding.
    use_anivv1_cfg: SiLU on the time and frame embeddings, and frame indices scaled by motion speed.
    resnet_2d_skip_time_act: resnets do not apply their own SiLU to the time embedding.
    last_block_own_reference: ours, absent from published files. The last down block takes ReferenceNet's
        maps by a formula that overlooks that it has no downsampler: at SD1.5's size maps 7 and 8, block 2's,
        at twice its resolution, while its own, 10 and 11, go unused. Published weights were trained so. True
        gives it its own maps, which models of other widths need: the formula's may have other channels.
    """

    out_channels: int
    up_block_types: tuple[str, ...]
    need_transformer_in: bool
    need_refer_emb: bool
    ip_adapter_cross_attn: bool
    need_t2i_ip_adapter_face: bool
    keep_vision_condtion: bool
    need_zero_vis_cond_temb: bool
    use_anivv1_cfg: bool
    resnet_2d_skip_time_act: bool
    last_block_own_reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.up_block_types) != len(self.block_out_channels):
            self._refuse(
                "up_block_types", f"must name a block for each of {len(self.block_out_channels)} levels"
            )
        self.has_attention(self.up_block_types, "up_block_types")
        if odd := [channels for channels in self.block_out_channels if channels % TEMPORAL_GROUPS]:
            self._refuse(
                "block_out_channels",
                f"{odd[0]} is not a multiple of {TEMPORAL_GROUPS}, which the temporal convolutions need",
            )
        if self.need_refer_emb:
            self._check_reference_widths()

    def reference_maps(self) -> list[list[int]]:
        """For each down block, the indices of the ReferenceNet maps that its fusion layers take."""
        levels, layers = len(self.block_out_channels), self.layers_per_block
        blocks = [[1 + (layers + 1) * k + i for i in range(layers + 1)] for k in range(levels - 1)]
        start = 1 + (layers + 1 if self.last_block_own_reference else layers) * (levels - 1)
        return [*blocks, list(range(start, start + layers))]

    def _check_reference_widths(self) -> None:
        widths = self.block_out_channels
        for index in self.reference_maps()[-1]:
            level = (index - 1) // (self.layers_per_block + 1)
            if widths[level] != widths[-1]:
                self._refuse(
                    "last_block_own_reference",
                    f"the last block would fuse map {index}, {widths[level]} "
                    f"channels wide, with its own {widths[-1]}; set it to True",
                )


@dataclass(frozen=True)
class ReferenceNetConfig(NetworkConfig):
    """ReferenceNet's config: an SD1.5 UNet's, of which only the way down and the middle are built.

    The `config.json` of the published ReferenceNet holds class defaults that do not match its weights;
    build it from `SD15` instead.
    """

    _WITHOUT_EFFECT = NetworkConfig._WITHOUT_EFFECT | {"out_channels", "up_block_types"}


SD15: dict[str, Any] = {
    "in_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
    "attention_head_dim": 8, "cross_attention_dim": 768, "norm_num_groups": 32, "norm_eps": 1e-5,
}  # fmt: skip

_REFERENCE_FLAGS = {
    "need_transformer_in": False, "need_refer_emb": True, "ip_adapter_cross_attn": True,
    "need_t2i_ip_adapter_face": False, "keep_vision_condtion": True, "need_zero_vis_cond_temb": True,
    "use_anivv1_cfg": True, "resnet_2d_skip_time_act": True,
}  # fmt: skip
MUSEV = _REFERENCE_FLAGS | dict.fromkeys(
    ("need_refer_emb", "ip_adapter_cross_attn", "keep_vision_condtion", "use_anivv1_cfg",
     "resnet_2d_skip_time_act"), False) | {"need_transformer_in": True}  # fmt: skip
MUSEV_REFERENCENET = MUSEV_REFERENCENET_POSE = _REFERENCE_FLAGS
MUSEV_REFERENCENET_WITH_FACEID = _REFERENCE_FLAGS | {"need_t2i_ip_adapter_face": True}
VARIANTS: dict[str, dict[str, bool]] = {
    "musev": MUSEV,
    "musev_referencenet": MUSEV_REFERENCENET,
    "musev_referencenet_pose": MUSEV_REFERENCENET_POSE,
    "musev_referencenet_with_faceid": MUSEV_REFERENCENET_WITH_FACEID,
}


def unet_config(variant: str, **changes: Any) -> dict[str, Any]:
    """The config of a published motion model at SD1.5's size, with `changes` (widths, layers, ...) applied.

    Raises `ConfigError` for a variant that is none of `VARIANTS`.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"No motion model is named {variant!r}. Known: {', '.join(VARIANTS)}.")
    up = ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3
    return SD15 | {"out_channels": 4, "up_block_types": up} | VARIANTS[variant] | changes


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
