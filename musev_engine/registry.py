"""Where the files of models lie on this machine, and what was added to those that are known. Touches no network;
imports no torch.

Models lie in the models folder: this user's own, or the one
that the environment variable MUSEV_MODELS names. It is laid out as MuseV's `checkpoints` folder; where that has no
place for something (ControlNets, detectors), models.toml says ours. Other folders of that layout, a MuseV
checkout's for one, are searched too once `add_folder` was told of them. Beside the known models there are those that
somebody added by a file (`added_files`); what is told of them lies in the models folder's `.added`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from musev_engine import locks
from musev_engine.errors import EngineError
from musev_engine.kinds import SUFFIXES
from musev_engine.known_models import KnownModel, ModelFile, known

# in the models folder
FOLDERS, RECEIPTS, INCOMING, ADDED = "folders.json", ".downloaded", ".incoming", ".added"


def listing() -> dict[str, KnownModel]:
    """The known models, then those that were added by a file, by id. Raises EngineError as `added_files`."""
    return known() | added_files()


def model(id: str) -> KnownModel:
    """A known or added model. Raises EngineError, code "unknown_model", with the nearest ids."""
    models = known() if id in known() else listing()
    if id not in models:
        lower = {name.lower(): name for name in models}
        near = [lower[name] for name in difflib.get_close_matches(id.lower(), lower, n=3, cutoff=0.5)]
        near = near or [name for name in models if id.lower() in name.lower()][:3]
        remedy = f"Did you mean {' or '.join(near)}?" if near else "See: musev models list"
        raise EngineError("No known model has this id", id, remedy, code="unknown_model")
    return models[id]


def find(id: str) -> Path:
    """Where a model lies: its file if it has one alone, else its folder.

    Raises EngineError: code "unknown_model", or "missing_model", which names the file, its source, size and
    licence, and the command that gets it.
    """
    wanted = model(id)
    paths = here(wanted)
    if len(paths) < len(wanted.files):
        raise _missing(wanted, [file for file in wanted.files if file.name not in paths])
    if len(wanted.files) == 1:
        return paths[wanted.files[0].name]
    first = wanted.files[0].name
    return paths[first].parents[first.count("/")]


def find_file(id: str, name: str) -> Path:
    """One file of a model that has several, such as ("annotator-openpose", "facenet.pth"). Raises as `find`."""
    wanted = model(id)
    paths = here(wanted)
    if name not in paths:
        raise _missing(wanted, [file for file in wanted.files if file.name == name])
    return paths[name]


def here(wanted: KnownModel) -> dict[str, Path]:
    """File name -> its path, in the folder that has most of them. Empty files don't count."""
    best: dict[str, Path] = {}
    for root in folders():
        for place in (wanted.folder, *wanted.also):
            found = {}
            for file in wanted.files:
                forms = (root / place / form for form in file.forms())
                path = next((path for path in forms if path.is_file() and path.stat().st_size), None)
                if path is not None:
                    found[file.name] = path
            if len(found) > len(best):
                best = found
    return best


def installed(id: str) -> bool:
    """Whether all its files are here; doesn't read them."""
    return complete(model(id))


def complete(wanted: KnownModel) -> bool:
    """The same of a model in hand: no list of models is read for it."""
    return len(here(wanted)) == len(wanted.files)


def find_net(id: str) -> Path:
    """Where a known ControlNet lies, or an added one that stands for it. Raises EngineError as `find`."""
    if not installed(id):
        for one in added_files().values():
            if one.stands_for == id and complete(one):
                return find(one.id)
    return find(id)


def has_net(id: str) -> bool:
    """Whether `find_net` finds it."""
    return installed(id) or any(one.stands_for == id and complete(one) for one in added_files().values())


def image_models(t2i: Path) -> dict[str, Path]:
    """The image models in a folder `t2i` of MuseV's layout, known or not, by name: folders that hold a `unet`, then
    single files outside them."""
    found = {unet.parent.name: unet.parent for unet in sorted(t2i.rglob("unet")) if unet.is_dir()}
    inside = tuple(found.values())
    for path in sorted(t2i.rglob("*")):
        if path.suffix in SUFFIXES and not any(path.is_relative_to(folder) for folder in inside):
            found.setdefault(path.stem, path)
    return found


def verify(id: str) -> dict[str, str]:
    """File name -> what reading it showed: "ok", "missing", "not known" (no hash to compare with), or what's wrong.

    Compared with the known hash, else with the one it was downloaded with. Raises EngineError, code "model_busy", while
    another process changes its files.
    """
    wanted = model(id)
    locks.check_free(models_folder(), wanted.id)
    paths, kept = here(wanted), receipt(wanted)
    return {file.name: _verdict(file, paths.get(file.name), kept) for file in wanted.files}


def _verdict(file: ModelFile, path: Path | None, kept: Mapping[str, str]) -> str:
    if path is None:
        return "missing"
    # what was copied here by hand under the plain name may well be the model in full precision
    as_known = path.name == Path(file.sources[0]).name
    if str(path) not in kept and as_known and file.size not in (None, path.stat().st_size):
        return f"{path} has {path.stat().st_size:,} bytes instead of {file.size:,}"
    wanted = kept.get(str(path)) or (file.sha256 if as_known else None)
    if wanted is None:
        return "not known"
    found = sha256_of(path)
    return "ok" if found == wanted else f"{path} has sha256 {found} instead of {wanted}"


def receipt(wanted: KnownModel) -> dict[str, str]:
    """Path -> sha256 of the files that `musev models download` put into the models folder."""
    path = models_folder() / RECEIPTS / f"{wanted.id}.json"
    if not path.is_file():
        return {}
    return {str(models_folder() / name): sha for name, sha in _read_json(path)["files"].items()}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- added files --------------------------------------------------------------------------------------


def added_files() -> dict[str, KnownModel]:
    """The models that were added by a file to this user's models folder, by id. Raises EngineError where what is told
    of one can't be read."""
    told = sorted((models_folder() / ADDED).glob("*.json"))
    return {path.stem: _added(path) for path in told if path.stem not in known()}


def _added(path: Path) -> KnownModel:
    row = _read_json(path)
    try:
        file = ModelFile(row["file"], (row["file"],), row["size"], row["sha256"])
        return KnownModel(
            id=path.stem, role=row["role"], about=row["about"], repository="", revision="", folder=row["folder"],
            also=(), files=(file,), licence=row["licence"], licence_url=row["licence_url"],
            commercial=row["commercial"], trigger=row["trigger"], stands_for=row["stands_for"],
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise EngineError(
            f"{path} doesn't tell all of an added model", error, "Remove it, and add the file again."
        ) from error


# --- folders ------------------------------------------------------------------------------------------


def models_folder() -> Path:
    """Where models are downloaded to: $MUSEV_MODELS, or this user's own. It need not exist yet."""
    if given := os.environ.get("MUSEV_MODELS"):
        return Path(given).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "musev" / "models"


def folders() -> list[Path]:
    """The models folder, then those that were added, in that order."""
    return [models_folder(), *added_folders()]


def added_folders() -> list[Path]:
    path = models_folder() / FOLDERS
    return [Path(folder) for folder in _read_json(path)["folders"]] if path.is_file() else []


def add_folder(folder: Path) -> list[str]:
    """Search this folder too; gives the ids of the known models in it. Nothing is copied.

    Raises EngineError, code "no_models", if it holds nothing that this engine knows.
    """
    folder = folder.expanduser().resolve()
    held = [one.id for one in known().values() if _holds(folder, one)]
    if not held:
        raise EngineError(
            "This folder holds no model in MuseV's layout",
            folder,
            "Give the folder that holds motion/, t2i/, vae/ and so on; a MuseV checkout calls it checkpoints.",
            code="no_models",
        )
    if folder not in folders():
        models_folder().mkdir(parents=True, exist_ok=True)
        written = json.dumps({"folders": [str(path) for path in [*added_folders(), folder]]}, indent=1)
        (models_folder() / FOLDERS).write_text(written, encoding="utf-8")
    return held


def _holds(root: Path, wanted: KnownModel) -> bool:
    return any(
        all(any((root / place / form).is_file() for form in file.forms()) for file in wanted.files)
        for place in (wanted.folder, *wanted.also)
    )


def _missing(wanted: KnownModel, files: list[ModelFile]) -> EngineError:
    told = [f"{file.name}{_how_large(file)}" for file in files]
    names = ", ".join(told[:4]) + (f" and {len(told) - 4} more files" if len(told) > 4 else "")
    return EngineError(
        f"The model {wanted.id} isn't here: {names}, from {wanted.source or 'a file'}. Licence: {wanted.terms}",
        models_folder() / wanted.folder,
        "Add its file again." if wanted.added else f"Run: musev models download {shlex.quote(wanted.id)}",
        code="missing_model",
    )


def _how_large(file: ModelFile) -> str:
    if file.name.endswith((".json", ".txt")):
        return ""
    return f" ({file.size / 1e6:.0f} MB)" if file.size else " (size not known)"


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} can't be read", error, "Remove it; it is written anew.") from error
