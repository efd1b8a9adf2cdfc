"""Armatures -> the 130 points of every person, frame by frame: in the world, and in a camera's pixels.

Reads each evaluated armature's bone matrices in one call a frame and multiplies them all in one numpy pass; knows
nothing of drawings or the network. What a point hangs on is `people.Person`'s to say, what a camera sees `camera`'s.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import bpy
import numpy as np
from mathutils import Matrix

from ..protocol import POINTS, ClipRequest, PoseTrack, blob_sha256
from ..translations import tr
from .camera import Matrices, PoseError, Sights, cut, picture_matrix, project
from .face_mesh import Reader
from .occlusion import Occlusion
from .people import Person, armature_of, evaluated, evaluated_armature, placements
from .skeleton import MIRROR, NECK, PARTS, SHOULDERS

# Of the time given; the rest is for the arithmetic, and for frames that are slower than those before.
PART_OF_TICK = 0.7
# Frames worked out at once: numpy's own overhead is then small, all stays in the processor's cache, no tick is long.
# Twice as many in one go; a tick's own are worked out at its start, where their time is counted in.
BATCH = 64


class Sampler:
    """Collects what one frame after another says of some people, and works it out for all of them at once.

    Holds no Blender reference: names, indices and numbers alone. Whether it still fits is to be asked once a slice of a
    reading, because an artist may change an armature between two.
    """

    def __init__(self, depsgraph: bpy.types.Depsgraph, people: Sequence[Person]) -> None:
        """Raises PoseError where an armature or a bone has gone."""
        self.people = tuple(people)
        self.recordings = [Recording(depsgraph, person) for person in people]
        self.instances, self.nowhere_else = any(person.instance for person in people), [None] * len(people)

    def fits(self, depsgraph: bpy.types.Depsgraph) -> bool:
        """Whether the armatures have the bones they had. Raises PoseError where one has gone."""
        return all(
            evaluated_armature(depsgraph, recording.person).pose.bones.keys() == recording.names
            for recording in self.recordings
        )

    def add(self, depsgraph: bpy.types.Depsgraph, armatures: Sequence[bpy.types.Object]) -> None:
        """Takes the frame that the depsgraph stands at; armatures: the people's `armature_of`. Raises PoseError where
        an armature or an instance has gone."""
        where = placements(depsgraph, self.people) if self.instances else self.nowhere_else
        for recording, armature, placed in zip(self.recordings, armatures, where, strict=True):
            recording.add(depsgraph, evaluated(armature, depsgraph), placed)

    def points(self) -> np.ndarray:
        """(t, people, 130, 4) float64 of the frames taken: world x, y, z, and 1 where there is such a point, else 0."""
        points = np.empty((len(self.recordings[0].bones), len(self.people), POINTS, 4))
        for one, recording in enumerate(self.recordings):
            recording.put_points(points[:, one])
        return points


class Recording:
    """What Blender says of one person, frame after frame."""

    def __init__(self, depsgraph: bpy.types.Depsgraph, person: Person) -> None:
        """Raises PoseError where the armature or a bone has gone."""
        self.person = person
        self.names = evaluated_armature(depsgraph, person).pose.bones.keys()
        row_of = {name: row for row, name in enumerate(self.names)}
        if gone := [name for name in person.bones if name not in row_of]:
            raise PoseError(
                tr(
                    "Armature '{armature}' has lost the bone {bones}; generate again.",
                    armature=person.armature,
                    bones=", ".join(gone),
                )
            )
        rows = np.array([row_of[name] for name in person.bones], int)
        self.carrier, self.rows = rows[person.carrier], rows[person.rows[person.apart]]
        self.bones: list[np.ndarray] = []  # every bone's matrix in the armature's space
        self.worlds = Matrices()
        self.mirrored: list[bool] = []
        self.faces = [(Reader(face), []) for face in person.faces]  # what meshes say of the face

    def add(self, depsgraph: bpy.types.Depsgraph, posed: bpy.types.Object, placed: Matrix | None) -> None:
        """Takes the evaluated armature as it stands, at `placed` where that is not its own place."""
        bones = np.empty(len(self.names) * 16, np.float32)
        posed.pose.bones.foreach_get("matrix", bones)
        self.bones.append(bones)
        world = posed.matrix_world if placed is None else placed
        self.worlds.add(world)
        self.mirrored.append(world.is_negative)
        for reader, read in self.faces:
            read.append(reader.read(depsgraph, posed))

    def put_points(self, points: np.ndarray) -> None:
        """Fills (t, 130, 4) float64, as `Sampler.points` gives them."""
        person = self.person
        local = self._in_armature()
        if self.faces:
            _put_meshes(person, local, self.faces)
        if person.neck_between_shoulders:
            local[:, NECK] = local[:, SHOULDERS].mean(axis=1)
        np.matmul(local.astype(float), self.worlds.array().swapaxes(1, 2), out=points)
        if any(self.mirrored):  # such a figure's left is where the bones say right
            points[self.mirrored] = points[self.mirrored][:, MIRROR]

    def _in_armature(self) -> np.ndarray:
        """(t, 130, 4) float32: the points in the armature's space; float32, as Blender has its matrices.

        Most of a face hangs on one bone: its points go through one product, which costs a third of as many small ones.
        """
        person = self.person
        # Transposed, as Blender gives them.
        columns = np.concatenate(self.bones).reshape(len(self.bones), -1, 4, 4)
        local = np.empty((len(columns), POINTS, 4), np.float32)
        apart = len(person.apart)
        np.matmul(person.offsets_apart, columns.take(self.rows, axis=1), out=local[:, :apart, None])
        np.matmul(person.offsets_carried, columns[:, self.carrier], out=local[:, apart:])
        return local.take(person.in_order, axis=1)


def _put_meshes(person: Person, local: np.ndarray, faces: Sequence[tuple[Reader, list[np.ndarray]]]) -> None:
    """Puts what meshes gave into (t, 130, 4) points in the armature's space; the rest of the face follows."""
    on_bones = local[:, person.given]
    for reader, read in faces:
        given = np.array(read)
        local[:, reader.rows] = np.where(given[..., 3:] > 0, given, local[:, reader.rows])
    if person.follow is not None:
        moves = (local[:, person.given] - on_bones)[..., :3]
        local[:, PARTS["face"], :3] += person.follow.astype(np.float32) @ moves


def world_points(
    scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph, people: Sequence[Person]
) -> np.ndarray:
    """(people, 130, 4) float64 of the frame the depsgraph stands at: world x, y, z, and 1 where the person has such a
    point, else 0. Raises PoseError where an armature, a bone or an instance has gone.
    """
    sampler = Sampler(depsgraph, people)
    sampler.add(depsgraph, [armature_of(person) for person in people])
    return sampler.points()[0] if people else np.zeros((0, POINTS, 4))


def read_frame(
    scene: bpy.types.Scene,
    depsgraph: bpy.types.Depsgraph,
    people: Sequence[Person],
    camera: str | None,
    width: int,
    height: int,
) -> np.ndarray:
    """The keypoints of the frame the depsgraph stands at.

    camera: an object's name; None: the scene's own, as its markers switch it. Returns (people, 130, 3) float32: x to
    the right and y down in pixels of a `width` x `height` picture (which spans 0..width, 0..height and is cut from the
    render's as `camera` says; points may lie outside), and visibility, 1 or, for a point that is not there or behind
    the camera, 0 (with x = y = 0). Raises PoseError.
    """
    return project(
        world_points(scene, depsgraph, people), picture_matrix(scene, depsgraph, camera, width, height)
    )


def keypoints(
    scene: bpy.types.Scene,
    people: Sequence[Person],
    camera: str | None,
    width: int,
    height: int,
    times: Iterable[float],
) -> np.ndarray:
    """(t, people, 130, 3) float32 at `times` of the scene's timeline, as `read_frame` gives each, in one go.

    Leaves the scene at the frame it stood at. Raises PoseError as `read_frame` does, and for no times at all.
    """
    capture = PoseCapture(scene.name, tuple(people), camera, width, height, tuple(times))
    if not capture.times:
        raise PoseError(tr("0 frames to read a pose from; choose a range of at least 1 frame."))
    while not capture.advance(float("inf")):
        if bpy.app.is_job_running("RENDER"):
            raise PoseError(tr("A render is running and steps through the frames itself; wait for its end."))
    return np.stack(capture.read)


@dataclass
class PoseCapture:
    """`keypoints` in slices, for a timer that may not wait: a `captures.Capture`.

    scene, camera: names; camera None: the scene's own, as its markers switch it. times: where on the scene's timeline
    to read, in order, between two frames too; with_still: the last of them is the one at which the rig stands as in
    the reference still. occlusion: what becomes of points that something covers.
    """

    scene: str
    people: tuple[Person, ...]
    camera: str | None
    width: int
    height: int
    times: tuple[float, ...]
    with_still: bool = False
    occlusion: Occlusion = field(default_factory=Occlusion)
    read: list[np.ndarray] = field(default_factory=list)  # (people, 130, 3) each
    pictures: list[np.ndarray] = field(default_factory=list, repr=False)  # as `picture_matrix`, (4, 4) each
    worlds: list[np.ndarray] | None = field(default=None, repr=False)  # (people, 130, 4) each; None: not kept
    # Frames that were stepped to and not worked out yet.
    sampler: Sampler | None = field(default=None, repr=False)
    sights: Sights | None = field(default=None, repr=False)
    light: list[np.ndarray] = field(default_factory=list, repr=False)

    phase = "reading poses"

    @property
    def done(self) -> int:
        return len(self.read) + (len(self.sights) if self.sights else 0)

    @property
    def total(self) -> int:
        return len(self.times)

    def advance(self, deadline: float) -> bool:
        """Reads frames until `deadline` (time.perf_counter's clock), one at least; True once all are read.

        The scene stands at its own frame again afterwards, and the time that takes is counted in.
        Raises PoseError where something that was there has gone.
        """
        if bpy.app.is_job_running("RENDER"):  # it steps through the frames itself
            return False
        scene = bpy.data.scenes.get(self.scene)
        if scene is None:
            raise PoseError(
                tr("Scene '{scene}' is no longer in this file; generate again.", scene=self.scene)
            )
        now = time.perf_counter()
        deadline = now + PART_OF_TICK * (deadline - now)
        if self.sights and len(self.sights) >= BATCH:
            self._work_out()
        before, own_camera = scene.frame_current_final, scene.camera
        started = time.perf_counter()
        try:
            for steps, moment in enumerate(self.times[self.done :]):
                # The next step and the one back, each as long as the steps so far were on average.
                if steps and now + (now - started) / steps * 2 > deadline:
                    break
                stand_at(scene, moment)
                depsgraph = scene.view_layers[0].depsgraph
                if not steps:
                    armatures = [armature_of(person) for person in self.people]
                if not steps or len(self.sights) == 2 * BATCH:
                    self._prepare(scene, depsgraph)
                self.sampler.add(depsgraph, armatures)
                if self.occlusion.needed:
                    self.light.append(self._light(scene, depsgraph))
                self.sights.add(scene, depsgraph)
                now = time.perf_counter()
        finally:
            stand_at(scene, before)
            if scene.camera != own_camera:  # a marker has switched it on the way
                scene.camera = own_camera
        if self.done == self.total:
            self._work_out()
        return self.done == self.total

    def _prepare(self, scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
        """For the next frames: between two slices the artist may have changed the armatures and the render's size."""
        part = cut(scene.render, self.width, self.height)
        if self.sights is not None and (
            len(self.sights) == 2 * BATCH or self.sights.part != part or not self.sampler.fits(depsgraph)
        ):
            self._work_out()
        if self.sights is None:
            self.sampler, self.sights = Sampler(depsgraph, self.people), Sights(self.camera, part)

    def _work_out(self) -> None:
        """Turns the frames stepped to into keypoints."""
        if self.sights:
            points, pictures = self.sampler.points(), self.sights.pictures()
            keypoints = project(points, pictures[:, None])
            of_faces = self.occlusion.of_faces(points, pictures)
            keypoints[..., 2] *= np.minimum(of_faces, self.light) if self.light else of_faces
            self.read += list(keypoints)
            self.pictures += list(pictures)
            if self.worlds is not None:
                self.worlds += list(points)
        self.sampler, self.sights, self.light = None, None, []

    def _light(self, scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> np.ndarray:
        """What the visibility of each point, (people, 130), is to be multiplied by."""
        points = world_points(scene, depsgraph, self.people)
        where = self.camera, self.width, self.height
        return self.occlusion.visible(scene, depsgraph, self.people, points, *where)

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        """The request with the poses named in it, and their bytes by sha256. Raises ProtocolError."""
        points = np.array(self.read, "<f4")
        still_pose, points = (points[-1], points[:-1]) if self.with_still else (None, points)
        track = PoseTrack(
            self.width, self.height, request.fps, len(points), len(self.people), points.tobytes(),
            None if still_pose is None else still_pose.tobytes(),
        ).to_bytes()  # fmt: skip
        sha256 = blob_sha256(track)
        return dataclasses.replace(request, poses=sha256), {sha256: track}

    def cancel(self) -> None:
        """Nothing was changed."""


def stand_at(scene: bpy.types.Scene, moment: float) -> None:
    """Moves the scene to a time of its timeline, between two frames too."""
    if moment == (frame := int(moment // 1)):
        scene.frame_set(frame)
    else:
        scene.frame_set(frame, subframe=moment - frame)
