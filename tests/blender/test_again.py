"""Drafts and their finals, kept inputs, and takes that are made again to be compared."""

from __future__ import annotations

import dataclasses
import json

import bpy
import pytest
from bl_ext.user_default.musev import session, stills, strips
from bl_ext.user_default.musev.clips import again, clip_folder, draft, kept, recall, reproduce, stack, takes
from bl_ext.user_default.musev.clips.clip_folder import read
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.protocol import ClipRequest, Done, blob_sha256
from conftest import pump
from fake_engine import png
from test_extension import draw
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)


@pytest.fixture
def drafted(engine, shot):  # noqa: F811
    """A finished draft of 64 x 64 pixels and 3 steps, of a clip of 128 x 128 and 20."""
    shot.width, shot.height, shot.steps, shot.seed = 128, 128, 20, 5
    shot.draft.use, shot.draft.steps = True, 3
    job = finish(generate(engine()))
    assert job.state is JobState.DONE, job.problem
    return job


def test_a_draft_is_the_same_clip_smaller_and_in_fewer_steps():
    settings = type("Settings", (), {"share": 0.5, "steps": 4})
    whole = ClipRequest(mode="text", width=512, height=328, num_inference_steps=20, seed=9)
    made = draft.of(whole, settings)
    assert (made.width, made.height, made.num_inference_steps) == (256, 160, 4)
    assert (made.noise_width, made.noise_height, made.seed) == (512, 328, 9)
    assert draft.final(made, {"width": 512, "height": 328, "steps": 20}) == whole
    assert draft.side(64, 0.25) == 64  # the least that the engine takes
    assert draft.of(dataclasses.replace(whole, num_inference_steps=2), settings).num_inference_steps == 2


def test_a_drafts_inputs_are_those_of_the_whole_clip(drafted):
    told = takes.read_sidecar(drafted.take)
    assert told["inputs"]["draft"] == {"width": 128, "height": 128, "steps": 20}
    assert (told["request"]["width"], told["request"]["noise_width"], told["request"]["seed"]) == (64, 128, 5)
    (still,) = kept.read(drafted.take.parent, [drafted.request.still]).values()
    assert stills.png_size(still) == (128, 128)
    assert stills.png_size(takes.frame_file(drafted.take, 0).read_bytes()) == (64, 64)


def test_the_final_of_a_draft_is_another_take_with_its_inputs(drafted):
    bpy.context.scene.musev.prompt = "something else"  # the scene has changed meanwhile
    bpy.context.scene.musev.seed = 99
    assert "musev.promote_draft" in draw(again.MUSEV_PT_take_again)
    bpy.ops.musev.promote_draft()
    job = finish(session.current.jobs[-1])
    assert job.state is JobState.DONE, job.problem
    asked = dataclasses.replace(
        drafted.request, width=128, height=128, num_inference_steps=20, noise_width=None, noise_height=None
    )
    assert job.request == asked
    (strip,) = all_strips()
    assert stack.shown(strip) == job.take and job.take.name == "take_002" and strips.span(strip) == (5, 17)
    told = takes.read_sidecar(job.take)
    assert told["inputs"]["final_of"] == "take_001" and "draft" not in told["inputs"]
    assert "musev.promote_draft" not in draw(again.MUSEV_PT_take_again)
    assert "is no draft" in refusal(bpy.ops.musev.promote_draft)


def test_recalling_a_draft_brings_the_whole_clips_size_back(drafted):
    settings = bpy.context.scene.musev
    settings.width, settings.height, settings.steps = 64, 72, 7
    settings.draft.use, settings.draft.steps, settings.draft.share = False, 9, 1.0
    (strip,) = all_strips()
    assert recall.recall(settings, stack.read(strip).take("take_001")) == []
    assert (settings.width, settings.height, settings.steps) == (128, 128, 20)
    assert settings.draft.use and settings.draft.steps == 3 and settings.draft.share == pytest.approx(0.5)


def test_inputs_are_kept_once_and_told(engine, shot):  # noqa: F811
    current = engine()
    first, second = finish(generate(current)), finish(generate(current))
    folder = first.take.parent / "inputs"
    assert {path.name for path in folder.iterdir()} == {*first.request.blobs, *second.request.blobs}
    assert len(first.request.blobs) == 2 and first.request.blobs == second.request.blobs
    for path in folder.iterdir():
        assert blob_sha256(path.read_bytes()) == path.name
    sizes = sum(path.stat().st_size for path in folder.iterdir())
    assert kept.size(takes.read_sidecar(second.take)) == (2, sizes)
    assert [take.name for take in read(first.take.parent).takes] == ["take_001", "take_002"]
    assert "Its inputs are kept: 2 files," in " ".join(draw(again.MUSEV_PT_take_again))


def test_a_take_that_comes_out_as_it_was_is_bit_equal(engine, shot):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    shot.prompt, shot.seed = "something else", 4  # the kept inputs and the recorded request are what counts
    bpy.ops.musev.reproduce()
    job = finish(current.jobs[-1])
    assert job.state is JobState.DONE and job.request == first.request
    assert job.problem == "Bit-equal: all 12 frames are those of take_001."
    (strip,) = all_strips()
    assert stack.shown(strip) == first.take and not job.take.exists()
    assert [take.name for take in read(first.take.parent).takes] == ["take_001"]


def test_the_first_input_that_differs_is_named(engine, shot):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    takes.write_frame(first.take, 3, png(64, 64, (1, 2, 3)))
    told = takes.read_sidecar(first.take)

    def said(**changes) -> str:
        takes.write_sidecar(first.take, told | changes)
        bpy.ops.musev.reproduce()
        return finish(current.jobs[-1]).problem

    begins = "1 of 12 frames are not those of take_001, the first is 0004.png"
    assert said().startswith(f"{begins}; every input is the same")
    model = told["model"] | {"sha256": "cd" * 32}
    named = f"{begins}. The first input that differs: the model's files (sha256) was cdcdcdcdcdcd… and is abababababab…"
    assert said(model=model, engine={"version": "old"}).startswith(named)
    assert said(engine=told["engine"] | {"version": "old"}).endswith(
        "the engine's version was old and is fake."
    )


def test_against_the_scene_what_has_changed_there_is_named(engine, shot):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    takes.write_frame(first.take, 0, png(64, 64, (1, 2, 3)))
    bpy.ops.musev.reproduce(inputs="SCENE")
    assert "every input is the same" in finish(current.jobs[-1]).problem
    shot.seed = 8
    bpy.ops.musev.reproduce(inputs="SCENE")
    assert finish(current.jobs[-1]).problem.endswith("seed was 0 and is 8.")
    shot.armature.location.x += 0.5
    bpy.ops.musev.reproduce(inputs="SCENE")
    assert "The first input that differs: poses was" in finish(current.jobs[-1]).problem
    bpy.context.scene.frame_end += 1
    assert "gives 13 frames and take_001 has 12" in refusal(lambda: bpy.ops.musev.reproduce(inputs="SCENE"))
    assert [take.name for take in read(first.take.parent).takes] == ["take_001"]


@pytest.mark.parametrize("what", ["missing", "changed"])
def test_inputs_that_are_gone_or_changed_are_told(engine, shot, what):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    file = first.take.parent / "inputs" / first.request.poses
    if what == "missing":
        file.unlink()
    else:
        file.write_bytes(b"else")
    said = refusal(bpy.ops.musev.reproduce)
    assert ("is not kept" if what == "missing" else "was changed") in said and file.name in said
    assert len(current.jobs) == 1


@pytest.mark.parametrize("verb", ["reproduce", "vary"])
def test_inputs_are_read_one_at_a_time_and_looked_at_before_they_are_sent(engine, shot, verb):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    file = first.take.parent / "inputs" / first.request.poses
    file.write_bytes(b"x" * file.stat().st_size)  # which only its sum tells
    getattr(bpy.ops.musev, verb)()
    job = finish(current.jobs[-1])
    assert job.state is JobState.FAILED and f"{file} has another sha256" in job.problem
    assert not job.blobs and not job.fetched and not job.take.exists()
    assert first.request.still in {path.name for path in file.parent.iterdir()}  # the other take's, as before


@pytest.fixture
def redone(engine, shot):  # noqa: F811
    """The session, a finished clip of 12 frames at 5, and the take in which its frames 5 to 7 are made anew."""
    current = engine()
    first = finish(generate(current))
    bpy.ops.musev.redo_range(frame_start=10, frame_end=12)
    return current, first, finish(current.jobs[-1])


def test_a_joined_take_is_made_again_as_far_as_it_is_its_own(redone):
    current, _, second = redone
    bpy.ops.musev.reproduce()
    job = finish(current.jobs[-1])
    assert job.state is JobState.DONE and job.request == second.request
    rest = "The other 9 are those of take_001: reproduce that one for them."
    assert job.problem == f"Bit-equal: all 3 frames that were made anew are those of take_002. {rest}"

    file = takes.frame_file(second.take, 5)
    file.unlink()
    takes.write_frame(second.take, 5, png(64, 64, (1, 2, 3)))
    bpy.ops.musev.reproduce()
    said = finish(current.jobs[-1]).problem
    assert said.startswith(
        "1 of 3 frames that were made anew are not those of take_002, the first is 0006.png; every"
    )
    assert said.endswith(rest)
    assert "alone doesn't make it" in refusal(lambda: bpy.ops.musev.reproduce(inputs="SCENE"))


def test_a_joined_take_has_variations(redone):
    current, first, second = redone
    bpy.ops.musev.vary(count=2)
    jobs = [finish(job) for job in current.jobs[-2:]]
    assert [job.state for job in jobs] == [JobState.DONE] * 2
    assert [job.request.seed for job in jobs] == [1, 2] and {job.request.shared_seed for job in jobs} == {0}
    before = [file.read_bytes() for file in sorted(first.take.glob("*.png"))]
    for job in jobs:
        after = [file.read_bytes() for file in sorted(job.take.glob("*.png"))]
        assert job.request.pins == second.request.pins and len(after) == 12
        assert [a == b for a, b in zip(after, before, strict=True)] == [k not in (5, 6, 7) for k in range(12)]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_joined_drafts_final_is_led_by_the_final_of_what_stays_in_it(drafted, by_hand):
    current, settings = session.current, bpy.context.scene.musev
    if by_hand:  # made small by the settings, not as a draft
        settings.width = settings.height = 64
        settings.draft.use = False
    bpy.ops.musev.redo_range(frame_start=10, frame_end=12)
    redone = finish(current.jobs[-1])
    assert redone.state is JobState.DONE, redone.problem
    assert (redone.request.width, redone.request.noise_width) == (64, None if by_hand else 128)
    assert redone.about.get("draft") == (None if by_hand else {"width": 128, "height": 128, "steps": 20})
    said = refusal(bpy.ops.musev.promote_draft)
    assert "the frames that stay in it are those of take_001, a draft too. Make that take final first" in said

    bpy.ops.musev.promote_draft(take="take_001")
    base = finish(current.jobs[-1])
    if by_hand:  # an engine fits its poses, which the stand-in doesn't
        job = again.final_job(
            bpy.context.scene, all_strips()[0], stack.read(all_strips()[0]).take("take_002")
        )
    else:
        bpy.ops.musev.promote_draft(take="take_002")
        job = finish(current.jobs[-1])
        assert job.state is JobState.DONE, job.problem
    size = {"width": 128, "height": 128, "num_inference_steps": 20, "noise_width": None, "noise_height": None}
    files = [takes.frame_file(base.take, k) for k in (1, 2, 3, 4, 8, 9, 10, 11)]
    pictures = [blob_sha256(file.read_bytes()) for file in files]
    pins = tuple(
        dataclasses.replace(pin, picture=sha256)
        for pin, sha256 in zip(redone.request.pins, pictures, strict=True)
    )
    assert job.request == dataclasses.replace(redone.request, **size, pins=pins)
    if by_hand:
        return
    there, after = ([file.read_bytes() for file in sorted(each.take.glob("*.png"))] for each in (base, job))
    assert [a == b for a, b in zip(after, there, strict=True)] == [k not in (5, 6, 7) for k in range(12)]
    told = takes.read_sidecar(job.take)["inputs"]
    assert (told["final_of"], told["redo"]["of"], "draft" in told) == ("take_002", base.take.name, False)


def test_a_bridge_of_drafts_has_no_final(drafted):
    files = sorted(drafted.take.glob("*.png"))
    for each in all_strips():
        strips.remove(bpy.context.scene, each)
    strips.place_images(bpy.context.scene, "One", files[:4], 5)
    strips.place_images(bpy.context.scene, "Other", files[8:], 13)
    for each in all_strips():
        each.select = True
    bpy.ops.musev.bridge()
    assert finish(session.current.jobs[-1]).state is JobState.DONE
    assert "is no draft" in refusal(bpy.ops.musev.promote_draft)


def test_a_damaged_joined_take_says_so(engine, shot):  # noqa: F811
    first = finish(generate(engine()))
    told = takes.read_sidecar(first.take)
    told["inputs"]["redo"] = {"of": "take_000"}
    takes.write_sidecar(first.take, told)
    assert "take.json is damaged" in refusal(bpy.ops.musev.reproduce)


def test_inputs_go_with_the_last_take_that_needs_them(redone):
    current, first, second = redone
    clip = first.take.parent
    inputs = clip / "inputs"
    needed = set(first.request.blobs), set(second.request.blobs)
    (inputs / ("12" * 32)).write_bytes(b"of a cancelled clip")
    (inputs / "mine.txt").write_bytes(b"the artist's")
    pump(lambda: not list(clip.glob("*.live")))
    bpy.ops.musev.take_show(take="1")
    bpy.ops.musev.takes_prune()
    assert kept.prune(clip) == (1, 19)  # what was removed can be had back, and made again
    assert {path.name for path in inputs.iterdir()} == {*needed[0], *needed[1], "mine.txt"}
    own = sum((inputs / name).stat().st_size for name in needed[1] - needed[0])
    frames = sum(takes.frame_file(clip / "_removed" / "take_002", k).stat().st_size for k in (5, 6, 7))
    record = (clip / "_removed" / "take_002" / "take.json").stat().st_size
    _, size = clip_folder.empty(clip)
    assert size == frames + record and kept.prune(clip) == (len(needed[1] - needed[0]), own)
    assert {path.name for path in inputs.iterdir()} == {*needed[0], "mine.txt"}
    assert clip_folder.removed(clip) == [] and len(list(first.take.glob("*.png"))) == 12
    bpy.ops.musev.reproduce()
    assert finish(current.jobs[-1]).problem.startswith("Bit-equal: all 12")


def test_removed_takes_are_deleted_for_good(redone):
    _, first, second = redone
    bpy.ops.musev.take_show(take="1")
    bpy.ops.musev.takes_prune()
    bpy.ops.musev.takes_empty()
    clip = first.take.parent
    assert clip_folder.removed(clip) == [] and {path.name for path in (clip / "inputs").iterdir()} == set(
        first.request.blobs
    )
    (second.take.parent / "take_009").mkdir()
    (second.take.parent / "take_009" / "take.json").write_bytes(b"\xff")
    assert "none is removed" in refusal(bpy.ops.musev.takes_empty)


def test_a_cancelled_reproduction_leaves_the_take(engine, shot):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    current.stop_engine()
    pump(lambda: not current.engine.busy)
    current = engine("wait")
    bpy.ops.musev.reproduce()
    job = current.jobs[-1]
    pump(lambda: job.have)
    bpy.ops.musev.cancel(job=job.id)
    assert job.state is JobState.CANCELLED and not job.take.exists()
    assert len(list(first.take.iterdir())) == 13 and len(all_strips()) == 1


def test_pictures_are_the_same_whatever_else_their_files_tell():
    one, other = png(8, 8, (1, 2, 3)), png(8, 8, (1, 2, 4))
    told = one[:33] + b"\0\0\0\3tEXta\0b" + b"\0\0\0\0" + one[33:]
    assert reproduce.same_picture(one, told) and not reproduce.same_picture(one, other)
    assert not reproduce.same_picture(one, b"no picture") and not reproduce.same_picture(
        one, png(4, 16, (1, 2, 3))
    )


def test_frames_that_are_equal_although_something_differs_are_told(tmp_path):
    request = ClipRequest(mode="text", num_frames=2)
    record = {"request": json.loads(json.dumps(dataclasses.asdict(request))), "model": {"sha256": "a"}}
    takes.write_sidecar(tmp_path, record | {"engine": {"version": "1", "device": "cpu"}})
    done = Done("0" * 8 + "-0000" * 3 + "-" + "0" * 12, 2, device="cpu", model_sha256="a", engine_version="2")
    said = reproduce.verdict(tmp_path, request, done, set())
    assert said.startswith("Bit-equal") and "although the engine's version was 1 and is 2" in said
