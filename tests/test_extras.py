"""LoRAs and their like in a clip's request: found by name, refused before anything is read, merged and taken out."""

import dataclasses
import io
import uuid

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from blender_addon.protocol import ClipRequest, Control, Done, FrameReady, LoraChoice, ProtocolError
from musev_engine import added, loading, registry
from musev_engine.added import Wanted
from musev_engine.errors import EngineError
from server import clips, extras, loaded
from tests import model_files
from tests.model_files import mini_lora, write
from tests.test_registry import put


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A models folder with two LoRAs for the embedded model and some models for others."""
    files, root = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSEV_MODELS", str(root))
        add(mini_lora(files / "ink.safetensors"), licence="CC-BY 4.0")
        add(mini_lora(files / "chalk.safetensors", seed=1), commercial=False)
        add(write(files / "sd.safetensors", model_files.lora()))
        add(write(files / "soft.safetensors", model_files.vae()))
        add(write(files / "words.safetensors", model_files.words()))
        add(write(files / "badhands.pt", {"emb_params": torch.ones(2, 768)}))
        loaded.forget()
        yield root
    loaded.forget()


def add(path, **told):
    return added.add_file(path, Wanted(path.stem, path.suffix, path.stat().st_size, **told))


def request(*loras, **fields):
    chosen = tuple(LoraChoice(name, weight) for name, weight in loras)
    base = {
        "mode": "text",
        "num_frames": 2,
        "width": 64,
        "height": 64,
        "num_inference_steps": 2,
        "loras": chosen,
    }
    return ClipRequest(**base | fields)


def made(*loras, **fields):
    """(frames, Done) of a clip of the embedded model."""
    messages = list(clips.make_clip(str(uuid.uuid4()), request(*loras, **fields), lambda _: b"", False))
    frames = [np.array(Image.open(io.BytesIO(m.data))) for m in messages if isinstance(m, FrameReady)]
    assert isinstance(messages[-1], Done)
    return np.stack(frames), messages[-1]


def refusal(wanted):
    with pytest.raises(EngineError) as caught:
        extras.find(wanted)
    return caught.value


def test_a_lora_changes_the_picture_and_its_weight_says_how_much(folder):
    plain, without = made()
    ink, with_ink = made(("ink", 1.0))
    less, _ = made(("ink", 0.25))
    against, _ = made(("ink", -0.5))
    moved = [np.abs(each.astype(int) - plain).mean() for each in (less, against, ink)]
    assert moved[0] > 0.5 and moved[2] > 2 * moved[0] and moved[1] > 0.5
    assert not np.array_equal(less, against)
    assert with_ink.model_sha256 != without.model_sha256
    assert (without.model_licence, with_ink.model_licence) == ("cc0-1.0", "cc0-1.0 and CC-BY 4.0")


def test_weight_zero_is_bit_equal_to_none_and_nothing_is_left_behind(folder):
    plain, without = made()
    made(("ink", 1.0), ("chalk", 0.7))
    zero, told = made(("ink", 0.0))
    assert np.array_equal(zero, plain)
    assert (told.model_sha256, told.model_licence) == (without.model_sha256, without.model_licence)
    again, _ = made()
    assert np.array_equal(again, plain)


def test_the_loaded_model_stays_and_is_itself_bit_for_bit_after_them(folder):
    bare = loaded.models_of(request())
    before = {key: value.clone() for key, value in bare.unet.state_dict().items()}
    both = loaded.models_of(request(("ink", 1.0), ("chalk", -0.5)))
    assert both.unet is bare.unet and both.loras == (("ink.safetensors", 1.0), ("chalk.safetensors", -0.5))
    changed = [key for key, value in both.unet.state_dict().items() if not torch.equal(value, before[key])]
    assert changed and all(".attn" in key for key in changed)
    one = loaded.models_of(request(("chalk", -0.5)))  # the other is taken out, and this one counts once
    fresh = loading.load_models("mini", loras=[(registry.find("chalk"), -0.5)])
    assert one.sha256 == fresh.sha256
    for key, value in fresh.unet.state_dict().items():
        assert torch.equal(one.unet.state_dict()[key], value), key
    loaded.models_of(request())
    assert all(torch.equal(value, before[key]) for key, value in bare.unet.state_dict().items())


def test_a_lora_that_fits_not_leaves_the_model_as_it_was(folder, tmp_path):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    state = {
        f"{key}.lora_down.weight": torch.ones(2, 7, 1, 1),
        f"{key}.lora_up.weight": torch.ones(7, 2, 1, 1),
    }
    model = add(write(tmp_path / "odd.safetensors", state))  # nothing in it tells its base
    bare = loaded.models_of(request())
    before = {name: value.clone() for name, value in bare.unet.state_dict().items()}
    loaded.models_of(request(("ink", 1.0)))
    with pytest.raises(EngineError, match="isn't for this model"):
        loaded.models_of(request(("odd", 1.0)))
    assert all(torch.equal(value, before[name]) for name, value in bare.unet.state_dict().items())
    assert loaded.models_of(request(("ink", 1.0))).loras
    registry_place = registry.find(model.id)
    registry_place.unlink()


def test_a_lora_for_another_base_is_refused_before_the_model_is_read(folder, monkeypatch):
    monkeypatch.setattr(loading, "load_models", lambda *a, **k: pytest.fail("the model was read"))
    loaded.forget()
    with pytest.raises(EngineError) as caught:
        loaded.models_of(request(("sd", 1.0)))
    assert caught.value.code == "wrong_kind" and "made for Stable Diffusion 1.5" in caught.value.message
    assert "96 wide" in caught.value.message and "Take it off" in caught.value.remedy
    put(folder, "musev")
    put(folder, "majicmixRealv6Fp16")
    (folder / "motion" / "musev" / "unet" / "config.json").write_text("{}")
    error = refusal(request(("ink", 1.0), model="musev.majicmixRealv6Fp16"))
    assert "'ink' was made for a model whose text is 96 wide" in error.message
    assert extras.find(request(("sd", 0.5), model="musev.majicmixRealv6Fp16")).loras


def test_what_is_no_lora_or_not_here_is_refused_by_name(folder):
    assert refusal(request(("nothing", 1.0))).code == "unknown_model"
    assert refusal(request(("soft", 1.0))).code == "wrong_kind"
    missing = refusal(request(("lcm-lora-sdv1-5", 1.0)))
    assert missing.code == "missing_model" and "musev models download" in missing.remedy
    assert "made for Stable Diffusion 1.5" in refusal(request(vae="soft")).message
    assert refusal(request(ip_adapter="ink")).code == "wrong_kind"


@pytest.mark.parametrize("weight", [10.5, -11.0, float("nan")])
def test_a_weight_has_bounds(weight):
    with pytest.raises(ProtocolError, match="weight"):
        LoraChoice("ink", weight)


def test_a_lora_is_chosen_once():
    with pytest.raises(ProtocolError, match="chosen twice"):
        request(("ink", 1.0), ("ink", 0.5))


def test_words_with_learned_vectors_are_found_in_the_prompts(folder):
    assert extras.words_in(request(negative_prompt="(BadHands:1.2), words")) == ["badhands", "words"]
    assert extras.words_in(request(prompt="swords, badhandsome")) == []
    # this model's text is narrower: there they are plain words
    assert loaded._embeddings(request(prompt="badhands")) == ()
    assert made(prompt="badhands")[1].model_licence == "cc0-1.0"


def test_another_vae_is_used(folder, tmp_path):
    own = loading.load_models("mini").vae.state_dict()
    state = {key: value + 0.01 for key, value in own.items()}
    path = tmp_path / "vae.safetensors"
    save_file(state, path)
    one, other = made()[0], None
    models = loaded.load("mini", path)
    assert torch.equal(models.vae.state_dict()["decoder.conv_in.bias"], state["decoder.conv_in.bias"])
    other = loaded.load("mini")
    assert torch.equal(other.vae.state_dict()["decoder.conv_in.bias"], own["decoder.conv_in.bias"])
    assert np.array_equal(made()[0], one)


def test_a_clip_says_which_models_it_needs(folder):
    base = request(("ink", 1.0), ("chalk", 0.0), negative_prompt="badhands", num_frames=3)
    assert extras.needed(base) == {"mini", "ink", "chalk", "badhands"}
    pair = dataclasses.replace(
        base, loras=(), negative_prompt="", model="musev_referencenet.my.own", vae="soft",
        controls=(Control("depth", ("ab" * 32,)),),
    )  # fmt: skip
    assert extras.needed(pair) == {
        "musev_referencenet", "my.own", "referencenet", "image_encoder", "sd-vae-ft-mse", "clip-tokenizer", "soft",
        "control_v11f1p_sd15_depth", "annotator-midas",
    }  # fmt: skip
