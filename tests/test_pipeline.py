"""Clips from a tiny random model: how many frames, from what, in which order, and when it stops."""

import copy
import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from musev_engine import frames
from musev_engine.errors import EngineError
from musev_engine.loading import load_models
from musev_engine.pipeline import Clip, Frames, Preview, Progress, generate
from tests.tiny_model import write_tiny_model

SIZE = 32


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return load_models(folder)


def poses(num_frames: int, move: float = 1.0) -> np.ndarray:
    """One person that walks to the right."""
    points = np.ones((num_frames, 1, 18, 3), np.float32)
    points[..., 0] = np.linspace(4, 20, 18) + move * np.arange(num_frames)[:, None, None]
    points[..., 1] = np.linspace(2, 30, 18)
    return points


STILL = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
GIVEN = {
    "still": lambda n: {"still": STILL},
    "text": lambda n: {"prompt": "a red dancer"},
    "poses alone": lambda n: {"poses": poses(n)},
    "still and poses": lambda n: {"still": STILL, "poses": poses(n)},
    "still with its pose": lambda n: {"still": STILL, "poses": poses(n), "still_pose": poses(1)[0]},
}


def asked(num_frames: int, given: str = "still and poses", **changes) -> Clip:
    small = {
        "width": SIZE,
        "height": SIZE,
        "num_inference_steps": 2,
        "context_frames": 6,
        "context_overlap": 2,
    }
    return Clip(num_frames=num_frames, **{**small, **GIVEN[given](num_frames), **changes})


def pictures(clip: Clip, models) -> np.ndarray:
    parts = [event for event in generate(clip, models) if isinstance(event, Frames)]
    counts = [len(part.frames) for part in parts]
    assert [part.first for part in parts] == np.cumsum([0, *counts[:-1]]).tolist()
    return np.concatenate([part.frames for part in parts])


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("num_frames", [1, 2, 9])
def test_exactly_as_many_frames_as_asked(models, given, num_frames):
    made = pictures(asked(num_frames, given), models)
    assert made.shape == (num_frames, SIZE, SIZE, 3) and made.dtype == np.uint8


def test_the_same_clip_twice_and_another_seed(models):
    one, again, other = (pictures(asked(8, seed=seed), models) for seed in (5, 5, 6))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_a_still_that_is_animated_is_frame_zero(models):
    made = pictures(asked(4, "still"), models)
    latents = frames.encode(models.vae, frames.fit_still(STILL, SIZE, SIZE)[None])
    (itself,) = frames.decode(models.vae, latents)
    assert np.abs(made[0].astype(int) - frames.to_pixels(itself)[0]).max() <= 1
    assert not np.array_equal(made[0], made[1])


@pytest.mark.parametrize("given", ["text", "poses alone"])
def test_without_a_still_the_first_frame_is_the_image_models(models, given):
    alone, longer = (pictures(asked(n, given), models) for n in (1, 5))
    assert np.abs(alone[0].astype(int) - longer[0]).max() <= 1
    assert any(
        isinstance(e, Progress) and e.phase == "first frame" for e in generate(asked(2, given), models)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"poses": poses(4, move=3.0)},
        {"still_pose": poses(1)[0]},
        {"control_scale": 0.0},
        {"ip_adapter_scale": 0.0},
        {"motion_speed": 2.0},
        {"still": STILL[::-1].copy()},
        {"prompt": "a dancer in a blue shirt"},
        {"guidance_scale": 4.0},
        {"negative_prompt": "a bald man"},
        {"noise_type": "random"},
        {"scheduler": "euler"},
        {"compat": "musev"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_in_the_request_has_a_say(models, change):
    clip = asked(4, guidance_scale=1.5)  # without guidance the negative prompt has none
    assert not np.array_equal(pictures(clip, models), pictures(replace(clip, **change), models))


@pytest.mark.parametrize("change", [{"context_schedule": "uniform_v2"}, {"overlap_weights": "flat"}])
def test_windows_have_a_say_in_a_clip_longer_than_one(models, change):
    clip = asked(9)
    assert not np.array_equal(pictures(clip, models), pictures(replace(clip, **change), models))


def test_it_stops_when_it_is_no_longer_asked(models):
    calls = []
    hook = models.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        events = generate(asked(9), models)
        for event in events:
            if isinstance(event, Progress) and event.window == 1:
                break
        events.close()
    finally:
        hook.remove()
    assert len(calls) == 1 and not list(events)


def test_progress_tells_of_every_window_and_step(models):
    events = list(generate(asked(9), models))
    told = [event for event in events if isinstance(event, Progress)]
    assert list(dict.fromkeys(event.phase for event in told)) == ["prepare", "denoise", "decode"]
    steps = [event for event in told if event.phase == "denoise"]
    assert [event.step for event in steps if not event.window] == [0, 1, 2]
    assert all(event.num_steps == 2 for event in steps)
    assert {event.window for event in steps if event.step == 0} == set(range(steps[1].num_windows + 1))
    assert told[-1] == Progress("decode", 9, 9)
    assert [(event.first, event.frames.shape) for event in events if isinstance(event, Preview)] == [
        (4, (1, SIZE, SIZE, 3))
    ]


def test_a_model_that_follows_no_poses_says_so(models):
    with pytest.raises(EngineError, match=r"no such ControlNet \(got control_v11p_sd15_openpose\)"):
        next(generate(asked(2), replace(models, controlnets={})))


@pytest.mark.parametrize("missing", ["referencenet", "image_encoder"])
def test_parts_a_model_may_lack_are_left_out(models, missing):
    assert len(pictures(asked(2), replace(models, **{missing: None}))) == 2


def test_networks_in_half_precision_take_what_they_are_given(models):
    parts = ("unet", "vae", "text_encoder", "referencenet", "image_encoder", "image_proj")
    half = {part: copy.deepcopy(getattr(models, part)).bfloat16() for part in parts}
    half["controlnets"] = {name: copy.deepcopy(net).bfloat16() for name, net in models.controlnets.items()}
    whole, rough = (pictures(asked(4), each) for each in (models, replace(models, **half)))
    assert np.abs(whole.astype(int) - rough).mean() < 12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 50}, r"multiple of 8 \(got 50\). Choose 48 or 56"),
        ({"width": 4096}, "width is out of bounds"),
        ({"num_frames": 0}, "num_frames is out of bounds"),
        ({"num_inference_steps": 0}, "num_inference_steps is out of bounds"),
        (
            {"context_overlap": 6, "context_frames": 6},
            r"context_overlap is out of bounds \(got 6\). Choose 0 to 5",
        ),
        ({"guidance_scale": float("nan")}, "guidance_scale is out of bounds"),
        ({"context_schedule": "static"}, "Choose one of 'shifting', 'uniform'"),
        ({"scheduler": "pndm"}, "Choose one of 'model', 'euler'"),
        ({"compat": "comfy"}, "compat isn't known"),
        ({"poses": poses(3)}, r"poses has another shape \(got \(3, 1, 18, 3\)\). Give \(4, any, 18, 3\)"),
        ({"still": np.zeros((8, 8, 4), np.uint8)}, "still has another shape"),
        ({"still": np.zeros((8, 8, 3), np.float32)}, "The still holds no pixels"),
    ],
)
def test_what_does_not_fit_is_told_with_its_value_and_remedy(change, says):
    with pytest.raises(EngineError, match=says):
        Clip(**{"num_frames": 4, **change})


def test_nothing_grows_from_clip_to_clip(models):
    clip = asked(3)
    pictures(clip, models)
    before = num_tensors()
    pictures(clip, models)
    assert num_tensors() <= before


def num_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
