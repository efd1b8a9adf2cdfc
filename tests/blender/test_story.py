"""A day in one piece, as `make test-gui` has it in a window: generate, cancel, flip, redo, undo, save, reopen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import bpy
from bl_ext.user_default.musev import strips
from bl_ext.user_default.musev.clips import stack
from bl_ext.user_default.musev.making.jobs import JobState
from conftest import pump
from test_generate import all_strips, finish, generate, shot  # noqa: F401 (a fixture)


def the_strip():
    (strip,) = all_strips()
    return strip


def shown() -> str:
    return stack.shown(the_strip()).name


def frames() -> list[str]:
    """The sha256 of each frame that the strip shows."""
    folder = Path(bpy.path.abspath(the_strip().directory))
    return [hashlib.sha256((folder / e.filename).read_bytes()).hexdigest() for e in the_strip().elements]


def test_generate_cancel_flip_redo_undo_save_reopen(engine, shot, tmp_path):  # noqa: F811
    blend = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    current = engine()

    first = finish(generate(current))
    shot.seed = 8
    second = finish(generate(current))
    assert (first.state, second.state) == (JobState.DONE, JobState.DONE), (first.problem, second.problem)
    assert shown() == "take_002" and strips.span(the_strip()) == (5, 17)

    cancelled = generate(current)
    pump(lambda: cancelled.captures[0].done)
    bpy.ops.musev.cancel(job=cancelled.id)
    assert cancelled.state is JobState.CANCELLED and not cancelled.take.exists() and shown() == "take_002"
    bpy.ops.musev.clear()
    assert current.jobs == []

    bpy.ops.musev.take_previous()
    assert shown() == "take_001"
    bpy.ops.musev.take_next()
    assert shown() == "take_002"

    before = frames()
    bpy.ops.musev.redo_range(frame_start=10, frame_end=12)
    redo = finish(current.jobs[-1])
    assert redo.state is JobState.DONE, redo.problem
    redone = frames()
    assert shown() == "take_003"
    changed = [frame for frame, (a, b) in enumerate(zip(before, redone, strict=True), start=5) if a != b]
    assert changed == [10, 11, 12]

    bpy.ops.ed.undo()
    assert shown() == "take_002" and frames() == before
    bpy.ops.ed.redo()
    assert shown() == "take_003" and frames() == redone

    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert not all_strips()
    bpy.ops.wm.open_mainfile(filepath=blend)
    scene = bpy.context.scene
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = scene
    assert shown() == "take_003" and frames() == redone
    assert [take.number for take in stack.read(the_strip()).takes] == [1, 2, 3]
    bpy.ops.musev.take_previous()
    assert shown() == "take_002" and frames() == before
