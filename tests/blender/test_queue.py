"""Before and while clips are made: what Generate tells, the queue, previews, variations, jobs found again."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import bpy
import pytest
from bl_ext.user_default.musev import outlook, session, strips, ui
from bl_ext.user_default.musev.clips import stack, takes
from bl_ext.user_default.musev.engine_link import EngineState
from bl_ext.user_default.musev.making import job_files, live_picture
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.protocol import AskEstimate
from conftest import MODULE, pump
from fake_engine import colour
from test_extension import draw
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def rain(empty_scene):
    """Settings for a small text clip of frames 1 to 6."""
    settings = empty_scene.musev
    settings.mode, settings.prompt = "text", "rain"
    settings.width, settings.height = 64, 64
    empty_scene.frame_start, empty_scene.frame_end = 1, 6
    return settings


def sentence():
    return outlook.outlook(bpy.context.scene).sentence


def solid(text):
    """Without spaces: a panel breaks its lines anywhere."""
    return text.replace(" ", "")


def told_by(panel):
    return " ".join(draw(panel))


# --- before it happens ----------------------------------------------------------------------------


def test_the_sentence_says_what_generate_would_do(engine, rain):
    assert sentence() == "6 frames, 1 strip on channel 1, 24 fps"  # no engine, no time
    current = engine()
    sentence()
    pump(lambda: "about" in sentence())
    assert sentence() == "6 frames, 1 strip on channel 1, 24 fps, about 3 s"
    finish(generate(current))
    assert sentence().startswith("6 frames, one more take of the strip on channel 1")
    rain.new_strip, rain.variations = True, 3
    said = sentence()
    assert said.startswith("3 takes with seeds from 0, each of 6 frames, 1 strip on channel 2")
    assert "about 9 s" in said
    welcome = current.engine.client.welcome
    models = (dataclasses.replace(welcome.models[0], licence="MuseV research only"), *welcome.models[1:])
    current.engine.client.welcome = dataclasses.replace(welcome, models=models)
    assert sentence().endswith(", research-only weights")
    assert solid(sentence()) in solid(told_by(ui.MUSEV_PT_clip))


def test_a_strip_that_comes_outside_an_open_meta_strip_is_told_as_such(rain):
    scene = bpy.context.scene
    scene.sequence_editor_create()
    meta = strips._collection(scene).new_meta(name="Meta", channel=1, frame_start=100)
    scene.sequence_editor.display_stack(meta)
    assert sentence() == "6 frames, 1 strip on channel 1, outside the meta strip that is open, 24 fps"
    scene.sequence_editor.display_stack(None)
    assert sentence() == "6 frames, 1 strip on channel 1, 24 fps"


def test_the_estimate_is_asked_as_the_facts_change_and_never_by_drawing(engine, rain, monkeypatch):
    current = engine()
    pump(lambda: current.engine.client.menus)
    asked, send = [], current.engine.client.send

    def noted(message):
        if isinstance(message, AskEstimate):
            asked.append((time.monotonic(), message.request))
        send(message)

    monkeypatch.setattr(current.engine.client, "send", noted)
    draw(ui.MUSEV_PT_clip)
    assert asked == []
    pump(lambda: "about" in sentence())
    rain.prompt, rain.seed = "snow", 5  # no matter for the time
    assert "about 3 s" in sentence()
    for width in (72, 80, 88):
        rain.width = width
        draw(ui.MUSEV_PT_clip)
        current.tick()
    pump(lambda: "about" in sentence())
    assert [request.width for _, request in asked] == [64, 88]
    assert asked[1][0] - asked[0][0] >= 0.5


def test_what_does_not_fit_is_told_with_remedies_at_hand(engine, rain):
    engine("tight")
    rain.width, rain.height = 128, 128
    sentence()
    pump(lambda: outlook.outlook(bpy.context.scene).tight)
    told = outlook.outlook(bpy.context.scene)
    assert told.tight == "It needs about 4.0 GiB of memory, and 2.0 GiB are free on cpu."
    (remedy,) = told.remedies
    assert "musev.apply_remedy" in draw(ui.MUSEV_PT_clip)
    assert outlook.changes(remedy) == "width=64 height=64 context_frames=8"
    assert bpy.ops.musev.apply_remedy(changes=outlook.changes(remedy)) == {"FINISHED"}
    assert (rain.width, rain.height, rain.context_frames) == (64, 64, 8)
    pump(lambda: "about" in sentence())
    assert not outlook.outlook(bpy.context.scene).tight and "musev.apply_remedy" not in draw(ui.MUSEV_PT_clip)
    job = generate(session.current)
    assert (job.request.width, job.request.context_frames) == (64, 8)
    finish(job)
    for bad, words in {
        "": "No change is given",
        "depth=3": "'depth=3' is no change",
        "width=x": "'width=x'",
    }.items():
        assert words in refusal(lambda bad=bad: bpy.ops.musev.apply_remedy(changes=bad))


def test_generate_is_grey_and_the_panel_says_why(engine, rain):
    assert "press Start Engine first" in told_by(ui.MUSEV_PT_clip)
    engine()
    assert bpy.ops.musev.generate.poll() and "CANCEL" not in told_by(ui.MUSEV_PT_clip)
    for name, value, words in (
        ("width", 100, "Width must be a multiple of 8"),
        ("model", "absent", "The engine has no model 'absent' (it has: mini"),
        ("context_overlap", 12, "Overlap must be less than Window Length (12)"),
        ("mode", "still", "Choose a reference still."),
        ("mode", "pose", "No armature is set"),
        ("range", "PREVIEW", "The preview range is off"),
    ):
        before = getattr(rain, name)
        setattr(rain, name, value)
        assert not bpy.ops.musev.generate.poll(), name
        assert solid(words) in solid(told_by(ui.MUSEV_PT_clip))
        assert words in refusal(bpy.ops.musev.generate)
        setattr(rain, name, before)
    assert bpy.ops.musev.generate.poll() and session.current.jobs == []


# --- the queue ------------------------------------------------------------------------------------


def queued(current, rain, prompt, **how):
    rain.prompt = prompt
    bpy.ops.musev.generate(**how)
    job = current.jobs[-1]
    pump(lambda: job.accepted and job.id in (current.queue.running, *current.queue.waiting))
    return job


def order(current):
    names = {job.id: job.request.prompt for job in current.jobs}
    return [names[job] for job in (current.queue.running, *current.queue.waiting)]


def test_clips_go_to_the_back_the_front_or_replace_what_waits(engine, rain):
    current = engine("queue")
    first, second = queued(current, rain, "first"), queued(current, rain, "second")
    third = queued(current, rain, "third", place="front")
    assert order(current) == ["first", "third", "second"]
    assert [current.jobs_before(job) for job in (first, third, second)] == [None, 1, 2]
    assert "queued, 2 before it" in draw(ui.MUSEV_PT_jobs) and "musev.move" in draw(ui.MUSEV_PT_jobs)
    bpy.ops.musev.move(job=second.id, place="front")
    pump(lambda: order(current) == ["first", "second", "third"])
    bpy.ops.musev.move(job=second.id, place="back")
    pump(lambda: order(current) == ["first", "third", "second"])
    last = queued(current, rain, "last", place="replace")
    pump(lambda: second.ended and third.ended)
    assert order(current) == ["first", "last"] and third.problem == "A newer clip, last, took its place."
    assert not third.take.exists() and {first.owner, last.owner} == {job_files.owner()}
    assert "does not wait in the queue" in refusal(lambda: bpy.ops.musev.move(job=first.id))
    bpy.ops.musev.cancel(job=first.id)
    pump(lambda: current.queue.running == last.id)
    assert current.jobs_before(last) is None and "musev.move" not in draw(ui.MUSEV_PT_jobs)


def test_what_waits_here_is_replaced_too(engine, rain):
    current = session.current
    engine()
    bpy.ops.musev.generate()
    held = current.jobs[-1]
    bpy.ops.musev.generate(place="replace")  # before a tick has sent anything
    assert held.state is JobState.CANCELLED and not held.take.exists()
    assert finish(current.jobs[-1]).state is JobState.DONE


def test_a_failed_clip_is_tried_again_from_what_the_engine_has(engine, shot):  # noqa: F811
    current = engine("fail")
    job = finish(generate(current))
    assert job.retriable and not (job.take / takes.JOB).exists() and "musev.retry" in draw(ui.MUSEV_PT_jobs)
    bpy.ops.musev.retry(job=job.id)
    (again,) = current.jobs
    assert again.id != job.id and again.blobs == {} and again.request == job.request
    assert finish(again).state is JobState.DONE, again.problem
    assert takes.read_sidecar(again.take)["job"] == again.id and len(all_strips()) == 1
    assert "can't be tried again" in refusal(lambda: bpy.ops.musev.retry(job=again.id))


def test_the_owner_is_kept_in_the_file_whatever_is_undone(engine, rain, tmp_path):
    current = engine()
    bpy.ops.ed.undo_push(message="before")
    job = finish(generate(current))
    name = job.owner
    assert name and job_files.owner() == name
    bpy.ops.ed.undo()
    assert current.owner() == name
    bpy.data.scenes.new("Second")
    assert current.owner() == name and all(scene[job_files.KEY] == name for scene in bpy.data.scenes)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert current.owner() != name
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    assert current.owner() == name


# --- several seeds --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["back", "front"])
def test_variations_are_takes_of_one_strip_with_seeds_in_order(engine, shot, place):  # noqa: F811
    current = engine()
    shot.seed, shot.new_strip = 40, True
    bpy.ops.musev.generate(variations=3, place=place)
    jobs = sorted(current.jobs, key=lambda job: job.take)
    read = [job.captures[0] for job in jobs]
    pump(lambda: all(job.ended for job in jobs))
    assert [job.state for job in jobs] == [JobState.DONE] * 3, [job.problem for job in jobs]
    assert [takes.read_sidecar(job.take)["seed"] for job in jobs] == [40, 41, 42]
    assert [job.take.name for job in jobs] == ["take_001", "take_002", "take_003"]
    assert len(all_strips()) == 1 and len({job.request.poses for job in jobs}) == 1
    assert sorted(capture.done > 0 for capture in read) == [False, False, True]  # the rig is read once


def test_a_variation_reads_for_itself_where_the_first_was_cancelled(engine, shot):  # noqa: F811
    current = engine()
    shot.variations = 2
    bpy.ops.musev.generate()
    first, second = current.jobs
    bpy.ops.musev.cancel(job=first.id)
    assert finish(second).state is JobState.DONE and second.request.seed == first.request.seed + 1
    assert second.about["scene"]["still"]["pixels"] and "rig" in second.about["scene"]
    shot.seed = 2**31 - 1
    assert "would end with seed 2147483648" in refusal(bpy.ops.musev.generate)


# --- while it is made -----------------------------------------------------------------------------


def test_the_newest_preview_is_shown_and_let_go(engine, rain):
    current = engine("wait")
    before = set(Path(bpy.app.tempdir).glob("musev/preview_*.png"))
    job = generate(current)

    def red() -> int:
        picture = bpy.data.images.load(str(job.preview))
        assert tuple(picture.size) == (16, 16)
        return round(picture.pixels[0] * 255)

    pump(lambda: job.preview and job.step == 2 and red() == colour(2)[0])
    assert job.eta_s == 4 + 5  # of the whole clip
    shown = job.preview
    draw(ui.MUSEV_PT_jobs)
    assert live_picture.held() == 1 and "making the frames 2/6, 0:09 left" in draw(ui.MUSEV_PT_jobs)
    assert set(Path(bpy.app.tempdir).glob("musev/preview_*.png")) - before == {shown}
    bpy.ops.musev.cancel(job=job.id)
    draw(ui.MUSEV_PT_jobs)
    assert job.preview is None and not shown.exists() and live_picture.held() == 0


def test_the_next_blender_takes_up_the_engine_that_works_on_and_then_starts_its_own(
    engine, rain, monkeypatch
):
    from bl_ext.user_default.musev import engine_link

    monkeypatch.setattr(engine_link, "RECONNECT_S", 0.01)
    host = engine()
    running = host.engine.process
    file = running.log_path.with_name("engine.running")
    assert os.name == "nt" or file.stat().st_mode & 0o777 == 0o600
    guest = session.Session()
    session.current = guest
    try:
        bpy.ops.musev.engine_start()
        pump(lambda: guest.engine.state is EngineState.ON)
        assert guest.engine.process is None and guest.engine.client.url == host.engine.client.url
        running.kill()  # its file stays, as after a crash
        pump(lambda: guest.engine.process is not None and guest.engine.state is EngineState.ON)
        assert (
            guest.engine.client.url != running.greeting.url and finish(generate(guest)).state is JobState.DONE
        )
        guest.stop_engine()
        assert not file.exists()
        pump(lambda: not guest.engine.busy)
        file.write_text('{"url": "ws://192.0.2.7:80", "token": "x"}')  # not an engine's own
        guest.engine.start(list(running.command), file.parent)
        assert guest.engine.process is not None
        guest.stop_engine()
        pump(lambda: not guest.engine.busy)
    finally:
        session.current = host


# --- found again ----------------------------------------------------------------------------------


@pytest.fixture
def reopened(engine, rain, tmp_path):
    """A clip of a saved file, two frames along, and a second session that stands for a second Blender."""
    host = engine("pause")
    blend = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    job = generate(host)
    pump(lambda: len(job.have) == 2)
    host.leave()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    guest = session.Session()
    session.current = guest
    preferences = bpy.context.preferences.addons[MODULE].preferences
    (tmp_path / "token").write_text(host.engine.process.token)
    preferences.engine_url, preferences.token_file = host.engine.client.url, str(tmp_path / "token")
    yield guest, job, blend
    guest.engine.client.close()
    session.current = host
    preferences.engine_url = preferences.token_file = ""


def test_a_script_waits_for_the_clips_that_connecting_finds(reopened):
    guest, begun, blend = reopened
    bpy.ops.wm.open_mainfile(filepath=blend)
    guest.leave()  # as if the extension had been off by then
    bpy.ops.musev.engine_start()
    bpy.ops.musev.wait(at_most=60)
    (job,) = guest.jobs
    assert job.id == begun.id and job.state is JobState.DONE


def test_a_script_waits_for_what_a_slow_machine_has_not_looked_at_yet(reopened, monkeypatch):
    guest, begun, blend = reopened
    bpy.ops.wm.open_mainfile(filepath=blend)
    guest.leave()
    bpy.ops.musev.engine_start()
    pump_engine, clock, late = guest.engine.pump, time.perf_counter, 0.0

    def slow(budget_s):
        nonlocal late
        events = list(pump_engine(budget_s))
        late += len(events)  # seconds: this tick's time is over, and the next one takes them
        return events

    monkeypatch.setattr(guest.engine, "pump", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late)
    bpy.ops.musev.wait(at_most=60)
    (job,) = guest.jobs
    assert job.id == begun.id and job.state is JobState.DONE


def test_a_reopened_file_finds_its_job_and_places_the_clip(reopened):
    guest, begun, blend = reopened
    assert json.loads((begun.take / takes.JOB).read_text())["job"] == begun.id
    bpy.ops.wm.open_mainfile(filepath=blend)
    (job,) = guest.jobs
    assert (job.id, job.state, job.have, job.request) == (begun.id, JobState.HELD, {0, 1}, begun.request)
    bpy.ops.musev.engine_start()
    pump(lambda: guest.engine.state is EngineState.ON)
    assert guest.jobs == [job]  # once
    assert finish(job).state is JobState.DONE, job.problem
    (strip,) = all_strips()
    assert stack.shown(strip) == begun.take and len(strip.elements) == 6
    assert takes.read_sidecar(job.take)["seed"] == begun.request.seed
    assert not (job.take / takes.JOB).exists()


def test_it_is_found_on_connecting_and_by_a_renamed_file_and_by_no_other(reopened, tmp_path):
    guest, begun, blend = reopened
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "other.blend"))
    guest.find_jobs()
    assert guest.jobs == []
    begun_take = json.loads((begun.take / takes.JOB).read_text())
    (begun.take / takes.JOB).write_text(json.dumps(begun_take | {"owner": guest.owner()}))
    guest.find_jobs()
    assert guest.jobs == []  # the file that began it is still there
    Path(blend).unlink()
    bpy.ops.musev.engine_start()
    pump(lambda: guest.jobs)
    assert guest.jobs[0].id == begun.id
    begun.take.joinpath(takes.JOB).write_text("{")
    guest.jobs.clear()
    guest.find_jobs()
    assert guest.jobs == []


def test_a_job_that_the_engine_has_forgotten_says_so(reopened):
    guest, begun, blend = reopened
    record = json.loads((begun.take / takes.JOB).read_text())
    record["job"] = "00000000-0000-4000-8000-000000000000"
    record["request"] |= {"mode": "still", "still": "0" * 64}  # which only the Blender that is gone had
    (begun.take / takes.JOB).write_text(json.dumps(record))
    bpy.ops.wm.open_mainfile(filepath=blend)
    bpy.ops.musev.engine_start()
    (job,) = guest.jobs
    assert finish(job).state is JobState.FAILED and "No such job" in job.problem and not job.resumable
    assert not (job.take / takes.JOB).exists() and takes.frame_file(job.take, 1).exists()


def test_a_finished_clip_that_was_not_placed_needs_no_engine(reopened):
    guest, begun, blend = reopened
    for frame in range(6):
        takes.write_frame(begun.take, frame, takes.frame_file(begun.take, 0).read_bytes())
    takes.write_sidecar(begun.take, {"seed": 0})
    bpy.ops.wm.open_mainfile(filepath=blend)
    (job,) = guest.jobs
    assert finish(job).state is JobState.DONE and len(all_strips()) == 1
