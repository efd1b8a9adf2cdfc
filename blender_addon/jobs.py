"""A clip on its way from the settings to the timeline: what it is, where it stands, what `take.json` tells.

    CAPTURING → HELD → WAITING → QUEUED → RUNNING → READY → DONE | FAILED | CANCELLED
                  ↖────── connection lost ─────┘

Plain data and names; no Blender reference outlives a tick here.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import bpy

from . import protocol
from .pose import Capture
from .protocol import ClipRequest, Done, PoseTrack, Welcome


class JobState(enum.Enum):
    CAPTURING = "reading poses"
    WAITING = "sending"
    QUEUED = "queued"
    RUNNING = "running"
    HELD = "waiting for the engine"
    READY = "placing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


IN_ENGINE = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)
ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass
class Job:
    """One clip on its way. start: the timeline frame of its first frame. take: the folder its frames go to.

    blobs: the inputs' bytes by sha256, dropped at the end. capture: what is still to be read from the
    rig; its poses then replace the stand-in in `request`. about: what `take.json` tells beyond request
    and engine.
    """

    id: str
    clip: str
    scene: str
    start: int
    take: Path
    request: ClipRequest
    blobs: dict[str, bytes]
    capture: Capture | None = None
    reads_still_pose: bool = False  # the capture's last frame is the still's
    about: dict = field(default_factory=dict)
    blend_file: str = ""
    file_number: int = 0  # which of the files opened in this Blender it belongs to
    state: JobState = JobState.CAPTURING
    phase: str = ""
    step: int = 0
    num_steps: int = 0
    eta_s: float | None = None
    have: set[int] = field(default_factory=set)
    problem: str = ""
    resumable: bool = False  # failed on this side (say, the disk was full) while the engine has the clip
    strip: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def finish_capture(self) -> None:
        """The poses are read: they become an input of the clip, and the request names them. Raises
        ProtocolError.
        """
        points = [frame.astype("<f4").tobytes() for frame in self.capture.read]
        still_pose = points.pop() if self.reads_still_pose else None
        request, people = self.request, len(self.capture.people)
        track = PoseTrack(
            request.width, request.height, request.fps, len(points), people, b"".join(points), still_pose
        ).to_bytes()
        sha256 = protocol.blob_sha256(track)
        self.blobs[sha256] = track
        self.request = dataclasses.replace(request, poses=sha256)
        self.capture, self.state, self.step, self.num_steps = None, JobState.HELD, 0, 0


def sidecar(job: Job, done: Done, welcome: Welcome | None) -> dict:
    """What `take.json` says of a finished clip: enough to make it again, and to know under which licence it
    stands.
    """
    request = dataclasses.asdict(job.request)
    manifest = tomllib.loads((Path(__file__).parent / "blender_manifest.toml").read_text(encoding="utf-8"))
    return {
        "format": "musev.take", "version": 1, "clip": job.clip, "job": job.id,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "request": request, "seed": job.request.seed, "frame_start": job.start,
        "inputs": {"still": job.request.still, "poses": job.request.poses} | job.about,
        "model": {"name": job.request.model, "sha256": done.model_sha256, "licence": done.model_licence},
        "engine": {
            "version": done.engine_version, "device": done.device, "peak_memory_mb": done.peak_memory_mb,
            "protocol_version": welcome.protocol_version if welcome else protocol.PROTOCOL_VERSION,
            "seconds": {time.phase: time.seconds for time in done.phases},
        },
        "extension_version": manifest["version"], "blender_version": bpy.app.version_string,
    }  # fmt: skip
