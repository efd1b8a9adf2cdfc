"""How large a network in a single file is: configs read off the weights' shapes.

What shapes don't tell (heads, activations, groups of normalisation) is Stable Diffusion 1.5's.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import CLIPTextConfig

from musev_engine.checkpoints import Weights, bad_model


@contextmanager
def sized_by(path: Path) -> Iterator[None]:
    """A network can be sized only by a file that has the keys and shapes to tell."""
    try:
        yield
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise bad_model(
            f"{path} doesn't say how large its network is",
            f"{type(error).__name__}: {error}",
            "Download it again.",
        ) from error


def _widths(weights: Weights, prefix: str) -> list[int]:
    """Channels of each level."""
    widths = []
    while (first := weights.get(f"{prefix}down_blocks.{len(widths)}.resnets.0.conv1.weight")) is not None:
        widths.append(first.shape[0])
    return widths


def _count(weights: Weights, start: str) -> int:
    """How many numbers follow `start` in the keys."""
    return len({key[len(start) :].split(".")[0] for key in weights if key.startswith(start)})


def vae_config(weights: Weights) -> dict:
    widths = _widths(weights, "encoder.")
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": _count(weights, "encoder.down_blocks.0.resnets."),
        "latent_channels": weights["post_quant_conv.weight"].shape[0]
        if "post_quant_conv.weight" in weights
        else 4,
        "norm_num_groups": math.gcd(32, *widths),
    }


def controlnet_config(weights: Weights) -> dict:
    widths = _widths(weights, "")
    attended = [
        any(key.startswith(f"down_blocks.{k}.attentions.") for key in weights) for k in range(len(widths))
    ]
    context = next((w.shape[1] for key, w in weights.items() if key.endswith("attn2.to_k.weight")), 768)
    hint = "controlnet_cond_embedding."
    steps = [f"{hint}blocks.{k}.weight" for k in range(1, _count(weights, f"{hint}blocks."), 2)]
    return {
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attended],
        "layers_per_block": _count(weights, "down_blocks.0.resnets."),
        "cross_attention_dim": context,
        "attention_head_dim": 8,
        "norm_num_groups": math.gcd(32, *widths),
        "conditioning_embedding_out_channels": [
            weights[key].shape[0] for key in (f"{hint}conv_in.weight", *steps) if key in weights
        ],
    }


def text_config(weights: Weights) -> CLIPTextConfig:
    """CLIP's text models have heads of 64 channels; SD1.5's is OpenAI's ViT-L/14, with its own activation."""
    words, width = weights["embeddings.token_embedding.weight"].shape
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count(weights, "encoder.layers."),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=weights["embeddings.position_embedding.weight"].shape[0],
        hidden_act="quick_gelu",
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
