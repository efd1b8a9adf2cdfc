"""The options of `musev text2video` and `musev video2video`: MuseV's own, under its spelling and with its defaults,
and ours. A table, and what reads it: the command line, `tasks`, and docs/options.md.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

BOTH = ("text2video", "video2video")
V2V = ("video2video",)
NO = ("none", "no", "null")  # what switches a named part off; None leaves it to the model
IP_ADAPTERS = {  # MuseV's names: files of IP-Adapter/
    "IPAdapter": "ip-adapter_sd15",
    "IPAdapterPlus": "ip-adapter-plus_sd15",
    "IPAdapterPlus-face": "ip-adapter-plus-face_sd15",
    "IPAdapterFaceID": "ip-adapter-faceid_sd15",
}


@dataclass(frozen=True)
class Option:
    """One option. kind: what its text is read as; flag "on" or "off": it takes no text, and given it means True or,
    as MuseV's `store_false` ones, False. least: the smallest number that is taken;
    several: one for each control may be given, with commas. effect: what it does. supported:
    what it becomes here. `ours`: not MuseV's.
    """

    name: str
    default: object
    effect: str
    supported: str
    kind: type = str
    flag: str = ""
    choices: tuple[str, ...] = ()
    verbs: tuple[str, ...] = BOTH
    ours: bool = False
    least: float | None = None
    several: bool = False

    def read(self, text: str) -> object:
        """Its value from the command line, a list of them where several may be. Raises argparse's error."""
        if self.several and "," in text:
            return [self.read(each) for each in text.split(",")]
        try:
            value = self.kind(text)
        except ValueError as error:
            kind = {int: "whole number", float: "number"}.get(self.kind, self.kind.__name__)
            raise argparse.ArgumentTypeError(f"{text!r} is no {kind}") from error
        if self.least is not None and not value >= self.least:
            raise argparse.ArgumentTypeError(f"{text} is out of bounds: give {self.least} or more")
        return value

    @property
    def key(self) -> str:
        """Its name in a namespace and in a task."""
        return self.name.lstrip("-").replace("-", "_")


def _on(name: str, effect: str, supported: str, **more) -> Option:
    return Option(name, False, effect, supported, bool, "on", **more)


def _off(name: str, effect: str, supported: str, **more) -> Option:
    return Option(name, True, effect, supported, bool, "off", **more)


MODELS = "`load_models`"
FEW_STEPS = "if not given, what a few-step LoRA wants"
NOT_RUN = "a folder; MuseV's own .py files aren't run, the checkpoints folder beside them is searched"
OPTIONS: tuple[Option, ...] = (
    # what is made
    Option("-test_data_path", None, "the task file: YAML as MuseV's, or CSV", "`task_files.read_tasks`"),
    Option("--target_datas", "all", "names of the tasks to do, with commas", "`task_files.select`"),
    # models
    Option("--sd_model_cfg_path", "configs/model/T2I_all_model.py",
           "where image models are; with --sd_model_name None, the image model itself (folder or file)",
           f"{MODELS} t2i; {NOT_RUN}"),
    Option("--sd_model_name", "all", "image models by name, with commas; all; mini: the embedded model",
           f"{MODELS} t2i, one after the other"),
    Option("--unet_model_cfg_path", "configs/model/motion_model.py", "where the motion model is",
           f"{MODELS} source; {NOT_RUN}"),
    Option("--unet_model_name", "musev_referencenet", "the motion model", f"{MODELS} motion"),
    Option("--lcm_model_cfg_path", "configs/model/lcm_model.py", "where the LCM-LoRA is",
           f"{MODELS} loras, a file or folder; else from the models folder"),
    Option("--lcm_model_name", None, "few steps by LCM-LoRA and its scheduler", f"{MODELS} loras", choices=("lcm",)),
    Option("--referencenet_model_cfg_path", "configs/model/referencenet.py", "where the ReferenceNet is",
           "the motion model's own"),
    Option("--referencenet_model_name", None, "what reads the references: the ReferenceNet; reference_only: the image "
           "model itself; no: nothing does",
           f"{MODELS} referencenet, `Clip.reference_only`; None: as the motion model has it (MuseV: without)",
           choices=("musev_referencenet", "musev_referencenet_pose", "reference_only", *NO)),
    Option("--ip_adapter_model_cfg_path", "configs/model/ip_adapter.py", "where image prompts' projection is",
           "the folder IP-Adapter, or the motion model's own"),
    Option("--ip_adapter_model_name", None, "the image prompts' projection; no: leave it out",
           f"{MODELS} ip_adapter; None: as the motion model has it (MuseV: without)",
           choices=("musev_referencenet", "musev_referencenet_pose", *list(IP_ADAPTERS)[:3], *NO)),
    Option("--vision_clip_model_path", "./checkpoints/ip_adapter/models/image_encoder", "the vision encoder",
           f"{MODELS} image_encoder, where the folder is there"),
    Option("--vision_clip_extractor_class_name", None, "how images are read for image prompts",
           "the projection's own way in every case", choices=("ImageClipVisionFeatureExtractor",)),
    Option("--facein_model_cfg_path", "configs/model/facein.py", "FaceIn, which MuseV has no code for",
           "accepted without effect"),
    Option("--facein_model_name", None, "FaceIn, which MuseV names but has no code for: use FaceID, "
           "`--ip_adapter_face_model_name IPAdapterFaceID`", "an error that points to FaceID"),
    Option("--ip_adapter_face_model_cfg_path", "configs/model/ip_adapter.py", "where FaceID's file is",
           "the folder IP-Adapter"),
    Option("--ip_adapter_face_model_name", None, "FaceID", f"{MODELS} face_id"),
    Option("--vae_model_path", "./checkpoints/vae/sd-vae-ft-mse", "another VAE",
           f"{MODELS} vae; the default where it is there"),
    Option("--cross_attention_dim", 768, "width of the text embeddings", "checked against the model if given", int),
    Option("--pose_guider_model_path", None, "Moore-AnimateAnyone's PoseGuider instead of a ControlNet",
           f"{MODELS} pose_guider: it follows the poses of --controlnet_name", verbs=V2V),
    _on("--enable_zero_snr", "a schedule that ends in nothing but noise", "`Clip.scheduler` ddim_zero_snr", verbs=V2V),
    # output
    Option("--output_dir", "results", "where clips are written", "`media.write_media`"),
    Option("--save_filetype", "mp4", "mp4, gif, webp, or images: a folder of PNG files", "`media.write_media`",
           choices=("gif", "mp4", "webp", "images")),
    _on("--save_images", "PNG files besides", "a folder beside the clip"),
    _on("--overwrite", "make again what is there", "without it a clip that is there is left and said to be skipped"),
    _on("--write_info", "tell how the clip was made", "always: the sidecar"),
    Option("--n_cols", 3, "columns, where several videos are shown in one", "with --need_return_*", int, least=1),
    Option("--fps", 4, "frames a second", "`media.write_media`", int, least=1),
    Option("--n_repeat", 1, "clips a task", "each with the next seed (MuseV: the same, if one is given)", int, least=1),
    Option("--log_level", "INFO", "how much is told", "WARNING and above: no progress",
           choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
    _on("--need_return_videos", "show the source video beside the clip", "one picture of --n_cols columns", verbs=V2V),
    _on("--need_return_condition", "show the control pictures beside the clip", "one picture of --n_cols columns",
        verbs=V2V),
    # size and length
    Option("--height", None, "pixels", "`Clip.height`, times the ratio, down to a multiple of 64", int),
    Option("--width", None, "pixels", "`Clip.width`, times the ratio, down to a multiple of 64", int),
    Option("--img_length_ratio", 1.0, "factor of height and width", "`Clip.height`, `Clip.width`", float),
    Option("--time_size", 12, "frames a shot", "`Clip.shots`", int, least=1),
    Option("--n_batch", 1, "shots", "`Clip.shots`", int, least=1),
    Option("--seed", None, "None: another one for each clip, told in its sidecar", "`Clip.seed`", int, least=0),
    # condition images
    _off("--use_condition_image", "begin with the task's condition image", "`Clip.condition_images`"),
    _on("--fix_condition_images", "every shot begins with it", "`Clip.fix_condition_images`"),
    _on("--redraw_condition_image", "draw it anew first", "`FirstFrame.redraw`"),
    Option("--n_vision_condition", 1, "frames that a shot takes over; 0: none, and no condition image",
           "`Clip.n_vision_condition`", int),
    _off("--redraw_condition_image_with_referencenet", "show the references to it", "`FirstFrame.with_references`"),
    _off("--redraw_condition_image_with_ipdapter", "show the image prompts to it", "`FirstFrame.with_image_prompts`"),
    _off("--redraw_condition_image_with_facein", "FaceIn, which MuseV has no code for", "accepted without effect"),
    _off("--redraw_condition_image_with_ip_adapter_face", "show the face to it", "`FirstFrame.with_faces`"),
    Option("--strength", 0.8, "how far a redrawn image may change", "`FirstFrame.strength` (MuseV: no effect)", float),
    # looks
    _off("--fixed_refer_image", "the reference stays; off: the last frames take its place", "`Clip.fixed_refer_image`"),
    _off("--fixed_ip_adapter_image", "the same of the image prompt", "`Clip.fixed_ip_adapter_image`"),
    _off("--fixed_refer_face_image", "the same of the face", "`Clip.fixed_refer_face_image`"),
    Option("--referencenet_image_path", None, "reference, where the task has none", "`Clip.references`"),
    Option("--ipadapter_image_path", None, "image prompt, where the task has none", "`Clip.image_prompts`"),
    Option("--face_image_path", None, "face, where the task has none: a picture (with insightface), or its embedding",
           "`Clip.face_embeds`"),
    Option("--ip_adapter_scale", 1.0, "weight of the image prompt", "`Clip.ip_adapter_scale`", float),
    Option("--facein_scale", 1.0, "FaceIn, which MuseV has no code for", "accepted without effect", float),
    Option("--ip_adapter_face_scale", 1.0, "weight of the face", "`Clip.face_scale`", float),
    _on("--prompt_only_use_image_prompt", "the image prompt instead of the text, in models without its layers",
        "`Clip.prompt_only_use_image_prompt`"),
    _on("--need_hist_match", "all frames get the first one's colours", "`Clip.need_hist_match`"),
    # prompts and guidance
    Option("--negprompt_cfg_path", "configs/model/negative_prompt.py",
           "None: negative prompts are texts; else names of sets", "names V1…V5, Empty, or texts; None: texts alone"),
    Option("--negative_prompt", "V2", "the first frame's: a set's name or a text", "`FirstFrame.negative_prompt`"),
    Option("--video_negative_prompt", "V2", "the clip's: a set's name or a text", "`Clip.negative_prompt`"),
    _on("--add_static_video_prompt", "nothing that stands still: into the negative prompt", "`Clip.negative_prompt`"),
    Option("--guidance_scale", 7.5, "the first frame's", f"`FirstFrame.guidance_scale`; {FEW_STEPS}", float),
    Option("--num_inference_steps", 30, "the first frame's", f"`FirstFrame.num_inference_steps`; {FEW_STEPS}", int),
    Option("--video_guidance_scale", 3.5, "the clip's", f"`Clip.guidance_scale`; {FEW_STEPS}", float),
    Option("--video_guidance_scale_end", None, "where it goes to", "`Clip.guidance_scale_end`", float),
    Option("--video_guidance_scale_method", "linear", "and how", "`Clip.guidance_method`",
           choices=("linear", "two_stage", "three_stage", "fix_two_stage")),
    Option("--video_num_inference_steps", 10, "the clip's", f"`Clip.num_inference_steps`; {FEW_STEPS}", int),
    # noise and motion
    _off("--need_img_based_video_noise", "lean the noise to the condition image", "`Clip.img_weight`, 0 when off"),
    Option("--img_weight", 0.001, "how far", "`Clip.img_weight`", float),
    Option("--noise_type", "video_fusion", "noise shared among frames, or not", "`Clip.noise_type`",
           choices=("video_fusion", "random")),
    Option("--w_ind_noise", 0.5, "the share of it that is each frame's own", "`Clip.w_ind_noise`", float),
    Option("--motion_speed", 8.0, "MuseV's sample rate of frames", "`Clip.motion_speed`; video2video: if given, else "
           "--sample_rate", float),
    # windows and shots
    Option("--context_schedule", "uniform_v2", "how windows are laid", "`Clip.context_schedule`; ours besides",
           choices=("uniform", "uniform_v2")),
    Option("--context_frames", 12, "frames a window", "`Clip.context_frames`", int),
    Option("--context_stride", 1, "of uniform", "`Clip.context_stride`", int),
    Option("--context_overlap", 4, "frames that windows share; 0: end to end", "`Clip.context_overlap`", int),
    Option("--context_batch_size", 1, "windows predicted together", "`Clip.context_batch_size` (MuseV: crashes)", int),
    Option("--interpolation_factor", 1, "MuseV has no code for it", "accepted without effect", int),
    _on("--record_mid_video_noises", "a shot leans on the noise of the one before", "`SerialDenoise.noise_preds`"),
    _on("--record_mid_video_latents", "a shot leans on the latents of the one before", "`SerialDenoise.latents`"),
    Option("--video_overlap", 1, "on how many frames", "`SerialDenoise.overlap`", int),
    # video to video
    Option("--controlnet_name", None, "one of 26 controls, or several with commas", "`Clip.controls`", verbs=V2V),
    Option("--controlnet_conditioning_scale", 1.0, "their weight, or one for each with commas", "`ControlVideo.scale`",
           float, verbs=V2V, several=True),
    Option("--sample_rate", 1, "take every n-th frame", "`media.read_clips`", int, verbs=V2V, least=1),
    Option("--which2video", "video", "video: begin with the source, noised; video_middle: only follow it",
           "`Clip.video`", choices=("video", "video_middle"), verbs=V2V),
    _on("--need_video2video", "the same as --which2video video", "`Clip.video`", verbs=V2V),
    Option("--video_strength", 1.0, "how far the source video may change", "`Clip.video_strength` (MuseV: no effect)",
           float, verbs=V2V),
    _on("--video_is_middle", "the video already shows control pictures", "`Clip.controls`", verbs=V2V),
    _off("--video_has_condition", "the video's first frame is the condition image's; off: it comes before",
         "`Clip.controls`", verbs=V2V),
    _off("--end_to_end", "MuseV makes no use of it", "accepted without effect", verbs=V2V),
)  # fmt: skip

OURS: tuple[Option, ...] = tuple(
    Option(**{"ours": True, "verbs": BOTH} | row)
    for row in (
        {"name": "--prompt", "default": None, "effect": "one task without a task file", "supported": "`Clip.prompt`"},
        {"name": "--name", "default": "clip", "effect": "its name", "supported": "the file's name"},
        {"name": "--still-file", "default": None, "effect": "its condition image",
         "supported": "`Clip.condition_images`; with poses, `Clip.still`"},
        {"name": "--poses-file", "default": None, "effect": "a pose track, as `PoseTrack.to_bytes()` writes it",
         "supported": "`Clip.poses`"},
        {"name": "--video_path", "default": None, "effect": "its video", "supported": "`media.read_clips`",
         "verbs": V2V},
        {"name": "--posealign", "default": "off", "effect": "auto: bring the poses to the still's figure",
         "supported": "`posealign`", "choices": ("auto", "off")},
        {"name": "--controlnet_start", "default": 0.0, "kind": float, "several": True,
         "effect": "from which part of the steps on, or one for each", "supported": "`ControlVideo.start`",
         "verbs": V2V},
        {"name": "--controlnet_end", "default": 1.0, "kind": float, "several": True,
         "effect": "up to which part of the steps, or one for each", "supported": "`ControlVideo.end`", "verbs": V2V},
        {"name": "--guess_mode", "default": False, "kind": bool, "flag": "on", "verbs": V2V,
         "effect": "ControlNets lead even without a prompt", "supported": "`Clip.guess_mode`"},
        {"name": "--control-cache", "default": None, "verbs": V2V, "supported": "`control.Cache`",
         "effect": "a folder that keeps control pictures for the next run; None: as long as this one lasts"},
        {"name": "--control-scale", "default": 1.0, "kind": float, "effect": "weight of --poses-file",
         "supported": "`Clip.control_scale`"},
        {"name": "--scheduler", "default": "model", "effect": "one of `schedulers.SCHEDULERS`",
         "supported": "`Clip.scheduler`"},
        {"name": "--eta", "default": 0.0, "kind": float, "effect": "of the scheduler's noise",
         "supported": "`Clip.eta`"},
        {"name": "--overlap_weights", "default": None, "effect": "how windows meet; None: flat, as MuseV, for its "
         "schedules, else triangular", "supported": "`Clip.overlap_weights`", "choices": ("flat", "triangular")},
        {"name": "--lora", "default": None, "effect": "files of LoRAs, or ids of those in the models "
         "folder, with commas, each as FILE or FILE:WEIGHT",
         "supported": f"{MODELS} loras"},
        {"name": "--checkpoints", "default": None, "effect": "the models folder, in MuseV's layout",
         "supported": f"{MODELS} source; None: ./checkpoints, else that of `musev models path`"},
        {"name": "--device", "default": None, "effect": "cuda, cpu, …; None: the GPU where there is one",
         "supported": f"{MODELS} device"},
        {"name": "--compat", "default": "", "effect": "musev: MuseV's accidents too", "supported": "`Clip.compat`",
         "choices": ("", "musev")},
        {"name": "--repeat", "default": None, "effect": "a sidecar: make that clip again",
         "supported": "all of the above"},
    )
)  # fmt: skip


def options_of(verb: str) -> list[Option]:
    """All options that a verb takes."""
    return [option for option in (*OPTIONS, *OURS) if verb in option.verbs]


def parser_of(verb: str, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give a parser a verb's options. Words may be joined by _ or by -; what isn't given stays out of the namespace,
    see `defaults`."""
    for option in options_of(verb):
        dashes = option.name[: len(option.name) - len(option.name.lstrip("-"))]
        names = sorted({dashes + option.key, dashes + option.key.replace("_", "-")}, reverse=True)
        told = f"{option.effect} (default: {option.default})"
        if option.flag:
            how = {"action": "store_true" if option.flag == "on" else "store_false"}
            told = f"[off] {told}" if option.flag == "off" else told
        else:
            open_choice = option.name == "--context_schedule"  # plug-ins add to them
            how = {"type": option.read, "choices": None if open_choice else option.choices or None}
            how["metavar"] = None if how["choices"] else option.kind.__name__.upper()
        parser.add_argument(
            *names, dest=option.key, default=argparse.SUPPRESS, help=told.replace("%", "%%"), **how
        )
    return parser


def defaults(verb: str) -> dict[str, object]:
    """Key -> default of every option of a verb."""
    return {option.key: option.default for option in options_of(verb)}


def as_markdown(tests: dict[str, str]) -> str:
    """docs/options.md. `tests`: key -> the test that shows the option's effect."""
    lines = [
        "# Options of `musev text2video` and `musev video2video`",
        "",
        "Written from `musev_engine/options.py` by `python -m tests.test_options`; a test compares it with MuseV's own",
        "list. **[off]**: a flag that, when given, turns a default of True off, as in MuseV. Words may be joined by",
        "`_` or `-`. A task's own value goes before the option's.",
    ]
    for title, table in (("MuseV's", OPTIONS), ("Ours", OURS)):
        lines += [
            "",
            f"## {title}",
            "",
            "| option | supported as | default | effect | test |",
            "|---|---|---|---|---|",
        ]
        for option in table:
            only = "" if option.verbs == BOTH else " (video2video)"
            mark = " **[off]**" if option.flag == "off" else ""
            default = (
                "" if option.default is None else f"`{option.default}`" if option.default != "" else "``"
            )
            lines.append(
                f"| `{option.name}`{mark}{only} | {option.supported} | {default or 'None'} | {option.effect} | "
                f"{tests[option.key]} |"
            )
    return "\n".join(lines) + "\n"
