"""Media files in and out: mp4, gif, webp and folders of pictures; frames are uint8 (h, w, 3), sRGB.

Reading holds one frame at a time (a clip at a time in `read_clips`). Writing is whole or nothing: a file gets its name
when it is complete, and beside it lies a JSON sidecar that tells how it was made.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from musev_engine.errors import EngineError
from musev_engine.frames import MAX_STILL_PIXELS, decode_still, encode_png

FILE_TYPES = ("mp4", "gif", "webp", "images")  # MuseV's --save_filetype
STILLS = (".png", ".jpg", ".jpeg")
ANIMATIONS = (".gif", ".webp")
SIDECAR = "clip.json"  # within a folder of pictures; a file's is its own name with .json


def read_still(path: str | Path) -> np.ndarray:
    """A picture file as uint8 (h, w, 3). Raises EngineError, code "unreadable_image"."""
    try:
        return decode_still(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        if isinstance(error.__cause__, UnidentifiedImageError):
            why = "it is no picture"
        raise EngineError(
            f"{path} can't be read", why, "Give a whole PNG or JPEG file.", "unreadable_image"
        ) from error


def read_video(path: str | Path, sample_rate: int = 1) -> Generator[np.ndarray]:
    """Every `sample_rate`-th frame of a video file, an animated gif or webp, or a folder of pictures in the order of
    their names' numbers: uint8 (h, w, 3), all of one size. What is transparent lies on black.

    Raises EngineError, code "unreadable_video", at the first frame: for what isn't there, isn't video, is larger than
    8192×8192 or has no frame; and later where frames change their size.
    """
    path = Path(path)
    if sample_rate < 1:
        raise EngineError("sample_rate is out of bounds", sample_rate, "Choose 1 or more.")
    if path.is_dir():
        frames = _folder_frames(path, sample_rate)
    elif not path.is_file():
        raise _unreadable(path, "there is no such file or folder")
    elif path.suffix.lower() in ANIMATIONS:
        frames = _animation_frames(path, sample_rate)
    else:
        frames = _video_frames(path, sample_rate)
    size = None
    with contextlib.closing(frames):
        for number, frame in enumerate(frames):
            size = size or frame.shape
            if frame.shape != size:
                told = f"frame {number * sample_rate} is {frame.shape[1]}×{frame.shape[0]} after {size[1]}×{size[0]}"
                raise _unreadable(path, told)
            yield frame
    if size is None:
        raise _unreadable(path, "it has no frames")


def read_clips(
    path: str | Path, time_size: int, sample_rate: int = 1, n_batch: int | None = None
) -> Iterator[np.ndarray]:
    """A video in clips of `time_size` frames, uint8 (time_size, h, w, 3), one after the other, at most `n_batch` of
    them; frames left over at the end are dropped. Raises EngineError as `read_video` does, and for a video that has
    not even one clip."""
    frames = read_video(path, sample_rate)
    count = 0
    with contextlib.closing(frames):
        while n_batch is None or count < n_batch:
            clip = list(islice(frames, time_size))
            if len(clip) < time_size:
                break
            count += 1
            yield np.stack(clip)
    if not count:
        raise EngineError(
            f"{path} is too short for a clip of {time_size} frames",
            f"{len(clip)} frame{'' if len(clip) == 1 else 's'} at sample_rate {sample_rate}",
            "Give a longer video, a smaller time_size or a smaller sample_rate.",
            code="short_video",
        )


def video_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a video's first frame. Raises EngineError as `read_video` does."""
    with contextlib.closing(read_video(path)) as frames:
        height, width = next(frames).shape[:2]
    return width, height


def _folder_frames(folder: Path, sample_rate: int) -> Iterator[np.ndarray]:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in STILLS]
    paths.sort(
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )
    for path in paths[::sample_rate]:
        yield read_still(path)


def _animation_frames(path: Path, sample_rate: int) -> Iterator[np.ndarray]:
    try:
        with Image.open(path, formats=("GIF", "WEBP")) as animation:
            _check_size(path, animation.width, animation.height)
            for number in range(0, getattr(animation, "n_frames", 1), sample_rate):
                animation.seek(number)
                black = Image.new("RGBA", animation.size, (0, 0, 0, 255))
                yield np.asarray(Image.alpha_composite(black, animation.convert("RGBA")).convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, EOFError, SyntaxError, OSError) as error:
        raise _unreadable(path, error) from error


def _video_frames(path: Path, sample_rate: int) -> Iterator[np.ndarray]:
    # what is wrong with a file is told by our errors; OpenCV and ffmpeg would print theirs among the progress
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise _unreadable(path, "this is no video that ffmpeg knows")
        _check_size(
            path, *(int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        )
        number = 0
        while capture.grab():
            if number % sample_rate == 0:
                ok, frame = capture.retrieve()
                if not ok:
                    raise _unreadable(path, f"frame {number} is damaged")
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1
    finally:
        capture.release()


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_STILL_PIXELS:
        raise _unreadable(
            path, f"its frames are {width}×{height}; at most {MAX_STILL_PIXELS} pixels are read"
        )


def _unreadable(path: Path, why: object) -> EngineError:
    remedy = "Give a whole mp4, mov, avi, mkv, webm, gif or webp file, or a folder of PNG or JPEG files."
    return EngineError(f"The video {path} can't be read", why, remedy, code="unreadable_video")


# --- writing ----------------------------------------------------------------------------------------------


def media_path(folder: Path, name: str, filetype: str) -> Path:
    """Where a clip of this name goes: a file, or a folder for "images". Raises EngineError for another filetype."""
    if filetype not in FILE_TYPES:
        raise EngineError("This file type isn't known", filetype, f"Choose one of {', '.join(FILE_TYPES)}.")
    return folder / (name if filetype == "images" else f"{name}.{filetype}")


def sidecar_of(path: Path) -> Path:
    """Where the JSON file of a clip lies."""
    return path.with_name(f"{path.name}.json") if path.suffix else path / SIDECAR


def write_media(
    path: Path, frames: Iterable[np.ndarray], fps: float, sidecar: dict, overwrite: bool = False
) -> int:
    """Write frames, uint8 (h, w, 3) of one size, as they come: mp4, gif or webp by the name's ending, a folder of PNG
    files without one. `sidecar`: what its JSON file says. Gives the number of frames.

    If anything raises, nothing is left behind, and an older file of this name is untouched. Raises EngineError for no
    frames, and, code "exists", where there is something already and `overwrite` is False.
    """
    write = _WRITERS[path.suffix.lower()]
    if path.exists() and not overwrite:
        raise EngineError(
            "There is a clip of this name already", path, "Add --overwrite, or choose another name.", "exists"
        )
    writable(path.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        count, frames = 0, iter(frames)
        first = next(frames, None)
        if first is None:
            raise EngineError("There are no frames to write", path, "Ask for one at least.")

        def counted() -> Iterator[np.ndarray]:
            nonlocal count
            for frame in chain([first], frames):
                count += 1
                yield frame

        made = work / path.name
        write(made, counted(), fps)
        told = sidecar_of(made)
        told.write_text(
            json.dumps(sidecar | {"frames": count, "fps": fps}, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        if path.is_dir():
            os.replace(path, work / "old")
        os.replace(made, path)
        if path.suffix:
            os.replace(told, sidecar_of(path))
        return count
    finally:
        shutil.rmtree(work, ignore_errors=True)


def writable(folder: Path) -> None:
    """Make a folder for clips. Raises EngineError where that can't be, or nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # told as what it is
        raise EngineError(
            f"Nothing can be written to {folder}",
            error.strerror or error,
            "Choose another folder.",
            "unwritable",
        ) from error


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """H.264, which Blender, browsers and editors read; sides must be even."""
    import imageio_ffmpeg

    first = next(frames)
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise EngineError(
            "An mp4's sides must be even", f"{width}×{height}", "Choose another size or file type."
        )
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, codec="libx264", quality=None, macro_block_size=2,
        output_params=["-crf", "16", "-preset", "medium", "-movflags", "+faststart"], ffmpeg_log_level="error",
    )  # fmt: skip
    writer.send(None)
    try:
        for frame in chain([first], frames):
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


def _write_animation(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    how = {"quality": 90, "method": 4} if path.suffix.lower() == ".webp" else {"optimize": False}
    pictures = map(Image.fromarray, frames)
    next(pictures).save(
        path, save_all=True, append_images=pictures, duration=round(1000 / fps), loop=0, **how
    )


def _write_pictures(folder: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    folder.mkdir()
    for number, frame in enumerate(frames):
        (folder / f"{number:06d}.png").write_bytes(encode_png(frame))


_WRITERS: dict[str, Callable[[Path, Iterator[np.ndarray], float], None]] = {
    ".mp4": _write_mp4,
    ".gif": _write_animation,
    ".webp": _write_animation,
    "": _write_pictures,
}
