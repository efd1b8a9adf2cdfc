"""Inputs on their way into the job store: slices become whole, checked files."""

from __future__ import annotations

import hashlib
import os
import uuid
from typing import TYPE_CHECKING

from blender_addon.protocol import BlobSlice, ProtocolError

if TYPE_CHECKING:
    from server.jobs import JobStore


class Upload:
    """One blob as it arrives, slice by slice, in a file that gets its name only when the sha256 is right.

    Raises ProtocolError where the store has no room for it."""

    def __init__(self, store: JobStore, first: BlobSlice):
        store.make_room(first.size)
        self.sha256, self._size, self._received = first.sha256, first.size, 0
        self._hash = hashlib.sha256()
        self._store, self._path = store, store.incoming / uuid.uuid4().hex
        self._file = self._path.open("wb")

    def add(self, piece: BlobSlice) -> bool:
        """Whether the blob is now whole and stored. Raises ProtocolError (and drops the upload) if the slice
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
        os.replace(self._path, self._store.blobs / self.sha256)
        return True

    def drop(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
