"""What goes wrong on the command line: one clear line each, the exit status, no stack trace, nothing half-written; and
what can be known without a model is told before one is read."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from musev_engine import loading, task_models
from server import cli
from tests.commands import run

pytest_plugins = ["tests.commands"]


class Evil:
    """Would run a command while it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch ran",))


@pytest.fixture
def bad(here):
    """A folder of things that don't do."""
    (here / "text.png").write_text("a picture")
    (here / "text.mp4").write_text("a video" * 100)
    (here / "empty.mp4").write_bytes(b"")
    video = (here / "video.mp4").read_bytes()
    (here / "half.mp4").write_bytes(video[: len(video) // 2])
    (here / "empty").mkdir()
    (here / "sizes").mkdir()
    Image.new("RGB", (64, 64)).save(here / "sizes/0.png")
    Image.new("RGB", (128, 64)).save(here / "sizes/1.png")
    for ending in ("ckpt", "bin", "pt"):
        torch.save({"a": Evil()}, here / f"evil.{ending}")
    (here / "cut.safetensors").write_bytes(b"\x00" * 20)
    save_file({"down_blocks.0.x": torch.zeros(4)}, here / "other.safetensors")
    layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    halves = {"lora_down.weight": torch.zeros(4, 2048), "lora_up.weight": torch.zeros(640, 4)}
    save_file({f"{layer}.{half}": value for half, value in halves.items()}, here / "xl.safetensors")
    save_file({f"{layer}.hada_w1_a": torch.zeros(4, 4)}, here / "loha.safetensors")
    for name, text in (
        ("open", "- name: [unclosed"), ("map", "a: 1"), ("silent", "- {name: x}"),
        ("lost", "- {name: x, prompt: a, refer_image: '${.nothing}'}"), ("blank", "- {name: x, prompt: 'a {eyes}'}"),
        ("good", "- {name: dancer, prompt: a}"),
    ):  # fmt: skip
        (here / f"{name}.yaml").write_text(text)
    (here / "track").write_bytes(b"nothing")
    (here / "clip.json").write_text("{}")
    yield here
    assert not (here / "ran").exists()


T, V, CLIP = "text2video", "video2video", ["--prompt=a"]
FOLLOW = [*CLIP, "--video_path=video.mp4"]
UNREAD = [  # (verb, options, exit status, what is told): before any model is read
    (T, [], 2, "nothing to make"),
    (T, ["-test_data_path=nowhere.yaml"], 2, "no such task file (got nowhere.yaml)"),
    (T, ["-test_data_path=open.yaml"], 2, "open.yaml can't be read"),
    (T, ["-test_data_path=map.yaml"], 2, "no list of tasks"),
    (T, ["-test_data_path=silent.yaml"], 2, "x has no prompt"),
    (T, ["-test_data_path=lost.yaml"], 2, "'.nothing' not found"),
    (T, ["-test_data_path=blank.yaml"], 2, "asks for a value that isn't given (got {eyes})"),
    (T, ["-test_data_path=good.yaml", "--target_datas=dancr"], 2, "Did you mean dancer?"),
    (T, ["--repeat=clip.json"], 2, "no sidecar"),
    (T, [*CLIP, "--video_negative_prompt=V9"], 2, "No negative prompt has this name (got V9)"),
    (T, [*CLIP, "--scheduler=dmp"], 2, "scheduler isn't known (got 'dmp')"),
    (T, [*CLIP, "--context_schedule=unform"], 2, "'uniform'"),
    (T, [*CLIP, "--context_overlap=12"], 2, "context_overlap is out of bounds"),
    (T, [*CLIP, "--width=100000"], 2, "width is out of bounds"),
    (T, [*CLIP, "--width=10"], 2, "The width is too small"),
    (T, [*CLIP, "--video_guidance_scale=nan"], 2, "guidance_scale is out of bounds (got nan)"),
    (T, [*CLIP, "--device=gpu"], 2, "No device has this name (got gpu)"),
    (T, [*CLIP, "--device=cuda:99"], 2, "isn't here, or torch can't use it (got cuda:99)"),
    (T, [*CLIP, "--output_dir=video.mp4"], 2, "Nothing can be written to video.mp4 (got File exists)"),
    (T, [*CLIP, "--still-file=nowhere.png"], 1, "nowhere.png can't be read (got No such file or directory)"),
    (T, [*CLIP, "--still-file=text.png"], 1, "text.png can't be read (got it is no picture)"),
    (T, [*CLIP, "--still-file=empty"], 1, "empty can't be read (got Is a directory)"),
    (T, [*CLIP, "--poses-file=track"], 1, "track is no pose track"),
    (T, [*CLIP, "--facein_model_name=FaceIn"], 3, "IPAdapterFaceID"),
    (T, [*CLIP, "--lora=nowhere.safetensors:0.5"], 3, "nowhere.safetensors"),
    (T, [*CLIP, "--lora=evil.ckpt"], 3, "evil.ckpt holds program code, which is never run"),
    (T, [*CLIP, "--lora=evil.bin"], 3, "evil.bin holds program code"),
    (T, [*CLIP, "--lora=cut.safetensors"], 3, "cut.safetensors"),
    (T, [*CLIP, "--lora=text.png"], 3, "none of .safetensors"),
    (T, [*CLIP, "--lora=other.safetensors"], 3, "its keys are no LoRA's: down_blocks.0.x"),
    (T, [*CLIP, "--lora=xl.safetensors:0.8"], 3, "it seems to be a LoRA for Stable Diffusion XL"),
    (T, [*CLIP, "--lora=loha.safetensors"], 3, "another kind of change than a LoRA"),
    (T, [*CLIP, "--lcm_model_name=lcm"], 3, "musev models download lcm-lora-sdv1-5"),
    (V, CLIP, 2, "has no video"),
    (V, [*CLIP, "--video_path=nowhere.mp4"], 1, "there is no such file or folder"),
    (V, [*CLIP, "--video_path=empty.mp4"], 1, "no video that ffmpeg knows"),
    (V, [*CLIP, "--video_path=text.mp4"], 1, "no video that ffmpeg knows"),
    (V, [*CLIP, "--video_path=half.mp4"], 1, "half.mp4 can't be read"),
    (V, [*CLIP, "--video_path=empty"], 1, "it has no frames"),
    (V, [*FOLLOW, "--controlnet_name=cany"], 2, "Did you mean canny"),
    (V, [*FOLLOW, "--which2video=video_middle"], 2, "nothing to follow"),
    (V, [*FOLLOW, "--controlnet_name=dwpose", "--posealign=auto"], 2, "no figure to align the poses to"),
    (V, [*FOLLOW, "--controlnet_name=dwpose", "--posealign=auto", "--still-file=still.png", "--video_is_middle"], 2,
     "drawn already aren't aligned"),
    (V, [*FOLLOW, "--video_strength=2"], 2, "video_strength is out of bounds"),
    (V, [*FOLLOW, "--pose_guider_model_path=guider.pth"], 3, "--controlnet_name"),
]  # fmt: skip
READ = [  # with the model in hand
    (T, ["--prompt", "word " * 10_000], 2, "The prompt is too long (got 50000 characters). Shorten it to"),
    (T, [*CLIP, "--vae_model_path=evil.ckpt"], 3, "evil.ckpt holds program code"),
    (T, [*CLIP, "--vae_model_path=other.safetensors"], 3, "holds no vae"),
    (T, [*CLIP, "--cross_attention_dim=1024"], 3, "another cross_attention_dim (got 1024)"),
    (V, [*CLIP, "--video_path=sizes", "--time_size=2"], 1, "frame 1 is 128×64 after 64×64"),
    (V, [*CLIP, "--video_path=still.png"], 1, "too short for a clip of 3 frames (got 1 frame at"),
    (V, [*FOLLOW, "--controlnet_name=canny"], 3, "control_v11p_sd15_canny"),
    (V, [*FOLLOW, "--controlnet_name=dwpose"], 3, "musev models download annotator-dwpose"),
    (V, [*FOLLOW, "--controlnet_name=pose_body"], 3, "licence not known to this engine"),
    (V, [*FOLLOW, "--controlnet_name=tile", "--posealign=auto", "--still-file=still.png"], 2, "Posealign is for"),
]  # fmt: skip


def told_by(verb: str, argv: list[str], capfd) -> tuple[int, str]:
    """The exit status, and the one line that tells the error."""
    status = run(verb, "--sd_model_name=mini", *argv)
    out, err = capfd.readouterr()
    assert not out and "Traceback" not in err
    lines = [line for line in err.splitlines() if not line.startswith(("loading ", "clip: "))]
    assert len(lines) == 1 and lines[0].startswith(f"musev {verb}: "), lines
    assert not any(Path("results").rglob("*"))
    return status, lines[0]


@pytest.mark.parametrize(("verb", "argv", "status", "told"), UNREAD)
def test_told_before_any_model_is_read(verb, argv, status, told, bad, monkeypatch, capfd):
    monkeypatch.setattr(task_models, "load_models", lambda *_, **__: pytest.fail("a model was read"))
    found, line = told_by(verb, argv, capfd)
    assert told in line and found == status


@pytest.mark.parametrize(("verb", "argv", "status", "told"), READ)
def test_told_with_the_model_in_hand(verb, argv, status, told, bad, capfd):
    found, line = told_by(verb, argv, capfd)
    assert told in line and found == status


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--noise_type=pink"], "pink"), (["--fps=fast"], "'fast' is no whole number"), (["--nothing"], "--nothing"),
        (["--fps=0"], "0 is out of bounds: give 1 or more"), (["--seed=-1"], "-1 is out of bounds: give 0 or more"),
        (["--n_batch=0"], "give 1 or more"), (["--n_repeat=0"], "give 1 or more"), (["--log_level=LOUD"], "LOUD"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_by_the_parser(argv, told, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["text2video", *argv])
    assert ended.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["text2vidio"], "Did you mean: musev text2video?"), (["train", "minni"], "Did you mean: musev train mini?"),
        (["benhc", "quality"], "bench quality?"), (["xyz"], "there is no verb 'xyz'\n"), ([], "usage: musev VERB"),
    ],
)  # fmt: skip
def test_unknown_verbs_are_answered_with_the_nearest(argv, near, capsys):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert near in err and "text2video" in err and not out


BASES = [
    ("evil.ckpt", "evil.ckpt holds program code"), ("other.safetensors", "other.safetensors holds no text"),
    ("xl.safetensors", "no Stable Diffusion 1 model (got it seems to be a LoRA)"), ("nowhere", "nowhere"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "told"), BASES)
def test_a_base_that_is_none_is_told(base, told, bad, assets, capfd):
    argv = [
        f"--checkpoints={assets / 'mini'}",
        "--sd_model_name=None",
        f"--sd_model_cfg_path={base}",
        "--prompt=a",
    ]
    assert run("text2video", *argv) == 3
    assert told in capfd.readouterr().err


@pytest.mark.parametrize(
    "option",
    ["--vae_model_path=other.safetensors", "--vae_model_path=evil.bin", "--ip_adapter_face_model_name=other"],
)
def test_parts_that_do_not_do_are_told_before_the_unet_is_read(option, bad, assets, monkeypatch, capfd):
    model = bad / "model"
    shutil.copytree(assets / "mini", model)
    (model / "IP-Adapter").mkdir()
    shutil.copy(bad / "other.safetensors", model / "IP-Adapter")
    monkeypatch.setattr(loading, "load_unet", lambda *_, **__: pytest.fail("the UNet was read"))
    assert run("text2video", f"--checkpoints={model}", "--prompt=a", option) == 3
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("name", "near"), [("musev_refnet", "musev_referencenet"), ("moose", "musev")])
def test_unknown_motion_models_are_answered_with_the_nearest(name, near, here, capfd):
    assert run("text2video", "--prompt=a", f"--unet_model_name={name}") == 3
    told = capfd.readouterr().err
    assert f"No motion model has this name (got {name}). Did you mean {near}" in told
