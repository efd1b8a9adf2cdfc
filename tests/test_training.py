"""The training code: what it learns from, how it resumes, and that what it packs loads by the public path."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

from musev_engine.clip import Clip, Frames
from musev_engine.loading import load_models
from musev_engine.pipeline import generate
from musev_engine.training import autoencoder, data, denoiser, mini, quality
from musev_engine.training.loop import Schedule, train
from musev_engine.training.words import WORDS, write_tokenizer

ABOUT = {
    "look": {"hair_style": "hat", "hair": (1.0, 0.0, 0.0), "shirt": (0.0, 1.0, 0.0), "trousers": (0.0, 0.0, 1.0),
             "bottom": "shorts"},
    "motion": "dance", "fps": 8, "wall": (0.5, 0.5, 0.5), "floor": (0.4, 0.4, 0.4),
}  # fmt: skip


@pytest.fixture
def clips(tmp_path):
    """Three clips of 1 + 4 frames at 64 px: a red square on grey, its keypoints at its corners."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for index in range(3):
        frames = np.zeros((5, 64, 64, 4), np.uint8)
        keypoints = np.ones((5, 18, 3), np.float32)
        for k in range(5):
            left = 6 + 4 * k + index
            frames[k, 20:50, left : left + 12] = (200, 30, 20, 255)
            keypoints[k, :, 0], keypoints[k, :, 1] = left, np.linspace(20, 50, 18)
        np.savez(folder / f"{index:05d}.npz", frames=frames, plate=np.full((64, 64, 3), 90, np.uint8),
                 keypoints=keypoints, about=np.array(json.dumps(ABOUT)))  # fmt: skip
    return data.load_clips(folder)


def test_no_clips_are_named_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="render_clips"):
        data.load_clips(tmp_path)


def test_a_mirrored_clip_has_mirrored_points(clips):
    plain, mirrored = data.sample(clips, 0), data.sample(clips, 0, flip=True)
    assert np.array_equal(mirrored.pictures, plain.pictures[:, :, ::-1])
    wrist_right, wrist_left = 4, 7
    assert np.allclose(mirrored.keypoints[:, wrist_right, 0], 64 - plain.keypoints[:, wrist_left, 0])
    assert np.allclose(mirrored.keypoints[:, wrist_right, 1], plain.keypoints[:, wrist_left, 1])
    assert np.array_equal(data.MIRRORED[data.MIRRORED], np.arange(18))


def test_a_clip_is_composited_over_its_plate(clips):
    picture = data.sample(clips, 0).pictures[0]
    assert tuple(picture[0, 0]) == (90, 90, 90) and tuple(picture[30, 10]) == (200, 30, 20)


def test_captions_follow_recolouring():
    assert data.caption(ABOUT) == "a person with a red hat in a green shirt and blue shorts, dance, grey wall"
    swapped = data.caption(ABOUT, (1, 0, 2))
    assert swapped == "a person with a green hat in a red shirt and blue shorts, dance, grey wall"


def test_every_word_is_one_token_and_no_prompt_is_refused(tmp_path):
    size = write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size
    for word in WORDS:
        assert len(tokenizer(word).input_ids) == 3, word  # begin, the word, end
    unknown = tokenizer("Ein Zebra, größer!").input_ids
    assert unknown[0] == size - 2 and unknown[-1] == size - 1 and max(unknown[1:-1]) < size - 2


class Cut(Exception):
    pass


def _train(folder, stop_at=None):
    torch.manual_seed(0)
    module = nn.Linear(3, 1)

    def loss_of(step, progress):
        if step == stop_at:
            raise Cut
        torch.manual_seed(step)
        return (module(torch.randn(8, 3)) - 1).square().mean()

    train(
        "test", module, loss_of, Schedule(6, 0.1, warm_up=2), folder / "test.pt", lambda path: None, every=3
    )
    return module.state_dict()


def test_a_resumed_training_ends_as_if_never_cut(tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = _train(tmp_path / "whole")
    with pytest.raises(Cut):
        _train(tmp_path / "cut", stop_at=4)
    resumed = _train(tmp_path / "cut")
    for key, value in whole.items():
        assert torch.equal(value, resumed[key])


def test_folding_the_latents_scale_changes_no_picture():
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(autoencoder.CONFIG).eval()
    pixels = torch.rand(6, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        autoencoder._standardise(vae, pixels, "cpu")
        latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        after = vae.decode(latents / vae.config.scaling_factor).sample
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_sharpening_the_decoder_leaves_the_latents_alone(clips, tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(autoencoder.CONFIG)
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    schedule = Schedule(2, 1e-3, warm_up=1)
    small = data.Clips(np.tile(clips.frames, (1, 1, 2, 2, 1)), np.tile(clips.plates, (1, 2, 2, 1)),
                       clips.keypoints, clips.about)  # fmt: skip
    autoencoder.sharpen_decoder(vae, small, tmp_path, schedule, "cpu", seed=0, batch=2)
    for key, value in vae.state_dict().items():
        moves = key.startswith(("decoder.", "post_quant_conv."))
        assert moves or torch.equal(value, before[key]), key
    assert not torch.equal(vae.decoder.conv_in.weight, before["decoder.conv_in.weight"])


def test_each_stage_learns_its_own_layers(clips, tmp_path):
    """One step of each stage moves what it should and nothing else; the model packed then loads and makes a clip."""
    vocabulary = write_tokenizer(tmp_path / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(autoencoder.CONFIG).eval()
    encoded = denoiser.encode(clips, vae, tokenizer, tmp_path, "cpu", seed=0, variants=1)
    assert encoded.latents.shape == (3, 5, 4, 8, 8)
    model = denoiser.Denoiser(vocabulary)
    scheduler = denoiser.DDIMScheduler.from_config(denoiser.SCHEDULER)
    for along_time in (False, True):
        batch = denoiser.make_batch(encoded, np.random.default_rng(0), 2, 3, along_time, encoded.ids[0])
        assert batch.latents.shape == (2, 4, 3, 8, 8) and batch.still.shape == (2, 4, 1, 8, 8)
        model.zero_grad()
        loss = denoiser.denoising_loss(model, scheduler, batch, "cpu", along_time)
        loss.backward()
        assert torch.isfinite(loss)
        moved = any(
            p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "temp_" in n
        )
        assert moved == along_time

    mini.pack(model, vae, tmp_path / "tokenizer", tmp_path / "packed", "---\nlicense: cc0-1.0\n---\n")
    models = load_models(tmp_path / "packed")
    assert models.licence == "cc0-1.0"
    assert {p.dtype for p in models.unet.parameters()} == {torch.float32}
    clip = Clip(width=64, height=64, num_frames=2, num_inference_steps=1, still=data.sample(clips, 0).pictures[0],
                poses=data.sample(clips, 0).keypoints[:2, None])  # fmt: skip
    made = np.concatenate([event.frames for event in generate(clip, models) if isinstance(event, Frames)])
    assert made.shape == (2, 64, 64, 3) and made.dtype == np.uint8
    assert np.isfinite(made).all() and made.std() > 0


def test_the_measures_know_right_from_wrong(clips):
    own = data.sample(clips, 0)
    plate, truth, mask = clips.plates[0], own.pictures[1:], own.masks[1:]
    still = np.repeat(own.pictures[:1], len(truth), axis=0)
    assert quality._iou(truth, plate, mask) == 1.0
    assert quality._iou(still, plate, mask) < 0.7
    assert quality._psnr(truth, truth) == pytest.approx(100.0)
    assert quality._psnr(still, truth, mask > 127) < quality._psnr(still, truth) < 100
    palettes = np.stack([quality._palette(own.pictures[:1], own.keypoints[:1])[0], np.zeros((8, 3))])
    assert quality._found(truth, own.keypoints[1:], palettes, 0) == 1.0
    assert quality._found(truth, own.keypoints[1:], palettes, 1) == 0.0
