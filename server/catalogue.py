"""What is told of the known and added models: their licences, sizes, and whether they are here. Imports no torch, and
musev_engine's registry, which is light, when it is asked.
"""

from __future__ import annotations

from pathlib import Path

from blender_addon.protocol import ModelInfo, ModelShelf, ShelfModel


def told(ready: tuple[ModelInfo, ...]) -> ModelShelf:
    """What came with the engine, all known models, and those that were added. Looks for each one's files, which takes a
    moment."""
    from musev_engine import registry

    shipped = tuple(
        ShelfModel(
            info.name, "shipped", "The embedded model: whole, needs no download", info.licence, "",
            info.licence.startswith("cc0") or None,
            info.size_bytes, installed=True,
        )
        for info in ready
        if info.source == "shipped"
    )  # fmt: skip
    models = tuple(
        ShelfModel(
            model.id, model.role, model.about, licence_of(model), model.licence_url, model.commercial, model.size,
            registry.complete(model), removable(model), model.source, model.added, model.trigger, *_few_steps(model),
        )
        for model in registry.listing().values()
    )  # fmt: skip
    return ModelShelf(shipped + models, ready, offline())


def _few_steps(model) -> tuple[int | None, float | None]:
    """The steps and the guidance that a LoRA was made for, if that is few steps; known by its name, also before its
    files are here."""
    from musev_engine import few_steps, registry

    if model.role != "lora":
        return None, None
    files = registry.here(model).values() or [Path(model.id, file.name) for file in model.files]
    wants = few_steps.few_step(files)
    return (wants.num_inference_steps, wants.guidance_scale) if wants is not None else (None, None)


def licence_of(model) -> str:
    """What a known model's licence is called: as it is shown, and as it is accepted."""
    from musev_engine import known_models

    return model.licence or known_models.UNKNOWN


def offline() -> str:
    """Why nothing can be downloaded, or ""."""
    from musev_engine import downloads

    return "The engine works offline (--offline or HF_HUB_OFFLINE)" if downloads.offline() else ""


def removable(model) -> bool:
    """Whether a known model, or a part of it, is in the models folder and nowhere else."""
    from musev_engine import registry

    paths, root = registry.here(model).values(), registry.models_folder()
    return bool(paths) and all(path.is_relative_to(root) for path in paths)
