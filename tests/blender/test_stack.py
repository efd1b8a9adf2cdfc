"""Takes inside one strip: joining, flipping, marks, pruning, comparing; all of it survives what files go through."""

from __future__ import annotations

from pathlib import Path

import bpy
import montage
import numpy as np
import pytest
from bl_ext.user_default.musev import stack, stills, strips, takes
from bl_ext.user_default.musev.jobs import JobState
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
