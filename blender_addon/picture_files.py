"""What a picture file says of itself in its head: its size, and whether a reader that knows nothing of Blender sees the
pixels that Blender does. Knows no `bpy`, and unpacks nothing.

PNG: W3C PNG, third edition, sections 5 and 11. JPEG: ITU-T T.81, annex B; the camera's position in it: Exif 2.32, 4.6.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

# Of a file, in which its head lies; cameras put a small picture and their settings before it.
HEAD_BYTES = 256 * 1024
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
FRAMES = (0xC0, 0xC1, 0xC2)  # JPEG's ways of packing that every reader knows
OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
ALONE = {0x01, *range(0xD0, 0xD8)}  # markers that nothing follows
ORIENTATION = 0x0112
TURNED = re.compile(rb'tiff:Orientation(?:="|>)[2-8]')  # as XMP has it


@dataclass(frozen=True)
class Head:
    """width, height: in pixels. has_alpha: some may be transparent. is_plain: 8 bits a channel or fewer, grey or RGB,
    and upright as it is stored, so that all readers agree about it."""

    width: int
    height: int
    has_alpha: bool
    is_plain: bool


def head(first: bytes) -> Head | None:
    """What the first bytes of a PNG or JPEG file say; None for anything else, and where they are too few."""
    if first.startswith(PNG_MAGIC):
        return _png(first)
    return _jpeg(first) if first.startswith(JPEG_MAGIC) else None


def _png(first: bytes) -> Head | None:
    if first[12:16] != b"IHDR" or len(first) < 33:
        return None
    width, height, depth, kind = struct.unpack(">IIBB", first[16:26])
    at, chunks = 8, {}
    while at + 8 <= len(first) and (name := first[at + 4 : at + 8]) != b"IDAT":
        (length,) = struct.unpack(">I", first[at : at + 4])
        chunks[name] = first[at + 8 : at + 8 + length]
        at += 12 + length
    has_alpha = bool(kind & 4) or b"tRNS" in chunks
    upright = not _is_turned(chunks.get(b"eXIf", b"")) and not TURNED.search(chunks.get(b"iTXt", b""))
    return Head(width, height, has_alpha, depth <= 8 and upright)


def _jpeg(first: bytes) -> Head | None:
    at, upright = 2, True
    while at + 4 <= len(first) and first[at] == 0xFF:
        kind = first[at + 1]
        if kind == 0xFF or kind in ALONE:
            at += 1 if kind == 0xFF else 2
            continue
        (length,) = struct.unpack(">H", first[at + 2 : at + 4])
        body = first[at + 4 : at + 2 + length]
        if kind in FRAMES or kind in OTHER_FRAMES:
            if len(body) < 6:
                return None
            depth, height, width, channels = struct.unpack(">BHHB", body[:6])
            is_plain = kind in FRAMES and depth == 8 and channels in (1, 3)
            return Head(width, height, False, is_plain and upright)
        if kind == 0xE1:
            upright &= not (_is_turned(body[6:]) if body[:4] == b"Exif" else TURNED.search(body))
        at += 2 + length
    return None


def _is_turned(exif: bytes) -> bool:
    """Whether a camera's notes say that the picture is to be turned or mirrored to be upright."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return False
    (at,) = struct.unpack(f"{order}I", exif[4:8])
    if at + 2 > len(exif):
        return False
    (count,) = struct.unpack(f"{order}H", exif[at : at + 2])
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, _, _, value = struct.unpack(f"{order}HHIH", exif[entry : entry + 10])
        if tag == ORIENTATION:
            return value not in (0, 1)
    return False
