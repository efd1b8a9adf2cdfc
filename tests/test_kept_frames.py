"""Frames that are known and go through the loop with the others: as they are known, at every step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from musev_engine import frames
from musev_engine.clip import ConditionImage
from musev_engine.errors import EngineError
from musev_engine.schedulers import SCHEDULERS, make_scheduler, set_timesteps
from tests.test_pipeline import (
    OTHER,
    SIZE,
    STILL,
    THIRD,
    VIDEO,
    Samples,
    asked,
    models,  # noqa: F401 (a fixture)
    near,
    pictures,
    seen_by_vae,
)


def known(*places: int, first: int = 0) -> tuple[ConditionImage, ...]:
    return tuple(ConditionImage(VIDEO[(first + i) % len(VIDEO)], i) for i in places)


def clean(images, models) -> torch.Tensor:  # noqa: F811
    fitted = [frames.fit_still(each.picture, SIZE, SIZE) for each in images]
    return frames.encode(models.vae, np.stack(fitted))


@pytest.mark.parametrize("given", ["still", "text", "poses alone", "still and poses"])
@pytest.mark.parametrize("places", [(0, 1, 7, 8), (8,), (4,), (1, 2, 3)])
def test_kept_frames_come_out_as_they_were_given(models, given, places):  # noqa: F811
    kept = known(*places)
    made = pictures(asked(9, given, kept_frames=kept), models)
    there = seen_by_vae(np.stack([frames.fit_still(each.picture, SIZE, SIZE) for each in kept]), models)
    assert len(made) == 9
    for place, picture in zip(places, there, strict=True):
        assert near(made[place], picture) and not near(made[(place + 4) % 9 if place != 4 else 6], picture)


@pytest.mark.parametrize("scheduler", ["model", *SCHEDULERS])
def test_at_every_step_they_are_noised_as_the_others(models, scheduler):  # noqa: F811
    kept = known(0, 1, 4, 5)
    clip = asked(6, kept_frames=kept, num_inference_steps=4, scheduler=scheduler)
    with Samples(models) as samples:
        pictures(clip, models)
    config = models.scheduler_config
    steps = make_scheduler(config, None if scheduler == "model" else scheduler)
    timesteps = set_timesteps(steps, 4, models.device, "")
    noises = []
    for number, t in enumerate(timesteps):
        seen = samples[number][:, :, [1, 2, 5, 6]]  # the still stands before them
        ones, zeros = torch.ones_like(seen), torch.zeros_like(seen)
        of_clean, of_noise = (  # what a noised picture has of each
            steps.scale_model_input(steps.add_noise(one, other, t.reshape(1)), t)
            for one, other in ((ones, zeros), (zeros, ones))
        )
        steps.step(zeros, t, zeros)  # so that its own count goes along
        noises.append((seen - of_clean * clean(kept, models)) / of_noise)
    assert all(torch.allclose(each, noises[0], atol=1e-3) for each in noises[1:])
    assert 0.5 < noises[0].std() < 1.5


def test_what_is_beside_them_goes_on_from_them(models):  # noqa: F811
    clip = asked(24, kept_frames=known(0, 1), num_inference_steps=4)
    one, other = (pictures(replace(clip, kept_frames=known(0, 1, first=k)), models) for k in (0, 3))
    assert not near(one[2], other[2])
    assert not near(pictures(replace(clip, kept_frames=()), models)[2], one[2])


def test_without_a_still_the_first_of_them_stands_before_every_window(models):  # noqa: F811
    kept = known(3, 4)
    with Samples(models) as samples:
        pictures(asked(9, "text", kept_frames=kept), models)
    assert all(torch.allclose(each[:, :, :1], clean(kept[:1], models), atol=1e-5) for each in samples)
    assert all(each.shape[2] == 7 for each in samples)  # a window's 6 and that one


@pytest.mark.parametrize("given", ["still", "text", "still and poses"])
def test_one_that_stands_alone_is_also_before_the_windows_that_it_is_in(models, given):  # noqa: F811
    kept = known(3, 4, 15)
    with Samples(models) as samples:
        made = pictures(asked(20, given, kept_frames=kept), models)
    twin = clean(kept[2:], models)
    there = [
        each for each in samples if each.shape[2] == 8
    ]  # a window's 6, what the clip begins with, and that one
    assert 0 < len(there) < len(samples) and {each.shape[2] for each in samples} <= {6, 7, 8}
    place = 0 if given == "still" else 1
    for each in there:
        assert torch.allclose(each[:, :, place : place + 1], twin, atol=1e-5)
    assert near(made[15], seen_by_vae(frames.fit_still(kept[2].picture, SIZE, SIZE)[None], models)[0])


def test_a_still_that_is_animated_gives_way_to_a_kept_first_frame(models):  # noqa: F811
    made = pictures(asked(5, "still", still=STILL, kept_frames=(ConditionImage(OTHER),)), models)
    assert near(made[:1], seen_by_vae(frames.fit_still(OTHER, SIZE, SIZE)[None], models))


@pytest.mark.parametrize("more", [{}, {"condition_images": (ConditionImage(THIRD, 2),)}])
def test_every_frame_may_be_kept(models, more):  # noqa: F811
    kept = known(*range(2 if more else 3))
    made = pictures(asked(3, "text", kept_frames=kept, **more), models)
    there = np.stack([frames.fit_still(each.picture, SIZE, SIZE) for each in kept])
    assert near(made[: len(kept)], seen_by_vae(there, models))


def test_of_a_video_that_is_changed_they_are_kept_too(models):  # noqa: F811
    kept = (ConditionImage(OTHER, 2),)
    made = pictures(asked(5, video=VIDEO[:5], video_strength=0.5, kept_frames=kept), models)
    assert near(made[2:3], seen_by_vae(frames.fit_still(OTHER, SIZE, SIZE)[None], models))


def test_a_frame_is_given_once():
    with pytest.raises(EngineError, match="two condition images"):
        asked(4, kept_frames=(ConditionImage(OTHER, 3),), condition_images=(ConditionImage(OTHER, -1),))
    with pytest.raises(EngineError, match="outside the clip"):
        asked(4, kept_frames=(ConditionImage(OTHER, 4),))
