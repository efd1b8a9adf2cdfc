"""Where an engine's state lies: jobs, inputs, frames, its token."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from blender_addon.protocol import ProtocolError
from server.jobs import JobStore

MAX_ENGINES = 16  # of one user, that were told no folder


def open_store(folder: Path | None) -> JobStore:
    """The store in `folder`, or in the first folder of this user's cache that no other engine holds. Raises as
    JobStore."""
    if folder is not None:
        return JobStore(folder)
    for number in range(MAX_ENGINES):
        try:
            return JobStore(cache_folder() / f"engine-{number}")
        except ProtocolError as error:
            if error.code != "state_in_use":
                raise
    message = f"{MAX_ENGINES} engines run already"
    raise ProtocolError(message, MAX_ENGINES, "Stop one, or give --state-dir.", "state_in_use")


def cache_folder() -> Path:
    """This user's cache for MuseV, by the system's custom."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "musev"
