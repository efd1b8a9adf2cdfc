"""The demo's contact sheet: the rig as Blender renders it, its pose pictures, depth, normals and mask, and the frames
that were generated (engine's Python).

    contact_sheet.py FOLDER NUMBER…     the frames to show, from 0
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

CELL = 160  # pixels
ROWS = ("rig", "poses", "depth", "normal_bae", "mask", "frames")  # folders


def main(out: Path, shown: list[int]) -> None:
    still = cv2.resize(cv2.imread(str(out / "still.png")), (CELL, CELL))
    rows = []
    for name in ROWS:
        files = sorted((out / name).glob("[0-9]*.png"))
        if len(files) > len(shown):  # of the whole clip
            files = [files[number] for number in shown]
        cells = [cv2.resize(cv2.imread(str(file)), (CELL, CELL)) for file in files]
        rows.append(np.hstack([still if name == "rig" else np.zeros_like(still), *cells]))
    cv2.imwrite(str(out / "contact_sheet.png"), np.vstack(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(number) for number in sys.argv[2:]])
