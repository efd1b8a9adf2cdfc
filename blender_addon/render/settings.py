"""What the artist wants of the scene's renderer, and the captures that fetch it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, PointerProperty

from ..protocol import ClipRequest, Control
from ..rig.characters import armatures
from ..translations import tr
from .cache import Store
from .passes import RenderCapture, Wanted
from .stage import RenderError

ENGINES = (
    ("AUTO", "Scene's Own", "The scene's engine; without a window Cycles, because the others need one"),
    ("SCENE", "Scene's Own, Always", "The scene's engine, without a window too, where it may end Blender"),
    ("CYCLES", "Cycles, Quick", "Cycles with 16 samples, unless the scene is made for it: then with its own"),
    ("WORKBENCH", "Workbench", "Solid shading; needs a window, or a graphics driver that draws without one"),
)  # fmt: skip
KINDS = {"depth": "depth", "normal": "normal_bae", "line": "lineart"}  # setting -> the control's name


def share(field: str, name: str, description: str, of: type = Control):
    """A FloatProperty with the default and the limits that the protocol gives `field`."""
    spec = of.__dataclass_fields__[field]
    return FloatProperty(
        name=name, description=description, default=spec.default, min=spec.metadata["low"],
        max=spec.metadata["high"], precision=2, step=5, subtype="FACTOR" if spec.metadata["high"] == 1 else "NONE",
    )  # fmt: skip


class MusevRenderControl(bpy.types.PropertyGroup):
    use: BoolProperty(name="Use", description="Render these pictures, and have the clip follow them")
    scale: share("scale", "Strength", "How closely the clip follows these pictures: 1 is usual, 0 not at all")
    start: share(
        "start",
        "Start",
        "From where in the making of the clip they are followed: 0 is its beginning, 1 its end",
    )
    end: share(
        "end",
        "End",
        "Up to where in the making of the clip they are followed: 1 is its end; 0.5 leaves the details to the model",
    )


class MusevRenderSettings(bpy.types.PropertyGroup):
    depth: PointerProperty(
        name="Depth", description="Pictures of how far everything is from the camera", type=MusevRenderControl
    )
    normal: PointerProperty(
        name="Normals", description="Pictures of where every surface faces", type=MusevRenderControl
    )
    line: PointerProperty(
        name="Line Art", description="Pictures of edges and folds, drawn as lines", type=MusevRenderControl
    )
    use_source: BoolProperty(
        name="Render as Source",
        description="Start from the scene's plain render, which the clip then makes anew",
    )
    source_strength: share(
        "source_strength",
        "Change",
        "How much of the render is made anew: 0 nothing, 1 nearly all",
        ClipRequest,
    )
    engine: EnumProperty(name="Engine", description="What makes the plain render", items=ENGINES)
    use_mask: BoolProperty(
        name="Characters Alone",
        description="Make the clip transparent beside the characters, to lie over other strips",
    )
    use_cache: BoolProperty(
        name="Keep Pictures",
        description="Keep the pictures on disk, at most 1 GiB, and render a frame again only when its geometry "
        "or camera has changed. The plain render is never kept",
        default=True,
    )


def wanted(settings: bpy.types.PropertyGroup) -> Wanted:
    """What the settings ask for; where they ask for nothing, `captures` gives none. Raises RenderError."""
    render = settings.render
    chosen = [(name, getattr(render, key)) for key, name in KINDS.items() if getattr(render, key).use]
    for name, control in chosen:
        if control.start >= control.end:
            raise RenderError(
                tr(
                    "{name} would act from {start:g} to {end:g} of the clip's making, which is never; set an end "
                    "after its start.",
                    name=name,
                    start=control.start,
                    end=control.end,
                )
            )
    controls = tuple(Control(name, (), False, c.scale, c.start, c.end) for name, c in chosen)
    source = render.use_source and settings.mode == "pose"
    return Wanted(
        controls,
        masked(settings) if render.use_mask else None,
        render.source_strength if source else None,
        render.engine,
    )


def masked(settings: bpy.types.PropertyGroup) -> tuple[str, ...]:
    """The armatures whose characters stay opaque. Raises RenderError where there is none."""
    if not (rigs := armatures(settings)):
        raise RenderError(
            tr("No character is chosen to be opaque; choose an armature, or turn Characters Alone off.")
        )
    return tuple(rig.name for rig in rigs)


def captures(
    scene: bpy.types.Scene, settings: bpy.types.PropertyGroup, times: Sequence[float], width: int, height: int
) -> list[RenderCapture]:
    """What is to be rendered for a clip of `width` x `height` pixels, at `times` of the timeline; [] for nothing.

    Its `finish` adds controls, `source` and `mask` to the request. Raises RenderError.
    """
    asked = wanted(settings)
    if not asked.geometry and asked.source_strength is None:
        return []
    world = stage_scene(scene, settings)
    camera = settings.camera.name if settings.camera else None
    store = Store(cache_folder()) if settings.render.use_cache else None
    return [RenderCapture(world.name, camera, width, height, tuple(times), asked, store)]


def stage_scene(scene: bpy.types.Scene, settings: bpy.types.PropertyGroup) -> bpy.types.Scene:
    """The scene that is rendered: that of the rig, where one drives the clip, else the sequencer's, or the first
    other one with the chosen camera, or with any. Raises RenderError."""
    things = [thing for thing in (*armatures(settings), settings.camera) if thing is not None]
    for thing in things:
        if found := next((s for s in (scene, *bpy.data.scenes) if thing.name in s.objects), None):
            return found
    found = next((s for s in (scene, *bpy.data.scenes) if s.camera is not None), None)
    if found is None:
        raise RenderError(tr("No scene of this file has a camera to render from; add one, or choose one."))
    return found


def cache_folder() -> Path:
    """Where rendered pictures are kept: in the extension's own folder."""
    return Path(bpy.utils.extension_path_user(__package__.rpartition(".")[0], path="renders", create=True))


register, unregister = bpy.utils.register_classes_factory((MusevRenderControl, MusevRenderSettings))
