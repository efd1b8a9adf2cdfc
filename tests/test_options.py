"""The options are MuseV's, all of them, and each does what docs/options.md says. `python -m tests.test_options` writes
that page."""

import argparse
import ast
import json
import re
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

from musev_engine.control import CONTROLS
from musev_engine.errors import EngineError
from musev_engine.media import write_media
from musev_engine.options import OPTIONS, OURS, as_markdown, defaults, options_of, parser_of
from musev_engine.tasks import Task
from tests.test_control import pictures

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "options.md"
PUBLISHED = json.loads((ROOT / "tests/golden/full_size/cli_arguments.json").read_text())
VERBS = ("text2video", "video2video")


def given(verb: str, *argv: str) -> argparse.Namespace:
    """Options as the command line makes them."""
    told = vars(parser_of(verb, argparse.ArgumentParser()).parse_args(list(map(str, argv))))
    return argparse.Namespace(**defaults(verb) | told, given=frozenset(told))


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_musev_is_there_with_its_default_kind_and_choices(verb):
    ours = {option.name: option for option in options_of(verb) if not option.ours}
    assert set(ours) == set(PUBLISHED[verb])
    for name, told in PUBLISHED[verb].items():
        option = ours[name]
        flag = {"'store_true'": "on", "'store_false'": "off"}.get(told.get("action"), "")
        assert option.flag == flag, name
        if flag:
            assert option.default is (flag == "off"), name
            continue
        assert option.kind.__name__ == told["type"], name
        default = told.get("default", "None")
        if "PROJECT_DIR" in default:  # of MuseV's checkout: ours is relative
            assert option.default == re.search(r"'(?:\./)?([^']+)'", default)[1], name
        else:
            assert option.default == ast.literal_eval(default), name
        if choices := ast.literal_eval(told.get("choices", "[]")):
            assert set(choices) <= set(option.choices), name


@pytest.mark.parametrize("verb", VERBS)
def test_words_may_be_joined_either_way(verb):
    for option in options_of(verb):
        value = [] if option.flag else [option.choices[0] if option.choices else "1"]
        dashes = "--" if option.name.startswith("--") else "-"
        for word in (option.name, dashes + option.key, dashes + option.key.replace("_", "-")):
            assert option.key in given(verb, word, *value).given
    assert given("text2video", "--context-frames", 5).context_frames == 5
    assert given("text2video", "--still_file", "a").still_file == "a"


STILL, OTHER = (pictures(1, 96, 160, seed=seed)[0] for seed in (0, 1))
T2V = {  # option: (arguments, what of the clip, its value; a callable checks it)
    "prompt": ([], "prompt", "a lion"),
    "height": (["--height", "150"], "height", 128),
    "width": (["--width", "330"], "width", 320),
    "img_length_ratio": (["--img_length_ratio", "2"], "width", 320),
    "time_size": (["--time_size", "5"], "num_frames", 6),
    "n_batch": (["--n_batch", "3"], "shots", (13, 12, 12)),
    "use_condition_image": (["--use_condition_image", "--width=64", "--height=64"], "condition_images", ()),
    "fix_condition_images": (["--fix_condition_images"], "fix_condition_images", True),
    "redraw_condition_image": (["--redraw_condition_image"], "first_frame.redraw", True),
    "n_vision_condition": (["--n_vision_condition", "0"], "condition_images", ()),
    "redraw_condition_image_with_referencenet":
        (["--redraw_condition_image_with_referencenet"], "first_frame.with_references", False),
    "redraw_condition_image_with_ipdapter":
        (["--redraw_condition_image_with_ipdapter"], "first_frame.with_image_prompts", False),
    "redraw_condition_image_with_ip_adapter_face":
        (["--redraw_condition_image_with_ip_adapter_face"], "first_frame.with_faces", False),
    "strength": (["--strength", "0.3"], "first_frame.strength", 0.3),
    "fixed_refer_image": (["--fixed_refer_image"], "fixed_refer_image", False),
    "fixed_ip_adapter_image": (["--fixed_ip_adapter_image"], "fixed_ip_adapter_image", False),
    "fixed_refer_face_image": (["--fixed_refer_face_image"], "fixed_refer_face_image", False),
    "referencenet_model_name": (["--referencenet_model_name=reference_only"], "reference_only", True),
    "referencenet_image_path": (["--referencenet_image_path", "{other}"], "references",
                                lambda it: np.array_equal(it[0], OTHER)),
    "ipadapter_image_path": (["--ipadapter_image_path", "{other}"], "image_prompts",
                             lambda it: np.array_equal(it[0], OTHER)),
    "face_image_path": (["--face_image_path", "{face}"], "face_embeds", lambda it: it.shape == (1, 512)),
    "ip_adapter_scale": (["--ip_adapter_scale", "0.4"], "ip_adapter_scale", 0.4),
    "ip_adapter_face_scale": (["--ip_adapter_face_scale", "0.4"], "face_scale", 0.4),
    "prompt_only_use_image_prompt": (["--prompt_only_use_image_prompt"], "prompt_only_use_image_prompt", True),
    "need_hist_match": (["--need_hist_match"], "need_hist_match", True),
    "negprompt_cfg_path": (["--negprompt_cfg_path", "None"], "negative_prompt", "V2"),
    "negative_prompt": (["--negative_prompt", "Empty"], "first_frame.negative_prompt", ""),
    "video_negative_prompt": (["--video_negative_prompt", "rain, fog"], "negative_prompt", "rain, fog"),
    "add_static_video_prompt": (["--add_static_video_prompt", "--video_negative_prompt", "Empty"],
                                "negative_prompt", "static video, "),
    "guidance_scale": (["--guidance_scale", "5"], "first_frame.guidance_scale", 5.0),
    "num_inference_steps": (["--num_inference_steps", "7"], "first_frame.num_inference_steps", 7),
    "video_guidance_scale": (["--video_guidance_scale", "5"], "guidance_scale", 5.0),
    "video_guidance_scale_end": (["--video_guidance_scale_end", "1.5"], "guidance_scale_end", 1.5),
    "video_guidance_scale_method": (["--video_guidance_scale_method", "two_stage"], "guidance_method", "two_stage"),
    "video_num_inference_steps": (["--video_num_inference_steps", "7"], "num_inference_steps", 7),
    "need_img_based_video_noise": (["--need_img_based_video_noise"], "img_weight", 0.0),
    "img_weight": (["--img_weight", "0.1"], "img_weight", 0.1),
    "noise_type": (["--noise_type", "random"], "noise_type", "random"),
    "w_ind_noise": (["--w_ind_noise", "0.9"], "w_ind_noise", 0.9),
    "motion_speed": (["--motion_speed", "2"], "motion_speed", 2.0),
    "context_schedule": (["--context_schedule", "uniform"], "context_schedule", "uniform"),
    "context_frames": (["--context_frames", "6"], "context_frames", 6),
    "context_stride": (["--context_stride", "2"], "context_stride", 2),
    "context_overlap": (["--context_overlap", "0"], "context_overlap", 0),
    "context_batch_size": (["--context_batch_size", "2"], "context_batch_size", 2),
    "record_mid_video_noises": (["--record_mid_video_noises"], "serial.noise_preds", True),
    "record_mid_video_latents": (["--record_mid_video_latents"], "serial.latents", True),
    "video_overlap": (["--video_overlap", "2", "--record_mid_video_latents"], "serial.overlap", 2),
    "scheduler": (["--scheduler", "dpm++"], "scheduler", "dpm++"),
    "eta": (["--eta", "0.5"], "eta", 0.5),
    "overlap_weights": (["--overlap_weights", "triangular"], "overlap_weights", "triangular"),
    "compat": (["--compat", "musev"], "compat", "musev"),
    "still_file": (["--still-file", "{other}"], "condition_images", lambda it: np.array_equal(it[0].picture, OTHER)),
}  # fmt: skip
FOLLOW = ["--controlnet_name", "tile"]
V2V = {
    "controlnet_name": (["--controlnet_name", "canny,tile"], "controls",
                        lambda it: [c.controlnet for c in it] == [CONTROLS[n].controlnet for n in ("canny", "tile")]),
    "controlnet_conditioning_scale": ([*FOLLOW, "--controlnet_conditioning_scale", "0.5"], "controls",
                                      lambda it: it[0].scale == 0.5),
    "controlnet_start": ([*FOLLOW, "--controlnet_start", "0.2"], "controls", lambda it: it[0].start == 0.2),
    "controlnet_end": ([*FOLLOW, "--controlnet_end", "0.8"], "controls", lambda it: it[0].end == 0.8),
    "guess_mode": ([*FOLLOW, "--guess_mode"], "guess_mode", True),
    "sample_rate": ([*FOLLOW, "--sample_rate", "2"], "motion_speed", 2.0),
    "which2video": ([*FOLLOW, "--which2video", "video_middle"], "video", None),
    "need_video2video": ([*FOLLOW, "--which2video", "video_middle", "--need_video2video"], "video",
                         lambda it: it.shape == (4, 64, 128, 3)),
    "video_strength": ([*FOLLOW, "--video_strength", "0.4"], "video_strength", 0.4),
    "video_is_middle": (["--controlnet_name", "canny", "--video_is_middle"], "controls",
                        lambda it: len(np.unique(it[0].frames)) > 2),
    "video_has_condition": ([*FOLLOW, "--video_has_condition", "--still-file", "{other}"], "num_frames", 5),
    "enable_zero_snr": (["--enable_zero_snr"], "scheduler", "ddim_zero_snr"),
    "video_path": ([], "num_frames", 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    from PIL import Image

    Image.fromarray(STILL).save(folder / "still.png")
    Image.fromarray(OTHER).save(folder / "other.png")
    np.save(folder / "face.npy", np.ones(512, np.float32))
    write_media(folder / "video", pictures(9, 64, 128), 8, {})
    return {name: str(folder / f"{name}{end}") for name, end in
            {"still": ".png", "other": ".png", "face": ".npy", "video": ""}.items()}  # fmt: skip


def holds(clip, path: str, wanted) -> bool:
    value = attrgetter(path)(clip)
    return wanted(value) if callable(wanted) else value == wanted


@pytest.mark.parametrize("key", T2V)
def test_an_option_reaches_the_clip(key, files):
    argv, path, wanted = T2V[key]
    plain = {"name": "a", "prompt": "a lion"}
    plain |= {} if key == "still_file" else {"condition_images": files["still"]}
    clip = Task(plain, given("text2video", *(each.format(**files) for each in argv))).clip(1)
    assert holds(clip, path, wanted)
    if argv and key != "still_file":  # and without it, the clip is another
        value = attrgetter(path.partition(".")[0])(Task(plain, given("text2video")).clip(1))
        assert value is None or not holds(Task(plain, given("text2video")).clip(1), path, wanted)


def test_what_can_be_made_passes_the_check(files):
    """The last frame of a clip that begins with the condition image, before the video's."""
    argv = [
        "--time_size=4",
        "--video_path",
        files["video"],
        "--controlnet_name=tile",
        "--video_has_condition",
    ]
    told = {"name": "a", "prompt": "", "condition_images": [files["still"], files["other"]]}
    for last in (4, 5):
        task = Task(told | {"condition_images_index": [0, last]}, given("video2video", *argv))
        for make in (task.check, lambda task=task: task.clip(1)):
            if last == 4:
                make()
            else:
                with pytest.raises(EngineError, match="A condition image is outside the clip"):
                    make()


def test_each_control_has_a_weight_and_steps_of_its_own(files):
    told = [
        "--controlnet_name=canny,tile",
        "--controlnet_conditioning_scale=0.5,0.25",
        "--controlnet_start=0,0.3",
    ]
    options = given(
        "video2video", "--time_size=4", "--video_path", files["video"], *told, "--controlnet_end=0.9"
    )
    controls = Task({"name": "a", "prompt": ""}, options).clip(1).controls
    assert [(each.scale, each.start, each.end) for each in controls] == [(0.5, 0, 0.9), (0.25, 0.3, 0.9)]
    options = given("video2video", "--video_path", files["video"], *told[:2], "--controlnet_end=1,1,1")
    with pytest.raises(EngineError, match=r"--controlnet_end doesn't fit \(got 3 for 2 controls\)"):
        Task({"name": "a", "prompt": ""}, options).check()


@pytest.mark.parametrize("key", V2V)
def test_an_option_of_video2video_reaches_the_clip(key, files):
    argv, path, wanted = V2V[key]
    options = given(
        "video2video", "--time_size=4", "--video_path", files["video"], *(a.format(**files) for a in argv)
    )
    assert holds(Task({"name": "a", "prompt": ""}, options).clip(1), path, wanted)


GENERATE = [ROOT / "tests" / name for name in ("test_generate.py", "test_generate_models.py")]
ELSEWHERE = {
    "test_data_path": "test_a_task_file_becomes_clips", "target_datas": "test_only_the_tasks_that_are_named",
    "sd_model_cfg_path": "test_an_image_model_by_its_folder", "sd_model_name": "test_a_task_file_becomes_clips",
    "unet_model_cfg_path": "test_a_model_in_a_folder_of_its_own",
    "unet_model_name": "test_models_that_are_not_there_are_told",
    "lcm_model_cfg_path": "test_lcm_wants_its_file", "lcm_model_name": "test_lcm_wants_its_file",
    "referencenet_model_cfg_path": "test_paths_that_change_nothing_are_accepted",
    "ip_adapter_model_cfg_path": "test_paths_that_change_nothing_are_accepted",
    "ip_adapter_model_name": "test_parts_are_switched_off",
    "vision_clip_model_path": "test_paths_that_change_nothing_are_accepted",
    "vision_clip_extractor_class_name": "test_paths_that_change_nothing_are_accepted",
    "facein_model_cfg_path": "test_paths_that_change_nothing_are_accepted",
    "facein_model_name": "test_what_can_not_be_is_told",
    "facein_scale": "test_paths_that_change_nothing_are_accepted",
    "redraw_condition_image_with_facein": "test_paths_that_change_nothing_are_accepted",
    "ip_adapter_face_model_cfg_path": "test_paths_that_change_nothing_are_accepted",
    "ip_adapter_face_model_name": "test_models_that_are_not_there_are_told",
    "vae_model_path": "test_models_that_are_not_there_are_told",
    "cross_attention_dim": "test_models_that_are_not_there_are_told",
    "pose_guider_model_path": "test_a_pose_guider_is_followed",
    "interpolation_factor": "test_paths_that_change_nothing_are_accepted",
    "end_to_end": "test_paths_that_change_nothing_are_accepted",
    "output_dir": "test_a_task_file_becomes_clips", "save_filetype": "test_a_task_file_becomes_clips",
    "save_images": "test_png_files_besides", "overwrite": "test_what_is_there_is_left_unless_asked",
    "write_info": "test_paths_that_change_nothing_are_accepted", "n_cols": "test_a_video_is_followed_and_shown_beside",
    "fps": "test_a_task_file_becomes_clips", "n_repeat": "test_repeats_have_seeds_of_their_own",
    "log_level": "test_progress_is_told_or_not", "seed": "test_repeats_have_seeds_of_their_own",
    "need_return_videos": "test_a_video_is_followed_and_shown_beside",
    "need_return_condition": "test_a_video_is_followed_and_shown_beside",
    "name": "test_one_clip_without_a_task_file", "poses_file": "test_poses_are_followed_and_aligned",
    "posealign": "test_poses_are_followed_and_aligned", "control_scale": "test_poses_are_followed_and_aligned",
    "control_cache": "test_control_pictures_are_kept_for_the_next_run",
    "lora": "test_models_that_are_not_there_are_told", "checkpoints": "test_a_model_in_a_folder_of_its_own",
    "device": "test_a_task_file_becomes_clips", "repeat": "test_a_sidecar_makes_its_clip_again",
}  # fmt: skip


def options_told() -> dict[str, str]:
    here = "tests/test_options.py::test_an_option"
    told = {key: f"`{here}_reaches_the_clip[{key}]`" for key in T2V}
    told |= {key: f"`{here}_of_video2video_reaches_the_clip[{key}]`" for key in V2V}
    texts = {f"tests/{path.name}": path.read_text(encoding="utf-8") for path in GENERATE}
    files = {
        name: [file for file, text in texts.items() if f"def {name}(" in text] for name in ELSEWHERE.values()
    }
    return told | {key: f"`{files[name][0]}::{name}`" for key, name in ELSEWHERE.items()}


def test_the_page_is_complete_and_its_tests_exist():
    assert PAGE.read_text(encoding="utf-8") == as_markdown(options_told())
    assert {option.key for option in (*OPTIONS, *OURS)} == options_told().keys()


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    sys.exit(0 if PAGE.write_text(as_markdown(options_told()), encoding="utf-8") else 1)
