"""Whole-body keypoints through ONNX runtime: a person detector (YOLOX, arXiv 2107.08430), then DWPose (arXiv
2307.15880), which tells 133 points of each person as two one-dimensional distributions (SimCC, arXiv 2107.03332).

The files are `yolox_l.onnx` and `dw-ll_ucoco_384.onnx` as DWPose's authors publish them. Nothing of mmlab is needed.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from musev_engine.drawing import MIN_VISIBILITY
from musev_engine.errors import EngineError
from musev_engine.people import People

DETECTOR_SIDE, DETECTOR_GREY = 640, 114  # pixels; the grey of the margin that YOLOX was trained with
STRIDES = (8, 16, 32)
PERSON, MIN_PERSON, MAX_OVERLAP = 0, 0.3, 0.45  # class, score, intersection over union
POSE_WIDTH, POSE_HEIGHT, SIMCC_SPLIT = 288, 384, 2  # pixels; bins a pixel
BOX_MARGIN = 1.25
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# COCO-WholeBody's 133 points: 17 body, 6 feet, 68 face, 21 left hand, 21 right hand. The body's in OpenPose's order,
# where the neck (the middle of the shoulders) is put in second.
BODY_FROM_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
NUM_POINTS, LEFT_SHOULDER, RIGHT_SHOULDER = 133, 5, 6
FACE, LEFT_HAND, RIGHT_HAND = slice(23, 91), slice(91, 112), slice(112, 133)


class DWPose:
    """Both networks, loaded. Raises EngineError, code "bad_model", where onnxruntime or a readable file isn't there."""

    def __init__(self, detector: Path, pose: Path, device: str = "cpu"):
        self._detector, self._pose = _session(detector, device), _session(pose, device)

    def __call__(self, frame: np.ndarray) -> People:
        """The people in a picture, uint8 (h, w, 3). Where no person is found, the whole picture is taken for one, so
        that a close-up is read too; what isn't there gets no visibility."""
        squared, scale = letterbox(frame)
        (raw,) = _run(self._detector, squared[None])
        boxes = people_boxes(raw[0]) / scale
        if not len(boxes):
            boxes = np.array([[0, 0, frame.shape[1], frame.shape[0]]], np.float32)
        cuts, placements = zip(*(cut_person(frame, box) for box in boxes), strict=True)
        simcc_x, simcc_y = _run(self._pose, np.stack(cuts))
        points = simcc_points(simcc_x, simcc_y)
        for person, (zoom, offset) in zip(points, placements, strict=True):
            person[:, :2] = (person[:, :2] - offset) / zoom + 0.5  # from pixel numbers to the corner
        # Drawn in full or not at all, however sure the network is.
        points[..., 2] = points[..., 2] >= MIN_VISIBILITY
        return people_of(points)


def letterbox(frame: np.ndarray) -> tuple[np.ndarray, float]:
    """uint8 (h, w, 3), RGB -> float32 (3, 640, 640), BGR 0…255 as YOLOX reads it, and the scale it was given."""
    scale = DETECTOR_SIDE / max(frame.shape[:2])
    width, height = (max(1, int(side * scale)) for side in (frame.shape[1], frame.shape[0]))
    squared = np.full((DETECTOR_SIDE, DETECTOR_SIDE, 3), DETECTOR_GREY, np.float32)
    squared[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    return squared.transpose(2, 0, 1).copy(), scale


def people_boxes(raw: np.ndarray) -> np.ndarray:
    """YOLOX's output (8400, 85) -> boxes (n, 4) of x0, y0, x1, y1 in its pixels, the surest first.

    A row is centre, log size, objectness and 80 class scores, relative to its cell of one of three grids."""
    cells = [
        np.stack([*np.meshgrid(np.arange(side), np.arange(side)), np.full((side, side), stride)], -1)
        for stride, side in ((stride, DETECTOR_SIDE // stride) for stride in STRIDES)
    ]
    cells = np.concatenate([grid.reshape(-1, 3) for grid in cells])
    stride = cells[:, 2:]
    centre, size = (raw[:, :2] + cells[:, :2]) * stride, np.exp(raw[:, 2:4]) * stride
    scores = raw[:, 4] * raw[:, 5 + PERSON]
    sure = scores > MIN_PERSON
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)[sure].astype(np.float32)
    return boxes[_apart(boxes, scores[sure])]


def cut_person(frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, tuple[float, np.ndarray]]:
    """A box (x0, y0, x1, y1) of the picture, with a margin, as DWPose reads it: float32 (3, 384, 288), RGB. The zoom
    and offset tell where its points lie: cut = picture × zoom + offset."""
    centre = (box[:2] + box[2:]) / 2
    width, height = np.maximum(box[2:] - box[:2], 1) * BOX_MARGIN
    zoom = min(POSE_WIDTH / width, POSE_HEIGHT / height)
    offset = np.array([POSE_WIDTH, POSE_HEIGHT]) / 2 - centre * zoom
    matrix = np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]]])
    cut = cv2.warpAffine(frame, matrix, (POSE_WIDTH, POSE_HEIGHT), flags=cv2.INTER_LINEAR)
    normal = (cut.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    return normal.transpose(2, 0, 1), (float(zoom), offset)


def simcc_points(simcc_x: np.ndarray, simcc_y: np.ndarray) -> np.ndarray:
    """(n, 133, 576) and (n, 133, 768) -> float32 (n, 133, 3) of x, y in the cut's pixels, and score 0…1: the smaller
    of the two peaks."""
    x, y = simcc_x.argmax(-1) / SIMCC_SPLIT, simcc_y.argmax(-1) / SIMCC_SPLIT
    score = np.minimum(simcc_x.max(-1), simcc_y.max(-1)).clip(0, 1)
    return np.stack([x, y, score], axis=-1).astype(np.float32)


def people_of(points: np.ndarray) -> People:
    """COCO-WholeBody's points (n, 133, 3) as OpenPose's bodies, hands and faces. The neck is as visible as the less
    visible shoulder."""
    shoulders = points[:, [LEFT_SHOULDER, RIGHT_SHOULDER]]
    neck = np.concatenate([shoulders[..., :2].mean(1), shoulders[..., 2:].min(1)], axis=-1)
    bodies = np.stack([neck if i is None else points[:, i] for i in BODY_FROM_COCO], axis=1)
    return People(bodies, np.stack([points[:, LEFT_HAND], points[:, RIGHT_HAND]], axis=1), points[:, FACE])


def _apart(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices of the boxes that no surer one overlaps by much (greedy non-maximum suppression)."""
    kept, left = [], np.argsort(-scores, kind="stable")
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.prod((high - low).clip(0), axis=1)
        left = left[shared <= MAX_OVERLAP * (area[best] + area[left] - shared)]
    return np.array(kept, dtype=int)


def _session(path: Path, device: str):
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "DWPose needs the package onnxruntime", error, "Run: pip install onnxruntime", code="bad_model"
        ) from error
    wanted = ["CUDAExecutionProvider"] * device.startswith("cuda") + ["CPUExecutionProvider"]
    there = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(path, providers=[name for name in wanted if name in there])
    except Exception as error:  # onnxruntime's own exceptions have no common base but this
        raise EngineError(f"{path} can't be read", error, "Download it again.", code="bad_model") from error


def _run(session, inputs: np.ndarray) -> list[np.ndarray]:
    """All outputs for a batch, in one call where the file allows it, else picture by picture."""
    (wanted,) = session.get_inputs()
    inputs = inputs.astype(np.float32)
    if not isinstance(wanted.shape[0], int):
        return session.run(None, {wanted.name: inputs})
    rows = [session.run(None, {wanted.name: one[None]}) for one in inputs]
    return [np.concatenate(output) for output in zip(*rows, strict=True)]
