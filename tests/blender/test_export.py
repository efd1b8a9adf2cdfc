"""Pose pictures and OpenPose's JSON with no engine there, and the preview strip."""

from __future__ import annotations

import json
import time
from pathlib import Path

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import session, stills, strips
from bl_ext.user_default.musev.engine_link import EngineState
from bl_ext.user_default.musev.rig import drawing, export, views
from rigs import RIGIFY_METARIG, camera, figure

MODULE = "bl_ext.user_default.musev"


@pytest.fixture
def scene(empty_scene, tmp_path):
    """A figure that walks to the right over frames 1 to 5, before a camera; takes go to a folder."""
    session.current.__init__()
    export.current.__init__()
    rig = figure(RIGIFY_METARIG, "Dancer", face=True)
    camera()
    for frame, x in ((1, -0.5), (5, 0.5)):
        rig.location.x = x
        rig.keyframe_insert("location", frame=frame)
    settings = empty_scene.musev
    settings.armature, settings.width, settings.height = rig, 128, 96
    empty_scene.frame_start, empty_scene.frame_end = 1, 5
    bpy.context.preferences.addons[MODULE].preferences.output_folder = str(tmp_path / "takes")
    assert session.current.engine.state is EngineState.OFF
    return empty_scene


def pixels(path: Path) -> np.ndarray:
    """(h, w, 3) uint8 of a PNG file, as Blender reads it."""
    image = bpy.data.images.load(str(path), check_existing=False)
    width, height = image.size
    values = np.array(image.pixels).reshape(height, width, 4)[::-1, :, :3]
    bpy.data.images.remove(image)
    return np.rint(values * 255).astype(np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pictures_show_the_poses_of_each_frame(scene, tmp_path):
    folder = tmp_path / "new" / "out"
    scene.frame_set(3)
    assert bpy.ops.musev.export_poses(directory=str(folder), name="walk", wait=True) == {"FINISHED"}
    assert names(folder) == [f"walk_{frame:04d}.png" for frame in range(1, 6)]
    assert scene.frame_current == 3
    read = views.reading(scene, (1.0, 5.0))
    while not read.advance(float("inf")):
        pass
    for number, people in zip((1, 5), read.read, strict=True):
        drawn = drawing.draw(people, 128, 96)
        assert drawn.any() and np.array_equal(pixels(folder / f"walk_{number:04d}.png"), drawn)


def test_a_png_packed_in_pieces_is_the_same_picture(empty_scene, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    for rows in (1, 7, 37, 100):
        path = tmp_path / f"{rows}.png"
        path.write_bytes(b"".join(stills.png_pieces(picture, rows)))
        assert np.array_equal(pixels(path), picture)


def test_keypoints_are_written_as_openpose_does(scene, tmp_path):
    bpy.ops.musev.export_poses(
        directory=str(tmp_path), name="walk", formats={"JSON"}, frames="CUSTOM", frame_start=2, frame_end=3,
        width=640, height=480, wait=True,
    )  # fmt: skip
    assert names(tmp_path) == ["walk_0002_keypoints.json", "walk_0003_keypoints.json"]
    frame = json.loads((tmp_path / "walk_0002_keypoints.json").read_text())
    assert frame["version"] == 1.3 and (frame["canvas_width"], frame["canvas_height"]) == (640, 480)
    (person,) = frame["people"]
    counts = {"pose": 18, "face": 70, "hand_left": 21, "hand_right": 21}
    for part, count in counts.items():
        assert len(person[f"{part}_keypoints_2d"]) == 3 * count and person[f"{part}_keypoints_3d"] == []
    read = views.reading(scene, (2.0,), (640, 480))
    while not read.advance(float("inf")):
        pass
    body = np.array(person["pose_keypoints_2d"]).reshape(18, 3)
    assert np.allclose(body, read.read[0][0, :18], atol=1e-3)
    assert np.allclose(
        np.array(person["hand_left_keypoints_2d"]).reshape(21, 3), read.read[0][0, 18:39], atol=1e-3
    )


def test_what_is_not_drawn_is_written_as_nothing_and_the_rest_as_it_is():
    people = np.ones((2, 130, 3), np.float32) * (7, 8, 1)
    people[0, 4, 2] = 0.2
    people[0, 5] = (-20, 3000.12345, 0.5)
    written = json.loads(export.openpose_json(people, 64, 32))
    body = np.array(written["people"][0]["pose_keypoints_2d"]).reshape(18, 3)
    assert body[4].tolist() == [0, 0, 0] and body[5].tolist() == [-20, 3000.123, 0.5]
    assert len(written["people"]) == 2


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"directory": ""}, "No folder is set"),
        ({"formats": set()}, "No format is chosen"),
        ({"frames": "CUSTOM", "frame_start": 4, "frame_end": 3}, "4 to 3 has 0 frames"),
        ({"name": "old"}, r"already holds old_0001.png \(5 files"),
    ],
)
def test_what_cannot_be_exported_is_told(scene, tmp_path, asked, told):
    (tmp_path / "out").mkdir()
    for frame in range(1, 6):
        (tmp_path / "out" / f"old_{frame:04d}.png").write_bytes(b"mine")
    with pytest.raises(RuntimeError, match=told):
        bpy.ops.musev.export_poses(**({"directory": str(tmp_path / "out"), "wait": True} | asked))
    assert (tmp_path / "out" / "old_0001.png").read_bytes() == b"mine"
    assert not export.current.running


def test_without_an_armature_nothing_starts(scene, tmp_path):
    scene.musev.armature = None
    with pytest.raises(RuntimeError, match="No armature is set"):
        bpy.ops.musev.export_poses(directory=str(tmp_path), wait=True)
    assert not names(tmp_path)


def test_every_character_of_the_list_is_written_in_its_order(scene, tmp_path):
    other = figure(RIGIFY_METARIG, "Other", face=True)
    other.location.x = 0.8
    for rig in (other, bpy.data.objects["Dancer"]):
        item = scene.musev.people.add()
        item.armature, item.name = rig, rig.name
    bpy.ops.musev.export_poses(directory=str(tmp_path), formats={"JSON"}, wait=True)
    people = json.loads((tmp_path / "pose_0003_keypoints.json").read_text())["people"]
    necks = [person["pose_keypoints_2d"][3] for person in people]
    assert len(necks) == 2 and necks[0] > necks[1]
    scene.musev.people[0].use = False
    bpy.ops.musev.export_poses(directory=str(tmp_path), formats={"JSON"}, wait=True, overwrite=True)
    (person,) = json.loads((tmp_path / "pose_0003_keypoints.json").read_text())["people"]
    assert person["pose_keypoints_2d"][3] == necks[1]


def test_old_files_are_replaced_where_that_is_allowed(scene, tmp_path):
    (tmp_path / "pose_0001.png").write_bytes(b"old")
    bpy.ops.musev.export_poses(directory=str(tmp_path), wait=True, overwrite=True)
    assert stills.png_size((tmp_path / "pose_0001.png").read_bytes()) == (128, 96)


def in_slices(work, until=lambda: False) -> int:
    """Drives the runner as Blender's timer would; how many ticks it took."""
    export.current.start(work)
    bpy.app.timers.unregister(export._timer)
    ticks = 0
    deadline = time.monotonic() + 30
    while export.current.running and not until() and time.monotonic() < deadline:
        export.current.tick()
        ticks += 1
    return ticks


def work_on(scene, folder, **asked) -> export.PoseExport:
    who = views.reading(scene, tuple(map(float, range(1, 6))))
    return export.PoseExport(who, folder, "walk", 1, **asked)


def test_it_goes_on_in_slices_and_can_be_cancelled(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TICK_S", 0.0)  # the least that a tick does
    work = work_on(scene, tmp_path, keypoints=True)
    ticks = in_slices(work)
    assert ticks >= 10 and work.done == work.total == 5 and not work.problem
    assert len(names(tmp_path)) == 10
    (tmp_path / "other.txt").write_text("mine")
    for path in work.files():
        path.unlink()
    work = work_on(scene, tmp_path)
    in_slices(work, until=lambda: work.frames_written == 2)
    assert len(names(tmp_path)) == 3 and work.phase == "writing poses"
    assert bpy.ops.musev.export_cancel() == {"FINISHED"}
    assert names(tmp_path) == ["other.txt"] and work.problem == "Cancelled."
    assert not bpy.ops.musev.export_cancel.poll()


def test_a_second_export_waits_for_the_first(scene, tmp_path):
    export.current.start(work_on(scene, tmp_path))
    assert not bpy.ops.musev.export_poses.poll() and not bpy.ops.musev.preview_strip.poll()
    export.current.stop()
    bpy.app.timers.unregister(export._timer)
    assert bpy.ops.musev.export_poses.poll()


def test_an_armature_that_goes_ends_the_export_with_a_reason(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TICK_S", 0.0)
    work = work_on(scene, tmp_path)
    in_slices(work, until=lambda: work.done == 2)
    bpy.data.objects.remove(bpy.data.objects["Dancer"])
    while export.current.running:
        export.current.tick()
    assert "Dancer" in work.problem and not names(tmp_path)


def test_opening_another_file_ends_the_export(scene, tmp_path):
    work = work_on(scene, tmp_path)
    export.current.start(work)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert not export.current.running and "closed" in work.problem
    assert not names(tmp_path)


def test_covered_points_are_left_out_as_the_settings_say(scene, tmp_path):
    from bodies import box

    box("Wall", (-3, -1.1, -1), (3, -1.0, 3))
    scene.musev.occlusion.others = "hide"
    bpy.ops.musev.export_poses(directory=str(tmp_path), wait=True)
    assert not pixels(tmp_path / "pose_0003.png").any()


def test_the_preview_strip_shows_each_pose_as_long_as_it_counts(scene):
    scene.musev.generate_at, scene.musev.generation_fps = "RATE", 12.0
    assert bpy.ops.musev.preview_strip(wait=True) == {"FINISHED"}
    (strip,) = strips.top_strips(scene)
    assert strips.span(strip) == (1, 6)
    shown = [element.filename for element in strip.elements]
    assert [name.rpartition("_")[2] for name in shown] == [
        "0001.png",
        "0001.png",
        "0002.png",
        "0002.png",
        "0003.png",
    ]
    first = Path(bpy.path.abspath(strip.directory)) / shown[0]
    read = views.reading(scene, (1.0,))
    while not read.advance(float("inf")):
        pass
    assert np.array_equal(pixels(first), drawing.draw(read.read[0], 128, 96))


def test_a_cancelled_preview_leaves_nothing(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TICK_S", 0.0)
    take = tmp_path / "take_001"
    take.mkdir()
    work = work_on(scene, take, strip=export.Strip(scene.name, "poses", 1, tuple(range(5))))
    in_slices(work, until=lambda: work.frames_written == 2)
    export.current.stop()
    assert not take.exists() and not strips.top_strips(scene)


def test_the_preview_strip_is_placed_by_the_timer_once_blender_can_take_it(scene, tmp_path):
    work = work_on(scene, tmp_path, strip=export.Strip(scene.name, "poses", 3, (0, 1, 1, 2)))
    in_slices(work)
    (strip,) = strips.top_strips(scene)
    assert strips.span(strip) == (3, 7) and not work.problem


def test_the_preview_strip_is_one_undo_step(scene):
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.musev.preview_strip(wait=True)
    assert len(strips.top_strips(bpy.context.scene)) == 1
    bpy.ops.ed.undo()
    assert not strips.top_strips(bpy.context.scene)
    bpy.ops.ed.redo()
    assert len(strips.top_strips(bpy.context.scene)) == 1
