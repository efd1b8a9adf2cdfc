"""A picture of the artist's as the engine wants it: PNG bytes, 8-bit sRGB, RGB, of the clip's size.

Reads pixels out of an image data-block without changing it, so what is painted but unsaved counts too.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import bpy
import numpy as np

from .captures import CaptureError
from .protocol import ClipRequest, blob_sha256
from .translations import tr

MAX_PIXELS = 8192 * 8192
BAND = 64  # rows of a picture that are worked on at a time
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class StillError(CaptureError):
    """A still can't be read: which one, why, and the remedy."""


def check(image: bpy.types.Image) -> None:
    """Raises StillError for an image without readable pixels or with too many."""
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


def from_image(image: bpy.types.Image, width: int, height: int) -> bytes:
    """The image as a PNG of width x height: scaled to cover, the middle kept, transparency over black.

    Byte images are taken as they are, float images (EXR, HDR) as linear light shown in the Standard view.
    Raises StillError for an image without readable pixels or with too many.
    """
    return b"".join(in_slices(image, width, height))


def in_slices(image: bpy.types.Image, width: int, height: int) -> Iterator[bytes]:
    """The bytes of `from_image`: nothing after each slice of work, and the whole file last. The image is looked at in
    the first one alone. Raises StillError."""
    check(image)
    columns, rows = image.size
    pixels = np.empty(columns * rows * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    pixels = pixels.reshape(rows, columns, image.channels)[::-1]  # Blender's first row is the lowest
    is_linear = image.is_float
    yield b""
    shown = np.empty((rows, columns, 3), np.float32)
    for first in range(0, rows, BAND):
        shown[first : first + BAND] = rgb(pixels[first : first + BAND], is_linear)
        yield b""
    packer, packed = zlib.compressobj(6), []
    for first in range(0, height, BAND):
        band = cover(shown, width, height, first, min(first + BAND, height))
        yield b""
        packed.append(packer.compress(_lines(np.rint(band * 255).astype(np.uint8))))
        yield b""
    packed.append(packer.flush())
    yield _head(width, height, 3) + _chunk(b"IDAT", b"".join(packed)) + _chunk(b"IEND", b"")


@dataclass
class ImageCapture:
    """A `captures.Capture` of an image data-block, by its full name: it becomes the clip's reference still."""

    image: str
    width: int
    height: int
    phase: str = "reading the still"
    done: int = 0
    total: int = 1
    _work: Iterator[bytes] | None = None
    _png: bytes = b""

    def advance(self, deadline: float) -> bool:
        """Reads on until about `deadline`. Raises StillError."""
        if self._work is None:
            image = next((each for each in bpy.data.images if each.name_full == self.image), None)
            if image is None:
                raise StillError(
                    tr("The still '{image}' is no longer in this file; generate again.", image=self.image)
                )
            self._work = in_slices(image, self.width, self.height)
        for made in self._work:
            self._png = made
            if made or time.perf_counter() >= deadline:
                break
        self.done = int(bool(self._png))
        return bool(self._png)

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        """The request with the still named in it, and its bytes."""
        sha256 = blob_sha256(self._png)
        return dataclasses.replace(request, still=sha256), {sha256: self._png}

    def cancel(self) -> None:
        self._work = iter(())


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
    yield _head(width, height, pixels.ndim)
    packer = zlib.compressobj(6)
    for first in range(0, height, rows):
        packed = packer.compress(_lines(pixels[first : first + rows]))
        if first + rows >= height:
            packed += packer.flush()
        yield _chunk(b"IDAT", packed) if packed else b""
    yield _chunk(b"IEND", b"")


def _head(width: int, height: int, ndim: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if ndim == 3 else 0, 0, 0, 0)
    return PNG_MAGIC + _chunk(b"IHDR", header) + _chunk(b"sRGB", b"\0")


def _lines(band: np.ndarray) -> bytes:
    """Rows of pixels as they are stored: each behind a 0, for no filter."""
    return np.concatenate([np.zeros((len(band), 1), np.uint8), band.reshape(len(band), -1)], axis=1).tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of PNG bytes, from their header; None for anything else."""
    if data[:8] != PNG_MAGIC or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    return struct.unpack(">II", data[16:24])
