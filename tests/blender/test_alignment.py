"""Posealign in the panel: the still's figure told or found, and a look at the aligned poses before anything is made."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import alignment, session, ui
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.protocol import PoseTrack
from bl_ext.user_default.musev.rig import people, pose
from conftest import pump
from fake_engine import colour
from test_extension import draw
from test_generate import all_strips, finish, generate, refusal, shot  # noqa: F401 (a fixture)


def preview():
    bpy.ops.musev.preview_alignment()
    return alignment.newest(bpy.context.scene.name)


def shown_colour(job, frame):
    """What the preview shows in the middle, 0..255."""
    picture = alignment.picture(job, frame)
    pixels = np.empty(picture.image_size[0] * picture.image_size[1] * 4, np.float32)
    picture.image_pixels_float.foreach_get(pixels)
    return np.rint(pixels.reshape(-1, 4)[0] * 255)


def test_the_aligned_poses_are_shown_over_the_still_before_anything_is_made(engine, shot):  # noqa: F811
    engine()
    shot.posealign = True
    job = finish(preview())
    assert job.state is JobState.DONE, job.problem
    assert job.request.result == "poses" and job.request.posealign == "auto" and job.request.num_frames == 12
    assert all_strips() == [] and not (job.take / "take.json").exists()
    for frame in (5, 9, 16):  # the playhead's; the fake engine's pose pictures are of one colour each
        assert shown_colour(job, frame)[:3] == pytest.approx(colour(frame - 5), abs=1)
    assert shown_colour(job, 99) == pytest.approx(shown_colour(job, 16))
    bpy.context.scene.frame_set(9)
    assert {"template_icon", "musev.preview_alignment", "posealign"} <= set(
        draw(alignment.MUSEV_PT_alignment)
    )
    assert bpy.context.scene.frame_current == 9


def test_the_still_is_seen_where_no_pose_is_drawn():
    poses = np.array([[0, 0, 0, 1], [1, 0, 0, 1], [0.5, 0, 0, 1]], np.float32)
    still = np.full((3, 4), 0.8, np.float32)
    shown = alignment.over(poses, still)
    assert shown == pytest.approx(np.array([[0.4, 0.4, 0.4, 1], [1, 0, 0, 1], [0.7, 0.2, 0.2, 1]]))


def test_a_second_preview_takes_the_place_of_the_first(engine, shot):  # noqa: F811
    current = engine()
    first = finish(preview())
    second = finish(preview())
    assert first not in current.jobs and second in current.jobs and first.take != second.take
    bpy.ops.musev.clear()
    assert alignment.newest(bpy.context.scene.name) is None
    assert "template_icon" not in draw(alignment.MUSEV_PT_alignment)


def test_the_clip_is_asked_for_aligned(engine, shot):  # noqa: F811
    current = engine()
    assert finish(generate(current)).request.posealign == "off"
    shot.posealign = True
    assert finish(generate(current)).request.posealign == "auto"


def test_the_pose_in_a_still_of_another_rig(engine, shot):  # noqa: F811
    other = shot.armature.copy()
    other.name, other.location, other.scale = "Giant", (0.5, 0, 0), (1.4, 1.4, 1.4)
    bpy.context.scene.collection.objects.link(other)
    shot.use_still_frame, shot.still_frame, shot.still_rig = True, 3, other
    current = engine("wait")
    job = generate(current)
    assert job.captures[1].total == 13  # after the still
    pump(lambda: job.have)
    track = PoseTrack.from_bytes(job.blobs[job.request.poses])
    scene = bpy.context.scene
    truth, driving = (
        pose.keypoints(scene, [people.resolve(rig)], "Camera", 64, 64, [3]) for rig in (other, shot.armature)
    )
    assert track.num_frames == 12
    still = np.frombuffer(track.still_pose, "<f4").reshape(1, 130, 3)
    assert still == pytest.approx(truth[0]) and not np.allclose(still[:, :18], driving[0][:, :18])
    bpy.ops.musev.cancel(job=job.id)


def test_what_stands_in_the_way_of_a_preview_is_told(engine, shot):  # noqa: F811
    assert "press Start Engine first" in refusal(bpy.ops.musev.preview_alignment)
    engine()
    shot.mode = "text"
    assert "Only Pose to Clip" in refusal(bpy.ops.musev.preview_alignment)
    shot.mode, shot.armature = "pose", None
    assert "No armature is set" in refusal(bpy.ops.musev.preview_alignment)
    assert session.current.jobs == []


def test_an_engines_refusal_is_told_in_the_list(engine, shot):  # noqa: F811
    engine("fail")
    job = finish(preview())
    assert job.state is JobState.FAILED
    told = " ".join(draw(ui.MUSEV_PT_jobs))
    assert "The GPU is full" in told and "template_icon" not in draw(alignment.MUSEV_PT_alignment)
