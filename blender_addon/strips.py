"""The sequencer's API in one place, because it changes with every Blender: ranges, channels, strips.

Written against 4.2 to 5.2: `sequences` became `strips` (4.4), `ImageSequence` became `ImageStrip`, a
workspace may show another scene than the window's (5.0), and `frame_final_*` became `*_handle` (5.2, the old
names go in 6.0).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import bpy

MAX_CHANNEL = 128


class StripError(ValueError):
    """The sequencer can't do what was asked: the value and the remedy."""


def shown_scene(context: bpy.types.Context) -> bpy.types.Scene | None:
    """The scene whose strips the sequencer shows; None where none is chosen (5.x)."""
    if hasattr(context, "sequencer_scene"):
        return context.sequencer_scene
    return context.scene


def top_strips(scene: bpy.types.Scene) -> Sequence:
    """The scene's strips outside metas; empty where it has no sequence editor."""
    editor = scene.sequence_editor
    if editor is None:
        return ()
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def span(strip) -> tuple[int, int]:
    """(first frame, first frame after) of a strip as it shows on the timeline."""
    if hasattr(strip, "left_handle"):
        return strip.left_handle, strip.right_handle
    return strip.frame_final_start, strip.frame_final_end


def selected_span(scene: bpy.types.Scene) -> tuple[int, int]:
    """(first frame, first frame after) of all selected strips together. Raises StripError if none is
    selected.
    """
    spans = [span(strip) for strip in top_strips(scene) if strip.select]
    if not spans:
        raise StripError(
            "0 strips are selected; select the strips whose range to fill, or use another range."
        )
    return min(start for start, _ in spans), max(end for _, end in spans)


def first_free_channel(scene: bpy.types.Scene, start: int, end: int) -> int:
    """The lowest unlocked channel with nothing in [start, end). Raises StripError if all 128 are taken."""
    taken = {strip.channel for strip in top_strips(scene) if span(strip)[0] < end and start < span(strip)[1]}
    if scene.sequence_editor is not None:
        taken |= {number for number, channel in enumerate(scene.sequence_editor.channels) if channel.lock}
    for channel in range(1, MAX_CHANNEL + 1):
        if channel not in taken:
            return channel
    raise StripError(
        f"All {MAX_CHANNEL} channels are taken between frames {start} and {end}; free one there."
    )


def place_images(scene: bpy.types.Scene, name: str, files: Sequence[Path], start: int):
    """Places the files as ONE strip at `start` on the first free channel, one frame each, and selects it.

    Fits the picture into the scene's resolution. Paths are made relative where the .blend is saved.
    Raises StripError for no files and for no free channel; the timeline is untouched then.
    """
    if not files:
        raise StripError("0 frames to place; nothing was generated.")
    channel = first_free_channel(scene, start, start + len(files))
    editor = scene.sequence_editor or scene.sequence_editor_create()
    for other in top_strips(scene):
        other.select = False
    strip = top_strips(scene).new_image(
        name=name, filepath=str(files[0]), channel=channel, frame_start=start, fit_method="FIT"
    )
    for file in files[1:]:
        strip.elements.append(file.name)
    if bpy.data.filepath and same_drive(files[0], bpy.data.filepath):
        strip.directory = bpy.path.relpath(str(files[0].parent)) + "/"
    strip.select = True
    editor.active_strip = strip
    return strip


def same_drive(a: os.PathLike | str, b: os.PathLike | str) -> bool:
    """Whether a relative path can lead from one to the other (on Windows, drives part them)."""
    return os.path.splitdrive(a)[0].lower() == os.path.splitdrive(b)[0].lower()


def is_image(strip) -> bool:
    """Whether this is a strip of image files."""
    return strip.type == "IMAGE"


def image_strips(scene: bpy.types.Scene) -> Iterable[str]:
    """The names of the scene's image strips."""
    return (strip.name for strip in top_strips(scene) if is_image(strip))


def still_file(scene: bpy.types.Scene, name: str, frame: int) -> Path:
    """The file that image strip `name` shows at `frame`, or at its nearest end where `frame` lies outside it.

    Raises StripError if there is no such strip, or if it is not made of image files.
    """
    strip = next((strip for strip in top_strips(scene) if strip.name == name), None)
    if strip is None or not is_image(strip):
        have = ", ".join(image_strips(scene)) or "none"
        raise StripError(
            f"Scene '{scene.name}' has no image strip '{name}' (it has: {have}); choose another still."
        )
    start, end = span(strip)
    element = strip.strip_elem_from_frame(min(max(frame, start), end - 1))
    if element is None:
        raise StripError(f"Image strip '{name}' has no file at frame {frame}; choose another still.")
    return Path(bpy.path.abspath(strip.directory)) / element.filename


def draw_strip_search(layout: bpy.types.UILayout, owner, prop: str, scene: bpy.types.Scene) -> None:
    """A search field over the scene's strips, whose names its collection holds."""
    collection = "strips" if hasattr(scene.sequence_editor, "strips") else "sequences"
    layout.prop_search(owner, prop, scene.sequence_editor, collection)
