"""A model's file on its way from a client into the models folder: written as it comes, its header looked at as soon as
it is here. What is done with it once it is whole stands in `shelf`.
"""

from __future__ import annotations

import asyncio

from blender_addon.protocol import AddModel, ModelSlice, ProtocolError


class Arrival:
    """One file. `wanted`: what was said of it; `received`: bytes.

    Imports musev_engine's light parts when it is made, and takes as long as looking into some folders. Raises
    EngineError as `added.begin`."""

    def __init__(self, wanted: AddModel):
        from musev_engine import added

        self.wanted, self.received = wanted, 0
        self._told = added.Wanted(
            wanted.id, wanted.suffix, wanted.size, wanted.role, wanted.title, wanted.licence, wanted.licence_url,
            wanted.commercial, wanted.stands_for,
        )  # fmt: skip
        self._file = added.begin(self._told).open("wb")
        self._begin: bytearray | None = bytearray() if wanted.suffix == ".safetensors" else None

    async def add(self, piece: ModelSlice) -> bool:
        """Whether it is whole now. Raises ProtocolError where the slice doesn't continue it, EngineError as soon as the
        file turns out not to do, OSError if the disk does not take it; it is of no use then."""
        end = self.received + len(piece.data)
        if piece.offset != self.received or end > self.wanted.size or not piece.data:
            raise ProtocolError(
                f"This slice does not continue the model's file at byte {self.received}", piece.offset,
                "Add the file again.", "bad_upload",
            )  # fmt: skip
        await asyncio.to_thread(self._file.write, piece.data)
        self.received = end
        if self._begin is not None:
            self._begin += piece.data
            await asyncio.to_thread(self._look)
        if end == self.wanted.size:
            await asyncio.to_thread(self._file.close)
        return end == self.wanted.size

    def drop(self) -> None:
        """Throw away what has come."""
        from musev_engine import added

        self._file.close()
        added.drop(self.wanted.id)

    def _look(self) -> None:
        """Check the header, once all of it is here."""
        from musev_engine import added, kinds

        if len(self._begin) < 8:
            return
        size = kinds.header_size(self._begin, self.wanted.size)
        if len(self._begin) >= size:
            header = kinds.read_header(bytes(self._begin[:size]), self.wanted.size)
            added.check_header(self._told, header.tensors)
            self._begin = None
