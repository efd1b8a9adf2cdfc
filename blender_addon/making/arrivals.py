"""What comes back for a clip: its frames, each checked and written, and at their end what the take tells of itself."""

from __future__ import annotations

from collections.abc import Iterator

from ..clips import kept, reproduce, splice, takes
from ..protocol import Done, FrameReady, ProtocolError, Welcome
from ..stills import png_size
from .jobs import Job, JobState, sidecar


def keep_frame(job: Job, frame: FrameReady) -> None:
    """Writes a frame into the job's take. Raises ProtocolError for one that was not asked for, and TakeError."""
    size = (job.request.width, job.request.height)
    if frame.frame >= job.request.frames_out or png_size(frame.data) != size:
        raise ProtocolError(
            f"The engine sent no {size[0]} x {size[1]} PNG of frames 0 to {job.request.frames_out - 1}",
            f"frame {frame.frame}, size {png_size(frame.data)}", "Update the engine, and generate again.",
        )  # fmt: skip
    takes.write_frame(job.take, frame.frame, frame.data)
    job.have.add(frame.frame)
    if job.reproduces is not None and reproduce.differs(job.reproduces, frame.frame, frame.data):
        job.others.add(frame.frame)


def finish(job: Job, done: Done, welcome: Welcome | None) -> str:
    """The job is READY then: its take is to be made whole, and placed, unless there is nothing to place. Returns what
    there is to say of it. Raises ProtocolError where frames are missing, and TakeError."""
    missing = sorted(set(range(job.request.frames_out)) - job.have)
    if missing:
        raise ProtocolError(
            f"The engine says it is done, but {len(missing)} frames did not arrive",
            missing[:5],
            "Press Resume.",
        )
    if job.reproduces is not None:
        said = reproduce.verdict(job.reproduces, job.request, done, job.others)
        takes.discard(job.take)
        return said
    if job.request.result != "clip":  # pose pictures, to be looked at
        job.still = job.blobs.get(job.request.still or "")
        return ""
    job.finishing = _make_whole(job, done, welcome)
    job.state, job.phase = JobState.READY, "place"
    return ""


def _make_whole(job: Job, done: Done, welcome: Welcome | None) -> Iterator[None]:
    """In slices: what stays of another take, the inputs beside it, at last what the take tells. Raises TakeError."""
    yield from splice.joining(job.take, job.about)
    unkept = sorted(job.blobs.keys() & set(job.request.blobs))
    for sha256 in unkept:
        yield from kept.keeping(job.take.parent, sha256, job.blobs[sha256])
    sizes = {sha256: len(job.blobs[sha256]) for sha256 in unkept}
    job.about[kept.KEY] = job.about.get(kept.KEY, {}) | sizes
    takes.write_sidecar(job.take, sidecar(job, done, welcome))
