"""Where each part of a model lies: the hub's layout, MuseV's `checkpoints` folder, and what others bring along.

Nothing is loaded here; parts are found by name, and what isn't there is told with what is.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from musev_engine import known_models, plugins, registry
from musev_engine.checkpoints import bad_model, check_base, open_weights, read_json
from musev_engine.errors import EngineError
from musev_engine.kinds import SUFFIXES
from musev_engine.models.config import SD15, unet_config

POSE_CONTROLNET = "control_v11p_sd15_openpose"
TOKENIZER = "clip-tokenizer"


def hub_parts(folder: Path, t2i: str | Path | None) -> tuple[dict[str, Path], dict]:
    """Part -> its folder (or file), for those that are there, and the UNet's config. What no clip can do without
    must be there."""
    needed = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    parts = {name: folder / name for name in needed}
    if missing := [name for name, path in parts.items() if not path.is_dir()]:
        raise bad_model(f"The model at {folder} lacks a folder", ", ".join(missing), "Copy the whole model.")
    optional = {name: folder / name for name in ("referencenet", "image_encoder")}
    parts |= {name: path for name, path in optional.items() if path.is_dir()}
    if "image_encoder" in parts:
        parts["image_proj"] = _first_of(
            folder, "ip_adapter_image_proj.safetensors", "ip_adapter_image_proj.bin"
        )
    if t2i is not None:
        parts |= _base_parts(named(t2i, "image model", {}), parts["tokenizer"])
    return parts, read_json(folder / "unet" / "config.json")


def musev_parts(
    folder: Path, motion: str, t2i: str | Path | None, *, trained_projection: bool, referencenet: bool
) -> tuple[dict[str, Path], dict]:
    """The same for MuseV's `checkpoints` folder (its README's layout). trained_projection: whether the motion model's
    own `ip_adapter_image_proj` is wanted; referencenet: whether its ReferenceNet is."""
    known = plugins.found("musev.motion_models")
    motions = sorted(path.name for path in (folder / "motion").iterdir() if path.name in known)
    if motion not in motions and not (motion in known and motion in known_models.known()):
        raise bad_model(
            f"{folder / 'motion'} has no such motion model", motion, f"Choose one of {', '.join(motions)}."
        )
    own = folder / "motion" / motion if motion in motions else registry.find(motion)
    # sizes are the file's; what sets the motion models apart goes by their name, as in MuseV
    flags, published = known[motion], read_json(own / "unet" / "config.json")
    sizes = {key: published[key] for key in (*SD15, "out_channels", "up_block_types") if key in published}
    config = unet_config("musev", **flags, **sizes)

    images = registry.image_models(folder / "t2i")
    if t2i is None and len(images) == 1:
        (t2i,) = images
    if t2i is None:
        choices = ", ".join(images) or "none: download one into t2i/sd1.5/"
        raise bad_model(
            f"{folder / 't2i'} has more than one image model, or none",
            len(images),
            f"Choose t2i among {choices}.",
        )
    tokenizers = sorted((folder / "t2i").rglob("tokenizer"))
    base = named(t2i, "image model", images)
    parts = {"unet": own / "unet", **_base_parts(base, tokenizers[0] if tokenizers else None)}
    if (folder / "vae" / "sd-vae-ft-mse").is_dir():
        parts["vae"] = folder / "vae" / "sd-vae-ft-mse"
    if config["need_refer_emb"] and referencenet:
        places = (own / "referencenet", folder / "motion" / "musev_referencenet" / "referencenet")
        there = next((place for place in places if place.is_dir()), None)
        parts["referencenet"] = there or registry.find("referencenet")
    if config["ip_adapter_cross_attn"] and trained_projection:
        parts["image_proj"] = _first_of(own, "ip_adapter_image_proj.safetensors", "ip_adapter_image_proj.bin")
    return parts, config


def _base_parts(base: Path, tokenizer: Path | None) -> dict[str, Path]:
    """What an SD1.5 model brings: a diffusers folder's parts, or one file as all of them, which has no
    tokenizer: then one beside it does, CLIP's from the models folder, or `tokenizer`."""
    if base.is_dir():
        names = {"base": "unet", "text_encoder": "text_encoder", "tokenizer": "tokenizer"}
        parts = {part: base / name for part, name in names.items()}
        if missing := [path.name for path in parts.values() if not path.is_dir()]:
            raise bad_model(
                f"The image model at {base} lacks a folder", ", ".join(missing), "Copy the whole model."
            )
        return parts | {name: base / name for name in ("vae", "scheduler") if (base / name).is_dir()}
    check_base(open_weights(base), base)
    beside = base.parent / "tokenizer"
    if beside.is_dir():
        tokenizer = beside
    elif registry.installed(TOKENIZER):
        tokenizer = registry.find(TOKENIZER)
    if tokenizer is None:
        terms = registry.model(TOKENIZER).terms
        raise EngineError(
            f"{base} is a single file, which brings no tokenizer, and there is none here",
            beside,
            f"Run: musev models download {TOKENIZER} ({terms}); or put the folder `tokenizer` of any Stable Diffusion "
            "1.5 model there.",
            code="missing_model",
        )
    return {"base": base, "vae": base, "text_encoder": base, "tokenizer": tokenizer}


def controlnet_paths(folder: Path, wanted: Iterable[str | Path] | None) -> dict[str, Path]:
    """Name -> folder or single file. A `folder` that is itself a ControlNet is the pose ControlNet."""
    there = {POSE_CONTROLNET: folder} if (folder / "config.json").is_file() else children(folder)
    if wanted is None:
        wanted = there.keys() & {POSE_CONTROLNET}
    paths = [named(each, "ControlNet", there) for each in wanted]
    return {_name_in(there, path): path for path in paths}


def image_encoder_folder(folder: Path) -> Path:
    """IP-Adapter's vision encoder in MuseV's folder, or wherever it is known to lie."""
    places = (folder / "IP-Adapter" / "models" / "image_encoder", folder / "IP-Adapter" / "image_encoder")
    return next((place for place in places if place.is_dir()), None) or registry.find("image_encoder")


def named(wanted: str | Path, what: str, there: dict[str, Path]) -> Path:
    """A name among those that are there, or of a known model wherever it lies, or a path."""
    if isinstance(wanted, str) and wanted in there:
        return there[wanted]
    if isinstance(wanted, Path) or "/" in wanted or os.sep in wanted:
        if not Path(wanted).exists():
            raise bad_model(f"The {what} isn't there", wanted, "Give the path of a folder or file.")
        return Path(wanted)
    if wanted in known_models.known():
        return registry.find(wanted)
    near = difflib.get_close_matches(wanted, there, n=3)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    raise bad_model(
        f"No {what} here has this name", wanted, f"{meant}There are: {', '.join(there) or 'none'}."
    )


def _name_in(there: dict[str, Path], path: Path) -> str:
    return next(
        (name for name, each in there.items() if each == path), path.stem if path.is_file() else path.name
    )


def children(folder: Path) -> dict[str, Path]:
    """Name -> folder with a config, or single file, in `folder`."""
    folders = {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}
    return {path.stem: path for path in files(folder)} | folders


def files(folder: Path) -> list[Path]:
    """Weight files in `folder` and in its folder `models`."""
    return sorted(
        path for at in (folder, folder / "models") for path in at.glob("*") if path.suffix in SUFFIXES
    )


def _first_of(folder: Path, *names: str) -> Path:
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found is None:
        raise bad_model(f"{folder} holds none of", " or ".join(names), "Copy the whole model.")
    return found
