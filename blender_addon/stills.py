"""A picture of the artist's as the engine wants it: the file that an image data-block shows, as it is, where the engine
reads that as Blender does; else PNG bytes, 8-bit sRGB, RGB, of the clip's size.

Such a file is neither unpacked nor loaded here, for Blender does that in one piece. Pixels are read out of a data-block
without changing it, so what is painted but unsaved counts too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import bpy
import numpy as np

from . import picture_files
from .captures import CaptureError
from .picture_files import PNG_MAGIC
from .protocol import MAX_BLOB_BYTES, ClipRequest
from .translations import tr

MAX_PIXELS = 8192 * 8192
BAND = 64  # rows of a picture that are worked on at a time, fewer of a wide one:
BAND_PIXELS = 64 * 1024
READ_BYTES = 1 << 20  # of a file at a time


class StillError(CaptureError):
    """A still can't be read: which one, why, and the remedy."""


def check(image: bpy.types.Image) -> None:
    """Raises StillError for an image without readable pixels or with too many. A file that isn't loaded yet is known by
    its head: a damaged one with a whole head is refused by the engine."""
    if image.type in ("RENDER_RESULT", "COMPOSITING"):
        raise StillError(
            tr("'{image}' can't be read directly; save it as a file and choose that.", image=image.name)
        )
    columns, rows = size(image)
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


def size(image: bpy.types.Image) -> tuple[int, int]:
    """(width, height) in pixels, (0, 0) where it can't be read. It is loaded only where its file does not tell."""
    if not image.has_data and (known := _head(image)) is not None:
        return known.width, known.height
    return tuple(image.size)


def from_image(image: bpy.types.Image, width: int, height: int) -> bytes:
    """The image as a PNG of width x height: scaled to cover, the middle kept, transparency over black.

    Byte images are taken as they are, float images (EXR, HDR) as linear light shown in the Standard view.
    Raises StillError for an image without readable pixels or with too many.
    """
    return b"".join(in_slices(lambda: image, width, height))


def in_slices(find: Callable[[], bpy.types.Image], width: int, height: int) -> Iterator[bytes]:
    """The bytes of `from_image`: nothing after each slice of work, and the whole file last. find: the image, which is
    looked for anew in each slice that needs it. Blender unpacks its file in one piece, and gives its pixels in one
    more: 5 ms for 2048 x 2048 of them, 22 ms for 4096 x 4096. Raises StillError."""
    check(find())
    image = find()
    columns, rows = image.size  # which loads it
    channels, is_linear = image.channels, image.is_float
    del image
    yield b""
    band = max(1, min(BAND, BAND_PIXELS // columns))
    pixels = np.empty((rows, columns, channels), np.float32)
    # Memory is handed out at the first writing, which costs as much as the reading itself.
    for first in range(0, rows, band):
        pixels[first : first + band] = 0.0
        yield b""
    image = find()
    if (*image.size, image.channels, image.is_float) != (columns, rows, channels, is_linear):
        raise StillError(
            tr("The still '{image}' was changed while it was read; generate again.", image=image.name)
        )
    image.pixels.foreach_get(pixels.ravel())
    del image
    yield b""
    pixels = pixels[::-1]  # Blender's first row is the lowest
    shown = np.empty((rows, columns, 3), np.float32)
    for first in range(0, rows, band):
        shown[first : first + band] = rgb(pixels[first : first + band], is_linear)
        yield b""
    packer, packed = zlib.compressobj(6), []
    band = max(8, min(BAND, 2 * band * height // rows))  # new rows, each of them out of several old ones
    for first in range(0, height, band):
        part = cover(shown, width, height, first, min(first + band, height))
        yield b""
        packed.append(packer.compress(_lines(np.rint(part * 255).astype(np.uint8))))
        yield b""
    packed.append(packer.flush())
    yield _head_of_png(width, height, 3) + _chunk(b"IDAT", b"".join(packed)) + _chunk(b"IEND", b"")


# --- files as they are ----------------------------------------------------------------------------


def _opened(image: bpy.types.Image) -> BinaryIO | None:
    """The file that an image shows; None where it shows none, or something else by now."""
    if image.source != "FILE" or image.is_dirty:
        return None
    if (packed := image.packed_file) is not None:
        return io.BytesIO(packed.data)
    try:
        return open(Path(bpy.path.abspath(image.filepath, library=image.library)), "rb")
    except OSError:
        return None


def _head(image: bpy.types.Image) -> picture_files.Head | None:
    if (file := _opened(image)) is None:
        return None
    try:
        with file:
            return picture_files.head(file.read(picture_files.HEAD_BYTES))
    except OSError:
        return None


def _goes_as_file(image: bpy.types.Image) -> bool:
    """Whether the engine, given the image's file, sees what Blender shows."""
    known = None if image.use_deinterlace or image.use_multiview else _head(image)
    if known is None or not known.is_plain or (known.has_alpha and image.alpha_mode != "STRAIGHT"):
        return False
    file = _opened(image)
    if file is None:
        return False
    with file:
        return file.seek(0, io.SEEK_END) <= MAX_BLOB_BYTES


def _file_in_slices(image: bpy.types.Image) -> Iterator[bytes]:
    """The image's file, piece by piece. Raises StillError where it can't be read."""
    name, path = image.name, image.filepath
    try:
        if (file := _opened(image)) is None:
            raise FileNotFoundError(path)
        del image
        with file:
            while piece := file.read(READ_BYTES):
                yield piece
    except OSError as error:
        raise StillError(
            tr("The still '{image}' can't be read ({error}); choose a picture file.", image=name, error=error)
        ) from error


@dataclass
class ImageCapture:
    """A `captures.Capture` of an image data-block, by its full name: it becomes the clip's reference still.

    width, height: of the clip. fitted: always as a PNG of that size. note: is shown the image when it is read.
    """

    image: str
    width: int
    height: int
    fitted: bool = False
    note: Callable[[bpy.types.Image], None] | None = field(default=None, repr=False)
    phase: str = "reading the still"
    done: int = 0
    total: int = 1
    _work: Iterator[None] | None = field(default=None, repr=False)
    _file: bytes = field(default=b"", repr=False)
    _sha256: str = ""

    def advance(self, deadline: float) -> bool:
        """Reads on until about `deadline`. Raises StillError."""
        if self._work is None:
            self._work = self._read()
        for _ in self._work:
            if time.perf_counter() >= deadline:
                return False
        self.done = int(bool(self._sha256))
        return bool(self._sha256)

    def _read(self) -> Iterator[None]:
        if self.note is not None:
            self.note(self._found())
            yield
        as_file = not self.fitted and _goes_as_file(self._found())
        slices = (
            _file_in_slices(self._found()) if as_file else in_slices(self._found, self.width, self.height)
        )
        pieces, summed = [], hashlib.sha256()
        for piece in slices:
            pieces.append(piece)
            summed.update(piece)
            yield
        self._file, self._sha256 = b"".join(pieces), summed.hexdigest()

    def _found(self) -> bpy.types.Image:
        image = next((each for each in bpy.data.images if each.name_full == self.image), None)
        if image is None:
            raise StillError(
                tr("The still '{image}' is no longer in this file; generate again.", image=self.image)
            )
        return image

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        """The request with the still named in it, and its bytes."""
        return dataclasses.replace(request, still=self._sha256), {self._sha256: self._file}

    def cancel(self) -> None:
        self._work = iter(())


# --- pixels ---------------------------------------------------------------------------------------


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
    yield _head_of_png(width, height, pixels.ndim)
    packer = zlib.compressobj(6)
    for first in range(0, height, rows):
        packed = packer.compress(_lines(pixels[first : first + rows]))
        if first + rows >= height:
            packed += packer.flush()
        yield _chunk(b"IDAT", packed) if packed else b""
    yield _chunk(b"IEND", b"")


def _head_of_png(width: int, height: int, ndim: int) -> bytes:
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
