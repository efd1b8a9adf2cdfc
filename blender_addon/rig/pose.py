"""Armature -> body-18 keypoints in camera pixels, and the bone names of the rigs people really have.

Works on an evaluated armature's bone matrices and one projection matrix a frame; knows nothing of drawings,
requests or the network. The eighteen points and their order are OpenPose's COCO-18 (Cao et al., "Realtime
Multi-Person 2D Pose Estimation", 2017), which the pose ControlNet of Stable Diffusion 1.5 was trained on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import bpy
import numpy as np

from ..captures import CaptureError
from ..protocol import POINTS, ClipRequest, PoseTrack, blob_sha256

BODY_18 = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
NECK = BODY_18.index("neck")
SHOULDERS = [BODY_18.index("right_shoulder"), BODY_18.index("left_shoulder")]

# Where the face sits on a head bone without face bones: (to the character's left, to the front, up) from the
# bone's head, in head lengths. Measured on Rigify's human metarig, whose head bone spans neck to crown.
FACE_ON_HEAD = {
    "nose": (0.0, 0.875, 0.297),
    "left_eye": (0.26, 0.623, 0.552),
    "right_eye": (-0.26, 0.623, 0.552),
    "left_ear": (0.463, 0.043, 0.407),
    "right_ear": (-0.463, 0.043, 0.407),
}
HEAD_PER_TORSO = 0.39  # head length over the distance hips-shoulders, on the same metarig


class PoseError(CaptureError):
    """No pose can be read: what was looked for, where, and what to do about it."""


@dataclass(frozen=True)
class RigNames:
    """One family of rigs. `{s}` in a name stands for the side; every limb name means the bone's head."""

    title: str
    sides: tuple[str, str]  # (left, right)
    limbs: dict[str, str]
    head: str
    face: dict[str, tuple[str, str]]  # nose, eye, ear -> (bone, "head" | "tail"); used where present
    head_has_length: bool = True  # False: leaf bones of this family come in with arbitrary lengths

    def body(self) -> dict[str, str]:
        """Keypoint -> bone for the twelve limb points."""
        left, right = self.sides
        return {
            f"{side}_{limb}": name.format(s=token)
            for side, token in (("right", right), ("left", left))
            for limb, name in self.limbs.items()
        }

    def face_bones(self) -> dict[str, tuple[str, str]]:
        """Keypoint -> (bone, end) for nose, eyes and ears, as far as this family has bones for them."""
        left, right = self.sides
        found = {}
        for part, (name, end) in self.face.items():
            if part == "nose":
                found["nose"] = (name, end)
            else:
                found[f"left_{part}"] = (name.format(s=left), end)
                found[f"right_{part}"] = (name.format(s=right), end)
        return found


RIGIFY_LIMBS = {
    "shoulder": "upper_arm.{s}", "elbow": "forearm.{s}", "wrist": "hand.{s}",
    "hip": "thigh.{s}", "knee": "shin.{s}", "ankle": "foot.{s}",
}  # fmt: skip
MIXAMO_LIMBS = {
    "shoulder": "{s}Arm", "elbow": "{s}ForeArm", "wrist": "{s}Hand",
    "hip": "{s}UpLeg", "knee": "{s}Leg", "ankle": "{s}Foot",
}  # fmt: skip
UNREAL_LIMBS = {
    "shoulder": "upperarm_{s}", "elbow": "lowerarm_{s}", "wrist": "hand_{s}",
    "hip": "thigh_{s}", "knee": "calf_{s}", "ankle": "foot_{s}",
}  # fmt: skip

RIGIFY_GENERATED = RigNames(
    "Rigify generated rig", ("L", "R"),
    {limb: "DEF-" + name for limb, name in RIGIFY_LIMBS.items()}, "DEF-spine.006",
    {"nose": ("DEF-nose.002", "head"), "eye": ("ORG-eye.{s}", "tail"), "ear": ("DEF-ear.{s}", "head")},
)  # fmt: skip
RIGIFY_METARIG = RigNames(
    "Rigify metarig", ("L", "R"), RIGIFY_LIMBS, "spine.006",
    {"nose": ("nose.002", "head"), "eye": ("eye.{s}", "tail"), "ear": ("ear.{s}", "head")},
)  # fmt: skip
UNREAL = RigNames("Unreal", ("l", "r"), UNREAL_LIMBS, "head", {}, head_has_length=False)


def mixamo(prefix: str) -> RigNames:
    """Mixamo's names behind `prefix` ("mixamorig:", "mixamorig1:", or nothing after a rename)."""
    return RigNames(
        f"Mixamo ({prefix or 'no prefix'})", ("Left", "Right"),
        {limb: prefix + name for limb, name in MIXAMO_LIMBS.items()}, prefix + "Head",
        {"eye": (prefix + "{s}Eye", "head")},
    )  # fmt: skip


def families(bone_names: Iterable[str]) -> list[RigNames]:
    """The families to try on these bones, in order. A Mixamo prefix is read off the bones themselves."""
    prefixes = sorted({name.removesuffix("LeftArm") for name in bone_names if name.endswith("LeftArm")})
    return [RIGIFY_GENERATED, RIGIFY_METARIG, *(mixamo(p) for p in prefixes or ["mixamorig:"]), UNREAL]


@dataclass(frozen=True)
class Anchors:
    """Where the points of one armature hang: keypoint k is `pose matrix of bones[k] @ offsets[k]`.

    Plain data, safe to keep between ticks. The neck has no bone; its row repeats the left shoulder's and is
    overwritten with the middle of the shoulders.
    """

    armature: str
    title: str
    bones: tuple[str, ...]
    offsets: np.ndarray  # (18, 4) float64, bone space, homogeneous


def resolve(armature: bpy.types.Object) -> Anchors:
    """Finds the eighteen points on an armature by its bones' names.

    Raises PoseError for an object that is no armature, and for missing bones: names them and the map tried.
    """
    if armature.type != "ARMATURE":
        raise PoseError(
            f"'{armature.name}' is a {armature.type.lower()}, not an armature; choose the rig itself."
        )
    bones = armature.data.bones
    tried = families(bones.keys())
    missing = [[b for b in (*names.body().values(), names.head) if b not in bones] for names in tried]
    best = min(range(len(tried)), key=lambda i: len(missing[i]))
    names = tried[best]
    if missing[best]:
        others = [family for family in tried if family is not names]
        raise PoseError(
            f"Armature '{armature.name}' has no bone {', '.join(missing[best])} "
            f"(closest name map: {names.title}; also tried: {', '.join(n.title for n in others)}). "
            "Rename the bones to one of these."
        )
    body = names.body()
    bone_of = dict.fromkeys(BODY_18, names.head) | body | {"neck": body["left_shoulder"]}
    offset_of = {point: np.zeros(3) for point in body} | {"neck": np.zeros(3)} | _face_estimate(bones, names)
    for point, (bone, end) in names.face_bones().items():
        if bone in bones:
            bone_of[point] = bone
            offset_of[point] = np.array([0.0, bones[bone].length if end == "tail" else 0.0, 0.0])
    offsets = np.ones((len(BODY_18), 4))
    offsets[:, :3] = [offset_of[point] for point in BODY_18]
    return Anchors(armature.name, names.title, tuple(bone_of[point] for point in BODY_18), offsets)


def _face_estimate(bones, names: RigNames) -> dict[str, np.ndarray]:
    """Nose, eyes and ears in the head bone's space, guessed from the rest pose.

    Left, up and front come from hips and shoulders, not from the bone's roll, which every exporter sets
    its own way.
    """
    at = {point: np.array(bones[bone].head_local) for point, bone in names.body().items()}
    shoulders = (at["left_shoulder"] + at["right_shoulder"]) / 2
    spine = shoulders - (at["left_hip"] + at["right_hip"]) / 2
    left = at["left_shoulder"] - at["right_shoulder"]
    up = spine / np.linalg.norm(spine)
    left = left - up * (left @ up)
    left /= np.linalg.norm(left)
    axes = np.stack([left, np.cross(left, up), up])  # a character facing -Y has its left at +X
    head = bones[names.head]
    size = head.length if names.head_has_length else HEAD_PER_TORSO * np.linalg.norm(spine)
    to_bone = np.array(head.matrix_local.to_3x3().inverted())
    return {point: to_bone @ (size * np.array(where) @ axes) for point, where in FACE_ON_HEAD.items()}


def projection(scene, depsgraph, camera_name: str, width: int, height: int) -> np.ndarray:
    """The (4, 4) matrix from world space to the clip space of a width x height picture (w < 0: behind)."""
    camera = scene.objects.get(camera_name)
    if camera is None or camera.type != "CAMERA":
        raise PoseError(
            f"Scene '{scene.name}' has no camera '{camera_name}'; choose a camera that is in this scene."
        )
    camera = camera.evaluated_get(depsgraph)
    lens = camera.calc_matrix_camera(
        depsgraph, x=width, y=height, scale_x=scene.render.pixel_aspect_x, scale_y=scene.render.pixel_aspect_y
    )
    # As when rendering, an object's scale does not reach its camera.
    view = camera.matrix_world.normalized().inverted()
    return np.array(lens @ view)


def project_frame(
    scene, depsgraph, people: Sequence[Anchors], camera_name: str, width: int, height: int
) -> np.ndarray:
    """The keypoints of the frame the depsgraph stands at.

    Returns (people, 18, 3) float32: x to the right and y down in pixels of a `width` x `height` picture (the
    picture spans 0..width, 0..height; points may lie outside), and visibility, 1 or, behind the camera, 0
    (with x = y = 0). Raises PoseError where the camera, an armature or a bone has gone.
    """
    clip = projection(scene, depsgraph, camera_name, width, height)
    keypoints = np.zeros((len(people), len(BODY_18), 3), np.float32)
    for person, anchors in enumerate(people):
        armature = scene.objects.get(anchors.armature)
        if armature is None:
            raise PoseError(
                f"Armature '{anchors.armature}' is no longer in scene '{scene.name}'; choose it again."
            )
        armature = armature.evaluated_get(depsgraph)
        bones = armature.pose.bones
        if gone := [name for name in anchors.bones if name not in bones]:
            raise PoseError(
                f"Armature '{anchors.armature}' has lost the bone {', '.join(gone)}; generate again."
            )
        matrices = np.array([bones[name].matrix for name in anchors.bones])  # (18, 4, 4)
        points = np.einsum("kij,kj->ki", matrices, anchors.offsets)
        points[NECK] = points[SHOULDERS].mean(axis=0)
        points = points @ (clip @ np.array(armature.matrix_world)).T  # (18, 4) in clip space
        seen = points[:, 3] > 1e-6
        ndc = points[seen, :2] / points[seen, 3:]
        keypoints[person, seen, 0] = (ndc[:, 0] + 1) / 2 * width
        keypoints[person, seen, 1] = (1 - ndc[:, 1]) / 2 * height
        keypoints[person, seen, 2] = 1.0
    return keypoints


def keypoints(
    scene,
    depsgraph,
    armature_names: Sequence[str],
    camera_name: str,
    width: int,
    height: int,
    frames: Iterable[int],
) -> np.ndarray:
    """(t, people, 18, 3) float32 over `frames` of the scene's timeline, as `project_frame` gives each.

    Steps the scene through the frames and leaves it at the frame it stood at. Raises PoseError as
    `resolve` and `project_frame` do, and for no frames at all.
    """
    people = [resolve(find_armature(scene, name)) for name in armature_names]
    before = scene.frame_current_final
    track = []
    try:
        for frame in frames:
            scene.frame_set(frame)
            track.append(project_frame(scene, depsgraph, people, camera_name, width, height))
    finally:
        scene.frame_set(int(before // 1), subframe=before % 1)
    if not track:
        raise PoseError("0 frames to read a pose from; choose a range of at least 1 frame.")
    return np.stack(track)


@dataclass
class PoseCapture:
    """`keypoints` in slices, for a timer that may not wait: a `captures.Capture`.

    scene, camera: names. times: which frames of the scene's timeline to read, in order, between two of them too;
    with_still: the last of them is the one at which the rig stands as in the reference still.
    """

    scene: str
    people: tuple[Anchors, ...]
    camera: str
    width: int
    height: int
    times: tuple[float, ...]
    with_still: bool = False
    read: list[np.ndarray] = field(default_factory=list)  # (people, 18, 3) each

    phase = "reading poses"

    @property
    def done(self) -> int:
        return len(self.read)

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
            raise PoseError(f"Scene '{self.scene}' is no longer in this file; generate again.")
        before = scene.frame_current_final
        slowest = 0.0
        try:
            while self.done < self.total:
                started = time.perf_counter()
                if slowest and started + 2 * slowest > deadline:
                    break
                frame, part = divmod(self.times[self.done], 1)
                scene.frame_set(int(frame), subframe=part)
                depsgraph = scene.view_layers[0].depsgraph
                self.read.append(
                    project_frame(scene, depsgraph, self.people, self.camera, self.width, self.height)
                )
                slowest = max(slowest, time.perf_counter() - started)
        finally:
            scene.frame_set(int(before // 1), subframe=before % 1)
        return self.done == self.total

    def finish(self, request: ClipRequest) -> tuple[ClipRequest, dict[str, bytes]]:
        """The request with the poses named in it, and their bytes by sha256. Raises ProtocolError."""
        points = np.zeros((len(self.read), len(self.people), POINTS, 3), "<f4")
        points[:, :, : len(BODY_18)] = self.read
        still_pose, points = (points[-1], points[:-1]) if self.with_still else (None, points)
        track = PoseTrack(
            self.width, self.height, request.fps, len(points), len(self.people), points.tobytes(),
            None if still_pose is None else still_pose.tobytes(),
        ).to_bytes()  # fmt: skip
        sha256 = blob_sha256(track)
        return dataclasses.replace(request, poses=sha256), {sha256: track}

    def cancel(self) -> None:
        """Nothing was changed."""


def find_armature(scene, name: str) -> bpy.types.Object:
    """The armature object `name` of a scene. Raises PoseError if it is not there."""
    armature = scene.objects.get(name)
    if armature is None:
        raise PoseError(
            f"Scene '{scene.name}' has no armature '{name}'; choose an armature that is in this scene."
        )
    return armature
