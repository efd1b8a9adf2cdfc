"""Every state of every panel, each with a screenshot to be looked at; the tests' own engine does as it is told."""

from __future__ import annotations

import bpy
from driver import FOLDER, MODULE, Driver, Steps
from flows import (
    CROSS,
    comes_to,
    connect,
    generate,
    leave,
    newest,
    ours,
    settle,
    shown_take,
    sit_down,
    strip,
)  # fmt: skip


def why_not(driver: Driver) -> Steps:
    """What stands in Generate's way is told, with a button that helps."""
    yield from sit_down(driver)
    settings = driver.scene.musev
    yield from driver.show("nothing_set")

    if hasattr(driver.window.workspace, "sequencer_scene"):  # 5.0 and later
        driver.step("no scene: press Show This Scene")
        driver.window.workspace.sequencer_scene = None
        yield from driver.show("no_scene")
        yield from driver.press("musev.scene_show(")
        yield from driver.until(
            lambda: driver.window.workspace.sequencer_scene == driver.scene, "it is shown", 5
        )

    driver.step("an engine that isn't there")
    driver.preferences.engine_url, driver.preferences.token_file = (
        "ws://127.0.0.1:9",
        str(FOLDER / "token_work"),
    )
    yield from driver.press("musev.engine_start")
    yield from driver.until(lambda: driver.session.engine.problem, "it is told that it can't be reached")
    yield from driver.show("unreachable")
    yield from leave(driver)

    driver.step("an engine of another version")
    told = driver.told["engines"]["old"]
    driver.preferences.engine_url, driver.preferences.token_file = told["url"], told["token_file"]
    yield from driver.press("musev.engine_start")
    yield from driver.until(lambda: driver.session.engine.problem, "it is told that the versions differ")
    yield from driver.show("other_version")
    yield from leave(driver)

    yield from connect(driver, "work")
    driver.step("no rig: press Find Characters")
    yield from driver.show("no_rig")
    yield from driver.press("musev.characters_find")
    yield from driver.until(lambda: len(settings.people) == 1, "the dancer is found", 20)
    yield from driver.show("found")
    driver.step("no camera: press Use a Camera")
    camera, driver.scene.camera = driver.scene.camera, None
    settings.people.clear()
    settings.armature = driver.scene.objects["Dancer"]
    yield from driver.show("no_camera")
    yield from driver.press("musev.camera_use")
    yield from driver.until(lambda: driver.scene.camera == camera, "the scene has its camera", 5)
    driver.step("no still, a wrong size, a model that isn't there")
    settings.mode = "still"
    yield from driver.show("no_still")
    settle(driver)
    settings.width = 100
    yield from driver.show("wrong_size")
    settings.width, settings.model = 128, "absent"
    yield from driver.show("absent_model")
    settings.model = "mini"
    yield from leave(driver)

    yield from connect(driver, "tight")
    driver.step("too large: press what makes it fit")
    settings.width = settings.height = 256
    yield from driver.until(
        lambda: ours("outlook").outlook(driver.scene).tight, "the estimate says that it does not fit"
    )
    yield from driver.show("too_large")
    yield from driver.press("musev.apply_remedy(")
    yield from driver.until(lambda: settings.width == 64, "the size is the remedy's", 5)
    yield from leave(driver)


def making(driver: Driver) -> Steps:
    """Clips that are read, wait, are made, fail, are tried again and cancelled."""
    yield from sit_down(driver, 4000)
    settle(driver)
    yield from connect(driver, "queue")
    driver.step("cancel while the rig is read")
    yield from generate(driver)
    yield from driver.show("reading")
    yield from driver.press("musev.cancel(", CROSS)
    yield from comes_to(driver, "CANCELLED", 10)
    driver.scene.frame_end = 12
    driver.step("three clips: the last to the front, the first cancelled")
    for _ in range(3):
        yield from generate(driver)
        yield from driver.until(lambda: newest(driver).accepted, "the engine has the clip")
    first, last = driver.session.jobs[1], newest(driver)
    yield from driver.until(lambda: first.preview, "the first one is being made")
    yield from driver.show("queued")
    yield from driver.press(f"musev.move(job=\"{last.id}\", place='front')", 0.7)
    yield from driver.until(lambda: driver.session.queue.waiting[:1] == (last.id,), "it is the next one", 10)
    yield from driver.press(f'musev.cancel(job="{first.id}")', CROSS)
    yield from driver.until(lambda: driver.session.queue.running == last.id, "the next one is being made", 10)
    for job in driver.session.jobs:
        driver.session.cancel(job.id)
    ours("session").redraw()
    yield from driver.show("all_cancelled")
    yield from driver.press("musev.clear(")
    yield from leave(driver)

    yield from connect(driver, "fail")
    driver.step("a clip that fails: Halve the Size, Retry")
    yield from generate(driver)
    yield from comes_to(driver, "FAILED")
    yield from driver.show("failed")
    yield from driver.press("musev.size_lower(")
    yield from driver.until(lambda: driver.scene.musev.width == 64, "the size is half of it", 5)
    yield from driver.press("musev.retry(", CROSS)
    yield from driver.until(lambda: newest(driver).retry_of, "it is tried again", 10)
    yield from comes_to(driver, "DONE")
    yield from leave(driver)


def takes(driver: Driver) -> Steps:
    """What can be done with takes: star, label, prune, drafts and their finals, the same again."""
    yield from sit_down(driver)
    settle(driver)
    yield from connect(driver, "work")
    driver.step("three variations, one starred, one labelled")
    driver.scene.musev.variations = 3
    yield from generate(driver)
    yield from driver.until(lambda: all(job.ended for job in driver.session.jobs), "all are made")
    driver.scene.musev.variations = 1
    yield from driver.press('musev.take_star(take="take_001")', 0.82)
    yield from driver.press('musev.take_label(take="take_002")', CROSS)
    yield from driver.turns(10)
    yield from driver.type("arms higher")
    driver.picture("label_dialog")
    yield from driver.key("RET")
    yield from driver.key("RET")
    yield from driver.until(
        lambda: ours("clips.stack").read(strip(driver)).take("2").mark.label == "arms higher",
        "the take has its label",
        5,
    )
    driver.step("prune and restore")
    yield from driver.show("takes")
    yield from driver.press("musev.takes_prune(")
    yield from driver.turns(10)
    driver.picture("prune_dialog")
    yield from driver.key("RET")
    clip = ours("clips.stack").read(strip(driver)).folder
    yield from driver.until(lambda: ours("clips.clip_folder").removed(clip), "the middle take is removed", 5)
    yield from driver.show("pruned")
    yield from driver.press("musev.takes_restore(")
    yield from driver.until(lambda: not ours("clips.clip_folder").removed(clip), "it is back", 5)

    driver.step("a draft, its final, and that again")
    driver.scene.musev.draft.use = True
    yield from generate(driver)
    yield from comes_to(driver, "DONE")
    driver.scene.musev.draft.use = False
    yield from driver.show("draft_take")
    yield from driver.press("musev.promote_draft(")
    yield from comes_to(driver, "DONE")
    driver.check(shown_take(driver) == "take_005", "the final is another take")
    yield from driver.press("musev.reproduce(")
    yield from comes_to(driver, "DONE")
    yield from driver.show("reproduced")
    yield from leave(driver)


def panels(driver: Driver) -> Steps:
    """Every panel open, in every mode; the models in the preferences; the menus and the search."""
    yield from sit_down(driver)
    settle(driver)
    yield from connect(driver, "work")
    yield from generate(driver)
    yield from comes_to(driver, "DONE")
    driver.step("open every panel")
    yield from driver.open_panels()
    yield from driver.show("open_pose")
    settings = driver.scene.musev
    settings.draft.use = settings.use_still_frame = settings.posealign = True
    settings.generate_at, settings.still_source = "RATE", "STRIP"
    for name in ("depth", "normal", "line"):
        getattr(settings.render, name).use = True
    settings.render.use_mask = settings.render.use_source = True
    bpy.ops.musev.characters_find()
    bpy.ops.musev.prompt_add(text="the sea at night", frame=1, length=6)
    yield from driver.show("open_all_on")
    for mode in ("still", "text", "video"):
        settings.mode = mode
        yield from driver.show(f"open_{mode}")

    driver.step("the menus and the search")
    shown = strip_place(driver)
    yield from driver.move(*shown)
    yield from driver.key("F3")
    yield from driver.type("musev")
    yield from driver.turns(10)
    driver.picture("search")
    yield from driver.key("ESC")
    yield from driver.move(*shown)
    yield from driver.key("A", shift=True)
    yield from driver.turns(10)
    driver.picture("add_menu")
    yield from driver.key("ESC")
    yield from driver.move(*shown)
    yield from driver.key("RIGHTMOUSE")
    yield from driver.turns(10)
    driver.picture("context_menu")
    yield from driver.key("ESC")

    driver.step("the preferences")
    bpy.ops.preferences.addon_show(module=MODULE)
    yield from driver.turns(30)
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[-1]):
        bpy.ops.wm.window_close()  # too low for them: they are shown where the sequencer was
    area = driver.area
    area.type = "PREFERENCES"
    yield from driver.turns(60)
    driver.picture("preferences")
    area.type = "SEQUENCE_EDITOR"
    yield from driver.turns(20)
    yield from leave(driver)


def strip_place(driver: Driver) -> tuple[int, int]:
    """Where in the window the middle of the topmost strip is."""
    region, found = driver.region("WINDOW"), ours("strips").top_strips(driver.scene)[0]
    start, end = ours("strips").span(found)
    x, y = region.view2d.view_to_region((start + end) / 2, found.channel + 0.5, clip=False)
    return region.x + x, region.y + y


STATES = {"why_not": why_not, "making": making, "takes": takes, "panels": panels}
