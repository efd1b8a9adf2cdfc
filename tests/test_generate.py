"""`musev text2video` and `musev video2video` from end to end, with a tiny model: files, messages, exit statuses."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from blender_addon.protocol import POINTS, PoseTrack
from musev_engine import control, detectors, loading, pipeline
from musev_engine.drawing import draw_poses
from musev_engine.frames import fit_frames
from musev_engine.media import read_video, write_media
from musev_engine.networks import MOTION_KEYS
from musev_engine.people import People, draw_people
from musev_engine.posealign import align_poses
from server import cli
from tests.test_control import pictures
from tests.test_drawing import person
from tests.test_pose_guider import guider
from tests.tiny_model import write_tiny_model

QUICK = (
    "--width=64", "--height=64", "--time_size=3", "--video_num_inference_steps=1", "--num_inference_steps=1",
    "--context_frames=3", "--context_overlap=1", "--device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """In place of the shipped models: one untrained, by the name of mini."""
    folder = tmp_path_factory.mktemp("assets")
    write_tiny_model(folder / "mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "SHIPPED", folder)
        yield folder


@pytest.fixture
def here(tmp_path, monkeypatch, assets):
    """A folder to run in, with stills, a video and no models folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    Image.fromarray(pictures(1, 80, 80)[0]).save(tmp_path / "still.png")
    write_media(tmp_path / "video.mp4", pictures(7, 64, 64), 8, {})
    return tmp_path


def run(verb: str, *argv: object) -> int:
    return cli.main([verb, *QUICK, *map(str, argv)])


def mini(verb: str, *argv: object) -> int:
    return run(verb, "--sd_model_name", "mini", *argv)


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(read_video(path)))


TASKS = """
- {name: one, prompt: 'a {what}', what: lion, condition_images: ./still.png, refer_image: '${.condition_images}'}
- {name: two, prompt: a bear}
"""


def test_a_task_file_becomes_clips(here, capsys):
    (here / "tasks.yaml").write_text(TASKS)
    out = ("-test_data_path", "tasks.yaml", "--output_dir", "out", "--fps", 8, "--seed", 3)
    assert mini("text2video", *out) == 0
    assert capsys.readouterr().out.split() == ["out/one.mp4", "out/two.mp4"]
    assert frames_of(here / "out/one.mp4").shape == (4, 64, 64, 3)
    assert len(frames_of(here / "out/two.mp4")) == 3
    told = json.loads((here / "out/one.mp4.json").read_text())
    assert told["seed"] == 3 and told["fps"] == 8 and told["frames"] == 4 and told["device"] == "cpu"
    assert told["model"]["name"] == "mini" and told["model"]["licence"] == "cc0-1.0"
    assert len(told["model"]["sha256"]) == 64 and told["versions"]["torch"]
    assert list(told["inputs"]) == [str(here / "still.png")]
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "one.mp4", "one.mp4.json", "two.mp4", "two.mp4.json",
    ]  # fmt: skip


def test_only_the_tasks_that_are_named(here, capsys):
    (here / "tasks.yaml").write_text(TASKS)
    assert (
        mini("text2video", "-test_data_path=tasks.yaml", "--target_datas=two", "--save_filetype=images") == 0
    )
    assert capsys.readouterr().out.split() == ["results/two"]
    assert mini("text2video", "-test_data_path=tasks.yaml", "--target_datas=twoo") == 2
    assert "Did you mean two?" in capsys.readouterr().err


def test_one_clip_without_a_task_file(here, capsys):
    clip = (
        "--prompt",
        "a lion",
        "--still-file",
        "still.png",
        "--name",
        "../x/lion",
        "--save_filetype",
        "gif",
    )
    assert mini("text2video", *clip) == 0
    assert capsys.readouterr().out.split() == ["results/_x_lion.gif"]
    assert mini("text2video") == 2
    assert "nothing to make" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["text2video", "video2video"])
def test_a_sidecar_makes_its_clip_again(verb, here, capsys):
    task = ["--prompt", "a lion", "--still-file", "still.png", "--save_filetype", "images"]
    task += ["--video_path", "video.mp4", "--video_strength", "0.5"] if verb == "video2video" else []
    assert mini(verb, *task) == 0
    again = ("--repeat", "results/clip/clip.json", "--output_dir", "again", "--save_filetype", "images")
    assert cli.main([verb, *again]) == 0
    assert np.array_equal(frames_of(here / "results/clip"), frames_of(here / "again/clip"))
    other = {"text2video": "video2video", "video2video": "text2video"}[verb]
    assert cli.main([other, *again]) == 2
    Image.fromarray(pictures(1, 80, 80, seed=5)[0]).save(here / "still.png")
    assert cli.main([verb, *again, "--overwrite"]) == 2
    assert "isn't what it was" in capsys.readouterr().err


def test_a_clip_is_made_again_from_another_folder_and_a_changed_model_is_told(
    here, assets, monkeypatch, capsys
):
    shutil.copytree(assets / "mini", here / "model")
    made = ("--checkpoints=model", "--prompt=a", "--save_filetype=images", "--vae_model_path=model/vae")
    assert run("text2video", *made) == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    again = ("--repeat", here / "results/clip/clip.json", "--save_filetype=images")
    assert cli.main(["text2video", *map(str, again)]) == 0
    assert "isn't the model" not in capsys.readouterr().err
    assert np.array_equal(frames_of(here / "results/clip"), frames_of(here / "elsewhere/results/clip"))
    write_tiny_model(here / "other", seed=1)
    shutil.copytree(here / "other", here / "model", dirs_exist_ok=True)
    assert cli.main(["text2video", *map(str, again), "--overwrite"]) == 0
    assert "model isn't the model that made that clip" in capsys.readouterr().err


def test_what_is_there_is_left_unless_asked(here, capsys):
    clip = ("--prompt", "a lion", "--save_filetype", "images")
    assert mini("text2video", *clip, "--seed=1") == 0
    before = frames_of(here / "results/clip")
    assert mini("text2video", *clip, "--seed=2") == 0
    assert "already" in capsys.readouterr().err and np.array_equal(frames_of(here / "results/clip"), before)
    assert mini("text2video", *clip, "--seed=2", "--overwrite") == 0
    assert not np.array_equal(frames_of(here / "results/clip"), before)


def test_repeats_have_seeds_of_their_own(here):
    assert mini("text2video", "--prompt=a", "--n_repeat=2", "--seed=8", "--save_filetype=images") == 0
    seeds = [
        json.loads((here / f"results/{name}/clip.json").read_text())["seed"] for name in ("clip", "clip_1")
    ]
    assert seeds == [8, 9]


def test_png_files_besides(here):
    assert mini("text2video", "--prompt=a", "--save_images", "--save_filetype=webp") == 0
    assert len(list((here / "results/clip_images").glob("*.png"))) == 3


def test_progress_is_told_or_not(here, capsys):
    assert mini("text2video", "--prompt=a") == 0
    told = capsys.readouterr().err
    assert "clip: denoise 0/1" in told and "clip: decode 3/3" in told and "seed" in told
    assert mini("text2video", "--prompt=a", "--overwrite", "--log_level=ERROR") == 0
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.split() == ["results/clip.mp4"]


def test_a_video_is_followed_and_shown_beside(here, capsys):
    write_media(here / "poses", draw_poses(np.repeat(person(0.5)[None, None], 7, axis=0), 64, 64), 8, {})
    follow = (
        "--video_path=poses",
        "--prompt=a",
        "--still-file=still.png",
        "--video_is_middle",
        "--n_batch=2",
    )
    shown = ("--need_return_videos", "--need_return_condition", "--n_cols=2", "--save_filetype=images")
    assert (
        mini("video2video", *follow, *shown, "--controlnet_name=dwpose_body", "--which2video=video_middle")
        == 0
    )
    assert capsys.readouterr().out.split() == ["results/clip"]
    made = frames_of(here / "results/clip")
    assert made.shape == (6, 128, 128, 3)
    source = frames_of(here / "poses")[:6]
    assert np.array_equal(made[:, :64, :64], source) and np.array_equal(made[:, :64, 64:], source)
    assert not made[:, 64:, 64:].any() and made[:, 64:, :64].any()


def test_a_videos_dancer_is_brought_to_the_stills_figure(here, monkeypatch):
    figure = person(0.5)
    dancer = np.stack([person(0.25, x=30 - 5 * i) for i in range(3)])
    hands, face = np.zeros((1, 2, 21, 3), np.float32), np.zeros((1, 68, 3), np.float32)

    def find(picture):  # how bright a picture is tells who is in it
        body = figure if picture.mean() > 200 else dancer[round(picture.mean() / 50)]
        return People(body[None], hands, face)

    kind = {"DWposeDetector": lambda files, device: partial(draw_people, find)}
    monkeypatch.setattr(detectors, "DETECTORS", detectors.DETECTORS | kind)
    monkeypatch.setattr("musev_engine.registry.find_file", lambda id, name: Path(name))
    monkeypatch.setattr(control, "_CACHE", control.Cache())
    detectors.load.cache_clear()
    write_media(here / "dancer", [np.full((64, 64, 3), 50 * i, np.uint8) for i in range(3)], 8, {})
    Image.new("RGB", (64, 64), (250, 250, 250)).save(here / "figure.png")
    clips = []

    def generate(clip, models):
        clips.append(clip)
        yield pipeline.Frames(0, np.zeros((3, 64, 64, 3), np.uint8))

    monkeypatch.setattr(pipeline, "generate", generate)
    follow = ("--prompt=a", "--video_path=dancer", "--still-file=figure.png", "--controlnet_name=dwpose_body")
    follow += ("--which2video=video_middle", "--overwrite")
    assert mini("video2video", *follow) == 0
    assert mini("video2video", *follow, "--posealign=auto") == 0
    assert mini("video2video", *follow, "--posealign=auto", "--video_has_condition") == 0
    detectors.load.cache_clear()
    as_it_is, aligned, before = (clip.controls[0].frames for clip in clips)
    assert np.array_equal(as_it_is, draw_poses(dancer[:, None], 64, 64))
    wanted = draw_poses(align_poses(dancer[:, None], figure), 64, 64)
    assert np.abs(aligned.astype(int) - wanted).max() <= 2 and not np.array_equal(aligned, as_it_is)
    assert np.abs(aligned[0].astype(int) - draw_poses(figure[None, None], 64, 64)[0]).max() <= 2
    assert np.array_equal(before[1:], aligned) and np.array_equal(
        before[0], draw_poses(figure[None, None], 64, 64)[0]
    )
    assert clips[2].num_frames == 4


@pytest.mark.parametrize("compat", ["", "musev"])
def test_a_video_is_cut_to_the_clips_proportions(compat, here, monkeypatch):
    wide = np.zeros((3, 128, 256, 3), np.uint8)
    wide[:, :, 64:192] = pictures(3, 128, 128)  # its middle is square
    wide[:, :, -1] = 255
    write_media(here / "wide", wide, 8, {})
    clips = []

    def generate(clip, models):
        clips.append(clip)
        yield pipeline.Frames(0, np.zeros((3, 64, 64, 3), np.uint8))

    monkeypatch.setattr(pipeline, "generate", generate)
    argv = (
        "--prompt=a",
        "--video_path=wide",
        "--controlnet_name=pose",
        "--video_is_middle",
        f"--compat={compat}",
    )
    assert mini("video2video", *argv) == 0
    (clip,) = clips
    assert np.array_equal(clip.video, fit_frames(wide, 64, 64, compat))
    assert np.array_equal(clip.controls[0].frames, clip.video)
    squeezed = np.stack([np.asarray(Image.fromarray(frame).resize((64, 64))) for frame in wide])
    middle = fit_frames(wide[:, :, 64:192], 64, 64)
    errors = [
        np.abs(clip.video[:, :, 1:-1].astype(int) - each[:, :, 1:-1]).mean() for each in (middle, squeezed)
    ]
    assert errors[0] == 0 if not compat else 0 < errors[0] < 2  # in MuseV a column and a row are lost
    assert errors[1] > 10


def test_poses_are_followed_and_aligned(here, monkeypatch):
    points = np.zeros((4, 1, POINTS, 3), "<f4")
    points[:3, :, :18], points[3, :, :18] = person(0.25, x=30), person(0.5)
    track = PoseTrack(64, 64, 8.0, 3, 1, points[:3].tobytes(), points[3].tobytes())
    (here / "track").write_bytes(track.to_bytes())
    clips = []

    def generate(clip, models):
        clips.append(clip)
        yield pipeline.Frames(0, np.zeros((3, 64, 64, 3), np.uint8))

    monkeypatch.setattr(pipeline, "generate", generate)
    follow = (
        "--prompt=a",
        "--still-file=still.png",
        "--poses-file=track",
        "--control-scale=0.5",
        "--overwrite",
    )
    assert mini("text2video", *follow) == 0
    assert mini("text2video", *follow, "--posealign=auto") == 0
    as_they_are, aligned = clips
    assert np.array_equal(as_they_are.poses, points[:3, :, :18]) and as_they_are.control_scale == 0.5
    assert as_they_are.still is not None and as_they_are.num_frames == 3
    assert np.allclose(aligned.poses, np.repeat(person(0.5)[None, None], 3, axis=0), atol=0.01)


# --- models ---------------------------------------------------------------------------------------------


def test_a_model_in_a_folder_of_its_own(here, assets):
    for option in ("--unet_model_cfg_path", "--checkpoints"):
        assert run("text2video", "--prompt=a", option, assets / "mini", "--overwrite") == 0


@pytest.fixture(scope="module")
def published(assets, tmp_path_factory):
    """The tiny model laid out as MuseV's checkpoints folder, with a ControlNet for edges."""
    tiny, root = assets / "mini", tmp_path_factory.mktemp("musev") / "checkpoints"
    motion, image = root / "motion/musev_referencenet_pose", root / "t2i/sd1.5/painter"
    for part, place in (
        ("unet", motion / "unet"), ("referencenet", root / "motion/musev_referencenet/referencenet"),
        ("image_encoder", root / "IP-Adapter/models/image_encoder"), ("vae", root / "vae/sd-vae-ft-mse"),
        ("controlnet", root / "controlnet/control_v11p_sd15_canny"), ("text_encoder", image / "text_encoder"),
        ("tokenizer", image / "tokenizer"), ("scheduler", image / "scheduler"),
    ):  # fmt: skip
        shutil.copytree(tiny / part, place)
    shutil.copy(tiny / "ip_adapter_image_proj.safetensors", motion)
    weights = load_file(tiny / "unet/diffusion_pytorch_model.safetensors")
    spatial = {key: value for key, value in weights.items() if not any(part in key for part in MOTION_KEYS)}
    (image / "unet").mkdir()
    torch.save(spatial, image / "unet/diffusion_pytorch_model.bin")
    return root


def test_musevs_checkpoints_folder_is_used_where_it_lies(here, published, capsys):
    (here / "checkpoints").symlink_to(published)
    pose = ("--unet_model_name=musev_referencenet_pose", "--prompt=a", "--save_filetype=images", "--seed=1")
    assert run("text2video", *pose) == 0
    edges = ("--video_path=video.mp4", "--controlnet_name=canny", "--name=edges", "--still-file=still.png")
    assert run("video2video", *pose, *edges) == 0
    assert capsys.readouterr().out.split() == ["results/clip", "results/edges"]
    told = json.loads((here / "results/edges/clip.json").read_text())
    assert told["model"]["controlnets"] == ["control_v11p_sd15_canny"]
    assert run("text2video", *pose, "--sd_model_name=paintr") == 3
    assert "painter" in capsys.readouterr().err


def test_an_image_model_by_its_folder(here, published, capsys):
    (here / "configs/model").mkdir(parents=True)  # MuseV's own files, which aren't run
    (here / "configs/model/motion_model.py").write_text("raise SystemExit(9)")
    (here / "checkpoints").symlink_to(published)
    argv = (
        "--prompt=a",
        "--unet_model_name=musev_referencenet_pose",
        "--sd_model_name=None",
        "--sd_model_cfg_path",
    )
    assert run("text2video", *argv, published / "t2i/sd1.5/painter") == 0
    assert run("text2video", *argv, "nowhere", "--overwrite") == 3
    assert "nowhere" in capsys.readouterr().err


def test_models_that_are_not_there_are_told(here, assets, capsys):
    assert run("text2video", "--prompt=a") == 3
    told = capsys.readouterr().err
    assert "musev models download musev_referencenet" in told and "--sd_model_name mini" in told
    for option, value in (
        ("--checkpoints", "nowhere"), ("--vae_model_path", "nowhere"), ("--lora", "nowhere.safetensors:0.5"),
        ("--cross_attention_dim", "1024"),
    ):  # fmt: skip
        assert mini("text2video", "--prompt=a", option, value) == (0 if option == "--checkpoints" else 3), (
            option
        )
        assert option == "--checkpoints" or value.partition(":")[0] in capsys.readouterr().err
    (here / "checkpoints/motion/musev_referencenet").mkdir(parents=True)
    assert run("text2video", "--prompt=a", "--unet_model_name=musev_referencenot") == 3
    assert "musev_referencenot" in capsys.readouterr().err
    face = ("--ip_adapter_face_model_name=IPAdapterFaceID", "--checkpoints", assets / "mini")
    assert run("text2video", "--prompt=a", *face) == 3
    assert "ip-adapter-faceid_sd15" in capsys.readouterr().err


def test_lcm_wants_its_file(here, capsys):
    assert mini("text2video", "--prompt=a", "--lcm_model_name=lcm") == 3
    assert "musev models download" in capsys.readouterr().err
    (here / "lcm.safetensors").write_bytes(b"nothing")
    assert (
        mini("text2video", "--prompt=a", "--lcm_model_name=lcm", "--lcm_model_cfg_path=lcm.safetensors") == 3
    )
    assert "lcm.safetensors" in capsys.readouterr().err


def test_a_few_step_lora_brings_its_steps_and_guidance_unless_they_are_given(
    here, assets, monkeypatch, capsys
):
    down = next(
        k for k in load_file(assets / "mini/unet/diffusion_pytorch_model.safetensors") if "attn1.to_q" in k
    )
    layer = f"unet.{down.removesuffix('.weight')}"
    halves = {f"{layer}.lora_A.weight": torch.randn(2, 32), f"{layer}.lora_B.weight": torch.randn(32, 2)}
    save_file(halves, here / "lcm-lora.safetensors")
    clips = []

    def generate(clip, models):
        clips.append((clip, models.scheduler_config["_class_name"]))
        yield pipeline.Frames(0, np.zeros((1, 64, 64, 3), np.uint8))

    monkeypatch.setattr(pipeline, "generate", generate)
    plain = ("text2video", "--sd_model_name=mini", "--prompt=a", "--width=64", "--height=64", "--overwrite")
    few = (*plain, "--lora=lcm-lora.safetensors")
    assert cli.main([*few]) == 0
    assert "a few-step LoRA: 4 steps, guidance 1, scheduler lcm\n" in capsys.readouterr().err
    own = ("--video_num_inference_steps=6", "--guidance_scale=2", "--scheduler=tcd")
    assert cli.main([*few, *own]) == 0
    assert "a few-step LoRA: 6 steps, guidance 1, scheduler tcd\n" in capsys.readouterr().err
    for rest in ([*few, "--compat=musev"], [*plain]):
        assert cli.main(rest) == 0
    told = [
        (clip.num_inference_steps, clip.guidance_scale, clip.first_frame.num_inference_steps,
         clip.first_frame.guidance_scale, clip.scheduler, scheduler)
        for clip, scheduler in clips
    ]  # fmt: skip
    assert told == [
        (4, 1.0, 4, 1.0, "model", "LCMScheduler"), (6, 1.0, 4, 2.0, "tcd", "LCMScheduler"),
        (10, 3.5, 30, 7.5, "model", "LCMScheduler"), (10, 3.5, 30, 7.5, "model", "DDIMScheduler"),
    ]  # fmt: skip


def test_negative_words_without_their_files_are_told(here, published, capsys):
    (here / "checkpoints").symlink_to(published)
    pose = ("--unet_model_name=musev_referencenet_pose", "--n_repeat=2")
    assert run("text2video", *pose, "--prompt=a") == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "plain words" in line]
    assert "musev models download badhandv4 ng_deepnegative_v1_75t" in told
    assert (
        run(
            "text2video",
            *pose,
            "--prompt=a",
            "--overwrite",
            "--negative_prompt=V5",
            "--video_negative_prompt=V5",
        )
        == 0
    )
    assert "plain words" not in capsys.readouterr().err


def test_parts_are_switched_off(here, monkeypatch):
    seen = []

    def generate(clip, models):
        seen.append((models.referencenet is None, models.image_encoder is None))
        yield pipeline.Frames(0, np.zeros((1, 64, 64, 3), np.uint8))

    monkeypatch.setattr(pipeline, "generate", generate)
    for off in ((), ("--referencenet_model_name=no",), ("--ip_adapter_model_name=no",), ("--compat=musev",)):
        assert mini("text2video", "--prompt=a", "--overwrite", "--still-file=still.png", *off) == 0
    assert seen == [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize(
    ("verb", "argv", "told"),
    [
        ("text2video", ["--facein_model_name=FaceIn"], "IPAdapterFaceID"),
        (
            "video2video",
            ["--pose_guider_model_path=guider.pth", "--video_path=video.mp4"],
            "--controlnet_name",
        ),
        (
            "video2video",
            ["--pose_guider_model_path=guider.pth", "--controlnet_name=pose", "--video_path=video.mp4"],
            "guider.pth",
        ),
    ],
)
def test_what_can_not_be_is_told(verb, argv, told, here, capsys):
    assert mini(verb, "--prompt=a", *argv) == 3
    assert told in capsys.readouterr().err


def test_a_pose_guider_is_followed(here):
    torch.save(guider().state_dict(), here / "guider.pth")
    to_follow = ("--prompt=a", "--seed=1", "--video_path=video.mp4", "--which2video=video_middle",
                 "--controlnet_name=dwpose_body_hand", "--video_is_middle", "--save_filetype=images")  # fmt: skip
    for name, more in (("net", ()), ("guider", ("--pose_guider_model_path=guider.pth",))):
        assert mini("video2video", *to_follow, f"--output_dir={name}", *more) == 0
    one, other = (sorted((here / name).rglob("*.png")) for name in ("net", "guider"))
    assert one and len(one) == len(other)
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(one, other, strict=True))


def test_paths_that_change_nothing_are_accepted(here):
    paths = [
        f"--{name}_model_cfg_path=configs/model/x.py" for name in ("referencenet", "ip_adapter", "facein")
    ]
    paths += [
        "--ip_adapter_face_model_cfg_path=x.py",
        "--vision_clip_model_path=./nowhere",
        "--facein_scale=2",
        "--interpolation_factor=2",
    ]
    paths += [
        "--vision_clip_extractor_class_name=ImageClipVisionFeatureExtractor",
        "--end_to_end",
        "--write_info",
    ]
    paths += [
        "--redraw_condition_image_with_facein",
        "--video_path=video.mp4",
        "--seed=1",
        "--save_filetype=images",
    ]
    assert mini("video2video", "--prompt=a", *paths) == 0
    assert mini("video2video", "--prompt=a", *paths[-3:], "--name=plain") == 0
    assert np.array_equal(frames_of(here / "results/clip"), frames_of(here / "results/plain"))


# --- what goes wrong --------------------------------------------------------------------------------------


def test_one_task_that_fails_leaves_the_others_and_no_half_files(here, capsys):
    tasks = "- {name: bad, prompt: a, condition_images: nowhere.png}\n- {name: good, prompt: a}\n"
    (here / "tasks.yaml").write_text(tasks)
    assert mini("text2video", "-test_data_path=tasks.yaml") == 1
    captured = capsys.readouterr()
    assert captured.out.split() == ["results/good.mp4"]
    (line,) = [line for line in captured.err.splitlines() if line.startswith("musev text2video: task bad")]
    assert "nowhere.png" in line and "Traceback" not in captured.err
    assert sorted(path.name for path in (here / "results").iterdir()) == ["good.mp4", "good.mp4.json"]


def test_a_clip_that_is_told_to_end_leaves_nothing(here, monkeypatch, capsys):
    def generate(clip, models):
        yield pipeline.Frames(0, np.zeros((1, 64, 64, 3), np.uint8))
        os.kill(os.getpid(), signal.SIGTERM)
        yield pipeline.Frames(1, np.zeros((1, 64, 64, 3), np.uint8))

    monkeypatch.setattr(pipeline, "generate", generate)
    before = signal.getsignal(signal.SIGTERM)
    assert mini("text2video", "--prompt=a") == 130
    assert not list((here / "results").iterdir()) and signal.getsignal(signal.SIGTERM) is before
    assert "interrupted; nothing half-made was kept" in capsys.readouterr().err


@pytest.mark.parametrize("error", [FloatingPointError("not a number"), MemoryError(), KeyboardInterrupt()])
def test_a_clip_that_breaks_off_leaves_nothing(error, here, monkeypatch, capsys):
    def generate(clip, models):
        yield pipeline.Frames(0, np.zeros((1, 64, 64, 3), np.uint8))
        raise error

    monkeypatch.setattr(pipeline, "generate", generate)
    wanted = {FloatingPointError: 1, MemoryError: 4, KeyboardInterrupt: 130}[type(error)]
    assert mini("text2video", "--prompt=a") == wanted
    assert not list((here / "results").iterdir())
    assert "Traceback" not in capsys.readouterr().err
