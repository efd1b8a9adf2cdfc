"""The clip that a task of MuseV's asks for, together with the command line's options; its own values go before them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from musev_engine.clip import Clip, ConditionImage, ControlVideo, FirstFrame, SerialDenoise, shot_lengths
from musev_engine.control import Cache, ControlKind, find_control, forget_detectors, preprocess
from musev_engine.errors import EngineError
from musev_engine.faces import InsightFaces, read_faces
from musev_engine.frames import fit_frames, fit_still
from musev_engine.media import STILLS, read_clips, read_still, video_size
from musev_engine.task_files import bad_tasks, find_path, negative_prompt, prompt_of
from musev_engine.task_models import device_of

SIZE_STEP = 64  # pixels; sizes are brought down to a multiple, as in MuseV


class Task:
    """One task with the options: asks for its values, reads its pictures, and makes its clip.

    `sources` and `controls` keep what a video was read as and what it was turned into, uint8 (t, h, w, 3), to be shown
    beside the clip.
    """

    def __init__(self, task: dict, options: argparse.Namespace, folder: Path = Path()):
        self.values, self.options, self.folder = task, options, folder
        self.sources: np.ndarray | None = None
        self.controls: list[np.ndarray] = []

    def check(self, **poses: np.ndarray | None) -> None:
        """Raise the EngineErrors that `clip` would, as far as they show without a whole video, detectors or faces."""
        self._clip(0, True, **poses)

    def clip(
        self, seed: int, *, poses: np.ndarray | None = None, still_pose: np.ndarray | None = None
    ) -> Clip:
        """The clip. poses, still_pose: see `Clip`. Raises EngineError."""
        return self._clip(seed, False, poses, still_pose)

    def _clip(
        self, seed: int, checked: bool, poses: np.ndarray | None = None, still_pose: np.ndarray | None = None
    ) -> Clip:
        """checked: for the check alone, with neither what a video gives nor a face."""
        options, get, prompt = self.options, self._get, prompt_of(self.values)
        video_path = self.values.get("video_path") or getattr(options, "video_path", None)
        to_video = hasattr(options, "which2video")
        images = self._condition_images()
        path = None
        if to_video:
            if video_path is None:
                raise bad_tasks(f"The task {self.values['name']} has no video", "video_path", "Give it one.")
            path = find_path(str(video_path), self.folder)
        width, height = self._size(images, path)
        begin = images if options.n_vision_condition else []
        indices = self._indices(begin)
        stills = {"condition_images": tuple(map(ConditionImage, begin, indices))}
        more: dict = {"motion_speed": get("motion_speed", float)}
        if path is not None:
            names = self._follows(path, begin)
            if checked:
                before = len(self._before(begin))
                more["shots"] = shot_lengths(options.time_size, options.n_batch, given_frames=before)
            else:
                more |= self._following(path, names, begin, width, height)
            more |= {"guess_mode": options.guess_mode, "video_strength": options.video_strength}
            if not self._told("motion_speed"):
                more["motion_speed"] = float(options.sample_rate)
        elif poses is not None:
            stills = {"still": begin[0] if begin else None}
            more |= {
                "poses": poses,
                "still_pose": still_pose,
                "control_scale": options.control_scale,
                "shots": (len(poses),),
            }
        else:
            more["shots"] = shot_lengths(options.time_size, options.n_batch, given_frames=len(begin))
        negatives = [self._negative(key) for key in ("negative_prompt", "video_negative_prompt")]
        first = images[:1]
        serial = SerialDenoise(
            options.video_overlap, options.record_mid_video_latents, options.record_mid_video_noises
        )
        own_schedule = options.context_schedule in ("uniform", "uniform_v2")
        return Clip(
            prompt=prompt, negative_prompt=negatives[1], width=width, height=height,
            num_frames=sum(more["shots"]), num_inference_steps=options.video_num_inference_steps,
            guidance_scale=options.video_guidance_scale, guidance_scale_end=options.video_guidance_scale_end,
            guidance_method=options.video_guidance_scale_method, seed=seed,
            scheduler="ddim_zero_snr" if getattr(options, "enable_zero_snr", False) else options.scheduler,
            eta=options.eta,
            first_frame=FirstFrame(
                get("redraw_condition_image", bool), options.strength, options.num_inference_steps,
                options.guidance_scale, negative_prompt=negatives[0],
                with_references=options.redraw_condition_image_with_referencenet,
                with_image_prompts=options.redraw_condition_image_with_ipdapter,
                with_faces=options.redraw_condition_image_with_ip_adapter_face,
            ),
            reference_only=options.referencenet_model_name == "reference_only",
            references=self._pictures("refer_image", "referencenet_image_path", first),
            image_prompts=self._pictures("ipadapter_image", "ipadapter_image_path", first),
            face_embeds=None if checked else self._face(), ip_adapter_scale=options.ip_adapter_scale,
            face_scale=options.ip_adapter_face_scale,
            prompt_only_use_image_prompt=options.prompt_only_use_image_prompt,
            n_vision_condition=options.n_vision_condition, fix_condition_images=options.fix_condition_images,
            fixed_refer_image=options.fixed_refer_image, fixed_ip_adapter_image=options.fixed_ip_adapter_image,
            fixed_refer_face_image=options.fixed_refer_face_image,
            serial=serial if serial.latents or serial.noise_preds else None,
            context_frames=options.context_frames, context_overlap=options.context_overlap,
            context_stride=options.context_stride, context_batch_size=options.context_batch_size,
            context_schedule=options.context_schedule,
            overlap_weights=options.overlap_weights or ("flat" if own_schedule else "triangular"),
            noise_type=options.noise_type, w_ind_noise=get("w_ind_noise", float),
            img_weight=get("img_weight", float) if options.need_img_based_video_noise else 0.0,
            need_hist_match=options.need_hist_match, compat=options.compat, **stills, **more,
        )  # fmt: skip

    def size(self) -> tuple[int, int]:
        """The clip's width and height. Raises EngineError."""
        video = self.values.get("video_path") or getattr(self.options, "video_path", None)
        return self._size(self._condition_images(), find_path(str(video), self.folder) if video else None)

    # --- values -------------------------------------------------------------------------------------------

    def _told(self, key: str) -> bool:
        """Whether the task or the command line says it, and not the default."""
        return self.values.get(key) is not None or key in getattr(self.options, "given", ())

    def _get(self, key: str, kind: type) -> object:
        value = self.values.get(key)
        if value is None:
            return getattr(self.options, key)
        try:
            if kind is bool and isinstance(value, str):
                return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
            return kind(value)
        except (TypeError, ValueError, KeyError) as error:
            name = self.values["name"]
            raise bad_tasks(
                f"{key} of the task {name} isn't a {kind.__name__}", value, "Change it."
            ) from error

    def _number(self, key: str, value: object) -> float:
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise bad_tasks(
                f"{key} of the task {self.values['name']} is no number", value, "Change it."
            ) from error

    def _negative(self, key: str) -> str:
        text = str(self.values.get(key) or getattr(self.options, key))
        text = negative_prompt(text, self.options.negprompt_cfg_path)
        return (
            f"static video, {text}"
            if self.options.add_static_video_prompt and key.startswith("video")
            else text
        )

    def _size(self, images: list[np.ndarray], video: Path | None) -> tuple[int, int]:
        """Task, then options, then condition image, then video; times the ratio, down to a multiple of 64."""
        sides = {}
        for side, axis in (("width", 1), ("height", 0)):
            value = self.values.get(side) or getattr(self.options, side)
            if value is None and images:
                value = images[0].shape[axis]
            elif value is None and video is not None:
                value = video_size(video)[1 - axis]
            if value is None:
                remedy = f"Give --{side}, or a condition image."
                raise bad_tasks(f"The {side} of {self.values['name']} isn't known", None, remedy)
            ratio = self._get("img_length_ratio", float)
            sides[side] = int(self._number(side, value) * ratio // SIZE_STEP * SIZE_STEP)
            if sides[side] < SIZE_STEP:
                told = f"{value} times img_length_ratio"
                raise EngineError(
                    f"The {side} is too small", told, f"It must make {SIZE_STEP} pixels or more."
                )
        return sides["width"], sides["height"]

    # --- pictures -----------------------------------------------------------------------------------------

    def _read(self, text: object) -> list[np.ndarray]:
        paths = text if isinstance(text, list) else [text]
        return [read_still(find_path(str(path), self.folder)) for path in paths]

    def _condition_images(self) -> list[np.ndarray]:
        given = self.values.get("condition_images") or self.options.still_file
        return self._read(given) if given and self.options.use_condition_image else []

    def _indices(self, begin: list[np.ndarray]) -> list[int]:
        indices = self.values.get("condition_images_index")
        indices = (
            list(range(len(begin)))
            if indices is None
            else indices
            if isinstance(indices, list)
            else [indices]
        )
        if begin and len(indices) != len(begin):
            name = self.values["name"]
            told = f"{len(indices)} for {len(begin)} images"
            raise bad_tasks(
                f"condition_images_index of {name} doesn't fit", told, "Give one index for each image."
            )
        return [int(index) for index in indices[: len(begin)]]

    def _pictures(self, key: str, option: str, default: list[np.ndarray]) -> tuple[np.ndarray, ...] | None:
        """Its own, or the option's, or the condition image's; None: what becomes frame 0."""
        given = self.values.get(key) or getattr(self.options, option)
        return tuple(self._read(given)) if given else tuple(default) or None

    def _face(self) -> np.ndarray | None:
        given = self.values.get("face_image") or self.options.face_image_path
        if given is None:
            return None
        path = find_path(str(given), self.folder)
        if path.suffix.lower() in STILLS:
            return InsightFaces()(read_still(path))[None]
        return read_faces(path)

    # --- video --------------------------------------------------------------------------------------------

    def _follows(self, path: Path, begin: list[np.ndarray]) -> list[str]:
        """The names of the controls that are followed. Raises EngineError for unknown ones, for nothing to follow, for
        poses that can't be aligned, and for what is no video."""
        options = self.options
        names = [name.strip() for name in (options.controlnet_name or "").split(",") if name.strip()]
        kinds = [find_control(name) for name in names]
        if not kinds and not self._starts_from_video:
            remedy = "Give --controlnet_name, or --which2video video."
            raise EngineError("The clip has nothing to follow", options.which2video, remedy)
        if options.posealign == "auto" and names:
            if not begin:
                remedy = "Give a condition image, or leave --posealign off."
                raise EngineError("There is no figure to align the poses to", "no condition image", remedy)
            if self._get("video_is_middle", bool):
                remedy = "Give the video that they were found in, or leave --posealign off."
                raise EngineError("Poses that are drawn already aren't aligned", "video_is_middle", remedy)
        self._spans(names)
        video_size(path)
        return names

    def _before(self, begin: list[np.ndarray]) -> list[np.ndarray]:
        """The condition image, where it comes before the video."""
        return [] if self._get("video_has_condition", bool) else begin[:1]

    def _spans(self, names: list[str]) -> list[list[float]]:
        """Scale, start and end of each control."""
        spans = []
        for key in ("controlnet_conditioning_scale", "controlnet_start", "controlnet_end"):
            given = getattr(self.options, key)
            values = given if isinstance(given, list) else [given] * len(names)
            if len(values) != len(names):
                told = f"{len(values)} for {len(names)} controls"
                raise bad_tasks(f"--{key} doesn't fit", told, "Give one number, or one for each control.")
            spans.append(values)
        return spans

    @property
    def _starts_from_video(self) -> bool:
        return self.options.which2video == "video" or self.options.need_video2video

    def _following(
        self, path: Path, names: list[str], begin: list[np.ndarray], width: int, height: int
    ) -> dict:
        """What a clip takes from its video: shots, control pictures, and the start."""
        options = self.options
        clips = [
            fit_frames(clip, width, height, options.compat)
            for clip in read_clips(path, options.time_size, options.sample_rate, options.n_batch)
        ]
        video = np.concatenate(clips)
        is_middle = self._get("video_is_middle", bool)
        before = self._before(begin)
        device = device_of(options.device)
        still = fit_still(before[0], width, height, options.compat) if before else None
        cache = Cache(Path(options.control_cache)) if options.control_cache else None
        controls = []
        for name, *span in zip(names, *self._spans(names), strict=True):
            kind, pictures, shown = find_control(name), video, []
            if options.posealign == "auto":
                if not isinstance(kind, ControlKind):
                    raise EngineError(
                        "Posealign is for poses", name, "Turn it off, or choose a pose control."
                    )
                figure = fit_still(begin[0], width, height, options.compat)
                pictures, drawn = kind.aligned(video, figure, device=device)
                shown = [drawn[None]]
            elif not is_middle:
                pictures = preprocess(name, video, device=device, cache=cache)
            if before:
                pictures = np.concatenate(
                    [*(shown or [preprocess(name, still[None], device=device, cache=cache)]), pictures]
                )
            controls.append(ControlVideo(kind.controlnet, pictures, None, *span))
        if device != "cpu":  # their memory is wanted for the clip
            forget_detectors()
        if before:  # the condition image comes before the video
            video = np.concatenate([still[None], video])
        self.sources, self.controls = video, [control.frames for control in controls]
        return {
            "shots": shot_lengths(options.time_size, len(clips), given_frames=len(before)),
            "controls": tuple(controls),
            "video": video if self._starts_from_video else None,
        }
