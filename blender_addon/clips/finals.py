"""Finals of joined drafts: the frames that stay in them have a final of their own, and that one leads the others."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from ..protocol import ClipRequest, blob_sha256
from ..translations import tr
from . import clip_folder, splice, takes
from .clip_folder import Take


def final_of(take: Take, part: splice.Splice) -> Take:
    """The final of the draft whose frames stay in a joined take. Raises TakeError where there is none."""
    base = stays_of(take, part)
    finals = [
        other
        for other in clip_folder.read(base.folder.parent).takes
        if inputs_of(other).get("final_of") == base.name
    ]
    if not finals:
        raise takes.TakeError(
            tr(
                "{take} is joined, and the frames that stay in it are those of {of}, a draft too. Make that take final "
                "first, then this one.",
                take=take.name,
                of=base.name if base.folder.parent == take.folder.parent else part.of,
            )
        )
    return finals[-1]


def led_by(request: ClipRequest, part: splice.Splice, final: Take) -> tuple[ClipRequest, dict[str, bytes]]:
    """The request with another take's frames in place of those that it was given, and their bytes. Raises TakeError."""
    generated, shown = request.rates
    pins, blobs = [], {}
    for pin in request.pins:
        place = part.offset + round(pin.frame * shown / generated)
        if place in part.new:  # the artist's own
            pins.append(pin)
            continue
        file = takes.frame_file(final.folder, place - part.of_offset)
        try:
            picture = file.read_bytes()
        except OSError as error:
            raise takes.TakeError(
                tr(
                    "{file} can't be read ({error}); bring it back, or make {take} final again.",
                    file=file,
                    error=error.strerror or error,
                    take=inputs_of(final).get("final_of"),
                )
            ) from error
        pins.append(dataclasses.replace(pin, picture=blob_sha256(picture)))
        blobs[pins[-1].picture] = picture
    return dataclasses.replace(request, pins=tuple(pins)), blobs


def stays_of(take: Take, part: splice.Splice) -> Take:
    """The take whose frames stay in a joined one."""
    return clip_folder.look(Path(os.path.normpath(take.folder.parent / part.of)))


def inputs_of(take: Take) -> dict:
    inputs = take.record.get("inputs")
    return inputs if isinstance(inputs, dict) else {}
