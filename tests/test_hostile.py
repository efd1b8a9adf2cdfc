"""Hostile and broken clients against a real engine: it stays alive, small, and inside its folders."""

import asyncio
import copy
import json
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from blender_addon import protocol
from blender_addon.protocol import (
    Accepted,
    AskModels,
    Cancelled,
    Done,
    EngineStatus,
    Failed,
    ModelShelf,
    Preview,
    Problem,
    Refused,
    Welcome,
)
from server import app as server_app
from server.app import MAX_CONNECTIONS, App
from server.jobs import JobStore
from server.worker import Worker
from tests.conversation import BOUND_S, Conversation, eventually, running_engine, text_request
from tests.test_protocol import MESSAGES, example

MEMORY_MB = 200
ASKED = sorted(set(MESSAGES) - {"Shutdown"})
TERRIBLE = [
    None, True, -1, 0, 2**31, 2**63, 10**400, 1e308, -0.0, float("nan"), "", "x" * 100_000, "../../etc/passwd",
    "/etc/passwd", "\x00", "\ud800", "é" * 50_000, [], [None], [[]] * 1000, list(range(20_000)), ["../x"] * 300, {},
    {"a": {"b": {}}}, "con", ".", "mini", "musev", "0" * 64,
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def engine(place):
    before = os.environ.get("MUSEV_MODELS")
    os.environ["MUSEV_MODELS"] = str(place / "models")
    with running_engine(place) as process:
        yield process
    os.environ.pop("MUSEV_MODELS")
    if before is not None:
        os.environ["MUSEV_MODELS"] = before


def fine(engine, place):
    """It answers a client that behaves, holds little memory, and wrote nowhere else."""
    talk = Conversation.with_engine(engine)
    talk.client.ask_status()
    talk.until(EngineStatus)
    talk.client.close()
    status = Path(f"/proc/{engine.greeting.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) / 1024 < MEMORY_MB
    assert {path.name for path in place.iterdir() if path.stem != "engine"} <= {"state", "models"}


def say(engine, messages):
    """Send these, and read all that is said until they are seen to: the answers."""

    async def talk():
        headers = {"Authorization": f"Bearer {engine.token}"}
        how = {"subprotocols": [protocol.SUBPROTOCOL], "proxy": None, "compression": None, "max_size": None}
        answers = []
        async with connect(engine.greeting.url, additional_headers=headers, **how) as connection:
            for message in (*messages, '{"type": "AskStatus"}'):  # which raise if the connection ends
                await connection.send(message)
            while not (answers and isinstance(answers[-1], EngineStatus)):
                answers.append(protocol.decode(await connection.recv()))
        return answers

    return asyncio.run(asyncio.wait_for(talk(), BOUND_S))


@st.composite
def mutated(draw):
    """A message as a client might send it, with something wrong in it."""
    header = {"type": draw(st.sampled_from(ASKED))}
    header |= protocol.plain(example(MESSAGES[header["type"]]))
    data = header.pop("data", None)
    for _ in range(draw(st.integers(0, 3))):
        inside = header
        while (inner := [name for name, value in inside.items() if isinstance(value, dict)]) and draw(
            st.booleans()
        ):
            inside = inside[draw(st.sampled_from(inner))]
        names = [*inside, "x" * 5000, "id", "job"]
        name, worse = draw(st.sampled_from(names)), copy.deepcopy(draw(st.sampled_from(TERRIBLE)))
        if name != "type" and draw(st.booleans()):
            inside[name] = worse
        elif name != "type":
            inside.pop(name, None)
    text = json.dumps(header)
    raw = text if data is None else len(text.encode()).to_bytes(4, "little") + text.encode() + data
    match draw(st.sampled_from(["as it is"] * 4 + ["other kind", "cut", "noise", "large"])):
        case "other kind":
            raw = raw.encode() if isinstance(raw, str) else raw.decode(errors="replace")
        case "cut":
            raw = raw[: draw(st.integers(0, len(raw)))]
        case "noise" if isinstance(raw, bytes):
            at = draw(st.integers(0, len(raw) - 1))
            raw = raw[:at] + draw(st.binary(max_size=8)) + raw[at + 1 :]
        case "large" if isinstance(raw, bytes):
            raw += bytes(draw(st.integers(0, 4 * protocol.SLICE_BYTES)))
    return raw


@settings(max_examples=100, deadline=None)
@given(messages=st.lists(mutated(), min_size=1, max_size=12))
def test_no_message_harms_the_engine(engine, place, messages):
    answers = say(engine, messages)
    assert isinstance(answers[0], Welcome)
    assert all(answer.problem.remedy for answer in answers if isinstance(answer, Refused))
    fine(engine, place)


@settings(max_examples=25, deadline=None)
@given(noise=st.binary(min_size=1, max_size=3000), shaken=st.booleans(), leaves=st.booleans())
def test_no_noise_on_the_socket_harms_the_engine(engine, place, noise, shaken, leaves):
    host, port = engine.greeting.url.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), timeout=BOUND_S) as raw:
        if shaken:
            lines = (
                "GET / HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13",
                f"Sec-WebSocket-Protocol: {protocol.SUBPROTOCOL}", f"Authorization: Bearer {engine.token}", "", "",
            )  # fmt: skip
            raw.sendall("\r\n".join(lines).encode())
            assert raw.recv(65536).startswith(b"HTTP/1.1 101")
        raw.sendall(noise)
        if not leaves:
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
    fine(engine, place)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Basic x"}, 401),
        ({"Authorization": "Bearer \xff\xfe"}, 401),
        ({"Sec-WebSocket-Protocol": "\xff, musev.v0"}, 426),
    ],
)
def test_who_may_not_come_in_is_told_and_nothing_else_is(engine, place, headers, status):
    """Also a web page in this machine's own browser, which sends its Origin."""
    host, port = engine.greeting.url.removeprefix("ws://").split(":")
    lines = {
        "Host": f"{host}:{port}", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": protocol.SUBPROTOCOL,
        "Authorization": f"Bearer {engine.token}",
    } | headers  # fmt: skip
    text = "GET / HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    with socket.create_connection((host, int(port)), timeout=BOUND_S) as raw:
        raw.sendall(text.encode("latin-1"))
        answer = b""
        while data := raw.recv(65536):
            answer += data
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert b"Welcome" not in answer and engine.token.encode() not in answer
    fine(engine, place)


def test_many_at_once_are_not_let_in(engine, place):
    async def flood():
        headers = {"Authorization": f"Bearer {engine.token}"}
        how = {"subprotocols": [protocol.SUBPROTOCOL], "proxy": None, "additional_headers": headers}

        async def come():
            try:
                connection = await connect(engine.greeting.url, **how)
                return connection, protocol.decode(await connection.recv())
            except websockets.InvalidStatus as refusal:
                return None, refusal.response.status_code

        came = await asyncio.gather(*(come() for _ in range(3 * MAX_CONNECTIONS)))
        for connection, _ in came:
            if connection is not None:
                await connection.close()
        return [said for _, said in came]

    said = asyncio.run(asyncio.wait_for(flood(), BOUND_S))
    welcome = [each for each in said if isinstance(each, Welcome)]
    refused = [each for each in said if each == 503 or isinstance(each, Refused)]
    assert len(welcome) == MAX_CONNECTIONS and len(welcome) + len(refused) == len(said)
    fine(engine, place)


def test_a_flood_of_jobs_is_bounded_and_all_of_it_can_be_cancelled(engine, place):
    talk = Conversation.with_engine(engine)
    first = talk.submit(text_request("endless"))
    talk.until(Preview, first)
    jobs = [talk.submit(text_request()) for _ in range(protocol.MAX_WAITING + 20)]
    told = (Accepted, Refused)
    eventually(
        lambda: talk.events.extend(talk.client.pump()) or {e.job for e in talk.of_kind(told)} >= set(jobs),
        "answers",
    )
    refused = [event.problem.code for event in talk.of_kind(Refused)]
    assert len(refused) > 20 and set(refused) == {"queue_full"}
    for job in (*jobs, first):  # what runs last: otherwise the next one is made
        talk.client.cancel(job)
    talk.until(Cancelled, count=len(jobs) + 1)
    talk.client.close()
    fine(engine, place)


def test_a_shelf_of_the_longest_words_can_be_told(engine, place):
    """Two hundred models added under long names in any script."""
    told = {
        "role": "lora", "folder": "lora", "file": "x.safetensors", "size": 10**9, "sha256": "0" * 64,
        "about": "風" * 200, "licence": "許" * 200, "licence_url": "https://" + "x" * 490, "commercial": None,
        "stands_for": "", "trigger": "語" * 200,
    }  # fmt: skip
    rows = place / "models" / ".added"
    rows.mkdir(parents=True, exist_ok=True)
    for number in range(200):
        (rows / f"style{number:03}.json").write_text(json.dumps(told))
    talk = Conversation.with_engine(engine)
    talk.client.send(AskModels())
    assert len(talk.until(ModelShelf).models) > 200
    talk.client.close()
    for path in rows.iterdir():
        path.unlink()


# --- in this process -----------------------------------------------------------------------


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """An engine in a thread of this process, so that its disk can be taken away: (its App, its client, `run`, which
    calls a function in that thread)."""
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(server_app, "STORE_RETRY_S", 0.02)
    loop, ready, made = asyncio.new_event_loop(), threading.Event(), {}

    async def serve():
        store = JobStore(tmp_path / "state")
        app = App(store, Worker("tests.engines:by_prompt", store.inputs.folder), "token")
        async with await app.listen("127.0.0.1", 0) as listening:
            made.update(app=app, url=f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            working = asyncio.create_task(app.work())
            ready.set()
            await app.stopped.wait()
            working.cancel()
        await app.stop()
        store.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(BOUND_S)

    def run(function):
        async def call():
            return function()

        return asyncio.run_coroutine_threadsafe(call(), loop).result(BOUND_S)

    talk = Conversation(made["url"], "token")
    talk.until(Welcome)
    yield made["app"], talk, run
    talk.client.close()
    run(made["app"].stopped.set)
    thread.join(BOUND_S)
    loop.close()


touched: list[str] | None = None  # the paths that this process uses, while that is a list


def _note(event, arguments):
    if touched is not None and event.partition(".")[0] in ("open", "os", "shutil", "sqlite3", "subprocess"):
        touched.extend(str(each) for each in arguments[:2])


@pytest.fixture(scope="module")
def audited():
    sys.addaudithook(_note)  # it stays to the end of the process


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(mutated(), min_size=1, max_size=12))
def test_no_path_from_the_wire_is_ever_used(inside, audited, messages):
    global touched
    touched = []
    try:
        _, talk, _ = inside
        answers = say(SimpleNamespace(token="token", greeting=SimpleNamespace(url=talk.client.url)), messages)
        assert isinstance(answers[0], Welcome) and touched
        assert not [path for path in touched if "passwd" in path or ".." in path or "\0" in path]
    finally:
        touched = None


def test_a_frame_that_the_disk_does_not_take_fails_its_clip_alone_and_is_told(inside, monkeypatch):
    _, talk, _ = inside

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("server.jobs._write_whole", full)
        failed = talk.until((Done, Failed), talk.submit(text_request()))
    assert failed.problem.code == "disk_full" and "Free some space" in failed.problem.remedy
    assert talk.until((Done, Failed), talk.submit(text_request())).num_frames == 5


def test_a_journal_that_the_disk_does_not_take_is_told_and_goes_on_when_there_is_room(inside):
    app, talk, run = inside
    first, waiting = talk.submit(text_request("endless")), talk.submit(text_request())
    talk.until(Preview, first)
    database = app.store._database
    pages = run(lambda: database.execute("PRAGMA page_count").fetchone()[0])
    # SQLite's own "database or disk is full"
    run(lambda: database.execute(f"PRAGMA max_page_count = {pages}"))
    late = talk.submit(text_request(negative_prompt="long" * 400, prompts=()))
    large = talk.submit(
        text_request(
            prompts=tuple(protocol.PromptSpan(0, 0, "x" * 2000) for _ in range(protocol.MAX_PROMPTS))
        )
    )
    assert talk.until(Refused, large).problem.code == "disk_full"
    run(lambda: database.execute("PRAGMA max_page_count = 1000000"))
    talk.client.cancel(first)
    assert isinstance(talk.until((Done, Failed), waiting), Done)
    assert talk.until((Done, Failed, Refused), late)

    def full(*_):
        raise server_app.sqlite3.OperationalError("database or disk is full")

    take_next = app.store.take_next
    app.store.take_next = full
    job = talk.submit(text_request())
    problem = eventually(
        lambda: (
            talk.events.extend(talk.client.pump())
            or [event.problem for event in talk.of_kind(Refused) if event.job is None and event.model is None]
        ),
        "trouble",
    )[0]
    assert problem.code == "disk_full" and problem.remedy
    app.store.take_next = take_next
    assert isinstance(talk.until((Done, Failed), job), Done)  # it was not lost


def test_a_worker_that_cannot_be_started_fails_its_clip_alone(inside, monkeypatch):
    _, talk, _ = inside
    with monkeypatch.context() as patched:
        patched.setattr("server.worker.sys.executable", "/nowhere/python")
        failed = talk.until((Done, Failed), talk.submit(text_request()))
    assert failed.problem.code == "file_error"
    assert isinstance(talk.until((Done, Failed), talk.submit(text_request())), Done)


def test_ended_jobs_are_bounded_in_number(tmp_path, monkeypatch):
    monkeypatch.setattr("server.jobs.MAX_ENDED", 10)
    store = JobStore(tmp_path)
    jobs = [f"00000000-0000-0000-0000-{number:012}" for number in range(40)]
    for job in jobs:
        store.submit(job, text_request())
        store.take_next()
        store.add_frame(protocol.FrameReady(job, 0, b"png"))
        store.finish(Cancelled(job))
    known = [job for job in jobs if store.knows(job)]
    assert known == jobs[-len(known) :] and len(known) <= 12
    assert {path.name for path in store.frames.iterdir()} == set(known)
    store.close()


def test_frames_that_clients_have_are_bounded_and_those_that_nobody_fetched_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("server.jobs.MAX_GIVEN_BYTES", 1000)
    store = JobStore(tmp_path)
    jobs = [f"00000000-0000-0000-0000-{number:012}" for number in range(6)]
    for job in jobs:
        store.submit(job, text_request())
        store.take_next()
        store.add_frame(protocol.FrameReady(job, 0, bytes(400)))
        store.finish(Cancelled(job))
    for job in jobs[1:]:
        store.give(job)
        store.give(job)  # to a second client
    assert [job for job in jobs if store.knows(job)] == [jobs[0], *jobs[4:]]
    assert {path.name for path in store.frames.iterdir()} == {jobs[0], *jobs[4:]}
    store.give("00000000-0000-0000-0000-999999999999")  # forgotten meanwhile
    store.close()


def test_jobs_that_another_release_wrote_do_not_keep_the_engine_from_starting(tmp_path, capsys):
    store = JobStore(tmp_path)
    for number, state in enumerate(("queued", "ended")):
        job = f"00000000-0000-0000-0000-{number:012}"
        store.submit(job, text_request())
        if state == "ended":
            store.take_next()
            store.finish(Failed(job, Problem("x", "y")))
    store._database.execute("DROP TRIGGER ended_once")
    store._database.execute("""UPDATE jobs SET request = '{"mode":"dance"}'""")
    store.close()
    store = JobStore(tmp_path)
    assert store.queue().waiting == () and store.listing().total == 0
    assert "can't be read, and is forgotten" in capsys.readouterr().err
    store.close()
