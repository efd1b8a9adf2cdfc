"""MuseV's task files: read as they are, and told in one sentence where they are wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from musev_engine import tasks
from musev_engine.errors import EngineError
from musev_engine.media import write_media
from musev_engine.prompts import NEGATIVE_SETS
from musev_engine.task_files import misspelt, negative_prompt, prompt_of, read_tasks, select
from musev_engine.tasks import Task
from tests.test_control import pictures
from tests.test_options import given

# The shapes of MuseV's example.yaml, with other words and pictures.
EXAMPLE = """
# text/image2video
- condition_images: ./stills/one.png
  eye_blinks_factor: 1.8
  height: 130
  img_length_ratio: 0.957
  ipadapter_image: ${.condition_images}
  name: one
  prompt: (best quality:1),(1girl, solo:1),(eye blinks:{eye_blinks_factor}),(head wave:1.3)
  refer_image: ${.condition_images}
  video_path: null
  width: 140
- name: "two"
  prompt: "a river, (best quality)"
  condition_images: [./stills/one.png, ./stills/two.png]
  condition_images_index: [0, -1]
  motion_speed: "2"
- name: "dance"
  prompt: "((masterpiece)), (highres)"
  video_path:  ./poses
  condition_images: ./stills/two.png
  refer_image: ${.condition_images}
  ipadapter_image: ${.condition_images}
  height: 128
  width: 64
  img_length_ratio: 1.0
  video_is_middle: True # if true, means video_path is controlnet condition, not natural rgb video
"""


@pytest.fixture
def example(tmp_path):
    (tmp_path / "stills").mkdir()
    for name, size in (("one", (160, 130)), ("two", (64, 128))):
        Image.new("RGB", size, (90, 20, 20)).save(tmp_path / "stills" / f"{name}.png")
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    return path


def test_the_shapes_of_musevs_example_are_read(example):
    one, two, dance = read_tasks(example)
    assert one["refer_image"] == one["condition_images"] == "./stills/one.png" and one["video_path"] is None
    assert prompt_of(one).endswith("(eye blinks:1.8),(head wave:1.3)")
    assert two["condition_images_index"] == [0, -1] and dance["video_is_middle"] is True
    assert dance["ipadapter_image"] == "./stills/two.png"


def test_a_task_becomes_a_clip(example):
    one, two, _ = read_tasks(example)
    clip = Task(one, given("text2video"), example.parent).clip(7)
    assert (clip.width, clip.height, clip.num_frames, clip.seed) == (
        128,
        64,
        13,
        7,
    )  # 133 and 124, down to 64s
    assert clip.context_schedule == "uniform_v2" and clip.overlap_weights == "flat"
    assert (clip.guidance_scale, clip.num_inference_steps, clip.motion_speed) == (3.5, 10, 8.0)
    assert clip.first_frame.guidance_scale == 7.5 and clip.first_frame.num_inference_steps == 30
    assert np.array_equal(clip.references[0], clip.condition_images[0].picture)
    between = Task(two, given("text2video", "--n_batch", 2), example.parent).clip(7)
    assert [each.index for each in between.condition_images] == [0, -1] and between.motion_speed == 2.0
    assert between.shots == (14, 12)


def test_a_tasks_own_value_goes_before_the_options(example):
    two = read_tasks(example)[1]
    assert Task(two, given("text2video", "--motion_speed", 5), example.parent).clip(1).motion_speed == 2.0


def test_values_with_a_bar_make_a_task_of_each(tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text("- {name: a, prompt: 'red|blue', style: 'x|y', height: 64}\n- {name: b, prompt: green}\n")
    tasks = read_tasks(path)
    assert [task["name"] for task in tasks] == ["a_0", "a_1", "a_2", "a_3", "b"]
    assert [(task["prompt"], task["style"]) for task in tasks[:4]] == [
        ("red", "x"), ("red", "y"), ("blue", "x"), ("blue", "y"),
    ]  # fmt: skip
    assert len(select(tasks, "a")) == 4 and len(select(tasks, "a,b")) == 5 and select(tasks, "all") == tasks
    with pytest.raises(EngineError, match=r"aa.*Did you mean a"):
        select(tasks, "aa")


def test_a_table_is_read_too(tmp_path):
    path = tmp_path / "tasks.csv"
    path.write_text("name,prompt,height,video_is_middle\na,a lion,128,true\nb,a bear,,\n")
    assert read_tasks(path) == [
        {"name": "a", "prompt": "a lion", "height": 128, "video_is_middle": True},
        {"name": "b", "prompt": "a bear", "height": None, "video_is_middle": None},
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no list of tasks"), ("name: a\n", "no list of tasks"), ("- a\n- b\n", "no list of tasks"),
        ("- {name: a, prompt: [", "can't be read"), ("- {name: a, prompt: '${.nothing}'}", "can't be read"),
        ("- {name: a, prompt: '${oc.nothing:1}'}", "can't be read"), ("\x00", "can't be read"),
    ],
)  # fmt: skip
def test_what_is_no_task_file_is_told(text, told, tmp_path):
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    with pytest.raises(EngineError, match=told) as error:
        read_tasks(path)
    assert "tasks.yaml" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(EngineError, match="no such task file"):
        read_tasks(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({}, "has no prompt"), ({"prompt": "{blinks}", "blink": 1}, r"\{blinks\}.*Did you mean blink"),
        ({"prompt": "", "height": "tall", "width": 64}, "height of the task a is no number.*tall"),
        ({"prompt": ""}, "width of a isn't known"), ({"prompt": "", "height": 63, "width": 64}, "height is too small"),
        ({"prompt": "", "height": 64, "width": 64, "condition_images": "nothing.png"}, "nothing.png can't be read"),
        ({"prompt": "", "height": 64, "width": 64, "w_ind_noise": "loud"}, "w_ind_noise of the task a.*loud"),
        ({"prompt": "", "height": 64, "width": 64, "w_ind_noise": 7}, "w_ind_noise is out of bounds"),
        ({"prompt": "", "height": 64, "width": 64, "negative_prompt": "V9"}, "V9.*V1, V2"),
        ({"prompt": "", "height": 64, "width": 64, "face_image": "face.npy"}, "face.npy can't be read"),
    ],
)  # fmt: skip
def test_what_a_task_says_wrongly_is_told(task, told, tmp_path):
    with pytest.raises(EngineError, match=told):
        Task({"name": "a"} | task, given("text2video"), tmp_path).clip(1)


def test_keys_that_are_likely_misspelt_are_found():
    task = {"name": "a", "prompt": "a {widht} {eyes}", "widht": 1, "eyes": 2, "comment": "mine", "of": "b"}
    assert misspelt(task) == {}
    assert misspelt(task | {"condtion_images": "a.png", "Height": 3, "weather": "rain"}) == {
        "condtion_images": "condition_images", "Height": "height",
    }  # fmt: skip


def test_more_images_than_indices_are_told(example):
    two = read_tasks(example)[1] | {"condition_images_index": [0]}
    with pytest.raises(EngineError, match="1 for 2 images"):
        Task(two, given("text2video"), example.parent).clip(1)


def test_an_embedding_with_code_in_it_is_refused(tmp_path):
    np.save(tmp_path / "face.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(EngineError, match="can't be read"):
        task = {"name": "a", "prompt": "", "height": 64, "width": 64, "face_image": "face.npy"}
        Task(task, given("text2video"), tmp_path).clip(1)


def test_detectors_run_where_the_clip_does_and_leave_it_their_memory(example, monkeypatch, tmp_path):
    write_media(tmp_path / "video", pictures(3, 64, 64), 8, {})
    asked, forgotten = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        tasks, "preprocess", lambda name, frames, device, cache: asked.append(device) or frames
    )
    monkeypatch.setattr(tasks, "forget_detectors", lambda: forgotten.append(True))
    task = {"name": "a", "prompt": "", "video_path": str(tmp_path / "video")}
    argv = ["--controlnet_name=canny", "--time_size=3", "--width=64", "--height=64"]
    Task(task, given("video2video", *argv)).clip(1)
    Task(task, given("video2video", *argv, "--device=cpu")).clip(1)
    assert asked == ["cuda", "cpu"] and forgotten == [True]


def test_negative_sets_go_by_their_names(tmp_path):
    cfg = "configs/model/negative_prompt.py"
    assert all(negative_prompt(name, cfg) == each.prompt for name, each in NEGATIVE_SETS.items())
    assert negative_prompt("V2", "None") == "V2" and negative_prompt("rain, fog", cfg) == "rain, fog"
    with pytest.raises(EngineError, match=r"empty.*Empty, V1"):
        negative_prompt("empty", cfg)


def test_musevs_own_file_of_sets_is_read_and_not_run(tmp_path):
    path = tmp_path / "negative_prompt.py"
    path.write_text("Negative_Prompt_CFG = {'V2': {'base_model': '', 'prompt': 'fog', 'refer': ''}}\n")
    assert negative_prompt("V2", str(path)) == "fog"
    ran = tmp_path / "ran"
    path.write_text(f"Negative_Prompt_CFG = {{'V2': {{'prompt': open({str(ran)!r}, 'w')}}}}\n")
    with pytest.raises(EngineError, match="plain dict"):
        negative_prompt("V2", str(path))
    assert not ran.exists()
