"""Checkpoints: what fits is loaded in either layout, what doesn't is named."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from musev_engine import loading, registry
from musev_engine.errors import EngineError
from musev_engine.loading import POSE_CONTROLNET, load_models
from musev_engine.networks import MOTION_KEYS
from tests.ldm_layout import unet_name
from tests.tiny_model import write_tiny_model

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "tiny")


def change(path, edit) -> None:
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def refused(folder) -> EngineError:
    with pytest.raises(EngineError) as caught:
        load_models(folder)
    assert caught.value.code == "bad_model" and caught.value.remedy
    return caught.value


def test_half_precision_files_are_float32_on_the_cpu(original):
    models = load_models(original)
    networks = (models.unet, models.vae, models.text_encoder, models.referencenet)
    for network in (*networks, *models.controlnets.values(), models.image_encoder, models.image_proj):
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
        assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    stored = load_file(original / UNET)
    assert all(torch.equal(value, stored[key].float()) for key, value in models.unet.state_dict().items())
    asked_for = load_models(original, dtype=torch.bfloat16)
    assert {weight.dtype for weight in asked_for.unet.parameters()} == {torch.bfloat16}
    assert models.scheduler_config["prediction_type"] == "v_prediction" and models.licence == "cc0-1.0"


def test_one_hash_names_all_the_weights(original, folder):
    assert load_models(original).sha256 == load_models(folder).sha256
    change(folder / UNET, lambda weights: weights["conv_in.bias"].add_(1))
    assert load_models(original).sha256 != load_models(folder).sha256


def test_missing_extra_and_misshaped_keys_are_named(folder):
    def edit(weights):
        del weights["conv_in.bias"]
        weights["conv_inn.bias"] = torch.zeros(3)
        weights["conv_out.bias"] = torch.zeros(5)

    change(folder / UNET, edit)
    said = str(refused(folder))
    for part in (
        "1 missing: conv_in.bias",
        "1 not known: conv_inn.bias",
        "1 of another shape: conv_out.bias",
    ):
        assert part in said


@pytest.mark.parametrize("part", ["vae", "controlnet", "referencenet", "text_encoder", "image_encoder"])
def test_every_part_is_checked(folder, part):
    (path,) = (folder / part).glob("*.safetensors")
    first = sorted(load_file(path))[0]
    change(path, lambda weights: weights.pop(first))
    assert f"1 missing: {first}" in str(refused(folder)) and part in str(refused(folder))


def test_many_keys_are_counted(folder):
    change(folder / UNET, lambda weights: [weights.pop(key) for key in list(weights) if "temp_convs" in key])
    said = str(refused(folder))
    assert "missing: " in said and ", …" in said and len(said) < 800


def test_files_that_are_cut_off_or_not_there_are_told(folder):
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:1000])
    assert "can't be read" in str(refused(folder))
    path.unlink()
    assert "diffusion_pytorch_model.safetensors" in str(refused(folder))
    shutil.rmtree(folder / "vae")
    assert "lacks a folder (got vae)" in str(refused(folder))


def test_a_config_for_other_weights_is_told(folder):
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"need_transformer_in": True}))
    assert "transformer_in" in str(refused(folder))
    path.write_text(json.dumps(config | {"block_out_channels": [33, 33]}))
    assert "can't be built" in str(refused(folder))
    path.write_text("{")
    assert "can't be read" in str(refused(folder))


def test_bin_files_are_read_as_tensors_and_nothing_else(folder, tmp_path):
    path = folder / UNET
    weights = load_file(path)
    path.unlink()
    torch.save(weights, path.with_suffix(".bin"))
    assert load_models(folder).unet.conv_in.bias.shape == (32,)

    class Worm:
        def __reduce__(self):
            return (print, ("should not run",))

    with path.with_suffix(".bin").open("wb") as file:
        pickle.dump({"conv_in.bias": Worm()}, file, protocol=2)
    assert "can't be read" in str(refused(folder))


def test_a_name_is_never_a_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(EngineError, match=r"No model has this name \(got tiny\)"):
        load_models("tiny")
    monkeypatch.setattr(loading, "SHIPPED", folder.parent)
    assert load_models("tiny").name == "tiny"
    with pytest.raises(EngineError, match=r"\(got ..\)"):
        load_models("..")


def test_the_published_layout_takes_the_image_models_weights_over_the_motion_models(folder, tmp_path):
    hub = tmp_path / "checkpoints"
    pose, image = hub / "motion" / "musev_referencenet_pose", hub / "t2i" / "sd1.5" / "painter"
    shutil.copytree(folder / "unet", pose / "unet")
    weights = load_file(folder / "ip_adapter_image_proj.safetensors")
    bare = {key.removeprefix("image_proj."): value for key, value in weights.items()}
    torch.save({"image_proj": bare}, pose / "ip_adapter_image_proj.bin")
    shutil.copytree(folder / "referencenet", hub / "motion" / "musev_referencenet" / "referencenet")
    (hub / "motion" / "musev_referencenet" / "referencenet" / "config.json").write_text("{}")
    shutil.copytree(folder / "image_encoder", hub / "IP-Adapter" / "models" / "image_encoder")
    shutil.copytree(folder / "vae", hub / "vae" / "sd-vae-ft-mse")
    shutil.copytree(folder / "controlnet", hub / "controlnet" / "control_v11p_sd15_openpose")
    for part in ("text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(folder / part, image / part)
    (image / "unet").mkdir()
    own = load_file(folder / UNET)
    spatial = {key: value + 1 for key, value in own.items() if not any(part in key for part in MOTION_KEYS)}
    torch.save(spatial, image / "unet" / "diffusion_pytorch_model.bin")

    models = load_models(hub)
    loaded = models.unet.state_dict()
    assert all(torch.equal(loaded[key], value.float()) for key, value in spatial.items())
    assert all(torch.equal(loaded[key], own[key].float()) for key in own.keys() - spatial.keys())
    assert (
        list(models.controlnets) == [POSE_CONTROLNET]
        and models.image_proj is not None
        and models.referencenet is not None
    )
    with pytest.raises(EngineError, match="There are: painter"):
        load_models(hub, t2i="sketcher")

    # the same image model as one file beside it: its tokenizer is then the folder's, its scheduler SD1.5's
    text = load_file(folder / "text_encoder" / "model.safetensors")
    whole = {f"model.diffusion_model.{unet_name(key, spatial)}": value for key, value in spatial.items()}
    whole |= {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}
    save_file(whole, hub / "t2i" / "sketcher.safetensors")
    sketcher = load_models(hub, t2i="sketcher")
    assert all(torch.equal(value, loaded[key]) for key, value in sketcher.unet.state_dict().items())
    assert sketcher.scheduler_config["_class_name"] == "PNDMScheduler"
    with pytest.raises(EngineError, match="Choose t2i among painter, sketcher"):
        load_models(hub)
    with pytest.raises(EngineError, match=r"no such motion model \(got musev_of_mine\)"):
        load_models(hub, motion="musev_of_mine")


def test_old_vae_files_are_read(folder):
    def edit(weights):
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            for key in [key for key in weights if f".{new}." in key]:
                value = weights.pop(key)
                weights[key.replace(new, old)] = value[..., None, None].clone() if value.ndim == 2 else value

    (path,) = (folder / "vae").glob("*.safetensors")
    before = load_models(folder).vae.state_dict()
    change(path, edit)
    after = load_models(folder).vae.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_controlnets_are_loaded_by_name_or_folder_and_only_when_asked_for(folder, tmp_path):
    nets = tmp_path / "nets"
    shutil.copytree(folder / "controlnet", nets / "control_v11f1p_sd15_depth")
    shutil.rmtree(folder / "controlnet")
    shutil.copytree(nets, folder / "controlnet")
    assert load_models(folder).controlnets == {}
    by_name = load_models(folder, controlnets=["control_v11f1p_sd15_depth"]).controlnets
    by_folder = load_models(folder, controlnets=[nets / "control_v11f1p_sd15_depth"]).controlnets
    assert list(by_name) == list(by_folder) == ["control_v11f1p_sd15_depth"]
    with pytest.raises(EngineError, match="Did you mean control_v11f1p_sd15_depth"):
        load_models(folder, controlnets=["control_v11f1p_sd15_deep"])


def test_known_models_are_found_where_they_lie_or_told_how_to_get(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "mine"))
    with pytest.raises(EngineError, match="control_v11p_sd15_canny") as caught:
        load_models(folder, controlnets=["control_v11p_sd15_canny"])
    assert caught.value.code == "missing_model"
    place = tmp_path / "mine" / registry.model("control_v11p_sd15_canny").folder
    shutil.copytree(folder / "controlnet", place)
    assert list(load_models(folder, controlnets=["control_v11p_sd15_canny"]).controlnets) == [
        "control_v11p_sd15_canny"
    ]
