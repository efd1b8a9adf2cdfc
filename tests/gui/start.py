"""What Blender is started with: `blender … --python start.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from batch import night
from driver import Driver, start_afresh
from filling import filling
from flows import first_time, stall, story
from menus import menus
from states import STATES

start_afresh()
FLOWS = {
    "first_time": first_time,
    "story": story,
    "filling": filling,
    **STATES,
    "menus": menus,
    "stall": stall,
    "night": night,
}
Driver(FLOWS).start()
