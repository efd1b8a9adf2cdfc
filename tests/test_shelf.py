"""Models over the wire: told, downloaded from a hub on this machine, verified and removed."""

import random

import pytest

from blender_addon.protocol import (
    AskModels,
    CancelModel,
    DownloadModel,
    Menus,
    ModelProgress,
    ModelShelf,
    Refused,
    RemoveModel,
    VerifyModel,
)
from musev_engine import known_models, registry
from tests.conversation import Conversation, eventually, running_engine, serve_command
from tests.local_hub import LocalHub

CANNY = "control_v11p_sd15_canny"
LICENCE = "OpenRAIL"
WEIGHTS = random.Random(0).randbytes(5_000_000)
ENDED = ("done", "failed", "cancelled")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, and an empty models folder; engines that are started now use them."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = {"config.json": b"{}", "diffusion_pytorch_model.fp16.safetensors": WEIGHTS}
    served = LocalHub({f"lllyasviel/{CANNY}": files})
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    yield served
    served.mend()
    served.close()


@pytest.fixture
def talk(hub, tmp_path):
    with running_engine(tmp_path) as process:
        conversation = Conversation.with_engine(process)
        yield conversation
        conversation.client.close()


def ask(talk, message):
    talk.client.send(message)


def ended(talk, count=1, id=CANNY):
    """The `count`th ending told of what was done with a model."""

    def look():
        talk.events += talk.client.pump(0.004)
        found = [e for e in talk.events if isinstance(e, ModelProgress) and e.id == id and e.state in ENDED]
        return found[count - 1 : count]

    return eventually(look, "end of it")[0]


def shelf(talk):
    count = len([event for event in talk.events if isinstance(event, ModelShelf)])
    ask(talk, AskModels())
    told = talk.until(ModelShelf, count=count + 1)
    return told, {model.id: model for model in told.models}


def test_the_shelf_tells_every_known_model_and_no_path(talk, tmp_path):
    told, models = shelf(talk)
    assert list(models) == ["mini", *known_models.known()] and told.offline == ""
    mini = models["mini"]
    assert (mini.role, mini.licence, mini.installed, mini.removable) == ("shipped", "cc0-1.0", True, False)
    assert mini.commercial is True
    made_for = {
        id: (m.num_inference_steps, m.guidance_scale) for id, m in models.items() if m.num_inference_steps
    }
    assert made_for["lcm-lora-sdv1-5"] == (4, 1.0) and made_for["hyper-sd15-8steps-cfg"] == (8, 5.0)
    assert all(models[id].role == "lora" for id in made_for)
    canny, musev = models[CANNY], models["musev"]
    assert (canny.role, canny.licence, canny.commercial) == ("controlnet", LICENCE, True)
    assert not (canny.installed or canny.removable) and canny.licence_url.startswith("https://")
    assert musev.commercial is False and musev.title
    assert any(model.licence == "unknown" and model.commercial is None for model in models.values())
    assert [model.name for model in told.ready] == ["mini"]
    assert str(tmp_path) not in repr(told)


def test_a_model_is_downloaded_verified_and_removed_and_everybody_is_told(talk, hub, tmp_path):
    ask(talk, DownloadModel(CANNY, LICENCE))
    ask(talk, DownloadModel(CANNY, LICENCE))  # asked for twice it is done once
    done = ended(talk)
    assert (done.state, done.done_bytes, done.total_bytes) == ("done", 5_000_002, 5_000_002), done
    assert all("/resolve/" in asked for asked, _ in hub.asked)  # and nothing else
    said = [event for event in talk.events if isinstance(event, ModelProgress)]
    assert said[0].state in ("waiting", "running") and {event.action for event in said} == {"download"}
    assert (registry.find(CANNY) / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS
    news = talk.until(ModelShelf)  # without having asked
    assert {model.id for model in news.models if model.installed} == {"mini", CANNY}
    menus = talk.until(
        Menus, count=1 + len([e for e in talk.events[: talk.events.index(news)] if type(e) is Menus])
    )
    assert menus.controls == ("canny",)

    ask(talk, VerifyModel(CANNY))
    verified = ended(talk, 2)
    assert verified.intact is True and "diffusion_pytorch_model.safetensors: ok" in verified.results
    with next(registry.find(CANNY).glob("*.safetensors")).open("r+b") as file:
        file.write(b"damaged")
    ask(talk, VerifyModel(CANNY))
    verified = ended(talk, 3)
    assert verified.intact is False and "instead of" in " ".join(verified.results)
    assert str(tmp_path) not in " ".join(verified.results)

    ask(talk, RemoveModel(CANNY))
    assert ended(talk, 4).state == "done" and not registry.here(registry.model(CANNY))
    _, models = shelf(talk)
    assert not models[CANNY].installed
    ask(talk, RemoveModel(CANNY))
    refused = talk.until(Refused)
    assert (refused.problem.code, refused.model) == ("missing_model", CANNY)


def test_a_models_folder_that_cannot_be_read_is_told(talk):
    registry.models_folder().mkdir()
    (registry.models_folder() / registry.FOLDERS).write_text("{")
    ask(talk, AskModels())
    problem = talk.until(Refused).problem
    assert "can't be read" in problem.message and problem.remedy
    (registry.models_folder() / registry.FOLDERS).unlink()
    assert shelf(talk)[0].models  # the connection stays


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (DownloadModel(CANNY, ""), "licence_not_accepted"),
        (DownloadModel(CANNY, "openrail"), "licence_not_accepted"),
        (DownloadModel("musev", "MIT"), "licence_not_accepted"),
        (DownloadModel("mussev", "MIT"), "unknown_model"),
        (VerifyModel("nothing"), "unknown_model"),
    ],
)
def test_what_is_not_accepted_or_not_known_is_refused_and_asks_nothing(talk, hub, message, code):
    ask(talk, message)
    refused = talk.until(Refused)
    assert (refused.problem.code, refused.model) == (code, message.id) and refused.problem.remedy
    assert not hub.asked and not registry.models_folder().exists()


def test_a_cancelled_download_goes_on_where_it_stopped(talk, hub):
    hub.cut, hub.stalls = 3_000_000, True
    ask(talk, DownloadModel(CANNY, LICENCE))

    def halfway():
        talk.events += talk.client.pump(0.004)
        return [e for e in talk.events if isinstance(e, ModelProgress) and e.done_bytes > 1_000_000]

    seen = eventually(halfway, "bytes")[0]
    assert seen.total_bytes == 5_000_002 and seen.file == "diffusion_pytorch_model.safetensors"
    talk.client.ask_status()  # the engine itself doesn't wait for it
    talk.until(Menus)
    ask(talk, VerifyModel(CANNY))
    assert talk.until(Refused).problem.code == "model_busy"
    ask(talk, CancelModel(CANNY))
    assert ended(talk).state == "cancelled" and not registry.here(registry.model(CANNY))
    hub.mend()
    hub.asked.clear()
    ask(talk, DownloadModel(CANNY, LICENCE))
    assert ended(talk, 2).state == "done"
    ranges = [given for asked, given in hub.asked if asked.startswith("GET") and "diffusion" in asked]
    assert len(ranges) == 1 and int(ranges[0].removeprefix("bytes=").rstrip("-")) >= 1_000_000
    assert (registry.find(CANNY) / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS


def test_what_fails_says_why_and_the_next_one_is_seen_to(talk, hub):
    hub.files[f"lllyasviel/{CANNY}"].pop("config.json")
    ask(talk, DownloadModel(CANNY, LICENCE))
    failed = ended(talk)
    assert (failed.state, failed.problem.code) == ("failed", "not_on_hub") and failed.problem.remedy
    ask(talk, VerifyModel(CANNY))
    assert ended(talk, 2).intact is False


def test_one_thing_is_done_at_a_time_and_what_waits_can_be_cancelled(talk, hub):
    hub.cut, hub.stalls = 3_000_000, True
    ask(talk, DownloadModel(CANNY, LICENCE))
    ask(talk, VerifyModel("musev"))
    ask(talk, VerifyModel("musev_referencenet"))
    ask(talk, CancelModel("musev"))
    assert ended(talk, id="musev").state == "cancelled"
    ask(talk, CancelModel(CANNY))
    assert ended(talk).state == "cancelled"
    assert ended(talk, id="musev_referencenet").results
    assert not [
        e for e in talk.events if isinstance(e, ModelProgress) and (e.id, e.state) == ("musev", "done")
    ]


def test_an_engine_that_is_offline_refuses_with_its_reason(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tests.conversation.serve_command", lambda state: [*serve_command(state), "--offline"]
    )
    with running_engine(tmp_path) as process:
        talk = Conversation.with_engine(process)
        told, _ = shelf(talk)
        assert "--offline" in told.offline
        ask(talk, DownloadModel(CANNY, LICENCE))
        problem = talk.until(Refused).problem
        assert problem.code == "offline" and "--offline" in problem.message
        ask(talk, VerifyModel(CANNY))  # what needs no network goes on
        assert ended(talk).results
    assert not hub.asked
