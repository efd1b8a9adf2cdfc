"""The 26 controls: that each name runs what MuseV runs for it, and what `preprocess` promises whoever calls it.

What the detectors themselves find is in `test_detectors` and `test_people`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from musev_engine import control, detectors, known_models, registry
from musev_engine.control import CONTROLS, Cache, ControlKind, preprocess
from musev_engine.errors import EngineError

NAMES = Path(__file__).parent / "golden" / "full_size" / "controlnet_names.json"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No test sees another's cached pictures or detectors."""
    monkeypatch.setattr(control, "_CACHE", Cache())
    detectors.load.cache_clear()
    yield
    detectors.load.cache_clear()


def pictures(count: int = 2, height: int = 64, width: int = 128, seed: int = 0) -> np.ndarray:
    """Smooth blobs, different in every frame."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    frames = np.zeros((count, height, width, 3))
    for frame in frames:
        for _ in range(6):
            y, x, size = random.uniform(0, height), random.uniform(0, width), random.uniform(4, height / 2)
            inside = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
            frame += inside[..., None] * random.uniform(0, 200, 3)
    return frames.clip(0, 255).astype(np.uint8)


def test_every_name_of_musev_is_there_with_its_detector_and_its_controlnet():
    published = json.loads(NAMES.read_text())
    assert list(CONTROLS) == list(published) and len(CONTROLS) == 26
    for name, kind in CONTROLS.items():
        told = published[name]
        detector = "SamDetector" if kind.detector == "MobileSamDetector" else kind.detector
        assert detector == (told["detector_name"] or ""), name
        assert kind.controlnet == told["controlnet_model_path"].partition("/")[2], name


def test_pose_names_draw_the_parts_that_they_say():
    published = json.loads(NAMES.read_text())
    for name, told in published.items():
        if told["middle"] == "pose":
            said = {
                key: told["processor_params"][f"include_{key}"] == "True" for key in ("body", "hand", "face")
            }
            said["body"] |= name == "pose"  # there it is left to the caller
        elif told["middle"] == "dwpose":
            said = {
                key: told["processor_params"].get(f"include_{key}") != "False"
                for key in ("body", "hand", "face")
            }
        else:
            continue
        drawn = {"body": True, "hand": False, "face": False} | CONTROLS[name].parameters
        assert drawn == said, name


def test_tile_is_the_frame_itself():
    frames = pictures()
    assert np.array_equal(preprocess("tile", frames), frames)


def test_canny_finds_the_edges_of_a_square_and_nothing_else():
    frames = np.zeros((2, 64, 128, 3), np.uint8)
    frames[0, 16:48, 32:96] = 255
    edges = preprocess("canny", frames)
    assert set(np.unique(edges)) == {0, 255} and not edges[1].any()
    rows, columns = np.nonzero(edges[0, ..., 0])
    extent = (rows.min(), rows.max(), columns.min(), columns.max())
    assert np.abs(np.subtract(extent, (16, 47, 32, 95))).max() <= 1
    assert not edges[0, 20:44, 36:92].any()


def test_canny_is_controlnet_auxs():
    from controlnet_aux.canny import CannyDetector

    frames = pictures(3)
    wanted = [CannyDetector()(frame, detect_resolution=64, image_resolution=64) for frame in frames]
    assert np.array_equal(preprocess("canny", frames), np.stack(wanted))


def test_content_moves_every_frame_alike_and_keeps_its_colours():
    frames = np.repeat(pictures(1, 128, 128), 2, axis=0)
    frames[1] = 255 - frames[1]
    one, other = preprocess("content", frames)
    assert np.abs(one.astype(int) + other - 255).max() <= 1  # the same displacements
    assert not np.array_equal(one, frames[0])
    assert one.max() <= frames[0].max() and one.min() >= frames[0].min()
    assert np.array_equal(preprocess("content", frames, cache=Cache())[0], one)  # and the same the next time


@pytest.mark.parametrize("size", [(72, 136), (64, 200), (40, 40)])
@pytest.mark.parametrize("name", ["tile", "canny", "content"])
def test_any_size_comes_back_as_it_went_in(name, size):
    frames = pictures(2, *size)
    made = preprocess(name, frames, resolution=128)
    assert made.shape == frames.shape and made.dtype == np.uint8


def test_no_frames_give_no_pictures():
    assert preprocess("canny", np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 64, 64, 3)


# --- learned detectors, with random weights -----------------------------------------------------------------


def test_a_detector_is_loaded_once_and_only_when_it_is_named(tmp_path, monkeypatch):
    path = tmp_path / "table5_pidinet.pth"
    network = detectors.make_pidi()
    torch.save({"state_dict": network.state_dict()}, path)
    asked = []

    def find(*file):
        asked.append(file)
        return path

    monkeypatch.setattr("musev_engine.registry.find_file", find)
    preprocess("canny", pictures())
    assert asked == []
    preprocess("pidi", pictures(seed=1))
    preprocess("pidi", pictures(seed=2))
    assert asked == [("annotator-pidi", "table5_pidinet.pth")]
    control.forget_detectors()
    preprocess("pidi", pictures(seed=3))
    assert len(asked) == 2


LEARNED = [name for name, kind in CONTROLS.items() if kind.files]


@pytest.mark.parametrize("name", LEARNED)
def test_a_missing_file_is_told_with_its_source_and_licence(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSEV_MODELS", str(tmp_path))
    with pytest.raises(EngineError) as told:
        preprocess(name, pictures(1))
    message = str(told.value)
    files = [file.partition("/")[2] for file in CONTROLS[name].files]
    assert any(file in message for file in files) and "https://" in message
    assert "licence" in message.lower() and "ownload" in message
    assert told.value.code == "missing_model"


def test_every_file_is_known_to_the_registry():
    for name, kind in CONTROLS.items():
        for file in kind.files:
            model, _, part = file.partition("/")
            assert part in [known.name for known in registry.model(model).files]
            assert model in known_models.controls()[name]
        assert kind.controlnet == known_models.controls()[name][0]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_file_that_is_something_else_is_named(content, tmp_path, monkeypatch):
    path = tmp_path / "table5_pidinet.pth"
    if content is None:
        torch.save({"state_dict": {"other.weight": torch.zeros(3)}}, path)
    else:
        path.write_bytes(content)
    monkeypatch.setattr("musev_engine.registry.find_file", lambda *file: path)
    with pytest.raises(EngineError, match=r"table5_pidinet.pth isn't this detector's file") as told:
        preprocess("pidi", pictures(1))
    assert told.value.code == "bad_model" and "\n" not in str(told.value)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path(EVIL),))


EVIL = "ran"


def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ControlNetHED.pth"
    torch.save({"weight": Evil()}, path)
    monkeypatch.setattr("musev_engine.registry.find_file", lambda *file: path)
    with pytest.raises(EngineError, match="isn't this detector's file"):
        preprocess("hed", pictures(1))
    assert not (tmp_path / EVIL).exists()


# --- the cache and the border ---------------------------------------------------------------------------


def counting(monkeypatch) -> list[int]:
    """How many frames each call to the detector was given."""
    calls = []

    def detect(frames, height, width):
        calls.append(len(frames))
        return 255 - detectors.plain(frames, height, width)

    monkeypatch.setitem(CONTROLS, "inverse", ControlKind("counting", (), {}, "none", "the negative"))
    monkeypatch.setitem(detectors.DETECTORS, "counting", lambda files, device: detect)
    return calls


def test_a_frame_is_read_once_whoever_asks(monkeypatch):
    calls = counting(monkeypatch)
    frames = pictures(3)
    still = frames[[0, 0, 1, 0]]  # a video that stands still
    assert np.array_equal(preprocess("inverse", still), 255 - still) and calls == [2]
    assert np.array_equal(preprocess("inverse", frames), 255 - frames) and calls == [2, 1]
    preprocess("inverse", frames, resolution=128)
    assert calls == [2, 1, 3]  # another resolution is another picture


def test_the_cache_on_disk_outlives_the_process_and_stays_within_its_bounds(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    frames = pictures(3)
    preprocess("inverse", frames, cache=Cache(tmp_path))
    again = preprocess("inverse", frames, cache=Cache(tmp_path))
    assert np.array_equal(again, 255 - frames) and calls == [3]
    assert not list(tmp_path.glob("*.part"))
    small = Cache(tmp_path, max_disk_bytes=1)
    preprocess("inverse", pictures(1, seed=9), cache=small)
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_the_cache_in_memory_stays_within_its_bounds(monkeypatch):
    calls = counting(monkeypatch)
    frames = pictures(3)
    cache = Cache(max_bytes=2 * frames[0].nbytes)
    preprocess("inverse", frames, cache=cache)
    preprocess("inverse", frames[2:], cache=cache)
    assert calls == [3]
    preprocess("inverse", frames[:1], cache=cache)  # the oldest had to go
    assert calls == [3, 1]


def test_half_a_file_in_the_cache_is_made_again(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    frames = pictures(1)
    preprocess("inverse", frames, cache=Cache(tmp_path))
    (path,) = tmp_path.glob("*.png")
    path.write_bytes(path.read_bytes()[:20])
    assert np.array_equal(preprocess("inverse", frames, cache=Cache(tmp_path)), 255 - frames)
    assert calls == [1, 1]


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(EngineError, match=r"dw_pose_body_hands.*dwpose_body_hand") as told:
        preprocess("dw_pose_body_hands", pictures(1))
    assert told.value.code == "unknown_name"


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8)), np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 4), np.uint8)]
)
def test_what_is_no_frame_is_refused(frames):
    with pytest.raises(EngineError, match="aren't frames"):
        preprocess("canny", frames)


def test_a_resolution_out_of_bounds_is_refused():
    with pytest.raises(EngineError, match="resolution is out of bounds"):
        preprocess("canny", pictures(1), resolution=10**6)


def test_each_kind_can_be_named_by_an_entry_point():
    assert control.dwpose_body_hand is CONTROLS["dwpose_body_hand"]
    assert callable(control.canny) and control.canny.controlnet == "control_v11p_sd15_canny"
    with pytest.raises(AttributeError):
        _ = control.nothing
