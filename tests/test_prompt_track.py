"""Prompts that change along a clip: what each frame is told, and that it is what the network sees."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from musev_engine.conditions import Conditions, predictor
from musev_engine.errors import EngineError
from musev_engine.loading import load_models
from musev_engine.pipeline import Clip, Frames, generate
from musev_engine.prompt_track import PromptSpan, PromptTrack, texts_of
from musev_engine.windows import Timeline
from tests.tiny_model import write_tiny_model


def told(spans, num_frames, prompt="own"):
    """What each text weighs at each frame."""
    texts, weights = texts_of(prompt, spans, num_frames)
    return dict(zip(texts, weights.T, strict=True))


def test_a_frame_is_told_the_span_it_lies_in_and_outside_the_clips_own_prompt():
    weights = told([PromptSpan(2, 3, "a"), PromptSpan(5, 5, "b")], 7)
    assert weights["own"].tolist() == [1, 1, 0, 0, 1, 0, 1]
    assert weights["a"].tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert weights["b"].tolist() == [0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("order", [1, -1])
def test_where_two_overlap_one_goes_over_into_the_other_linearly(order):
    weights = told([PromptSpan(0, 5, "a"), PromptSpan(3, 9, "b")][::order], 10)
    assert "own" not in weights
    assert np.allclose(weights["b"], [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert np.allclose(weights["a"], 1 - weights["b"])


def test_a_span_within_another_rises_and_falls():
    weights = told([PromptSpan(0, 9, "a"), PromptSpan(2, 6, "b")], 10)
    assert np.allclose(weights["b"], [0, 0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 0, 0])


def test_weights_sum_to_one_however_spans_lie():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ends = np.sort(rng.integers(0, 12, (rng.integers(1, 6), 2)))
        spans = [PromptSpan(int(a), int(b), str(i % 3)) for i, (a, b) in enumerate(ends)]
        weights = told(spans, 12)
        assert np.allclose(sum(weights.values()), 1) and all((w >= 0).all() for w in weights.values())


def test_one_text_everywhere_is_the_plain_prompt():
    assert list(told([PromptSpan(0, 3, "a"), PromptSpan(2, 6, "a")], 7)) == ["a"]
    assert list(told([], 3)) == ["own"]


@pytest.mark.parametrize("span", [(-1, 2), (3, 2)])
def test_a_span_that_is_none_is_refused(span):
    with pytest.raises(EngineError, match="0 <= first <= last"):
        PromptSpan(*span, "a")


def test_a_span_beyond_the_clip_is_refused():
    with pytest.raises(EngineError, match=r"beyond the clip .* End it at 4"):
        Clip(num_frames=5, prompts=(PromptSpan(0, 5, "a"),))


# --- the network ------------------------------------------------------------------------------------


class Watched(torch.nn.Module):
    """Instead of a UNet: notes what it is told, and predicts each frame's text."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def forward(self, sample, t, text, **_):
        self.texts.append(text)
        shown = text if text.ndim == 4 else text[:, None].expand(-1, sample.shape[2], -1, -1)
        return shown.mean(dim=(2, 3))[:, None, :, None, None].expand_as(sample)


@pytest.mark.parametrize("windows", [[[0, 1, 2]], [[1, 2, 3], [3, 4, 5]]])
@pytest.mark.parametrize("guided", [False, True])
def test_each_window_sees_its_frames_texts(windows, guided):
    texts, weights = texts_of("own", [PromptSpan(2, 4, "a"), PromptSpan(4, 5, "b")], 6)
    halves = 1 + guided
    embeds = torch.randn(halves, len(texts), 7, 5, generator=torch.Generator().manual_seed(0))
    track = PromptTrack(embeds, torch.from_numpy(weights))
    net = Watched()
    conditions = Conditions(
        embeds[:, 0],
        guided,
        Timeline(7, [0]),
        torch.zeros(1, 4, 1, 2, 2),
        prompt_track=track.of([0, *range(6)]),
    )
    latents = torch.zeros(len(windows), 1, 4, 3, 2, 2)
    made = predictor(net, conditions, torch.tensor([999.0]))(latents, torch.tensor(999.0), windows)
    (seen,) = net.texts
    assert seen.shape == (halves * len(windows), 4, 7, 5)  # the condition frame stands before each window
    for half, (number, window) in itertools.product(range(halves), enumerate(windows)):
        row = seen[half * len(windows) + number]
        assert torch.equal(row[0], embeds[half, texts.index("own")])
        for place, frame in enumerate(window, 1):
            if frame == 4:
                a, b = (embeds[half, texts.index(text)] for text in "ab")
                assert torch.allclose(row[place], (a + b) / 2, atol=1e-6)
            else:
                own = embeds[half, texts.index("own" if frame < 2 else "a" if frame < 4 else "b")]
                assert torch.equal(row[place], own)
                assert torch.allclose(made[number, half, :, place - 1], own.mean())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return load_models(folder)


STILL = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
CLIP = Clip(
    prompt="a red dancer", still=STILL, width=32, height=32, num_frames=12, num_inference_steps=1,
    context_frames=4, context_overlap=1, context_schedule="uniform_v2", image_prompts=(), references=(),
)  # fmt: skip


def pictures(clip, models):
    return np.concatenate([event.frames for event in generate(clip, models) if isinstance(event, Frames)])


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_one_span_over_everything_is_the_plain_prompt_to_the_bit(models, guidance_scale):
    plain = replace(CLIP, prompt="a blue hill", guidance_scale=guidance_scale)
    spanned = replace(plain, prompt="other " * 90, prompts=(PromptSpan(0, 11, "a blue hill"),))
    assert np.array_equal(pictures(plain, models), pictures(spanned, models))


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_a_changed_span_changes_the_frames_whose_windows_see_it(models, guidance_scale):
    clip = replace(CLIP, guidance_scale=guidance_scale)
    one, other = (
        pictures(replace(clip, prompts=(PromptSpan(10, 11, text),)), models)
        for text in ("a blue hill at night", "a red cat")
    )
    # frames 1 to 11 are made, in windows of 4 every 3: frames 10 and 11 are seen by those that begin at 7 and 10
    changed = [not np.array_equal(a, b) for a, b in zip(one, other, strict=True)]
    assert not any(changed[:7]) and all(changed[7:])


def test_prompts_of_any_length_stand_beside_each_other(models):
    track = (PromptSpan(3, 6, "a hill " * 60), PromptSpan(6, 8, "sea"))
    made = pictures(replace(CLIP, guidance_scale=3.0, prompts=track), models)
    assert made.shape == (12, 32, 32, 3)


def test_a_control_net_is_told_each_frames_text(models):
    poses = np.ones((12, 1, 18, 3), np.float32)
    poses[..., 0], poses[..., 1] = np.linspace(4, 28, 18), np.linspace(2, 30, 18)
    clip = replace(CLIP, poses=poses, still=None)
    one, other = (
        pictures(replace(clip, prompts=(PromptSpan(10, 11, text),)), models) for text in ("a hill", "a cat")
    )
    assert not np.array_equal(one, other) and np.array_equal(one[:6], other[:6])


def test_each_shot_is_told_its_own_frames_texts(models):
    clip = replace(CLIP, shots=(6, 6), n_vision_condition=1)
    one, other = (
        pictures(replace(clip, prompts=(PromptSpan(8, 9, text),)), models) for text in ("a hill", "a cat")
    )
    assert np.array_equal(one[:6], other[:6]) and not np.array_equal(one[6:], other[6:])


def test_a_draft_begins_as_its_final_does(models):
    """With noise of the clip's own size nothing changes, with that of a larger one it does."""
    made = pictures(CLIP, models)
    assert np.array_equal(made, pictures(replace(CLIP, noise_width=32, noise_height=32), models))
    assert not np.array_equal(made, pictures(replace(CLIP, noise_width=64, noise_height=64), models))
    with pytest.raises(EngineError, match="noise_width is out of bounds"):
        replace(CLIP, noise_width=16)
