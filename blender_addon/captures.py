"""What is read from the scene for a clip, in slices: poses, rendered pictures, strips.

A timer that may not wait drives them one after another, so each holds names and plain data, no Blender reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from .protocol import ClipRequest, Pictures, blob_sha256

BLOB_BYTES = 8 * 1024 * 1024  # of pictures in one blob: small enough to be packed and hashed within a tick


class CaptureError(ValueError):
    """Something can't be read from the scene: what was looked for, where, and what to do about it."""


class Capture(Protocol):
    """One reading. phase: what the panel says of it. done, total: frames read, and to read."""

    phase: str
    done: int
    total: int

    def advance(self, deadline: float) -> bool:
        """Reads on until about `deadline` (time.perf_counter's clock); True once everything is read.

        The artist's frame, selection, mode and undo steps are afterwards as they were. Raises CaptureError.
        """

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        """The request with what was read named in it, and the blobs by their sha256. Raises ProtocolError."""

    def cancel(self) -> None:
        """Puts back what was changed and removes what was written; also after an error, and after `finish`."""


def picture_blobs(width: int, height: int, files: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Whole PNG files of a width x height clip, in order -> (sha256, bytes) of each blob that holds some of them."""
    waiting: list[bytes] = []
    for file in files:
        if waiting and sum(map(len, waiting)) + len(file) > BLOB_BYTES:
            yield _named(Pictures.of(width, height, waiting))
            waiting = []
        waiting.append(file)
    if waiting:
        yield _named(Pictures.of(width, height, waiting))


def _named(pictures: Pictures) -> tuple[str, bytes]:
    blob = pictures.to_bytes()
    return blob_sha256(blob), blob
