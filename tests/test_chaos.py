"""Whatever is killed, whenever: each promised clip ends, once, and a clip that is done is whole."""

import os
import random
import signal

from blender_addon.protocol import (
    Accepted,
    ClipRequest,
    Done,
    EngineStatus,
    Failed,
    FrameReady,
    NeedBlobs,
    Progress,
    Refused,
    blob_sha256,
)
from tests.conversation import ENDINGS, Conversation, eventually, running_engine, text_request
from tests.engines import grey_png

STILL = random.Random(0).randbytes(700_000)  # three slices
FRAMES, ROUNDS = 5, 10
MOMENTS = {
    "asked for an input": NeedBlobs,
    "accepted": Accepted,
    "loading": lambda event: isinstance(event, Progress) and event.phase == "load",
    "denoising": lambda event: isinstance(event, Progress) and event.phase == "denoise" and event.step > 1,
    "a frame": FrameReady,
    "an ending": ENDINGS,
}


class Client:
    """What outlives every connection: the jobs, and all that was told of them."""

    def __init__(self):
        self.requests, self.frames, self.endings = {}, {}, {}

    def greet(self, process):
        self.talk, self.seen = Conversation.with_engine(process), 0
        for job in self.requests.keys() - self.endings.keys():
            self.talk.client.resume(job, tuple(self.frames[job]))

    def submit(self, with_still):
        fields = {"mode": "still", "still": blob_sha256(STILL)} if with_still else {}
        request = text_request("slowly", num_frames=FRAMES, **fields)
        job = self.talk.submit(request, {request.still: STILL} if with_still else {})
        self.requests[job], self.frames[job] = request, {}

    def listen(self):
        """Pump once, and note what was told."""
        self.talk.events += self.talk.client.pump(0.004)
        for event in self.talk.events[self.seen :]:
            match event:
                case FrameReady(job, frame, data):
                    assert self.frames[job].setdefault(frame, data) == data
                case Refused(problem, str(job)) if problem.code == "unknown_job":  # never accepted
                    request = self.requests[job]
                    self.talk.submit(request, {request.still: STILL} if request.still else {}, job=job)
                case Done(job) | Failed(job):
                    assert self.endings.setdefault(job, event) == event
        self.seen = len(self.talk.events)

    def until(self, look, what):
        eventually(lambda: self.listen() or look(), what)

    def moment(self, what):
        fits = MOMENTS[what]
        known = (
            fits if callable(fits) and not isinstance(fits, type) else lambda event: isinstance(event, fits)
        )
        self.until(lambda: any(known(event) for event in self.talk.events), what)


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def test_every_promised_clip_ends_once_and_whole(tmp_path):
    draw, client = random.Random(0), Client()
    for round in range(ROUNDS):
        with running_engine(tmp_path, tmp_path / "state") as process:
            client.greet(process)
            client.submit(with_still=round == 0)
            client.moment("asked for an input" if round == 0 else draw.choice(list(MOMENTS)[1:]))
            if draw.random() < 0.4:
                client.talk.client.ask_status()
                client.until(lambda: client.talk.of_kind(EngineStatus), "status")
                worker = client.talk.of_kind(EngineStatus)[-1].worker_pid
                if worker is not None:
                    kill(worker)
                    client.until(lambda: client.endings or client.talk.of_kind(Accepted), "what comes of it")
            kill(process.greeting.pid)
            eventually(lambda: not process.alive, "end of the engine")
    with running_engine(tmp_path, tmp_path / "state") as process:
        client.greet(process)
        client.until(
            lambda: client.endings.keys() == client.requests.keys(), f"all endings, not {client.endings}"
        )
        client.talk.client.close()
        client.endings, told = {}, client.endings
        client.greet(process)  # told once more, they are the same
        client.until(lambda: client.endings.keys() == told.keys(), "all endings again")
        assert client.endings == told
    done = [job for job, ending in told.items() if isinstance(ending, Done)]
    for job in done:
        request: ClipRequest = client.requests[job]
        brightness = len(STILL) if request.still else 0
        shades = {k: grey_png(request.width, request.height, (brightness + k) % 256) for k in range(FRAMES)}
        assert client.frames[job] == shades
    others = {ending.problem.code for ending in told.values() if isinstance(ending, Failed)}
    assert done and others <= {"worker_crashed", "engine_died"}
    left = {path.name for path in (tmp_path / "state").iterdir() if path.is_dir()}
    assert left == {"blobs", "frames", "incoming"} and not list((tmp_path / "state" / "incoming").iterdir())
    assert not list((tmp_path / "state" / "frames").rglob("*.part"))
