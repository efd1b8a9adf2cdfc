"""Builds the extension's zip, installs it into a temporary user folder and enables it, as an artist does.

The tests then import the installed modules (`bl_ext.user_default.musev`), never the checkout's. One process tests
one Blender: `python -m pytest tests/blender` with the Python that has that `bpy`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

USER = Path(tempfile.mkdtemp(prefix="musev-blender-user-"))
os.environ["BLENDER_USER_RESOURCES"] = str(USER)  # must stand before bpy is imported

import bpy
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = "bl_ext.user_default.musev"
exit_status = 0


def pytest_configure(config: pytest.Config) -> None:
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
    return scene
