"""How long a clip will take, how much memory, and what would make it fit.

What the work of a clip is, phase by phase, is told here; what such work costs on this machine is learned
(`measures`) and, before the first clip, guessed from the tables below.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from blender_addon.protocol import (
    SIZE_STEP,
    Change,
    ClipRequest,
    Done,
    Estimate,
    PhaseTime,
    Progress,
    ProtocolError,
    Remedy,
)
from server.doctor import memory
from server.measures import Measures, Work, cost_of, fitted

MEMORY = "memory"  # kept beside the phases
NET_SHARE = 0.4  # of a prediction's cost that a ControlNet adds: it is the UNet's encoder half
DECODED_AT_ONCE = 1.05  # megapixels, see `musev_engine.frames`
SPARE = 0.95  # of the free memory, that a clip may take
LEAST_SIDE, LEAST_WINDOW = 64, 4  # pixels, frames
SMI_S = 5.0  # what it may take
SMI = ("nvidia-smi", "--format=csv,noheader,nounits")


class Prior(NamedTuple):
    """What is guessed of a kind of model on a kind of device before the first clip: seconds, and megabytes.

    step: of a call, of a megapixel-frame, and of that times its megapixels (attention). decode: of a frame, and so on.
    """

    load: Work
    prepare: Work
    step: Work
    decode: Work
    draw: Work
    memory: Work


# Of the embedded model: measured on a core of a server; on a GPU guessed. Of the others: counted, for a processor of
# 0.3 and a GPU of 30 teraflops; memory as MuseV's README tells it for 512 x 512 x 12 frames, twice that on a CPU.
PRIORS = {
    ("mini", "cpu"): Prior(
        (5.0,), (0.03, 2.0), (0.024, 0.5, 5.3), (0.002, 1.6, 7.0), (0.2,), (1200.0, 300.0, 500.0, 5.0)
    ),
    ("mini", "cuda"): Prior(
        (8.0,), (0.1, 0.3), (0.02, 0.02, 0.02), (0.002, 0.2, 0.2), (0.2,), (300.0, 300.0, 500.0, 0.1)
    ),
    ("", "cpu"): Prior(
        (60.0,), (5.0, 30.0), (0.1, 10.0, 8.0), (0.02, 30.0, 1.5), (0.2,), (13e3, 1900.0, 2000.0, 10.0)
    ),
    ("", "cuda"): Prior(
        (30.0,), (1.0, 0.5), (0.03, 0.12, 0.1), (0.005, 0.4, 0.02), (0.2,), (6.5e3, 950.0, 1000.0, 0.1)
    ),
}  # fmt: skip


def work_of(request: ClipRequest) -> dict[str, Work]:
    """The phases of making a clip, in order, and of each the sums that its cost grows with; and of the memory."""
    n, megapixels = request.num_frames, request.width * request.height / 1e6
    if request.result == "poses":
        return {"draw": (n * megapixels,)}
    rows = 2 if request.guidance_scale > 1 else 1
    nets = len(request.controls) + (request.poses is not None)
    steps = request.num_inference_steps * (1 + (request.end_still is not None))  # both looks are predicted
    if request.mode == "video":
        steps = int(steps * request.source_strength)

    def predictions(times: float, frames: float) -> Work:
        calls = steps * times * (1 + NET_SHARE * nets)
        frames = frames * rows  # with guidance, one call makes both
        return (calls, calls * frames * megapixels, calls * frames * megapixels**2)

    distance = request.context_frames - request.context_overlap
    alone = n <= request.context_frames
    # As `shifting` lays them.
    windows = 1 if alone else (n - request.context_overlap + distance - 1) / distance
    length = min(n, request.context_frames)
    told = 1 if request.still else 0.5  # pictures read beside the frames
    read = n * (
        bool(request.source) + bool(request.mask) + sum(4 if c.detect else 1 for c in request.controls)
    )
    between = {"held": 0.0, "blended": 0.2, "flow": 1.0}[request.between] * max(request.frames_out - n, 0)
    work = {
        "load": (1.0,),
        "prepare": (1.0, megapixels * (told + read)),
        "first frame": predictions(1, 1),
        "denoise": predictions(windows, length + 1),  # a condition frame stands beside each window
        "decode": (float(n), megapixels * (n + between), megapixels**2 * n),
        MEMORY: (
            1.0,  # the model
            rows * (1 + NET_SHARE * nets) * (length + 1) * megapixels,  # a window
            min(n * megapixels, max(megapixels, DECODED_AT_ONCE)),
            megapixels * (n + read),  # all pictures
        ),
    }
    if request.still or not steps:
        del work["first frame"]
    return work


class Estimator:
    """What clips take on this machine."""

    def __init__(self, measures: Measures):
        self._measures = measures
        self._costs: dict[tuple[str, str], Work] = {}  # of a model and phase, until more is learned

    def device(self) -> str:
        """Where clips are made, as far as one knows without torch."""
        return self._measures.last_device() or ("cuda" if shutil.which(SMI[0]) else "cpu")

    def known(self, request: ClipRequest) -> int:
        """How many clips are known of the request's model on this device."""
        phase = "draw" if request.result == "poses" else "denoise"
        return len(self._measures.of(request.model, self.device(), phase))

    def seconds(self, request: ClipRequest, cold: bool) -> dict[str, float]:
        """Of each phase. cold: whether the model has to be loaded."""
        costs = {phase: self._cost(request, phase, work) for phase, work in work_of(request).items()}
        costs.pop(MEMORY, None)
        return costs if cold else {phase: cost for phase, cost in costs.items() if phase != "load"}

    def memory_mb(self, request: ClipRequest) -> float:
        work = work_of(request).get(MEMORY)
        return 0.0 if work is None else self._cost(request, MEMORY, work)

    def _cost(self, request: ClipRequest, phase: str, work: Work) -> float:
        key = (request.model, phase)
        if key not in self._costs:
            device = self.device()
            prior = PRIORS["mini" if request.model == "mini" else "", "cuda" if device == "cuda" else "cpu"]
            guessed = getattr(prior, "step" if phase in ("denoise", "first frame") else phase)
            measured = self._measures.of(request.model, device, phase)
            self._costs[key] = fitted(guessed, measured, one_scale=phase != MEMORY)
        return cost_of(work, self._costs[key])

    def learn(self, request: ClipRequest, done: Done, cold: bool) -> None:
        """Take in what a finished clip took. Raises sqlite3.Error."""
        self._costs.clear()
        work, device = work_of(request), done.device.partition(":")[0]
        took = {time.phase: time.seconds for time in done.phases}
        took[MEMORY] = (done.peak_memory_mb if done.gpu_memory_mb is None else done.gpu_memory_mb) or 0.0
        for phase in work.keys() & took.keys():
            if device and took[phase] > 0 and (cold or phase != "load"):
                self._measures.add(request.model, device, phase, work[phase], took[phase])

    def remedies(self, request: ClipRequest, cold: bool, free_mb: float) -> Iterator[Remedy]:
        """The mildest changes that make a clip fit, each by itself: shorter windows, a smaller size, or else both."""
        shorter, smaller = list(_shorter(request)), list(_smaller(request))
        both = [
            dataclasses.replace(
                small, context_frames=each.context_frames, context_overlap=each.context_overlap
            )
            for each in shorter[-1:]
            for small in smaller
        ]
        found = [
            next((each for each in way if self._fits(each, free_mb)), None) for way in (shorter, smaller)
        ]
        if not any(found):
            found = [next((each for each in both if self._fits(each, free_mb)), None)]
        for each in filter(None, found):
            names = ("width", "height", "context_frames", "context_overlap")
            changes = {
                name: getattr(each, name) for name in names if getattr(each, name) != getattr(request, name)
            }
            said = [f"Size {each.width} x {each.height}"] * bool({"width", "height"} & changes.keys())
            said += [f"Windows of {each.context_frames} frames"] * ("context_frames" in changes)
            yield Remedy(
                ", ".join(said),
                tuple(Change(name, value) for name, value in changes.items()),
                sum(self.seconds(each, cold).values()),
                self.memory_mb(each),
            )

    def _fits(self, request: ClipRequest, free_mb: float) -> bool:
        return self.memory_mb(request) <= SPARE * free_mb

    def estimate(
        self, number: int, request: ClipRequest, *, cold: bool, wait_s: float, free_mb: float | None
    ) -> Estimate:
        """free_mb: the memory that there is for it, None where that isn't known."""
        seconds, fits = self.seconds(request, cold), free_mb is None or self._fits(request, free_mb)
        return Estimate(
            number,
            sum(seconds.values()),
            tuple(PhaseTime(phase, each) for phase, each in seconds.items()),
            wait_s,
            self.memory_mb(request),
            free_mb,
            self.device(),
            self.known(request),
            () if fits else tuple(self.remedies(request, cold, free_mb)),
        )


def _shorter(request: ClipRequest) -> Iterator[ClipRequest]:
    """The same with ever shorter windows, while that makes a difference."""
    for length in range(min(request.context_frames, request.num_frames) - 1, LEAST_WINDOW - 1, -1):
        overlap = min(request.context_overlap, length // 2)
        yield dataclasses.replace(request, context_frames=length, context_overlap=overlap)


def _smaller(request: ClipRequest) -> Iterator[ClipRequest]:
    """The same at ever smaller sizes of nearly the same proportions: a shorter side of 64 pixels less at a time."""
    side = min(request.width, request.height)
    for shorter in range(math.ceil(side / 64) * 64 - 64, LEAST_SIDE - 1, -64):
        width, height = (
            max(LEAST_SIDE, round(each * shorter / side / SIZE_STEP) * SIZE_STEP)
            for each in (request.width, request.height)
        )
        with contextlib.suppress(ProtocolError):  # 4:1 can't get any smaller
            yield dataclasses.replace(request, width=width, height=height)


class Remaining:
    """How long the running clip will still take. expected: seconds of each phase in order; sure: they were measured."""

    def __init__(self, expected: dict[str, float], sure: bool):
        self._expected, self._sure = expected, sure
        self._phase, self._past = "", set()

    def timed(self, progress: Progress) -> Progress:
        """With its `total_eta_s`: what is expected of the phases to come and, of this one, what it shows itself, the
        more the further it is."""
        if progress.phase != self._phase:
            self._past.add(self._phase)
            self._phase = progress.phase
        windows = progress.window / progress.num_windows if progress.num_windows else 0.0
        done = min((progress.step + windows) / max(progress.num_steps, 1), 1.0)
        here = self._expected.get(progress.phase, 0.0) * (1 - done)
        if progress.eta_s is not None:
            trust = done if self._sure else 1.0
            here = trust * progress.eta_s + (1 - trust) * here
        later = (
            seconds
            for phase, seconds in self._expected.items()
            if phase != self._phase and phase not in self._past
        )
        return dataclasses.replace(progress, total_eta_s=here + sum(later))


# --- memory -------------------------------------------------------------------------------------------


async def free_mb(device: str, worker: int | None) -> float | None:
    """The megabytes that a clip can have on a device: what nobody has, and what the worker process (its pid) has
    already. None where the system doesn't tell."""
    if device == "cuda":
        return await _free_gpu_mb(worker)
    free = [each for each in (memory()[1], _free_of_container()) if each is not None]
    return (min(free) + _resident(worker)) / 2**20 if free else None


async def _free_gpu_mb(worker: int | None) -> float | None:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    free = await _smi(f"--id={first}", "--query-gpu=memory.free")
    used = await _smi(f"--id={first}", "--query-compute-apps=pid,used_memory")
    if not free or not free[0][0].isdigit():
        return None
    own = (row[1] for row in used if len(row) == 2 and row[0] == str(worker) and row[1].isdigit())
    return float(free[0][0]) + sum(map(float, own))


async def _smi(*query: str) -> list[list[str]]:
    """The rows of what nvidia-smi says; [] if it isn't there."""
    try:
        asked = await asyncio.create_subprocess_exec(*SMI, *query, stdout=asyncio.subprocess.PIPE)
    except OSError:
        return []
    try:
        said, _ = await asyncio.wait_for(asked.communicate(), SMI_S)
    except TimeoutError:
        asked.kill()
        return []
    return [[part.strip() for part in line.split(",")] for line in said.decode().splitlines()]


def _free_of_container() -> int | None:
    """Bytes left of what Linux allows this group of processes (cgroup v2), None where it has no limit. Files that it
    would drop count as free."""
    try:
        names = ("max", "current", "stat")
        limit, used, told = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in names)
    except OSError:
        return None
    dropped = told.partition("inactive_file ")[2].split()
    return int(limit) - int(used) + int(dropped[0] if dropped else 0) if limit.strip().isdigit() else None


def _resident(process: int | None) -> int:
    """Bytes of memory that a process has, 0 where the system doesn't tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 if "VmRSS:" in status else 0
