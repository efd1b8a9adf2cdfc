"""Checks of everything but the networks: windows, guidance, noise, schedulers, prompts and whole loops.

`tests.parity` runs them. What a case asks for comes from its own files alone.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from musev_engine import frames
from musev_engine.conditions import Conditions, Control, image_tokens, predictor, reference_tokens
from musev_engine.models.projections import ImageProjModel
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D
from musev_engine.prompts import encode_prompts
from musev_engine.sampling import (
    denoise,
    draw_noise,
    guidance_scales,
    initial_latents,
    lean_noise,
    scheduler_step,
)
from musev_engine.schedulers import set_timesteps
from musev_engine.windows import halving, plan_windows, uniform_at_step
from tests.golden_data import (
    Case,
    Comparison,
    NotCovered,
    compare,
    compare_values,
    load_tensors,
    read_json,
    unet_files,
)

EXACT, DRAWN, LATENTS, PREDICTIONS, PICTURES = 1e-9, 1e-5, 2e-3, 1e-3, 2e-3


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
            "init_noise_sigma", float(scheduler.init_noise_sigma), info["init_noise_sigma"], atol=DRAWN
        ),
    ]
    if "sigmas" in tensors:
        results.append(compare("sigmas", scheduler.sigmas, tensors["sigmas"], atol=DRAWN))

    kwargs, latents = info["step_kwargs"], tensors["x_init"]
    generator = torch.Generator().manual_seed(info["seed"])
    for step, t in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, t)
        results.append(compare(f"step{step}.scaled", scaled, tensors[f"step{step}.scaled_input"], atol=DRAWN))
        latents, _ = scheduler_step(
            scheduler, tensors[f"step{step}.model_output"], t, latents, generator,
            eta=kwargs.get("eta", 0.0), noise_type=kwargs.get("noise_type", "random"),
            w_ind_noise=kwargs.get("w_ind_noise", 0.5), compat="musev",
        )  # fmt: skip
        results.append(
            compare(f"step{step}.latents", latents, tensors[f"step{step}.prev_sample"], atol=DRAWN)
        )
    probe = torch.randn(4, generator=generator)
    results.append(compare("generator", probe, tensors["generator_probe_after"], atol=DRAWN))
    noised = scheduler.add_noise(tensors["add_noise.x0"], tensors["add_noise.noise"], timesteps[:1])
    return [*results, compare("add_noise", noised, tensors["add_noise.out_t0"], atol=DRAWN)]


def check_text_embeddings(directory: Path, root: Path) -> list[Comparison]:
    """Weighted prompts through CLIP."""
    case, (text_encoder, tokenizer) = Case(directory, root), _text(root)
    results = []
    for each in case.info["cases"]:
        names = {"prompt_embeds": each["prompt"], "uncond_embeds": each["uncond_prompt"]}
        texts = {f"{each['i']}.{name}": text for name, text in names.items() if text is not None}
        embeds = encode_prompts(text_encoder, tokenizer, list(texts.values()))
        for name, got in zip(texts, embeds.split(1), strict=True):
            results.append(compare(name, got, case.tensors[name], atol=DRAWN))
    return results


# What a pipeline case may ask for, with what the original takes where it says nothing.
DEFAULTS = {
    "prompt": None, "negative_prompt": None, "video_length": None, "num_inference_steps": None,
    "guidance_scale": None, "guidance_scale_end": None, "guidance_scale_method": "linear", "eta": 0.0,
    "noise_type": "random", "w_ind_noise": 0.5, "need_img_based_video_noise": False, "img_weight": 0.001,
    "motion_speed": 8.0, "condition_images": None, "condition_latents": None, "latents": None,
    "add_latents_noise": False, "image": None, "strength": 1.0, "initial_common_latent": None,
    "refer_image": None, "ip_adapter_image": None, "ip_adapter_scale": 1.0, "ip_adapter_face_image": None,
    "ip_adapter_face_scale": 1.0, "control_image": None, "controlnet_condition_images": None,
    "controlnet_conditioning_scale": 1.0, "control_guidance_start": 0.0, "control_guidance_end": 1.0,
    "context_frames": 12, "context_overlap": 4, "context_stride": 1, "context_schedule": "uniform",
}  # fmt: skip


def check_pipeline(directory: Path, root: Path) -> list[Comparison]:
    """A whole loop: prompts, condition frames, noise, every window and step that is stored, pictures."""
    case = Case(directory, root)
    if directory.name.startswith("KNOWN_BUG"):
        raise NotCovered("documents a defect of the original")
    if "variant" not in case.info or case.info["kind"] != "MusevControlNetPipeline.__call__":
        raise NotCovered("serial denoising, where a shot takes up the one before")
    if other := sorted(case.info["args"].keys() - DEFAULTS.keys()):
        raise NotCovered(f"asks for {', '.join(other)}")
    loop, again = (_Loop(case, SimpleNamespace(**DEFAULTS | case.info["args"])) for _ in range(2))
    again.prepare()
    return [*loop.prepare(), *loop.run(), *again.run(on_stored_samples=True)]


class _Loop:
    """One pipeline case; `compared` takes what the case stores and leaves out what it doesn't."""

    def __init__(self, case: Case, args: SimpleNamespace):
        self.case, self.args, self.root = case, args, case.root
        config, state = unet_files(self.root, _unet_name(case))
        self.unet = _filled(UNet3D.from_config(config), state)
        self.vae = _network(self.root, "vae", diffusers.AutoencoderKL.from_config)
        self.generator = torch.Generator().manual_seed(int(re.findall(r"\d+", case.info["generator"])[-1]))

    def compared(self, name: str, got: Tensor, atol: float) -> list[Comparison]:
        expected = self.case.get(name)
        return [] if expected is None else [compare(name, got, expected, atol=atol)]

    def prepare(self) -> list[Comparison]:
        case, args = self.case, self.args
        scheduler_class = getattr(diffusers, case.info["scheduler_class"])
        self.scheduler = scheduler_class.from_config(case.info["scheduler_config"])
        self.timesteps = set_timesteps(self.scheduler, args.num_inference_steps, compat="musev")
        results = self.compared("call0.timesteps", self.timesteps.float(), DRAWN)
        if args.image and args.latents:  # elsewhere the original overlooks `strength`
            kept = min(int(args.num_inference_steps * args.strength), args.num_inference_steps)
            self.timesteps = self.timesteps[args.num_inference_steps - kept :]

        guided = args.guidance_scale > 1
        prompts = [args.prompt] if isinstance(args.prompt, str) else args.prompt
        negatives = args.negative_prompt or ""
        negatives = [negatives] * len(prompts) if isinstance(negatives, str) else negatives
        negatives = negatives if guided else []
        embeds = encode_prompts(*_text(self.root), negatives + prompts)
        clean = case.get("in.condition_latents")
        if args.condition_images:
            clean = self.encoded("in.condition_images")
        self.conditions = Conditions(
            embeds, guided, clean, motion_speed=args.motion_speed, image_scale=args.ip_adapter_scale,
            face_tokens=case.get("call0.ip_adapter_face_emb"), face_scale=args.ip_adapter_face_scale,
            controls=self.controls(),
        )  # fmt: skip
        results += self.compared("call0.prompt_embeds", embeds, DRAWN)
        if clean is not None:
            results += self.compared("call0.condition_latents", clean, LATENTS)
        return results + self.still() + self.noise()

    def still(self) -> list[Comparison]:
        """The image prompt and the reference."""
        given, results, tokens, reference = self.case.info["components"], [], None, None
        if given.get("ip") and self.args.ip_adapter_image:
            encoder = _network(self.root, "image_encoder", _vision)
            weights = load_tensors(self.root / "weights/ip_adapter_image_proj.safetensors")
            weights = {key.removeprefix("image_proj."): value for key, value in weights.items()}
            proj = ImageProjModel.from_state_dict(weights).eval()
            height, width = self.size()
            stills = [
                frames.fit_still(still, width, height, "musev", Image.Resampling.BICUBIC)
                for still in _pixels(self.case.tensors["in.ip_adapter_image"])[0]
            ]
            tokens = image_tokens(encoder, proj, np.stack(stills), self.conditions.guided)
            results += self.compared("call0.ip_adapter_image_emb", tokens, DRAWN)
        if given.get("refer") and self.args.refer_image:
            net = _network(self.root, "referencenet", ReferenceNet.from_config)
            maps = []
            net.register_forward_hook(lambda module, inputs, outputs: maps.append(outputs))
            text = self.conditions.prompt_embeds if tokens is None else tokens
            reference = reference_tokens(net, self.unet, self.encoded("in.refer_image"), text)
            ((down, mid),) = maps
            for i, each in enumerate(down):
                results += self.compared(f"call0.refer_down.{i}", each, PREDICTIONS)
            results += self.compared("call0.refer_mid", mid, PREDICTIONS)
        self.conditions = _with(self.conditions, image_tokens=tokens, reference=reference)
        return results

    def noise(self) -> list[Comparison]:
        case, args, clean = self.case, self.args, self.conditions.condition_latents
        given = case.get("in.latents")
        if given is not None and not args.add_latents_noise:
            self.latents = initial_latents(self.scheduler, given, self.timesteps[0])
            return self.compared("call0.init_latents", self.latents, LATENTS)
        height, width = self.size()
        batch = len(self.conditions.prompt_embeds) // (2 if self.conditions.guided else 1)
        shape = (batch, 4, args.video_length, height // 8, width // 8)
        common = case.get("in.initial_common_latent")
        noise = draw_noise(
            shape, self.generator, noise_type=args.noise_type, w_ind_noise=args.w_ind_noise, common=common
        )
        start = given if given is not None else self.encoded("in.image") if args.image else None
        if args.need_img_based_video_noise and clean is not None and start is None:
            noise = lean_noise(noise, clean, args.img_weight)
        self.latents = initial_latents(self.scheduler, noise, self.timesteps[0], start)
        return self.compared("call0.init_latents", self.latents, LATENTS)

    def run(self, on_stored_samples: bool = False) -> list[Comparison]:
        """The loop by itself: what the network is given, the latents, the pictures. Or, once more, with the
        case's own samples given to the network: its predictions. These untrained networks make a difference
        fifty times larger (measured; the original's own roundings too), and a prediction compared at the end
        of a loop of our own would say nothing about it."""
        clean, results, calls = self.conditions.condition_latents, [], []

        def before(unet, inputs):
            here = f"call0.step{len(calls) // self.num_windows}.win{len(calls) % self.num_windows}"
            stored = self.case.get(f"{here}.unet_sample")
            calls.append(here)
            if stored is None:
                return None
            if not on_stored_samples:
                results.extend(self.compared(f"{here}.unet_sample", inputs[0], LATENTS))
                return None
            return (stored, *inputs[1:])

        def after(unet, inputs, out):
            if on_stored_samples:
                results.extend(self.compared(f"{calls[-1]}.unet_out", out, PREDICTIONS))

        self.unet.register_forward_pre_hook(before)
        self.unet.register_forward_hook(after)
        for state in self.states():
            here = f"call0.step{state.step}"
            if state.step_done and on_stored_samples and f"{here}.win0.unet_sample" in self.case.tensors:
                results += self.compared(f"{here}.noise_pred_guided", state.noise_pred, PREDICTIONS)
            elif state.step_done and not on_stored_samples:
                results += self.compared(f"{here}.latents_after", state.latents, LATENTS)
        if on_stored_samples:
            return results
        whole = state.latents if clean is None else torch.cat([clean, state.latents], dim=2)
        results += self.compared("out.latents", whole, LATENTS)
        video = torch.stack([torch.cat(list(frames.decode(self.vae, one))) for one in whole.split(1)])
        stored = video[:, self.case.info["video_frames_stored"]].transpose(1, 2)
        results += self.compared("out.video_frames", stored, PICTURES)
        return results + self.compared("out.video_frame_means", video.mean(dim=(2, 3, 4)), PICTURES)

    def states(self):
        args = self.args
        windows = plan_windows(
            args.context_schedule,
            self.latents.shape[2],
            args.context_frames,
            args.context_overlap,
            context_stride=args.context_stride,
        )
        self.num_windows = len(windows)
        guidance = guidance_scales(
            args.guidance_scale, args.guidance_scale_end, len(self.timesteps), args.guidance_scale_method
        )
        return denoise(
            predictor(self.unet, self.conditions, self.timesteps, guidance),
            self.latents,
            self.scheduler,
            self.timesteps,
            plan=lambda step: windows,
            generator=self.generator,
            eta=args.eta,
            noise_type=args.noise_type,
            w_ind_noise=args.w_ind_noise,
            compat="musev",
        )

    def controls(self) -> tuple[Control, ...]:
        if not self.case.info["components"].get("controlnet"):
            return ()
        images = self.case.get_list("in.control_image") or [self.case.tensors["in.control_image"]]
        clean = self.case.get_list("in.controlnet_condition_images")
        if not clean and self.case.get("in.controlnet_condition_images") is not None:
            clean = [self.case.tensors["in.controlnet_condition_images"]]
        scales, starts, ends = (
            value if isinstance(value, list) else [value] * len(images)
            for value in (
                self.args.controlnet_conditioning_scale,
                self.args.control_guidance_start,
                self.args.control_guidance_end,
            )
        )
        return tuple(
            Control(
                _network(self.root, f"controlnet{i}", diffusers.ControlNetModel.from_config, "controlnet"),
                _pixels(images[i])[0].__getitem__,
                _pixels(clean[i])[0] if clean else None,
                scales[i], starts[i], ends[i],
            )
            for i in range(len(images))
        )  # fmt: skip

    def size(self) -> tuple[int, int]:
        """Height and width of the pictures; the original's own are the video's."""
        return tuple(self.case.info["video_shape"][-2:])

    def pictures(self, name: str) -> np.ndarray:
        pictures = _pixels(self.case.tensors[name])
        if pictures.shape[2:4] != self.size():
            raise NotCovered(f"{name} is {pictures.shape[2:4]}, and the original's resizing isn't ours")
        return pictures

    def encoded(self, name: str) -> Tensor:
        return torch.cat([frames.encode(self.vae, clip) for clip in self.pictures(name)])


def _pixels(pictures: Tensor) -> np.ndarray:
    """(b, 3, t, h, w), 0..255 -> uint8 (b, t, h, w, 3)."""
    return pictures.permute(0, 2, 3, 4, 1).to(torch.uint8).numpy()


def _with(conditions: Conditions, **changes) -> Conditions:
    return Conditions(**{**conditions.__dict__, **changes})


def _unet_name(case: Case) -> str:
    """The variant, told from the list of keys that the case names."""
    return Path(case.info["unet_keys"]).name.removesuffix(".unet.keys.json")


def _vision(config: dict) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


def _network(root: Path, weights: str, build, config: str | None = None):
    state = load_tensors(root / f"weights/{weights}.safetensors")
    return _filled(build(read_json(root / f"weights/{config or weights}.config.json")), state)


def _filled(network: torch.nn.Module, state: dict[str, Tensor]) -> torch.nn.Module:
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _text(root: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    state = load_tensors(root / "weights/text_encoder.safetensors")
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    model = CLIPTextModel(CLIPTextConfig(**read_json(root / "weights/text_encoder.config.json")))
    return _filled(model, state), CLIPTokenizer.from_pretrained(root / "weights/tokenizer")


CHECKS = {
    "context": check_context,
    "guidance": check_guidance,
    "noise": check_noise,
    "scheduler": check_scheduler,
    "text_embeddings": check_text_embeddings,
    "pipeline": check_pipeline,
}
