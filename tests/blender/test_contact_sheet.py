"""Contact sheets: letters as pixels, what stands in a row, and the picture that an artist opens in the morning."""

from __future__ import annotations

import time
from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import provenance, session, stills
from bl_ext.user_default.musev.clips import clip_folder, stack, takes
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.shots import contact_sheet, lettering, sheet_rows, sheet_verbs, shot_record
from bl_ext.user_default.musev.shots.contact_sheet import (
    HEADER,
    MARGIN,
    PICTURE,
    ROW,
    SHORT_ROW,
    STATES,
    TEXT,
    Row,
)
from conftest import pump
from fake_engine import colour
from montage import read_image
from test_extension import draw
from test_generate import all_strips, refusal
from test_shot_list import board, ended, generate_each, newest_list, select, words  # noqa: F401 (a fixture)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def sheet_of(**how) -> np.ndarray:
    """The picture that the operator makes, (h, w, 3) uint8."""
    before = {image.name for image in bpy.data.images}
    assert bpy.ops.musev.contact_sheet(**how) == {"FINISHED"}
    (image,) = [image for image in bpy.data.images if image.name not in before]
    return read_image(Path(bpy.path.abspath(image.filepath)))


def mark(sheet: np.ndarray, top: int) -> tuple[int, ...]:
    """The colour of a row's mark."""
    return tuple(int(level) for level in sheet[top + 40, MARGIN - 8])


def state(sheet: np.ndarray, top: int) -> str:
    return next((name for name, shown in STATES.items() if shown == mark(sheet, top)), "")


def first_pixel(sheet: np.ndarray, top: int, left: int = 0) -> tuple[int, ...]:
    """The middle of a row's first frame, of those that are as high as wide."""
    at = MARGIN + TEXT + MARGIN + left + PICTURE // 2
    return tuple(int(level) for level in sheet[top + 12 + PICTURE // 2, at])


# --- letters --------------------------------------------------------------------------------------


@pytest.fixture
def letters(empty_scene):
    yield lettering
    lettering.close()
    assert lettering.NAME not in bpy.data.objects and lettering.NAME not in bpy.data.curves


def test_a_letter_covers_what_its_outline_encloses(letters):
    bar = letters.line("l", 40)  # a bar: full inside, nothing beside it
    assert bar.shape[0] == 54 and bar.max() == pytest.approx(1.0) and bar.min() == 0
    column = bar[20]
    assert column.sum() == pytest.approx(bar[25].sum(), abs=0.05)
    ring = letters.line("o", 40)
    rows = np.flatnonzero(ring.sum(axis=1) > 0.5)
    middle = ring[(rows[0] + rows[-1]) // 2]
    inside = np.flatnonzero(middle > 0.5)
    assert middle[(inside[0] + inside[-1]) // 2] < 0.01  # the hole stays empty
    assert letters.line("o", 80).sum() == pytest.approx(4 * ring.sum(), rel=0.03)
    assert letters.line("oo", 40).sum() == pytest.approx(2 * ring.sum(), rel=0.01)
    assert letters.line("", 40).sum() == 0 and letters.line("  ", 40).sum() == 0


@pytest.mark.parametrize("text", ["Übergröße", "Привет", "雨の中", "— “ok” …"])
def test_other_scripts_are_written_too(letters, text):
    assert letters.line(text, 20).sum() > 20 * len(text.replace(" ", "")) / 4
    assert letters.width(text, 40) == pytest.approx(2 * letters.width(text, 20), rel=0.01)


def test_texts_are_broken_between_words_and_shortened_at_the_end(letters):
    text = "A woman walks through the rain at night, neon lights in the puddles"
    whole = list(letters.wrapped(text, 16, 180, 10))
    assert " ".join(whole) == text and len(whole) > 2
    assert all(letters.width(line, 16) <= 180 for line in whole)
    short = list(letters.wrapped(text, 16, 180, 2))
    assert short[0] == whole[0] and short[1].endswith("…") and letters.width(short[1], 16) <= 180
    broken = list(letters.wrapped("雨の中を歩く女性ネオンの光が水たまりに反射している", 16, 100, 10))
    assert "".join(broken) == "雨の中を歩く女性ネオンの光が水たまりに反射している" and len(broken) > 2
    assert list(letters.wrapped("two\n lines", 16, 500, 3)) == ["two lines"]
    assert list(letters.wrapped("", 16, 50, 3)) == list(letters.wrapped("  ", 16, 50, 1)) == []


# --- the picture ----------------------------------------------------------------------------------


def drawn(file, rows, title="Title", said="said"):
    files = [done for done in contact_sheet.write(file, title, said, rows) if done is not None]
    lettering.close()
    return files


def frames(folder: Path, count: int, width: int = 32, height: int = 32) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for frame in range(count):
        pixels = np.full((height, width, 3), (frame * 10, 100, 50), np.uint8)
        takes.write_whole(takes.frame_file(folder, frame), stills.encode_png(pixels))
    return [takes.frame_file(folder, frame) for frame in range(count)]


def test_a_row_shows_its_state_and_frames_evenly_chosen(empty_scene, tmp_path):
    assert contact_sheet.chosen(48) == [0, 9, 19, 28, 38, 47] and contact_sheet.chosen(3) == [0, 1, 2]
    files = frames(tmp_path / "a", 11)
    rows = [
        Row("one", "done", "Done", "words", "facts", frames=files, start=101),
        Row("two", "failed", "Failed", problem="The GPU is full"),
        Row("three", "done", "Done", frames=frames(tmp_path / "b", 2, 64, 32)),
    ]
    (file,) = drawn(tmp_path / "sheet.png", rows)
    sheet = read_image(file)
    tops = [HEADER, HEADER + ROW, HEADER + ROW + SHORT_ROW]
    assert sheet.shape[0] == tops[2] + ROW + MARGIN
    assert [state(sheet, top) for top in tops] == ["done", "failed", "done"]
    step = PICTURE + contact_sheet.GAP
    shown = [first_pixel(sheet, tops[0], step * k) for k in range(6)]
    assert shown == [(10 * k, 100, 50) for k in contact_sheet.chosen(11)]
    reason = sheet[tops[1] + 14 : tops[1] + 36, MARGIN + TEXT + MARGIN :]
    assert (np.abs(reason.astype(int) - STATES["failed"]).sum(axis=2) < 60).sum() > 50  # written in red
    wide = sheet[tops[2] + 12 : tops[2] + 12 + PICTURE, MARGIN + TEXT + MARGIN :]
    picture = (wide[:, :, 1] == 100).any(axis=0).sum(), (wide[:, :, 1] == 100).any(axis=1).sum()
    assert picture == (236 * 2, 118)  # two to one, as wide as a frame gets


def test_many_rows_are_several_pictures(empty_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "ROWS", 2)
    rows = [Row(str(k), "cancelled", "Cancelled") for k in range(5)]
    files = drawn(tmp_path / "sheet.png", rows)
    assert [file.name for file in files] == ["sheet.png", "sheet_2.png", "sheet_3.png"]
    heights = [read_image(file).shape[0] for file in files]
    assert heights == [HEADER + SHORT_ROW * k + MARGIN for k in (2, 2, 1)]


def test_a_sheet_with_frames_says_which_models_made_them(empty_scene, tmp_path):
    from fake_engine import png

    files = [tmp_path / f"{number:04}.png" for number in range(3)]
    for number, file in enumerate(files):
        told = provenance.packet(f"model {number // 2}", "Any.")
        file.write_bytes(provenance.with_packet(png(16, 16, colour(number)), told))
    for name, shown in (("with", files), ("without", [])):
        rows = [Row("One", "done", "Done", frames=shown), Row("Two", "failed", "Failed", problem="No.")]
        list(contact_sheet.write(tmp_path / f"{name}.png", "Title", "said", rows))
    assert provenance.of_file(tmp_path / "with.png") == provenance.packet("model 0; model 1", "Any.")
    assert provenance.of_file(tmp_path / "without.png") == ""
    assert read_image(tmp_path / "with.png").shape[0] > HEADER


def test_a_frame_that_can_not_be_read_leaves_its_place_empty(empty_scene, tmp_path):
    files = frames(tmp_path / "a", 3)
    files[1].write_bytes(b"no picture")
    files[2].unlink()
    (file,) = drawn(tmp_path / "sheet.png", [Row("one", "done", "Done", frames=files)])
    step = PICTURE + contact_sheet.GAP
    shown = [first_pixel(read_image(file), HEADER, step * k) for k in range(3)]
    assert shown == [(0, 100, 50), contact_sheet.EMPTY, contact_sheet.EMPTY]
    assert {image.name for image in bpy.data.images if not image.packed_file and image.users} == set()


# --- from what ------------------------------------------------------------------------------------


def test_the_sheet_of_a_night_tells_what_became_of_each_shot(engine, board):  # noqa: F811
    current = engine("fail_some")
    for number, text in enumerate(("first", "this one fails", "third", "")):
        words(board, text, 10 + 8 * number)
    jobs = ended(generate_each(current, name="Night"))
    rows = sheet_rows.of_list(newest_list())
    assert [row.state for row in rows] == ["done", "failed", "done", "refused"]
    assert sheet_rows.summary(rows) == "4 shots: 2 done, 1 failed, 1 can't be made"
    first, failed, _, refused = rows
    assert first.title == "1  first" and first.prompt == "first" and first.said == "Done in 2 s"
    assert first.facts == "seed 7 · frames 10–15 · take_001 · 64 × 64 · mini"
    assert first.frames == [takes.frame_file(jobs[0].take, k) for k in range(6)] and first.start == 10
    assert (
        "The GPU is full" in failed.problem and failed.facts == "seed 7 · frames 18–23" and not failed.frames
    )
    assert "says nothing" in refused.problem
    sheet = sheet_of(of="LIST", name="Night")
    tops = np.cumsum([HEADER, ROW, SHORT_ROW, ROW])
    assert [state(sheet, top) for top in tops] == ["done", "failed", "done", "refused"]
    assert first_pixel(sheet, tops[0]) == colour(0)
    file = newest_list().file.with_suffix(".png")
    assert file.exists() and solid_names(sheet_verbs.lists()) == {newest_list().file.stem}
    assert "There is no shot list 'Day'" in refusal(lambda: bpy.ops.musev.contact_sheet(name="Day"))
    drawn_ = draw(sheet_verbs.MUSEV_PT_sheets)
    assert "2 of 4 done, 0 to come" in drawn_ and drawn_.count("musev.contact_sheet") == 3


def solid_names(files):
    return {file.stem for file in files}


def test_it_is_made_in_the_morning_by_another_blender_at_another_place(engine, board, tmp_path):  # noqa: F811
    (tmp_path / "project").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "project" / "a.blend"))
    current = engine("fail_some")
    words(board, "first", 1)
    words(board, "this one fails", 8)
    words(board, "third", 15)
    ended(generate_each(current))
    bpy.ops.wm.save_mainfile()
    current.forget_ended()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    (tmp_path / "project").rename(tmp_path / "moved")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "moved" / "a.blend"))
    assert bpy.ops.musev.contact_sheet() == {"FINISHED"}
    (file,) = (tmp_path / "moved" / "musev" / shot_record.FOLDER).glob("*.png")
    sheet = read_image(file)
    tops = np.cumsum([HEADER, ROW, SHORT_ROW])
    assert [state(sheet, top) for top in tops] == ["done", "failed", "done"]
    assert first_pixel(sheet, tops[2]) == colour(0)
    image = bpy.data.images[file.name]
    assert image.filepath == f"//musev/{shot_record.FOLDER}/{file.name}"
    bpy.ops.musev.contact_sheet()
    assert len([i for i in bpy.data.images if i.filepath == image.filepath]) == 1  # the same one, read anew


def test_shots_on_their_way_and_those_that_are_gone_are_told(engine, board):  # noqa: F811
    current = engine("queue")
    for number, text in enumerate(("running", "waiting", "cancelled")):
        words(board, text, 10 + 8 * number)
    jobs = generate_each(current)
    pump(lambda: all(job.accepted for job in jobs) and jobs[0].state is JobState.RUNNING and jobs[0].step)
    bpy.ops.musev.cancel(job=jobs[2].id)
    rows = sheet_rows.of_list(newest_list())
    assert [row.state for row in rows] == ["waiting", "waiting", "cancelled"]
    assert rows[0].said.startswith("On its way: making the frames") and rows[2].said == "Cancelled"
    current.jobs.remove(jobs[0])  # as after closing Blender
    rows = sheet_rows.of_list(newest_list())
    assert rows[0].said.startswith("Not here yet") and rows[0].state == "waiting"
    (jobs[0].take / takes.JOB).unlink()
    rows = sheet_rows.of_list(newest_list())
    assert rows[0].said == "Gone" and str(jobs[0].take) in rows[0].problem
    assert sheet_rows.summary(rows) == "3 shots: 2 cancelled, 1 on their way"


def test_sheets_of_selected_clips_and_of_the_takes_of_one(engine, board):  # noqa: F811
    current = engine()
    words(board, "first", 1)
    words(board, "second", 8)
    ended(generate_each(current))
    ours = [strip for strip in all_strips() if stack.is_ours(strip)]
    select(*ours)
    ended(generate_each(current))  # one more take each
    ours = [strip for strip in all_strips() if stack.is_ours(strip)]
    assert len(ours) == 2
    select(*ours)
    sheet = sheet_of(of="STRIPS")
    assert [state(sheet, HEADER + ROW * k) for k in range(2)] == ["done", "done"]
    rows = sheet_rows.of_strips(bpy.context.scene)
    assert [(row.prompt, row.facts.split(" · ")[2]) for row in rows] == [
        ("first", "take_002"),
        ("second", "take_002"),
    ]
    strip = ours[0]
    bpy.context.scene.sequence_editor.active_strip = strip
    clip_folder.mark(stack.folder(strip), "take_001", star=True, label="the calm one")
    sheet = sheet_of(of="TAKES")
    assert (stack.folder(strip) / "contact_sheet.png").exists() and sheet.shape[
        0
    ] == HEADER + 2 * ROW + MARGIN
    one, two = sheet_rows.of_takes(strip)
    assert one.title.split() == ["Take", "1", "the", "calm", "one"] and two.title.split() == ["Take", "2"]
    assert "starred" in one.facts and sheet_rows.summary([one, two], of_one=True) == "2 takes: 2 done"
    assert one.facts.startswith("seed 7") and two.facts.startswith("seed 8")
    (stack.folder(strip) / "take_002" / takes.SIDECAR).write_text("{")
    assert sheet_rows.of_takes(strip)[1].state == "failed"
    assert len(stack.read(strip).takes) == 2
    select()
    assert "0 strips of MuseV are selected" in refusal(lambda: bpy.ops.musev.contact_sheet(of="STRIPS"))
    bpy.context.scene.sequence_editor.active_strip = None
    assert "shows no takes" in refusal(lambda: bpy.ops.musev.contact_sheet(of="TAKES"))


# --- a little at a time ---------------------------------------------------------------------------


def test_it_is_drawn_in_slices_whatever_happens_between(empty_scene, tmp_path):
    files = frames(tmp_path / "a", 6)
    rows = [Row(f"Row {k}", "done", "Done", "words " * 30, "facts", frames=files) for k in range(4)]
    whole = drawn(tmp_path / "whole.png", rows)[0].read_bytes()
    drawing = sheet_verbs.current
    drawing.start(contact_sheet.write(tmp_path / "slices.png", "Title", "said", rows))
    assert "being drawn" in refusal(bpy.ops.musev.contact_sheet)
    ticks = 0
    bpy.ops.ed.undo_push(message="before")
    while drawing.advance(time.perf_counter() + 1e-9):  # a step at a time
        ticks += 1
        if ticks % 10 == 0:
            bpy.ops.ed.undo_push(message="step")
            bpy.ops.ed.undo()
    assert ticks > 60 and drawing.problem == ""
    assert (tmp_path / "slices.png").read_bytes() == whole
    assert lettering.NAME not in bpy.data.objects and "slices.png" in bpy.data.images


def test_a_sheet_that_can_not_be_written_says_so(engine, board, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("")
    drawing = sheet_verbs.current
    drawing.start(contact_sheet.write(tmp_path / "file" / "sheet.png", "Title", "said", []))
    while drawing.advance(time.perf_counter() + 0.01):
        pass
    assert "can't be written" in drawing.problem and "sheet" not in "".join(i.name for i in bpy.data.images)
    assert solid(drawing.problem) in solid(" ".join(draw(sheet_verbs.MUSEV_PT_sheets)))
    drawing.stop()
    assert session.current.engine.problem == ""


def solid(text):
    return text.replace(" ", "")
