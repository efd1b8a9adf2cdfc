"""Models added by a file: told apart by what is in them, put in their place whole or not at all."""

import json
import os
import random
import struct

import pytest
import torch

from musev_engine import added, kinds, registry
from musev_engine.added import Wanted
from musev_engine.errors import EngineError
from tests import model_files
from tests.model_files import KINDS, safetensors_bytes, tensors, write


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty models folder."""
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def add(path, id="style", **told):
    return added.add_file(path, Wanted(id, path.suffix, path.stat().st_size, **told))


def left(root):
    """Every file in the models folder."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def refusal(path, id="style", **told):
    with pytest.raises(EngineError) as caught:
        add(path, id, **told)
    assert caught.value.remedy and str(path) not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("role", list(KINDS))
def test_each_kind_takes_its_place_and_is_known_from_then_on(root, tmp_path, role, suffix):
    path = write(tmp_path / f"in{suffix}", KINDS[role]())
    id = "my_canny" if role == "controlnet" else "style-1.5"
    model = add(path, id, licence="CC-BY 4.0", commercial=True, about="Mine")
    assert (model.id, model.role, model.licence, model.commercial) == (id, role, "CC-BY 4.0", True)
    assert registry.find(id).read_bytes() == path.read_bytes() and registry.installed(id)
    assert left(root) == sorted([f".added/{id}.json", f"{added.ROOMS[role]}/{id}{suffix}"])
    assert registry.verify(id) == {f"{id}{suffix}": "ok"}
    with registry.find(id).open("r+b") as file:
        file.write(b"damaged")
    assert "instead of" in registry.verify(id)[f"{id}{suffix}"]


def test_a_licence_that_nobody_told_is_unknown(root, tmp_path):
    model = add(write(tmp_path / "a.safetensors", model_files.lora()))
    assert model.licence is None and "licence not known" in model.terms


@pytest.mark.parametrize(
    ("state", "seems"),
    [
        (model_files.lora(2048), "a LoRA for Stable Diffusion XL"),
        (model_files.lora(1024), "a LoRA for Stable Diffusion 2"),
        (tensors("lora_te1_text_model.lora_down.weight"), "a LoRA for Stable Diffusion XL"),
        (tensors("lora_unet_mid.hada_w1_a"), "another kind of change than a plain LoRA"),
        (model_files.words(1024), "a textual inversion for Stable Diffusion 2"),
        (tensors("clip_g", "clip_l"), "Stable Diffusion XL"),
        (model_files.base(1024), "Stable Diffusion 2"),
        (tensors("conditioner.embedders.0.weight"), "Stable Diffusion XL"),
        (tensors("double_blocks.0.img_attn.qkv.weight"), "Flux"),
        (tensors("motion_modules.0.weight"), "an AnimateDiff model"),
        (model_files.adapter(2048), "an IP-Adapter for Stable Diffusion XL"),
        (tensors("image_proj.proj.0.weight"), "reads faces"),
        (model_files.controlnet(2048), "a ControlNet for Stable Diffusion XL"),
        ({"conv_in.weight": torch.zeros(4, 9, 3, 3)}, "an inpainting model"),
        (tensors("some.weight", "thing.bias"), "some.weight"),
    ],
)
def test_what_this_engine_cannot_use_is_named(root, tmp_path, state, seems):
    error = refusal(write(tmp_path / "a.safetensors", state))
    assert error.code == "wrong_kind" and seems in error.value and "Needed is" in error.remedy
    assert left(root) == []


def test_one_kind_is_not_added_as_another(root, tmp_path):
    error = refusal(write(tmp_path / "a.safetensors", model_files.vae()), role="lora")
    assert error.code == "wrong_kind" and "as a LoRA" in error.message and "a VAE" in error.value
    assert "Add it as a VAE" in error.remedy


def test_a_controlnet_says_whose_place_it_takes(root, tmp_path):
    path = write(tmp_path / "a.safetensors", model_files.controlnet())
    error = refusal(path, "mine")
    assert error.code == "wrong_kind" and "control_v11p_sd15_canny" in error.remedy
    assert refusal(path, "mine", role="controlnet", stands_for="musev").code == "unknown_model"
    depth = "control_v11f1p_sd15_depth"
    assert not registry.has_net(depth)
    add(path, "mine", stands_for=depth)
    assert registry.has_net(depth) and registry.find_net(depth) == registry.find("mine")
    with pytest.raises(EngineError, match="musev models download control_v11p_sd15_canny"):
        registry.find_net("control_v11p_sd15_canny")


@pytest.mark.parametrize("id", ["", "..", ".a", "a/b", "a\\b", "a b", "a" * 41, "ä", "a\n", "nul", "Com1.x"])
def test_a_name_that_is_none_is_refused(root, tmp_path, id):
    path = write(tmp_path / "a.safetensors", model_files.lora())
    assert refusal(path, id).code == "bad_name" and left(root) == []


def test_a_name_that_is_taken_is_refused_and_nothing_is_overwritten(root, tmp_path):
    path = write(tmp_path / "a.safetensors", model_files.lora())
    for taken in ("mini", "MusEV", "control_v11p_sd15_canny"):
        assert refusal(path, taken).code == "name_taken"
    write(root / "lora" / "byhand.safetensors", model_files.lora())
    assert "byhand.safetensors lies in lora" in refusal(path, "ByHand").message
    add(path)
    before = registry.find("style").stat()
    assert refusal(write(tmp_path / "b.safetensors", model_files.vae())).code == "name_taken"
    assert registry.find("style").stat() == before and not list((root / registry.INCOMING).iterdir())


def test_a_full_disk_is_told_before_anything_is_copied(root, tmp_path, monkeypatch):
    path = write(tmp_path / "a.safetensors", model_files.lora())
    root.mkdir()
    free = os.statvfs(root)
    monkeypatch.setattr("musev_engine.downloads.SPARE_BYTES", free.f_bavail * free.f_frsize)
    error = refusal(path)
    assert error.code == "disk_full" and "bytes too few" in error.value and left(root) == []


def test_what_did_not_come_whole_is_thrown_away(root, tmp_path):
    path = write(tmp_path / "a.safetensors", model_files.lora())
    target = added.begin(Wanted("style", ".safetensors", path.stat().st_size))
    target.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match="should have"):
        added.settle("style")
    assert left(root) == [] and "style" not in registry.listing()


def test_what_was_begun_long_ago_makes_room(root, tmp_path):
    path = write(tmp_path / "a.safetensors", model_files.lora())
    for id in ("old", "new"):
        added.begin(Wanted(id, ".safetensors", 1000)).write_bytes(b"some")
    old = root / registry.INCOMING / "old.added"
    for told in (*old.iterdir(), old):
        os.utime(told, (0, 0))
    add(path)
    assert [folder.name for folder in (root / registry.INCOMING).iterdir()] == ["new.added"]


def test_program_code_is_never_run(root, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "boom"),))

    path = tmp_path / "a.ckpt"
    torch.save({"emb_params": Bomb()}, path)
    error = refusal(path)
    assert error.code == "bad_model" and "program code" in error.message
    assert not (tmp_path / "boom").exists() and left(root) == []


def test_a_removed_one_is_forgotten(root, tmp_path):
    from musev_engine import downloads

    path = write(tmp_path / "a.safetensors", model_files.lora())
    downloads.remove(add(path))
    assert left(root) == [] and registry.added_files() == {}
    add(path)


def test_what_is_told_of_one_may_be_damaged(root):
    (root / registry.ADDED).mkdir(parents=True)
    (root / registry.ADDED / "style.json").write_text('{"role": "lora"}')
    with pytest.raises(EngineError, match="Remove it"):
        registry.listing()


# --- headers ------------------------------------------------------------------------------------------

ROW = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"[]", b""),
        (b"{", b""),
        (b"\xff\xfe", b""),
        (b"[" * 100_000, b""),
        ({"a": 1}, b""),
        ({"a": ROW | {"dtype": "F33"}}, bytes(16)),
        ({"a": ROW | {"shape": [2, 3]}}, bytes(16)),
        ({"a": ROW | {"shape": [-2, -2]}}, bytes(16)),
        ({"a": ROW | {"shape": [2.0, 2]}}, bytes(16)),
        ({"a": ROW | {"shape": [2**40, 2**40, 2**40]}}, bytes(16)),
        ({"a": ROW | {"data_offsets": [4, 20]}}, bytes(20)),
        ({"a": ROW, "b": ROW}, bytes(32)),
        ({"a": ROW}, bytes(15)),
        ({"a": ROW}, bytes(17)),
        ({"__metadata__": {"a": 1}, "a": ROW}, bytes(16)),
        ({"__metadata__": "a", "a": ROW}, bytes(16)),
    ],
)
def test_a_header_that_lies_is_refused(root, tmp_path, header, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(header, data))
    assert refusal(path).code == "bad_model" and left(root) == []


def test_a_header_is_bounded_before_it_is_read(tmp_path):
    for length in (0, 1, 2**63, kinds.MAX_HEADER_BYTES + 1):
        with pytest.raises(EngineError) as caught:
            kinds.header_size(struct.pack("<Q", length), 2**40)
        assert caught.value.code == "bad_model"
    with pytest.raises(EngineError, match="no safetensors"):
        kinds.header_size(b"abc", 3)


def test_a_damaged_header_is_refused_or_means_the_same(tmp_path):
    whole = write(tmp_path / "a.safetensors", model_files.lora()).read_bytes()
    draw = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(kinds.header_size(whole, len(whole)))] = draw.randrange(256)
        try:
            header = kinds.read_header(bytes(damaged), len(damaged))
        except EngineError as error:
            assert error.code == "bad_model"
        else:
            assert len(header.tensors) == 3


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({}, ""),
        ({"modelspec.trigger_phrase": " by mira \n sol"}, "by mira   sol"),
        ({"ss_tag_frequency": json.dumps({"1_a": {"ink": 3, "dog": 9}, "2_b": {"ink": 8}})}, "ink, dog"),
        ({"ss_tag_frequency": "{"}, ""),
        ({"ss_tag_frequency": "[]"}, ""),
        ({"ss_tag_frequency": '{"a": {"b": "many"}}'}, ""),
        ({"modelspec.trigger_phrase": "x" * 1000}, "x" * 200),
    ],
)
def test_a_loras_words_are_told(root, tmp_path, texts, told):
    assert add(write(tmp_path / "a.safetensors", model_files.lora(), texts)).trigger == told


def test_an_embeddings_word_is_told(root, tmp_path):
    assert add(write(tmp_path / "a.safetensors", model_files.words()), "badhands").trigger == "badhands"
    assert add(write(tmp_path / "b.safetensors", {"<cat>": torch.zeros(768)}), "cat").trigger == "<cat>"


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/My Style (v1.2).safetensors", "My_Style_v1.2"), ("ä.ckpt", "model"), ("x" * 50, "x" * 40)],
)
def test_a_files_own_name_becomes_one_that_can_be_said(path, name):
    assert added.name_of(path) == name
