"""Stills out of image data-blocks: bytes that Blender itself reads back as the same picture."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from bl_ext.user_default.musev import stills
from bl_ext.user_default.musev.protocol import ClipRequest
from rigs import camera


def image_of(pixels: np.ndarray, **kind) -> bpy.types.Image:
    """An image data-block with (h, w, 4) float pixels, first row on top."""
    image = bpy.data.images.new("Picture", pixels.shape[1], pixels.shape[0], alpha=True, **kind)
    image.pixels.foreach_set(np.ascontiguousarray(pixels[::-1], np.float32).ravel())
    return image


def read_back(png: bytes, tmp_path) -> np.ndarray:
    """The PNG's bytes as Blender reads them: (h, w, 3) levels, first row on top."""
    path = tmp_path / "still.png"
    path.write_bytes(png)
    image = bpy.data.images.load(str(path), check_existing=False)
    width, height = image.size
    pixels = np.array(image.pixels[:]).reshape(height, width, image.channels)[::-1]
    bpy.data.images.remove(image)
    return np.rint(pixels[..., :3] * 255)


def noise(height, width, seed=1):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4)) / 255
    pixels[..., 3] = 1
    return pixels


def test_a_byte_image_of_the_right_size_arrives_unchanged(empty_scene, tmp_path):
    pixels = noise(48, 32)
    image = image_of(pixels)
    told = read_back(stills.from_image(image, 32, 48), tmp_path)
    assert (told == np.rint(pixels[..., :3] * 255)).all()
    assert tuple(image.size) == (32, 48) and len(bpy.data.images) == 1


def test_a_float_image_is_linear_light(empty_scene, tmp_path):
    pixels = np.ones((8, 8, 4))
    pixels[..., :3] = [0.2140, 0.5, 4.0]  # middle grey of sRGB, half the light, brighter than white
    told = read_back(stills.from_image(image_of(pixels, float_buffer=True), 8, 8), tmp_path)
    assert told[0, 0].tolist() == [127, 188, 255]


def test_transparency_lies_over_black(empty_scene, tmp_path):
    pixels = np.ones((8, 8, 4))
    pixels[:4, :, 3] = 0
    told = read_back(stills.from_image(image_of(pixels), 8, 8), tmp_path)
    assert (told[:4] == 0).all() and (told[4:] == 255).all()


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (40, 96)])
def test_scaling_keeps_brightness_and_place(empty_scene, tmp_path, size):
    """A ramp from left to right and from top to bottom stays one, over the middle that is kept."""
    width, height = size
    ramp = np.ones((300, 400, 4))
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 1, 400)[None, :], np.linspace(0, 1, 300)[:, None]
    told = read_back(stills.from_image(image_of(ramp), width, height), tmp_path) / 255
    scale = min(400 / width, 300 / height)
    for axis, old, new in ((0, 400, width), (1, 300, height)):
        line = told[height // 2, :, 0] if axis == 0 else told[:, width // 2, 1]
        where = (old - new * scale) / 2 + (np.arange(new) + 0.5) * scale
        assert line == pytest.approx((where - 0.5) / (old - 1), abs=0.015)


def test_a_fine_pattern_averages_instead_of_flickering(empty_scene, tmp_path):
    checks = np.ones((301, 403, 4))
    checks[..., :3] = (np.indices((301, 403)).sum(axis=0) % 2)[..., None]
    told = read_back(stills.from_image(image_of(checks), 64, 48), tmp_path)
    assert np.abs(told - 127.5).max() < 16


@pytest.mark.parametrize("size", [(64, 40), (300, 201), (32, 200), (500, 500), (403, 301)])
def test_a_picture_scaled_part_by_part_is_the_same(size):
    pixels = np.random.default_rng(3).random((301, 403, 3)).astype(np.float32)
    whole = stills.cover(pixels, *size)
    parts = [stills.cover(pixels, *size, first, min(first + 17, size[1])) for first in range(0, size[1], 17)]
    assert whole.shape == (size[1], size[0], 3) and np.allclose(np.concatenate(parts), whole, atol=1e-6)


def test_what_is_painted_and_not_saved_counts(empty_scene, tmp_path):
    path = tmp_path / "file.png"
    path.write_bytes(stills.encode_png(np.zeros((8, 8, 3), np.uint8)))
    image = bpy.data.images.load(str(path))
    image.pixels.foreach_set(np.ones(8 * 8 * image.channels, np.float32))
    assert image.is_dirty
    assert (read_back(stills.from_image(image, 8, 8), tmp_path) == 255).all()
    assert image.is_dirty


def test_a_still_read_in_slices_is_the_same_file(empty_scene):
    pixels = np.random.default_rng(3).random((150, 201, 4), np.float32)
    image = image_of(pixels)
    whole = np.empty(pixels.size, np.float32)
    image.pixels.foreach_get(whole)
    shown = stills.rgb(whole.reshape(pixels.shape)[::-1], False)
    drawn = np.rint(stills.cover(shown, 136, 128) * 255).astype(np.uint8)
    capture = stills.ImageCapture(image.name_full, 136, 128)
    slices = 1
    while not capture.advance(0.0):
        slices += 1
    asked = ClipRequest(mode="still", still="0" * 64, width=136, height=128)
    request, blobs = capture.finish(asked)
    assert slices > 5 and blobs == {request.still: stills.encode_png(drawn)}
    assert blobs[request.still] == stills.from_image(image, 136, 128)
    capture = stills.ImageCapture("gone", 64, 64)
    with pytest.raises(stills.StillError, match="'gone' is no longer in this file"):
        capture.advance(0.0)


def captured(image: bpy.types.Image, **how) -> bytes:
    capture = stills.ImageCapture(image.name_full, 64, 64, **how)
    while not capture.advance(0.0):
        pass
    request, blobs = capture.finish(ClipRequest(mode="still", still="0" * 64, width=64, height=64))
    return blobs[request.still]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_file_goes_as_it_is_and_is_not_loaded(empty_scene, tmp_path, monkeypatch, kind):
    painted, path = image_of(noise(48, 40)), tmp_path / f"face.{kind.lower()}"
    painted.filepath_raw, painted.file_format = str(path), kind
    painted.save()
    monkeypatch.setattr(stills, "READ_BYTES", 1000)
    image, noted = bpy.data.images.load(str(path), check_existing=False), []
    stills.check(image)
    assert stills.size(image) == (40, 48)
    assert captured(image, note=lambda shown: noted.append(shown.name)) == path.read_bytes()
    assert not image.has_data and noted == [image.name]
    assert stills.png_size(captured(image, fitted=True)) == (64, 64)
    file = path.read_bytes()
    image.pack()
    path.unlink()
    assert captured(image) == file


def sixteen_bits(image):
    bpy.context.scene.render.image_settings.file_format = "PNG"
    bpy.context.scene.render.image_settings.color_depth = "16"
    image.save_render(image.filepath_raw)


def paint(image):
    image.pixels.foreach_set(np.full(16 * 16 * image.channels, 0.5, np.float32))


@pytest.mark.parametrize(
    "otherwise",
    [
        sixteen_bits,
        paint,
        lambda image: setattr(image, "alpha_mode", "CHANNEL_PACKED"),
        lambda image: setattr(image, "use_deinterlace", True),
    ],
)
def test_a_file_that_shows_something_else_goes_as_its_pixels(empty_scene, tmp_path, otherwise):
    pixels = noise(16, 16)
    pixels[..., 3] = 0.5
    painted = image_of(pixels)
    painted.filepath_raw, painted.file_format = str(tmp_path / "face.png"), "PNG"
    painted.save()
    image = bpy.data.images.load(str(tmp_path / "face.png"), check_existing=False)
    assert captured(image) == (tmp_path / "face.png").read_bytes()
    otherwise(image)
    assert captured(image) == stills.from_image(image, 64, 64) != (tmp_path / "face.png").read_bytes()


def test_an_image_that_changes_while_it_is_read_is_refused(empty_scene):
    image = image_of(noise(64, 64))
    capture = stills.ImageCapture(image.name_full, 16, 16)
    assert not capture.advance(0.0)
    image.scale(32, 32)
    with pytest.raises(stills.StillError, match="'Picture' was changed while it was read; generate again"):
        while not capture.advance(0.0):
            pass


def test_a_file_that_is_gone_is_named(empty_scene, tmp_path):
    image_of(noise(16, 16)).save_render(str(tmp_path / "face.png"))
    image = bpy.data.images.load(str(tmp_path / "face.png"), check_existing=False)
    capture = stills.ImageCapture(image.name_full, 16, 16)
    (tmp_path / "face.png").unlink()
    with pytest.raises(
        stills.StillError, match=r"'face.png' can't be read \(.*face.png\); choose a picture file"
    ):
        capture.advance(0.0)


def test_unreadable_stills_are_named(empty_scene, tmp_path):
    empty_scene.render.engine, empty_scene.render.resolution_percentage = "CYCLES", 1
    camera()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(stills.StillError, match=r"'broken.png' can't be read"):
        stills.from_image(bpy.data.images.load(str(tmp_path / "broken.png")), 64, 64)
    bpy.ops.render.render()
    with pytest.raises(stills.StillError, match="'Render Result' can't be read directly; save it as a file"):
        stills.from_image(bpy.data.images["Render Result"], 64, 64)


def test_png_size_is_read_from_the_bytes():
    assert stills.png_size(stills.encode_png(np.zeros((5, 7, 3), np.uint8))) == (7, 5)
    assert stills.png_size(b"") is None and stills.png_size(b"\xff\xd8\xff\xe0" + b"0" * 40) is None
