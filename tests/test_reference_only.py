"""Reference-only: the image model itself looks at the references, with no ReferenceNet and no weights of its own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from musev_engine.errors import EngineError
from musev_engine.loading import load_models
from musev_engine.pipeline import generate
from tests.test_models import small_inputs, small_unet
from tests.test_pipeline import OTHER, STILL, THIRD, Samples, asked, models, near, pictures
from tests.tiny_model import SIZES, write_tiny_model

__all__ = ["models"]  # a fixture
READ = {"reference_only": True}


@pytest.fixture(scope="module")
def without(models):
    return replace(models, referencenet=None)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_references_have_a_say(without, guidance_scale):
    clip = asked(6, "still", guidance_scale=guidance_scale, references=())
    nothing, one, other, both = (
        pictures(replace(clip, references=given, **READ), without)
        for given in ((), (OTHER,), (THIRD,), (OTHER, THIRD))
    )
    assert np.array_equal(nothing, pictures(clip, without))
    made = [nothing, one, other, both]
    assert all(not np.array_equal(made[i], made[j]) for i in range(4) for j in range(i))
    again = pictures(replace(clip, references=(THIRD, OTHER), **READ), without)
    assert near(both, again)  # which of two comes first doesn't matter


def test_left_open_the_reference_is_the_still(without):
    clip = asked(4, "still", **READ)
    told = pictures(replace(clip, references=(STILL,)), without)
    assert np.array_equal(pictures(clip, without), told)
    assert not np.array_equal(pictures(replace(clip, reference_only=False), without), told)


def test_a_first_frame_that_is_made_is_the_reference_of_the_rest(without):
    clip = asked(4, "text", **READ)
    plain = pictures(replace(clip, reference_only=False), without)
    made = pictures(clip, without)
    assert near(made[0], plain[0]) and not near(made[1:], plain[1:])


def test_the_references_are_read_once(without):
    clip = asked(9, "still", references=(OTHER, THIRD))
    with Samples(without) as plain:
        pictures(clip if without.referencenet else replace(clip, references=()), without)
    with Samples(without) as samples:
        pictures(replace(clip, **READ), without)
    assert len(samples) == len(plain) + 1 and samples[0].shape[:3] == (1, 4, 2)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_windows_in_batches_see_them_too(without, guidance_scale):
    clip = asked(16, "still and poses", guidance_scale=guidance_scale, references=(OTHER, THIRD), **READ)
    batched = pictures(replace(clip, context_batch_size=3), without)
    assert np.abs(batched.astype(int) - pictures(clip, without)).max() <= 2


def test_it_takes_the_place_of_a_referencenet(models, without):
    clip = asked(4, "still", references=(OTHER,))
    assert np.array_equal(*(pictures(replace(clip, **READ), each) for each in (models, without)))
    with pytest.raises(EngineError, match="takes no references"):
        next(generate(clip, without))


@pytest.mark.parametrize("variant", ["musev", "musev_referencenet"])
def test_a_picture_that_looks_at_itself_stays_as_it_is(variant):
    """Twice the same keys weigh as much as once."""
    unet = small_unet(variant)
    inputs = small_inputs(unet, b=2, t=1)
    picture, text = inputs["sample"], inputs["text"]
    with torch.no_grad():
        seen = unet.read_pictures(picture, text)
        alone, itself = (
            unet(picture, 0, text, skip_temporal=True, self_reference=each) for each in (None, seen)
        )
        other = unet(picture + 1, 0, text, skip_temporal=True, self_reference=seen)
        unread = unet(picture + 1, 0, text, skip_temporal=True)
    assert torch.allclose(alone, itself, atol=1e-5) and not torch.allclose(other, unread, atol=1e-3)
    assert all(k.shape == v.shape and len(k) == 2 for k, v in seen.values())


def test_a_motion_model_needs_no_referencenet_for_it(tmp_path):
    """In MuseV's folder, whose motion models would want theirs."""
    tiny = tmp_path / "tiny"
    write_tiny_model(tiny)
    unet = tmp_path / "checkpoints/motion/musev_referencenet/unet"
    unet.parent.mkdir(parents=True)
    (tiny / "unet").rename(unet)
    (tiny / "ip_adapter_image_proj.safetensors").rename(unet.parent / "ip_adapter_image_proj.safetensors")
    base = tmp_path / "checkpoints/t2i/sd1.5/painter"
    base.mkdir(parents=True)
    for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
        (tiny / name).rename(base / name)
    weights = load_file(unet / "diffusion_pytorch_model.safetensors")
    spatial = {key: value for key, value in weights.items() if not _is_motion(key)}
    (base / "unet").mkdir()
    save_file(spatial, base / "unet/diffusion_pytorch_model.safetensors")
    (base / "unet/config.json").write_text(json.dumps(SIZES))
    place = {"motion": "musev_referencenet", "image_encoder": tiny / "image_encoder"}
    with pytest.raises(EngineError, match="referencenet"):
        load_models(tmp_path / "checkpoints", **place)
    models = load_models(tmp_path / "checkpoints", referencenet=False, **place)
    clip = asked(3, "still", references=(OTHER,), **READ)
    assert len(pictures(clip, models)) == 3


def _is_motion(key: str) -> bool:
    from musev_engine.networks import MOTION_KEYS

    return any(part in key for part in MOTION_KEYS)
