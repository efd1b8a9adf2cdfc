"""What this engine is and which models it has, told without torch: the server says it to every client."""

from __future__ import annotations

import json
from importlib import metadata, resources
from pathlib import Path

from blender_addon.protocol import ModelInfo

ASSETS = Path(str(resources.files("musev_engine"))) / "assets"
VAE_FACTOR = 8  # pixels per latent


def engine_version() -> str:
    """The release of this engine."""
    try:
        return metadata.version("musev-for-blender")
    except metadata.PackageNotFoundError:
        return "not installed"


def models_here() -> tuple[ModelInfo, ...]:
    """The models that are shipped in `musev_engine/assets`, each a folder in the hub's layout.

    Raises OSError or ValueError where such a folder can't be read."""
    return tuple(_describe(index.parent) for index in sorted(ASSETS.glob("*/model_index.json")))


def _describe(folder: Path) -> ModelInfo:
    size = json.loads((folder / "unet" / "config.json").read_text()).get("sample_size", 16)
    width, height = (size, size) if isinstance(size, int) else (size[1], size[0])
    return ModelInfo(
        name=folder.name,
        licence=_licence(folder / "README.md"),
        installed=True,
        width=width * VAE_FACTOR,
        height=height * VAE_FACTOR,
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        source="shipped",
    )


def _licence(card: Path) -> str:
    """The `license:` line at a model card's head."""
    lines = card.read_text(encoding="utf-8").splitlines() if card.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("license:")]
    return named[0] if named else "see its model card"
