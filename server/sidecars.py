"""The JSON file beside a clip of `musev text2video` or `video2video`: what makes it again, and reading it back."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from blender_addon.protocol import ProtocolError

if TYPE_CHECKING:
    from musev_engine.loading import Models

INPUTS = ("condition_images", "refer_image", "ipadapter_image", "face_image", "video_path")  # of a task
INPUT_OPTIONS = (
    "still_file", "poses_file", "video_path", "referencenet_image_path", "ipadapter_image_path", "face_image_path",
)  # fmt: skip
MODEL_OPTIONS = (
    "checkpoints", "sd_model_cfg_path", "unet_model_cfg_path", "lcm_model_cfg_path", "vae_model_path",
    "vision_clip_model_path", "pose_guider_model_path", "negprompt_cfg_path",
)  # fmt: skip
OWN_TO_A_RUN = (
    "repeat", "output_dir", "overwrite", "save_filetype", "save_images", "log_level", "device", "name", "control_cache",
)  # fmt: skip
VERSIONED = ("torch", "diffusers", "transformers", "numpy")


def sidecar(
    verb: str, values: dict, folder: Path, options: argparse.Namespace, seed: int, models: Models
) -> dict:
    """Everything that makes a clip of a task (`values`, its paths relative to `folder`) again: the request with whole
    paths, the inputs' hashes, model, versions, licence."""
    from musev_engine.task_files import find_path

    task, inputs = dict(values), {}
    own = {k: v for k, v in vars(options).items() if k not in (*OWN_TO_A_RUN, "given", "test_data_path")}
    for holder, keys in ((task, INPUTS), (own, INPUT_OPTIONS)):
        for key in keys:
            given = holder.get(key)
            if given is None or given == []:
                continue
            paths = [
                find_path(str(one), folder).absolute()
                for one in (given if isinstance(given, list) else [given])
            ]
            holder[key] = [str(path) for path in paths] if isinstance(given, list) else str(paths[0])
            inputs |= {str(path): _sha256(path) for path in paths if path.exists()}
    for key in MODEL_OPTIONS:
        if own.get(key) and Path(own[key]).exists():
            own[key] = str(Path(own[key]).absolute())
    if own.get("lora"):
        own["lora"] = ",".join(str(Path(each.strip()).absolute()) for each in own["lora"].split(","))
    return {
        "request": {"verb": verb, "task": task, "options": own, "given": sorted(options.given)},
        "seed": seed,
        "inputs": inputs,
        "model": {
            "name": models.name, "sha256": models.sha256, "licence": models.licence,
            "controlnets": sorted(models.controlnets), "loras": [list(lora) for lora in models.loras],
            "embeddings": list(models.embeddings),
        },
        "device": str(models.device),
        "versions": {"python": platform.python_version(), "musev-for-blender": _version("musev-for-blender")}
        | {name: _version(name) for name in VERSIONED},
    }  # fmt: skip


def read_sidecar(path: Path, verb: str, options: argparse.Namespace) -> tuple[dict, argparse.Namespace, str]:
    """The task of a sidecar, its options, but for those that say where the clip goes (which stay as they are in
    `options`), and the sha256 of the model that made it.

    Raises ProtocolError for another file, another verb's, and for inputs that are gone or changed."""
    from musev_engine.options import defaults

    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        request, inputs, model = told["request"], told["inputs"], str(told["model"]["sha256"])
        read = defaults(request["verb"]) | request["options"] | {"seed": told["seed"], "n_repeat": 1}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProtocolError(
            f"{path} is no sidecar of a clip", error, "Give a clip's .json file.", "bad_tasks"
        ) from error
    if request["verb"] != verb:
        raise ProtocolError(
            "That clip was made otherwise", request["verb"], f"Use: musev {request['verb']}", "bad_tasks"
        )
    for name, sha256 in inputs.items():
        if not Path(name).exists() or _sha256(Path(name)) != sha256:
            raise ProtocolError(
                "An input isn't what it was", name, "Put the file back, or make a new clip.", "changed_input"
            )
    kept = {key: getattr(options, key) for key in OWN_TO_A_RUN if hasattr(options, key)}
    given = frozenset(request["given"]) | options.given
    return request["task"], argparse.Namespace(**read | kept, given=given), model


def _sha256(path: Path) -> str:
    """Of a file, or of a folder's files by their names."""
    if path.is_dir():
        told = "".join(f"{one.name} {_sha256(one)}\n" for one in sorted(path.iterdir()) if one.is_file())
        return hashlib.sha256(told.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
