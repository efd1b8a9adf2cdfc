"""What the screen shows: read from the file in which the runner's own X server keeps it, so that no program is needed.

On another display nothing can be read, and a screenshot is ImageMagick's or Blender's own.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import bpy
import numpy as np

SCREEN = Path(__file__).resolve().parent / "screen" / "Xvfb_screen0"
TABS = 24  # pixels: the sidebar's tabs, at its right
ROOM = 64  # pixels: with less below it, a sidebar may be longer than its region
EDGE = 8  # pixels: the region's lower edge, drawn otherwise in 4.3


def pixels(region: bpy.types.Region | None = None) -> np.ndarray | None:
    """The screen, or a region of it: uint8 (height, width, 3); None where it can't be read. The file is an X window
    dump: 25 words of header, big-endian, then the colours, then lines of BGRX."""
    if not SCREEN.exists():
        return None
    data = np.memmap(SCREEN, dtype=np.uint8, mode="r")
    header = struct.unpack(">25I", data[:100].tobytes())
    size, width, height, line, colours = header[0], header[4], header[5], header[12], header[19]
    start = size + 12 * colours
    lines = data[start : start + line * height].reshape(height, line)
    whole = lines[:, : width * 4].reshape(height, width, 4)
    if region is not None:
        top = height - (region.y + region.height)
        whole = whole[top : top + region.height, region.x : region.x + region.width]
    return whole[..., 2::-1].copy()


def lowest(region: bpy.types.Region) -> int:
    """The height in the window at which what a sidebar shows ends."""
    if (shown := pixels(region)) is None:
        return region.y + 4
    shown = shown[:-EDGE, :-TABS]
    filled = np.flatnonzero((shown != shown[-1:]).any(axis=(1, 2)))
    return region.y + region.height - int(filled[-1]) - 4 if filled.size else region.y + 4


def keep(file: Path, window: bpy.types.Window, region: bpy.types.Region | None = None) -> None:
    """Writes a screenshot; of a sidebar, nothing of what is empty below."""
    if (shown := pixels(region)) is not None:
        if region is not None:
            shown = shown[: region.y + region.height - lowest(region) + 8]
        file.write_bytes(png(shown))
    elif shutil.which("import"):
        subprocess.run(["import", "-window", "root", str(file)], check=True)
    else:
        with bpy.context.temp_override(window=window):
            bpy.ops.screen.screenshot(filepath=str(file))


def png(shown: np.ndarray) -> bytes:
    """uint8 (height, width, 3) as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = shown.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), shown.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
