"""PoseGuider: the published keys, where its features go, and clips that follow it in the pose ControlNet's place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from musev_engine.errors import EngineError
from musev_engine.loading import POSE_CONTROLNET, load_models
from musev_engine.models.pose_guider import PoseGuider
from tests.test_pipeline import asked, models, pictures, poses
from tests.tiny_model import write_tiny_model

__all__ = ["models"]  # a fixture


def guider(channels: int = 32) -> PoseGuider:
    torch.manual_seed(5)
    made = PoseGuider(channels, (4, 8, 8, 16))
    torch.nn.init.normal_(made.conv_out.weight, std=0.5)
    return made


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """The tiny model with a PoseGuider from a file as it is published: a bare state dict."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    torch.save(guider().state_dict(), folder / "pose_guider.pth")
    return load_models(folder, pose_guider=folder / "pose_guider.pth")


def test_it_has_the_published_keys_and_sizes():
    made = {key: tuple(value.shape) for key, value in PoseGuider().state_dict().items()}
    convolutions = {  # of Moore-AnimateAnyone's pose_guider.pth
        "conv_in": (16, 3), "blocks.0": (16, 16), "blocks.1": (32, 16), "blocks.2": (32, 32),
        "blocks.3": (96, 32), "blocks.4": (96, 96), "blocks.5": (256, 96), "conv_out": (320, 256),
    }  # fmt: skip
    assert made == {f"{name}.weight": (*size, 3, 3) for name, size in convolutions.items()} | {
        f"{name}.bias": size[:1] for name, size in convolutions.items()
    }
    shape = PoseGuider()(torch.rand(2, 3, 64, 96)).shape
    assert shape == (2, 320, 8, 12)
    assert not PoseGuider()(torch.rand(1, 3, 64, 64)).any()  # untrained, it has no say


def test_it_stands_in_the_pose_controlnets_place(guided, models):
    assert isinstance(guided.controlnets[POSE_CONTROLNET], PoseGuider) and len(guided.controlnets) == 1
    clip = asked(4)
    made = pictures(clip, guided)
    assert not np.array_equal(made, pictures(clip, models))
    for change in ({"poses": poses(4, move=3.0)}, {"control_scale": 0.3}, {"control_scale": 0.0}):
        assert not np.array_equal(made, pictures(replace(clip, **change), guided))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_windows_in_batches_follow_it_too(guided, guidance_scale):
    clip = asked(16, guidance_scale=guidance_scale)
    batched = pictures(replace(clip, context_batch_size=3), guided)
    assert np.abs(batched.astype(int) - pictures(clip, guided)).max() <= 2


def test_each_frame_gets_its_own_drawing(guided):
    """The features of every window are those of its frames' drawings, the still's before them, for both halves."""
    added, net = [], guided.controlnets[POSE_CONTROLNET]
    hooks = [
        guided.unet.register_forward_pre_hook(
            lambda unet, inputs, named: added.append((inputs[0].shape, named["pose_embedding"])), with_kwargs=True
        )
    ]  # fmt: skip
    pictures(asked(4, guidance_scale=3.0, control_scale=0.5), guided)
    hooks[0].remove()
    for (rows, _, frames, height, width), features in added:
        assert features.shape == (rows * frames, 32, height, width)
        one, other = features.unflatten(0, (rows, frames))
        assert torch.equal(one, other)
        blank = 0.5 * net(torch.zeros(1, 3, 32, 32))[0]  # the pose of the still isn't known
        assert torch.allclose(one[0], blank, atol=1e-6)
        assert not any(torch.allclose(each, blank, atol=1e-5) for each in one[1:])


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (lambda: guider(64).state_dict(), r"for another UNet \(got 64 channels\). Take one of 32"),
        (lambda: {"proj.weight": torch.ones(2, 2)}, r"isn't a PoseGuider \(got proj.weight\)"),
        (lambda: {k: v for k, v in guider().state_dict().items() if k != "blocks.3.bias"}, "blocks.3.bias"),
        (lambda: {k: v for k, v in guider().state_dict().items() if "blocks.5" not in k}, "doesn't say how large"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(tmp_path, state, says):
    write_tiny_model(tmp_path / "tiny")
    torch.save(state(), tmp_path / "pose_guider.pth")
    with pytest.raises(EngineError, match=says):
        load_models(tmp_path / "tiny", pose_guider=tmp_path / "pose_guider.pth")
