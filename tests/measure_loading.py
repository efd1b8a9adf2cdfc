"""How much memory loading takes: writes a full-size `musev_referencenet` set of random float16 weights (about 7 GB of
disk), loads it in a process of its own and prints the peak beside the weights.

    python -m tests.measure_loading                the published sizes
    python -m tests.measure_loading --small        the same at about a quarter of the widths
    python -m tests.measure_loading --device cuda  what the device's allocator peaked at, too
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BASE = ("conv_in", "conv_norm_out", "conv_out", "time_embedding", "down_blocks", "mid_block", "up_blocks")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="measure_loading", description="Peak memory of loading, full size.")
    parser.add_argument("--folder", type=Path, help="where to write the set (default: a temporary folder)")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        _load(args.child, args.device)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "motion").is_dir():
            write_set(folder, args.small)
        command = [
            sys.executable,
            "-m",
            "tests.measure_loading",
            "--child",
            str(folder),
            "--device",
            args.device,
        ]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(told.splitlines()[-1])
    print(json.dumps(figures, indent=1))
    return 0


def write_set(folder: Path, small: bool = False) -> None:
    """MuseV's `checkpoints` folder with random weights: motion UNet, an image model, ReferenceNet, image projection
    and vision encoder; `small`: of a fraction of the widths."""
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    from musev_engine.models.config import SD15, unet_config
    from musev_engine.models.projections import ImageProjModel
    from musev_engine.models.referencenet import ReferenceNet
    from musev_engine.models.unet import UNet3D
    from musev_engine.networks import MOTION_KEYS
    from musev_engine.training.words import write_tokenizer

    motion, image = folder / "motion" / "musev_referencenet", folder / "t2i" / "sd1.5" / "random"
    text, seen, shown = (192, 320, 256) if small else (768, 1280, 1024)
    sizes = {"block_out_channels": [64, 128, 256, 256], "cross_attention_dim": text} if small else {}
    config = unet_config("musev_referencenet", **sizes)
    vae = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "layers_per_block": 2,
           "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}  # fmt: skip
    text_config = CLIPTextConfig(
        hidden_size=text, intermediate_size=4 * text, num_attention_heads=12, eos_token_id=2
    )
    vision = CLIPVisionConfig(hidden_size=seen, intermediate_size=4 * seen, num_hidden_layers=32,
                              num_attention_heads=16, projection_dim=shown, patch_size=14)  # fmt: skip
    with torch.device("meta"):
        unet = UNet3D.from_config(config)
        networks = {
            motion / "unet": (unet, config),
            image / "unet": (unet, {}),
            motion / "referencenet": (ReferenceNet.from_config({key: config[key] for key in SD15}), {}),
            image / "vae": (AutoencoderKL.from_config(vae), vae),
            image / "text_encoder": (CLIPTextModel(text_config), text_config.to_dict()),
            folder / "IP-Adapter" / "image_encoder": (
                CLIPVisionModelWithProjection(vision),
                vision.to_dict(),
            ),
        }
        projection = ImageProjModel(shown, text)
    for place, (network, published) in networks.items():
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(published))
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        if place == image / "unet":
            shapes = {
                key: shape for key, shape in shapes.items() if not any(part in key for part in MOTION_KEYS)
            }
        file = "model" if place.name.endswith("_encoder") else "diffusion_pytorch_model"
        _write_random(place / f"{file}.safetensors", shapes)
    shapes = {f"image_proj.{key}": tuple(value.shape) for key, value in projection.state_dict().items()}
    _write_random(motion / "ip_adapter_image_proj.safetensors", shapes)
    write_tokenizer(image / "tokenizer")


def _write_random(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of float16 numbers, written piece by piece: the set never lies in memory."""
    import numpy as np

    header, end = {}, 0
    for key, shape in shapes.items():
        size = 2 * int(np.prod(shape, dtype=np.int64))
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    draw = np.random.default_rng(0)
    piece = (draw.standard_normal(2**20) * 0.02).astype(np.float16).tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for size in _pieces(end, len(piece)):
            file.write(piece[:size])


def _pieces(total: int, most: int) -> Iterator[int]:
    while total > 0:
        yield min(total, most)
        total -= most


def _load(folder: Path, device: str) -> None:
    """Load, and print the figures. Peaks are the whole process's: Python, torch and diffusers too."""
    import torch

    from musev_engine.loading import load_models

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.monotonic()
    models = load_models(folder, motion="musev_referencenet", device=device, dtype=torch.float16)
    seconds = time.monotonic() - start
    parts = {name: getattr(models, name) for name in
             ("unet", "referencenet", "vae", "text_encoder", "image_encoder", "image_proj")}  # fmt: skip
    weights = {
        name: sum(value.numel() * value.element_size() for value in part.state_dict().values())
        for name, part in parts.items()
    }
    total, peak = sum(weights.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "weights_bytes": total,
        "peak_bytes": peak,
        "before_bytes": before,
        "peak_over_weights": round(peak / total, 3),
        "seconds": round(seconds, 1),
    }
    if device.startswith("cuda"):
        on_device = torch.cuda.max_memory_allocated()
        figures |= {"device_peak_bytes": on_device, "device_peak_over_weights": round(on_device / total, 3)}
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(main())
