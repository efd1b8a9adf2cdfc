"""The inputs of clips on their way: in memory until the engine has them, or on the disk beside the takes."""

from __future__ import annotations

from collections.abc import Iterable

from ..clips import kept
from .jobs import Job, JobState

HELD_BYTES = 256 * 2**20  # of inputs in memory, above which no further clip is read from the scene


def make_room(jobs: Iterable[Job], reading: Job) -> bool:
    """Whether the inputs of one more clip may be held in memory. Where not, an input of a clip that the engine has is
    kept on the disk already and forgotten here. Raises TakeError."""
    holders = [job for job in jobs if job is not reading and job.blobs]
    held = {sha256: len(blob) for job in holders for sha256, blob in job.blobs.items()}
    if sum(held.values()) <= HELD_BYTES:
        return True
    accepted = (j for j in holders if j.state in (JobState.QUEUED, JobState.RUNNING) and j.is_kept)
    if (job := next(accepted, None)) is not None:
        sha256 = next(iter(job.blobs))
        _keep(job, sha256)
        del job.blobs[sha256]
    return False


def keep_next(job: Job) -> bool:
    """Keeps one more of a job's inputs on the disk, for they may be large; True if all are there. Raises TakeError."""
    told = job.about.get(kept.KEY, {})
    missing = [sha256 for sha256 in job.request.blobs if sha256 in job.blobs and sha256 not in told]
    if missing:
        _keep(job, missing[0])
    return len(missing) <= 1


def read_next(job: Job) -> bool:
    """Reads one more of a job's kept inputs, for they may be large; True if all are in memory. Raises TakeError for one
    that is missing or was changed."""
    away = [sha256 for sha256 in job.request.blobs if sha256 not in job.blobs | job.fetched]
    job.fetched |= kept.read((job.reproduces or job.take).parent, away[:1])
    return len(away) <= 1


def forget(job: Job) -> None:
    """Removes what was kept for a clip that won't be made and that no other take of it needs. Raises TakeError."""
    if job.about.pop(kept.KEY, None):
        kept.prune(job.take.parent)


def _keep(job: Job, sha256: str) -> None:
    kept.keep(job.take.parent, sha256, job.blobs[sha256])
    job.about[kept.KEY] = job.about.get(kept.KEY, {}) | {sha256: len(job.blobs[sha256])}
