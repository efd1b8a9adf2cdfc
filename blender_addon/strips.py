"""The sequencer's API in one place, because it changes with every Blender: ranges, channels, strips.

Written against 4.2 to 5.2: `sequences` became `strips` (4.4), `ImageSequence` became `ImageStrip`, a
workspace may show another scene than the window's (5.0), and `frame_final_*` became `*_handle` (5.2, the old
names go in 6.0).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import bpy

from .translations import tr

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


def content(strip) -> tuple[int, int]:
    """(frame of its first picture, number of pictures) of an image strip, however its handles stand."""
    start = strip.content_start if hasattr(strip, "content_start") else strip.frame_start
    return round(start), len(strip.elements)


def set_span(strip, start: int, end: int) -> None:
    """Moves a strip's handles; `span` then is (start, end), and its pictures stay where they are."""
    first, last = (
        ("left_handle", "right_handle")
        if hasattr(strip, "left_handle")
        else ("frame_final_start", "frame_final_end")
    )
    setattr(strip, first, start)
    setattr(strip, last, end)


def every_strip(scene: bpy.types.Scene) -> Sequence:
    """The scene's strips, those inside metas among them."""
    editor = scene.sequence_editor
    if editor is None:
        return ()
    return editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all


def strip_type() -> type:
    """The type of every strip, on which properties are registered."""
    return bpy.types.Strip if hasattr(bpy.types, "Strip") else bpy.types.Sequence


def selected_span(scene: bpy.types.Scene) -> tuple[int, int]:
    """(first frame, first frame after) of all selected strips together. Raises StripError if none is
    selected.
    """
    spans = [span(strip) for strip in top_strips(scene) if strip.select]
    if not spans:
        raise StripError(
            tr("0 strips are selected; select the strips whose range to fill, or use another range.")
        )
    return min(start for start, _ in spans), max(end for _, end in spans)


def first_free_channel(scene: bpy.types.Scene, start: int, end: int) -> int:
    """The lowest channel for clips with nothing in [start, end). Raises StripError if all 128 are taken."""
    taken = {strip.channel for strip in top_strips(scene) if span(strip)[0] < end and start < span(strip)[1]}
    taken |= _set_apart(scene)
    for channel in range(1, MAX_CHANNEL + 1):
        if channel not in taken:
            return channel
    raise StripError(
        tr(
            "All {most} channels are taken between frames {start} and {end}; free one there.",
            most=MAX_CHANNEL,
            start=start,
            end=end,
        )
    )


def _set_apart(scene: bpy.types.Scene) -> set[int]:
    """The channels on which a clip may not lie, wouldn't be seen, or would be a pin: locked and muted ones, those for
    pins and for prompts."""
    if scene.sequence_editor is None:
        return set()
    pins, prompts = scene.musev.pins_channel, scene.musev.prompt_track.channel.strip().lower()
    return {
        number
        for number, channel in enumerate(scene.sequence_editor.channels)
        if channel.lock
        or channel.mute
        or channel.name == pins
        or (prompts and channel.name.lower().startswith(prompts))
    }


def _collection(scene: bpy.types.Scene):
    """The top strips as what makes and removes them."""
    editor = scene.sequence_editor or scene.sequence_editor_create()
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def place_colour(scene: bpy.types.Scene, name: str, channel: int, start: int, end: int):
    """Places a black strip over [start, end)."""
    strip = _new_effect(scene, name, "COLOR", channel, start, end)
    strip.color = (0.0, 0.0, 0.0)
    return strip


def place_text(scene: bpy.types.Scene, name: str, text: str, channel: int, start: int, end: int):
    """Places a text strip over [start, end)."""
    strip = _new_effect(scene, name, "TEXT", channel, start, end)
    strip.text = text
    return strip


def _new_effect(scene: bpy.types.Scene, name: str, kind: str, channel: int, start: int, end: int):
    into = _collection(scene)
    asked = [parameter.identifier for parameter in into.bl_rna.functions["new_effect"].parameters]
    length = {"length": end - start} if "length" in asked else {"frame_end": end}
    return into.new_effect(name=name, type=kind, channel=channel, frame_start=start, **length)


def remove(scene: bpy.types.Scene, strip) -> None:
    """Takes a strip off the timeline, wherever it lies; its files stay."""
    for meta in every_strip(scene):
        if meta.type == "META" and strip.name in inside(meta):
            inside(meta).remove(strip)
            return
    _collection(scene).remove(strip)


def set_folder(strip, folder: Path) -> None:
    """Where an image strip's files lie; relative where the .blend is saved and that is possible."""
    path = str(folder)
    if bpy.data.filepath and same_drive(folder, bpy.data.filepath):
        path = bpy.path.relpath(path)
    strip.directory = path + "/"


def set_files(strip, folder: Path, names: Sequence[str]) -> None:
    """Which files of a folder an image strip shows, one a frame; they are read anew where they were written anew."""
    while len(strip.elements) > len(names):
        strip.elements.pop(len(strip.elements) - 1)
    for element, name in zip(strip.elements, names, strict=False):
        if element.filename != name:
            element.filename = name
    for name in names[len(strip.elements) :]:
        strip.elements.append(name)
    set_folder(strip, folder)  # Blender 5 would go on showing a file's old picture without this


def place_images(
    scene: bpy.types.Scene, name: str, files: Sequence[Path], start: int, channel: int | None = None,
    select: bool = True,
):  # fmt: skip
    """Places the files as ONE strip at `start` on a channel (None: the first free one), one frame each, and selects it
    alone, or (select) leaves the selection as it is.

    Fits the picture into the scene's resolution. Its levels come out of the scene's view as they are in the files, as
    far as the view has an inverse (`colour_space`). Paths are made relative where the .blend is saved.
    Raises StripError for no files and for no free channel; the timeline is untouched then.
    """
    if not files:
        raise StripError(tr("0 frames to place; nothing was generated."))
    channel = channel or first_free_channel(scene, start, start + len(files))
    editor = scene.sequence_editor or scene.sequence_editor_create()
    active = editor.active_strip
    for other in top_strips(scene) if select else ():
        other.select = False
    strip = top_strips(scene).new_image(
        name=name, filepath=str(files[0]), channel=channel, frame_start=start, fit_method="FIT"
    )
    for file in files[1:]:
        strip.elements.append(file.name)
    set_folder(strip, files[0].parent)
    try:
        strip.colorspace_settings.name = colour_space(scene)
    except TypeError:  # a view without a colour space of its own
        strip.colorspace_settings.name = "sRGB"
    strip.select = select
    editor.active_strip = strip if select else active
    return strip


def colour_space(scene: bpy.types.Scene) -> str:
    """The colour space that a finished sRGB picture is to be read in so that the scene's view shows it unchanged.

    Exact under Standard. Filmic's and AgX's own spaces bring greys back within a level, and colours as far as these
    views can show them: on average 0.2 to 0.5 levels off under Filmic, 4 to 7 under AgX for noise of every colour,
    where plain sRGB is 20 off. It is settled when the strip is placed; another view chosen later needs another one.
    """
    view = scene.view_settings.view_transform
    if view == "Standard" or scene.display_settings.display_device != "sRGB":
        return "sRGB"
    return "AgX Base sRGB" if view == "AgX" else f"{view} sRGB"


def lay_as(placed, like) -> None:
    """Gives an image strip the place, size, turn and colour space of another one."""
    for name in ("offset_x", "offset_y", "scale_x", "scale_y", "rotation"):
        setattr(placed.transform, name, getattr(like.transform, name))
    placed.use_flip_x, placed.use_flip_y = like.use_flip_x, like.use_flip_y
    placed.colorspace_settings.name = like.colorspace_settings.name


def same_drive(a: os.PathLike | str, b: os.PathLike | str) -> bool:
    """Whether a relative path can lead from one to the other (on Windows, drives part them)."""
    return os.path.splitdrive(a)[0].lower() == os.path.splitdrive(b)[0].lower()


def is_image(strip) -> bool:
    """Whether this is a strip of image files."""
    return strip.type == "IMAGE"


def file_at(strip, frame: int) -> Path:
    """The file that an image strip shows at a frame of the timeline within its span."""
    return Path(bpy.path.abspath(strip.directory)) / strip.strip_elem_from_frame(frame).filename


def draw_strip_search(layout: bpy.types.UILayout, owner, prop: str, scene: bpy.types.Scene) -> None:
    """A search field over the scene's strips, whose names its collection holds."""
    collection = "strips" if hasattr(scene.sequence_editor, "strips") else "sequences"
    layout.prop_search(owner, prop, scene.sequence_editor, collection)


# --- what strips show ---------------------------------------------------------------------------


def inside(meta) -> Sequence:
    """The strips of a meta strip."""
    return meta.strips if hasattr(meta, "strips") else meta.sequences


def open_meta(scene: bpy.types.Scene):
    """The meta strip whose inside the timeline and the viewer show; None where they show the top."""
    stack = scene.sequence_editor.meta_stack if scene.sequence_editor is not None else ()
    return stack[-1] if len(stack) else None


def shown_strips(scene: bpy.types.Scene) -> Sequence:
    """The strips that the timeline shows: those of the meta that is open, else the top ones."""
    meta = open_meta(scene)
    return top_strips(scene) if meta is None else inside(meta)


def shown_channels(scene: bpy.types.Scene) -> Sequence:
    """The channels of `shown_strips`, by their number."""
    if scene.sequence_editor is None:
        return ()
    meta = open_meta(scene)
    return scene.sequence_editor.channels if meta is None else meta.channels


def level_of(scene: bpy.types.Scene, meta: str) -> tuple[Sequence, Sequence]:
    """The strips inside a meta of that name ("": the top ones), and their channels. Empty where it is gone."""
    if scene.sequence_editor is None:
        return (), ()
    if not meta:
        return top_strips(scene), scene.sequence_editor.channels
    found = next((strip for strip in every_strip(scene) if strip.name == meta and strip.type == "META"), None)
    return ((), ()) if found is None else (inside(found), found.channels)


def is_sound(strip) -> bool:
    return strip.type == "SOUND"


def overlap(a, b) -> bool:
    """Whether two strips lie over some of the same frames."""
    return span(a)[0] < span(b)[1] and span(b)[0] < span(a)[1]


def with_inputs(strips: Sequence, chosen: Iterable[str]) -> set[str]:
    """The names of the chosen strips and of all those among `strips` that they can't be shown without.

    An effect needs its inputs, a modifier its mask, a multicam strip the channel that it looks at. An adjustment layer
    alters what lies under it, and brings all of that along only where none of it is chosen.
    """
    chosen = set(chosen)
    names: set[str] = set()
    waiting = [strip for strip in strips if strip.name in chosen]
    while waiting:
        strip = waiting.pop()
        if strip.name in names:
            continue
        names.add(strip.name)
        waiting += [needed for k in (1, 2) if (needed := getattr(strip, f"input_{k}", None)) is not None]
        waiting += [
            modifier.input_mask_strip for modifier in strip.modifiers if modifier.input_mask_strip is not None
        ]
        if strip.type == "MULTICAM":
            waiting += [
                other for other in strips if other.channel == strip.multicam_source and overlap(strip, other)
            ]
        elif strip.type == "ADJUSTMENT":
            under = [other for other in strips if other.channel < strip.channel and overlap(strip, other)]
            if not any(other.name in chosen and not is_sound(other) for other in under):
                waiting += under
    return names


def visible_spans(
    strips: Sequence, channels: Sequence, names: set[str] | None = None
) -> list[tuple[int, int]]:
    """(first frame, first frame after) of every stretch in which one of the strips (those of `names`; None: all)
    shows something, in order and apart. Muted strips and channels, sound, and an adjustment layer show nothing.
    """
    spans = []
    for strip in strips:
        if strip.mute or channels[strip.channel].mute or (names is not None and strip.name not in names):
            continue
        start, end = span(strip)
        if strip.type == "META":
            parts = visible_spans(inside(strip), strip.channels)
            if is_retimed(strip):  # its inside runs at another speed
                parts = [(start, end)] if parts else []
            spans += [(max(start, first), min(end, last)) for first, last in parts]
        elif strip.type == "MULTICAM":
            looked_at = [other for other in strips if other.channel == strip.multicam_source]
            spans += [
                (max(start, span(other)[0]), min(end, span(other)[1]))
                for other in looked_at
                if not is_sound(other)
            ]
        elif not is_sound(strip) and strip.type != "ADJUSTMENT":
            spans.append((start, end))
    apart: list[tuple[int, int]] = []
    for start, end in sorted((start, end) for start, end in spans if start < end):
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def is_retimed(strip) -> bool:
    """Whether retiming keys change the strip's speed."""
    return len(getattr(strip, "retiming_keys", ())) > 0


def missing_media(scene: bpy.types.Scene, strips: Iterable) -> list[str]:
    """A line for each strip, inside metas and scenes too, that lacks files or its scene."""
    lines = []
    for strip in strips:
        if strip.mute or is_sound(strip):
            continue
        if strip.type == "META":
            lines += missing_media(scene, inside(strip))
        elif strip.type == "SCENE":
            if strip.scene is None:
                lines.append(tr("scene strip '{strip}' has no scene", strip=strip.name))
            elif strip.scene_input == "SEQUENCER":
                lines += missing_media(strip.scene, top_strips(strip.scene))
        elif (
            strip.type == "MOVIE"
            and not Path(bpy.path.abspath(strip.filepath, library=scene.library)).is_file()
        ):
            lines.append(
                tr("movie strip '{strip}' has no file {file}", strip=strip.name, file=strip.filepath)
            )
        elif is_image(strip):
            lines += _missing_images(scene, strip)
    return lines


def _missing_images(scene: bpy.types.Scene, strip) -> list[str]:
    folder = Path(bpy.path.abspath(strip.directory, library=scene.library))
    shown = [strip.strip_elem_from_frame(frame) for frame in range(*span(strip))]
    names = {element.filename for element in shown if element is not None}
    missing = sorted(name for name in names if not (folder / name).is_file())
    if not missing:
        return []
    some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    said = tr(
        "image strip '{strip}' lacks {missing} of {count} files in {folder} ({some})",
        strip=strip.name,
        missing=len(missing),
        count=len(names),
        folder=folder,
        some=some,
    )
    return [said]


def shows_itself(scene: bpy.types.Scene, strips: Iterable, around: tuple[str, ...] = ()) -> str:
    """The first scene strip by which `scene` would show itself, however deep; "" where there is none."""
    around = (*around, scene.name_full)
    for strip in strips:
        if strip.type == "META" and (found := shows_itself(scene, inside(strip), around[:-1])):
            return found
        if strip.type == "SCENE" and strip.scene is not None:
            if strip.scene.name_full in around:
                return strip.name
            if strip.scene_input == "SEQUENCER":
                found = shows_itself(strip.scene, top_strips(strip.scene), around)
                if found:
                    return found
    return ""


def keep_only(copy: bpy.types.Scene, names: Collection[str] | None, meta: str = "", last: int = 0) -> None:
    """Leaves a copy of a scene only these strips (None: all), no sound, and the meta they lie in open, if they do.

    last: the last frame that will be rendered.

    Removing a strip removes its F-curves, so the copy must have an action of its own.
    """
    editor = copy.sequence_editor
    level = top_strips(copy)
    if meta:
        opened = (editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all)[meta]
        level = inside(opened)
        editor.display_stack(opened)
    for name in [strip.name for strip in level]:
        strip = level.get(name)  # an effect goes with its inputs
        if strip is not None and (is_sound(strip) or (names is not None and name not in names)):
            level.remove(strip)
    _stay_a_sequence(copy, last)


def _stay_a_sequence(copy: bpy.types.Scene, last: int) -> None:
    """Blender renders the 3-D scene at frames where every strip is muted (by its animation, say); one that isn't,
    later than all the others and than `last`, keeps it from that."""
    end = max([last + 1, *(span(strip)[1] for strip in top_strips(copy))])
    length = {"length": 1} if bpy.app.version >= (5, 0) else {"frame_end": end + 1}
    top_strips(copy).new_effect(name="MuseV", type="COLOR", channel=1, frame_start=end, **length)
