"""The engine's known models as this side knows them: what it told last, and what is being done with each.

Plain data, filled from the session's connection. No `bpy`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..client import ClientState, ConnectionLost, EngineClient, Event
from ..protocol import (
    AskModels,
    ModelProgress,
    ModelShelf,
    Problem,
    Refused,
    ShelfModel,
    Welcome,
)

ROLES = {  # as they are listed, and what they are called
    "shipped": "Embedded", "motion": "Motion", "t2i": "Image", "vae": "Image", "tokenizer": "Image",
    "controlnet": "Control", "annotator": "Detector", "image-encoder": "Look", "ip-adapter": "Look",
    "faceid": "Face", "lora": "LoRA", "embedding": "Words",
}  # fmt: skip
COMMERCIAL = {  # whether one may sell what a model makes
    True: "commercial use allowed", False: "no commercial use", None: "commercial use not known",
}  # fmt: skip
ENDED = ("done", "failed", "cancelled")

listeners: list[Callable[[Shelf], None]] = []  # called when the list of models has changed


class Shelf:
    """models: every known one, by its id; empty until an engine has told. offline: why the engine can't download, ""
    where it can. work: what is or was last done with each. refused: why the engine took the last word about a model
    not. changes: a number that grows with each of these."""

    def __init__(self):
        self.models: dict[str, ShelfModel] = {}
        self.offline = ""
        self.work: dict[str, ModelProgress] = {}
        self.refused: dict[str, Problem] = {}
        self.changes = 0

    def take(self, event: Event, client: EngineClient) -> None:
        """Notes what an event tells of the models; other events change nothing."""
        match event:
            case Welcome():  # it may be another engine
                self.work = {id: now for id, now in self.work.items() if id in client.adding}
                self.refused = {}
                if client.state is ClientState.OPEN:  # it may have been lost again in the same breath
                    client.send(AskModels())
            case ConnectionLost():
                ended = {id: now for id, now in self.work.items() if now.state in ENDED}
                wait = {id: now for id, now in self.work.items() if id in client.adding}
                self.work = ended | {
                    id: dataclasses.replace(now, state="waiting") for id, now in wait.items()
                }
            case ModelShelf(models, _, offline):
                by_role = list(ROLES)
                order = sorted(
                    models,
                    key=lambda m: by_role.index(m.role) if m.role in ROLES else len(by_role),
                )
                self.models, self.offline = {model.id: model for model in order}, offline
                for tell in listeners:
                    tell(self)
            case ModelProgress():
                self.work[event.id] = event
                self.refused.pop(event.id, None)
            case Refused(problem, _, str(model)):
                self.refused[model] = problem
            case _:
                return
        self.changes += 1

    def put_away(self, id: str) -> bool:
        """Forgets why something that was wanted of a model did not come about; whether there was anything to forget."""
        now = self.work.get(id)
        ended = now is not None and now.state in ENDED
        if ended:
            del self.work[id]
        known = self.refused.pop(id, None) is not None or ended
        self.changes += known
        return known

    @property
    def newcomers(self) -> list[str]:
        """The ids of files that are on their way to the engine, or that it did not take."""
        coming = [
            id
            for id, now in self.work.items()
            if now.action == "add" and now.state not in ("done", "cancelled")
        ]
        return [id for id in dict.fromkeys((*coming, *self.refused)) if id not in self.models]

    def working(self, id: str) -> ModelProgress | None:
        """What is being done with a model, or waits to be done; None where nothing is."""
        now = self.work.get(id)
        return now if now is not None and now.state not in ENDED else None

    def problem(self, id: str) -> Problem | None:
        """Why the last thing that was wanted of a model did not come about; None where it did."""
        now = self.work.get(id)
        return self.refused.get(id) or (now.problem if now is not None else None)


def size_text(size: int | None) -> str:
    """'2.1 GB' from bytes."""
    if size is None:
        return "size not known"
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB"
