"""Reading the scene in slices: one clip at a time, everything put back, whatever happens on the way."""

from __future__ import annotations

import gc
import uuid

import bpy
import pytest
from bl_ext.user_default.musev import session
from bl_ext.user_default.musev.making.jobs import Job, JobState
from bl_ext.user_default.musev.protocol import ClipRequest
from conftest import MODULE
from test_generate import finish, generate, shot  # noqa: F401 (a fixture)


class Reading:
    """A capture of three slices that notes what is done with it."""

    phase = "reading"
    total = 3

    def __init__(self, error: Exception | None = None):
        self.done, self.cancelled, self.error = 0, 0, error

    def advance(self, deadline):
        if self.error:
            raise self.error
        self.done += 1
        return self.done == self.total

    def finish(self, request):
        return request, {}

    def cancel(self):
        self.cancelled += 1


@pytest.fixture
def current(empty_scene, monkeypatch):
    fresh = session.Session()
    monkeypatch.setattr(session, "current", fresh)
    return fresh


def job(tmp_path, *captures):
    take = tmp_path / str(uuid.uuid4())
    take.mkdir()
    return Job(
        str(uuid.uuid4()), "Rain", "Scene", 1, take, ClipRequest(mode="text"), {}, captures=list(captures)
    )


def test_one_clip_at_a_time_is_read(current, tmp_path):
    one, other, plain = job(tmp_path, Reading(), Reading()), job(tmp_path, Reading()), job(tmp_path)
    seen = []
    for each in (one, other, plain):
        current.submit(each)
    while other.state is JobState.CAPTURING:
        captures = [*one.captures[:1], *other.captures]
        before = [capture.done for capture in captures]
        current.tick()
        seen.append(sum(capture.done != was for capture, was in zip(captures, before, strict=True)))
        assert one.state is not JobState.CAPTURING or other.captures[0].done == 0
    assert [count for count in seen if count] == [1] * 9 and one.state is other.state is JobState.HELD


def test_cancel_puts_back_what_is_being_read(current, tmp_path):
    first, second = Reading(), Reading()
    reading = job(tmp_path, first, second)
    current.submit(reading)
    while not second.done:
        current.tick()
    assert (first.cancelled, second.done, second.cancelled) == (1, 1, 0)  # the first one is through
    current.cancel(reading.id)
    assert (first.cancelled, second.cancelled) == (1, 1) and reading.captures == []
    assert reading.state is JobState.CANCELLED and not reading.take.exists()


def test_a_bug_costs_its_clip_and_is_said(current, tmp_path, capsys):
    broken, later = Reading(ZeroDivisionError("0 bones")), Reading()
    bad, good = job(tmp_path, broken, later), job(tmp_path, Reading())
    current.submit(bad)
    current.submit(good)
    while not bad.ended or good.state is JobState.CAPTURING:
        current.tick()
    assert bad.state is JobState.FAILED and "ZeroDivisionError('0 bones')" in bad.problem
    assert (broken.cancelled, later.cancelled) == (1, 1) and not bad.take.exists()
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert good.state is JobState.HELD


def test_a_clip_whose_scene_is_gone_ends_and_says_so(engine, shot):  # noqa: F811
    current = engine()
    bpy.context.scene.frame_end = 4000
    reading = generate(current)
    current.tick()
    kept = bpy.data.scenes.new("Other")
    bpy.context.window.scene = kept
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = kept
    bpy.data.scenes.remove(bpy.data.scenes["Scene"])
    finish(reading)
    assert reading.state is JobState.FAILED and "Scene 'Scene' is no longer in this file" in reading.problem
    assert not reading.take.exists()


def test_taking_the_extension_away_puts_back_what_is_being_read(current, tmp_path):
    capture = Reading()
    current.submit(job(tmp_path, capture))
    current.tick()
    bpy.ops.preferences.addon_disable(module=MODULE)
    try:
        assert capture.cancelled == 1
    finally:
        bpy.ops.preferences.addon_enable(module=MODULE)


def test_ticks_are_short_while_the_rig_is_read(engine, shot):  # noqa: F811
    current = engine()
    bpy.context.scene.frame_end = 1000
    before = bpy.context.scene.frame_current
    reading = generate(current)
    slices = 0
    while reading.state is JobState.CAPTURING:
        current.tick()
        slices += 1
        assert bpy.context.scene.frame_current == before
    print(f"\n996 frames in {slices} slices, longest tick {current.longest_tick_s * 1e3:.1f} ms")
    assert slices > 1
    bpy.ops.musev.cancel(job=reading.id)


def test_what_changes_all_the_time_is_drawn_ten_times_a_second(monkeypatch):
    now, drawn = [100.0], []
    monkeypatch.setattr(session, "redraw", lambda: drawn.append(round(now[0], 2)))
    monkeypatch.setattr(session, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: now[0])}))
    monkeypatch.setattr(session, "_to_draw", False)
    monkeypatch.setattr(session, "_drawn_at", 0.0)
    waits = []
    for tick in range(30):
        now[0] = 100 + 0.02 * tick
        waits.append(session._draw(tick <= 11))  # the last change is drawn too, when its time has come
    assert drawn == [100.0, 100.1, 100.2, 100.3] and waits[14] and not waits[15] and not any(waits[15:])


def test_a_clip_leaves_python_little_to_look_through(engine, shot):  # noqa: F811
    """What ticks leave behind decides how often Python stops Blender to look for garbage."""
    current = engine()
    bpy.context.scene.frame_end = 124
    finish(generate(current))  # the first one has imports and caches on its account
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        job = finish(generate(current))
        left = len(gc.get_objects()) - before
    finally:
        gc.enable()
    assert job.state is JobState.DONE and len(job.have) == 120 and left < 10 * 120
