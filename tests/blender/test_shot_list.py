"""Many strips as one batch: what each becomes, what is told before, what is made, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import forecast, session, strips
from bl_ext.user_default.musev.clips import kept, stack, takes
from bl_ext.user_default.musev.making import job_inputs
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.protocol import MAX_FRAMES, Estimate, PoseTrack
from bl_ext.user_default.musev.rig import people as rig_people
from bl_ext.user_default.musev.rig import pose
from bl_ext.user_default.musev.shots import shot, shot_list, shot_record, shot_verbs
from bl_ext.user_default.musev.weights import loras
from conftest import pump
from montage import Montage, strips_of
from rigs import RIGIFY_METARIG, camera, figure
from test_extension import draw
from test_generate import all_strips, refusal
from test_queue import order, solid

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def board(empty_scene, tmp_path):
    """A timeline at 24 fps, and settings for small text clips."""
    settings = empty_scene.musev
    settings.mode, settings.prompt, settings.seed = "text", "as the panel says", 7
    settings.width, settings.height = 64, 64
    return Montage(empty_scene, tmp_path)


def words(board, text, start, length=6, channel=1):
    strip = board.effect("TEXT", channel, start=start, length=length, name=text or "silent")
    strip.text = text
    strip.select = True
    return strip


def plan(new_seeds=True):
    return shot_list.plan(bpy.context.scene, new_seeds)


def generate_each(current, **how):
    before = list(current.jobs)
    assert bpy.ops.musev.generate_each(**how) == {"FINISHED"}
    return [job for job in current.jobs if job not in before]


def ended(jobs):
    pump(lambda: all(job.ended for job in jobs))
    return jobs


def select(*chosen):
    for strip in strips.every_strip(bpy.context.scene):
        strip.select = strip in chosen


def newest_list():
    (root,) = {job.take.parent.parent for job in session.current.jobs}
    return shot_record.read(shot_record.found([root])[0])


# --- what each strip becomes ----------------------------------------------------------------------


def test_each_kind_of_strip_gives_what_it_has(board):
    settings = bpy.context.scene.musev
    words(board, "a cat", 20)
    strips_ = [
        board.image(1, 1, "portrait", count=1), board.image(2, 1, "sequence"), board.movie(3, 1),
        board.colour(4, (1, 0, 0), start=40, name="red"),
    ]  # fmt: skip
    meta = strips_of(board.editor).new_meta(name="meta", channel=5, frame_start=50)
    board.colour(1, (0, 1, 0), start=50, name="inside", holder=meta)
    for strip in (*strips_, meta):
        strip.select = True
    planned = {each.strip: each for each in plan()}
    assert list(planned) == ["portrait", "sequence", "movie", "a cat", "red", "meta"]  # as they play
    assert not [each.why_not for each in planned.values() if each.why_not]
    said = {name: (p.request.mode, p.request.prompt, p.request.num_frames) for name, p in planned.items()}
    panel = settings.prompt
    assert said["a cat"] == ("text", "a cat", 6)
    assert said["portrait"] == ("still", panel, strips.span(strips_[0])[1] - 1)
    assert {said[name][:2] for name in ("sequence", "movie", "red", "meta")} == {("video", panel)}
    assert planned["portrait"].shot.still_at == 1 and planned["portrait"].request.still
    assert all(each.request.seed == 7 for each in planned.values())
    sources = {name: planned[name].shot.settings.source for name in ("sequence", "movie", "red", "meta")}
    assert {name: (source.choice, source.strip) for name, source in sources.items()} == {
        name: ("STRIP", name) for name in sources
    }
    assert planned["red"].span == (40, 48)
    assert (settings.mode, settings.prompt, settings.source.strip) == ("text", panel, "")  # as they were


def test_words_and_pictures_keep_to_the_rig_where_the_panel_does(board):
    settings = bpy.context.scene.musev
    figure(RIGIFY_METARIG, "Dancer")
    camera()
    settings.mode, settings.armature = "pose", bpy.data.objects["Dancer"]
    words(board, "a cat", 20)
    board.image(1, 1, "portrait", count=1).select = True
    portrait, cat = plan()
    assert (portrait.request.mode, cat.request.mode, cat.request.prompt) == ("pose", "pose", "a cat")
    assert portrait.request.still and not cat.request.still


def test_what_can_not_become_a_clip_is_named_and_the_others_stay(board):
    settings = bpy.context.scene.musev
    words(board, "fine", 1)
    words(board, "", 10)
    words(board, "endless", 20, length=MAX_FRAMES + 2)
    a, b = board.colour(2, (1, 0, 0), name="a"), board.colour(3, (1, 0, 0), name="b")
    board.effect("GAMMA_CROSS", 4, a, b, name="cross").select = True
    a.select = b.select = False
    why = {each.strip: each.why_not for each in plan()}
    assert why["fine"] == "" and "says nothing" in why["silent"]
    assert "2 frames too long" in why["endless"] and str(MAX_FRAMES) in why["endless"]
    assert "effect on other strips" in why["cross"]
    settings.mode = "still"
    assert "Choose a reference still." in plan()[0].why_not
    settings.mode = "video"
    assert "would be the selected strips" in plan()[0].why_not
    settings.source.choice, settings.source.strip = "STRIP", "a"
    assert plan()[0].why_not == "" and plan()[0].request.source
    settings.mode, settings.model = "text", "absent"
    assert plan()[0].why_not == ""  # no engine has told what it has


def test_no_more_clips_than_an_engine_takes(board, monkeypatch):
    monkeypatch.setattr(shot_list, "MAX_WAITING", 2)
    for number, text in enumerate(("one", "", "two", "three")):
        words(board, text, 10 * number + 1)
    assert [bool(each.why_not) for each in plan()] == [False, True, False, True]
    assert "2 clips at most" in plan()[3].why_not


def test_a_panel_tells_it_before_it_happens(engine, board, monkeypatch):
    monkeypatch.setattr(shot_list, "LOOK_S", 60.0)  # however slow the machine is, all at one drawing
    words(board, "one", 1)
    words(board, "two", 7, length=12)
    words(board, "", 30)
    told = shot_list.told(bpy.context.scene, True)
    assert told.sentence == "2 clips, 18 frames" and [name for name, _ in told.refused] == ["silent"]
    assert "press Start Engine first" in refusal(bpy.ops.musev.generate_each)
    current = engine()
    pump(lambda: "about" in shot_list.told(bpy.context.scene, True).sentence)
    assert shot_list.told(bpy.context.scene, True).sentence == "2 clips, 18 frames, about 9 s"
    drawn = " ".join(draw(shot_verbs.MUSEV_PT_shots))
    assert "musev.generate_each" in drawn and solid("about 9 s") in solid(drawn)
    assert solid("silent: It says nothing") in solid(drawn)
    bpy.context.scene.musev.model = "absent"
    pump(lambda: not shot_list.told(bpy.context.scene, True).sentence)
    assert "no model 'absent'" in refusal(bpy.ops.musev.generate_each) and current.jobs == []
    select()
    assert "0 strips are selected" in refusal(bpy.ops.musev.generate_each)
    assert solid("Select the strips") in solid(" ".join(draw(shot_verbs.MUSEV_PT_shots)))


def test_estimates_of_several_clips_are_asked_for_once_each():
    class Client:
        def __init__(self):
            self.asked = []

        def send(self, message):
            self.asked.append(message)

    from bl_ext.user_default.musev.protocol import ClipRequest

    client, ours = Client(), forecast.Forecast()
    requests = [forecast.facts(ClipRequest(mode="text", num_frames=n, prompt=str(n))) for n in (6, 12, 6)]
    assert ours.look_each(requests) == [None, None, None]
    ours.ask(client)
    ours.ask(client)
    assert [message.request.num_frames for message in client.asked] == [6, 12]
    for message in client.asked:
        ours.take(Estimate(message.number, message.request.num_frames / 2, (), 0.0, 10.0, None, "cpu", 3, ()))
    assert [each.seconds for each in ours.look_each(requests)] == [3.0, 6.0, 3.0]
    ours.doubt()  # the old ones stand until there are new ones
    assert [each.seconds for each in ours.look_each(requests)] == [3.0, 6.0, 3.0]
    ours.forget()
    assert ours.look_each(requests) == [None, None, None]


def test_many_strips_are_looked_at_some_at_each_drawing(engine, board, monkeypatch):
    for number in range(5):
        words(board, f"shot {number}", 10 * number + 1)
    words(board, "", 100)
    monkeypatch.setattr(shot_list, "LOOK_S", 0.0)  # one at a drawing
    told = [shot_list.told(bpy.context.scene, True) for _ in range(6)]
    assert [each.sentence for each in told[:2]] == [
        "1 clip, 6 frames, and 5 more strips",
        "2 clips, 12 frames, and 4 more strips",
    ]
    assert told[4].sentence == "5 clips, 30 frames, and 1 more strips" and told[4].refused == ()
    assert told[5].sentence == "5 clips, 30 frames" and [name for name, _ in told[5].refused] == ["silent"]
    assert bpy.app.timers.is_registered(session.redraw)  # so that there were further drawings
    monkeypatch.setattr(shot_list, "KEPT_FOR", 0)
    shot_list._recent.until = 0.0
    # What was told stands until all are looked at anew.
    assert shot_list.told(bpy.context.scene, True) == told[5]
    words(board, "another", 200)
    assert shot_list.told(bpy.context.scene, True).sentence == "1 clip, 6 frames, and 6 more strips"
    bpy.app.timers.unregister(session.redraw)


# --- the clips ------------------------------------------------------------------------------------


def test_every_strip_becomes_a_clip_at_its_place(engine, board):
    current = engine()
    for number, text in enumerate(("first", "second", "third")):
        words(board, text, 10 + 8 * number)
    words(board, "", 50)
    jobs = ended(generate_each(current, name="Night"))
    assert [job.state for job in jobs] == [JobState.DONE] * 3, [job.problem for job in jobs]
    assert [job.request.prompt for job in jobs] == ["first", "second", "third"]
    clips = {s.musev.clip: strips.span(s) for s in all_strips() if stack.is_ours(s)}
    assert clips == {"first": (10, 16), "second": (18, 24), "third": (26, 32)}
    shots = newest_list()
    assert shots.name == "Night" and shots.file.parent.name == shot_record.FOLDER
    assert [(e.label, e.outcome, e.frame_start, e.frames) for e in shots.entries] == [
        ("first", "done", 10, 6), ("second", "done", 18, 6), ("third", "done", 26, 6), ("silent", "refused", 50, 6),
    ]  # fmt: skip
    assert "says nothing" in shots.entries[3].problem and shots.folder(shots.entries[3]) is None
    assert [shots.folder(entry) for entry in shots.entries[:3]] == [job.take for job in jobs]
    told = takes.read_sidecar(jobs[1].take)["inputs"]["shot"]
    assert told["list"] == "Night" and told["number"] == 2 and told["label"] == "second"
    assert (jobs[1].take / told["file"]).resolve() == shots.file.resolve()
    assert {s.name for s in all_strips() if s.select} == {
        "first",
        "second",
        "third",
        "silent",
    }  # as they were
    again = ended(generate_each(current))  # the next night: one more take each
    assert [job.take.name for job in again] == ["take_002"] * 3
    assert len([s for s in all_strips() if stack.is_ours(s)]) == 3


def test_a_failure_does_not_stop_the_next(engine, board):
    current = engine("fail_some")
    for number, text in enumerate(("first", "this one fails", "third")):
        words(board, text, 10 + 8 * number)
    jobs = ended(generate_each(current))
    assert [job.state for job in jobs] == [JobState.DONE, JobState.FAILED, JobState.DONE]
    entries = newest_list().entries
    assert [entry.outcome for entry in entries] == ["done", "failed", "done"]
    assert "The GPU is full" in entries[1].problem and "Use a smaller size" in entries[1].problem
    assert "musev.retry_each" in draw(shot_verbs.MUSEV_PT_shots)
    assert bpy.ops.musev.retry_each() == {"FINISHED"}
    ended(current.jobs)
    entries = newest_list().entries
    assert [entry.outcome for entry in entries] == ["done"] * 3 and entries[1].problem == ""
    assert newest_list().folder(entries[1]) == current.jobs[1].take
    assert "failed at none" in refusal(bpy.ops.musev.retry_each)


@pytest.mark.parametrize("place", ["back", "front", "replace"])
def test_they_come_in_the_queue_where_that_is_wished(engine, board, place):
    current = engine("queue")
    for text in ("running", "waiting"):
        bpy.context.scene.musev.prompt = text
        bpy.ops.musev.generate()
        pump(lambda: current.jobs[-1].state in (JobState.QUEUED, JobState.RUNNING))
    words(board, "one", 100)
    words(board, "two", 110)
    jobs = generate_each(current, place=place)
    pump(lambda: all(job.accepted for job in jobs))
    pump(lambda: len(current.queue.waiting) == (2 if place == "replace" else 3))
    expected = {
        "back": ["running", "waiting", "one", "two"], "front": ["running", "one", "two", "waiting"],
        "replace": ["running", "one", "two"],
    }  # fmt: skip
    assert order(current) == expected[place]


def test_the_poses_of_each_are_read_at_its_own_range_whatever_the_artist_does(engine, board):
    scene = bpy.context.scene
    figure(RIGIFY_METARIG, "Dancer")
    camera()
    scene.musev.mode, scene.musev.armature = "pose", bpy.data.objects["Dancer"]
    current = engine("wait")
    words(board, "first", 3)
    words(board, "second", 11, length=4)
    scene.frame_set(2)
    jobs = generate_each(current)
    assert jobs[0].like is None and jobs[1].like is None
    scene.musev.prompt, scene.musev.mode = "changed meanwhile", "text"
    select()
    pump(lambda: all(job.request.poses in job.blobs for job in jobs))
    dancer = rig_people.resolve(bpy.data.objects["Dancer"])
    for job, times in zip(jobs, (range(3, 9), range(11, 15)), strict=True):
        track = PoseTrack.from_bytes(job.blobs[job.request.poses])
        truth = pose.keypoints(scene, [dancer], "Camera", 64, 64, list(times))
        assert np.frombuffer(track.points, "<f4").reshape(track.shape) == pytest.approx(truth)
    assert [job.request.prompt for job in jobs] == ["first", "second"] and scene.frame_current == 2


def test_what_was_read_is_not_all_held_in_memory(engine, board, monkeypatch):
    monkeypatch.setattr(job_inputs, "HELD_BYTES", 1000)
    current = engine("queue")
    bpy.context.scene.musev.mode = "text"
    for number in range(3):
        board.image(1, 1 + 40 * number, f"plate{number}", count=4).select = True
    for strip in all_strips():
        strips.set_span(strip, strips.span(strip)[0], strips.span(strip)[0] + 4)
    jobs = generate_each(current)
    most = 0

    def accepted():
        nonlocal most
        most = max(most, sum(bool(job.blobs) for job in jobs))
        return all(job.accepted for job in jobs)

    pump(accepted)
    assert most <= 2  # the one that is read, and one that goes
    gone = [job for job in jobs if not job.blobs]
    assert gone and all(job.has_inputs for job in jobs)
    for job in gone:
        assert kept.read(job.take.parent, job.request.blobs).keys() == set(job.request.blobs)
        assert job.about[kept.KEY].keys() == set(job.request.blobs)


def test_inputs_that_went_to_the_disk_serve_as_before(engine, board, monkeypatch):
    monkeypatch.setattr(job_inputs, "HELD_BYTES", 1000)
    current = engine()
    for number in range(2):
        board.image(1, 1 + 40 * number, f"plate{number}", count=4).select = True
    for strip in all_strips():
        strips.set_span(strip, strips.span(strip)[0], strips.span(strip)[0] + 4)
    jobs = ended(generate_each(current))
    assert [job.state for job in jobs] == [JobState.DONE] * 2, [job.problem for job in jobs]
    for job in jobs:
        told = takes.read_sidecar(job.take)["inputs"][kept.KEY]
        found = kept.read(job.take.parent, job.request.blobs)
        assert told == {name: len(blob) for name, blob in found.items()}


def test_a_text_with_a_shot_a_line_becomes_strips_and_these_clips(engine, board):
    scene = bpy.context.scene
    board.colour(1, (1, 0, 0), length=60).select = True
    assert "has no text" in refusal(bpy.ops.musev.shots_from_text)
    block = bpy.data.texts.new("Night")
    block.write("# the opening\n\n  rain on the roof\nsnow in the yard \n")
    scene.frame_set(5)
    assert bpy.ops.musev.shots_from_text(text="Night", frames=6) == {"FINISHED"}
    chosen = [strip for strip in all_strips() if strip.select]
    assert [(s.text, strips.span(s)) for s in chosen] == [
        ("rain on the roof", (5, 11)),
        ("snow in the yard", (11, 17)),
    ]
    channel = scene.sequence_editor.channels[chosen[0].channel]
    assert (
        channel.mute
        and channel.name.startswith("Prompts")
        and {s.channel for s in chosen} == {chosen[0].channel}
    )
    jobs = ended(generate_each(engine()))
    assert [(job.request.prompt, job.start, job.state) for job in jobs] == [
        ("rain on the roof", 5, JobState.DONE), ("snow in the yard", 11, JobState.DONE),
    ]  # fmt: skip
    assert "no text 'Day'" in refusal(lambda: bpy.ops.musev.shots_from_text(text="Day"))
    block.clear()
    assert "0 lines" in refusal(lambda: bpy.ops.musev.shots_from_text(text="Night"))


# --- strips of ours -------------------------------------------------------------------------------


def test_a_clip_of_ours_gets_one_more_take_with_its_own_settings(engine, board):
    current = engine()
    settings = bpy.context.scene.musev
    settings.prompt, settings.seed, settings.steps, settings.range = "its own words", 30, 3, "SCENE"
    bpy.context.scene.frame_end = 6
    bpy.ops.musev.generate()
    ended(current.jobs)
    settings.prompt, settings.seed, settings.steps = "others", 99, 20
    (strip,) = all_strips()
    strips.set_span(strip, 3, 5)  # trimmed: the take is as long as the clip
    select(strip)
    (job,) = ended(generate_each(current))
    assert job.state is JobState.DONE, job.problem
    request = job.request
    assert (request.prompt, request.num_inference_steps, request.num_frames) == ("its own words", 3, 6)
    assert request.seed == 31 and job.take.name == "take_002" and len(all_strips()) == 1
    (same,) = plan(new_seeds=False)
    assert same.request.seed == 31  # of the take that is shown now
    assert (settings.prompt, settings.seed, settings.steps) == ("others", 99, 20)
    record = takes.read_sidecar(job.take)
    record["request"]["loras"] = [{"name": "ink", "weight": 0.7}]
    takes.write_sidecar(job.take, record)
    (inked,) = plan()
    assert [each.name for each in inked.shot.settings.extras.loras] == ["ink"] and not len(
        settings.extras.loras
    )
    record["request"]["still"], record["request"]["mode"] = "ab" * 32, "still"
    record["inputs"]["still_source"] = "A picture that was removed"
    takes.write_sidecar(job.take, record)
    (lost,) = plan()
    assert "A picture that was removed" in lost.why_not and lost.shot is None


def test_a_still_from_a_strip_is_read_at_the_frame_where_it_was(engine, board):
    current = engine("wait")
    settings = bpy.context.scene.musev
    board.image(3, 50, "sequence")
    settings.mode, settings.still_source, settings.still_strip = "still", "STRIP", "sequence"
    bpy.context.scene.frame_set(53)
    bpy.context.scene.frame_end = 3
    bpy.ops.musev.generate()
    pump(lambda: current.jobs[0].accepted)
    first = current.jobs[0]
    take = takes.next_take(first.take.parent)
    for frame in range(3):
        takes.write_frame(take, frame, b"x")
    record = {"request": dataclasses.asdict(first.request)}
    rates = {"generated": "24", "timeline": "24"}
    takes.write_sidecar(take, record | {"inputs": first.about | {"rates": rates}})
    strip = stack.place(bpy.context.scene, "c", [takes.frame_file(take, k) for k in range(3)], 1)
    select(strip)
    bpy.context.scene.frame_set(1)
    (planned,) = plan()
    assert planned.why_not == "" and planned.shot.still_at == 53


# --- settings as if -------------------------------------------------------------------------------


def test_settings_as_if_are_read_and_set_like_the_panels_and_change_nothing_there(empty_scene):
    panel = empty_scene.musev
    panel.people.add().name = "A"
    panel.people[0].use = True
    other = shot.AsIf(panel, prompt="else")
    other.draft.steps = 9
    other.people[0].use = False
    other.render.depth.use = True
    assert (other.prompt, other.draft.steps, other.people[0].use, other.render.depth.use) == (
        "else",
        9,
        False,
        True,
    )
    assert (other.width, other.people[0].name, len(other.people)) == (panel.width, "A", 1)
    assert (panel.prompt, panel.draft.steps, panel.people[0].use, panel.render.depth.use) == (
        "",
        4,
        True,
        False,
    )
    loras.add(panel.extras, "ink", 0.5)
    loras.add(other.extras, "ink", 0.7)
    loras.add(other.extras, "chalk")
    asked = loras.asked(other.extras)["loras"]
    assert [(each.name, each.weight) for each in asked] == [("ink", 0.7), ("chalk", 1.0)]
    other.extras.loras.remove(0)
    assert other.extras.loras.find("ink") == -1 and other.extras.loras[0].use
    assert [(each.name, round(each.weight, 6)) for each in panel.extras.loras] == [("ink", 0.5)]
    other.extras.loras.clear()
    assert len(other.extras.loras) == 0 and len(panel.extras.loras) == 1
    with pytest.raises(AttributeError, match="has no setting 'promt'"):
        other.promt = "x"


# --- what is kept ---------------------------------------------------------------------------------


def test_a_list_that_can_not_be_read_is_said_and_harms_no_clip(engine, board):
    current = engine("queue")
    words(board, "one", 1)
    words(board, "two", 10)
    one, two = generate_each(current)
    pump(lambda: two.accepted)
    file = newest_list().file
    for broken in ("{", '{"shots": [{"number": 1}], "name": "x"}', '{"shots": 3}', "[]"):
        file.write_text(broken)
        with pytest.raises(takes.TakeError, match="can't be read"):
            shot_record.read(file)
    current.cancel(two.id)
    assert two.state is JobState.CANCELLED and "can't be read" in two.problem
    file.unlink()
    current.cancel(one.id)
    assert one.state is JobState.CANCELLED and one.problem == ""


def test_a_reopened_blender_goes_on_with_the_list(engine, board, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    current = engine("pause")
    words(board, "one", 1)
    words(board, "two", 10)
    jobs = generate_each(current)
    pump(lambda: all(len(job.have) == 2 for job in jobs))
    bpy.ops.wm.save_mainfile()
    bpy.ops.musev.engine_stop()
    current.leave()  # as a Blender that is closed
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    found = current.jobs
    assert [shot_record.of(job)[1] for job in found] == [1, 2]
    for job in found:
        current.cancel(job.id)
    assert [entry.outcome for entry in newest_list().entries] == ["cancelled"] * 2


def test_a_job_names_its_list_by_a_way_that_may_move(engine, board):
    current = engine("queue")
    words(board, "one", 1)
    (job,) = generate_each(current)
    pump(lambda: job.accepted)
    told = json.loads((job.take / takes.JOB).read_text(encoding="utf-8"))["about"]["shot"]
    assert not Path(told["file"]).is_absolute() and told["file"].startswith("../../")
    job.about["shot"]["file"] = "../../../elsewhere.txt"
    assert shot_record.of(job) is None
