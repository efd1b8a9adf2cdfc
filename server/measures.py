"""What finished clips took, and what the next one will take by that.

Of each phase (and of the memory) of a model on a device, the last clips' work and seconds (megabytes) are kept in the
job store. Work is counted in a few sums that the phase's cost grows with; what one of each costs is fitted to those
clips, leaning on a prior where they are few or all alike. Standard library only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from statistics import median

Work = tuple[float, ...]  # how often each cost of a phase is paid
KEPT = 20  # clips of a model, device and phase
FADING = 0.9  # a clip counts this much of the one after it: machines change
LEANING = 0.005  # the prior's weight against one clip's: their noise squared (0.07²) if the prior is off by 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS measures (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    device TEXT NOT NULL,
    phase TEXT NOT NULL,
    work TEXT NOT NULL,
    cost REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS measures_by_phase ON measures (model, device, phase);
"""


class Measures:
    """The table of measures in a database."""

    def __init__(self, database: sqlite3.Connection):
        self._database = database
        database.executescript(SCHEMA)

    def add(self, model: str, device: str, phase: str, work: Work, cost: float) -> None:
        """Keep what a phase took, and forget all but the last `KEPT`. Raises sqlite3.Error."""
        self._database.execute(
            "INSERT INTO measures (model, device, phase, work, cost) VALUES (?, ?, ?, ?, ?)",
            (model, device, phase, json.dumps(work), cost),
        )
        key = (model, device, phase)
        self._database.execute(
            "DELETE FROM measures WHERE (model, device, phase) = (?, ?, ?) AND place NOT IN "
            "(SELECT place FROM measures WHERE (model, device, phase) = (?, ?, ?) ORDER BY place DESC LIMIT ?)",
            (*key, *key, KEPT),
        )

    def of(self, model: str, device: str, phase: str) -> list[tuple[Work, float]]:
        """(work, cost) of the last clips, the newest last."""
        rows = self._database.execute(
            "SELECT work, cost FROM measures WHERE (model, device, phase) = (?, ?, ?) ORDER BY place",
            (model, device, phase),
        )
        return [(tuple(json.loads(work)), cost) for work, cost in rows]

    def last_device(self) -> str:
        """Where the last clip was made, "" before the first."""
        row = self._database.execute("SELECT device FROM measures ORDER BY place DESC LIMIT 1").fetchone()
        return row[0] if row else ""


def cost_of(work: Work, costs: Work) -> float:
    """What this work costs, at so much for one of each sum."""
    return sum(a * b for a, b in zip(work, costs, strict=True))


def fitted(prior: Work, measured: Sequence[tuple[Work, float]], *, one_scale: bool = True) -> Work:
    """What one of each sum costs: the least squares of relative errors over the measured (newest last), none negative.

    First the whole prior is scaled to them, if it has one_scale, as times have: a faster machine is faster at all.
    Then each cost is free to leave it (ridge regression, Hoerl and Kennard 1970), as far as the measured ones say.
    """
    measured = [  # an older engine may have counted other sums
        (work, cost)
        for work, cost in measured
        if len(work) == len(prior) and cost > 0 and cost_of(work, prior) > 0
    ]
    if not measured:
        return prior
    scale = median(cost / cost_of(work, prior) for work, cost in measured) if one_scale else 1.0
    scaled = tuple(scale * each for each in prior)
    shares = [
        [part * each / cost for part, each in zip(work, scaled, strict=True)] for work, cost in measured
    ]
    weights = [FADING**age for age in range(len(shares))][::-1]
    free = list(range(len(prior)))
    while free:
        rows = [
            [
                sum(w * s[i] * s[j] for w, s in zip(weights, shares, strict=True)) + LEANING * (i == j)
                for j in free
            ]
            for i in free
        ]
        sides = [sum(w * s[i] for w, s in zip(weights, shares, strict=True)) + LEANING for i in free]
        times = dict(zip(free, _solved(rows, sides), strict=True))
        if min(times.values()) >= 0:
            return tuple(times.get(i, 0.0) * each for i, each in enumerate(scaled))
        free = [i for i in free if times[i] >= 0]
    return scaled


def _solved(rows: list[list[float]], sides: list[float]) -> list[float]:
    """The solution of symmetric, positive definite linear equations, by elimination."""
    rows = [[*row, side] for row, side in zip(rows, sides, strict=True)]
    for i, pivot in enumerate(rows):
        for row in rows[i + 1 :]:
            factor = row[i] / pivot[i]
            row[:] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
    found: list[float] = []
    for i in reversed(range(len(rows))):
        known = sum(a * b for a, b in zip(rows[i][i + 1 : -1], found, strict=True))
        found.insert(0, (rows[i][-1] - known) / rows[i][i])
    return found
