"""The demo's contact sheet: the rig as Blender renders it, the pose drawing, the generated frames (engine's Python)."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from musev_engine.control import draw_poses

COLUMNS, CELL = 8, 160


def main(out: Path) -> None:
    rig, generated = (sorted((out / name).glob("*.png")) for name in ("rig", "frames"))
    shown = np.linspace(0, len(generated) - 1, COLUMNS).round().astype(int)
    height, width = cv2.imread(str(generated[0])).shape[:2]
    poses = draw_poses(np.load(out / "poses.npy"), width, height)
    still = cv2.imread(str(out / "still.png"))
    rows = [
        [still, *(cv2.imread(str(rig[k])) for k in shown)],
        [np.zeros_like(still), *(poses[k][..., ::-1] for k in shown)],
        [np.zeros_like(still), *(cv2.imread(str(generated[k])) for k in shown)],
    ]
    sheet = np.vstack([np.hstack([cv2.resize(cell, (CELL, CELL)) for cell in row]) for row in rows])
    cv2.imwrite(str(out / "contact_sheet.png"), sheet)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
