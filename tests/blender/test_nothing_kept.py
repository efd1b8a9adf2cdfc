"""Between two ticks the extension holds none of Blender's data: the artist, undo or another file may free it then."""

from __future__ import annotations

import gc
import sys
from types import FunctionType, GeneratorType, ModuleType

import bpy
import numpy as np
import pytest
from analytic import sphere
from bl_ext.user_default.musev.making.jobs import JobState
from bl_ext.user_default.musev.staleness import rendered, stale_watch
from conftest import MODULE, pump
from test_generate import generate, shot  # noqa: F401 (a fixture)
from test_stale import take

DATA = (bpy.types.bpy_struct, bpy.types.bpy_prop_collection, bpy.types.bpy_prop_array)
LASTING = (
    bpy.types.KeyMap,
    bpy.types.KeyMapItem,
    bpy.types.ImagePreview,
    bpy.types.Context,
    bpy.types.BlendData,
)
CLOSED = (type, ModuleType, np.ndarray, str, bytes, int, float)  # what leads to no data of a file


def held(*more) -> list[str]:
    """What of Blender's data can be reached from the variables of the extension's modules, and from `more`: through
    every container, object, closure and, of generators that wait, local variable."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith(f"{MODULE}.")]
    waiting = [
        (value, f"{module.__name__}.{name}")
        for module in ours if "websockets" not in module.__name__
        for name, value in vars(module).items() if not name.startswith("__")
    ] + [(each, "the test's") for each in more]  # fmt: skip
    seen, found = set(), []
    while waiting:
        thing, path = waiting.pop()
        if id(thing) in seen or isinstance(thing, CLOSED):
            continue
        seen.add(id(thing))
        if isinstance(thing, DATA):
            if not isinstance(thing, LASTING):
                found.append(f"{thing!r} by {path}")
            continue
        if isinstance(thing, FunctionType):
            next_ones = [*(thing.__closure__ or ()), *(thing.__defaults__ or ())]
        else:
            next_ones = gc.get_referents(thing)
        here = f"{thing.__qualname__}:{thing.gi_frame.f_lineno}" if _waits(thing) else type(thing).__name__
        waiting += [(each, f"{path} > {here}") for each in next_ones]
    return found


def _waits(thing) -> bool:
    return isinstance(thing, GeneratorType) and thing.gi_frame is not None


def kept_object():
    thing = bpy.data.objects["Dancer"]
    yield
    return thing.name


@pytest.fixture
def rendered_too(shot):  # noqa: F811
    """The shot with a ball on a handle, of which depth is rendered."""
    sphere(segments=8).add()
    ball = next(thing for thing in bpy.context.scene.objects if thing.type == "MESH")
    ball.parent = bpy.data.objects.new("Handle", None)
    bpy.context.scene.collection.objects.link(ball.parent)
    ball.keyframe_insert("location", frame=5)
    ball.location.x = 1.0
    ball.keyframe_insert("location", frame=7)
    shot.render.depth.use, shot.render.use_cache = True, False
    bpy.context.scene.frame_end = 7
    return shot


def test_what_is_held_is_found(shot):  # noqa: F811
    work = kept_object()
    next(work)
    assert held() == []
    (found,) = held({"one": [work]})
    assert "Dancer" in found and "kept_object" in found
    assert held(lambda rig=shot.armature: rig)


def test_while_a_clip_is_made_and_looked_at_nothing_is_held(engine, rendered_too):
    current = engine()
    job = generate(current)
    found: set[str] = set()

    def over() -> bool:
        found.update(held())
        return job.ended

    pump(over)
    assert job.state is JobState.DONE, job.problem
    for thorough in (False, True):
        if thorough:
            (target,) = (each for each in stale_watch._targets() if each.folder == take().folder)
            stale_watch.current.check(target)
        steps = 0
        round_ = stale_watch.current._round()
        for _ in round_:
            found.update(held(round_))
            steps += 1
        assert steps > 8
    assert not found


def test_a_scene_of_which_nothing_is_rendered_is_summed_up(empty_scene):
    work = rendered.sums(empty_scene.name, None, (1.0,), rendered.Known())
    while True:
        try:
            next(work)
        except StopIteration as end:
            assert end.value.shapes == {}
            break
