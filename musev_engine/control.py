"""The pictures that ControlNets follow: MuseV's 26 names, and `preprocess`, which makes them from frames.

Keypoints are drawn by `drawing`; what finds them, and edges, depth and the rest, is in `detectors`, loaded only when
it is named.
"""

from __future__ import annotations

import difflib
import gc
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from musev_engine.control_cache import Cache
from musev_engine.drawing import NUM_BODY_POINTS, draw_poses
from musev_engine.errors import EngineError

__all__ = ["CONTROLS", "NUM_BODY_POINTS", "Cache", "ControlKind", "draw_poses", "preprocess"]

SIDE_STEP = 64  # pixels; the detectors' networks halve their pictures up to six times
MIN_RESOLUTION, MAX_RESOLUTION = 64, 4096
PIXELS_AT_ONCE = 2**20  # four pictures of 512×512
BODY, HAND, FACE = (
    f"annotator-openpose/{file}.pth" for file in ("body_pose_model", "hand_pose_model", "facenet")
)
DEPTH = "control_v11f1p_sd15_depth"
PEOPLE_DETECTORS = ("OpenposeDetector", "DWposeDetector")
VERSION = 1  # of the maps; a changed detector is a new one, and old caches are left alone


@dataclass(frozen=True)
class ControlKind:
    """One name that a task may give a control.

    detector: its class in `controlnet_aux`, or "" for the picture itself. files: what it reads of the models folder,
    "id/name" as `registry.find_file` knows them. parameters: how it is called. controlnet: the key in
    `Models.controlnets` of the network that was trained with such pictures. picture: what they show.
    """

    detector: str
    files: tuple[str, ...]
    parameters: dict[str, bool]
    controlnet: str
    picture: str

    def __call__(
        self, frames: np.ndarray, resolution: int | None = None, *, device: str = "cpu"
    ) -> np.ndarray:
        """The control pictures of frames, uint8 (t, h, w, 3) -> the same shape; `resolution` as in `preprocess`."""
        from musev_engine import detectors

        detect = detectors.load(self.detector, self.files, device)
        height, width = frames.shape[1:3]
        rows, columns = _detection_size(height, width, resolution)
        at_once = max(1, PIXELS_AT_ONCE // (rows * columns))
        maps = [
            detect(_resized(frames[first : first + at_once], rows, columns), height, width, **self.parameters)
            for first in range(0, len(frames), at_once)
        ]
        return np.concatenate(maps) if maps else frames.copy()

    def people(self, frames: np.ndarray, resolution: int | None = None, *, device: str = "cpu"):
        """The largest person of each frame, uint8 (t, h, w, 3), for a control that draws people: `people.People`, with
        no visibility where a frame shows nobody. Raises EngineError for another control, and where a file is missing.
        """
        from musev_engine import detectors

        if self.detector not in PEOPLE_DETECTORS:
            known = ", ".join(name for name, kind in CONTROLS.items() if kind.detector in PEOPLE_DETECTORS)
            raise EngineError(
                "Posealign is for poses", self.picture, f"Turn it off, or choose one of {known}."
            )
        size = _detection_size(*frames.shape[1:3], resolution)
        return detectors.people_in(frames, self.detector, self.files, device, size)

    def aligned(
        self, frames: np.ndarray, still: np.ndarray, resolution: int | None = None, *, device: str = "cpu"
    ) -> tuple[np.ndarray, np.ndarray]:
        """As a call, for a control that draws people, but of the largest person alone and brought to the figure of a
        still, uint8 (h, w, 3) of the frames' size (see `posealign`): the frames' pictures and the still's, (h, w, 3).

        Raises EngineError for a control that doesn't draw people, and as `posealign.align_poses` does.
        """
        from musev_engine.posealign import align_people

        height, width = frames.shape[1:3]
        driving, figure = (self.people(each, resolution, device=device) for each in (frames, still[None]))
        people = align_people(*driving, figure.bodies[0, 0])
        pictures = []
        for bodies, hands, faces in (people, figure):
            shown = bodies if self.parameters.get("body", True) else bodies * (1, 1, 0)
            parts = [
                part if self.parameters.get(name) else None
                for name, part in (("hand", hands), ("face", faces))
            ]
            pictures.append(draw_poses(shown, width, height, *parts))
        return pictures[0], pictures[1][0]


def _people(detector: str, files: tuple[str, ...], **parts: bool) -> ControlKind:
    names = {"body": "bodies", "hand": "hands", "face": "faces"}
    shown = " and ".join(names[part] for part, drawn in parts.items() if drawn)
    return ControlKind(
        detector, files, parts, "control_v11p_sd15_openpose", f"people's {shown} as OpenPose draws them"
    )


def _openpose(*files: str, **parts: bool) -> ControlKind:
    return _people("OpenposeDetector", files, **parts)


def _dwpose(**parts: bool) -> ControlKind:
    return _people(
        "DWposeDetector", ("annotator-dwpose/yolox_l.onnx", "annotator-dwpose/dw-ll_ucoco_384.onnx"), **parts
    )


# MuseV's names (its `controlnet_name`), each with what MuseV runs for it. Three are odder than they look: `pidi` draws
# soft edges and yet goes to the depth network, `face_detector` draws a mesh and goes to the pose network, both as in
# MuseV; and `hed_scribble` draws hard, thin lines, which its network was trained with, where MuseV's are soft.
CONTROLS: dict[str, ControlKind] = {
    "pose": _openpose(BODY, body=True),
    "pose_body": _openpose(BODY, body=True),
    "pose_hand": _openpose(BODY, HAND, body=False, hand=True),
    "pose_face": _openpose(BODY, FACE, body=False, face=True),
    "pose_hand_body": _openpose(BODY, HAND, body=True, hand=True),
    "pose_hand_face": _openpose(BODY, HAND, FACE, body=False, hand=True, face=True),
    "dwpose": _dwpose(body=True, hand=True, face=True),
    "dwpose_face": _dwpose(body=False, face=True),
    "dwpose_hand": _dwpose(body=False, hand=True),
    "dwpose_body": _dwpose(body=True),
    "dwpose_body_hand": _dwpose(body=True, hand=True),
    "canny": ControlKind("CannyDetector", (), {}, "control_v11p_sd15_canny", "hard edges"),
    "tile": ControlKind("", (), {}, "control_v11f1e_sd15_tile", "the frame itself"),
    "hed": ControlKind(
        "HEDdetector", ("annotator-hed/ControlNetHED.pth",), {}, "sd-controlnet-hed", "soft edges"
    ),
    "hed_scribble": ControlKind(
        "HEDdetector",
        ("annotator-hed/ControlNetHED.pth",),
        {"scribble": True},
        "control_v11p_sd15_scribble",
        "edges thinned to scribbles",
    ),
    "depth": ControlKind(
        "MidasDetector", ("annotator-midas/dpt_hybrid-midas-501f0c75.pt",), {}, DEPTH, "depth, near is white"
    ),
    "pidi": ControlKind("PidiNetDetector", ("annotator-pidi/table5_pidinet.pth",), {}, DEPTH, "soft edges"),
    "normal_bae": ControlKind(
        "NormalBaeDetector",
        ("annotator-normal_bae/scannet.pt",),
        {},
        "control_v11p_sd15_normalbae",
        "surface normals",
    ),
    "lineart": ControlKind(
        "LineartDetector",
        ("annotator-lineart/sk_model2.pth",),
        {},
        "control_v11p_sd15_lineart",
        "coarse lines",
    ),
    "lineart_anime": ControlKind(
        "LineartAnimeDetector",
        ("annotator-lineart_anime/netG.pth",),
        {},
        "control_v11p_sd15s2_lineart_anime",
        "lines as in anime",
    ),
    "zoe": ControlKind(
        "ZoeDetector", ("annotator-zoe/ZoeD_M12_N.pt",), {}, DEPTH, "metric depth, near is white"
    ),
    "sam": ControlKind(
        "SamDetector",
        ("annotator-sam/sam_vit_h_4b8939.pth",),
        {},
        "control_v11p_sd15_seg",
        "things in colours",
    ),
    "mobile_sam": ControlKind(
        "MobileSamDetector",
        ("annotator-mobile_sam/mobile_sam.pt",),
        {},
        "control_v11p_sd15_seg",
        "things in colours",
    ),
    "leres": ControlKind("LeresDetector", ("annotator-leres/res101.pth",), {}, DEPTH, "depth, near is white"),
    "content": ControlKind(
        "ContentShuffleDetector", (), {}, "control_v11e_sd15_shuffle", "the frame, its places exchanged"
    ),
    "face_detector": ControlKind(
        "MediapipeFaceDetector",
        ("annotator-face_landmarker/face_landmarker.task",),
        {},
        "control_v11p_sd15_openpose",
        "the outlines of faces",
    ),
}


def __getattr__(name: str) -> ControlKind:
    """Each kind is an attribute of this module too, for the entry points that declare them."""
    if name in CONTROLS:
        return CONTROLS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_CACHE = Cache()


def find_control(name: str) -> Callable[..., np.ndarray]:
    """What makes a control's pictures: one of `CONTROLS`, or another package's (see `plugins`); its attribute
    `controlnet` is the key in `Models.controlnets`. Raises EngineError for an unknown name; the nearest are offered."""
    if name in CONTROLS:
        return CONTROLS[name]
    from musev_engine import plugins

    others = plugins.found("musev.control_preprocessors")
    if name in others:
        return others[name]
    known = sorted({*CONTROLS, *others})
    near = difflib.get_close_matches(name, known, n=3)
    remedy = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(known)}."
    raise EngineError("No control has this name", name, remedy, code="unknown_name")


def preprocess(
    name: str,
    frames: np.ndarray,
    resolution: int | None = None,
    *,
    device: str = "cpu",
    cache: Cache | None = None,
) -> np.ndarray:
    """Make the control pictures of frames, uint8 (t, h, w, 3) sRGB -> uint8 of the same shape.

    name: a control, see `find_control`. resolution: the shorter side at which to detect, in pixels (None: the frames'
    own, as MuseV has it); it is rounded so that both sides are multiples of 64. cache: where what was made before is
    looked up (None: this process's memory). Video that already shows the control (MuseV's `video_is_middle`) needs no
    call.

    Raises EngineError for an unknown name, frames of another shape or kind, a resolution out of bounds, and where a
    detector's file or package is missing (which, from where, how large, under which licence).
    """
    kind = find_control(name)
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape[1:]:
        raise EngineError(
            "These aren't frames", f"{frames.dtype} {frames.shape}", "Give uint8 (t, height, width, 3)."
        )
    if resolution is not None and not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        raise EngineError(
            "The detectors' resolution is out of bounds",
            resolution,
            f"Choose {MIN_RESOLUTION} to {MAX_RESOLUTION}.",
        )
    cache = _CACHE if cache is None else cache
    keys = [_key(name, kind, frame, resolution) for frame in frames]
    made = {key: cache.get(key) for key in keys}
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    if missing := [key for key in first if made[key] is None]:
        chosen = frames[[first[key] for key in missing]]
        extra = {"device": device} if isinstance(kind, ControlKind) else {}
        maps = np.asarray(kind(chosen, resolution, **extra))
        if maps.shape != chosen.shape or maps.dtype != np.uint8:
            raise EngineError(
                f"The control {name} gave something else than pictures",
                f"{maps.dtype} {maps.shape}",
                f"It must give uint8 {chosen.shape}; tell its package's authors.",
                code="broken_plugin",
            )
        for key, picture in zip(missing, maps, strict=True):
            made[key] = picture.copy()  # on its own, so that it can be forgotten by itself
            cache.put(key, made[key])
    return np.stack([made[key] for key in keys]) if keys else frames.copy()


def forget_detectors() -> None:
    """Let go of the detectors that were loaded, and of their memory on a GPU; they are loaded anew when next named."""
    import torch

    from musev_engine import detectors

    detectors.load.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _key(name: str, kind: object, frame: np.ndarray, resolution: int | None) -> str:
    """The hash of all that a control picture depends on."""
    what = (
        (kind.detector, kind.files, sorted(kind.parameters.items()))
        if isinstance(kind, ControlKind)
        else name
    )
    told = f"{VERSION} {what} {resolution} {frame.shape} "
    return hashlib.sha256(told.encode() + np.ascontiguousarray(frame).tobytes()).hexdigest()


def _detection_size(height: int, width: int, resolution: int | None) -> tuple[int, int]:
    """Rows and columns at which a detector looks: the shorter side is `resolution`, both are multiples of 64."""
    scale = (resolution or min(height, width)) / min(height, width)
    rows, columns = (max(SIDE_STEP, round(side * scale / SIDE_STEP) * SIDE_STEP) for side in (height, width))
    return rows, columns


def _resized(frames: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Frames at the detectors' size: averaged when that is smaller, Lanczos-interpolated when larger."""
    height, width = frames.shape[1:3]
    if (height, width) == (rows, columns):
        return frames
    how = cv2.INTER_LANCZOS4 if rows > height else cv2.INTER_AREA
    return np.stack([cv2.resize(frame, (columns, rows), interpolation=how) for frame in frames])
