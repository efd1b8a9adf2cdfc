"""The client, pumped without waiting, against real engines, strangers and silence."""

import os
import socket
import sys
import uuid

import pytest

from blender_addon import client, protocol
from blender_addon.client import ClientState, ConnectionLost, EngineClient
from blender_addon.engine_address import is_loopback
from blender_addon.engine_process import EngineProcess, EngineStartError
from blender_addon.protocol import (
    ClipRequest,
    Done,
    FrameReady,
    NeedBlobs,
    ProtocolError,
    Welcome,
    blob_sha256,
)
from tests.conversation import Conversation, eventually, running_engine, text_request


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with running_engine(tmp_path_factory.mktemp("engine")) as process:
        yield process


@pytest.fixture
def stranger():
    """A socket that listens and is no engine; call it to say something to the first who comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def lost(url, token="token"):
    return Conversation(url, token).until(ConnectionLost).problem


def test_a_clip_arrives(engine):
    talk = Conversation.with_engine(engine)
    still = os.urandom(3 * protocol.SLICE_BYTES)
    request = ClipRequest(mode="still", prompt="paint", still=blob_sha256(still), num_frames=4)
    job = talk.submit(request, {request.still: still})
    talk.until(Done, job)
    assert [frame.frame for frame in talk.of(FrameReady, job)] == [0, 1, 2, 3]
    assert talk.client.longest_tick_s > 0
    talk.client.close()


def test_an_upload_is_stopped_by_cancel(engine):
    talk = Conversation.with_engine(engine)
    still = os.urandom(40 * protocol.SLICE_BYTES)
    request = ClipRequest(mode="still", prompt="paint", still=blob_sha256(still))
    job = talk.submit(request, {request.still: still})
    talk.until(NeedBlobs, job, budget_s=0)  # the least a tick does: nothing is sent yet
    assert talk.client.uploading
    talk.client.cancel(job)
    assert not talk.client.uploading
    talk.until(protocol.Cancelled, job)
    talk.until(Done, talk.submit(text_request()))
    assert not talk.of(FrameReady, job)
    talk.client.close()


def test_an_input_that_the_engine_does_not_take_ends_the_job_with_its_reason(engine):
    talk = Conversation.with_engine(engine)
    name = blob_sha256(os.urandom(100))
    job = talk.submit(ClipRequest(mode="still", still=name), {name: b"something else"})
    problem = talk.until(protocol.Refused, job).problem
    assert problem.code == "bad_upload" and "not what its sha256 says" in problem.message
    talk.until(Done, talk.submit(text_request()))
    talk.client.close()


def test_a_wrong_token_is_told(engine):
    problem = lost(engine.greeting.url, "guess")
    assert problem.code == "bad_token"
    assert "token" in problem.remedy


def test_another_version_is_told(engine, monkeypatch):
    monkeypatch.setattr(protocol, "SUBPROTOCOL", "musev.v99")
    problem = lost(engine.greeting.url, engine.token)
    assert (problem.code, problem.value) == ("protocol_mismatch", "musev.v99")
    assert "Update" in problem.remedy


def test_nobody_there_is_told(stranger):
    port = stranger.getsockname()[1]
    stranger.close()
    problem = lost(f"ws://127.0.0.1:{port}")
    assert problem.code == "engine_unreachable"
    assert str(port) in problem.value


def test_a_stranger_is_told_from_an_engine(stranger):
    talk = Conversation(f"ws://127.0.0.1:{stranger.getsockname()[1]}", "token")
    eventually(lambda: talk.client.pump() or talk.client._linked, "link")
    with stranger.accept()[0] as other:
        other.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        assert talk.until(ConnectionLost).problem.code == "not_an_engine"
    talk = Conversation(f"ws://127.0.0.1:{stranger.getsockname()[1]}", "token")
    eventually(lambda: talk.client.pump() or talk.client._linked, "link")
    with stranger.accept()[0] as other:
        other.sendall(b"220 mail.example ESMTP\r\n")
        assert talk.until(ConnectionLost).problem.code == "not_an_engine"


def test_silence_is_told_after_a_while(stranger, monkeypatch):
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.05)
    assert lost(f"ws://127.0.0.1:{stranger.getsockname()[1]}").code == "engine_unreachable"


def test_an_engine_that_dies_is_told_and_the_client_can_connect_again(tmp_path):
    with running_engine(tmp_path) as process:
        talk = Conversation.with_engine(process)
        process.kill()
        assert talk.until(ConnectionLost).problem.code == "connection_lost"
        assert talk.client.state is ClientState.CLOSED
    with pytest.raises(ProtocolError, match="Start the engine"):
        talk.client.cancel(str(uuid.uuid4()))
    with running_engine(tmp_path) as process:
        talk.client.connect(process.greeting.url, process.token)
        talk.until(Welcome, count=2)
        assert talk.client.state is ClientState.OPEN


def test_nothing_is_sent_without_its_inputs(engine):
    talk = Conversation.with_engine(engine)
    with pytest.raises(ProtocolError, match="missing"):
        talk.submit(ClipRequest(mode="still", still="ab" * 32))
    with pytest.raises(ProtocolError, match="smaller"):
        talk.submit(ClipRequest(mode="still", still="ab" * 32), {"ab" * 32: b""})
    talk.client.close()


@pytest.mark.parametrize(
    "url", ["wss://h:1", "ws://h", "http://h:1", "ws://u:p@h:1", "ws://h:1/x", "ws://h:x", "", "["]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(ProtocolError, match="ws://HOST:PORT"):
        EngineClient().connect(url, "token")


def test_loopback_is_known():
    assert is_loopback("ws://127.0.0.1:9") and is_loopback("ws://[::1]:9") and is_loopback("ws://localhost:9")
    assert not is_loopback("ws://192.168.1.2:9") and not is_loopback("ws://127.0.0.1.example:9")


# --- the engine as a child ----------------------------------------------------------------------------


def start_error(command, folder):
    with pytest.raises(EngineStartError) as error:
        process = EngineProcess(command, folder)
        eventually(process.read_greeting, "greeting")
    return error.value.problem


def test_an_engine_that_does_not_start_is_told(tmp_path):
    python = [sys.executable, "-c"]
    assert start_error(["/no/such/program"], tmp_path).code == "engine_not_started"
    assert start_error([], tmp_path).code == "engine_not_started"
    died = start_error(
        [*python, "import sys; print('no torch here', file=sys.stderr); sys.exit(3)"], tmp_path
    )
    assert (died.code, "status 3" in died.message, "no torch here" in died.remedy) == (
        "engine_not_started",
        True,
        True,
    )
    assert start_error([*python, "print('hello')"], tmp_path).code == "not_an_engine"
    newer = start_error([*python, """print('{"protocol_version": 99, "socket": "x"}')"""], tmp_path)
    assert (newer.code, newer.value) == ("protocol_mismatch", "99")


def test_an_engine_is_started_and_stopped(tmp_path):
    with running_engine(tmp_path) as process:
        assert process.alive
        assert process.greeting.pid == process.pid
        process.stop()
        eventually(lambda: not process.alive, "end of the engine")
