"""`musev models …`: downloads from a hub on this machine, and what a script sees of them."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from musev_engine import known_models, registry
from server import cli
from tests import model_files
from tests.local_hub import COMMIT, LocalHub
from tests.model_files import write

CANNY = "control_v11p_sd15_canny"
WEIGHTS = random.Random(0).randbytes(300_000)
LARGE = {
    f"lllyasviel/{CANNY}": {"config.json": b"{}", "diffusion_pytorch_model.fp16.safetensors": WEIGHTS},
    "TMElyralab/MuseV": {"embedding/badhandv4.pt": WEIGHTS[:5000]},
    "lllyasviel/Annotators": {
        "ControlNetHED.pth": b"x" * 29_444_406,
        "dpt_hybrid-midas-501f0c75.pt": WEIGHTS,
    },
    "stabilityai/sd-vae-ft-mse": {"config.json": b"{}"},
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, and an empty models folder."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = LocalHub({name: dict(files) for name, files in LARGE.items()})
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    yield served
    served.close()


@pytest.fixture
def musev(hub, capsys):
    """Run `musev models …` against the hub: (exit status, stdout, stderr)."""

    def run(*words):
        if words[0] == "download":
            words = (*words, "--endpoint", hub.url)
        status = cli.main(["models", *words])
        return status, *capsys.readouterr()

    return run


def break_off(hub, monkeypatch):
    """The next body breaks off, and the hub stays away; files are small, so they are written in small pieces."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cut = 100_000


def get(musev, *ids):
    return musev("download", *ids, "--accept-licence")


def test_a_model_comes_whole_with_its_licence_told(musev, hub):
    status, _, said = get(musev, CANNY)
    assert status == 0
    assert said.index("OpenRAIL; commercial use allowed") < said.index("2 files, 0.3 MB")
    folder = registry.find(CANNY)
    assert (folder / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS  # as the loaders call it
    assert (folder / "config.json").read_bytes() == b"{}"
    assert not (registry.models_folder() / registry.INCOMING / CANNY).exists()
    kept = json.loads((registry.models_folder() / registry.RECEIPTS / f"{CANNY}.json").read_text())
    assert kept["commit"] == COMMIT and "OpenRAIL" in kept["licence"]
    assert any(f"/resolve/{COMMIT}/diffusion" in asked for asked, _ in hub.asked)  # all from one state

    hub.asked.clear()
    assert get(musev, CANNY)[0] == 0  # what is here isn't asked for again


def test_without_consent_nothing_is_asked_of_the_network(musev, hub):
    status, out, said = musev("download", CANNY)
    assert status == 4 and "licence was not accepted" in said and "OpenRAIL" in said
    assert not hub.asked and not registry.models_folder().exists() and not out


@pytest.mark.parametrize(("answer", "status"), [("yes\n", 0), ("no\n", 4), ("", 4)])
def test_a_person_is_asked(musev, hub, monkeypatch, answer, status):
    class Keyboard:
        def isatty(self):
            return True

        def readline(self):
            return answer

    monkeypatch.setattr(sys, "stdin", Keyboard())
    assert musev("download", CANNY)[0] == status
    assert registry.installed(CANNY) == (status == 0)


def test_a_broken_download_is_not_installed_and_goes_on_where_it_stopped(musev, hub, monkeypatch):
    break_off(hub, monkeypatch)
    status, _, said = get(musev, CANNY)
    assert status == 1 and "goes on where it stopped" in said
    assert not registry.installed(CANNY) and not registry.here(registry.model(CANNY))
    (part,) = (registry.models_folder() / registry.INCOMING / CANNY).glob("diffusion*.part")
    assert 0 < part.stat().st_size <= 100_000

    begun = part.stat().st_size
    hub.mend()
    hub.asked.clear()
    assert get(musev, CANNY)[0] == 0
    ranges = [given for asked, given in hub.asked if asked.startswith("GET") and "diffusion" in asked]
    assert ranges == [f"bytes={begun}-"]
    assert (registry.find(CANNY) / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS


def test_a_file_kept_elsewhere_is_followed_and_the_token_stays_with_the_hub(musev, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    hub.elsewhere = True
    assert get(musev, CANNY)[0] == 0
    assert (registry.find(CANNY) / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS
    brought = {path: token for path, token in hub.tokens.items() if "diffusion" in path}
    assert {token for path, token in brought.items() if "/resolve/" in path} == {"Bearer hf_ours"}
    assert {token for path, token in brought.items() if "/store/" in path} == {None}


def test_another_hub_than_the_users_own_gets_no_token(musev, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert get(musev, CANNY)[0] == 0
    assert set(hub.tokens.values()) == {None}


def test_a_part_of_an_older_file_is_not_gone_on_with(musev, hub, monkeypatch):
    break_off(hub, monkeypatch)
    get(musev, CANNY)
    hub.mend()
    newer = WEIGHTS[::-1]
    hub.files[f"lllyasviel/{CANNY}"]["diffusion_pytorch_model.fp16.safetensors"] = newer
    assert get(musev, CANNY)[0] == 0
    assert (registry.find(CANNY) / "diffusion_pytorch_model.safetensors").read_bytes() == newer


def test_what_is_not_what_the_hub_says_is_thrown_away(musev, hub):
    hub.says["embedding/badhandv4.pt"] = "0" * 64
    status, _, said = get(musev, "badhandv4")
    assert status == 7 and "0" * 64 in said and "Nothing of it is kept" in said
    assert not registry.installed("badhandv4")
    assert not list((registry.models_folder() / registry.INCOMING).rglob("*.p*t"))


def test_a_small_file_is_compared_by_gits_hash(musev, hub):
    hub.says["config.json"] = "0" * 40
    assert get(musev, CANNY)[0] == 7 and not registry.installed(CANNY)


def test_a_known_hash_or_size_refuses_another_file_before_it_is_fetched(musev, hub):
    for id, wanted in (("annotator-hed", "5ca93762"), ("annotator-midas", "501f0c75")):
        status, _, said = get(musev, id)
        assert status == 7 and f"it should have {wanted}" in said
    assert not any(asked.startswith("GET") for asked, _ in hub.asked)


def test_a_file_the_hub_lacks_is_named_and_another_form_will_do(musev, hub):
    status, _, said = get(musev, "sd-vae-ft-mse")
    assert status == 1 and "no such file in stabilityai/sd-vae-ft-mse" in said
    files = hub.files[f"lllyasviel/{CANNY}"]
    files["diffusion_pytorch_model.bin"] = files.pop("diffusion_pytorch_model.fp16.safetensors")
    assert get(musev, CANNY)[0] == 0
    assert (registry.find(CANNY) / "diffusion_pytorch_model.bin").is_file()


def test_repositories_that_are_not_there_or_closed(musev, hub):
    assert "no such repository" in get(musev, "lcm-lora-sdv1-5")[2]
    hub.gated.add(f"lllyasviel/{CANNY}")
    status, _, said = get(musev, CANNY)
    assert status == 1 and "hf auth login" in said


def test_a_hub_that_does_not_answer(musev, hub):
    hub.close()
    status, _, said = get(musev, CANNY)
    assert status == 1 and "can't be reached" in said and "--endpoint" in said


def test_a_full_disk_is_seen_before_anything_is_fetched(musev, hub, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=200_100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    status, _, said = get(musev, CANNY)
    assert status == 1 and "Free some space" in said
    assert not any(asked.startswith("GET") for asked, _ in hub.asked)


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_offline_never_touches_the_network(musev, hub, monkeypatch, by):
    if by == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        status, _, said = get(musev, CANNY)
    else:
        status, _, said = musev("download", CANNY, "--accept-licence", "--offline")
    assert status == 5 and "offline mode" in said


def test_verify_sees_a_changed_byte(musev, hub):
    get(musev, CANNY)
    status, out, _ = musev("verify", CANNY)
    assert status == 0 and out.count(": ok") == 2
    path = registry.find(CANNY) / "diffusion_pytorch_model.safetensors"
    path.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    status, out, _ = musev("verify")
    assert status == 7 and hashlib.sha256(WEIGHTS).hexdigest() in out
    assert musev("verify", "badhandv4")[0] == 6


def test_remove_asks_and_leaves_other_models_and_other_folders(musev, hub, tmp_path):
    get(musev, CANNY, "badhandv4")
    assert musev("remove", CANNY)[0] == 1 and registry.installed(CANNY)
    assert musev("remove", CANNY, "--yes")[0] == 0
    assert not (registry.models_folder() / "controlnet").exists() and registry.installed("badhandv4")
    status, _, said = musev("remove", CANNY, "--yes")
    assert status == 6 and "isn't here" in said

    elsewhere = tmp_path / "checkpoints" / "embedding"
    elsewhere.mkdir(parents=True)
    os.replace(registry.find("badhandv4"), elsewhere / "badhandv4.pt")
    assert musev("add", str(elsewhere.parent))[0] == 0
    status, _, said = musev("remove", "badhandv4", "--yes")
    assert status == 6 and "isn't ours to empty" in said and (elsewhere / "badhandv4.pt").is_file()


def test_a_script_reads_json(musev, hub, tmp_path):
    status, out, _ = musev("download", CANNY, "--accept-licence", "--json")
    (row,) = json.loads(out)
    assert row["installed"] and row["commercial"] is True and row["licence"] == "OpenRAIL"
    assert json.loads(musev("show", CANNY, "--json")[1]) == row
    listed = json.loads(musev("list", "--json", "--role", "controlnet", "--installed")[1])
    assert listed == [row]
    assert len(json.loads(musev("--json")[1])) == len(known_models.known()) + 1  # and the shipped one
    assert json.loads(musev("path", "--json")[1]) == [str(registry.models_folder())]
    assert json.loads(musev("verify", CANNY, "--json")[1])[CANNY] == dict.fromkeys(
        ("config.json", "diffusion_pytorch_model.safetensors"), "ok"
    )
    status, out, said = musev("show", "cannny", "--json")
    assert status == 3 and not out and json.loads(said)["error"]["code"] == "unknown_model"


def test_the_shipped_model_is_neither_verified_nor_removed(musev):
    for verb in (("verify", "mini"), ("remove", "mini", "--yes")):
        status, out, said = musev(*verb)
        assert status == 1 and not out and "This model came with the engine (got mini)" in said


def test_people_read_tables(musev, hub):
    get(musev, CANNY)
    out = musev("list")[1]
    (line,) = [line for line in out.splitlines() if line.startswith(CANNY)]
    assert "here" in line and "OpenRAIL" in line and f"2 of {len(known_models.known()) + 1} are here" in out
    assert "Clips can be made with: mini" in out
    status, out, _ = musev("show", "annotator-dwpose")
    assert status == 0 and "216,746,733 bytes" in out and "not here; goes to" in out
    assert musev("add", "/")[0] == 1


def test_a_file_that_no_hub_has_comes_from_its_own_address_and_is_compared(musev, hub, monkeypatch):
    whole = b"landmarks" * 1000
    hub.files["some/body"] = {"face_landmarker.task": whole}
    known = known_models.known()
    (file,) = known["annotator-face_landmarker"].files

    def told(content):
        return replace(file, size=len(whole), sha256=hashlib.sha256(content).hexdigest())

    at = replace(
        known["annotator-face_landmarker"], url=f"{hub.url}/some/body/resolve/main/face_landmarker.task"
    )
    monkeypatch.setitem(known, at.id, replace(at, files=(told(b"something else"),)))
    status, _, said = get(musev, at.id)
    assert status == 7 and "sha256" in said and not registry.installed(at.id)
    monkeypatch.setitem(known, at.id, replace(at, files=(told(whole),)))
    status, _, said = get(musev, at.id)
    assert status == 0 and "Apache-2.0" in said
    assert registry.find(at.id).read_bytes() == whole and registry.verify(at.id) == {file.name: "ok"}


def test_the_shipped_model_is_listed_shown_and_never_fetched(musev):
    line = musev("list")[1].splitlines()[0]
    assert line.split()[:2] == ["mini", "shipped"] and "here" in line and "cc0-1.0" in line
    (row,) = json.loads(musev("list", "--json", "--role", "shipped")[1])
    assert row["installed"] and row["size_bytes"] > 10_000_000
    assert row.keys() == json.loads(musev("show", CANNY, "--json")[1]).keys()
    status, out, _ = musev("show", "mini")
    assert status == 0 and "needs no download" in out and "cc0-1.0" in out
    status, _, said = get(musev, "mini")
    assert status == 0 and "mini came with this engine" in said


def test_listing_imports_neither_torch_nor_the_hubs_library():
    program = (
        "import sys; from server.cli import main; status = main(['models', 'list', '--json']);"
        "assert status == 0 and not {'torch', 'numpy', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_file_is_added_listed_verified_and_removed(musev, tmp_path):
    path = write(
        tmp_path / "My Style.safetensors", model_files.lora(), {"modelspec.trigger_phrase": "in ink"}
    )
    status, out, said = musev("add", str(path), "--licence", "CC-BY-NC 4.0", "--no-commercial", "--json")
    assert (
        status == 0
        and "a LoRA for Stable Diffusion 1.5" in said
        and "CC-BY-NC 4.0; no commercial use" in said
    )
    told = json.loads(out)
    assert (told["id"], told["role"], told["added"], told["trigger"]) == ("My_Style", "lora", True, "in ink")
    assert registry.find("My_Style").read_bytes() == path.read_bytes()
    _, listed, _ = musev("list", "--installed")
    assert "My_Style" in listed and listed.startswith("mini ")  # what came with the engine stands first
    assert "its words: in ink" in musev("show", "My_Style")[1]
    assert musev("verify")[0] == 0
    status, _, said = musev("add", str(path))
    assert status == 2 and "This name is taken" in said and "another name" in said
    assert musev("add", str(path), "--name", "other")[0] == 0
    assert musev("remove", "My_Style", "--yes")[0] == 0 and "My_Style" not in registry.listing()


def test_a_file_that_will_not_do_is_told_with_the_reason(musev, tmp_path):
    path = write(tmp_path / "big.safetensors", model_files.lora(2048))
    status, _, said = musev("add", str(path))
    assert status == 7 and "a LoRA for Stable Diffusion XL" in said and "Needed is" in said
    status, _, said = musev("add", str(write(tmp_path / "vae.ckpt", model_files.vae())), "--as", "lora")
    assert status == 7 and "Add it as a VAE" in said
    (tmp_path / "note.txt").write_text("no model, but long enough")
    assert musev("add", str(tmp_path / "note.txt"))[0] == 7
    good = write(tmp_path / "good.safetensors", model_files.lora())
    assert musev("add", str(good), "--name", "a/b")[0] == 2
    assert registry.added_files() == {} and not list(registry.models_folder().rglob("*.safetensors"))


def test_an_added_model_whose_file_is_gone_is_not_looked_for_on_the_hub(musev, hub, tmp_path):
    musev("add", str(write(tmp_path / "style.safetensors", model_files.lora())))
    registry.find("style").unlink()
    hub.asked.clear()
    status, _, said = get(musev, "style")
    assert status == 6 and "Add its file again" in said and not hub.asked
    assert musev("add", str(tmp_path / "style.safetensors"))[0] == 0
