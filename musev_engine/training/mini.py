"""`musev train mini`: makes the clips, trains the embedded model on them from scratch, and packs it for shipping.

Every stage leaves its result in the work folder and is skipped or resumed when the command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from musev_engine.training.autoencoder import sharpen_decoder, train_autoencoder
from musev_engine.training.data import load_clips
from musev_engine.training.denoiser import (
    CLIP_MEAN,
    CLIP_STD,
    EYE,
    NATIVE_FPS,
    PACKED,
    REFERENCE,
    SCHEDULER,
    UNET,
    Denoiser,
    Encoded,
    encode,
    train_denoiser,
)  # fmt: skip
from musev_engine.training.loop import Schedule
from musev_engine.training.words import write_tokenizer

ASSETS = Path(__file__).parents[1] / "assets" / "mini"
CHECKOUT = Path(__file__).parents[2]
BLENDER_PYTHON = CHECKOUT / ".venv-blender" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
SHOWN = 16  # clips kept out of training, for the sample sheets


@dataclass(frozen=True)
class Recipe:
    """What the shipped weights depend on, as the model card says it."""

    clips: int = 2000
    seed: int = 1
    vae_steps: int = 4000
    vae_rate: float = 1.5e-3
    decoder_steps: int = 1000
    decoder_rate: float = 1e-3
    frame_steps: int = 6000
    frame_rate: float = 8e-4
    time_steps: int = 1000
    time_rate: float = 5e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for clips, checkpoints and sample sheets"
    )
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder the trained model is packed into")
    parser.add_argument("--blender-python", default=str(BLENDER_PYTHON), help="a Python that has bpy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads to use")
    parser.add_argument(
        "--start", type=Path, help="folder of a packed model to go on from (default: from scratch)"
    )
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="compile what can be (a third faster on a CPU; needs a C++ compiler)",
    )
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    for stage in ("vae", "decoder", "frames", "time"):
        parser.add_argument(
            f"--{stage}-minutes", type=float, help=f"end (annealed) the {stage} stage after this time"
        )


def run(args: argparse.Namespace) -> int:
    recipe = Recipe(**{name: getattr(args, name) for name in Recipe.__dataclass_fields__})
    if args.threads:
        torch.set_num_threads(args.threads)
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)

    clips_folder = work / "clips"
    if len(list(clips_folder.glob("*.npz"))) < recipe.clips:
        render_clips(args.blender_python, clips_folder, recipe.clips, recipe.seed)
    clips = load_clips(clips_folder, recipe.clips)

    vae_folder = work / "vae"
    if not vae_folder.exists():
        schedule = Schedule(recipe.vae_steps, recipe.vae_rate, minutes=args.vae_minutes)
        vae = AutoencoderKL.from_pretrained(args.start / "vae") if args.start else None
        vae = train_autoencoder(
            clips, work, schedule, args.device, recipe.seed, start=vae, compiled=args.compiled
        )
        schedule = Schedule(
            recipe.decoder_steps, recipe.decoder_rate, minutes=args.decoder_minutes, ema=0.995
        )
        sharpen_decoder(vae, clips, work, schedule, args.device, recipe.seed)
        vae.save_pretrained(vae_folder)
    vae = AutoencoderKL.from_pretrained(vae_folder).to(args.device).eval()

    vocabulary = write_tokenizer(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    encoded = encode(clips, vae, tokenizer, work, args.device, recipe.seed, variants=2)
    shown, learnt = (
        _part(encoded, range(SHOWN)),
        _part(encoded, np.flatnonzero(np.arange(len(encoded.ids)) % len(clips) >= SHOWN)),
    )
    empty = np.array(tokenizer("", padding="max_length").input_ids)
    model = train_denoiser(
        learnt, shown, vae, vocabulary, empty, work,
        Schedule(recipe.frame_steps, recipe.frame_rate, minutes=args.frames_minutes),
        Schedule(recipe.time_steps, recipe.time_rate, minutes=args.time_minutes),
        args.device, recipe.seed, start=args.start,
    )  # fmt: skip
    pack(model, vae, work / "tokenizer", args.out, model_card(recipe, work, len(clips), args.start))
    print(f"Packed into {args.out}; now measure it: musev bench quality")
    return 0


def render_clips(python: str, folder: Path, clips: int, seed: int, *more: str) -> None:
    """Renders in as many Blenders as there are cores; raises `RuntimeError` with what Blender said if one fails."""
    if shutil.which(python) is None:
        raise FileNotFoundError(
            f"no Python with bpy at {python!r}: run `make setup`, or name one with --blender-python"
        )
    share = max(1, torch.get_num_threads())
    command = [
        python,
        "-m",
        "musev_engine.training.render_clips",
        str(folder.resolve()),
        "--clips",
        str(clips),
        "--seed",
        str(seed),
    ]
    jobs = [
        subprocess.Popen(
            [*command, "--first", str(k), "--step", str(share), *more],
            stdout=subprocess.DEVNULL,
            cwd=CHECKOUT,
        )
        for k in range(share)
    ]
    if any([job.wait() for job in jobs]):
        raise RuntimeError(f"rendering clips into {folder} failed; the lines above are Blender's")


def _part(data: Encoded, rows) -> Encoded:
    return Encoded(**{name: getattr(data, name)[list(rows)] for name in Encoded.__dataclass_fields__})


# -------------------------------------------------------------------------------------------------- shipping
def model_card(recipe: Recipe, work: Path, num_clips: int, start: Path | None = None) -> str:
    """What the weights are, from what and how they were made, and what may be done with them."""

    def steps(stage: str) -> int:
        return torch.load(work / f"{stage}.pt", map_location="cpu", weights_only=True, mmap=True)["step"]

    begun = (
        "from nothing" if start is None else "from the weights of the version before, as its own card tells"
    )
    return f"""---
license: cc0-1.0
library_name: musev-for-blender
native_fps: {NATIVE_FPS}
pose_pictures: body
---
# mini: the embedded model

A small model of MuseV's `musev_referencenet_pose` architecture (VAE, CLIP text and image encoders, UNet with layers
along time, ReferenceNet, image projection, pose ControlNet), trained from scratch by `musev train mini`. It
draws plain 3-D figures on plain sets at 128 x 128 pixels, in the pose of a rig and with the colours and clothes of a
still. It knows nothing else of the world.

- **Data**: {num_clips} clips of 13 frames, rendered by Blender from procedurally varied rigged characters
  (`musev_engine/training/characters.py`, `render_clips.py`, seed {recipe.seed}); no other picture.
- **Begun** {begun}.
- **VAE**: {steps("vae")} steps, peak learning rate {recipe.vae_rate}.
- **Decoder** (the VAE's, alone): {steps("decoder")} more steps, peak learning rate {recipe.decoder_rate}.
- **Frames** (all but the layers along time): {steps("frames")} steps, peak learning rate {recipe.frame_rate}.
- **Time** (the layers along time): {steps("time")} steps, peak learning rate {recipe.time_rate}.
- **Seed** {recipe.seed}; v-prediction, zero terminal SNR, trailing steps; shipped as float16.
- **Licence**: CC0 1.0. Use it for anything. The code that made it is GPL-3.0-or-later.
- **Quality**: `musev bench quality` measures it on 20 characters that it was never trained on.
"""


def pack(model: Denoiser, vae: AutoencoderKL, tokenizer: Path, out: Path, card: str) -> None:
    """Writes the model as float16 safetensors in the hub's folder layout (whole or not at all)."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for name, config in (
        ("unet", UNET),
        ("referencenet", REFERENCE),
        ("controlnet", _own_config(model.controlnet)),
        ("vae", _own_config(vae)),
        ("text_encoder", model.text_encoder.config.to_dict()),
        ("image_encoder", model.image_encoder.config.to_dict()),
    ):
        (part / name).mkdir(parents=True)
        (part / name / "config.json").write_text(json.dumps(config, indent=1, default=list) + "\n")
    save_file(_half(vae), part / "vae" / "diffusion_pytorch_model.safetensors")
    for name, file in PACKED.items():
        prefix = "image_proj." if name == "image_proj" else ""
        state = _half(getattr(model, name))
        save_file({prefix + key: value for key, value in state.items()}, part / file)
    (part / "scheduler").mkdir()
    (part / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDIMScheduler"} | SCHEDULER, indent=1) + "\n"
    )
    sees = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": EYE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": EYE, "width": EYE}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
        "do_convert_rgb": True,
    }  # fmt: skip
    (part / "image_encoder" / "preprocessor_config.json").write_text(json.dumps(sees, indent=1) + "\n")
    shutil.copytree(tokenizer, part / "tokenizer")
    (part / "README.md").write_text(card)
    (part / "model_index.json").write_text(
        json.dumps({"_class_name": "MuseV", "variant": "musev_referencenet_pose"}) + "\n"
    )
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def _half(network: nn.Module) -> dict[str, torch.Tensor]:
    return {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in network.state_dict().items()
        if not key.endswith("position_ids")
    }


def _own_config(network: AutoencoderKL) -> dict:
    return {
        key: value
        for key, value in network.config.items()
        if key not in ("_name_or_path", "_use_default_values")
    }


if __name__ == "__main__":
    own = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(own)
    sys.exit(run(own.parse_args()))
