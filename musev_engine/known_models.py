"""The models this engine knows: the rows of `assets/models.toml`, read. Where their files lie is the registry's.

Touches no network and no models folder; imports no torch.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

KNOWN = Path(__file__).parent / "assets" / "models.toml"
HUB = "https://huggingface.co"
ROLES = (
    "motion", "t2i", "vae", "controlnet", "annotator", "image-encoder", "ip-adapter", "faceid", "lora", "embedding",
    "tokenizer",
)  # fmt: skip
UNKNOWN = "unknown"  # a licence that nobody here could verify


@dataclass(frozen=True)
class ModelFile:
    """One file of a model. name: below the model's folder. sources: its paths in the repository, best first.
    size (bytes) and sha256 are the first source's, None where not known."""

    name: str
    sources: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None

    def forms(self) -> Iterator[str]:
        """The names under which it does as well: weights come as .safetensors or .bin."""
        yield self.name
        stem, dot, ending = self.name.rpartition(".")
        if ending in ("safetensors", "bin"):
            yield stem + dot + ("bin" if ending == "safetensors" else "safetensors")
            if stem.rpartition("/")[2] == "model":  # what transformers calls the pickled one
                yield f"{stem.removesuffix('model')}pytorch_model.bin"


@dataclass(frozen=True)
class KnownModel:
    """One model. role: one of ROLES. folder: its place in a models folder; also: others that are searched.

    licence: None where nobody here could verify it; licence_url: where it stands. commercial: whether one may
    sell what it makes, None where not known. url: the address of its one file if no hub has it, else "".

    Of one that was added by a file, repository and url are "". trigger: words that bring it out, "" where not known.
    stands_for: of an added ControlNet, the known one that it is used for.
    """

    id: str
    role: str
    about: str
    repository: str
    revision: str
    folder: str
    also: tuple[str, ...]
    files: tuple[ModelFile, ...]
    licence: str | None
    licence_url: str
    commercial: bool | None
    url: str = ""
    trigger: str = ""
    stands_for: str = ""

    @property
    def added(self) -> bool:
        """Whether somebody added it by a file, so that it can't be downloaded."""
        return not (self.repository or self.url)

    @property
    def source(self) -> str:
        """Where it comes from, as a person reads it; "" where only who added it knows."""
        return self.url or (f"{HUB}/{self.repository}" if self.repository else "")

    @property
    def size(self) -> int | None:
        """Bytes of all files whose size is known; None if a weight file's isn't, or none is."""
        weights = [file for file in self.files if not file.name.endswith((".json", ".txt"))]
        if any(file.size is None for file in weights):
            return None
        return sum(file.size or 0 for file in self.files) or None

    @property
    def terms(self) -> str:
        """The licence in one line."""
        sold = {True: "commercial use allowed", False: "no commercial use", None: "commercial use not known"}
        told = (self.licence or "licence not known to this engine", sold[self.commercial], self.licence_url)
        return "; ".join(filter(None, told))


@cache
def known() -> dict[str, KnownModel]:
    """Every known model by its id, in the file's order."""
    return {id: _model(id, row) for id, row in _read()["models"].items()}


@cache
def controls() -> dict[str, tuple[str, ...]]:
    """MuseV's 26 control names, and the ids of what each needs: its ControlNet, then its detector if it has one."""
    return {name: tuple(needs) for name, needs in _read()["controls"].items()}


@cache
def _read() -> dict:
    return tomllib.loads(KNOWN.read_text(encoding="utf-8"))


def _model(id: str, row: dict) -> KnownModel:
    repository = row["repository"]
    shared: dict = {}
    for pattern, terms in _read()["repositories"].items():
        if fnmatch.fnmatchcase(repository, pattern):
            shared |= terms
    if "licence" in row:  # other terms than the repository's: what those allowed says nothing
        shared.pop("commercial", None)
    row = (
        {"from": row["folder"], "also": [], "revision": "main", "licence_url": f"{HUB}/{repository}"}
        | shared
        | row
    )
    prefix = f"{row['from']}/" if row["from"] else ""
    files = tuple(
        ModelFile(
            name,
            tuple(prefix + source for source in facts.get("from", [name])),
            facts.get("size"),
            facts.get("sha256"),
        )
        for name, facts in row["files"].items()
    )
    return KnownModel(
        id=id,
        role=row["role"],
        about=row["about"],
        repository=repository,
        revision=row["revision"],
        folder=row["folder"],
        also=tuple(row["also"]),
        files=files,
        licence=None if row["licence"] == UNKNOWN else row["licence"],
        licence_url=row["licence_url"],
        commercial=row.get("commercial"),
        url=row.get("url", ""),
    )
