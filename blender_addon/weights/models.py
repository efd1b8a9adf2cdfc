"""The verbs on the engine's models, download, verify, remove, cancel; and the list of them that Blender draws.

The engine does all of it, and tells; what it told lies in `session.current.shelf`. The list that Blender draws is a
copy of it in the window manager, made anew whenever that changes.
"""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, CollectionProperty, IntProperty, StringProperty

from .. import session
from ..gather import SettingsError
from ..protocol import DownloadModel, RemoveModel, ShelfModel, VerifyModel
from ..translations import tr
from ..ui import draw_text
from ..verbs import Verb, no_engine, refusable
from . import loras, shelf


class MusevModelRow(bpy.types.PropertyGroup):
    """One line of the list. name: the model's id. words: what the search looks at."""

    words: StringProperty(name="Words", description="What the search looks at")


def chosen(context: bpy.types.Context) -> str:
    """The id of the model that is chosen in the list; "" where there is none."""
    manager = context.window_manager
    rows = manager.musev_models
    return rows[manager.musev_model_index].name if manager.musev_model_index < len(rows) else ""


class ModelOperator(Verb):
    """A verb on one known model, as the engine carries it out; it refuses where the engine would."""

    model: StringProperty(
        name="Model",
        description="The id of a known model; empty: the one chosen in the preferences' list",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_engine()

    def known(self, context: bpy.types.Context) -> ShelfModel:
        """Raises SettingsError where the engine knows no such model."""
        id, models = self.model or chosen(context), session.current.shelf.models
        if id not in models:
            raise SettingsError(
                tr(
                    "The engine knows no model '{id}'; choose one from the list in the extension's "
                    "preferences.",
                    id=id,
                )
            )
        return models[id]

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        model = self.known(context)
        word = self.word(model)
        session.current.shelf.refused.pop(model.id, None)
        session.current.engine.client.send(word)


class MUSEV_OT_model_download(ModelOperator, bpy.types.Operator):
    bl_idname = "musev.model_download"
    bl_label = "Download Model"
    bl_description = "Let the engine download this model, after you have accepted its licence"

    licence_accepted: StringProperty(
        name="Licence",
        description="The name of the licence that you have read and accept, exactly as the model's entry tells it",
        options={"SKIP_SAVE"},
    )
    accept: BoolProperty(
        name="I have read and accept this licence",
        description="Without it nothing is downloaded",
        options={"SKIP_SAVE"},
    )

    def word(self, model: ShelfModel) -> DownloadModel:
        if reason := why_no_download(model):
            raise SettingsError(reason)
        accepted = self.licence_accepted or (model.licence if self.accept else "")
        if accepted != model.licence:
            raise SettingsError(
                tr(
                    "The licence of '{id}' was not accepted (got '{accepted}'). Read it at {licence_url}, "
                    "then accept it by its name: {licence}",
                    id=model.id,
                    accepted=accepted,
                    licence_url=model.licence_url,
                    licence=model.licence,
                )
            )
        return DownloadModel(model.id, accepted)

    @refusable
    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        model = self.known(context)
        if reason := why_no_download(model):
            raise SettingsError(reason)
        self.model = model.id  # whatever is chosen while the dialog is open
        return context.window_manager.invoke_props_dialog(self, width=440, confirm_text=tr("Download"))

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        model = session.current.shelf.models.get(self.model)
        if model is None:
            layout.label(text="The engine no longer knows this model", icon="ERROR")
            return
        layout.label(text=f"{model.id}, {shelf.size_text(model.size_bytes)}", icon="IMPORT")
        draw_text(layout, model.title, 60)
        draw_licence(layout, model, 60)
        layout.prop(self, "accept")


class MUSEV_OT_model_verify(ModelOperator, bpy.types.Operator):
    bl_idname = "musev.model_verify"
    bl_label = "Verify Model"
    bl_description = "Read the model's files and compare them with what was published"

    def word(self, model: ShelfModel) -> VerifyModel:
        if not model.installed:
            raise SettingsError(tr("The model '{id}' isn't installed; download it first.", id=model.id))
        if model.role == "shipped":
            raise SettingsError(
                tr("The model '{id}' came with the engine; install that again to have it anew.", id=model.id)
            )
        return VerifyModel(model.id)


class MUSEV_OT_model_remove(ModelOperator, bpy.types.Operator):
    bl_idname = "musev.model_remove"
    bl_label = "Remove Model"
    bl_description = "Delete the model's files from the engine's models folder"

    def word(self, model: ShelfModel) -> RemoveModel:
        if model.role == "shipped":
            raise SettingsError(tr("The model '{id}' came with the engine, and goes with it.", id=model.id))
        if not model.removable and not model.installed:
            raise SettingsError(
                tr("The model '{id}' isn't installed; there is nothing to remove.", id=model.id)
            )
        if not model.removable:
            raise SettingsError(
                tr(
                    "The model '{id}' doesn't lie in the engine's own models folder; remove it where it lies.",
                    id=model.id,
                )
            )
        return RemoveModel(model.id)

    @refusable
    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        model = self.known(context)
        self.model = model.id
        message = removal(model)
        return context.window_manager.invoke_confirm(
            self, event, title=tr("Remove Model"), message=message, confirm_text=tr("Remove"), icon="WARNING"
        )


def removal(model: ShelfModel) -> str:
    """What removing a model means, told before it is done."""
    size = shelf.size_text(model.size_bytes)
    if model.added:
        said = tr("{model}, {size}, is deleted. Only its file can bring it back.", model=model.id, size=size)
    else:
        said = tr("{model}, {size}, is deleted. It can be downloaded again.", model=model.id, size=size)
    if users := loras.users(model.id):
        said += " " + tr("The next clip of {scenes} is to be made with it.", scenes=", ".join(users))
    return said


class MUSEV_OT_model_cancel(ModelOperator, bpy.types.Operator):
    bl_idname = "musev.model_cancel"
    bl_label = "Cancel Model"
    bl_description = (
        "Stop what is being done with this model; a download goes on from there the next time. Of a file that was not "
        "taken: put the message away"
    )

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        id, known = self.model or chosen(context), session.current.shelf
        client = session.current.engine.client
        if known.working(id) is not None or id in client.adding:  # of which the engine has told nothing yet
            client.cancel_model(id)
        elif id not in known.newcomers or not known.put_away(id):
            raise SettingsError(
                tr("Nothing is being done with the model '{id}'; there is nothing to cancel.", id=id)
            )


def why_no_download(model: ShelfModel) -> str:
    """Why this model can't be downloaded now, with the remedy; "" where it can."""
    if model.added:
        return tr("The model '{model}' was added by a file, and that is gone; add it again.", model=model.id)
    if model.installed:
        return tr("The model '{model}' is installed already; verify it, or remove it first.", model=model.id)
    if not bpy.app.online_access:
        return tr(
            "Blender's online access is off; allow it in Preferences, System, Network, and download '{model}' then.",
            model=model.id,
        )
    if why := session.current.shelf.offline:
        return tr(
            "{why}; start it online, or put the files of '{model}' into its models folder by hand.",
            why=why,
            model=model.id,
        )
    return ""


COMMERCIAL_ICON = {True: "CHECKMARK", False: "ERROR", None: "QUESTION"}


def role_text(model: ShelfModel) -> str:
    return tr(shelf.ROLES[model.role]) if model.role in shelf.ROLES else model.role.capitalize()


def draw_licence(layout: bpy.types.UILayout, model: ShelfModel, width: int) -> None:
    text = tr(
        "Licence: {licence}; {terms}", licence=model.licence, terms=tr(shelf.COMMERCIAL[model.commercial])
    )
    draw_text(layout, text, width, COMMERCIAL_ICON[model.commercial])
    if model.licence_url:
        layout.operator("wm.url_open", text="Read the Licence", icon="URL").url = model.licence_url


# --- the list -------------------------------------------------------------------------------------


def fill(known: shelf.Shelf) -> None:
    """Makes Blender's list anew; the chosen model stays chosen."""
    manager = bpy.context.window_manager
    was = chosen(bpy.context)
    manager.musev_models.clear()
    for model in known.models.values():
        row = manager.musev_models.add()
        row.name = model.id
        row.words = f"{role_text(model)} {model.id} {model.title} {model.licence} {model.trigger}"
    ids = list(known.models)
    manager.musev_model_index = ids.index(was) if was in ids else 0


@bpy.app.handlers.persistent
def _loaded(*_) -> None:
    fill(session.current.shelf)  # a file may bring a window manager of its own


_register, _unregister = bpy.utils.register_classes_factory(
    (
        MusevModelRow,
        MUSEV_OT_model_download,
        MUSEV_OT_model_verify,
        MUSEV_OT_model_remove,
        MUSEV_OT_model_cancel,
    )
)


def register() -> None:
    _register()
    bpy.types.WindowManager.musev_models = CollectionProperty(
        name="Models", description="Those that the engine knows", type=MusevModelRow, options={"SKIP_SAVE"}
    )
    bpy.types.WindowManager.musev_model_index = IntProperty(
        name="Model", description="The model chosen in the list", options={"HIDDEN", "SKIP_SAVE"}
    )
    shelf.listeners.append(fill)
    bpy.app.handlers.load_post.append(_loaded)


def unregister() -> None:
    bpy.app.handlers.load_post.remove(_loaded)
    shelf.listeners.remove(fill)
    del bpy.types.WindowManager.musev_model_index
    del bpy.types.WindowManager.musev_models
    _unregister()
