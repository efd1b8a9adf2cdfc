"""Golden data: what the original MuseV computed, and how ours is compared with it.

A golden directory holds one folder per kind of case (``unet/``, ``scheduler/``, ...), each case with
``case.json`` and ``tensors.safetensors``, and ``weights/``. Nothing here knows a width, a depth or a seed.
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor


class NotCovered(Exception):
    """Raised by a check for a case that it does not claim to reproduce; the text says why."""


@dataclass(frozen=True)
class Comparison:
    """One expected tensor against ours. `max_rel` is `max_abs` over the largest expected magnitude."""

    name: str
    max_abs: float
    max_rel: float
    ok: bool
    note: str = ""


def compare(name: str, got: Tensor, expected: Tensor, *, atol: float, rtol: float = 0.0) -> Comparison:
    """Compare in float64; in tolerance when max |got - expected| <= atol + rtol * max |expected|.

    A wrong shape, a NaN or an infinity where none is expected is out of every tolerance.
    """
    if got.shape != expected.shape:
        return Comparison(
            f"{name}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}", math.inf, math.inf, False
        )
    if expected.numel() == 0:
        return Comparison(name, 0.0, 0.0, True)
    got, expected = got.detach().cpu().double(), expected.double()
    difference = (got - expected).abs()
    max_abs = difference.max().item() if difference.isfinite().all() else math.inf
    scale = expected.abs().max().item()
    max_rel = max_abs / scale if scale else (0.0 if max_abs == 0 else math.inf)
    return Comparison(name, max_abs, max_rel, max_abs <= atol + rtol * scale)


def atol_of_text(embeds: Tensor) -> float:
    """How far weighted embeddings (b, n, d) may be off. They are scaled so that their mean stays, and the mean of
    numbers that nearly cancel has fewer digits in float32, in which the original takes it."""
    means, sizes = embeds.double().mean((1, 2)).abs(), embeds.double().abs()
    lost = (2.0**-23 * sizes.mean((1, 2)) / means).max().item()
    return min(1e-5 + lost * sizes.max().item(), 1e-3)


def compare_values(name: str, got: object, expected: object, *, atol: float = 0.0) -> Comparison:
    """Compare nested lists of numbers, strings and None: numbers within `atol`, the rest exactly."""
    largest, scale = _largest_difference(got, expected)
    return Comparison(name, largest, largest / scale if scale and largest else largest, largest <= atol)


def _largest_difference(got: object, expected: object) -> tuple[float, float]:
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(expected):
            return math.inf, 1.0
        pairs = [_largest_difference(g, e) for g, e in zip(got, expected, strict=True)]
        return max((d for d, _ in pairs), default=0.0), max((s for _, s in pairs), default=0.0)
    if isinstance(expected, (int, float)) and not isinstance(expected, bool):
        if isinstance(got, bool) or not isinstance(got, (int, float)) or not math.isfinite(got):
            return math.inf, 1.0
        return abs(got - expected), abs(expected)
    return (0.0 if got == expected else math.inf), 1.0


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def load_tensors(path: Path, keys: list[str] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, or these keys of it. float8 weights, exact by construction, become float32."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in (file.keys() if keys is None else keys)}
    return {
        key: value.float() if value.dtype == torch.float8_e4m3fn else value for key, value in tensors.items()
    }


class Case:
    """One golden case: its `info` (case.json), its tensors, and the weights and configs that it names."""

    def __init__(self, directory: Path, root: Path):
        self.directory, self.root = directory, root
        self.name = directory.relative_to(root).as_posix()
        self.info: dict = read_json(directory / "case.json")
        self.scalars: dict = self.info.get("scalars", {})

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """This case's own tensors, and those that case.json says are stored with another case."""
        tensors = load_tensors(self.directory / "tensors.safetensors")
        for here, there in self.info.get("inputs_stored_elsewhere", {}).items():
            file, _, pattern = (part.strip() for part in there.partition(":"))
            prefix = pattern.removesuffix("*").removesuffix(".")
            for key, value in load_tensors(self.root / file).items():
                if key == prefix or (pattern.endswith("*") and key.startswith(f"{prefix}.")):
                    tensors[here + key.removeprefix(prefix)] = value
        return tensors

    def get(self, key: str) -> Tensor | None:
        return self.tensors.get(key)

    def get_list(self, key: str) -> list[Tensor]:
        """A list argument, stored as key.0, key.1, ...; empty when there is none."""
        indices = [name.removeprefix(f"{key}.") for name in self.tensors if name.startswith(f"{key}.")]
        return [self.tensors[f"{key}.{i}"] for i in sorted(int(i) for i in indices if i.isdigit())]

    def json(self, key: str) -> dict:
        """The JSON file that case.json names under `key`."""
        return read_json(self.root / self.info[key])

    def weights(self, keys: list[str] | None = None) -> dict[str, Tensor]:
        """The weights that case.json names, as float32."""
        return load_tensors(self.root / self.info["weights"], keys)


def unet_files(keys: Path, weights: Path) -> tuple[dict, dict[str, Tensor]]:
    """Config and float32 state dict of the UNet whose keys `….unet.keys.json` lists; its config lies beside it."""
    config = keys.with_name(keys.name.replace(".keys.json", ".config.json"))
    return read_json(config), load_tensors(weights, list(read_json(keys)))
