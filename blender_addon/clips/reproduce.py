"""Whether a take comes out again as it was: pictures compared as they arrive, inputs and makers named that differ.

Knows no `bpy`.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from .. import protocol
from ..protocol import ClipRequest, Done
from . import takes
from .splice import Splice

FIRST = (
    "still",
    "poses",
    "source",
    "mask",
    "controls",
    "pins",
)  # of a request, what is named before the rest


def request_of(record: dict) -> ClipRequest:
    """What a take's record says was asked. Raises ProtocolError."""
    return protocol.request_from_json(json.dumps(record.get("request")))


def same_picture(one: bytes, other: bytes) -> bool:
    """Whether two PNG files that one engine may have written show the same, whatever else they tell."""
    return one == other or _shown(one) == _shown(other)


def _shown(png: bytes) -> tuple[bytes, bytes]:
    """The header and the unpacked lines of a PNG file (W3C PNG, third edition, 5.3); of what is none, its bytes."""
    header, packed, at = b"", [], 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        header = data if kind == b"IHDR" else header
        packed += [data] if kind == b"IDAT" else []
        at += 12 + length
    try:
        return header, zlib.decompress(b"".join(packed))
    except zlib.error:
        return b"", png


def differs(take: Path, frame: int, png: bytes) -> bool:
    """Whether a frame that came is another one than the take's. In a joined take only the new ones are its own; the
    others were made to lead to them. Raises TakeError where that can't be read."""
    splice = Splice.of_record(takes.read_sidecar(take))
    if splice is not None and frame + splice.offset not in splice.new:
        return False
    file = takes.frame_file(take, frame + (splice.offset if splice else 0))
    try:
        return not same_picture(file.read_bytes(), png)
    except OSError as error:
        raise takes.TakeError(
            f"{file} can't be read ({error.strerror or error}), so nothing can be compared with it; bring it back."
        ) from error


def verdict(take: Path, request: ClipRequest, done: Done, others: set[int]) -> str:
    """What the artist is told. others: the frames that came out otherwise. Raises TakeError and ProtocolError."""
    record = takes.read_sidecar(take)
    splice = Splice.of_record(record)
    named = next(_differences(record, request, done), "")
    if splice is None:
        frames, first, rest = f"{request.frames_out} frames", 0, ""
    else:
        stay = splice.count - len(splice.new)
        frames, first = f"{len(splice.new)} frames that were made anew", splice.offset
        rest = f" The other {stay} are those of {splice.of}: reproduce that one for them." if stay else ""
    if not others:
        said = f"Bit-equal: all {frames} are those of {take.name}"
        return f"{said}, although {named}.{rest}" if named else f"{said}.{rest}"
    file = takes.frame_file(take, min(others) + first).name
    said = f"{len(others)} of {frames} are not those of {take.name}, the first is {file}"
    if not named:
        named = f"every input is the same, so the computer's sums came out otherwise (device {done.device})"
        return f"{said}; {named}.{rest}"
    return f"{said}. The first input that differs: {named}.{rest}"


def _differences(record: dict, request: ClipRequest, done: Done) -> Iterator[str]:
    model, engine = (_part(record, key) for key in ("model", "engine"))
    for what, was, now in (
        ("the model's files (sha256)", model.get("sha256"), done.model_sha256),
        ("the engine's version", engine.get("version"), done.engine_version),
        ("the device", engine.get("device"), done.device),
    ):
        if was != now:
            yield _named(what, was, now)
    was = request_of(record)
    names = [field.name for field in dataclasses.fields(ClipRequest)]
    for name in sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        if getattr(was, name) != getattr(request, name):
            yield _named(name.replace("_", " "), getattr(was, name), getattr(request, name))


def _part(record: dict, key: str) -> dict:
    part = record.get(key)
    return part if isinstance(part, dict) else {}


def _named(what: str, was: object, now: object) -> str:
    return f"{what} was {_short(was)} and is {_short(now)}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
