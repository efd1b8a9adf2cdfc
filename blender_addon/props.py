"""What the artist sets: one PropertyGroup on the scene, and the extension's preferences.

Defaults and limits are the protocol's; what a value means is told in its description.
"""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)  # fmt: skip

from . import session
from .clips.draft import MusevDraftSettings
from .footage.sources import MusevSourceSettings
from .prompt_track import MusevPromptSettings
from .protocol import ClipRequest, Menus
from .render.settings import MusevRenderSettings
from .rig.characters import MusevPerson, is_armature
from .rig.occlusion import MusevOcclusionSettings
from .rig.overlay import MusevOverlaySettings
from .weights.loras import MusevExtraSettings

MAX_VARIATIONS = 16

MODES = (
    ("pose", "Pose to Clip", "A rig's motion drives the clip; the still, if given, says what it looks like"),
    ("still", "Still to Clip", "The still comes to life as the prompt says"),
    ("text", "Text to Clip", "The prompt alone makes the clip"),
    ("video", "Video to Clip", "What strips show is made anew as the prompt says"),
)
STILL_SOURCES = (
    ("IMAGE", "Image", "An image data-block of this file"),
    ("STRIP", "Strip", "What a strip of any kind shows at the current frame"),
)
RANGES = (
    ("SCENE", "Scene", "The scene's frame range"),
    ("STRIPS", "Selected Strips", "From the first to the last frame of the selected strips"),
    ("PREVIEW", "Preview Range", "The timeline's preview range"),
)


GENERATE_AT = (
    ("EVERY", "Every Frame", "One generated frame for each frame of the timeline"),
    (
        "MODEL",
        "Model's Own Rate",
        "The rate of the clips that the model learned from, at which it moves most naturally",
    ),
    ("RATE", "Rate", "As many frames a second as you set"),
)
BETWEEN = (
    ("held", "Held", "Each generated frame stands until the next one"),
    ("blended", "Blended", "Two generated frames are mixed, as in a cross-fade"),
    ("flow", "Optical Flow", "What is seen moves from one generated frame to the next"),
)


BUILT_IN = Menus(  # until an engine has told its own
    window_schedules=("shifting", "uniform_v2", "uniform"), predictors=("musev",)
)


def menus() -> Menus:
    """What the engine offers that this extension was last connected to, other packages' plug-ins among it."""
    return session.current.engine.client.menus or BUILT_IN


def model_names(settings: MusevSettings, context: bpy.types.Context, text: str) -> list[str]:
    """The models that are there and match what is typed, for the field's menu."""
    welcome = session.current.engine.client.welcome
    here = [model.name for model in welcome.models if model.installed] if welcome else []
    return _matching(here or [ClipRequest.model], text)


def native_fps(model: str) -> float | None:
    """Frames a second of the clips that a model learned from; None while its engine isn't connected."""
    welcome = session.current.engine.client.welcome
    known = welcome.models if welcome else ()
    return next((each.native_fps for each in known if each.name == model), None)


def plugin_names(kind: str):
    """The same for plug-ins of one kind, a field of Menus."""

    def names(settings: MusevSettings, context: bpy.types.Context, text: str) -> list[str]:
        return _matching(getattr(menus(), kind) or getattr(BUILT_IN, kind), text)

    return names


def _matching(names, text: str) -> list[str]:
    return [name for name in names if text.lower() in name.lower()]


def number(field: str, name: str, description: str, unit: str = "NONE"):
    """An IntProperty with the default and the limits that the protocol gives `field`. unit: Blender's subtype."""
    spec = ClipRequest.__dataclass_fields__[field]
    limits = spec.metadata
    return IntProperty(
        name=name, description=description, default=spec.default, min=limits["low"], max=limits["high"],
        subtype=unit,
    )  # fmt: skip


class MusevSettings(bpy.types.PropertyGroup):
    mode: EnumProperty(name="Mode", description="What the clip is made from", items=MODES, default="pose")
    prompt: StringProperty(
        name="Prompt",
        maxlen=2000,
        description="What the clip shows, best in English; (word:1.3) counts for more, (word:0.7) for less",
    )
    negative_prompt: StringProperty(
        name="Negative", description="What the clip should not show, say: blurry, extra fingers", maxlen=2000
    )
    still_source: EnumProperty(
        name="Still", description="Where the reference still comes from", items=STILL_SOURCES
    )
    still_image: PointerProperty(name="Image", description="The reference still", type=bpy.types.Image)
    still_strip: StringProperty(name="Strip", description="The strip that shows the reference still")
    use_still_frame: BoolProperty(
        name="Still Shows the Rig",
        description="The still was rendered from this rig and camera; tells the engine the pose in it",
    )
    still_frame: IntProperty(
        name="At Frame", description="The frame at which the rig stands as in the still", default=1,
        subtype="TIME",
    )  # fmt: skip
    still_rig: PointerProperty(
        name="Still's Rig", description="The rig that the still shows, if it isn't the one that drives the clip",
        type=bpy.types.Object, poll=lambda _, item: item.type == "ARMATURE",
    )  # fmt: skip
    posealign: BoolProperty(
        name="Align to Still",
        description="Bring the poses to the place, size and proportions of the figure in the still",
    )
    armature: PointerProperty(
        name="Armature", description="The rig whose motion drives the clip, while the list of characters is empty",
        type=bpy.types.Object, poll=is_armature,
    )  # fmt: skip
    people: CollectionProperty(name="Characters", description="Whom the clip shows", type=MusevPerson)
    people_index: IntProperty(
        name="Character", description="The character chosen in the list", options={"HIDDEN"}
    )
    camera: PointerProperty(
        name="Camera", description="The camera that sees the rig; the scene's own if empty",
        type=bpy.types.Object, poll=lambda _, item: item.type == "CAMERA",
    )  # fmt: skip
    range: EnumProperty(name="Range", description="Which frames the clip fills", items=RANGES)
    new_strip: BoolProperty(
        name="New Strip",
        description="Place the clip as a strip of its own, not as one more take of the strip over the same frames",
    )
    show_making: BoolProperty(
        name="Show While Making",
        description="The strip stands on the timeline while its clip is made: rough previews first, then each frame as "
        "it is ready. Cancel takes it away again, and so does one Undo once it is finished",
        default=True,
    )
    pins_channel: StringProperty(
        name="Pins Channel",
        description="Image strips on channels of this name are frames that the clip passes through, where they begin",
        default="Pins",
    )
    generate_at: EnumProperty(
        name="Generate At",
        description="How many frames are generated, of those on the timeline",
        items=GENERATE_AT,
    )
    generation_fps: FloatProperty(
        name="Rate", description="Generated frames a second: fewer are made sooner, and move less smoothly",
        default=8.0, min=0.1, max=240.0, soft_max=60.0, step=100, precision=3,
    )  # fmt: skip
    between: EnumProperty(
        name="In Between", description="What the timeline shows between generated frames", items=BETWEEN
    )
    render: PointerProperty(
        name="From the Renderer",
        description="What the scene's renderer adds to a clip",
        type=MusevRenderSettings,
    )
    source: PointerProperty(
        name="Source", description="The strips that a clip is made from", type=MusevSourceSettings
    )
    prompt_track: PointerProperty(
        name="Prompt Track", description="Text strips as prompts", type=MusevPromptSettings
    )
    draft: PointerProperty(
        name="Draft", description="A smaller clip first, in fewer steps", type=MusevDraftSettings
    )
    extras: PointerProperty(
        name="Beside the Model",
        description="LoRAs and other parts that the clip is made with",
        type=MusevExtraSettings,
    )
    occlusion: PointerProperty(
        name="Hidden Points", description="What becomes of points that the camera does not see",
        type=MusevOcclusionSettings,
    )  # fmt: skip
    overlay: PointerProperty(
        name="Overlay", description="Pose pictures over the viewport", type=MusevOverlaySettings
    )
    width: number("width", "Width", "How wide the clip is: pixels, a multiple of 8", "PIXEL")
    height: number("height", "Height", "How high the clip is: pixels, a multiple of 8", "PIXEL")
    steps: number(
        "num_inference_steps", "Steps",
        "In how many steps pictures come out of noise: more take longer and look cleaner; 10 to 30 are usual",
    )  # fmt: skip
    guidance_scale: FloatProperty(
        name="Guidance",
        description="How closely the clip keeps to its prompt and away from the negative one, which counts above 1 "
        "alone; a step then takes twice as long",
        default=ClipRequest.guidance_scale, min=1.0, max=30.0, soft_max=12.0, step=50, precision=1,
    )  # fmt: skip
    seed: number(
        "seed",
        "Seed",
        "Where chance begins: the same seed and settings give the same clip, another seed another one",
    )
    variations: IntProperty(
        name="Variations", description="How many takes are made at once, with seeds that follow one another",
        default=1, min=1, max=MAX_VARIATIONS,
    )  # fmt: skip
    context_frames: number(
        "context_frames",
        "Window Length",
        "How many generated frames are made together, as one window: fewer need less memory, more move more evenly. "
        "12 suits most models",
    )
    context_overlap: number(
        "context_overlap",
        "Overlap",
        "How many generated frames neighbouring windows share, so that they agree: more of them take longer. "
        "A third of the window is usual; fewer than a window has",
    )
    # Names, not numbers of a list: they mean the same whatever the next engine has.
    model: StringProperty(
        name="Model", description="What makes the clip; the menu lists the models that the engine has",
        default=ClipRequest.model, search=model_names, search_options={"SUGGESTION"},
    )  # fmt: skip
    context_schedule: StringProperty(
        name="Windows",
        description="How the clip is cut into windows, whose frames are made together; 'shifting' cuts elsewhere at "
        "each step, so that no seam is seen",
        default=ClipRequest.context_schedule,
        search=plugin_names("window_schedules"), search_options={"SUGGESTION"},
    )  # fmt: skip
    predictor: StringProperty(
        name="Predictor",
        description="What makes pictures out of noise: 'musev' is the model as it is, others are ways of plug-ins",
        default=ClipRequest.predictor, search=plugin_names("predictors"), search_options={"SUGGESTION"},
    )  # fmt: skip


def known_engine() -> str:
    """The engine's command that the zip was built with, for this computer; else that of an engine on the PATH."""
    told = Path(__file__).with_name("engine_command.txt")
    return told.read_text(encoding="utf-8").strip() if told.exists() else "musev serve"


class MusevPreferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    engine_command: StringProperty(
        name="Engine Command",
        description="Starts the engine on this computer; put a path with spaces in quotes",
        default=known_engine(),
    )
    engine_url: StringProperty(
        name="Running Engine",
        description="Connect to an engine that runs already, at ws://HOST:PORT, instead of starting one",
    )
    token_file: StringProperty(
        name="Token File",
        description="The file with the running engine's token, a secret word by which it knows who may use it",
        subtype="FILE_PATH",
    )
    output_folder: StringProperty(
        name="Folder for Unsaved Files",
        description="Takes go here while the .blend is not saved; a saved one has them beside it in musev/",
        subtype="DIR_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        column = layout.column()
        column.active = not self.engine_url
        column.prop(self, "engine_command")
        layout.prop(self, "engine_url", placeholder="ws://127.0.0.1:7860")
        if self.engine_url:
            layout.prop(self, "token_file")
        layout.prop(self, "output_folder")
        from . import menus
        from .weights import models_panel  # which need these settings

        models_panel.draw_models(layout, context)
        layout.separator()
        layout.label(text="Keys in the Sequencer")
        menus.draw_keys(layout.column(), context)
        layout.separator()
        layout.operator("musev.collect_diagnostics", icon="FILE_TEXT")


def preferences(context: bpy.types.Context) -> MusevPreferences:
    """This extension's preferences."""
    return context.preferences.addons[__package__].preferences


_register, _unregister = bpy.utils.register_classes_factory((MusevSettings, MusevPreferences))


def register() -> None:
    _register()
    bpy.types.Scene.musev = PointerProperty(
        name="MuseV", description="What the next clip is to be", type=MusevSettings
    )


def unregister() -> None:
    del bpy.types.Scene.musev
    _unregister()
