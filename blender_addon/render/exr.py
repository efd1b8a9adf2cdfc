"""Reads the multilayer EXR files that Blender writes, as far as our own renders need: uncompressed float scanlines.

Blender's Python can't read these files itself. The layout is OpenEXR's, "OpenEXR File Layout", section "Scan Line
Files". Knows no bpy.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from ..captures import CaptureError

MAGIC = 20000630
TILED, MULTIPART = 0x200, 0x1000  # flags of files with another layout
FLOAT = 2  # pixel type: 32-bit floating point


class ExrError(CaptureError):
    """A file is no EXR of the kind that our renders write: which, and what was found in it."""


class Exr:
    """One open file. channels: "Layer.Pass.C" -> its place. height, width: of the picture, in pixels.

    Rows are read from disk when they are asked for. Raises ExrError.
    """

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            head = file.read(1 << 16)
            try:
                self.attributes, start = _header(head)
            except (IndexError, ValueError, struct.error):  # a long cryptomatte manifest
                head += file.read()
                self.attributes, start = _attributes_or_raise(head, path)
        if missing := {"channels", "compression", "dataWindow"} - self.attributes.keys():
            raise ExrError(f"{path} is no whole EXR file; its header lacks {', '.join(sorted(missing))}.")
        if self.attributes["compression"] != b"\0":
            raise ExrError(f"{path} is compressed ({self.attributes['compression']!r}); ours never is.")
        self.channels = {
            name: place for place, name in enumerate(_channels(self.attributes["channels"], path))
        }
        left, top, right, bottom = struct.unpack("<4i", self.attributes["dataWindow"])
        self.height, self.width = bottom - top + 1, right - left + 1
        line = np.dtype([("y", "<i4"), ("size", "<i4"), ("data", "<f4", (len(self.channels), self.width))])
        start += 8 * self.height  # the table of offsets
        if path.stat().st_size < start + line.itemsize * self.height:
            raise ExrError(f"{path} ends early: {path.stat().st_size} bytes.")
        self._lines = np.memmap(path, line, "r", start, (self.height,))

    def rows(self, pass_name: str, letters: str, first: int, last: int) -> np.ndarray:
        """(last - first, width, len(letters)) float32: rows [first, last) of a pass, the first row uppermost.

        letters: the channels wanted ("XYZ"); "*" takes a pass's only one. Raises ExrError for a pass that isn't there.
        """
        lines = self._lines["data"][first:last]
        return np.stack([lines[:, self._place(pass_name, letter)] for letter in letters], axis=-1)

    def _place(self, pass_name: str, letter: str) -> int:
        for name, place in self.channels.items():
            parts = name.split(".")
            if parts[-2:-1] == [pass_name] and letter.lower() in ("*", parts[-1].lower()):
                return place
        raise ExrError(f"The render has no pass {pass_name}.{letter}, only {', '.join(self.channels)}.")

    @property
    def objects(self) -> dict[str, int]:
        """Object's name -> its id in the cryptomatte pass, from the file's own manifest."""
        for name, value in self.attributes.items():
            if name.startswith("cryptomatte/") and name.endswith("/manifest"):
                return {thing: int(number, 16) for thing, number in json.loads(value).items()}
        return {}


def _attributes_or_raise(head: bytes, path: Path) -> tuple[dict[str, bytes], int]:
    try:
        return _header(head)
    except (IndexError, ValueError, struct.error) as error:
        raise ExrError(f"{path} is no EXR file that Blender wrote ({error}).") from None


def _header(raw: bytes) -> tuple[dict[str, bytes], int]:
    """Attributes by name, and where the header ends."""
    magic, version = struct.unpack_from("<II", raw)
    if magic != MAGIC or version & (TILED | MULTIPART):
        raise ValueError(f"magic number {magic}, version {version:#x}")
    attributes, at = {}, 8
    while raw[at]:
        name_end = raw.index(b"\0", at)
        kind_end = raw.index(b"\0", name_end + 1)
        (size,) = struct.unpack_from("<i", raw, kind_end + 1)
        value = kind_end + 5
        if value + size >= len(raw):
            raise ValueError("the header goes on")
        attributes[raw[at:name_end].decode()] = raw[value : value + size]
        at = value + size
    return attributes, at + 1


def _channels(raw: bytes, path: Path) -> list[str]:
    names, at = [], 0
    while raw[at]:
        end = raw.index(b"\0", at)
        (kind,) = struct.unpack_from("<i", raw, end + 1)
        if kind != FLOAT:
            raise ExrError(f"{path}: channel {raw[at:end].decode()} is not 32-bit float (type {kind}).")
        names.append(raw[at:end].decode())
        at = end + 17
    return names
