"""The dictionary against what is really shown, and the lookups against what a dictionary can have.

After something was worded otherwise, entries that nothing shows any more are taken out by

    MUSEV_WRITE_DOCS=1 .venv-blender/bin/python -m pytest tests/blender/test_translations.py
"""

from __future__ import annotations

import ast
import errno
import os
import re
import string
import time
from pathlib import Path

import bpy
import pytest
from bl_ext.user_default.musev import translations
from bl_ext.user_default.musev.clips import takes
from bl_ext.user_default.musev.protocol import ClipRequest, Problem, ProtocolError
from conftest import MODULE, ROOT
from words import descriptions, finished_shapes, labels, literals, lookups, templates, trees

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


# --- sentences that arrive finished ----------------------------------------------------------------


@pytest.mark.parametrize(
    "file", sorted((translations.FOLDER / "finished").glob("*.po")), ids=lambda file: file.stem
)
def test_every_finished_sentence_is_said_somewhere_and_keeps_its_values(file):
    said = finished_shapes() | set(translations.SHAPES)
    entries = translations.read(file)
    assert set(translations.SHAPES) <= entries.keys()
    for text, translated in entries.items():
        names = [name for name, *_ in fields(text)]
        assert len(set(names)) == len(names) and fields(translated) == fields(text), text
        bare = "".join(
            part + ("{}" if name is not None else "") for part, name, *_ in string.Formatter().parse(text)
        )
        if text not in said and bare not in said:  # perhaps a value is always the same there
            shape = re.compile(re.escape(bare).replace(r"\{\}", ".*"), re.DOTALL)
            assert any(map(shape.fullmatch, said)), f"nothing says: {text}"


def in_german(error: object) -> str:
    return translations._finished(str(error), "de")


def test_what_the_rooms_without_blender_say_is_told_in_german():
    with pytest.raises(ProtocolError) as refused:
        ClipRequest(mode="text", prompt="x", width=7)
    assert "must be" in str(refused.value)
    assert in_german(refused.value) == (
        "ClipRequest.width muss von 64 bis 2048 sein (es war: 7). Wählen Sie 64 bis 2048."
    )
    full = takes.explained(OSError(errno.ENOSPC, "No space left on device"), Path("a.b c/0001.png"))
    assert in_german(full).startswith("Die Platte ist voll: a.b c/0001.png wurde nicht geschrieben.")
    told = Problem("out_of_memory", "There is not enough memory for this clip", "", "Generate again.")
    assert in_german(told) == "Für diesen Clip reicht der Speicher nicht. Generieren Sie noch einmal."


def test_values_stay_as_they_are_and_so_does_what_nobody_knows():
    error = "{odd} 'x' can't be read: it is gone. Generate the take again."
    assert in_german(error).startswith("{odd} 'x' kann nicht gelesen werden: it is gone. ")
    for text in (
        "",
        "Wählen Sie 1 bis 2.",
        "An unknown thing: with. points (got 3). And more.",
        "5000 " * 2000,
    ):
        assert in_german(text) == text
    assert translations.finished(error) == error  # the interface is English here


def test_it_takes_no_time():
    """However long a text is, its shape is told without trying all its parts with each other."""
    texts = [f"{'word: ' * 300}{n}. {'other (got ' * 100}" for n in range(3)]
    started = time.process_time()
    assert [in_german(text) for text in texts] == texts
    assert time.process_time() - started < 2.0


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
