"""Generated at one rate, shown at the scene's: what the panel says, what is read, what is asked for and placed."""

from __future__ import annotations

import json
from fractions import Fraction

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import gather, protocol, strips, ui
from bl_ext.user_default.musev.clips import takes
from bl_ext.user_default.musev.making.jobs import JobState
from conftest import pump
from test_extension import draw
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)


def plan():
    scene = bpy.context.scene
    return gather.clip_plan(scene, scene.musev)


@pytest.fixture
def slow(shot):  # noqa: F811
    """96 frames at 24 a second, generated at 3."""
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 96
    shot.generate_at, shot.generation_fps = "RATE", 3.0
    return shot


def test_the_panel_says_how_many_frames_become_how_many(slow):
    assert "12 generated → 96 timeline frames" in " ".join(draw(ui.MUSEV_PT_clip))  # over lines
    assert {"generation_fps", "between"} <= set(draw(ui.MUSEV_PT_clip))
    slow.between = "blended"
    assert "13 generated → 96 timeline frames" in " ".join(draw(ui.MUSEV_PT_clip))
    slow.generate_at = "EVERY"
    drawn = draw(ui.MUSEV_PT_clip)
    assert "96 generated → 96 timeline frames" in " ".join(drawn)
    assert not {"generation_fps", "between"} & set(drawn)
    slow.range = "STRIPS"
    assert "0 strips are selected" in " ".join(draw(ui.MUSEV_PT_clip))


@pytest.mark.parametrize(
    ("fps", "base", "exact"),
    [
        (24, 1.001, Fraction(24000, 1001)), (24, 1.0, 24), (25, 1.0, 25), (30, 1.001, Fraction(30000, 1001)),
        (30, 1.0, 30), (50, 1.0, 50), (60, 1.0, 60),
    ],
)  # fmt: skip
def test_the_scenes_rate_is_exact(slow, fps, base, exact):
    render = bpy.context.scene.render
    render.fps, render.fps_base = fps, base
    made = plan()
    assert made.output_fps == exact and made.output_frames == 96
    assert made.times == tuple(float(1 + i * exact / 3) for i in range(made.num_frames))
    assert made.times[-1] <= 96 < made.times[-1] + exact / 3


def test_the_models_own_rate_is_the_engines_word(engine, slow):
    slow.generate_at = "MODEL"
    with pytest.raises(gather.SettingsError, match="press Start"):
        plan()
    assert "press Start" in " ".join(draw(ui.MUSEV_PT_clip))
    engine()
    assert plan().fps == 3  # the fake engine says nothing else than MuseV's own


def test_the_rig_is_read_where_frames_are_generated(engine, slow):
    scene = bpy.context.scene
    rig = slow.armature
    for frame, x in ((1, 0.0), (96, 9.5)):
        rig.location.x = x
        rig.keyframe_insert("location", frame=frame)
    curve = strips_curve(rig)
    for point in curve.keyframe_points:
        point.interpolation = "LINEAR"
    scene.render.fps, slow.generation_fps, slow.between = 25, 10.0, "flow"
    current = engine("wait")
    job = generate(current)
    pump(lambda: job.have)
    asked = job.request
    assert (asked.num_frames, asked.fps, asked.output_frames, asked.output_fps) == (39, 10.0, 96, 25.0)
    assert asked.between == "flow"
    track = protocol.PoseTrack.from_bytes(job.blobs[asked.poses])
    neck = np.frombuffer(track.points, "<f4").reshape(track.shape)[:, 0, 1, 0]
    steps = np.diff(neck)  # the rig goes 0.1 m a frame, so every 2.5 frames it is as far again
    assert steps == pytest.approx(steps[0], rel=1e-2) and steps[0] > 0
    bpy.ops.musev.cancel(job=job.id)


def test_the_strip_fills_its_range_and_the_take_tells_the_rates(engine, slow):
    bpy.context.scene.render.fps, slow.generation_fps, slow.between = 25, 10.0, "flow"
    job = finish(generate(engine()))
    assert job.state is JobState.DONE, job.problem
    (strip,) = all_strips()
    assert strips.span(strip) == (1, 97) and len(strip.elements) == 96
    told = json.loads((job.take / takes.SIDECAR).read_text())
    assert told["request"]["output_frames"] == 96 and told["request"]["between"] == "flow"
    assert told["inputs"]["rates"] == {"generated": "10", "timeline": "25"}


def strips_curve(rig):
    """The curve of the rig's x, wherever this Blender keeps it."""
    action = rig.animation_data.action
    curves = (
        action.fcurves if hasattr(action, "fcurves") else action.layers[0].strips[0].channelbags[0].fcurves
    )
    return next(curve for curve in curves if curve.data_path == "location" and curve.array_index == 0)


def test_a_rate_too_high_for_the_engine_is_refused(engine, slow):
    engine()
    bpy.context.scene.frame_end = 9_000
    slow.generation_fps, slow.between = 48.0, "blended"
    assert "frames are more than one clip can have (10000)" in refusal(bpy.ops.musev.generate)
