"""What goes to the engine in slices: inputs of clips that it lacks, and models' files. Knows no socket and no `bpy`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import protocol
from .protocol import (
    Accepted,
    AddModel,
    BlobSlice,
    Cancelled,
    CancelModel,
    Message,
    ModelProgress,
    ModelSlice,
    NeedBlobs,
    Problem,
    ProtocolError,
    Refused,
    SendModel,
    Submit,
)

COMPARED_BYTES = 512 * 1024  # of a file's beginning, at a time


class Uploads:
    """said: what we say in the engine's name, to be told with what it says itself. files: of models, by their ids; they
    outlive the connection, and go on with the next one."""

    def __init__(self):
        self.said: list[Message] = []
        self.files: dict[str, ModelFile] = {}
        self.close()

    def close(self) -> None:
        """The connection is gone: forgets clips' inputs, and closes models' files."""
        self._submitted: dict[str, tuple[Submit, Mapping[str, bytes]]] = {}
        self._inputs: deque[tuple[str, Iterator[Message]]] = deque()  # of jobs
        self._sent: set[tuple[str, str]] = set()  # (job, sha256)
        self._problem: Problem | None = None  # why the engine did not take an input
        self._words: deque[Message] = deque()  # about files that can't be read
        for file in self.files.values():
            file.close()

    @property
    def inputs_wait(self) -> bool:
        return bool(self._inputs)

    def submit(self, wanted: Submit, blobs: Mapping[str, bytes]) -> None:
        """Remembers a clip's inputs until the engine has taken it. Raises ProtocolError where one is missing or too
        large."""
        for sha256 in wanted.request.blobs:
            if sha256 not in blobs:
                raise ProtocolError(
                    "An input of the clip is missing", sha256, "Give its bytes.", "missing_blob"
                )
            if not 0 < len(blobs[sha256]) <= protocol.MAX_BLOB_BYTES:
                raise ProtocolError(
                    f"An input has 1 to {protocol.MAX_BLOB_BYTES} bytes",
                    len(blobs[sha256]),
                    "Use a smaller picture or fewer frames.",
                    "blob_too_large",
                )
        self._submitted[wanted.job] = (wanted, blobs)

    def forget(self, job: str) -> None:
        self._submitted.pop(job, None)
        self._inputs = deque(each for each in self._inputs if each[0] != job)

    def add_model(self, wanted: AddModel, path: Path) -> None:
        """Remembers a file of `wanted.size` bytes, which goes after everything else once the engine asks for it."""
        self.end_file(wanted.id)
        self.files[wanted.id] = ModelFile(wanted, path)

    def end_file(self, id: str) -> None:
        if id in self.files:
            self.files.pop(id).close()

    def compare(self) -> bool:
        """Reads some of a file of which the engine has the beginning; whether there was any to read."""
        file = next((file for file in self.files.values() if file.comparing), None)
        if file is not None:
            try:
                file.compare()
            except OSError as error:
                self._lose(file, error)
        return file is not None

    def next(self) -> Message | None:
        """The next slice: inputs before models' files."""
        message = self._words.popleft() if self._words else None
        while message is None and self._inputs:
            message = next(self._inputs[0][1], None)
            if message is None:
                self._inputs.popleft()
        file = next((file for file in self.files.values() if file.sending), None)
        if message is None and file is not None:
            try:
                message = file.slice()
            except OSError as error:
                self._lose(file, error)
                message = self._words.popleft()
        return message

    def _lose(self, file: ModelFile, error: OSError) -> None:
        """A file can't be read on: the engine is told to forget it, and we refuse in its name."""
        id, remedy = file.wanted.id, "See that the file stays where it is, and add it again."
        problem = Problem("file_error", f"The file can't be read: {error.strerror or error}", id, remedy)
        self.said.append(Refused(problem, model=id))
        self._words.append(CancelModel(id))
        self.end_file(id)

    def take(self, message: Message) -> Message:
        """What the engine said -> the same, or what we say in its name: asked for inputs, their upload begins; asked
        for what was just sent, we refuse."""
        match message:
            case NeedBlobs(job) if job in self._submitted:
                return self._begin(message)
            case SendModel(id) if id in self.files:
                try:
                    self.files[id].open(message)
                except OSError as error:
                    self._lose(self.files[id], error)
            case ModelProgress(id, state="done"):
                self.end_file(id)
            case ModelProgress(id, state="failed" | "cancelled") if id in self.files and self.files[id].asked:
                self.end_file(id)  # otherwise it is told of the connection before
            case Refused() if message.model:
                self.end_file(message.model)
            case Refused() if message.job is None and self._submitted:
                self._problem = message.problem
            case Accepted() | Refused() | Cancelled() if message.job:
                self.forget(message.job)
        return message

    def _begin(self, need: NeedBlobs) -> Message:
        wanted, blobs = self._submitted[need.job]
        sent_already = [sha256 for sha256 in need.blobs if (need.job, sha256) in self._sent]
        unknown = [sha256 for sha256 in need.blobs if sha256 not in blobs]
        if sent_already or unknown:
            self.forget(need.job)
            unsaid = Problem(
                "upload_failed",
                "The engine could not keep an input of the clip",
                (sent_already + unknown)[0],
                "Generate again; see the engine's log.",
            )
            return Refused(self._problem or unsaid, need.job)
        self._problem = None
        self._sent.update((need.job, sha256) for sha256 in need.blobs)
        self._inputs.append((need.job, _inputs(need, wanted, blobs)))
        return need


def _inputs(need: NeedBlobs, wanted: Submit, blobs: Mapping[str, bytes]) -> Iterator[Message]:
    """The missing inputs in slices, and the job once more."""
    for sha256 in need.blobs:
        data = blobs[sha256]
        for offset in range(0, len(data), protocol.SLICE_BYTES):
            yield BlobSlice(sha256, offset, len(data), data[offset : offset + protocol.SLICE_BYTES])
    yield wanted


class ModelFile:
    """A model's file on its way: asked for, compared as far as the engine has it already, then sent in slices.

    asked: whether it was, on this connection. comparing, sending: which of these there is to do. at: bytes that are
    compared or sent. Its methods raise OSError where the file can't be read, isn't as long as it was, or
    changes while it is sent."""

    def __init__(self, wanted: AddModel, path: Path):
        self.wanted, self._path, self._file = wanted, path, None
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._ask = None, SendModel(self.wanted.id)
        self.asked = self.comparing = self.sending = False
        self.at = 0

    def open(self, ask: SendModel) -> None:
        """Begin with what the engine asks for."""
        self.close()
        self.wanted = dataclasses.replace(self.wanted, sha256="")
        self._ask, self._file, self.asked = ask, self._path.open("rb"), True
        self._opened = self._stamp()
        self._begin()
        self.comparing, self.sending = ask.offset > 0, ask.offset == 0

    def compare(self) -> None:
        """Read on in what the engine has; once that is read, slices follow it, or begin anew if it isn't the same."""
        self._read(min(COMPARED_BYTES, self._ask.offset - self.at))
        if self.at == self._ask.offset:
            if self._hash.hexdigest() != self._ask.sha256:
                self._begin()
            self.comparing, self.sending = False, True

    def slice(self) -> ModelSlice:
        offset, size = self.at, self.wanted.size
        data = self._read(min(protocol.SLICE_BYTES, size - offset))
        whole = self.at == size
        if whole and self._stamp() != self._opened:
            raise OSError("it has changed while it was sent")
        if whole:  # should the connection end before we are told, the engine can say that it has it
            self.wanted = dataclasses.replace(self.wanted, sha256=self._hash.hexdigest())
        self.sending = not whole
        return ModelSlice(self.wanted.id, offset, data, self.wanted.sha256)

    def _begin(self) -> None:
        self._file.seek(0)
        self.at, self._hash = 0, hashlib.sha256()

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if not data:
            raise OSError(f"it ends after {self.at:,} of {self.wanted.size:,} bytes")
        self.at += len(data)
        self._hash.update(data)
        return data

    def _stamp(self) -> tuple[int, int]:
        told = os.fstat(self._file.fileno())
        return told.st_size, told.st_mtime_ns
