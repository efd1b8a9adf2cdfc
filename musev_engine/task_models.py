"""The models that a command line's options name: MuseV's spelling, its `checkpoints` folder or ours."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from musev_engine import known_models, plugins, registry
from musev_engine.clip import Clip
from musev_engine.control import find_control
from musev_engine.errors import EngineError
from musev_engine.loading import POSE_CONTROLNET, Models, load_models
from musev_engine.lora import check_lora
from musev_engine.options import IP_ADAPTERS, NO
from musev_engine.prompts import NEGATIVE_SETS
from musev_engine.task_files import negative_prompt

SHIPPED = "mini"
PUBLISHED = ("musev_referencenet", "musev_referencenet_pose")  # projections that come with a motion model


def models_of(options: argparse.Namespace) -> Iterator[tuple[str | None, Models]]:
    """Each image model that the options name, under the motion model, loaded when it is its turn; with its name among
    several, or None.

    Raises EngineError where something isn't there or doesn't do, and for FaceIn.
    """
    _refuse_what_has_no_code(options)
    more: dict = {"device": device_of(options.device), "loras": _loras(options)}
    more["referencenet"] = _wants_referencenet(options)
    if "vae_model_path" in options.given:
        more["vae"] = _existing(options.vae_model_path, "--vae_model_path")
    nets = _controlnets(options)
    if guider := getattr(options, "pose_guider_model_path", None):
        if POSE_CONTROLNET not in nets:
            raise EngineError(
                "The PoseGuider has nothing to follow", options.controlnet_name,
                "Give --controlnet_name dwpose_body_hand, and --video_is_middle if the video shows poses already.",
                code="not_supported",
            )  # fmt: skip
        more["pose_guider"] = _existing(guider, "--pose_guider_model_path")
    if options.sd_model_name == SHIPPED:
        yield None, _checked(load_models(SHIPPED, **more), options)
        return
    source = _source(options)
    names: list[str | Path | None] = [name.strip() for name in options.sd_model_name.split(",")]
    if options.sd_model_name.lower() in NO:  # then cfg_path is the image model
        names = [_existing(options.sd_model_cfg_path, "--sd_model_cfg_path")]
    elif options.sd_model_name == "all":
        names = [*sorted(registry.image_models(source / "t2i"))] or [None]
    if (source / "motion").is_dir():
        more["motion"] = options.unet_model_name
    if options.ip_adapter_model_name in IP_ADAPTERS:
        more["ip_adapter"] = IP_ADAPTERS[options.ip_adapter_model_name]
    if options.ip_adapter_face_model_name not in (None, *NO):
        name = options.ip_adapter_face_model_name
        more["face_id"] = IP_ADAPTERS.get(name, name)
    if Path(options.vision_clip_model_path).is_dir():
        more["image_encoder"] = Path(options.vision_clip_model_path)
    if nets:
        more["controlnets"] = nets
    more["embeddings"] = _embeddings(source, options)
    for name in names:
        yield str(name) if len(names) > 1 else None, _checked(load_models(source, t2i=name, **more), options)


def fitting(clip: Clip, models: Models, given: Collection[str] = ()) -> Clip:
    """The clip without the pictures that these models have no parts for, as MuseV leaves them out, and with the steps
    and the guidance that a few-step LoRA was made for. given: options that the user has set, which stay."""
    few = models.few_step
    if few is not None and clip.compat != "musev":
        wanted = {"num_inference_steps": few.num_inference_steps, "guidance_scale": few.guidance_scale}
        ours = {key: value for key, value in wanted.items() if f"video_{key}" not in given}
        first = {key: value for key, value in wanted.items() if key not in given}
        clip = replace(clip, **ours, first_frame=replace(clip.first_frame, **first))
    return replace(
        clip,
        references=clip.references if models.referencenet is not None or clip.reference_only else None,
        image_prompts=clip.image_prompts if models.image_encoder is not None else None,
    )


def device_of(name: str | None) -> str:
    """Where clips are made: the device that is named, or the GPU where there is one. Raises EngineError for a name that
    torch doesn't know, and for a GPU that isn't here."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return "cuda" if there else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        remedy = "Choose cpu, cuda, cuda:1, mps, …"
        raise EngineError("No device has this name", name, remedy, code="unknown_name") from error
    if device.type == "cuda" and (device.index or 0) >= there:
        raise EngineError(
            f"{'This GPU' if there else 'A GPU'} isn't here, or torch can't use it", name,
            f"There are {there}: choose cuda:0 to cuda:{there - 1}." if there else "Choose cpu, or see: musev doctor",
            code="missing_device",
        )  # fmt: skip
    return name


def missing_words(clip: Clip, models: Models) -> list[str]:
    """The words with learned vectors that a clip's negative prompts name and these models don't know."""
    known = {word for each in NEGATIVE_SETS.values() for word in each.embeddings}
    text = f"{clip.negative_prompt} {clip.first_frame.negative_prompt}"
    return sorted(word for word in known if word in text and word not in models.embeddings)


def _refuse_what_has_no_code(options: argparse.Namespace) -> None:
    if options.facein_model_name not in (None, *NO):
        raise EngineError(
            "MuseV names FaceIn but has no code for it", options.facein_model_name,
            "Use --ip_adapter_face_model_name IPAdapterFaceID with --face_image_path.", code="not_supported",
        )  # fmt: skip


def _source(options: argparse.Namespace) -> Path:
    """The folder that `load_models` reads: named, found beside MuseV's files, or this user's models folder."""
    if options.checkpoints:
        return _existing(options.checkpoints, "--checkpoints")
    given = Path(options.unet_model_cfg_path)
    if given.is_dir():
        if (given / "vae").is_dir():  # a whole model in the hub's layout
            return given
        root = next((up for up in given.absolute().parents if (up / "motion").is_dir()), None)
        if root is None:
            raise EngineError(
                "This motion model lies in no checkpoints folder", given,
                "Put it into checkpoints/motion, or name the folder with --checkpoints.", code="bad_model",
            )  # fmt: skip
        return root
    for path in (given, Path(options.sd_model_cfg_path)):  # MuseV's configs/model/….py
        beside = path.absolute().parents[min(2, len(path.absolute().parents) - 1)] / "checkpoints"
        if path.is_file() and beside.is_dir():
            return beside
    if "unet_model_cfg_path" in options.given:
        return _existing(options.unet_model_cfg_path, "--unet_model_cfg_path")
    known = plugins.found("musev.motion_models")
    if options.unet_model_name not in known:
        near = difflib.get_close_matches(options.unet_model_name, known, n=2) or list(known)
        raise EngineError(
            "No motion model has this name", options.unet_model_name, f"Did you mean {' or '.join(near)}?",
            code="bad_model",
        )  # fmt: skip
    places = [Path("checkpoints"), *registry.folders()]
    source = next((place for place in places if (place / "motion").is_dir()), None)
    if source is None:
        raise EngineError(
            "There are no motion models here", " or ".join(str(place) for place in places),
            f"Run: musev models download {options.unet_model_name}; or take the embedded one: --sd_model_name "
            f"{SHIPPED}.", code="missing_model",
        )  # fmt: skip
    return source


def _checked(models: Models, options: argparse.Namespace) -> Models:
    """Parts switched off; a width that was given must be the model's."""
    width = models.unet.config.cross_attention_dim
    if "cross_attention_dim" in options.given and options.cross_attention_dim != width:
        raise EngineError(
            f"{models.name} has another cross_attention_dim", options.cross_attention_dim,
            f"Give {width}, or leave it out.", code="bad_model",
        )  # fmt: skip
    if options.ip_adapter_model_name in _switched_off(options):
        models = replace(models, image_encoder=None, image_proj=None)
    return models


def _switched_off(options: argparse.Namespace) -> tuple[str | None, ...]:
    """The names by which a part is left out; in MuseV that is also not to name it."""
    return (None, *NO) if options.compat == "musev" else NO


def _wants_referencenet(options: argparse.Namespace) -> bool:
    return options.referencenet_model_name not in (*_switched_off(options), "reference_only")


def _controlnets(options: argparse.Namespace) -> list[str]:
    """The ControlNets of the controls that are named."""
    names = (getattr(options, "controlnet_name", None) or "").split(",")
    return list(dict.fromkeys(find_control(name.strip()).controlnet for name in names if name.strip()))


def _loras(options: argparse.Namespace) -> list[tuple[Path, float]]:
    loras = []
    for text in filter(None, (options.lora or "").split(",")):
        path, _, weight = text.strip().rpartition(":")
        try:
            loras.append((_lora(path), float(weight)) if path else (_lora(weight), 1.0))
        except ValueError as error:
            if isinstance(error, EngineError):
                raise
            loras.append((_lora(text.strip()), 1.0))  # a colon that belongs to the path
    for path, _ in loras:  # before anything large is read
        check_lora(path)
    if options.lcm_model_name:
        given = Path(options.lcm_model_cfg_path)
        found = (
            [given]
            if given.suffix == ".safetensors"
            else sorted(given.rglob("*.safetensors"))
            if given.is_dir()
            else []
        )
        loras.append((found[0] if found else registry.find("lcm-lora-sdv1-5"), 1.0))
    return loras


def _lora(text: str) -> Path:
    """A file, or one of the models folder by its id."""
    model = None if Path(text).expanduser().exists() else registry.listing().get(text)
    return (
        registry.find(model.id) if model is not None and model.role == "lora" else _existing(text, "--lora")
    )


def _embeddings(source: Path, options: argparse.Namespace) -> list[Path]:
    """The textual inversions that the negative prompts name, in the folder or else the models folder."""
    texts = [each.prompt for each in NEGATIVE_SETS.values()]
    texts += [
        negative_prompt(text, options.negprompt_cfg_path)
        for text in (options.negative_prompt, options.video_negative_prompt)
    ]
    folder = source / "embedding"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    there = {
        path.stem: path
        for path in files
        if path.suffix in (".pt", ".safetensors", ".bin") and any(path.stem in text for text in texts)
    }
    words = [one.id for one in known_models.known().values() if one.role == "embedding"]
    elsewhere = {
        word: registry.find(word) for word in words if word not in there and registry.installed(word)
    }
    return [*there.values(), *elsewhere.values()]


def _existing(text: str, option: str) -> Path:
    path = Path(text).expanduser()
    if not path.exists():
        raise EngineError(
            f"{option} names what isn't there", path, "Give the path of a file or folder.", code="bad_model"
        )
    return path
