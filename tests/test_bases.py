"""Stable Diffusion 1.5 models under the motion layers: in every layout the same weights, and nothing else passes."""

import json
import pickle
import shutil
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from musev_engine import checkpoints
from musev_engine.checkpoints import Stored, networks_in
from musev_engine.errors import EngineError
from musev_engine.layouts import musev_parts
from musev_engine.loading import load_models
from musev_engine.networks import MOTION_KEYS, load_controlnet, load_text_encoder, load_unet, load_vae
from tests.golden_data import read_json
from tests.ldm_layout import unet_name, vae_name
from tests.tiny_model import SCHEDULER, TEXT, write_tiny_model

FULL_SIZE = Path(__file__).parent / "golden" / "full_size"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def painter(tiny, tmp_path_factory) -> Path:
    """An image model of its own, as a diffusers folder; its sizes follow SD1.5's conventions."""
    folder = tmp_path_factory.mktemp("t2i") / "painter"
    torch.manual_seed(5)
    words = len(CLIPTokenizer.from_pretrained(tiny / "tokenizer"))
    vae = {
        "block_out_channels": [32, 32], "norm_num_groups": 32, "latent_channels": 4, "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    }  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=TEXT, intermediate_size=24, num_hidden_layers=2, num_attention_heads=1, vocab_size=words,
        bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=words - 1, hidden_act="quick_gelu",
    )  # fmt: skip
    own = load_file(tiny / "unet" / WEIGHTS)
    unet = {key: torch.randn(w.shape) for key, w in own.items() if not any(m in key for m in MOTION_KEYS)}
    for name, state, config, file in (
        ("unet", unet, {}, WEIGHTS),
        ("vae", AutoencoderKL.from_config(vae).state_dict(), vae, WEIGHTS),
        ("text_encoder", CLIPTextModel(text).state_dict(), text.to_dict(), "model.safetensors"),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file({key: value.half() for key, value in state.items()}, folder / name / file)
    (folder / "tokenizer").symlink_to(tiny / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return folder


def whole(painter: Path) -> dict[str, torch.Tensor]:
    """The same model's weights under the original's names, with what such files hold besides."""
    unet, vae = load_file(painter / "unet" / WEIGHTS), load_file(painter / "vae" / WEIGHTS)
    text = load_file(painter / "text_encoder" / "model.safetensors")
    state = {f"model.diffusion_model.{unet_name(key, unet)}": value for key, value in unet.items()}
    for key, value in vae.items():
        old = vae_name(key, levels=2)
        wide = ".attn_1." in old and value.ndim == 2
        state[f"first_stage_model.{old}"] = value[..., None, None].clone() if wide else value
    state |= {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["alphas_cumprod"] = torch.ones(1000)
    state["model_ema.diffusion_modelinput_blocks00weight"] = torch.zeros(2)
    return state


def same(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("layout", ["safetensors", "ckpt", "without text_model"])
def test_a_single_file_gives_what_its_folder_gives(tiny, painter, tmp_path, layout):
    state, path = whole(painter), tmp_path / "painter.safetensors"
    if layout == "without text_model":
        state = {
            key.replace("transformer.text_model.", "transformer."): value for key, value in state.items()
        }
    if layout == "ckpt":
        path = tmp_path / "painter.ckpt"
        torch.save({"state_dict": state, "epoch": 3, "global_step": 840000}, path)
    else:
        save_file(state, path)
    expected, models = load_models(tiny, t2i=painter), load_models(tiny, t2i=path)
    for part in ("unet", "vae", "text_encoder"):
        assert same(getattr(models, part), getattr(expected, part)), part
    ids = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        assert torch.equal(models.text_encoder(ids)[0], expected.text_encoder(ids)[0])
        picture = torch.randn(1, 3, 16, 16)
        assert torch.equal(models.vae(picture).sample, expected.vae(picture).sample)
    assert models.scheduler_config == SCHEDULER  # the model's own: the file says nothing of it
    assert path in models.folders


def test_the_base_is_under_the_motion_layers_and_these_stay(tiny, painter):
    alone, grafted = (load_models(tiny, **kwargs).unet.state_dict() for kwargs in ({}, {"t2i": painter}))
    stored = load_file(painter / "unet" / WEIGHTS)
    for key, value in grafted.items():
        assert torch.equal(value, stored[key].float() if key in stored else alone[key]), key


def test_text_and_pictures_are_encoded_as_transformers_does(tiny):
    models = load_models(tiny)
    ids, picture = torch.tensor([[1, 2, 3]]), torch.randn(1, 3, 32, 32)
    text = type(models.text_encoder).from_pretrained(tiny / "text_encoder", dtype=torch.float32)
    image = type(models.image_encoder).from_pretrained(tiny / "image_encoder", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(models.text_encoder(ids)[0], text(ids)[0])
        assert torch.equal(models.image_encoder(picture).image_embeds, image(picture).image_embeds)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_another_vae_comes_as_a_folder_or_a_file(tiny, painter, tmp_path, prefix):
    path = tmp_path / "vae-ft-mse-840000-ema-pruned.ckpt"
    state = {vae_name(k, 2): v.float() for k, v in load_file(painter / "vae" / WEIGHTS).items()}
    extra = {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}
    torch.save({"state_dict": {prefix + key: value for key, value in state.items()} | extra}, path)
    by_file, by_folder = (load_models(tiny, vae=each).vae for each in (path, painter / "vae"))
    assert same(by_file, by_folder) and by_file.config.block_out_channels == [32, 32]


def test_controlnets_come_as_single_files_too(tiny, tmp_path):
    folder = tiny / "controlnet"
    state = load_file(folder / WEIGHTS)
    own = {"controlnet_cond_embedding.conv_in": "input_hint_block.0", "controlnet_mid_block": "middle_block_out.0",
           "controlnet_cond_embedding.conv_out": "input_hint_block.14"}  # fmt: skip

    def old(key: str) -> str:
        layer, _, end = key.rpartition(".")
        if layer in own:
            return f"{own[layer]}.{end}"
        if layer.startswith("controlnet_cond_embedding.blocks."):
            return f"input_hint_block.{2 * int(layer.split('.')[-1]) + 2}.{end}"
        if layer.startswith("controlnet_down_blocks."):
            return f"zero_convs.{layer.split('.')[-1]}.0.{end}"
        return unet_name(key, state)

    torch.save({f"control_model.{old(key)}": value for key, value in state.items()}, tmp_path / "net.pth")
    save_file(state, tmp_path / "net.safetensors")
    expected = load_controlnet(folder, device="cpu", dtype=torch.float32)
    for path in (tmp_path / "net.pth", tmp_path / "net.safetensors"):
        (net,) = load_models(tiny, controlnets=[path]).controlnets.values()
        assert same(net, expected)
        assert net.config.conditioning_embedding_out_channels == [8, 8, 8, 8]


def test_a_full_size_single_file_gives_exactly_the_published_keys():
    shapes = read_json(FULL_SIZE / "sd15_unet2d.keys.json")
    path = Path("v1-5.safetensors")
    stored = {
        (name := f"model.diffusion_model.{unet_name(key, shapes)}"): Stored(path, name, tuple(shape))
        for key, shape in shapes.items()
    }
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    for key, value in vae.state_dict().items():
        name = f"first_stage_model.{vae_name(key, 4)}"
        shape = (*value.shape, 1, 1) if ".attn_1." in name and value.ndim == 2 else value.shape
        stored[name] = Stored(path, name, tuple(shape))
    networks = networks_in(stored, path)
    assert {key: list(w.shape) for key, w in networks["unet"].items()} == shapes
    for key, w in networks["unet"].items():
        assert w.key == f"model.diffusion_model.{unet_name(key, shapes)}"
    assert {k: w.shape for k, w in networks["vae"].items()} == {
        k: v.shape for k, v in vae.state_dict().items()
    }


# ---- what doesn't pass ----------------------------------------------------------------------------------


def refused(tiny: Path, **kwargs) -> str:
    with pytest.raises(EngineError) as caught:
        load_models(tiny, **kwargs)
    assert caught.value.code == "bad_model" and caught.value.remedy
    return str(caught.value)


LDM = "model.diffusion_model.input_blocks"
OTHERS = {
    "Stable Diffusion 2": {f"{LDM}.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)},
    "Stable Diffusion XL": {
        f"{LDM}.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
    },
    "an inpainting model": {f"{LDM}.0.0.weight": (320, 9, 3, 3)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight": (64, 64)},
    "Flux": {"double_blocks.0.img_attn.norm.key_norm.scale": (128,)},
    "a LoRA": {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 32)},
    "a LoRA for Stable Diffusion XL": {
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (4, 32)
    },
    "a textual inversion": {"emb_params": (3, 768)},
    "an IP-Adapter": {"image_proj.latents": (1, 16, 768), "ip_adapter.1.to_k_ip.weight": (320, 768)},
    "an AnimateDiff model": {
        "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": (320, 320)
    },
    "a ControlNet": {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_architecture_is_told_by_its_name(tiny, painter, tmp_path, name):
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(shape, dtype=torch.half) for key, shape in OTHERS[name].items()}, path)
    (tmp_path / "tokenizer").symlink_to(painter / "tokenizer")
    assert f"it seems to be {name})" in refused(tiny, t2i=path)


def test_a_base_in_a_folder_is_checked_key_by_key(tiny, painter, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        (base / part).symlink_to(painter / part)
    (base / "unet").mkdir()
    state = load_file(painter / "unet" / WEIGHTS)
    state["conv_inn.bias"] = state.pop("conv_in.bias")
    save_file(state, base / "unet" / WEIGHTS)
    said = refused(tiny, t2i=base)
    assert "1 missing: conv_in.bias" in said and "1 not known: conv_inn.bias" in said and str(base) in said
    (base / "unet" / WEIGHTS).unlink()
    assert "holds no weights" in refused(tiny, t2i=base)


def test_keys_a_single_file_has_too_many_or_too_few_are_named(tiny, painter, tmp_path):
    state, path = whole(painter), tmp_path / "painter.safetensors"
    state["model.diffusion_model.input_blocks.0.1.weight"] = torch.zeros(3)
    save_file(state, path)
    assert "(got input_blocks.0.1.weight)" in refused(tiny, t2i=path)
    del state["model.diffusion_model.input_blocks.0.1.weight"]
    del state["model.diffusion_model.out.2.bias"]
    save_file(state, path)
    assert "1 missing: conv_out.bias" in refused(tiny, t2i=path)


def test_pickles_with_code_are_refused_and_nothing_of_them_runs(tiny, painter, tmp_path, capsys):
    class Worm:
        def __reduce__(self):
            return (print, ("should not run",))

    path = tmp_path / "worm.ckpt"
    torch.save({"state_dict": whole(painter), "callbacks": Worm()}, path)
    said = refused(tiny, t2i=path)
    assert "holds program code, which is never run (got" in said and "print" in said
    path.write_bytes(pickle.dumps(Worm()))
    assert "can't be read" in refused(tiny, t2i=path)
    assert "should not run" not in capsys.readouterr().out


def test_files_cut_off_compressed_or_of_another_kind_are_told(tiny, painter, tmp_path):
    path, whole_file = tmp_path / "model.ckpt", tmp_path / "whole.ckpt"
    torch.save(whole(painter), whole_file)
    path.write_bytes(whole_file.read_bytes()[:-5000])
    assert "can't be read (got it is cut off" in refused(tiny, t2i=path)
    with zipfile.ZipFile(whole_file) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    assert "compressed" in refused(tiny, t2i=path)
    save_file(whole(painter), tmp_path / "model.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "model.safetensors").read_bytes()[:-1])
    assert "can't be read" in refused(tiny, t2i=cut)
    picture = tmp_path / "model.png"
    picture.write_bytes(b"\x89PNG")
    assert "none of .safetensors" in refused(tiny, t2i=picture)
    assert "isn't there" in refused(tiny, t2i=tmp_path / "gone.safetensors")


def test_a_single_file_finds_its_words_or_tells_how_to_get_them(tiny, painter, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    hub = tmp_path / "checkpoints"
    (hub / "motion" / "musev" / "unet").mkdir(parents=True)
    config = json.loads((tiny / "unet" / "config.json").read_text())
    (hub / "motion" / "musev" / "unet" / "config.json").write_text(json.dumps(config))
    (hub / "t2i").mkdir()
    save_file(whole(painter), hub / "t2i" / "painter.safetensors")
    with pytest.raises(
        EngineError, match=r"musev models download clip-tokenizer \(MIT; commercial use"
    ) as told:
        load_models(hub, motion="musev")
    assert told.value.code == "missing_model"
    shutil.copytree(tiny / "tokenizer", tmp_path / "models" / "tokenizer")
    with pytest.raises(EngineError, match="motion/musev/unet"):  # which holds nothing; the words were found
        load_models(hub, motion="musev")
    plain = {"trained_projection": False, "referencenet": False}
    parts, _ = musev_parts(hub, "musev", None, **plain)
    assert parts["tokenizer"] == tmp_path / "models" / "tokenizer"
    shutil.copytree(tiny / "tokenizer", hub / "t2i" / "tokenizer")
    parts, _ = musev_parts(hub, "musev", None, **plain)
    assert parts["tokenizer"] == hub / "t2i" / "tokenizer"  # what lies beside the file goes before


def test_a_vae_file_that_is_none_is_told(tiny, tmp_path):
    path = tmp_path / "vae.safetensors"
    save_file({"emb_params": torch.zeros(2, 768)}, path)
    assert "holds no vae (got it seems to be a textual inversion)" in refused(tiny, vae=path)
    with pytest.raises(EngineError, match="holds no weights"):
        load_vae(tmp_path, device="cpu", dtype=torch.float32)


def test_weights_in_several_files_are_one_model(tiny, tmp_path):
    state = load_file(tiny / "vae" / WEIGHTS)
    (tmp_path / "config.json").write_text((tiny / "vae" / "config.json").read_text())
    parts = {f"part-{k}.safetensors": dict(list(state.items())[k::2]) for k in (0, 1)}
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    index = tmp_path / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in parts.items() for key in part}}))
    assert same(load_models(tiny, vae=tmp_path).vae, load_models(tiny).vae)
    index.write_text(json.dumps({"weight_map": {"conv_in.bias": "../elsewhere.safetensors"}}))
    assert "names a file elsewhere" in refused(tiny, vae=tmp_path)


def test_what_a_base_replaces_is_never_read(tiny, painter, monkeypatch):
    """Loading costs one read of each tensor that ends up in the network, and none of the others."""
    taken = []
    tensors = checkpoints._tensors

    @contextmanager
    def counting(path):
        with tensors(path) as get:
            yield lambda key: taken.append((path.parent.parent.name, key)) or get(key)

    monkeypatch.setattr(checkpoints, "_tensors", counting)
    config = json.loads((tiny / "unet" / "config.json").read_text())
    unet = load_unet(tiny / "unet", config, base=painter / "unet", device="cpu", dtype=torch.float16)
    wanted = {("tiny" if any(m in key for m in MOTION_KEYS) else "painter", key) for key in unet.state_dict()}
    assert set(taken) == wanted and len(taken) == len(wanted)
    pages = {weight.untyped_storage().data_ptr() for weight in unet.parameters()}
    assert len(pages) == len(list(unet.parameters()))  # each in memory of its own, none a view of a file


def test_files_are_read_in_portions(tiny, monkeypatch):
    """The smallest portion, one tensor, gives the same network."""
    expected = load_vae(tiny / "vae", device="cpu", dtype=torch.float32)
    monkeypatch.setattr(checkpoints, "PORTION", 0)
    assert same(load_vae(tiny / "vae", device="cpu", dtype=torch.float32), expected)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_whatever_key_is_missing_or_misshapen_it_is_one_clear_error(painter, tmp_path, part):
    """Every key of a single file in turn, though some are what the network's size is read from."""
    load = {"vae": load_vae, "text_encoder": load_text_encoder}[part]
    prefix = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model."}[part]
    state = {key: value for key, value in whole(painter).items() if key.startswith(prefix)}
    path = tmp_path / "part.safetensors"
    save_file(state, path)
    load(path, device="cpu", dtype=torch.float32)
    needed = [key for key in state if not key.endswith("position_ids")]
    for key in needed[::5]:
        for changed in ({}, {key: torch.zeros(3)}):
            save_file({k: v for k, v in state.items() if k != key} | changed, path)
            with pytest.raises(EngineError) as caught:
                load(path, device="cpu", dtype=torch.float32)
            assert caught.value.code == "bad_model" and len(str(caught.value)) < 1500, key
