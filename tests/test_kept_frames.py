"""Frames that are known and go through the loop with the others: as they are known, at every step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from musev_engine import frames, seams
from musev_engine.clip import ConditionImage
from musev_engine.errors import EngineError
from musev_engine.schedulers import SCHEDULERS, make_scheduler, set_timesteps
from musev_engine.seams import MAX_TINT, going_over, shares_of_end, tints
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


def test_made_frames_get_the_tint_of_those_beside_them(models):  # noqa: F811
    latents = torch.randn(
        1, models.vae.config.latent_channels, 7, SIZE // 8, SIZE // 8, generator=torch.manual_seed(3)
    )
    shown = torch.cat(list(frames.decode(models.vae, latents)))

    def beside(frame: int, tint: list[float]) -> np.ndarray:
        """What stands beside a frame: the same picture in another tint, but for what moves."""
        picture = shown[frame] + torch.tensor(tint)[:, None, None]
        picture[:, : SIZE // 8], picture[:, -(SIZE // 8) :] = 0, 1
        return frames.to_pixels(picture[None])[0]

    left, right = [0.03, -0.02, 0.0], [-0.03, 0.0, 0.01]
    added = tints({0: beside(1, left), 6: beside(5, right)}, latents, models.vae)[..., 0, 0]
    assert not added[[0, 6]].any()
    shares = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])[:, None]
    expected = (1 - shares) * torch.tensor(left) + shares * torch.tensor(right)
    assert torch.allclose(added[1:6], expected, atol=0.012)
    (alone,) = tints({0: beside(1, left), 2: beside(1, left)}, latents[:, :, :3], models.vae)[1:2, :, 0, 0]
    assert torch.allclose(alone, torch.tensor(left), atol=0.012)
    for end in ({0: beside(1, left)}, {2: beside(1, left)}):  # where nothing stays at the other end
        fades = tints(end, latents[:, :, [1, 1, 1]], models.vae)[..., 0, 0]
        shares = torch.tensor([0, 1, 0.5] if 0 in end else [0.5, 1, 0])[:, None]
        assert torch.allclose(fades, shares * torch.tensor(left), atol=0.012)
    another = beside(1, [2 * MAX_TINT, 0.0, 0.0])  # that is no tint but another picture
    assert not tints({0: another}, latents, models.vae).any() and tints({}, latents, models.vae) is None


def test_a_clip_is_shown_in_it(models, monkeypatch):  # noqa: F811
    kept, lacks = known(0, 2), []
    for most in (0.0, 1.0):
        monkeypatch.setattr(seams, "MAX_TINT", most)
        made = pictures(asked(3, kept_frames=kept), models)[1]
        beside = (frames.fit_still(each.picture, SIZE, SIZE).astype(int) for each in kept)
        lacks.append(np.abs(sum(np.median(each - made, axis=(0, 1)) for each in beside)).max())
    assert lacks[0] > 10 and lacks[1] <= 3


# --- from one look into another ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_frames", "given"), [(9, ()), (12, (0, 1, 10, 11)), (7, (0, 3)), (3, (0, 1, 2))]
)
def test_the_end_comes_in_equal_parts(num_frames, given):
    shares = shares_of_end(num_frames, given)
    made = [frame for frame in range(num_frames) if frame not in given]
    assert shares.shape == (num_frames,) and shares.min() >= 0 and shares.max() <= 1
    if made:
        assert not shares[: made[0]].any() and bool((shares[made[-1] + 1 :] == 1).all())
        rises = shares[made[0] : made[-1] + 1].diff()
        assert torch.allclose(rises, rises[:1].expand_as(rises)) and bool((rises > 0).all())
        assert torch.allclose(shares[made[0]], 1 - shares[made[-1]])


def test_predictions_go_over_and_no_more_are_made_than_needed():
    asked_for = []

    def predictor(value: float):
        def predict(latents, t, windows):
            asked_for.append((value, windows))
            return torch.full((len(windows), 1, 4, 3, 2, 2), value)

        return predict

    shares = torch.tensor([0, 0, 0, 0.25, 0.5, 1, 1, 1])
    predict = going_over(predictor(2.0), predictor(6.0), shares)
    begins, between, ends = [0, 1, 2], [2, 3, 4], [5, 6, 7]
    latents, t = torch.zeros(1, 1, 4, 3, 2, 2), torch.tensor(1.0)
    assert bool((predict(latents, t, [begins]) == 2).all()) and bool((predict(latents, t, [ends]) == 6).all())
    assert asked_for == [(2.0, [begins]), (6.0, [ends])]
    both = predict(torch.cat([latents] * 2), t, [begins, between])
    assert both.shape == (2, 1, 4, 3, 2, 2)
    assert both[:, 0, 0, :, 0, 0].tolist() == [[2, 2, 2], [2, 3, 4]]


@pytest.mark.parametrize("given", ["text", "still and poses"])
def test_a_clip_goes_over_from_one_still_into_the_other(models, given):  # noqa: F811
    clip = asked(14, given, kept_frames=known(0, 1, 12, 13))
    began = clip.kept[0] if clip.still is None else clip.still
    plain, same, other = (
        pictures(replace(clip, end_still=end), models)
        for end in (None, began, 255 - frames.fit_still(began, SIZE, SIZE))
    )
    assert all(near(one, another) for one, another in zip(plain, same, strict=True))
    apart = np.abs(other.astype(int) - plain).mean(axis=(1, 2, 3))[2:12]
    assert apart[0] < apart[5] < apart[9]
    with Samples(models) as samples:
        pictures(replace(clip, end_still=OTHER), models)
    ends = frames.encode(models.vae, frames.fit_still(OTHER, SIZE, SIZE)[None])
    heads = [torch.allclose(each[:, :, :1], ends, atol=1e-5) for each in samples]
    assert 0 < sum(heads) < len(heads)


def test_a_frame_is_given_once():
    with pytest.raises(EngineError, match="two condition images"):
        asked(4, kept_frames=(ConditionImage(OTHER, 3),), condition_images=(ConditionImage(OTHER, -1),))
    with pytest.raises(EngineError, match="outside the clip"):
        asked(4, kept_frames=(ConditionImage(OTHER, 4),))
