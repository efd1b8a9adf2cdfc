"""MuseV in Blender's Video Sequencer: the artist's side.

Nothing is imported here at module level, so that `protocol` (standard library only) loads in any Python.
"""


def register() -> None:
    from . import alignment, operators, props, session, ui

    for module in (props, operators, ui, alignment, session):
        module.register()


def unregister() -> None:
    from . import alignment, operators, props, session, ui

    for module in (session, alignment, ui, operators, props):
        module.unregister()
