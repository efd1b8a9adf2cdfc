"""`job.json` beside the frames of a take that is being made: with it a reopened Blender finds its job again.

Written as soon as a job is taken and removed when it has ended; so it lies there after a crash or an exit, and says how
far the job had come. `take_003.lock` beside the take is locked by the Blender that has the job, as long as that lives:
of two with the same file only one goes on with it.
"""

from __future__ import annotations

import enum
import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

import bpy

from .. import protocol
from ..clips import splice, takes
from ..protocol import ProtocolError
from ..translations import tr
from .jobs import Job, JobState


class Stage(enum.StrEnum):
    """How far a job has come. READING: from the scene. KEPT: all that it needs lies on the disk. GIVEN: the engine has
    it, or gets it."""

    READING = "reading"
    KEPT = "kept"
    GIVEN = "given"


def write(job: Job, stage: Stage) -> None:
    """Raises TakeError."""
    if job.lock is None:
        job.lock = lock(_lock_file(job.take))
    record = {
        "format": "musev.job", "version": 1, "job": job.id, "clip": job.clip, "scene": job.scene,
        "frame_start": job.start, "owner": job.owner, "blend": Path(job.blend_file).name,
        "request": json.loads(protocol.request_json(job.request)), "about": job.about,
        "stage": str(stage), "retry_of": job.retry_of,
    }  # fmt: skip
    takes.write_whole(job.take / takes.JOB, json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n")
    job.stage = stage


def remove(job: Job) -> None:
    """Raises TakeError."""
    takes.remove(job.take / takes.JOB)
    if job.lock is not None:
        release(job)  # first: Windows removes no file that is open
        takes.remove(_lock_file(job.take))


def release(job: Job) -> None:
    """Leaves a job to whichever Blender finds it next."""
    if job.lock is not None:
        os.close(job.lock)
        job.lock = None


def found(clips: Iterable[Path], owner: str, blend_file: str) -> list[Job]:
    """The jobs in these clips' folders that belong to this .blend, with the frames that they have so far: those begun
    under its name or, where no such file is beside it any more, by its owner. Left out is what another Blender has at
    work; what can't be read is no job."""
    jobs = []
    for clip in clips:
        for path in sorted(clip.glob(f"take_*/{takes.JOB}")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                if not _belongs(record, owner, blend_file) or (held := lock(_lock_file(path.parent))) is None:
                    continue
                jobs.append(job := _job(path.parent, record, blend_file))
                job.lock = held
            except (OSError, ValueError, KeyError, TypeError, ProtocolError) as error:
                print(f"MuseV: {path} can't be read, so its clip is not looked for: {error}")
    return jobs


def _belongs(record: dict, owner: str, blend_file: str) -> bool:
    begun_in = Path(blend_file).with_name(Path(str(record["blend"])).name or "untitled")
    renamed = bool(owner) and record["owner"] == owner and not begun_in.exists()
    return begun_in == Path(blend_file) or renamed


def _job(take: Path, record: dict, blend_file: str) -> Job:
    request = protocol.request_from_json(json.dumps(record["request"]))
    have = {k for k in range(request.frames_out) if takes.frame_file(take, k).exists()}
    about, stage = dict(record["about"]), Stage(record.get("stage", Stage.GIVEN))
    retry_of = record.get("retry_of")
    there = (takes.frame_file(take, k) for k in range(splice.num_frames(about, request.frames_out)))
    whole = (take / takes.SIDECAR).exists() and all(file.exists() for file in there)  # all but placed
    job = Job(
        id=str(record["job"]), clip=str(record["clip"]), scene=str(record["scene"]),
        start=int(record["frame_start"]), take=take, request=request, blobs={}, about=about,
        owner=str(record["owner"]), blend_file=blend_file, accepted=stage is Stage.GIVEN, have=have,
        state=JobState.READY if whole else JobState.HELD, phase="place" if whole else "queue",
        stage=stage, retry_of=str(retry_of) if retry_of else None,
    )  # fmt: skip
    if stage is Stage.KEPT:
        job.phase = ""  # it is handed over like a new one
    elif stage is Stage.READING:
        job.state, job.phase = JobState.FAILED, ""
        job.problem = tr("Blender was closed while it was still reading the scene for this clip.")
    return job


# --- one Blender a job ----------------------------------------------------------------------------


def lock(file: Path) -> int | None:
    """Locks a file, until it is closed or this Blender is gone, however it ends; None where another one has it. On a
    disk that knows no locks it counts as locked. Raises OSError where it can't be opened."""
    opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(opened, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            os.close(opened)
            return None
    return opened


def _lock_file(take: Path) -> Path:
    return take.with_name(f"{take.name}.lock")


# --- whose a job is -------------------------------------------------------------------------------

KEY = "musev_owner"


def owner() -> str:
    """The name under which this .blend's jobs are known to the engine; "" while it has none."""
    return next((str(scene[KEY]) for scene in bpy.data.scenes if scene.get(KEY)), "")


def keep_owner(name: str) -> None:
    """Keeps it in every scene, so that it is lost with none of them."""
    for scene in bpy.data.scenes:
        if scene.library is None and scene.get(KEY) != name:
            scene[KEY] = name
