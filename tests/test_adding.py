"""Models added over the wire: sent in slices, refused early, whole in the models folder or not at all; none is removed
while a clip needs it."""

import json
import struct
import sys
from pathlib import Path

import pytest

from blender_addon import protocol
from blender_addon.protocol import (
    Accepted,
    AddModel,
    AskModels,
    Cancelled,
    EngineStatus,
    LoraChoice,
    ModelProgress,
    ModelShelf,
    ModelSlice,
    Progress,
    Refused,
    RemoveModel,
    SendModel,
)
from musev_engine import registry
from server import in_use
from tests import model_files
from tests.conversation import Conversation, eventually, running_engine, text_request
from tests.model_files import write
from tests.test_registry import put

ENDED = ("done", "failed", "cancelled")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def talk(root, tmp_path):
    with running_engine(tmp_path) as process:
        conversation = Conversation.with_engine(process)
        conversation.process = process
        yield conversation
        conversation.client.close()


def large_lora(path, megabytes):
    """A LoRA of which most is one tensor of zeros, on the disk as a hole."""
    key = "lora_unet_mid_block_attentions_0_proj_in.lora_{}.weight"
    size = megabytes * 2**20
    header = {
        key.format("down"): {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]},
        key.format("up"): {"dtype": "U8", "shape": [size], "data_offsets": [4, 4 + size]},
    }
    begin = model_files.safetensors_bytes(header)
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(len(begin) + 4 + size)
    return path


def add(talk, path, id="style", size=None, **told):
    wanted = AddModel(id, path.suffix, path.stat().st_size if size is None else size, **told)
    talk.client.add_model(wanted, path)


def ended(talk, count=1, id="style"):
    def look():
        talk.events += talk.client.pump(0.004)
        found = [e for e in talk.events if isinstance(e, ModelProgress) and e.id == id and e.state in ENDED]
        return found[count - 1 : count]

    return eventually(look, f"end of it, only {talk.events[-8:]}")[0]


def halfway(talk, id="style"):
    def look():
        talk.events += talk.client.pump(0.004)
        return [e for e in talk.events if isinstance(e, ModelProgress) and e.id == id and e.done_bytes]

    return eventually(look, "bytes")[0]


def left(root):
    """The files in the models folder, but for what engines leave word in."""
    files = [path for path in root.rglob("*") if path.is_file() and path.parent.name != in_use.ENGINES]
    return sorted(str(path.relative_to(root)) for path in files)


def shelf(talk):
    count = len([event for event in talk.events if isinstance(event, ModelShelf)])
    talk.client.send(AskModels())
    return {model.id: model for model in talk.until(ModelShelf, count=count + 1).models}


def test_a_file_arrives_is_told_to_all_and_can_be_used_verified_and_removed(talk, root, tmp_path):
    path = write(tmp_path / "in.safetensors", model_files.lora(), {"modelspec.trigger_phrase": "in ink"})
    other = Conversation.with_engine(talk.process)
    add(talk, path, licence="CC-BY 4.0", commercial=True, title="Ink")
    done = ended(talk)
    assert (done.state, done.action, done.done_bytes) == ("done", "add", path.stat().st_size), done
    told = {model.id: model for model in other.until(ModelShelf).models}["style"]  # without having asked
    assert (told.role, told.title, told.licence, told.commercial) == ("lora", "Ink", "CC-BY 4.0", True)
    assert (told.installed, told.removable, told.added, told.trigger, told.url) == (
        True,
        True,
        True,
        "in ink",
        "",
    )
    assert registry.find("style").read_bytes() == path.read_bytes()
    assert left(root) == [".added/style.json", "lora/style.safetensors"]
    talk.client.send(protocol.VerifyModel("style"))
    assert ended(talk, 2).intact is True
    talk.client.send(protocol.DownloadModel("style", "CC-BY 4.0"))
    assert talk.until(Refused).problem.code == "not_on_hub"
    talk.client.send(RemoveModel("style"))
    assert ended(talk, 3).state == "done" and left(root) == [] and "style" not in shelf(talk)
    other.client.close()


def test_a_pickled_one_is_looked_into_when_it_is_whole(talk, root, tmp_path):
    add(talk, write(tmp_path / "in.pt", model_files.words()), "badhands")
    assert ended(talk, id="badhands").state == "done"
    assert shelf(talk)["badhands"].role == "embedding" and shelf(talk)["badhands"].trigger == "badhands"


def test_a_wrong_kind_is_refused_from_its_header_before_the_rest_has_come(talk, root, tmp_path):
    key = "lora_unet_a_attn2_to_k.lora_down.weight"
    rest = {"b": {"dtype": "U8", "shape": [2**34 - 4096], "data_offsets": [8192, 8192 + 2**34 - 4096]}}
    header = {key: {"dtype": "F16", "shape": [2, 2048], "data_offsets": [0, 8192]}} | rest
    begin = model_files.safetensors_bytes(header)
    path = tmp_path / "in.safetensors"
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(len(begin) + 8192 + 2**34 - 4096)
    if path.stat().st_size > protocol.MAX_MODEL_BYTES:
        with pytest.raises(protocol.ProtocolError, match="size"):
            AddModel("style", ".safetensors", path.stat().st_size)
    header["b"] |= {"shape": [2**26], "data_offsets": [8192, 8192 + 2**26]}
    begin = model_files.safetensors_bytes(header)
    with path.open("r+b") as file:
        file.write(begin)
        file.truncate(len(begin) + 8192 + 2**26)
    add(talk, path)
    failed = ended(talk)
    assert failed.state == "failed" and failed.problem.code == "wrong_kind"
    assert "a LoRA for Stable Diffusion XL" in failed.problem.value and "Needed is" in failed.problem.remedy
    assert not talk.client.adding and failed.done_bytes < 2**26
    assert left(root) == []
    talk.client.ask_status()
    talk.until(EngineStatus)


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"id": "mini"}, "name_taken"), ({"id": "musev"}, "name_taken"), ({"id": "x" * 41}, "bad_name")],
)
def test_a_name_that_will_not_do_is_refused_and_nothing_is_sent(talk, root, tmp_path, fields, code):
    add(talk, large_lora(tmp_path / "in.safetensors", 64), **fields)
    refused = talk.until(Refused)
    assert (refused.problem.code, refused.model) == (code, fields["id"]) and refused.problem.remedy
    assert not talk.client.adding and left(root) == []


def test_a_cancelled_one_leaves_nothing_and_the_name_is_free(talk, root, tmp_path):
    path = large_lora(tmp_path / "in.safetensors", 128)
    add(talk, path)
    seen = halfway(talk)
    assert 0 < seen.done_bytes <= seen.total_bytes == path.stat().st_size
    talk.client.cancel_model("style")
    assert ended(talk).state == "cancelled"
    eventually(lambda: left(root) == [], "empty folder")
    add(talk, write(tmp_path / "small.safetensors", model_files.lora()))
    assert ended(talk, 2).state == "done"


def test_a_file_that_becomes_shorter_is_told_and_dropped(talk, root, tmp_path):
    path = large_lora(tmp_path / "in.safetensors", 8)
    add(talk, path, size=path.stat().st_size + 1000)
    # its header says another size than it is told to have
    assert "should have" in ended(talk).problem.message and left(root) == []
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(2 * 2**20)
    add(talk, path, size=size)
    refused = talk.until(Refused)
    assert refused.model == "style" and "ends after" in refused.problem.message
    assert ended(talk, 2).state == "cancelled" and left(root) == []


def test_slices_out_of_order_or_of_nothing_are_no_harm(talk, root, tmp_path):
    whole = write(tmp_path / "in.safetensors", model_files.lora()).read_bytes()
    digest = protocol.blob_sha256(whole)
    talk.client.send(ModelSlice("style", 0, b"abc"))  # of nothing

    def send(size, *slices):
        talk.client.send(AddModel("style", ".safetensors", size))
        talk.until(SendModel, count=1 + sum(isinstance(event, SendModel) for event in talk.events))
        for piece in slices:
            talk.client.send(piece)

    for count, (code, size, *slices) in enumerate(
        (
            ("bad_upload", len(whole), ModelSlice("style", 5, b"abc")),
            ("bad_upload", len(whole), ModelSlice("style", 0, whole + b"more", digest)),
            ("bad_upload", len(whole), ModelSlice("style", 0, whole)),  # says not what it should be
            ("bad_model", len(whole), ModelSlice("style", 0, whole, "0" * 64)),
            (
                "bad_model",
                2**20,
                ModelSlice("style", 0, struct.pack("<Q", 2**19)),
                ModelSlice("style", 8, b"[" * 2**19),
            ),
        ),
        start=1,
    ):
        send(size, *slices)
        assert ended(talk, count).problem.code == code, slices
        eventually(lambda: left(root) == [], "empty folder")


def test_other_things_go_on_while_a_large_file_arrives(talk, root, tmp_path):
    add(talk, large_lora(tmp_path / "in.safetensors", 200))
    job = talk.submit(text_request())
    talk.until(protocol.Done, job)
    assert not [e for e in talk.events if isinstance(e, ModelProgress) and e.state in ENDED]  # it still comes
    assert ended(talk).state == "done"


def test_a_large_file_is_never_held_in_memory(talk, root, tmp_path):
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    status = Path(f"/proc/{talk.process.greeting.pid}/status")

    def peak():
        return int(status.read_text().partition("VmHWM:")[2].split()[0])

    before = peak()
    add(talk, large_lora(tmp_path / "in.safetensors", 300))
    assert ended(talk).state == "done"
    assert (peak() - before) / 1024 < 60  # MB


def test_a_lora_that_does_not_fit_is_refused_before_the_clip_is_queued(talk, root, tmp_path):
    add(talk, write(tmp_path / "in.safetensors", model_files.lora()))
    ended(talk)
    job = talk.submit(text_request(loras=(LoraChoice("style"),)))
    refused = talk.until(Refused, job)
    assert refused.problem.code == "wrong_kind" and "made for Stable Diffusion 1.5" in refused.problem.message
    job = talk.submit(text_request(loras=(LoraChoice("nothing"),)))
    assert talk.until(Refused, job).problem.code == "unknown_model"
    assert json.loads((root / ".added" / "style.json").read_text())["role"] == "lora"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_base_model_is_to_be_chosen_at_once_and_says_its_licence(talk, root, tmp_path, suffix):
    put(root, "musev")
    add(
        talk,
        write(tmp_path / f"in{suffix}", model_files.base()),
        "my.own",
        licence="CreativeML OpenRAIL-M",
    )
    ended(talk, id="my.own")
    talk.client.send(AskModels())
    (ready,) = [model for model in talk.until(ModelShelf).ready if model.source != "shipped"]
    assert ready.name == "musev.my.own"
    assert ready.licence == "non-commercial research only and CreativeML OpenRAIL-M"
    again = Conversation.with_engine(talk.process)
    assert "musev.my.own" in [model.name for model in again.client.welcome.models]
    again.client.close()


def test_a_model_in_use_is_not_removed(talk, root, tmp_path):
    for name in ("style", "other"):
        add(talk, model_files.mini_lora(tmp_path / f"{name}.safetensors"), name)
        ended(talk, id=name)
    running = talk.submit(text_request("endless", loras=(LoraChoice("style", 0.5),)))
    talk.until(Progress, running)
    waiting = talk.submit(text_request("paint", loras=(LoraChoice("other"),)))
    talk.until(Accepted, waiting)
    for count, (name, said) in enumerate(
        (("style", "a clip that is being made"), ("other", "1 clip in the queue")), start=1
    ):
        talk.client.send(RemoveModel(name))
        refused = talk.until(Refused, count=count)
        assert (refused.problem.code, refused.model) == ("model_in_use", name)
        assert said in refused.problem.message and "cancel" in refused.problem.remedy
        assert registry.installed(name)
    talk.client.cancel(waiting)
    talk.until(Cancelled, waiting)
    talk.client.send(RemoveModel("other"))
    assert ended(talk, 2, "other").state == "done" and not (root / "lora" / "other.safetensors").exists()
    talk.client.cancel(running)
    talk.until(Cancelled, running)
    talk.client.send(RemoveModel("style"))
    assert ended(talk, 2).state == "done"
