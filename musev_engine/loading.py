"""Checkpoints -> networks on a device.

Two layouts are read: a folder of its own for each part, as on the hub (`unet/`, `vae/`, …), and the published
`checkpoints` folder of MuseV. Weights come from safetensors, or from `.bin` files read as bare tensors.
"""

import hashlib
import json
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, ControlNetModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from musev_engine.errors import EngineError
from musev_engine.models.config import SD15, VARIANTS, unet_config
from musev_engine.models.projections import FaceProjModel, ImageProjModel
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D

SHIPPED = Path(__file__).parent / "assets"
POSE_CONTROLNET = "control_v11p_sd15_openpose"
Network = TypeVar("Network", bound=nn.Module)

# How attention layers of the VAE were called in files from before diffusers 0.18.
OLD_VAE_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True)
class Models:
    """All that makes clips, in eval mode on one device; what a model doesn't have is None.

    scheduler_config: `scheduler_config.json`, which also says what the UNet predicts.
    referencenet reads the still; image_encoder and image_proj make tokens of it, face_proj of a face's
    embedding. controlnets: by name, such as "control_v11p_sd15_openpose".
    folders: where each part came from. licence: the model card's `license:` line, or "".
    """

    name: str
    unet: UNet3D
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: dict
    referencenet: ReferenceNet | None = None
    image_encoder: CLIPVisionModelWithProjection | None = None
    image_proj: ImageProjModel | None = None
    face_proj: FaceProjModel | None = None
    controlnets: dict[str, ControlNetModel] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    licence: str = ""

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @cached_property
    def sha256(self) -> str:
        """One hash for all weight and config files, in the order of their paths' names."""
        whole = hashlib.sha256()
        for folder in self.folders:
            for path in [folder] if folder.is_file() else sorted(folder.glob("*.*")):
                with path.open("rb") as file:
                    whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()


def load_models(
    source: str | Path,
    *,
    motion: str = "musev_referencenet_pose",
    t2i: str | None = None,
    controlnets: Iterable[str | Path] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Models:
    """Load a model by its name ("mini": shipped with this package) or from a folder (a Path, or a text with a
    slash in it).

    In MuseV's own `checkpoints` folder, `motion` chooses among `motion/*` and `t2i` the image model among
    `t2i/**` (None: the only one). `controlnets`: names of ControlNets in the model's folder `controlnet`, or
    their folders (None: the pose ControlNet, if it is there). On the CPU everything runs in float32,
    whatever `dtype` says.
    Raises EngineError, code "bad_model", when something isn't there, doesn't fit (the keys are named) or
    can't be read.
    """
    is_path = isinstance(source, Path) or "/" in source or os.sep in source
    folder = Path(source) if is_path else _shipped(source)
    if torch.device(device).type == "cpu":
        dtype = torch.float32
    loaders = _LOADERS
    if (folder / "motion").is_dir():  # MuseV's own layout
        parts = _musev_parts(folder, motion, t2i)
        config = _motion_config(parts["unet"], motion)
        own = {
            "unet": partial(_load_motion_unet, config=config, t2i_unet=parts["t2i_unet"]),
            # the config.json beside its weights holds class defaults; it is as large as the UNet
            "referencenet": partial(_load_referencenet, config={key: config[key] for key in SD15}),
        }
        loaders = loaders | own
    else:
        parts = _hub_parts(folder)
    made = {
        part: loaders[part](path, device=device, dtype=dtype)
        for part, path in parts.items()
        if part in loaders
    }
    nets = _controlnet_folders(folder / "controlnet", controlnets)
    return Models(
        name=folder.name,
        tokenizer=CLIPTokenizer.from_pretrained(parts["tokenizer"], local_files_only=True),
        scheduler_config=_read_json(parts["scheduler"] / "scheduler_config.json"),
        controlnets={name: load_controlnet(path, device=device, dtype=dtype) for name, path in nets.items()},
        folders=(*parts.values(), *nets.values()),
        licence=_licence(folder),
        **made,
    )


def _hub_parts(folder: Path) -> dict[str, Path]:
    """Part -> its folder (or file), for those that are there; the ones no clip can do without must be."""
    needed = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    parts = {name: folder / name for name in needed}
    if missing := [name for name, path in parts.items() if not path.is_dir()]:
        raise _refusal(f"The model at {folder} lacks a folder", ", ".join(missing), "Copy the whole model.")
    optional = {name: folder / name for name in ("referencenet", "image_encoder")}
    parts |= {name: path for name, path in optional.items() if path.is_dir()}
    if "image_encoder" in parts:
        parts["image_proj"] = _first_of(
            folder, "ip_adapter_image_proj.safetensors", "ip_adapter_image_proj.bin"
        )
    return parts


def _musev_parts(folder: Path, motion: str, t2i: str | None) -> dict[str, Path]:
    """The same for MuseV's `checkpoints` folder (its README's layout)."""
    motions = sorted(path.name for path in (folder / "motion").iterdir() if path.name in VARIANTS)
    if motion not in motions:
        raise _refusal(
            f"{folder / 'motion'} has no such motion model", motion, f"Choose one of {', '.join(motions)}."
        )
    images = {path.parent.name: path.parent for path in sorted((folder / "t2i").rglob("unet"))}
    if t2i is None and len(images) == 1:
        (t2i,) = images
    if t2i not in images:
        choices = ", ".join(images) or "none: download one into t2i/sd1.5/"
        raise _refusal(f"{folder / 't2i'} has no such image model", t2i, f"Choose t2i among {choices}.")
    image_model, own = images[t2i], folder / "motion" / motion
    parts = {
        "unet": own / "unet",
        "t2i_unet": image_model / "unet",
        "vae": _first_of(folder, "vae/sd-vae-ft-mse", str(image_model.relative_to(folder) / "vae")),
        **{part: image_model / part for part in ("text_encoder", "tokenizer", "scheduler")},
    }
    if motion != "musev":
        parts["referencenet"] = _first_of(folder, "motion/musev_referencenet/referencenet")
        parts["image_proj"] = _first_of(own, "ip_adapter_image_proj.safetensors", "ip_adapter_image_proj.bin")
        parts["image_encoder"] = _first_of(
            folder, "IP-Adapter/models/image_encoder", "IP-Adapter/image_encoder"
        )
    return parts


def _controlnet_folders(folder: Path, wanted: Iterable[str | Path] | None) -> dict[str, Path]:
    """Name -> folder. A `folder` that is itself a ControlNet is the pose ControlNet."""
    there = {POSE_CONTROLNET: folder} if (folder / "config.json").is_file() else {}
    there |= {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}
    if wanted is None:
        wanted = there.keys() & {POSE_CONTROLNET}
    found = {}
    for each in wanted:
        if isinstance(each, Path):
            found[each.name] = each
        elif each in there:
            found[each] = there[each]
        else:
            raise _refusal(
                f"{folder} holds no such ControlNet", each, f"There are: {', '.join(there) or 'none'}."
            )
    return found


def _load_unet(folder: Path, **place) -> UNet3D:
    return _fill(
        _build(UNet3D, _read_json(folder / "config.json"), folder), _weights(folder), folder, **place
    )


def _motion_config(folder: Path, motion: str) -> dict:
    """Sizes are the file's; what sets the motion models apart goes by their name, as in MuseV."""
    published = _read_json(folder / "config.json")
    sizes = (*SD15, "out_channels", "up_block_types")
    return unet_config(motion, **{key: published[key] for key in sizes if key in published})


def _load_motion_unet(folder: Path, config: dict, t2i_unet: Path, **place) -> UNet3D:
    """MuseV's motion layers with the image model's own weights over them."""
    state = _weights(folder) | _weights(t2i_unet)
    return _fill(_build(UNet3D, config, folder), state, folder, **place)


def _load_referencenet(folder: Path, config: dict | None = None, **place) -> ReferenceNet:
    network = _build(ReferenceNet, config or _read_json(folder / "config.json"), folder)
    return _fill(network, _weights(folder), folder, **place)


def _load_vae(folder: Path, **place) -> AutoencoderKL:
    state = {}
    for key, value in _weights(folder).items():
        for old, new in OLD_VAE_NAMES.items():
            key = key.replace(old, new)
        # the oldest files keep these layers as 1×1 convolutions
        state[key] = value.flatten(1) if ".to_" in key and value.ndim == 4 else value
    return _fill(_build(AutoencoderKL, _read_json(folder / "config.json"), folder), state, folder, **place)


def load_controlnet(folder: Path, **place) -> ControlNetModel:
    """A ControlNet from its folder of `config.json` and weights. `place`: device and dtype."""
    config = _read_json(folder / "config.json")
    return _fill(_build(ControlNetModel, config, folder), _weights(folder), folder, **place)


def _load_image_proj(path: Path, device: torch.device | str, dtype: torch.dtype) -> ImageProjModel:
    state = _read_tensors(path)
    state = state.get("image_proj", state)  # `.bin` files hold a dict of it
    try:
        model = ImageProjModel.from_state_dict({k.removeprefix("image_proj."): v for k, v in state.items()})
    except (KeyError, RuntimeError) as error:
        raise _refusal(
            f"{path} isn't an image projection",
            error,
            "Take the ip_adapter_image_proj that came with the UNet.",
        ) from error
    return model.to(device, dtype).eval().requires_grad_(False)


def _from_transformers(
    cls: type[Network], folder: Path, device: torch.device | str, dtype: torch.dtype
) -> Network:
    if not (folder / "config.json").is_file():
        raise _refusal("A model file isn't there", folder / "config.json", "Copy the whole model.")
    model, info = cls.from_pretrained(
        folder, dtype=dtype, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    misshaped = [key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]]
    _check_keys(folder, list(info["missing_keys"]), list(info["unexpected_keys"]), misshaped)
    return model.to(device).eval().requires_grad_(False)


_LOADERS = {
    "unet": _load_unet,
    "vae": _load_vae,
    "text_encoder": partial(_from_transformers, CLIPTextModel),
    "referencenet": _load_referencenet,
    "image_encoder": partial(_from_transformers, CLIPVisionModelWithProjection),
    "image_proj": _load_image_proj,
}


def _build(cls: type[Network], config: dict, folder: Path) -> Network:
    """The network without memory for its weights."""
    try:
        with torch.device("meta"):
            return cls.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise _refusal(
            f"{folder / 'config.json'} can't be built",
            error,
            "Take the config.json that came with the weights.",
        ) from error


def _fill(
    network: Network,
    state: dict[str, torch.Tensor],
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Network:
    """Put weights into a network built without memory. Every key must be there, and no other."""
    wanted = network.state_dict()
    _check_keys(
        folder,
        [key for key in wanted if key not in state],
        [key for key in state if key not in wanted],
        [key for key, value in state.items() if key in wanted and value.shape != wanted[key].shape],
    )
    network.load_state_dict({key: value.to(device, dtype) for key, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def _check_keys(folder: Path, missing: list[str], extra: list[str], misshaped: list[str]) -> None:
    found = [
        f"{len(keys)} {what}: {', '.join(sorted(keys)[:5])}{', …' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("not known", extra), ("of another shape", misshaped))
        if keys
    ]
    if found:
        raise _refusal(
            f"The weights in {folder} don't fit its config",
            "; ".join(found),
            "Take config.json and weights of the same model and version, or download them again.",
        )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return _read_tensors(
        _first_of(folder, "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
    )


def _read_tensors(path: Path) -> dict:
    """A file's tensors; `.bin` files may hold nothing but tensors and plain containers."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise _refusal(f"{path} can't be read", error, "Download it again.") from error


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refusal(f"{path} can't be read", error, "Copy the whole model.") from error


def _first_of(folder: Path, *names: str) -> Path:
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found is None:
        raise _refusal(f"{folder} holds none of", " or ".join(names), "Copy the whole model.")
    return found


def _shipped(name: str) -> Path:
    """A bare name is never a path: what comes over a wire can't open folders."""
    known = sorted(path.name for path in SHIPPED.glob("*") if path.is_dir())
    if name not in known:
        raise _refusal("No model has this name", name, f"There are: {', '.join(known) or 'none'}.")
    return SHIPPED / name


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")


def _refusal(message: str, value: object, remedy: str) -> EngineError:
    return EngineError(message, value, remedy, code="bad_model")
