"""The add-on's words in the language of Blender's interface; a language is a file `locale/<language>.po`.

Labels and descriptions Blender looks up by itself. A sentence with values in it is looked up as its template, before
the values are filled in: only so can a dictionary have it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import bpy

FOLDER = Path(__file__).parent / "locale"
OURS = "MuseV"  # the room of words that mean something else in Blender, for `bl_translation_context`
CONTEXTS = ("*", "Operator", OURS)  # Blender looks an operator's label up in a room of its own
_PIECE = r'"(?:[^"\\]|\\.)*"'
ENTRY = re.compile(rf"^msgid\s+((?:{_PIECE}\s*)+)^msgstr\s+((?:{_PIECE}\s*)+)", re.MULTILINE)


def tr(template: str, **values: object) -> str:
    """A sentence in the interface's language. template: a literal with `{name}` where a value stands; or a
    word from the engine or a table, which stays as it is where no dictionary has it."""
    said = bpy.app.translations.pgettext_iface(template)
    return said.format(**values) if values else said


def read(file: Path) -> dict[str, str]:
    """The entries of a .po file (GNU gettext's manual, "The Format of PO Files"), but its head and what is still to be
    written: text -> translation."""
    found = ENTRY.findall(file.read_text(encoding="utf-8"))
    entries = {joined(text): joined(said) for text, said in found}
    return {text: said for text, said in entries.items() if text and said}


def joined(pieces: str) -> str:
    """Quoted texts side by side as the one that they are. Their backslashes are JSON's."""
    return "".join(json.loads(piece) for piece in re.findall(_PIECE, pieces))


def dictionaries() -> dict[str, dict[tuple[str, str], str]]:
    """Of every language: (context, text) -> translation, as Blender wants it."""
    return {
        file.stem: {(context, text): said for text, said in read(file).items() for context in CONTEXTS}
        for file in sorted(FOLDER.glob("*.po"))
    }


def register() -> None:
    bpy.app.translations.register(__package__, dictionaries())


def unregister() -> None:
    bpy.app.translations.unregister(__package__)
