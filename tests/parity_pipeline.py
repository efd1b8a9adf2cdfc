"""Checks of whole loops: one call of the original's pipeline, and its predictors' chains of calls.

A pipeline case goes through the engine's own parts one by one. A predictor case becomes a `Clip` and goes through
`generate`, watched from outside: what goes into the networks and the loop is compared with what is stored.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from musev_engine import conditions as conditions_module
from musev_engine import frames, pipeline
from musev_engine.clip import Clip, ConditionImage, ControlVideo, FirstFrame, SerialDenoise, shot_lengths
from musev_engine.conditions import Conditions, Control, image_tokens, predictor, reference_tokens
from musev_engine.loading import Models
from musev_engine.prompts import encode_prompts
from musev_engine.sampling import (
    classifier_free,
    denoise,
    draw_noise,
    guidance_scales,
    initial_latents,
    lean_noise,
    steps_of_strength,
)
from musev_engine.schedulers import make_scheduler, set_timesteps
from musev_engine.shots import Leaning, Shot, Trace
from musev_engine.windows import Timeline, plan_windows
from tests.golden_data import Case, Comparison, NotCovered, compare, compare_values
from tests.golden_models import golden_models, pixels, seed_of

DRAWN, LATENTS, PREDICTIONS, PICTURES = 1e-5, 2e-3, 1e-3, 2e-3

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
}  # fmt: skip


def check_pipeline(directory: Path, root: Path) -> list[Comparison]:
    """A whole loop: prompts, condition frames, noise, every window and step that is stored, pictures."""
    case = Case(directory, root)
    if other := sorted(case.info["args"].keys() - DEFAULTS.keys()):
        raise NotCovered(f"asks for {', '.join(other)}")
    loop, again = (_Loop(case) for _ in range(2))
    prepared = loop.prepare()
    if directory.name.startswith("KNOWN_BUG"):
        return [*prepared, *loop.run_right()]
    again.prepare()
    return [*prepared, *loop.run(), *again.run(on_stored_samples=True)]


class _Loop:
    """One pipeline case; `compared` takes what the case stores and leaves out what it doesn't."""

    def __init__(self, case: Case):
        self.case, self.args = case, SimpleNamespace(**DEFAULTS | case.info["args"])
        self.models = golden_models(case)
        self.generator = torch.Generator().manual_seed(seed_of(case))

    def compared(self, name: str, got: Tensor | None, atol: float) -> list[Comparison]:
        return compared(self.case, name, got, atol)

    def prepare(self) -> list[Comparison]:
        case, args, models = self.case, self.args, self.models
        self.scheduler = make_scheduler(models.scheduler_config)
        self.timesteps = set_timesteps(self.scheduler, args.num_inference_steps, compat="musev")
        results = self.compared("call0.timesteps", self.timesteps.float(), DRAWN)
        if case.get("in.image") is not None and case.get("in.latents") is not None:
            self.timesteps = steps_of_strength(
                self.timesteps, args.strength
            )  # elsewhere it overlooks `strength`

        guided = args.guidance_scale > 1
        prompts = [args.prompt] if isinstance(args.prompt, str) else args.prompt
        negatives = args.negative_prompt or ""
        negatives = [negatives] * len(prompts) if isinstance(negatives, str) else negatives
        negatives = negatives if guided else []
        embeds = encode_prompts(models.text_encoder, models.tokenizer, negatives + prompts)
        clean = case.get("in.condition_latents")
        if case.get("in.condition_images") is not None:
            clean = self.encoded("in.condition_images")
        num_clean = 0 if clean is None else clean.shape[2]
        length = num_clean + args.video_length
        index = [i % length for i in args.vision_condition_latent_index or range(num_clean)]
        self.conditions = Conditions(
            embeds, guided, Timeline(length, index), clean,
            motion_speed=args.motion_speed, image_scale=args.ip_adapter_scale,
            face_tokens=case.get("call0.ip_adapter_face_emb"), face_scale=args.ip_adapter_face_scale,
            controls=self.controls(clean), skip_temporal=args.skip_temporal_layer,
        )  # fmt: skip
        results += self.compared("call0.prompt_embeds", embeds, DRAWN)
        if clean is not None:
            results += self.compared("call0.condition_latents", clean, LATENTS)
        return results + self.still() + self.noise()

    def still(self) -> list[Comparison]:
        """The image prompt and the reference."""
        models, results, tokens, reference = self.models, [], None, None
        stills = self.case.get("in.ip_adapter_image")
        if models.image_encoder is not None and stills is not None:
            height, width = self.size()
            rows = [
                np.stack(
                    [frames.fit_still(each, width, height, "musev", Image.Resampling.BICUBIC) for each in row]
                )
                for row in pixels(stills)
            ]
            guided = self.conditions.guided
            each = [image_tokens(models.image_encoder, models.image_proj, row, guided) for row in rows]
            tokens = torch.stack(each, dim=1).flatten(0, 1)
            results += self.compared("call0.ip_adapter_image_emb", tokens, DRAWN)
        if models.referencenet is not None and self.case.get("in.refer_image") is not None:
            text = self.conditions.prompt_embeds if tokens is None else tokens
            with watched_maps(models) as maps:
                reference = reference_tokens(
                    models.referencenet, models.unet, self.encoded("in.refer_image"), text
                )
            results += compared_maps(self.case, "call0", maps[-1])
        self.conditions = replace(self.conditions, image_tokens=tokens, reference=reference)
        return results

    def noise(self) -> list[Comparison]:
        case, args, clean = self.case, self.args, self.conditions.condition_latents
        given = case.get("in.latents")
        if given is not None and not args.add_latents_noise:
            self.latents = initial_latents(self.scheduler, given, self.timesteps[0])
        else:
            height, width = self.size()
            batch = len(self.conditions.prompt_embeds) // (2 if self.conditions.guided else 1)
            noise = draw_noise(
                (batch, self.models.vae.config.latent_channels, args.video_length, height // 8, width // 8),
                self.generator,
                noise_type=args.noise_type,
                w_ind_noise=args.w_ind_noise,
                common=case.get("in.initial_common_latent"),
            )
            image = case.get("in.image")
            start = given if given is not None else None if image is None else self.encoded("in.image")
            if args.need_img_based_video_noise and clean is not None and start is None:
                noise = lean_noise(noise, clean, args.img_weight)
            self.latents = initial_latents(self.scheduler, noise, self.timesteps[0], start)
        overlap = SerialDenoise(overlap=args.video_overlap)
        self.leaning = Leaning(overlap, self.trace_before(), args.num_inference_steps)
        leaning = self.leaning.begin(self.latents)
        results = self.compared("call0.init_latents", self.latents, LATENTS)
        if self.leaning.before and not results[0].ok:  # stored before or after it leans
            results = self.compared("call0.init_latents", leaning, LATENTS)
        self.latents = leaning
        return results

    def trace_before(self) -> Trace | None:
        """What another case recorded, if this one leans on it."""
        other = re.search(r"last_mid_video_\w+ = outputs of case (\w+)", self.case.info.get("note", ""))
        if other is None:
            return None
        recorded = Case(self.case.directory.with_name(other[1]), self.case.root)
        latents = recorded.get_list("out.mid_video_latents")
        return Trace(latents, recorded.get_list("out.mid_video_noises")[1:])  # the first is None there

    def run(self, on_stored_samples: bool = False) -> list[Comparison]:
        """The loop by itself: what the network is given, the latents, the pictures. Or, once more, with the
        case's own samples given to the network: its predictions. These untrained networks make a difference
        fifty times larger (measured; the original's own roundings too), and a prediction compared at the end
        of a loop of our own would say nothing about it."""
        results = []
        with watched_networks(self.case, self.models, results, on_stored_samples) as place:
            for state in self.states():
                place["step"] = state.step + state.step_done
                place["win"] = 0 if state.step_done else state.window
                here = f"call0.step{state.step}"
                if state.step_done and on_stored_samples and f"{here}.win0.unet_sample" in self.case.tensors:
                    results += self.compared(f"{here}.noise_pred_guided", state.noise_pred, PREDICTIONS)
                elif state.step_done and not on_stored_samples:
                    results += self.compared(f"{here}.latents_after", self.after_step, LATENTS)
        if on_stored_samples:
            return results
        for i, latents in enumerate(self.leaning.trace.latents):
            results += self.compared(f"out.mid_video_latents.{i}", latents, LATENTS)
        for i, noise_pred in enumerate(self.leaning.trace.noise_preds, start=1):
            results += self.compared(f"out.mid_video_noises.{i}", noise_pred, LATENTS)
        whole = self.whole(state.latents)
        results += self.compared("out.latents", whole, LATENTS)
        video = torch.stack([torch.cat(list(frames.decode(self.models.vae, one))) for one in whole.split(1)])
        return results + compared_video(self.case, video)

    def run_right(self) -> list[Comparison]:
        """A condition frame that isn't at the head: the original puts it over a frame that it made and leaves
        another one out. Ours: the condition frames are exactly what was given, and every other frame is made."""
        whole = self.whole(list(self.states())[-1].latents)
        timeline, clean = self.conditions.timeline, self.conditions.condition_latents
        stored = self.case.tensors["out.latents"]
        kept = compare("condition frames", whole[:, :, timeline.pinned], clean, atol=0.0)
        empty = sum(not whole[:, :, i].any() for i in range(whole.shape[2]))
        return [
            replace(kept, name="KNOWN_BUG: ours holds the condition frames"),
            compare_values("as many frames", whole.shape[2], stored.shape[2]),
            compare_values("frames left out", empty, 0),
        ]

    def whole(self, made: Tensor) -> Tensor:
        """With the condition frames in their places."""
        timeline, clean = self.conditions.timeline, self.conditions.condition_latents
        pinned = {} if clean is None else dict(zip(timeline.pinned, clean.split(1, dim=2), strict=True))
        return Shot(0, timeline.num_frames, (), pinned).whole(made)

    def states(self) -> Iterator:
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
        return denoise(
            predictor(self.models.unet, self.conditions, self.timesteps),
            self.latents,
            self.scheduler,
            self.timesteps,
            plan=lambda step: windows,
            guide=self.leaning.over(guide),
            settle=self.settle,
            context_batch_size=args.context_batch_size,
            generator=self.generator,
            eta=args.eta,
            noise_type=args.noise_type,
            w_ind_noise=args.w_ind_noise,
            compat="musev",
        )

    def settle(self, latents: Tensor, step: int) -> Tensor:
        self.after_step = latents  # as the scheduler left them, before they lean: so they are stored
        return self.leaning.settle(latents, step)

    def controls(self, clean: Tensor | None) -> tuple[Control, ...]:
        """Their pictures are those of the condition frames and then those of the frames to be made."""
        if not self.models.controlnets or self.case.info["args"].get("control_image") is None:
            return ()
        images = self.listed("in.control_image")
        before = self.listed("in.controlnet_condition_images")
        args = self.args
        options = (args.controlnet_conditioning_scale, args.control_guidance_start, args.control_guidance_end)
        options = [each if isinstance(each, list) else [each] * len(images) for each in options]
        made = []
        for i, (image, scale, start, end) in enumerate(zip(images, *options, strict=True)):
            shown = self.pictures(torch.cat([before[i], image], dim=2) if before else image)[0]
            net = self.models.controlnets[str(i)]
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


# What a predictor case may ask for.
TO_PREDICTOR = {
    "prompt": "", "negative_prompt": "", "video_negative_prompt": "", "guidance_scale": 7.5,
    "video_guidance_scale": 3.5, "video_guidance_scale_end": None, "video_guidance_scale_method": "linear",
    "num_inference_steps": 30, "video_num_inference_steps": 10, "eta": 0.0, "strength": 0.8, "video_strength": 1.0,
    "max_batch_num": 1, "n_vision_condition": 1, "condition_images": None, "refer_image": None,
    "ip_adapter_image": None, "ip_adapter_face_image": None, "ip_adapter_scale": 1.0, "ip_adapter_face_scale": 1.0,
    "redraw_condition_image": False, "redraw_condition_image_with_referencenet": True,
    "redraw_condition_image_with_ipdapter": True, "redraw_condition_image_with_ip_adapter_face": True,
    "fix_condition_images": False, "fixed_refer_image": True, "fixed_ip_adapter_image": True,
    "fixed_refer_face_image": True, "noise_type": "random", "w_ind_noise": 0.5, "img_weight": 0.001,
    "need_img_based_video_noise": False, "initial_common_latent": None, "motion_speed": 8.0,
    "need_hist_match": False, "record_mid_video_latents": False, "record_mid_video_noises": False,
    "video_overlap": 1, "context_frames": 12, "context_overlap": 4, "context_stride": 1, "context_batch_size": 1,
    "context_schedule": "uniform", "interpolation_factor": 1, "video_length": None, "video": None,
    "time_size": None, "video_is_middle": False, "video_has_condition": True, "need_video2video": False,
    "controlnet_conditioning_scale": 1.0, "control_guidance_start": 0.0, "control_guidance_end": 1.0,
    "guess_mode": False, "need_return_videos": False, "need_return_condition": False,
}  # fmt: skip


def check_predictor(directory: Path, root: Path) -> list[Comparison]:
    """A chain of the pipeline's calls: first frame, shots, what each hands on, all pictures.

    Which ControlNet a case used it doesn't say: the first is tried and, where its residuals are others, the next.
    """
    case = Case(directory, root)
    if other := sorted(case.info["args"].keys() - TO_PREDICTOR.keys()):
        raise NotCovered(f"asks for {', '.join(other)}")
    models = golden_models(case)
    results = []
    for net in sorted(models.controlnets) or ["0"]:
        results = _watched(case, models, net, on_stored_samples=True)
        if all(each.ok for each in results if "controlnet" in each.name):
            break
    return [*_watched(case, models, net), *results]


def clip_of(case: Case, net: str) -> Clip:
    """What a predictor case asks for, as a clip. `net`: the ControlNet's name."""
    args = SimpleNamespace(**TO_PREDICTOR | case.info["args"])
    height, width = case.info["video_shape"][-2:]

    def stills(name: str) -> tuple[np.ndarray, ...]:
        given = case.get(f"in.{name}")
        return () if given is None else tuple(pixels(given)[0])

    images = stills("condition_images") if args.n_vision_condition else ()
    given = len(images)
    to_video = "video2video" in case.info["kind"]
    if to_video:
        args.guidance_scale = (
            7.5  # its video2video doesn't hand the first frame's on, so the pipeline's own is used
        )
        video = pixels(case.tensors["in.video_frames_cthw_uint8"][None])[0]
        n_batch = min(args.max_batch_num, len(video) // args.time_size)
        video = video[: n_batch * args.time_size]
        video = frames.fit_frames(video, width, height, "musev")
        control = video if args.video_is_middle else 255 - video
        if given and not args.video_has_condition:  # the condition image comes before the video
            own = 255 - frames.fit_still(images[0], width, height, "musev")
            control = np.concatenate([own[None], control])
            video = np.concatenate([video[:1], video])
        shots = shot_lengths(args.time_size, n_batch, given_frames=len(control) - n_batch * args.time_size)
        span = (args.controlnet_conditioning_scale, args.control_guidance_start, args.control_guidance_end)
        options = {
            "controls": (ControlVideo(net, control, None, *span),),
            "video": video if args.need_video2video else None,
            "motion_speed": case.info["reader"]["sample_rate"],
            "serial": SerialDenoise(args.video_overlap, args.record_mid_video_latents, args.record_mid_video_noises),
        }  # fmt: skip
    else:
        shots = shot_lengths(args.video_length, args.max_batch_num, given_frames=given)
        options = {"motion_speed": args.motion_speed, "need_hist_match": args.need_hist_match}
    references, prompts = stills("refer_image"), stills("ip_adapter_image")
    common = case.get("in.initial_common_latent")
    return Clip(
        prompt=args.prompt, negative_prompt=args.video_negative_prompt, width=width, height=height,
        num_frames=sum(shots), shots=shots, num_inference_steps=args.video_num_inference_steps,
        guidance_scale=args.video_guidance_scale, guidance_scale_end=args.video_guidance_scale_end,
        guidance_method=args.video_guidance_scale_method, seed=seed_of(case), eta=args.eta,
        condition_images=tuple(ConditionImage(picture, i) for i, picture in enumerate(images)),
        first_frame=FirstFrame(
            args.redraw_condition_image, args.strength, args.num_inference_steps, args.guidance_scale,
            negative_prompt=args.negative_prompt,
            with_references=args.redraw_condition_image_with_referencenet,
            with_image_prompts=args.redraw_condition_image_with_ipdapter,
            with_faces=args.redraw_condition_image_with_ip_adapter_face,
        ),
        references=references or None, image_prompts=prompts or None,
        face_embeds=np.ones((1, 1), np.float32) if case.info["components"].get("face") else None,
        ip_adapter_scale=args.ip_adapter_scale, face_scale=args.ip_adapter_face_scale,
        guess_mode=args.guess_mode, video_strength=args.video_strength, n_vision_condition=args.n_vision_condition,
        fix_condition_images=args.fix_condition_images, fixed_refer_image=args.fixed_refer_image,
        fixed_ip_adapter_image=args.fixed_ip_adapter_image, context_frames=args.context_frames,
        context_overlap=args.context_overlap, context_stride=args.context_stride,
        context_batch_size=args.context_batch_size, context_schedule=args.context_schedule, overlap_weights="flat",
        noise_type=args.noise_type, w_ind_noise=args.w_ind_noise,
        img_weight=args.img_weight if args.need_img_based_video_noise else 0.0,
        initial_common_latent=None if common is None else common[0, :, 0].numpy(), compat="musev",
        **options,
    )  # fmt: skip


class _StoredFace(nn.Module):
    """In place of a face projection: what the original's made of an embedding that isn't stored."""

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.norm, self.tokens = nn.LayerNorm(tokens.shape[-1]), tokens

    def forward(self, embeds: Tensor) -> Tensor:
        return self.tokens[-1:] if embeds.any() else self.tokens[:1]


def _watched(case: Case, models: Models, net: str, on_stored_samples: bool = False) -> list[Comparison]:
    """The clip through `generate`: what the loop and the networks are given, and the pictures. Each step is compared,
    and the next goes on from what is stored, as a chain's roundings would else add up. Or, with the case's own
    samples and tokens given to the networks, their predictions (see `_Loop.run`)."""
    results, decoded, runs, maps = [], [], {"number": -1}, []
    faces = next(
        (value for name, value in case.tensors.items() if name.endswith(".ip_adapter_face_emb")), None
    )
    if faces is not None:
        models = replace(models, face_proj=_StoredFace(faces))
    own_predictor, own_denoise, own_decode, own_start = predictor, denoise, frames.decode, initial_latents

    def also(name: str, got: Tensor | None, atol: float) -> None:
        if not on_stored_samples:
            results.extend(compared(case, f"call{runs['number']}.{name}", got, atol))

    def watched_predictor(unet, conditions: Conditions, timesteps: Tensor):
        runs["number"] += 1
        also("prompt_embeds", conditions.prompt_embeds, DRAWN)
        also("condition_latents", conditions.condition_latents, LATENTS)
        also("ip_adapter_image_emb", conditions.image_tokens, LATENTS)
        also("timesteps", timesteps.float(), DRAWN)
        if maps and conditions.reference is not None and not on_stored_samples:
            results.extend(compared_maps(case, f"call{runs['number']}", maps[-1]))
        names = {"condition_latents": "condition_latents", "prompt_embeds": "prompt_embeds"}
        if conditions.image_tokens is not None:
            names["image_tokens"] = "ip_adapter_image_emb"
        stored = {name: case.get(f"call{runs['number']}.{there}") for name, there in names.items()}
        stored = {name: value for name, value in stored.items() if value is not None}
        return own_predictor(unet, replace(conditions, **stored), timesteps)

    def watched_start(*arguments) -> Tensor:
        runs["start"] = own_start(*arguments)
        return runs["start"]

    def watched_denoise(predict, latents, scheduler, timesteps, **options):
        also("init_latents", runs["start"], LATENTS)  # before they lean on the shot before
        runs["generator"] = options["generator"]
        place.update(call=runs["number"], step=0, win=0)
        settle = options.get("settle", lambda latents, step: latents)

        def watched_settle(latents: Tensor, step: int) -> Tensor:
            also(f"step{step}.latents_after", latents, LATENTS)
            return settle(case.tensors.get(f"call{runs['number']}.step{step}.latents_after", latents), step)

        options["settle"] = watched_settle
        for state in own_denoise(predict, latents, scheduler, timesteps, **options):
            here = f"call{place['call']}.step{state.step}"
            if state.step_done and on_stored_samples and f"{here}.win0.unet_sample" in case.tensors:
                results.extend(compared(case, f"{here}.noise_pred_guided", state.noise_pred, PREDICTIONS))
            place["step"], place["win"] = state.step + state.step_done, 0 if state.step_done else state.window
            yield state

    def watched_decode(*arguments):
        for part in own_decode(*arguments):
            decoded.append(part)
            yield part

    clip, video = clip_of(case, net), []
    with ExitStack() as stack:
        maps = stack.enter_context(watched_maps(models))
        place = stack.enter_context(watched_networks(case, models, results, on_stored_samples))
        for module, name, spy in (
            (conditions_module, "predictor", watched_predictor),
            (pipeline, "initial_latents", watched_start),
            (pipeline, "denoise", watched_denoise),
            (frames, "decode", watched_decode),
        ):
            stack.enter_context(mock.patch.object(module, name, spy))
        for event in pipeline.generate(clip, models):
            if isinstance(event, pipeline.Frames):
                matched = frames.to_tensor(event.frames) if clip.need_hist_match else decoded[-1]
                video.append(torch.cat([decoded[-1][:1], matched[1:]]) if event.first == 0 else matched)
    if on_stored_samples:
        return results
    results += compared_video(case, torch.cat(video)[None], matched=clip.need_hist_match)
    results += compared(case, "generator_probe_after", torch.randn(4, generator=runs["generator"]), DRAWN)
    calls = len(case.info["calls"])
    return [*results, compare_values("calls of the loop", runs["number"] + 1, calls)]


def compared(case: Case, name: str, got: Tensor | None, atol: float) -> list[Comparison]:
    """One comparison, or none where the case doesn't store it (or there is nothing to compare)."""
    expected = None if got is None else case.get(name)
    return [] if expected is None else [compare(name, got, expected, atol=atol)]


def compared_video(case: Case, video: Tensor, matched: bool = False) -> list[Comparison]:
    """video (b, t, 3, h, w) in [0, 1]: how many frames, those that are stored, and every frame's mean. Where colours
    were `matched`, frames are of 8 bits: what lies at the border of two steps may fall to either, for a few pixels."""
    shape = [video.shape[0], video.shape[2], video.shape[1], *video.shape[3:]]
    right_shape = compare_values("video_shape", shape, case.info["video_shape"])
    if not right_shape.ok:
        return [right_shape]
    stored = video[:, case.info["video_frames_stored"]].transpose(1, 2)
    means = compared(case, "out.video_frame_means", video.mean(dim=(2, 3, 4)), PICTURES)
    if not matched:
        return [right_shape, *compared(case, "out.video_frames", stored, PICTURES), *means]
    off = (stored - case.tensors["out.video_frames"]).abs() > PICTURES
    few = compare_values("pixels one step off", off.float().mean().item(), 0.0, atol=0.005)
    return [right_shape, *compared(case, "out.video_frames", stored, 1.01 / 255), few, *means]


def compared_maps(case: Case, call: str, seen: tuple[Tensor, list[Tensor], Tensor]) -> list[Comparison]:
    """What the ReferenceNet was given, and its maps."""
    latents, down, mid = seen
    results = compared(case, f"{call}.refer_image_vae_emb", latents.transpose(1, 2).flatten(0, 1), LATENTS)
    for i, each in enumerate(down):
        results += compared(case, f"{call}.refer_down.{i}", each, PREDICTIONS)
    return results + compared(case, f"{call}.refer_mid", mid, PREDICTIONS)


@contextmanager
def watched_maps(models: Models) -> Iterator[list]:
    """What the ReferenceNet was given, and the maps it made, at each call."""
    maps: list[tuple] = []
    if models.referencenet is None:
        yield maps
        return
    hook = models.referencenet.register_forward_hook(lambda net, inputs, out: maps.append((inputs[0], *out)))
    yield maps
    hook.remove()


@contextmanager
def watched_networks(case: Case, models: Models, results: list, on_stored_samples: bool) -> Iterator[dict]:
    """Compares each sample that the UNet is given; or puts the stored one, and stored tokens, in its place, and
    compares what it and the ControlNets make of that. Whoever drives the loop keeps the `place` up to date."""
    place = {"call": 0, "step": 0, "win": 0}

    def here(what: str) -> str:
        return f"call{place['call']}.step{place['step']}.win{place['win']}.{what}"

    def before_unet(unet, inputs, named):
        if not on_stored_samples:
            results.extend(compared(case, here("unet_sample"), inputs[0], LATENTS))
            return None
        sample, t, text = inputs
        sample = case.tensors.get(here("unet_sample"), sample)
        text = case.tensors.get(f"call{place['call']}.prompt_embeds", text)
        tokens = case.get(f"call{place['call']}.ip_adapter_image_emb")
        if tokens is not None and named["image_tokens"] is not None:
            named = named | {"image_tokens": tokens}
        return (sample, t, text), named

    def after_unet(unet, inputs, out):
        if on_stored_samples and here("unet_sample") in case.tensors:
            results.extend(compared(case, here("unet_out"), out, PREDICTIONS))

    def before_control(net, inputs):
        stored = case.get(here("unet_sample")) if on_stored_samples else None
        return (
            None if stored is None else (stored.transpose(1, 2).flatten(0, 1)[-len(inputs[0]) :], *inputs[1:])
        )

    def after_control(net, inputs, out):
        if on_stored_samples and here("unet_sample") in case.tensors and len(used) == 1:
            results.extend(compared(case, here("controlnet_down.0"), out[0][0], PREDICTIONS))
            results.extend(compared(case, here("controlnet_mid"), out[1], PREDICTIONS))

    used = [1] if (case.info.get("components") or {}).get("controlnet") == "ControlNetModel" else []
    hooks = [
        models.unet.register_forward_pre_hook(before_unet, with_kwargs=True),
        models.unet.register_forward_hook(after_unet),
    ]
    for net in models.controlnets.values():
        hooks += [net.register_forward_pre_hook(before_control), net.register_forward_hook(after_control)]
    yield place
    for hook in hooks:
        hook.remove()


CHECKS = {"pipeline": check_pipeline, "predictor": check_predictor}
