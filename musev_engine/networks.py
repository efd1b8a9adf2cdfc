"""One network from its files: built without memory, then filled tensor by tensor, straight to its device and dtype.

Each loader takes a folder with a `config.json`, as diffusers and transformers write it, or a single file, whose
sizes are then read off the weights' shapes; the rest of its config is Stable Diffusion 1.5's. `place`: device and
dtype. Every key must be there and no other: what doesn't fit is told by name, with what the file seems to be.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, ControlNetModel
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModelWithProjection, PreTrainedModel

from musev_engine.checkpoints import (
    SD1,
    Stored,
    Weights,
    bad_model,
    check_base,
    modern_vae,
    networks_in,
    open_folder,
    open_weights,
    read,
    read_json,
    seems,
    under,
)
from musev_engine.models.attention import PromptAttention
from musev_engine.models.pose_guider import PoseGuider
from musev_engine.models.projections import PROJECTIONS, FaceProjModel, ImageProjection
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D
from musev_engine.sizes import controlnet_config, sized_by, text_config, vae_config

Network = TypeVar("Network", bound=nn.Module)

# Parts of the keys that MuseV's UNet has beyond Stable Diffusion's.
MOTION_KEYS = (
    "temp_convs.",
    "temp_attentions.",
    "transformer_in.",
    "frame_embedding.",
    "refer_emb_attns",
    "_ip.",
)


def load_unet(
    folder: Path,
    config: dict,
    *,
    base: Path | None = None,
    ip_adapter: Path | None = None,
    face_id: Path | None = None,
    **place,
) -> UNet3D:
    """The motion UNet at `folder`, with the weights of an SD1.5 model (`base`: a folder or a single file) and the keys
    and values of IP-Adapters in place of its own. `config` says what layers it has.

    Only what ends up in the network is read. Of a FaceID file the LoRA is left out, as in MuseV.
    """
    network = _build(UNet3D, config, folder)
    weights = open_folder(folder)
    if base is not None:
        weights |= _base_weights(base, network)
    if ip_adapter is not None:
        weights |= _adapter_layers(ip_adapter, network, "to_{}_ip")
    if face_id is not None:
        weights |= _adapter_layers(face_id, network, "ip_adapter_face_to_{}_ip")
    return _fill(network, weights, folder, **place)


def load_referencenet(folder: Path, config: dict | None = None, **place) -> ReferenceNet:
    """`config`: in place of the folder's own."""
    network = _build(ReferenceNet, config or read_json(folder / "config.json"), folder)
    return _fill(network, open_folder(folder), folder, **place)


def load_vae(path: Path, **place) -> AutoencoderKL:
    """Under today's or former names, diffusers' or CompVis'."""
    if path.is_dir():
        weights, config = modern_vae(open_folder(path)), read_json(path / "config.json")
    else:
        weights = _part_of(path, "vae")
        with sized_by(path):
            config = vae_config(weights)
    return _fill(_build(AutoencoderKL, config, path), weights, path, **place)


def load_controlnet(path: Path, **place) -> ControlNetModel:
    """Under diffusers' names or the original's (`control_model.…`)."""
    if path.is_dir():
        weights, config = open_folder(path), read_json(path / "config.json")
    else:
        weights = _part_of(path, "controlnet")
        with sized_by(path):
            config = controlnet_config(weights)
    return _fill(_build(ControlNetModel, config, path), weights, path, **place)


def load_pose_guider(path: Path, **place) -> PoseGuider:
    """A folder or, as published, one file."""
    weights = open_folder(path) if path.is_dir() else open_weights(path)
    if "conv_in.weight" not in weights or "blocks.0.weight" not in weights:
        name = seems(weights)
        raise bad_model(
            f"{path} isn't a PoseGuider",
            f"it seems to be {name}" if name else ", ".join(sorted(weights)[:5]),
            "Take Moore-AnimateAnyone's pose_guider.pth.",
        )
    with sized_by(path), torch.device("meta"):
        network = PoseGuider.of_sizes({key: stored.shape for key, stored in weights.items()})
    return _fill(network, weights, path, **place)


def load_text_encoder(path: Path, **place) -> CLIPTextModel:
    if path.is_dir():
        return _load_transformer(CLIPTextModel, path, **place)
    weights = _part_of(path, "text_encoder")
    with sized_by(path), torch.device("meta"):
        network = CLIPTextModel(text_config(weights))
    return _fill(network, weights, path, **place)


def load_image_encoder(folder: Path, **place) -> CLIPVisionModelWithProjection:
    return _load_transformer(CLIPVisionModelWithProjection, folder, **place)


def load_image_proj(path: Path, image_encoder: CLIPVisionModelWithProjection, **place) -> ImageProjection:
    """The trained `ip_adapter_image_proj`, or the projection in an original IP-Adapter's file; it must take what the
    encoder gives."""
    projection = _load_projection(path, **place)
    if isinstance(projection, FaceProjModel):
        raise bad_model(f"{path} reads faces, not images", "a FaceID adapter", "Give it as face_id.")
    vision = image_encoder.config
    given = {"image_embeds": vision.projection_dim, "hidden_states": vision.hidden_size}[projection.reads]
    if given != projection.embedding_dim:
        raise bad_model(
            f"{path} reads {projection.embedding_dim} numbers of a vision encoder that gives",
            given,
            "Take the vision encoder that the IP-Adapter was trained with (CLIP ViT-H for SD1.5).",
        )
    return projection


def load_face_proj(path: Path, **place) -> FaceProjModel:
    """The projection in an IP-Adapter FaceID's file."""
    projection = _load_projection(path, **place)
    if not isinstance(projection, FaceProjModel):
        raise bad_model(
            f"{path} reads images, not faces", "an IP-Adapter without FaceID", "Give it as ip_adapter."
        )
    return projection


def cross_attentions(unet: nn.Module) -> dict[int, str]:
    """IP-Adapter's numbers of the UNet's cross-attention layers: 1, 3, 5, … down, then up, the middle last."""
    names = [name for name, module in unet.named_modules() if isinstance(module, PromptAttention)]
    names.sort(key=lambda name: name.startswith("mid_block"))
    names.sort(key=lambda name: ("down_blocks", "up_blocks", "mid_block").index(name.split(".")[0]))
    return {2 * k + 1: name for k, name in enumerate(names)}


# ---- where weights come from ----------------------------------------------------------------------------


def _base_weights(path: Path, network: UNet3D) -> Weights:
    """An SD1.5 UNet, all of it: what lacks would silently stay the motion model's."""
    weights = open_folder(path) if path.is_dir() else _part_of(path, "unet")
    check_base(weights, path)
    spatial = {
        key: value
        for key, value in network.state_dict().items()
        if not any(part in key for part in MOTION_KEYS)
    }
    _check_keys(path, spatial, weights)
    return weights


def _adapter_layers(path: Path, network: UNet3D, names: str) -> Weights:
    """An IP-Adapter's keys and values under the UNet's names; `names` has a {} for "k" or "v"."""
    numbered = under("ip_adapter.", open_weights(path))
    layers = cross_attentions(network)
    wanted = {
        f"{number}.to_{kind}_ip.weight": f"{layer}.{names.format(kind)}.weight"
        for number, layer in layers.items()
        for kind in "kv"
    }
    weights = {key: stored for key, stored in numbered.items() if key.endswith("_ip.weight")}
    state = network.state_dict()
    _check_keys(path, {key: state[name] for key, name in wanted.items()}, weights)
    return {wanted[key]: stored for key, stored in weights.items()}


def _part_of(path: Path, part: str) -> Weights:
    weights = open_weights(path)
    parts = networks_in(weights, path)
    if part not in parts:
        name = seems(weights)
        raise bad_model(
            f"{path} holds no {part.replace('_', ' ')}",
            f"it seems to be {name}" if name else f"it holds {', '.join(parts) or 'nothing known'}",
            "Take another file, or this part from another model.",
        )
    return parts[part]


def _load_projection(path: Path, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    weights = open_weights(path)
    weights = under("image_proj.", weights) or weights
    kind = next((kind for kind in PROJECTIONS if kind.SIGN in weights), None)
    if kind is None:
        raise bad_model(
            f"{path} isn't an image projection",
            ", ".join(sorted(weights)[:5]),
            "Take ip_adapter_image_proj, ip-adapter_sd15, ip-adapter-plus(-face)_sd15 or ip-adapter-faceid_sd15.",
        )
    with sized_by(path), torch.device("meta"):
        network = kind.of_sizes({key: stored.shape for key, stored in weights.items()})
    return _fill(network, weights, path, device, dtype)


def _load_transformer(cls: type[PreTrainedModel], folder: Path, **place) -> PreTrainedModel:
    config = read_json(folder / "config.json")
    with sized_by(folder / "config.json"), torch.device("meta"):
        network = cls(cls.config_class.from_dict(config))
    return _fill(network, open_folder(folder), folder, **place)


# ---- building and filling -------------------------------------------------------------------------------


def _build(cls: type[Network], config: dict, path: Path) -> Network:
    """The network without memory for its weights."""
    try:
        with torch.device("meta"):
            return cls.from_config(config)
    except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise bad_model(
            f"{path / 'config.json' if path.is_dir() else path} can't be built",
            error,
            "Take the config.json that came with the weights.",
        ) from error


def _fill(
    network: Network, weights: Weights, path: Path, device: torch.device | str, dtype: torch.dtype
) -> Network:
    """Put weights into a network built without memory, one copy of each."""
    wanted = network.state_dict()
    weights = _under_its_names(weights, wanted)
    _check_keys(path, wanted, weights)
    state = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)
        for name, tensor in read(weights)
    }
    network.load_state_dict(state, assign=True)
    for module in network.modules():  # CLIP's one buffer that files needn't hold
        if "position_ids" in module._buffers:
            module.position_ids = torch.arange(module.position_embedding.num_embeddings, device=device)[None]
    return network.eval().requires_grad_(False)


def _under_its_names(weights: Weights, wanted: Mapping[str, torch.Tensor]) -> Weights:
    """CLIP's text model with or without `text_model.` before its keys, as its files and versions differ."""
    prefix = "text_model."
    if any(key.startswith(prefix) for key in wanted):
        renamed = {key if key.startswith(prefix) else prefix + key: stored for key, stored in weights.items()}
    else:
        renamed = {key.removeprefix(prefix): stored for key, stored in weights.items()}
    return {key: stored for key, stored in renamed.items() if not key.endswith("position_ids")}


def _check_keys(path: Path, wanted: Mapping[str, torch.Tensor], weights: Mapping[str, Stored]) -> None:
    missing = [key for key in wanted if key not in weights]
    extra = [key for key in weights if key not in wanted]
    misshaped = [
        f"{key} {tuple(stored.shape)} for {tuple(wanted[key].shape)}"
        for key, stored in weights.items()
        if key in wanted and tuple(wanted[key].shape) != stored.shape
    ]
    found = [
        f"{len(keys)} {what}: {', '.join(sorted(keys)[:5])}{', …' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("not known", extra), ("of another shape", misshaped))
        if keys
    ]
    if not found:
        return
    name = seems(weights)
    if name and name != SD1:
        found.append(f"it seems to be {name}")
    raise bad_model(
        f"The weights in {path} don't fit",
        "; ".join(found),
        "Take config.json and weights of the same model and version, or download them again.",
    )
