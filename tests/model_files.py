"""Small files of every kind that can be added to an engine: right keys, tiny tensors."""

import json
import struct
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from musev_engine.networks import MOTION_KEYS

MINI = Path(__file__).parent.parent / "musev_engine" / "assets" / "mini"
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def tensors(*names, **widths):
    """Zeros by name: 1 x 1, or as told."""
    return {name: torch.zeros(1, 1) for name in names} | {
        name: torch.zeros(shape) for name, shape in widths.items()
    }


def lora(width=768):
    key = "lora_unet_" + ATTENTION.replace(".", "_")
    return {
        f"{key}.lora_down.weight": torch.zeros(2, width),
        f"{key}.lora_up.weight": torch.zeros(4, 2),
        f"{key}.alpha": torch.tensor(2.0),
    }


def base(width=768):
    inside = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    return {inside: torch.zeros(4, width)} | tensors(
        "cond_stage_model.transformer.text_model.final_layer_norm.bias"
    )


def vae():
    return tensors(
        "encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight", "post_quant_conv.weight"
    )


def adapter(width=768):
    return {"ip_adapter.1.to_k_ip.weight": torch.zeros(4, width)} | tensors("image_proj.proj.weight")


def controlnet(width=768):
    return {"mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, width)} | tensors(
        "controlnet_cond_embedding.conv_in.weight"
    )


def words(width=768):
    return {"emb_params": torch.zeros(3, width)}


KINDS = {
    "t2i": base, "lora": lora, "embedding": words, "vae": vae, "ip-adapter": adapter, "controlnet": controlnet,
}  # fmt: skip


def write(path, tensors, texts=None):
    """The file, which is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path, texts)
    else:
        torch.save(tensors, path)
    return path


def safetensors_bytes(header, data=b""):
    """A file whose header says whatever one wants."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def mini_lora(path, strength=0.3, seed=0, texts=None):
    """A LoRA for the embedded model that changes what every attention to the text and to the picture itself makes."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    with safe_open(MINI / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 (the file is no dict)
            spatial = not any(part in key for part in MOTION_KEYS)
            if spatial and key.endswith(
                (".attn1.to_q.weight", ".attn2.to_k.weight", ".attn1.to_out.0.weight")
            ):
                out, width = file.get_slice(key).get_shape()
                name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
                state[f"{name}.lora_down.weight"] = torch.randn(2, width, generator=draw) * strength
                state[f"{name}.lora_up.weight"] = torch.randn(out, 2, generator=draw) * strength
    return write(path, state, texts)
