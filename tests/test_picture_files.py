"""The head of a picture file, against the library by which the engine reads the whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blender_addon import picture_files
from musev_engine import frames

TURN = 0x0112


def file_of(mode: str, size: tuple[int, int] = (23, 17), kind: str = "PNG", **options) -> bytes:
    noise = np.random.default_rng(4).integers(0, 256, (size[1], size[0], 4), np.uint8)
    made = io.BytesIO()
    picture = Image.fromarray(noise if mode in ("RGBA", "LA") else noise[..., :3])
    picture = (
        Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    )
    picture.save(made, kind, **options)
    return made.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[TURN] = orientation
    exif[0x010F] = "A camera"
    return exif.tobytes()


@pytest.mark.parametrize(
    ("file", "has_alpha", "is_plain"),
    [
        (file_of("RGB"), False, True),
        (file_of("L"), False, True),
        (file_of("1"), False, True),
        (file_of("P"), False, True),
        (file_of("P", transparency=3), True, True),
        (file_of("LA"), True, True),
        (file_of("RGBA"), True, True),
        (file_of("I;16"), False, False),
        (file_of("RGB", exif=turned(1)), False, True),
        (file_of("RGB", exif=turned(6)), False, False),
        (file_of("RGB", kind="JPEG"), False, True),
        (file_of("L", kind="JPEG", progressive=True), False, True),
        (file_of("CMYK", kind="JPEG"), False, False),
        (file_of("RGB", kind="JPEG", exif=turned(1), comment=b"\xff\xc0 no frame"), False, True),
        (file_of("RGB", kind="JPEG", exif=turned(8)), False, False),
        (file_of("RGB", kind="JPEG", xmp=b'<x tiff:Orientation="1"/>'), False, True),
        (file_of("RGB", kind="JPEG", xmp=b'<x tiff:Orientation="3"/>'), False, False),
    ],
)
def test_a_head_says_what_the_engine_will_find(file, has_alpha, is_plain):
    known = picture_files.head(file[: picture_files.HEAD_BYTES])
    assert known == picture_files.Head(23, 17, has_alpha, is_plain)
    read = frames.decode_still(file)
    if is_plain:  # all that we say of a plain file is so, and what is transparent is black
        with Image.open(io.BytesIO(file)) as picture:
            seen = np.asarray(picture.convert("RGBA")).astype(float)
        assert np.abs(read - seen[..., :3] * (seen[..., 3:] / 255)).max() <= 1
        assert has_alpha or (seen[..., 3] == 255).all()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([picture_files.PNG_MAGIC, picture_files.JPEG_MAGIC, b""]))
def test_any_other_bytes_are_no_head_or_one_that_can_be_read(rest, magic):
    known = picture_files.head(magic + rest)
    assert known is None or (known.width >= 0 and known.height >= 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_head_that_is_cut_off_is_none(kind):
    file = file_of("RGB", kind=kind, exif=turned(1))
    whole = picture_files.head(file)
    heads = [picture_files.head(file[:length]) for length in range(len(file))]
    assert set(heads) == {None, whole} and heads[0] is None and heads == sorted(heads, key=bool)
