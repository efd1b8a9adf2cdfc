"""Finding people in pictures and drawing them: OpenPose's networks, MediaPipe's face mesh (DWPose is in `dwpose`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from musev_engine.drawing import NUM_BODY_POINTS, NUM_HAND_POINTS, draw_poses
from musev_engine.errors import EngineError

MOST_FACES = 4  # that are drawn; `controlnet_aux` stops at one
LINE_WIDTH, PUPIL_WIDTH = 2, 4  # pixels
PUPILS = (468, (250, 200, 10)), (473, (10, 200, 250))  # MediaPipe's points of the right one and the left one
MIN_FACE_HEAT = 0.05  # below this OpenPose's face network says nothing


class People(NamedTuple):
    """Who is in one picture: float32 bodies (people, 18, 3), hands (people, 2, 21, 3) with the left one first, faces
    (people, 68 or 70, 3), of x, y in pixels from the picture's corner, and visibility 0…1."""

    bodies: np.ndarray
    hands: np.ndarray
    faces: np.ndarray


def draw_people(
    find: Callable[[np.ndarray], People],
    pictures: np.ndarray,
    height: int,
    width: int,
    body: bool = True,
    hand: bool = False,
    face: bool = False,
) -> np.ndarray:
    """The people's keypoints as `drawing.draw_poses` draws them, at the size that is asked for."""
    scale = np.array([width / pictures.shape[2], height / pictures.shape[1], 1], np.float32)
    maps = []
    for picture in pictures:
        people = find(picture)
        bodies, hands, faces = (points[None] * scale for points in people)
        shown = bodies if body else bodies * (1, 1, 0)
        maps.append(draw_poses(shown, width, height, hands if hand else None, faces if face else None)[0])
    return np.stack(maps)


class OpenPose:
    """OpenPose's networks (arXiv 1812.08008) for bodies and, where their files are given, hands and faces."""

    def __init__(self, body, hand, face, device: str):
        from controlnet_aux.open_pose import util

        self._boxes, self._body, self._hand, self._face = util, body.to(device), hand, face
        for part in filter(None, (hand, face)):
            part.to(device)

    def __call__(self, picture: np.ndarray) -> People:
        """The people in a picture, uint8 (h, w, 3)."""
        bgr = picture[..., ::-1].copy()
        found = self._body.format_body_result(*self._body(bgr))
        people = People(
            np.zeros((len(found), NUM_BODY_POINTS, 3), np.float32),
            np.zeros((len(found), 2, NUM_HAND_POINTS, 3), np.float32),
            np.zeros((len(found), 70, 3), np.float32),
        )
        for person, body in enumerate(found):
            for index, point in enumerate(body.keypoints):
                if point is not None:
                    people.bodies[person, index] = (point.x + 0.5, point.y + 0.5, 1)
            if self._hand is not None:
                for x, y, side, is_left in self._boxes.handDetect(body, bgr):
                    peaks = self._hand(bgr[y : y + side, x : x + side])
                    seen = peaks.any(axis=1)
                    people.hands[person, 0 if is_left else 1, seen, :2] = peaks[seen] + (x + 0.5, y + 0.5)
                    people.hands[person, 0 if is_left else 1, seen, 2] = 1
            if self._face is not None and (box := self._boxes.faceDetect(body, bgr)):
                x, y, side = box
                heat = self._face(bgr[y : y + side, x : x + side])[:70]  # the last one is the background
                rows, columns = np.unravel_index(heat.reshape(len(heat), -1).argmax(1), heat.shape[1:])
                people.faces[person] = np.stack(
                    [columns + x + 0.5, rows + y + 0.5, heat.max((1, 2)) > MIN_FACE_HEAT], axis=1
                )
        return people


def openpose(files: list[Path], device: str, read: Callable) -> OpenPose:
    """OpenPose's networks, those whose files are given; the body's must be. `read(path, make)` opens one and tells
    what is wrong with it."""
    from controlnet_aux.open_pose import Body, Face, Hand

    kinds = {"body_pose_model": Body, "hand_pose_model": Hand, "facenet": Face}
    made = {path.stem: read(path, lambda path: kinds[path.stem](str(path))) for path in files}
    return OpenPose(*(made.get(name) for name in kinds), device)


def draw_face_meshes(find: Callable, pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """The outlines of each face in MediaPipe's colours: oval, brows, eyes, lips, and pupils as dots. `find`: a picture
    -> lists of (polylines (n, 2, 2) in 0…1, RGB colour, how many pixels wide they are where a picture has 512)."""
    maps = np.zeros((len(pictures), height, width, 3), np.uint8)
    for drawing, picture in zip(maps, pictures, strict=True):
        for lines, colour, wide in find(picture):
            fixed = np.round((lines * (width, height) - 0.5) * 16).astype(np.int32)
            thickness = max(1, round(wide * min(height, width) / 512))
            cv2.polylines(drawing, list(fixed), False, colour, thickness, cv2.LINE_AA, shift=4)
    return maps


def face_mesh(path: Path) -> Callable[..., np.ndarray]:
    """MediaPipe's face landmarks (arXiv 1907.06724), on the CPU, from its `face_landmarker.task`.

    Raises EngineError, code "missing_model", where the package isn't there, and "bad_model" for another file."""
    try:
        from mediapipe import Image, ImageFormat
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise EngineError(
            "The control face_detector needs the package mediapipe", error,
            "Run: pip install --no-deps mediapipe; pip install absl-py flatbuffers matplotlib sounddevice",
            code="missing_model",
        ) from error  # fmt: skip
    lines = vision.FaceLandmarksConnections
    groups = [
        (np.array([(line.start, line.end) for line in group]), colour, LINE_WIDTH)
        for group, colour in (
            (lines.FACE_LANDMARKS_FACE_OVAL, (10, 200, 10)), (lines.FACE_LANDMARKS_LEFT_EYE, (10, 200, 180)),
            (lines.FACE_LANDMARKS_LEFT_EYEBROW, (10, 220, 180)), (lines.FACE_LANDMARKS_RIGHT_EYE, (180, 200, 10)),
            (lines.FACE_LANDMARKS_RIGHT_EYEBROW, (180, 220, 10)), (lines.FACE_LANDMARKS_LIPS, (10, 180, 10)),
        )
    ]  # fmt: skip
    groups += [(np.array([(point, point)]), colour, PUPIL_WIDTH) for point, colour in PUPILS]
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(path)), num_faces=MOST_FACES
    )
    try:
        landmarker = vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError, OSError) as error:
        raise EngineError(
            f"{path} isn't this detector's file", error, "Download it again.", code="bad_model"
        ) from error

    def find(picture: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, int, int], int]]:
        found = landmarker.detect(Image(ImageFormat.SRGB, np.ascontiguousarray(picture)))
        for face in found.face_landmarks:
            points = np.array([(point.x, point.y) for point in face])
            yield from ((points[pairs], colour, wide) for pairs, colour, wide in groups)

    return partial(draw_face_meshes, find)
