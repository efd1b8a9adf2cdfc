"""The engine as a process: real sockets, real processes, an engine of a few lines in place of networks."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import websockets
from websockets.asyncio.client import connect

from blender_addon import protocol
from blender_addon.protocol import (
    Accepted,
    BlobSlice,
    Cancelled,
    ClipRequest,
    Done,
    EngineStatus,
    Failed,
    FrameReady,
    Menus,
    NeedBlobs,
    Preview,
    Problem,
    Progress,
    ProtocolError,
    Queue,
    Refused,
    Submit,
    Welcome,
    blob_sha256,
)
from server.jobs import JobStore
from server.problems import problem_of
from server.uploads import Upload
from tests.conversation import (
    BOUND_S,
    ENDINGS,
    Conversation,
    eventually,
    running_engine,
    serve_command,
    text_request,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with running_engine(tmp_path_factory.mktemp("engine")) as process:
        yield process


@pytest.fixture
def talk(engine):
    conversation = Conversation.with_engine(engine)
    yield conversation
    conversation.client.close()


def greeted(process):
    """The greeting of a `subprocess` engine."""
    return protocol.decode(process.stdout.readline())


# --- who may come in ----------------------------------------------------------------------------------


def handshake(url, token="", **options):
    """Open a WebSocket as any program might; the first message, or the refusal's status and problem."""

    async def attempt():
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        options.setdefault("subprotocols", [protocol.SUBPROTOCOL])
        try:
            async with connect(url, additional_headers=headers, proxy=None, **options) as connection:
                return protocol.decode(await connection.recv())
        except websockets.InvalidStatus as refusal:
            body = protocol.decode(refusal.response.body.decode())
            return refusal.response.status_code, body.problem.code

    return asyncio.run(asyncio.wait_for(attempt(), BOUND_S))


def test_only_the_token_opens_the_door(engine):
    url = engine.greeting.url
    assert isinstance(handshake(url, engine.token), Welcome)
    assert handshake(url) == (401, "bad_token")
    assert handshake(url, engine.token + "x") == (401, "bad_token")
    assert handshake(url, engine.token, origin="http://127.0.0.1") == (403, "origin_refused")
    assert handshake(url, engine.token, subprotocols=["musev.v0"]) == (426, "protocol_mismatch")
    assert handshake(url, engine.token, subprotocols=None) == (426, "protocol_mismatch")


def test_the_engine_listens_on_loopback_alone_and_says_who_it_is(engine, talk):
    assert engine.greeting.url.startswith("ws://127.0.0.1:")
    assert talk.client.welcome.pid == engine.greeting.pid
    assert engine.token not in " ".join(Path(f"/proc/{engine.pid}/cmdline").read_text().split("\0"))


def test_the_server_is_small_and_without_torch(engine, talk):
    talk.until(Done, talk.submit(text_request()))
    resident_kb = int(Path(f"/proc/{engine.greeting.pid}/status").read_text().split("VmRSS:")[1].split()[0])
    assert resident_kb < 150 * 1024
    code = "import server.app, server.cli, sys; assert not {'torch', 'numpy', 'bpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_engine_says_what_one_may_choose_from(engine, talk):
    menus = talk.until(Menus)
    assert menus.window_schedules[0] == "shifting" and "uniform" in menus.window_schedules
    assert "musev_referencenet" in menus.motion_models and menus.predictors == ("musev",)
    assert "canny" in menus.control_preprocessors and menus.left_out == ()
    assert talk.client.menus == menus


# --- jobs ---------------------------------------------------------------------------------------------


def test_a_clip_is_made(talk):
    job = talk.submit(text_request())
    done = talk.until(ENDINGS, job)
    assert (type(done), done.num_frames) == (Done, 5), done
    frames = talk.of(FrameReady, job)
    assert [frame.frame for frame in frames] == [0, 1, 2, 3, 4]
    assert all(frame.data.startswith(b"\x89PNG") for frame in frames)
    assert len({frame.data for frame in frames}) == 5
    assert [phase.phase for phase in done.phases] == ["load", "denoise"]
    assert talk.events.index(done) > talk.events.index(frames[-1])
    assert talk.of(Accepted, job)


def test_inputs_are_sent_once(talk):
    still = os.urandom(700_000)  # three slices
    request = ClipRequest(mode="still", prompt="paint", still=blob_sha256(still), num_frames=2)
    first = talk.submit(request, {request.still: still})
    talk.until(Done, first)
    second = talk.submit(request, {request.still: still})
    talk.until(Done, second)
    assert [need.blobs for need in talk.of(NeedBlobs, first)] == [(request.still,)]
    assert not talk.of(NeedBlobs, second)
    first, second = ([frame.data for frame in talk.of(FrameReady, job)] for job in (first, second))
    assert first == second


def test_one_id_is_one_job(talk):
    request = text_request()
    job = talk.submit(request)
    talk.submit(request, job=job)
    talk.until(Done, job)
    talk.submit(request, job=job)
    talk.until(Accepted, job, count=3)
    assert len(talk.of(FrameReady, job)) == 5
    assert len(talk.of(ENDINGS, job)) == 1
    talk.submit(text_request(num_frames=6), job=job)
    assert talk.until(Refused, job).problem.code == "job_differs"


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("crash", "worker_crashed"),
        ("mute", "engine_error"),
        ("lazy", "frames_missing"),
        ("no memory", "out_of_memory"),
        ("full disk", "disk_full"),
    ],
)
def test_what_fails_fails_alone_and_says_why(talk, prompt, code):
    job = talk.submit(text_request(prompt))
    problem = talk.until(ENDINGS, job).problem
    assert (problem.code, bool(problem.message), bool(problem.remedy)) == (code, True, True)
    talk.until(Done, talk.submit(text_request()))  # the next one is made
    assert len(talk.of(ENDINGS, job)) == 1


def test_cancel_ends_a_running_job_and_a_waiting_one_and_an_unknown_one(talk):
    running, waiting, unknown = (
        talk.submit(text_request("endless")),
        talk.submit(text_request()),
        str(uuid.uuid4()),
    )
    talk.until(Preview, running)
    for job in (waiting, running, unknown):
        talk.client.cancel(job)
        talk.until(Cancelled, job)
    assert not talk.of(FrameReady, waiting)
    after = talk.submit(text_request())
    talk.until(Done, after)
    for job in (waiting, running, after):
        talk.client.cancel(job)  # has ended: nothing is said
    talk.client.ask_status()
    talk.until(EngineStatus)
    assert [len(talk.of(ENDINGS, job)) for job in (running, waiting, unknown, after)] == [1, 1, 1, 1]


def test_cancel_right_behind_submit_is_not_lost(talk):
    for _ in range(5):
        job = talk.submit(text_request("endless"))
        talk.client.cancel(job)
        assert isinstance(talk.until(ENDINGS, job), Cancelled)


def test_cancel_is_heard_while_a_model_is_loaded(talk):
    job = talk.submit(text_request("loads for ever", model="other"))
    talk.until(Progress, job)
    talk.client.cancel(job)
    assert isinstance(talk.until(ENDINGS, job), Cancelled)
    talk.until(Done, talk.submit(text_request()))


def test_a_cancelled_job_leaves_a_loaded_model_where_it_is(talk):
    talk.until(Done, talk.submit(text_request()))
    workers = []
    for number in range(3):
        job = talk.submit(text_request("endless"))
        talk.until(Preview, job)
        talk.client.cancel(job)
        talk.until(Cancelled, job)
        talk.client.ask_status()
        workers.append(talk.until(EngineStatus, count=number + 1).worker_pid)
    assert len(set(workers)) == 1


def test_a_worker_killed_from_outside_fails_its_job_alone(talk):
    job = talk.submit(text_request("endless"))
    talk.until(Preview, job)
    talk.client.ask_status()
    os.kill(talk.until(EngineStatus).worker_pid, signal.SIGKILL)
    problem = talk.until(ENDINGS, job).problem
    assert (problem.code, problem.value) == ("worker_crashed", "signal SIGKILL")
    talk.until(Done, talk.submit(text_request()))


def test_a_client_that_comes_back_gets_the_rest(engine, talk):
    job = talk.submit(text_request(num_frames=9))
    talk.until(FrameReady, job, count=3)
    talk.client.close()
    back = Conversation.with_engine(engine)
    have = [frame.frame for frame in talk.of(FrameReady, job)]
    back.client.resume(job, tuple(have))
    back.until(Done, job)
    assert sorted(have + [frame.frame for frame in back.of(FrameReady, job)]) == list(range(9))
    back.client.resume(str(uuid.uuid4()))
    assert back.until(Refused).problem.code == "unknown_job"
    back.client.close()


def test_two_clients_follow_one_job(engine, talk):
    other = Conversation.with_engine(engine)
    job = talk.submit(text_request("endless"))
    talk.until(Progress, job)
    other.client.resume(job)
    other.until(Preview, job)
    other.client.cancel(job)
    assert other.until(ENDINGS, job) == talk.until(ENDINGS, job) == Cancelled(job)
    other.client.close()


# --- bad messages -------------------------------------------------------------------------------------


def exchange(engine, *messages):
    """Send raw messages, and Shutdown-free status asking last; all answers up to its reply, or the close
    code."""

    async def talk():
        headers = {"Authorization": f"Bearer {engine.token}"}
        options = {
            "subprotocols": [protocol.SUBPROTOCOL],
            "proxy": None,
            "compression": None,
            "max_size": None,
        }
        answers = []
        async with connect(engine.greeting.url, additional_headers=headers, **options) as connection:
            try:
                for message in (*messages, '{"type": "AskStatus"}'):
                    await connection.send(message)
                while not (answers and isinstance(answers[-1], EngineStatus)):
                    answer = protocol.decode(await connection.recv())
                    answers += [] if isinstance(answer, (Menus, Queue)) else [answer]
            except websockets.ConnectionClosed as closed:
                answers.append(closed.rcvd.code)
        return answers[1:]

    return asyncio.run(asyncio.wait_for(talk(), BOUND_S))


def test_a_bad_message_is_refused_and_the_connection_stays(engine):
    welcome = protocol.encode(Welcome(1, "x", 1, ()))
    path = json.dumps(
        {"type": "Submit", "job": str(uuid.uuid4()), "request": {"mode": "still", "still": "/etc/passwd"}}
    )
    for bad in ("{", b"\x01", welcome, path, '{"type": "Open", "path": "/etc/passwd"}'):
        refused, _ = exchange(engine, bad)
        assert isinstance(refused, Refused), bad
        assert refused.problem.remedy


def test_what_is_too_large_is_refused_before_it_is_read(engine):
    """The frame's header alone, announcing a gigabyte, ends the connection: no byte of it was sent."""
    greeting, token = engine.greeting, engine.token
    host, port = greeting.url.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), timeout=BOUND_S) as raw:
        lines = (
            "GET / HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Protocol: {protocol.SUBPROTOCOL}", f"Authorization: Bearer {token}", "", "",
        )  # fmt: skip
        raw.sendall("\r\n".join(lines).encode())
        assert raw.recv(65536).startswith(b"HTTP/1.1 101")
        raw.sendall(b"\x82\xff" + (2**30).to_bytes(8, "big") + b"\0\0\0\0")
        received = b""
        while data := raw.recv(65536):
            received += data
    close_frame = received[received.rindex(b"\x88") :]
    assert int.from_bytes(close_frame[2:4], "big") == 1009


def test_uploads_must_be_what_they_say(engine):
    data = os.urandom(1000)
    name = blob_sha256(data)
    wrong = BlobSlice(blob_sha256(b"other"), 0, 1000, data)
    out_of_order = BlobSlice(name, 500, 1000, data[500:])
    too_long = BlobSlice(name, 0, 999, data)
    for piece in (wrong, out_of_order, too_long):
        refused, _ = exchange(engine, protocol.encode(piece))
        assert refused.problem.code == "bad_upload"
    job, request = str(uuid.uuid4()), ClipRequest(mode="still", prompt="paint", still=name)
    assert isinstance(exchange(engine, protocol.encode(Submit(job, request)))[0], NeedBlobs)
    halves = [BlobSlice(name, 0, 1000, data[:500]), BlobSlice(name, 500, 1000, data[500:])]
    answers = exchange(engine, *map(protocol.encode, halves), protocol.encode(Submit(job, request)))
    assert isinstance(answers[0], Accepted)


# --- life and death -----------------------------------------------------------------------------------


def test_the_engine_ends_when_its_parent_is_gone_and_its_queue_is_empty(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    command = [*serve_command(tmp_path / "state"), "--parent-pid", str(parent.pid)]
    environment = os.environ | {"MUSEV_TOKEN": "secret"}
    engine = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    try:
        talk = Conversation(greeted(engine).url, "secret")
        job = talk.submit(text_request("endless"))
        talk.until(Preview, job)
        parent.communicate(b"\n")
        talk.until(Progress, job, count=len(talk.of(Progress, job)) + 200)  # a second's work of an orphan
        assert engine.poll() is None
        talk.client.cancel(job)
        talk.until(Cancelled, job)
        assert engine.wait(BOUND_S) == 0
    finally:
        parent.kill()
        engine.kill()
        engine.wait(BOUND_S)


def test_what_was_promised_survives_kill_9(tmp_path):
    state = tmp_path / "state"
    with running_engine(tmp_path, state) as process:
        talk = Conversation.with_engine(process)
        stuck, ended = talk.submit(text_request("endless")), None
        talk.until(Preview, stuck)
        talk.client.cancel(stuck)
        ended = talk.submit(text_request())
        talk.until(Done, ended)
        stuck, waiting = talk.submit(text_request("endless")), talk.submit(text_request())
        talk.until(Preview, stuck)
        talk.until(Accepted, waiting)
        process.kill()
        eventually(lambda: not process.alive, "end of the engine")
    with running_engine(tmp_path, state) as process:
        talk = Conversation.with_engine(process)
        for job in (stuck, waiting, ended):
            talk.client.resume(job)
        talk.until(Preview, stuck)  # runs again
        talk.client.cancel(stuck)
        talk.until(Cancelled, stuck)
        talk.until(Done, waiting)
        talk.until(Done, ended)
        assert len(talk.of(FrameReady, ended)) == len(talk.of(FrameReady, waiting)) == 5


def test_the_worker_dies_with_its_server(tmp_path):
    with running_engine(tmp_path) as process:
        talk = Conversation.with_engine(process)
        talk.until(Preview, talk.submit(text_request("endless")))
        talk.client.ask_status()
        worker = talk.until(EngineStatus).worker_pid
        process.kill()
    eventually(lambda: not Path(f"/proc/{worker}").exists(), "end of the worker")


def test_shutdown_ends_the_engine(tmp_path):
    with running_engine(tmp_path) as process:
        talk = Conversation.with_engine(process)
        talk.until(Preview, talk.submit(text_request("endless")))
        talk.client.shut_down_engine()
        talk.client.pump()
        eventually(lambda: not process.alive, "end of the engine")


def test_an_engine_that_cannot_serve_says_why(tmp_path):
    with running_engine(tmp_path, tmp_path / "state") as process:
        port = process.greeting.url.rpartition(":")[2]
        environment = os.environ | {"MUSEV_TOKEN": "x"}
        for extra, code in (
            (["--state-dir", str(tmp_path / "state")], "state_in_use"),
            (["--state-dir", str(tmp_path / "other"), "--port", port], "cannot_listen"),
            (["--state-dir", str(tmp_path / "other"), "--token-file", str(tmp_path / "none")], "file_error"),
        ):
            command = [sys.executable, "-m", "server", *extra]
            said = subprocess.run(
                command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
            )
            assert said.returncode == 1
            assert protocol.decode(said.stdout.strip()).problem.code == code


def test_a_token_file_must_be_private(tmp_path):
    from server.cli import find_token

    file = tmp_path / "token"
    file.write_text("long random word\n")
    file.chmod(0o644)
    with pytest.raises(ProtocolError, match="chmod 600"):
        find_token(file, tmp_path)
    file.chmod(0o600)
    assert find_token(file, tmp_path) == "long random word"


# --- the store ----------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    opened = JobStore(tmp_path / "store")
    yield opened
    opened.close()


def test_a_job_ends_once_by_the_databases_own_rule(store, tmp_path):
    job = str(uuid.uuid4())
    store.submit(job, text_request())
    assert store.take_next() == (job, text_request())
    assert store.finish(Cancelled(job))
    assert not store.finish(Failed(job, Problem("late", "too late")))
    assert store.ending(job) == Cancelled(job)
    outside = sqlite3.connect(next((tmp_path / "store").glob("*.sqlite")))
    for statement in (
        "UPDATE jobs SET state = 'done'",
        "UPDATE jobs SET ending = NULL, state = 'queued'",
        f"INSERT INTO frames (job, frame) VALUES ('{job}', 0)",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="ends once"):
            outside.execute(statement)


def test_a_job_that_kills_the_engine_is_not_tried_for_ever(tmp_path):
    job, folder = str(uuid.uuid4()), tmp_path / "store"
    store = JobStore(folder)
    store.submit(job, text_request())
    for _ in range(2):
        assert store.take_next()[0] == job
        store.close()  # as if killed here
        store = JobStore(folder)
    assert store.take_next() is None
    assert store.ending(job).problem.code == "engine_died"
    store.close()


def test_the_queue_is_bounded(store, monkeypatch):
    monkeypatch.setattr("server.jobs.MAX_UNFINISHED", 2)
    assert [store.submit(str(uuid.uuid4()), text_request()) for _ in range(2)] == [(0, ()), (1, ())]
    with pytest.raises(ProtocolError, match="full"):
        store.submit(str(uuid.uuid4()), text_request())


def test_old_jobs_and_unneeded_inputs_are_forgotten(tmp_path, monkeypatch):
    store, job, kept, data = JobStore(tmp_path), str(uuid.uuid4()), str(uuid.uuid4()), b"a still"
    first = BlobSlice(blob_sha256(data), 0, len(data), data)
    assert Upload(store.inputs, first).add(first)
    store.submit(job, ClipRequest(mode="still", still=first.sha256))
    store.take_next()
    store.add_frame(FrameReady(job, 0, b"png"))
    store.finish(Cancelled(job))
    store.submit(kept, text_request())
    store.close()
    monkeypatch.setattr("server.jobs.KEEP_S", -10.0)
    store = JobStore(tmp_path)
    assert (store.knows(job), store.knows(kept)) == (False, True)
    assert not list(store.frames.iterdir()) and not list(store.inputs.folder.iterdir())
    store.close()


def put(store, data, used_at=None):
    """An input in the store, last used at that time; its sha256."""
    piece = BlobSlice(blob_sha256(data), 0, len(data), data)
    assert Upload(store.inputs, piece).add(piece)
    if used_at is not None:
        os.utime(store.inputs.folder / piece.sha256, (used_at, used_at))
    return piece.sha256


def test_inputs_on_disk_are_bounded_and_those_longest_unused_go(store, monkeypatch):
    monkeypatch.setattr("server.uploads.MAX_INPUT_BYTES", 100)
    waited_for, older, old = (put(store, bytes([k]) * 30, used_at=1000.0 + k) for k in range(3))
    store.submit(str(uuid.uuid4()), ClipRequest(mode="still", still=waited_for))
    new = put(store, b"n" * 40)
    assert {path.name for path in store.inputs.folder.iterdir()} == {waited_for, old, new}
    assert older not in {path.name for path in store.inputs.folder.iterdir()}

    assert store.inputs.missing(ClipRequest(mode="still", still=old)) == ()  # counts as used now
    with pytest.raises(ProtocolError) as error:
        put(store, b"x" * 31)
    assert error.value.code == "inputs_full"
    assert {path.name for path in store.inputs.folder.iterdir()} == {waited_for, old, new}
    assert not list(store.inputs.incoming.iterdir())


def test_an_ending_stands_though_the_disk_is_full(store):
    job = str(uuid.uuid4())
    store.submit(job, text_request())
    store.take_next()
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "database or disk is full"
    failed = Failed(job, Problem("disk_full", "–" * 4000, "", "Free some space."))
    assert store.finish(failed)
    assert store._unwritten
    assert not store.finish(Cancelled(job))
    assert store.ending(job) == failed
    store._database.execute("PRAGMA max_page_count = 1000000")
    store.take_next()
    assert not store._unwritten
    assert store.ending(job) == failed


def test_a_full_disk_is_told_as_that():
    assert problem_of(OSError(28, "No space left on device", "x.png")).code == "disk_full"
    assert problem_of(sqlite3.OperationalError("database or disk is full")).code == "disk_full"
    assert problem_of(KeyError("x")).code == "engine_error"
