"""What strips show at some frames, summed up without rendering any: which file, which frame of it, and what is done to
it there.

Two sums that are alike mean the same picture. A strip's name, its channel, whether it is selected, locked or muted, and
where its file lies count for nothing, so a strip may be renamed, cut, muted under the new clip, and the project moved.
What another scene shows in a scene strip is not looked at, unless it is that scene's own strips.

In `take.json` among a take's origins, under `SOURCE` and `STILL`:

    strips  of each strip that was read, by its name, what it showed at each frame, as `strip_sums` tells it
    meta    the meta strip in which they lie; "" for none
    at      the first of these frames
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bpy

from .. import strips
from ..footage.strip_capture import Choice, StripCapture, nearest_frames
from ..protocol import ClipRequest
from . import origins
from .facts import Facts, Keyed

SOURCE = "source"
STILL = "still_strips"
END = 1 << 16  # bytes at both ends of a file that say what it is, together with its size
AT_ONCE = 16  # frames of a strip that are summed up together
NONE = "-" * 8  # where a strip shows nothing
LOST = "?" * 8  # where its file can't be read: nobody knows what it would show
ELSEWHERE = (  # what of a strip is told by other means, or shows nothing
    "directory", "elements", "filepath", "proxy", "use_proxy", "retiming_keys", "strips", "sequences", "channels",
    "animation_offset_start", "animation_offset_end", "strobe", "volume", "musev",
)  # fmt: skip
OF_ALL = ("blend_type", "blend_alpha", "effect_fader", "use_default_fade", "use_linear_modifiers")
TIMELESS = ("COLOR", "TEXT", "ADJUSTMENT", "MULTICAM")  # strips that show the same however long they last
MAX_DEPTH = 4  # of strips in metas and scenes


@dataclass
class Files:
    """Which files are what they were: their sums by path, together with when they were written and their size."""

    known: dict[Path, tuple[tuple, int]] = field(default_factory=dict)

    def sum(self, path: Path) -> int | None:
        """None where it can't be read."""
        if (stamp := origins.stamp(path)) is None:
            return None
        known = self.known.get(path)
        if known is None or known[0] != stamp:
            try:
                with open(path, "rb") as file:
                    told = zlib.crc32(file.read(END), stamp[1])
                    file.seek(max(0, stamp[1] - END))
                    known = stamp, zlib.crc32(file.read(END), told)
            except OSError:
                return None
            self.known[path] = known
        return known[1]


def sums(scene: str, name: str, frames: Sequence[int], files: Files) -> Generator[None, None, str | None]:
    """8 characters for each frame, one after another, of a strip of that name; None where there is none. Stops after
    every few frames."""
    told = []
    for first in range(0, len(frames), AT_ONCE):
        world = bpy.data.scenes.get(scene)
        strip = _named(world, name)
        if strip is None:
            return None
        shown = _Shown(world, strip, files)
        told += [shown.at(frame) for frame in frames[first : first + AT_ONCE]]
        del world, strip, shown
        yield
    return "".join(told)


def over(scene: bpy.types.Scene, frames: Sequence[int]) -> list[str]:
    """The names of all strips, inside metas too, that lie over some of the frames."""
    first, last = min(frames), max(frames)
    return [
        strip.name for strip in strips.every_strip(scene)
        if strips.span(strip)[0] <= last and first < strips.span(strip)[1] and not strips.is_sound(strip)
    ]  # fmt: skip


def _named(scene: bpy.types.Scene | None, name: str):
    if scene is None:
        return None
    return next((strip for strip in strips.every_strip(scene) if strip.name == name), None)


class _Shown:
    """One strip of a scene. Not kept between ticks."""

    def __init__(self, scene: bpy.types.Scene, strip, files: Files, depth: int = 0) -> None:
        self.strip, self.scene, self.files = strip, scene, files
        self.span = strips.span(strip)
        self.start = strip.content_start if hasattr(strip, "content_start") else strip.frame_start
        self.facts, keyed, path = Facts(), Keyed(scene), strip.path_from_id()
        base = {spec.identifier for spec in strips.strip_type().bl_rna.properties}
        self.facts.add(
            strip.type, *(key.timeline_frame - self.start for key in getattr(strip, "retiming_keys", ()))
        )
        self.facts.add_of(strip, [name for name in OF_ALL if hasattr(strip, name)], keyed, path)
        self.facts.add_all(strip, keyed, path, {*base, *ELSEWHERE}, depth=1)
        if hasattr(strip, "strobe"):
            self.facts.add(max(1.0, strip.strobe))  # 4.2 sets it to 1 where a strip is shown
        for modifier in strip.modifiers:
            self.facts.add(modifier.type)
            self.facts.add_all(modifier, keyed, modifier.path_from_id(), depth=3)
        self.inner: list[_Shown] = []
        self.shift = 0.0
        if depth < MAX_DEPTH and strip.type == "META":
            self.inner = _all(scene, strips.inside(strip), files, depth)
        elif depth < MAX_DEPTH and strip.type == "SCENE" and strip.scene and strip.scene_input == "SEQUENCER":
            self.inner = _all(strip.scene, strips.top_strips(strip.scene), files, depth)
            self.shift = strip.scene.frame_start + strip.animation_offset_start - self.start

    def at(self, frame: int) -> str:
        strip = self.strip
        if not self.span[0] <= frame < self.span[1]:
            return NONE
        what: tuple = ()
        if strip.type == "IMAGE":
            element = strip.strip_elem_from_frame(frame)
            if element is None:
                return NONE
            folder = bpy.path.abspath(strip.directory, library=self.scene.library)
            what = (self.files.sum(Path(folder, element.filename)),)
        elif strip.type in ("MOVIE", "MOVIECLIP"):
            path = strip.filepath if strip.type == "MOVIE" else strip.clip.filepath if strip.clip else ""
            path = Path(bpy.path.abspath(path, library=self.scene.library))
            what = (self.files.sum(path), frame - self.start + strip.animation_offset_start)
        elif self.inner:
            shown = sorted(each.at(round(frame + self.shift)) for each in self.inner)
            if LOST in shown:
                return LOST
            what = tuple(each for each in shown if each != NONE)
        elif (
            hasattr(strip, "input_count") and strip.input_count
        ):  # a fade goes on from its beginning to its end
            what = (frame - self.span[0], self.span[1] - self.span[0])
        elif strip.type not in TIMELESS:
            what = (frame - self.start,)
        if None in what:
            return LOST
        return f"{zlib.crc32(repr(what).encode(), self.facts.at(frame)):08x}"


def _all(scene: bpy.types.Scene, inner: Iterable, files: Files, depth: int) -> list[_Shown]:
    return [
        _Shown(scene, strip, files, depth + 1)
        for strip in inner
        if not strips.is_sound(strip) and not strip.mute
    ]


# --- what is kept ---------------------------------------------------------------------------------


@dataclass
class SourceCapture:
    """A `captures.Capture` that only looks on: it notes in `about`, under `key`, what the strips show that `read`
    reads."""

    about: dict
    read: StripCapture
    key: str = SOURCE
    _work: Generator[None, None, None] | None = None
    _sums: dict[str, str] = field(default_factory=dict)

    phase = "reading strips"
    done = 0
    total = 1

    def advance(self, deadline: float) -> bool:
        self._work = self._work or self._sum()
        while time.perf_counter() < deadline:
            if next(self._work, self) is self:
                return True
        return False

    def _sum(self) -> Generator[None, None, None]:
        frames, choice, files = nearest_frames(self.read.times), self.read.choice, Files()
        for name in _showing(choice):
            told = yield from sums(choice.scene, name, frames, files)
            if told and told.strip("-"):
                self._sums[name] = told

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        noted, first = self.about.get(origins.KEY, {}), nearest_frames(self.read.times)[0]
        told = {"strips": self._sums, "meta": self.read.choice.meta, "at": first}
        self.about[origins.KEY] = noted | {"system": origins.system(), self.key: told}
        return request, {}

    def cancel(self) -> None:
        """Nothing was changed."""


def _showing(choice: Choice) -> list[str]:
    """The names of the strips of a choice that show something: not those that are muted."""
    if (scene := bpy.data.scenes.get(choice.scene)) is None:
        return []
    level, channels = strips.level_of(scene, choice.meta)
    return sorted(
        strip.name for strip in choice.among(level)
        if not (strip.mute or channels[strip.channel].mute or strips.is_sound(strip))
    )  # fmt: skip
