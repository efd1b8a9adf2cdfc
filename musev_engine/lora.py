"""LoRA: small changes to an image model's weights, W + weight · alpha/r · up @ down (https://arxiv.org/abs/2106.09685).

Files are in kohya's layout (`lora_unet_…`, `lora_te_…`, with alphas, convolutions too) or in diffusers' and peft's
(`unet.….lora_A.weight`, `….lora.down.weight`, `….processor.to_q_lora.down.weight`).
They reach the UNet's layers that Stable Diffusion has, and the text encoder; never MuseV's layers along time.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from musev_engine.checkpoints import (
    Stored,
    Weights,
    bad_model,
    metadata,
    open_weights,
    read_all,
    read_json,
)
from musev_engine.kinds import NOT_PLAIN_LORA, SD1, lora_seems
from musev_engine.networks import MOTION_KEYS

MAX_WEIGHT, MAX_RANK = 100, 4096
Layer = nn.Linear | nn.Conv2d
Parts = dict[
    str, Stored
]  # of one layer: "down" (r, in, …), "up" (out, r, …), and "alpha" or "mid" (r, r, h, w)


class Applied:
    """LoRAs that are in the weights; `undo` puts back what was there before, bit for bit."""

    def __init__(self) -> None:
        self._before: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def undo(self) -> None:
        """Where LoRAs were applied one after another, undo the last first."""
        while self._before:
            weight, before = self._before.pop()
            weight.copy_(before)


@torch.no_grad()
def apply_loras(
    unet: nn.Module, text_encoder: nn.Module, loras: Iterable[tuple[Path, float]], keep: bool = True
) -> Applied:
    """Add LoRAs, each times its weight, to the networks' own weights. Sums are made in float32 and rounded once.

    keep: whether to remember, in ordinary memory, what the touched weights were, so that it can be undone.
    Raises EngineError, before anything is changed, when a file is no LoRA or one for another kind of model.
    """
    layers = {"unet": _unet_layers(unet), "text_encoder": _text_layers(text_encoder)}
    changes: dict[Layer, list[tuple[float, dict[str, Tensor]]]] = {}
    for path, weight in loras:
        if not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
            remedy = f"Choose -{MAX_WEIGHT} to {MAX_WEIGHT}."
            raise bad_model(f"The weight of {path.name} is out of bounds", weight, remedy)
        for layer, scale, parts in _read_lora(path, layers):
            changes.setdefault(layer, []).append((weight * scale, parts))

    applied = Applied()
    for layer, several in changes.items():
        if keep:
            applied._before.append((layer.weight, layer.weight.cpu().clone()))
        total = layer.weight.float()
        for scale, parts in several:
            total = total + scale * _product(parts, total)
        layer.weight.copy_(total)
    return applied


def check_lora(path: Path) -> None:
    """Look at a file's keys and shapes alone, before any model is read. Raises EngineError for what can't be read, is
    no plain LoRA, or seems to be one for another base than Stable Diffusion 1."""
    weights = open_weights(path)
    _check_plain(path, weights)
    like = lora_seems(weights)
    if not any(re.search(_ENDINGS[0][0], key) for key in weights) or like not in (
        "",
        f"a LoRA for {SD1}",
    ):
        what = f"it seems to be {like}" if like else f"its keys are no LoRA's: {', '.join(list(weights)[:3])}"
        raise bad_model(f"{path} is no LoRA for this model", what, _OTHER)


# ---- files ----------------------------------------------------------------------------------------------

_ENDINGS = (  # of a key -> which part of a layer it is
    (
        r"\.(?:lora_down|lora_A|lora\.down|lora_linear_layer\.down)(?:\.\w+)?\.weight$|_lora\.down\.weight$",
        "down",
    ),
    (r"\.(?:lora_up|lora_B|lora\.up|lora_linear_layer\.up)(?:\.\w+)?\.weight$|_lora\.up\.weight$", "up"),
    (r"\.lora_mid\.weight$", "mid"),
    (r"(?:\.lora)?\.alpha$", "alpha"),
)
_OTHER = "Take a LoRA made for Stable Diffusion 1.5."
_NETWORKS = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "unet.": "unet",
    "text_encoder.": "text_encoder",
}


def _read_lora(
    path: Path, layers: dict[str, dict[str, Layer]]
) -> list[tuple[Layer, float, dict[str, Tensor]]]:
    """Each layer that a file changes, its alpha/r, and its tensors. Raises EngineError naming what doesn't fit."""
    weights = open_weights(path)
    _check_plain(path, weights)
    found: dict[tuple[str, str], Parts] = {}
    unknown = []
    for key, stored in weights.items():
        network, name, part = _place(key, layers)
        if name:
            found.setdefault((network, name), {})[part] = stored
        else:
            unknown.append(key)
    halves = [name for (_, name), parts in found.items() if not {"down", "up"} <= parts.keys()]
    misshaped = [
        f"{name} {parts['up'].shape} @ {parts['down'].shape} for {tuple(layers[network][name].weight.shape)}"
        for (network, name), parts in found.items()
        if name not in halves and not _fits(parts, tuple(layers[network][name].weight.shape))
    ]
    for names, what in ((unknown, "not known"), (halves, "half there"), (misshaped, "of another shape")):
        if names or not found:
            listed = f"{len(names)} {what}: {', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''}"
            like = lora_seems(weights)
            raise bad_model(
                f"The LoRA {path} isn't for this model",
                f"{listed}; it seems to be {like}" if like else listed,
                _OTHER,
            )
    alpha = _declared_alpha(path)
    read = read_all(
        {f"{n}/{name}/{part}": s for (n, name), parts in found.items() for part, s in parts.items()}
    )
    changes = []
    for (network, name), parts in found.items():
        tensors = {part: read[f"{network}/{name}/{part}"] for part in parts}
        rank = len(tensors["down"])
        own = tensors.pop("alpha", None)
        scale = (alpha(network, name, rank) if own is None else own.item()) / rank
        if not math.isfinite(scale):
            raise bad_model(
                f"The LoRA {path} is damaged", f"alpha of {name} is {scale * rank}", "Download it again."
            )
        changes.append((layers[network][name], scale, tensors))
    return changes


def _check_plain(path: Path, weights: Weights) -> None:
    if odd := next((key for key in weights if re.search(NOT_PLAIN_LORA, key)), None):
        raise bad_model(f"{path} is another kind of change than a LoRA", odd, "Take a plain LoRA.")


def _place(key: str, layers: dict[str, dict[str, Layer]]) -> tuple[str, str, str]:
    """A key's network, layer (in kohya's spelling; "" if no network here has it) and part."""
    endings = ((match, part) for pattern, part in _ENDINGS if (match := re.search(pattern, key)))
    match, part = next(endings, (None, ""))
    if match is None:
        return "", "", ""
    name = key[: match.start()].removeprefix("base_model.model.")
    prefix = next((each for each in _NETWORKS if name.startswith(each)), "")
    network = _NETWORKS.get(prefix, "unet")  # files with a UNet's layers alone may bear no prefix
    # diffusers' older names go through the attention's processor, and leave out that to_out is a list
    name = name.removeprefix(prefix).replace(".processor", "").replace(".", "_").removeprefix("text_model_")
    return network, next((each for each in (name, f"{name}_0") if each in layers[network]), ""), part


def _unet_layers(unet: nn.Module) -> dict[str, Layer]:
    """What Stable Diffusion's UNet has too, in kohya's spelling."""
    return {
        name.replace(".", "_"): module
        for name, module in unet.named_modules()
        if isinstance(module, Layer) and not any(part in f"{name}." for part in MOTION_KEYS)
    }


def _text_layers(text_encoder: nn.Module) -> dict[str, Layer]:
    return {
        name.replace(".", "_").removeprefix("text_model_"): module
        for name, module in text_encoder.named_modules()
        if isinstance(module, Layer)
    }


def _declared_alpha(path: Path) -> Callable[[str, str, int], float]:
    """Alphas that stand beside the weights, as peft keeps them; without any, alpha is the rank."""
    try:
        declared = dict(json.loads(metadata(path).get("lora_adapter_metadata", "{}")))
    except (ValueError, TypeError) as error:
        raise bad_model(f"The header of the LoRA {path} is damaged", error, "Download it again.") from error
    if (beside := path.parent / "adapter_config.json").is_file():
        declared |= read_json(beside)

    def alpha(network: str, name: str, rank: int) -> float:
        def value(key: str, default: object) -> object:
            return declared.get(f"{network}.{key}", declared.get(key, default))

        # rank-stabilised LoRA is scaled by alpha/√r: https://arxiv.org/abs/2312.03732
        rank_scale = math.sqrt(rank) if value("use_rslora", False) else 1.0
        patterns: dict = value("alpha_pattern", None) or {}
        own = next((a for part, a in patterns.items() if name.endswith(part.replace(".", "_"))), None)
        declared_alpha = value("lora_alpha", rank) if own is None else own
        if not isinstance(declared_alpha, int | float):
            raise bad_model(
                f"The LoRA {path} is damaged", f"alpha is {declared_alpha!r}", "Download it again."
            )
        return declared_alpha * rank_scale

    return alpha


# ---- arithmetic -----------------------------------------------------------------------------------------


def _fits(parts: Parts, shape: tuple[int, ...]) -> bool:
    down, up = parts["down"].shape, parts["up"].shape
    rank = down[0] if down else 0
    if not 0 < rank <= MAX_RANK or math.prod(parts["alpha"].shape if "alpha" in parts else ()) != 1:
        return False
    if up[:1] != shape[:1] or math.prod(up[1:]) != rank:
        return False
    if "mid" in parts:
        return parts["mid"].shape == (rank, rank, *shape[2:]) and math.prod(down[1:]) == shape[1]
    return math.prod(down[1:]) == math.prod(shape[1:])


def _product(parts: dict[str, Tensor], like: Tensor) -> Tensor:
    """up @ down in the shape of a layer's weight, float32."""
    up, down = (parts[name].to(like.device, torch.float32).flatten(1) for name in ("up", "down"))
    if "mid" in parts:  # LoCon's convolutions in three: https://github.com/KohakuBlueleaf/LyCORIS
        return torch.einsum("or,rshw,si->oihw", up, parts["mid"].to(like), down)
    return (up @ down).view_as(like)
