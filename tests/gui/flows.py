"""What an artist does in the window, as flows.

Each flow begins with the dancer's file and leaves no engine connected. What is pressed is pressed by simulated events;
settings that are only prepared are set from Python.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import time
from pathlib import Path

import bpy
from driver import FOLDER, MODULE, SIDEBAR, Driver, FlowError, Steps

LOADING_S = 300.0  # a busy machine's, for the first clip of an engine
CROSS, ARROW = 0.9, 0.08  # where, of the width, a row's last button is and its first


def ours(name: str):
    """A module of the installed extension."""
    return importlib.import_module(f"{MODULE}.{name}")


# --- what every flow begins with ----------------------------------------------------------------------


def install(driver: Driver) -> Steps:
    """The zip, as Blender installs it."""
    if MODULE in bpy.context.preferences.addons:
        return
    driver.step("install the zip")
    bpy.context.preferences.view.show_splash = False
    (archive,) = FOLDER.glob("*.zip")
    bpy.ops.extensions.package_install_files(
        filepath=str(archive), repo="user_default", enable_on_install=True, overwrite=True
    )
    yield
    driver.check(MODULE in bpy.context.preferences.addons, "the extension is enabled")


def sit_down(driver: Driver, frames: int = 12) -> Steps:
    """Opens a copy of the dancer's file, makes the sequencer fill the window, its sidebar open and 300 pixels wide."""
    yield from install(driver)
    driver.step("open the dancer in the sequencer")
    own = FOLDER / driver.results[-1]["flow"]
    own.mkdir(exist_ok=True)
    bpy.ops.wm.open_mainfile(filepath=str(shutil.copy2(FOLDER / "dancer.blend", own)), load_ui=False)
    yield from driver.turns(5)
    show_scene(driver)
    screen = driver.window.screen
    if not any(area.type == "SEQUENCE_EDITOR" for area in screen.areas):
        max(screen.areas, key=lambda area: area.width * area.height).type = "SEQUENCE_EDITOR"
        yield from driver.turns(5)
    if len(driver.window.screen.areas) > 1:
        with driver.override("WINDOW"):
            bpy.ops.screen.screen_full_area()
        yield from driver.turns(5)
    if not driver.area.spaces[0].show_region_ui:
        yield from driver.over("WINDOW")
        yield from driver.key("N", "n")
        yield from driver.until(lambda: driver.region().width > 1, "the sidebar opens with N")
    driver.area.tag_redraw()
    yield from driver.turns(5)
    driver.region().active_panel_category = "MuseV"
    yield from driver.turns(5)
    region = driver.region()
    edge = region.x + region.width - SIDEBAR + 1
    if abs(region.width - SIDEBAR) > 2:
        y = region.y + region.height // 2
        yield from driver.drag((region.x, y), (edge, y))
        yield from driver.turns(5)
    driver.check(abs(driver.region().width - SIDEBAR) < 4, f"the sidebar is {SIDEBAR} pixels wide")
    yield from driver.open_panels("MUSEV_PT_engine", "MUSEV_PT_clip", "MUSEV_PT_jobs")
    driver.session.forget_ended()
    driver.scene.frame_end = frames


def show_scene(driver: Driver) -> None:
    if hasattr(driver.window.workspace, "sequencer_scene"):
        driver.window.workspace.sequencer_scene = driver.scene


def settle(driver: Driver) -> None:
    """The settings of a small clip of the dancer that lies ready to be made."""
    settings = driver.scene.musev
    settings.mode, settings.prompt = "pose", "a dancer in a yellow shirt"
    settings.armature = driver.scene.objects["Dancer"]
    settings.still_image = bpy.data.images.load(str(FOLDER / "still.png"), check_existing=True)
    settings.steps, settings.seed = 2, 7


def connect(driver: Driver, engine: str) -> Steps:
    driver.step(f"press Start (engine: {engine})")
    told = driver.told["engines"][engine]
    driver.preferences.engine_url, driver.preferences.token_file = told["url"], told["token_file"]
    yield from driver.press("musev.engine_start")
    yield from driver.until(lambda: driver.session.engine.state.name == "ON", "the engine is connected")


def leave(driver: Driver) -> Steps:
    if driver.session.engine.state.name == "OFF":
        return
    driver.step("press Stop")
    yield from driver.press("musev.engine_stop")
    yield from driver.until(lambda: driver.session.engine.state.name == "OFF", "the engine is not connected")


# --- clips ----------------------------------------------------------------------------------------------


def generate(driver: Driver) -> Steps:
    """Presses Generate; the clip is `newest(driver)`."""
    before = {job.id for job in driver.session.jobs}
    yield from driver.press("bpy.ops.musev.generate(")
    yield from driver.until(
        lambda: {job.id for job in driver.session.jobs} - before, "Generate makes a clip", 10
    )


def newest(driver: Driver):
    return driver.session.jobs[-1]


def comes_to(driver: Driver, state: str, limit_s: float = LOADING_S) -> Steps:
    """Waits for the newest clip; raises FlowError if it ends otherwise."""
    job = newest(driver)

    def there() -> bool:
        if job.ended and job.state.name != state:
            raise FlowError(f"the clip is {job.state.name}, not {state}: {job.problem}")
        return job.state.name == state

    yield from driver.until(there, f"the clip is {state}", limit_s)


def strip(driver: Driver):
    (only,) = ours("strips").top_strips(driver.scene)
    return only


def shown_take(driver: Driver) -> str:
    return ours("clips.stack").shown(strip(driver)).name


def files_of(driver: Driver) -> list[str]:
    """The sha256 of each of the shown take's frames."""
    found = strip(driver)
    folder = Path(bpy.path.abspath(found.directory))
    return [
        hashlib.sha256((folder / element.filename).read_bytes()).hexdigest() for element in found.elements
    ]


# --- the flows --------------------------------------------------------------------------------------------


def first_time(driver: Driver) -> Steps:
    """docs/first-clip.md, by someone who has never had the extension, after `make demo` (the first action)."""
    bpy.context.preferences.view.show_splash = False
    driver.step("2: drop the zip onto the window, press OK")
    (archive,) = FOLDER.glob("*.zip")
    yield from driver.move(500, 1200)
    with bpy.context.temp_override(window=driver.window):
        bpy.ops.extensions.package_install_files("INVOKE_DEFAULT", url=str(archive))
    yield from driver.turns(20)
    driver.picture("drop")
    yield from driver.key("RET")
    yield from driver.until(lambda: MODULE in bpy.context.preferences.addons, "the extension is enabled", 20)

    bpy.ops.wm.open_mainfile(filepath=str(FOLDER / "dancer.blend"))  # as `make demo` leaves it
    yield from driver.turns(5)
    settle(driver)
    driver.scene.frame_end = 12
    (FOLDER / "demo").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "demo" / "dancer.blend"))
    bpy.ops.wm.read_homefile()
    yield from driver.turns(5)

    driver.step("3: open the demo's file")
    bpy.ops.wm.open_mainfile(filepath=str(FOLDER / "demo" / "dancer.blend"))
    yield from driver.turns(10)
    driver.step("4: click the tab MuseV")
    yield from driver.until(lambda: driver.region().width > 1, "the sidebar is open", 10)
    yield from driver.turns(10)
    region = driver.region()
    for y in range(region.y + region.height - 20, region.y, -20):
        if region.active_panel_category == "MuseV":
            break
        yield from driver.click(region.x + region.width - 10, y)
    driver.check(region.active_panel_category == "MuseV", "the tab MuseV is there and open")
    driver.check(ours("strips").shown_scene(bpy.context) == driver.scene, "the sequencer shows the scene")
    yield from driver.show("first_sight", whole=True)
    driver.step("5: press Start")
    yield from driver.press("musev.engine_start")
    yield from driver.until(lambda: driver.session.engine.state.name == "ON", "the engine runs")
    driver.step("6: press Generate")
    yield from generate(driver)
    yield from comes_to(driver, "DONE")
    driver.check(len(set(files_of(driver))) == 12, "the strip has 12 different frames")
    yield from driver.over("WINDOW")
    yield from driver.key("HOME")
    yield from driver.show("first_clip", whole=True)
    yield from leave(driver)
    bpy.ops.wm.read_homefile()  # and its editors: 4.3 draws the timeline of 4.5's file from far away, and slowly
    yield from driver.turns(5)


def story(driver: Driver) -> Steps:
    """A day's work with the real engine: generate, look, cancel, flip, redo a range, undo, save, reopen."""
    yield from sit_down(driver)
    settle(driver)
    yield from connect(driver, "real")
    yield from driver.show("ready")

    driver.step("press Generate")
    yield from generate(driver)
    job = newest(driver)
    yield from driver.until(lambda: job.ended or job.preview, "a preview is shown", LOADING_S)
    yield from driver.show("running")
    yield from comes_to(driver, "DONE")
    driver.check(len(set(files_of(driver))) == 12, "the strip has 12 different frames")
    yield from driver.show("first_take")
    yield from driver.show("first_take_window", whole=True)

    driver.step("press Generate once more")
    driver.scene.musev.seed = 8
    yield from generate(driver)
    yield from comes_to(driver, "DONE")
    driver.check(shown_take(driver) == "take_002", "the second take joined the strip")

    driver.step("press Generate, and Cancel")
    driver.scene.musev.steps = 40
    yield from generate(driver)
    job = newest(driver)
    yield from comes_to(driver, "RUNNING")
    yield from driver.press("musev.cancel(", CROSS)
    yield from comes_to(driver, "CANCELLED", 10)
    driver.scene.musev.steps = 2
    driver.check(not job.take.exists() and shown_take(driver) == "take_002", "nothing is left of it")
    yield from driver.show("cancelled")

    driver.step("press Clear Ended")
    yield from driver.press("musev.clear(")
    yield from driver.until(lambda: not driver.session.jobs, "the list is empty", 5)

    driver.step("flip takes")
    second = files_of(driver)
    yield from driver.press("musev.take_previous(", ARROW)
    yield from driver.until(lambda: shown_take(driver) == "take_001", "the first take is shown", 5)
    driver.check(not set(files_of(driver)) & set(second), "the strip shows other files")
    yield from driver.press("musev.take_next(", CROSS)
    yield from driver.until(lambda: shown_take(driver) == "take_002", "the second take is shown", 5)

    driver.step("redo frames 6 to 8")
    driver.scene.use_preview_range = True
    driver.scene.frame_preview_start, driver.scene.frame_preview_end = 6, 8
    yield from driver.open_panels("MUSEV_PT_redo")
    yield from driver.press("musev.redo_range(")
    yield from driver.turns(10)
    driver.picture("redo_dialog")
    yield from driver.key("RET")
    yield from driver.until(lambda: driver.session.jobs, "Redo Range makes a clip", 10)
    yield from comes_to(driver, "DONE")
    redone = files_of(driver)
    driver.check(shown_take(driver) == "take_003", "the redone take is shown")
    driver.check(
        [a == b for a, b in zip(second, redone, strict=True)]
        == [not 6 <= frame <= 8 for frame in range(1, 13)],
        "only frames 6 to 8 differ",
    )
    yield from driver.show("redone")

    driver.step("undo with Ctrl+Z")
    yield from driver.over("WINDOW")
    yield from driver.key("Z", ctrl=True)
    yield from driver.until(lambda: shown_take(driver) == "take_002", "the second take is shown again", 5)
    driver.step("redo with Shift+Ctrl+Z")
    yield from driver.key("Z", ctrl=True, shift=True)
    yield from driver.until(lambda: shown_take(driver) == "take_003", "the redone take is shown again", 5)

    driver.step("save with Ctrl+S")
    yield from driver.key("S", ctrl=True)
    yield from driver.until(lambda: not bpy.data.is_dirty, "the file is saved", 10)

    driver.step("open the file again")
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath, load_ui=False)
    yield from driver.turns(5)
    show_scene(driver)
    yield from driver.turns(5)
    driver.check(files_of(driver) == redone, "the strip shows the redone take")
    for take in ("take_002", "take_001"):
        yield from driver.press("musev.take_previous(", ARROW)
        yield from driver.until(lambda take=take: shown_take(driver) == take, f"{take} is shown", 5)
    yield from driver.show("reopened")

    driver.step("compare two takes side by side, and as a wipe")
    driver.area.spaces.active.view_type = "SEQUENCER_PREVIEW"
    for kind, part in (("SIDE", 0.31), ("WIPE", 0.4)):
        yield from driver.press(f"musev.take_compare(take=\"take_003\", kind='{kind}'", part)
        yield from driver.until(lambda: ours("clips.compare").parts(driver.scene), "both are shown", 5)
        yield from driver.show(f"compare_{kind.lower()}", whole=True)
        yield from driver.press("musev.take_compare_end(")
    driver.area.spaces.active.view_type = "SEQUENCER"
    yield from leave(driver)


def stall(driver: Driver) -> Steps:
    """How long the extension's timer holds Blender's main thread while 240 frames of 512 x 512 stream into the window.
    Only told: on a busy machine the longest turn is other processes' work; `cpu` is the thread's own time."""
    yield from sit_down(driver, 240)
    yield from connect(driver, "work")
    settings, current, turns = driver.scene.musev, driver.session, []
    settings.mode, settings.prompt, settings.width, settings.height = "text", "rain", 512, 512
    real = current.tick

    def timed(*budget) -> bool:
        started, own = time.perf_counter(), time.thread_time()
        try:
            return real(*budget)
        finally:
            turns.append((time.perf_counter() - started, time.thread_time() - own))

    driver.step("press Generate: 240 frames of 512 x 512")
    current.tick = timed
    try:
        yield from generate(driver)
        yield from comes_to(driver, "DONE")
    finally:
        del current.tick
    for name, seconds in zip(
        ("longest turn", "longest turn, cpu"), map(max, zip(*turns, strict=True)), strict=True
    ):
        driver.fact(name, f"{seconds * 1000:.1f} ms of {len(turns)}")
    driver.fact("placing the strip", f"{current.longest_place_s * 1000:.1f} ms")
    driver.check(len(strip(driver).elements) == 240, "the strip has 240 frames")
    yield from leave(driver)
