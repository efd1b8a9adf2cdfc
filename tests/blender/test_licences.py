"""The licence report over a mixed timeline."""

from __future__ import annotations

import csv

import bpy
import pytest
from bl_ext.user_default.musev import licences, strips
from bl_ext.user_default.musev.clips import stack, stack_panel, takes
from test_extension import draw
from test_generate import refusal
from test_stack import make_take


def shot(scene, root, clip: str, start: int, licence: str | None, **record):
    """A strip of a new clip's one take, with this in its take.json."""
    take = make_take(root / clip, 90)
    told = {"request": {}, **record} | (
        {} if licence is None else {"model": {"name": "m", "licence": licence}}
    )
    takes.write_sidecar(take, told)
    return stack.place(scene, clip, sorted(take.glob("*.png")), start)


@pytest.fixture
def mixed(empty_scene, tmp_path):
    """Four frames each: free, research only, not told, a strip that isn't ours, and two in another scene."""
    root = tmp_path / "musev"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film.blend"))
    shot(empty_scene, root, "Free", 1, "cc0-1.0")
    shot(empty_scene, root, "Rain", 10, "non-commercial research only and CreativeML OpenRAIL-M")
    shot(empty_scene, root, "Fog", 20, None)
    plain = strips.place_images(empty_scene, "Plate", sorted((root / "Free" / "take_001").glob("*.png")), 30)
    plain.name = "Plate"
    other = bpy.data.scenes.new("Other")
    shot(other, root, "=Sum", 5, "cc-by-nc-4.0").mute = True
    shot(other, root, "Snow", 40, "CreativeML OpenRAIL-M and see https://example.org/card")
    return empty_scene, root


def report() -> str:
    bpy.ops.musev.licence_report()
    return bpy.data.texts[licences.TEXT].as_string()


def test_a_mixed_timeline_is_told_apart(mixed):
    found = {s.strip: (s.terms, s.scene, s.first, s.last) for s in licences.shots()}
    assert found == {
        "Free": ("named", "Scene", 1, 4),
        "Rain": ("research only", "Scene", 10, 13),
        "Fog": ("not known", "Scene", 20, 23),
        "=Sum": ("research only", "Other", 5, 8),
        "Snow": ("not known", "Other", 40, 43),
    }
    text = report()
    assert "5 shots: 2 research only, 2 with a licence that is not known, 1 with another one." in text
    assert text.index("'Rain'") < text.index("'Fog'") < text.index("'Free'") and "Plate" not in text
    assert (
        "frames 10 to 13: 'Rain' shows Rain/take_001, model m, licence: non-commercial research only" in text
    )
    assert "licence: not told" in text and "(muted)" in text


def test_the_takes_panel_offers_the_report_where_something_is_research_only(mixed):
    scene, _ = mixed
    for name, offered in (("Rain", True), ("Free", False)):
        strip = next(strip for strip in stack.ours(scene) if strip.musev.clip == name)
        scene.sequence_editor.active_strip = strip
        assert ("musev.licence_report" in draw(stack_panel.MUSEV_PT_takes)) == offered


def test_the_report_is_made_anew_and_follows_the_take_that_is_shown(mixed):
    scene, root = mixed
    first = report()
    free = make_take(root / "Rain", 90)
    takes.write_sidecar(free, {"model": {"name": "mini", "licence": "cc0-1.0"}})
    rain = next(strip for strip in stack.ours(scene) if strip.musev.clip == "Rain")
    stack.show(rain, sorted(free.glob("*.png")))
    second = report()
    assert second != first and "5 shots: 1 research only" in second and "Rain/take_002" in second
    assert [text.name for text in bpy.data.texts] == [licences.TEXT]


def test_a_take_with_frames_of_another_one_has_both_their_licences(mixed):
    scene, root = mixed
    redone = shot(
        scene, root, "Redone", 50, "cc0-1.0", inputs={"redo": {"of": "../Rain/take_001", "from": 2, "to": 3}}
    )
    (found,) = [s for s in licences.shots() if s.strip == redone.name]
    assert found.terms == "research only" and "keeps frames of ../Rain/take_001" in found.note
    assert found.licence.startswith("cc0-1.0 and non-commercial")
    pruned = root / "Rain" / takes.REMOVED / "take_001"
    pruned.parent.mkdir()
    takes.move(root / "Rain" / "take_001", pruned)
    found = {s.strip: s for s in licences.shots()}
    assert found[redone.name].terms == "research only"  # it was pruned, and is still known
    assert found["Rain"].terms == "not known" and "can't be read" in found["Rain"].note
    endless = {"of": "take_001"}
    takes.write_sidecar(
        root / "Redone" / "take_001", {"model": {"licence": "cc0-1.0"}, "inputs": {"redo": endless}}
    )
    assert licences.made_with(root / "Redone" / "take_001")[0] == [("", "cc0-1.0")]


def test_strips_inside_metas_are_shots(mixed):
    scene, _ = mixed
    rain = next(strip for strip in stack.ours(scene) if strip.musev.clip == "Rain")
    meta = (scene.sequence_editor.strips if hasattr(scene.sequence_editor, "strips") else
            scene.sequence_editor.sequences).new_meta(name="Meta", channel=9, frame_start=10)  # fmt: skip
    rain.move_to_meta(meta)
    assert "Rain" in [s.strip for s in licences.shots() if s.terms == "research only"]


def test_the_table_holds_every_shot_and_no_formula(mixed, tmp_path):
    bpy.ops.musev.licence_report(filepath="//licences.csv")
    with open(tmp_path / "licences.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and [row["terms"] for row in rows[:2]] == ["research only", "research only"]
    assert {row["strip"] for row in rows} == {"Free", "Rain", "Fog", "'=Sum", "Snow"}
    assert next(row for row in rows if row["strip"] == "Rain")["first"] == "10"
    assert "can't be written" in refusal(
        lambda: bpy.ops.musev.licence_report(filepath=str(tmp_path / "none" / "x.csv"))
    )


def test_a_file_without_shots_says_so(empty_scene):
    assert "0 shots: 0 research only" in report()


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("non-commercial research only", "research only"),
        ("CC BY-NC 4.0", "research only"),
        ("Noncommercial use", "research only"),
        ("MIT and unknown", "not known"),
        ("see its model card", "not known"),
        ("", "not known"),
        ("Apache-2.0", "named"),
        ("license of Vincent", "named"),
    ],
)
def test_terms(licence, expected):
    assert licences.terms(licence) == expected
