"""MuseV in Blender's Video Sequencer: the artist's side.

Nothing is imported here at module level, so that `protocol` (standard library only) loads in any Python.
"""


def _modules() -> tuple:
    """What has classes, handlers or timers of its own, each after what it builds on."""
    from . import (
        alignment,
        diagnostics,
        licences,
        menus,
        operators,
        presets,
        prompt_panel,
        prompt_track,
        props,
        remedies,
        session,
        translations,
        ui,
    )
    from .clips import (
        again,
        compare,
        draft,
        pin_verbs,
        redo_verbs,
        stack,
        stack_panel,
        stack_verbs,
        strip_verbs,
    )
    from .footage import scene_copy, source_panel, sources
    from .making import job_verbs, live_picture, lost
    from .render import panel, settings
    from .rig import characters, characters_panel, occlusion, overlay, views
    from .shots import sheet_verbs, shot_verbs
    from .staleness import stale_badge, stale_watch
    from .weights import lora_panel, loras, model_add, models, models_panel

    return (
        translations, settings, characters, occlusion, overlay, sources, prompt_track, draft, loras, stack, props,
        operators, job_verbs,
        stale_badge, stale_watch,
        compare, live_picture, ui, prompt_panel, lora_panel, models, model_add, alignment, source_panel,
        characters_panel, panel, remedies, lost,
        scene_copy, views, stack_verbs, stack_panel, again, redo_verbs, pin_verbs, shot_verbs, sheet_verbs,
        models_panel, diagnostics, licences, presets, strip_verbs, menus, session,
    )  # fmt: skip


def register() -> None:
    for module in _modules():
        module.register()


def unregister() -> None:
    for module in reversed(_modules()):
        module.unregister()
