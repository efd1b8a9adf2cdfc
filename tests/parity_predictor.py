"""Checks of the original's predictors: chains of calls of its pipeline, from first frame to last shot.

A case becomes a `Clip` and goes through `generate`, watched from outside and compared link by link (`parity_links`).
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from musev_engine import conditions as conditions_module
from musev_engine import frames, pipeline
from musev_engine.clip import Clip, ConditionImage, ControlVideo, FirstFrame, SerialDenoise, shot_lengths
from musev_engine.conditions import Conditions, predictor
from musev_engine.loading import Models
from musev_engine.sampling import initial_latents
from tests.golden_data import Case, Comparison, NotCovered, atol_of_text
from tests.golden_models import golden_models, pixels, seeds_of
from tests.parity_links import DRAWN, LATENTS, Links, run_links

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
    "guess_mode": False, "prompt_only_use_image_prompt": False, "height": None, "width": None,
    "need_return_videos": False, "need_return_condition": False,
}  # fmt: skip


def check_predictor(directory: Path, root: Path, **how) -> list[Comparison]:
    """First frame, shots, what each hands on, all pictures. `how`: see `Links`."""
    case = Case(directory, root)
    if other := sorted(case.info["args"].keys() - TO_PREDICTOR.keys()):
        raise NotCovered(f"asks for {', '.join(other)}")
    models = golden_models(case)

    def run(links: Links, net: str) -> None:
        follow(links, clip_of(case, net), models)

    return run_links(case, models, sorted(models.controlnets), run, **how)


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
            "controls": (ControlVideo(net, control, None, *span),) if net else (),
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
        guidance_method=args.video_guidance_scale_method, seed=seeds_of(case)[0], eta=args.eta,
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
        guess_mode=args.guess_mode,
        prompt_only_use_image_prompt=args.prompt_only_use_image_prompt, video_strength=args.video_strength,
        n_vision_condition=args.n_vision_condition,
        fix_condition_images=args.fix_condition_images, fixed_refer_image=args.fixed_refer_image,
        fixed_ip_adapter_image=args.fixed_ip_adapter_image, context_frames=args.context_frames,
        context_overlap=args.context_overlap, context_stride=args.context_stride,
        context_batch_size=args.context_batch_size, context_schedule=args.context_schedule, overlap_weights="flat",
        noise_type=args.noise_type, w_ind_noise=args.w_ind_noise,
        img_weight=args.img_weight if args.need_img_based_video_noise else 0.0,
        initial_common_latent=None if common is None else common[0, :, 0].numpy(), compat="musev",
        **options,
    )  # fmt: skip


def follow(links: Links, clip: Clip, models: Models) -> None:
    """The clip through `generate`, its loop and what goes into it replaced by what `links` make of them."""
    decoded: list[Tensor] = []  # what the VAE made, before any change of colours
    runs = {"calls": 0, "generator": None}
    own_decode = frames.decode

    def linked_predictor(unet, conditions: Conditions, timesteps: Tensor):
        links.of_call("timesteps", timesteps.float(), DRAWN)
        linked = {
            name: links.of_call(stored, getattr(conditions, name), atol)
            for name, stored, atol in (
                ("prompt_embeds", "prompt_embeds", atol_of_text(conditions.prompt_embeds)),
                ("condition_latents", "condition_latents", LATENTS),
                ("image_tokens", "ip_adapter_image_emb", LATENTS),
                ("face_tokens", "ip_adapter_face_emb", LATENTS),
            )
        }
        return predictor(unet, replace(conditions, **linked), timesteps)

    def linked_start(*arguments) -> Tensor:
        return links.of_call("init_latents", initial_latents(*arguments), LATENTS)

    def linked_denoise(*arguments, **options):
        runs["generator"] = options["generator"]
        yield from links.denoise(*arguments, **options)
        runs["calls"] += 1
        links.call = runs["calls"]

    def watched_decode(*arguments):
        for part in own_decode(*arguments):
            decoded.append(part)
            yield part

    video, shown = [], []
    with ExitStack() as stack:
        for module, name, ours in (
            (conditions_module, "predictor", linked_predictor),
            (pipeline, "initial_latents", linked_start),
            (pipeline, "denoise", linked_denoise),
            (frames, "decode", watched_decode),
        ):
            stack.enter_context(mock.patch.object(module, name, ours))
        for event in pipeline.generate(clip, models):
            if isinstance(event, pipeline.Frames):
                shown.append(decoded[-1])
                matched = frames.to_tensor(event.frames) if clip.need_hist_match else decoded[-1]
                video.append(torch.cat([decoded[-1][:1], matched[1:]]) if event.first == 0 else matched)
    floats = torch.cat(shown)

    def either(off: float) -> Tensor:
        """All frames brought to 8 bits and matched, had each been a little lighter or darker."""
        moved = frames.to_pixels(floats + off, clip.compat)
        matched = frames.to_tensor(frames.match_histograms(moved, moved[0]))
        return torch.cat([floats[:1], matched[1:].to(floats)])[None]

    links.video(torch.cat(video)[None], either if clip.need_hist_match else None)
    links("generator_probe_after", torch.randn(4, generator=runs["generator"]), DRAWN)
    links.value("calls of the loop", runs["calls"], len(links.case.info["calls"]))
