"""What a clip will take: learned from those before it, told over the wire, with what would make it fit."""

import dataclasses
import random
import sqlite3
import statistics
import sys
import uuid

import pytest

from blender_addon.protocol import (
    AskEstimate,
    Cancelled,
    ClipRequest,
    Control,
    Done,
    Estimate,
    PhaseTime,
    Preview,
    Progress,
)
from server.estimates import MEMORY, SPARE, Estimator, Remaining, work_of
from server.measures import KEPT, Measures, cost_of, fitted
from server.worker_process import forget_peak_memory, peak_memory_mb
from tests.conversation import Conversation, running_engine, text_request

JOB = str(uuid.uuid4())


@pytest.fixture
def measures():
    with sqlite3.connect(":memory:", isolation_level=None) as database:
        yield Measures(database)


def some_request(rng):
    return ClipRequest(
        mode="text", width=8 * rng.randint(16, 96), height=8 * rng.randint(16, 96), num_frames=rng.randint(8, 120),
        num_inference_steps=rng.randint(4, 40), guidance_scale=rng.choice((1.0, 7.5)), fps=24,
    )  # fmt: skip


class Machine:
    """Where everything costs something else than the priors say, and never twice the same. noise: of the logarithm."""

    def __init__(self, seed, noise):
        self._rng, self._noise = random.Random(seed), noise
        self._speed = 10 ** self._rng.uniform(-1, 1)
        self._costs = {
            phase: [
                cost * (1.0 if phase == MEMORY else self._speed) * 10 ** self._rng.uniform(-0.5, 0.5)
                for cost in costs
            ]
            for phase, costs in {
                "load": (5.0,), "prepare": (0.3, 1.0), "first frame": (0.1, 5.0, 5.0), "denoise": (0.1, 5.0, 5.0),
                "decode": (0.01, 5.0, 5.0), MEMORY: (1500.0, 400.0, 500.0, 5.0),
            }.items()
        }  # fmt: skip

    def law(self, phase, work):
        return sum(cost * each for cost, each in zip(self._costs[phase], work, strict=True))

    def make(self, request):
        took = {
            phase: self.law(phase, work) * self._rng.lognormvariate(0, self._noise)
            for phase, work in work_of(request).items()
        }
        memory = took.pop(MEMORY)
        times = tuple(PhaseTime(phase, seconds) for phase, seconds in took.items())
        return Done(JOB, request.num_frames, times, memory, "cpu")


def test_after_three_clips_the_median_error_is_at_most_15_percent():
    errors, memory_errors = [], []
    for seed in range(12):
        rng, machine = random.Random(seed), Machine(seed, noise=0.08)
        with sqlite3.connect(":memory:", isolation_level=None) as database:
            estimator = Estimator(Measures(database))
            for _ in range(3):
                request = some_request(rng)
                estimator.learn(request, machine.make(request), cold=True)
            for _ in range(10):
                request = some_request(rng)
                done = machine.make(request)
                real = sum(time.seconds for time in done.phases)
                errors.append(abs(sum(estimator.seconds(request, True).values()) / real - 1))
                memory_errors.append(abs(estimator.memory_mb(request) / done.peak_memory_mb - 1))
    print(
        f"median error {statistics.median(errors):.3f}, of the memory {statistics.median(memory_errors):.3f}"
    )
    assert statistics.median(errors) <= 0.15
    assert statistics.median(memory_errors) <= 0.15


def test_with_many_clips_the_law_itself_is_found(measures):
    rng, machine, estimator = random.Random(3), Machine(3, noise=0.0), Estimator(measures)
    for _ in range(KEPT):
        request = some_request(rng)
        estimator.learn(request, machine.make(request), cold=True)
    request = some_request(rng)
    told = estimator.seconds(request, True)
    real = {phase: machine.law(phase, work_of(request)[phase]) for phase in told}
    assert sum(told.values()) == pytest.approx(sum(real.values()), rel=0.05)
    assert told == pytest.approx(real, rel=0.15)
    assert (
        estimator.known(request) == KEPT and estimator.known(dataclasses.replace(request, model="other")) == 0
    )


def test_costs_are_never_negative_and_one_clip_scales_the_prior():
    assert fitted((1.0, 2.0), []) == (1.0, 2.0)
    assert fitted((1.0, 2.0), [((3.0, 1.0), 10.0)]) == pytest.approx((2.0, 4.0))
    shrinking = [((1.0, float(work)), 10.0 / work) for work in (1, 2, 5, 10)]
    assert min(fitted((1.0, 1.0), shrinking)) == 0.0
    assert cost_of((1.0, 100.0), fitted((1.0, 1.0), shrinking)) > 0
    assert fitted((1.0, 2.0), [((5.0,), 10.0), ((1.0, 2.0, 3.0), 4.0)]) == (1.0, 2.0)  # an older engine's
    assert fitted((1.0,), [((0.0,), 1.0)]) == (1.0,)  # what no work was done for says nothing


def test_old_clips_fade_and_are_forgotten(measures):
    for cost in (*[100.0] * 5, *[10.0] * 3 * KEPT):
        measures.add("mini", "cpu", "load", (1.0,), cost)
    measures.add("mini", "cuda", "load", (1.0,), 3.0)
    assert measures.of("mini", "cpu", "load") == [((1.0,), 10.0)] * KEPT
    assert measures.of("mini", "cuda", "load") == [((1.0,), 3.0)] and measures.last_device() == "cuda"
    changed = [((1.0,), 100.0)] * 10 + [((1.0,), 10.0)] * 10
    assert fitted((1.0,), changed)[0] < 55.0


def test_the_work_grows_with_what_is_asked_for():
    base = ClipRequest(mode="text", num_frames=48, source_strength=0.5)
    work = work_of(base)
    assert list(work) == ["load", "prepare", "first frame", "denoise", "decode", MEMORY]
    sha = "ab" * 32

    def denoise(**fields):
        return work_of(dataclasses.replace(base, **fields))["denoise"][1]

    assert denoise(num_inference_steps=20) == pytest.approx(2 * denoise())
    assert denoise(guidance_scale=2.0) == pytest.approx(2 * denoise())
    assert denoise(end_still=sha) == pytest.approx(2 * denoise())  # both looks are predicted
    assert denoise(width=256) == pytest.approx(2 * denoise())
    assert (
        denoise(context_overlap=8) > denoise() and denoise(controls=(Control("depth", (sha,)),)) > denoise()
    )
    assert denoise(mode="video", source=(sha,)) == pytest.approx(denoise() / 2)
    assert "first frame" not in work_of(dataclasses.replace(base, mode="still", still=sha))
    assert list(work_of(dataclasses.replace(base, mode="pose", poses=sha, result="poses"))) == ["draw"]


@pytest.mark.parametrize("free", [3000.0, 2000.0, 1600.0, 1450.0])
def test_remedies_are_the_mildest_changes_that_fit(measures, free):
    estimator = Estimator(measures)
    request = ClipRequest(mode="text", width=768, height=512, num_frames=48, context_frames=16)
    told = estimator.estimate(7, request, cold=True, wait_s=0.0, free_mb=free)
    assert told.number == 7 and told.num_jobs_known == 0 and told.memory_mb > SPARE * free and told.remedies
    for remedy in told.remedies:
        changed = dataclasses.replace(request, **{change.name: change.value for change in remedy.changes})
        assert remedy.memory_mb == estimator.memory_mb(changed) <= SPARE * free
        assert remedy.seconds == pytest.approx(sum(estimator.seconds(changed, True).values()))
        assert str(changed.width) in remedy.label or "Windows" in remedy.label
        if changed.context_frames == request.context_frames:  # the next larger size would not fit
            larger = dataclasses.replace(request, width=changed.width + 96, height=changed.height + 64)
            assert estimator.memory_mb(larger) > SPARE * free
    assert not estimator.estimate(7, request, cold=True, wait_s=0.0, free_mb=1e6).remedies
    assert not estimator.estimate(7, request, cold=True, wait_s=0.0, free_mb=None).remedies
    assert not estimator.estimate(7, request, cold=True, wait_s=0.0, free_mb=1250.0).remedies  # nothing helps


def test_the_rest_of_a_clip_is_all_its_phases_to_come():
    rest = Remaining({"load": 5.0, "prepare": 1.0, "denoise": 10.0, "decode": 4.0}, sure=True)

    def left(phase, step, num_steps, eta_s=None, **windows):
        return rest.timed(Progress(JOB, phase, step, num_steps, eta_s, **windows)).total_eta_s

    assert left("load", 0, 1) == 20.0
    assert left("prepare", 0, 1) == 15.0
    assert left("first frame", 0, 1, 3.0) == 14.0  # not expected; those that were go on
    assert left("prepare", 1, 1) == 14.0
    assert left("denoise", 0, 10) == 14.0
    assert left("denoise", 5, 10, 9.0) == (9.0 + 5.0) / 2 + 4.0  # half its own pace, half what others took
    assert left("denoise", 9, 10, 2.0, window=1, num_windows=2) == pytest.approx(
        0.95 * 2.0 + 0.05 * 0.5 + 4.0
    )
    assert left("decode", 1, 4, 3.0) == 3.0 and left("decode", 4, 4, 0.0) == 0.0
    guessed = Remaining({"denoise": 10.0, "decode": 4.0}, sure=False)
    assert guessed.timed(Progress(JOB, "denoise", 1, 10, 90.0)).total_eta_s == 94.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_the_peak_of_memory_is_of_this_clip_alone():
    block = bytearray(300 * 2**20)
    high = peak_memory_mb()
    del block
    forget_peak_memory()
    assert peak_memory_mb() < high - 200


def test_an_estimate_is_told_before_and_better_after(tmp_path):
    with running_engine(tmp_path) as process:
        talk = Conversation.with_engine(process)
        request = text_request()

        def ask(number, request=request):
            talk.client.send(AskEstimate(number, request))
            return talk.until(Estimate, count=len([e for e in talk.events if isinstance(e, Estimate)]) + 1)

        first = ask(1)
        assert (first.number, first.num_jobs_known) == (1, 0) and first.free_memory_mb > 0
        assert (
            first.seconds == pytest.approx(sum(phase.seconds for phase in first.phases)) and first.wait_s == 0
        )
        assert [phase.phase for phase in first.phases] == [
            "load",
            "prepare",
            "first frame",
            "denoise",
            "decode",
        ]
        talk.until(Done, talk.submit(request))
        second = ask(2)
        assert second.num_jobs_known == 1 and second.device == "cpu"
        took = {phase.phase: phase.seconds for phase in second.phases}
        before = {phase.phase: phase.seconds for phase in first.phases}
        assert "load" not in took and took["denoise"] < before["denoise"] / 2
        huge = ask(
            3, text_request(width=2048, height=2048, num_frames=64, context_frames=64, guidance_scale=7.5)
        )
        assert huge.memory_mb > huge.free_memory_mb and huge.remedies

        running = talk.submit(text_request("endless"))
        talk.until(Preview, running)
        assert talk.until(Progress, running, count=3).total_eta_s > 0
        waiting = talk.submit(dataclasses.replace(request, model="other"))
        assert ask(4).wait_s > 1.0  # to load and make what another model makes
        for job in (waiting, running):
            talk.client.cancel(job)
            talk.until(Cancelled, job)
