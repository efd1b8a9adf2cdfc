"""Pins: pictures on a channel of the timeline that the clip passes through at the frames where they begin.

A frame of a take becomes one as a file of its own, <clip>/pins/take_001_0013.png: it may be painted on, and the take
stays as it was made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import bpy

from .. import provenance, strips
from ..protocol import MAX_BLOB_BYTES, MAX_PINS, Pin, blob_sha256
from ..translations import tr
from . import stack, takes

FOLDER = "pins"  # in a clip's folder
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


def pin(scene: bpy.types.Scene, channel: str, strip, frame: int):
    """Pins what a strip of ours shows at a frame: a strip one frame long on the channel of that name, which is made
    where there is none, showing a copy of the file. Returns it. Raises StripError and TakeError, and the timeline is
    untouched then."""
    start, end = strips.span(strip)
    if not start <= frame < end:
        raise strips.StripError(
            tr(
                "Frame {frame} is not in the strip '{strip}', which has {start} to {end}; go to a frame "
                "of it.",
                frame=frame,
                strip=strip.name,
                start=start,
                end=end - 1,
            )
        )
    number = _channel(scene, channel)
    there = (other for other in strips.top_strips(scene) if number == other.channel)
    if other := next((each for each in there if strips.span(each)[0] <= frame < strips.span(each)[1]), None):
        raise strips.StripError(
            tr(
                "The strip '{other}' lies on the channel {channel} at frame {frame}; remove it, or "
                "choose another frame.",
                other=other.name,
                channel=channel,
                frame=frame,
            )
        )
    file = strips.file_at(strip, frame)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise strips.StripError(
            tr(
                "{file} can't be read ({error}); bring it back, or show another take.",
                file=file,
                error=error.strerror or error,
            )
        ) from error
    folder = stack.folder(strip) / FOLDER
    takes.make_folder(folder)
    copy = takes.free_name(folder / f"{stack.shown(strip).name}_{file.stem}.png")
    takes.write_whole(copy, data)
    selected = [other for other in strips.every_strip(scene) if other.select]
    placed = strips.place_images(scene, "Pin", [copy], frame, number)
    strips.lay_as(placed, strip)
    scene.sequence_editor.channels[number].name = channel
    for other in strips.every_strip(scene):
        other.select = other in selected
    scene.sequence_editor.active_strip = strip
    return placed


def at(scene: bpy.types.Scene, channel: str, frame: int) -> list:
    """The pins' strips that begin at a frame."""
    if scene.sequence_editor is None or not channel:
        return []
    return [
        strip
        for strip in strips.top_strips(scene)
        if scene.sequence_editor.channels[strip.channel].name == channel
        and strips.is_image(strip)
        and strips.span(strip)[0] == frame
    ]


def _channel(scene: bpy.types.Scene, name: str) -> int:
    """The number of the channel of that name, or of the one that can become it: the first one above all strips. Raises
    StripError."""
    if not name:
        raise strips.StripError(tr("The pins channel has no name; give it one, say Pins."))
    channels = scene.sequence_editor.channels
    known = (number for number in range(1, strips.MAX_CHANNEL + 1) if channels[number].name == name)
    if (number := next(known, None)) is not None:
        return number
    number = max(strip.channel for strip in strips.top_strips(scene)) + 1
    if number > strips.MAX_CHANNEL:
        raise strips.StripError(
            tr(
                "There is no channel above {most} for pins; move the highest strip down.",
                most=strips.MAX_CHANNEL,
            )
        )
    return number


def save_painted(pictures: Iterable[Path]) -> None:
    """Saves pins of ours that were painted on in Blender since their file was written. Raises StripError for one that
    can't be saved, and for another file that was painted on: that is the artist's own to save."""
    wanted = {os.path.normpath(file) for file in pictures}
    _save_dirty(wanted)
    for file in map(Path, wanted):
        if file.parent.name == FOLDER and not provenance.of_file(file):
            _say_again(file)


def _say_again(file: Path) -> None:
    """Has a pin of ours that was painted on say again that it is a generated picture: Blender saves it without that."""
    if (named := re.match(r"(take_\d+)_(\d+)", file.stem)) is None:
        return
    packet = provenance.of_file(file.parent.parent / named[1] / f"{named[2]}.png")
    if packet and (png := file.read_bytes()).startswith(PICTURES[0]):
        takes.write_whole(file, provenance.with_packet(png, packet))


def _save_dirty(wanted: Collection[str]) -> None:
    for image in bpy.data.images:
        file = Path(os.path.normpath(bpy.path.abspath(image.filepath)))
        if not image.is_dirty or str(file) not in wanted:
            continue
        if file.parent.name != FOLDER:
            raise strips.StripError(
                tr(
                    "'{image}' was painted on and is not saved; save it in the Image editor, with Image > "
                    "Save.",
                    image=image.name,
                )
            )
        try:
            image.save()
        except RuntimeError as error:
            raise strips.StripError(tr("{file} can't be saved: {error}", file=file, error=error)) from error
        for strip in (s for scene in bpy.data.scenes for s in strips.every_strip(scene)):
            if (
                strips.is_image(strip)
                and Path(os.path.normpath(bpy.path.abspath(strip.directory))) == file.parent
            ):
                strips.set_folder(strip, file.parent)  # has Blender read its files again


def sentence(frames: Sequence[int]) -> str:
    """What the panel says: '2 pins at 12, 40'."""
    some = ", ".join(map(str, frames[:6])) + (" …" if len(frames) > 6 else "")
    if len(frames) == 1:
        return tr("1 pin at {frame}", frame=some)
    return tr("{count} pins at {frames}", count=len(frames), frames=some)


def nearest(pictures: dict[int, Path], times: Sequence[float]) -> dict[int, Path]:
    """Timeline frames -> the generated frames nearest to them, whose times these are. Raises StripError where two would
    be one."""
    placed: dict[int, Path] = {}
    for frame, file in pictures.items():
        number = min(range(len(times)), key=lambda i: abs(times[i] - frame))
        if number in placed:
            raise strips.StripError(
                tr(
                    "The pin at frame {frame} falls on the same generated frame as another; generate at "
                    "every frame, or move one of them.",
                    frame=frame,
                )
            )
        placed[number] = file
    return placed


def read(pictures: dict[int, Path]) -> tuple[tuple[Pin, ...], dict[str, bytes]]:
    """The pins of a request, by generated frames, and their blobs. Raises StripError."""
    save_painted(pictures.values())
    if len(pictures) > MAX_PINS:
        raise strips.StripError(
            tr(
                "A clip has at most {most} pins, and these are {count}; take some away.",
                most=MAX_PINS,
                count=len(pictures),
            )
        )
    made, blobs = [], {}
    for number, file in sorted(pictures.items()):
        try:
            with open(file, "rb") as stream:
                data = stream.read(MAX_BLOB_BYTES + 1)
        except OSError as error:
            raise strips.StripError(
                tr(
                    "The picture {file} can't be read ({error}); bring it back, or remove its strip.",
                    file=file,
                    error=error.strerror or error,
                )
            ) from error
        if len(data) > MAX_BLOB_BYTES or not data.startswith(PICTURES):
            raise strips.StripError(
                tr(
                    "{file} is no PNG or JPEG file of at most {most} MB; save it as one.",
                    file=file,
                    most=MAX_BLOB_BYTES >> 20,
                )
            )
        sha256 = blob_sha256(data)
        made.append(Pin(number, sha256))
        blobs[sha256] = data
    return tuple(made), blobs
