"""The Characters panel and its verbs: who is in the clip, and which bones their points hang on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bpy
from bpy.props import EnumProperty, StringProperty
from bpy_extras.io_utils import ExportHelper, ImportHelper

from .. import strips
from ..captures import CaptureError
from ..clips import takes
from ..translations import OURS, tr
from ..ui import Sidebar, draw_text, line_width
from ..verbs import Verb, no_scene, refusable
from . import face_mesh, maps, people
from .camera import PoseError
from .characters import MusevPerson, MusevRig, active, add, recognised
from .skeleton import FACE

POINTS = tuple(
    (point, point.replace("_", " ").capitalize(), f"The character's {point.replace('_', ' ')}")
    for point in maps.MAPPABLE
)


class CharacterOperator(Verb):
    """A verb of the Characters panel: one undo step, refused where the sequencer shows no scene."""

    bl_options = {"REGISTER", "UNDO"}
    needs_character = True

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := no_scene(context):
            return why
        missing = cls.needs_character and active(strips.shown_scene(context).musev) is None
        return tr("No character is chosen; add one to the list") if missing else ""

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        self.do(context, strips.shown_scene(context).musev)


class MUSEV_OT_characters_find(CharacterOperator, bpy.types.Operator):
    bl_idname = "musev.characters_find"
    bl_label = "Find Characters"
    bl_description = (
        "Add every visible rig whose bone names are known, and every instance of one, from left to right"
    )
    needs_character = False

    def do(self, context: bpy.types.Context, settings) -> None:
        scene = strips.shown_scene(context)
        scene.view_layers[0].update()
        depsgraph = scene.view_layers[0].depsgraph
        seen_by = settings.camera.name if settings.camera else None
        known, unknown = recognised(scene, depsgraph, seen_by)
        added = [
            add(settings, bpy.data.objects[person.armature, person.library or None], person.instance)
            for person in known
        ]
        said = tr("Characters added: {count}", count=sum(item is not None for item in added))
        if unknown:
            names = ", ".join(sorted({rig.name for rig in unknown}))
            said += tr("; no name map knows {names}", names=names)
        self.report({"INFO"}, said)


class MUSEV_OT_characters_add(CharacterOperator, bpy.types.Operator):
    bl_idname = "musev.characters_add"
    bl_label = "Add Selected Rigs"
    bl_description = "Add the selected rigs, and the rigs of the selected meshes"
    needs_character = False

    def do(self, context: bpy.types.Context, settings) -> None:
        selected = strips.shown_scene(context).view_layers[0].objects.selected
        rigs = [item if item.type == "ARMATURE" else item.find_armature() for item in selected]
        rigs = list(dict.fromkeys(rig for rig in rigs if rig is not None))
        if not rigs:
            raise PoseError(
                tr(
                    "None of the {count} selected objects is a rig or has one; select one.",
                    count=len(selected),
                )
            )
        for rig in rigs:
            add(settings, rig)


class MUSEV_OT_characters_remove(CharacterOperator, bpy.types.Operator):
    bl_idname = "musev.characters_remove"
    bl_label = "Remove Character"
    bl_description = "Take the character off the list; its rig stays as it is"
    needs_character = False

    def do(self, context: bpy.types.Context, settings) -> None:
        if not 0 <= settings.people_index < len(settings.people):
            raise PoseError(tr("No character is chosen in the list; choose one."))
        settings.people.remove(settings.people_index)
        settings.people_index = min(settings.people_index, max(len(settings.people) - 1, 0))


class MUSEV_OT_characters_move(CharacterOperator, bpy.types.Operator):
    bl_idname = "musev.characters_move"
    bl_label = "Move Character"
    bl_description = "Move the character in the list; the engine is told of them in its order"
    direction: EnumProperty(
        name="Direction", description="Which way it moves",
        items=(("UP", "Up", "Nearer to the first"), ("DOWN", "Down", "Nearer to the last")),
    )  # fmt: skip

    def do(self, context: bpy.types.Context, settings) -> None:
        place = settings.people_index + (-1 if self.direction == "UP" else 1)
        if 0 <= place < len(settings.people):
            settings.people.move(settings.people_index, place)
            settings.people_index = place


class MUSEV_OT_character_set_point(CharacterOperator, bpy.types.Operator):
    bl_idname = "musev.character_set_point"
    bl_label = "Set a Point by Hand"
    bl_description = "Hang a point of the chosen character on a bone of your choice"
    bl_property = "point"
    point: EnumProperty(name="Point", description="Which point", items=POINTS)
    bone: StringProperty(name="Bone", description="The bone; empty: the one that the point has now")

    def invoke(self, context: bpy.types.Context, event) -> set[str]:
        context.window_manager.invoke_search_popup(self)
        return {"RUNNING_MODAL"}

    def do(self, context: bpy.types.Context, settings) -> None:
        item = active(settings)
        if self.bone and self.bone not in item.armature.data.bones:
            raise PoseError(
                tr(
                    "'{armature}' has no bone '{bone}'; choose one of its {count}.",
                    armature=item.armature.name,
                    bone=self.bone,
                    count=len(item.armature.data.bones),
                )
            )
        now = item.match().hooks.get(self.point)
        saved = item.settings
        index = saved.overrides.find(self.point)
        by_hand = saved.overrides[index] if index >= 0 else saved.overrides.add()
        by_hand.name = self.point
        if self.bone:
            by_hand.bone = self.bone
        elif now is not None:
            by_hand.bone, by_hand.end, by_hand.offset = now.bone, now.end, now.offset
        saved.active = saved.overrides.find(self.point)


class MUSEV_OT_character_unset_point(CharacterOperator, bpy.types.Operator):
    bl_idname = "musev.character_unset_point"
    bl_label = "Forget a Point"
    bl_description = "Let the name map find this point again"

    def do(self, context: bpy.types.Context, settings) -> None:
        saved = active(settings).settings
        if 0 <= saved.active < len(saved.overrides):
            saved.overrides.remove(saved.active)
            saved.active = min(saved.active, max(len(saved.overrides) - 1, 0))


class MUSEV_OT_character_reset(CharacterOperator, bpy.types.Operator):
    bl_idname = "musev.character_reset"
    bl_label = "Reset Points"
    bl_description = "Forget the chosen character's points set by hand and its imported map"

    def do(self, context: bpy.types.Context, settings) -> None:
        saved = active(settings).settings
        saved.overrides.clear()
        saved.map, saved.custom = "AUTO", ""


class MUSEV_OT_character_export_map(CharacterOperator, bpy.types.Operator, ExportHelper):
    bl_idname = "musev.character_export_map"
    bl_label = "Export Map"
    bl_description = "Write which bone each point of the chosen character hangs on, as JSON"
    bl_options = {"REGISTER"}
    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})

    def do(self, context: bpy.types.Context, settings) -> None:
        item = active(settings)
        match = item.match()
        found = maps.RigMap(
            item.armature.name, {point: (hook,) for point, hook in match.hooks.items()},
            match.map.marks, match.map.head_has_length,
        )  # fmt: skip
        takes.write_whole(Path(bpy.path.abspath(self.filepath)), maps.to_json(found).encode())


class MUSEV_OT_character_import_map(CharacterOperator, bpy.types.Operator, ImportHelper):
    bl_idname = "musev.character_import_map"
    bl_label = "Import Map"
    bl_description = "Find the chosen character's points by a map that was exported, or written by hand"
    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})

    def do(self, context: bpy.types.Context, settings) -> None:
        path = Path(bpy.path.abspath(self.filepath))
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(maps.MAX_BYTES + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise maps.MapError(
                tr("{path} can't be read ({error}); choose an exported map.", path=path, error=error)
            ) from None
        rig_map = maps.from_json(text)
        saved = active(settings).settings
        saved.custom, saved.map = maps.to_json(rig_map), "CUSTOM"


class MUSEV_UL_people(bpy.types.UIList):
    bl_idname = "MUSEV_UL_people"

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0):
        layout.active = item.use
        layout.label(text=item.shown_name, icon="OUTLINER_OB_ARMATURE" if item.armature else "ERROR")
        if item.armature is not None:
            layout.label(text=told(item))
        layout.prop(item, "use", text="")


def told(item: MusevPerson) -> str:
    """How much of the rig is known: '98 %', or 'unknown'."""
    try:
        match = item.match()
    except CaptureError:
        return tr("unreadable")
    return f"{match.score:.0%}" if match.usable else tr("unknown")


class MUSEV_PT_characters(Sidebar, bpy.types.Panel):
    bl_label = "Characters"
    bl_translation_context = OURS  # elsewhere they are letters
    bl_idname = "MUSEV_PT_characters"
    bl_parent_id = "MUSEV_PT_clip"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return strips.shown_scene(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, strips.shown_scene(context).musev
        row = layout.row(align=True)
        row.operator("musev.characters_find", text="Find", icon="VIEWZOOM")
        row.operator("musev.characters_add", text="Add Selected", icon="ADD")
        row = layout.row()
        row.template_list("MUSEV_UL_people", "", settings, "people", settings, "people_index", rows=3)
        column = row.column(align=True)
        column.operator("musev.characters_remove", text="", icon="REMOVE")
        column.operator("musev.characters_move", text="", icon="TRIA_UP").direction = "UP"
        column.operator("musev.characters_move", text="", icon="TRIA_DOWN").direction = "DOWN"
        if (item := active(settings)) is not None:
            draw_character(context, layout, item)
        elif not settings.people and settings.armature is not None:
            draw_text(
                layout,
                tr("While the list is empty: {armature}", armature=settings.armature.name),
                line_width(context),
            )
            draw_match(context, layout, settings.armature, lambda: people.find(settings.armature))


def draw_match(
    context: bpy.types.Context, layout, armature: bpy.types.Object, find: Callable[[], maps.Match]
) -> None:
    """Which name map fits, and what it leaves out."""
    width = line_width(context)
    try:
        match = find()
    except CaptureError as error:
        draw_text(layout, str(error), width, "ERROR")
        return
    draw_text(
        layout,
        tr("{title}: {score:.0%} of its bones found", title=match.map.title, score=match.score),
        width,
        "CHECKMARK" if match.usable else "ERROR",
    )
    if match.missing:
        draw_text(layout, tr("Left out, no bone: {points}", points=maps.told(match.missing)), width, "INFO")
    by_mesh = face_mesh.told(armature)
    for mesh, count in by_mesh.items():
        draw_text(
            layout, tr("Face: {count} points from mesh {mesh}", count=count, mesh=mesh), width, "MESH_DATA"
        )
    if match.face_approximated and sum(by_mesh.values()) < len(FACE):
        some = by_mesh or any(point in match.hooks for point in FACE)
        rest = tr("The rest of the face: an average one, fitted to the points that are known")
        draw_text(
            layout, rest if some else tr("No face bones: an average face is put on the head"), width, "INFO"
        )
    if match.lost:
        draw_text(
            layout,
            tr("Set by hand, but the bone is gone: {points}", points=maps.told(match.lost)),
            width,
            "ERROR",
        )


def draw_character(context: bpy.types.Context, layout, item: MusevPerson) -> None:
    """What is known of a character's rig, what is left out, and its points set by hand."""
    saved = item.settings
    layout.prop(saved, "map")
    draw_match(context, layout, item.armature, item.match)
    if saved == item.rig:
        draw_text(
            layout,
            tr("The rig is of another file: points set by hand are saved in this one"),
            line_width(context),
        )
    draw_points(layout, item, saved)
    row = layout.row(align=True)
    row.operator("musev.character_import_map", icon="IMPORT")
    row.operator("musev.character_export_map", icon="EXPORT")
    layout.operator("musev.character_face_groups", icon="GROUP_VERTEX")


def draw_points(layout, item: MusevPerson, saved: MusevRig) -> None:
    layout.operator("musev.character_set_point", icon="BONE_DATA")
    for index, by_hand in enumerate(saved.overrides):
        row = layout.row(align=True)
        chosen = index == saved.active
        icon = "DOWNARROW_HLT" if chosen else "RIGHTARROW"
        row.label(text=by_hand.name.replace("_", " "), icon=icon)
        row.prop_search(by_hand, "bone", item.armature.data, "bones", text="")
        if chosen:
            column = layout.column(align=True)
            column.prop(by_hand, "end", slider=True)
            column.row(align=True).prop(by_hand, "offset", text="")
    if saved.overrides:
        row = layout.row(align=True)
        row.prop(saved, "active")
        row.operator("musev.character_unset_point", text="", icon="X")
    if saved.overrides or saved.map != "AUTO":
        layout.operator("musev.character_reset", icon="LOOP_BACK")


register, unregister = bpy.utils.register_classes_factory(
    (
        MUSEV_OT_characters_find,
        MUSEV_OT_characters_add,
        MUSEV_OT_characters_remove,
        MUSEV_OT_characters_move,
        MUSEV_OT_character_set_point,
        MUSEV_OT_character_unset_point,
        MUSEV_OT_character_reset,
        MUSEV_OT_character_export_map,
        MUSEV_OT_character_import_map,
        face_mesh.MUSEV_OT_character_face_groups,
        MUSEV_UL_people,
        MUSEV_PT_characters,
    )
)
