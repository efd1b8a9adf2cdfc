"""What Blender is started with: `blender … --python start.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from driver import Driver, start_afresh
from flows import story
from states import STATES

start_afresh()
Driver({"story": story, **STATES}).start()
