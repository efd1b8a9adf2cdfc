"""`job.json` beside the frames of a take that is being made: with it a reopened Blender finds its job again.

Written when a job is given to the engine, removed when it has ended; so it lies there after a crash or an exit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import bpy

from . import protocol, splice, takes
from .jobs import Job, JobState
from .protocol import ProtocolError


def write(job: Job) -> None:
    """Raises TakeError."""
    record = {
        "format": "musev.job", "version": 1, "job": job.id, "clip": job.clip, "scene": job.scene,
        "frame_start": job.start, "owner": job.owner, "blend": Path(job.blend_file).name,
        "request": json.loads(protocol.request_json(job.request)), "about": job.about,
    }  # fmt: skip
    takes.write_whole(job.take / takes.JOB, json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n")


def remove(job: Job) -> None:
    """Raises TakeError."""
    takes.remove(job.take / takes.JOB)


def found(clips: Iterable[Path], owner: str, blend_file: str) -> list[Job]:
    """The jobs in these clips' folders that belong to this .blend, with the frames that they have so far: those begun
    under its name or, where no such file is beside it any more, by its owner. What can't be read is no job."""
    jobs = []
    for clip in clips:
        for path in sorted(clip.glob(f"take_*/{takes.JOB}")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                jobs.append(_job(path.parent, record, owner, blend_file))
            except (OSError, ValueError, KeyError, TypeError, ProtocolError) as error:
                print(f"MuseV: {path} can't be read, so its clip is not looked for: {error}")
    return [job for job in jobs if job is not None]


def _job(take: Path, record: dict, owner: str, blend_file: str) -> Job | None:
    begun_in = Path(blend_file).with_name(Path(str(record["blend"])).name or "untitled")
    renamed = bool(owner) and record["owner"] == owner and not begun_in.exists()
    if begun_in != Path(blend_file) and not renamed:
        return None
    request = protocol.request_from_json(json.dumps(record["request"]))
    have = {k for k in range(request.frames_out) if takes.frame_file(take, k).exists()}
    about = dict(record["about"])
    there = (takes.frame_file(take, k) for k in range(splice.num_frames(about, request.frames_out)))
    whole = (take / takes.SIDECAR).exists() and all(file.exists() for file in there)  # all but placed
    return Job(
        id=str(record["job"]), clip=str(record["clip"]), scene=str(record["scene"]),
        start=int(record["frame_start"]), take=take, request=request, blobs={}, about=about,
        owner=str(record["owner"]), blend_file=blend_file, accepted=True, have=have,
        state=JobState.READY if whole else JobState.HELD, phase="place" if whole else "queue",
    )  # fmt: skip


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
