"""Two takes at once: as a wipe, or side by side. Three temporary strips above the clip's own, which is left as it is.

The strips are black, the take on the left and the one on the right; `strip.musev.compares` says which is which, and
`scene.musev_comparison` how they are seen, so that a comparison goes on in a file that was saved with one.
"""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import EnumProperty, FloatProperty, PointerProperty

from .. import strips
from ..translations import tr
from . import stack

KINDS = (
    ("WIPE", "Wipe", "The shown take left of a line, the other one right of it"),
    ("SIDE", "Side by Side", "Both takes whole, at half their size"),
)


class MusevComparison(bpy.types.PropertyGroup):
    """How the scene's comparison is seen."""

    kind: EnumProperty(name="As", description="How both takes are seen", items=KINDS)
    line: FloatProperty(
        name="Line", description="Where the wipe's line stands: 0 at the left edge, 1 at the right. Drag it",
        default=0.5, min=0.0, max=1.0, subtype="FACTOR", options=set(), update=lambda self, context: self.moved(),
    )  # fmt: skip

    def moved(self) -> None:
        if self.kind == "WIPE":
            for part, placed in parts(self.id_data).items():
                if part != "back":
                    _cut(placed, part, self.line)


def parts(scene: bpy.types.Scene | None) -> dict[str, object]:
    """The temporary strips of the scene's comparison by their part: 'back', 'left', 'right'; {} without one."""
    if scene is None:
        return {}
    return {strip.musev.compares: strip for strip in strips.every_strip(scene) if strip.musev.compares}


def compare(
    scene: bpy.types.Scene, strip, left: list[Path], right: list[Path], kind: str, line: float
) -> None:
    """Lays two takes of a strip over it, frame on frame. line: where the wipe's line stands, from 0 (left) to 1.

    Ends another comparison first. Raises StripError, and the timeline is untouched then.
    """
    start, end = strips.span(strip)
    first, _ = strips.content(strip)
    old = {other.as_pointer() for other in parts(scene).values()}
    above = [
        other.channel
        for other in strips.every_strip(scene)
        if other.as_pointer() not in old and strips.span(other)[0] < end and start < strips.span(other)[1]
    ]
    channel = max(above) + 1
    if channel + 2 > strips.MAX_CHANNEL:
        raise strips.StripError(
            tr(
                "A comparison needs three channels above channel {channel}, and there are {most}; "
                "move the highest strip down.",
                channel=channel - 1,
                most=strips.MAX_CHANNEL,
            )
        )
    if strip.name not in strips.top_strips(scene):
        raise strips.StripError(
            tr(
                "The strip '{strip}' lies inside a meta strip; move it out to compare its takes.",
                strip=strip.name,
            )
        )
    if shortest := next((files for files in (left, right) if first + len(files) <= start), None):
        raise strips.StripError(
            tr(
                "{take} has {count} frames, and the strip starts after them; pull its left handle back "
                "to compare it.",
                take=shortest[0].parent.name,
                count=len(shortest),
            )
        )
    finish(scene)
    selected = [other for other in strips.every_strip(scene) if other.select]
    back = strips.place_colour(scene, "Comparison", channel, start, end)
    back.musev.compares = "back"
    for number, (part, files) in enumerate((("left", left), ("right", right)), 1):
        name = f"{part.title()}: {files[0].parent.name}"
        placed = strips.place_images(scene, name, files, first, channel + number)
        placed.musev.compares = part
        strips.set_span(placed, start, min(end, first + len(files)))
        # Over black this is the picture itself. ALPHA_OVER may hide what lies below a cropped strip: Blender leaves out
        # strips under one that it takes for opaque, and judges by sizes that it has not yet read from the files.
        placed.blend_type = "LIGHTEN"
        _arrange(scene, strip, placed, files[0], part, kind)
    scene.musev_comparison.kind, scene.musev_comparison.line = kind, line  # which moves the line there
    for other in strips.every_strip(scene):
        other.select = other in selected
    scene.sequence_editor.active_strip = strip


def finish(scene: bpy.types.Scene) -> int:
    """Removes the comparison's strips; returns how many there were."""
    found = list(parts(scene).values())
    for strip in found:
        strips.remove(scene, strip)
    return len(found)


def _arrange(scene: bpy.types.Scene, strip, placed, file: Path, part: str, kind: str) -> None:
    """Puts one take where it belongs, as the clip's own strip has it: its place, size, turn and colour space."""
    strips.lay_as(placed, strip)
    size = stack.picture_size(file)
    own = stack.picture_size(stack.shown(strip) / strip.elements[0].filename) or size
    if size and size != own:
        placed.transform.scale_x *= own[0] / size[0]
        placed.transform.scale_y *= own[1] / size[1]
    if kind == "SIDE":
        quarter = scene.render.resolution_x * scene.render.resolution_percentage / 400
        for name in ("offset_x", "offset_y", "scale_x", "scale_y"):
            setattr(placed.transform, name, getattr(placed.transform, name) / 2)
        placed.transform.offset_x += -quarter if _lies_left(placed, part) else quarter


def _cut(placed, part: str, line: float) -> None:
    """Leaves of a take what lies on its side of the wipe's line."""
    size = stack.picture_size(strips.file_at(placed, strips.span(placed)[0]))
    if size is None:  # its file is gone; there is nothing to be seen
        return
    cut = round(size[0] * line)
    if _lies_left(placed, part):
        placed.crop.max_x = size[0] - cut if part == "left" else cut
    else:
        placed.crop.min_x = cut if part == "right" else size[0] - cut


def _lies_left(placed, part: str) -> bool:
    """Whether a take lies on the left of its own picture: flipping comes last."""
    return (part == "left") != placed.use_flip_x


_register, _unregister = bpy.utils.register_classes_factory((MusevComparison,))


def register() -> None:
    _register()
    bpy.types.Scene.musev_comparison = PointerProperty(
        name="Comparison", description="How two takes are seen at once", type=MusevComparison
    )


def unregister() -> None:
    del bpy.types.Scene.musev_comparison
    _unregister()
