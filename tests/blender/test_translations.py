"""The dictionary against what is really shown, and the lookups against what a dictionary can have.

After something was worded otherwise, entries that nothing shows any more are taken out by

    MUSEV_WRITE_DOCS=1 .venv-blender/bin/python -m pytest tests/blender/test_translations.py
"""

from __future__ import annotations

import ast
import os
import string

import bpy
import pytest
from bl_ext.user_default.musev import translations
from conftest import MODULE, ROOT
from words import descriptions, labels, literals, lookups, templates, trees

LANGUAGES = sorted(translations.FOLDER.glob("*.po"))
ALMOST_ALL = 0.9  # of the labels and sentences; the rest is shown in English until somebody has written it


def fields(template: str) -> list[tuple[str, str, str]]:
    """The values that a sentence wants, with how they are written."""
    parsed = string.Formatter().parse(template)
    return sorted((name, spec or "", way or "") for _, name, spec, way in parsed if name is not None)


def test_what_is_looked_up_is_a_text_or_a_known_word():
    """`tr(f"…")` would look up what no dictionary can have. Allowed: literals, and words of a table or an enum."""
    strange = [
        (name, ast.unparse(said))
        for name, tree in trees()
        for said in lookups(tree)
        if not (isinstance(said, ast.Constant) and isinstance(said.value, str))
        and not isinstance(said, (ast.Attribute, ast.Subscript))
        and name != "translations.py"
    ]
    assert strange == []


def test_there_is_a_language():
    assert [file.stem for file in LANGUAGES] == ["de"]


@pytest.mark.parametrize("file", LANGUAGES, ids=lambda file: file.stem)
def test_no_entry_of_the_dictionary_is_dead(file):
    dead = translations.read(file).keys() - labels() - descriptions() - literals()
    if os.environ.get("MUSEV_WRITE_DOCS"):
        source = ROOT / "blender_addon" / "locale" / file.name
        kept = translations.ENTRY.sub(
            lambda entry: "" if translations.joined(entry[1]) in dead else entry[0],
            source.read_text(encoding="utf-8"),
        )
        source.write_text(kept, encoding="utf-8")
        return
    assert sorted(dead) == [], "nothing shows these any more; see this file's first lines"


@pytest.mark.parametrize("file", LANGUAGES, ids=lambda file: file.stem)
def test_every_entry_wants_the_same_values_as_the_original(file):
    for text, said in translations.read(file).items():
        assert said.strip(), text
        assert fields(said) == fields(text), text
        assert (text[:1].isspace(), text[-1:].isspace()) == (said[:1].isspace(), said[-1:].isspace()), text
        assert text.endswith(".") == said.endswith("."), text


@pytest.mark.parametrize("file", LANGUAGES, ids=lambda file: file.stem)
def test_the_language_is_almost_whole(file):
    entries = translations.read(file)
    names = {name for name in labels() if name}
    for what, wanted in (("labels", names), ("sentences", templates())):
        known = wanted & entries.keys()
        assert len(known) >= ALMOST_ALL * len(wanted), (what, sorted(wanted - known))


def test_a_po_file_is_read_as_its_manual_says(tmp_path):
    file = tmp_path / "xx.po"
    file.write_text(
        '# a comment\nmsgid ""\nmsgstr ""\n"Language: xx\\n"\n\n#: place\nmsgid "one \\"two\\" "\n"three"\n'
        'msgstr "eins\\n"\n"zwei"\n\nmsgid "not yet"\nmsgstr ""\n',
        encoding="utf-8",
    )
    assert translations.read(file) == {'one "two" three': "eins\nzwei"}


def test_the_sentences_of_a_missing_dictionary_are_the_originals(empty_scene):
    assert translations.tr("{count} frames", count=3) == "3 frames"
    assert translations.tr("{braces} of a plug-in") == "{braces} of a plug-in"


def test_blender_takes_the_dictionary_and_gives_it_back(empty_scene):
    known = translations.dictionaries()
    assert known["de"]["Operator", "Next Take"] == known["de"]["*", "Next Take"] == "Nächster Take"
    bpy.ops.preferences.addon_disable(module=MODULE)
    bpy.app.translations.register(MODULE, known)  # would be refused if ours were still there
    bpy.app.translations.unregister(MODULE)
    bpy.ops.preferences.addon_enable(module=MODULE)
