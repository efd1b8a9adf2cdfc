"""A shot list for the night and its contact sheet in the morning; the tests' engine fails where a prompt says so."""

from __future__ import annotations

import bpy
from driver import FOLDER, Driver, Steps
from flows import connect, leave, ours, settle, sit_down


def night(driver: Driver) -> Steps:
    """Generate Each over selected strips, one of which can't become a clip and one fails; the sheet in its window."""
    yield from sit_down(driver, 12)
    settle(driver)
    bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "night.blend"))
    strips = ours("strips")
    for number, words in enumerate(("rain on the roof", "this one fails", "snow in the yard", "")):
        start = 1 + 6 * number
        name = words or "no words"
        strips.place_text(driver.scene, name, words, 1 + number % 2, start, start + 6).select = True
    yield from driver.turns(10)
    yield from driver.open_panels("MUSEV_PT_shots", "MUSEV_PT_sheets")
    yield from driver.show("shots_no_engine")
    yield from connect(driver, "fail_some")
    driver.step("the panel tells what would be made")
    told = ours("shots.shot_list").told
    yield from driver.until(lambda: "about" in told(driver.scene, True).sentence, "the time is told", 20)
    yield from driver.show("shots_told")
    driver.step("press Generate Each")
    yield from driver.press("musev.generate_each(")
    yield from driver.until(lambda: len(driver.session.jobs) == 3, "three clips are on the list", 20)
    yield from driver.until(lambda: all(job.ended for job in driver.session.jobs), "all have ended")
    states = [job.state.name for job in driver.session.jobs]
    driver.check(states == ["DONE", "FAILED", "DONE"], f"one of three fails: {states}")
    yield from driver.show("shots_made")

    driver.step("press Contact Sheet: it is drawn a little at a time and opens in a window of its own")
    drawing, slowest = ours("shots.sheet_verbs").current, ours("shots.sheet_verbs").current.slowest_s
    windows = len(bpy.context.window_manager.windows)
    yield from driver.press("musev.contact_sheet(of='LIST'")
    yield from driver.until(lambda: drawing.work is not None, "it is being drawn", 10)
    yield from driver.until(lambda: drawing.work is None, "it is drawn", 60)
    driver.check(not drawing.problem, drawing.problem)
    driver.fact("slowest step of the sheet, ms", round(1000 * max(slowest, drawing.slowest_s), 1))
    driver.check(len(bpy.context.window_manager.windows) == windows + 1, "a window shows it")
    window = bpy.context.window_manager.windows[-1]
    (editor,) = window.screen.areas
    driver.check(editor.type == "IMAGE_EDITOR" and editor.spaces.active.image, "an Image editor shows it")
    driver.check(editor.spaces.active.image.filepath.startswith("//musev/_sheets/"), "its path is relative")
    yield from driver.turns(60)
    driver.picture("contact_sheet")
    with bpy.context.temp_override(window=window):
        bpy.ops.wm.window_close()
    yield from driver.turns(20)

    driver.step("the same from the strips' menu")
    yield from driver.move(driver.region("WINDOW").x + 200, driver.region("WINDOW").y + 200)
    bpy.ops.wm.call_menu(name="MUSEV_MT_strip")
    yield from driver.turns(10)
    driver.picture("strip_menu")
    yield from driver.key("ESC")
    with driver.override("WINDOW"):
        bpy.ops.musev.generate_each("INVOKE_DEFAULT")
    yield from driver.turns(10)
    driver.picture("generate_each_dialog")
    yield from driver.key("ESC")
    yield from driver.press("musev.retry_each(")
    yield from driver.until(lambda: driver.session.jobs[1].state.name == "DONE", "the failed one is made", 20)
    yield from leave(driver)
