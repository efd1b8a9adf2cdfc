"""Builds the extension's zip, installs it into a temporary user folder and enables it, as an artist does.

The tests then import the installed modules (`bl_ext.user_default.musev`), never the checkout's. One process
tests one Blender: `python -m pytest tests/blender` with the Python that has that `bpy`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

USER = Path(tempfile.mkdtemp(prefix="musev-blender-user-"))
os.environ["BLENDER_USER_RESOURCES"] = str(USER)  # must stand before bpy is imported

import bpy  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODULE = "bl_ext.user_default.musev"
exit_status = 3  # until the session has told its own: a failure to install must not pass


def pytest_configure(config: pytest.Config) -> None:
    # 5.2 warns of the strip properties that 6.0 takes away.
    config.addinivalue_line(
        "filterwarnings", "error:.*expected to be removed in Blender.*:DeprecationWarning"
    )
    sys.path.insert(0, str(ROOT))
    from build_extension import build

    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.extensions.package_install_files(
        filepath=str(build(USER / "dist")), repo="user_default", enable_on_install=True, overwrite=True
    )
    # Without this the checkout's `blender_addon` could stand in for the installed one unseen.
    sys.path.remove(str(ROOT))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    global exit_status
    exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    # bpy 4.2 crashes and 4.5 hangs at interpreter exit while classes or timers are registered.
    shutil.rmtree(USER, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_status)


@pytest.fixture
def empty_scene() -> bpy.types.Scene:
    """A new file with one empty scene, 24 fps, the "Standard" view, and the extension still enabled."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    if MODULE not in bpy.context.preferences.addons:
        bpy.ops.preferences.addon_enable(module=MODULE)
    scene = bpy.context.scene
    scene.view_settings.view_transform = "Standard"
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = scene
    # Blender 4.2: who reads this, as Rigify does, makes the scene the owner of bpy.context itself, and it stays so when
    # its file is closed. To set bpy.context.window.scene then writes where it was, and some other call crashes. Read
    # anew, the owner is this file's.
    _ = bpy.context.layer_collection
    return scene


@pytest.fixture
def engine(empty_scene):
    """Starts the fake engine through the extension's operator: `engine("fail")` gives the session, connected.

    Afterwards the engine has ended and the session is empty again.
    """
    from bl_ext.user_default.musev import session
    from bl_ext.user_default.musev.engine_link import EngineState

    session.current.__init__()
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.output_folder = str(USER / "takes" / secrets.token_hex(4))
    preferences.engine_url = ""

    def start(behaviour: str = "work", until: EngineState = EngineState.ON):
        script = Path(__file__).with_name("fake_engine.py")
        preferences.engine_command = f'"{sys.executable}" "{script}" --do {behaviour}'
        bpy.ops.musev.engine_start()
        pump(lambda: session.current.engine.state is until)
        return session.current

    yield start
    link = session.current.engine
    session.current.stop_engine()
    pump(lambda: not link.busy)


@pytest.fixture
def told(engine):
    """The same, and waits for its models: `told("offline")` gives the session."""

    def start(behaviour: str = "work"):
        current = engine(behaviour)
        pump(lambda: current.shelf.models)
        return current

    return start


def pump(condition, limit_s: float = 30.0) -> None:
    """Calls the session's tick, as Blender's timer would, until the condition holds. Fails after a while."""
    from bl_ext.user_default.musev import session

    deadline = time.monotonic() + limit_s
    while not condition():
        session.current.tick()
        if time.monotonic() > deadline:
            engine = session.current.engine
            pytest.fail(f"still not so: {session.current.jobs}, {engine.state}, {engine.problem!r}")
        time.sleep(0.001)
