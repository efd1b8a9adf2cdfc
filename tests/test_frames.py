"""Pixels and tensors: nothing lost on the way, and nothing large taken on trust."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from musev_engine import frames


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], -1).astype(
        np.uint8
    )


def saved(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip


def test_png_there_and_back_is_exact():
    picture = gradient(37, 50)
    assert np.array_equal(frames.decode_still(frames.encode_png(picture)), picture)


def test_a_png_by_differences_to_the_left_is_the_same_picture():
    picture = gradient(40, 56)
    png = frames.encode_png(picture, by_left=True)
    assert np.array_equal(frames.decode_still(png), picture)
    rows = zlib.decompress(png[png.index(b"IDAT") + 4 : png.rindex(b"IEND") - 8])
    assert set(rows[:: 1 + 3 * 56]) == {1}  # W3C PNG: filter type Sub


def test_tensors_there_and_back_are_exact():
    clip = np.stack([gradient(16, 24), gradient(16, 24)[::-1]])
    tensor = frames.to_tensor(clip)
    assert tensor.shape == (2, 3, 16, 24) and tensor.min() >= 0 and tensor.max() <= 1
    assert np.array_equal(frames.to_pixels(tensor), clip)


def test_sixteen_bit_grey_transparency_and_jpeg_are_read():
    grey = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))
    assert np.array_equal(frames.decode_still(saved(grey)), np.full((4, 4, 3), 128))
    clear = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    assert not frames.decode_still(saved(clear)).any()
    jpeg = frames.decode_still(saved(Image.new("RGB", (9, 5), (10, 200, 30)), "JPEG"))
    assert jpeg.shape == (5, 9, 3) and np.abs(jpeg.astype(int) - (10, 200, 30)).max() < 6


def test_a_picture_with_a_huge_header_is_refused_before_it_is_unpacked():
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(ValueError, match="PNG or JPEG"):
        frames.decode_still(png)
    with pytest.raises(ValueError, match="50×37; give at most 100 pixels"):
        frames.decode_still(frames.encode_png(gradient(37, 50)), max_pixels=100)


@pytest.mark.parametrize("data", [b"", b"not a picture", frames.encode_png(gradient(37, 50))[:-60]])
def test_what_is_no_picture_says_so(data):
    with pytest.raises(ValueError, match=rf"the still \({len(data)} bytes\) can't be read"):
        frames.decode_still(data)


def test_a_still_of_the_right_size_is_untouched():
    picture = gradient(64, 64)
    assert frames.fit_still(picture, 64, 64) is picture


def test_the_middle_is_kept_and_no_border_is_lost():
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255  # the middle third is white
    assert (frames.fit_still(wide, 80, 80)[:, 4:-4] > 250).all()
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, 0).repeat(3, 2)
    half = frames.fit_still(ramp, 100, 100)[50, :, 0].astype(int)
    assert np.abs(half + half[::-1] - 199).max() <= 1  # symmetric: the last column weighs as the first


def test_encoding_in_chunks_equals_encoding_at_once(vae, monkeypatch):
    clip = np.stack([np.roll(gradient(32, 32), shift, 1) for shift in range(5)])
    at_once = frames.encode(vae, clip)
    assert at_once.shape == (1, 4, 5, 4, 4)
    pictures = torch.cat(list(frames.decode(vae, at_once)))
    assert pictures.shape == (5, 3, 32, 32) and pictures.min() >= 0 and pictures.max() <= 1
    monkeypatch.setattr(frames, "PIXELS_AT_ONCE", 2 * 32 * 32)
    assert torch.allclose(frames.encode(vae, clip), at_once, atol=1e-5)
    chunks = list(frames.decode(vae, at_once))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert torch.allclose(torch.cat(chunks), pictures, atol=1e-5)


def test_a_frame_with_alpha_is_written_as_it_is():
    frame = np.dstack([gradient(9, 7), np.arange(63, dtype=np.uint8).reshape(9, 7)])
    with Image.open(io.BytesIO(frames.encode_png(frame))) as picture:
        assert picture.mode == "RGBA" and np.array_equal(np.asarray(picture), frame)


def test_a_picture_of_another_size_than_was_told_is_refused():
    png = frames.encode_png(gradient(37, 50))
    assert frames.decode_still(png, size=(50, 37)).shape == (37, 50, 3)
    with pytest.raises(ValueError, match="frame 3 of depth is 50×37, and not 50×38"):
        frames.decode_still(png, what="frame 3 of depth", size=(50, 38))
