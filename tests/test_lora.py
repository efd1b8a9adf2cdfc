"""LoRA: against W + weight · alpha/r · up @ down, in each layout; undone bit for bit; others' refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from musev_engine.errors import EngineError
from musev_engine.few_steps import few_step
from musev_engine.loading import load_models
from musev_engine.lora import apply_loras
from musev_engine.models.config import unet_config
from musev_engine.models.unet import UNet3D
from musev_engine.networks import MOTION_KEYS
from tests.tiny_model import SIZES, TEXT, write_tiny_model

UNET_LAYERS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.attentions.0.proj_in",  # a 1x1 convolution
    "down_blocks.0.resnets.0.conv1",  # 3x3
    "down_blocks.0.downsamplers.0.conv",
    "time_embedding.linear_1",
)
TEXT_LAYERS = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.mlp.fc1")
RANK, ALPHA = 3, 1.5


@pytest.fixture
def networks():
    torch.manual_seed(0)
    unet = UNet3D.from_config(unet_config("musev_referencenet", **SIZES))
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=TEXT,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=50,
            bos_token_id=48,
            eos_token_id=49,
        )
    )
    return unet.requires_grad_(False), text.requires_grad_(False)


def drawn(networks, seed: int = 0) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    """down and up for every layer above."""
    draw = torch.Generator().manual_seed(seed)
    halves = {}
    for network, name, layers in (
        (networks[0], "unet", UNET_LAYERS),
        (networks[1], "text_encoder", TEXT_LAYERS),
    ):
        for layer in layers:
            out, *rest = network.get_submodule(layer).weight.shape
            up = (out, RANK, *(1 for _ in rest[1:]))
            halves[name, layer] = {
                "down": torch.randn((RANK, *rest), generator=draw),
                "up": torch.randn(up, generator=draw),
            }
    return halves


def weight(networks, name: str, layer: str) -> torch.Tensor:
    return networks[0 if name == "unet" else 1].get_submodule(layer).weight


def kohya(halves) -> dict[str, torch.Tensor]:
    state = {}
    for (name, layer), half in halves.items():
        prefix = "lora_unet_" if name == "unet" else "lora_te_text_model_"
        key = prefix + layer.replace(".", "_")
        state |= {f"{key}.lora_{part}.weight": value for part, value in half.items()}
        state[f"{key}.alpha"] = torch.tensor(ALPHA)
    return state


def peft(halves) -> dict[str, torch.Tensor]:
    state = {}
    for (name, layer), half in halves.items():
        key = f"unet.{layer}" if name == "unet" else f"text_encoder.text_model.{layer}"
        state |= {f"{key}.lora_A.weight": half["down"], f"{key}.lora_B.weight": half["up"]}
    return state


def old_diffusers(halves) -> dict[str, torch.Tensor]:
    """Attention through its processor; other layers, and the text encoder's, each in their own spelling."""
    state = {}
    for (name, layer), half in halves.items():
        if name == "text_encoder":
            keys = [f"text_encoder.text_model.{layer}.lora_linear_layer.{part}.weight" for part in half]
        elif ".attn" in layer:
            block, _, projection = layer.removesuffix(".0").rpartition(".")
            keys = [f"unet.{block}.processor.{projection}_lora.{part}.weight" for part in half]
        else:
            keys = [f"unet.{layer}.lora.{part}.weight" for part in half]
        state |= dict(zip(keys, half.values(), strict=True))
    return state


@pytest.mark.parametrize(
    ("layout", "alpha"),
    [(kohya, ALPHA), (peft, RANK), (old_diffusers, RANK)],
    ids=lambda each: str(each)[:20],
)
def test_each_layout_adds_alpha_over_r_times_up_at_down(networks, tmp_path, layout, alpha):
    halves = drawn(networks)
    path = tmp_path / "lora.safetensors"
    save_file(layout(halves), path)
    before = {place: weight(networks, *place).clone() for place in halves}
    rest = {k: v.clone() for k, v in networks[0].state_dict().items()}
    applied = apply_loras(*networks, [(path, 0.7)])
    for place, half in halves.items():
        was = before[place]
        product = (half["up"].flatten(1).double() @ half["down"].flatten(1).double()).view_as(was)
        expected = was.double() + 0.7 * alpha / RANK * product
        torch.testing.assert_close(weight(networks, *place).double(), expected, atol=2e-6, rtol=1e-6)
        assert not torch.equal(weight(networks, *place), was)
    changed = {k for k, v in networks[0].state_dict().items() if not torch.equal(v, rest[k])}
    assert changed == {f"{layer}.weight" for name, layer in halves if name == "unet"}
    applied.undo()
    assert all(torch.equal(weight(networks, *place), before[place]) for place in halves)


def test_several_are_summed_in_float32_and_rounded_once(networks, tmp_path):
    unet, text = (network.half() for network in networks)
    files = []
    for seed, strength in ((1, 0.5), (2, -0.25), (3, 1.0)):
        path = tmp_path / f"{seed}.safetensors"
        save_file({key: value.half() for key, value in kohya(drawn(networks, seed)).items()}, path)
        files.append((path, strength))
    before = {place: weight(networks, *place).clone() for place in drawn(networks)}
    applied = apply_loras(unet, text, files)
    for place, was in before.items():
        total = was.double()
        for seed, strength in ((1, 0.5), (2, -0.25), (3, 1.0)):
            half = {part: value.half().double() for part, value in drawn(networks, seed)[place].items()}
            total += strength * ALPHA / RANK * (half["up"].flatten(1) @ half["down"].flatten(1)).view_as(was)
        got = weight(networks, *place)
        assert got.dtype == torch.float16
        # a half-precision number's spacing is 2^-10 of it: half of that is what rounding once may cost
        torch.testing.assert_close(got.double(), total, atol=2e-5, rtol=2**-11 * 1.01)
    applied.undo()
    assert all(torch.equal(weight(networks, *place), was) for place, was in before.items())


def test_convolutions_in_three_parts(networks, tmp_path):
    layer = "down_blocks.0.resnets.0.conv2"
    conv = networks[0].get_submodule(layer)
    out, channels, *kernel = conv.weight.shape
    down, mid, up = (
        torch.randn(RANK, channels, 1, 1),
        torch.randn(RANK, RANK, *kernel),
        torch.randn(out, RANK, 1, 1),
    )
    key, path = "lora_unet_" + layer.replace(".", "_"), tmp_path / "locon.safetensors"
    save_file({f"{key}.lora_{part}.weight": value for part, value in
               (("down", down), ("mid", mid), ("up", up))}, path)  # fmt: skip
    was, picture = conv.weight.clone(), torch.randn(1, channels, 6, 6)
    apply_loras(*networks, [(path, 1.0)])
    F = torch.nn.functional
    extra = F.conv2d(F.conv2d(F.conv2d(picture, down), mid, padding=1), up)
    torch.testing.assert_close(
        F.conv2d(picture, conv.weight, padding=1),
        F.conv2d(picture, was, padding=1) + extra,
        atol=1e-3,
        rtol=1e-4,
    )


@pytest.mark.parametrize("place", ["header", "beside"])
def test_alphas_that_stand_beside_the_weights(networks, tmp_path, place):
    halves = {key: half for key, half in drawn(networks).items() if key[0] == "unet"}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    said = {"r": RANK, "lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 12}}
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in said.items()})}
    save_file(peft(halves), path, metadata=header if place == "header" else None)
    if place == "beside":
        (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    before = {key: weight(networks, *key).clone() for key in halves}
    apply_loras(*networks, [(path, 1.0)])
    for key, half in halves.items():
        scale = (12 if key[1].endswith("attn1.to_q") else 6) / RANK
        expected = before[key] + scale * (half["up"].flatten(1) @ half["down"].flatten(1)).view_as(
            before[key]
        )
        torch.testing.assert_close(weight(networks, *key), expected, atol=1e-5, rtol=1e-5)


# ---- what isn't for this model --------------------------------------------------------------------------


def refused(networks, path) -> str:
    before = {k: v.clone() for network in networks for k, v in network.state_dict().items()}
    with pytest.raises(EngineError) as caught:
        apply_loras(*networks, [(path, 1.0)])
    assert caught.value.code == "bad_model" and caught.value.remedy
    after = {k: v for network in networks for k, v in network.state_dict().items()}
    assert all(torch.equal(after[k], before[k]) for k in before)
    return str(caught.value)


def test_a_lora_of_another_base_is_refused_with_the_keys(networks, tmp_path):
    path = tmp_path / "other.safetensors"
    deep = "lora_unet_mid_block_attentions_0_transformer_blocks_9_attn2_to_k"
    save_file(
        {f"{deep}.lora_down.weight": torch.zeros(4, 2048), f"{deep}.lora_up.weight": torch.zeros(1280, 4)},
        path,
    )
    said = refused(networks, path)
    assert "2 not known" in said and deep in said and "a LoRA for Stable Diffusion XL" in said

    wide = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {f"{wide}.lora_A.weight": torch.zeros(4, 1024), f"{wide}.lora_B.weight": torch.zeros(32, 4)}, path
    )
    said = refused(networks, path)
    assert "1 of another shape" in said and "(4, 1024)" in said and "a LoRA for Stable Diffusion 2" in said

    save_file({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 4)}, path)
    assert "a LoRA for Stable Diffusion XL" in refused(networks, path)


def test_layers_along_time_and_of_adapters_are_not_a_loras(networks, tmp_path):
    path = tmp_path / "lora.safetensors"
    for layer in networks[0].state_dict():
        name = layer.removesuffix(".weight")
        if any(part in layer for part in MOTION_KEYS) and networks[0].get_parameter(layer).ndim == 2:
            key = "lora_unet_" + name.replace(".", "_")
            out, into = networks[0].get_parameter(layer).shape
            save_file(
                {f"{key}.lora_down.weight": torch.ones(1, into), f"{key}.lora_up.weight": torch.ones(out, 1)},
                path,
            )
            assert "2 not known" in refused(networks, path)
            break


def test_halves_other_kinds_and_damage_are_told(networks, tmp_path):
    halves = kohya(drawn(networks))
    path = tmp_path / "lora.safetensors"
    up = next(key for key in halves if "lora_up" in key)
    save_file({key: value for key, value in halves.items() if key != up}, path)
    assert "1 half there" in refused(networks, path)
    save_file({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.zeros(2, 2)}, path)
    assert "another kind of change than a LoRA" in refused(networks, path)
    save_file(halves | {up.replace("lora_up.weight", "alpha"): torch.tensor(float("nan"))}, path)
    assert "is damaged" in refused(networks, path)
    save_file({"emb_params": torch.zeros(2, 768)}, path)
    assert "it seems to be a textual inversion" in refused(networks, path)
    path.write_bytes(path.read_bytes()[:20])
    assert "can't be read" in refused(networks, path)
    with pytest.raises(EngineError, match="out of bounds"):
        apply_loras(*networks, [(path, float("nan"))])


# ---- few steps, and the way through load_models ---------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "scheduler", "steps", "guidance"),
    [
        ("lcm-lora-sdv1-5/pytorch_lora_weights.safetensors", "lcm", 4, 1.0),
        ("TCD-SD15-LoRA/pytorch_lora_weights.safetensors", "tcd", 4, 1.0),
        ("Hyper-SD/Hyper-SD15-8steps-lora.safetensors", "ddim", 8, 1.0),
        ("Hyper-SD/Hyper-SD15-1step-lora.safetensors", "tcd", 1, 1.0),
        ("Hyper-SD/Hyper-SD15-12steps-CFG-lora.safetensors", "ddim", 12, 5.0),
    ],
)
def test_few_step_loras_bring_their_scheduler(tmp_path, path, scheduler, steps, guidance):
    wants = few_step([tmp_path / "style.safetensors", tmp_path / path])
    assert (wants.scheduler, wants.num_inference_steps, wants.guidance_scale) == (scheduler, steps, guidance)
    assert few_step([tmp_path / "loras" / "watercolour.safetensors"]) is None


def test_loras_through_load_models(tmp_path):
    folder = tmp_path / "tiny"
    write_tiny_model(folder)
    plain = load_models(folder)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    key, path = "lora_unet_" + layer.replace(".", "_"), tmp_path / "lcm-lora" / "weights.safetensors"
    path.parent.mkdir()
    save_file(
        {f"{key}.lora_down.weight": torch.ones(1, 32), f"{key}.lora_up.weight": torch.ones(32, 1)}, path
    )
    models = load_models(folder, loras=[(path, 0.5)])
    was, now = (each.unet.get_submodule(layer).weight for each in (plain, models))
    torch.testing.assert_close(now, was + 0.5)
    assert models.scheduler_config == plain.scheduler_config | {"_class_name": "LCMScheduler"}
    assert models.few_step.scheduler == "lcm" and plain.few_step is None
    assert models.loras == (("weights.safetensors", 0.5),) and models.sha256 != plain.sha256
