"""The takes of one strip: which folder they lie in, which one it shows, and how a new one joins them.

A strip shows the take that its source folder is; the clip's folder is the one around it. Nothing else is stored, so
that whatever Blender does with source folders (relative, absolute, remapped on Save As) the takes go along.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import bpy
from bpy.props import PointerProperty, StringProperty

from .. import stills, strips
from ..making.jobs import Job
from . import clip_folder, takes


class MusevStrip(bpy.types.PropertyGroup):
    """What a strip of ours knows of itself. Goes along when the strip is copied, split or pasted."""

    clip: StringProperty(
        name="Clip",
        description="The clip that the strip shows takes of; empty for strips that are not MuseV's",
    )
    compares: StringProperty(
        name="Compares",
        description="What part a temporary strip has in a comparison of takes",
        options={"HIDDEN"},
    )
    making: StringProperty(
        name="Making",
        description="The clip in the making that the strip shows while it fills in",
        options={"HIDDEN"},
    )
    before: StringProperty(
        name="Before",
        description="The take that the strip showed before that, and shows again if it is cancelled",
        options={"HIDDEN"},
    )


def is_ours(strip) -> bool:
    """Whether the strip shows takes of a clip, and is no part of a comparison."""
    return strips.is_image(strip) and bool(strip.musev.clip) and not strip.musev.compares


def shown(strip) -> Path:
    """The folder of the take that the strip shows, also while that is made."""
    return takes.of_live(_shown_folder(strip))


def _shown_folder(strip) -> Path:
    return Path(os.path.normpath(bpy.path.abspath(strip.directory)))


def folder(strip) -> Path:
    """The folder of the strip's clip, in which its takes lie."""
    return shown(strip).parent


def active(scene: bpy.types.Scene | None):
    """The active strip, if it is one of ours; else None."""
    editor = scene.sequence_editor if scene is not None else None
    strip = editor.active_strip if editor is not None else None
    return strip if strip is not None and is_ours(strip) else None


def ours(scene: bpy.types.Scene) -> list:
    """The scene's strips of ours: the active one first, then the selected ones, then the others."""
    first = active(scene)
    found = [strip for strip in strips.every_strip(scene) if is_ours(strip)]
    return sorted(found, key=lambda strip: (strip != first, not strip.select))


def shown_anywhere(clip: Path) -> set[str]:
    """The names of the clip's takes that a strip of this file shows, in any scene."""
    images = (s for scene in bpy.data.scenes for s in strips.every_strip(scene) if strips.is_image(s))
    return {shown(strip).name for strip in images if folder(strip) == clip}


# --- a new take -----------------------------------------------------------------------------------


def clip_for(
    scene: bpy.types.Scene, root: Path, clip: str, start: int, count: int,
    jobs: Iterable[Job], left_out: Collection[str] = (),
) -> Path:  # fmt: skip
    """The folder of the clip that a new take of `count` frames from `start` on belongs to.

    It is that of the active or a selected strip over just these frames; or of one with this clip's name; or of a clip
    in the making with both; or a new one under `root`. left_out: names of strips that it must not join. Raises
    TakeError.
    """
    if strip := joined(scene, start, count, clip, left_out):
        return folder(strip)
    for job in jobs:
        same = (job.clip, job.scene, job.start, job.request.frames_out) == (clip, scene.name, start, count)
        if same and not job.ended and job.request.result == "clip":
            return job.take.parent
    return takes.free_clip(root, clip)


def joined(scene: bpy.types.Scene, start: int, count: int, clip: str, left_out: Collection[str] = ()):
    """The strip over just these frames that a new take joins: active, selected, or of this clip's name; or None."""
    fitting = [
        strip
        for strip in ours(scene)
        if strips.content(strip) == (start, count)
        and not strip.lock
        and strip.name not in left_out
        and folder(strip).is_dir()
    ]
    chosen = (s for s in fitting if s == active(scene) or s.select or s.musev.clip == clip)
    return next(chosen, None)


def place(scene: bpy.types.Scene, clip: str, files: list[Path], start: int, select: bool = True):
    """Shows a finished take: in the strip of its clip's folder where there is one, else in a new strip at `start`,
    which is selected alone. Returns the strip. Raises StripError, and the timeline is untouched then.
    """
    strip = strip_of(scene, files[0].parent, len(files), start) if files else None
    if strip is None:
        return new_strip(scene, clip, files, start, select)
    show(strip, files)
    return strip


def strip_of(scene: bpy.types.Scene, take: Path, count: int, start: int):
    """The strip that a take of `count` frames is to be shown in: one that shows it while it is made, else one of its
    clip, where it was or moved since; None where there is none."""
    fitting = [
        strip
        for strip in ours(scene)
        if folder(strip) == take.parent and len(strip.elements) == count and not strip.lock
    ]
    live = takes.live_folder(take)
    fitting.sort(key=lambda strip: (_shown_folder(strip) != live, strips.content(strip)[0] != start))
    return fitting[0] if fitting else None


def new_strip(scene: bpy.types.Scene, clip: str, files: list[Path], start: int, select: bool = True):
    """Shows a take in a strip of its own. Raises StripError, and the timeline is untouched then."""
    strip = strips.place_images(scene, clip, files, start, select=select)
    strip.musev.clip = clip
    return strip


def show(strip, files: list[Path]) -> None:
    """Points the strip at a take's files, in order. What it shows keeps its place and size on the screen."""
    strip.musev.making = strip.musev.before = ""
    before, now = picture_size(_first_file(strip)), picture_size(files[0])
    if before is None:  # the take that it showed is gone; Blender may still know
        first = strip.elements[0]
        before = (first.orig_width, first.orig_height) if first.orig_width > 0 else None
    strips.set_files(strip, files[0].parent, [file.name for file in files])
    if before and now and before != now:
        strip.transform.scale_x *= before[0] / now[0]
        strip.transform.scale_y *= before[1] / now[1]


def _first_file(strip) -> Path:
    return _shown_folder(strip) / strip.elements[0].filename


def picture_size(file: Path) -> tuple[int, int] | None:
    """(width, height) of a PNG file in pixels; None where it can't be read."""
    try:
        with open(file, "rb") as stream:
            return stills.png_size(stream.read(33))
    except OSError:
        return None


def read(strip) -> clip_folder.Clip:
    """The takes of a strip. Raises TakeError where their folder is missing."""
    return clip_folder.read(folder(strip))


_register, _unregister = bpy.utils.register_classes_factory((MusevStrip,))


def register() -> None:
    _register()
    strips.strip_type().musev = PointerProperty(
        name="MuseV", description="The clip whose takes the strip shows", type=MusevStrip
    )


def unregister() -> None:
    del strips.strip_type().musev
    _unregister()
