"""`musev doctor`: what is here for which mode, and what this machine can run."""

import importlib.util
import json

import pytest

from musev_engine import known_models
from server import cli, doctor
from tests.test_registry import put

GB = 10**9


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Run `musev doctor --json`: (exit status, what it told)."""
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))

    def run(*words):
        status = cli.main(["doctor", "--json", "--state-dir", str(tmp_path / "state"), *words])
        return status, json.loads(capsys.readouterr().out)

    return run


def modes(found):
    return {row["mode"]: row["missing"] for row in found["modes"]}


def test_a_fresh_machine_is_well_and_lacks_every_weight(told):
    status, found = told()
    assert status == 0 and all(check["ok"] for check in found["checks"]) and not found["plugins"]
    missing = modes(found)
    assert missing["text to clip"] == ["musev", "stable-diffusion-v1-5"]
    assert "referencenet" in missing["still to clip"]
    assert "control_v11p_sd15_openpose" in missing["pose to clip"]
    assert len([mode for mode in missing if mode.startswith("video to clip by ")]) == 26
    assert {"sd-controlnet-hed", "annotator-hed"} <= set(missing["video to clip by hed"])
    known = known_models.known()
    assert all(id in known for ids in missing.values() for id in ids)
    assert found["machine"]["memory_bytes"] > found["machine"]["memory_free_bytes"] > 0


def test_modes_become_ready_as_their_models_come(told, tmp_path):
    put(tmp_path / "models", "musev")
    put(tmp_path / "models", "control_v11p_sd15_canny")
    own = tmp_path / "models" / "t2i" / "sd1.5" / "my_own_model" / "unet"
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}")
    missing = modes(told()[1])
    assert not missing["text to clip"] and not missing["video to clip"]
    assert not missing["video to clip by canny"]
    assert missing["video to clip by hed"] == ["sd-controlnet-hed", "annotator-hed"]


def test_a_single_file_is_an_image_model_and_wants_a_tokenizer(told, tmp_path):
    put(tmp_path / "models", "musev")
    (tmp_path / "models/t2i").mkdir()
    (tmp_path / "models/t2i/anime.safetensors").write_bytes(b"weights")
    assert modes(told()[1])["text to clip"] == ["clip-tokenizer"]
    put(tmp_path / "models", "clip-tokenizer")
    assert modes(told()[1])["text to clip"] == []


def test_packages_that_a_mode_lacks_are_told(told, monkeypatch):
    rows = {row["mode"]: row for row in told()[1]["modes"]}
    there = importlib.util.find_spec("mediapipe") is not None
    assert rows["video to clip by face_detector"]["packages"] == ([] if there else ["mediapipe"])
    monkeypatch.setitem(doctor.PACKAGES, "face_detector", "no_such_package_anywhere")
    rows = {row["mode"]: row for row in told()[1]["modes"]}
    assert rows["video to clip by face_detector"]["packages"] == ["no_such_package_anywhere"]
    assert not any(row["packages"] for mode, row in rows.items() if not mode.endswith("face_detector"))


def test_what_every_clip_needs_fails_the_doctor(tmp_path, told):
    (tmp_path / "state").write_text("a file, where a folder should be")
    status, found = told()
    assert status == 1
    assert [check["name"] for check in found["checks"] if not check["ok"]] == ["state folder"]


def test_people_read_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    assert cli.main(["doctor", "--state-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "musev models download musev_referencenet referencenet image_encoder stable-diffusion-v1-5" in out
    assert "dwpose, dwpose_face, dwpose_hand, dwpose_body, dwpose_body_hand\n" in out  # one line, one command
    assert "suggested: " in out and "FAIL" not in out


@pytest.mark.parametrize(
    ("free", "model", "side", "windows"),
    [
        (None, "mini", 128, 1),
        (4 * GB, "mini", 128, 1),
        (6 * GB, "musev", 320, 1),
        (8 * GB, "musev", 512, 1),
        (12 * GB, "musev_referencenet", 512, 1),
        (24 * GB, "musev_referencenet", 512, 3),
        (80 * GB, "musev_referencenet", 512, 8),
    ],
)
def test_the_suggestion_grows_with_the_gpu(free, model, side, windows):
    ask = doctor.suggestion(free)
    assert (ask["model"], ask["width"], ask["windows_at_once"]) == (model, side, windows)


def test_more_memory_never_means_less():
    asked = [doctor.suggestion(free * GB / 4) for free in range(200)]
    order = {"mini": 0, "musev": 1, "musev_referencenet": 2}
    size = [(order[ask["model"]], ask["width"], ask["windows_at_once"]) for ask in asked]
    assert size == sorted(size)
