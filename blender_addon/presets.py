"""The clip's settings as Blender's own presets: some come with the extension, others the artist saves and removes.

A preset is a small script that Blender runs. It has numbers and choices, no still, rig or path; prompts only where that
is wished.
"""

from __future__ import annotations

from pathlib import Path

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel
from bpy.props import BoolProperty

from .gather import SettingsError
from .translations import tr
from .verbs import refusable

HERE = Path(__file__).parent
FOLDER = "musev/clip"  # below a folder `presets`: ours, and the one among the user's scripts
DEFINES = [
    "scene = getattr(bpy.context.workspace, 'sequencer_scene', bpy.context.scene)",  # which the sequencer shows
    "settings = scene.musev",
]
KEPT = (
    "width", "height", "steps", "guidance_scale", "generate_at", "generation_fps", "between", "context_frames",
    "context_overlap", "context_schedule", "predictor", "model", "extras", "draft", "render", "occlusion",
)  # fmt: skip
PROMPTS = ("prompt", "negative_prompt")


class MUSEV_PT_presets(PresetPanel, bpy.types.Panel):
    bl_idname = "MUSEV_PT_presets"
    bl_label = "Clip Presets"
    preset_subdir = FOLDER
    preset_operator = "script.execute_preset"
    preset_add_operator = "musev.preset_add"

    @property
    def preset_add_operator_properties(self) -> dict[str, bool]:
        return {"include_prompts": bpy.context.window_manager.musev_preset_prompts}

    def draw(self, context: bpy.types.Context) -> None:
        super().draw(context)
        column = self.layout.column()
        column.emboss = "NORMAL"  # or it would look like one more preset
        column.prop(context.window_manager, "musev_preset_prompts")


class MUSEV_OT_preset_add(AddPresetBase, bpy.types.Operator):
    bl_idname = "musev.preset_add"
    bl_label = "Add Clip Preset"
    bl_description = (
        "Save the clip's settings as a preset, or remove one; stills, rigs and paths are left out"
    )
    preset_menu = "MUSEV_PT_presets"
    preset_subdir = FOLDER
    preset_defines = DEFINES

    include_prompts: BoolProperty(
        name="Include Prompts", description="Save both prompts with the preset", options={"SKIP_SAVE"}
    )

    @property
    def preset_values(self) -> list[str]:
        return [f"settings.{name}" for name in KEPT + (PROMPTS if self.include_prompts else ())]

    @refusable
    def execute(self, context: bpy.types.Context) -> set[str]:
        name = MUSEV_PT_presets.bl_label if self.remove_active else self.name
        if (self.remove_name or self.remove_active) and shipped(name):
            raise SettingsError(
                tr("The preset '{name}' belongs to the extension and stays; remove your own ones.", name=name)
            )
        return super().execute(context)


def shipped(name: str) -> bool:
    """Whether a preset came with the extension, by its name as it is shown or as its file's."""
    files = (HERE / "presets" / FOLDER).glob("*.py")
    return any(name in (file.stem, bpy.path.display_name(file.name)) for file in files)


_register, _unregister = bpy.utils.register_classes_factory((MUSEV_PT_presets, MUSEV_OT_preset_add))


def register() -> None:
    _register()
    bpy.types.WindowManager.musev_preset_prompts = BoolProperty(
        name="Include Prompts", description="Save both prompts with the next preset", options={"SKIP_SAVE"}
    )
    bpy.utils.register_preset_path(str(HERE))


def unregister() -> None:
    bpy.utils.unregister_preset_path(str(HERE))
    del bpy.types.WindowManager.musev_preset_prompts
    _unregister()
