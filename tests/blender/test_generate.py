"""The road from the settings to the strip, as the artist goes it, against a real process and socket."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import session, stills, strips
from bl_ext.user_default.musev.clips import takes
from bl_ext.user_default.musev.engine_link import EngineState
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.protocol import Pictures
from bl_ext.user_default.musev.rig import people as rig_people
from bl_ext.user_default.musev.rig import pose
from conftest import pump
from fake_engine import colour
from montage import Montage
from rigs import RIGIFY_METARIG, camera, figure


@pytest.fixture
def shot(empty_scene):
    """A scene with a rig, a camera and a still, and settings for a small pose clip of frames 5 to 16."""
    figure(RIGIFY_METARIG, "Dancer")
    camera()
    empty_scene.frame_start, empty_scene.frame_end = 5, 16
    empty_scene.frame_set(9)
    settings = empty_scene.musev
    settings.armature = bpy.data.objects["Dancer"]
    settings.still_image = bpy.data.images.new("Still", 90, 64)
    settings.width, settings.height = 64, 64
    return settings


def generate(current):
    bpy.ops.musev.generate()
    return current.jobs[-1]


def finish(job):
    pump(lambda: job.ended)
    return job


def all_strips():
    return list(strips.top_strips(bpy.context.scene))


def refusal(operator) -> str:
    """What the operator tells the artist when it refuses."""
    with pytest.raises(RuntimeError) as caught:
        operator()
    return str(caught.value)


def test_a_pose_clip_becomes_one_strip_of_the_ranges_length(engine, shot):
    current = engine()
    job = finish(generate(current))
    assert job.state is JobState.DONE, job.problem
    (strip,) = all_strips()
    assert strip.type == "IMAGE" and strips.span(strip) == (5, 17) and strip.channel == 1
    files = [Path(bpy.path.abspath(strip.directory)) / element.filename for element in strip.elements]
    assert [file.name for file in files] == [f"{k:04d}.png" for k in range(1, 13)]
    picture = bpy.data.images.load(str(files[3]))
    assert np.rint(np.array(picture.pixels[:3]) * 255).tolist() == list(colour(3))
    assert bpy.context.scene.frame_current == 9


def test_the_take_tells_how_it_was_made(engine, shot):
    shot.seed, shot.prompt = 77, "a dancer in the rain"
    job = finish(generate(engine()))
    told = takes.read_sidecar(job.take)
    assert told["seed"] == 77 and told["request"]["prompt"] == "a dancer in the rain"
    assert told["request"]["num_frames"] == 12 and told["frame_start"] == 5
    assert told["model"] == {"name": "mini", "sha256": "ab" * 32, "licence": "free"}
    assert told["inputs"]["people"][0]["name"] == "Dancer" and told["inputs"]["still_source"] == "Still"
    assert len(told["inputs"]["poses"]) == len(told["inputs"]["still"]) == 64
    assert told["extension_version"] == "0.1.0" and told["engine"]["version"] == "fake"
    assert sorted(path.name for path in job.take.iterdir())[-1] == "take.json"


def test_the_strip_is_one_undo_step(engine, shot):
    current = engine()
    bpy.ops.ed.undo_push(message="before")
    finish(generate(current))
    assert len(all_strips()) == 1
    bpy.ops.ed.undo()
    assert all_strips() == [] and bpy.context.scene.musev.armature.name == "Dancer"
    bpy.ops.ed.redo()
    assert len(all_strips()) == 1


def test_the_poses_sent_are_the_rigs(engine, shot):
    from bl_ext.user_default.musev.protocol import PoseTrack

    current = engine("wait")
    shot.use_still_frame, shot.still_frame = True, 7
    job = generate(current)
    pump(lambda: job.have)
    track = PoseTrack.from_bytes(job.blobs[job.request.poses])
    dancer = rig_people.resolve(shot.armature)
    truth = pose.keypoints(bpy.context.scene, [dancer], "Camera", 64, 64, [*range(5, 17), 7])
    assert track.shape == (12, 1, 130, 3)
    assert np.frombuffer(track.points, "<f4").reshape(track.shape) == pytest.approx(truth[:-1])
    assert np.frombuffer(track.still_pose, "<f4").reshape(1, 130, 3) == pytest.approx(truth[-1])


def test_text_and_still_clips_need_no_rig(engine, shot):
    current = engine()
    shot.armature = None
    shot.mode, shot.prompt = "text", "rain on a window"
    text = finish(generate(current))
    shot.mode, shot.new_strip = "still", True
    still = finish(generate(current))
    assert (text.state, still.state) == (JobState.DONE, JobState.DONE)
    assert text.request.still is None and text.request.poses is None and still.request.still is not None
    assert [strip.channel for strip in all_strips()] == [1, 2]


def test_a_clip_beside_a_saved_file_is_found_relative_to_it(engine, shot, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    job = finish(generate(engine()))
    (strip,) = all_strips()
    assert strip.directory == "//musev/Dancer/take_001/"
    assert job.take == tmp_path / "musev" / "Dancer" / "take_001"
    second = finish(generate(session.current))
    assert second.take.name == "take_002" and len(all_strips()) == 1


def test_a_still_can_be_what_a_strip_shows(engine, shot):
    current = engine()
    first = finish(generate(current))
    shot.still_source, shot.still_strip = "STRIP", first.strip
    assert bpy.context.scene.frame_current == 9
    second = finish(generate(current))
    assert second.state is JobState.DONE, second.problem
    told = takes.read_sidecar(second.take)
    assert told["inputs"]["still_source"] == f"{first.strip}, frame 9"
    assert told["inputs"]["still"] == second.request.still != "0" * 64
    assert [scene.name for scene in bpy.data.scenes] == ["Scene"]


@pytest.mark.parametrize(
    ("use", "still", "mode", "controls"),
    [
        ("FRAMES", True, "video", []),
        ("DETECT", False, "video", [("depth", True)]),
        ("CONTROL", True, "still", [("depth", False)]),
        ("CONTROL", False, "text", [("depth", False)]),
    ],
)
def test_strips_become_a_video_clips_source_or_its_control(engine, shot, use, still, mode, controls):
    current = engine("wait")
    scene = bpy.context.scene
    timeline = Montage(scene, Path(bpy.app.tempdir))
    scene.frame_start, scene.frame_end = 2, 5
    timeline.image().select = True
    shot.mode, shot.armature, shot.prompt = "video", None, "snow"
    shot.still_image = shot.still_image if still else None
    shot.source.use, shot.source.strength, shot.source.control_scale = use, 0.25, 0.5
    job = generate(current)
    pump(lambda: job.have)
    request = job.request
    assert (request.mode, bool(request.still)) == (mode, still) and set(request.blobs) == set(job.blobs)
    assert [(control.name, control.detect) for control in request.controls] == controls
    (name,) = request.source or request.controls[0].pictures
    sent = list(Pictures.from_bytes(job.blobs[name]).files)
    assert [stills.png_size(png) for png in sent] == [(64, 64)] * 4 and len(set(sent)) == 4
    assert not request.source or request.source_strength == 0.25
    assert all(control.scale == 0.5 and control.pictures == (name,) for control in request.controls)
    assert job.about["source"]["strips"] == ["picture"]
    assert [scene.name for scene in bpy.data.scenes] == ["Scene"]


def test_cancelling_while_strips_are_read_leaves_nothing(engine, shot):
    current = engine()
    timeline = Montage(bpy.context.scene, Path(bpy.app.tempdir))
    timeline.image(count=60).select = True
    bpy.context.scene.frame_end = 60
    shot.mode = "video"
    job = generate(current)
    pump(lambda: job.step >= 2)
    assert job.phase == "reading strips" and job.num_steps == 61 and len(bpy.data.scenes) == 2
    current.cancel(job.id)
    assert job.state is JobState.CANCELLED and not job.take.exists()
    assert [scene.name for scene in bpy.data.scenes] == ["Scene"]


def test_ranges(engine, shot):
    current = engine()
    scene = bpy.context.scene
    scene.use_preview_range, scene.frame_preview_start, scene.frame_preview_end = True, 30, 34
    shot.range = "PREVIEW"
    preview = finish(generate(current))
    shot.range, shot.new_strip = "STRIPS", True  # the strip just placed is selected
    selected = finish(generate(current))
    assert [(job.start, job.request.num_frames) for job in (preview, selected)] == [(30, 5), (30, 5)]
    assert [strips.span(strip) for strip in all_strips()] == [(30, 35), (30, 35)]


def test_cancel_leaves_nothing(engine, shot):
    current = engine("wait")
    job = generate(current)
    pump(lambda: len(job.have) == 2)
    assert job.phase == "denoise" and job.num_steps == 12 and job.eta_s is not None
    bpy.ops.musev.cancel(job=job.id)
    assert job.state is JobState.CANCELLED and not job.take.exists() and all_strips() == []
    assert refusal(lambda: bpy.ops.musev.cancel(job="nobody")).count("no clip 'nobody'") == 1


def test_cancel_while_poses_are_read(engine, shot):
    current = engine()
    bpy.context.scene.frame_end = 4000
    job = generate(current)
    poses = job.captures[1]  # after the still
    pump(lambda: poses.done)
    assert job.state is JobState.CAPTURING and 0 < poses.done < 3996
    bpy.ops.musev.cancel(job=job.id)
    assert job.state is JobState.CANCELLED and not job.take.exists()


def test_the_engines_failure_is_told_and_its_frames_are_kept(engine, shot):
    job = finish(generate(engine("fail")))
    assert job.state is JobState.FAILED and not job.resumable
    assert job.problem == "The GPU is full (got 8 GB). Use a smaller size."
    assert all_strips() == [] and takes.frame_file(job.take, 1).exists()


def test_a_lost_connection_is_taken_up_again(engine, shot):
    job = finish(generate(engine("drop")))
    assert job.state is JobState.DONE and len(all_strips()) == 1


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("short", "1 frames did not arrive"),
        ("wrong_size", "no 64 x 64 PNG of frames 0 to 11 (got frame 0, size (72, 64))"),
    ],
)
def test_an_engine_that_breaks_its_word_places_nothing(engine, shot, behaviour, words):
    job = finish(generate(engine(behaviour)))
    assert job.state is JobState.FAILED and words in job.problem and all_strips() == []


def test_a_full_disk_is_told_and_the_rest_fetched_later(engine, shot, monkeypatch):
    current = engine("drop")
    replace = takes.os.replace

    def full(source, target):
        if Path(target).name == "0002.png":
            raise OSError(takes.errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(takes.os, "replace", full)
    job = finish(generate(current))
    assert job.state is JobState.FAILED and "The disk is full" in job.problem and job.resumable
    assert all_strips() == []
    assert sorted(path.name for path in job.take.iterdir()) == ["0001.png", "job.json"]  # found again later
    monkeypatch.undo()
    bpy.ops.musev.resume(job=job.id)
    finish(job)
    assert job.state is JobState.DONE, job.problem
    assert len(all_strips()[0].elements) == 12


def test_a_clip_of_a_closed_file_waits_for_it(engine, shot, tmp_path):
    current = engine("wait")
    blend = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    job = generate(current)
    pump(lambda: len(job.have) == 2)
    bpy.ops.wm.read_homefile(use_empty=True)
    job.have.update(range(12))
    for frame in range(12):
        takes.write_frame(job.take, frame, takes.frame_file(job.take, 0).read_bytes())
    job.state = JobState.READY
    current.tick()
    assert job.state is JobState.READY and all_strips() == []
    assert blend in current.why_not_placed(job)
    bpy.ops.wm.open_mainfile(filepath=blend)
    finish(job)
    assert job.state is JobState.DONE and len(all_strips()) == 1


def test_a_strip_waits_for_the_end_of_edit_mode(engine, shot):
    current = engine()
    bpy.ops.ed.undo_push(message="before")
    job = generate(current)
    bpy.context.view_layer.objects.active = bpy.data.objects["Dancer"]
    bpy.ops.object.mode_set(mode="EDIT")
    pump(lambda: job.state is JobState.READY)
    assert "Object or Pose Mode" in current.why_not_placed(job) and all_strips() == []
    bpy.ops.object.mode_set(mode="OBJECT")
    assert finish(job).state is JobState.DONE


# --- what bad input gets --------------------------------------------------------------------


def lacks_rig(settings):
    settings.armature = None


def lacks_camera(settings):
    bpy.context.scene.camera = None


def lacks_bones(settings):
    for bone in settings.armature.data.bones:
        bone.name = "os"


def odd_size(settings):
    settings.width = 100


def unreadable_still(settings):
    settings.still_image = bpy.data.images.new("gone", 8, 8)
    settings.still_image.source = "FILE"
    settings.still_image.filepath = "/nowhere/still.png"


def no_still(settings):
    settings.mode, settings.still_image = "still", None


def no_selection(settings):
    settings.range = "STRIPS"


def no_preview(settings):
    settings.range = "PREVIEW"


def no_strip(settings):
    settings.still_source, settings.still_strip = "STRIP", "Nobody"


def no_source(settings):
    settings.mode = "video"


def no_folder(settings):
    bpy.context.preferences.addons["bl_ext.user_default.musev"].preferences.output_folder = ""


def relative_folder(settings):
    preferences = bpy.context.preferences.addons["bl_ext.user_default.musev"].preferences
    preferences.output_folder = "renders"


def test_no_strip_is_placed_in_a_linked_scene(engine, shot, tmp_path):
    engine()
    blend = tmp_path / "library.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend), copy=True)
    with bpy.data.libraries.load(str(blend), link=True) as (there, wanted):
        wanted.scenes = list(there.scenes)
    (linked,) = wanted.scenes
    workspace = bpy.context.workspace
    shown = {"sequencer_scene": linked} if hasattr(workspace, "sequencer_scene") else {"scene": linked}
    with bpy.context.temp_override(**shown):
        assert "is linked from" in refusal(bpy.ops.musev.generate)
    bpy.data.scenes.remove(linked)


def too_long(settings):
    bpy.context.scene.frame_end = 20_000


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lacks_rig, "No armature is set; choose the rig"),
        (lacks_camera, "Scene 'Scene' has no camera; choose one"),
        (lacks_bones, "Armature 'Dancer' has bones for 0 of 12 limb points; no name map knows its names"),
        (odd_size, "Width must be a multiple of 8 (got 100). Use 96 or 104."),
        (unreadable_still, "The still 'gone' can't be read (/nowhere/still.png); choose a picture file."),
        (no_still, "Choose a reference still."),
        (no_selection, "0 strips are selected"),
        (no_preview, "The preview range is off"),
        (no_source, "0 strips of scene 'Scene' are selected; select those to start from"),
        (no_strip, "shows no strip 'Nobody' in its timeline"),
        (no_folder, "The .blend is not saved"),
        (relative_folder, "The folder 'renders' in the extension's preferences is no whole path"),
        (too_long, "19996 frames are more than one clip can have (10000); choose a shorter range"),
    ],
)
def test_bad_settings_are_refused_with_value_and_remedy(engine, shot, spoil, words):
    current = engine()
    folder = Path(bpy.context.preferences.addons["bl_ext.user_default.musev"].preferences.output_folder)
    spoil(shot)
    assert words in refusal(bpy.ops.musev.generate)
    assert current.jobs == [] and all_strips() == [] and not folder.exists()


def test_without_an_engine_generate_says_why_not(engine, shot):
    assert not bpy.ops.musev.generate.poll()
    assert "The engine is not running; press Start Engine first" in refusal(bpy.ops.musev.generate)


def test_an_engine_of_another_protocol_version_is_refused(engine, shot):
    current = engine("old", until=EngineState.OFF)
    pump(lambda: current.engine.problem)
    assert "another protocol" in current.engine.problem and "Update the extension." in current.engine.problem
    assert current.engine.state is EngineState.OFF


def test_an_engine_that_ends_at_once_shows_its_log(engine, shot):
    current = engine("mute", until=EngineState.OFF)
    pump(lambda: current.engine.problem)
    assert "ended with status 1 before it served" in current.engine.problem
    assert "no model found" in current.engine.problem


def test_bad_commands_and_addresses_are_refused(engine, shot, tmp_path):
    preferences = bpy.context.preferences.addons["bl_ext.user_default.musev"].preferences
    bad = {"": "command is empty", '"musev': "can't be read", "/no/such/musev serve": "can't be run"}
    for command, words in bad.items():
        preferences.engine_command = command
        assert words in refusal(bpy.ops.musev.engine_start)
    preferences.engine_url = "ws://192.0.2.7:8000"
    assert not bpy.app.online_access
    assert "on another computer and Blender is offline" in refusal(bpy.ops.musev.engine_start)
    preferences.engine_url = "http://localhost"
    assert "ws://HOST:PORT" in refusal(bpy.ops.musev.engine_start)
    preferences.engine_url = "ws://127.0.0.1:9"
    assert "holds no token" in refusal(bpy.ops.musev.engine_start)
    preferences.token_file = str(tmp_path / "token")
    assert "can't be read" in refusal(bpy.ops.musev.engine_start)
    (tmp_path / "token").write_text("secret\n")
    bpy.ops.musev.engine_start()
    pump(lambda: session.current.engine.state is EngineState.OFF)
    assert "No engine answers there" in session.current.engine.problem


def test_a_running_engine_is_found_by_url_and_token(engine, shot, tmp_path):
    started = engine()
    url, token = started.engine.client.url, started.engine.process.token
    preferences = bpy.context.preferences.addons["bl_ext.user_default.musev"].preferences
    (tmp_path / "token").write_text(token + "\n")
    preferences.engine_url, preferences.token_file = url, str(tmp_path / "token")
    guest = session.Session()
    session.current, host = guest, session.current
    try:
        bpy.ops.musev.engine_start()
        pump(lambda: guest.engine.state is EngineState.ON)
        assert guest.engine.process is None
        assert finish(generate(guest)).state is JobState.DONE
        bpy.ops.musev.engine_stop()
        assert guest.engine.state is EngineState.OFF and host.engine.process.alive
    finally:
        session.current = host


def test_ticks_are_short_while_frames_arrive(engine, shot):
    current = engine()
    bpy.context.scene.frame_end = 5 + 299
    finish(generate(current))
    tick, place = current.longest_tick_s * 1e3, current.longest_place_s * 1e3
    print(f"\n300 frames: longest tick {tick:.1f} ms, placing the strip {place:.1f} ms")
    assert len(all_strips()[0].elements) == 300
