"""What is done with one model, in a process of its own: `python -m server.shelf_process ACTION ID`.

ACTION is download, verify, remove, or add: look into a file that has come, and put it in its place. It says
ModelProgress messages on its standard output, one a line, the last one with the end. Whatever libraries print goes to
the log.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback

from blender_addon import protocol
from blender_addon.protocol import ModelProgress
from server.problems import problem_of

CHUNK_BYTES = 2**20  # in which a download arrives, each of them told


def main() -> None:
    action, id = sys.argv[1:]
    outbox = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(progress: ModelProgress) -> None:
        print(protocol.encode(progress), file=outbox, flush=True)

    progress = ModelProgress(id, action)
    try:
        ended = {"download": download, "verify": verify, "remove": remove, "add": add}[action](progress, say)
    except Exception as error:  # the one place where exceptions become messages
        traceback.print_exc()
        ended = dataclasses.replace(progress, state="failed", problem=problem_of(error))
    say(ended)


def download(progress: ModelProgress, say) -> ModelProgress:
    """Raises EngineError as `downloads` does."""
    from huggingface_hub import constants

    from musev_engine import downloads, registry

    constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, CHUNK_BYTES)
    if registry.installed(progress.id):
        return dataclasses.replace(progress, state="done")
    model = registry.model(progress.id)
    remotes = downloads.look_up(model)
    total, arrived = sum(remote.size for remote in remotes), {}

    def told(file: str, size: int) -> None:
        arrived[file] = size
        done = sum(arrived.values())
        say(dataclasses.replace(progress, file=file, done_bytes=done, total_bytes=total))

    downloads.fetch(model, remotes, told)
    return dataclasses.replace(progress, state="done", done_bytes=total, total_bytes=total)


def verify(progress: ModelProgress, say) -> ModelProgress:
    """Paths of this machine are left out of what is told."""
    from musev_engine import registry

    verdicts = registry.verify(progress.id)
    paths = registry.here(registry.model(progress.id))
    lines = []
    for name, verdict in verdicts.items():
        said = verdict.replace(str(paths.get(name, "")), "it") if name in paths else verdict
        lines.append(f"{name}: {'there, with no hash to compare it with' if said == 'not known' else said}")
    intact = all(verdict in ("ok", "not known") for verdict in verdicts.values())
    compared = "ok" in verdicts.values()
    return dataclasses.replace(
        progress, state="done", results=tuple(lines), intact=intact if compared or not intact else None
    )


def remove(progress: ModelProgress, say) -> ModelProgress:
    """Raises EngineError as `in_use.check`: a clip may have come since it was asked for."""
    from musev_engine import downloads, registry
    from server import in_use

    in_use.check(progress.id)
    downloads.remove(registry.model(progress.id))
    return dataclasses.replace(progress, state="done")


def add(progress: ModelProgress, say) -> ModelProgress:
    """Raises EngineError as `added.settle`."""
    from musev_engine import added

    size = added.settle(progress.id).size or 0
    return dataclasses.replace(progress, state="done", done_bytes=size, total_bytes=size)


if __name__ == "__main__":
    main()
