"""`musev text2video` and `musev video2video` from end to end, with a tiny model: files, messages, exit statuses."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blender_addon.protocol import POINTS, PoseTrack
from musev_engine import control, detectors, pipeline
from musev_engine.drawing import draw_poses
from musev_engine.frames import fit_frames
from musev_engine.media import write_media
from musev_engine.people import People, draw_people
from musev_engine.posealign import align_poses
from server import cli
from tests.commands import frames_of, mini, run
from tests.test_control import pictures
from tests.test_drawing import person
from tests.tiny_model import write_tiny_model

pytest_plugins = ["tests.commands"]
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


def test_a_key_that_is_likely_misspelt_is_told(here, capsys):
    (here / "tasks.yaml").write_text("- {name: one, prompt: a, condtion_images: still.png}")
    assert mini("text2video", "-test_data_path=tasks.yaml") == 0
    assert (
        "one has condtion_images, which nothing reads: is condition_images meant?" in capsys.readouterr().err
    )


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


def test_control_pictures_are_kept_for_the_next_run(here, monkeypatch):
    def generate(clip, models):
        yield from (pipeline.Frames(0, control.frames) for control in clip.controls)

    monkeypatch.setattr(pipeline, "generate", generate)
    canny = (
        "--prompt=a",
        "--video_path=video.mp4",
        "--controlnet_name=canny",
        "--save_filetype=images",
        "--overwrite",
    )
    assert mini("video2video", *canny, "--control-cache=kept") == 0
    made = frames_of(here / "results/clip")
    assert len(list((here / "kept").glob("*.png"))) == len(np.unique(made, axis=0)) == 3
    monkeypatch.setitem(
        detectors.DETECTORS, "CannyDetector", lambda *_: pytest.fail("edges were found again")
    )
    detectors.load.cache_clear()
    assert mini("video2video", *canny, "--control-cache=kept") == 0
    detectors.load.cache_clear()
    assert np.array_equal(frames_of(here / "results/clip"), made)


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
    alone = PoseTrack(64, 64, 8.0, 3, 1, points[:3].tobytes())
    (here / "alone").write_bytes(alone.to_bytes())
    assert mini("text2video", *follow, "--poses-file=alone", "--posealign=auto") == 2
    as_they_are, aligned = clips
    assert np.array_equal(as_they_are.poses, points[:3, :, :18]) and as_they_are.control_scale == 0.5
    assert as_they_are.still is not None and as_they_are.num_frames == 3
    assert np.allclose(aligned.poses, np.repeat(person(0.5)[None, None], 3, axis=0), atol=0.01)


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
