"""Textual inversion, IP-Adapters and FaceID: files in their published layouts through the public path."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from musev_engine.conditions import image_tokens
from musev_engine.errors import EngineError
from musev_engine.faces import InsightFaces, read_faces
from musev_engine.loading import load_models
from musev_engine.models.config import unet_config
from musev_engine.models.projections import FaceProjModel, ImageProjModel, Resampler
from musev_engine.models.unet import UNet3D
from musev_engine.networks import cross_attentions
from musev_engine.prompts import encode_prompts
from tests.golden_data import read_json
from tests.tiny_model import IMAGE, TEXT, write_tiny_model

FULL_SIZE = Path(__file__).parent / "golden" / "full_size"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return folder


def refused(tiny: Path, **kwargs) -> str:
    with pytest.raises(EngineError) as caught:
        load_models(tiny, **kwargs)
    assert caught.value.code == "bad_model" and caught.value.remedy
    return str(caught.value)


# ---- textual inversion ----------------------------------------------------------------------------------


def written(folder: Path) -> tuple[list[Path], dict[str, torch.Tensor]]:
    """The same kind of thing in each published form, and every word's vectors."""
    vectors = {word: torch.randn(n, TEXT) for word, n in
               (("badhandv4", 6), ("EasyNegativeV2", 3), ("<toy-cat>", 1), ("<many>", 2))}  # fmt: skip
    a1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.nn.Parameter(vectors["badhandv4"])},
             "name": "badhandv4", "step": 12000, "sd_checkpoint": None}  # fmt: skip
    torch.save(a1111, folder / "badhandv4.pt")
    save_file({"emb_params": vectors["EasyNegativeV2"]}, folder / "EasyNegativeV2.safetensors")
    torch.save({"<toy-cat>": vectors["<toy-cat>"][0]}, folder / "learned_embeds.bin")
    save_file({"<many>": vectors["<many>"]}, folder / "learned_embeds.safetensors")
    names = ("badhandv4.pt", "EasyNegativeV2.safetensors", "learned_embeds.bin", "learned_embeds.safetensors")
    return [folder / name for name in names], vectors


def test_a_prompt_gets_all_vectors_of_every_embedding(tiny, tmp_path):
    torch.manual_seed(0)
    files, vectors = written(tmp_path)
    plain, models = load_models(tiny), load_models(tiny, embeddings=files)
    assert models.embeddings == tuple(vectors)
    prompt = "a badhandv4, dance, EasyNegativeV2 <toy-cat> (<many>:1.3) easynegativev2"

    # by hand: the same rows in place of the words
    rows, weights = [], []
    for text, weight in (("a", 1), ("badhandv4", 1), (", dance,", 1), ("EasyNegativeV2", 1), ("<toy-cat>", 1),
                         ("<many>", 1.3), ("EasyNegativeV2", 1)):  # fmt: skip
        if text in vectors:
            found = vectors[text]
        else:
            ids = plain.tokenizer(text, add_special_tokens=False).input_ids
            found = plain.text_encoder.get_input_embeddings()(torch.tensor(ids)).detach()
        rows += list(found)
        weights += [float(weight)] * len(found)
    table = plain.text_encoder.get_input_embeddings().weight
    begin, end = plain.tokenizer.bos_token_id, plain.tokenizer.eos_token_id
    sequence = torch.stack([table[begin], *rows, *[table[end]] * (76 - len(rows))])
    by_hand = load_models(tiny)
    by_hand.text_encoder.get_input_embeddings().weight = torch.nn.Parameter(sequence, requires_grad=False)
    states = by_hand.text_encoder(torch.arange(77)[None]).last_hidden_state[0]
    weighted = states * torch.tensor([1.0, *weights, *[1.0] * (76 - len(rows))])[:, None]
    expected = weighted * (states.double().mean() / weighted.double().mean()).float()
    got = encode_prompts(models.text_encoder, models.tokenizer, [prompt])[0]
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)

    ordinary = ["a dance", "badhandv", "toy-cat"]
    before, after = (encode_prompts(m.text_encoder, m.tokenizer, ordinary) for m in (plain, models))
    assert torch.equal(before, after)


def test_embeddings_that_do_not_fit_are_told(tiny, tmp_path):
    path = tmp_path / "wide.safetensors"
    save_file({"emb_params": torch.zeros(2, 1024)}, path)
    assert "as for Stable Diffusion 2" in refused(tiny, embeddings=[path])
    save_file({"clip_g": torch.zeros(2, 1280), "clip_l": torch.zeros(2, 768)}, path)
    assert "no textual inversion" in refused(tiny, embeddings=[path])
    save_file({"emb_params": torch.full((1, TEXT), float("nan"))}, path)
    assert "is damaged" in refused(tiny, embeddings=[path])
    save_file({"emb_params": torch.zeros(76, TEXT)}, path)
    assert "1 to 75 vectors" in refused(tiny, embeddings=[path])
    word = tmp_path / "dance.safetensors"
    save_file({"emb_params": torch.ones(2, TEXT)}, word)
    assert "is taken (got dance)" in refused(tiny, embeddings=[word])
    twice = tmp_path / "other" / "new.safetensors"
    twice.parent.mkdir()
    save_file({"emb_params": torch.ones(2, TEXT)}, twice)
    assert "is taken (got new)" in refused(tiny, embeddings=[twice, twice])


# ---- IP-Adapter -----------------------------------------------------------------------------------------


def layers(tiny: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """An IP-Adapter's keys and values for the tiny UNet."""
    draw = torch.Generator().manual_seed(seed)
    numbers = {number: name for number, name in cross_attentions(load_models(tiny).unet).items()}
    return {
        f"{number}.to_{kind}_ip.weight": torch.randn(32, TEXT, generator=draw)
        for number in numbers
        for kind in "kv"
    }


def saved(path: Path, projection: torch.nn.Module, numbered: dict[str, torch.Tensor]) -> Path:
    torch.manual_seed(1)
    state = {key: torch.randn(value.shape) for key, value in projection.state_dict().items()}
    if path.suffix == ".bin":
        torch.save({"image_proj": state, "ip_adapter": numbered}, path)
    else:
        flat = {f"image_proj.{k}": v for k, v in state.items()} | {
            f"ip_adapter.{k}": v for k, v in numbered.items()
        }
        save_file(flat, path)
    return path


def plus() -> Resampler:
    return Resampler(embedding_dim=16, token_dim=TEXT, tokens=5, width=24, layers=2, inner=128, hidden=48)


def test_cross_attentions_are_numbered_as_published():
    mapping = read_json(FULL_SIZE / "ip_adapter_faceid_key_mapping.json")
    with torch.device("meta"):
        unet = UNet3D.from_config(unet_config("musev_referencenet_with_faceid"))
    ours = {
        f"ip_adapter.{number}.to_{kind}_ip.weight": f"{name}.ip_adapter_face_to_{kind}_ip.weight"
        for number, name in cross_attentions(unet).items()
        for kind in "kv"
    }
    assert ours == mapping


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("kind", ["original", "plus"])
def test_an_ip_adapters_file_fills_the_unet_and_projects(tiny, tmp_path, suffix, kind):
    numbered = layers(tiny)
    projection = ImageProjModel(IMAGE, TEXT, 4) if kind == "original" else plus()
    path = saved(tmp_path / f"ip-adapter{suffix}", projection, numbered)
    models = load_models(tiny, ip_adapter=path)
    state, names = models.unet.state_dict(), cross_attentions(models.unet)
    for key, value in numbered.items():
        number, layer, end = key.split(".")
        assert torch.equal(state[f"{names[int(number)]}.{layer}.{end}"], value)
    rest = load_models(tiny).unet.state_dict()
    assert all(torch.equal(state[key], rest[key]) for key in rest if "_ip." not in key)
    stills = np.random.default_rng(0).integers(0, 255, (2, 40, 36, 3), np.uint8)
    tokens = image_tokens(models.image_encoder, models.image_proj, stills, guided=True)
    assert tokens.shape == (2, 2 * (4 if kind == "original" else 5), TEXT)
    assert not torch.allclose(tokens[0], tokens[1])


def test_the_motion_model_without_image_attention_takes_an_ip_adapter(tiny, tmp_path):
    """A UNet whose own files have no keys and values for images."""
    unet = tmp_path / "tiny" / "unet"
    for part in tiny.iterdir():
        (tmp_path / "tiny").mkdir(exist_ok=True)
        if part.name != "unet":
            (tmp_path / "tiny" / part.name).symlink_to(part)
    unet.mkdir()
    file = "diffusion_pytorch_model.safetensors"
    state = {k: v for k, v in load_file(tiny / "unet" / file).items() if "_ip." not in k}
    save_file(state, unet / file)
    config = json.loads((tiny / "unet" / "config.json").read_text()) | {"ip_adapter_cross_attn": False}
    (unet / "config.json").write_text(json.dumps(config))
    path = saved(tmp_path / "ip-adapter.bin", ImageProjModel(IMAGE, TEXT, 4), numbered := layers(tiny))
    models = load_models(tmp_path / "tiny", ip_adapter=path)
    name = cross_attentions(models.unet)[1]
    assert torch.equal(models.unet.state_dict()[f"{name}.to_k_ip.weight"], numbered["1.to_k_ip.weight"])
    assert models.unet.config.ip_adapter_cross_attn


def test_a_faceid_file_fills_its_own_keys_and_its_lora_is_left_out(tiny, tmp_path):
    numbered = layers(tiny)
    lora = {"0.to_q_lora.down.weight": torch.zeros(4, 32), "0.to_q_lora.up.weight": torch.zeros(32, 4)}
    path = saved(tmp_path / "faceid.bin", FaceProjModel(20, TEXT, 4), numbered | lora)
    models = load_models(tiny, face_id=path)
    assert models.face_proj.embedding_dim == 20 and models.unet.config.need_t2i_ip_adapter_face
    state = models.unet.state_dict()
    for number, name in cross_attentions(models.unet).items():
        for kind in "kv":
            stored = numbered[f"{number}.to_{kind}_ip.weight"]
            assert torch.equal(state[f"{name}.ip_adapter_face_to_{kind}_ip.weight"], stored)
    assert models.image_proj is not None  # the trained image prompt stays


def test_adapters_in_the_wrong_place_or_for_others_are_told(tiny, tmp_path):
    numbered = layers(tiny)
    face = saved(tmp_path / "face.bin", FaceProjModel(20, TEXT, 4), numbered)
    image = saved(tmp_path / "image.bin", ImageProjModel(IMAGE, TEXT, 4), numbered)
    assert "reads faces, not images" in refused(tiny, ip_adapter=face)
    assert "reads images, not faces" in refused(tiny, face_id=image)
    few = {key: value for key, value in numbered.items() if not key.startswith("1.")}
    cut = saved(tmp_path / "cut.bin", ImageProjModel(IMAGE, TEXT, 4), few)
    assert "2 missing: 1.to_k_ip.weight, 1.to_v_ip.weight" in refused(tiny, ip_adapter=cut)
    wide = {key: torch.zeros(32, 2048) for key in numbered}
    other = saved(tmp_path / "xl.bin", ImageProjModel(IMAGE, TEXT, 4), wide)
    assert "of another shape" in refused(tiny, ip_adapter=other)
    blind = saved(tmp_path / "blind.bin", ImageProjModel(IMAGE + 1, TEXT, 4), numbered)
    assert f"vision encoder that gives (got {IMAGE})" in refused(tiny, ip_adapter=blind)


def test_the_resampler_has_the_published_keys_and_shapes():
    """ip-adapter-plus_sd15, as https://github.com/tencent-ailab/IP-Adapter builds it."""
    width, hidden, heads = 768, 3072, 12 * 64
    expected = {"latents": (1, 16, width), "proj_in.weight": (width, 1280), "proj_in.bias": (width,),
                "proj_out.weight": (768, width), "proj_out.bias": (768,),
                "norm_out.weight": (768,), "norm_out.bias": (768,)}  # fmt: skip
    for k in range(4):
        expected |= {f"layers.{k}.0.norm{n}.{end}": (width,) for n in (1, 2) for end in ("weight", "bias")}
        expected |= {f"layers.{k}.0.to_q.weight": (heads, width), f"layers.{k}.0.to_kv.weight": (2 * heads, width),
                     f"layers.{k}.0.to_out.weight": (width, heads)}  # fmt: skip
        expected |= {f"layers.{k}.1.0.weight": (width,), f"layers.{k}.1.0.bias": (width,),
                     f"layers.{k}.1.1.weight": (hidden, width), f"layers.{k}.1.3.weight": (width, hidden)}  # fmt: skip
    with torch.device("meta"):
        built = Resampler.of_sizes(expected)
    assert {key: tuple(value.shape) for key, value in built.state_dict().items()} == expected


def test_the_resampler_is_a_perceiver():
    """Against the published formula, written out: scores of q·s and k·s with s = d^(-1/4), head by head."""
    torch.manual_seed(0)
    net = plus().eval()
    patches = torch.randn(2, 7, 16)
    with torch.no_grad():
        x, tokens = net.proj_in(patches), net.latents.repeat(2, 1, 1)
        for attention, feed_forward in net.layers:
            seen, asks = attention.norm1(x), attention.norm2(tokens)
            q = attention.to_q(asks)
            k, v = attention.to_kv(torch.cat([seen, asks], dim=1)).split(128, dim=-1)
            heads = []
            for start in (0, 64):
                part = slice(start, start + 64)
                scores = (q[..., part] * 64**-0.25) @ (k[..., part] * 64**-0.25).transpose(1, 2)
                heads.append(scores.softmax(-1) @ v[..., part])
            tokens = tokens + attention.to_out(torch.cat(heads, dim=-1))
            norm, first, _, last = feed_forward
            tokens = tokens + last(F.gelu(first(norm(tokens))))
        expected = net.norm_out(net.proj_out(tokens))
        torch.testing.assert_close(net(patches), expected, atol=1e-5, rtol=1e-5)


# ---- faces ----------------------------------------------------------------------------------------------


def test_faces_from_files(tmp_path):
    face = np.random.default_rng(0).normal(size=512).astype(np.float32)
    np.save(tmp_path / "face.npy", face)
    np.save(tmp_path / "faces.npy", np.stack([face, face]))
    save_file({"face": torch.from_numpy(face)}, tmp_path / "face.safetensors")
    torch.save(torch.from_numpy(face), tmp_path / "face.pt")
    for name, n in (("face.npy", 1), ("faces.npy", 2), ("face.safetensors", 1), ("face.pt", 1)):
        assert np.array_equal(read_faces(tmp_path / name), np.stack([face] * n)), name


def test_files_that_hold_no_face_are_told(tmp_path):
    path = tmp_path / "face.npy"
    for array, says in (
        (np.zeros(512), "holds no face"),
        (np.full(512, np.nan), "holds no face"),
        (np.ones((3, 4)), r"shape \(3, 4\)"),
        (np.ones((65, 512)), "n to 64"),
        (np.array(["a"] * 512), "no array of numbers"),
    ):
        np.save(path, array)
        with pytest.raises(EngineError, match=says):
            read_faces(path)
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(EngineError, match="can't be read"):
        read_faces(path)


def test_insightface_is_asked_only_when_a_face_is_wanted(tmp_path, monkeypatch):
    faces = InsightFaces(tmp_path)
    monkeypatch.setitem(sys.modules, "insightface", None)
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    picture = np.zeros((8, 6, 3), np.uint8)
    with pytest.raises(EngineError, match="pip install insightface"):
        faces(picture)

    class FaceAnalysis:  # what InsightFace's own says and does, as far as we use it
        found = [SimpleNamespace(normed_embedding=np.ones(512))]

        def __init__(self, name, root, allowed_modules):
            assert (name, root) == ("buffalo_l", str(tmp_path))

        def prepare(self, ctx_id, det_size):
            assert det_size == (640, 640)

        def get(self, picture):
            assert picture[0, 0].tolist() == [3, 2, 1]  # blue first
            return self.found

    monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "insightface.app", SimpleNamespace(FaceAnalysis=FaceAnalysis))
    picture[:] = (1, 2, 3)
    with pytest.raises(EngineError, match="models aren't there"):
        faces(picture)
    (tmp_path / "models" / "buffalo_l").mkdir(parents=True)
    (tmp_path / "models" / "buffalo_l" / "w600k_r50.onnx").write_bytes(b"")
    assert faces(picture).shape == (512,)
    FaceAnalysis.found = []
    with pytest.raises(EngineError, match=r"No face was found in the picture \(got 6x8 pixels\)"):
        faces(picture)


def test_insightfaces_models_are_found_in_the_models_folder_or_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    roots = []

    class FaceAnalysis:
        def __init__(self, name, root, allowed_modules):
            roots.append(root)

        def prepare(self, ctx_id, det_size):
            pass

        def get(self, picture):
            return [SimpleNamespace(normed_embedding=np.ones(512))]

    monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "insightface.app", SimpleNamespace(FaceAnalysis=FaceAnalysis))
    picture = np.ones((8, 6, 3), np.uint8)
    with pytest.raises(
        EngineError, match=r"det_10g.onnx \(17 MB\).*no commercial use.*download buffalo_l"
    ) as told:
        InsightFaces()(picture)
    assert told.value.code == "missing_model" and not roots
    folder = tmp_path / "models" / "insightface" / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    for name in ("det_10g.onnx", "w600k_r50.onnx"):
        (folder / name).write_bytes(b"weights")
    InsightFaces()(picture)
    own = tmp_path / "home" / ".insightface" / "models" / "buffalo_l"
    own.mkdir(parents=True)
    (own / "w600k_r50.onnx").write_bytes(b"weights")
    InsightFaces()(picture)
    assert roots == [str(folder.parents[1]), str(own.parents[1])]
