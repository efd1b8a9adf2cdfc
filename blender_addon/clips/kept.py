"""The inputs of a clip's takes, kept beside them: each once, by its sha256. Knows files, not `bpy`.

<clip>/inputs/3f2a…, 90cc…, …     a still, a pose track, pictures: the very bytes that the engine was given
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..protocol import blob_sha256
from . import takes

INPUTS = "inputs"
KEY = "kept"  # in `take.json`, among its inputs: their sizes in bytes, by sha256


def keep(clip: Path, sha256: str, blob: bytes) -> None:
    """Keeps one input, if it isn't kept already. Raises TakeError."""
    for _ in keeping(clip, sha256, blob):
        pass


def keeping(clip: Path, sha256: str, blob: bytes) -> Iterator[None]:
    """`keep` in slices."""
    file = clip / INPUTS / sha256
    if not file.exists():
        takes.make_folder(file.parent)
        yield from takes.writing(file, blob)


def read(clip: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """Kept inputs by their sha256. Raises TakeError for one that is missing or was changed."""
    blobs = {}
    for sha256 in wanted:
        file = clip / INPUTS / sha256
        try:
            blobs[sha256] = file.read_bytes()
        except OSError as error:
            raise _missing(file, error) from error
        if blob_sha256(blobs[sha256]) != sha256:
            raise _changed(file, "sha256")
    return blobs


def check(clip: Path, wanted: Iterable[str], record: dict) -> dict[str, int]:
    """The sizes in bytes of kept inputs, by their sha256. record: of the take that they were kept for. Raises TakeError
    for one that is missing, or has another size; whether its bytes are the same is for `read` to say."""
    known, sizes = _sizes(record), {}
    for sha256 in wanted:
        file = clip / INPUTS / sha256
        try:
            sizes[sha256] = file.stat().st_size
        except OSError as error:
            raise _missing(file, error) from error
        if known.get(sha256) not in (None, sizes[sha256]):
            raise _changed(file, "size")
    return sizes


def _missing(file: Path, error: OSError) -> takes.TakeError:
    return takes.TakeError(
        f"An input of this take is not kept: {file} can't be read ({error.strerror or error}). Recall the take's "
        "settings and generate from the scene."
    )


def _changed(file: Path, what: str) -> takes.TakeError:
    return takes.TakeError(
        f"An input of this take was changed: {file} has another {what}. Remove that file, recall the take's settings "
        "and generate from the scene."
    )


def prune(clip: Path) -> tuple[int, int]:
    """Removes what no take of the clip was made from: none that is there, in the making, or removed and still to be
    had back. Returns (number, bytes) of what is gone. Raises TakeError, and nothing is removed where a take can't be
    read."""
    named: set[str] = set()
    for pattern in ("take_*/*.json", f"{takes.REMOVED}/take_*/*.json"):
        for file in clip.glob(pattern):
            try:
                named |= set(re.findall(r"[0-9a-f]{64}", file.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise takes.TakeError(
                    f"{file} can't be read ({error}), so nobody knows which inputs it needs, and none is removed."
                ) from error
    gone, freed = 0, 0
    for file in sorted((clip / INPUTS).glob("*")):
        if re.fullmatch(r"[0-9a-f]{64}(\.part)?", file.name) and file.name not in named:
            freed += file.stat().st_size
            takes.remove(file)
            gone += 1
    return gone, freed


def size(record: dict) -> tuple[int, int]:
    """(number, bytes) of the inputs that a take's record says are kept."""
    known = _sizes(record)
    return len(known), sum(known.values())


def _sizes(record: dict) -> dict[str, int]:
    inputs = record.get("inputs")
    kept = inputs.get(KEY) if isinstance(inputs, dict) else None
    return {sha256: n for sha256, n in kept.items() if isinstance(n, int)} if isinstance(kept, dict) else {}
