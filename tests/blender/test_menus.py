"""What one may choose from is what the connected engine has; without one, what every engine has."""

from __future__ import annotations

import bpy
import pytest
from bl_ext.user_default.musev import props, session, ui
from conftest import pump
from test_extension import draw


def offered(text=""):
    """What the two fields' menus list for a typed text."""
    settings = bpy.context.scene.musev
    return (
        props.model_names(settings, bpy.context, text),
        props.schedule_names(settings, bpy.context, text),
    )


def test_without_an_engine_the_menus_are_the_built_in_ones(empty_scene, monkeypatch):
    monkeypatch.setattr(session.current, "engine", session.EngineLink())
    assert offered() == (["mini"], ["shifting", "uniform_v2", "uniform"])
    assert offered("V2") == ([], ["uniform_v2"])


def test_a_connected_engine_tells_its_own(engine):
    current = engine()
    pump(lambda: current.engine.client.menus)
    assert offered() == (["mini"], ["shifting", "pendulum"])  # a model that isn't there is no choice
    told = "".join(draw(ui.MUSEV_PT_engine)).replace(" ", "")  # over several lines
    assert "Leftout:by-hal:thewindowschedulelate:nomodule" in told


def test_what_is_chosen_is_asked_for(engine, empty_scene):
    current = engine()
    settings = empty_scene.musev
    settings.mode, settings.prompt = "text", "rain"
    settings.width, settings.height = 64, 64
    empty_scene.frame_start, empty_scene.frame_end = 1, 3
    settings.context_schedule = "pendulum"
    assert {"model", "context_schedule"} <= set(draw(ui.MUSEV_PT_clip))
    bpy.ops.musev.generate()
    job = current.jobs[-1]
    assert (job.request.model, job.request.context_schedule) == ("mini", "pendulum")
    pump(lambda: job.ended)
    settings.context_schedule = "no name!"
    with pytest.raises(RuntimeError, match="context_schedule"):
        bpy.ops.musev.generate()
