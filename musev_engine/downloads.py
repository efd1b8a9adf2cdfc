"""Known models from a hub into the models folder, through huggingface_hub. Asks for no licence: its caller does.

A file arrives in the models folder's `.incoming`, goes on where it was broken off, and is read back and compared with
the hash this engine knows and with the hub's own before it takes its place; a model takes its place only when all its
files have come.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from musev_engine import locks
from musev_engine.errors import EngineError
from musev_engine.known_models import KnownModel, ModelFile
from musev_engine.registry import ADDED, INCOMING, RECEIPTS, models_folder, sha256_of

SPARE_BYTES = 200_000_000  # left free on the disk


@dataclass(frozen=True)
class Remote:
    """A file as the hub has it. name: its place below the model's folder. etag: the hub's hash of it, the sha256 of
    a large file, git's sha1 of a small one. sha256: the one this engine knows. with_token: whether this user's hub
    token, if there is one, goes along: to the user's own hub alone."""

    name: str
    url: str
    etag: str
    size: int
    commit: str
    sha256: str | None
    with_token: bool


def offline() -> bool:
    """Whether the environment forbids the network, by huggingface_hub's own variables."""
    set_to = [os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")]
    return any(value in ("1", "ON", "YES", "TRUE") for value in set_to)


def look_up(model: KnownModel, endpoint: str | None = None) -> list[Remote]:
    """What the hub has of a model; endpoint: another hub's address (None: $HF_ENDPOINT, else the public one).

    Raises EngineError: "offline", "hub_unreachable", "not_on_hub", "needs_token" or "wrong_hash".
    """
    if offline():
        raise EngineError(
            "This is offline mode (HF_HUB_OFFLINE), and nothing is asked of the network",
            model.id,
            f"Unset it, or put the files into {models_folder() / model.folder} by hand.",
            code="offline",
        )
    if model.url:  # on no hub: one file at an address of its own, which its hash makes sure of
        (file,) = model.files
        if file.size is None or file.sha256 is None:
            raise ValueError(f"{model.id} has a url, and no size or sha256 to compare with")
        return [Remote(file.name, model.url, file.sha256, file.size, "", file.sha256, False)]
    found: list[Remote] = []
    # after the first, the others are taken from the very same state of the repository
    for file in model.files:
        revision = found[0].commit if found else model.revision
        found.append(_look_up_file(model, file, revision, endpoint))
    return found


def fetch(
    model: KnownModel, remotes: list[Remote], told: Callable[[str, int], None] = lambda name, size: None
) -> Path:
    """Download what `look_up` found and put it in its place; gives the model's folder. Progress goes to stderr, and to
    `told`: a file's name and how many bytes of it are here.

    Raises EngineError as `look_up`, and "model_busy", "disk_full", or "wrong_hash" when what came isn't what it should
    be (it is thrown away). Broken off, it goes on from there the next time.
    """
    with locks.hold(models_folder(), model.id, "being downloaded"):
        return _fetch(model, remotes, told)


def _fetch(model: KnownModel, remotes: list[Remote], told: Callable[[str, int], None]) -> Path:
    root = models_folder()
    incoming = root / INCOMING / model.id
    incoming.mkdir(parents=True, exist_ok=True)
    check_space(root, sum(remote.size for remote in remotes) - _bytes_in(incoming))
    hashes = {remote.name: _fetch_file(remote, incoming, told) for remote in remotes}
    for remote in remotes:
        place = root / model.folder / remote.name
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(incoming / remote.name, place)
    _write_receipt(model, remotes, hashes)
    shutil.rmtree(incoming)
    return root / model.folder


def remove(model: KnownModel) -> list[Path]:
    """Delete a model's files from the models folder (never from added ones), and what was begun of it. Whether
    somebody uses it is not asked here. Raises EngineError, code "model_busy"."""
    with locks.hold(models_folder(), model.id, "being removed"):
        return _remove(model)


def _remove(model: KnownModel) -> list[Path]:
    root, gone = models_folder(), []
    for file in model.files:
        for form in file.forms():
            path = root / model.folder / form
            if path.is_file():
                path.unlink()
                gone.append(path)
    for parent in {path.parent for path in gone}:
        for folder in (parent, *parent.parents):  # those that are empty now
            if folder == root or (folder.exists() and any(folder.iterdir())):
                break
            if folder.exists():
                folder.rmdir()
    shutil.rmtree(root / INCOMING / model.id, ignore_errors=True)
    for told in (RECEIPTS, ADDED):
        (root / told / f"{model.id}.json").unlink(missing_ok=True)
    return gone


def _look_up_file(model: KnownModel, file: ModelFile, revision: str, endpoint: str | None) -> Remote:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with_token = endpoint is None or endpoint == os.environ.get("HF_ENDPOINT")
    for source in file.sources:
        url = hf_hub_url(model.repository, source, revision=revision, endpoint=endpoint)
        with _told(model, url):
            try:
                there = get_hf_file_metadata(url, token=None if with_token else False, endpoint=endpoint)
            except RemoteEntryNotFoundError:
                continue
        if not (there.etag and there.commit_hash) or there.size is None:
            raise EngineError(
                "This server doesn't answer as a hub does", url, "Check --endpoint.", code="hub_unreachable"
            )
        first = source == file.sources[0]
        is_hash = re.fullmatch(r"[0-9a-f]{64}", there.etag)
        if first and file.sha256 and is_hash and there.etag != file.sha256:
            raise _wrong(url, f"sha256 {there.etag}", file.sha256)
        if first and file.size not in (None, there.size):
            raise _wrong(url, f"{there.size:,} bytes", f"{file.size:,}")
        forms = {Path(form).suffix: form for form in reversed(list(file.forms()))}
        name = forms.get(Path(source).suffix, file.name)
        fixed = hf_hub_url(model.repository, source, revision=there.commit_hash, endpoint=endpoint)
        sha256 = file.sha256 if first else None
        return Remote(name, fixed, there.etag, there.size, there.commit_hash, sha256, with_token)
    raise EngineError(
        f"The hub has no such file in {model.repository} at {revision}",
        " or ".join(file.sources),
        f"See {model.licence_url}; the file may have moved.",
        code="not_on_hub",
    )


class _Watched:
    """An open file that tells how long it is whenever it is written to."""

    def __init__(self, file: BinaryIO, told: Callable[[int], None]):
        self._file, self._told = file, told

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._told(self._file.tell())
        return written

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def _fetch_file(remote: Remote, incoming: Path, told: Callable[[str, int], None]) -> str:
    """Bring one file into `incoming`, whole and compared; gives its sha256."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    whole = incoming / remote.name
    part = whole.with_name(f"{whole.name}.{re.sub('[^0-9a-zA-Z]', '', remote.etag)[:16]}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if not whole.exists():
        with part.open("ab") as file, _told(None, remote.url):
            http_get(
                remote.url,
                _Watched(file, partial(told, remote.name)),
                resume_size=file.tell(),
                headers=build_hf_headers(token=None if remote.with_token else False),
                expected_size=remote.size,
                displayed_filename=remote.name,
            )
    told(remote.name, remote.size)
    arrived = part if part.exists() else whole
    found = sha256_of(arrived)
    is_sha256 = len(remote.etag) == 64
    etag = found if is_sha256 else _git_sha1(arrived) if len(remote.etag) == 40 else remote.etag
    if etag != remote.etag or found != (remote.sha256 or found):
        arrived.unlink()
        raise _wrong(remote.url, f"sha256 {found}", remote.sha256 or remote.etag)
    os.replace(arrived, whole)
    return found


@contextmanager
def _told(model: KnownModel | None, url: str) -> Iterator[None]:
    """Turn what the network and the hub raise into EngineError."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.RemoteEntryNotFoundError:
        raise
    except errors.GatedRepoError as error:
        remedy = f"Accept its terms at {model.licence_url if model else url}, then: hf auth login"
        raise EngineError(
            "The hub gives this file only to who accepted its terms", url, remedy, "needs_token"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        remedy = "It may have moved, or need a token (hf auth login), or --endpoint is another hub."
        raise EngineError("The hub has no such repository or revision", url, remedy, "not_on_hub") from error
    except errors.OfflineModeIsEnabled as error:
        raise EngineError("This is offline mode", url, "Unset HF_HUB_OFFLINE.", "offline") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, errors.HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # this machine's disk, not the hub
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "Check the connection and --endpoint, and run it again: it goes on where it stopped."
        raise EngineError(
            f"The hub can't be reached or broke off: {reason}", url, remedy, "hub_unreachable"
        ) from error


def check_space(folder: Path, needed: int) -> None:
    """Raises EngineError, code "disk_full", unless so many bytes more leave enough free."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise EngineError(
            f"This takes {needed / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB left",
            f"{needed + SPARE_BYTES - free:,} bytes too few",
            "Free some space, or set MUSEV_MODELS to a folder on another disk.",
            code="disk_full",
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _git_sha1(path: Path) -> str:
    """What git calls a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _write_receipt(model: KnownModel, remotes: list[Remote], hashes: dict[str, str]) -> None:
    """What came from where, and under which licence it was accepted: also what `verify` compares with."""
    kept = {
        "repository": model.repository,
        "commit": remotes[0].commit,
        "licence": model.terms,
        "files": {f"{model.folder}/{name}": sha for name, sha in hashes.items()},
    }
    path = models_folder() / RECEIPTS / f"{model.id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def _wrong(url: str, got: str, wanted: str) -> EngineError:
    return EngineError(
        f"The file at {url} isn't the one this engine knows: it should have {wanted}",
        got,
        "Nothing of it is kept. Try again; if it stays so, the hub or a mirror holds another file.",
        code="wrong_hash",
    )
