"""What this engine is, which models it has and what one may choose from, told without torch: the server says it to
every client."""

from __future__ import annotations

import json
import re
from importlib import metadata, resources
from pathlib import Path
from typing import NamedTuple

from blender_addon.protocol import ClipRequest, Menus, ModelInfo

ASSETS = Path(str(resources.files("musev_engine"))) / "assets"
VAE_FACTOR = 8  # pixels per latent
SD15_SIDE, SD15_TEXT = 512, 768  # pixels, and how wide the text is, of models on Stable Diffusion 1.5
SAYABLE = ClipRequest.__dataclass_fields__["model"].metadata["pattern"]


class Traits(NamedTuple):
    """What a model learned from, as its card says. native_fps: frames a second of its clips. body_only: its pose
    pictures showed bodies without hands and faces."""

    native_fps: float = ModelInfo.native_fps
    body_only: bool = False


class Place(NamedTuple):
    """Where a model lies, as `musev_engine.loading.load_models` takes it. motion, t2i: None in a folder of its own."""

    folder: Path
    motion: str | None = None
    t2i: str | None = None


def engine_version() -> str:
    """The release of this engine."""
    try:
        return metadata.version("musev-for-blender")
    except metadata.PackageNotFoundError:
        return "not installed"


def models_here() -> tuple[ModelInfo, ...]:
    """The shipped models, then those of the models folder and the folders added to it.

    Raises OSError or ValueError where one can't be read."""
    from musev_engine import registry

    known = registry.listing()
    shipped = tuple(_describe(index.parent, "shipped") for index in sorted(ASSETS.glob("*/model_index.json")))
    taken = {model.name for model in shipped}
    return shipped + tuple(
        _describe(place.folder, "models folder")
        if place.motion is None
        else _describe_pair(name, place, known)
        for name, place in places().items()
        if name not in taken
    )


def places() -> dict[str, Place]:
    """The models of the models folder, by the name that a request may say: a folder in the hub's layout by its own,
    a motion model on an image model as MOTION.IMAGE. Those whose name can't be said (spaces, over 64 letters) are
    left out; a path is never a name."""
    from musev_engine import plugins, registry

    motions, found = plugins.found("musev.motion_models"), {}
    for root in registry.folders():
        for index in sorted(root.glob("*/model_index.json")):
            if (index.parent / "unet" / "config.json").is_file():
                found.setdefault(index.parent.name, Place(index.parent))
        images = registry.image_models(root / "t2i")
        for unet in sorted((root / "motion").glob("*/unet/config.json")):
            motion = unet.parents[1].name
            if motion in motions and _holds_weights(unet.parent):
                for image in images:
                    found.setdefault(f"{motion}.{image}", Place(root, motion, image))
    return {name: place for name, place in found.items() if re.fullmatch(SAYABLE, name)}


def traits(name: str) -> Traits:
    """Of a model by its name, as a request may say it; MuseV's own for one that isn't known."""
    place = Place(ASSETS / name) if (ASSETS / name / "model_index.json").is_file() else places().get(name)
    return Traits() if place is None or place.motion is not None else _traits(place.folder)


def text_width(name: str) -> int | None:
    """How wide the text is that a model reads, by its name; None for one that isn't known."""
    place = Place(ASSETS / name) if (ASSETS / name / "model_index.json").is_file() else places().get(name)
    if place is None:
        return None
    folder = place.folder if place.motion is None else place.folder / "motion" / place.motion
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    return config.get("cross_attention_dim", SD15_TEXT)


def licence_text(model) -> str:
    """What a known or added model's licence is called in a take: "see …" where only its page tells, "unknown"."""
    text = model.licence or (f"see {model.licence_url}" if model.licence_url else "unknown")
    told = "commercial" in text.lower() or "research" in text.lower()
    return text if model.commercial is not False or told else f"{text} (non-commercial)"


def licence(name: str) -> str:
    """Of a motion model on an image model by their name, as `models_here` tells it; "" for any other."""
    from musev_engine import registry

    place = places().get(name)
    paired = place is not None and place.motion is not None
    return _describe_pair(name, place, registry.listing()).licence if paired else ""


def menus() -> Menus:
    """The names of all plug-ins that work, each other package's imported in a process of its own to see that it does,
    and of the controls whose ControlNet is here. Takes as long as that."""
    from musev_engine import known_models, plugins, registry

    tried = plugins.tried()

    def names(group: str) -> tuple[str, ...]:
        return tuple(plugin.name for plugin in tried if plugin.group == group and not plugin.problem)

    return Menus(
        motion_models=names("musev.motion_models"),
        window_schedules=names("musev.window_schedules"),
        control_preprocessors=names("musev.control_preprocessors"),
        predictors=names("musev.predictors"),
        controls=tuple(name for name, needs in known_models.controls().items() if registry.has_net(needs[0])),
        left_out=tuple(
            f"{plugin.package}: the {plugins.GROUPS[plugin.group]} {plugin.name}: {plugin.problem}"[:500]
            for plugin in tried
            if plugin.problem
        ),
    )


def _holds_weights(folder: Path) -> bool:
    from musev_engine.kinds import SUFFIXES

    return any(path.suffix in SUFFIXES and path.stat().st_size for path in folder.iterdir())


def _describe(folder: Path, source: str) -> ModelInfo:
    size = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8")).get("sample_size", 16)
    width, height = (size, size) if isinstance(size, int) else (size[1], size[0])
    return ModelInfo(
        name=folder.name,
        licence=_licence(folder / "README.md"),
        installed=True,
        width=width * VAE_FACTOR,
        height=height * VAE_FACTOR,
        size_bytes=_bytes_in(folder),
        source=source,
        native_fps=_traits(folder).native_fps,
    )


def _describe_pair(name: str, place: Place, known) -> ModelInfo:
    """A motion model on an image model. Under both licences: what either forbids is forbidden. known: all known and
    added models, by id."""
    from musev_engine import registry

    licences = dict.fromkeys(
        licence_text(known[id]) if id in known else "unknown" for id in (place.motion, place.t2i)
    )
    needs = {  # what loading asks for beside the two
        id for id in ("referencenet", "image_encoder") if place.motion and "referencenet" in place.motion
    }
    return ModelInfo(
        name=name,
        licence=" and ".join(licences),
        installed=all(registry.installed(id) for id in needs),
        width=SD15_SIDE,
        height=SD15_SIDE,
        size_bytes=_bytes_in(place.folder / "motion" / str(place.motion)),
        source=str(place.folder.name),
    )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _licence(card: Path) -> str:
    return _told(card, "license") or "see its model card"


def _traits(folder: Path) -> Traits:
    """Raises ValueError where the card says a rate that is no number."""
    card = folder / "README.md"
    fps = _told(card, "native_fps")
    return Traits(float(fps) if fps else Traits().native_fps, _told(card, "pose_pictures") == "body")


def _told(card: Path, key: str) -> str:
    """What a line `key: value` at a model card's head says, or ""."""
    lines = card.read_text(encoding="utf-8").splitlines() if card.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:")), "")
