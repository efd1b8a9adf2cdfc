"""Models that somebody adds by a file: named, told apart by what is in them, and put into the models folder whole or
not at all.

A file that arrives lies in the models folder's `.incoming/NAME.added` with `told.json` beside it, what was said of it.
`settle` looks into it and puts it in its place; what is known of it then lies in `.added/NAME.json`. One that broke off
is kept for some days, to be gone on with. Imports torch only to look into PyTorch's own files, as bare tensors.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from musev_engine import downloads, kinds, known_models, locks, registry
from musev_engine.errors import EngineError
from musev_engine.kinds import SUFFIXES, Header

ROOMS = {  # role: where its files lie in a models folder
    "t2i": "t2i/sd1.5", "lora": "lora", "embedding": "embedding", "vae": "vae", "ip-adapter": "IP-Adapter/models",
    "controlnet": "controlnet",
}  # fmt: skip
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}"  # an image model's name follows a motion model's in a request
DEVICES = r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?"  # what Windows takes for no file, whatever follows
MAX_BYTES, MAX_ADDED = 16 * 2**30, 200
COPY_BYTES = 4 * 2**20
KEPT_S, MAX_KEPT = 3 * 24 * 3600.0, 4  # of files that broke off: how long, and how many of them
FILE, TOLD = "model", "told.json"  # of one that arrives


@dataclass(frozen=True)
class Wanted:
    """A file that is to be added. id: what it will be called; suffix: one of SUFFIXES; size: bytes.

    role: one of ROOMS, "" for what the file seems to be. licence: its name, "" where whoever adds it doesn't know;
    commercial: whether one may sell what it makes. stands_for: of a ControlNet, the known one in whose place it is
    used, "" for the one that its name tells. sha256: of the file, "" where nobody has told it.
    """

    id: str
    suffix: str
    size: int
    role: str = ""
    about: str = ""
    licence: str = ""
    licence_url: str = ""
    commercial: bool | None = None
    stands_for: str = ""
    sha256: str = ""


def begin(wanted: Wanted, promised: int = 0) -> Path:
    """Make room for a file, and give the path that its bytes are to be written to: what came of it before it broke off
    lies there already. promised: bytes that other files on their way will take. Whoever calls it holds the model.

    Raises EngineError: "bad_name", "name_taken", "bad_model" (its kind, suffix or size) or "disk_full".
    """
    _check(wanted)
    root = registry.models_folder()
    root.mkdir(parents=True, exist_ok=True)
    folder = _incoming(wanted.id)
    file = folder / f"{FILE}{wanted.suffix}"
    if not _goes_on(wanted, folder):
        drop(wanted.id)
    forget_old()
    downloads.check_space(root, wanted.size + promised - (file.stat().st_size if file.exists() else 0))
    folder.mkdir(parents=True, exist_ok=True)
    _tell(wanted)
    return file


def _goes_on(wanted: Wanted, folder: Path) -> bool:
    """Whether what is there may be the beginning of this file; whether it is, only its bytes tell."""
    try:
        told = Wanted(**json.loads((folder / TOLD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # nothing, or cut off as it was written
        return False
    return (told.suffix, told.size) == (wanted.suffix, wanted.size)


def forget_old() -> None:
    """Throw away what broke off long ago, and of the rest all but the newest few; not what is still arriving."""
    root = registry.models_folder()
    newest_first = sorted((root / registry.INCOMING).glob("*.added"), key=_changed_at, reverse=True)
    for number, folder in enumerate(newest_first):
        if number >= MAX_KEPT or _changed_at(folder) < time.time() - KEPT_S:
            # a process that holds it is at work on it
            with contextlib.suppress(EngineError), locks.hold(root, folder.stem, "being forgotten"):
                shutil.rmtree(folder, ignore_errors=True)


def _changed_at(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def arrived(wanted: Wanted, sha256: str) -> None:
    """Note the hash that a file which has come whole should have; `settle` compares it."""
    _tell(replace(wanted, sha256=sha256))


def _tell(wanted: Wanted) -> None:
    (_incoming(wanted.id) / TOLD).write_text(json.dumps(asdict(wanted)), encoding="utf-8")


def drop(id: str) -> None:
    """Forget a file that was arriving; nothing if none was."""
    shutil.rmtree(_incoming(id), ignore_errors=True)


def check_header(wanted: Wanted, tensors: dict) -> str:
    """The role in which a file with such tensors is added. Raises EngineError, code "wrong_kind", which names what it
    seems to be and what is needed."""
    role, like = kinds.role_of(tensors)
    if role and wanted.role in ("", role):
        return role
    seems = f"it seems to be {like}" if like else f"it holds {', '.join(sorted(tensors)[:3]) or 'nothing'}"
    needed = kinds.ROLES[wanted.role] if wanted.role else "; ".join(kinds.ROLES.values())
    remedy = f"Add it as {kinds.ROLES[role]}." if role else f"Needed is {needed}."
    raise EngineError(
        f"This file can't be added as {kinds.ROLES[wanted.role] if wanted.role else 'a model'}", seems, remedy,
        code="wrong_kind",
    )  # fmt: skip


def settle(id: str) -> known_models.KnownModel:
    """Look into a file that has arrived whole, and put it in its place. What doesn't do is thrown away.

    Raises EngineError: "bad_model" for a damaged file, "wrong_kind", "name_taken", "model_busy".
    """
    with locks.hold(registry.models_folder(), id, "being looked into"):
        return _settle(id)


def _settle(id: str) -> known_models.KnownModel:
    folder = _incoming(id)
    try:
        wanted = Wanted(**json.loads((folder / TOLD).read_text(encoding="utf-8")))
        file = folder / f"{FILE}{wanted.suffix}"
        if file.stat().st_size != wanted.size:
            raise _bad(f"The file should have {wanted.size:,} bytes", f"{file.stat().st_size:,}")
        header = _header(file)
        role = check_header(wanted, header.tensors)
        stands_for = _net(wanted) if role == "controlnet" else ""
        sha256 = registry.sha256_of(file)
        if wanted.sha256 not in ("", sha256):
            raise _bad("The file that came is not the one that was sent", f"sha256 {sha256}", "Add it again.")
        _check(wanted)  # once more: another may have come meanwhile
        place = registry.models_folder() / ROOMS[role] / f"{id}{wanted.suffix}"
        if place.exists():
            raise _taken(id, f"a file of this name lies in {ROOMS[role]}")
        place.parent.mkdir(parents=True, exist_ok=True)
        told = {
            "role": role, "folder": ROOMS[role], "file": place.name, "size": wanted.size, "sha256": sha256,
            "about": wanted.about or "added by a file", "licence": wanted.licence or None,
            "licence_url": wanted.licence_url, "commercial": wanted.commercial, "stands_for": stands_for,
            "trigger": _trigger(id, role, header),
        }  # fmt: skip
        (folder / TOLD).write_text(json.dumps(told, indent=1), encoding="utf-8")
        row = registry.models_folder() / registry.ADDED / f"{id}.json"
        row.parent.mkdir(exist_ok=True)
        # ended between the two, the model is told as missing, and can be added again
        os.replace(folder / TOLD, row)
        os.replace(file, place)
    finally:
        drop(id)
    return registry.model(id)


def add_file(
    path: Path, wanted: Wanted, told: Callable[[int], None] = lambda done: None
) -> known_models.KnownModel:
    """Copy a file of this machine into the models folder. told: how many bytes are here.

    Raises EngineError as `begin` and `settle`, OSError where it can't be read or written.
    """
    _check(wanted)
    with locks.hold(registry.models_folder(), wanted.id, "being added"):
        _copy(path, wanted, told)
        return _settle(wanted.id)


def _copy(path: Path, wanted: Wanted, told: Callable[[int], None]) -> None:
    with path.open("rb") as source:
        if wanted.suffix == ".safetensors":  # before anything is copied
            check_header(wanted, kinds.header_of(source, wanted.size).tensors)
            source.seek(0)
        try:
            with begin(wanted).open("wb") as target:
                while piece := source.read(COPY_BYTES):
                    target.write(piece)
                    told(target.tell())
        except OSError:
            drop(wanted.id)
            raise


def name_of(path: str) -> str:
    """What a file could be called in here, from its own name."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(path).stem).strip("_.-")
    return stem[:40] or "model"


# ---- checks ---------------------------------------------------------------------------------------------


def _check(wanted: Wanted) -> None:
    """Raises EngineError for what can't be added, whatever is in it."""
    if not re.fullmatch(NAME, wanted.id) or re.fullmatch(DEVICES, wanted.id, re.IGNORECASE):
        remedy = "Use 1 to 40 letters of A-Z, a-z, 0-9, _, . and -, the first a letter or digit."
        raise EngineError("A model can't have this name", wanted.id, remedy, code="bad_name")
    if wanted.suffix not in SUFFIXES:
        raise _bad("A model comes as one of " + ", ".join(SUFFIXES), wanted.suffix or "no ending")
    if wanted.role not in ("", *ROOMS):
        raise EngineError(
            "Nothing of this kind can be added", wanted.role, f"Choose {', '.join(ROOMS)}.", code="bad_model"
        )
    if not 16 <= wanted.size <= MAX_BYTES:
        raise _bad(f"A model has 16 bytes to {MAX_BYTES >> 30} GB", f"{wanted.size:,} bytes")
    if wanted.role == "controlnet":
        _net(wanted)
    lower = wanted.id.lower()
    models = {id: one for id, one in registry.listing().items() if not one.added or registry.complete(one)}
    if len(registry.added_files()) >= MAX_ADDED:
        raise EngineError(
            f"At most {MAX_ADDED} models can be added", MAX_ADDED, "Remove one first.", code="too_many_models"
        )
    if near := next((id for id in models if id.lower() == lower), None):
        raise _taken(wanted.id, f"it is {models[near].about}")
    shipped = Path(__file__).parent / "assets"
    if any(index.parent.name.lower() == lower for index in shipped.glob("*/model_index.json")):
        raise _taken(wanted.id, "it came with the engine")
    for root in registry.folders():
        for room in ROOMS.values():
            there = (root / room).iterdir() if (root / room).is_dir() else ()
            if path := next((path for path in there if path.stem.lower() == lower), None):
                raise _taken(wanted.id, f"{path.name} lies in {room}")


def _net(wanted: Wanted) -> str:
    """The known ControlNet in whose place this one is used."""
    nets = [one.id for one in known_models.known().values() if one.role == "controlnet"]
    if wanted.stands_for:
        if wanted.stands_for not in nets:
            raise EngineError(
                "No known ControlNet has this id",
                wanted.stands_for,
                f"Choose {', '.join(nets)}.",
                code="unknown_model",
            )
        return wanted.stands_for
    told = re.split(r"[^a-z]+", wanted.id.lower())
    found = [net for net in nets if re.split(r"[_-]", net)[-1] in told and "anime" not in net]
    if len(found) != 1:
        raise EngineError(
            "The name doesn't tell which pictures this ControlNet follows", wanted.id,
            f"Say whose place it takes: {', '.join(nets)}.", code="wrong_kind",
        )  # fmt: skip
    return found[0]


def _header(file: Path) -> Header:
    """What is in a file, of either kind."""
    if file.suffix == ".safetensors":
        with file.open("rb") as opened:
            return kinds.header_of(opened, file.stat().st_size)
    from musev_engine.pickles import readable, unpickled  # torch

    try:
        with readable(file):
            return Header(unpickled(file), {})
    except EngineError as error:  # where it lay for a moment tells nobody anything
        raise EngineError(
            error.message.replace(str(file), "The file"), error.value, error.remedy, code=error.code
        ) from error


def _trigger(id: str, role: str, header: Header) -> str:
    """The words that a prompt must have for it: a LoRA's, or an embedding's own."""
    if role == "lora":
        return kinds.trigger(header.texts)
    if role != "embedding":
        return ""
    a1111 = any(key == "emb_params" or key.startswith("string_to_param.") for key in header.tensors)
    return id if a1111 else next(iter(header.tensors))[: kinds.MAX_TRIGGER]


def _incoming(id: str) -> Path:
    return registry.models_folder() / registry.INCOMING / f"{id}.added"


def _bad(message: str, value: object, remedy: str = "Download the file again.") -> EngineError:
    return EngineError(message, value, remedy, code="bad_model")


def _taken(id: str, by: str) -> EngineError:
    return EngineError(
        f"This name is taken: {by}", id, "Give it another name, or remove that one first.", code="name_taken"
    )
