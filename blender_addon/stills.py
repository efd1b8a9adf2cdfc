"""A picture of the artist's as the engine wants it: PNG bytes, 8-bit sRGB, RGB, of the clip's size.

Reads pixels out of an image data-block without changing it, so what is painted but unsaved counts too.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import bpy
import numpy as np

from .translations import tr

MAX_PIXELS = 8192 * 8192
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class StillError(ValueError):
    """A still can't be read: which one, why, and the remedy."""


def from_image(image: bpy.types.Image, width: int, height: int) -> bytes:
    """The image as a PNG of width x height: scaled to cover, the middle kept, transparency over black.

    Byte images are taken as they are, float images (EXR, HDR) as linear light shown in the Standard view.
    Raises StillError for an image without readable pixels or with too many.
    """
    columns, rows = image.size
    if image.type in ("RENDER_RESULT", "COMPOSITING"):
        raise StillError(
            tr("'{image}' can't be read directly; save it as a file and choose that.", image=image.name)
        )
    if columns * rows == 0:
        raise StillError(
            tr(
                "The still '{image}' can't be read ({filepath}); choose a picture file.",
                image=image.name,
                filepath=image.filepath or "no file",
            )
        )
    if columns * rows > MAX_PIXELS:
        raise StillError(
            tr(
                "The still '{image}' has {columns} x {rows} pixels; scale it below 8192 x 8192.",
                image=image.name,
                columns=columns,
                rows=rows,
            )
        )
    pixels = np.empty(columns * rows * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    pixels = pixels.reshape(rows, columns, image.channels)[::-1]  # Blender's first row is the lowest
    return encode_png(np.rint(cover(rgb(pixels, image.is_float), width, height) * 255).astype(np.uint8))


def rgb(pixels: np.ndarray, is_linear: bool) -> np.ndarray:
    """(h, w, 1..4) float as Blender holds it -> (h, w, 3) float32 sRGB in 0..1, over black."""
    channels = pixels.shape[2]
    colour = pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    if is_linear:  # float images have their colour multiplied by alpha already
        return srgb(np.clip(colour, 0.0, 1.0))
    return colour * pixels[..., 3:] if channels == 4 else colour


def srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB (IEC 61966-2-1), both 0..1."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).astype(
        np.float32
    )


def cover(pixels: np.ndarray, width: int, height: int, first: int = 0, last: int | None = None) -> np.ndarray:
    """(h, w, c) scaled to cover (height, width, c) float32, the middle kept; averages the area under a new pixel.

    first, last: only the new rows [first, last), for those who may not wait; they are the same as in the whole.
    """
    rows, columns = pixels.shape[:2]
    last = height if last is None else last
    if (rows, columns) == (height, width):
        return pixels[first:last].astype(np.float32)
    scale = min(columns / width, rows / height)  # old pixels a new one
    block = max(1, int(scale))  # whole-number steps first: they are cheap, and leave little to the exact part
    used_rows, top = _used(rows, height, scale, block, first, last)
    used_columns, left = _used(columns, width, scale, block, 0, width)
    pixels = pixels[used_rows, used_columns].astype(np.float32)
    if block > 1:
        pixels = sum(pixels[i::block, j::block] for i in range(block) for j in range(block)) / block**2
    tall = _resample(pixels, last - first, top, scale / block)
    return _resample(tall.transpose(1, 0, 2), width, left, scale / block).transpose(1, 0, 2)


def _used(old: int, new: int, scale: float, block: int, first: int, last: int) -> tuple[slice, float]:
    """Which of `old` lines the new ones [first, last) lie in, `new` of which lie in the middle: whole blocks with two
    to spare on both sides, and where in these blocks the first of them begins."""
    start = (old - new * scale) / 2
    origin = int(start) % block  # the blocks of every part are the same
    begin, end = start + first * scale - origin, start + last * scale - origin
    low = max(0, int(begin // block) - 2)
    high = min((old - origin) // block, math.ceil(end / block) + 2)
    return slice(origin + low * block, origin + high * block), begin / block - low


def _resample(lines: np.ndarray, new: int, start: float, scale: float) -> np.ndarray:
    """(n, m, c) float32 -> (new, m, c): each new line is a triangle of old ones, as wide as itself and never narrower
    than an old one; the first begins at `start`, each is `scale` old ones wide."""
    old, reach = len(lines), max(scale, 1.0)
    centres = (start + (np.arange(new) + 0.5) * scale)[:, None]
    few = np.arange(math.ceil(2 * reach) + 1)  # that count
    at = np.floor(centres - reach).astype(int) + few  # (new, k)
    weights = np.maximum(0.0, 1.0 - np.abs(at + 0.5 - centres) / reach) * ((at >= 0) & (at < old))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    flat = np.ascontiguousarray(lines).reshape(old, -1)
    total = np.zeros((new, flat.shape[1]), np.float32)
    for k in range(at.shape[1]):
        total += flat[np.clip(at[:, k], 0, old - 1)] * weights[:, k, None]
    return total.reshape(new, *lines.shape[1:])


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 (h, w) grey or (h, w, 3) -> the bytes of an sRGB PNG file (W3C PNG, third edition)."""
    return b"".join(png_pieces(pixels, len(pixels)))


def png_pieces(pixels: np.ndarray, rows: int) -> Iterator[bytes]:
    """The bytes of `encode_png` in pieces, each made of so many rows of the picture: for those who may not wait."""
    height, width = pixels.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    yield PNG_MAGIC + chunk(b"IHDR", header) + chunk(b"sRGB", b"\0")
    packer = zlib.compressobj(6)
    for first in range(0, height, rows):
        band = pixels[first : first + rows]
        lines = np.concatenate([np.zeros((len(band), 1), np.uint8), band.reshape(len(band), -1)], axis=1)
        packed = packer.compress(lines.tobytes())  # no filter: the 0 before each line
        if first + rows >= height:
            packed += packer.flush()
        yield chunk(b"IDAT", packed) if packed else b""
    yield chunk(b"IEND", b"")


def png_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of PNG bytes, from their header; None for anything else."""
    if data[:8] != PNG_MAGIC or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    return struct.unpack(">II", data[16:24])
