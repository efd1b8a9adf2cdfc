"""Pins: pictures on a channel of the timeline that the clip passes through at the frames where they begin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bpy

from . import strips
from .protocol import MAX_BLOB_BYTES, MAX_PINS, Pin, blob_sha256

PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # how the files begin that the engine reads


def on_channel(scene: bpy.types.Scene, channel: str, start: int, end: int) -> dict[int, Path]:
    """The pinned frames of [start, end) in order, and the file of each: image strips on the channel of that name, at
    the frame where they begin. Muted strips are none; a muted channel only hides them."""
    if scene.sequence_editor is None or not channel:
        return {}
    found: dict[int, Path] = {}
    for strip in strips.top_strips(scene):
        frame = strips.span(strip)[0]
        on_it = scene.sequence_editor.channels[strip.channel].name == channel
        if not on_it or not strips.is_image(strip) or strip.mute or not start <= frame < end:
            continue
        found[frame] = strips.file_at(strip, frame)
    return dict(sorted(found.items()))


def sentence(frames: Sequence[int]) -> str:
    """What the panel says: '2 pins at 12, 40'."""
    some = ", ".join(map(str, frames[:6])) + (" …" if len(frames) > 6 else "")
    return f"{len(frames)} pin{'' if len(frames) == 1 else 's'} at {some}"


def nearest(pictures: dict[int, Path], times: Sequence[float]) -> dict[int, Path]:
    """Timeline frames -> the generated frames nearest to them, whose times these are. Raises StripError where two would
    be one."""
    placed: dict[int, Path] = {}
    for frame, file in pictures.items():
        number = min(range(len(times)), key=lambda i: abs(times[i] - frame))
        if number in placed:
            raise strips.StripError(
                f"The pin at frame {frame} falls on the same generated frame as another; generate at every frame, or "
                "move one of them."
            )
        placed[number] = file
    return placed


def read(pictures: dict[int, Path]) -> tuple[tuple[Pin, ...], dict[str, bytes]]:
    """The pins of a request, by generated frames, and their blobs. Raises StripError."""
    if len(pictures) > MAX_PINS:
        raise strips.StripError(
            f"A clip has at most {MAX_PINS} pins, and these are {len(pictures)}; take some away."
        )
    made, blobs = [], {}
    for number, file in sorted(pictures.items()):
        try:
            with open(file, "rb") as stream:
                data = stream.read(MAX_BLOB_BYTES + 1)
        except OSError as error:
            raise strips.StripError(
                f"The picture {file} can't be read ({error.strerror or error}); bring it back, or remove its strip."
            ) from error
        if len(data) > MAX_BLOB_BYTES or not data.startswith(PICTURES):
            raise strips.StripError(
                f"{file} is no PNG or JPEG file of at most {MAX_BLOB_BYTES >> 20} MB; save it as one."
            )
        sha256 = blob_sha256(data)
        made.append(Pin(number, sha256))
        blobs[sha256] = data
    return tuple(made), blobs
