"""The add-on's words in the language of Blender's interface; a language is a file `locale/<language>.po`.

Labels and descriptions Blender looks up by itself. A sentence with values in it is looked up as its template, before
the values are filled in: only so can a dictionary have it. What comes from the engine, and from rooms of ours that may
not know Blender, arrives finished; `finished` tells its template by its shape, out of `locale/finished/<language>.po`.
"""

from __future__ import annotations

import functools
import json
import re
import string
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


SHAPES = (
    "{message} (got {value}). {remedy}",
    "{message}. {remedy}",
    "{name}: {said}",
)  # of what is put together
LONGEST = 4000  # characters of a text that is looked into


def finished(text: str) -> str:
    """A sentence that arrived in English with its values filled in, in the interface's language; as it is where no
    dictionary knows it, and where it is in that language already."""
    if not bpy.context.preferences.view.use_translate_interface:
        return text
    language = str(bpy.app.translations.locale or "").partition("_")[0]
    return _finished(text, language) if known_shapes(language) else text


@functools.lru_cache(maxsize=1024)
def _finished(text: str, language: str) -> str:
    """The values in it are sentences, too, or stay."""
    for shape, said, is_whole in known_shapes(language) if len(text) <= LONGEST else ():
        if found := shape.fullmatch(text):
            was = found.groupdict()
            now = {name: _finished(value, language) for name, value in was.items()}
            return said.format(**now) if is_whole or now != was else text
    return text


@functools.cache
def known_shapes(language: str) -> tuple[tuple[re.Pattern, str, bool], ...]:
    """What finished sentences look like, those first that tell most about themselves, but before them a sentence with
    the value that it is about; their translations; and whether they say anything by themselves."""
    file = FOLDER / "finished" / f"{language}.po"
    entries = read(file) if language and file.exists() else {}
    shapes = []
    for template, said in entries.items():
        parts = list(string.Formatter().parse(template))
        # No second sentence.
        any_text = ".*?" if template in SHAPES or template.endswith(".") else r"(?:(?!\. ).)*?"
        shape = "".join(
            re.escape(text) + (f"(?P<{name}>{any_text})" if name else "") for text, name, *_ in parts
        )
        told = LONGEST if template == SHAPES[0] else sum(len(text) for text, *_ in parts)
        shapes.append((told, re.compile(shape, re.DOTALL), said, template not in SHAPES))
    return tuple(tuple(each[1:]) for each in sorted(shapes, key=lambda each: -each[0]))


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
