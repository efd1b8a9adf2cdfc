"""Clips from a tiny random model: how many frames, from what, in which order, and when it stops."""

import copy
import dataclasses
import gc
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from musev_engine import frames
from musev_engine.clip import ConditionImage, ControlVideo, FirstFrame, SerialDenoise, shot_lengths
from musev_engine.errors import EngineError
from musev_engine.loading import load_models
from musev_engine.models.config import UNetConfig
from musev_engine.models.projections import FaceProjModel
from musev_engine.models.unet import UNet3D
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


def test_a_clip_may_share_the_noise_of_another_seed(models):
    def begun(**changes):
        with Samples(models) as samples:
            pictures(asked(6, "still", num_inference_steps=1, **changes), models)
        return samples[0][:, :, 1:]  # noise alone, after the still

    one, same = begun(seed=3, w_ind_noise=0.0), begun(seed=4, shared_seed=3, w_ind_noise=0.0)
    assert torch.equal(one, same) and not torch.equal(one, begun(seed=4, w_ind_noise=0.0))
    assert not torch.equal(begun(seed=4, shared_seed=3), begun(seed=5, shared_seed=3))  # each frame's own


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
    (preview,) = (event for event in events if isinstance(event, Preview))  # none after the last step
    assert preview.numbers == tuple(range(9)) and preview.latents.shape == (4, 9, SIZE // 8, SIZE // 8)


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


RANDOM = np.random.default_rng(1)
OTHER, THIRD = RANDOM.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
VIDEO = RANDOM.integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
NET = "control_v11p_sd15_openpose"


def seen_by_vae(pictures_: np.ndarray, models) -> np.ndarray:
    return frames.to_pixels(torch.cat(list(frames.decode(models.vae, frames.encode(models.vae, pictures_)))))


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """The same, but for what rounding does."""
    return np.abs(one.astype(int) - other).max() <= 1


class Samples(list):
    """What the UNet is given, (b, c, t, h, w), call by call."""

    def __init__(self, models):
        self.hook = models.unet.register_forward_pre_hook(lambda unet, inputs: self.append(inputs[0].clone()))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.hook.remove()


@pytest.mark.parametrize("places", [(0, -1), (-1,), (4,), (0, 3, 4, 8), (2, -3)])
@pytest.mark.parametrize("num_frames", [9, 20])
def test_condition_images_come_out_at_their_places(models, places, num_frames):
    images = tuple(
        ConditionImage(each, i) for each, i in zip((OTHER, THIRD, STILL, VIDEO[0]), places, strict=False)
    )
    made = pictures(asked(num_frames, "text", condition_images=images), models)
    assert len(made) == num_frames
    pinned = {each.index % num_frames: each.picture for each in images}
    for frame, picture in enumerate(made):
        given = [seen_by_vae(frames.fit_still(one, SIZE, SIZE)[None], models)[0] for one in pinned.values()]
        assert [near(picture, one) for one in given] == [place == frame for place in pinned], frame


def test_a_still_stays_beside_a_clip_whose_first_frames_are_given(models):
    images = tuple(ConditionImage(each, i) for i, each in enumerate((OTHER, THIRD)))
    with Samples(models) as samples:
        made = pictures(asked(9, condition_images=images), models)
    shown = [frames.fit_still(each, SIZE, SIZE) for each in (STILL, OTHER, THIRD)]
    head = frames.encode(models.vae, np.stack(shown))
    assert all(torch.allclose(each[:, :, :3], head, atol=1e-5) for each in samples)
    assert len(made) == 9 and near(made[:2], seen_by_vae(np.stack(shown[1:]), models))


def test_where_frame_0_is_given_an_animated_still_is_the_look(models):
    given = {"condition_images": (ConditionImage(OTHER),)}
    one, other = (pictures(asked(5, "still", still=still, **given), models) for still in (STILL, THIRD))
    fitted = frames.fit_still(OTHER, SIZE, SIZE)[None]
    assert near(one[:1], seen_by_vae(fitted, models)) and near(other[:1], one[:1])
    assert not near(one[1:], other[1:])


def test_every_frame_of_a_clip_may_be_given(models):
    images = tuple(ConditionImage(each, i) for i, each in enumerate(VIDEO[:3]))
    assert near(pictures(asked(3, "text", condition_images=images), models), seen_by_vae(VIDEO[:3], models))


def test_a_still_beside_a_clip_is_in_every_window_and_never_in_the_clip(models):
    with Samples(models) as samples:
        made = pictures(asked(9), models)
    still = frames.encode(models.vae, frames.fit_still(STILL, SIZE, SIZE)[None])
    assert len(samples) > 3 and all(torch.allclose(each[:, :, :1], still, atol=1e-5) for each in samples)
    assert not any(
        near(each, seen_by_vae(frames.fit_still(STILL, SIZE, SIZE)[None], models)[0]) for each in made
    )


def test_a_video_at_strength_0_is_itself_and_at_1_another(models):
    source = {"video": VIDEO, "condition_images": (), "n_vision_condition": 0}
    nothing, half, whole = (
        pictures(
            asked(9, "text", **source, video_strength=s, num_inference_steps=4, scheduler="ddim"), models
        )
        for s in (0, 0.5, 1)
    )
    truth = seen_by_vae(VIDEO, models)
    assert near(nothing, truth)
    assert np.abs(half.astype(int) - truth).mean() > 1 and not np.array_equal(half, whole)


def test_a_still_is_drawn_anew_as_far_as_strength_says(models):
    def first(**by):
        clip = asked(3, "still", first_frame=FirstFrame(redraw=True, **by), num_inference_steps=4)
        return pictures(clip, models)[0]

    plain = pictures(asked(1, "still"), models)[0]
    assert near(first(strength=0.0), plain)
    assert not near(first(strength=0.5), plain) and not near(first(strength=0.5), first(strength=1.0))
    assert not near(first(strength=0.5), first(strength=0.5, negative_prompt="dog", guidance_scale=5))
    assert not near(first(strength=0.5), first(strength=0.5, with_references=False))


@pytest.mark.parametrize("given", ["still", "still and poses"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_windows_in_batches_make_the_same_clip(models, given, guidance_scale):
    clip = asked(20, given, guidance_scale=guidance_scale, condition_images=(ConditionImage(OTHER, -1),))
    with Samples(models) as samples:
        batched = pictures(replace(clip, context_batch_size=3), models)
    rows = 2 if guidance_scale > 1 else 1
    assert max(len(each) for each in samples) == 3 * rows
    assert np.abs(batched.astype(int) - pictures(clip, models)).max() <= 2


@pytest.mark.parametrize("given", GIVEN)
def test_shots_go_on_from_the_last_frames_of_the_one_before(models, given):
    clip = asked(9, given, shots=(4, 3, 2), n_vision_condition=2)
    with Samples(models) as samples:
        made = pictures(clip, models)
    assert len(made) == 9
    begins = [each for each in samples if each.shape[2] in (5, 4)][-4:]  # two steps of the last two shots
    for sample, first in ((begins[0], 4), (begins[2], 7)):
        carried = frames.to_pixels(torch.cat(list(frames.decode(models.vae, sample[:1, :, :2]))))
        assert near(carried, made[first - 2 : first])


def test_shots_may_all_begin_as_the_first(models):
    clip = asked(9, "still", shots=(4, 5), fix_condition_images=True)
    with Samples(models) as samples:
        made = pictures(clip, models)
    assert len(made) == 9
    assert all(torch.equal(each[:, :, :1], samples[0][:, :, :1]) for each in samples)


def test_without_condition_frames_shots_know_nothing_of_each_other(models):
    clip = asked(6, "text", shots=(3, 3), n_vision_condition=0)
    events = list(generate(clip, models))
    assert {e.phase for e in events if isinstance(e, Progress)} == {"prepare", "denoise", "decode"}
    steps = [e.step for e in events if isinstance(e, Progress) and e.phase == "denoise" and not e.window]
    assert steps == [0, 1, 2, 2, 3, 4]


def test_the_first_shots_are_the_same_whatever_follows(models):
    short, long = (pictures(asked(sum(shots), "still", shots=shots), models) for shots in ((4,), (4, 3)))
    assert near(short, long[:4])


def test_musevs_batches_as_shots():
    assert shot_lengths(12, 3) == (12, 12, 12)
    assert shot_lengths(12, 2, given_frames=1) == (13, 12)


CONTROL = ControlVideo(NET, VIDEO[:6], OTHER)
IN_SHOTS = {"shots": (3, 3), "num_inference_steps": 3}


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"references": (OTHER,)}),
        ({"references": (OTHER,)}, {"references": (OTHER, THIRD)}),
        ({"references": (OTHER,)}, {"references": ()}),
        ({}, {"image_prompts": (OTHER,)}),
        ({"image_prompts": (OTHER,)}, {"image_prompts": (OTHER, THIRD)}),
        ({}, {"controls": (CONTROL,)}),
        ({"controls": (CONTROL,)}, {"controls": (replace(CONTROL, still=None),)}),
        ({"controls": (CONTROL,)}, {"controls": (replace(CONTROL, scale=0.3),)}),
        ({"controls": (CONTROL,)}, {"controls": (replace(CONTROL, end=0.5),)}),
        ({"controls": (CONTROL,)}, {"controls": (replace(CONTROL, start=0.5),)}),
        ({"controls": (CONTROL,)}, {"controls": (CONTROL, replace(CONTROL, frames=VIDEO[3:]))}),
        ({"controls": (CONTROL,), "guidance_scale": 3.0}, {"guess_mode": True}),
        ({"controls": (CONTROL,)}, {"guess_mode": True}),
        ({"guidance_scale": 3.0}, {"guidance_scale_end": 1.5}),
        (
            {"guidance_scale": 3.0, "guidance_scale_end": 1.5, "num_inference_steps": 3},
            {"guidance_method": "two_stage"},
        ),
        ({"scheduler": "ddim"}, {"eta": 0.5}),
        ({}, {"w_ind_noise": 0.9}),
        ({}, {"skip_temporal": True}),
        ({"noise_type": "video_fusion"}, {"initial_common_latent": np.ones((4, 4, 4), np.float32)}),
        ({}, {"img_weight": 0.0}),
        ({}, {"need_hist_match": True}),
        ({"context_overlap": 2, "context_frames": 3}, {"context_overlap": 0}),
        ({"context_schedule": "uniform", "context_frames": 3}, {"context_stride": 2}),
        (IN_SHOTS, {"fixed_refer_image": False}),
        (IN_SHOTS, {"fixed_ip_adapter_image": False}),
        (IN_SHOTS, {"serial": SerialDenoise()}),
        (IN_SHOTS | {"serial": SerialDenoise()}, {"serial": SerialDenoise(2)}),
        (IN_SHOTS | {"serial": SerialDenoise()}, {"serial": SerialDenoise(latents=False)}),
        (IN_SHOTS, {"fix_condition_images": True}),
        (IN_SHOTS | {"fix_condition_images": True}, {"shots": (2, 4)}),
    ],
    ids=lambda change: "-".join(change) or "plain",
)
def test_every_option_has_a_say(models, base, change):
    clip = asked(6, "still", **base)
    assert not np.array_equal(pictures(clip, models), pictures(replace(clip, **change), models))


@pytest.fixture(scope="module")
def with_faces(models):
    """The same model with layers and a projection for faces of 6 numbers, and no image encoder: FaceID alone."""
    torch.manual_seed(3)
    config = dataclasses.asdict(models.unet.config) | {"need_t2i_ip_adapter_face": True}
    unet = UNet3D(UNetConfig(**config))
    state = {key: 0.2 * torch.randn_like(value) for key, value in unet.state_dict().items() if "face" in key}
    unet.load_state_dict(models.unet.state_dict() | state)
    proj = FaceProjModel(6, models.unet.config.cross_attention_dim)
    parts = {"unet": unet.eval(), "face_proj": proj.eval(), "image_encoder": None, "image_proj": None}
    return replace(models, **parts)


FACE, OTHER_FACE = RANDOM.normal(size=(2, 1, 6)).astype(np.float32)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_faces_have_a_say_alone(with_faces, guidance_scale):
    clips = [
        asked(3, "still", face_embeds=face, face_scale=scale, guidance_scale=guidance_scale)
        for face, scale in (
            (FACE, 1.0), (OTHER_FACE, 1.0), (np.concatenate([FACE, OTHER_FACE]), 1.0), (FACE, 0.5), (None, 1.0),
        )
    ]  # fmt: skip
    made = [pictures(clip, with_faces) for clip in clips]
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(made, 2))


def test_faces_may_follow_the_shot_before(with_faces):
    seen = []

    def embedder(picture):
        seen.append(picture)
        return OTHER_FACE[0]

    clip = asked(6, "still", face_embeds=FACE, shots=(3, 3), fixed_refer_face_image=False)
    with pytest.raises(EngineError, match="Nothing here finds faces"):
        next(generate(clip, with_faces))
    followed = [e.frames for e in generate(clip, with_faces, embedder) if isinstance(e, Frames)]
    followed = np.concatenate(followed)
    fixed = pictures(replace(clip, fixed_refer_face_image=True), with_faces)
    assert len(seen) == 1 and np.array_equal(seen[0], followed[2])
    assert near(followed[:3], fixed[:3]) and not np.array_equal(followed[3:], fixed[3:])


def test_colours_follow_frame_0(models):
    made = pictures(asked(6, "still", need_hist_match=True), models)
    for channel in range(3):
        ranks = [np.sort(frame[..., channel].ravel()).astype(int) for frame in made]
        assert all(np.abs(each - ranks[0]).mean() < 4 for each in ranks)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"controls": (replace(CONTROL, controlnet="canny"),)}, r"no such ControlNet \(got canny\)"),
        ({"face_embeds": np.ones((1, 512), np.float32)}, "takes no face embeddings"),
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else None,
)
def test_what_the_model_lacks_is_told_before_anything_is_made(models, change, says):
    with pytest.raises(EngineError, match=says):
        next(generate(asked(6, "still", **change), models))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shots": (3, 2)}, r"add up to the clip's \(got \(3, 2\)\). Give lengths that sum to 4"),
        ({"condition_images": (ConditionImage(OTHER, 4),)}, r"outside the clip \(got 4\). Choose -4 to 3"),
        ({"condition_images": (ConditionImage(OTHER, 3), ConditionImage(OTHER, -1))}, "two condition images"),
        ({"video": VIDEO}, r"video has another shape \(got \(9, 32, 32, 3\)\)"),
        ({"controls": (CONTROL,)}, r"frames has another shape .* Give \(4, any, any, 3\)"),
        ({"predictor": "oracle"}, "predictor isn't known"),
        ({"video_strength": 1.5}, "video_strength is out of bounds"),
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else None,
)
def test_clips_that_contradict_themselves_are_refused(change, says):
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
