"""Takes inside one strip: joining, flipping, marks, pruning, comparing; all of it survives what files go through."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import bpy
import montage
import numpy as np
import pytest
from bl_ext.user_default.musev import stills, strips
from bl_ext.user_default.musev.clips import clip_folder, stack, stack_panel, takes
from bl_ext.user_default.musev.making.jobs import JobState
from test_extension import draw
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)


def make_take(clip: Path, shade: int, count: int = 4, size=(16, 8), **request) -> Path:
    """A finished take of plain grey frames: `shade` + k."""
    take = takes.next_take(clip)
    for k in range(count):
        png = stills.encode_png(np.full((size[1], size[0], 3), shade + k, np.uint8))
        takes.write_frame(take, k, png)
    takes.write_sidecar(take, {"request": request, "model": {"licence": "non-commercial research only"}})
    return take


@pytest.fixture
def project(empty_scene, tmp_path):
    """A saved file with one strip of three takes (grey 40, 80, 120) at frames 10 to 13, the first one shown."""
    folder = tmp_path / "project"
    folder.mkdir()
    render = empty_scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = 16, 8, 100
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "shot.blend"))
    made = [make_take(folder / "musev" / "Rain", 40 * n, seed=n, prompt="rain " * n) for n in (1, 2, 3)]
    strip = stack.place(empty_scene, "Rain", sorted(made[0].glob("*.png")), 10)
    assert strip.directory == "//musev/Rain/take_001/"
    return folder


def the_strip():
    (strip,) = [strip for strip in all_strips() if stack.is_ours(strip)]
    return strip


def grey(tmp_path, frame=10):
    """What the sequencer shows at a frame: (h, w) of the red channel."""
    folder = tmp_path / "seen"
    folder.mkdir(exist_ok=True)
    (picture,) = montage.plain_frames(bpy.context.scene, [frame], folder)
    return np.array(picture)[..., 0]


# --- a new take -----------------------------------------------------------------------------------


def test_the_next_clip_over_the_range_joins_the_strip_and_is_shown(engine, shot):  # noqa: F811
    current = engine()
    first, second = finish(generate(current)), finish(generate(current))
    (strip,) = all_strips()
    assert first.strip == second.strip == strip.name and first.take.parent == second.take.parent
    assert stack.shown(strip) == second.take and second.take.name == "take_002"
    bpy.ops.ed.undo()
    assert stack.shown(the_strip()) == first.take  # one step
    bpy.ops.ed.redo()
    assert stack.shown(the_strip()) == second.take


def test_queued_clips_of_one_range_become_takes_of_one_strip(engine, shot):  # noqa: F811
    current = engine()
    jobs = [generate(current) for _ in range(3)]
    for job in jobs:
        assert finish(job).state is JobState.DONE
    assert [job.take.name for job in jobs] == ["take_001", "take_002", "take_003"]
    assert len({job.take.parent for job in jobs}) == 1 and len(all_strips()) == 1


def test_another_prompt_joins_the_active_strip(engine, shot):  # noqa: F811
    current = engine()
    shot.mode, shot.prompt = "text", "rain"
    first = finish(generate(current))
    shot.prompt = "snow"
    second = finish(generate(current))
    assert second.take.parent == first.take.parent and len(all_strips()) == 1
    the_strip().select = False
    bpy.context.scene.sequence_editor.active_strip = None
    third = finish(generate(current))  # neither active nor of that name
    assert third.take.parent != first.take.parent and len(all_strips()) == 2


@pytest.mark.parametrize("change", ["new_strip", "range", "lock"])
def test_what_must_not_join_gets_a_strip_of_its_own(engine, shot, change):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    if change == "range":
        bpy.context.scene.frame_end += 1
    elif change == "lock":
        the_strip().lock = True
    else:
        shot.new_strip = True
    second = finish(generate(current))
    assert second.take.parent.name == f"{first.take.parent.name}_2" and second.take.name == "take_001"
    assert [stack.shown(strip) for strip in all_strips()] == [first.take, second.take]


def test_a_strip_is_no_take_of_the_strip_it_was_made_from(engine, shot):  # noqa: F811
    current = engine()
    first = finish(generate(current))
    shot.mode, shot.prompt, shot.armature = "video", "Dancer", None  # even of the same name
    second = finish(generate(current))
    assert second.state is JobState.DONE, second.problem
    assert second.strip != first.strip and len(all_strips()) == 2


def test_a_take_finds_its_strip_where_it_was_moved_to(engine, shot):  # noqa: F811
    current = engine()
    finish(generate(current))
    second = generate(current)
    strip = the_strip()
    strips.set_span(strip, 7, 12)  # trimmed, and moved
    setattr(strip, "content_start" if hasattr(strip, "content_start") else "frame_start", 105)
    assert finish(second).strip == the_strip().name
    assert stack.shown(the_strip()) == second.take and strips.span(the_strip()) == (107, 112)


def test_a_take_of_another_size_covers_the_same(project, tmp_path):
    big = make_take(project / "musev" / "Rain", 200, size=(32, 16))
    strip = the_strip()
    before = strip.transform.scale_x
    stack.show(strip, sorted(big.glob("*.png")))
    assert strip.transform.scale_x == before / 2 and (grey(tmp_path) == 200).all()
    stack.show(strip, sorted((project / "musev/Rain/take_001").glob("*.png")))
    assert strip.transform.scale_x == before
    short = make_take(project / "musev" / "Rain", 90, count=2)
    stack.show(strip, sorted(short.glob("*.png")))
    assert len(strip.elements) == 2 and strips.span(strip) == (10, 12)


# --- flipping -------------------------------------------------------------------------------------


def test_flipping_goes_round_and_shows_what_the_take_holds(project, tmp_path):
    seen = []
    for _ in range(3):
        bpy.ops.musev.take_next()
        seen.append((stack.shown(the_strip()).name, int(grey(tmp_path, 12)[0, 0])))
    assert seen == [("take_002", 82), ("take_003", 122), ("take_001", 42)]
    bpy.ops.musev.take_previous()
    assert stack.shown(the_strip()).name == "take_003"
    bpy.ops.musev.take_show(take="2")
    assert the_strip().directory == "//musev/Rain/take_002/" and strips.span(the_strip()) == (10, 14)
    told = refusal(lambda: bpy.ops.musev.take_show(take="9"))
    assert "There is no take '9'" in told and "choose one of these: 1, 2, 3" in told


def test_a_strip_inside_a_meta_flips_and_is_joined_but_not_compared(project):
    scene = bpy.context.scene
    strip, name = the_strip(), the_strip().name
    meta = strips._collection(scene).new_meta(name="Meta", channel=2, frame_start=10)
    strip.move_to_meta(meta)
    scene.sequence_editor.active_strip = strips.every_strip(scene)[name]
    bpy.ops.musev.take_next()
    assert stack.shown(strips.every_strip(scene)[name]).name == "take_002"
    assert "lies inside a meta strip" in refusal(lambda: bpy.ops.musev.take_compare(take="3"))
    third = sorted((project / "musev" / "Rain" / "take_003").glob("*.png"))
    assert stack.place(scene, "Rain", third, 10).name == name and len(all_strips()) == 1


def test_flipping_is_one_undo_step(project):
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.musev.take_next("EXEC_DEFAULT", True)
    bpy.ops.musev.take_next("EXEC_DEFAULT", True)
    names = [stack.shown(the_strip()).name]
    for step in (bpy.ops.ed.undo, bpy.ops.ed.undo, bpy.ops.ed.redo):
        step()
        names.append(stack.shown(the_strip()).name)
    assert names == ["take_003", "take_002", "take_001", "take_002"]


def test_a_take_that_is_being_made_is_not_shown(project):
    takes.write_frame(takes.next_take(project / "musev" / "Rain"), 0, b"half")
    bpy.ops.musev.take_show(take="3")
    bpy.ops.musev.take_next()
    assert stack.shown(the_strip()).name == "take_001"
    assert "4: not finished" in draw(stack_panel.MUSEV_PT_takes)


def test_one_take_alone_and_no_strip_at_all_are_told(empty_scene, tmp_path):
    assert not bpy.ops.musev.take_next.poll() and not bpy.ops.musev.take_compare_end.poll()
    take = make_take(tmp_path / "Rain", 9)
    strip = stack.place(empty_scene, "Rain", sorted(take.glob("*.png")), 1)
    assert "There is no other take" in refusal(bpy.ops.musev.take_next)
    make_take(tmp_path / "Rain", 9)
    strip.lock = True
    assert "The strip 'Rain' is locked" in refusal(bpy.ops.musev.take_next)


def test_how_long_switching_takes_at_1080p(empty_scene, tmp_path):
    empty_scene.render.resolution_x, empty_scene.render.resolution_y = 1920, 1080
    empty_scene.render.resolution_percentage = 100
    rng = np.random.default_rng(0)
    base = tmp_path / "Noise" / "take_001"
    base.mkdir(parents=True)
    low = rng.integers(0, 256, (135, 240, 3), np.uint8)
    png = stills.encode_png(low.repeat(8, axis=0).repeat(8, axis=1))
    for k in range(240):
        takes.write_frame(base, k, png)
    takes.write_sidecar(base, {})
    shutil.copytree(base, tmp_path / "Noise" / "take_002")
    stack.place(empty_scene, "Noise", sorted(base.glob("*.png")), 1)
    empty_scene.frame_set(100)
    bpy.ops.render.render()
    spent, shown = [], []
    for _ in range(6):
        started = time.perf_counter()
        bpy.ops.musev.take_next()
        spent.append((time.perf_counter() - started) * 1e3)
        bpy.ops.render.render()
        shown.append((time.perf_counter() - started) * 1e3)
    print(
        f"\n240 frames of 1080p: the verb {np.median(spent):.1f} ms (worst {max(spent):.1f}), until the picture is "
        f"rendered by the sequencer {np.median(shown):.1f} ms (worst {max(shown):.1f})"
    )
    assert stack.shown(the_strip()).name == "take_001"


# --- marks ----------------------------------------------------------------------------------------


def test_stars_and_labels_are_kept_beside_the_takes(project):
    bpy.ops.musev.take_star(take="2")
    bpy.ops.musev.take_label(take="2", label=" the good one ")
    bpy.ops.musev.take_label(label="first")
    told = json.loads((project / "musev/Rain/marks.json").read_text())["takes"]
    assert told == {
        "take_001": {"star": False, "label": "first"}, "take_002": {"star": True, "label": "the good one"},
    }  # fmt: skip
    bpy.ops.musev.take_star(take="2")
    bpy.ops.musev.take_label(take="2", label="")
    assert list(json.loads((project / "musev/Rain/marks.json").read_text())["takes"]) == ["take_001"]
    bpy.ops.musev.take_promote(take="3")
    promoted = stack.read(the_strip()).take("3")
    assert promoted.mark.star and stack.shown(the_strip()) == promoted.folder


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"takes": 3}', b'{"takes": {"take_001": 1}}', b"\xff"])
def test_marks_that_cant_be_read_cost_no_take_and_are_kept(project, damage):
    path = project / "musev" / "Rain" / "marks.json"
    path.write_bytes(damage)
    clip = stack.read(the_strip())
    assert len(clip.takes) == 3 and str(path) in clip.problem
    assert "Stars and labels can't be" in " ".join(draw(stack_panel.MUSEV_PT_takes))
    assert "Stars and labels can't be read" in refusal(bpy.ops.musev.takes_prune)
    bpy.ops.musev.take_star(take="2")
    assert path.with_name("marks.unreadable.json").read_bytes() == damage
    assert stack.read(the_strip()).take("2").mark.star and not stack.read(the_strip()).problem


def test_odd_marks_of_a_take_are_read_as_none(project):
    (project / "musev/Rain/marks.json").write_text('{"takes": {"take_002": {"star": "yes", "label": 5}}}')
    assert stack.read(the_strip()).take("2").mark == clip_folder.Mark()


# --- pruning --------------------------------------------------------------------------------------


def test_pruning_keeps_the_starred_and_all_that_are_shown(project):
    clip = project / "musev" / "Rain"
    for shade in (160, 200):
        make_take(clip, shade)
    takes.write_frame(takes.next_take(clip), 0, b"half")  # take_006, being made
    other = bpy.data.scenes.new("Other")
    copied = stack.place(other, "Rain", sorted((clip / "take_004").glob("*.png")), 1)
    assert stack.shown(copied).name == "take_004"
    bpy.ops.musev.take_star(take="2")
    bpy.ops.musev.takes_prune()
    assert [take.name for take in stack.read(the_strip()).takes] == [
        "take_001",
        "take_002",
        "take_004",
        "take_006",
    ]
    assert clip_folder.removed(clip) == ["take_003", "take_005"]
    assert {"musev.takes_restore"} <= set(draw(stack_panel.MUSEV_PT_takes))
    assert "Removed takes in Rain/_removed: 2" in " ".join(draw(stack_panel.MUSEV_PT_takes))
    assert bpy.ops.musev.takes_prune() == {"CANCELLED"}
    assert takes.next_take(clip).name == "take_007"
    bpy.ops.musev.takes_restore()
    assert (clip / "take_005" / "take.json").exists() and clip_folder.removed(clip) == []


def test_the_number_of_a_removed_take_does_not_come_again(project):
    bpy.ops.musev.takes_prune()
    assert takes.next_take(project / "musev" / "Rain").name == "take_004"


def test_an_undo_to_a_removed_take_is_told_and_can_be_mended(project):
    bpy.ops.ed.undo_push(message="first shown")
    bpy.ops.musev.take_show(take="2")
    bpy.ops.ed.undo_push(message="second shown")
    bpy.ops.musev.takes_prune()
    bpy.ops.ed.undo()
    assert stack.shown(the_strip()).name == "take_001"
    assert "take_001 was removed; press Restore Takes" in " ".join(draw(stack_panel.MUSEV_PT_takes))
    bpy.ops.musev.takes_restore()
    assert "removed" not in " ".join(draw(stack_panel.MUSEV_PT_takes))


# --- comparing ------------------------------------------------------------------------------------


def test_a_wipe_shows_both_takes_and_leaves_nothing(project, tmp_path):
    bpy.ops.ed.undo_push(message="before")
    strip = the_strip()
    strips.set_span(strip, 11, 13)  # trimmed
    looks = [(s.name, s.channel, strips.span(s), s.directory) for s in all_strips()]
    bpy.ops.musev.take_compare(take="3", kind="WIPE", line=0.25)
    bpy.ops.ed.undo_push(message="compared")
    assert len(all_strips()) == 4 and bpy.context.scene.sequence_editor.active_strip == the_strip()
    assert {strips.span(s) for s in all_strips()} == {(11, 13)}
    assert grey(tmp_path, 12).tolist() == [[42] * 4 + [122] * 12] * 8
    bpy.ops.musev.take_compare(take="2", kind="WIPE", line=0.75)  # ends the other
    assert grey(tmp_path, 12).tolist() == [[42] * 12 + [82] * 4] * 8
    assert "musev.take_compare_end" in draw(stack_panel.MUSEV_PT_takes)
    bpy.ops.musev.take_compare_end()
    assert [(s.name, s.channel, strips.span(s), s.directory) for s in all_strips()] == looks
    assert (grey(tmp_path, 12) == 42).all()


def test_a_wipes_line_is_dragged(project, tmp_path):
    bpy.ops.musev.take_compare(take="3", kind="WIPE", line=0.25)
    assert "line" in draw(stack_panel.MUSEV_PT_takes)
    for line, cut in ((0.75, 12), (0.0, 0), (1.0, 16), (0.5, 8)):
        bpy.context.scene.musev_comparison.line = line
        assert grey(tmp_path, 11).tolist() == [[41] * cut + [121] * (16 - cut)] * 8
    bpy.ops.musev.take_compare(take="2", kind="SIDE")
    before = grey(tmp_path, 11)
    bpy.context.scene.musev_comparison.line = 0.1  # is none of theirs
    assert (grey(tmp_path, 11) == before).all() and "line" not in draw(stack_panel.MUSEV_PT_takes)
    bpy.ops.musev.take_compare_end()
    bpy.context.scene.musev_comparison.line = 0.9
    assert len(all_strips()) == 1


def test_a_comparison_goes_on_in_a_saved_file(project, tmp_path):
    bpy.ops.musev.take_compare(take="3", kind="WIPE", line=0.25)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(project / "shot.blend"))
    bpy.context.scene.musev_comparison.line = 0.75
    assert grey(tmp_path, 11).tolist() == [[41] * 12 + [121] * 4] * 8


def test_side_by_side_shows_both_takes_whole(project, tmp_path):
    bpy.ops.musev.take_compare(take="2", kind="SIDE")
    seen = grey(tmp_path, 10)
    assert (seen[3:5, 1:7] == 40).all() and (seen[3:5, 9:15] == 80).all()
    assert (seen[0] == 0).all() and (seen[-1] == 0).all()


@pytest.mark.parametrize("kind", ["WIPE", "SIDE"])
def test_a_flipped_strip_is_compared_as_it_is_seen(project, tmp_path, kind):
    the_strip().use_flip_x = True
    bpy.ops.musev.take_compare(take="2", kind=kind, line=0.25)
    seen = grey(tmp_path, 10)
    assert seen[4, 2] == 40 and seen[4, 13] == 80


def test_comparing_is_one_undo_step(project):
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.musev.take_compare("EXEC_DEFAULT", True, take="2")
    assert len(all_strips()) == 4
    bpy.ops.ed.undo()
    assert len(all_strips()) == 1


def test_a_comparison_with_itself_and_without_room_is_refused(project):
    assert "is the take that is shown" in refusal(lambda: bpy.ops.musev.take_compare(take="1"))
    short = make_take(project / "musev" / "Rain", 7, count=2)
    strips.set_span(the_strip(), 12, 14)
    assert "take_004 has 2 frames" in refusal(lambda: bpy.ops.musev.take_compare(take=short.name))
    the_strip().channel = strips.MAX_CHANNEL - 2
    assert "needs three channels" in refusal(lambda: bpy.ops.musev.take_compare(take="2"))
    assert len(all_strips()) == 1


# --- what files go through ------------------------------------------------------------------------


def test_takes_survive_save_reopen_and_a_move_of_the_project(project, tmp_path):
    bpy.ops.musev.take_star(take="3")
    bpy.ops.musev.take_show(take="2")
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(project / "shot.blend"))
    assert stack.shown(the_strip()) == project / "musev" / "Rain" / "take_002"
    moved = tmp_path / "elsewhere" / "show"
    moved.parent.mkdir()
    project.rename(moved)
    bpy.ops.wm.open_mainfile(filepath=str(moved / "shot.blend"))
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = bpy.context.scene
    clip = stack.read(the_strip())
    assert clip.folder == moved / "musev" / "Rain" and clip.take("3").mark.star
    bpy.ops.musev.take_next()
    assert (grey(tmp_path) == 120).all()


def test_takes_survive_save_as_elsewhere_and_absolute_paths(project, tmp_path):
    (tmp_path / "v2").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "v2" / "shot.blend"), relative_remap=True)
    bpy.ops.musev.take_next()
    assert stack.shown(the_strip()) == project / "musev" / "Rain" / "take_002"
    assert the_strip().directory.startswith("//..") and (grey(tmp_path) == 80).all()
    bpy.ops.file.make_paths_absolute()
    assert len(stack.read(the_strip()).takes) == 3


def test_a_copied_strip_has_the_takes_and_flips_alone(project):
    area = bpy.context.window.screen.areas[0]
    area.type = "SEQUENCE_EDITOR"
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(area=area, region=region):
        bpy.ops.sequencer.duplicate()
        bpy.ops.sequencer.copy()
        bpy.ops.sequencer.paste()
    names = {strip.name for strip in all_strips()}
    assert len(names) == 3 and all(stack.is_ours(strip) for strip in all_strips())
    bpy.context.scene.sequence_editor.active_strip = all_strips()[1]
    bpy.ops.musev.take_show(take="3")
    assert [stack.shown(strip).name for strip in all_strips()] == ["take_001", "take_003", "take_001"]


def test_missing_folders_are_told_and_never_a_crash(project):
    shutil.rmtree(project / "musev" / "Rain" / "take_001")
    assert "take_001 is not in" in " ".join(draw(stack_panel.MUSEV_PT_takes))
    bpy.ops.musev.take_next()
    assert stack.shown(the_strip()).name == "take_002"
    shutil.rmtree(project / "musev")
    assert "The takes of this strip are missing" in " ".join(draw(stack_panel.MUSEV_PT_takes))
    assert "Bring the folder back" in refusal(bpy.ops.musev.take_next)
    assert "Bring the folder back" in refusal(bpy.ops.musev.take_star)


# --- the panel ------------------------------------------------------------------------------------


def test_the_panel_lists_the_takes(project):
    bpy.ops.musev.take_label(take="2", label="the good one")
    drawn = draw(stack_panel.MUSEV_PT_takes)
    assert drawn.count("musev.take_star") == 3 and drawn.count("musev.take_promote") == 3
    assert drawn.count("musev.take_compare") == 4  # not with itself
    assert (
        "Seed 2" in drawn
        and drawn.count("Research only") == 3
        and any(text.startswith("rain") for text in drawn)
    )
    (project / "musev/Rain/take_002/take.json").write_text("{")
    assert "can't be read" in " ".join(draw(stack_panel.MUSEV_PT_takes))


def test_a_long_list_shows_the_takes_around_the_shown_one(project):
    for _ in range(27):
        make_take(project / "musev" / "Rain", 3, count=1)
    bpy.ops.musev.take_show(take="15")
    drawn = draw(stack_panel.MUSEV_PT_takes)
    assert "8 more before" in drawn and "9 more after" in drawn and drawn.count("musev.take_star") == 13


def test_pictures_are_loaded_one_at_a_drawing(project):
    for expected in (1, 2, 3, 3):
        draw(stack_panel.MUSEV_PT_takes)
        assert sum(str(project) in key for key in stack_panel._pictures) == expected


# --- settings -------------------------------------------------------------------------------------


def test_settings_come_back_from_a_take(engine, shot):  # noqa: F811
    current = engine()
    shot.seed, shot.prompt, shot.steps, shot.negative_prompt = 77, "rain", 23, "snow"
    shot.posealign, shot.generate_at, shot.generation_fps, shot.between = True, "RATE", 12.0, "blended"
    shot.use_still_frame, shot.still_frame, shot.still_rig = True, 7, bpy.data.objects["Dancer"]
    finish(generate(current))
    before = {
        name: getattr(shot, name)
        for name in ("mode", "seed", "prompt", "negative_prompt", "steps", "width", "posealign", "generate_at",
                     "generation_fps", "between", "still_image", "armature", "model",
                     "use_still_frame", "still_frame", "still_rig")
    }  # fmt: skip
    shot.mode, shot.seed, shot.prompt, shot.steps, shot.width, shot.posealign = "text", 1, "", 5, 128, False
    shot.generate_at, shot.between, shot.still_image, shot.armature = "EVERY", "held", None, None
    shot.use_still_frame, shot.still_frame, shot.still_rig = False, 1, None
    bpy.ops.musev.recall_settings()
    assert {name: getattr(shot, name) for name in before} == before


@pytest.mark.parametrize("use", ["FRAMES", "DETECT", "CONTROL"])
def test_a_video_clips_source_comes_back(engine, shot, use):  # noqa: F811
    current = engine()
    finish(generate(current))
    source = shot.source
    shot.mode, shot.prompt, shot.still_image, shot.armature = "video", "snow", None, None
    source.choice, source.strip, source.use, source.strength = "STRIP", all_strips()[0].name, use, 0.25
    source.control, source.control_scale = "depth", 1.5
    job = finish(generate(current))
    assert job.state is JobState.DONE, job.problem
    before = (
        shot.mode,
        source.choice,
        source.strip,
        source.use,
        source.control_scale if use != "FRAMES" else 9,
    )
    shot.mode, source.choice, source.strip, source.control_scale, source.strength = "text", "ALL", "", 1, 0.5
    source.use = "FRAMES" if use != "FRAMES" else "DETECT"
    bpy.ops.musev.recall_settings()
    after = (
        shot.mode,
        source.choice,
        source.strip,
        source.use,
        source.control_scale if use != "FRAMES" else 9,
    )
    assert after == before and source.strength == (0.5 if use == "CONTROL" else 0.25)
    assert not shot.render.depth.use and not shot.render.use_source


def test_what_cant_be_recalled_is_named(project):
    take = make_take(
        project / "musev" / "Rain", 1, mode="pose", prompt="x", seed="many", still="ab" * 32, w_ind_noise=0.25,
        controls=[{"name": "hed"}, {"name": "depth", "scale": 0.5}], width=256,
    )  # fmt: skip
    record = takes.read_sidecar(take)
    record["inputs"] = {"still_source": "gone.png", "people": [{"name": "Nobody"}], "camera": "Lost"}
    takes.write_sidecar(take, record)
    from bl_ext.user_default.musev.clips import recall

    settings = bpy.context.scene.musev
    left = "; ".join(recall.recall(settings, stack.read(the_strip()).take(take.name)))
    for words in (
        "Seed was 'many'",
        "'gone.png'",
        "'Nobody'",
        "'Lost'",
        "w_ind_noise was 0.25",
        "'hed'",
        "rate",
    ):
        assert words in left
    assert settings.width == 256 and settings.render.depth.use and settings.render.depth.scale == 0.5
    assert not settings.render.normal.use
    (take / "take.json").write_text("{}")
    assert "tells no request" in refusal(lambda: bpy.ops.musev.recall_settings(take=take.name))
