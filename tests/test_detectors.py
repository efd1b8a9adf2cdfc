"""The learned detectors against `controlnet_aux`'s own, with the same random weights (theirs are hundreds of megabytes,
under licences of their own): ours read several pictures at a time, theirs one.

Where a network can't be built small, one layer stands in its place here; `python -m tests.control_table` compares with
every network at its full size.
"""

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from musev_engine import control, detectors
from musev_engine.control import CONTROLS, Cache, preprocess
from tests.test_control import pictures


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No test sees another's cached pictures or detectors."""
    monkeypatch.setattr(control, "_CACHE", Cache())
    detectors.load.cache_clear()
    yield
    detectors.load.cache_clear()


def lively(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights that don't fade away, and running statistics that aren't the neutral ones."""
    torch.manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            fan_in = max(1, value[0].numel() if value.ndim > 1 else 1)
            value.copy_(torch.randn(value.shape) * (1.5 / fan_in) ** 0.5 if value.ndim > 1 else value)
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
    return network.eval()


def quietly(make: Callable, *given: object) -> object:
    """`controlnet_aux` warns of packages that aren't needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*given)


MODULES = {
    "HEDdetector": "hed", "PidiNetDetector": "pidi", "LineartDetector": "lineart", "ZoeDetector": "zoe",
    "LineartAnimeDetector": "lineart_anime", "MidasDetector": "midas", "LeresDetector": "leres",
    "NormalBaeDetector": "normalbae", "SamDetector": "segment_anything", "MobileSamDetector": "segment_anything",
}  # fmt: skip


def theirs(name: str, network: torch.nn.Module, frames: np.ndarray) -> np.ndarray:
    """What `controlnet_aux`'s own detector makes of each frame with this network."""
    kind = CONTROLS[name].detector
    module = quietly(import_module, f"controlnet_aux.{MODULES[kind]}")
    given: list[object] = [network]
    if kind == "LineartDetector":
        given *= 2  # the fine one and the coarse one
    elif kind == "LeresDetector":
        given = [SimpleNamespace(depth_model=network, parameters=network.parameters), None]
    elif kind.endswith("SamDetector"):
        kind, given = "SamDetector", [module.SamAutomaticMaskGenerator(network)]
    detector = getattr(module, kind)(*given)
    options = {"lineart": {"coarse": True}, "hed_scribble": {"scribble": True}}.get(name, {})
    side = min(frames.shape[1:3])
    sizes = {"detect_resolution": side, "image_resolution": side, "output_type": "np"}
    return np.stack([detector(frame, **sizes, **options) for frame in frames])


@pytest.fixture
def found(monkeypatch, tmp_path):
    """A function that writes a network's weights and has them found as a control's file."""

    def put(name: str, state: dict) -> None:
        path = tmp_path / Path(CONTROLS[name].files[0]).name
        torch.save(state, path)
        there = {tuple(CONTROLS[name].files[0].split("/")): path}
        monkeypatch.setattr("musev_engine.registry.find_file", lambda *file: there[file])

    return put


SMALL = {"hed": "make_hed", "hed_scribble": "make_hed", "pidi": "make_pidi", "lineart": "make_lineart"}


@pytest.mark.parametrize("name", SMALL)
def test_edges_of_several_pictures_at_a_time_are_controlnet_auxs(name, found):
    network = lively(quietly(getattr(detectors, SMALL[name])))
    state = network.state_dict()
    if name == "pidi":  # as published: trained on several GPUs
        state = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    found(name, state)
    frames = pictures(3)
    ours, wanted = preprocess(name, frames), theirs(name, network, frames)
    assert ours.shape == frames.shape and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - wanted).max() <= 1 or (
        name == "hed_scribble" and (ours != wanted).mean() < 0.01  # a level more or less is another line
    )
    if name != "hed_scribble":  # random edges make few scribbles
        assert np.ptp(ours) > 20


class OneLayer(torch.nn.Module):
    """In place of a network; `form` brings the layer's maps into that network's form."""

    def __init__(self, channels: int, form: Callable):
        super().__init__()
        self.layer, self.form = torch.nn.Conv2d(3, channels, 5, padding=2), form

    def forward(self, pictures):
        return self.form(self.layer(pictures))

    infer = forward  # as ZoeDepth has it


LARGE = {
    "depth": (detectors.midas, 1, lambda maps: maps[:, 0]), "zoe": (detectors.zoe, 1, lambda maps: maps),
    "leres": (detectors.leres, 1, lambda maps: maps), "normal_bae": (detectors.normals, 4, lambda maps: [[maps]]),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_depths_and_normals_of_several_pictures_at_a_time_are_controlnet_auxs(name):
    function, channels, form = LARGE[name]
    network = lively(OneLayer(channels, form))
    frames = pictures(3)
    ours, wanted = function(network, frames, *frames.shape[1:3]), theirs(name, network, frames)
    assert ours.shape == wanted.shape == frames.shape and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - wanted).max() <= 1
    assert len(np.unique(ours)) > 20


def test_lines_of_anime_are_controlnet_auxs(monkeypatch):
    from controlnet_aux.lineart_anime import UnetGenerator

    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    network = lively(UnetGenerator(3, 1, 8, 4, norm_layer=norm))
    frames = pictures(2)
    ours = detectors.lineart_anime(network, frames, *frames.shape[1:3])
    assert np.abs(ours.astype(int) - theirs("lineart_anime", network, frames)).max() <= 1
    assert len(np.unique(ours)) > 20


# --- regions --------------------------------------------------------------------------------------------


def sure_of_all(sam: torch.nn.Module) -> torch.nn.Module:
    """Random weights that take every mask for a good one, with sharp edges: else nothing would be drawn."""
    torch.nn.init.constant_(sam.mask_decoder.iou_prediction_head.layers[-1].bias, 2.0)
    for network in sam.mask_decoder.output_hypernetworks_mlps:
        network.layers[-1].weight.data.mul_(1000)
    return sam.eval()


def small_sam() -> torch.nn.Module:
    """Segment Anything with 12 thousand parameters."""
    from controlnet_aux.segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    wide, cells, side = 32, 4, 64
    encoder = ImageEncoderViT(side, side // cells, embed_dim=16, depth=2, num_heads=2, out_chans=wide)
    prompts = PromptEncoder(wide, (cells, cells), (side, side), 4)
    transformer = TwoWayTransformer(1, wide, 2, 16)
    decoder = MaskDecoder(transformer_dim=wide, transformer=transformer, iou_head_hidden_dim=16)
    return Sam(encoder, prompts, decoder)


def places_of_colours(picture: np.ndarray) -> set[bytes]:
    """Where each colour of a picture is, without telling which colour."""
    colours = np.unique(picture.reshape(-1, 3), axis=0)
    return {(picture == colour).all(-1).tobytes() for colour in colours}


@pytest.mark.parametrize("name", ["sam", "mobile_sam"])
def test_things_are_controlnet_auxs_whatever_their_colours(name, found, monkeypatch):
    from controlnet_aux.segment_anything import sam_model_registry

    for variant in ("vit_h", "vit_t"):
        monkeypatch.setitem(sam_model_registry, variant, small_sam)
    network = sure_of_all(lively(small_sam()))
    found(name, network.state_dict())
    frames = pictures(1, 64, 64)
    ours, wanted = preprocess(name, frames), theirs(name, network, frames)
    assert ours.shape == frames.shape and ours.dtype == np.uint8
    for mine, other in zip(ours, wanted, strict=True):
        assert places_of_colours(mine) == places_of_colours(other) and len(places_of_colours(mine)) > 1
    again = preprocess(name, frames, cache=Cache())
    assert np.array_equal(ours, again)  # where theirs draws lots


def test_small_things_lie_over_large_ones_and_a_picture_of_nothing_is_black():
    large, small = np.zeros((2, 64, 64), bool)
    large[8:56, 8:56] = small[20:30, 20:30] = True
    things = [{"area": int(mask.sum()), "segmentation": mask} for mask in (small, large)]
    generator = SimpleNamespace(generate=lambda picture: things if picture.any() else [])
    grey, black = np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64, 3), np.uint8)
    drawn, empty = detectors.segments(generator, np.stack([grey, black]), 64, 64)
    assert not empty.any() and not drawn[:8].any()
    assert len(np.unique(drawn[large & ~small], axis=0)) == len(np.unique(drawn[small], axis=0)) == 1
    assert not np.array_equal(drawn[10, 10], drawn[25, 25])
