"""What is in checkpoint files: tensors by name and shape, read only when they are asked for.

Files are safetensors, or PyTorch's (`.ckpt`, `.bin`, `.pt`, `.pth`) read as bare tensors. Stable Diffusion's original
key names (CompVis' "LDM") are translated to diffusers', and a file that is something else is told by its name.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.loaders import single_file_utils
from safetensors import safe_open

from musev_engine.kinds import SD1, seems
from musev_engine.pickles import bad_model, readable, unpickled

PORTION = 2**26  # numbers read from a file before its memory map is let go

# How attention layers of the VAE were called in files from before diffusers 0.18.
OLD_VAE_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: nothing of it is in memory."""

    path: Path
    key: str
    shape: tuple[int, ...]

    def reshaped(self, shape: Iterable[int]) -> Self:
        """The same numbers under another shape."""
        shape = tuple(shape)
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"{self.key} is {self.shape} and can't be {shape}")
        return replace(self, shape=shape)


Weights = dict[str, Stored]  # the name a network knows it by -> where it is


def open_weights(path: Path) -> Weights:
    """The tensors of one file, under the file's own names; those of nested dicts are joined by dots.

    Raises EngineError for a file that isn't there, is cut off, is of another kind, or holds program code.
    """
    with readable(path):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {
                    key: Stored(path, key, tuple(file.get_slice(key).get_shape()))
                    for key in file.keys()  # noqa: SIM118 (the file is no dict)
                }
        return {key: Stored(path, key, tuple(value.shape)) for key, value in unpickled(path).items()}


def open_folder(folder: Path) -> Weights:
    """The weights in a diffusers or transformers folder, in one file or in several with an index."""
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
        for suffix in ("safetensors", "fp16.safetensors", "bin", "fp16.bin"):
            if (path := folder / f"{stem}.{suffix}").is_file():
                return open_weights(path)
            if (index := folder / f"{stem}.{suffix}.index.json").is_file():
                names = sorted(set(read_json(index).get("weight_map", {}).values()))
                if strange := [name for name in names if Path(name).name != name]:
                    raise bad_model(f"{index} names a file elsewhere", strange[0], "Copy the whole model.")
                return {key: stored for name in names for key, stored in open_weights(folder / name).items()}
    raise bad_model(
        f"{folder} holds no weights",
        "no diffusion_pytorch_model.safetensors, model.safetensors or .bin",
        "Copy the whole model.",
    )


def read(weights: Mapping[str, Stored]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each name with its tensor, on the CPU as the file has it, one at a time.

    The tensors are views of a memory map: copy what is kept. The map is let go and taken up again every 2^26
    numbers, so that a file's pages don't pile up in memory beside the copies.
    """
    by_path: dict[Path, list[str]] = {}
    for name, stored in weights.items():
        by_path.setdefault(stored.path, []).append(name)
    for path, names in by_path.items():
        for portion in _portions(names, weights):
            with readable(path), _tensors(path) as get:
                for name in portion:
                    yield name, get(weights[name].key).reshape(weights[name].shape)


def read_all(weights: Mapping[str, Stored]) -> dict[str, torch.Tensor]:
    """The tensors of a small file, copied into memory."""
    return {name: value.clone() for name, value in read(weights)}


def metadata(path: Path) -> dict[str, str]:
    """The texts in a safetensors file's header; none for other files."""
    if path.suffix != ".safetensors":
        return {}
    with readable(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_json(path: Path) -> dict:
    """Raises EngineError if the file isn't there or holds no JSON object."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise bad_model(f"{path} can't be read", error, "Copy the whole model.") from error
    if not isinstance(read, dict):
        raise bad_model(
            f"{path} can't be read", f"{type(read).__name__}, not a dict", "Copy the whole model."
        )
    return read


def under(prefix: str, weights: Mapping[str, Stored]) -> Weights:
    """Those whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): stored for key, stored in weights.items() if key.startswith(prefix)}


# ---- what a file is -------------------------------------------------------------------------------------


def check_base(weights: Mapping[str, Stored], path: Path) -> None:
    """Raises EngineError if what lies at `path` seems to be anything but an SD1.5 model."""
    if (name := seems(weights)) not in ("", SD1):
        raise bad_model(
            f"{path} is no {SD1} model",
            f"it seems to be {name}",
            "Take a model made from Stable Diffusion 1.5.",
        )


# ---- Stable Diffusion's original names ------------------------------------------------------------------


def networks_in(weights: Weights, path: Path) -> dict[str, Weights]:
    """The networks in one file, under diffusers' names: of "unet", "vae", "text_encoder", "controlnet" those it has.

    weights: the file's; path: for what is said of it. The names are CompVis' (`model.diffusion_model.…`) or, for a VAE
    or a ControlNet alone, diffusers' too.
    Raises EngineError if a network has keys that no such network has.
    """
    parts = {}
    if unet := under("model.diffusion_model.", weights):
        check_base(weights, path)
        downs = [int(m[1]) for key in unet if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.weight", key))]
        config = {"layers_per_block": max(1, min(downs, default=3) - 1)}
        parts["unet"] = _translated(
            single_file_utils.convert_ldm_unet_checkpoint, unet, "model.diffusion_model.", config, path
        )
    if text := under("cond_stage_model.transformer.", weights):
        parts["text_encoder"] = {key.removeprefix("text_model."): stored for key, stored in text.items()}
    if vae := _vae(under("first_stage_model.", weights) or weights, path):
        parts["vae"] = vae
    control = under("control_model.", weights) or weights
    if "input_hint_block.0.weight" in control:
        downs = [int(m[1]) for key in control if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.weight", key))]
        config = {"layers_per_block": max(1, min(downs, default=3) - 1)}
        parts["controlnet"] = _translated(
            single_file_utils.convert_controlnet_checkpoint, control, "", config, path
        )
    elif "controlnet_cond_embedding.conv_in.weight" in weights:
        parts["controlnet"] = weights
    return parts


def modern_vae(weights: Mapping[str, Stored]) -> Weights:
    """A VAE's weights under today's names; the oldest files keep attention as 1×1 convolutions."""
    renamed = {}
    for key, stored in weights.items():
        for old, new in OLD_VAE_NAMES.items():
            key = key.replace(old, new)
        wide = ".to_" in key and len(stored.shape) == 4
        renamed[key] = stored.reshaped(stored.shape[:2]) if wide else stored
    return renamed


def _vae(weights: Weights, path: Path) -> Weights:
    own = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    weights = {key: stored for key, stored in weights.items() if key.startswith(own)}
    if any(key.startswith("decoder.up_blocks.") for key in weights):
        return modern_vae(weights)
    if not any(key.startswith("decoder.up.") for key in weights):
        return {}
    levels = len({key.split(".")[2] for key in weights if key.startswith("encoder.down.")})
    config = {"down_block_types": [None] * levels, "up_block_types": [None] * levels}
    flat = {
        key: stored.reshaped(stored.shape[:2]) if ".attn_1." in key and len(stored.shape) == 4 else stored
        for key, stored in weights.items()
    }
    return _translated(single_file_utils.convert_ldm_vae_checkpoint, flat, "", config, path)


def _translated(
    convert: Callable, weights: Weights, prefix: str, config: dict[str, Any], path: Path
) -> Weights:
    """diffusers' own translation of names, run on tensors without memory: identity tells which became which."""
    ghosts = {prefix + key: torch.empty(stored.shape, device="meta") for key, stored in weights.items()}
    old_name = {id(ghost): key.removeprefix(prefix) for key, ghost in ghosts.items()}
    new = {
        key: old_name[id(ghost)] for key, ghost in convert(ghosts, config=config).items() if ghost is not None
    }
    if unknown := sorted(weights.keys() - set(new.values())):
        raise bad_model(
            f"{path} has {len(unknown)} keys that a {SD1} model hasn't",
            ", ".join(unknown[:5]),
            "Take a model made from Stable Diffusion 1.5.",
        )
    return {key: weights[old] for key, old in new.items()}


# ---- files ----------------------------------------------------------------------------------------------


def _portions(names: list[str], weights: Mapping[str, Stored]) -> Iterator[list[str]]:
    portion, size = [], 0
    for name in names:
        portion.append(name)
        size += math.prod(weights[name].shape)
        if size > PORTION:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


@contextmanager
def _tensors(path: Path) -> Iterator[Callable[[str], torch.Tensor]]:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            yield file.get_tensor
    else:
        yield unpickled(path).__getitem__
