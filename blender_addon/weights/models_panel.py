"""The engine's models as the extension's preferences show them: what is installed, how large, under which licence."""

from __future__ import annotations

import bpy

from .. import session
from ..engine_link import EngineState
from ..protocol import ModelProgress, ShelfModel
from ..translations import tr
from ..ui import draw_text, line_width
from . import models
from .shelf import size_text


class MUSEV_UL_models(bpy.types.UIList):
    bl_idname = "MUSEV_UL_models"

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flags=0):
        model = session.current.shelf.models.get(item.name)
        if model is None:
            layout.label(text=item.name)
            return
        now = session.current.shelf.working(model.id)
        row = layout.row()
        row.label(text=models.role_text(model), icon="CHECKMARK" if model.installed else "BLANK1")
        row.label(text=model.id)
        row.label(text=progress_text(now) if now else size_text(model.size_bytes))
        row.label(text=model.licence, icon=models.COMMERCIAL_ICON[model.commercial])

    def filter_items(self, context, data, property):
        rows = getattr(data, property)
        if not self.filter_name:
            return [], []
        by_name = bpy.types.UI_UL_list.filter_items_by_name
        return by_name(self.filter_name, self.bitflag_filter_item, rows, "words"), []


def progress_text(now: ModelProgress) -> str:
    """'download 40 %' of what is being done with a model."""
    share = f" {100 * now.done_bytes // now.total_bytes} %" if now.total_bytes else ""
    return f"{tr(now.action)}{share}" if now.state == "running" else f"{tr(now.action)}, {tr(now.state)}"


def draw_models(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The models' part of the extension's preferences."""
    current, width = session.current, line_width(context)
    layout.separator()
    layout.label(text="Models")
    if current.engine.state is not EngineState.ON:
        row = layout.row()
        row.label(
            text=tr("The engine, which knows the models, is {state}", state=tr(current.engine.state.value)),
            icon="UNLINKED",
        )
        row.operator("musev.engine_start", icon="PLAY")
        if current.engine.problem:
            draw_text(layout, current.engine.problem, width, "ERROR")
    elif not current.shelf.models:
        layout.label(text="The engine looks for its models", icon="SORTTIME")
    if not current.shelf.models:
        return
    if not bpy.app.online_access:
        row = layout.row()
        row.label(text="Nothing is downloaded while online access is off", icon="INTERNET_OFFLINE")
        row.prop(context.preferences.system, "use_online_access", text="Allow Online Access")
    elif current.shelf.offline:
        draw_text(
            layout,
            tr("{offline}: it downloads nothing.", offline=current.shelf.offline),
            width,
            "INTERNET_OFFLINE",
        )
    manager = context.window_manager
    layout.template_list(
        "MUSEV_UL_models", "", manager, "musev_models", manager, "musev_model_index", rows=8, maxrows=12
    )
    layout.operator("musev.model_add", text="Add File...", icon="FILEBROWSER")
    for id in current.shelf.newcomers:
        draw_newcomer(layout.box(), id, width)
    if model := current.shelf.models.get(models.chosen(context)):
        draw_model(layout.box(), model, width)


def draw_newcomer(layout: bpy.types.UILayout, id: str, width: int) -> None:
    """A file on its way to the engine, or why it was not taken."""
    now, problem = session.current.shelf.working(id), session.current.shelf.problem(id)
    if now is not None:
        draw_progress(layout, now)
        return
    row = layout.row()
    row.label(text=tr("{id} was not added", id=id), icon="ERROR")
    row.operator("musev.model_cancel", text="", icon="X").model = id
    column = layout.column()
    column.alert = True
    draw_text(column, str(problem), width)


def draw_progress(layout: bpy.types.UILayout, now: ModelProgress) -> None:
    row = layout.row()
    done = min(now.done_bytes / now.total_bytes, 1.0) if now.total_bytes else 0.0
    what = now.id if now.action == "add" else now.file
    row.progress(factor=done, text=f"{progress_text(now)} {what}".strip())
    row.operator("musev.model_cancel", text="", icon="X").model = now.id


def draw_model(layout: bpy.types.UILayout, model: ShelfModel, width: int) -> None:
    """What is known of one model, and what can be done with it."""
    known = session.current.shelf
    size = size_text(model.size_bytes)
    state = tr("installed") if model.installed else tr("not installed")
    layout.label(text=f"{model.id}: {state}, {size}")
    draw_text(layout, model.title, width)
    models.draw_licence(layout, model, width)
    if now := known.working(model.id):
        draw_progress(layout, now)
        return
    if model.trigger:
        draw_text(layout, tr("Say in the prompt: {words}", words=model.trigger), width, "TEXT")
    row = layout.row()
    if model.added and not model.installed:
        draw_text(row, tr("Its file is gone; add it again."), width, "ERROR")
    elif not model.installed:
        row.operator("musev.model_download", text="Download", icon="IMPORT").model = model.id
    elif model.role != "shipped":
        row.operator("musev.model_verify", text="Verify", icon="VIEWZOOM").model = model.id
    if model.removable:
        row.operator("musev.model_remove", text="Remove", icon="TRASH").model = model.id
    if problem := known.problem(model.id):
        column = layout.column()
        column.alert = True
        draw_text(column, str(problem), width, "ERROR")
    elif (last := known.work.get(model.id)) is not None and last.action == "verify" and last.state == "done":
        said = {
            True: "Every file is as published",
            False: "Not as published",
            None: "There is no hash to compare with",
        }
        draw_text(layout, tr(said[last.intact]), width, "ERROR" if last.intact is False else "CHECKMARK")
        for line in last.results:
            draw_text(layout, line, width)


register, unregister = bpy.utils.register_classes_factory((MUSEV_UL_models,))
