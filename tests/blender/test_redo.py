"""Redoing a range, extending, bridging, pins: which frames are asked for, which stay, and what lies on the timeline."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import session, stills, strips, ui
from bl_ext.user_default.musev.clips import (
    looks,
    pin_verbs,
    pins,
    recall,
    redo,
    redo_verbs,
    splice,
    stack,
    takes,
)
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.protocol import PoseTrack, blob_sha256
from conftest import pump
from fake_engine import colour
from test_extension import draw
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)


@pytest.fixture
def made(engine, shot):  # noqa: F811
    """The session, and the strip of a finished pose clip of 30 frames at 5, which is active."""
    bpy.context.scene.frame_end = 34
    current = engine()
    assert finish(generate(current)).state is JobState.DONE
    return current, all_strips()[0]


def ended(current):
    job = finish(current.jobs[-1])
    assert job.state is JobState.DONE, job.problem
    return job


def contents(take: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(take.glob("*.png"))]


def shade(png: bytes, folder: Path) -> tuple[int, ...]:
    (folder / "one.png").write_bytes(png)
    image = bpy.data.images.load(str(folder / "one.png"))
    try:
        return tuple(np.rint(np.array(image.pixels[:3]) * 255).astype(int))
    finally:
        bpy.data.images.remove(image)


def test_only_the_range_is_made_anew_led_by_the_frames_beside_it(made, shot, tmp_path):  # noqa: F811
    current, strip = made
    old = stack.shown(strip)
    before = contents(old)
    shot.seed = 99  # the take's own is taken
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    asked = current.jobs[-1].request
    job = ended(current)
    assert asked.num_frames == 4 + 5 + 4 and asked.seed == 0
    assert [pin.frame for pin in asked.pins] == [0, 1, 2, 3, 9, 10, 11, 12]
    assert [blob_sha256(before[6 + pin.frame]) for pin in asked.pins] == [pin.picture for pin in asked.pins]

    after = contents(job.take)
    assert job.take == old.with_name("take_002") and len(after) == 30
    assert [a == b for a, b in zip(after, before, strict=True)] == [not 10 <= k <= 14 for k in range(30)]
    assert shade(after[10], tmp_path) == colour(4)  # the request's 5th frame
    assert (job.take / "0001.png").stat().st_ino == (old / "0001.png").stat().st_ino
    told = takes.read_sidecar(job.take)["inputs"]["redo"]
    assert (told["of"], told["from"], told["to"]) == ("take_001", 10, 14)
    assert contents(old) == before and len(all_strips()) == 1
    assert stack.shown(all_strips()[0]) == job.take and strips.span(all_strips()[0]) == (5, 35)


def test_nobody_paints_into_a_file_that_two_takes_share(made):
    current, strip = made
    old = stack.shown(strip)
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    new = ended(current).take
    for take in (old, new):
        writable = [bool(takes.frame_file(take, k).stat().st_mode & 0o222) for k in range(30)]
        assert writable == [10 <= k <= 14 for k in range(30)]
    takes.discard(new)
    assert not new.exists() and len(contents(old)) == 30


def test_what_can_not_be_made_read_only_is_copied(made, monkeypatch):
    current, strip = made
    old = stack.shown(strip)

    def anothers(path, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", anothers)
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    new = ended(current).take
    assert [a == b for a, b in zip(contents(new), contents(old), strict=True)].count(False) == 5
    assert not any(takes.frame_file(new, k).samefile(takes.frame_file(old, k)) for k in range(30))


def test_what_a_verb_would_do_is_told_before(made):
    current, strip = made
    files = sorted(stack.shown(strip).glob("*.png"))[:4]
    placed = strips.place_images(bpy.context.scene, "B", files, 55, 3)  # after a gap of 20 frames
    bpy.context.scene.sequence_editor.active_strip = strip

    def said(verb, **values) -> str:
        facts = {"new_seed": False, **values}
        for each in (redo_verbs.RedoOperator, verb):
            facts |= {n: v for n, v in vars(each).items() if n in ("part", "sentence", "seeds", "ends")}
        return type("Asked", (), facts)().sentence(bpy.context)

    one = said(redo_verbs.MUSEV_OT_redo_range, frame_start=15, frame_end=19)
    assert one == "5 frames anew, 25 stay"
    pump(lambda: said(redo_verbs.MUSEV_OT_redo_range, frame_start=15, frame_end=19) != one)
    now = said(redo_verbs.MUSEV_OT_redo_range, frame_start=15, frame_end=19)
    assert now.startswith("5 frames anew, 25 stay, ") and " s" in now
    assert said(redo_verbs.MUSEV_OT_extend, frames=1, direction="AFTER").startswith("1 frame anew, 30 stay")
    strip.select = placed.select = True
    assert said(redo_verbs.MUSEV_OT_bridge).startswith("20 frames anew")
    with pytest.raises(strips.StripError, match="choose frames of it"):
        said(redo_verbs.MUSEV_OT_redo_range, frame_start=1, frame_end=2)
    assert len(current.jobs) == 1 and len(list(stack.folder(strip).glob("take_???"))) == 1


def test_the_poses_of_the_range_are_read_anew(made):
    current, _ = made
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    job = current.jobs[-1]
    assert job.captures[1].times == tuple(range(11, 24))
    ended(current)
    assert len(job.request.poses) == 64 and job.request.poses != current.jobs[0].request.poses


@pytest.mark.parametrize(("first", "last"), [(5, 9), (30, 34), (5, 34), (20, 20)])
def test_a_range_at_the_ends_has_neighbours_on_one_side_or_none(made, first, last):
    current, strip = made
    before = contents(stack.shown(strip))
    bpy.ops.musev.redo_range(frame_start=first, frame_end=last, new_seed=True)
    asked = current.jobs[-1].request
    assert (asked.shared_seed, asked.seed == 0) == (0, False)  # what frames share is still the take's
    after = contents(ended(current).take)
    expected = (min(4, first - 5), min(4, 34 - last))
    assert len(asked.pins) == sum(expected) and asked.num_frames == last - first + 1 + sum(expected)
    outside = [k for k in range(30) if not first <= k + 5 <= last]
    assert [after[k] for k in outside] == [before[k] for k in outside] and len(after) == 30


def test_a_moved_strip_is_redone_where_it_lies(made):
    current, strip = made
    setattr(strip, "content_start" if hasattr(strip, "content_start") else "frame_start", 105)
    bpy.ops.musev.redo_range(frame_start=115, frame_end=119)
    job = ended(current)
    assert job.start == 105 and strips.span(all_strips()[0]) == (105, 135) and len(all_strips()) == 1


def test_a_take_with_new_frames_is_recalled_as_the_clip_that_it_is_part_of(made, shot):  # noqa: F811
    current, strip = made
    bpy.ops.musev.redo_range(frame_start=9, frame_end=12, new_seed=True)
    own = ended(current).request.seed
    shot.seed = 99
    assert bpy.ops.musev.recall_settings() == {"FINISHED"} and shot.seed == 0 != own
    take = stack.read(strip).take(stack.shown(strip).name)
    assert recall.recall(shot, take) == [f"its new frames had a seed of their own, {own}"]
    strip.select = True
    bpy.ops.musev.generate_each()  # it is a shot like any other
    assert (ended(current).request.num_frames, current.jobs[-1].request.shared_seed) == (30, None)


def test_what_can_not_be_redone_says_why(made, shot):  # noqa: F811
    current, strip = made
    count = len(current.jobs)
    assert "which has 5 to 34" in refusal(lambda: bpy.ops.musev.redo_range(frame_start=4, frame_end=9))
    assert "(8) lies before the first one (9)" in refusal(
        lambda: bpy.ops.musev.redo_range(frame_start=9, frame_end=8)
    )
    shot.width = 72
    assert "64 x 64 pixels and the settings 72 x 64" in refusal(
        lambda: bpy.ops.musev.redo_range(frame_start=9, frame_end=9)
    )
    shot.width = 64
    shot.generate_at, shot.generation_fps = "RATE", 2.0
    assert "No frame is generated between 9 and 10" in refusal(
        lambda: bpy.ops.musev.redo_range(frame_start=9, frame_end=10)
    )
    bpy.context.scene.sequence_editor.active_strip = None
    assert "shows no takes" in refusal(lambda: bpy.ops.musev.redo_range(frame_start=9, frame_end=9))
    assert len(current.jobs) == count and len(list(stack.folder(strip).glob("take_???"))) == 1


def test_at_a_lower_rate_the_neighbours_are_the_generated_frames(made, shot):  # noqa: F811
    current, strip = made
    before = contents(stack.shown(strip))
    shot.generate_at, shot.generation_fps = "RATE", 8.0
    bpy.ops.musev.redo_range(frame_start=19, frame_end=24)
    job = current.jobs[-1]
    asked = job.request
    assert (asked.num_frames, asked.frames_out, asked.fps) == (10, 28, 8.0)  # 12 timeline frames on each side
    assert [pin.frame for pin in asked.pins] == [0, 1, 2, 3, 6, 7, 8, 9]
    after = contents(ended(current).take)
    assert [k for k in range(30) if after[k] != before[k]] == list(range(14, 20))


@pytest.mark.parametrize("direction", ["AFTER", "BEFORE"])
def test_extending_makes_a_longer_clip_in_a_strip_of_its_own(made, direction):
    current, strip = made
    old, name = stack.shown(strip), strip.name
    before = contents(old)
    bpy.ops.musev.extend(frames=10, direction=direction)
    asked = current.jobs[-1].request
    job = ended(current)
    after = contents(job.take)
    kept = after[:30] if direction == "AFTER" else after[10:]
    assert len(after) == 40 and kept == before and asked.num_frames == 14
    assert [pin.frame for pin in asked.pins] == ([0, 1, 2, 3] if direction == "AFTER" else [10, 11, 12, 13])
    both = {each.name: each for each in all_strips()}
    assert strips.span(both.pop(name)) == (5, 35)
    (longer,) = both.values()
    assert strips.span(longer) == ((5, 45) if direction == "AFTER" else (-5, 35))
    assert stack.is_ours(longer) and stack.shown(longer) == job.take and job.take.parent != old.parent
    told = takes.read_sidecar(job.take)["inputs"]["redo"]["of"]
    assert (job.take.parent / told).resolve() == old.resolve()


def test_extending_again_joins_the_longer_strip(made):
    current, _ = made
    bpy.ops.musev.extend(frames=6)
    first = ended(current)
    bpy.context.scene.sequence_editor.active_strip = all_strips()[0]
    bpy.ops.musev.extend(frames=6, new_seed=True)
    second = ended(current)
    assert len(all_strips()) == 2 and second.take == first.take.with_name("take_002")


def test_a_still_that_was_animated_is_no_frame_of_what_follows(made, shot):  # noqa: F811
    current, _ = made
    shot.mode = "still"
    bpy.ops.musev.redo_range(frame_start=20, frame_end=22)
    assert current.jobs[-1].request.mode == "text" and current.jobs[-1].request.still is None
    ended(current)
    bpy.ops.musev.redo_range(frame_start=5, frame_end=7)
    assert current.jobs[-1].request.mode == "still"
    ended(current)


def grey(folder: Path, name: str, level: int, size=(64, 64)) -> Path:
    path = folder / name
    path.write_bytes(stills.encode_png(np.full((size[1], size[0], 3), level, np.uint8)))
    return path


def test_a_gap_is_bridged_from_one_strip_into_the_other(engine, shot, tmp_path):  # noqa: F811
    current, scene = engine(), bpy.context.scene
    one = [grey(tmp_path, f"a{k}.png", 20 + k) for k in range(6)]
    other = [grey(tmp_path, f"b{k}.png", 120 + k) for k in range(6)]
    strips.place_images(scene, "One", one, 10)
    strips.place_images(scene, "Other", other, 24)
    assert not bpy.ops.musev.bridge.poll()  # one is selected
    for strip in all_strips():
        strip.select = True
    shot.mode, shot.prompt = "text", "rain"
    bpy.ops.musev.bridge()
    asked = current.jobs[-1].request
    job = ended(current)
    assert asked.num_frames == 4 + 8 + 4 and [p.frame for p in asked.pins] == [0, 1, 2, 3, 12, 13, 14, 15]
    files = one[2:] + other[:4]
    assert asked.end_still == blob_sha256(other[0].read_bytes())  # all that is known of how it looks
    assert [p.picture for p in asked.pins] == [blob_sha256(file.read_bytes()) for file in files]
    (bridge,) = [strip for strip in all_strips() if stack.is_ours(strip)]
    assert strips.span(bridge) == (16, 24) and bridge.channel == 1 and job.start == 16
    assert [shade(png, tmp_path) for png in contents(job.take)] == [colour(4 + k) for k in range(8)]
    for strip in all_strips():
        strip.select = strip.name in ("One", bridge.name)
    assert "no gap" in refusal(lambda: bpy.ops.musev.bridge())


def test_a_strip_is_bridged_into_one_that_looks_otherwise(engine, shot, tmp_path):  # noqa: F811
    """From its own still and pose into the other's, whatever the panel says now."""
    current, scene = engine(), bpy.context.scene
    first = finish(generate(current))
    shot.still_image = bpy.data.images.new("Another", 80, 64)
    shot.still_image.pixels.foreach_set(np.full(80 * 64 * 4, 0.5, np.float32))
    shot.armature.location.x += 0.5
    scene.frame_start, scene.frame_end = 25, 36
    second = finish(generate(current))
    shot.still_image = bpy.data.images.new("A third", 60, 64)
    shot.armature.location.x -= 0.8
    for strip in all_strips():
        strip.select = True
    bpy.ops.musev.bridge()
    job = ended(current)
    asked = job.request
    assert (asked.still, asked.end_still) == (first.request.still, second.request.still)
    assert len({asked.still, asked.end_still}) == 2
    told, was = (takes.read_sidecar(each.take)["inputs"] for each in (job, first))
    assert told["still_source"] == was["still_source"] and told["scene"]["still"] == was["scene"]["still"]
    kept_there = {path.name for path in (job.take.parent / "inputs").iterdir()}
    assert set(asked.blobs) <= kept_there

    def points(each) -> np.ndarray:
        track = PoseTrack.from_bytes((each.take.parent / "inputs" / each.request.poses).read_bytes())
        return np.frombuffer(track.points, "<f4").reshape(track.shape)

    led, one, other = points(job), points(first), points(second)
    assert len(led) == 4 + 8 + 4
    assert np.allclose(led[:4], one[-4:], atol=1e-3) and np.allclose(led[-4:], other[:4], atol=1e-3)
    moves = np.diff(led[3:13, 0, :18, 0], axis=0)
    assert np.allclose(moves, moves[:1], atol=1e-3) and abs(moves).max() > 0.5  # pixels


def test_what_looks_alike_is_bridged_as_the_panel_says(made):
    current, strip = made
    files = sorted(stack.shown(strip).glob("*.png"))
    strips.remove(bpy.context.scene, strip)
    strips.place_images(bpy.context.scene, "One", files[:8], 5)
    strips.place_images(bpy.context.scene, "Other", files[20:], 25)
    for each in all_strips():
        each.select = True
    bpy.ops.musev.bridge()
    job = ended(current)
    assert job.request.end_still is None and job.request.still == current.jobs[0].request.still


def test_a_frame_is_traced_to_the_take_that_made_it(made):
    current, strip = made
    whole = stack.shown(strip)
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    redone = ended(current).take
    bpy.ops.musev.extend(frames=6, direction="BEFORE")
    longer = ended(current).take
    traced = [looks.made_by(takes.frame_file(longer, k)) for k in range(36)]
    assert [(take.folder, place) for take, place in traced] == [
        *((longer, k) for k in range(6)),
        *((redone, k - 6) if 10 <= k < 15 else (whole, k) for k in range(30)),
    ]


def test_a_rig_is_led_only_as_far_as_it_is_elsewhere():
    times, new = tuple(range(10, 20)), (13, 16)
    rig = np.random.default_rng(0).uniform(0.1, 1, (10, 2, 130, 3))
    known = {frame: rig[frame - 10] for frame in (10, 11, 12, 17, 18, 19)}
    assert np.array_equal(looks.led(rig, times, new, known), rig) and np.array_equal(
        looks.led(rig, times, new, {}), rig
    )
    elsewhere = {frame: points + np.array([0.5, 0, 0]) for frame, points in known.items() if frame > 16}
    away = (looks.led(rig, times, new, elsewhere) - rig)[..., 0]
    assert np.allclose(away, np.array([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5])[:, None, None])
    hidden = {frame: np.zeros((1, 130, 3)) for frame in (17, 18, 19)}  # and one person less
    assert np.array_equal(looks.led(rig, times, new, hidden), rig)


# --- pins -----------------------------------------------------------------------------------------


@pytest.fixture
def pinned(shot, tmp_path):  # noqa: F811
    """Pins at 8 and 12 of the clip's frames 5 to 16, one after them and a muted one."""
    scene = bpy.context.scene
    for frame, level in ((8, 10), (12, 20), (17, 30), (10, 40)):
        strip = strips.place_images(scene, f"Pin {frame}", [grey(tmp_path, f"{frame}.png", level)], frame, 7)
        strip.mute = frame == 10
    scene.sequence_editor.channels[7].name = "Pins"
    return shot


def test_what_lies_on_the_pins_channel_is_pinned_where_it_begins(engine, pinned, tmp_path):
    current = engine()
    job = generate(current)
    assert [(pin.frame, pin.picture) for pin in job.request.pins] == [
        (k - 5, blob_sha256((tmp_path / f"{k}.png").read_bytes())) for k in (8, 12)
    ]
    assert finish(job).state is JobState.DONE, job.problem  # the engine got them
    pinned.pins_channel = "Others"
    assert generate(current).request.pins == ()
    assert not any("pins at" in text for text in draw(pin_verbs.MUSEV_PT_pins))
    pinned.pins_channel = "Pins"
    for panel in (pin_verbs.MUSEV_PT_pins, ui.MUSEV_PT_clip):
        assert "2 pins at 8, 12" in " ".join(draw(panel))


def test_pins_that_can_not_be_held_say_why(engine, pinned, tmp_path):
    current = engine()
    pinned.generate_at, pinned.generation_fps = "RATE", 2.0
    assert "falls on the same generated frame" in refusal(lambda: bpy.ops.musev.generate())
    pinned.generate_at = "EVERY"
    (tmp_path / "12.png").write_bytes(b"II*\0 a TIFF")
    assert "no PNG or JPEG" in refusal(lambda: bpy.ops.musev.generate())
    (tmp_path / "12.png").unlink()
    assert "can't be read" in refusal(lambda: bpy.ops.musev.generate())
    assert current.jobs == []


def test_pins_are_told_in_a_sentence():
    assert pins.sentence([12]) == "1 pin at 12"
    assert pins.sentence(list(range(9))) == "9 pins at 0, 1, 2, 3, 4, 5 …"
    assert (
        redo.generated_apart(Fraction(24), None) == 4
        and redo.generated_apart(Fraction(24), Fraction(8)) == 12
    )


def test_a_take_is_joined_again_after_it_failed(made, tmp_path):
    current, strip = made
    old = stack.shown(strip)
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    kept = (old / "0001.png").rename(tmp_path / "kept.png")
    job = finish(current.jobs[-1])
    assert job.state is JobState.FAILED and job.resumable and "0001.png is missing" in job.problem
    kept.rename(old / "0001.png")
    session.current.resume(job.id)
    assert len(contents(ended(current).take)) == 30


def test_a_take_that_is_half_joined_is_let_go(made):
    current, strip = made
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    done = ended(current)
    take = takes.next_take(done.take.parent)
    for frame in range(13):
        takes.write_frame(take, frame, b"%d" % frame)
    slices = splice.joining(take, done.about)
    for _ in range(7):
        next(slices)
    assert take.with_name("take_003.joined").is_dir()
    slices.close()
    assert not take.with_name("take_003.joined").exists() and len(contents(take)) == 13
    splice.join(take, done.about)
    was = contents(stack.folder(strip) / "take_001")
    assert contents(take) == [*was[:10], b"4", b"5", b"6", b"7", b"8", *was[15:]]
