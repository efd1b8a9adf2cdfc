"""Everything that is shown has a name and a description; numbers have their units; a greyed verb says why."""

from __future__ import annotations

import re

import bpy
import pytest
from bl_ext.user_default.musev import strips
from words import call, classes, every_property, operators

# What a newcomer has not met. A label may be such a word where its description says what it is about.
JARGON = re.compile(r"(?i)\b(latents?|controlnet|CFG|SNR|tensors?|unet|vae|sha256|inference)\b")
UNITS = (  # words of a description -> what Blender calls the unit
    (r"(?i)\bpixels\b", "PIXEL"),
    (r"(?i)\b(first|last|current|at) frame\b|\bhow many (new )?frames\b|\bframes? of the timeline\b", "TIME"),
    (r"(?i)\bseconds\b|\bhow long\b", "TIME_ABSOLUTE"),
)


def test_there_is_something_to_look_at():
    assert len(operators()) > 45 and len(classes(bpy.types.Panel)) > 13 and len(list(every_property())) > 120


@pytest.mark.parametrize("kind", ["Operator", "Panel", "Menu"])
def test_what_has_a_label_has_a_good_one(kind):
    wrong = []
    for cls in classes(getattr(bpy.types, kind)):
        label, told = cls.bl_label, getattr(cls, "bl_description", "")
        if not label or label.endswith(".") or not label[0].isupper():
            wrong.append((cls.__name__, "label", label))
        if kind != "Panel" and (not told or told.endswith(".") or told == label):
            wrong.append((cls.__name__, "description", told))
        if JARGON.search(told):
            wrong.append((cls.__name__, "jargon", told))
    assert wrong == []


def test_every_property_has_a_name_and_a_description():
    wrong = []
    for where, item in every_property():
        texts = [(item.name, item.description)]
        if item.type == "ENUM":
            texts += [(choice.name, choice.description) for choice in item.enum_items]
        for name, told in texts:
            if not name or name.endswith("."):
                wrong.append((where, "name", name))
            if not told or told.endswith(".") or told == name:
                wrong.append((where, "description", name, told))
            if JARGON.search(told):
                wrong.append((where, "jargon", told))
    assert wrong == []


def test_numbers_have_their_units():
    wrong = []
    for where, item in every_property():
        if item.type not in ("INT", "FLOAT") or item.is_hidden:
            continue
        for words, unit in UNITS:
            if re.search(words, f"{item.name}: {item.description}") and unit not in (item.subtype, item.unit):
                wrong.append((where, unit, item.subtype, item.description))
                break
    assert wrong == []


def refused(cls: type) -> str | None:
    """What Blender says where a verb can't be pressed; None where it can be."""
    verb = call(cls)
    if verb.poll():
        return None
    with pytest.raises(RuntimeError) as caught:
        verb()
    return str(caught.value)


def test_every_verb_that_cant_be_pressed_says_why(empty_scene, monkeypatch):
    said = {cls: refused(cls) for cls in operators()}
    monkeypatch.setattr(strips, "shown_scene", lambda context: None)
    said |= {cls: refused(cls) or said[cls] for cls in operators()}
    assert sum(why is not None for why in said.values()) > 25
    silent = [cls.__name__ for cls, why in said.items() if why is not None and "context is incorrect" in why]
    assert silent == []
    short = [
        (cls.__name__, why) for cls, why in said.items() if why is not None and len(why.split("\n")[0]) < 25
    ]
    assert short == []


def test_every_verb_is_found_by_searching_but_those_for_scripts_and_panels():
    internal = {cls.bl_idname for cls in operators() if "INTERNAL" in getattr(cls, "bl_options", ())}
    assert internal == {"musev.wait", "musev.preset_add", "musev.apply_remedy"}
    labels = [cls.bl_label for cls in operators() if cls.bl_idname not in internal]
    assert sorted(labels) == sorted(set(labels))  # two of one label can't be told apart in a search
