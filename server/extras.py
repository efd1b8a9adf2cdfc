"""What a clip asks for beside its model, by name: LoRAs, another VAE, an IP-Adapter. Found and looked at before
anything is read; and which models a clip needs, so that none is removed under it. Imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from blender_addon.protocol import ClipRequest
from server import models
from server.models import SD15_TEXT


class Extras(NamedTuple):
    """loras: files, weights, in the order in which they are added, none of weight 0. vae, ip_adapter: a file or folder;
    None: the model's own."""

    loras: tuple[tuple[Path, float], ...] = ()
    vae: Path | None = None
    ip_adapter: Path | None = None


def find(request: ClipRequest) -> Extras:
    """Where it lies. Raises EngineError: "unknown_model", "missing_model", "wrong_kind" for a model that is something
    else or was made for another base."""
    loras = tuple((_found(each.name, "lora", request), each.weight) for each in request.loras)
    return Extras(
        tuple((path, weight) for path, weight in loras if weight),
        _found(request.vae, "vae", request) if request.vae else None,
        _found(request.ip_adapter, "ip-adapter", request) if request.ip_adapter else None,
    )


def _found(id: str, role: str, request: ClipRequest) -> Path:
    from musev_engine import kinds, registry
    from musev_engine.errors import EngineError

    model, what = registry.model(id), kinds.ROLES[role]
    if model.role != role:
        remedy = "Choose another one, or take it off the clip's settings."
        raise EngineError(f"'{id}' isn't {what}", model.about, remedy, code="wrong_kind")
    path, wanted = registry.find(id), models.text_width(request.model)
    made_for = SD15_TEXT
    if role == "lora" and path.suffix == ".safetensors":
        with path.open("rb") as file:
            made_for = kinds.text_width(kinds.header_of(file, path.stat().st_size).tensors)
    elif role == "lora":  # looked at by whoever can
        made_for = None
    if made_for is not None and wanted is not None and made_for != wanted:
        base = "Stable Diffusion 1.5" if made_for == SD15_TEXT else f"a model whose text is {made_for} wide"
        raise EngineError(
            f"'{id}' was made for {base}, and the model '{request.model}' is another: its text is {wanted} wide", id,
            "Take it off the clip's settings, or choose a model that it was made for.", code="wrong_kind",
        )  # fmt: skip
    return path


def licences(request: ClipRequest) -> list[str]:
    """Those of what a clip asks for, as far as it makes a difference."""
    from musev_engine import registry

    ids = [each.name for each in request.loras if each.weight]
    return [models.licence_text(registry.model(id)) for id in (*ids, request.vae, request.ip_adapter) if id]


def words_in(request: ClipRequest) -> list[str]:
    """The ids of the textual inversions that are here and whose word stands in one of the clip's prompts."""
    from musev_engine import registry

    texts = "\n".join((request.prompt, request.negative_prompt, *(span.text for span in request.prompts)))
    return [
        model.id
        for model in registry.listing().values()
        if model.role == "embedding"
        and re.search(rf"(?<!\w){re.escape(model.trigger or model.id)}(?!\w)", texts, re.IGNORECASE)
        and registry.complete(model)
    ]


def needed(request: ClipRequest) -> set[str]:
    """The ids of all known and added models that making a clip may read, as far as its request tells."""
    from musev_engine import known_models, registry

    motion, _, image = request.model.partition(".")
    ids = {motion, image, request.vae, request.ip_adapter, *(each.name for each in request.loras)}
    if image:
        ids |= {"sd-vae-ft-mse", "clip-tokenizer"}
    if image and "referencenet" in motion:
        ids |= {"referencenet", "image_encoder"}
    if request.ip_adapter:
        ids.add("image_encoder")
    nets = [known_models.controls().get(each.name, ()) for each in request.controls]
    if request.poses:
        nets.append(known_models.controls()["dwpose_body"])
        nets.append(known_models.controls()["pose_body"])
    for net, *detectors in filter(None, nets):
        ids |= {net, *detectors}
        ids |= {one.id for one in registry.added_files().values() if one.stands_for == net}
    return (ids - {""}) | set(words_in(request))
