"""The verbs where Blender's users look for them: the sequencer's menus, a strip's context menu, a few keys."""

from __future__ import annotations

import bpy

from . import strips
from .clips import compare, stack, strip_verbs

KEYS = (  # Ctrl and Shift with each; free in Blender's own and in the industry compatible keymap, 4.2 to 5.2
    ("musev.generate", "G"),
    ("musev.take_previous", "COMMA"),
    ("musev.take_next", "PERIOD"),
)
_keys: list[tuple[bpy.types.KeyMap, bpy.types.KeyMapItem]] = []


class MUSEV_MT_strip(bpy.types.Menu):
    """What can be done with the active strip: with its takes if it is one of ours, else with its pictures."""

    bl_idname = "MUSEV_MT_strip"
    bl_label = "MuseV"
    bl_description = "Takes of this strip, and what it can be to the next clip"

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, strips.shown_scene(context)
        if compare.parts(scene):
            layout.operator("musev.take_compare_end", icon="X")
            layout.separator()
        if stack.active(scene) is not None:
            self.draw_takes(layout)
            layout.separator()
        layout.operator("musev.use_as_still", icon="IMAGE_REFERENCE")
        layout.operator("musev.use_as_source", icon="FILE_MOVIE")
        layout.operator("musev.bridge", icon="ARROW_LEFTRIGHT")
        layout.separator()
        layout.operator("musev.generate_each", icon="SEQ_SEQUENCER")
        layout.operator_menu_enum("musev.contact_sheet", "of", icon="IMAGE_DATA")

    def draw_takes(self, layout: bpy.types.UILayout) -> None:
        layout.operator_context = "INVOKE_DEFAULT"  # those that need an answer ask for it
        layout.operator("musev.take_next", icon="TRIA_RIGHT")
        layout.operator("musev.take_previous", icon="TRIA_LEFT")
        layout.operator("musev.take_show", icon="HIDE_OFF")
        layout.operator("musev.take_compare", icon="SPLIT_HORIZONTAL").kind = "SIDE"
        layout.operator("musev.take_promote", icon="SOLO_ON")
        layout.operator("musev.take_star", icon="SOLO_OFF")
        layout.operator("musev.take_label", icon="SORTALPHA")
        layout.separator()
        layout.operator("musev.redo_range", icon="FILE_REFRESH")
        layout.operator("musev.extend", icon="TRACKING_FORWARDS")
        layout.operator("musev.vary", icon="DUPLICATE")
        layout.operator("musev.recall_settings", icon="RECOVER_LAST")
        layout.separator()
        layout.operator("musev.takes_prune", icon="TRASH")
        layout.operator("musev.takes_restore", icon="LOOP_BACK")


def _add(self, context: bpy.types.Context) -> None:
    self.layout.separator()
    self.layout.operator("musev.generate", text="MuseV Clip", icon="RENDER_ANIMATION")
    self.layout.operator("musev.prompt_add", icon="TEXT")


def _strip(self, context: bpy.types.Context) -> None:
    if strip_verbs.active(strips.shown_scene(context)) is not None:
        self.layout.separator()
        self.layout.menu("MUSEV_MT_strip", icon="FILE_MOVIE")


# --- keys -----------------------------------------------------------------------------------------


def keymap_name() -> str:
    """The keymap that counts wherever the pointer is in a sequencer; it has another name since 4.5."""
    default = bpy.context.window_manager.keyconfigs.default
    there = default.keymaps if default is not None else ()
    return "Video Sequence Editor" if "Video Sequence Editor" in there else "SequencerCommon"


def draw_keys(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Our keys as the user has them now, each to be changed or turned off."""
    users = context.window_manager.keyconfigs.user
    keymap = users.keymaps.get(keymap_name()) if users is not None else None
    items = [item for item in keymap.keymap_items if item.idname in dict(KEYS)] if keymap else []
    for item in items:
        row = layout.row()
        row.prop(item, "active", text="")
        row.prop(item, "type", text=item.name, full_event=True)


_register, _unregister = bpy.utils.register_classes_factory((MUSEV_MT_strip,))
_PLACES = (("SEQUENCER_MT_add", _add), ("SEQUENCER_MT_context_menu", _strip), ("SEQUENCER_MT_strip", _strip))


def register() -> None:
    _register()
    for menu, draw in _PLACES:
        getattr(bpy.types, menu).append(draw)
    addon = bpy.context.window_manager.keyconfigs.addon
    if addon is None:  # a Blender without a window may have no keys
        return
    keymap = addon.keymaps.new(name=keymap_name(), space_type="SEQUENCE_EDITOR")
    for verb, key in KEYS:
        _keys.append((keymap, keymap.keymap_items.new(verb, key, "PRESS", ctrl=True, shift=True)))


def unregister() -> None:
    for keymap, item in _keys:
        keymap.keymap_items.remove(item)
    _keys.clear()
    for menu, draw in reversed(_PLACES):
        getattr(bpy.types, menu).remove(draw)
    _unregister()
