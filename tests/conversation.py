"""A real engine process, and a real client that talks with it: what the tests of the wire share."""

import sys
import time
import uuid
from contextlib import contextmanager

from blender_addon.client import EngineClient
from blender_addon.engine_process import EngineProcess
from blender_addon.protocol import Cancelled, ClipRequest, Done, Failed, Welcome

BOUND_S = 60.0  # a failure, not a measure
ENDINGS = (Done, Failed, Cancelled)


def serve_command(state, engine="tests.engines:by_prompt"):
    return [sys.executable, "-m", "server", "--state-dir", str(state), "--engine", engine]


def eventually(look, what):
    """What `look` gives, once it gives something."""
    deadline = time.monotonic() + BOUND_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.002)
    raise AssertionError(f"no {what} within {BOUND_S} s")


@contextmanager
def running_engine(folder, state=None):
    """An engine process, greeted; killed at the end."""
    process = EngineProcess(serve_command(state or folder / "state"), folder)
    try:
        eventually(process.read_greeting, "greeting")
        yield process
    finally:
        process.kill()
        eventually(lambda: not process.alive, "end of the engine")


class Conversation:
    """A client and all that it was told, in order."""

    def __init__(self, url, token):
        self.client, self.events = EngineClient(), []
        self.client.connect(url, token)

    @classmethod
    def with_engine(cls, process):
        conversation = cls(process.greeting.url, process.token)
        conversation.until(Welcome)
        return conversation

    def until(self, kinds, job=None, count=1, budget_s=0.004):
        """The `count`th event of these kinds (of this job, if named), pumping until it is there."""

        def look():
            self.events += self.client.pump(budget_s)
            found = [
                e for e in self.events if isinstance(e, kinds) and job in (None, getattr(e, "job", None))
            ]
            return found[count - 1 : count]

        return eventually(look, f"{kinds} among {[type(event).__name__ for event in self.events[-20:]]}")[0]

    def of(self, kinds, job):
        return [event for event in self.events if isinstance(event, kinds) and event.job == job]

    def of_kind(self, kinds):
        return [event for event in self.events if isinstance(event, kinds)]

    def submit(self, request, blobs=None, job=None, **how):
        job = job or str(uuid.uuid4())
        self.client.submit(job, request, blobs or {}, **how)
        return job


def text_request(prompt="paint", **fields):
    return ClipRequest(
        **{"mode": "text", "prompt": prompt, "width": 64, "height": 64, "num_frames": 5} | fields
    )
