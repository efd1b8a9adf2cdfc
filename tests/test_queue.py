"""The queue: places in it, what everybody is told of it, retries, and finding one's jobs again."""

import time
import uuid

import pytest

from blender_addon.protocol import (
    JOBS_A_PAGE,
    Accepted,
    AskJobs,
    BlobSlice,
    Cancelled,
    ClipRequest,
    Done,
    Failed,
    FrameReady,
    Jobs,
    Move,
    NeedBlobs,
    Preview,
    Queue,
    Refused,
    Retry,
    blob_sha256,
)
from server.jobs import JobStore
from server.uploads import Upload
from tests.conversation import ENDINGS, Conversation, eventually, running_engine, text_request


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with running_engine(tmp_path_factory.mktemp("engine")) as process:
        yield process


@pytest.fixture
def talk(engine):
    conversation = Conversation.with_engine(engine)
    yield conversation
    conversation.client.close()


def told_queue(talk, running, *waiting):
    """Pump until the newest Queue is this one."""

    def look():
        talk.events += talk.client.pump(0.004)
        told = [event for event in talk.events if isinstance(event, Queue)]
        return told and told[-1] == Queue(running, waiting)

    eventually(look, f"queue {[event for event in talk.events if isinstance(event, Queue)][-3:]}")


def submit(talk, prompt="paint", **how):
    job = str(uuid.uuid4())
    talk.client.submit(job, text_request(prompt), {}, **how)
    talk.until(Accepted, job)
    return job


def test_the_queue_is_told_to_everybody_whenever_it_changes(engine, talk):
    other = Conversation.with_engine(engine)
    told_queue(other, None)
    running = submit(talk, "endless")
    first, second = submit(talk), submit(other)
    for each in (talk, other):
        told_queue(each, running, first, second)
    assert [talk.of(Accepted, job)[0].queue_position for job in (running, first)] == [0, 1]
    front = submit(other, place="front")
    assert other.of(Accepted, front)[0].queue_position == 1
    told_queue(talk, running, front, first, second)
    talk.client.send(Move(second, "front"))
    for each in (talk, other):
        told_queue(each, running, second, front, first)
    talk.client.send(Move(second, "back"))
    for each in (talk, other):
        told_queue(each, running, front, first, second)
    talk.client.cancel(front)
    told_queue(talk, running, first, second)
    talk.client.cancel(running)
    for job in (first, second):
        talk.client.resume(job)
        talk.until(Done, job)
    told_queue(other, None)
    assert talk.events.index(talk.of(Done, first)[0]) < talk.events.index(talk.of(Done, second)[0])
    talk.client.send(Move(first, "front"))
    assert talk.until(Refused, first).problem.code == "not_waiting"
    other.client.close()


def test_replace_cancels_what_waits_of_the_same_owner_alone(engine, talk):
    other = Conversation.with_engine(engine)
    running = submit(talk, "endless", owner="file")
    talk.until(Preview, running)
    mine, theirs, unnamed = submit(talk, owner="file"), submit(other, owner="another"), submit(talk)
    again = submit(other, owner="file", place="replace")  # the same file, connected anew
    talk.until(Cancelled, mine)
    told_queue(talk, running, theirs, unnamed, again)
    assert other.of(Accepted, again)[0].replaced == (mine,) and not talk.of(ENDINGS, running)
    unnamed_too = submit(other)
    third = submit(talk, place="replace")  # without a name: what came over this connection without one
    assert talk.of(Accepted, third)[0].replaced == (unnamed,)
    told_queue(other, running, theirs, again, unnamed_too, third)
    talk.client.cancel(running)
    for job in (theirs, again, unnamed_too, third):
        talk.client.resume(job)
        talk.until(Done, job)
    other.client.close()


def test_replace_with_inputs_to_upload_replaces_once_they_are_there(talk):
    running = submit(talk, "endless", owner="file")
    waiting = submit(talk, owner="file")
    request = ClipRequest(mode="still", prompt="paint", still=blob_sha256(b"a still"), num_frames=1)
    job = str(uuid.uuid4())
    talk.client.submit(job, request, {request.still: b"a still"}, place="replace", owner="file")
    assert talk.until(Accepted, job).replaced == (waiting,)
    assert talk.of(NeedBlobs, job)
    talk.client.cancel(running)
    talk.until(Done, job)


def test_a_failed_job_is_made_again_as_a_new_one(talk):
    failed = submit(talk, "no memory")
    talk.until(Failed, failed)
    again = str(uuid.uuid4())
    for _ in range(2):  # sent twice it is one
        talk.client.send(Retry(again, failed))
    assert talk.until(Failed, again).problem.code == "out_of_memory"
    talk.until(Accepted, again, count=2)
    talk.client.send(AskJobs())
    told = {info.job: info for info in talk.until(Jobs).jobs}
    assert told[again].retry_of == failed and told[failed].retry_of is None
    talk.client.send(Retry(str(uuid.uuid4()), str(uuid.uuid4())))
    assert talk.until(Refused).problem.code == "unknown_job"
    endless = submit(talk, "endless")
    talk.client.send(Retry(str(uuid.uuid4()), endless))
    assert talk.until(Refused, count=2).problem.code == "not_ended"
    talk.client.cancel(endless)
    talk.until(Cancelled, endless)


def test_a_client_that_knows_nothing_finds_its_jobs(tmp_path):
    state = tmp_path / "state"
    with running_engine(tmp_path, state) as process:
        talk = Conversation.with_engine(process)
        done = submit(talk, owner="file")
        talk.until(Done, done)
        failed = submit(talk, "no memory", owner="file")
        talk.until(Failed, failed)
        stuck, waiting = submit(talk, "endless", owner="file"), submit(talk, owner="file")
        other = submit(talk, owner="another")
        talk.until(Preview, stuck)
        process.kill()
        eventually(lambda: not process.alive, "end of the engine")
    with running_engine(tmp_path, state) as process:
        back = Conversation.with_engine(process)
        told_queue(back, stuck, waiting, other)
        back.client.send(AskJobs("file"))
        jobs = back.until(Jobs)
        assert jobs.total == 4
        assert [(info.job, info.state) for info in jobs.jobs] == [
            (waiting, "queued"), (stuck, "running"), (failed, "failed"), (done, "done"),
        ]  # fmt: skip
        last = jobs.jobs[-1]
        assert (last.frames_done, last.frames_out, last.prompt, last.width) == (5, 5, "paint", 64)
        assert last.submitted_at <= last.ended_at and "memory" in jobs.jobs[2].problem
        back.client.cancel(stuck)
        for info in (jobs.jobs[0], last):
            back.client.resume(info.job)
            back.until(Done, info.job)
            assert len(back.of(FrameReady, info.job)) == info.frames_out


def test_the_list_of_jobs_comes_in_pages(tmp_path):
    store = JobStore(tmp_path)
    request = text_request("☂" * 2000)
    names = [str(uuid.uuid4()) for _ in range(JOBS_A_PAGE + 6)]
    for name in names:
        store.submit(name, request, owner="☂" * 64)
    first, second = store.listing(), store.listing("☂" * 64, skip=JOBS_A_PAGE)
    assert [info.job for info in (*first.jobs, *second.jobs)] == names[::-1]
    assert first.total == second.total == len(names) and store.listing("nobody").total == 0
    store.close()


def test_the_inputs_of_a_job_to_be_made_again_are_kept(tmp_path, monkeypatch):
    store, job, data = JobStore(tmp_path), str(uuid.uuid4()), b"a still"
    first = BlobSlice(blob_sha256(data), 0, len(data), data)
    assert Upload(store.inputs, first).add(first)
    store.submit(job, ClipRequest(mode="still", still=first.sha256))
    store.take_next()
    store.finish(Cancelled(job))
    store.close()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6 * 24 * 3600)
    store = JobStore(tmp_path)
    again = str(uuid.uuid4())
    assert store.retry(again, job) == (0, ()) and not store.inputs.missing(store.request(again))
    store.close()
