"""The sidebar under a mouse: buttons are found as a person finds them, by what lies under it; headers by clicking."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator

import bpy
import eye
import numpy as np

MODULE = "bl_ext.user_default.musev"
FIND_S = 180  # after which a button is not there
OPENING_S = 0.5  # a panel's own animation, and more than a double click takes
Steps = Iterator[None]


class FlowError(Exception):
    """What was waited for and did not come, what was looked for and is not there."""


class Sidebar:
    """What a `Driver` can do with the sidebar, with its hand and its patience.

    places: where a button was when it was last found. drawn: the panels of ours that were open, as `open_now` saw them.
    """

    def __init__(self):
        self.places: dict[str, tuple[int, int]] = {}
        self.drawn: set[str] = set()

    def under_mouse(self) -> str:
        """The operator call or the data path of the button under the mouse; "" where there is none."""
        with self.override():
            if bpy.ops.ui.copy_python_command_button.poll():
                bpy.ops.ui.copy_python_command_button()
                return bpy.context.window_manager.clipboard
            if (found := bpy.context.property) is not None:
                return f"{found[0].name}.{found[1]}" if hasattr(found[0], "name") else found[1]
        return ""

    def find(self, wanted: str, part: float = 0.5) -> Steps:
        """Leaves the mouse over the button whose call or data path contains `wanted`; raises FlowError. part: where it
        is looked for first, of the sidebar's width."""
        if wanted in self.places:
            yield from self.move(*self.places[wanted])
            if wanted in self.under_mouse():
                return
        deadline, seen = time.monotonic() + FIND_S, set()
        for columns in (
            dict.fromkeys((part, 0.5)),
            (0.84, 0.2, 0.74, 0.36, 0.64, 0.92, 0.1),
        ):  # most buttons are wide
            if (yield from self.find_in(columns, wanted, seen, deadline)):
                return
        raise FlowError(f"there is no button '{wanted}' in the sidebar; there are: {', '.join(sorted(seen))}")

    def find_in(
        self, columns: Iterable[float], wanted: str, seen: set[str], deadline: float
    ) -> Generator[None, None, bool]:
        """Looks for a button in some columns of all of a sidebar's pages, from the top down; returns whether it is
        under the mouse. columns: parts of the sidebar's width. seen: what else was found is put there."""
        region = self.region()
        yield from self.scroll("WHEELUPMOUSE")
        for _ in range(12):  # pages
            low = self.lowest(region)
            for column in columns:
                x = region.x + int(column * (region.width - eye.TABS))
                for y in range(region.y + region.height - 4, low, -12):  # a button is 20 high
                    yield from self.move(x, y)
                    seen.add(found := self.under_mouse())
                    if wanted in found:
                        self.places[wanted] = self.mouse
                        return True
            before = eye.pixels(region)
            for _ in range(8):
                self.event("WHEELDOWNMOUSE", "PRESS")
                yield
            at_end = before is not None and np.array_equal(before, eye.pixels(region))
            if at_end or time.monotonic() > deadline:
                break
        return False

    def scroll(self, wheel: str) -> Steps:
        """To an end of the sidebar. wheel: WHEELUPMOUSE or WHEELDOWNMOUSE."""
        yield from self.over("UI")
        for _ in range(40):
            self.event(wheel, "PRESS")
        yield from self.turns(2)

    def lowest(self, region: bpy.types.Region) -> int:
        """The height at which what a sidebar shows ends."""
        return eye.lowest(region)

    # --- panels -------------------------------------------------------------------------------------

    def open_now(self) -> Steps:
        """Leaves the names of our open panels in `drawn`: Blender draws no closed ones."""
        self.drawn.clear()
        codes = {panel.draw.__code__ for panel in panels()}

        def note(frame, event: str, _) -> None:
            if event == "call" and frame.f_code in codes:
                self.drawn.add(type(frame.f_locals["self"]).__name__)

        sys.setprofile(note)  # a class whose `draw` is replaced crashes 5.2
        try:
            self.area.tag_redraw()
            yield from self.turns(3)
        finally:
            sys.setprofile(None)

    def open_panels(self, *wanted: str) -> Steps:
        """Clicks on headers until these panels are open, from the lowest up; all of them, from the top down, if none is
        named. Whether a place is a header, and whose, shows when it is clicked; a panel that this closes is clicked
        open again."""
        yield from self.open_now()
        if wanted and set(wanted) <= self.drawn:
            return
        yield from self.scroll("WHEELDOWNMOUSE" if wanted else "WHEELUPMOUSE")
        region = self.region()
        x, top = region.x + 100, region.y + region.height - 4
        for _ in range(2):  # the page that is seen first, and the other end
            y, empty = (self.lowest(region) if wanted else top), 0
            while y <= top:
                if y < self.lowest(region):  # or what it shows is being drawn
                    yield from self.turns(10)
                    if y < self.lowest(region):
                        break
                yield from self.move(x, y)
                empty = 0 if self.under_mouse() else empty + 1
                if empty == 2:
                    changed = yield from self.try_header(x, y)
                    empty = -2 if changed else 0  # the rest of the header
                    if wanted and set(wanted) <= self.drawn:
                        return
                y += 8 if wanted else -8
            if self.lowest(region) > region.y + eye.ROOM:
                break
            yield from self.scroll("WHEELUPMOUSE" if wanted else "WHEELDOWNMOUSE")
        if wanted:
            raise FlowError(f"no header opens {', '.join(set(wanted) - self.drawn)}; open: {self.drawn}")
        yield from self.open_now()
        with self.override():
            shown = {p.__name__ for p in panels() if not hasattr(p, "poll") or p.poll(bpy.context)}
        if left := shown - self.drawn:
            yield from self.open_panels(*left)

    def try_header(self, x: int, y: int) -> Generator[None, None, bool]:
        """Clicks where nothing is to be pressed; returns whether that opened a panel."""
        yield from self.open_now()
        yield from self.move(x, y)
        yield from self.turns(5)  # a busy Blender tells late what the mouse is over
        if self.under_mouse():  # what was drawn has moved since
            return False
        before = set(self.drawn)
        yield from self.click(x, y)
        yield from self.rest(OPENING_S / 3)
        yield from self.open_now()
        if self.drawn > before:
            yield from self.rest(OPENING_S)
        if before - self.drawn:
            yield from self.rest(OPENING_S)  # and no double click
            if not self.under_mouse():  # at its end, a sidebar that became shorter has moved
                yield from self.click(x, y)
                yield from self.rest(OPENING_S)
            yield from self.open_now()
        return self.drawn != before

    def press(self, wanted: str, part: float = 0.5) -> Steps:
        """Finds a button and clicks it, once what is drawn does not move any more. Raises FlowError."""
        for _ in range(8):
            yield from self.find(wanted, part)
            self.area.tag_redraw()
            yield from self.turns(5)
            yield from self.move(*self.mouse)
            if wanted in self.under_mouse():
                yield from self.click(*self.mouse)
                return
        raise FlowError(f"the button '{wanted}' does not stand still")


def panels() -> list[type]:
    """The classes of our panels in the sidebar, of every module of the installed extension."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(MODULE + ".")]
    found = {item for module in modules for item in vars(module).values() if isinstance(item, type)}
    ours = (
        item
        for item in found
        if issubclass(item, bpy.types.Panel)
        and item.__name__.startswith("MUSEV_PT")
        and item.bl_region_type == "UI"
    )
    return sorted(ours, key=lambda panel: panel.__name__)
