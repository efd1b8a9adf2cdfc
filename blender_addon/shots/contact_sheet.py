"""A contact sheet: a row for each shot, what was asked, what became of it, and a few of its frames.

Drawn a little at a time, for a timer that may not wait; one step reads at most one frame or writes one line of text.
Knows rows and files, not where they come from.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from .. import provenance, stills
from ..clips import takes
from ..translations import finished
from . import lettering

NUM_FRAMES = 6
ROWS = 40  # in one picture; what is more goes into another, that no picture outgrows what a GPU shows
MARGIN, GAP = 24, 8
TEXT = 400  # width of the words' column
PICTURE = 132  # height of a frame
NARROWEST, WIDEST = 76, 236  # widths of a frame
ROW, SHORT_ROW = PICTURE + 44, 150  # heights of a row: with frames, and without
HEADER = 92
BAND = 24  # rows of pixels that are packed at a step
REASON = 700  # width of the words where no frames are
BACK, STRIPE, EMPTY = (26, 26, 26), (36, 36, 36), (48, 48, 48)
BRIGHT, PLAIN, DIM = (238, 238, 238), (200, 200, 200), (140, 140, 140)
STATES = {  # of a row: the colour of its mark
    "done": (104, 196, 118), "failed": (240, 104, 92), "cancelled": DIM, "refused": (240, 146, 84),
    "waiting": (226, 178, 84),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One shot. state: of STATES. said: what became of it, in a few words. facts: seed, frames and so on. problem: why
    there is no clip. frames: the files of all of its frames; start: the timeline frame of the first."""

    title: str
    state: str
    said: str
    prompt: str = ""
    facts: str = ""
    problem: str = ""
    frames: Sequence[Path] = ()
    start: int = 1


def write(file: Path, title: str, said: str, rows: Sequence[Row]) -> Iterator[Path | None]:
    """Writes `file`, and `file_2` and so on where the rows need more than one; gives each file's path once it is
    written, and None at each step before. title, said: what stands above. With frames on it, it says in XMP by which
    models they were made. Raises TakeError.
    """
    parts = [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)] or [()]
    for number, part in enumerate(parts, 1):
        path = file if number == 1 else file.with_name(f"{file.stem}_{number}{file.suffix}")
        heading = title if len(parts) == 1 else f"{title}, {number} of {len(parts)}"
        pixels = yield from _drawn(heading, said, part)
        pieces = []
        for piece in stills.png_pieces(pixels, BAND):
            pieces.append(piece)
            yield None
        png = b"".join(pieces)
        if any(row.frames for row in part):
            packets = []
            for row in part:
                packets += [provenance.of_file(row.frames[number]) for number in chosen(len(row.frames))]
                yield None
            png = provenance.with_packet(png, provenance.joined(packets))
        takes.make_folder(path.parent)
        takes.write_whole(path, png)
        yield path


def chosen(count: int) -> list[int]:
    """Which of `count` frames are shown: the first, the last, and those evenly between; none of 0."""
    if not count:
        return []
    return [int(at) for at in np.rint(np.linspace(0, count - 1, min(count, NUM_FRAMES)))]


def _drawn(title: str, said: str, rows: Sequence[Row]) -> Generator[None, None, np.ndarray]:
    """Draws a little at each step; returns the picture, (h, w, 3) uint8."""
    sizes = [_frame_size(row) for row in rows]
    heights = [ROW if row.frames else SHORT_ROW for row in rows]
    widest = max((width * NUM_FRAMES + GAP * (NUM_FRAMES - 1) for width, _ in sizes), default=0)
    width = MARGIN + TEXT + MARGIN + max(widest, REASON) + MARGIN
    sheet = np.empty((HEADER + sum(heights) + MARGIN, width, 3), np.uint8)
    sheet[:HEADER] = sheet[-MARGIN:] = BACK
    for text, size, colour, top in ((title, 28, BRIGHT, 18), (said, 15, DIM, 56)):
        for part in lettering.wrapped(text, size, width - 2 * MARGIN, 1):
            _letter(sheet, part, size, colour, MARGIN, top)
            yield None
    top, left = HEADER, MARGIN + TEXT + MARGIN
    for number, (row, size, height) in enumerate(zip(rows, sizes, heights, strict=True)):
        sheet[top : top + height] = BACK if number % 2 else STRIPE
        sheet[top + 14 : top + height - 14, MARGIN - 10 : MARGIN - 5] = STATES[row.state]
        yield None
        yield from _words(sheet, row, top + 10)
        yield from _pictures(sheet, row, size, left, top + 12)
        for index, part in enumerate(lettering.wrapped(finished(row.problem), 15, REASON, 4)):
            _letter(sheet, part, 15, STATES[row.state], left, top + 14 + 22 * index)
            yield None
        top += height
    return sheet


def _words(sheet: np.ndarray, row: Row, top: int) -> Iterator[None]:
    """The left column: title, what became of it, prompt, facts."""
    for text, size, colour, lines in (
        (row.title, 19, BRIGHT, 1),
        (row.said, 14, STATES[row.state], 1),
        (row.prompt, 15, PLAIN, 3 if row.frames else 2),
        (row.facts, 13, DIM, 2),
    ):
        for part in lettering.wrapped(text, size, TEXT, lines):
            _letter(sheet, part, size, colour, MARGIN + 4, top)
            top += round(size * lettering.LINE) + 1
            yield None
        top += 3


def _pictures(sheet: np.ndarray, row: Row, size: tuple[int, int], left: int, top: int) -> Iterator[None]:
    width, height = size
    above = top + (PICTURE - height) // 2
    for number in chosen(len(row.frames)):
        place = sheet[above : above + height, left : left + width]
        place[:] = EMPTY
        if (pixels := _picture(row.frames[number], width, height)) is not None:
            place[:] = pixels
        _letter(sheet, str(row.start + number), 12, DIM, left, top + PICTURE + 3)
        left += width + GAP
        yield None


def _frame_size(row: Row) -> tuple[int, int]:
    """(width, height) in which this row's frames are shown: their own shape, within what a row has room for."""
    size = _png_size(row.frames[0]) if row.frames else None
    if size is None:
        return PICTURE, PICTURE
    width = min(max(round(PICTURE * size[0] / size[1]), NARROWEST), WIDEST)
    return width, max(1, min(PICTURE, round(width * size[1] / size[0])))


def _png_size(file: Path) -> tuple[int, int] | None:
    try:
        with open(file, "rb") as stream:
            return stills.png_size(stream.read(33))
    except OSError:
        return None


def _picture(file: Path, width: int, height: int) -> np.ndarray | None:
    """A PNG file scaled to (height, width, 3) uint8; None where it can't be read, and its place stays empty."""
    try:
        image = bpy.data.images.load(str(file))
    except RuntimeError:
        return None
    try:
        if not image.size[0]:
            return None
        image.scale(width, height)
        pixels = np.empty(width * height * image.channels, np.float32)
        image.pixels.foreach_get(pixels)
        pixels = stills.rgb(pixels.reshape(height, width, image.channels)[::-1], image.is_float)
        return np.rint(pixels * 255).astype(np.uint8)
    finally:
        bpy.data.images.remove(image)


def _letter(
    sheet: np.ndarray, text: str, size: float, colour: tuple[int, int, int], left: int, top: int
) -> None:
    """Writes one line over what is there, cut at the picture's edges."""
    place = sheet[top:, left:]
    covered = lettering.line(text, size)[: place.shape[0], : place.shape[1], None]
    place = place[: covered.shape[0], : covered.shape[1]]
    place[:] = np.rint(place + (np.array(colour) - place.astype(np.float32)) * covered)
