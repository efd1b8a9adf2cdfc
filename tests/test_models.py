"""The networks: the published keys and shapes, the original's numbers, and what training needs of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from musev_engine.models.config import SD15, VARIANTS, ConfigError, unet_config
from musev_engine.models.projections import FaceProjModel, ImageProjModel
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D, insert_condition_frames
from tests.golden_data import read_json
from tests.parity import CHECKS, cases, main

GOLDEN = Path(__file__).parent / "golden"
OPEN, FULL_SIZE = GOLDEN / "open", GOLDEN / "full_size"
NETWORK_CASES = [(kind, path) for kind, path in cases(OPEN) if kind in CHECKS]
SMALL = {
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "norm_num_groups": 8,
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
}


def small_unet(variant: str = "musev_referencenet", **changes) -> UNet3D:
    """A tiny network in which no layer is the identity: every weight is drawn from one seed."""
    torch.manual_seed(0)
    unet = UNet3D.from_config(unet_config(variant, **{**SMALL, "last_block_own_reference": True, **changes}))
    with torch.no_grad():
        for weight in unet.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.5 * weight[0].numel() ** -0.5)
    return unet.eval()


def small_inputs(unet: UNet3D, b: int = 2, t: int = 3) -> dict:
    """Every kind of input that the network's config allows."""
    draw = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    inputs = {"sample": noise(b, 4, t, 8, 8), "timestep": torch.arange(b) * 100 + 7, "text": noise(b, 5, 16),
              "condition_index": [0], "motion_speed": 8.0}  # fmt: skip
    if unet.config.ip_adapter_cross_attn:
        inputs["image_tokens"] = noise(b, 4, 16)
    if unet.config.need_t2i_ip_adapter_face:
        inputs["face_tokens"] = noise(b, 4, 16)
    if unet.config.need_refer_emb:
        maps = [noise(b, 32, 1, 8, 8), noise(b, 32, 1, 8, 8), noise(b, 32, 1, 4, 4), noise(b, 64, 1, 4, 4)]
        inputs["reference"] = (maps, noise(b, 64, 1, 4, 4))
    return inputs


@pytest.mark.parametrize("kind, directory", NETWORK_CASES, ids=[path.name for _, path in NETWORK_CASES])
def test_same_numbers_as_the_original(kind: str, directory: Path):
    with torch.no_grad():
        comparisons = CHECKS[kind](directory, OPEN)
    assert comparisons and all(each.ok for each in comparisons), comparisons


@pytest.mark.parametrize("variant", VARIANTS)
def test_unet_has_the_published_keys_and_shapes(variant: str):
    published = read_json(FULL_SIZE / f"motion__{variant}__unet.keys.json")
    for config in (read_json(FULL_SIZE / f"motion__{variant}__unet.config.json"), unet_config(variant)):
        with torch.device("meta"):
            unet = UNet3D.from_config(config)
        assert {key: list(value.shape) for key, value in unet.state_dict().items()} == published


@pytest.mark.parametrize(
    "file, build, prefix",
    [
        ("motion__musev_referencenet__referencenet", lambda: ReferenceNet.from_config(SD15), ""),
        ("motion__musev_referencenet__ip_adapter_image_proj.bin", ImageProjModel, "image_proj."),
        ("IP-Adapter__ip-adapter-faceid_sd15.bin", FaceProjModel, "image_proj."),
    ],
)
def test_companions_have_the_published_keys_and_shapes(file: str, build, prefix: str):
    published = read_json(FULL_SIZE / f"{file}.keys.json")
    with torch.device("meta"):
        network = build()
    ours = {prefix + key: list(value.shape) for key, value in network.state_dict().items()}
    assert ours == {key: shape for key, shape in published.items() if key.startswith(prefix or key)}


@pytest.mark.parametrize("network", [small_unet, lambda: ReferenceNet.from_config(SD15 | SMALL)])
def test_every_transformer_block_has_the_published_epsilons(network):
    """The golden cases are too coarse to notice this in the temporal layers."""
    blocks = [block for name, block in network().named_modules() if name.endswith("transformer_blocks.0")]
    assert len(blocks) >= 2
    assert {(b.norm1.eps, b.norm2.eps, b.norm3.eps) for b in blocks} == {(0.0, 1e-5, 0.0)}


@pytest.mark.parametrize(
    "change, named",
    [
        ({"need_flying_carpet": True}, "need_flying_carpet = True"),
        ({"act_fn": "gelu"}, "act_fn = 'gelu'"),
        ({"need_t2i_facein": True}, "need_t2i_facein = True"),
        ({"down_block_types": ["CrossAttnDownBlock3D", "SpiralDownBlock3D"]}, "'SpiralDownBlock3D'"),
        ({"block_out_channels": [32, 48]}, "48"),
        ({"block_out_channels": [32, 64, 64]}, "down_block_types"),
        ({"layers_per_block": 0}, "layers_per_block = 0"),
        ({"last_block_own_reference": False}, "last_block_own_reference"),
    ],
)
def test_a_config_that_cannot_be_built_is_named(change: dict, named: str):
    config = unet_config("musev_referencenet", **SMALL, last_block_own_reference=True)
    UNet3D.from_config(config)
    with pytest.raises(ConfigError, match=named.replace("(", r"\(")):
        UNet3D.from_config(config | change)


@pytest.mark.parametrize(
    "key", ["cross_attention_dim", "need_refer_emb", "layers_per_block", "use_anivv1_cfg"]
)
def test_a_missing_config_value_is_named(key: str):
    config = unet_config("musev")
    del config[key]
    with pytest.raises(ConfigError, match=key):
        UNet3D.from_config(config)


def test_an_unknown_variant_is_named():
    with pytest.raises(ConfigError, match="musev_opera"):
        unet_config("musev_opera")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_reaches_every_parameter(variant: str):
    unet = small_unet(variant).train()
    inputs = small_inputs(unet)
    unet(**inputs).square().mean().backward()
    dead = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead
    assert all(p.grad.isfinite().all() for p in unet.parameters())


def test_reference_net_and_projection_learn_through_the_unet():
    unet, projection = small_unet(), ImageProjModel(12, 16)
    torch.manual_seed(0)
    reference_net = ReferenceNet.from_config(SD15 | SMALL)
    inputs = small_inputs(unet)
    tokens = projection(torch.randn(2, 12))
    reference = reference_net(torch.randn(2, 4, 1, 8, 8), 0, tokens)
    unet(**{**inputs, "reference": reference, "image_tokens": tokens}).square().mean().backward()
    learners = [*reference_net.named_parameters(), *projection.named_parameters()]
    assert not [name for name, p in learners if p.grad is None or not p.grad.abs().sum() > 0]


def test_a_new_network_is_the_image_model_and_learns_to_move():
    """Layers along time start as the identity, and one step of training is enough to change that."""
    torch.manual_seed(0)
    unet = UNet3D.from_config(unet_config("musev", **SMALL))
    inputs = small_inputs(unet)
    with torch.no_grad():
        assert torch.equal(unet(**inputs), unet(**inputs, skip_temporal=True))
    optimizer = torch.optim.SGD(unet.parameters(), lr=1.0)
    unet(**inputs).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(unet(**inputs), unet(**inputs, skip_temporal=True))


def test_a_new_reference_fusion_is_the_identity():
    torch.manual_seed(0)
    unet = UNet3D.from_config(unet_config("musev_referencenet", **SMALL, last_block_own_reference=True))
    inputs = small_inputs(unet)
    with torch.no_grad():
        assert torch.equal(unet(**inputs), unet(**{**inputs, "reference": None}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_elements_do_not_touch_each_other(variant: str):
    unet = small_unet(variant)
    inputs = small_inputs(unet, b=3)
    one = {name: value for name, value in inputs.items()}
    for name in ("sample", "timestep", "text", "image_tokens", "face_tokens"):
        if name in inputs:
            one[name] = inputs[name][1:2]
    if "reference" in inputs:
        maps, mid = inputs["reference"]
        one["reference"] = ([each[1:2] for each in maps], mid[1:2])
    with torch.no_grad():
        torch.testing.assert_close(unet(**one), unet(**inputs)[1:2], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["text", "image_tokens", "face_tokens"])
def test_tokens_given_per_frame_or_once_are_the_same(name: str):
    unet = small_unet("musev_referencenet_with_faceid")
    inputs = small_inputs(unet)
    per_frame = inputs[name][:, None].repeat(1, 3, 1, 1)
    with torch.no_grad():
        expected = unet(**inputs)
        torch.testing.assert_close(unet(**{**inputs, name: per_frame}), expected, atol=2e-5, rtol=1e-4)
        per_frame[:, 2] += 1.0
        assert not torch.allclose(unet(**{**inputs, name: per_frame}), expected, atol=1e-3)


def test_a_prepared_reference_serves_every_call():
    unet = small_unet()
    inputs = small_inputs(unet)
    prepared = unet.prepare_reference(*inputs["reference"])
    with torch.no_grad():
        for timestep in (7, 900):
            inputs["timestep"] = timestep
            assert torch.equal(unet(**inputs), unet(**{**inputs, "reference": prepared}))


def test_kernels_with_and_without_gradients_agree():
    unet = small_unet()
    inputs = small_inputs(unet)
    with torch.no_grad():
        without = unet(**inputs)
    torch.testing.assert_close(unet(**inputs).detach(), without, atol=2e-5, rtol=1e-4)


def test_motion_speed_is_truncated_and_ignored_by_musev():
    with_speed, without = small_unet("musev_referencenet"), small_unet("musev")
    with torch.no_grad():
        for unet, speed, same in ((with_speed, 8.09, True), (with_speed, 9.0, False), (without, 9.0, True)):
            inputs = small_inputs(unet)
            assert torch.equal(unet(**inputs), unet(**{**inputs, "motion_speed": speed})) is same


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_stay_near_float32(dtype: torch.dtype):
    unet = small_unet()
    inputs = small_inputs(unet)
    with torch.no_grad():
        expected = unet(**inputs)
        got = unet.to(dtype)(**inputs)
    assert got.dtype == dtype
    assert (got - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_training_under_bf16_autocast():
    unet = small_unet()  # in eval mode: dropout would hide the rounding
    inputs = small_inputs(unet)
    expected = unet(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = unet(**inputs)
    got.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters())
    assert (got - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.parametrize(
    "change, named",
    [
        ({"sample": torch.zeros(2, 4, 8, 8)}, r"sample is \(2, 4, 8, 8\)"),
        ({"text": torch.zeros(2, 5, 24)}, r"text is \(2, 5, 24\)"),
        ({"condition_index": [3]}, "condition_index holds 3"),
        ({"frame_index": torch.arange(4)}, r"frame_index is \(4,\)"),
        ({"reference": ([torch.zeros(2, 32, 1, 8, 8)], torch.zeros(2, 64, 1, 4, 4))}, "1 reference maps"),
        ({"control_residuals": ([], torch.zeros(6, 64, 4, 4))}, "0 control residuals"),
        ({"face_tokens": torch.zeros(2, 4, 16)}, "need_t2i_ip_adapter_face"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change: dict, named: str):
    unet = small_unet()
    with pytest.raises(ValueError, match=named):
        unet(**{**small_inputs(unet), **change})


def test_condition_frames_are_laid_in_by_position():
    latents, clean = torch.zeros(1, 1, 3, 1, 1), torch.tensor([1.0, 2.0]).view(1, 1, 2, 1, 1)
    both = insert_condition_frames(latents, clean, torch.tensor([1, 2, 3]), torch.tensor([0, 4]))
    assert both.flatten().tolist() == [1, 0, 0, 0, 2]
    with pytest.raises(ValueError, match="each frame of the sequence once"):
        insert_condition_frames(latents, clean, torch.tensor([1, 2, 3]), torch.tensor([0, 3]))


def test_parity_command_tells_good_from_bad(tmp_path: Path, capsys):
    """A correct case passes; with one expected number moved it is out, and the command ends with 1."""
    for part in ("proj/ip_adapter_image_proj", "weights"):
        (tmp_path / part).mkdir(parents=True)
    case = tmp_path / "proj/ip_adapter_image_proj"
    for name in ("proj/ip_adapter_image_proj/case.json", "weights/ip_adapter_image_proj.safetensors"):
        (tmp_path / name).write_bytes((OPEN / name).read_bytes())
    tensors = load_file(OPEN / "proj/ip_adapter_image_proj/tensors.safetensors")
    save_file(tensors, case / "tensors.safetensors")
    assert main([str(tmp_path), "--json"]) == 0
    tensors["out.2d"][0, 0, 0] += 1e-3
    save_file(tensors, case / "tensors.safetensors")
    capsys.readouterr()
    assert main([str(tmp_path), "--only", "proj/*", "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["case"] == "proj/ip_adapter_image_proj" and not result["ok"]
    assert result["max_abs"] == pytest.approx(1e-3, rel=1e-2)
    assert main([str(tmp_path), "--only", "nothing*"]) == 2
