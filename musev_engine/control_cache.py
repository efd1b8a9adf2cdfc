"""Control pictures that were made before, by the hash of what they were made from."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import cv2
import numpy as np


class Cache:
    """Control pictures by content, so that the same frame isn't read twice: the last ones in memory and, where a
    folder is given, on disk. Both are bounded, in bytes; the oldest go first."""

    def __init__(self, folder: Path | None = None, max_bytes: int = 2**28, max_disk_bytes: int = 2**31):
        self.folder, self.max_bytes, self.max_disk_bytes = folder, max_bytes, max_disk_bytes
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes, self._lock = 0, Lock()
        self._disk_bytes: int | None = None  # counted at the first write

    def get(self, key: str) -> np.ndarray | None:
        """A picture, uint8 (h, w, 3), or None."""
        with self._lock:
            if key in self._maps:
                self._maps.move_to_end(key)
                return self._maps[key]
        if self.folder is None or not (path := self.folder / f"{key}.png").is_file():
            return None
        picture = cv2.imread(str(path))
        if picture is None:  # half a file, left by a full disk
            return None
        os.utime(path)
        found = np.ascontiguousarray(picture[..., ::-1])
        self._remember(key, found)
        return found

    def put(self, key: str, picture: np.ndarray) -> None:
        """Keep a picture. Raises OSError where the folder can't be written."""
        self._remember(key, picture)
        if self.folder is not None:
            self._write(key, picture)

    def _remember(self, key: str, picture: np.ndarray) -> None:
        with self._lock:
            if key not in self._maps:
                self._bytes += picture.nbytes
            self._maps[key] = picture
            while self._bytes > self.max_bytes and len(self._maps) > 1:
                self._bytes -= self._maps.popitem(last=False)[1].nbytes

    def _write(self, key: str, picture: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        ok, png = cv2.imencode(".png", picture[..., ::-1])
        if not ok:
            raise ValueError(f"a map of {picture.shape} can't be written as PNG")
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(png.tobytes())
        os.replace(temporary, self.folder / f"{key}.png")
        if self._disk_bytes is not None:
            self._disk_bytes += len(png)
        if self._disk_bytes is None or self._disk_bytes > self.max_disk_bytes:
            self._disk_bytes = self._prune()

    def _prune(self) -> int:
        """Remove the files that were longest not asked for, until the rest is small enough; gives its bytes."""
        kept = []
        for path in self.folder.glob("*.png"):
            with contextlib.suppress(FileNotFoundError):  # another process prunes too
                told = path.stat()
                kept.append((told.st_mtime_ns, told.st_size, path))
        kept.sort()
        total = sum(size for _, size, _ in kept)
        while total > self.max_disk_bytes and len(kept) > 1:
            _, size, path = kept.pop(0)
            path.unlink(missing_ok=True)
            total -= size
        return total
