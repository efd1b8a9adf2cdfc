"""Whether the camera sees a point of a person, or something stands before it: rays against the evaluated scene.

A ray goes from each point towards the camera. What it meets is the person's own body or something else, and each of
the two may be kept (drawn as if nothing were there), dimmed or hidden. Joints lie inside the body, so its skin over
them does not count: what does is the body met again behind that skin, or skin farther off than the part is thick.

Joints are kept by default: so are they in the pictures that pose ControlNets were trained on, because OpenPose's
networks learned from COCO's people, whose annotators marked joints that something covers too ("labelled but not
visible", cocodataset.org/#format-data), so they find most of them. Faces that look away are not: see `facing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import bpy
import numpy as np
from bpy.props import EnumProperty

from .facing import turned_away
from .people import Person
from .skeleton import INDEX, NAMES
from .surfaces import Rays, Surfaces

# What a covered point's visibility is multiplied by; 'face' is for those of a face that looks away alone.
LIGHT = {"keep": 1.0, "face": 0.0, "dim": 0.5, "hide": 0.0}

# In torsos (the middle of the shoulders to the middle of the hips, about half a metre in a grown person):
# What may lie on the skin before it counts as something else: clothes, hair; one looks along the cheeks at ears.
MARGIN = np.full(len(NAMES), 0.08)
MARGIN[[INDEX["left_ear"], INDEX["right_ear"]]] = 0.3
TOUCH = 0.02  # how near others may come
# How far under the skin a point may lie. Beyond, it is seen through the body: a nose from behind, a far hip.
DEPTH = np.full(len(NAMES), 0.12)
for _points, _depth in (
    (("shoulder", "hip"), 0.45), (("elbow", "wrist", "knee", "ankle"), 0.25), (("eye",), 0.14), (("ear",), 0.3),
):  # fmt: skip
    DEPTH[[INDEX[f"{side}_{point}"] for side in ("left", "right") for point in _points]] = _depth
DEPTH[INDEX["neck"]] = 0.6  # in the middle of the shoulders, one of which lies before it from the side
MOST_HITS = 32  # of one ray in one mesh; a ray through more than that is through anything
COVERED = (
    ("keep", "Keep", "Draw them as if nothing were there; it costs nothing"),
    ("dim", "Dim", "Draw them at half their brightness"),
    ("hide", "Hide", "Leave them out, and their limbs with them"),
)
TURNED_FACE = (
    "face", "Hide Turned Face",
    "Leave out eyes, ears, nose and face where the head looks away, and keep all else, as in the pictures that "
    "models learn from; it costs nothing",
)  # fmt: skip


def redraw_views(settings=None, context=None) -> None:
    """Draws every 3-D viewport anew, for the overlay."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


class MusevOcclusionSettings(bpy.types.PropertyGroup):
    own: EnumProperty(
        name="Behind Itself", items=(TURNED_FACE, *COVERED), default="face", update=redraw_views,
        description="What becomes of points that the character's own body, clothes and props cover",
    )  # fmt: skip
    others: EnumProperty(
        name="Behind Others", items=COVERED, default="keep", update=redraw_views,
        description="What becomes of points that anything else covers: scenery, other characters",
    )  # fmt: skip

    def chosen(self) -> Occlusion:
        """For one reading."""
        return Occlusion(self.own, self.others)


@dataclass
class Occlusion:
    """What covered points become, and what is known of the scene's objects, by name, while one reading goes on.

    own, others: 'keep', 'dim' or 'hide' points behind the person's own body, and behind anything else; own may be
    'face', which leaves out what is of a face that looks away, and keeps the rest.
    """

    own: str = "keep"
    others: str = "keep"
    _surfaces: Surfaces = field(default_factory=Surfaces, repr=False, compare=False)

    @property
    def needed(self) -> bool:
        """Whether rays are to be cast."""
        return self.own not in ("keep", "face") or self.others != "keep"

    def of_faces(self, points: np.ndarray, picture: np.ndarray) -> np.ndarray:
        """float32, what the visibility of points (..., people, 130, 4) is to be multiplied by for the way that faces
        look, seen by `camera.picture_matrix`es (..., 4, 4)."""
        if self.own == "keep":
            return np.ones(points.shape[:-1], np.float32)
        return np.where(turned_away(points, picture), LIGHT[self.own], 1.0).astype(np.float32)

    def visible(
        self,
        scene: bpy.types.Scene,
        depsgraph: bpy.types.Depsgraph,
        people: Sequence[Person],
        points: np.ndarray,
        camera: str | None,
        width: int,
        height: int,
    ) -> np.ndarray:
        """(people, 130) float32, what each point's visibility is to be multiplied by.

        points: (people, 130, 4) as `pose.world_points` gives them. Points outside the width x height picture are not
        looked at: they stay, so that limbs reach its border. Objects count as a render shows them: those hidden from
        it or from the camera, and see-through materials, cover nothing; those hidden in the viewport alone do, as they
        were last seen and without their modifiers. Raises PoseError.
        """
        light = np.ones(points.shape[:2], np.float32)
        if not self.needed or not len(people):
            return light
        rays = Rays.to_camera(scene, depsgraph, points, camera, width, height)
        if not len(rays.person):
            return light
        own_hits: list[list[tuple[float, bool]]] = [[] for _ in rays.person]
        covered = np.zeros(len(rays.person), bool)
        size = torsos(points)
        for owners, faces in self._surfaces.met(depsgraph, people):
            is_own = np.isin(rays.person, list(owners))
            wanted = np.where(is_own, self.own in ("dim", "hide"), self.others != "keep") & ~covered
            for ray, hits in faces.near(rays, wanted):
                if is_own[ray]:
                    own_hits[ray] += hits(0.0, MOST_HITS)
                else:
                    covered[ray] = bool(hits(TOUCH * size[rays.person[ray]], 1))
        for ray, hits in enumerate(own_hits):
            person, point = rays.person[ray], rays.point[ray]
            if hits and behind_own_body(
                sorted(hits), DEPTH[point] * size[person], MARGIN[point] * size[person]
            ):
                light[person, point] = LIGHT[self.own]
        at = rays.person[covered], rays.point[covered]
        light[at] = np.minimum(light[at], LIGHT[self.others])
        return light


def behind_own_body(hits: Sequence[tuple[float, bool]], depth: float, margin: float) -> bool:
    """Whether a person's own body covers a point, from what its ray meets of it: (distance, leaving), nearest first.

    depth: how far under the skin such a point may lie; margin: how far before the skin its clothes may. The skin is
    where the ray has left as many parts as the point lies in, for bodies are often made of parts that overlap.
    """
    inside = sum(1 if leaving else -1 for _, leaving in hits)
    skin = 0.0
    for distance, leaving in hits:
        if inside <= 0:
            break
        skin = distance
        inside += -1 if leaving else 1
    return skin > depth or hits[-1][0] > skin + margin


def torsos(points: np.ndarray) -> np.ndarray:
    """(people,) how long each torso is in the world, from (people, 130, 4) points; where shoulders or hips are not
    there, a third of the height of all that is."""
    ends = [[INDEX[f"{side}_{part}"] for side in ("left", "right")] for part in ("shoulder", "hip")]
    middles = [points[:, rows, :3].mean(axis=1) for rows in ends]
    there = points[:, ends[0] + ends[1], 3].all(axis=1)
    placed = (person[person[:, 3] > 0, :3] for person in points)
    extent = [np.ptp(places, axis=0).max() / 3 if len(places) else 0.0 for places in placed]
    return np.where(there, np.linalg.norm(middles[0] - middles[1], axis=1), extent)


register, unregister = bpy.utils.register_classes_factory((MusevOcclusionSettings,))
