"""Frames pinned and painted over: files of their own on the pins channel, in the requests as they were painted."""

from __future__ import annotations

import bpy
import montage
import numpy as np
import pytest
from bl_ext.user_default.musev import provenance, strips
from bl_ext.user_default.musev.clips import pin_verbs, pins, stack
from bl_ext.user_default.musev.protocol import blob_sha256
from test_extension import draw
from test_generate import all_strips, refusal, shot  # noqa: F401 (a fixture)
from test_redo import contents, ended, made  # noqa: F401 (a fixture)


@pytest.fixture
def view(made):  # noqa: F811
    """The session, and the strip of a finished clip at 5 to 34; frame 17 is in view."""
    bpy.context.scene.frame_set(17)
    return made


def pin_strips():
    return [strip for strip in all_strips() if strip.name.startswith("Pin")]


def test_a_pinned_frame_is_a_copy_on_the_pins_channel(view, tmp_path):
    _, strip = view
    take = stack.shown(strip)
    before = contents(take)
    bpy.ops.musev.pin_frame()
    (pin,) = pin_strips()
    file = strips.file_at(pin, 17)
    assert strips.span(pin) == (17, 18) and file.read_bytes() == before[12]
    assert file == stack.folder(strip) / "pins" / "take_001_0013.png" and file.stat().st_nlink == 1
    scene = bpy.context.scene
    assert scene.sequence_editor.channels[pin.channel].name == "Pins" and pin.channel > strip.channel
    assert pins.on_channel(scene, "Pins", 5, 35) == {17: file}
    assert scene.sequence_editor.active_strip == strip and not pin.select
    assert "lies on the channel Pins" in refusal(bpy.ops.musev.pin_frame)

    scene.frame_set(20)
    bpy.ops.musev.pin_frame()
    assert [pin.channel for pin in pin_strips()] == [pin.channel] * 2
    bpy.ops.musev.unpin_frame()
    assert len(pin_strips()) == 1 and contents(take) == before


def test_a_pin_lies_as_its_strip_does(view):
    _, strip = view
    strip.transform.offset_x, strip.transform.scale_x, strip.use_flip_x = 7, 0.5, True
    bpy.ops.musev.pin_frame()
    (pin,) = pin_strips()
    assert (pin.transform.offset_x, pin.transform.scale_x, pin.use_flip_x) == (7, 0.5, True)


def painted(value: float) -> bpy.types.Image:
    image = bpy.data.images["Pin 17"]
    image.pixels.foreach_set(np.full(len(image.pixels), value, np.float32))
    image.update()
    assert image.is_dirty
    return image


def test_what_is_painted_over_a_frame_holds_in_what_is_made_then(view):
    current, strip = view
    take = stack.shown(strip)
    before = contents(take)
    bpy.ops.musev.paint_over()
    image = painted(1.0)
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    asked = current.jobs[-1].request
    file = strips.file_at(pin_strips()[0], 17)
    assert not image.is_dirty and file.read_bytes() != before[12]
    assert [pin.picture for pin in asked.pins if pin.frame == 6] == [blob_sha256(file.read_bytes())]
    ended(current)
    assert contents(take) == before

    painted(0.5)  # again, and saved by hand
    image.save()
    bpy.ops.musev.paint_over()  # the pin that is there
    bpy.ops.musev.redo_range(frame_start=15, frame_end=19)
    again = current.jobs[-1].request
    assert len(pin_strips()) == 1 and again.pins != asked.pins
    assert blob_sha256(file.read_bytes()) in {pin.picture for pin in again.pins}
    ended(current)


def test_a_frame_that_is_painted_on_says_on_that_a_model_made_it(view):
    _, strip = view
    frame, told = stack.shown(strip) / "0013.png", provenance.packet("mini", "Any.")
    frame.write_bytes(provenance.with_packet(frame.read_bytes(), told))
    bpy.ops.musev.paint_over()
    image = painted(1.0)
    file = strips.file_at(pin_strips()[0], 17)
    pins.save_painted([file])
    assert not image.is_dirty and provenance.of_file(file) == told
    painted(0.5)
    image.save()  # by hand
    assert provenance.of_file(file) == ""
    pins.save_painted([file])
    assert provenance.of_file(file) == told


def test_the_viewer_shows_a_pin_as_it_was_painted(view, tmp_path):
    bpy.ops.musev.paint_over()
    scene = bpy.context.scene
    (before,) = montage.plain_frames(scene, [17], tmp_path)
    painted(1.0)
    pins.save_painted(pins.on_channel(scene, "Pins", 17, 18).values())
    (after,) = montage.plain_frames(scene, [17], tmp_path)
    middle = np.array(after).shape[0] // 2, np.array(after).shape[1] // 2
    assert (np.array(after)[middle] == 255).all() and not (np.array(before)[middle] == 255).any()


def test_a_picture_of_the_artists_own_is_not_saved_for_them(view, tmp_path):
    current, strip = view
    file = tmp_path / "mine.png"
    file.write_bytes(contents(stack.shown(strip))[0])
    bpy.ops.musev.pin_frame()
    pin_strips()[0].directory = str(tmp_path) + "/"
    pin_strips()[0].elements[0].filename = "mine.png"
    bpy.data.images.load(str(file)).name = "Pin 17"
    painted(0.25)
    before, count = file.read_bytes(), len(current.jobs)
    assert "is not saved; save it" in refusal(lambda: bpy.ops.musev.redo_range(frame_start=15, frame_end=19))
    assert file.read_bytes() == before and len(current.jobs) == count


def test_what_can_not_be_pinned_says_why(view):
    _, strip = view
    scene = bpy.context.scene
    assert not bpy.ops.musev.unpin_frame.poll()
    scene.frame_set(40)
    assert "go to a frame of it" in pin_verbs.MUSEV_OT_pin_frame.why_not(bpy.context)
    scene.frame_set(17)
    scene.musev.pins_channel = ""
    assert "has no name" in refusal(bpy.ops.musev.pin_frame)
    scene.musev.pins_channel = "Pins"
    strip.channel = strips.MAX_CHANNEL
    assert "no channel above" in refusal(bpy.ops.musev.pin_frame)
    assert not pin_strips() and not (stack.folder(strip) / "pins").exists()
    scene.sequence_editor.active_strip = None
    assert "shows no takes" in pin_verbs.MUSEV_OT_paint_over.why_not(bpy.context)


def test_the_panel_tells_the_pins_of_the_range(view):
    assert "No pins in the range" in " ".join(draw(pin_verbs.MUSEV_PT_pins))
    bpy.ops.musev.pin_frame()
    assert "1 pin at 17" in " ".join(draw(pin_verbs.MUSEV_PT_pins))
