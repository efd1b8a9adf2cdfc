"""What the worker has loaded: one model at a time, and what a clip's request adds to it.

Imported by the worker process alone, for it imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from pathlib import Path

import torch

from blender_addon.protocol import ClipRequest
from musev_engine import control, loading, registry
from musev_engine.checkpoints import open_weights
from musev_engine.errors import EngineError
from musev_engine.lora import Applied, check_lora
from musev_engine.models.config import SD15
from server import extras, models


def models_of(request: ClipRequest) -> loading.Models:
    """All that a clip is made with. What doesn't fit together is told before anything large is read. Raises
    EngineError."""
    wanted = extras.find(request)
    for path, _ in wanted.loras:
        check_lora(path)
    loaded = load(request.model, wanted.vae, wanted.ip_adapter, _embeddings(request))
    if nets := tuple(dict.fromkeys(net_of(each.name) for each in request.controls)):
        loaded = with_controlnets(loaded, nets)
    return _merged.into(loaded, wanted.loras)


@functools.lru_cache(maxsize=1)  # one model stays loaded from clip to clip
def load(
    name: str, vae: Path | None = None, ip_adapter: Path | None = None, embeddings: tuple[Path, ...] = ()
) -> loading.Models:
    """A shipped model or one of the models folder, by a name of `models_here`, on the GPU in half precision where
    there is one. Raises EngineError."""
    forget()  # the model before makes room first
    place = models.places().get(name)
    shipped = place is None or (loading.SHIPPED / name).is_dir()  # an unknown name: load_models tells it
    chosen: dict = {} if shipped or place.motion is None else {"motion": place.motion, "t2i": place.t2i}
    if torch.cuda.is_available():
        chosen |= {"device": "cuda", "dtype": torch.float16}
    return loading.load_models(
        name if shipped else place.folder, vae=vae, ip_adapter=ip_adapter, embeddings=embeddings, **chosen
    )


def forget() -> None:
    """Let go of the loaded model and all that was loaded beside it."""
    load.cache_clear()
    _nets.clear()
    _merged.forget()
    gc.collect()


_nets: dict[str, tuple[Path, torch.nn.Module]] = {}  # ControlNets beside the loaded model's own


def with_controlnets(loaded: loading.Models, nets: tuple[str, ...]) -> loading.Models:
    """The loaded model together with ControlNets of the models folder; others make room.

    Raises EngineError: code "missing_model" for one that isn't here (its files, source, size and licence are told),
    "bad_model" where the model is none of Stable Diffusion 1.5's size, which they were trained for.
    """
    missing = [net for net in nets if net not in loaded.controlnets]
    if missing and loaded.unet.config.cross_attention_dim != SD15["cross_attention_dim"]:
        known = ", ".join(sorted(loaded.controlnets)) or "none"
        raise EngineError(
            f"The model {loaded.name} has no such ControlNet (it has: {known})", missing[0],
            "Choose a model on Stable Diffusion 1.5, or turn this control off.", code="bad_model",
        )  # fmt: skip
    paths = {net: registry.find_net(net) for net in missing}
    for gone in [net for net, (path, _) in _nets.items() if paths.get(net) != path]:
        del _nets[gone]
    place = {"device": loaded.device, "dtype": loaded.unet.conv_in.weight.dtype}
    for net, path in paths.items():
        if net not in _nets:
            _nets[net] = path, loading.load_controlnet(path, **place)
    own = {net: network for net, (_, network) in _nets.items()}
    return dataclasses.replace(
        loaded, controlnets=loaded.controlnets | own, folders=(*loaded.folders, *paths.values())
    )


class Merged:
    """The LoRAs that are in the loaded model's weights now."""

    def __init__(self):
        self._loras: tuple[tuple[Path, float], ...] = ()
        self._applied = Applied()

    def into(self, loaded: loading.Models, loras: tuple[tuple[Path, float], ...]) -> loading.Models:
        """The model with these in its weights, and no others: without any it is bit for bit itself again."""
        if self._loras != loras:
            self._applied.undo()
            self._loras = ()
            try:
                self._applied = loading.merge(loaded, loras)
            except EngineError:  # nothing was changed
                raise
            except Exception:  # out of memory in the middle of it: nobody knows what the weights are now
                forget()
                raise
            self._loras = loras
        return loading.with_loras(loaded, loras)

    def forget(self) -> None:
        self.__init__()


_merged = Merged()


def _embeddings(request: ClipRequest) -> tuple[Path, ...]:
    """The textual inversions that the clip's prompts name and that are as wide as the model's text; for another model
    their words are plain words."""
    width = models.text_width(request.model)
    paths = [registry.find(id) for id in extras.words_in(request)]
    return tuple(path for path in paths if any(s.shape[-1:] == (width,) for s in open_weights(path).values()))


def net_of(name: str) -> str:
    """The ControlNet that follows a control's pictures. Raises EngineError for an unknown name."""
    return control.find_control(name).controlnet
