"""What goes to the engine in slices: inputs of clips that it lacks, and models' files. Knows no socket and no `bpy`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import BinaryIO

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
    Submit,
)


class Uploads:
    """Of one connection. said: what we say in the engine's name, to be told with what it says itself. files: of models,
    by their ids."""

    def __init__(self):
        self.said: list[Message] = []
        self.files: dict[str, tuple[BinaryIO, Iterator[ModelSlice]]] = {}
        self.close()

    def close(self) -> None:
        """Forgets everything; models' files are closed."""
        self._submitted: dict[str, tuple[Submit, Mapping[str, bytes]]] = {}
        self._inputs: deque[tuple[str, Iterator[Message]]] = deque()  # of jobs
        self._sent: set[tuple[str, str]] = set()  # (job, sha256)
        self._problem: Problem | None = None  # why the engine did not take an input
        for id in list(self.files):
            self.end_file(id)

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

    def add_model(self, wanted: AddModel, file: BinaryIO) -> None:
        """Sends an open file of `wanted.size` bytes after everything else, and closes it."""
        self.end_file(wanted.id)
        self.files[wanted.id] = file, _slices(wanted, file)

    def end_file(self, id: str) -> None:
        if id in self.files:
            self.files.pop(id)[0].close()

    def next(self) -> Message | None:
        """The next slice: inputs before models' files."""
        message = None
        while message is None and self._inputs:
            message = next(self._inputs[0][1], None)
            if message is None:
                self._inputs.popleft()
        while message is None and self.files:
            message = self._next_of_file(next(iter(self.files)))
        return message

    def _next_of_file(self, id: str) -> Message | None:
        """None after the last. Where the file can't be read on, the engine is told to forget it, and we refuse in its
        name."""
        try:
            piece = next(self.files[id][1], None)
        except OSError as error:
            remedy = "See that the file stays where it is, and add it again."
            problem = Problem("file_error", f"The file can't be read: {error.strerror or error}", id, remedy)
            self.said.append(Refused(problem, model=id))
            piece = CancelModel(id)
        if not isinstance(piece, ModelSlice):
            self.end_file(id)
        return piece

    def take(self, message: Message) -> Message:
        """What the engine said -> the same, or what we say in its name: asked for inputs, their upload begins; asked
        for what was just sent, we refuse."""
        match message:
            case NeedBlobs(job) if job in self._submitted:
                return self._begin(message)
            case ModelProgress(id) if message.state in ("failed", "cancelled"):
                self.end_file(id)
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


def _slices(wanted: AddModel, file: BinaryIO) -> Iterator[ModelSlice]:
    """The file in slices. Raises OSError where it can't be read, or isn't as long as it was."""
    offset = 0
    while offset < wanted.size:
        data = file.read(min(protocol.SLICE_BYTES, wanted.size - offset))
        if not data:
            raise OSError(f"it ends after {offset:,} of {wanted.size:,} bytes")
        yield ModelSlice(wanted.id, offset, data)
        offset += len(data)
