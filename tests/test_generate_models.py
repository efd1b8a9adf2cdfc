"""Which models `musev text2video` and `video2video` take, by MuseV's names and folders or ours."""

import argparse
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from musev_engine import added, pipeline, registry, task_models
from musev_engine.errors import EngineError
from musev_engine.networks import MOTION_KEYS
from server import cli
from tests import model_files
from tests.commands import frames_of, mini, run
from tests.model_files import write
from tests.test_pose_guider import guider

pytest_plugins = ["tests.commands"]


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


def test_each_of_several_image_models_makes_a_clip_of_its_own(here, published, capsys):
    shutil.copytree(published, here / "checkpoints")
    images = here / "checkpoints/t2i/sd1.5"
    for name in ("drawer", "etcher"):
        shutil.copytree(images / "painter", images / name)
        path = images / name / "unet/diffusion_pytorch_model.bin"
        weights = torch.load(path)
        torch.save({key: value * (0.9 if name == "drawer" else 1.1) for key, value in weights.items()}, path)
    argv = ("--prompt=a", "--unet_model_name=musev_referencenet_pose", "--save_filetype=images", "--seed=1")
    assert run("text2video", *argv) == 0
    assert capsys.readouterr().out.split() == [
        f"results/clip_{name}" for name in ("drawer", "etcher", "painter")
    ]
    drawn, etched = (frames_of(here / f"results/clip_{name}") for name in ("drawer", "etcher"))
    assert not np.array_equal(drawn, etched)
    assert run("text2video", "--repeat=results/clip_etcher/clip.json", "--save_filetype=images") == 0
    assert capsys.readouterr().out.split() == ["results/clip"]  # of that image model alone
    assert np.array_equal(frames_of(here / "results/clip"), etched)
    assert run("text2video", *argv, "--sd_model_name=etcher,painter", "--name=two") == 0
    assert capsys.readouterr().out.split() == ["results/two_etcher", "results/two_painter"]


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


def test_a_lora_of_the_models_folder_goes_by_its_id(here, monkeypatch):
    monkeypatch.setenv("MUSEV_MODELS", str(here / "models"))
    path = write(here / "in.safetensors", model_files.lora())
    added.add_file(path, added.Wanted("style", path.suffix, path.stat().st_size))
    options = argparse.Namespace(lora=f"style:0.5,{path}", lcm_model_name=None)
    assert task_models._loras(options) == [(registry.find("style"), 0.5), (path, 1.0)]
    added.add_file(path, added.Wanted("other", path.suffix, path.stat().st_size))
    registry.find("other").unlink()
    with pytest.raises(EngineError, match="Add its file again"):
        task_models._loras(argparse.Namespace(lora="other", lcm_model_name=None))


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
    reads = "--referencenet_model_name"
    for off in (
        (), (f"{reads}=no",), (f"{reads}=reference_only",), ("--ip_adapter_model_name=no",), ("--compat=musev",)
    ):  # fmt: skip
        assert mini("text2video", "--prompt=a", "--overwrite", "--still-file=still.png", *off) == 0
    assert seen == [(False, False), (True, False), (True, False), (False, True), (True, True)]


def test_the_image_model_itself_reads_references(here):
    made = {}
    for reads in ("reference_only", "no"):
        argv = ("--prompt=a", "--seed=1", "--still-file=still.png", f"--referencenet_model_name={reads}")
        assert mini("text2video", *argv, f"--output_dir={reads}", "--save_filetype=images") == 0
        made[reads] = [path.read_bytes() for path in sorted((here / reads).rglob("*.png"))]
    assert made["no"] and made["no"] != made["reference_only"]


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
