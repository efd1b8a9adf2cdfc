"""What becomes of clips that Blender is closed over, and of a file that two Blenders have open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bpy
import pytest
from bl_ext.user_default.musev import session, ui
from bl_ext.user_default.musev.clips import kept, takes
from bl_ext.user_default.musev.engine_link import EngineState
from bl_ext.user_default.musev.making import job_files
from bl_ext.user_default.musev.making.jobs import JobState
from conftest import MODULE, pump
from test_extension import draw
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)


@pytest.fixture
def saved(engine, shot, tmp_path):  # noqa: F811
    """A saved file with settings for a small pose clip of frames 5 to 16."""
    blend = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    yield engine, blend
    bpy.context.preferences.addons[MODULE].preferences.engine_url = ""


def without_engine(current) -> None:
    current.stop_engine()
    pump(lambda: not current.engine.busy)


def next_blender(current, blend: str) -> None:
    """The session of a Blender that opens the file after the first one has been closed."""
    current.leave()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    current.__init__()
    bpy.ops.wm.open_mainfile(filepath=blend)


def test_a_clip_that_was_not_read_is_told_of_and_asked_for_again(saved):
    engine, blend = saved
    current = engine()
    bpy.context.scene.musev.seed = 33
    bpy.ops.musev.generate(variations=2)
    seen = [job.take for job in current.jobs]
    pump(lambda: all(job.stage for job in current.jobs))
    assert {json.loads((take / takes.JOB).read_text())["stage"] for take in seen} == {"reading"}
    current.leave()
    without_engine(current)
    next_blender(current, blend)
    assert bpy.context.scene.musev.seed == 0  # it was not saved
    first, second = current.jobs
    for job in (first, second):
        assert job.state is JobState.FAILED and "still reading the scene" in job.problem
    assert "musev.generate_again" in draw(ui.MUSEV_PT_jobs)
    engine()
    assert bpy.ops.musev.generate_again(job=first.id) == {"FINISHED"}
    again = current.jobs[-1]
    assert finish(again).state is JobState.DONE, again.problem
    assert (again.request.seed, again.start, again.request.num_frames) == (33, 5, 12)
    assert bpy.context.scene.musev.seed == 0 and len(all_strips()) == 1
    assert not (first.take / takes.JOB).exists() and current.jobs == [second, again]
    assert "The scene was read" in refusal(lambda: bpy.ops.musev.generate_again(job=again.id))
    bpy.ops.musev.clear()
    assert current.jobs == [] and not second.take.exists()
    current.find_jobs()
    assert current.jobs == []


def test_a_clip_that_no_engine_had_is_made_by_the_next_blender(saved):
    engine, blend = saved
    current = engine()
    begun = generate(current)
    without_engine(current)
    pump(lambda: begun.stage == "kept")
    wanted = set(begun.request.blobs)
    assert kept.prune(begun.take.parent) == (0, 0)  # job.json names them
    assert wanted and {path.name for path in (begun.take.parent / kept.INPUTS).iterdir()} == wanted
    next_blender(current, blend)
    (job,) = current.jobs
    assert (job.id, job.state, job.blobs, job.request) == (begun.id, JobState.HELD, {}, begun.request)
    engine()
    assert finish(job).state is JobState.DONE, job.problem
    assert takes.read_sidecar(job.take)["job"] == begun.id and len(all_strips()) == 1


def test_closing_keeps_what_was_read_and_not_sent(saved):
    engine, blend = saved
    current = engine()
    begun = generate(current)
    while begun.captures:
        begun.capture(float("inf"))
    assert begun.state is JobState.HELD and begun.stage == ""
    current.leave()
    without_engine(current)
    next_blender(current, blend)
    (job,) = current.jobs
    assert job.id == begun.id and job.has_inputs and job.stage == "kept"
    bpy.ops.musev.cancel(job=job.id)
    assert [path for path in job.take.parent.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(os.name == "nt", reason="another process is killed by a signal")
def test_the_lock_of_a_blender_that_was_killed_is_open(tmp_path):
    file = tmp_path / "take_001.lock"
    holds = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{holds}; time.sleep(600)", str(file)], stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    assert job_files.lock(file) is None
    holder.kill()
    holder.wait()
    os.close(job_files.lock(file))


def test_of_two_blenders_one_has_the_clip(saved):
    engine, _ = saved
    host = engine("wait")
    begun = generate(host)
    pump(lambda: len(begun.have) == 2)
    guest = session.Session()
    session.current = guest
    try:
        guest.find_jobs()
        assert guest.jobs == []  # the other one lives
        host.leave()
        guest.find_jobs()
        (job,) = guest.jobs
        assert (job.id, job.have) == (begun.id, {0, 1})
        guest.find_jobs()
        assert guest.jobs == [job]
        assert job_files.lock(begun.take.with_name("take_001.lock")) is None
        guest.cancel(job.id)
        assert not list(Path(begun.take.parent).glob("*.lock"))
    finally:
        session.current = host
    assert host.engine.state is EngineState.ON
