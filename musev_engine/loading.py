"""Checkpoints -> networks on a device.

Two layouts are read: a folder of its own for each part, as on the hub (`unet/`, `vae/`, …), and MuseV's published
`checkpoints` folder. Either way any Stable Diffusion 1.5 model can stand under the motion layers, and adapters,
LoRAs and embeddings can be added. Where parts lie stands in `layouts`, how files are read in `checkpoints`.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from musev_engine.checkpoints import bad_model, read_json
from musev_engine.embeddings import add_embeddings
from musev_engine.few_steps import FewStep, few_step
from musev_engine.layouts import (
    POSE_CONTROLNET,
    children,
    controlnet_paths,
    files,
    hub_parts,
    image_encoder_folder,
    musev_parts,
    named,
)
from musev_engine.lora import Applied, apply_loras
from musev_engine.models.config import SD15
from musev_engine.models.pose_guider import PoseGuider
from musev_engine.models.projections import FaceProjModel, ImageProjection
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D
from musev_engine.networks import (
    load_controlnet,
    load_face_proj,
    load_image_encoder,
    load_image_proj,
    load_pose_guider,
    load_referencenet,
    load_text_encoder,
    load_unet,
    load_vae,
)

__all__ = ["POSE_CONTROLNET", "Models", "load_controlnet", "load_models"]

SHIPPED = Path(__file__).parent / "assets"
# What SD1.5's own scheduler_config.json says, for files that bring none.
SD15_SCHEDULER = {
    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
    "trained_betas": None, "clip_sample": False,
}  # fmt: skip


@dataclass(frozen=True)
class Models:
    """All that makes clips, in eval mode on one device; what a model doesn't have is None.

    scheduler_config: `scheduler_config.json`, which also says what the UNet predicts; a few-step LoRA's scheduler
    stands in it. few_step: what such a LoRA asks for besides.
    referencenet reads the still; image_encoder and image_proj make tokens of it, face_proj of a face's
    embedding. controlnets: by name, such as "control_v11p_sd15_openpose", in whose place a PoseGuider may stand.
    loras: name and weight of each. embeddings: the words of the textual inversions.
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
    image_proj: ImageProjection | None = None
    face_proj: FaceProjModel | None = None
    controlnets: dict[str, ControlNetModel | PoseGuider] = field(default_factory=dict)
    loras: tuple[tuple[str, float], ...] = ()
    embeddings: tuple[str, ...] = ()
    few_step: FewStep | None = None
    folders: tuple[Path, ...] = ()
    licence: str = ""

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @cached_property
    def sha256(self) -> str:
        """One hash for all weight and config files, in the order of their paths' names, and the LoRAs' weights."""
        whole = hashlib.sha256()
        for folder in self.folders:
            for path in [folder] if folder.is_file() else sorted(folder.glob("*.*")):
                told = path.stat()
                whole.update(f"{path.name} {_sha256(path, told.st_size, told.st_mtime_ns)}\n".encode())
        for name, weight in self.loras:
            whole.update(f"{name} {weight}\n".encode())
        return whole.hexdigest()


def load_models(
    source: str | Path,
    *,
    motion: str = "musev_referencenet_pose",
    t2i: str | Path | None = None,
    vae: str | Path | None = None,
    referencenet: bool = True,
    ip_adapter: str | Path | None = None,
    face_id: str | Path | None = None,
    image_encoder: Path | None = None,
    controlnets: Iterable[str | Path] | None = None,
    pose_guider: Path | None = None,
    loras: Iterable[tuple[Path, float]] = (),
    embeddings: Iterable[Path] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Models:
    """Load a model by its name ("mini": shipped with this package) or from a folder (a Path, or a text with a
    slash in it).

    motion: in MuseV's own `checkpoints` folder, which of `motion/*`; a plug-in may add others.
    t2i: the image model under the motion layers: a name among `t2i/**`, or the path of a diffusers folder or a
        single file. None: the only one there is; in the hub's layout, the model's own.
    referencenet: False: leave the model's out, and ask for none.
    vae: another VAE, a folder or a single file, or a name in `vae/`.
    ip_adapter: `ip-adapter_sd15`, plus or plus-face, in place of the trained projection. face_id:
        `ip-adapter-faceid_sd15`. Names of files in `IP-Adapter/`, or paths. image_encoder: the folder of the vision
        encoder, where the model has none.
    controlnets: names in the folder `controlnet`, or paths of folders or single files (None: the pose
        ControlNet, if it is there). pose_guider: a PoseGuider, in the pose ControlNet's place.
    loras: files with their weights, see `lora`. embeddings: files of textual inversions, see `embeddings`.
    dtype: of the weights. None: float32 on the CPU, float16 elsewhere.

    Names of known models (`registry`) are found wherever they lie.

    Raises EngineError: code "bad_model" when something isn't there, doesn't fit (the keys are named) or can't be
    read; code "missing_model" for a known model that isn't here, with its source, size and licence.
    """
    is_path = isinstance(source, Path) or "/" in source or os.sep in source
    folder = Path(source) if is_path else _shipped(source)
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
    place = {"device": device, "dtype": dtype}
    loras, embeddings = list(loras), list(embeddings)

    # which file or folder each part comes from
    if (folder / "motion").is_dir():
        parts, config = musev_parts(
            folder, motion, t2i, trained_projection=ip_adapter is None, referencenet=referencenet
        )
        # the file beside ReferenceNet's weights holds class defaults; it is as large as the UNet
        reference_config = {key: config[key] for key in SD15}
    else:
        parts, config = hub_parts(folder, t2i)
        reference_config = None
    if not referencenet:
        parts.pop("referencenet", None)
    if vae is not None:
        parts["vae"] = named(vae, "VAE", children(folder / "vae"))
    if "vae" not in parts:
        raise bad_model(
            f"The image model at {parts['base'].parent} has no VAE", vae, "Give another one as vae."
        )
    adapters = {path.stem: path for path in files(folder / "IP-Adapter")}
    if ip_adapter is not None:
        parts["image_proj"] = named(ip_adapter, "IP-Adapter", adapters)
        config = config | {"ip_adapter_cross_attn": True}
    if "image_proj" in parts:
        parts["image_encoder"] = image_encoder or parts.get("image_encoder") or image_encoder_folder(folder)
    if face_id is not None:
        parts["face_proj"] = named(face_id, "FaceID adapter", adapters)
        config = config | {"need_t2i_ip_adapter_face": True}
    if pose_guider is not None:
        controlnets = [each for each in controlnets or () if each != POSE_CONTROLNET]
    nets = controlnet_paths(folder / "controlnet", controlnets)

    # the parts themselves, the small ones first: what doesn't do among them is told before the UNet is read
    text_encoder = load_text_encoder(parts["text_encoder"], **place)
    tokenizer = _tokenizer(parts["tokenizer"], text_encoder)
    words = add_embeddings(text_encoder, tokenizer, embeddings)
    autoencoder = load_vae(parts["vae"], **place)
    optional = {}
    if "image_proj" in parts:
        optional["image_encoder"] = load_image_encoder(parts["image_encoder"], **place)
        optional["image_proj"] = load_image_proj(parts["image_proj"], optional["image_encoder"], **place)
    if "face_proj" in parts:
        optional["face_proj"] = load_face_proj(parts["face_proj"], **place)
    followed = {name: load_controlnet(path, **place) for name, path in nets.items()}
    unet = load_unet(
        parts["unet"],
        config,
        base=parts.get("base"),
        ip_adapter=None if ip_adapter is None else parts["image_proj"],
        face_id=parts.get("face_proj"),
        **place,
    )
    apply_loras(unet, text_encoder, loras, keep=False)
    if pose_guider is not None:
        nets[POSE_CONTROLNET] = pose_guider
        followed[POSE_CONTROLNET] = _fitting(load_pose_guider(pose_guider, **place), unet, pose_guider)
    if "referencenet" in parts:
        optional["referencenet"] = load_referencenet(parts["referencenet"], reference_config, **place)
    few = few_step(path for path, _ in loras)
    schedule = parts.get("scheduler")
    schedule = SD15_SCHEDULER if schedule is None else read_json(schedule / "scheduler_config.json")
    return Models(
        name=folder.name,
        unet=unet,
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config=schedule | (few.scheduler_config if few else {}),
        controlnets=followed,
        loras=tuple((path.name, weight) for path, weight in loras),
        embeddings=words,
        few_step=few,
        folders=tuple(
            dict.fromkeys([*parts.values(), *nets.values(), *(path for path, _ in loras), *embeddings])
        ),
        licence=_licence(folder),
        **optional,
    )


def merge(models: Models, loras: Sequence[tuple[Path, float]]) -> Applied:
    """Add LoRAs to the weights of loaded models, until the result's `undo`. Raises EngineError as `apply_loras`, and
    then nothing is changed."""
    return apply_loras(models.unet, models.text_encoder, loras)


def with_loras(models: Models, loras: Sequence[tuple[Path, float]]) -> Models:
    """What models say of themselves once LoRAs were merged into them: files, weights, a few-step LoRA's scheduler."""
    if not loras:
        return models
    few = few_step(path for path, _ in loras)
    return replace(
        models,
        scheduler_config=models.scheduler_config | (few.scheduler_config if few else {}),
        few_step=few or models.few_step,
        loras=(*models.loras, *((path.name, weight) for path, weight in loras)),
        folders=tuple(dict.fromkeys([*models.folders, *(path for path, _ in loras)])),
    )


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    """A file's hash, while its size and time stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shipped(name: str) -> Path:
    """A bare name is never a path: what comes over a wire can't open folders."""
    known = sorted(path.name for path in SHIPPED.glob("*") if path.is_dir())
    if name not in known:
        raise bad_model("No model has this name", name, f"There are: {', '.join(known) or 'none'}.")
    return SHIPPED / name


def _fitting(guider: PoseGuider, unet: UNet3D, path: Path) -> PoseGuider:
    """What it adds to must be as wide."""
    width, wanted = guider.conv_out.out_channels, unet.config.block_out_channels[0]
    if width != wanted:
        raise bad_model(
            f"{path} is for another UNet",
            f"{width} channels",
            f"Take one of {wanted}, as Stable Diffusion 1.5's.",
        )
    return guider


def _tokenizer(folder: Path, text_encoder: CLIPTextModel) -> CLIPTokenizer:
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise bad_model(f"{folder} can't be read", error, "Copy the whole model.") from error
    words = text_encoder.get_input_embeddings().num_embeddings
    if len(tokenizer) > words:
        raise bad_model(
            f"The tokenizer {folder} has more words than the text encoder's {words}",
            len(tokenizer),
            "Take the tokenizer that came with the text encoder.",
        )
    return tokenizer


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")
