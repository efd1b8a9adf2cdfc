"""A model with every part that a clip may use, a few thousand random weights each, as files."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from musev_engine.models.config import SD15, unet_config
from musev_engine.models.projections import ImageProjModel
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D
from musev_engine.training.words import write_tokenizer

TEXT, IMAGE = 16, 24
SIZES = {
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": TEXT,
    "norm_num_groups": 8,
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def write_tiny_model(folder: Path, seed: int = 0) -> None:
    """Write the model in the hub's layout, half precision, the same for the same seed."""
    torch.manual_seed(seed)
    words = write_tokenizer(folder / "tokenizer")
    unet = unet_config("musev_referencenet_pose", **SIZES)
    reference = SD15 | {key: SIZES[key] for key in SD15 if key in SIZES}
    control = {
        "block_out_channels": [32, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": TEXT,
        "norm_num_groups": 8,
        "conditioning_embedding_out_channels": [8, 8, 8, 8],
    }
    vae = {
        "block_out_channels": [8, 8, 8, 8],
        "norm_num_groups": 4,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **small, vocab_size=words, bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=words - 1
    )
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=8, projection_dim=IMAGE)
    for name, network, config in (
        ("unet", UNet3D.from_config(unet), unet),
        ("referencenet", ReferenceNet.from_config(reference), reference),
        ("controlnet", ControlNetModel.from_config(control), control),
        ("vae", AutoencoderKL.from_config(vae), vae),
        ("text_encoder", CLIPTextModel(text), text.to_dict()),
        ("image_encoder", CLIPVisionModelWithProjection(vision), vision.to_dict()),
    ):
        file = "model" if name.endswith("_encoder") else "diffusion_pytorch_model"
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file(_lively(network), folder / name / f"{file}.safetensors")
    proj = _lively(ImageProjModel(IMAGE, TEXT, 4))
    save_file(
        {f"image_proj.{key}": value for key, value in proj.items()},
        folder / "ip_adapter_image_proj.safetensors",
    )
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\nRandom weights, for tests.\n")


def _lively(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Half-precision weights in which no layer is left at zero, so that every part has a say."""
    return {
        key: torch.randn(value.shape).mul(0.7 * max(1, value[0].numel()) ** -0.5).half()
        if value.is_floating_point() and not value.any()
        else value.half()
        if value.is_floating_point()
        else value
        for key, value in network.state_dict().items()
        if not key.endswith("position_ids")
    }
