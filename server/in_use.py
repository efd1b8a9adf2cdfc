"""Which models the clips of running engines need, so that none is removed under them, by whomever.

Each engine leaves word in the models folder where its jobs lie (`InUse`), in a file that is locked while it lives; who
wants to remove a model reads the queue of every one (`check`): an engine itself, another one, or `musev models remove`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import uuid
from contextlib import closing
from pathlib import Path

from blender_addon import protocol
from blender_addon.protocol import ClipRequest
from server import extras

ENGINES = ".engines"  # in the models folder
READ_S = 5.0  # at most, to get at an engine's queue


class InUse:
    """An engine's word, kept until it ends. database: where its jobs lie."""

    def __init__(self, database: Path):
        self._database, self._lock = database, None

    def tell(self) -> None:
        """Leave word, unless it is left or there is no models folder, and so nothing in use."""
        from musev_engine import locks, registry

        root = registry.models_folder()
        if self._lock is not None or not root.is_dir():
            return
        note = json.dumps({"pid": os.getpid(), "database": str(self._database)})
        try:
            (root / ENGINES).mkdir(exist_ok=True)
            self._lock = locks.lock(root / ENGINES / uuid.uuid4().hex, note)
        except OSError as error:  # then others can't remove anything there either
            print(f"The models folder can't be written: {error}", file=sys.stderr)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()


def check(id: str) -> None:
    """Raises EngineError, code "model_in_use", while a clip needs a model that is being made, or waits in an engine."""
    from musev_engine import locks, registry
    from musev_engine.errors import EngineError

    running, waiting, shown = 0, 0, ""
    for path in sorted((registry.models_folder() / ENGINES).glob("*")):
        if (note := locks.noted(path)) is None:
            continue
        try:
            jobs = _jobs(Path(json.loads(note)["database"]))
        except (sqlite3.Error, ValueError, KeyError) as error:  # it is of another release, or just beginning
            raise EngineError(
                f"An engine works with this models folder, and what it has to make can't be read: {error}", note,
                "Stop that engine first.", code="model_in_use",
            ) from error  # fmt: skip
        for state, request in jobs:
            if id in extras.needed(request):
                running += state == "running"
                waiting += state == "queued"
                shown = shown or request.prompt[:60]
    if not running + waiting:
        return
    said = ["a clip that is being made"] * bool(running)
    said += ["1 clip in the queue" if waiting == 1 else f"{waiting} clips in the queue"] * bool(waiting)
    remedy = "Let them be made first, or cancel them in Blender."
    if shown:
        remedy = f"Let them be made first, or cancel them in Blender; one shows: {shown}."
    raise EngineError(f"This model is needed by {' and '.join(said)}", id, remedy, code="model_in_use")


def _jobs(database: Path) -> list[tuple[str, ClipRequest]]:
    """State and request of an engine's jobs that have not ended. Raises sqlite3.Error."""
    reading = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=READ_S)
    with closing(reading):
        rows = reading.execute("SELECT state, request FROM jobs WHERE ending IS NULL").fetchall()
    return [(state, protocol.request_from_json(text)) for state, text in rows]
