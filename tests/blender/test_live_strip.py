"""A clip on the timeline while it is made: previews, then frames; one undo step; nothing left behind."""

from __future__ import annotations

import json
import shutil
import uuid
import zlib
from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import provenance, stills, strips
from bl_ext.user_default.musev.clips import stack, takes
from bl_ext.user_default.musev.making import live_frames, live_strip
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.protocol import ClipRequest, Preview
from bl_ext.user_default.musev.shots import shot_list
from conftest import pump
from fake_engine import colour, png
from test_generate import all_strips, finish, generate
from test_queue import rain, reopened  # noqa: F401 (fixtures)


def forever() -> float:
    return float("inf")


def pixel(file: Path) -> tuple[int, ...]:
    """The first pixel of a picture file, as Blender reads it."""
    picture = bpy.data.images.load(str(file))
    found = tuple(round(value * 255) for value in picture.pixels[:3])
    bpy.data.images.remove(picture)
    return found


def shown_pixels(strip) -> list[tuple[int, ...]]:
    folder = Path(bpy.path.abspath(strip.directory))
    return [pixel(folder / element.filename) for element in strip.elements]


@pytest.fixture
def half_made(engine, rain, tmp_path):  # noqa: F811
    """A clip of a saved file of six frames, of which the engine makes two and then waits."""
    current = engine("wait")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.ed.undo_push(message="before")
    job = generate(current)
    settled(current, job)
    return current, job


def settled(current, job) -> None:
    """Until the strip stands there and shows what has come."""
    current.tick()
    third = takes.live_folder(job.take) / "preview_0003.png"
    pump(lambda: job.have == {0, 1} and third.exists())
    live = current.live._live[job.id]
    pump(lambda: live.place is live_strip.Place.SHOWN and live.shown == live.frames.changes)


def still_there(current, job) -> list[str]:
    """What lies in the clip's folder that isn't the take's."""
    pump(lambda: not current.live.busy)
    return sorted(path.name for path in job.take.parent.iterdir() if path.suffix != ".lock")


def test_what_is_not_finished_is_not_redone_extended_or_pinned(half_made):
    current, job = half_made
    verbs = (bpy.ops.musev.redo_range, bpy.ops.musev.extend, bpy.ops.musev.pin_frame)
    assert not any(verb.poll() for verb in verbs)
    (refused,) = shot_list.told(bpy.context.scene, True).refused
    assert "wait until it is finished" in refused[1]
    current.cancel(job.id)
    pump(lambda: job.ended)


# --- the strip ------------------------------------------------------------------------------------


def test_frames_fill_in_where_the_clip_will_be(half_made):
    _, job = half_made
    (strip,) = all_strips()
    assert strips.span(strip) == (1, 7) and strip.musev.making == job.id and stack.shown(strip) == job.take
    assert shown_pixels(strip) == [colour(0), colour(1), *[colour(2)] * 4]  # true, true, the nearest preview
    sizes = {
        stills.png_size((job.take.with_name("take_001.live") / e.filename).read_bytes())
        for e in strip.elements
    }
    assert sizes == {(64, 64)}
    assert sorted(path.name for path in job.take.iterdir()) == ["0001.png", "0002.png", "job.json"]


def test_the_finished_take_is_the_same_strip_and_one_undo_step(engine, rain):  # noqa: F811
    current = engine()
    bpy.ops.ed.undo_push(message="before")
    job = finish(generate(current))
    (strip,) = all_strips()
    assert stack.shown(strip) == job.take == Path(bpy.path.abspath(strip.directory))
    assert not strip.musev.making and shown_pixels(strip) == [colour(k) for k in range(6)]
    assert still_there(current, job) == ["take_001"]
    bpy.ops.ed.undo()
    current.tick()
    assert all_strips() == []
    bpy.ops.ed.redo()
    current.tick()
    assert [stack.shown(strip) for strip in all_strips()] == [job.take]


def test_what_the_artist_does_to_the_strip_meanwhile_stays(engine, rain):  # noqa: F811
    current = engine("pause")
    job = generate(current)
    settled(current, job)
    (strip,) = all_strips()
    strip.name, strip.channel, strip.blend_alpha = "Mine", 4, 0.5
    current.engine.client.close()  # the engine goes on once a client has come back
    current._lose_engine()
    pump(lambda: job.ended)
    (strip,) = all_strips()
    assert job.state is JobState.DONE and (strip.name, strip.channel, strip.blend_alpha) == ("Mine", 4, 0.5)
    assert stack.shown(strip) == job.take


def test_a_clip_goes_to_its_scene_whatever_that_is_called_by_then(engine, rain, tmp_path):  # noqa: F811
    current = engine("pause")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    job = generate(current)
    settled(current, job)
    scene, first_name = bpy.context.scene, bpy.context.scene.name
    bpy.ops.ed.undo_push(message="before")
    scene.name = "Second act"
    bpy.ops.ed.undo_push(message="renamed")
    bpy.data.scenes.new(first_name)
    bpy.ops.ed.undo_push(message="a scene of the old name")
    current.tick()
    assert job.scene == "Second act" == json.loads((job.take / takes.JOB).read_text())["scene"]
    for called in (bpy.ops.ed.undo, bpy.ops.ed.undo, bpy.ops.ed.redo):
        called()
        current.tick()
        assert [each.name for each in bpy.data.scenes if list(strips.every_strip(each))] == [job.scene]
    assert job.scene == "Second act"
    current.engine.client.close()  # the engine goes on once a client has come back
    current._lose_engine()
    pump(lambda: job.ended)
    assert job.state is JobState.DONE, job.problem
    assert [stack.shown(strip) for strip in strips.every_strip(bpy.data.scenes["Second act"])] == [job.take]


def test_cancel_takes_the_strip_away_and_all_its_files(half_made):
    current, job = half_made
    bpy.ops.musev.cancel(job=job.id)
    assert all_strips() == [] and still_there(current, job) == []


def test_previews_that_an_earlier_blender_left_go_too(engine, rain):  # noqa: F811
    current = engine()
    rain.show_making = False
    job = generate(current)
    (left := takes.live_folder(job.take)).mkdir()
    (left / "preview_0001.png").write_bytes(png(4, 4, (1, 2, 3)))
    finish(job)
    assert still_there(current, job) == ["take_001"]


def test_previews_that_can_not_be_removed_are_in_nobodys_way(half_made, monkeypatch, capsys):
    current, job = half_made

    def refuse(folder, deadline):
        raise takes.TakeError(f"No right to write {folder}")

    monkeypatch.setattr(live_strip, "sweep", refuse)
    bpy.ops.musev.cancel(job=job.id)
    pump(lambda: not current.live.busy)
    assert capsys.readouterr().out.count("No right to write") == 1 and all_strips() == []


def test_a_strip_with_other_takes_shows_them_again(engine, rain):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    current.stop_engine()
    pump(lambda: not current.engine.busy)
    current = engine("fail")
    second = generate(current)
    seen = set()
    pump(lambda: seen.add(all_strips()[0].musev.before) or second.ended)
    assert second.state is JobState.FAILED and len(all_strips()) == 1
    current.tick()
    (strip,) = all_strips()
    assert stack.shown(strip) == first.take and not strip.musev.making
    assert shown_pixels(strip) == [colour(k) for k in range(6)]
    assert first.take.with_name("take_002.live").name not in still_there(current, first)


def test_the_strip_that_the_artist_deletes_does_not_come_back(engine, rain):  # noqa: F811
    current = engine("pause")
    job = generate(current)
    settled(current, job)
    strips.remove(bpy.context.scene, all_strips()[0])
    current.engine.client.close()
    current._lose_engine()
    pump(lambda: job.ended)
    assert job.state is JobState.DONE and all_strips() == [] and "You deleted its strip" in job.problem
    assert takes.read_sidecar(job.take)["job"] == job.id


def test_the_artist_may_look_at_another_take_meanwhile(engine, rain):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    current.stop_engine()
    pump(lambda: not current.engine.busy)
    current = engine("pause")
    second = generate(current)
    settled(current, second)
    (strip,) = all_strips()
    assert strip.musev.before == "take_001" and stack.shown(strip) == second.take
    bpy.ops.musev.take_show(take="1")
    assert stack.shown(strip) == first.take
    current.engine.client.close()
    current._lose_engine()
    seen = set()
    pump(lambda: seen.add(all_strips()[0].musev.making) or second.ended)
    (strip,) = all_strips()
    assert seen == {""} and stack.shown(strip) == second.take


def test_it_is_not_shown_where_that_is_not_wished(engine, rain):  # noqa: F811
    rain.show_making = False
    current = engine("wait")
    job = generate(current)
    pump(lambda: job.step == 2)
    assert all_strips() == []
    rain.show_making = True
    pump(all_strips)
    assert shown_pixels(all_strips()[0])[:2] == [colour(0), colour(1)]
    rain.show_making = False
    pump(lambda: all_strips() == [])
    assert still_there(current, job) == ["take_001"] and not job.ended


# --- undo, redo -----------------------------------------------------------------------------------


def test_undo_while_it_is_made_leaves_the_strip_and_no_second_one(half_made):
    current, job = half_made
    bpy.context.scene.frame_end = 99
    bpy.ops.ed.undo_push(message="something")
    bpy.ops.ed.undo_push(message="something else")
    for step in (bpy.ops.ed.undo, bpy.ops.ed.undo, bpy.ops.ed.redo, bpy.ops.ed.redo):
        step()
        settled(current, job)
        (strip,) = all_strips()
        assert strip.musev.making == job.id and shown_pixels(strip)[:2] == [colour(0), colour(1)]
    bpy.ops.musev.cancel(job=job.id)
    bpy.ops.ed.undo()  # to a time when the strip stood there
    current.tick()
    assert all_strips() == []
    bpy.ops.ed.redo()
    current.tick()
    assert all_strips() == []


def test_undo_of_the_finished_clip_takes_it_away_whatever_was_done_meanwhile(engine, rain):  # noqa: F811
    current = engine("pause")
    bpy.ops.ed.undo_push(message="before")
    job = generate(current)
    settled(current, job)
    bpy.ops.ed.undo_push(message="something, with the strip there")
    current.engine.client.close()
    current._lose_engine()
    finish(job)
    pump(lambda: not current.live.busy)
    bpy.ops.ed.undo()
    current.tick()
    assert all_strips() == []
    bpy.ops.ed.redo()
    current.tick()
    assert [stack.shown(strip) for strip in all_strips()] == [job.take]


def test_a_deletion_can_be_undone(half_made):
    current, job = half_made
    bpy.ops.ed.undo_push(message="select")
    strips.remove(bpy.context.scene, all_strips()[0])
    bpy.ops.ed.undo_push(message="delete")
    current.live._live[job.id].frames.changes += 1  # something new to see
    pump(lambda: current.live._live[job.id].place is live_strip.Place.DELETED)
    bpy.ops.ed.undo()
    settled(current, job)
    assert len(all_strips()) == 1


# --- files ----------------------------------------------------------------------------------------


def test_a_file_saved_meanwhile_names_the_finished_takes_files(half_made):
    (strip,) = all_strips()
    live = strip.directory
    bpy.ops.wm.save_mainfile()
    assert strip.directory == live
    copy = shutil.copy(bpy.data.filepath, Path(bpy.data.filepath).with_name("copy.blend"))
    with bpy.data.libraries.load(str(copy)) as (there, wanted):
        wanted.scenes = list(there.scenes)
    (loaded,) = wanted.scenes
    (saved,) = strips.every_strip(loaded)
    assert Path(saved.directory.rstrip("/")).name == "take_001"
    assert [element.filename for element in saved.elements] == [f"{k:04d}.png" for k in range(1, 7)]
    bpy.data.scenes.remove(loaded)


def test_a_reopened_file_goes_on_in_the_same_strip(reopened):  # noqa: F811
    guest, _, blend = reopened
    bpy.ops.wm.open_mainfile(filepath=blend)
    assert all_strips() == []  # saved before there was one
    bpy.ops.musev.engine_start()
    (job,) = guest.jobs
    seen = []
    pump(lambda: seen.append(len(all_strips())) or job.ended)
    assert max(seen) == 1 and job.state is JobState.DONE


def test_a_file_saved_with_a_half_made_clip_is_made_whole_or_cleaned(half_made):
    current, job = half_made
    bpy.ops.wm.save_mainfile()
    blend = bpy.data.filepath
    bpy.ops.wm.open_mainfile(filepath=blend)
    settled(current, job)
    (strip,) = all_strips()
    assert strip.musev.making == job.id and shown_pixels(strip)[0] == colour(0)
    bpy.ops.wm.save_mainfile()
    bpy.ops.musev.cancel(job=job.id)  # and the file is not saved after that
    bpy.ops.wm.open_mainfile(filepath=blend)
    current.tick()
    assert all_strips() == []


def test_a_finished_take_is_shown_by_a_file_that_was_saved_before(engine, rain, tmp_path):  # noqa: F811
    current = engine("pause")
    blend = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    job = generate(current)
    settled(current, job)
    bpy.ops.wm.save_mainfile()
    current.engine.client.close()
    current._lose_engine()
    finish(job)
    current.forget_ended()
    bpy.ops.wm.open_mainfile(filepath=blend)
    current.tick()
    (strip,) = all_strips()
    assert stack.shown(strip) == job.take and not strip.musev.making
    assert shown_pixels(strip) == [colour(k) for k in range(6)]


# --- pictures -------------------------------------------------------------------------------------


def encoded(pixels: np.ndarray, kinds) -> bytes:
    """A PNG with a filter of one's choice on each row."""
    whole, before = b"", np.zeros_like(pixels[0])
    for row, kind in zip(pixels, kinds, strict=True):
        left = np.vstack([np.zeros((1, 3), np.uint8), row[:-1]]).astype(int)
        corner = np.vstack([np.zeros((1, 3), np.uint8), before[:-1]]).astype(int)
        up = before.astype(int)
        near = left + up - corner
        by = np.stack([left, up, corner])
        paeth = np.take_along_axis(by, np.argmin(np.abs(by - near), axis=0)[None], axis=0)[0]
        guess = (0 * left, left, up, (left + up) // 2, paeth)[kind]
        whole += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        before = row
    plain = png(pixels.shape[1], pixels.shape[0], (0, 0, 0))
    packed = zlib.compress(whole)
    checksum = zlib.crc32(b"IDAT" + packed)
    return plain[:33] + len(packed).to_bytes(4, "big") + b"IDAT" + packed + checksum.to_bytes(4, "big")


def test_previews_are_read_and_enlarged_exactly(tmp_path):
    drawn = np.random.default_rng(1).integers(0, 256, (10, 7, 3), np.uint8)
    read, kinds = live_frames.unpacked(encoded(drawn, [0, 1, 2, 3, 4, 4, 1, 2, 3, 0]))
    assert len(list(live_frames.unfiltered(read, kinds))) == 5  # the slow ones are slices of their own
    assert np.array_equal(read, drawn)
    (tmp_path / "large.png").write_bytes(b"".join(live_frames.enlarged_png(drawn, 28, 150)))
    picture = bpy.data.images.load(str(tmp_path / "large.png"))
    shown = np.rint(np.array(picture.pixels).reshape(150, 28, 4)[::-1, :, :3] * 255)
    assert np.array_equal(shown, drawn.repeat(15, axis=0).repeat(4, axis=1))
    for bad in (b"", png(4, 4, (1, 2, 3))[:50], png(4, 4, (1, 2, 3)).replace(b"IDAT", b"JDAT")):
        assert live_frames.unpacked(bad) is None


def test_a_part_of_a_take_is_shown_among_the_frames_that_stay(tmp_path):
    take, other = tmp_path / "take_002", tmp_path / "take_001"
    for folder, rgb, count in ((other, (1, 1, 1), 8), (take, (9, 9, 9), 0)):
        folder.mkdir()
        for frame in range(count):
            takes.write_frame(folder, frame, png(64, 64, rgb))
    about = {"redo": {"of": "take_001", "from": 3, "to": 5, "count": 8, "offset": 2, "of_offset": 0}}
    frames = live_frames.LiveFrames(take, ClipRequest(mode="text", width=64, height=64, num_frames=5), about)
    frames.preview(Preview(str(uuid.uuid4()), 1, 1, png(2, 2, (5, 5, 5))))
    takes.write_frame(take, 0, png(64, 64, (7, 7, 7)))  # stays as it is in the other take
    frames.add(0)
    takes.write_frame(take, 2, png(64, 64, (9, 9, 9)))
    frames.add(2)
    frames.advance(forever())
    assert frames.ready and [pixel(file)[0] for file in frames.files] == [1, 1, 1, 5, 9, 5, 1, 1]
    assert "preview" in provenance.of_file(
        frames.files[3]
    ) and "trainedAlgorithmicMedia" in provenance.of_file(frames.files[3])
    assert live_frames.sweep(frames.folder, forever()) and not frames.folder.exists()
    assert pixel(takes.frame_file(take, 2)) == (9, 9, 9)
