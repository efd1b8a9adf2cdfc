"""The sequencer's API: ranges, free channels, the placed strip."""

from __future__ import annotations

import bpy
import pytest
from bl_ext.user_default.musev import stills, strips


@pytest.fixture
def pictures(tmp_path):
    """Five 16 x 8 PNG files."""
    import numpy as np

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


def test_the_sequencer_shows_what_the_files_hold(empty_scene, pictures, tmp_path):
    strips.place_images(empty_scene, "clip", pictures, 1)
    render = empty_scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = 16, 8, 100
    if hasattr(render.image_settings, "media_type"):
        render.image_settings.media_type = "IMAGE"
    render.image_settings.file_format, render.filepath = "PNG", str(tmp_path / "rendered.png")
    empty_scene.frame_set(4)
    bpy.ops.render.render(write_still=True)
    rendered = bpy.data.images.load(str(tmp_path / "rendered.png"))
    assert round(rendered.pixels[0] * 255) == 120
