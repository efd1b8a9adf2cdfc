"""PyTorch's own files (`.ckpt`, `.bin`, `.pt`, `.pth`) as bare tensors; and what goes wrong in reading any file, as one
error. Program code in a file is never run.
"""

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from musev_engine.errors import EngineError
from musev_engine.kinds import PICKLES


def bad_model(message: str, value: object, remedy: str) -> EngineError:
    """The error of every file that doesn't do; code "bad_model"."""
    return EngineError(message, value, remedy, code="bad_model")


def unpickled(path: Path) -> dict[str, torch.Tensor]:
    """A PyTorch file's tensors, mapped, not read. Only today's format: a zip without compression, whose size bounds
    what it can ask for."""
    if path.suffix not in PICKLES:
        raise ValueError(f"it is none of .safetensors, {', '.join(PICKLES)}")
    if not zipfile.is_zipfile(path):
        raise ValueError("it is cut off, or no file of PyTorch 1.6 or newer")
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its parts are compressed, as PyTorch never does")
    return dict(_flat(torch.load(path, map_location="cpu", weights_only=True, mmap=True)))


def _flat(value: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, Mapping):
        for key, each in value.items():
            part = "" if not name and key == "state_dict" else str(key)
            yield from _flat(each, f"{name}.{part}" if name and part else name or part)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong in reading `path` into one EngineError."""
    try:
        yield
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise bad_model(
                f"{path} holds program code, which is never run",
                code[1],
                "Take the .safetensors version of this model.",
            ) from error
        raise bad_model(f"{path} can't be read", "a damaged pickle", "Download it again.") from error
    except (SafetensorError, RuntimeError, EOFError, KeyError, OSError, ValueError) as error:
        if isinstance(error, EngineError):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise bad_model(f"{path} can't be read", reason, "Download it again.") from error
