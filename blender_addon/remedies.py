"""What stands in the way of a clip, and the verb that removes it, as a button beside the reason.

The table says which verb helps against which code; what it can't help with has its remedy in words alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import bpy
from bpy.props import StringProperty
from mathutils import Vector

from . import session, strips
from .engine_link import EngineState
from .gather import SettingsError
from .making.jobs import Job, JobState
from .props import preferences
from .protocol import MIN_SIZE, SIZE_STEP
from .translations import tr
from .verbs import Verb, no_scene, refusable
from .weights import loras

MODEL_IN_WORDS = re.compile(r"musev models download '?([A-Za-z0-9][A-Za-z0-9_.-]*)")


@dataclass(frozen=True)
class Button:
    """An operator, what the button says, and what it is called with."""

    operator: str
    text: str
    icon: str
    properties: dict[str, str] = field(default_factory=dict)


START = Button("musev.engine_start", "Start Engine", "PLAY")
ADD_FILE = Button("musev.model_add", "Add Model File…", "FILEBROWSER")
FIND = Button("musev.characters_find", "Find Characters", "VIEWZOOM")
BY_CODE = {
    "engine_not_connected": START,
    "engine_unreachable": START,
    "connection_lost": START,
    "out_of_memory": Button("musev.size_lower", "Halve the Size", "FULLSCREEN_EXIT"),
    "no_armature": FIND,
    "no_poses": FIND,
    "no_camera": Button("musev.camera_use", "Use a Camera", "CAMERA_DATA"),
    "no_scene": Button("musev.scene_show", "Show This Scene", "SCENE_DATA"),
    "unsaved": Button("wm.save_as_mainfile", "Save As…", "FILE_TICK"),
}


def for_job(job: Job) -> list[Button]:
    """What helps against a clip's failure, by the code that the engine gave it."""
    if job.was_unread:
        return [Button("musev.generate_again", "Generate Again", "FILE_REFRESH", {"job": job.id})]
    if job.state is not JobState.FAILED or job.cause is None:
        return []
    code, value, words = job.cause.code, job.cause.value, job.cause.remedy
    if code == "missing_model":
        return [_download(id) for id in {value, *MODEL_IN_WORDS.findall(words)} if _absent(id)]
    button = BY_CODE.get(code)
    if button is not None and code == "out_of_memory":
        return [Button(button.operator, button.text, button.icon, {"job": job.id})]
    if button is START and session.current.engine.state is not EngineState.OFF:
        return []
    return [button] if button is not None else []


def for_settings(context: bpy.types.Context) -> list[Button]:
    """What helps where Generate can't be pressed. Cheap: it is drawn."""
    scene = strips.shown_scene(context)
    if scene is None:
        return [BY_CODE["no_scene"]]
    settings, buttons = scene.musev, []
    if settings.width % SIZE_STEP or settings.height % SIZE_STEP:
        width, height = (-(-side // SIZE_STEP) * SIZE_STEP for side in (settings.width, settings.height))
        changes = {"changes": f"width={width} height={height}"}
        buttons.append(Button("musev.apply_remedy", f"{width} x {height}", "CHECKMARK", changes))
    if session.current.engine.state is EngineState.OFF:
        buttons.append(START)
    if settings.mode == "pose":
        rig = _rig(settings)
        world = _scene_of(rig, scene)
        if rig is None and not settings.people:
            buttons.append(BY_CODE["no_armature"])
        elif rig is not None and settings.camera is None and world is not None and world.camera is None:
            buttons.append(BY_CODE["no_camera"])
    if not bpy.data.filepath and not preferences(context).output_folder:
        buttons.append(BY_CODE["unsaved"])
    for role, id in loras.wanted(settings.extras):
        if _absent(id):
            buttons.append(_download(id))
        elif role == "lora" and session.current.shelf.models and id not in session.current.shelf.models:
            off = Button("musev.lora_remove", tr("Take off {model}", model=id), "REMOVE", {"lora": id})
            buttons += [ADD_FILE, off]
    welcome = session.current.engine.client.welcome
    if welcome is not None and not any(m.name == settings.model and m.installed for m in welcome.models):
        parts = (settings.model, *settings.model.split(".", 1))  # a motion model on an image model
        buttons += [_download(id) for id in dict.fromkeys(parts) if _absent(id)]
    return buttons


def for_steps(settings) -> tuple[str, Button] | None:
    """Where steps and guidance don't fit the clip's few-step LoRA: why, and what sets them."""
    if (quick := loras.unfit(settings)) is None:
        return None
    count = quick.num_inference_steps
    why = tr(
        "'{id}' was made for steps {count} and guidance {guidance:g}; the clip has {steps} and {has:g}.",
        id=quick.id,
        count=count,
        guidance=quick.guidance_scale or 1.0,
        steps=settings.steps,
        has=round(settings.guidance_scale, 3),
    )
    text = tr("Use 1 Step") if count == 1 else tr("Use {count} Steps", count=count)
    return why, Button("musev.lora_steps", text, "CHECKMARK")


def draw(layout: bpy.types.UILayout, buttons: list[Button]) -> None:
    column = layout.column(align=True)
    for button in buttons:
        called = column.operator(button.operator, text=button.text, icon=button.icon)
        for name, value in button.properties.items():
            setattr(called, name, value)


def _absent(id: str) -> bool:
    known = session.current.shelf.models.get(id)
    return known is not None and not known.installed


def _download(id: str) -> Button:
    return Button("musev.model_download", tr("Download {model}…", model=id), "IMPORT", {"model": id})


def _rig(settings) -> bpy.types.Object | None:
    """The first thing whose motion drives the clip."""
    used = (item.parent or item.armature for item in settings.people if item.use)
    return next(used, None) if settings.people else settings.armature


def _scene_of(rig: bpy.types.Object | None, shown: bpy.types.Scene) -> bpy.types.Scene | None:
    if rig is None:
        return None
    return next((scene for scene in (shown, *bpy.data.scenes) if rig.name in scene.objects), None)


# --- the verbs that there were not yet ------------------------------------------------------------


class MUSEV_OT_scene_show(Verb, bpy.types.Operator):
    bl_idname = "musev.scene_show"
    bl_label = "Show This Scene"
    bl_description = "Let the sequencers of this workspace show the window's scene"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        shown = strips.shown_scene(context)
        return "" if shown is None else tr("The sequencer shows scene '{scene}' already", scene=shown.name)

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.workspace.sequencer_scene = context.scene
        return {"FINISHED"}


class MUSEV_OT_size_lower(Verb, bpy.types.Operator):
    bl_idname = "musev.size_lower"
    bl_label = "Halve the Size"
    bl_description = (
        "Set half the width and height for the next clip; it then needs about a quarter of the memory"
    )
    bl_options = {"REGISTER", "UNDO"}

    job: StringProperty(
        name="Clip",
        description="The id of the clip whose size is halved; empty: the size that is set",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_scene(context)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        scene = strips.shown_scene(context)
        job = session.current.job(self.job)
        asked = scene.musev if job is None else job.request
        was = (asked.width, asked.height)
        now = tuple(max(side // 2 // SIZE_STEP * SIZE_STEP, MIN_SIZE) for side in was)
        if now == was:
            raise SettingsError(
                tr(
                    "{width} x {height} is the smallest size; choose fewer frames instead.",
                    width=was[0],
                    height=was[1],
                )
            )
        scene.musev.width, scene.musev.height = now
        width, height = now
        self.report(
            {"INFO"},
            tr("The next clip has {width} x {height} pixels; press Generate", width=width, height=height),
        )


class MUSEV_OT_camera_use(Verb, bpy.types.Operator):
    bl_idname = "musev.camera_use"
    bl_label = "Use a Camera"
    bl_description = (
        "Make a camera of the rig's scene its active one; where there is none, add one that sees the rig"
    )
    bl_options = {"REGISTER", "UNDO"}

    camera: StringProperty(
        name="Camera",
        description="The name of the camera; empty: the first one by name",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return no_scene(context)

    @refusable
    def execute(self, context: bpy.types.Context) -> None:
        shown = strips.shown_scene(context)
        rig = _rig(shown.musev)
        scene = _scene_of(rig, shown) or shown
        there = sorted(item.name for item in scene.objects if item.type == "CAMERA")
        if self.camera and self.camera not in there:
            raise SettingsError(
                tr(
                    "Scene '{scene}' has no camera '{camera}' (it has: {names}).",
                    scene=scene.name,
                    camera=self.camera,
                    names=", ".join(there) or "none",
                )
            )
        if there:
            scene.camera = scene.objects[self.camera or there[0]]
        else:
            scene.camera = add_camera(scene, rig)
        self.report(
            {"INFO"},
            tr("'{camera}' is the camera of scene '{scene}'", camera=scene.camera.name, scene=scene.name),
        )


def add_camera(scene: bpy.types.Scene, rig: bpy.types.Object | None) -> bpy.types.Object:
    """Adds a camera in front of the rig, from which the whole of it is seen; without a rig, before the origin."""
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    camera.rotation_euler = (1.5707963, 0.0, 0.0)  # looks along +Y; figures look along -Y
    corners = [Vector(corner) for corner in rig.bound_box] if rig is not None else []
    low, high = (
        Vector(pick(corner[axis] for corner in corners) for axis in range(3)) for pick in (min, max)
    ) if corners else (Vector((-1, -1, 0)), Vector((1, 1, 2)))  # fmt: skip
    room = 0.15 * (high - low)  # around it: heads and hands reach over their bones
    box = [
        Vector((x, y, z))
        for x in (low.x - room.x, high.x + room.x)
        for y in (low.y, high.y)
        for z in (low.z - room.z, high.z + room.z)
    ]
    world = rig.matrix_world if rig is not None else None
    points = [value for corner in box for value in (world @ corner if world is not None else corner)]
    scene.view_layers[0].update()
    place, _ = camera.camera_fit_coords(scene.view_layers[0].depsgraph, points)
    camera.location = place
    return camera


register, unregister = bpy.utils.register_classes_factory(
    (MUSEV_OT_scene_show, MUSEV_OT_size_lower, MUSEV_OT_camera_use)
)
