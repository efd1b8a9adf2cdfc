"""Media files: what is written comes back, bad ones are told in one sentence, and nothing half-written stays."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from musev_engine.errors import EngineError
from musev_engine.media import (
    media_path,
    read_clips,
    read_still,
    read_video,
    sidecar_of,
    video_size,
    write_media,
)
from tests.test_control import pictures

SIDECAR = {"request": {"seed": 7}}
TYPES = ("mp4", "gif", "webp", "images")


def smooth(count: int = 7) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 5) for frame in pictures(count, 64, 96)])


@pytest.mark.parametrize("filetype", TYPES)
def test_what_is_written_comes_back(filetype, tmp_path):
    frames, path = smooth(), media_path(tmp_path / "new", "clip", filetype)
    assert write_media(path, iter(frames), 8, SIDECAR) == 7
    back = np.stack(list(read_video(path)))
    assert back.shape == frames.shape and video_size(path) == (96, 64)
    apart = np.abs(back.astype(int) - frames)
    assert apart.mean() < {"mp4": 3, "gif": 8, "webp": 3, "images": 1e-9}[filetype]
    told = json.loads(sidecar_of(path).read_text())
    assert told == {"request": {"seed": 7}, "frames": 7, "fps": 8}
    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, f"{path.name}.json"}


@pytest.mark.parametrize("filetype", TYPES)
def test_every_second_frame_and_clips_without_the_rest(filetype, tmp_path):
    frames, path = smooth(), media_path(tmp_path, "clip", filetype)
    write_media(path, iter(frames), 8, SIDECAR)
    whole = list(read_video(path))
    second = list(read_video(path, sample_rate=2))
    assert all(np.array_equal(a, b) for a, b in zip(second, whole[::2], strict=True))
    clips = list(read_clips(path, 3))
    assert len(clips) == 2 and np.array_equal(clips[1], whole[3:6])
    assert len(list(read_clips(path, 3, n_batch=1))) == 1
    with pytest.raises(EngineError, match=r"too short for a clip of 5 frames.*4 frames at sample_rate 2"):
        list(read_clips(path, 5, sample_rate=2))


@pytest.mark.parametrize("filetype", TYPES)
def test_when_making_fails_nothing_is_left_and_the_old_clip_stays(filetype, tmp_path):
    path = media_path(tmp_path, "clip", filetype)

    def broken():
        yield from smooth(3)
        raise FloatingPointError("not a number")

    with pytest.raises(FloatingPointError):
        write_media(path, broken(), 8, SIDECAR)
    assert not list(tmp_path.iterdir())
    write_media(path, smooth(2), 8, SIDECAR)
    with pytest.raises(FloatingPointError):
        write_media(path, broken(), 8, {"request": "another"}, overwrite=True)
    assert len(list(read_video(path))) == 2
    assert json.loads(sidecar_of(path).read_text())["request"] == {"seed": 7}


@pytest.mark.parametrize("filetype", TYPES)
def test_an_old_clip_is_replaced_only_when_asked(filetype, tmp_path):
    path = media_path(tmp_path, "clip", filetype)
    write_media(path, smooth(2), 8, SIDECAR)
    with pytest.raises(EngineError, match="already") as told:
        write_media(path, smooth(3), 8, SIDECAR)
    assert told.value.code == "exists" and len(list(read_video(path))) == 2
    write_media(path, smooth(3), 8, SIDECAR, overwrite=True)
    assert len(list(read_video(path))) == 3
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, f"{path.name}.json"}


def test_no_frames_make_no_file(tmp_path):
    with pytest.raises(EngineError, match="no frames"):
        write_media(tmp_path / "clip.mp4", [], 8, SIDECAR)
    assert not list(tmp_path.iterdir())


def test_an_mp4_has_the_rate_it_was_given(tmp_path):
    write_media(tmp_path / "clip.mp4", smooth(), 12, SIDECAR)
    assert cv2.VideoCapture(str(tmp_path / "clip.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(12)


def test_pictures_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "clip.json").write_text("{}")
    assert [int(frame[0, 0, 0]) for frame in read_video(tmp_path)] == [1, 9, 10]


def test_transparent_frames_lie_on_black(tmp_path):
    path = tmp_path / "clip.webp"
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    clear.save(
        path, save_all=True, append_images=[Image.new("RGBA", (8, 8), (0, 200, 0, 255))], lossless=True
    )
    one, other = read_video(path)
    assert not one.any() and other[0, 0].tolist() == [0, 200, 0]


def broken_files(folder):
    whole = folder / "whole.gif"
    write_media(whole, smooth(2), 8, SIDECAR)
    empty, text = folder / "empty.mp4", folder / "text.mp4"
    empty.write_bytes(b"")
    text.write_text("no video")
    cut = folder / "cut.gif"
    cut.write_bytes(whole.read_bytes()[:10])
    nothing = folder / "nothing"
    nothing.mkdir()
    changing = folder / "changing"
    changing.mkdir()
    for number, side in enumerate((8, 16)):
        Image.new("RGB", (side, side)).save(changing / f"{number}.png")
    huge = folder / "huge.gif"
    data = bytearray(whole.read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"  # 65535×65535
    huge.write_bytes(data)
    return empty, text, cut, nothing, changing, huge, folder / "missing.mp4"


def test_what_is_no_video_is_told_in_one_sentence(tmp_path):
    for path in broken_files(tmp_path):
        with pytest.raises(EngineError, match="can't be read") as told:
            list(read_video(path))
        assert told.value.code == "unreadable_video" and path.name in str(told.value), path
        assert "\n" not in str(told.value)


def test_a_still_that_is_none_is_told(tmp_path):
    (tmp_path / "still.png").write_text("nothing")
    for name in ("still.png", "missing.png"):
        with pytest.raises(EngineError, match=name) as told:
            read_still(tmp_path / name)
        assert told.value.code == "unreadable_image"


def test_reading_can_be_left_off(tmp_path):
    path = tmp_path / "clip.mp4"
    write_media(path, smooth(), 8, SIDECAR)
    frames = read_video(path)
    next(frames)
    frames.close()
    path.unlink()  # on Windows an open file could not be


def test_unknown_file_types_are_told(tmp_path):
    with pytest.raises(EngineError, match=r"avi.*mp4, gif, webp, images"):
        media_path(tmp_path, "clip", "avi")
