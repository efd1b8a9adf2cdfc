"""What one may choose from is what the connected engine has; without one, what every engine has."""

from __future__ import annotations

import bpy
import pytest
from bl_ext.user_default.musev import props, session, ui
from conftest import pump
from test_extension import draw


def offered(text=""):
    """What the menus of model, windows and predictor list for a typed text."""
    settings = bpy.context.scene.musev
    return (
        props.model_names(settings, bpy.context, text),
        props.plugin_names("window_schedules")(settings, bpy.context, text),
        props.plugin_names("predictors")(settings, bpy.context, text),
    )


def test_without_an_engine_the_menus_are_the_built_in_ones(empty_scene, monkeypatch):
    monkeypatch.setattr(session.current, "engine", session.EngineLink())
    assert offered() == (["mini"], ["shifting", "uniform_v2", "uniform"], ["musev"])
    assert offered("v") == ([], ["uniform_v2"], ["musev"]) and offered("V2")[1] == ["uniform_v2"]
    assert "predictor" not in draw(ui.MUSEV_PT_clip)  # nothing to choose


def test_a_connected_engine_tells_its_own(engine):
    current = engine()
    pump(lambda: current.engine.client.menus)
    assert offered() == (["mini"], ["shifting", "pendulum"], ["musev", "other"])  # no absent model
    told = "".join(draw(ui.MUSEV_PT_engine)).replace(" ", "")  # over several lines
    assert "Leftout:by-hal:thewindowschedulelate:nomodule" in told


def test_what_is_chosen_is_asked_for(engine, empty_scene):
    current = engine()
    settings = empty_scene.musev
    settings.mode, settings.prompt = "text", "rain"
    settings.width, settings.height = 64, 64
    empty_scene.frame_start, empty_scene.frame_end = 1, 3
    settings.context_schedule, settings.predictor = "pendulum", "other"
    assert {"model", "context_schedule", "predictor"} <= set(draw(ui.MUSEV_PT_clip))
    bpy.ops.musev.generate()
    job = current.jobs[-1]
    asked = job.request
    assert (asked.model, asked.context_schedule, asked.predictor) == ("mini", "pendulum", "other")
    pump(lambda: job.ended)
    settings.context_schedule = "no name!"
    with pytest.raises(RuntimeError, match="Windows is not"):
        bpy.ops.musev.generate()
