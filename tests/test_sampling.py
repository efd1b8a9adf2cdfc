"""The parallel loop with networks of a few lines: what it adds up, when it yields, what a seed means."""

from functools import partial

import numpy as np
import pytest
import torch

from musev_engine.errors import EngineError
from musev_engine.sampling import (
    NOISE_TYPES,
    classifier_free,
    denoise,
    draw_noise,
    guidance_scales,
    initial_latents,
    lean_noise,
    smaller_noise,
    steps_of_strength,
)
from musev_engine.schedulers import SCHEDULERS, make_scheduler, set_timesteps
from musev_engine.windows import plan_windows

SD15 = {
    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "steps_offset": 1,
    "set_alpha_to_one": False, "clip_sample": False,
}  # fmt: skip
SHAPE = (1, 4, 20, 3, 3)


def per_frame(latents, t, windows):
    """A network that looks at each frame alone, so windows can't matter."""
    return torch.tanh(latents) * (1 + float(t) / 1000)


def by_neighbours(latents, t, windows):
    """A network whose answer depends on which frames stand in the window."""
    return torch.tanh(latents - latents.mean(dim=3, keepdim=True)) + 0.01 * len(windows[0])


def run(predict, schedule="shifting", weights="triangular", steps=4, scheduler="euler", seed=3, **options):
    made = make_scheduler(SD15, scheduler)
    timesteps = set_timesteps(made, steps)
    generator = torch.Generator().manual_seed(seed)
    latents = initial_latents(made, draw_noise(SHAPE, generator), timesteps[0])
    plan = partial(_plan, schedule)
    return denoise(
        predict, latents, made, timesteps, plan=plan, overlap_weights=weights, generator=generator, **options
    )


def _plan(schedule, step):
    return plan_windows(schedule, SHAPE[2], 8, 3, step=step)


def result(states):
    return list(states)[-1].latents


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("schedule", ["uniform_v2", "uniform", "shifting"])
@pytest.mark.parametrize("weights", ["flat", "triangular"])
def test_windows_do_not_matter_to_a_network_that_sees_single_frames(scheduler, schedule, weights):
    options = {"scheduler": scheduler, "noise_type": "video_fusion"}
    in_windows = result(run(per_frame, schedule, weights, **options))
    made = make_scheduler(SD15, scheduler)
    timesteps = set_timesteps(made, 4)
    generator = torch.Generator().manual_seed(3)
    latents = initial_latents(made, draw_noise(SHAPE, generator), timesteps[0])
    whole = result(
        denoise(
            per_frame, latents, made, timesteps, generator=generator, noise_type="video_fusion",
            plan=lambda step: plan_windows("uniform_v2", SHAPE[2], SHAPE[2], 0),
        )
    )  # fmt: skip
    assert torch.allclose(in_windows, whole, atol=1e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_seed_gives_one_clip(scheduler):
    one, again, other = (result(run(by_neighbours, scheduler=scheduler, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(one, again) and not torch.allclose(one, other)


def test_moving_windows_leave_no_seam_where_the_network_disagrees_with_itself():
    """Each window is off by something of its own, as windows are; the clip should not show where they meet."""

    def nothing(latents, t, windows):
        return torch.zeros_like(latents)

    def biased(latents, t, windows):
        return torch.zeros_like(latents) + float(np.sin(7.0 * windows[0][0]))

    def jump(schedule, weights):
        options = {"schedule": schedule, "weights": weights, "steps": 10, "scheduler": "ddim"}
        off = result(run(biased, **options)) - result(run(nothing, **options))
        return off.mean(dim=(0, 1, 3, 4)).diff().abs().max()

    assert jump("shifting", "triangular") < 0.5 * jump("uniform_v2", "flat")
    assert jump("uniform_v2", "triangular") < jump("uniform_v2", "flat")


def test_yields_after_every_window_and_every_step():
    states = list(run(by_neighbours, steps=3))
    windows = [len(_plan("shifting", step)) for step in range(3)]
    assert [(s.step, s.window, s.num_windows, s.step_done) for s in states] == [
        (step, number, count, done)
        for step, count in enumerate(windows)
        for number, done in [(i, False) for i in range(1, count + 1)] + [(count, True)]
    ]
    assert all(s.original is not None and s.original.shape == SHAPE for s in states if s.step_done)


def test_closing_stops_before_the_next_window():
    asked = []

    def predict(latents, t, windows):
        asked.append(windows)
        return per_frame(latents, t, windows)

    states = run(predict)
    next(states)
    next(states)
    states.close()
    assert len(asked) == 2


@pytest.mark.parametrize("schedule", ["uniform_v2", "uniform", "shifting"])
@pytest.mark.parametrize("size", [2, 3, 50])
def test_windows_in_batches_are_the_same_as_one_by_one(schedule, size):
    calls = []

    def predict(latents, t, windows):
        calls.append(len(windows))
        assert latents.shape == (len(windows), SHAPE[0], SHAPE[1], len(windows[0]), *SHAPE[3:])
        return by_neighbours(latents, t, windows)

    one_by_one = result(run(by_neighbours, schedule))
    assert torch.allclose(result(run(predict, schedule, context_batch_size=size)), one_by_one, atol=1e-5)
    assert max(calls) > 1 and max(calls) <= size


def test_guidance_joins_the_halves_after_the_windows_meet():
    scales = [1.0, 2.0, 3.0, 4.0]

    def halves(latents, t, windows):
        uncertain = 0.5 * by_neighbours(latents, t, windows)
        return torch.cat([uncertain, by_neighbours(latents, t, windows)], dim=1)

    joined = list(run(halves, guide=classifier_free(scales)))
    steps = {float(t): i for i, t in enumerate(set_timesteps(make_scheduler(SD15, "euler"), 4))}

    def already(latents, t, windows):
        return (0.5 + 0.5 * scales[steps[float(t)]]) * by_neighbours(latents, t, windows)

    assert torch.allclose(joined[-1].latents, result(run(already)), atol=1e-4)


def test_what_settles_after_a_step_is_where_the_next_begins():
    began = []

    def predict(latents, t, windows):
        began.append(latents)
        return torch.zeros_like(latents)

    states = list(run(predict, settle=lambda latents, step: torch.full_like(latents, step), scheduler="ddim"))
    assert began[len(_plan("shifting", 0))].unique().tolist() == [0.0]
    assert states[-1].latents.unique().tolist() == [3.0]


def test_strength_is_the_part_of_the_steps_that_is_taken():
    timesteps = torch.arange(10, 0, -1)
    assert [len(steps_of_strength(timesteps, strength)) for strength in (0, 0.05, 0.31, 1)] == [0, 0, 3, 10]
    assert steps_of_strength(timesteps, 0.3).tolist() == [3, 2, 1]


@pytest.mark.parametrize("scheduler", ["lcm", "tcd", "dpm++", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_few_steps_end_where_a_perfect_network_says(scheduler, steps):
    """A network that knows the clean latents: any number of steps should lead to them."""
    made = make_scheduler(SD15, scheduler)
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    timesteps = set_timesteps(made, steps)

    def knowing(latents, t, windows):
        alpha = made.alphas_cumprod[int(t)]
        return (latents - alpha.sqrt() * clean[None, :, :, windows[0]]) / (1 - alpha).sqrt()

    generator = torch.Generator().manual_seed(3)
    start = initial_latents(made, draw_noise(SHAPE, generator), timesteps[0])
    plan = partial(_plan, "shifting")
    ended = result(denoise(knowing, start, made, timesteps, plan=plan, generator=generator))
    assert (ended - clean).abs().mean() < 0.1


@pytest.mark.parametrize("scheduler", ["lcm", "tcd"])
def test_more_steps_than_a_few_step_scheduler_knows_are_refused(scheduler):
    with pytest.raises(EngineError, match=r"so many steps \(got 60\)"):
        set_timesteps(make_scheduler(SD15, scheduler), 60)


def test_zero_snr_is_a_scheduler_of_its_own():
    made = make_scheduler(SD15, "ddim_zero_snr")
    assert made.config.prediction_type == "v_prediction" and float(made.alphas_cumprod[-1]) < 1e-8
    assert set_timesteps(made, 4).tolist() == [999, 749, 499, 249]


def test_predictions_add_up_in_float32():
    for state in run(lambda latents, t, windows: per_frame(latents, t, windows).half()):
        assert state.latents.dtype == torch.float32


def test_a_prediction_that_is_not_finite_stops_the_loop():
    with pytest.raises(FloatingPointError, match="step 1 of 4"):
        list(run(lambda latents, t, windows: latents * float("inf")))


def test_compat_draws_what_euler_throws_away():
    plain = torch.Generator().manual_seed(9)
    musev = torch.Generator().manual_seed(9)
    for generator, compat in ((plain, ""), (musev, "musev")):
        scheduler = make_scheduler(SD15)
        timesteps = set_timesteps(scheduler, 2)
        start = draw_noise(SHAPE, generator) * scheduler.init_noise_sigma
        plan = partial(_plan, "uniform_v2")
        list(denoise(per_frame, start, scheduler, timesteps, plan=plan, generator=generator, compat=compat))
    for _ in range(2):
        draw_noise(SHAPE, plain)
    assert torch.equal(torch.randn(4, generator=plain), torch.randn(4, generator=musev))


@pytest.mark.parametrize("w_ind_noise", [0.0, 0.3, 1.0])
def test_shared_noise_has_unit_variance_and_the_asked_correlation(w_ind_noise):
    noise = draw_noise(
        (1, 4, 2, 64, 64),
        torch.Generator().manual_seed(0),
        noise_type="video_fusion",
        w_ind_noise=w_ind_noise,
    )
    first, second = noise[0, :, 0].flatten(), noise[0, :, 1].flatten()
    assert np.isclose(noise.var().item(), 1, atol=0.05)
    assert np.isclose(torch.corrcoef(torch.stack([first, second]))[0, 1], 1 - w_ind_noise, atol=0.05)


def test_lean_noise_keeps_what_is_asked():
    noise, picture = torch.randn(1, 4, 3, 2, 2), torch.randn(1, 4, 2, 2, 2)
    assert torch.equal(lean_noise(noise, picture, 0.0), noise)
    assert torch.allclose(lean_noise(noise, picture, 1.0), picture.mean(2, keepdim=True).expand_as(noise))


def test_a_start_is_noised_to_the_first_timestep():
    scheduler = make_scheduler(SD15, "ddim")
    timesteps = set_timesteps(scheduler, 5)
    clean, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    alpha = scheduler.alphas_cumprod[timesteps[0]]
    expected = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    assert torch.allclose(initial_latents(scheduler, noise, timesteps[0], start=clean), expected, atol=1e-6)


def test_the_models_config_decides_unless_a_scheduler_is_named():
    v_prediction = {
        "_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True, "clip_sample": False,
    }  # fmt: skip
    made = make_scheduler(v_prediction)
    assert type(made).__name__ == "DDIMScheduler" and made.config.prediction_type == "v_prediction"
    assert set_timesteps(made, 4).tolist() == [999, 749, 499, 249]
    assert float(made.alphas_cumprod[-1]) < 1e-8
    assert type(make_scheduler(SD15)).__name__ == "EulerDiscreteScheduler"  # as MuseV treats PNDM
    assert make_scheduler(v_prediction, "euler").config.prediction_type == "v_prediction"


def test_unknown_names_and_odd_values_are_refused():
    generator = torch.Generator()
    with pytest.raises(EngineError, match=r"got elur\)\. Choose one of euler"):
        make_scheduler(SD15, "elur")
    with pytest.raises(ValueError, match="'pink'; choose one of random"):
        draw_noise(SHAPE, generator, noise_type="pink")
    with pytest.raises(ValueError, match=r"w_ind_noise is 1\.5"):
        draw_noise(SHAPE, generator, w_ind_noise=1.5)
    with pytest.raises(ValueError, match="1 generators for 2 clips"):
        draw_noise((2, *SHAPE[1:]), [generator])
    with pytest.raises(ValueError, match="'stairs'; choose one of linear"):
        guidance_scales(7, 3, 4, "stairs")


@pytest.mark.parametrize("drawn_at", [(32, 48), (24, 40), (30, 36), (16, 25)])
def test_noise_of_a_larger_size_made_smaller_is_unit_noise(drawn_at):
    noise = draw_noise((1, 16, 24, 16, 24), torch.Generator().manual_seed(0), drawn_at=drawn_at)
    assert noise.shape[-2:] == (16, 24)
    assert np.isclose(noise.var().item(), 1, atol=0.02)
    assert (noise.var(dim=(0, 1, 2)) - 1).abs().max() < 0.4  # 384 draws at each place


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_a_draft_begins_with_the_noise_of_the_final(noise_type):
    shape, options = (1, 4, 3, 16, 24), {"noise_type": noise_type, "w_ind_noise": 0.3}
    final = draw_noise(shape, torch.Generator().manual_seed(7), **options)
    draft = draw_noise((1, 4, 3, 8, 12), torch.Generator().manual_seed(7), drawn_at=(16, 24), **options)
    pooled = 2 * final.unflatten(-1, (12, 2)).unflatten(-3, (8, 2)).mean(dim=(-1, -3))
    assert torch.allclose(draft, pooled, atol=1e-5)
    other = draw_noise((1, 4, 3, 8, 12), torch.Generator().manual_seed(8), drawn_at=(16, 24), **options)
    assert abs(torch.corrcoef(torch.stack([draft.flatten(), other.flatten()]))[0, 1]) < 0.2


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_noise_of_the_own_size_is_what_it_was_to_the_bit(noise_type):
    plain, told = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert torch.equal(
        draw_noise(SHAPE, plain, noise_type=noise_type),
        draw_noise(SHAPE, told, noise_type=noise_type, drawn_at=SHAPE[-2:]),
    )
    assert torch.equal(torch.randn(4, generator=plain), torch.randn(4, generator=told))


def test_smaller_noise_of_no_whole_factor_weighs_by_area():
    made = smaller_noise(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), (2, 2))
    # 3 pixels onto 2: the first takes one and a half
    assert torch.allclose(made[0], torch.tensor([1 / 1.25**0.5, 0.0])) and not made[1].any()
