"""What all of the artist's verbs share: why one can't be pressed now, and how one that can't be done says so."""

from __future__ import annotations

import functools
from collections.abc import Callable

import bpy

from . import session, strips
from .engine_link import EngineState
from .gather import REFUSALS
from .translations import finished, tr


class Verb:
    """An operator that is greyed out with its reason."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Why it can't be pressed now, with the remedy; "" where it can. Cheap: it is asked at every redraw."""
        return ""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if why := cls.why_not(context):
            cls.poll_message_set(finished(why))
        return not why


def no_scene(context: bpy.types.Context) -> str:
    """A reason for `why_not`: there is no scene in the sequencer, or none of this file, in which nothing would stay."""
    shown = strips.shown_scene(context)
    if shown is None:
        return tr("The sequencer shows no scene; choose one in its header")
    if shown.library is not None:
        return tr(
            "The scene '{scene}' is linked from {library}, and strips placed there are not saved; append it instead",
            scene=shown.name,
            library=shown.library.filepath,
        )
    return ""


def no_engine() -> str:
    """A reason for `why_not`: the engine isn't connected."""
    state = session.current.engine.state
    if state is EngineState.ON:
        return ""
    return tr("The engine is {state}; press Start Engine first", state=tr(state.value))


def refusable(flow: Callable) -> Callable:
    """An operator's `execute` or `invoke`, of which only the flow is written: what it refuses becomes a report and
    CANCELLED, and where it returns nothing it is FINISHED. Another exception is a bug and stays one."""

    @functools.wraps(flow)
    def executed(self, context: bpy.types.Context) -> set[str]:
        return attempt(self, flow, context)

    @functools.wraps(flow)
    def invoked(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return attempt(self, flow, context, event)

    return executed if flow.__code__.co_argcount == 2 else invoked  # Blender counts the arguments


def attempt(operator: bpy.types.Operator, flow: Callable, *given) -> set[str]:
    """The one place where errors become reports."""
    try:
        return flow(operator, *given) or {"FINISHED"}
    except REFUSALS as error:
        operator.report({"ERROR"}, finished(str(error)))
        return {"CANCELLED"}
