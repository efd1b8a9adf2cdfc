"""What a clip adds to its model: LoRAs with their weights, another VAE, an IP-Adapter; settings, and what they ask."""

from __future__ import annotations

from collections.abc import Iterator

import bpy
from bpy.props import BoolProperty, CollectionProperty, FloatProperty, IntProperty, StringProperty

from .. import session
from ..protocol import MAX_LORA_WEIGHT, LoraChoice, ShelfModel
from ..translations import tr


def here(role: str) -> list[ShelfModel]:
    """The models of a role that the engine has."""
    return [
        model for model in session.current.shelf.models.values() if model.role == role and model.installed
    ]


def _names(role: str):
    def names(settings: MusevExtraSettings, context: bpy.types.Context, text: str) -> list[str]:
        return [model.id for model in here(role) if text.lower() in model.id.lower()]

    return names


class MusevLora(bpy.types.PropertyGroup):
    name: StringProperty(
        name="LoRA",
        description="Its id in the engine: a name, which means the same to every engine that has it",
    )
    use: BoolProperty(name="Use", description="Whether the next clips are made with it", default=True)
    weight: FloatProperty(
        name="Weight",
        description="How strongly it changes the model: 1 is what it learned, 0 nothing of it, below 0 the opposite",
        default=1.0, min=-MAX_LORA_WEIGHT, max=MAX_LORA_WEIGHT, soft_min=0.0, soft_max=2.0, step=5, precision=2,
    )  # fmt: skip


class MusevExtraSettings(bpy.types.PropertyGroup):
    loras: CollectionProperty(
        name="LoRAs",
        description="Small changes to the model, such as a style or a character, in the order in which they are added",
        type=MusevLora,
    )
    lora_index: IntProperty(name="LoRA", description="The LoRA chosen in the list", options={"HIDDEN"})
    vae: StringProperty(
        name="VAE",
        description="Another decoder from the model's numbers to pictures, for colours and fine detail; the model's "
        "own if empty",
        search=_names("vae"), search_options={"SUGGESTION"},
    )  # fmt: skip
    ip_adapter: StringProperty(
        name="IP-Adapter",
        description="What tells the model how the still looks, in place of its own; the model's own if empty",
        search=_names("ip-adapter"), search_options={"SUGGESTION"},
    )  # fmt: skip


def active(extras: MusevExtraSettings) -> MusevLora | None:
    """The LoRA that is chosen in the list."""
    return extras.loras[extras.lora_index] if 0 <= extras.lora_index < len(extras.loras) else None


def asked(extras: MusevExtraSettings) -> dict:
    """The fields of a request that these settings fill. A weight is as it reads, not as its 32 bits are."""
    chosen = tuple(LoraChoice(each.name, round(each.weight, 6)) for each in extras.loras if each.use)
    return {"loras": chosen, "vae": extras.vae, "ip_adapter": extras.ip_adapter}


def few_step(extras: MusevExtraSettings) -> ShelfModel | None:
    """The LoRA that the next clip's scheduler goes by, and that its steps and guidance should fit: the last one that
    was made for few steps."""
    models = session.current.shelf.models
    added = [models.get(each.name) for each in extras.loras if each.use and each.weight]
    return next((m for m in reversed(added) if m is not None and m.num_inference_steps is not None), None)


def unfit(settings) -> ShelfModel | None:
    """The same, where the clip has fewer steps than it was made for, or more than twice as many; or less than half of
    the guidance, or more than twice as much."""
    if (quick := few_step(settings.extras)) is None:
        return None
    steps, guidance = wanted_by(quick).values()
    fits = steps <= settings.steps <= 2 * steps and guidance / 2 <= settings.guidance_scale <= 2 * guidance
    return None if fits else quick


def wanted_by(quick: ShelfModel) -> dict[str, float]:
    """The settings that a few-step LoRA was made for."""
    return {"steps": quick.num_inference_steps, "guidance_scale": quick.guidance_scale or 1.0}


def told(request: dict) -> dict:
    """What a take's request added to its model, plain, to be compared with `now`: what of it makes a difference."""
    chosen = [each for each in request.get("loras") or () if isinstance(each, dict) and each.get("weight")]
    return {
        "loras": [(each.get("name"), each.get("weight")) for each in chosen],
        "vae": request.get("vae") or "",
        "ip_adapter": request.get("ip_adapter") or "",
    }


def now(extras: MusevExtraSettings) -> dict:
    """What the next clip adds, as `told` has it."""
    chosen = [(each.name, round(each.weight, 6)) for each in extras.loras if each.use and each.weight]
    return {"loras": chosen, "vae": extras.vae, "ip_adapter": extras.ip_adapter}


def sentence(plain: dict) -> str:
    """'ink 0.7, chalk -0.3' of what `told` gives."""
    said = [f"{name} {weight:g}" for name, weight in plain["loras"] if isinstance(weight, int | float)]
    return ", ".join([*said, *filter(None, (plain["vae"], plain["ip_adapter"]))]) or tr("nothing")


def wanted(extras: MusevExtraSettings) -> Iterator[tuple[str, str]]:
    """(role, id) of all that the next clip adds to its model."""
    yield from (("lora", each.name) for each in extras.loras if each.use)
    yield from ((role, id) for role, id in (("vae", extras.vae), ("ip-adapter", extras.ip_adapter)) if id)


def missing(extras: MusevExtraSettings) -> str:
    """What of it the engine hasn't got, with the remedy; "" where it has all, or hasn't told yet."""
    models = session.current.shelf.models
    for role, id in wanted(extras) if models else ():
        model = models.get(id)
        if model is None:
            return tr(
                "The engine has no '{id}'; add its file in the extension's preferences, or take it off the list of "
                "LoRAs.",
                id=id,
            )
        if not model.installed:
            return tr(
                "'{id}' isn't installed; download it in the extension's preferences, or take it off.", id=id
            )
        if model.role != role:
            return tr("'{id}' is another kind of model; take it off, or choose another one.", id=id)
    return ""


def licences(extras: MusevExtraSettings) -> list[str]:
    """Those of what is added, as far as the engine has told."""
    models = session.current.shelf.models
    return [models[id].licence for _, id in wanted(extras) if id in models]


def users(id: str) -> list[str]:
    """The scenes of this file whose next clip would be made with this model."""
    return [
        scene.name
        for scene in bpy.data.scenes
        if id in {each for _, each in wanted(scene.musev.extras)} | set(scene.musev.model.split(".", 1))
    ]


def add(extras: MusevExtraSettings, id: str, weight: float = 1.0, use: bool = True) -> MusevLora:
    """Puts a LoRA at the end of the list, once, and chooses it."""
    place = extras.loras.find(id)
    item = extras.loras[place] if place >= 0 else extras.loras.add()
    item.name, item.weight, item.use = id, weight, use
    extras.lora_index = place if place >= 0 else len(extras.loras) - 1
    return item


register, unregister = bpy.utils.register_classes_factory((MusevLora, MusevExtraSettings))
