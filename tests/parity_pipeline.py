"""Checks of one call of the original's pipeline: prompts, condition frames, noise, every step, pictures.

A case goes through the engine's own parts one by one, compared link by link (see `parity_links`).
"""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from musev_engine import frames
from musev_engine.conditions import Conditions, Control, image_tokens, predictor, reference_tokens
from musev_engine.loading import Models
from musev_engine.prompts import encode_prompts
from musev_engine.sampling import (
    classifier_free,
    draw_noise,
    guidance_scales,
    initial_latents,
    lean_noise,
    steps_of_strength,
)
from musev_engine.schedulers import make_scheduler, set_timesteps
from musev_engine.shots import Leaning, SerialDenoise, Shot, Trace
from musev_engine.windows import Timeline, plan_windows
from tests.golden_data import Case, Comparison, NotCovered, atol_of_text, compare
from tests.golden_models import golden_models, pixels, seeds_of
from tests.parity_links import DRAWN, LATENTS, Links, run_links

# What a pipeline case may ask for, with what the original takes where it says nothing.
DEFAULTS = {
    "prompt": None, "negative_prompt": None, "video_length": None, "num_inference_steps": None,
    "guidance_scale": None, "guidance_scale_end": None, "guidance_scale_method": "linear", "eta": 0.0,
    "noise_type": "random", "w_ind_noise": 0.5, "need_img_based_video_noise": False, "img_weight": 0.001,
    "motion_speed": 8.0, "condition_images": None, "condition_latents": None,
    "vision_condition_latent_index": None, "latents": None, "add_latents_noise": False, "image": None,
    "strength": 1.0, "initial_common_latent": None, "refer_image": None, "ip_adapter_image": None,
    "ip_adapter_scale": 1.0, "ip_adapter_face_image": None, "ip_adapter_face_scale": 1.0, "control_image": None,
    "controlnet_condition_images": None, "controlnet_conditioning_scale": 1.0, "control_guidance_start": 0.0,
    "control_guidance_end": 1.0, "guess_mode": False, "skip_temporal_layer": False, "record_mid_video_latents": False,
    "record_mid_video_noises": False, "video_overlap": 1, "context_frames": 12, "context_overlap": 4,
    "context_stride": 1, "context_batch_size": 1, "context_schedule": "uniform", "interpolation_factor": 1,
    "prompt_only_use_image_prompt": False, "height": None, "width": None,
}  # fmt: skip


def check_pipeline(directory: Path, root: Path, **how) -> list[Comparison]:
    """A whole loop. `how`: see `Links`."""
    case = Case(directory, root)
    if other := sorted(case.info["args"].keys() - DEFAULTS.keys()):
        raise NotCovered(f"asks for {', '.join(other)}")
    models = golden_models(case)
    nets = sorted(models.controlnets)
    several = len(case.get_list("in.control_image")) > 1

    def run(links: Links, first: str) -> None:
        Loop(links, models, nets if several else [first]).run()

    return run_links(case, models, nets[:1] if several else nets, run, **how)


class Loop:
    """One pipeline case, made of the engine's parts. nets: the names of the ControlNets it uses, in order."""

    def __init__(self, links: Links, models: Models, nets: list[str]):
        self.links, self.case, self.models, self.nets = links, links.case, models, nets
        self.args = SimpleNamespace(**DEFAULTS | self.case.info["args"])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds_of(self.case)]
        self.generator = generators if len(generators) > 1 else generators[0]

    def run(self) -> None:
        documents_a_bug = "KNOWN_BUG" in self.case.name
        self.links.free |= documents_a_bug
        self.prepare()
        last = None
        for state in self.states():
            last = state.latents
        whole = self.whole(last)
        if documents_a_bug:
            self.is_right(whole)
            return
        for i, latents in enumerate(self.leaning.trace.latents):
            self.links(f"out.mid_video_latents.{i}", latents, LATENTS)
        for i, noise_pred in enumerate(self.leaning.trace.noise_preds, start=1):
            self.links(f"out.mid_video_noises.{i}", noise_pred, LATENTS)
        self.links("out.latents", whole, LATENTS)
        clips = [torch.cat(list(frames.decode(self.models.vae, one))) for one in whole.split(1)]
        self.links.video(torch.stack(clips))
        if isinstance(self.generator, torch.Generator):
            self.links("generator_probe_after", torch.randn(4, generator=self.generator), DRAWN)

    def prepare(self) -> None:
        case, args, models, links = self.case, self.args, self.models, self.links
        self.scheduler = make_scheduler(models.scheduler_config)
        self.timesteps = set_timesteps(self.scheduler, args.num_inference_steps, compat="musev")
        links.of_call("timesteps", self.timesteps.float(), DRAWN)
        if case.get("in.image") is not None and case.get("in.latents") is not None:
            # elsewhere the original overlooks `strength`
            self.timesteps = steps_of_strength(self.timesteps, args.strength)

        guided = args.guidance_scale > 1
        prompts = [args.prompt] if isinstance(args.prompt, str) else args.prompt
        negatives = args.negative_prompt or ""
        negatives = [negatives] * len(prompts) if isinstance(negatives, str) else negatives
        embeds = encode_prompts(
            models.text_encoder, models.tokenizer, (negatives if guided else []) + prompts
        )
        clean = case.get("in.condition_latents")
        if case.get("in.condition_images") is not None:
            clean = self.encoded("in.condition_images")
        num_clean = 0 if clean is None else clean.shape[2]
        length = num_clean + args.video_length
        index = [i % length for i in args.vision_condition_latent_index or range(num_clean)]
        embeds = links.of_call("prompt_embeds", embeds, atol_of_text(embeds))
        tokens, reference = self.stills(embeds, guided)
        if args.prompt_only_use_image_prompt and tokens is not None:
            embeds = embeds if models.unet.config.ip_adapter_cross_attn else tokens
        self.conditions = Conditions(
            embeds, guided, Timeline(length, index), links.of_call("condition_latents", clean, LATENTS),
            reference=reference,
            image_tokens=tokens if models.unet.config.ip_adapter_cross_attn else None,
            motion_speed=args.motion_speed, image_scale=args.ip_adapter_scale,
            face_tokens=case.get("call0.ip_adapter_face_emb"), face_scale=args.ip_adapter_face_scale,
            controls=self.controls(), skip_temporal=args.skip_temporal_layer,
        )  # fmt: skip
        self.latents = self.noise()

    def stills(self, embeds: Tensor, guided: bool):
        """The image prompt's tokens, and what the reference's fusion reads."""
        models, tokens, reference = self.models, None, None
        stills = self.case.get("in.ip_adapter_image")
        if models.image_encoder is not None and stills is not None:
            height, width = self.size()
            fitted = [
                np.stack(
                    [frames.fit_still(each, width, height, "musev", Image.Resampling.BICUBIC) for each in row]
                )
                for row in pixels(stills)
            ]
            each = [image_tokens(models.image_encoder, models.image_proj, row, guided) for row in fitted]
            tokens = torch.stack(each, dim=1).flatten(0, 1)
            tokens = self.links.of_call("ip_adapter_image_emb", tokens, DRAWN)
        if models.referencenet is not None and self.case.get("in.refer_image") is not None:
            text = embeds if tokens is None else tokens
            reference = reference_tokens(
                models.referencenet, models.unet, self.encoded("in.refer_image"), text
            )
        return tokens, reference

    def noise(self) -> Tensor:
        case, args, clean, links = self.case, self.args, self.conditions.condition_latents, self.links
        given = case.get("in.latents")
        if given is not None and not args.add_latents_noise:
            latents = initial_latents(self.scheduler, given, self.timesteps[0])
        else:
            vae = self.models.vae.config
            factor = 2 ** (len(vae.block_out_channels) - 1)
            height, width = (side // factor for side in self.size())
            batch = len(self.conditions.prompt_embeds) // (1 + self.conditions.guided)
            noise = draw_noise(
                (batch, vae.latent_channels, args.video_length, height, width),
                self.generator,
                noise_type=args.noise_type,
                w_ind_noise=args.w_ind_noise,
                common=case.get("in.initial_common_latent"),
            )
            image = case.get("in.image")
            start = given if given is not None else None if image is None else self.encoded("in.image")
            if args.need_img_based_video_noise and clean is not None and start is None:
                noise = lean_noise(noise, clean, args.img_weight)
            latents = initial_latents(self.scheduler, noise, self.timesteps[0], start)
        self.leaning = Leaning(
            SerialDenoise(overlap=args.video_overlap), self.trace_before(), args.num_inference_steps
        )
        leaning = self.leaning.begin(latents)
        if self.leaning.before is None:
            return links.of_call("init_latents", latents, LATENTS)
        stored = case.get("call0.init_latents")  # before or after it leans
        if stored is not None and not compare("", leaning, stored, atol=LATENTS).ok:
            links.of_call("init_latents", latents, LATENTS)
            return leaning
        return links.of_call("init_latents", leaning, LATENTS)

    def trace_before(self) -> Trace | None:
        """What another case recorded, if this one leans on it."""
        other = re.search(r"last_mid_video_\w+ = outputs of case (\w+)", self.case.info.get("note", ""))
        if other is None:
            return None
        recorded = Case(self.case.directory.with_name(other[1]), self.case.root)
        latents = recorded.get_list("out.mid_video_latents")
        return Trace(latents, recorded.get_list("out.mid_video_noises")[1:])  # the first is None there

    def states(self):
        args = self.args
        windows = plan_windows(
            args.context_schedule,
            self.latents.shape[2],
            args.context_frames,
            args.context_overlap,
            context_stride=args.context_stride,
        )
        guidance = guidance_scales(
            args.guidance_scale, args.guidance_scale_end, len(self.timesteps), args.guidance_scale_method
        )
        guide = classifier_free(guidance) if self.conditions.guided else lambda noise_pred, step: noise_pred
        return self.links.denoise(
            predictor(self.models.unet, self.conditions, self.timesteps),
            self.latents,
            self.scheduler,
            self.timesteps,
            plan=lambda step: windows,
            guide=self.leaning.over(guide),
            settle=self.leaning.settle,
            context_batch_size=args.context_batch_size,
            generator=self.generator,
            eta=args.eta,
            noise_type=args.noise_type,
            w_ind_noise=args.w_ind_noise,
            compat="musev",
        )

    def whole(self, made: Tensor) -> Tensor:
        """With the condition frames in their places."""
        timeline, clean = self.conditions.timeline, self.conditions.condition_latents
        pinned = {} if clean is None else dict(zip(timeline.pinned, clean.split(1, dim=2), strict=True))
        return Shot(0, timeline.num_frames, (), pinned).whole(made)

    def is_right(self, whole: Tensor) -> None:
        """A condition frame that isn't at the head: the original puts it over a frame that it made and leaves
        another one out. Ours: the condition frames are exactly what was given, and every other frame is made."""
        timeline, clean, stored = (
            self.conditions.timeline,
            self.conditions.condition_latents,
            self.case.tensors["out.latents"],
        )
        own = [
            each for each in self.links.results if "step" not in each.name
        ]  # before the loop nothing is wrong
        self.links.results = own
        kept = compare(
            "KNOWN_BUG: ours holds the condition frames",
            whole[:, :, timeline.pinned],
            clean.to(whole),
            atol=0.0,
        )
        self.links.results.append(kept)
        self.links.value("as many frames", whole.shape[2], stored.shape[2])
        self.links.value("frames left out", sum(not each.any() for each in whole.unbind(2)), 0)

    # ---- pictures ---------------------------------------------------------------------------------------

    def controls(self) -> tuple[Control, ...]:
        """Their pictures are those of the condition frames and then those of the frames to be made."""
        args = self.args
        images = self.listed("in.control_image") if self.models.controlnets else []
        before = self.listed("in.controlnet_condition_images")
        options = (args.controlnet_conditioning_scale, args.control_guidance_start, args.control_guidance_end)
        options = [each if isinstance(each, list) else [each] * len(images) for each in options]
        made = []
        for i, (image, scale, start, end) in enumerate(zip(images, *options, strict=True)):
            shown = self.pictures(torch.cat([before[i], image], dim=2) if before else image)[0]
            net = self.models.controlnets[self.nets[i]]
            made.append(Control(net, shown.__getitem__, scale, start, end, args.guess_mode))
        return tuple(made)

    def listed(self, name: str) -> list[Tensor]:
        one = self.case.get(name)
        return self.case.get_list(name) if one is None else [one]

    def size(self) -> tuple[int, int]:
        """Height and width of the pictures; the original's own are the video's."""
        return tuple(self.case.info["video_shape"][-2:])

    def pictures(self, pictures: Tensor) -> Tensor:
        """(b, 3, t, h, w), 0..255 -> (b, t, 3, h, w) in [0, 1] in the video's size."""
        rows = pixels(pictures)
        return torch.stack(
            [F.interpolate(frames.to_tensor(row), self.size(), mode="bilinear") for row in rows]
        )

    def encoded(self, name: str) -> Tensor:
        clips = self.pictures(self.case.tensors[name])
        return torch.cat([frames.encode(self.models.vae, clip) for clip in clips])
