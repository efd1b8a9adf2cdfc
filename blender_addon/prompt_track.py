"""The prompt track: text strips on channels of their own are the prompt where they lie, and cross-fade where they
overlap. Read from the timeline, told in generated frames."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
from bpy.props import BoolProperty, StringProperty

from . import strips, timing
from .protocol import PromptSpan
from .translations import tr

CHANNEL = "Prompts"


class MusevPromptSettings(bpy.types.PropertyGroup):
    use: BoolProperty(
        name="Prompt Track",
        description="Text strips on the prompt channels are the prompt of the frames they lie over, not the clip's",
        default=True,
    )
    channel: StringProperty(
        name="Channels",
        description="What the names of the channels begin with whose text strips are prompts; they may be muted",
        default=CHANNEL,
    )


@dataclass(frozen=True)
class Track:
    """What a clip's text strips ask for. spans: in generated frames, one for each strip, by where they begin. lie: the
    first and last frame of the timeline that each is seen on. unseen: the names of strips so short that no frame is
    generated under them."""

    spans: tuple[PromptSpan, ...] = ()
    lie: tuple[tuple[int, int], ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What the panel says: '3 prompts'; "" for none."""
        count = len(self.spans)
        said = [tr("1 prompt") if count == 1 else tr("{count} prompts", count=count)] if count else []
        if self.unseen:
            said.append(tr("no frame is generated under {strips}", strips=", ".join(self.unseen)))
        return "; ".join(said)


def is_prompt(strip) -> bool:
    """Whether the strip is a text strip that says something and isn't muted; its channel may be."""
    return strip.type == "TEXT" and not strip.mute and bool(strip.text.strip())


def channels(scene: bpy.types.Scene, beginning: str) -> list[int]:
    """The numbers of the channels of that name, or whose names begin with it, in whatever case."""
    editor, wanted = scene.sequence_editor, beginning.strip().lower()
    if editor is None or not wanted:
        return []
    return [n for n, channel in enumerate(editor.channels) if channel.name.lower().startswith(wanted)]


def read(scene: bpy.types.Scene, settings: MusevPromptSettings, when: timing.Plan) -> Track:
    """The prompts over a clip. Raises ProtocolError for a text that is too long."""
    on = channels(scene, settings.channel) if settings.use else []
    if not on:
        return Track()
    shown_last = when.start + when.output_frames - 1
    times = [
        min(time, shown_last) for time in when.times
    ]  # one may be generated for after the last one shown
    spans, lie, unseen = [], [], []
    found = [strip for strip in strips.top_strips(scene) if strip.channel in on and is_prompt(strip)]
    for strip in sorted(found, key=lambda strip: (strips.span(strip), strip.channel)):
        start, end = strips.span(strip)
        under = [number for number, time in enumerate(times) if start <= time < end]
        if under:
            spans.append(PromptSpan(under[0], under[-1], strip.text.strip()))
            lie.append((max(start, when.start), min(end - 1, shown_last)))
        elif start <= shown_last and end > when.start:
            unseen.append(strip.name)
    return Track(tuple(spans), tuple(lie), tuple(unseen))


def channel_for(scene: bpy.types.Scene, beginning: str, start: int, end: int) -> int:
    """A prompt channel that is free over [start, end), else a free one that becomes a prompt channel: named so, and
    muted, so that no prompt is written over the picture. Raises StripError."""
    name = beginning.strip() or CHANNEL
    there = channels(scene, name)
    taken = {
        s.channel for s in strips.top_strips(scene) if strips.span(s)[0] < end and start < strips.span(s)[1]
    }
    editor = scene.sequence_editor or scene.sequence_editor_create()
    for number in there:
        if number and number not in taken and not editor.channels[number].lock:
            return number
    in_use = {strip.channel for strip in strips.top_strips(scene)}
    free = strips.first_free_channel(scene, start, end)
    number = next(
        (n for n in range(free, strips.MAX_CHANNEL + 1) if n not in in_use and n not in there), None
    )
    if number is None:
        raise strips.StripError(tr("All 128 channels hold strips; empty one for the prompts."))
    editor.channels[number].name = f"{name} {len(there) + 1}" if there else name
    editor.channels[number].mute = True
    return number


register, unregister = bpy.utils.register_classes_factory((MusevPromptSettings,))
