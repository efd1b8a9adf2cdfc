"""A clip on the timeline while it is made: what the artist may do meanwhile. The engine makes two frames and waits."""

from __future__ import annotations

from pathlib import Path

import bpy
from driver import Driver, Steps
from flows import CROSS, comes_to, connect, generate, leave, newest, ours, shown_take, sit_down, strip


def filling(driver: Driver) -> Steps:
    """The strip fills in; it is moved, undone, saved and cancelled while it does."""
    yield from sit_down(driver, 12)
    settings, live = driver.scene.musev, driver.session.live
    settings.mode, settings.prompt, settings.width, settings.height = "text", "rain", 256, 256
    settings.new_strip = True
    driver.area.spaces[0].view_type = "SEQUENCER_PREVIEW"
    yield from connect(driver, "queue")
    driver.step("press Generate: the strip stands there and fills in")
    yield from generate(driver)
    job = newest(driver)

    def stands() -> bool:
        return filled(driver, job) and strip(driver).musev.making == job.id

    yield from driver.until(stands, "the strip shows what has come", 30)
    driver.check(shown_take(driver) == "take_001", "it shows the take that is made")
    driver.scene.frame_current = 3
    yield from driver.turns(20)
    driver.picture("filling_preview_frame")
    driver.scene.frame_current = 1
    yield from driver.turns(20)
    driver.picture("filling_true_frame")

    driver.step("grab the strip with G: it is not touched meanwhile")
    timeline = driver.region("WINDOW")
    yield from driver.move(timeline.x + timeline.width // 2, timeline.y + timeline.height // 2)
    yield from driver.key("G", "g")
    driver.check("let go" in ours("making.placing").why_untouched(), "strips that are held are left alone")
    channel = strip(driver).channel
    yield from driver.move(driver.mouse[0], driver.mouse[1] + 120)
    yield from driver.key("RET")
    yield from driver.until(lambda: not ours("making.placing").why_untouched(), "the strip is let go", 10)
    driver.fact("channel before and after", (channel, strip(driver).channel))

    driver.step("undo, undo, redo with the keys: there is one strip, and it goes on")
    for shift in (False, False, True):
        yield from driver.key("Z", ctrl=True, shift=shift)
        yield from driver.turns(30)
        yield from driver.until(stands, "the strip goes on", 10)

    driver.step("save with Ctrl+S: the file names the finished take's files")
    bpy.ops.wm.save_as_mainfile(filepath=bpy.data.filepath)
    folder = Path(bpy.path.abspath(strip(driver).directory)).name
    driver.check(folder == "take_001.live", f"the window goes on with what is there, not with {folder}")

    driver.step("press Cancel: the strip goes, and no undo brings it back")
    yield from driver.press("musev.cancel(", CROSS)
    yield from comes_to(driver, "CANCELLED", 10)
    top = ours("strips").top_strips
    driver.check(not len(top(driver.scene)), "the strip is gone")
    yield from driver.until(lambda: not live.busy and not job.take.exists(), "its files are gone", 10)
    yield from driver.move(timeline.x + timeline.width // 2, timeline.y + timeline.height // 2)
    for _ in range(2):
        yield from driver.key("Z", ctrl=True)
        yield from driver.until(lambda: not live.busy and not len(top(driver.scene)), "no strip is left", 10)
    driver.picture("filling_cancelled")
    yield from leave(driver)


def filled(driver: Driver, job) -> bool:
    """Whether the timeline has the job's strip, with its first two frames and a preview."""
    found = ours("strips").top_strips(driver.scene)
    if len(found) != 1:
        return False
    names = [element.filename for element in found[0].elements]
    return names[:2] == ["0001.png", "0002.png"] and set(names[2:]) == {"preview_0003.png"}
