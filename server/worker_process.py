"""The worker process: makes one clip at a time, and alone may import torch.

`python -m server.worker_process ENGINE BLOBS`. It speaks the protocol's own messages over its standard input
and output: Submit and Cancel come in; Progress, Preview, FrameReady and exactly one ending go out. ENGINE is
`module:function`; the function is called as `engine(job, request, read_blob, previews)`, with `read_blob(sha256)`
giving an input's bytes and previews saying whether any are wanted, and yields Progress, Preview and FrameReady and
last Done. Between any two of them it may be closed. Nothing heavy is imported before the first job, so a worker that
cannot work can still say why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import queue
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from blender_addon import protocol
from blender_addon.protocol import (
    Cancel,
    Cancelled,
    ClipRequest,
    Done,
    Failed,
    Message,
    PhaseTime,
    Progress,
    ProtocolError,
    Submit,
)
from server.problems import problem_of

Engine = Callable[[str, ClipRequest, Callable[[str], bytes], bool], Iterator[Message]]

FRAMING = struct.Struct("<?I")  # is it text?, length; then the encoded message


def framed(message: Message) -> bytes:
    """A message as it goes through a pipe."""
    raw = protocol.encode(message)
    data = raw.encode() if isinstance(raw, str) else raw
    return FRAMING.pack(isinstance(raw, str), len(data)) + data


def unframed(is_text: bool, data: bytes) -> Message:
    return protocol.decode(data.decode() if is_text else data)


def main() -> None:
    engine_path, blobs = sys.argv[1], Path(sys.argv[2])
    # Only messages may go to the server: whatever libraries print goes to the log instead.
    outbox = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = Orders(sys.stdin.buffer)

    def send(message: Message) -> None:
        outbox.write(framed(message))
        outbox.flush()

    def read_blob(sha256: str) -> bytes:
        return (blobs / sha256).read_bytes()

    while True:
        order, clock = orders.next(), PhaseClock()
        forget_peak_memory()
        try:
            send(clock.timed(Progress(order.job, "load", 0, 1)))  # the first time, torch is imported now
            engine = find_engine(engine_path)
            make(order.job, order.request, engine, read_blob, send, orders.cancelled, clock, order.previews)
        except Exception as error:  # the one place where exceptions become messages
            traceback.print_exc()
            send(Failed(order.job, problem_of(error)))


def make(
    job, request, engine: Engine, read_blob, send, cancelled: Callable[[str], bool], clock, previews=True
) -> None:
    """Make one clip, and send all that comes of it, the ending included. clock: a PhaseClock."""
    events = engine(job, request, read_blob, previews)
    try:
        for event in events:
            if cancelled(job):
                send(Cancelled(job))
                return
            if isinstance(event, Progress):
                event = clock.timed(event)
            elif isinstance(event, Done):
                event = dataclasses.replace(event, phases=clock.phases(), peak_memory_mb=peak_memory_mb())
            send(event)
            if isinstance(event, Done):
                return
    finally:
        events.close()
    raise RuntimeError("the engine stopped before the clip was done")


class Orders:
    """What the server asks, read by a thread of its own, so that a Cancel is seen in the middle of a clip."""

    def __init__(self, inbox: BinaryIO):
        self._submitted: queue.SimpleQueue[Submit] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def next(self) -> Submit:
        return self._submitted.get()

    def cancelled(self, job: str) -> bool:
        return job in self._cancelled

    def _read(self, inbox: BinaryIO) -> None:
        while head := inbox.read(FRAMING.size):
            is_text, size = FRAMING.unpack(head)
            order = unframed(is_text, inbox.read(size))
            if isinstance(order, Submit):
                self._cancelled.clear()  # one clip at a time: older cancels have been seen to
                self._submitted.put(order)
            elif isinstance(order, Cancel):
                self._cancelled.add(order.job)
        os._exit(0)  # the server is gone: stop in the middle of whatever runs


class PhaseClock:
    """Seconds spent in each phase, and how long the present one will still take."""

    def __init__(self):
        self._seconds: dict[str, float] = {}
        self._phase, self._since, self._begun = "", time.monotonic(), 0.0

    def timed(self, progress: Progress) -> Progress:
        now = time.monotonic()
        windows = progress.window / progress.num_windows if progress.num_windows else 0.0
        done = (progress.step + windows) / max(progress.num_steps, 1)
        if progress.phase != self._phase:
            self._note(now)
            self._phase, self._since, self._begun = progress.phase, now, done
        rate = (done - self._begun) / (now - self._since) if now > self._since else 0.0
        return dataclasses.replace(progress, eta_s=max(1 - done, 0.0) / rate if rate > 0 else None)

    def phases(self) -> tuple[PhaseTime, ...]:
        self._note(time.monotonic())
        return tuple(PhaseTime(phase, seconds) for phase, seconds in self._seconds.items())

    def _note(self, now: float) -> None:
        if self._phase:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._since = now


def find_engine(path: str) -> Engine:
    """The function that `module:function` names. Raises ProtocolError where it does not import."""
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ProtocolError(
            f"The engine does not import: {error}",
            path,
            "Install the engine with all it needs (make setup), and run: musev doctor.",
            "engine_incomplete",
        ) from error


def forget_peak_memory() -> None:
    """Let `peak_memory_mb` begin anew, where the system can: on Linux (proc(5), clear_refs)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may forbid it
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float | None:
    """The most memory this process has held (since `forget_peak_memory`, where the system can), or None where the
    system does not tell."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        if "VmHWM:" in status:
            return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
