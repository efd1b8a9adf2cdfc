"""The training figures speak the extension's language: what trains the model is what the extension sends it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev.rig import people as rig_people
from bl_ext.user_default.musev.rig import pose

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def characters(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from musev_engine.training import characters

    yield characters
    for name in [name for name in sys.modules if name.startswith("musev_engine")]:
        del sys.modules[name]


def test_the_extension_reads_the_points_that_were_trained_on(empty_scene, characters):
    rng = np.random.default_rng(5)
    look, motion = characters.random_look(rng), characters.random_motion(rng, "dance")
    rig = characters.build_character(look)
    camera = characters.aim_camera(0.3, 0.2, look.height * 2, look.height * 0.5)
    empty_scene.render.resolution_x, empty_scene.render.resolution_y = 128, 96
    for seconds in (0.0, 0.7, 1.9):
        characters.apply_pose(rig, look, motion, seconds)
        bpy.context.view_layer.update()
        exact = characters.body_18(rig, camera, 128, 96)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        people = (rig_people.resolve(rig),)
        seen = pose.read_frame(empty_scene, depsgraph, people, camera.name, 128, 96)
        assert seen.shape == (1, 130, 3)
        assert np.abs(seen[0, :18, :2] - exact[:, :2]).max() < 0.01


def test_every_kind_of_motion_moves(empty_scene, characters):
    rng = np.random.default_rng(1)
    look = characters.random_look(rng)
    rig = characters.build_character(look)
    camera = characters.aim_camera(0.0, 0.1, look.height * 2, look.height * 0.5)
    for kind in characters.MOTION_KINDS:
        motion, seen = characters.random_motion(rng, kind), []
        for seconds in np.linspace(0, 2, 6):
            characters.apply_pose(rig, look, motion, seconds)
            bpy.context.view_layer.update()
            seen.append(characters.body_18(rig, camera, 128, 128)[:, :2])
        assert np.std(seen, axis=0).max() > 2.0, kind  # pixels
    with pytest.raises(ValueError, match="jumping jack"):
        characters.random_motion(rng, "fly")


def test_a_clip_is_the_same_again_and_its_points_lie_on_the_figure(tmp_path, characters):
    from musev_engine.training import render_clips

    plan = render_clips.Plan(seed=3, num_frames=2, size=64)
    read = []
    for name in ("one", "two"):
        render_clips.render_clip(plan, 7, tmp_path / f"{name}.npz")
        with np.load(tmp_path / f"{name}.npz") as clip:
            read.append({key: clip[key] for key in clip.files})
    for key in ("frames", "plate", "keypoints", "about"):
        assert np.array_equal(read[0][key], read[1][key]), key
    clip = read[0]
    assert clip["frames"].shape == (3, 64, 64, 4) and clip["plate"].shape == (64, 64, 3)
    assert json.loads(str(clip["about"]))["fps"] in plan.frame_rates
    body = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12]  # points inside the figure, not at its rim
    for picture, points in zip(clip["frames"], clip["keypoints"], strict=True):
        x, y = points[body, :2].astype(int).T
        inside = (x >= 0) & (x < 64) & (y >= 0) & (y < 64)
        assert inside.sum() >= 8
        assert (picture[y[inside], x[inside], 3] > 127).mean() > 0.85
