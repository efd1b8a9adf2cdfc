"""A model's file whose way to the engine is cut off goes on where it stopped, and is never mixed with another."""

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blender_addon.protocol import AddModel, ModelProgress, ModelSlice, Refused, SendModel
from musev_engine import added, registry
from server import shelf
from tests import model_files
from tests.conversation import Conversation, eventually, running_engine
from tests.test_adding import add, ended, large_lora, left

MEGABYTES = 24


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def engine(root, tmp_path):
    with running_engine(tmp_path) as process:
        yield process


def noisy_lora(path, megabytes=MEGABYTES, seed=0):
    """A LoRA of which every byte after the header is drawn from `seed`."""
    large_lora(path, megabytes)
    size, header = path.stat().st_size, path.stat().st_size - megabytes * 2**20 - 4
    with path.open("r+b") as file:
        file.seek(header)
        file.write(random.Random(seed).randbytes(size - header))
    return path


def send(talk, at, id="style"):
    """Pump until so many bytes have left, or the end of it was told."""

    def look():
        talk.events += talk.client.pump(0.0)
        return id not in talk.client.adding or talk.client._uploads.files[id].at >= at

    eventually(look, f"{at} bytes sent")


def cut(talk, at, id="style"):
    send(talk, at, id)
    talk.client.close()


def is_idle(root, id, size):
    """Whether nobody is at work on a file: it is there, or not whole."""
    if (root / ".locks" / id).exists():
        return False
    try:
        return id in registry.added_files() or part(root, id) is None or part(root, id).stat().st_size < size
    except FileNotFoundError:  # it has just been settled
        return False


def asked(talk):
    return [event.offset for event in talk.events if isinstance(event, SendModel)]


def part(root, id="style"):
    folder = root / registry.INCOMING / f"{id}.added"
    return next((path for path in folder.glob("model.*")), None)


def again(talk, process):
    talk.client.connect(process.greeting.url, process.token)


def test_a_file_goes_on_by_itself_when_the_connection_is_back(engine, root, tmp_path):
    path = noisy_lora(tmp_path / "in.safetensors")
    other, talk = Conversation.with_engine(engine), Conversation.with_engine(engine)
    add(talk, path, title="Ink")
    cut(talk, 8 * 2**20)
    failed = ended(other)  # who looks on is told, with the remedy
    assert (failed.state, failed.problem.code) == ("failed", "connection_lost")
    assert "goes on from there" in failed.problem.remedy
    here = part(root).stat().st_size
    assert 0 < here < path.stat().st_size
    again(talk, engine)
    assert ended(talk).state == "done"
    assert asked(talk) == [0, here]
    assert registry.find("style").read_bytes() == path.read_bytes() and registry.model("style").about == "Ink"
    assert left(root) == [".added/style.json", "lora/style.safetensors"]
    assert not talk.client.adding
    other.client.close()


def test_a_file_goes_on_after_engine_and_client_were_killed(root, tmp_path):
    path = noisy_lora(tmp_path / "in.safetensors")
    with running_engine(tmp_path) as process:
        talk = Conversation.with_engine(process)
        add(talk, path)
        send(talk, 12 * 2**20)
        process.kill()
        eventually(lambda: not process.alive, "end of the engine")
    here = part(root).stat().st_size
    with running_engine(tmp_path, tmp_path / "another") as process:
        talk = Conversation.with_engine(process)
        add(talk, path, licence="CC-BY 4.0")
        assert ended(talk).state == "done" and asked(talk) == [here] and here > 4 * 2**20
        assert registry.find("style").read_bytes() == path.read_bytes()
        assert registry.model("style").licence == "CC-BY 4.0"  # what was said last
        talk.client.close()


def test_an_engine_that_is_shut_down_keeps_what_has_come(root, tmp_path):
    path = noisy_lora(tmp_path / "in.safetensors")
    with running_engine(tmp_path) as process:
        talk = Conversation.with_engine(process)
        add(talk, path)
        send(talk, 8 * 2**20)
        talk.client.shut_down_engine()
        talk.client.pump()
        eventually(lambda: talk.client.pump(0.0) is None or not process.alive, "end of the engine")
    assert 0 < part(root).stat().st_size < path.stat().st_size


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3 * 2**20), st.sampled_from(["same", "other end", "other begin", "shorter"])),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_whatever_happens_the_file_that_was_sent_last_is_the_one_that_is_there(engine, root, tmp_path, steps):
    """Cut anywhere, any number of times, the file replaced in between by another of its name."""
    path, id = noisy_lora(tmp_path / "in.safetensors", 3), f"style{len(registry.added_files())}"
    for at, change in steps:
        talk = Conversation.with_engine(engine)
        add(talk, path, id)
        cut(talk, at, id)
        size = path.stat().st_size
        eventually(lambda size=size: is_idle(root, id, size), "end of the upload")
        if id in registry.added_files():
            break  # it had come whole
        if change == "shorter":
            noisy_lora(path, 2)
        elif change != "same":
            with path.open("r+b") as file:
                file.seek(-9 if change == "other end" else 600, os.SEEK_END if change == "other end" else 0)
                file.write(os.urandom(9))
    talk = Conversation.with_engine(engine)
    while id not in registry.added_files():
        add(talk, path, id)
        eventually(lambda: talk.events.extend(talk.client.pump()) or not talk.client.adding, "end of it")
        # a connection that was cut at once may be heard of only now
        assert {event.problem.code for event in talk.of_kind(Refused)} <= {"model_busy"}
        assert not [event for event in talk.of_kind(ModelProgress) if event.state == "cancelled"]
    assert registry.find(id).read_bytes() == path.read_bytes()
    talk.client.close()


def test_a_file_that_changes_while_it_is_sent_is_told_and_dropped(engine, root, tmp_path):
    path = noisy_lora(tmp_path / "in.safetensors")
    talk = Conversation.with_engine(engine)
    add(talk, path)
    send(talk, 2**20)
    with path.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"otherwise")
    os.utime(path, (0, 0))
    refused = talk.until(Refused)
    assert refused.model == "style" and "changed while it was sent" in refused.problem.message
    assert ended(talk).state == "cancelled"
    eventually(lambda: left(root) == [], "empty folder")


def test_a_client_that_was_cut_off_before_it_heard_the_end_hears_it(engine, root, tmp_path):
    path = noisy_lora(tmp_path / "in.safetensors", 2)
    talk = Conversation.with_engine(engine)
    add(talk, path)
    cut(talk, path.stat().st_size)
    assert talk.client.adding == ("style",)  # for all it knows
    eventually(lambda: registry.added_files() and not (root / ".locks" / "style").exists(), "the model")
    again(talk, engine)
    assert ended(talk).state == "done" and not talk.client.adding
    assert not [event for event in talk.events if isinstance(event, Refused)]
    other = noisy_lora(tmp_path / "other.safetensors", 2, seed=1)
    add(talk, other)  # another file is not taken for it
    assert talk.until(Refused).problem.code == "name_taken"


def test_who_comes_back_while_the_old_connection_hangs_takes_its_file_over(engine, root, tmp_path):
    path = noisy_lora(tmp_path / "in.safetensors")
    hangs, talk = Conversation.with_engine(engine), Conversation.with_engine(engine)
    add(hangs, path)
    send(hangs, 4 * 2**20)
    add(talk, path)
    assert ended(talk).state == "done" and asked(talk)[0] > 0
    assert registry.find("style").read_bytes() == path.read_bytes()
    hangs.client.close()


def test_another_file_under_the_name_of_one_that_broke_off_begins_anew(engine, root, tmp_path):
    talk = Conversation.with_engine(engine)
    add(talk, noisy_lora(tmp_path / "in.safetensors"))
    cut(talk, 4 * 2**20)
    small = model_files.write(tmp_path / "small.safetensors", model_files.lora())
    talk = Conversation.with_engine(engine)
    eventually(lambda: not (root / ".locks" / "style").exists(), "end of the upload")
    add(talk, small)
    eventually(lambda: talk.events.extend(talk.client.pump()) or not talk.client.adding, "end of it")
    assert asked(talk) == [0]
    assert registry.find("style").read_bytes() == small.read_bytes()


def test_another_hosts_engine_gets_nothing_of_it(engine, root, tmp_path):
    talk = Conversation.with_engine(engine)
    add(talk, noisy_lora(tmp_path / "in.safetensors"))
    cut(talk, 2**20)
    talk.client.connect(engine.greeting.url.replace("127.0.0.1", "localhost"), engine.token)
    assert not talk.client.adding


def test_a_cancelled_file_does_not_come_back(engine, root, tmp_path):
    talk = Conversation.with_engine(engine)
    add(talk, noisy_lora(tmp_path / "in.safetensors"))
    send(talk, 2**20)
    talk.client.cancel_model("style")
    assert ended(talk).state == "cancelled"
    eventually(lambda: left(root) == [], "empty folder")
    talk.client.close()
    again(talk, engine)
    talk.client.pump()
    assert not talk.client.adding


def test_files_on_their_way_are_bounded_in_number(engine, root, tmp_path):
    talk = Conversation.with_engine(engine)
    for number in range(shelf.MAX_ARRIVALS + 1):
        talk.client.send(AddModel(f"style{number}", ".safetensors", 2**20))
    assert talk.until(Refused).problem.code == "too_many_models"
    eventually(
        lambda: talk.events.extend(talk.client.pump()) or len(asked(talk)) == shelf.MAX_ARRIVALS, "asking"
    )
    talk.client.send(ModelSlice("style0", 0, b"\xff" * 8))
    assert ended(talk, id="style0").problem.code == "bad_model"  # the others are still seen to


def test_what_is_promised_to_others_counts_as_taken(root, tmp_path):
    free = os.statvfs(tmp_path)
    with pytest.raises(registry.EngineError) as told:
        added.begin(added.Wanted("style", ".safetensors", 1000), promised=free.f_bavail * free.f_frsize)
    assert told.value.code == "disk_full" and left(root) == []


def test_of_what_broke_off_only_the_newest_few_are_kept(root, monkeypatch):
    monkeypatch.setattr(added, "MAX_KEPT", 2)
    for number in range(4):
        path = added.begin(added.Wanted(f"style{number}", ".safetensors", 1000))
        path.write_bytes(b"some")
        for told in (path, path.parent / added.TOLD, path.parent):
            os.utime(told, (path.stat().st_mtime - 100 + number,) * 2)
    added.forget_old()
    assert sorted(folder.stem for folder in (root / registry.INCOMING).iterdir()) == ["style2", "style3"]
