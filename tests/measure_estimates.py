"""Estimates against what clips really take, through a real engine; and how soon a cancel is heard.

    python -m tests.measure_estimates [--model mini] [--clips 8]

Run it on a machine that does nothing else: it prints each clip's predicted and real seconds and memory, how far off the
running clip's rest was at its middle, and the median error from the fourth clip on.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

from blender_addon.engine_process import EngineProcess
from blender_addon.protocol import AskEstimate, Cancelled, ClipRequest, Done, Estimate, Progress
from tests.conversation import Conversation, eventually, serve_command

CLIPS = (  # width, height, frames, steps, guidance
    (128, 128, 24, 4, 1.0), (192, 192, 12, 3, 1.0), (64, 64, 48, 6, 1.0), (128, 128, 12, 4, 3.0),
    (256, 256, 12, 2, 1.0), (128, 128, 48, 3, 1.0), (64, 128, 16, 8, 1.0), (192, 128, 20, 2, 2.0),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--clips", type=int, default=len(CLIPS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        process = EngineProcess(serve_command(state / "state", "server.clips:make_clip"), state)
        try:
            eventually(process.read_greeting, "greeting")
            talk = Conversation.with_engine(process)
            errors = [made(talk, number, args.model) for number in range(args.clips)]
            print(f"median error from the fourth clip on: {statistics.median(errors[3:] or errors):.0%}")
            print(f"a cancel was heard after {cancelled(talk, args.model)}")
        finally:
            process.kill()
            eventually(lambda: not process.alive, "end of the engine")


def request_of(model: str, width: int, height: int, frames: int, steps: int, guidance: float) -> ClipRequest:
    return ClipRequest(
        mode="text", prompt="a red figure dances", model=model, width=width, height=height, num_frames=frames,
        num_inference_steps=steps, guidance_scale=guidance, fps=8.0,
    )  # fmt: skip


def made(talk: Conversation, number: int, model: str) -> float:
    """Make one clip; the error of what was predicted."""
    request = request_of(model, *CLIPS[number % len(CLIPS)])
    talk.client.send(AskEstimate(number, request))
    told = talk.until(Estimate, count=number + 1)
    job, rests, done = talk.submit(request), [], []
    while not done:
        before = len(talk.of(Progress, job))
        talk.events += talk.client.pump(0.004)
        rests += [(time.monotonic(), each.total_eta_s) for each in talk.of(Progress, job)[before:]]
        done = talk.of(Done, job)
        time.sleep(0.002)
    ended, real = time.monotonic(), sum(phase.seconds for phase in done[0].phases)
    at, rest = min(rests, key=lambda each: abs(each[0] - (ended - real / 2)))
    memory = done[0].peak_memory_mb if done[0].gpu_memory_mb is None else done[0].gpu_memory_mb
    error = told.seconds / real - 1
    print(
        f"{request.width} x {request.height}, {request.num_frames} frames, {request.num_inference_steps} steps: "
        f"{told.seconds:.1f} s told ({told.num_jobs_known} known), {real:.1f} s real ({error:+.0%}); at its middle "
        f"{rest:.1f} s told, {ended - at:.1f} s real; {told.memory_mb:.0f} MB told, {memory:.0f} MB real",
        flush=True,
    )
    return abs(error)


def cancelled(talk: Conversation, model: str) -> str:
    """Cancel a clip in the middle of its windows."""
    request = dataclasses.replace(request_of(model, *CLIPS[0]), num_frames=96)
    job = talk.submit(request)
    heard = []
    while len(heard) < 8:
        before = len(talk.of(Progress, job))
        talk.events += talk.client.pump(0.004)
        news = [each for each in talk.of(Progress, job)[before:] if each.phase == "denoise" and each.window]
        heard += [time.monotonic()] * len(news)
        time.sleep(0.002)
    asked = time.monotonic()
    talk.client.cancel(job)
    talk.until(Cancelled, job)
    window = (heard[-1] - heard[0]) / (len(heard) - 1)
    return f"{time.monotonic() - asked:.2f} s; a window takes {window:.2f} s"


if __name__ == "__main__":
    main()
