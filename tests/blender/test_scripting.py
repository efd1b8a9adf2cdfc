"""Scripts can do all of it: the page that lists verbs and settings, and the example that uses them.

After a verb or setting was added or described otherwise, the page is written anew by

    MUSEV_WRITE_DOCS=1 .venv-blender/bin/python -m pytest tests/blender/test_scripting.py
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import bpy
from bl_ext.user_default.musev import session
from bl_ext.user_default.musev.clips import stack
from conftest import MODULE, ROOT
from scripting_page import MARK, PAGE, generated
from test_stack import the_strip
from words import operators


def test_the_page_lists_what_there_is(empty_scene):
    head, mark, listed = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert mark
    if os.environ.get("MUSEV_WRITE_DOCS"):
        PAGE.write_text(head + mark + "\n" + generated(), encoding="utf-8")
        return
    assert listed.strip() == generated().strip(), (
        "docs/scripting.md is not what there is; see this file's first lines"
    )


def test_every_verb_named_in_the_example_and_the_page_exists(empty_scene):
    import re

    texts = PAGE.read_text(encoding="utf-8") + (ROOT / "examples" / "headless.py").read_text(encoding="utf-8")
    named = set(re.findall(r"bpy\.ops\.(musev\.\w+)", texts))
    assert named == {cls.bl_idname for cls in operators()}


def test_the_example_makes_a_clip_and_redoes_its_middle(engine, tmp_path, monkeypatch):
    preferences = bpy.context.preferences.addons[MODULE].preferences
    script = Path(__file__).with_name("fake_engine.py")
    output = tmp_path / "shot.blend"
    words = [
        "--output",
        str(output),
        "--frames",
        "12",
        "--engine",
        f'"{sys.executable}" "{script}" --do work',
    ]
    monkeypatch.setattr(sys, "argv", ["blender", "--", *words])
    runpy.run_path(str(ROOT / "examples" / "headless.py"), run_name="__main__")
    assert preferences.engine_command.endswith("--do work") and bpy.data.filepath == str(output)
    strip = the_strip()
    clip = stack.read(strip)
    assert [take.name for take in clip.takes] == ["take_001", "take_002", "take_003"]
    shown = clip.take(stack.shown(strip).name)
    assert shown.name == "take_003" and shown.mark.star and shown.mark.label == "middle redone"
    one, redone = (take.frames() for take in (clip.take("1"), shown))
    same = [a.read_bytes() == b.read_bytes() for a, b in zip(one, redone, strict=True)]
    # 6 to 9 are new; a fake engine's may look alike.
    assert len(same) == 12 and all(same[:5]) and all(same[9:])
    assert all(job.ended for job in session.current.jobs)
    bpy.ops.wm.open_mainfile(filepath=str(output))
    assert stack.shown(the_strip()).name == "take_003"
