"""How a clip looks while it is denoised, as an icon for the panel. One picture a running clip is held, and let go."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import bpy
import bpy.utils.previews

from ..clips import takes
from .jobs import Job

_pictures: bpy.utils.previews.ImagePreviewCollection | None = None


_numbers = itertools.count(1)


def keep(job: Job, png: bytes) -> None:
    """Has a clip show its newest preview, in a file of its own. Raises TakeError."""
    forget(job)
    folder = Path(bpy.app.tempdir) / "musev"
    takes.make_folder(folder)
    file = folder / f"preview_{next(_numbers)}.png"
    takes.write_whole(file, png)
    job.preview = file


def forget(job: Job) -> None:
    """The clip shows no preview any more."""
    if job.preview is not None:
        job.preview.unlink(missing_ok=True)
    job.preview = None


def icon(job: Job) -> int:
    """The icon of a clip's newest preview; 0 where there is none, as in a Blender without a window."""
    if job.preview is None:
        return 0
    name = str(job.preview)
    if name not in _pictures:
        _pictures.load(name, name, "IMAGE")
    return _pictures[name].icon_id


def keep_only(jobs: Iterable[Job]) -> None:
    """Lets go of the pictures that none of these clips shows any more."""
    wanted = {str(job.preview) for job in jobs if job.preview is not None}
    for name in [name for name in _pictures if name not in wanted]:
        del _pictures[name]


def held() -> int:
    """How many pictures are in memory."""
    return len(_pictures)


def register() -> None:
    global _pictures
    _pictures = bpy.utils.previews.new()


def unregister() -> None:
    global _pictures
    bpy.utils.previews.remove(_pictures)
    _pictures = None
