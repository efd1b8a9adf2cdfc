"""A clip without a window: generate, flip takes, redo a range, save. Everything through `bpy.ops.musev`.

    blender --background [FILE.blend] --python examples/headless.py -- --output out/shot.blend

MuseV must be installed and enabled in that Blender; `--engine` says what starts the engine, if the extension's
preferences don't. docs/scripting.md lists all verbs and settings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bpy


def shown_scene() -> bpy.types.Scene:
    """The scene whose strips a sequencer shows; from Blender 5.0 on that has to be said."""
    scene, workspace = bpy.context.scene, bpy.context.workspace
    if hasattr(workspace, "sequencer_scene"):
        workspace.sequencer_scene = scene
    return scene


def preferences() -> bpy.types.AddonPreferences:
    """MuseV's, whatever repository it was installed from."""
    addons = bpy.context.preferences.addons
    return next(addon.preferences for addon in addons if addon.module.split(".")[-1] == "musev")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the .blend that is saved")
    parser.add_argument("--prompt", default="a dancer on a stage")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--engine", help="the command that starts the engine, say: /path/to/musev serve")
    own = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    arguments = parser.parse_args(own)

    scene = shown_scene()
    scene.frame_start, scene.frame_end = 1, arguments.frames
    bpy.ops.wm.save_as_mainfile(filepath=str(arguments.output.resolve()))  # its takes lie beside it
    if arguments.engine:
        preferences().engine_command = arguments.engine

    settings = scene.musev
    settings.mode, settings.prompt, settings.steps = "text", arguments.prompt, arguments.steps

    bpy.ops.musev.engine_start()
    bpy.ops.musev.wait(at_most=120)
    bpy.ops.musev.generate(variations=2)  # two takes in one strip
    bpy.ops.musev.wait()
    bpy.ops.musev.take_previous()
    first = arguments.frames // 2
    bpy.ops.musev.redo_range(frame_start=first, frame_end=first + 3, new_seed=True)
    bpy.ops.musev.wait()
    bpy.ops.musev.take_label(label="middle redone")
    bpy.ops.musev.take_star()
    bpy.ops.musev.engine_stop()
    bpy.ops.wm.save_mainfile()

    strip = scene.sequence_editor.active_strip
    print(f"{bpy.data.filepath}: strip '{strip.name}' shows {Path(strip.directory).name}")


if __name__ == "__main__":
    main()
