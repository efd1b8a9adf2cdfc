"""The add-on's words in the language of Blender's interface.

Labels and descriptions Blender looks up by itself. A sentence with values in it is looked up as its template, before
the values are filled in: only so can a dictionary have it.
"""

from __future__ import annotations

import bpy

from . import german

CONTEXTS = ("*", "Operator")  # Blender looks an operator's label up in a room of its own


def tr(template: str, **values: object) -> str:
    """A sentence in the interface's language. template: a literal with `{name}` where a value stands; or a
    word from the engine or a table, which stays as it is where no dictionary has it."""
    said = bpy.app.translations.pgettext_iface(template)
    return said.format(**values) if values else said


def dictionary() -> dict[str, dict[tuple[str, str], str]]:
    """Of every language: (context, text) -> translation, as Blender wants it."""
    return {
        "de": {(context, text): said for text, said in german.TEXTS.items() for context in CONTEXTS},
    }


def register() -> None:
    bpy.app.translations.register(__package__, dictionary())


def unregister() -> None:
    bpy.app.translations.unregister(__package__)
