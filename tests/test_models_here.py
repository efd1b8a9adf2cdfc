"""The models folder as the server sees it: which models a request may name, and that they load."""

import shutil
import weakref

import pytest
import torch
from safetensors.torch import load_file

from blender_addon import protocol
from blender_addon.protocol import ClipRequest, Menus, Welcome
from musev_engine import loading
from musev_engine.errors import EngineError
from server import loaded, models
from tests.test_registry import put
from tests.tiny_model import TEXT, write_tiny_model

OF_MOTION = (
    "temp_",
    "refer_emb",
    "frame_embedding",
    "to_k_ip",
    "to_v_ip",
)  # in keys of the motion model alone


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty models folder."""
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    loaded.forget()
    yield tmp_path / "models"
    loaded.forget()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    (folder / "model_index.json").write_text("{}")
    return folder


def named():
    return {model.name: model for model in models.models_here() if model.source != "shipped"}


def test_a_motion_model_on_each_image_model_is_a_choice(root):
    put(root, "musev")
    assert named() == {}  # it needs an image model
    put(root, "majicmixRealv6Fp16")
    put(root, "stable-diffusion-v1-5")
    (root / "t2i" / "sd1.5" / "my own.safetensors").write_bytes(b"weights")  # no request can say this name
    (root / "t2i" / "sd1.5" / "own_v1.5.safetensors").write_bytes(b"weights")
    told = named()
    assert set(told) == {
        "musev.majicmixRealv6Fp16", "musev.stable-diffusion-v1-5", "musev.own_v1.5",
    }  # fmt: skip
    assert models.places()["musev.own_v1.5"] == models.Place(root, "musev", "own_v1.5")
    both = told["musev.stable-diffusion-v1-5"]
    assert both.licence == "non-commercial research only and CreativeML OpenRAIL-M"
    assert (
        both.installed and (both.width, both.height) == (512, 512) and both.size_bytes == 2 * len(b"weights")
    )
    for name in told:  # the wire takes every name, and all of them fit into the first word
        assert ClipRequest(mode="text", model=name).model == name
    protocol.encode(Welcome(protocol.PROTOCOL_VERSION, "x", 1, tuple(told.values())))


def test_what_a_motion_model_lacks_makes_it_not_installed(root):
    put(root, "musev_referencenet")
    put(root, "majicmixRealv6Fp16")
    assert not named()["musev_referencenet.majicmixRealv6Fp16"].installed
    put(root, "referencenet")
    put(root, "image_encoder")
    assert named()["musev_referencenet.majicmixRealv6Fp16"].installed


def test_a_folder_that_is_no_motion_model_is_none(root):
    put(root, "majicmixRealv6Fp16")
    for name in ("somebodys_own", "musev"):
        unet = root / "motion" / name / "unet"
        unet.mkdir(parents=True)
        (unet / "config.json").write_text("{}")  # and no weights
    (root / "motion" / "somebodys_own" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"weights")
    assert named() == {}


def test_a_model_of_the_models_folder_loads_by_its_name(root, tiny):
    shutil.copytree(tiny, root / "tiny")
    assert named()["tiny"].licence == "cc0-1.0"
    assert loaded.load("tiny").folders[0].is_relative_to(root)
    with pytest.raises(ValueError, match="has this name"):
        loaded.load("models")  # a folder, and no model


def test_one_model_makes_room_for_the_next(root, tiny, monkeypatch):
    for name in ("one", "other"):
        shutil.copytree(tiny, root / name)
    shutil.copytree(tiny / "controlnet", root / "controlnet" / "control_v11f1p_sd15_depth")
    monkeypatch.setitem(loaded.SD15, "cross_attention_dim", TEXT)
    first = loaded.load("one")
    loaded.with_controlnets(first, ("control_v11f1p_sd15_depth",))
    gone, alive, really = weakref.ref(first.unet), [], loading.load_models
    del first

    def load_models(*given, **named):
        alive.append(gone())
        return really(*given, **named)

    monkeypatch.setattr(loading, "load_models", load_models)
    other = loaded.load("other")
    assert alive == [None] and loaded.load("other") is other


def test_a_pair_loads_by_its_name(root, tiny):
    """In MuseV's layout: the motion model's own layers, and the image model's over the rest."""
    motion, image = root / "motion" / "musev_referencenet_pose", root / "t2i" / "sd1.5" / "painter"
    shutil.copytree(tiny / "unet", motion / "unet")
    shutil.copy(tiny / "ip_adapter_image_proj.safetensors", motion)
    shutil.copytree(tiny / "referencenet", root / "motion" / "musev_referencenet" / "referencenet")
    shutil.copytree(tiny / "image_encoder", root / "IP-Adapter" / "models" / "image_encoder")
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(tiny / part, image / part)
    own = load_file(tiny / "unet" / "diffusion_pytorch_model.safetensors")
    spatial = {key: value + 1 for key, value in own.items() if not any(part in key for part in OF_MOTION)}
    (image / "unet").mkdir()
    torch.save(spatial, image / "unet" / "diffusion_pytorch_model.bin")

    (name,) = named()
    assert name == "musev_referencenet_pose.painter" and named()[name].installed
    pair = loaded.load(name).unet.state_dict()
    assert torch.equal(pair["conv_in.bias"], spatial["conv_in.bias"].float())


def test_a_controls_net_comes_from_the_models_folder(root, tiny, monkeypatch):
    shutil.copytree(tiny, root / "tiny")
    base, depth = loaded.load("tiny"), "control_v11f1p_sd15_depth"
    with pytest.raises(EngineError, match="no such ControlNet"):  # not of Stable Diffusion 1.5's size
        loaded.with_controlnets(base, (depth,))
    monkeypatch.setitem(loaded.SD15, "cross_attention_dim", TEXT)
    with pytest.raises(EngineError) as error:
        loaded.with_controlnets(base, (depth,))
    assert error.value.code == "missing_model" and "huggingface.co/lllyasviel" in str(error.value)
    assert "Licence: " in str(error.value) and f"musev models download {depth}" in error.value.remedy
    assert models.menus().controls == ()

    shutil.copytree(tiny / "controlnet", root / "controlnet" / depth)
    both = loaded.with_controlnets(base, (depth,))
    assert set(both.controlnets) == {"control_v11p_sd15_openpose", depth} and both.unet is base.unet
    again = loaded.with_controlnets(base, (depth,))
    assert both.sha256 != base.sha256 and again.controlnets[depth] is both.controlnets[depth]
    assert models.menus().controls == ("depth", "pidi", "zoe", "leres")


def test_the_menus_name_every_working_plugin():
    menus = models.menus()
    assert menus.window_schedules[0] == "shifting" and "musev" in menus.motion_models
    assert len(menus.control_preprocessors) >= 26 and not menus.left_out
    assert protocol.decode(protocol.encode(menus)) == menus


def test_full_menus_fit_into_a_message():
    names = tuple(f"a_rather_long_plugin_name_{number}" for number in range(protocol.MAX_PLUGINS))
    protocol.encode(Menus(names, names, names, names, tuple(name * 4 for name in names)))
