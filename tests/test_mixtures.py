"""Whatever is asked for together: exactly the frames that were asked come out, given ones at their places."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from musev_engine import frames
from musev_engine.clip import Clip, ConditionImage, ControlVideo, FirstFrame, SerialDenoise
from musev_engine.sampling import GUIDANCE_METHODS, NOISE_TYPES
from musev_engine.schedulers import SCHEDULERS
from musev_engine.windows import OVERLAP_WEIGHTS
from tests.test_pipeline import GIVEN, NET, SIZE, asked, models, near, pictures, seen_by_vae, with_faces
from tests.test_pose_guider import guided

__all__ = ["guided", "models", "with_faces"]  # fixtures


def mixture(seed: int) -> Clip:
    """A clip with everything that can be chosen drawn from a seed."""
    draw, pixels = random.Random(seed), np.random.default_rng(seed)
    n, given = draw.choice([1, 2, 5, 9, 14]), draw.choice(list(GIVEN))

    def sometimes() -> bool:
        return draw.random() < 0.4

    def picture() -> np.ndarray:
        return pixels.integers(0, 256, (draw.choice([32, 40]), draw.choice([32, 48]), 3), dtype=np.uint8)

    def video() -> np.ndarray:
        return pixels.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)

    def stills() -> tuple[np.ndarray, ...] | None:
        return tuple(picture() for _ in range(draw.randint(0, 3))) if sometimes() else None

    context_frames = draw.choice([1, 3, 6, 20])
    places = draw.sample(range(given == "still", n), draw.randint(0, min(n - (given == "still"), 3)))
    kept = draw.randint(0, len(places))  # of them are kept frames
    cuts = sorted(draw.sample(range(1, n), min(n - 1, draw.randint(0, 3))))
    changes = {
        "num_inference_steps": draw.choice([1, 2, 4]), "scheduler": draw.choice(["model", *SCHEDULERS]),
        "eta": draw.choice([0.0, 0.5]), "guidance_scale": draw.choice([1.0, 3.0]),
        "guidance_scale_end": draw.choice([None, 2.0]), "guidance_method": draw.choice(list(GUIDANCE_METHODS)),
        "condition_images": tuple(ConditionImage(picture(), i - n * sometimes()) for i in places[kept:]),
        "kept_frames": tuple(ConditionImage(picture(), i) for i in places[:kept]),
        "references": stills(), "reference_only": sometimes(), "image_prompts": stills(),
        "controls": tuple(
            ControlVideo(NET, video(), None, draw.random(), draw.choice([0, 0.4]), draw.choice([0.6, 1]))
            for _ in range(draw.choice([0, 0, 1, 2]))
        ),
        "guess_mode": sometimes(), "video": video() if sometimes() else None,
        "video_strength": draw.choice([0, 0.3, 1]), "shots": tuple(np.diff([0, *cuts, n]).tolist()) if cuts else (),
        "n_vision_condition": draw.choice([0, 1, 2, 5]), "fix_condition_images": sometimes(),
        "fixed_refer_image": sometimes(), "fixed_ip_adapter_image": sometimes(),
        "serial": SerialDenoise(draw.choice([1, 3]), sometimes(), sometimes()) if sometimes() else None,
        "context_frames": context_frames, "context_overlap": draw.randint(0, context_frames - 1),
        "context_stride": draw.choice([1, 2]), "context_batch_size": draw.choice([1, 2, 5]),
        "context_schedule": draw.choice(["uniform", "uniform_v2", "shifting"]),
        "overlap_weights": draw.choice(list(OVERLAP_WEIGHTS)), "noise_type": draw.choice(NOISE_TYPES),
        "w_ind_noise": draw.random(), "img_weight": draw.choice([0, 0.001, 0.5]), "skip_temporal": sometimes(),
        "first_frame": FirstFrame(
            sometimes(), draw.choice([0, 0.5, 1]), draw.choice([None, 3]), draw.choice([None, 1.0, 4.0]),
            with_references=sometimes(), with_image_prompts=sometimes(),
        ),
        "prompt": draw.choice(["", "a (red:1.2) dancer", "a red dancer " * 90]),
        "compat": draw.choice(["", "", "musev"]),
    }  # fmt: skip
    return asked(n, given, **changes)


@pytest.mark.parametrize("seed", range(24))
def test_any_mixture_makes_the_clip_that_was_asked_for(models, guided, with_faces, seed):
    clip = mixture(seed)
    model = (models, guided, with_faces)[seed % 3]
    if model is with_faces:
        clip = replace(clip, face_embeds=np.ones((1 + seed % 2, 6), np.float32), image_prompts=None)
    made = pictures(clip, model)
    assert made.shape == (clip.num_frames, SIZE, SIZE, 3)
    for place, picture in clip.pinned.items():
        if clip.compat or (place == 0 and clip.first_frame.redraw):
            continue  # cut otherwise, or drawn anew
        itself = seen_by_vae(frames.fit_still(picture, SIZE, SIZE)[None], model)[0]
        assert near(made[place], itself), place


@pytest.mark.parametrize("change", [{"reference_only": True}, {}])
def test_half_precision_takes_them_too(guided, change):
    parts = ("unet", "vae", "text_encoder", "referencenet", "image_encoder", "image_proj")
    half = {part: copy.deepcopy(getattr(guided, part)).bfloat16() for part in parts}
    half["controlnets"] = {name: copy.deepcopy(net).bfloat16() for name, net in guided.controlnets.items()}
    with torch.no_grad():
        whole, rough = (pictures(asked(4, **change), each) for each in (guided, replace(guided, **half)))
    assert np.abs(whole.astype(int) - rough).mean() < 12
