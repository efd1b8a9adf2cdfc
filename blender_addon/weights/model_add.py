"""A file of the artist's given to the engine as a model: a base model, a LoRA, an embedding, a VAE, an adapter."""

from __future__ import annotations

import os
import re
from pathlib import Path

import bpy
from bpy.props import EnumProperty, StringProperty
from bpy_extras.io_utils import ImportHelper

from .. import session
from ..gather import SettingsError
from ..protocol import MAX_MODEL_BYTES, MODEL_SUFFIXES, AddModel
from ..translations import tr
from ..verbs import Verb, no_engine, refusable

KINDS = (
    ("AUTO", "As the File Says", "The engine looks into the file and finds what it is"),
    (
        "t2i",
        "Base Model",
        "A whole checkpoint made from Stable Diffusion 1.5, over which a motion model is laid",
    ),
    ("lora", "LoRA", "A small change to a base model, such as a style or a character"),
    ("embedding", "Embedding", "A word with a learned meaning (textual inversion), for prompts"),
    ("vae", "VAE", "Another decoder from the model's numbers to pictures"),
    ("ip-adapter", "IP-Adapter", "What tells the model how a still looks"),
    ("controlnet", "ControlNet", "What makes the model follow depth, lines, poses or the like"),
)
SOLD = (
    ("UNKNOWN", "Not Known", "Nobody here knows whether one may sell what is made with it"),
    ("YES", "Allowed", "Its licence lets one sell what is made with it"),
    ("NO", "Not Allowed", "Its licence forbids to sell what is made with it"),
)
NAME_LENGTH = 40


def name_of(path: Path) -> str:
    """What a file could be called in the engine: its own name, in letters that a name may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).strip("_.-")[:NAME_LENGTH] or "model"


def _nets(operator, context: bpy.types.Context, text: str) -> list[str]:
    models = session.current.shelf.models.values()
    known = [model.id for model in models if model.role == "controlnet" and not model.added]
    return [id for id in known if text.lower() in id.lower()]


class MUSEV_OT_model_add(Verb, ImportHelper, bpy.types.Operator):
    bl_idname = "musev.model_add"
    bl_label = "Add Model File"
    bl_description = (
        "Copy a model's file into the engine's models folder. The engine looks into it first, and refuses what it "
        "can't use"
    )

    filter_glob: StringProperty(
        name="Files", description="Which files are shown",
        default=";".join(f"*{suffix}" for suffix in MODEL_SUFFIXES), options={"HIDDEN"},
    )  # fmt: skip
    kind: EnumProperty(
        name="Kind", description="What the file is taken as", items=KINDS, options={"SKIP_SAVE"}
    )
    model: StringProperty(
        name="Name",
        description="What it is called from now on, in up to 40 letters, digits, _ . and -; by its file's name if "
        "empty. An embedding of some kinds is called for in a prompt by this name",
        maxlen=NAME_LENGTH, options={"SKIP_SAVE"},
    )  # fmt: skip
    title: StringProperty(
        name="Title", description="A line that says what it is good for", maxlen=200, options={"SKIP_SAVE"}
    )
    licence: StringProperty(
        name="Licence",
        description="Its licence's name, which every take made with it will tell; unknown if empty",
        maxlen=200, options={"SKIP_SAVE"},
    )  # fmt: skip
    licence_url: StringProperty(
        name="Licence's Page", description="Where its licence can be read", maxlen=500, options={"SKIP_SAVE"}
    )
    commercial: EnumProperty(
        name="Commercial Use",
        description="Whether one may sell what is made with it",
        items=SOLD,
        options={"SKIP_SAVE"},
    )
    stands_for: StringProperty(
        name="In Place Of", description="The known model of this kind in whose place it is used; by its name if empty",
        search=_nets, search_options={"SUGGESTION"}, options={"SKIP_SAVE"},
    )  # fmt: skip

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_engine()

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split, layout.use_property_decorate = True, False
        for name in ("kind", "model", "title", "licence", "licence_url", "commercial"):
            layout.prop(self, name)
        if self.kind in ("AUTO", "controlnet"):
            layout.prop(self, "stands_for")

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        path = Path(bpy.path.abspath(self.filepath))
        id = self.model or name_of(path)
        current = session.current
        if current.shelf.working(id) is not None:
            raise SettingsError(
                tr("'{id}' is being seen to already; wait, or cancel that, or give another name.", id=id)
            )
        suffix = path.suffix.lower()
        if suffix not in MODEL_SUFFIXES:
            raise SettingsError(
                tr(
                    "'{name}' is no model's file; choose one that ends in {endings}.",
                    name=path.name,
                    endings=", ".join(MODEL_SUFFIXES),
                )
            )
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise SettingsError(
                tr(
                    "{path} can't be read ({reason}); choose a file that is there.",
                    path=path,
                    reason=error.strerror or error,
                )
            ) from error
        if not 16 <= size <= MAX_MODEL_BYTES:
            raise SettingsError(
                tr(
                    "A model's file has up to {limit} GB, and {path} has {size} bytes; choose another.",
                    limit=MAX_MODEL_BYTES >> 30,
                    path=path,
                    size=f"{size:,}",
                )
            )
        wanted = AddModel(
            id, suffix, size, "" if self.kind == "AUTO" else self.kind, self.title.strip(), self.licence.strip(),
            self.licence_url.strip(), {"YES": True, "NO": False}.get(self.commercial), self.stands_for,
        )  # fmt: skip
        current.shelf.put_away(id)
        current.engine.client.add_model(wanted, path)
        self.report({"INFO"}, tr("'{id}' is on its way to the engine", id=id))


register, unregister = bpy.utils.register_classes_factory((MUSEV_OT_model_add,))
