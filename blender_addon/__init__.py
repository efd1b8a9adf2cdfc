"""MuseV in Blender's Video Sequencer: the artist's side.

Nothing is imported here at module level, so that `protocol` (standard library only) loads in any Python.
"""


def register() -> None:
    from . import alignment, operators, props, session, ui
    from .render import panel, settings, stage
    from .rig import occlusion, overlay, views

    for module in (settings, occlusion, overlay, props, operators, ui, alignment, panel, stage, views, session):
        module.register()


def unregister() -> None:
    from . import alignment, operators, props, session, ui
    from .render import panel, settings, stage
    from .rig import occlusion, overlay, views

    for module in (session, views, stage, panel, alignment, ui, operators, props, overlay, occlusion, settings):
        module.unregister()
