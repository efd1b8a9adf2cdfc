"""A model's file on its way from a client into the models folder: written as it comes, its header looked at as soon as
it is here; what there is of it when the client goes away stays, to be gone on with. What is done with it once it is
whole stands in `shelf`.
"""

from __future__ import annotations

import asyncio

from blender_addon.protocol import AddModel, ModelSlice, ProtocolError, SendModel


class Arrival:
    """One file. `wanted`: what was said of it; `received`: bytes; `ask`: what its client is asked for.

    Imports musev_engine's light parts when it is made, and takes as long as reading what came of it before. promised:
    bytes that other files on their way will take. Raises EngineError as `added.begin`, and "model_busy"."""

    def __init__(self, wanted: AddModel, promised: int = 0):
        from musev_engine import added, locks, registry

        self.wanted = wanted
        self._told = added.Wanted(
            wanted.id, wanted.suffix, wanted.size, wanted.role, wanted.title, wanted.licence, wanted.licence_url,
            wanted.commercial, wanted.stands_for,
        )  # fmt: skip
        self._lock = locks.hold(registry.models_folder(), wanted.id, "on its way to an engine")
        try:
            path = added.begin(self._told, promised)
            path.touch()
            # a last byte is always asked for: whoever sends it says what the whole should be
            self.received = min(path.stat().st_size, wanted.size - 1)
            self._file = path.open("r+b")
            self._file.truncate(self.received)
            sha256 = registry.sha256_of(path) if self.received else ""
        except BaseException:
            self._lock.close()
            raise
        self.ask = SendModel(wanted.id, self.received, sha256)
        self._begun = False
        self._looked = wanted.suffix != ".safetensors"

    async def add(self, piece: ModelSlice) -> bool:
        """Whether it is whole now. Raises ProtocolError where the slice doesn't continue it, EngineError as soon as the
        file turns out not to do, OSError if the disk does not take it; it is of no use then."""
        # It may begin otherwise than what is here.
        start = self.received if self._begun or piece.offset else 0
        end = start + len(piece.data)
        if piece.offset != start or end > self.wanted.size or not piece.data:
            raise ProtocolError(
                f"This slice does not continue the model's file at byte {self.received}", piece.offset,
                "Add the file again.", "bad_upload",
            )  # fmt: skip
        whole = end == self.wanted.size
        if whole and not piece.sha256:
            raise ProtocolError(
                "The last slice of a model's file says its sha256",
                "none",
                "Add the file again.",
                "bad_upload",
            )
        await asyncio.to_thread(self._write, start, piece.data)
        self._begun, self.received = True, end
        if whole:
            await asyncio.to_thread(self._end, piece.sha256)
        return whole

    def is_of(self, wanted: AddModel) -> bool:
        """Whether `wanted` may mean this very file."""
        same = self.wanted
        return (same.id, same.suffix, same.size) == (wanted.id, wanted.suffix, wanted.size)

    def keep(self) -> None:
        """No more comes for now: what is here stays, for whoever goes on with it."""
        self._file.close()
        self._lock.close()

    def drop(self) -> None:
        """Throw away what has come."""
        from musev_engine import added

        self._file.close()
        added.drop(self.wanted.id)
        self._lock.close()

    def _write(self, start: int, data: bytes) -> None:
        self._file.seek(start)
        if not self._begun:
            self._file.truncate()
        self._file.write(data)
        self._file.flush()  # an engine that is killed keeps it
        if not self._looked:
            self._look(start + len(data))

    def _look(self, here: int) -> None:
        """Check the header, once all of it is here."""
        from musev_engine import added, kinds

        self._file.seek(0)
        begin = self._file.read(8)
        if here >= 8 and here >= kinds.header_size(begin, self.wanted.size):
            self._file.seek(0)
            added.check_header(self._told, kinds.header_of(self._file, self.wanted.size).tensors)
            self._looked = True

    def _end(self, sha256: str) -> None:
        """It is whole: `added.settle`, in another process, holds the model next."""
        from musev_engine import added

        added.arrived(self._told, sha256)
        self.keep()
