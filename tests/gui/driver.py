"""A hand, an eye and patience for a real Blender window: simulated events, screenshots, conditions waited for.

Runs inside the Blender that is tested, from a copy beside `flows.py`; `run.py` says with what. A flow is a generator:
what it does between two `yield`s happens in one turn of Blender's event loop, and Blender draws and listens in between.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import bpy
import eye
from sidebar import MODULE, FlowError, Sidebar, Steps

FOLDER = Path(__file__).resolve().parent
TURN_S = 0.01
SIDEBAR = 300  # pixels: the width at which every panel must be readable


class Driver(Sidebar):
    """told: what the runner wrote into `plan.json`. results: one entry a flow, kept on disk after each step."""

    def __init__(self, flows: dict[str, Callable[[Driver], Steps]]):
        super().__init__()
        self.told = json.loads((FOLDER / "plan.json").read_text())
        self.flows = {name: flow for name, flow in flows.items() if name in (self.told["only"] or flows)}
        self.results: list[dict] = []
        self.mouse = (0, 0)
        self.shots = 0

    # --- running ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Runs every flow, one after the other, from Blender's timer; then ends Blender."""
        steps = self._all()

        def turn() -> float | None:
            try:
                next(steps)
            except StopIteration:
                self._write(finished=True)
                bpy.ops.wm.quit_blender()
                return None
            except Exception:
                self.note({"flow": "driver", "problem": traceback.format_exc()})
                self._write(finished=False)
                os._exit(3)
            return TURN_S

        bpy.app.timers.register(turn, first_interval=1.0, persistent=True)

    def _all(self) -> Steps:
        for name, flow in self.flows.items():
            started = time.monotonic()
            entry = {"flow": name, "steps": [], "problem": ""}
            self.note(entry)
            try:
                yield from flow(self)
            except Exception as error:
                plain = isinstance(error, FlowError)
                entry["problem"] = str(error) if plain else traceback.format_exc()
                entry["picture"] = self.picture(f"FAILED_{name}")
                if MODULE + ".session" in sys.modules:
                    told = [
                        f"{job.clip}: {job.state.value}, {job.phase}, {job.problem}"
                        for job in self.session.jobs
                    ]
                    entry["problem"] += f"\nengine {self.session.engine.state.value}; clips: {told}"
                for key in ("ESC", "RET"):  # whatever is open
                    yield from self.key(key)
                for job in self.session.jobs:
                    self.session.cancel(job.id)
                self.session.stop_engine()
            entry["seconds"] = round(time.monotonic() - started, 1)
            self._write()

    def note(self, entry: dict) -> None:
        self.results.append(entry)
        self._write()

    def step(self, text: str) -> None:
        """Tells what is done next; a failure names it."""
        self.results[-1]["steps"].append(text)
        print(f"{self.results[-1]['flow']}: {text}", flush=True)
        self._write()

    def fact(self, name: str, value) -> None:
        """Something measured."""
        self.results[-1].setdefault("facts", {})[name] = value

    def _write(self, finished: bool = False) -> None:
        facts = {"blender": bpy.app.version_string, "finished": finished, "flows": self.results}
        part = FOLDER / "results.part"
        part.write_text(json.dumps(facts, indent=1))
        os.replace(part, FOLDER / "results.json")

    # --- patience -----------------------------------------------------------------------------------

    def turns(self, count: int = 3) -> Steps:
        for _ in range(count):
            yield

    def until(self, holds: Callable[[], object], what: str, limit_s: float = 120.0) -> Steps:
        """Waits until `holds()`; raises FlowError with `what` after a while."""
        deadline = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > deadline:
                raise FlowError(f"after {limit_s:.0f} s still not so: {what}")
            yield

    def rest(self, seconds: float) -> Steps:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            yield

    def check(self, holds: object, what: str) -> None:
        if not holds:
            raise FlowError(f"not so: {what}")

    # --- what is on the screen ----------------------------------------------------------------------

    @property
    def window(self) -> bpy.types.Window:
        return bpy.context.window_manager.windows[0]

    @property
    def area(self) -> bpy.types.Area:
        """The sequencer with the timeline."""
        found = (area for area in self.window.screen.areas if area.type == "SEQUENCE_EDITOR")
        timelines = (area for area in found if area.spaces.active.view_type != "PREVIEW")
        return max(timelines, key=lambda area: area.width * area.height)

    def region(self, kind: str = "UI") -> bpy.types.Region:
        return next(region for region in self.area.regions if region.type == kind)

    @property
    def scene(self) -> bpy.types.Scene:
        return self.window.scene

    @property
    def session(self):
        return importlib.import_module(MODULE + ".session").current

    @property
    def preferences(self):
        return bpy.context.preferences.addons[MODULE].preferences

    def override(self, kind: str = "UI"):
        return bpy.context.temp_override(window=self.window, area=self.area, region=self.region(kind))

    # --- the hand -----------------------------------------------------------------------------------

    def event(self, kind: str, value: str = "NOTHING", **more) -> None:
        x, y = self.mouse
        self.window.event_simulate(type=kind, value=value, x=x, y=y, **more)

    def move(self, x: int, y: int) -> Steps:
        self.mouse = (int(x), int(y))
        self.event("MOUSEMOVE")
        yield

    def click(self, x: int, y: int) -> Steps:
        yield from self.move(x, y)
        yield
        self.event("LEFTMOUSE", "PRESS")
        yield
        self.event("LEFTMOUSE", "RELEASE")
        yield from self.turns(2)

    def drag(self, start: tuple[int, int], end: tuple[int, int], parts: int = 8) -> Steps:
        yield from self.move(*start)
        yield from self.turns(2)
        self.event("LEFTMOUSE", "PRESS")
        yield
        for part in range(1, parts + 1):
            x, y = (a + (b - a) * part / parts for a, b in zip(start, end, strict=True))
            yield from self.move(x, y)
        self.event("LEFTMOUSE", "RELEASE")
        yield from self.turns(2)

    def key(self, kind: str, text: str = "", **held: bool) -> Steps:
        """Presses and lets go of a key, where the mouse is. held: ctrl, shift, alt, oskey."""
        self.event(kind, "PRESS", **({"unicode": text} if text else {}), **held)
        yield
        self.event(kind, "RELEASE", **held)
        yield from self.turns(2)

    def type(self, text: str) -> Steps:
        names = {" ": "SPACE", ".": "PERIOD", "-": "MINUS", "/": "SLASH", "_": "MINUS"}
        digits = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]
        for letter in text:
            name = digits[int(letter)] if letter.isdigit() else names.get(letter, letter.upper())
            yield from self.key(name, letter)

    def over(self, kind: str) -> Steps:
        """Puts the mouse into the middle of a region."""
        region = self.region(kind)
        yield from self.move(region.x + region.width // 2, region.y + region.height // 2)

    # --- the eye ------------------------------------------------------------------------------------

    def picture(self, name: str, region: bpy.types.Region | None = None) -> str:
        """Keeps a screenshot as shots/NN_name.png; returns its name."""
        self.shots += 1
        file = FOLDER / "shots" / f"{self.shots:02d}_{name}.png"
        eye.keep(file, self.window, region)
        return file.name

    def show(self, name: str, whole: bool = False) -> Steps:
        """A screenshot of the sidebar, or of the whole window, once it has been drawn as things are now; and one of the
        lower end of a sidebar that is longer than the window."""
        yield from self.move(self.region("WINDOW").x + 200, self.region("WINDOW").y + 200)  # no tooltip
        for area in self.window.screen.areas:
            area.tag_redraw()
        yield from self.turns(4)
        self.picture(name, None if whole else self.region())
        if not whole and self.lowest(self.region()) < self.region().y + eye.ROOM:
            yield from self.scroll("WHEELDOWNMOUSE")
            yield from self.turns(4)
            self.picture(f"{name}_below", self.region())
            yield from self.scroll("WHEELUPMOUSE")


def start_afresh() -> None:
    """Starts this Blender once more, with a user folder of its own: no wrapper's environment is relied on."""
    user = str(FOLDER / "user")
    if os.environ.get("BLENDER_USER_RESOURCES") == user:
        return
    Path(user).mkdir(exist_ok=True)
    os.execve(
        bpy.app.binary_path,
        [bpy.app.binary_path, *sys.argv[1:]],
        {**os.environ, "BLENDER_USER_RESOURCES": user},
    )
