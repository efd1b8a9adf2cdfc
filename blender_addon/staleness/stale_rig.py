"""Whether the rigs and the camera of a take move and stand as they did when it was made.

Their keys are summed up and compared with what the take has kept (`origins`); at the frame in view, or in a thorough
check at all of the take's, so are the points that the camera sees with the poses that the take was made from.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import bpy
import numpy as np

from ..captures import CaptureError
from ..clips import kept, takes
from ..clips.clip_folder import Take
from ..protocol import POINTS, PoseTrack, ProtocolError
from ..rig.camera import picture_matrix, project
from ..rig.maps import MapError
from ..rig.people import Person, armature_of, resolve
from ..rig.pose import PoseCapture, world_points
from ..translations import tr
from . import motion, origins
from .take_parts import Change, Memo, Part, Steps, concerns, parts_of

TOLERANCE = 0.5  # of the clip's pixels: what moved less is where it was
SLICE_S = 0.003


@dataclass(frozen=True)
class Actors:
    """Who is in a take, found in the scene as it is now. scene: where they stand. camera: an object's name, or None for
    that scene's own. changes: who was exchanged, or has gone; then there may be no people."""

    scene: str
    people: tuple[Person, ...]
    camera: str | None
    changes: tuple[Change, ...] = ()


class Roles(NamedTuple):
    """What a take tells of its characters and camera. concerned: whether the panel is for them."""

    people: tuple[str, ...]
    camera: str | None
    concerned: bool


def roles(owner: bpy.types.Scene, part: Part) -> Roles:
    """Raises nothing: what isn't told is left out."""
    told, settings = part.inputs, owner.musev
    names = tuple(str(each.get("name")) for each in told.get("people") or () if isinstance(each, dict))
    own = part.own("mode", "armature", "people", "camera")
    concerned, camera = settings.mode == "pose" and not own and concerns(owner, part), told.get("camera")
    return Roles(names, camera if isinstance(camera, str) else None, concerned)


def actors(owner: bpy.types.Scene, was: Roles) -> Actors:
    """A rig or camera that the take names is looked for by that name, and where it has gone, for it was renamed, it is
    the panel's. Raises CaptureError and MapError."""
    settings = owner.musev
    chosen = {item.shown_name: item for item in settings.people if item.use and item.armature is not None}
    if not settings.people and settings.armature is not None:
        chosen = {settings.armature.name: settings.armature}
    found = {name: _found(name, settings) for name in was.people}
    changes = []
    if not all(found.values()):
        if not was.concerned or len(chosen) != len(was.people):
            gone = ", ".join(name for name in was.people if not found[name])
            return Actors("", (), None, (Change("rig", tr("The rig '{name}' is gone.", name=gone)),))
        found = chosen
    elif was.concerned and chosen and set(chosen) != set(was.people):
        changes.append(Change("rig", tr("The rig was '{name}'.", name=", ".join(was.people))))
    people = tuple(
        resolve(each) if isinstance(each, bpy.types.Object) else each.person() for each in found.values()
    )
    if not people:
        return Actors("", (), None)
    stands = people[0].instance.parent if people[0].instance else armature_of(people[0]).name
    world = next((scene for scene in (owner, *bpy.data.scenes) if stands in scene.objects), owner)
    camera, panels = was.camera, settings.camera.name if settings.camera is not None else None
    if camera is not None and camera not in world.objects:
        camera = panels
    elif was.concerned:
        own = world.camera.name if world.camera is not None else None
        if (panels or own) != (camera or own):
            changes.append(Change("camera", tr("The camera was '{name}'.", name=camera or own)))
        camera = panels
    return Actors(world.name, people, camera, tuple(changes))


def _found(name: str, settings):
    """A character of the list, or the armature of that name; None where there is neither."""
    for item in settings.people:
        if item.armature is not None and item.shown_name == name:
            return item
    thing = bpy.data.objects.get(name)
    return thing if thing is not None and thing.type == "ARMATURE" else None


def _known_actors(name: str, part: Part, memo: Memo) -> Actors | None:
    """`actors`, looked up again only where something was edited; None where a rig can't be read any more."""
    owner = bpy.data.scenes.get(name)
    if owner is None:
        return None
    settings, was = owner.musev, roles(owner, part)
    chosen = [thing and thing.name for thing in (settings.armature, settings.camera)]
    used = tuple((item.name, item.use) for item in settings.people)
    key = (memo.edits, name, was, *chosen, used)
    if key not in memo.people:
        if len(memo.people) > 32:
            memo.people.clear()
        try:
            memo.people[key] = actors(owner, was)
        except (CaptureError, MapError):
            memo.people[key] = None
    return memo.people[key]


def keys(name: str, part: Part, memo: Memo) -> Steps:
    """Whether keys were edited that move the rigs or the camera."""
    who = _known_actors(name, part, memo)
    if who is None:
        return ()
    found = list(who.changes)
    for what, sums in (yield from _sums(part, who, memo)).items():
        moved = sorted(set(motion.different(part.origins.get(what, ""), sums)) & set(part.counts))
        if moved and (part.take.folder, what, sums) not in memo.harmless:
            found.append(_edited(what, part, moved))
    return tuple(found)


def _sums(part: Part, who: Actors, memo: Memo) -> Generator[None, None, dict[str, str]]:
    """The sums of the keys as they are now, by 'rig' and 'camera'; none where they can't be compared."""
    if not who.people or part.origins.get("system") != origins.system():
        return {}
    key = (memo.edits, memo.keys, who, part.times)
    if key not in memo.sums:
        if len(memo.sums) > 64:
            memo.sums.clear()
        sums = {}
        for what in ("rig", "camera"):
            yield
            sums[what] = yield from _sum(what, part, who, memo)
        memo.sums[key] = sums
    return memo.sums[key]


def _sum(what: str, part: Part, who: Actors, memo: Memo) -> Generator[None, None, str]:
    """One of them. Without another edit of keys it is taken from the memo, as far as the same actions play."""
    if bpy.data.scenes.get(who.scene) is None:
        return ""
    if (known := (memo.edits, memo.keys, who, what)) not in memo.blocks:
        if len(memo.blocks) > 16:
            memo.blocks.clear()
        world = bpy.data.scenes[who.scene]
        found = origins.rig_blocks(who.people) if what == "rig" else origins.camera_blocks(world, who.camera)
        memo.blocks[known] = found
        del world
        yield
    summed = motion.Motion(memo.blocks[known], part.times)
    if what == "camera" and who.scene in bpy.data.scenes:
        origins.add_switches(summed, bpy.data.scenes[who.scene], who.camera)
    key = (memo.keys, summed.blocks, motion.assigned(summed.blocks), summed.told(), summed.times)
    if key not in memo.digests:
        while not summed.advance(time.perf_counter() + SLICE_S):
            yield
        if len(memo.digests) > 64:
            memo.digests.clear()
        memo.digests[key] = summed.told()
    return memo.digests[key]


def _edited(what: str, part: Part, numbers: Sequence[int]) -> Change:
    where = frames(part, numbers)
    if what == "rig":
        return Change("rig", tr("Keys of the rig were edited: frames {where}.", where=where))
    return Change("camera", tr("Keys of the camera were edited: frames {where}.", where=where))


def _stands(what: str, part: Part, numbers: Sequence[int]) -> Change:
    where = frames(part, numbers)
    if what == "rig":
        return Change("rig", tr("The rig stands otherwise: frames {where}.", where=where))
    return Change("camera", tr("The camera sees it otherwise: frames {where}.", where=where))


def frames(part: Part, numbers: Sequence[int]) -> str:
    """'12 - 30, 41': generated frames as ranges of the timeline."""
    ranges: list[list[int]] = []
    for i in sorted(numbers):
        if ranges and i == ranges[-1][1] + 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    at = part.times
    said = [f"{at[a]:g}" if a == b else f"{at[a]:g} - {at[b]:g}" for a, b in ranges[:3]]
    return ", ".join(said) + (" …" if len(ranges) > 3 else "")


def track_of(part: Part, memo: Memo) -> PoseTrack | None:
    """The poses that the take was made from; None where they are not kept, or not yet."""
    sha256 = part.take.request.get("poses")
    if sha256 not in memo.tracks:
        if len(memo.tracks) > 8:
            memo.tracks.clear()
        try:
            raw = kept.read(part.take.folder.parent, [sha256])[sha256]
            memo.tracks[sha256] = PoseTrack.from_bytes(raw)
        except (takes.TakeError, ProtocolError):
            return None
    return memo.tracks[sha256]


def look(name: str, take: Take, memo: Memo, update: bool = False) -> tuple[Change, ...] | None:
    """How rigs and camera stand at the frame in view, beside how they stood there; None where that is no frame of the
    take, or nothing is to be seen. update: where the scene may not be evaluated yet, as in scripts."""
    for part in parts_of(take, memo):
        if part.follows_a_rig and (seen := _look(name, part, memo, update)) is not None:
            return seen
    return None


def _look(name: str, part: Part, memo: Memo, update: bool) -> tuple[Change, ...] | None:
    who, track = _known_actors(name, part, memo), track_of(part, memo)
    world = bpy.data.scenes.get(who.scene) if who is not None else None
    if world is None or track is None or not who.people or world.frame_subframe:
        return None
    number = next((i for i in part.counts if part.times[i] == world.frame_current), None)
    depsgraph = _evaluated(world, update)
    if number is None or depsgraph is None or any(armature_of(p).mode == "EDIT" for p in who.people):
        return None
    try:
        points = world_points(world, depsgraph, who.people)
        now = picture_matrix(world, depsgraph, who.camera, track.width, track.height)
    except CaptureError:
        return None
    return tuple(
        _stands(what, part, [number]) for what in _moved(part, track, [number], points[None], now[None])
    )


def _evaluated(world: bpy.types.Scene, update: bool) -> bpy.types.Depsgraph | None:
    """The scene as a window shows it, where it stands at the scene's frame. update: has it do so first."""
    windows = bpy.context.window_manager.windows
    layers = [window.view_layer for window in windows if window.scene == world]
    layer = layers[0] if layers else world.view_layers[0]
    if update:
        layer.update()
    depsgraph = layer.depsgraph
    return (
        depsgraph
        if depsgraph is not None and depsgraph.scene_eval.frame_current == world.frame_current
        else None
    )


def _moved(
    part: Part, track: PoseTrack, numbers: Sequence[int], points: np.ndarray, now: np.ndarray
) -> dict[str, list[int]]:
    """What stands otherwise, and at which generated frames. points: (t, people, 130, 4) in the world, now: (t, 4, 4)
    picture matrices, both of the generated frames `numbers`."""
    was = np.frombuffer(track.points, "<f4").reshape(track.shape)[list(numbers)]
    seen_now, size = project(points, now[:, None]), (track.width, track.height)
    if was.shape != seen_now.shape:
        return {"rig": list(numbers)}
    cameras = np.array(part.origins.get("cameras") or (), float).reshape(-1, 4, 4)
    if not len(cameras):  # not told: which of both it is can't be known
        apart = _apart(was, seen_now, size)
        return (
            {"rig": [number for number, is_apart in zip(numbers, apart, strict=True) if is_apart]}
            if apart.any()
            else {}
        )
    then = cameras[[number if len(cameras) > 1 else 0 for number in numbers]]
    seen_then, found = project(points, then[:, None]), {}
    for what, apart in (("rig", _apart(was, seen_then, size)), ("camera", _apart(seen_then, seen_now, size))):
        if apart.any():
            found[what] = [number for number, is_apart in zip(numbers, apart, strict=True) if is_apart]
    return found


def _apart(one: np.ndarray, other: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(t,) bool: whether points that `one` shows lie elsewhere in `other` or are missing there; both (t, people, 130,
    3) in pixels. What is far outside the picture counts as at its edge."""
    low, high = -np.array(size), 2 * np.array(size)
    moves = np.abs(np.clip(one[..., :2], low, high) - np.clip(other[..., :2], low, high)).max(axis=-1)
    differs = (one[..., 2] > 0) & ((other[..., 2] == 0) | (moves > TOLERANCE))
    return differs.reshape(-1, one.shape[1] * POINTS).any(axis=1)


def poses(name: str, part: Part, memo: Memo) -> Steps:
    """All the take's poses, read anew. The frame in view is there again after every slice."""
    who, track = _known_actors(name, part, memo), track_of(part, memo)
    if who is None or not who.people:
        return who.changes if who is not None else (Change("rig", tr("The rig can't be read any more.")),)
    if track is None:
        return who.changes
    times = tuple(part.times[i] for i in part.counts)
    capture = PoseCapture(who.scene, who.people, who.camera, track.width, track.height, times, worlds=[])
    try:
        while not capture.advance(time.perf_counter() + SLICE_S):
            yield
    except CaptureError as error:
        return (Change("rig", str(error)),)
    found = _moved(part, track, part.counts, np.array(capture.worlds), np.array(capture.pictures))
    if not found:
        for what, sums in (yield from _sums(part, who, memo)).items():
            memo.harmless.add((part.take.folder, what, sums))
    return (*(_stands(what, part, numbers) for what, numbers in found.items()), *who.changes)
