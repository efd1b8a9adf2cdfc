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
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bpy

from .. import protocol
from ..captures import Capture
from ..clips import kept
from ..protocol import ClipRequest, Done, Problem, Welcome


class JobState(enum.Enum):
    CAPTURING = "reading the scene"
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

    blobs: the inputs' bytes by sha256, dropped at the end. fetched: those from the disk, until the engine gets them.
    captures: what is still to be read from the scene, in order; each then names in `request` what it read. about: what
    `take.json` tells beyond request and engine.

    owner, place: for the engine's queue. like: a clip that reads the same scene just before; what it read serves this
    one too. retry_of: the job of the engine's store that this one repeats, whose inputs it still has. stage: what its
    `job.json` says of it; "" while there is none. lock: of `job_files`. scene_uid: Blender's number of its scene while
    the file is open, by which that is found once it is renamed; 0 until it was seen.
    """

    id: str
    clip: str
    scene: str
    start: int
    take: Path
    request: ClipRequest
    blobs: dict[str, bytes] = field(repr=False)
    fetched: dict[str, bytes] = field(default_factory=dict, repr=False)
    captures: list[Capture] = field(default_factory=list, repr=False)
    still: bytes | None = field(default=None, repr=False)  # of pose pictures, to be shown under them
    captured: bool = False  # whether the first of them is through
    about: dict = field(default_factory=dict)
    blend_file: str = ""
    file_number: int = 0  # which of the files opened in this Blender it belongs to
    state: JobState = JobState.CAPTURING
    phase: str = ""
    step: int = 0
    num_steps: int = 0
    eta_s: float | None = None  # of the whole clip where the engine knows, else of the phase
    owner: str = ""
    place: str = "back"
    like: Job | None = field(default=None, repr=False)
    retry_of: str | None = None
    accepted: bool = False  # by the engine, whatever became of it
    preview: Path | None = None  # a small PNG of how it looks while it is denoised
    have: set[int] = field(default_factory=set)
    finishing: Iterator[None] | None = field(default=None, repr=False)  # what makes its take whole, in slices
    reproduces: Path | None = None  # the take that it is compared with, and is thrown away for
    others: set[int] = field(default_factory=set)  # the frames that came out otherwise than there
    problem: str = ""
    cause: Problem | None = None  # the same as the engine said it, with its code
    resumable: bool = False  # failed on this side (say, the disk was full) while the engine has the clip
    strip: str = ""
    stage: str = ""
    lock: int | None = None
    scene_uid: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def has_inputs(self) -> bool:
        """Whether it can be given to an engine that doesn't know it, from memory or from what is kept on the disk."""
        there = self.blobs.keys() | self.about.get(kept.KEY, {})
        return not self.retry_of and set(self.request.blobs) <= there

    @property
    def is_kept(self) -> bool:
        """Whether its inputs are kept beside its take."""
        return self.request.result == "clip" and self.reproduces is None

    @property
    def was_unread(self) -> bool:
        """Whether an earlier Blender had not yet read from the scene what it needs."""
        return self.state is JobState.FAILED and self.stage == "reading" and self.lock is not None

    @property
    def retriable(self) -> bool:
        """Whether the engine failed at it, and so has all that is needed to try again."""
        return self.state is JobState.FAILED and self.accepted and not self.resumable and not self.reproduces

    def again(self, take: Path) -> Job:
        """The same clip as a new job, made from what the engine still has of this one."""
        return Job(
            str(uuid.uuid4()), self.clip, self.scene, self.start, take, self.request, {}, about=self.about,
            blend_file=self.blend_file, file_number=self.file_number, owner=self.owner, retry_of=self.id,
            state=JobState.HELD,
        )  # fmt: skip

    def capture(self, deadline: float) -> None:
        """Reads on from the scene until about `deadline`, or, once a capture is through, takes what it read: packing
        that is a slice of its own. Raises CaptureError and ProtocolError."""
        now = self.captures[0]
        if not self.captured:
            self.captured = now.advance(deadline)
            self.phase, self.step, self.num_steps = now.phase, now.done, now.total
            return
        self.captured = False
        self.request, blobs = now.finish(self.request)
        self.blobs |= blobs
        now.cancel()
        del self.captures[0]
        if not self.captures:
            self.state, self.phase, self.step, self.num_steps = JobState.HELD, "", 0, 0

    def share_capture(self) -> None:
        """Takes what the clip before has just read, where it got through; else reads by itself."""
        before, self.like = self.like, None
        if before is None or before.ended or before.state is JobState.CAPTURING:
            return
        self.stop_capturing()
        self.request = dataclasses.replace(before.request, seed=self.request.seed)
        self.blobs, self.about = dict(before.blobs), dict(before.about)
        self.state, self.phase, self.step, self.num_steps = JobState.HELD, "", 0, 0

    def stop_capturing(self) -> None:
        """Puts back what the captures changed, and forgets them."""
        while self.captures:
            self.captures.pop(0).cancel()


def sidecar(job: Job, done: Done, welcome: Welcome | None) -> dict:
    """What `take.json` says of a finished clip: enough to make it again, and to know under which licence it
    stands.
    """
    request = dataclasses.asdict(job.request)
    manifest = tomllib.loads(
        (Path(__file__).parents[1] / "blender_manifest.toml").read_text(encoding="utf-8")
    )
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
