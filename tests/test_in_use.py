"""Models that somebody uses, or is at work on: not removed, changed or verified meanwhile by anybody else."""

import subprocess
import sys
from pathlib import Path

import pytest

from blender_addon.protocol import (
    Accepted,
    Cancelled,
    DownloadModel,
    LoraChoice,
    ModelProgress,
    Progress,
    Refused,
    RemoveModel,
)
from musev_engine import locks, registry
from server import cli, in_use
from tests import model_files
from tests.conversation import Conversation, eventually, running_engine, text_request
from tests.test_adding import add, ended, left
from tests.test_resuming import noisy_lora, send
from tests.test_shelf import CANNY, LICENCE, hub  # noqa: F401 (a fixture)

ROOT = Path(__file__).parent.parent
BUSY = 8


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def musev(capsys):
    def run(*words):
        status = cli.main(["models", *map(str, words)])
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def engine(root, tmp_path):
    with running_engine(tmp_path) as process:
        yield process


def test_a_model_that_any_engine_needs_is_not_removed_by_another_or_a_command(engine, root, tmp_path, musev):
    talk = Conversation.with_engine(engine)
    for name in ("style", "other"):
        add(talk, model_files.mini_lora(tmp_path / f"{name}.safetensors"), name)
        assert ended(talk, id=name).state == "done"
    running = talk.submit(text_request("endless", loras=(LoraChoice("style", 0.5),)))
    talk.until(Progress, running)
    waiting = talk.submit(text_request("paint", loras=(LoraChoice("other"),)))
    talk.until(Accepted, waiting)
    with running_engine(tmp_path, tmp_path / "second") as process:
        second = Conversation.with_engine(process)
        for count, (name, said) in enumerate(
            (("style", "a clip that is being made"), ("other", "1 clip in the queue")), start=1
        ):
            status, told = musev("remove", name, "--yes")
            assert status == BUSY and said in told and "cancel them in Blender" in told
            second.client.send(RemoveModel(name))
            problem = second.until(Refused, count=count).problem
            assert problem.code == "model_in_use" and said in problem.message
            assert registry.installed(name)
        talk.client.cancel(waiting)
        talk.until(Cancelled, waiting)
        second.client.send(RemoveModel("other"))
        assert ended(second, id="other").state == "done" and not registry.added_files().get("other")
        second.client.close()
    engine.kill()  # its clip may run again, but nobody can tell when
    eventually(lambda: not engine.alive, "end of the engine")
    assert musev("remove", "style", "--yes")[0] == 0
    assert left(root) == [] and not list((root / in_use.ENGINES).iterdir())


def test_an_engine_whose_queue_cannot_be_read_is_taken_to_need_it(root, tmp_path, musev):
    model_files.write(root / "lora" / "x.safetensors", model_files.lora())
    engine = in_use.InUse(tmp_path / "nowhere" / "jobs.sqlite")
    engine.tell()
    with pytest.raises(registry.EngineError, match="can't be read") as told:
        in_use.check("style")
    assert told.value.code == "model_in_use"
    engine.close()
    in_use.check("style")


def test_a_command_keeps_off_a_model_that_an_engine_downloads(hub, engine, musev):  # noqa: F811
    hub.cut, hub.stalls = 3_000_000, True
    talk = Conversation.with_engine(engine)
    talk.client.send(DownloadModel(CANNY, LICENCE))

    def halfway():
        talk.events += talk.client.pump(0.004)
        return [e for e in talk.events if isinstance(e, ModelProgress) and e.done_bytes > 1_000_000]

    eventually(halfway, "bytes")
    for words in (["verify", CANNY], ["download", CANNY, "--accept-licence", "--endpoint", hub.url]):
        status, told = musev(*words)
        assert status == BUSY and f"{CANNY}" in told and "being downloaded by process" in told, told
        assert "Wait until that is done, or stop it there" in told
    hub.mend()
    with pytest.raises(registry.EngineError) as told, locks.hold(registry.models_folder(), "musev", "mended"):
        registry.verify("musev")
    assert told.value.code == "model_busy"


def test_a_command_keeps_off_a_name_under_which_a_file_arrives(engine, root, tmp_path, musev):
    talk = Conversation.with_engine(engine)
    path = noisy_lora(tmp_path / "in.safetensors")
    add(talk, path)
    send(talk, 2**20)
    status, told = musev("add", path, "--name", "style")
    assert status == BUSY and "on its way to an engine" in told
    assert ended(talk).state == "done" and registry.find("style").read_bytes() == path.read_bytes()


def test_an_engine_keeps_off_a_model_that_a_command_is_at(engine, root, tmp_path):
    talk = Conversation.with_engine(engine)
    path = model_files.write(tmp_path / "in.safetensors", model_files.lora())
    with locks.hold(root, "style", "being added"):
        add(talk, path)
        assert talk.until(Refused).problem.code == "model_busy"
    add(talk, path)
    assert ended(talk).state == "done"
    with locks.hold(root, "style", "being verified"):
        talk.client.send(RemoveModel("style"))
        failed = ended(talk, 2)
        assert (failed.state, failed.problem.code) == ("failed", "model_busy")
    assert registry.installed("style")


# --- locks ------------------------------------------------------------------------------------------------


def test_a_lock_goes_with_its_process(root):
    code = (
        "import sys; from pathlib import Path; from musev_engine import locks;"
        "kept = locks.hold(Path(sys.argv[1]), 'style', 'being held'); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(root)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(registry.EngineError, match=f"being held by process {holder.pid}"):
            locks.hold(root, "style", "being tried")
        with pytest.raises(registry.EngineError, match="being held"):
            locks.check_free(root, "style")
        locks.check_free(root, "other")
    finally:
        holder.kill()
        holder.wait()
    assert (root / locks.LOCKS / "style").exists()  # nobody took it away
    locks.check_free(root, "style")
    locks.hold(root, "style", "being tried").close()
    assert not list((root / locks.LOCKS).iterdir())


def test_one_process_at_a_time_has_a_lock(tmp_path):
    """Many that take it and let it go at once: whoever has it is alone with a file that only one can make."""
    code = (
        "import os, sys; from pathlib import Path; from musev_engine import locks; had = 0\n"
        "while had < 200:\n"
        "    mine = locks.lock(Path('lock'))\n"
        "    if mine is not None:\n"
        "        os.close(os.open('alone', os.O_CREAT | os.O_EXCL)); os.unlink('alone')\n"
        "        mine.close(); had += 1\n"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    fighters = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [fighter.communicate()[1] for fighter in fighters] == [""] * 4


def test_a_disk_that_knows_no_locks_is_gone_without(root, monkeypatch):
    def unable(file):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "_lock", unable)
    with locks.hold(root, "style", "being added"):
        assert locks.noted(root / locks.LOCKS / "style") is None
