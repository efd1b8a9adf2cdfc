"""The zip as Blender installs it, and the panels as Blender draws them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import bpy
import pytest
from bl_ext.user_default.musev import session, strips, ui
from bl_ext.user_default.musev.engine_link import EngineState
from bl_ext.user_default.musev.footage import source_panel
from bl_ext.user_default.musev.making.jobs import Job, JobState
from bl_ext.user_default.musev.protocol import ClipRequest
from conftest import MODULE, ROOT, USER
from montage import Montage


def test_the_zip_holds_the_extension_and_nothing_else():
    (built,) = (USER / "dist").glob("*.zip")
    names = set(zipfile.ZipFile(built).namelist())
    source = ROOT / "blender_addon"
    ours = {path.relative_to(source).as_posix() for kind in ("*.py", "*.po") for path in source.rglob(kind)}
    wheels = {"wheels/websockets-17.4-py3-none-any.whl"}
    assert {name for name in names if not name.endswith("/")} == ours | wheels | {
        "LICENSE",
        "blender_manifest.toml",
    }


def test_blender_finds_the_built_zip_valid():
    import build_extension

    (built,) = (USER / "dist").glob("*.zip")
    subprocess.run([*build_extension.builder(None), "validate", str(built)], check=True)


def test_the_bundled_wheel_is_installed():
    installed = list((USER / "extensions" / ".local").glob("**/websockets/__init__.py"))
    assert len(installed) == 1


def test_nothing_is_imported_with_the_package():
    """`blender_addon.protocol` must load in the engine's Python, where there is no bpy."""
    code = "import sys; sys.modules['bpy'] = None; import blender_addon.protocol as p; print(p.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == ROOT / "blender_addon"


def test_disabling_takes_everything_away_and_enabling_brings_it_back(empty_scene):
    bpy.ops.preferences.addon_disable(module=MODULE)
    assert not hasattr(bpy.types.Scene, "musev") and not hasattr(bpy.types, "MUSEV_PT_clip")
    assert not bpy.app.timers.is_registered(session._timer)
    assert session._loaded not in bpy.app.handlers.load_post
    bpy.ops.preferences.addon_enable(module=MODULE)
    assert bpy.context.scene.musev.width == ClipRequest.__dataclass_fields__["width"].default
    fresh = sys.modules[MODULE + ".session"]
    assert bpy.app.timers.is_registered(fresh._timer) and bpy.app.timers.is_registered(session._timer) == (
        fresh is session
    )


class Layout:
    """Takes what a panel draws and notes it; refuses the calls that this Blender's layout would refuse."""

    RNA = bpy.types.UILayout.bl_rna

    def __init__(self, drawn: list[str]):
        self.__dict__["drawn"] = drawn

    def __setattr__(self, name, value):
        assert name in self.RNA.properties, name

    def __getattr__(self, name):
        known = [p.identifier for p in self.RNA.functions[name].parameters if not p.is_output]

        def call(*positional, **named):
            given = dict(zip(known, positional, strict=False)) | named
            assert given.keys() <= set(known) and len(positional) <= len(known), (name, given)
            return self.take(name, given)

        return call

    def take(self, name, given):
        if name in ("row", "column", "box"):
            return Layout(self.drawn)
        if "property" in given and "data" in given:
            assert given["property"] in given["data"].bl_rna.properties, given
        if "search_property" in given:
            assert given["search_property"] in given["search_data"].bl_rna.properties, given
        if "icon" in given:
            assert given["icon"] in self.RNA.functions["label"].parameters["icon"].enum_items, given
        assert 0 <= given.get("factor", 0) <= 1
        self.drawn.append(given.get("property") or given.get("operator") or given.get("text") or name)
        if name == "operator":
            area, verb = given["operator"].split(".")
            properties = getattr(getattr(bpy.ops, area), verb).get_rna_type().properties
            return type("Properties", (), {"__slots__": properties.keys()})()
        return None


def draw(panel) -> list[str]:
    """What a panel draws in a sequencer's sidebar."""
    assert (panel.bl_space_type, panel.bl_region_type) == ("SEQUENCE_EDITOR", "UI")
    area = bpy.context.window.screen.areas[0]
    area.type = "SEQUENCE_EDITOR"
    region = next(region for region in area.regions if region.type == "UI")
    layout = Layout([])
    with bpy.context.temp_override(area=area, region=region):
        facts = {name: value for name, value in vars(panel).items() if name.startswith("draw")}
        fake = type("Fake", (), facts | {"layout": layout})()
        if hasattr(panel, "draw_header"):
            fake.draw_header(bpy.context)
        fake.draw(bpy.context)
    return layout.drawn


def test_the_clip_panel_asks_for_what_the_mode_needs(empty_scene):
    settings = empty_scene.musev
    empty_scene.sequence_editor_create()
    settings.mode = "pose"
    asked = {"armature", "camera", "still_image", "prompt", "range", "width", "steps", "seed", "generate_at"}
    assert asked <= set(draw(ui.MUSEV_PT_clip))
    assert not {"still_frame", "still_rig"} & set(draw(ui.MUSEV_PT_clip))
    settings.use_still_frame = True
    assert {"still_frame", "still_rig"} <= set(draw(ui.MUSEV_PT_clip))
    settings.still_source = "STRIP"
    assert "still_strip" in draw(ui.MUSEV_PT_clip)
    settings.mode = "text"
    drawn = draw(ui.MUSEV_PT_clip)
    assert not {"armature", "camera", "still_strip", "still_image"} & set(drawn) and "musev.generate" in drawn


def test_the_source_panel_tells_what_would_be_read(empty_scene, tmp_path):
    settings, timeline = empty_scene.musev, Montage(empty_scene, tmp_path)
    assert not source_panel.MUSEV_PT_source.poll(bpy.context)
    settings.mode = "video"
    assert source_panel.MUSEV_PT_source.poll(bpy.context)
    assert "0 strips of scene" in " ".join(draw(source_panel.MUSEV_PT_source))
    timeline.image(count=6).select = True
    drawn = draw(source_panel.MUSEV_PT_source)
    assert {"choice", "use", "strength"} <= set(drawn) and not {"strip", "control"} & set(drawn)
    told = " ".join(drawn)
    assert "Reads picture" in told and "2 of 8 frames show nothing: black is sent" in told
    settings.source.use, settings.source.choice = "CONTROL", "STRIP"
    drawn = draw(source_panel.MUSEV_PT_source)
    assert {"strip", "control", "control_scale"} <= set(drawn) and "strength" not in drawn
    settings.source.strip = "picture"
    assert "Reads picture" in " ".join(draw(source_panel.MUSEV_PT_source))


def test_the_engine_panel_offers_what_can_be_done(empty_scene, monkeypatch):
    link = session.current.engine
    assert "musev.engine_start" in draw(ui.MUSEV_PT_engine) and link.state is EngineState.OFF
    monkeypatch.setattr(link, "_address", ("ws://127.0.0.1:1", "token"))
    assert {"Connecting", "musev.engine_stop"} <= set(draw(ui.MUSEV_PT_engine))
    monkeypatch.setattr(link, "problem", "The engine ended. " * 20)
    assert " ".join(draw(ui.MUSEV_PT_engine)).count("The engine ended.") == 20  # whole, over many lines


def test_of_many_clips_those_that_tell_most_are_drawn(empty_scene, monkeypatch, tmp_path):
    def clip(number, state):
        return Job(
            str(number), f"Clip{number}", "Scene", 1, tmp_path, ClipRequest(mode="text"), {}, state=state
        )

    states = [JobState.DONE] * 20 + [JobState.QUEUED] * 30 + [JobState.FAILED, JobState.RUNNING]
    jobs = [clip(number, state) for number, state in enumerate(states)]
    monkeypatch.setattr(session.current, "jobs", jobs)
    assert ui.most_telling(jobs) == jobs[20:38] + jobs[50:] and ui.most_telling(jobs[:3]) == jobs[:3]
    drawn = " ".join(draw(ui.MUSEV_PT_jobs)).replace(" ", "")
    assert "Clip51" in drawn and "Clip20" in drawn and "Clip19" not in drawn and "Clip40" not in drawn
    assert "32more;31ofall52havenotended" in drawn


@pytest.mark.parametrize(
    ("state", "facts", "shown"),
    [
        (
            JobState.RUNNING,
            {"phase": "VAE", "step": 3, "num_steps": 10, "eta_s": 65.0},
            "VAE 3/10, 1:05 left",
        ),
        (JobState.CAPTURING, {"phase": "reading poses", "step": 3, "num_steps": 48}, "reading poses 3/48"),
        (JobState.QUEUED, {}, "queued"),
        (JobState.FAILED, {"problem": "Out of memory.", "resumable": True}, "Out of memory."),
    ],
)
def test_the_list_shows_where_a_clip_stands(empty_scene, monkeypatch, tmp_path, state, facts, shown):
    job = Job("id", "Dancer", "Scene", 1, tmp_path, ClipRequest(mode="text"), {}, state=state, **facts)
    monkeypatch.setattr(session.current, "jobs", [job])
    drawn = draw(ui.MUSEV_PT_jobs)
    assert shown in drawn and ("Dancer: failed" if job.ended else "Dancer") in drawn
    assert ("musev.cancel" in drawn) == (not job.ended) and ("musev.resume" in drawn) == job.resumable


def test_the_panel_says_when_no_scene_is_shown(empty_scene, monkeypatch):
    monkeypatch.setattr(strips, "shown_scene", lambda context: None)
    assert draw(ui.MUSEV_PT_clip) == ["The sequencer shows no scene", "musev.scene_show"]
    assert not bpy.ops.musev.generate.poll() and bpy.ops.musev.scene_show.poll()


def test_a_sequencer_without_a_scene_is_given_the_windows(empty_scene):
    assert not bpy.ops.musev.scene_show.poll()
    if hasattr(bpy.context.workspace, "sequencer_scene"):  # 5.0 and later
        bpy.context.workspace.sequencer_scene = None
        assert bpy.ops.musev.scene_show() == {"FINISHED"}
        assert bpy.context.workspace.sequencer_scene == empty_scene


def test_the_preferences_ask_for_the_token_only_beside_an_address(empty_scene):
    preferences = bpy.context.preferences.addons[MODULE].preferences

    def drawn(url):
        layout = Layout([])
        facts = {"layout": layout, "engine_url": url, "bl_rna": preferences.bl_rna}
        type(preferences).draw(type("Fake", (), facts)(), bpy.context)
        return layout.drawn[: layout.drawn.index("output_folder") + 1]  # the models follow

    assert drawn("") == ["engine_command", "engine_url", "output_folder"]
    assert drawn("ws://127.0.0.1:1") == ["engine_command", "engine_url", "token_file", "output_folder"]


def test_a_zip_can_know_the_engine_of_this_computer(tmp_path, monkeypatch):
    from bl_ext.user_default.musev import props

    import build_extension

    assert props.known_engine() == "musev serve"
    command = '"/a b/python" -m server'
    with zipfile.ZipFile(build_extension.build(tmp_path, engine=command)) as built:
        built.extract("engine_command.txt", tmp_path)
    monkeypatch.setattr(props, "__file__", str(tmp_path / "props.py"))
    assert props.known_engine() == command
