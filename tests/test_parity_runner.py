"""The runner of golden directories: tied to no size, and nothing wrong passes it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import parity_links
from tests.other_golden import CASES, write_other_golden
from tests.parity import main

OPEN = Path(__file__).parent / "golden" / "open"


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("golden") / "other"
    write_other_golden(root, OPEN)
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(parity_links, "TRIES", 1)  # what is out here is far out


def run(root: Path, capsys, *options: str) -> tuple[int, str]:
    status = main([str(root), *options])
    return status, capsys.readouterr().out


def test_other_sizes_depths_and_mixtures_pass(other, capsys):
    status, told = run(other, capsys)
    assert status == 0, told
    assert f"{len(CASES)} cases, 0 out of tolerance" in told and all(name in told for name in CASES)


@pytest.mark.parametrize(
    ("case", "key", "far"),
    [
        ("pipeline/single", "call0.step1.win0.unet_out", 0.01),
        ("pipeline/pose", "call0.step1.win0.controlnet_mid", 0.01),
        ("pipeline/pose", "call0.refer_down.3", 0.01),
        ("pipeline/single", "call0.step1.noise_pred_guided", 0.01),
        ("pipeline/several", "call0.step0.latents_after", 0.01),
        ("predictor/shots", "call1.condition_latents", 0.01),
        ("predictor/colours", "call1.prompt_embeds", 0.001),
        ("predictor/colours", "out.video_frames", 0.02),
        ("predictor/followed", "call1.init_latents", 0.01),
    ],
)
def test_whatever_is_another_number_is_out(other, capsys, case, key, far):
    file = other / case / "tensors.safetensors"
    whole = file.read_bytes()
    tensors = load_file(file)
    changed = tensors[key].clone()
    changed.view(-1)[-1] += far * max(1.0, changed.abs().max().item())
    save_file(tensors | {key: changed}, file)
    try:
        status, told = run(other, capsys, "--only", case)
    finally:
        file.write_bytes(whole)
    assert status == 1 and f"    {key}: abs" in told, told


def test_the_controlnet_that_was_used_is_found_and_another_scale_is_out(other, capsys):
    path = other / "predictor/followed/case.json"
    whole = path.read_text()
    info = json.loads(whole)
    info["args"]["controlnet_conditioning_scale"] = 0.9
    path.write_text(json.dumps(info))
    try:
        status, told = run(other, capsys, "--only", "predictor/followed")
    finally:
        path.write_text(whole)
    assert status == 1 and "controlnet_mid" in told


def test_what_there_is_no_check_for_is_out_by_its_name(tmp_path, capsys):
    (tmp_path / "upscaler" / "twice").mkdir(parents=True)
    (tmp_path / "sound.json").write_text("[]")
    status, told = run(tmp_path, capsys)
    assert status == 1 and "2 cases, 2 out of tolerance" in told
    assert "upscaler/twice" in told and "there is no check for cases of sound" in told


def test_nothing_to_run_is_no_success(tmp_path, capsys):
    assert run(tmp_path, capsys)[0] == 2


def test_rounding_that_a_network_magnifies_is_told_from_a_difference():
    from tests.golden_data import Comparison
    from tests.parity_links import LAYERS, Links, rounding_aside

    def links(value: float, *results: Comparison) -> Links:
        made = Links.__new__(Links)
        made.seen, made.results = {"a": torch.tensor([value])}, list(results)
        return made

    rounded = [links(1.0 + off) for off in (1e-4, -2e-4, 0.0)]
    near, far = (Comparison("a", LAYERS * off, 1.0, False) for off in (1.9e-4, 2.1e-4))
    assert rounding_aside(links(1.0, near), rounded)[0].ok
    assert not rounding_aside(links(1.0, far), rounded)[0].ok
