"""Keys, menus and presets, where Blender's users look for them."""

from __future__ import annotations

import bpy
from driver import Driver, Steps
from flows import comes_to, connect, leave, ours, settle, shown_take, sit_down

TAKES = ("take_001", "take_002")


def menus(driver: Driver) -> Steps:
    """Generate and flip by keys; what the menus offer; a preset applied."""
    yield from sit_down(driver)
    settle(driver)
    yield from connect(driver, "work")
    held = {"ctrl": True, "shift": True}
    for name in TAKES:
        driver.step(f"Ctrl Shift G: {name}")
        before = len(driver.session.jobs)
        yield from driver.over("WINDOW")
        yield from driver.key("G", **held)
        yield from driver.until(
            lambda before=before: len(driver.session.jobs) > before, "a clip is asked for", 10
        )
        yield from comes_to(driver, "DONE")
        driver.check(shown_take(driver) == name, f"the strip shows {name}")
    for key, name in (("COMMA", TAKES[0]), ("PERIOD", TAKES[1])):
        driver.step(f"Ctrl Shift {key}: {name}")
        yield from driver.over("WINDOW")
        yield from driver.key(key, **held)
        yield from driver.until(lambda name=name: shown_take(driver) == name, f"the strip shows {name}", 5)

    for menu in ("SEQUENCER_MT_add", "SEQUENCER_MT_context_menu", "MUSEV_MT_strip"):
        driver.step(menu)
        yield from driver.over("WINDOW")
        with driver.override("WINDOW"):
            bpy.ops.wm.call_menu(name=menu)
        yield from driver.turns(6)
        driver.picture(menu)
        yield from driver.key("ESC")

    driver.step("presets")
    yield from driver.over("WINDOW")
    with driver.override("WINDOW"):
        bpy.ops.wm.call_panel(name="MUSEV_PT_presets")
    yield from driver.turns(6)
    driver.picture("presets")
    yield from driver.key("ESC")
    presets = ours("presets")
    file = bpy.utils.preset_find("Quality", presets.FOLDER)
    with driver.override():
        bpy.ops.script.execute_preset(filepath=file, menu_idname="MUSEV_PT_presets")
    driver.check(driver.scene.musev.steps == 30, "the preset is applied to the scene that is shown")
    yield from driver.show("quality")
    yield from leave(driver)
