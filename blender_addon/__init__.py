"""MuseV in Blender's Video Sequencer: the artist's side.

Nothing is imported here at module level, so that `protocol` (standard library only) loads in any Python.
"""


def register() -> None:
    from . import alignment, operators, props, scene_copy, session, source_panel, sources, ui
    from .render import panel, settings
    from .rig import characters, characters_panel, occlusion, overlay, views

    for module in (
        settings, characters, occlusion, overlay, sources, props, operators, ui, alignment, source_panel,
        characters_panel, panel, scene_copy, views, session,
    ):  # fmt: skip
        module.register()


def unregister() -> None:
    from . import alignment, operators, props, scene_copy, session, source_panel, sources, ui
    from .render import panel, settings
    from .rig import characters, characters_panel, occlusion, overlay, views

    for module in (
        session, views, scene_copy, panel, characters_panel, source_panel, alignment, ui, operators, props,
        sources, overlay, occlusion, characters, settings,
    ):  # fmt: skip
        module.unregister()
