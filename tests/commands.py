"""`musev text2video` and `video2video` with a tiny model, in a folder with a still and a video: what tests share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musev_engine import loading
from musev_engine.media import read_video, write_media
from server import cli
from tests.test_control import pictures
from tests.tiny_model import write_tiny_model

QUICK = (
    "--width=64", "--height=64", "--time_size=3", "--video_num_inference_steps=1", "--num_inference_steps=1",
    "--context_frames=3", "--context_overlap=1", "--device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """In place of the shipped models: one untrained, by the name of mini."""
    folder = tmp_path_factory.mktemp("assets")
    write_tiny_model(folder / "mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "SHIPPED", folder)
        yield folder


@pytest.fixture
def here(tmp_path, monkeypatch, assets):
    """A folder to run in, with stills, a video and no models folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path / "models"))
    Image.fromarray(pictures(1, 80, 80)[0]).save(tmp_path / "still.png")
    write_media(tmp_path / "video.mp4", pictures(7, 64, 64), 8, {})
    return tmp_path


def run(verb: str, *argv: object) -> int:
    return cli.main([verb, *QUICK, *map(str, argv)])


def mini(verb: str, *argv: object) -> int:
    return run(verb, "--sd_model_name", "mini", *argv)


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(read_video(path)))
