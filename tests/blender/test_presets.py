"""Presets of the clip's settings: those that come along, and the artist's own."""

from __future__ import annotations

from pathlib import Path

import bpy
import pytest
from bl_ext.user_default.musev import presets, ui
from bl_ext.user_default.musev.weights import loras
from conftest import USER
from test_extension import Layout
from test_generate import refusal

SHIPPED = sorted((Path(presets.HERE) / "presets" / presets.FOLDER).glob("*.py"))
OWN = Path(USER, "scripts", "presets", *presets.FOLDER.split("/"))


def apply(name: str) -> None:
    path = bpy.utils.preset_find(name, presets.FOLDER, display_name=True)
    bpy.ops.script.execute_preset(filepath=path, menu_idname="MUSEV_PT_presets")


def values(settings) -> dict:
    groups = ("draft", "render", "occlusion", "extras")
    kept = {name: getattr(settings, name) for name in presets.KEPT if name not in groups}
    kept["loras"] = [(each.name, round(each.weight, 5), each.use) for each in settings.extras.loras]
    return kept | {"draft": (settings.draft.use, round(settings.draft.share, 5), settings.draft.steps)}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_what_comes_along_says_what_it_sets_and_nothing_else(empty_scene, file):
    settings = empty_scene.musev
    settings.prompt, settings.seed, settings.width = "a dancer", 7, 72
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    assert lines[0] == "import bpy" and lines[1:3] == [line.replace("'", '"') for line in presets.DEFINES]
    apply(bpy.path.display_name(file.name))
    for line in lines[3:]:
        assert eval(line.replace(" = ", " == "), {"settings": settings}), line
    assert (settings.prompt, settings.seed) == ("a dancer", 7)
    assert settings.context_overlap < settings.context_frames


def test_there_are_a_few(empty_scene):
    names = [bpy.path.display_name(file.name) for file in SHIPPED]
    assert names == ["Draft", "Embedded Model 128 x 128", "Fast", "MuseV 512 x 512", "Quality"]


def test_the_artists_own_is_saved_applied_and_removed(empty_scene):
    settings = empty_scene.musev
    settings.width, settings.steps, settings.generate_at, settings.between = 320, 17, "RATE", "flow"
    settings.draft.use, settings.draft.share, settings.render.depth.use = True, 0.4, True
    for name, weight in (("ink", 0.7), ("chalk", -0.25)):
        loras.add(settings.extras, name, weight, use=weight > 0)
    settings.prompt = "a secret"
    settings.still_image = bpy.data.images.new("Still", 8, 8)
    before = values(settings)
    bpy.ops.musev.preset_add(name="My Look")
    text = (OWN / "My_Look.py").read_text(encoding="utf-8")
    assert "secret" not in text and "Still" not in text and "/" not in text
    fresh = bpy.data.scenes.new("Other")
    bpy.context.window.scene = fresh
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = fresh
    assert values(fresh.musev) != before
    apply("My Look")
    assert values(fresh.musev) == before and fresh.musev.render.depth.use and fresh.musev.prompt == ""
    bpy.ops.musev.preset_add(name="My Look", remove_name=True)
    assert not (OWN / "My_Look.py").exists()


def test_prompts_go_along_where_that_is_wished(empty_scene):
    empty_scene.musev.prompt, empty_scene.musev.negative_prompt = "rain, 'heavy'", "people"
    bpy.ops.musev.preset_add(name="Rain", include_prompts=True)
    empty_scene.musev.prompt = ""
    apply("Rain")
    assert (empty_scene.musev.prompt, empty_scene.musev.negative_prompt) == ("rain, 'heavy'", "people")
    bpy.ops.musev.preset_add(name="Rain", remove_name=True)


def test_what_came_along_is_not_removed(empty_scene):
    assert "stays" in refusal(lambda: bpy.ops.musev.preset_add(name="Quality", remove_name=True))
    apply("Fast")  # Blender writes its name over the menu
    assert "stays" in refusal(lambda: bpy.ops.musev.preset_add(remove_active=True))
    assert all(file.exists() for file in SHIPPED)


def test_the_clip_panels_header_has_them(empty_scene):
    layout = Layout([])
    ui.MUSEV_PT_clip.draw_header_preset(type("Fake", (), {"layout": layout})(), bpy.context)
    assert layout.drawn == ["popover"]
    bpy.context.window_manager.musev_preset_prompts = True
    assert presets.MUSEV_PT_presets.preset_add_operator_properties.fget(None) == {"include_prompts": True}
