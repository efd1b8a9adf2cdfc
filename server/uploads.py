"""The inputs of clips on disk, by their sha256, and how they come there: slices become whole, checked files."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from blender_addon.protocol import BlobSlice, ClipRequest, ProtocolError

MAX_INPUT_BYTES = 32 * 2**30  # of all on disk: some hours of pictures
MAX_INPUTS = 100_000  # files
IN_USE_S = 3600.0  # an input that was named or sent this lately stays


class Inputs:
    """Those in a state folder. needed: asked for those that jobs which have not ended will read."""

    def __init__(self, state: Path, needed: Callable[[], set[str]]):
        self.folder, self.incoming = state / "blobs", state / "incoming"
        self._needed = needed
        shutil.rmtree(self.incoming, ignore_errors=True)  # uploads that were cut off
        for part in (self.folder, self.incoming):
            part.mkdir(mode=0o700, exist_ok=True)
        self._count()

    def missing(self, request: ClipRequest) -> tuple[str, ...]:
        """Those that must be sent. The others count as used now."""
        missing = []
        for sha256 in request.blobs:
            try:
                os.utime(self.folder / sha256)
            except FileNotFoundError:
                missing.append(sha256)
        return tuple(missing)

    def make_room(self, size: int) -> None:
        """See that the inputs stay under MAX_INPUT_BYTES with `size` bytes more, and under MAX_INPUTS: those go that
        were not used of late and that no job waits for, longest unused first.

        Raises ProtocolError, code "inputs_full", where that is not enough.
        """
        if self._fits(size):
            return
        needed, late = self._needed(), time.time() - IN_USE_S
        for used_at, bytes_held, path in sorted(self._files()):
            if used_at < late and path.name not in needed and not self._fits(size):
                path.unlink()
                self._bytes, self._number = self._bytes - bytes_held, self._number - 1
        if not self._fits(size):
            raise ProtocolError(
                f"The engine keeps at most {MAX_INPUT_BYTES / 2**30:.0f} GiB of inputs on its disk, in {MAX_INPUTS:,}",
                f"{(self._bytes + size) / 2**30:.1f} GiB in {self._number + 1:,}",
                "Wait for the clips before, cancel some, or use fewer frames, a smaller size or fewer controls.",
                "inputs_full",
            )

    def forget(self, before: float, needed: set[str]) -> None:
        """Delete those that were last used before a time, in seconds since 1970, unless they are needed."""
        for used_at, _, path in self._files():
            if path.name not in needed and used_at < before:
                path.unlink()
        self._count()

    def keep(self, arrived: Path, sha256: str) -> None:
        """Take a file that has come whole."""
        self._bytes, self._number = self._bytes + arrived.stat().st_size, self._number + 1
        os.replace(arrived, self.folder / sha256)

    def _fits(self, size: int) -> bool:
        return self._bytes + size <= MAX_INPUT_BYTES and self._number < MAX_INPUTS

    def _files(self) -> list[tuple[float, int, Path]]:
        """(last used at, bytes, path) of each."""
        return [(path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.iterdir()]

    def _count(self) -> None:
        sizes = [size for _, size, _ in self._files()]
        self._bytes, self._number = sum(sizes), len(sizes)


class Upload:
    """One input as it arrives, slice by slice, in a file that gets its name only when the sha256 is right.

    Raises ProtocolError where there is no room for it."""

    def __init__(self, inputs: Inputs, first: BlobSlice):
        inputs.make_room(first.size)
        self.sha256, self._size, self._received = first.sha256, first.size, 0
        self._hash = hashlib.sha256()
        self._inputs, self._path = inputs, inputs.incoming / uuid.uuid4().hex
        self._file = self._path.open("wb")

    def add(self, piece: BlobSlice) -> bool:
        """Whether the input is now whole and stored. Raises ProtocolError (and drops the upload) if the slice
        does not continue it, or the whole is not what its name says; OSError if the disk does not take it."""
        end = self._received + len(piece.data)
        if (piece.sha256, piece.size, piece.offset) != (
            self.sha256,
            self._size,
            self._received,
        ) or end > self._size:
            self.drop()
            raise ProtocolError(
                f"This slice does not continue the upload at byte {self._received}",
                piece.offset,
                "Send the blob again from its beginning, in order.",
                "bad_upload",
            )
        try:
            self._file.write(piece.data)
            self._hash.update(piece.data)
            self._received = end
            if end < self._size:
                return False
            self._file.close()
        except OSError:
            self.drop()
            raise
        if self._hash.hexdigest() != self.sha256:
            self.drop()
            raise ProtocolError(
                "The blob is not what its sha256 says", self.sha256, "Send it again.", "bad_upload"
            )
        self._inputs.keep(self._path, self.sha256)
        return True

    def drop(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()
