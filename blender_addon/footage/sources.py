"""Strips as a clip's source, control pictures or reference still: what is chosen, and whether it can be read.

`strip_capture` does the reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import bpy
import numpy as np
from bpy.props import EnumProperty, FloatProperty, StringProperty

from .. import session, strips
from ..protocol import ClipRequest, Control
from ..translations import tr
from .strip_capture import Choice, SourceError, StillCapture, StripCapture, nearest_frames

CHOICES = (
    ("SELECTED", "Selected Strips", "The selected strips and what they need, as if nothing else were there"),
    ("STRIP", "Strip", "One strip and what it needs, as if nothing else were there"),
    ("ALL", "All That Is Shown", "Every strip, as the viewer shows them together"),
)
USES = (
    ("FRAMES", "Frames", "The clip is these frames made anew, as far as Change lets them"),
    (
        "DETECT", "Frames + Control",
        "The clip is these frames made anew, and follows a control that the engine finds in them, say depth",
    ),
    ("CONTROL", "Control Pictures", "The strips already show control pictures, say depth, that the clip follows"),
)  # fmt: skip


_NONE_CHOSEN = {
    "SELECTED": "0 strips of scene '{scene}' are selected; select those to start from, or choose a strip by name.",
    "STRIP": "Scene '{scene}' shows no strip '{strip}' in its timeline; choose another.",
    "": "No strip of scene '{scene}' is chosen; choose the one to start from.",
    "ALL": "The sequencer of scene '{scene}' has 0 strips; add the one to start from.",
}


def control_names(settings: MusevSourceSettings, context: bpy.types.Context, text: str) -> list[str]:
    """The controls that the engine can follow (and find, where it is to) and that match what is typed."""
    menus = session.current.engine.client.menus
    if menus is None:
        return []
    names = menus.controls
    if settings.use == "DETECT":
        names = [name for name in names if name in menus.control_preprocessors]
    return [name for name in names if text.lower() in name.lower()]


class MusevSourceSettings(bpy.types.PropertyGroup):
    """Which strips a 'video' clip is made from, and how."""

    choice: EnumProperty(name="Source", description="Which strips the clip is made from", items=CHOICES)
    strip: StringProperty(name="Strip", description="The strip that the clip is made from")
    use: EnumProperty(name="Use As", description="What the strips' frames are to the clip", items=USES)
    strength: FloatProperty(
        name="Change",
        description="How much of each frame is made anew: 0 keeps the source, 1 keeps next to nothing of it",
        default=ClipRequest.source_strength, min=0.0, max=1.0, subtype="FACTOR",
    )  # fmt: skip
    control: StringProperty(
        name="Control",
        description="What the clip follows besides the prompt, say depth: what the pictures show, or what to find in "
        "the frames. The menu lists what the engine has",
        default="depth", search=control_names, search_options={"SUGGESTION"},
    )  # fmt: skip
    control_scale: FloatProperty(
        name="Control Strength", description="How closely the clip follows these pictures: 1 is usual, 0 not at all",
        default=Control.scale, min=0.0, max=4.0, soft_max=2.0,
    )  # fmt: skip


def chosen(scene: bpy.types.Scene, choice: str, name: str = "") -> Choice:
    """The strips of a choice (of `CHOICES`; name: of the one strip), as they are now. Raises SourceError."""
    level = strips.shown_strips(scene)
    opened = strips.open_meta(scene)
    meta = opened.name if opened is not None else ""
    if choice == "STRIP":
        wanted = [strip for strip in level if strip.name == name]
    else:
        wanted = [strip for strip in level if strip.select or choice == "ALL"]
    if not wanted:
        why = choice if name or choice != "STRIP" else ""
        raise SourceError(tr(_NONE_CHOSEN[why], scene=scene.name, strip=name))
    if choice == "ALL":
        return Choice(scene.name, None, meta)
    if all(strips.is_sound(strip) for strip in wanted):
        raise SourceError(
            tr(
                "'{strip}' is a sound strip and shows nothing; choose a strip with pictures.",
                strip=wanted[0].name,
            )
        )
    return Choice(scene.name, frozenset(strips.with_inputs(level, (strip.name for strip in wanted))), meta)


def empty_frames(scene: bpy.types.Scene, choice: Choice, frames: Sequence[int]) -> int:
    """At how many of the frames none of the strips shows anything, so that black is sent."""
    spans = strips.visible_spans(strips.shown_strips(scene), strips.shown_channels(scene), choice.names)
    starts = np.array([start for start, _ in spans], np.int64)
    ends = np.array([end for _, end in spans], np.int64)
    begun = np.searchsorted(starts, frames, side="right")
    return int(len(frames) - np.sum(begun - np.searchsorted(ends, frames, side="right")))


def check(scene: bpy.types.Scene, choice: Choice, frames: Sequence[int]) -> None:
    """Raises SourceError where these strips can't be rendered at these frames, or would show nothing at all."""
    first, last = min(frames), max(frames)
    wanted = [
        strip for strip in choice.among(strips.shown_strips(scene))
        if strips.span(strip)[0] <= last and first < strips.span(strip)[1]
    ]  # fmt: skip
    if endless := strips.shows_itself(scene, wanted):
        raise SourceError(
            tr(
                "Scene strip '{strip}' shows the scene that it lies in, and so itself without end; "
                "leave it out, or give it another scene.",
                strip=endless,
            )
        )
    if missing := strips.missing_media(scene, wanted):
        raise SourceError(
            tr(
                "Media are missing: {media}. Bring the files back (File, External Data, Find Missing "
                "Files), or mute the strip.",
                media="; ".join(missing),
            )
        )
    if empty_frames(scene, choice, frames) == len(frames):
        raise SourceError(
            tr(
                "Nothing is shown at any of the frames {first} to {last}: the chosen strips lie "
                "elsewhere, are muted, or have no picture. Choose others, or another range.",
                first=first,
                last=last,
            )
        )


def captures(
    scene: bpy.types.Scene, settings: MusevSourceSettings, times: tuple[float, ...], width: int, height: int
) -> list[StripCapture]:
    """What is to be read for a 'video' clip, checked as far as can be now. Raises SourceError and ProtocolError."""
    choice = chosen(scene, settings.choice, settings.strip)
    check(scene, choice, nearest_frames(times))
    control = None
    if settings.use != "FRAMES":
        control = Control(settings.control, (), detect=settings.use == "DETECT", scale=settings.control_scale)
    strength = None if settings.use == "CONTROL" else settings.strength
    return [StripCapture(choice, width, height, times, strength, control)]


def request_mode(settings: MusevSourceSettings, has_still: bool) -> str:
    """The mode of a request whose source these settings are: control pictures are no frames to make anew."""
    return "video" if settings.use != "CONTROL" else "still" if has_still else "text"


def still_capture(scene: bpy.types.Scene, name: str, frame: int, width: int, height: int) -> StillCapture:
    """The reference still from strip `name`, as the viewer shows it alone at `frame`, or at its nearest end where
    `frame` lies outside it. Raises SourceError.
    """
    choice = chosen(scene, "STRIP", name)
    start, end = strips.span(next(strip for strip in strips.shown_strips(scene) if strip.name == name))
    frame = min(max(frame, start), end - 1)
    check(scene, choice, (frame,))
    return StillCapture(choice, width, height, (float(frame),))


register, unregister = bpy.utils.register_classes_factory((MusevSourceSettings,))
