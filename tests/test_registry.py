"""The registry: what is known of models, and finding them in the models folder and in MuseV's own."""

import hashlib
import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from musev_engine import known_models, registry
from musev_engine.errors import EngineError
from musev_engine.prompts import NEGATIVE_SETS

POSES = "control_v11p_sd15_openpose"
NAMES = Path(__file__).parent / "golden" / "full_size" / "controlnet_names.json"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty models folder."""
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def put(root, id, content=b"weights", form=0):
    """Files for a known model, as though it had been copied there. form: which of its names a weight file has."""
    model = registry.model(id)
    for file in model.files:
        names = list(file.forms())
        path = root / model.folder / names[min(form, len(names) - 1)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return model


def test_every_row_can_be_used():
    models = known_models.known()
    places = [f"{model.folder}/{file.name}" for model in models.values() for file in model.files]
    assert len(places) == len(set(places))
    for model in models.values():
        assert model.role in known_models.ROLES and model.files and model.about
        assert model.licence_url.startswith("https://")
        if model.url:
            (file,) = model.files
            assert model.url.startswith("https://") and file.size and file.sha256
        assert all(len(file.sha256) == 64 for file in model.files if file.sha256)
        assert not any(Path(place).is_absolute() or ".." in Path(place).parts for place in places)
    assert {model.role for model in models.values()} == set(known_models.ROLES)


def test_every_model_names_its_licence_or_says_that_it_is_unknown():
    unknown = set()
    for model in known_models.known().values():
        if model.licence is None:
            unknown.add(model.repository)
            assert model.commercial is None and "licence not known" in model.terms, model.id
        else:
            assert model.licence.strip() and model.licence.lower() not in ("other", "unknown"), model.id
    # each of these was looked for in vain; a model of any other repository must have one
    assert unknown == {
        "TMElyralab/MuseV",
        "lllyasviel/Annotators",
        "ByteDance/Hyper-SD",
        "gsdf/Counterfeit-V3.0",
    }


def test_a_row_without_a_licence_is_refused():
    row = {"role": "vae", "about": "a", "repository": "some/body", "folder": "vae/a", "files": {"a.bin": {}}}
    with pytest.raises(KeyError, match="licence"):
        known_models._model("a", row)
    assert known_models._model("a", row | {"licence": "unknown"}).licence is None


def test_every_word_of_the_negative_sets_can_be_had():
    words = {word for each in NEGATIVE_SETS.values() for word in each.embeddings}
    known = {id: model for id, model in known_models.known().items() if model.role == "embedding"}
    assert words == known.keys()
    for word, model in known.items():
        (file,) = model.files
        # As a prompt says it, where MuseV has it.
        assert Path(file.name).stem == word and model.folder == "embedding"


def test_a_copy_in_full_precision_is_not_taken_for_a_damaged_one_in_half(folder):
    put(folder, "stable-diffusion-v1-5")  # under the plain names; what is known is of the fp16 files
    verdicts = registry.verify("stable-diffusion-v1-5")
    assert verdicts["unet/diffusion_pytorch_model.safetensors"] == "not known"
    put(folder, "lcm-lora-sdv1-5")
    assert (
        "bytes instead of 134,621,556"
        in registry.verify("lcm-lora-sdv1-5")["pytorch_lora_weights.safetensors"]
    )


def test_every_repository_pattern_means_some_model():
    repositories = {model.repository for model in known_models.known().values()}
    for pattern in known_models._read()["repositories"]:
        assert any(fnmatchcase(repository, pattern) for repository in repositories), pattern


def test_musevs_weights_are_not_for_sale_and_an_unverified_licence_says_so():
    for id in ("musev", "musev_referencenet", "musev_referencenet_pose", "referencenet"):
        assert registry.model(id).commercial is False
    community = registry.model("majicmixRealv6Fp16")  # in MuseV's repository, under terms of its own
    assert community.licence is None and community.commercial is None
    assert "not known" in community.terms


def test_controls_are_the_originals_26_with_their_controlnets():
    original = json.loads(NAMES.read_text())
    assert list(known_models.controls()) == list(original)
    for name, needs in known_models.controls().items():
        model = registry.model(needs[0])
        assert model.repository == original[name]["controlnet_model_path"]
        assert model.folder == f"controlnet/{needs[0]}"
        assert all(registry.model(id).role == "annotator" for id in needs[1:])


def test_a_missing_model_is_told_with_file_source_size_licence_and_command(folder):
    with pytest.raises(EngineError) as refused:
        registry.find("annotator-dwpose")
    assert refused.value.code == "missing_model"
    for part in (
        "yolox_l.onnx (217 MB)",
        "yzd-v/DWPose",
        "Apache-2.0",
        "musev models download annotator-dwpose",
    ):
        assert part in str(refused.value)
    assert not folder.exists()  # looking makes nothing


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("control_v11_openpose", POSES),
        ("Musev_Referencnet", "musev_referencenet"),
        ("dwpose", "annotator-dwpose"),
    ],
)
def test_an_unknown_id_offers_the_nearest(said, meant):
    with pytest.raises(EngineError) as refused:
        registry.model(said)
    assert refused.value.code == "unknown_model" and meant in refused.value.remedy


def test_find_gives_the_file_of_one_and_the_folder_of_several(folder):
    put(folder, "badhandv4")
    put(folder, POSES)
    put(folder, "musev")
    assert registry.find("badhandv4") == folder / "embedding" / "badhandv4.pt"
    assert registry.find(POSES) == folder / "controlnet" / POSES
    assert registry.find("musev") == folder / "motion" / "musev"
    put(folder, "annotator-openpose")
    assert registry.find_file("annotator-openpose", "facenet.pth") == folder / "annotators" / "facenet.pth"


def test_weights_do_as_bin_or_safetensors(folder):
    put(folder, "image_encoder", form=2)
    assert (folder / "IP-Adapter/models/image_encoder/pytorch_model.bin").is_file()
    assert registry.installed("image_encoder")
    put(folder, "musev", form=1)
    assert (folder / "motion/musev/unet/diffusion_pytorch_model.bin").is_file()
    assert registry.installed("musev")


def test_an_empty_or_lacking_file_is_not_installed(folder):
    put(folder, POSES, b"")
    assert not registry.installed(POSES)
    put(folder, POSES)
    (folder / "controlnet" / POSES / "config.json").unlink()
    with pytest.raises(EngineError, match=r"isn't here: config\.json"):
        registry.find(POSES)


def test_a_musev_checkpoints_folder_is_used_as_it_is(folder, tmp_path):
    checkpoints = tmp_path / "MuseV" / "checkpoints"
    put(checkpoints, "musev_referencenet", form=1)
    put(checkpoints, "majicmixRealv6Fp16", form=1)
    assert set(registry.add_folder(checkpoints)) == {"musev_referencenet", "majicmixRealv6Fp16"}
    assert registry.find("musev_referencenet") == checkpoints / "motion" / "musev_referencenet"
    assert list(registry.image_models(registry.folders()[1] / "t2i")) == ["majicmixRealv6Fp16"]
    registry.add_folder(checkpoints)  # a second time changes nothing
    assert registry.folders() == [folder, checkpoints]


def test_a_folder_without_models_is_not_added(folder, tmp_path):
    with pytest.raises(EngineError, match="no model in MuseV's layout") as refused:
        registry.add_folder(tmp_path)
    assert refused.value.code == "no_models" and registry.folders() == [folder]


def test_a_damaged_list_of_folders_is_told(folder):
    folder.mkdir()
    (folder / registry.FOLDERS).write_text("{")
    with pytest.raises(EngineError, match=r"folders\.json can't be read"):
        registry.folders()


def test_verify_reads_sizes_and_hashes(folder, monkeypatch):
    put(folder, "annotator-hed", b"short")
    assert "5 bytes instead of 29,444,406" in registry.verify("annotator-hed")["ControlNetHED.pth"]
    put(folder, "annotator-midas", b"other")  # only its hash is known
    (verdict,) = registry.verify("annotator-midas").values()
    assert hashlib.sha256(b"other").hexdigest() in verdict and "instead of 501f0c75" in verdict
    put(folder, "badhandv4")
    assert registry.verify("badhandv4") == {"badhandv4.pt": "not known"}
    assert registry.verify("musev")["unet/config.json"] == "missing"


def test_the_users_own_folder_follows_the_systems_habit(monkeypatch, tmp_path):
    monkeypatch.delenv("MUSEV_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert registry.models_folder() == tmp_path / "musev" / "models"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    monkeypatch.setattr("sys.platform", "win32")
    assert registry.models_folder() == tmp_path / "local" / "musev" / "models"
