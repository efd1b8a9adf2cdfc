"""The sequencer's API: ranges, free channels, the placed strip."""

from __future__ import annotations

from pathlib import Path

import bpy
import montage
import numpy as np
import pytest
from bl_ext.user_default.musev import stills, strips


@pytest.fixture
def pictures(tmp_path):
    """Five 16 x 8 PNG files."""
    files = [tmp_path / f"{k:04d}.png" for k in range(1, 6)]
    for k, file in enumerate(files):
        file.write_bytes(stills.encode_png(np.full((8, 16, 3), 40 * k, np.uint8)))
    return files


def test_a_strip_is_as_long_as_its_files_and_fits_the_scene(empty_scene, pictures):
    strip = strips.place_images(empty_scene, "clip", pictures, 100)
    assert strips.span(strip) == (100, 105) and strips.is_image(strip)
    assert [element.filename for element in strip.elements] == [file.name for file in pictures]
    assert strip.transform.scale_x == empty_scene.render.resolution_x / 16
    assert empty_scene.sequence_editor.active_strip == strip and strip.select


def test_one_frame_is_one_frame_long(empty_scene, pictures):
    assert strips.span(strips.place_images(empty_scene, "clip", pictures[:1], 7)) == (7, 8)


def test_the_first_free_channel_is_found_over_the_whole_range(empty_scene, pictures):
    def place(start, count=5):
        return strips.place_images(empty_scene, "clip", pictures[:count], start).channel

    assert place(1) == 1
    assert place(6) == 1  # just behind
    assert place(3) == 2  # over both
    assert place(8, 1) == 2  # behind the second, over the other of channel 1
    assert place(11) == 1
    assert strips.first_free_channel(empty_scene, 1, 100) == 3


def test_locked_channels_are_left_alone(empty_scene, pictures):
    empty_scene.sequence_editor_create().channels[1].lock = True
    assert strips.place_images(empty_scene, "clip", pictures, 1).channel == 2


def test_a_clip_lies_where_it_is_seen_and_is_neither_pin_nor_prompt(empty_scene, pictures):
    channels = empty_scene.sequence_editor_create().channels
    channels[1].mute = True
    channels[2].name = "Pins"
    channels[3].name = "prompts 2"
    assert strips.place_images(empty_scene, "clip", pictures, 1).channel == 4
    empty_scene.musev.prompt_track.channel = empty_scene.musev.pins_channel = ""
    assert strips.place_images(empty_scene, "clip", pictures, 1).channel == 2


def test_a_full_timeline_is_told_and_untouched(empty_scene, pictures):
    editor = empty_scene.sequence_editor_create()
    for channel in range(1, strips.MAX_CHANNEL + 1):
        editor.channels[channel].lock = True
    with pytest.raises(strips.StripError, match=r"All 128 channels are taken between frames 5 and 10"):
        strips.place_images(empty_scene, "clip", pictures, 5)
    assert len(strips.top_strips(empty_scene)) == 0
    with pytest.raises(strips.StripError, match="0 frames to place"):
        strips.place_images(empty_scene, "clip", [], 5)


def test_the_selected_range_spans_all_selected_strips(empty_scene, pictures):
    with pytest.raises(strips.StripError, match="0 strips are selected"):
        strips.selected_span(empty_scene)
    first = strips.place_images(empty_scene, "a", pictures, 10)
    strips.place_images(empty_scene, "b", pictures, 30)
    assert strips.selected_span(empty_scene) == (30, 35)
    first.select = True
    assert strips.selected_span(empty_scene) == (10, 35)


@pytest.fixture
def clip(empty_scene, tmp_path):
    """Three 48 x 32 pictures of every colour and of every grey, and a scene of their size."""
    empty_scene.render.resolution_x, empty_scene.render.resolution_y = montage.WIDTH, montage.HEIGHT
    empty_scene.render.resolution_percentage = 100
    (folder := tmp_path / "project" / "take").mkdir(parents=True)
    files = []
    for k in range(3):
        pixels = montage.picture(k).copy()
        pixels[:8] = (np.linspace(0, 255, montage.WIDTH) + k)[None, :, None].clip(0, 255)
        files.append(folder / f"{k + 1:04}.png")
        files[-1].write_bytes(stills.encode_png(pixels))
    return files


def difference(scene, clip, folder) -> np.ndarray:
    """How many levels the sequencer's own render differs from the placed files: (frames, h, w, 3)."""
    shown = montage.plain_frames(scene, range(1, len(clip) + 1), folder)
    return np.abs(np.array(shown).astype(int) - [montage.read_image(file) for file in clip])


def test_the_sequencer_shows_what_the_files_hold(empty_scene, clip, tmp_path):
    strip = strips.place_images(empty_scene, "clip", clip, 1)
    assert strip.colorspace_settings.name == "sRGB" and not difference(empty_scene, clip, tmp_path).any()


@pytest.mark.parametrize(("view", "mean"), [("Filmic", 0.5), ("AgX", 7.0)])
def test_other_views_show_finished_pictures_as_they_are(empty_scene, clip, tmp_path, view, mean):
    empty_scene.view_settings.view_transform = view
    strip = strips.place_images(empty_scene, "clip", clip, 1)
    error = difference(empty_scene, clip, tmp_path)
    assert error[:, :8].max() <= 1 and error.mean() < mean
    strip.colorspace_settings.name = "sRGB"  # what Blender would take them for
    assert difference(empty_scene, clip, tmp_path).mean() > 2 * error.mean() + 5


def test_a_view_without_a_colour_space_leaves_it_plain(empty_scene, clip):
    empty_scene.view_settings.view_transform = "False Color"
    assert strips.place_images(empty_scene, "clip", clip, 1).colorspace_settings.name == "sRGB"


def test_blenders_own_file_verbs_go_on_working(empty_scene, clip, tmp_path):
    project = tmp_path / "project"
    bpy.ops.wm.save_as_mainfile(filepath=str(project / "shot.blend"))
    strip = strips.place_images(empty_scene, "clip", clip, 1)
    assert strip.directory == "//take/"
    bpy.ops.file.make_paths_absolute()
    assert Path(strip.directory) == project / "take" and not difference(empty_scene, clip, tmp_path).any()
    bpy.ops.file.make_paths_relative()
    assert strip.directory.rstrip("/") == "//take"
    bpy.ops.file.pack_all()
    assert not difference(empty_scene, clip, tmp_path).any()
    bpy.ops.wm.save_mainfile()
    project.rename(tmp_path / "moved")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "moved" / "shot.blend"))
    moved = [tmp_path / "moved" / "take" / file.name for file in clip]
    assert not difference(bpy.context.scene, moved, tmp_path).any()


def test_proxies_are_made_of_it_and_no_render_uses_them(empty_scene, clip, tmp_path):
    strip = strips.place_images(empty_scene, "clip", clip, 1)
    strip.use_proxy = True
    strip.proxy.build_25, strip.proxy.build_100 = True, False
    strip.proxy.use_proxy_custom_directory, strip.proxy.directory = True, str(tmp_path / "proxies")
    with montage.in_sequencer(empty_scene):
        bpy.ops.sequencer.rebuild_proxy()
    assert len(list((tmp_path / "proxies").rglob("*.jpg"))) == len(clip)
    assert not difference(empty_scene, clip, tmp_path).any()
