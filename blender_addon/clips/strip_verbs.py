"""What a strip of the artist's own can be to the next clip: its reference still, or what it is made from."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, FloatProperty, StringProperty

from .. import strips
from ..footage import sources
from ..gather import SettingsError
from ..protocol import ClipRequest
from ..translations import tr
from ..verbs import Verb, no_scene, refusable


def active(scene: bpy.types.Scene | None):
    """The active strip if it shows a picture; else None."""
    editor = scene.sequence_editor if scene is not None else None
    strip = editor.active_strip if editor is not None else None
    return strip if strip is not None and not strips.is_sound(strip) else None


class StripVerb(Verb):
    """A verb on one strip that shows pictures."""

    bl_options = {"REGISTER", "UNDO"}

    strip: StringProperty(
        name="Strip",
        description="The name of a strip that shows pictures; empty: the active one",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := no_scene(context):
            return why
        shows = any(not strips.is_sound(strip) for strip in strips.shown_strips(strips.shown_scene(context)))
        return "" if shows else tr("The timeline shows no strip with pictures; add one")

    def chosen(self, scene: bpy.types.Scene):
        """Raises SettingsError where there is no such strip, or it shows nothing."""
        if not self.strip:
            if (strip := active(scene)) is None:
                raise SettingsError(tr("The active strip shows no pictures; choose one that does."))
            return strip
        named = (strip for strip in strips.shown_strips(scene) if strip.name == self.strip)
        strip = next(named, None)
        if strip is None or strips.is_sound(strip):
            raise SettingsError(
                tr("The timeline shows no strip '{strip}' with pictures; choose another.", strip=self.strip)
            )
        return strip


class MUSEV_OT_use_as_still(StripVerb, bpy.types.Operator):
    bl_idname = "musev.use_as_still"
    bl_label = "Use as Still"
    bl_description = "The next clip looks like the picture that this strip shows at the current frame"

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        scene = strips.shown_scene(context)
        strip, settings = self.chosen(scene), scene.musev
        settings.still_source, settings.still_strip = "STRIP", strip.name
        if settings.mode == "text":  # which looks at no still
            settings.mode = "still"
        self.report({"INFO"}, tr("'{strip}' is the still of the next clip", strip=strip.name))


class MUSEV_OT_use_as_source(StripVerb, bpy.types.Operator):
    bl_idname = "musev.use_as_source"
    bl_label = "Use as Source"
    bl_description = "The next clip is made from the frames that this strip shows, anew as the prompt says"

    use: EnumProperty(
        name="Use As", description="What the strip's frames are to the clip", items=sources.USES
    )
    strength: FloatProperty(
        name="Change",
        description="How much of each frame is made anew: 0 keeps the source, 1 keeps next to nothing of it",
        default=ClipRequest.source_strength, min=0.0, max=1.0, subtype="FACTOR",
    )  # fmt: skip

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        scene = strips.shown_scene(context)
        strip, settings = self.chosen(scene), scene.musev
        settings.mode, source = "video", settings.source
        source.choice, source.strip = "STRIP", strip.name
        source.use, source.strength = self.use, self.strength
        self.report({"INFO"}, tr("The next clip is made from '{strip}'", strip=strip.name))


register, unregister = bpy.utils.register_classes_factory((MUSEV_OT_use_as_still, MUSEV_OT_use_as_source))
