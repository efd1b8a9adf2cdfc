"""The report for whoever is to help: what is in it, and what must not be."""

from __future__ import annotations

import getpass
import json
import zipfile
from pathlib import Path

import bpy
import pytest
from bl_ext.user_default.musev import diagnostics, session, ui
from bl_ext.user_default.musev.making.jobs import JobState
from conftest import MODULE, pump
from test_extension import draw
from test_generate import finish, generate, refusal, shot  # noqa: F401 (a fixture)


def collected(tmp_path, **options) -> dict[str, str]:
    path = tmp_path / "report.zip"
    bpy.ops.musev.collect_diagnostics(filepath=str(path), **options)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture
def after_a_failure(engine, shot):  # noqa: F811
    """A clip that failed, with a prompt, and a log that holds what must not leave this computer."""
    shot.mode, shot.prompt, shot.seed = "text", "the secret princess", 4711
    current = engine("fail")
    job = finish(generate(current))
    assert job.state is JobState.FAILED
    with current.engine.process.log_path.open("a") as log:
        log.write(f"token={current.engine.process.token}\nBearer abcdefghijklmnopqrstu\n")
        log.write(f'{Path.home()}/films/shot.blend\n"/home/somebody/x"\nC:\\Users\\Some One\\y\n')
        log.write("prompt: the secret princess\nCUDA error 17\n")
    return current


def test_it_tells_what_helps(after_a_failure, tmp_path):
    files = collected(tmp_path)
    assert set(files) == {"versions.json", "settings.json", "clips.json", "engine.json", "engine.log"}
    versions = json.loads(files["versions.json"])
    assert versions["blender"] == bpy.app.version_string and versions["engine"] == "fake"
    (clip,) = json.loads(files["clips.json"])
    assert clip["code"] == "out_of_memory" and clip["problem"].startswith("The GPU is full")
    assert clip["request"]["seed"] == 4711 and clip["request"]["width"] == 64
    assert "CUDA error 17" in files["engine.log"]
    (scene,) = json.loads(files["settings.json"])["scenes"]
    assert scene["settings"]["mode"] == "text" and scene["settings"]["model"] == "mini"
    assert json.loads(files["engine.json"])["state"] == "ready"


def test_a_failed_clip_offers_the_report(after_a_failure):
    assert "musev.collect_diagnostics" in draw(ui.MUSEV_PT_jobs)


def test_it_holds_no_token_no_user_and_no_prompt(after_a_failure, tmp_path):
    everything = "\n".join(collected(tmp_path).values())
    home = str(Path.home())
    for hidden in (
        after_a_failure.engine.process.token, "abcdefghijklmnopqrstu", "princess", "somebody", "Some One",
        *((f"{home}/",) if len(home) > 3 else ()), "Dancer",
    ):  # fmt: skip
        assert hidden not in everything, hidden
    assert "~/films" in everything and "<user>" in everything and "prompt: <removed>" in everything


def test_prompts_are_in_it_where_they_are_wished(after_a_failure, tmp_path):
    files = collected(tmp_path, include_prompts=True)
    assert json.loads(files["clips.json"])[0]["request"]["prompt"] == "the secret princess"
    assert json.loads(files["settings.json"])["scenes"][0]["settings"]["prompt"] == "the secret princess"
    assert after_a_failure.engine.process.token not in "\n".join(files.values())  # never


def test_a_running_engines_token_and_address_are_left_out(empty_scene, tmp_path, engine):
    preferences = bpy.context.preferences.addons[MODULE].preferences
    token = tmp_path / "token"
    token.write_text("0123456789abcdefXYZ\n")
    preferences.token_file, preferences.engine_url = str(token), "ws://render.studio.example:7860"
    session.current.engine.problem = (
        "No engine answers at ws://render.studio.example:7860 with 0123456789abcdefXYZ"
    )
    try:
        everything = "\n".join(collected(tmp_path).values())
    finally:
        preferences.token_file = preferences.engine_url = ""
    assert "0123456789abcdefXYZ" not in everything and "studio.example" not in everything
    assert "ws://<host>:7860" in everything


def test_without_an_engine_the_report_is_there_too(empty_scene, tmp_path, engine):
    files = collected(tmp_path)
    assert json.loads(files["engine.json"])["state"] == "not running"
    assert json.loads(files["clips.json"]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/Users/Ann Lee/a", "/Users/<user>/a"),
        ("/home/eve and /tmp/x", "/home/<user> and /tmp/x"),
        (r'"C:\\Users\\ann\\x"', r'"C:\\Users\\<user>\\x"'),
        ("D:/Users/ann", "D:/Users/<user>"),
        ("/data/annex/ann/x and Ann", "/data/annex/<user>/x and <user>"),
        ("api_key: 'sk-1234567890abcdef'", "api_key: '<removed>'"),
        ('"token_file": "~/engine/token.txt"', '"token_file": "~/engine/token.txt"'),
        (
            "ws://127.0.0.1:7860 ws://localhost:1 wss://10.0.0.8:9",
            "ws://127.0.0.1:7860 ws://localhost:1 wss://<host>:9",
        ),
    ],
)
def test_redaction(text, expected):
    assert diagnostics.redacted(text, [], "/home/ann", "ann") == expected


def test_parts_of_other_words_stay():
    assert diagnostics.without("Rain, Rainer and 'Rain'", {"Rain"}) == "<removed>, Rainer and '<removed>'"
    assert diagnostics.without(json.dumps('a "b" ü'), {'a "b" ü'}) == '"<removed>"'


def test_what_cannot_be_written_is_refused(empty_scene, tmp_path, engine):
    said = refusal(lambda: bpy.ops.musev.collect_diagnostics(filepath=str(tmp_path / "none" / "x.zip")))
    assert "can't be written" in said


def test_the_user_of_this_computer_is_hidden_everywhere(after_a_failure, tmp_path):
    user = getpass.getuser()
    after_a_failure.engine.problem = f"/mnt/{user}/cache is full"
    pump(lambda: True)
    assert f"/mnt/{user}/" not in collected(tmp_path)["engine.json"]
