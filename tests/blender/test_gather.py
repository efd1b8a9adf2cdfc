"""From the settings to a job, where several kinds of input meet."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import protocol
from bl_ext.user_default.musev.making.jobs import JobState
from conftest import pump
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)


@pytest.fixture
def short(shot):  # noqa: F811
    """Three frames of a dancer with a body, the middle one half way between two of the timeline."""
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 5, 9
    scene.render.fps, shot.generate_at, shot.generation_fps = 25, "RATE", 10.0
    shot.between = "blended"
    bpy.ops.mesh.primitive_cube_add(size=0.6, location=(0, 0, 1.2))
    bpy.context.object.parent = shot.armature
    shot.render.use_cache = False
    return shot


def test_poses_depth_and_mask_are_read_at_the_same_times(engine, short):
    short.render.depth.use, short.render.depth.scale, short.render.use_mask = True, 0.5, True
    current = engine("wait")
    job = generate(current)
    rendering = job.captures[-2]
    assert rendering.times == job.captures[1].times == (5.0, 7.5, 10.0)
    pump(lambda: job.have, limit_s=60)
    asked = job.request
    assert (asked.num_frames, asked.output_frames, asked.between) == (3, 5, "blended")
    (depth,) = asked.controls
    assert (depth.name, depth.scale, depth.detect) == ("depth", 0.5, False)
    for blobs in (asked.mask, depth.pictures):
        sets = [protocol.Pictures.from_bytes(job.blobs[sha256]) for sha256 in blobs]
        assert sum(len(each.sizes) for each in sets) == 3 and (sets[0].width, sets[0].height) == (64, 64)
    assert [scene.name for scene in bpy.data.scenes] == ["Scene"]  # no copy is left
    bpy.ops.musev.cancel(job=job.id)


def test_a_variation_reads_all_that_the_first_one_would(engine, short):
    """Its captures are its own, of every kind, and note what they read in what its own take tells."""
    short.render.depth.use = short.render.use_mask = True
    current = engine("wait")
    bpy.ops.musev.generate(variations=2)
    first, second = current.jobs
    assert [type(each) for each in first.captures] == [type(each) for each in second.captures]
    assert not {*map(id, first.captures)} & {*map(id, second.captures)}
    bpy.ops.musev.cancel(job=first.id)
    before = str(first.about)
    pump(lambda: second.have, limit_s=60)
    asked = second.request
    assert (
        asked.still
        and asked.poses
        and asked.mask
        and asked.controls
        and set(asked.blobs) == set(second.blobs)
    )
    assert {"still", "rig", "cameras"} <= second.about["scene"].keys() and str(first.about) == before
    bpy.ops.musev.cancel(job=second.id)


def test_cancel_while_pictures_are_rendered_puts_everything_back(engine, short):
    short.render.depth.use = short.render.use_mask = True
    before = {kind: len(getattr(bpy.data, kind)) for kind in ("scenes", "materials", "objects", "images")}
    frame = bpy.context.scene.frame_current
    current = engine()
    job = generate(current)
    pump(lambda: len(job.captures) == 2 and job.captures[0].done > 0, limit_s=60)
    bpy.ops.musev.cancel(job=job.id)
    pump(lambda: True)
    assert job.state is JobState.CANCELLED and not job.take.exists()
    after = {kind: len(getattr(bpy.data, kind)) for kind in before}
    assert after["scenes"] == before["scenes"] and after["objects"] == before["objects"]
    assert bpy.context.scene.frame_current == frame and all_strips() == []


def test_a_control_that_the_engine_lacks_is_told_before_anything_is_made(engine, short, monkeypatch):
    current = engine()
    pump(lambda: current.engine.client.menus)
    monkeypatch.setattr(current.engine.client, "menus", protocol.Menus(controls=("canny",)))
    short.render.depth.use = True
    assert "no ControlNet for 'depth' (it has: canny)" in refusal(bpy.ops.musev.generate)
    assert current.jobs == []


def test_the_alignment_preview_renders_nothing(engine, short):
    short.render.depth.use = short.render.use_mask = True
    current = engine()
    bpy.ops.musev.preview_alignment()
    job = current.jobs[-1]
    assert [capture.phase for capture in job.captures] == ["reading the still", "reading poses"]
    finish(job)
    assert job.state is JobState.DONE and job.request.controls == () and job.request.mask == ()
    assert np.isclose(job.request.fps, 10) and len(job.have) == 5 and all_strips() == []
