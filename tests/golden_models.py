"""The golden weights as networks."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import diffusers
import torch
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from musev_engine.loading import Models
from musev_engine.models.projections import ImageProjModel
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D
from tests.golden_data import Case, load_tensors, read_json, unet_files

Network = TypeVar("Network", bound=nn.Module)


def golden_models(case: Case) -> Models:
    """The parts that a case of a whole loop names; its ControlNets are called as their files."""
    root, has = case.root, case.info.get("components") or {}
    keys = case.info.get("unet_keys", "weights/musev.unet.keys.json")
    config, state = unet_files(
        root / keys, root / case.info.get("unet_weights", "weights/unet_union.safetensors")
    )
    text_encoder, tokenizer = text_encoder_and_tokenizer(root)
    parts = {}
    if has.get("refer"):
        parts["referencenet"] = network(root, "referencenet", ReferenceNet.from_config)
    if has.get("ip"):
        parts["image_encoder"] = network(root, "image_encoder", _vision)
        weights = load_tensors(root / "weights/ip_adapter_image_proj.safetensors")
        weights = {key.removeprefix("image_proj."): value for key, value in weights.items()}
        parts["image_proj"] = ImageProjModel.from_state_dict(weights).eval()
    faces = [value for name, value in case.tensors.items() if name.endswith(".ip_adapter_face_emb")]
    if faces:
        parts["face_proj"] = StoredFace(faces[0])
    if has.get("controlnet"):
        parts["controlnets"] = {
            path.stem: network(root, path.stem, diffusers.ControlNetModel.from_config, "controlnet")
            for path in sorted(root.glob("weights/controlnet*.safetensors"))
        }
    scheduler = case.info.get("scheduler_config") or read_json(
        root / "weights/scheduler/scheduler_config.json"
    )
    return Models(
        name=case.name,
        unet=_built(UNet3D.from_config, config, state),
        vae=network(root, "vae", diffusers.AutoencoderKL.from_config),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config=scheduler
        | {"_class_name": case.info.get("scheduler_class", "EulerDiscreteScheduler")},
        **parts,
    )


class StoredFace(nn.Module):
    """In place of a face projection: what the original's made of an embedding that isn't stored."""

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.norm, self.tokens = nn.LayerNorm(tokens.shape[-1]), tokens

    def forward(self, embeds: Tensor) -> Tensor:
        return self.tokens[-1:] if embeds.any() else self.tokens[:1]


def text_encoder_and_tokenizer(root: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    state = load_tensors(root / "weights/text_encoder.safetensors")
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    model = CLIPTextModel(CLIPTextConfig(**read_json(root / "weights/text_encoder.config.json")))
    model.load_state_dict(state)
    return model.eval().requires_grad_(False), CLIPTokenizer.from_pretrained(root / "weights/tokenizer")


def network(root: Path, weights: str, build, config: str | None = None) -> nn.Module:
    state = load_tensors(root / f"weights/{weights}.safetensors")
    own = (root / f"weights/{weights}.config.json").exists()
    config = weights if own or config is None else config
    return _built(build, read_json(root / f"weights/{config}.config.json"), state)


def seeds_of(case: Case) -> list[int]:
    """Of the generator that a case was made with, or of one for each clip of its batch."""
    return [int(seed) for seed in re.findall(r"manual_seed\((\d+)\)", case.info["generator"])]


def _vision(config: dict) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


def _built(build: Callable[[dict], Network], config: dict, state: dict[str, Tensor]) -> Network:
    """Without drawing weights that are replaced at once; CLIP's networks have more than weights."""
    with nullcontext() if build is _vision else torch.device("meta"):
        made = build(config)
    made.load_state_dict(state, assign=build is not _vision)
    return made.eval().requires_grad_(False)


def pixels(pictures: Tensor):
    """(b, 3, t, h, w), 0..255 -> uint8 (b, t, h, w, 3)."""
    return pictures.permute(0, 2, 3, 4, 1).to(torch.uint8).numpy()
