"""The panel "LoRAs" and its verbs: what is added to the clip's model, how strongly, in which order."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, FloatProperty, StringProperty

from .. import session, strips, ui
from ..gather import SettingsError
from ..protocol import MAX_LORA_WEIGHT, MAX_LORAS
from ..translations import tr
from ..verbs import Verb, no_scene, refusable
from . import loras

DIRECTIONS = (("UP", "Up", "Nearer to the first"), ("DOWN", "Down", "Nearer to the last"))


class LoraVerb(Verb):
    """A verb on the list of the sequencer's scene: one undo step."""

    bl_options = {"REGISTER", "UNDO"}
    needs_one = True

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if why := no_scene(context):
            return why
        empty = cls.needs_one and not strips.shown_scene(context).musev.extras.loras
        return tr("The list of LoRAs is empty; add one first") if empty else ""

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        self.do(strips.shown_scene(context).musev.extras)

    def place(self, extras: loras.MusevExtraSettings) -> int:
        """Of the LoRA that is named, else of the chosen one. Raises SettingsError."""
        place = extras.loras.find(self.lora) if self.lora else extras.lora_index
        if not 0 <= place < len(extras.loras):
            raise SettingsError(
                tr("There is no LoRA '{id}' in the list; choose one that is.", id=self.lora)
                if self.lora
                else tr("The list of LoRAs has none chosen; add one first.")
            )
        return place


def _lora_property(description: str):
    return StringProperty(name="LoRA", description=description, options={"SKIP_SAVE"})


class MUSEV_OT_lora_add(LoraVerb, bpy.types.Operator):
    bl_idname = "musev.lora_add"
    bl_label = "Add LoRA"
    bl_description = (
        "Make the next clips with this LoRA too: a small change to the model, such as a style or a character"
    )
    needs_one = False

    lora: _lora_property("Its id in the engine")
    weight: FloatProperty(
        name="Weight", description="How strongly it changes the model: 1 is what it learned, 0 nothing of it",
        default=1.0, min=-MAX_LORA_WEIGHT, max=MAX_LORA_WEIGHT, soft_min=0.0, soft_max=2.0, options={"SKIP_SAVE"},
    )  # fmt: skip

    @classmethod
    def description(cls, context: bpy.types.Context, properties) -> str:
        model = session.current.shelf.models.get(properties.lora)
        return hint(model) if model is not None else tr(cls.bl_description)

    def do(self, extras: loras.MusevExtraSettings) -> None:
        if not self.lora:
            raise SettingsError(
                tr("No LoRA is named; choose one from the menu, or add its file in the preferences.")
            )
        models = session.current.shelf.models
        if models and (self.lora not in models or models[self.lora].role != "lora"):
            has = ", ".join(model.id for model in loras.here("lora")) or tr("none")
            raise SettingsError(tr("The engine has no LoRA '{id}' (it has: {has}).", id=self.lora, has=has))
        if len(extras.loras) >= MAX_LORAS and extras.loras.find(self.lora) < 0:
            raise SettingsError(tr("A clip has at most {count} LoRAs; take one off first.", count=MAX_LORAS))
        loras.add(extras, self.lora, self.weight)
        settings = extras.id_data.musev
        if loras.unfit(settings) is not None:
            fit(self, settings, keep=True)


class MUSEV_OT_lora_remove(LoraVerb, bpy.types.Operator):
    bl_idname = "musev.lora_remove"
    bl_label = "Remove LoRA"
    bl_description = "Take the LoRA off the list; its file stays in the engine"

    lora: _lora_property("Which; the chosen one if empty")

    def do(self, extras: loras.MusevExtraSettings) -> None:
        place, settings, quick = self.place(extras), extras.id_data.musev, loras.few_step(extras)
        extras.loras.remove(place)
        if quick is not None and loras.few_step(extras) is None:
            was = loras.wanted_by(quick)
            if settings.steps == was["steps"]:  # then they were its own
                for name, value in was.items():
                    if getattr(settings, name) == value:
                        settings.property_unset(name)
                self.report({"INFO"}, tr("The clip has {steps} steps again", steps=settings.steps))
        extras.lora_index = min(extras.lora_index, max(len(extras.loras) - 1, 0))


class MUSEV_OT_lora_move(LoraVerb, bpy.types.Operator):
    bl_idname = "musev.lora_move"
    bl_label = "Move LoRA"
    bl_description = "LoRAs are added to the model in the order of the list"

    lora: _lora_property("Which; the chosen one if empty")
    direction: EnumProperty(name="Direction", description="Where to in the list", items=DIRECTIONS)

    def do(self, extras: loras.MusevExtraSettings) -> None:
        place = self.place(extras)
        to = place + (-1 if self.direction == "UP" else 1)
        if 0 <= to < len(extras.loras):
            extras.loras.move(place, to)
            extras.lora_index = to


class MUSEV_OT_lora_steps(LoraVerb, bpy.types.Operator):
    bl_idname = "musev.lora_steps"
    bl_label = "Use the LoRA's Steps"
    bl_description = "Make the clip in as many steps as its LoRA was made for, with the guidance that fits it"

    def do(self, extras: loras.MusevExtraSettings) -> None:
        if loras.few_step(extras) is None:
            raise SettingsError(
                tr("No LoRA in the list is known to be made for few steps; set the steps yourself.")
            )
        fit(self, extras.id_data.musev)


def fit(verb: bpy.types.Operator, settings, keep: bool = False) -> None:
    """Sets the steps and the guidance that the clip's few-step LoRA was made for, and says so. keep: but not where the
    artist has set others."""
    quick = loras.few_step(settings.extras)
    wanted = loras.wanted_by(quick)
    free = {name: value for name, value in wanted.items() if not (keep and settings.is_property_set(name))}
    for name, value in free.items():
        setattr(settings, name, value)
    if "steps" in free:
        verb.report(
            {"INFO"}, tr("The clip has {steps} steps, as '{id}' wants", steps=settings.steps, id=quick.id)
        )


def hint(model) -> str:
    """What one should know of a LoRA: what it is for, which words bring it out, its licence."""
    said = [model.title]
    if model.num_inference_steps is not None:
        said.append(tr("Made for {steps} steps", steps=model.num_inference_steps))
    if model.trigger:
        said.append(tr("Words in a prompt that bring it out: {words}", words=model.trigger))
    said.append(tr("Licence: {licence}", licence=model.licence))
    return ". ".join(said)


class MUSEV_MT_loras(bpy.types.Menu):
    bl_idname = "MUSEV_MT_loras"
    bl_label = "Add LoRA"
    bl_description = "The LoRAs that the engine has"

    def draw(self, context: bpy.types.Context) -> None:
        layout, extras = self.layout, strips.shown_scene(context).musev.extras
        offered = [model for model in loras.here("lora") if extras.loras.find(model.id) < 0]
        for model in offered:
            layout.operator("musev.lora_add", text=model.id, translate=False).lora = model.id
        if not session.current.shelf.models:
            layout.label(text="Start the engine to see its LoRAs", icon="INFO")
        elif not offered:
            layout.label(text="The engine has no more LoRAs", icon="INFO")
        layout.separator()
        layout.operator_context = "INVOKE_DEFAULT"
        layout.operator("musev.model_add", text="Add LoRA File...", icon="FILEBROWSER").kind = "lora"


class MUSEV_UL_loras(bpy.types.UIList):
    bl_idname = "MUSEV_UL_loras"

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flags=0):
        models = session.current.shelf.models
        row = layout.row(align=True)
        row.prop(item, "use", text="")
        name = row.row()
        name.active = item.use
        model = models.get(item.name)
        lacks = bool(models) and (model is None or not model.installed)
        name.label(text=item.name, icon="ERROR" if lacks else "NONE", translate=False)
        weight = row.row()
        weight.active, weight.ui_units_x = item.use, 5
        weight.prop(item, "weight", text="", slider=True)


class MUSEV_PT_loras(ui.Sidebar, bpy.types.Panel):
    bl_label = "LoRAs"
    bl_idname = "MUSEV_PT_loras"
    bl_parent_id = "MUSEV_PT_clip"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return strips.shown_scene(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, extras = self.layout, strips.shown_scene(context).musev.extras
        width = ui.line_width(context)
        row = layout.row()
        row.template_list("MUSEV_UL_loras", "", extras, "loras", extras, "lora_index", rows=3, maxrows=6)
        side = row.column(align=True)
        side.menu("MUSEV_MT_loras", text="", icon="ADD")
        side.operator("musev.lora_remove", text="", icon="REMOVE")
        side.separator()
        for direction, icon in (("UP", "TRIA_UP"), ("DOWN", "TRIA_DOWN")):
            side.operator("musev.lora_move", text="", icon=icon).direction = direction
        item = loras.active(extras)
        model = session.current.shelf.models.get(item.name) if item is not None else None
        if model is not None and model.trigger:
            ui.draw_text(layout, tr("Say in the prompt: {words}", words=model.trigger), width, "TEXT")
        column = layout.column()
        column.use_property_split, column.use_property_decorate = True, False
        for name, role in (("vae", "vae"), ("ip_adapter", "ip-adapter")):
            if getattr(extras, name) or loras.here(role):  # only where there is something to choose
                column.prop(extras, name)


register, unregister = bpy.utils.register_classes_factory(
    (
        MUSEV_OT_lora_add, MUSEV_OT_lora_remove, MUSEV_OT_lora_move, MUSEV_OT_lora_steps, MUSEV_MT_loras,
        MUSEV_UL_loras, MUSEV_PT_loras,
    )
)  # fmt: skip
