"""What stands in the way of a clip has a button that removes it, and the button does."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import remedies, session, ui
from bl_ext.user_default.musev.making.jobs import Job, JobState
from bl_ext.user_default.musev.protocol import ClipRequest, Problem
from bl_ext.user_default.musev.rig import people, pose
from conftest import MODULE, pump
from rigs import RIGIFY_METARIG, figure
from test_extension import Layout, draw
from test_generate import finish, generate, refusal, shot  # noqa: F401 (a fixture)


def buttons(found) -> list[tuple]:
    return [(button.operator, *button.properties.values()) for button in found]


def wanting() -> list[str]:
    return [button.operator for button in remedies.for_settings(bpy.context)]


def failed(code: str, value: str = "", remedy: str = "", **facts) -> Job:
    request = ClipRequest(mode="text", width=200, height=64)
    cause = Problem(code, "It failed", value, remedy)
    return Job(
        "id", "Rain", "Scene", 1, Path("take_001"), request, {}, state=JobState.FAILED, cause=cause, **facts
    )


@pytest.fixture
def unsaved(empty_scene, engine):
    """A new file, nothing set, no engine, and no folder for takes."""
    preferences = bpy.context.preferences.addons[MODULE].preferences
    was, preferences.output_folder = preferences.output_folder, ""
    yield empty_scene
    preferences.output_folder = was


def test_each_button_goes_when_it_has_done_its_work(unsaved, engine, tmp_path):
    assert wanting() == ["musev.engine_start", "musev.characters_find", "wm.save_as_mainfile"]
    rig = figure(RIGIFY_METARIG, "Dancer")
    bpy.ops.musev.characters_find()
    assert [item.armature for item in unsaved.musev.people] == [rig]
    assert wanting() == ["musev.engine_start", "musev.camera_use", "wm.save_as_mainfile"]
    bpy.ops.musev.camera_use()
    assert unsaved.camera is not None and wanting() == ["musev.engine_start", "wm.save_as_mainfile"]
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert wanting() == ["musev.engine_start"]
    engine()
    assert wanting() == [] and finish(generate(session.current)).state is JobState.DONE


def test_a_size_that_is_no_multiple_has_the_next_one_as_a_button(engine, shot):  # noqa: F811
    engine()
    shot.width, shot.height = 100, 64
    (button,) = remedies.for_settings(bpy.context)
    assert button.text == "104 x 64" and "musev.apply_remedy" in draw(ui.MUSEV_PT_clip)
    bpy.ops.musev.apply_remedy(**button.properties)
    assert (shot.width, shot.height) == (104, 64) and remedies.for_settings(bpy.context) == []


def test_the_buttons_stand_in_the_panel(unsaved, monkeypatch):
    assert {"musev.engine_start", "musev.characters_find", "wm.save_as_mainfile"} <= set(
        draw(ui.MUSEV_PT_clip)
    )
    monkeypatch.setattr(session.current, "jobs", [failed("out_of_memory", problem="Not enough memory.")])
    assert "musev.size_lower" in draw(ui.MUSEV_PT_jobs)


def test_the_added_camera_sees_the_whole_rig(unsaved):
    rig = figure(RIGIFY_METARIG, "Dancer")
    rig.location, rig.rotation_euler, rig.scale = (3, -5, 1), (0, 0, 0.4), (2, 2, 2)
    unsaved.musev.armature = rig
    bpy.context.view_layer.update()
    bpy.ops.musev.camera_use()
    points = pose.keypoints(unsaved, [people.resolve(rig)], unsaved.camera.name, 64, 64, [1])[0, 0, :18]
    seen = points[points[:, 2] > 0][:, :2]
    assert len(seen) >= 14 and np.all((seen > 0) & (seen < 64))
    assert np.ptp(seen[:, 1]) > 30  # and it isn't a dot


def test_a_camera_that_is_there_is_used(unsaved):
    unsaved.musev.armature = figure(RIGIFY_METARIG, "Dancer")
    for name in ("Wide", "Close"):
        unsaved.collection.objects.link(bpy.data.objects.new(name, bpy.data.cameras.new(name)))
    assert "Close, Wide" in refusal(lambda: bpy.ops.musev.camera_use(camera="Top")) and unsaved.camera is None
    bpy.ops.musev.camera_use()
    assert unsaved.camera.name == "Close" and len(bpy.data.cameras) == 2
    bpy.ops.musev.camera_use(camera="Wide")
    assert unsaved.camera.name == "Wide"


def test_a_full_memory_offers_half_the_size(engine, shot):  # noqa: F811
    shot.width, shot.height = 200, 64
    job = finish(generate(engine("fail")))
    assert job.cause.code == "out_of_memory"
    assert buttons(remedies.for_job(job)) == [("musev.size_lower", job.id)]
    shot.width = 512
    bpy.ops.musev.size_lower(job=job.id)  # of the clip that failed, whatever is set since
    assert (shot.width, shot.height) == (96, 64)
    bpy.ops.musev.size_lower()
    assert (shot.width, shot.height) == (64, 64)
    assert "smallest" in refusal(bpy.ops.musev.size_lower)


def test_a_missing_model_is_offered_by_its_id(engine):
    current = engine()
    pump(lambda: current.shelf.models)
    words = "Run: musev models download moves"
    assert buttons(remedies.for_job(failed("missing_model", "the folder", words))) == [
        ("musev.model_download", "moves")
    ]
    assert buttons(remedies.for_job(failed("missing_model", "words"))) == [("musev.model_download", "words")]
    assert remedies.for_job(failed("missing_model", "base")) == []  # it is installed: another one is missing
    assert remedies.for_job(failed("missing_model", "unheard-of", "Put it there.")) == []
    bpy.context.scene.musev.mode = "text"
    bpy.context.scene.musev.model = "moves.base"
    assert buttons(remedies.for_settings(bpy.context)) == [("musev.model_download", "moves")]
    bpy.context.scene.musev.model = "mini"
    assert remedies.for_settings(bpy.context) == []


def test_only_failures_that_a_verb_helps_against_have_a_button(unsaved):
    assert remedies.for_job(failed("bad_image")) == [] and remedies.for_job(failed("no_poses"))
    done = failed("out_of_memory")
    done.state = JobState.DONE
    assert remedies.for_job(done) == []


def test_every_buttons_operator_takes_its_properties(unsaved):
    drawn = Layout([])
    remedies.draw(drawn, list(remedies.BY_CODE.values()))
    assert drawn.drawn == [button.operator for button in remedies.BY_CODE.values()]
    assert {"job"} <= set(bpy.ops.musev.size_lower.get_rna_type().properties.keys())
    assert {"model"} <= set(bpy.ops.musev.model_download.get_rna_type().properties.keys())
