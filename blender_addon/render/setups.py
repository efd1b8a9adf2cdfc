"""How the copies of a scene are set up to be rendered: for its geometry alone, and as the artist sees it."""

from __future__ import annotations

import bpy

from ..translations import tr
from .stage import RenderError, Stage, render_layer


def geometry(scene: bpy.types.Scene, stage: Stage, points: int) -> None:
    """For depths, normals and objects' ids: Cycles, a sample at the middle of each of a pixel's points x points parts,
    into an EXR that `exr` reads. Nothing is shaded. Raises RenderError where Cycles is switched off."""
    keep = render_layer(scene)
    for layer in [layer for layer in scene.view_layers if layer.name != keep]:
        scene.view_layers.remove(layer)
    _set_up(scene, stage, points)
    render, layer = scene.render, scene.view_layers[0]
    _choose_cycles(scene)
    settings = scene.cycles
    settings.device, settings.samples, settings.max_bounces = "CPU", 1, 0
    settings.use_adaptive_sampling = settings.use_denoising = settings.use_animated_seed = False
    settings.pixel_filter_type, settings.filter_width = "GAUSSIAN", 0.01  # at the middle of a pixel
    settings.use_camera_cull = settings.use_distance_cull = False
    render.use_compositing = render.use_motion_blur = render.use_freestyle = False
    render.use_persistent_data = False
    render.film_transparent = True
    scene.world = None
    layer.use, layer.samples = True, 0  # as many as the scene
    layer.use_pass_z = layer.use_pass_normal = layer.use_pass_cryptomatte_object = True
    layer.use_pass_cryptomatte_material = layer.use_pass_cryptomatte_asset = False
    layer.use_pass_combined = False
    layer.pass_cryptomatte_depth = 2
    image = render.image_settings
    if hasattr(image, "media_type"):  # 5.0
        image.media_type = "MULTI_LAYER_IMAGE"
    image.file_format, image.color_depth, image.exr_codec = "OPEN_EXR_MULTILAYER", "32", "NONE"
    if hasattr(image, "use_exr_interleave"):  # 5.0
        image.use_exr_interleave = True


def plain(scene: bpy.types.Scene, stage: Stage, engine: str) -> None:
    """For the artist's own picture, by an engine of `settings.ENGINES`, into a PNG. Raises RenderError."""
    _set_up(scene, stage, 1)
    image = scene.render.image_settings
    if hasattr(image, "media_type"):
        image.media_type = "IMAGE"
    image.file_format, image.color_mode, image.color_depth, image.compression = "PNG", "RGB", "8", 15
    if engine == "AUTO":
        # EEVEE and Workbench end a Blender that has neither window nor EGL.
        engine = "CYCLES" if bpy.app.background else "SCENE"
    if engine == "CYCLES" and scene.render.engine != "CYCLES":
        _choose_cycles(scene)
        scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", 16, False
    elif engine == "WORKBENCH":
        scene.render.engine = "BLENDER_WORKBENCH"
    _write_no_files(scene, stage)


def _set_up(scene: bpy.types.Scene, stage: Stage, points: int) -> None:
    render = scene.render
    render.resolution_x, render.resolution_y = stage.width * points, stage.height * points
    render.resolution_percentage = 100
    render.use_border = render.use_multiview = render.use_stamp = render.use_sequencer = False
    render.use_single_layer = render.use_placeholder = False
    render.use_overwrite = render.use_file_extension = True


def _choose_cycles(scene: bpy.types.Scene) -> None:
    try:
        scene.render.engine = "CYCLES"
    except TypeError:
        raise RenderError(
            tr(
                "Cycles is not there, and it renders the control pictures; enable Cycles Render Engine "
                "in Preferences, Add-ons."
            )
        ) from None


def _write_no_files(scene: bpy.types.Scene, stage: Stage) -> None:
    """The plain render is composited as the artist's is, but a compositor's File Output nodes must not write their
    files: they are taken out of a copy; where one hides in a node group, there is no compositing."""
    if hasattr(scene, "compositing_node_group"):  # 5.0: shared between scenes, so it is copied
        tree = scene.compositing_node_group
        if tree is not None:
            tree = scene.compositing_node_group = stage.mark(tree.copy())
    else:
        tree = scene.node_tree if scene.use_nodes else None
    if tree is None:
        return
    for node in [node for node in tree.nodes if node.type == "OUTPUT_FILE"]:
        tree.nodes.remove(node)
    if any(_writes(node.node_tree) for node in tree.nodes if node.type == "GROUP"):
        scene.render.use_compositing = False


def _writes(tree: bpy.types.NodeTree | None) -> bool:
    if tree is None:
        return False
    return any(
        node.type == "OUTPUT_FILE" or (node.type == "GROUP" and _writes(node.node_tree))
        for node in tree.nodes
    )
