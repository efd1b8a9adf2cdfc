"""Checks of everything but the networks and whole loops: windows, guidance, noise, schedulers, prompts, helpers.

`tests.parity` runs them. What a case asks for comes from its own files alone.
"""

import re
from math import ceil
from pathlib import Path

import diffusers
import torch
from torch import Tensor

from musev_engine.conditions import aligned
from musev_engine.models.unet import insert_condition_frames
from musev_engine.prompts import encode_prompts, parse_prompt
from musev_engine.sampling import draw_noise, guidance_scales, scheduler_step
from musev_engine.schedulers import set_timesteps
from musev_engine.shots import blend
from musev_engine.windows import halving, plan_windows, uniform_at_step
from tests.golden_data import (
    Case,
    Comparison,
    NotCovered,
    atol_of_text,
    compare,
    compare_values,
    read_json,
)
from tests.golden_models import text_encoder_and_tokenizer

EXACT, DRAWN = 1e-9, 1e-5
ROUNDED = 2.0**-22  # float32's rounding of the largest value there is, on both sides


def check_context(directory: Path, root: Path) -> list[Comparison]:
    """The windows of every length, size and overlap."""
    results = []
    for case in read_json(directory / "windows.json"):
        size, overlap, batch = (case[f"context_{name}"] for name in ("frames", "overlap", "batch_size"))
        name, length, stride = case["context_schedule"], case["time_size"], case["context_stride"]
        plan = plan_windows(name, length, size, overlap, context_stride=stride)
        windows = [window.frames for window in plan]
        batches = [windows[first : first + batch] for first in range(0, len(windows), batch)]
        results.append(compare_values(f"{name} {length}/{size}/{overlap}", batches, case["windows"]))
    raw = directory / "raw_uniform.json"
    for case in read_json(raw) if raw.exists() else ():
        if "windows" in case:
            windows = uniform_at_step(
                case["num_frames"], case["context_size"], case["context_overlap"],
                context_stride=case["context_stride"], step=case["step"], closed_loop=case["closed_loop"],
            )  # fmt: skip
            got = [window.frames for window in windows]
            results.append(compare_values(f"step {case['step']}", got, case["windows"]))
        for step, expected in case.get("ordered_halving", {}).items():
            results.append(compare_values(f"halving {step}", halving(int(step)), expected))
    return results


def check_guidance(directory: Path, root: Path) -> list[Comparison]:
    """The guidance scale of every step."""
    return [
        compare_values(
            f"{case['method']} {case['start']} to {case['stop']} in {case['num']}",
            guidance_scales(case["start"], case["stop"], case["num"], case["method"]),
            case["values"],
            atol=EXACT,
        )
        for case in read_json(directory / "schedules.json")
    ]


def check_noise(directory: Path, root: Path) -> list[Comparison]:
    """Initial noise; which kind each tensor is, its name says."""
    case = Case(directory, root)
    shape, seed, results = tuple(case.info["shape"]), case.info["seed"], []
    for key, expected in case.tensors.items():
        kind = re.fullmatch(
            r"out\.(random|video_fusion)(?:_w([\d.]+))?(_initial_common|_generator_list)?", key
        )
        if kind is None:
            if key.startswith("out."):
                raise NotCovered(f"no way to draw {key} is known")
            continue
        noise_type, weight, how = kind.groups()
        options = {"noise_type": noise_type} | ({"w_ind_noise": float(weight)} if weight else {})
        generator = torch.Generator().manual_seed(seed)
        if how == "_initial_common":
            options["common"] = case.tensors["in.initial_common_noise"]
        if how == "_generator_list":
            generator = [torch.Generator().manual_seed(one) for one in case.info["generator_list_seeds"]]
            options["w_ind_noise"] = case.info["generator_list_w_ind_noise"]
        size = (len(generator), *shape[1:]) if isinstance(generator, list) else shape
        results.append(compare(key, draw_noise(size, generator, **options), expected, atol=DRAWN))
    return results


def check_scheduler(directory: Path, root: Path) -> list[Comparison]:
    """Every step of a scheduler, and what it leaves in the generator."""
    case = Case(directory, root)
    info, tensors = case.info, case.tensors
    config = {key: value for key, value in info["config"].items() if key != "_use_default_values"}
    scheduler = getattr(diffusers, info["cls"].rpartition(".")[2])(**config)
    timesteps = set_timesteps(scheduler, info["num_inference_steps"], compat="musev")
    results = [
        compare("timesteps", timesteps.float(), tensors["timesteps"].float(), atol=DRAWN),
        compare_values(
            "init_noise_sigma",
            float(scheduler.init_noise_sigma),
            info["init_noise_sigma"],
            atol=DRAWN * max(1.0, info["init_noise_sigma"]),
        ),
    ]
    if "sigmas" in tensors:
        results.append(compare("sigmas", scheduler.sigmas, tensors["sigmas"], atol=DRAWN, rtol=ROUNDED))

    kwargs, latents = info["step_kwargs"], tensors["x_init"]
    generator = torch.Generator().manual_seed(info["seed"])
    for step, t in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, t)
        expected = tensors[f"step{step}.scaled_input"]
        results.append(compare(f"step{step}.scaled", scaled, expected, atol=DRAWN, rtol=ROUNDED))
        latents, _ = scheduler_step(
            scheduler, tensors[f"step{step}.model_output"], t, latents, generator,
            eta=kwargs.get("eta", 0.0), noise_type=kwargs.get("noise_type", "random"),
            w_ind_noise=kwargs.get("w_ind_noise", 0.5), compat="musev",
        )  # fmt: skip
        expected = tensors[f"step{step}.prev_sample"]
        results.append(compare(f"step{step}.latents", latents, expected, atol=DRAWN, rtol=ROUNDED))
        latents = expected if latents.shape == expected.shape else latents
    probe = torch.randn(4, generator=generator)
    results.append(compare("generator", probe, tensors["generator_probe_after"], atol=DRAWN))
    noised = scheduler.add_noise(tensors["add_noise.x0"], tensors["add_noise.noise"], timesteps[:1])
    return [*results, compare("add_noise", noised, tensors["add_noise.out_t0"], atol=DRAWN, rtol=ROUNDED)]


def check_text_embeddings(directory: Path, root: Path) -> list[Comparison]:
    """Weighted prompts through CLIP."""
    case, (text_encoder, tokenizer) = Case(directory, root), text_encoder_and_tokenizer(root)
    results = []
    for each in case.info["cases"]:
        names = {"prompt_embeds": each["prompt"], "uncond_embeds": each["uncond_prompt"]}
        texts = {f"{each['i']}.{name}": text for name, text in names.items() if text is not None}
        embeds = encode_prompts(text_encoder, tokenizer, list(texts.values()))
        for name, got in zip(texts, embeds.split(1), strict=True):
            results.append(compare(name, got, case.tensors[name], atol=atol_of_text(got)))
    return results


def check_text_parse(path: Path, root: Path) -> list[Comparison]:
    """Prompts and the weighted segments that they fall into."""
    return [
        compare_values(
            repr(prompt), [list(segment) for segment in parse_prompt(prompt)], segments, atol=EXACT
        )
        for prompt, segments in read_json(path)
    ]


def check_text_overlong_error(path: Path, root: Path) -> list[Comparison]:
    """What the original raises for prompts of more than three chunks. Ours reads them to their end."""
    text_encoder, tokenizer = text_encoder_and_tokenizer(root)
    tokens_a_word, results = len(tokenizer("cat", add_special_tokens=False).input_ids), []
    for chunks in (4, 6):
        words = 75 * chunks // tokens_a_word
        embeds = encode_prompts(text_encoder, tokenizer, ["cat " * words])
        rows = 77 * ceil(words * tokens_a_word / 75)
        results.append(compare_values(f"{words} words", embeds.shape[1], rows))
        results.append(compare_values("finite", bool(embeds.isfinite().all()), True))
    return results


def check_tensor_utils(directory: Path, root: Path) -> list[Comparison]:
    """The original's helpers: rows repeated for a larger batch, frames laid into one sequence, latents that lean on
    older ones. And its AdaIN: the UNet's call of it changes nothing, so the engine has none."""
    tensors, results = Case(directory, root).tensors, []
    for key, expected in tensors.items():
        if key.startswith("align.to_"):
            got = aligned(tensors["align.in"], len(expected))
            results.append(compare(key, got, expected, atol=DRAWN))
        elif fuse := re.fullmatch(r"fuse\.out_overlap(\d+)_w([\d.]+)_skip(\d+)", key):
            overlap, weight, first = int(fuse[1]), float(fuse[2]), int(fuse[3])
            old = tensors["fuse.src"][:, :, -overlap:]
            got = blend(tensors["fuse.dst"], old, weight, first)
            results.append(compare(key, got, expected, atol=DRAWN))
    sample, mixed = tensors["adain.in"], tensors.get("concat.out")
    if mixed is not None:  # of two parts of `sample`, wherever it was cut: which frame stands where is all
        place = [_nearest(sample[:, :, i], mixed) for i in range(sample.shape[2])]
        got = insert_condition_frames(
            sample[:, :, 1:], sample[:, :, :1], torch.tensor(place[1:]), torch.tensor(place[:1])
        )
        results.append(compare("concat.out", got, mixed, atol=DRAWN))
    results.append(
        compare(
            "adain.out_4d_as_called_by_unet",
            sample.transpose(1, 2).flatten(0, 1),
            tensors["adain.out_4d_as_called_by_unet"],
            atol=DRAWN,
        )
    )
    # the root of what is almost zero magnifies the original's rounding
    return [*results, compare("adain.out_5d", _adain(sample.double()), tensors["adain.out_5d"], atol=1e-4)]


def _nearest(frame: Tensor, frames: Tensor) -> int:
    return int((frames - frame[:, :, None]).abs().amax(dim=(0, 1, 3, 4)).argmin())


def _adain(sample: Tensor) -> Tensor:
    """What the original's would do to frames 1… if it were called as it was meant: each channel gets the first
    frame's statistics, but with mean and variance swapped, and a negative "variance" taken as 0."""
    first, rest = sample[:, :, :1], sample[:, :, 1:]
    mean, variance = rest.mean((2, 3, 4), keepdim=True), rest.var((2, 3, 4), correction=0, keepdim=True)
    swapped_mean = first.var((2, 3, 4), correction=0, keepdim=True)
    swapped_variance = first.mean((2, 3, 4), keepdim=True).clamp(min=0)
    moved = (rest - mean) / (variance + 1e-6).sqrt() * (swapped_variance + 1e-6).sqrt() + swapped_mean
    return torch.cat([first, moved], dim=2)


CHECKS = {
    "context": check_context,
    "guidance": check_guidance,
    "noise": check_noise,
    "scheduler": check_scheduler,
    "tensor_utils": check_tensor_utils,
    "text_embeddings": check_text_embeddings,
    "text_parse": check_text_parse,
    "text_overlong_error": check_text_overlong_error,
}
