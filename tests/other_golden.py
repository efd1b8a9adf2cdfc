"""A golden directory of other sizes, depths and mixtures than the open one, written by ours: what `tests.parity` can be
tried on. It says nothing about the original; it says that the checks are tied to no size and see what is wrong.
"""

import json
import shutil
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from musev_engine.models.config import unet_config
from musev_engine.models.projections import ImageProjModel
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D
from tests.golden_data import Case, load_tensors, read_json
from tests.golden_models import golden_models
from tests.parity_links import Links
from tests.parity_pipeline import Loop
from tests.parity_predictor import clip_of, follow

WIDTHS, TEXT, IMAGE = [32, 32, 64, 64], 24, 20
SIZES = {
    "block_out_channels": WIDTHS, "layers_per_block": 2, "attention_head_dim": 2, "cross_attention_dim": TEXT,
    "norm_num_groups": 16, "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
}  # fmt: skip
HEIGHT, WIDTH = 64, 96
SCHEDULERS = {
    "pipeline/pose": "DDIMScheduler", "pipeline/batch": "DDPMScheduler", "pipeline/several": "LCMScheduler",
    "pipeline/face": "EulerAncestralDiscreteScheduler", "predictor/face": "DDIMScheduler",
}  # fmt: skip
PROMPTS = {"prompt": "a (red:1.4) cat", "negative_prompt": "bad"}
STEPS = {"num_inference_steps": 2, "guidance_scale": 2.0, "context_schedule": "uniform_v2"}

# name -> variant, components, arguments, pictures (name: frames), ControlNets by their places, frames of the video
CASES = {
    "pipeline/batch": ("musev", {}, {
        "prompt": ["a cat", "the (quick:1.2) fox"], "negative_prompt": "bad", "video_length": 5,
        "num_inference_steps": 3, "guidance_scale": 5.0, "guidance_scale_end": 2.0,
        "guidance_scale_method": "three_stage", "context_schedule": "uniform", "context_frames": 3,
        "context_overlap": 1, "context_stride": 2, "noise_type": "video_fusion", "w_ind_noise": 0.2,
        "need_img_based_video_noise": True, "img_weight": 0.01, "motion_speed": 2.0,
    }, {"condition_images": 2}, [], 7),
    "pipeline/single": ("musev", {}, PROMPTS | {
        "video_length": 1, "num_inference_steps": 2, "guidance_scale": 1.0, "skip_temporal_layer": True,
    }, {}, [], 1),
    "pipeline/pose": ("musev_referencenet_pose", {"ip": True, "refer": True, "controlnet": "ControlNetModel"},
        PROMPTS | STEPS | {
        "video_length": 6, "context_frames": 4, "context_overlap": 0, "controlnet_conditioning_scale": 0.6,
        "control_guidance_start": 0.5, "ip_adapter_scale": 0.4, "motion_speed": 3.0,
    }, {"condition_images": 1, "refer_image": 1, "ip_adapter_image": 2, "control_image": 6,
        "controlnet_condition_images": 1}, [1], 7),
    "pipeline/several": ("musev", {"controlnet": "MultiControlNetModel"}, PROMPTS | STEPS | {
        "video_length": 3, "controlnet_conditioning_scale": [0.5, 1.0], "latents": "see in.latents",
    }, {"control_image.0": 3, "control_image.1": 3}, [0, 1], 3),
    "pipeline/face": ("musev_referencenet_face", {"ip": True, "refer": True, "face": True}, PROMPTS | STEPS | {
        "video_length": 2, "ip_adapter_face_scale": 0.6, "guidance_scale": 3.0, "noise_type": "video_fusion",
    }, {"condition_images": 1, "refer_image": 1, "ip_adapter_image": 1}, [], 3),
    "predictor/face": ("musev_referencenet_face", {"ip": True, "refer": True, "face": True}, {
        "prompt": "a dog", "video_length": 3, "num_inference_steps": 2, "video_num_inference_steps": 2,
        "redraw_condition_image": True, "redraw_condition_image_with_ip_adapter_face": False,
        "context_schedule": "uniform_v2", "eta": 0.3,
    }, {"condition_images": 1, "refer_image": 1, "ip_adapter_image": 2}, [], 4),
    "predictor/shots": ("musev_referencenet", {"ip": True, "refer": True}, {
        "prompt": "a dog", "negative_prompt": "bad", "video_negative_prompt": "worse", "video_length": 3,
        "max_batch_num": 2, "n_vision_condition": 2, "num_inference_steps": 2, "video_num_inference_steps": 2,
        "guidance_scale": 4.0, "video_guidance_scale": 2.5, "fixed_refer_image": False,
        "fixed_ip_adapter_image": False, "noise_type": "random", "context_frames": 3, "context_overlap": 1,
        "context_schedule": "uniform_v2",
    }, {"condition_images": 2, "refer_image": 1, "ip_adapter_image": 1}, [], 8),
    "predictor/colours": ("musev", {}, {
        "prompt": "a dog", "video_length": 4, "num_inference_steps": 2, "video_num_inference_steps": 2,
        "need_hist_match": True, "noise_type": "video_fusion", "context_schedule": "uniform_v2",
    }, {}, [], 4),
    "predictor/followed": ("musev", {"controlnet": "ControlNetModel"}, {
        "prompt": "a dog", "time_size": 4, "max_batch_num": 2, "num_inference_steps": 2,
        "video_num_inference_steps": 2, "video_is_middle": False, "video_has_condition": False,
        "record_mid_video_latents": True, "video_overlap": 2, "context_schedule": "uniform_v2",
    }, {"condition_images": 1}, [1], 9),
}  # fmt: skip


class Recorder(Links):
    """Keeps what passes by, to be stored."""

    def __call__(self, name, got, atol):
        if got is not None:
            self.seen[name] = got.detach().float().clone().contiguous()
        return got


@torch.no_grad()
def write_other_golden(root: Path, open_set: Path) -> None:
    """Networks and cases. open_set: where configs of text and vision encoders, VAE and tokenizer are taken from."""
    _write_networks(root / "weights", open_set / "weights")
    torch.manual_seed(9)
    for seed, (name, (variant, components, args, given, nets, frames)) in enumerate(CASES.items()):
        directory = root / name
        directory.mkdir(parents=True)
        tensors = {
            f"in.{each}": torch.randint(0, 256, (1, 3, count, HEIGHT, WIDTH), dtype=torch.uint8)
            for each, count in given.items()
        }
        rows = len(args["prompt"]) if isinstance(args["prompt"], list) else 1
        tensors = {key: value.repeat(rows, 1, 1, 1, 1) for key, value in tensors.items()}
        if "face" in components:
            tensors["call0.ip_adapter_face_emb"] = torch.randn(2, 4, TEXT)
        if "latents" in args:
            tensors["in.latents"] = torch.randn(1, 4, args["video_length"], HEIGHT // 8, WIDTH // 8)
        info = {
            "kind": "run_pipe_video2video" if "time_size" in args else "other", "variant": variant,
            "unet_keys": f"weights/{variant}.unet.keys.json", "unet_weights": "weights/unet_union.safetensors",
            "generator": f'torch.Generator("cpu").manual_seed({77 + seed})', "args": args, "components": components,
            "video_shape": [rows, 3, frames, HEIGHT, WIDTH], "video_frames_stored": [0, frames // 2, frames - 1],
            "calls": {}, "scheduler_class": SCHEDULERS.get(name, "EulerDiscreteScheduler"),
        }  # fmt: skip
        if "time_size" in args:
            info["reader"] = {"time_size": args["time_size"], "sample_rate": 2}
            video = torch.randint(0, 256, (3, 2 * args["time_size"] + 1, HEIGHT, WIDTH), dtype=torch.uint8)
            tensors["in.video_frames_cthw_uint8"] = video
        (directory / "case.json").write_text(json.dumps(info))
        save_file(tensors, directory / "tensors.safetensors")

        case = Case(directory, root)
        links, models = Recorder(case), golden_models(case)
        used = [sorted(models.controlnets)[i] for i in nets]
        with links.watching(models):
            if name.startswith("pipeline"):
                Loop(links, models, used).run()
            else:
                follow(links, clip_of(case, used[0] if used else ""), models)
        info["calls"] = {key.split(".")[0]: {} for key in links.seen if key.startswith("call")}
        (directory / "case.json").write_text(json.dumps(info))
        save_file(tensors | links.seen, directory / "tensors.safetensors")


def _write_networks(folder: Path, given: Path) -> None:
    torch.manual_seed(8)
    folder.mkdir(parents=True)
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(given / name, folder / name)
    union: dict[str, torch.Tensor] = {}
    for variant in ("musev", "musev_referencenet", "musev_referencenet_pose", "musev_referencenet_face"):
        up = ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3
        published = variant.replace("_face", "_with_faceid")
        config = unet_config(published, **SIZES, up_block_types=up)
        state = _lively(UNet3D.from_config(config))
        union = state | union
        keys = {key: list(value.shape) for key, value in state.items()}
        (folder / f"{variant}.unet.keys.json").write_text(json.dumps(keys))
        (folder / f"{variant}.unet.config.json").write_text(json.dumps(config))
    save_file(union, folder / "unet_union.safetensors")

    configs = {name: read_json(given / f"{name}.config.json") for name in
               ("referencenet", "controlnet", "vae", "text_encoder", "image_encoder")}  # fmt: skip
    two = {key: [each.replace("3D", "2D") for each in value] if "types" in key else value
           for key, value in SIZES.items()}  # fmt: skip
    configs["referencenet"] |= SIZES
    configs["controlnet"] |= two
    configs["text_encoder"] |= {"hidden_size": TEXT, "num_attention_heads": 2}
    configs["image_encoder"] |= {"projection_dim": IMAGE}
    for name, config in configs.items():
        (folder / f"{name}.config.json").write_text(json.dumps(config))
    image_proj = _lively(ImageProjModel(IMAGE, TEXT, 3))
    for name, state in {
        "referencenet": _lively(ReferenceNet.from_config(configs["referencenet"])),
        "controlnet0": _lively(diffusers.ControlNetModel.from_config(configs["controlnet"])),
        "controlnet1": _lively(diffusers.ControlNetModel.from_config(configs["controlnet"])),
        "text_encoder": _lively(CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))),
        "image_encoder": _lively(CLIPVisionModelWithProjection(CLIPVisionConfig(**configs["image_encoder"]))),
        "ip_adapter_image_proj": {f"image_proj.{key}": value for key, value in image_proj.items()},
        "vae": load_tensors(given / "vae.safetensors"),
    }.items():
        save_file(state, folder / f"{name}.safetensors")


def _lively(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights in which no layer is left at zero."""
    return {
        key: torch.randn(value.shape) * 0.5 * max(1, value[0].numel()) ** -0.5
        if value.is_floating_point() and not value.any()
        else value.detach().clone().contiguous()
        for key, value in network.state_dict().items()
        if not key.endswith("position_ids")
    }
