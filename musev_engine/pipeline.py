"""From a clip's request to its frames: prepare -> shot by shot: denoise in windows -> decode.

`generate` is a generator: whoever asks for its next event lets it go on to the next window, and whoever
closes it stops it there. It knows no sockets, jobs or files.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from musev_engine import frames, keypoints, plugins
from musev_engine.clip import Clip, ControlVideo, Event, Frames, Preview, Progress
from musev_engine.conditions import (
    Conditions,
    Control,
    face_tokens,
    image_tokens,
    reference_tokens,
    self_reference_tokens,
)
from musev_engine.drawing import NUM_BODY_POINTS
from musev_engine.errors import EngineError
from musev_engine.faces import FaceEmbedder
from musev_engine.loading import POSE_CONTROLNET, Models
from musev_engine.prompt_track import PromptTrack, texts_of
from musev_engine.prompts import encode_prompts
from musev_engine.sampling import (
    Settle,
    classifier_free,
    denoise,
    draw_noise,
    guidance_scales,
    initial_latents,
    lean_noise,
    steps_of_strength,
)
from musev_engine.schedulers import make_scheduler, set_timesteps
from musev_engine.seams import going_over, keeping, shares_of_end, tints
from musev_engine.shots import BESIDE, Leaning, Looks, Shot, Trace, follow, plan_shots
from musev_engine.windows import plan_windows

__all__ = ["Clip", "Event", "Frames", "Preview", "Progress", "generate"]


def generate(clip: Clip, models: Models, face_embedder: FaceEmbedder | None = None) -> Iterator[Event]:
    """Make a clip: exactly `clip.num_frames` frames come out, condition images at their places.

    It may be closed between any two events, and there is one after every batch of windows at least. Without a
    still or condition image, a first frame is made alone, by the image model. face_embedder: finds the faces in the
    frames of a shot for the next one, where `clip.fixed_refer_face_image` is False.

    Raises EngineError when the model lacks what the clip needs, FloatingPointError as `denoise` does.
    """
    _check_parts(clip, models, face_embedder)
    generator = torch.Generator().manual_seed(clip.seed)
    yield Progress("prepare", 0, 1)
    looks = Looks.of(clip)
    images, kept = (
        {frame: _encoded(picture, clip, models) for frame, picture in each.items()}
        for each in (clip.pinned, clip.kept)
    )
    opening = _opening(clip, models, images, kept)
    wants_first = clip.first_frame.redraw if opening.pinned else clip.n_vision_condition and not images
    if wants_first:
        made = yield from _first_frame(clip, models, opening, looks.for_first_frame(clip), generator)
        opening = replace(opening, pinned={0: made})
        looks = looks.after_first_frame(clip, torch.cat(list(frames.decode(models.vae, made))))
        images = {frame: made if frame == opening.frame_of(0) else each for frame, each in images.items()}
    texts = _encoded_prompts(clip, models)
    yield Progress("prepare", 1, 1)

    plan, shot, latents, trace, model_frame = plan_shots(clip), None, None, None, None
    for number, (first, end) in enumerate(plan):
        shot = follow(clip, first, end, opening, shot, latents, images, kept)
        opening = opening if number else shot
        conditions = _conditions(clip, models, looks, texts, shot)
        if clip.end_still is not None:
            conditions = replace(conditions, ending=_ending(clip, models, texts, shot))
        made, trace = yield from _made(clip, models, shot, conditions, generator, trace, (number, len(plan)))
        latents, done, tail = shot.whole(made), first, []
        yield Progress("decode", first, clip.num_frames)
        shown = latents[:, :, len(shot.ahead) :]
        tinted = tints(_kept_pictures(clip, first, end), shown, models.vae)
        for pictures in frames.decode(models.vae, shown):
            if tinted is not None:
                pictures = pictures + tinted[done - first : done - first + len(pictures)]
            pixels = frames.to_pixels(pictures, clip.compat)
            if clip.need_hist_match:
                model_frame = pixels[0] if model_frame is None else model_frame
                pixels = frames.match_histograms(pixels, model_frame)
            yield Frames(done, pixels)
            done, tail = done + len(pixels), [*tail, *pictures][-max(1, clip.n_vision_condition) :]
            yield Progress("decode", done, clip.num_frames)
        looks = looks.after_shot(clip, torch.stack(tail))
        if looks.faces is not None and not clip.fixed_refer_face_image and end < clip.num_frames:
            looks = replace(
                looks, faces=np.stack(list(map(face_embedder, frames.to_pixels(torch.stack(tail)))))
            )


def _check_parts(clip: Clip, models: Models, face_embedder: FaceEmbedder | None) -> None:
    """Everything the clip asks for must be there before anything is made."""
    wanted = {POSE_CONTROLNET} if clip.poses is not None else set()
    for name in sorted(wanted | {control.controlnet for control in clip.controls}):
        if name not in models.controlnets:
            known = ", ".join(sorted(models.controlnets)) or "none"
            raise EngineError(
                f"The model {models.name} has no such ControlNet", name,
                f"Load it with the model; loaded are: {known}.", code="bad_model",
            )  # fmt: skip
    for given, part, what in (
        (clip.references, models.referencenet or clip.reference_only, "references"),
        (clip.image_prompts, models.image_encoder, "image prompts"),
        (clip.face_embeds, models.face_proj, "face embeddings"),
    ):
        if given is not None and len(given) and not part:
            raise EngineError(
                f"This model takes no {what}",
                models.name,
                "Choose one that does, or leave them out.",
                "bad_model",
            )
    if clip.face_embeds is not None and not clip.fixed_refer_face_image and face_embedder is None:
        raise EngineError(
            "Nothing here finds faces in the frames of the shot before", "fixed_refer_face_image=False",
            "Keep it True, or give a face_embedder, such as faces.InsightFaces.",
        )  # fmt: skip


def _opening(
    clip: Clip, models: Models, images: dict[int, torch.Tensor], kept: dict[int, torch.Tensor]
) -> Shot:
    """What a clip begins with: the still beside the clip, else the condition image of frame 0, else the still as frame
    0, else the first kept frame beside the clip, or nothing yet. As a shot without frames of its own."""
    shows_still = clip.still is not None and clip.n_vision_condition
    if shows_still and not clip.begins_with_still:
        return Shot(0, 0, (BESIDE,), {0: _encoded(clip.still, clip, models)})
    if shows_still and 0 not in images and 0 not in kept:
        return Shot(0, 0, (), {0: _encoded(clip.still, clip, models)})
    if kept and 0 not in images and clip.n_vision_condition:
        return Shot(0, 0, (min(kept),), {0: kept[min(kept)]})
    return Shot(0, 0, (), {0: images[0]} if 0 in images else {})


def _kept_pictures(clip: Clip, first: int, end: int) -> dict[int, np.ndarray]:
    """The kept frames of [first, end), counted from there, as large as the clip."""
    return {
        frame - first: frames.fit_still(picture, clip.width, clip.height, clip.compat)
        for frame, picture in clip.kept.items()
        if first <= frame < end
    }


def _encoded(picture: np.ndarray, clip: Clip, models: Models) -> torch.Tensor:
    fitted = frames.fit_still(picture, clip.width, clip.height, clip.compat)
    return frames.encode(models.vae, fitted[None])


def _encoded_video(clip: Clip, models: Models, numbers: list[int]) -> torch.Tensor:
    """Frames of the source video as clean latents, (1, c, len(numbers), h, w)."""
    fitted = (frames.fit_frames(clip.video[i : i + 1], clip.width, clip.height) for i in numbers)
    return torch.cat([frames.encode(models.vae, each) for each in fitted], dim=2)


def _first_frame(
    clip: Clip, models: Models, opening: Shot, looks: Looks, generator: torch.Generator
) -> Generator[Event, None, torch.Tensor]:
    """A picture made alone, by the image model: what the clip begins with, drawn anew, or frame 0."""
    by = clip.first_frame
    image = replace(
        clip, noise_type="random", skip_temporal=True, scheduler=clip.scheduler,
        num_inference_steps=by.num_inference_steps or clip.num_inference_steps,
        guidance_scale=clip.guidance_scale if by.guidance_scale is None else by.guidance_scale,
        guidance_scale_end=clip.guidance_scale_end if by.guidance_scale is None else by.guidance_scale_end,
        guidance_method=clip.guidance_method if by.guidance_scale is None else by.guidance_method,
        negative_prompt=clip.negative_prompt if by.negative_prompt is None else by.negative_prompt,
        initial_common_latent=None,
    )  # fmt: skip
    alone = Shot(0, 0, opening.ahead) if opening.ahead else Shot(0, 1)
    start = opening.pinned.get(0)
    if clip.compat == "musev" and clip.follows_control and clip.video is None:
        start = None
    elif start is None and clip.video is not None:
        start = _encoded_video(clip, models, [0])
    conditions = _conditions(image, models, looks, _encoded_prompts(image, models), alone)
    return (
        yield from _denoise("first frame", image, models, alone, conditions, generator, start, by.strength)
    )


def _made(
    clip: Clip, models: Models, shot: Shot, conditions: Conditions, generator: torch.Generator,
    before: Trace | None, part: tuple[int, int],
) -> Generator[Event, None, tuple[torch.Tensor | None, Trace | None]]:  # fmt: skip
    """What a shot makes: latents (1, c, n, h, w) of the frames that aren't given, or None if all are; and its
    trace for the next one, where shots lean on each other."""
    numbers = [shot.frame_of(place) for place in conditions.timeline.free]
    if not numbers:
        return None, None
    if len(shot.kept) == len(numbers):
        return torch.cat([shot.kept[place] for place in conditions.timeline.free], dim=2), None
    start = None if clip.video is None else _encoded_video(clip, models, numbers)
    leaning = None if clip.serial is None else Leaning(clip.serial, before, clip.num_inference_steps)
    made = yield from _denoise(
        "denoise", clip, models, shot, conditions, generator, start, clip.video_strength, leaning, part
    )
    return made, leaning and leaning.trace


def _denoise(
    phase: str, clip: Clip, models: Models, shot: Shot, conditions: Conditions, generator: torch.Generator,
    start: torch.Tensor | None = None, strength: float = 1.0, leaning: Leaning | None = None,
    part: tuple[int, int] = (0, 1),
) -> Generator[Event, None, torch.Tensor]:  # fmt: skip
    """The frames that a timeline doesn't have yet, from noise or from clean `start` latents: float32
    (1, c, n, h, w). `part`: this run's number among those whose steps are counted together."""
    free = conditions.timeline.free
    scheduler = make_scheduler(models.scheduler_config, None if clip.scheduler == "model" else clip.scheduler)
    timesteps = set_timesteps(scheduler, clip.num_inference_steps, models.device, clip.compat)
    if start is not None and clip.compat != "musev":
        timesteps = steps_of_strength(timesteps, strength)
        if not len(timesteps):
            return start
    shape = (1, models.vae.config.latent_channels, len(free), clip.height // 8, clip.width // 8)
    drawn_at = ((clip.noise_height or clip.height) // 8, (clip.noise_width or clip.width) // 8)
    common = None
    if clip.initial_common_latent is not None:
        common = torch.from_numpy(clip.initial_common_latent).float()[None, :, None]
    elif clip.shared_seed is not None:
        seeded = torch.Generator().manual_seed(clip.shared_seed)
        common = draw_noise((*shape[:2], 1, *shape[3:]), seeded, drawn_at=drawn_at)
    noise = draw_noise(
        shape, generator, noise_type=clip.noise_type, w_ind_noise=clip.w_ind_noise, common=common,
        drawn_at=drawn_at,
    ).to(models.device)  # fmt: skip
    if conditions.condition_latents is not None and start is None:
        noise = lean_noise(noise, conditions.condition_latents, clip.img_weight)
    latents = initial_latents(scheduler, noise, timesteps[0], start)
    scales = guidance_scales(
        clip.guidance_scale, clip.guidance_scale_end, len(timesteps), clip.guidance_method
    )
    guide = classifier_free(scales) if conditions.guided else lambda noise_pred, step: noise_pred
    settle: Settle = _left_as_they_are
    if leaning is not None:
        latents, guide, settle = leaning.begin(latents), leaning.over(guide), leaning.settle
    if shot.kept:
        kept = {free.index(place): known for place, known in shot.kept.items()}
        latents, settle = _kept(keeping(kept, noise, scheduler, timesteps), latents, settle)
    predictor = plugins.found("musev.predictors")[clip.predictor]
    predict = predictor(models.unet, conditions, timesteps)
    if conditions.ending is not None:
        ending, shares = conditions.ending
        predict = going_over(predict, predictor(models.unet, ending, timesteps), shares)
    states = denoise(
        predict,
        latents,
        scheduler,
        timesteps,
        plan=lambda step: plan_windows(
            clip.context_schedule, len(free), clip.context_frames, clip.context_overlap,
            context_stride=clip.context_stride, step=step,
        ),
        context_batch_size=clip.context_batch_size,
        overlap_weights=clip.overlap_weights,
        generator=generator,
        eta=clip.eta,
        noise_type=clip.noise_type,
        w_ind_noise=clip.w_ind_noise,
        compat=clip.compat,
        guide=guide,
        settle=settle,
    )  # fmt: skip
    before, steps = part[0] * len(timesteps), part[1] * len(timesteps)
    yield Progress(phase, before, steps)
    for state in states:
        if not state.step_done:
            yield Progress(phase, before + state.step, steps, state.window, state.num_windows)
            continue
        yield Progress(phase, before + state.step + 1, steps)
        if state.original is not None and state.step + 1 < state.num_steps:
            yield Preview(tuple(max(0, shot.frame_of(place)) for place in free), state.original[0])
    return state.latents


def _left_as_they_are(latents: torch.Tensor, step: int) -> torch.Tensor:
    return latents


def _kept(keep: Settle, latents: torch.Tensor, settle: Settle) -> tuple[torch.Tensor, Settle]:
    """Where the loop begins, and what is done after each step, where frames are kept: that is done last."""
    return keep(latents, 0), lambda latents, step: keep(settle(latents, step), step + 1)


def _encoded_prompts(clip: Clip, models: Models) -> PromptTrack:
    """What the clip's frames are told, the negative prompt first where there is guidance."""
    texts, weights = texts_of(clip.prompt, clip.prompts, clip.num_frames)
    guided = clip.guidance_scale > 1
    wanted = [clip.negative_prompt, *texts] if guided else texts
    embeds = encode_prompts(models.text_encoder, models.tokenizer, wanted).to(models.device)
    halves = [embeds[:1].expand(len(texts), -1, -1), embeds[1:]] if guided else [embeds]
    return PromptTrack(torch.stack(halves), torch.from_numpy(weights))


def _conditions(clip: Clip, models: Models, looks: Looks, texts: PromptTrack, shot: Shot) -> Conditions:
    """All that a shot's predictions depend on. Pictures that the model has no parts for are left out."""
    embeds = texts.at([0])[:, 0]
    shown = [max(0, shot.frame_of(place)) for place in range(shot.timeline.num_frames)]
    track = None if texts.is_plain else texts.of(shown)
    guided, image, face, reference, own = clip.guidance_scale > 1, None, None, None, None
    if looks.image_prompts is not None and models.image_encoder is not None:
        # cut and scaled once more, as in MuseV
        stills = [
            frames.fit_still(each, clip.width, clip.height, clip.compat, Image.Resampling.BICUBIC)
            for each in frames.to_pixels(looks.image_prompts, clip.compat)
        ]
        image = image_tokens(models.image_encoder, models.image_proj, np.stack(stills), guided)
    if looks.faces is not None and models.face_proj is not None:
        face = face_tokens(models.face_proj, looks.faces, guided)
    if looks.references is not None and clip.reference_only:
        own = self_reference_tokens(models.unet, frames.encode(models.vae, looks.references), embeds)
    elif looks.references is not None and models.referencenet is not None:
        latents = frames.encode(models.vae, looks.references)
        reference = reference_tokens(
            models.referencenet, models.unet, latents, embeds if image is None else image
        )
    if not models.unet.config.ip_adapter_cross_attn:
        if clip.prompt_only_use_image_prompt and image is not None:
            embeds, track = image, None
        image = None
    return Conditions(
        embeds,
        guided,
        shot.timeline,
        condition_latents=shot.condition_latents,
        reference=reference,
        self_reference=own,
        image_tokens=image,
        image_scale=clip.ip_adapter_scale,
        face_tokens=face,
        face_scale=clip.face_scale,
        controls=tuple(_controls(clip, models, shot)),
        motion_speed=clip.motion_speed,
        skip_temporal=clip.skip_temporal,
        prompt_track=track,
    )


def _ending(clip: Clip, models: Models, texts: PromptTrack, shot: Shot) -> tuple[Conditions, torch.Tensor]:
    """What a shot's frames go over into: the same clip with the end's still in place of its own."""
    ended = replace(clip, still=clip.end_still, still_pose=None, end_still=None)
    if shot.first == 0 and shot.ahead:  # the first of them stands where the still would
        shot = replace(shot, pinned=shot.pinned | {0: _encoded(clip.end_still, clip, models)})
    shares = shares_of_end(clip.num_frames, clip.pinned.keys() | clip.kept.keys())
    numbers = [shot.frame_of(place) for place in shot.timeline.free]
    return _conditions(ended, models, Looks.of(ended), texts, shot), shares[numbers]


def _controls(clip: Clip, models: Models, shot: Shot) -> Iterator[Control]:
    """The poses, as drawings, and the other control pictures, told by places of the shot's timeline."""

    def control(net: str, pictures_of, scale: float, *span: float) -> Control:
        def pictures(places: list[int]) -> torch.Tensor:
            shown = pictures_of([shot.frame_of(place) for place in places])
            return frames.to_tensor(frames.fit_frames(shown, clip.width, clip.height))

        return Control(models.controlnets[net], pictures, scale, *span, guess=clip.guess_mode)

    if clip.poses is not None:
        still_pose = np.zeros((0, NUM_BODY_POINTS, 3)) if clip.still_pose is None else clip.still_pose
        drawn = keypoints.draw(still_pose[None], clip.width, clip.height)[0]

        def drawings(numbers: list[int]) -> np.ndarray:
            poses = keypoints.draw(clip.poses[numbers], clip.width, clip.height)
            return np.stack([drawn if i == BESIDE else one for i, one in zip(numbers, poses, strict=True)])

        yield control(POSE_CONTROLNET, drawings, clip.control_scale)
    for video in clip.controls:
        yield control(video.controlnet, _pictures_of(video), video.scale, video.start, video.end)


def _pictures_of(video: ControlVideo):
    still = np.zeros_like(video.frames[0]) if video.still is None else video.still

    def pictures(numbers: list[int]) -> np.ndarray:
        return np.stack([still if i == BESIDE else video.frames[i] for i in numbers])

    return pictures
