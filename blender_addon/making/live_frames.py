"""A clip that is being made, as files: a picture for every frame of the finished take. Knows no `bpy`.

    <clip>/take_003.live/0001.png …             what is there of take_003, and what stays of another take
                         preview_0009.png …     previews, enlarged: each for the frames that it is nearest to

All are of the clip's size. The take itself holds true frames only.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from .. import provenance
from ..clips import takes
from ..clips.splice import Splice
from ..protocol import ClipRequest, Preview
from ..stills import PNG_MAGIC, png_size

EMPTY, GREY = "none_yet.png", (40, 40, 40)  # where there is no preview yet
BAND = 64  # rows of a picture that are packed at a time
NO_FILTER, FILTER_SUB, FILTER_UP, FILTER_AVERAGE = range(4)  # W3C PNG, third edition, section 9; 4 is Paeth's


class LiveFrames:
    """Made in slices: everything that comes is noted, and `advance` does it.

    have: the request's frames that are in `take` already; the others are told by `add`. names: the file in `folder` of
    each frame of the finished take. ready: they are all there. changes: counts what those who look should know.
    """

    def __init__(self, take: Path, request: ClipRequest, about: dict, have: Collection[int] = ()):
        self.folder = takes.live_folder(take)
        self.request, self.ready, self.has_picture, self.changes = request, False, bool(have), 0
        splice = Splice.of_job(about)
        if splice is None:
            self._sources = [takes.frame_file(take, frame) for frame in range(request.frames_out)]
            self._first, self._new = 0, range(request.frames_out)
        else:
            self._sources = splice.files(take, take.parent)
            self._first, self._new = splice.offset, range(splice.first_new, splice.last_new + 1)
        self.names = [EMPTY] * len(self._sources)
        self._true = {frame for frame in range(len(self.names)) if frame not in self._new}
        self._true |= {frame + self._first for frame in have} & set(self._new)
        self._to_link = sorted(self._true)
        fps, output_fps = request.rates  # of the generated frames, and of those of the take
        self._at = (np.arange(len(self._new)) + (self._new.start - self._first)) * float(fps / output_fps)
        self._previews: dict[int, bytes] = {}  # the newest of each generated frame
        self._unseen: dict[int, None] = {}  # whose newest is not on the disk yet, in order
        self._packet = provenance.packet(request.model, f"A preview, made with the model {request.model}.")
        self._work = self._begin()

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in self.names]

    def add(self, frame: int) -> None:
        """One of the request's frames is in the take now."""
        frame += self._first
        if frame in self._new:
            self._true.add(frame)
            self._to_link.append(frame)
            self.has_picture = True

    def preview(self, preview: Preview) -> None:
        """How a generated frame looks by now."""
        self._previews[preview.frame] = preview.data
        self._unseen[preview.frame] = None
        self.has_picture = True

    def advance(self, deadline: float) -> None:
        """Goes on until about `deadline` (time.perf_counter's clock) or until all that is known is done. Raises
        TakeError."""
        while time.perf_counter() < deadline:
            if next(self._work, True):
                if not self._unseen and not self._to_link:
                    return
                self._work = self._go_on()

    # Each of these gives False after a slice of work, and ends when it is done.

    def _begin(self) -> Iterator[bool]:
        takes.make_folder(self.folder)
        yield from self._write(EMPTY, np.full((1, 1, 3), GREY, np.uint8))
        yield from self._link()
        self.ready = True
        self.changes += 1

    def _go_on(self) -> Iterator[bool]:
        yield from self._link()
        if self._unseen:
            number = next(iter(self._unseen))
            del self._unseen[number]
            packed = unpacked(self._previews[number]) if self._shown_by(number) else None
            if packed is not None:
                pixels, kinds = packed
                for _ in unfiltered(pixels, kinds):
                    yield False
                name = f"preview_{number + 1:04d}.png"
                yield from self._write(name, pixels)
                for frame in self._shown_by(number):
                    self.names[frame] = name
                self.changes += 1

    def _link(self) -> Iterator[bool]:
        while self._to_link:
            frame = self._to_link.pop()
            file = takes.frame_file(self.folder, frame)
            if not file.exists():
                takes.link(self._sources[frame], file)
            self.names[frame] = file.name
            self.changes += 1
            yield False

    def _shown_by(self, number: int) -> list[int]:
        """The frames that aren't there yet and are nearest to a generated one, among those with a preview."""
        known = np.fromiter(self._previews, int)
        nearest = known[np.abs(self._at[:, None] - known).argmin(axis=1)]
        there = zip(self._new, nearest.tolist(), strict=True)
        return [frame for frame, near in there if near == number and frame not in self._true]

    def _write(self, name: str, pixels: np.ndarray) -> Iterator[bool]:
        pieces = []
        made = provenance.chunk(self._packet) if name != EMPTY else b""
        for piece in enlarged_png(pixels, self.request.width, self.request.height, made):
            pieces.append(piece)
            yield False
        takes.write_whole(self.folder / name, b"".join(pieces))


def sweep(folder: Path, deadline: float) -> bool:
    """Removes a folder of `LiveFrames` until about `deadline`; True once it is gone. Raises TakeError."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if time.perf_counter() >= deadline:
                    return False
                if entry.name.endswith((".png", ".part")):
                    takes.unlink(Path(entry.path))
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise takes.explained(error, folder) from error
    return True


# --- PNG ------------------------------------------------------------------------------------------


def unpacked(png: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """8-bit RGB PNG bytes, not interlaced -> uint8 (h, w, 3) and (h,): each row as it is stored, and by which filter;
    None for anything else."""
    size = png_size(png)
    if size is None or png[24:29] != bytes((8, 2, 0, 0, 0)) or size[0] * size[1] > 4096 * 4096:
        return None
    width, height = size
    packed, at = [], 8
    while at + 8 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            packed.append(png[at + 8 : at + 8 + length])
        at += 12 + length
    whole = height * (1 + 3 * width)
    try:
        raw = zlib.decompressobj().decompress(b"".join(packed), whole)
    except zlib.error:
        return None
    if len(raw) != whole:
        return None
    lines = np.frombuffer(raw, np.uint8).reshape(height, 1 + 3 * width)
    return lines[:, 1:].reshape(height, width, 3).copy(), lines[:, 0]


def unfiltered(rows: np.ndarray, kinds: np.ndarray) -> Iterator[None]:
    """Makes stored rows the picture's, in place and in slices. Quick where each is stored as it is or by differences to
    the left, as the engine's previews are."""
    by_left = kinds == FILTER_SUB
    rows[by_left] = np.cumsum(rows[by_left], axis=1, dtype=np.uint8)
    above = np.zeros_like(rows[0])
    for row, kind in zip(rows, kinds.tolist(), strict=True):
        if kind == FILTER_UP:
            row += above
        elif kind > FILTER_UP:
            _unfilter(row, above, kind)
            yield
        above = row
    yield


def _unfilter(row: np.ndarray, above: np.ndarray, kind: int) -> None:
    """One row by its differences to a mean of its neighbours, or to one of them (Paeth's)."""
    left = up_left = [0, 0, 0]
    whole = []
    for pixel, up in zip(row.tolist(), above.tolist(), strict=True):
        if kind == FILTER_AVERAGE:
            left = [(p + (a + b) // 2) & 255 for p, a, b in zip(pixel, left, up, strict=True)]
        else:
            left = [(p + _paeth(a, b, c)) & 255 for p, a, b, c in zip(pixel, left, up, up_left, strict=True)]
        up_left = up
        whole.append(left)
    row[:] = whole


def _paeth(a: int, b: int, c: int) -> int:
    """Which of left, above and above left is nearest to a + b - c (section 9.4)."""
    to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    return a if to_a <= to_b and to_a <= to_c else b if to_b <= to_c else c


def enlarged_png(pixels: np.ndarray, width: int, height: int, more: bytes = b"") -> Iterator[bytes]:
    """uint8 (h, w, 3) -> the pieces of a PNG file of width x height, its pixels repeated. more: a chunk of what else is
    told in it.

    A row that is the same as the one above is stored as no difference, which takes next to no time to pack.
    """
    rows, columns = np.arange(height) * len(pixels) // height, np.arange(width) * pixels.shape[1] // width
    is_new = np.diff(rows, prepend=-1) > 0

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    yield (
        PNG_MAGIC
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + more
        + chunk(b"sRGB", b"\0")
    )
    packer = zlib.compressobj(1)
    for first in range(0, height, BAND):
        new = is_new[first : first + BAND]
        lines = np.zeros((len(new), 1 + 3 * width), np.uint8)
        lines[~new, 0] = FILTER_UP
        lines[new, 1:] = pixels[rows[first : first + BAND][new]][:, columns].reshape(-1, 3 * width)
        packed = packer.compress(lines)
        if first + BAND >= height:
            packed += packer.flush()
        yield chunk(b"IDAT", packed) if packed else b""
    yield chunk(b"IEND", b"")
