"""Stable Diffusion's original key names (CompVis' "LDM"), written from the arithmetic of its blocks."""

import re
from collections.abc import Iterable

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
OUTER = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(key: str, keys: Iterable[str]) -> str:
    """A diffusers UNet's (or ControlNet's) key as LDM has it; `keys`: all of that network's."""
    each = len({m[1] for k in keys if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)", k))}) + 1
    for outer, name in OUTER.items():
        if key.startswith(f"{outer}."):
            return name + key[len(outer) :]
    where, rest = re.match(r"((?:down|up)_blocks\.\d+|mid_block)\.(.*)", key).groups()
    kind, i, rest = re.match(r"(\w+)\.(\d+)\.(.*)", rest).groups()
    if kind == "resnets":
        layer, _, end = rest.rpartition(".")
        rest = f"{RESNET[layer]}.{end}"
    if where == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(i)}.{rest}"
    direction, _, level = where.partition("_blocks.")
    first = int(level) * each
    if direction == "down":
        if kind == "downsamplers":
            return f"input_blocks.{first + each}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{1 + first + int(i)}.{0 if kind == 'resnets' else 1}.{rest}"
    if kind == "upsamplers":
        attended = any(k.startswith(f"{where}.attentions.") for k in keys)
        return f"output_blocks.{first + each - 1}.{2 if attended else 1}.{rest}"
    return f"output_blocks.{first + int(i)}.{0 if kind == 'resnets' else 1}.{rest}"


def vae_name(key: str, levels: int) -> str:
    """A diffusers VAE's key as LDM has it."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        for new, old in VAE_ATTENTION.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return key.replace("mid_block.attentions.0", "mid.attn_1")
    key = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", key)
    key = key.replace("down_blocks.", "down.").replace("resnets.", "block.")
    return key.replace("downsamplers.0.", "downsample.").replace("upsamplers.0.", "upsample.")
