"""What came with a request, as arrays: the still, poses, control pictures, source frames, the mask.

Sizes are asked of headers before memory is taken. Imported by the worker process alone, for it needs numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from PIL import Image

from blender_addon.protocol import ClipRequest, Pictures, PoseTrack, ProtocolError
from musev_engine import control, frames, keypoints
from musev_engine.clip import ConditionImage
from musev_engine.errors import EngineError

ReadBlob = Callable[[str], bytes]
MAX_BYTES = 4 * 2**30  # of all pictures of a clip, unpacked
POSE_DETECTORS = ("dwpose_body", "pose_body")  # that may find a still's pose, best first


def still_of(request: ClipRequest, read_blob: ReadBlob) -> np.ndarray | None:
    """uint8 (h, w, 3), of any size. Raises ProtocolError, code "unreadable_still"."""
    return _still(request.still, read_blob)


def end_still_of(request: ClipRequest, read_blob: ReadBlob) -> np.ndarray | None:
    """As `still_of`, what the clip goes over into."""
    return _still(request.end_still, read_blob)


def _still(sha256: str | None, read_blob: ReadBlob) -> np.ndarray | None:
    if sha256 is None:
        return None
    try:
        return frames.decode_still(read_blob(sha256))
    except ValueError as error:
        remedy = "Give a PNG or JPEG file that opens in an image viewer."
        raise ProtocolError(str(error), sha256, remedy, "unreadable_still") from error


def pins_of(request: ClipRequest, read_blob: ReadBlob) -> tuple[ConditionImage, ...]:
    """The frames that are given, of the request's size. Raises ProtocolError, code "unreadable_pin"."""
    held = []
    for pin in request.pins:
        try:
            picture = frames.decode_still(read_blob(pin.picture), what=f"pin at frame {pin.frame}")
        except ValueError as error:
            remedy = "Give a PNG or JPEG file that opens in an image viewer."
            raise ProtocolError(str(error), pin.picture, remedy, "unreadable_pin") from error
        held.append(ConditionImage(frames.fit_still(picture, request.width, request.height), pin.frame))
    return tuple(held)


def check_memory(request: ClipRequest) -> None:
    """Raises ProtocolError, code "too_large", where the clip's pictures would not fit."""
    pixel_bytes = 3 * (len(request.controls) + bool(request.source)) + bool(request.mask)
    needed = request.num_frames * request.width * request.height * pixel_bytes
    if needed > MAX_BYTES:
        raise ProtocolError(
            f"The clip's pictures may take {MAX_BYTES / 2**30:.0f} GiB of memory",
            f"{needed / 2**30:.1f} GiB",
            "Use fewer frames, a smaller size or fewer kinds of control pictures.",
            "too_large",
        )


def pictures_of(blobs: tuple[str, ...], what: str, request: ClipRequest, read_blob: ReadBlob) -> np.ndarray:
    """uint8 (num_frames, height, width, 3) of the request, cut to its proportions about the middle and scaled.

    Raises ProtocolError, code "bad_pictures", for a damaged or wrong-sized picture and for another number of them.
    """
    return _filled((request.num_frames, request.height, request.width, 3), blobs, what, request, read_blob)


def mask_of(request: ClipRequest, read_blob: ReadBlob) -> np.ndarray | None:
    """uint8 (num_frames, height, width), 255 where the clip is opaque; None without a mask. Raises ProtocolError."""
    if not request.mask:
        return None
    return _filled(
        (request.num_frames, request.height, request.width), request.mask, "mask", request, read_blob
    )


def _filled(
    shape: tuple[int, ...], blobs: tuple[str, ...], what: str, request: ClipRequest, read_blob: ReadBlob
) -> np.ndarray:
    """Pictures in colour, or, for a shape without channels, in grey."""
    made, count = np.empty(shape, np.uint8), 0
    for sha256, size, file in _files(blobs, read_blob):
        if count == len(made):
            raise _another_number(what, request, f"more than {count}")
        try:
            picture = frames.decode_still(file, what=f"frame {count} of the {what}", size=size)
        except ValueError as error:
            remedy = "Generate again, so that the pictures are made anew."
            raise ProtocolError(str(error), sha256, remedy, "bad_pictures") from error
        fitted = frames.fit_still(picture, request.width, request.height, resample=Image.Resampling.BILINEAR)
        made[count] = fitted if len(shape) == 4 else np.asarray(Image.fromarray(fitted).convert("L"))
        count += 1
    if count != len(made):
        raise _another_number(what, request, count)
    return made


def _files(blobs: tuple[str, ...], read_blob: ReadBlob) -> Iterator[tuple[str, tuple[int, int], bytes]]:
    """(sha256 of its blob, size that the blob tells, PNG bytes) of each picture."""
    for sha256 in blobs:
        pictures = Pictures.from_bytes(read_blob(sha256))
        for file in pictures.files:
            yield sha256, (pictures.width, pictures.height), file


def _another_number(what: str, request: ClipRequest, count: object) -> ProtocolError:
    message = f"The {what} must have as many pictures as the clip has frames ({request.num_frames})"
    return ProtocolError(message, count, "Generate again for this frame range.", "bad_pictures")


def poses_of(
    request: ClipRequest,
    read_blob: ReadBlob,
    still: np.ndarray | None,
    *,
    body_only: bool = False,
    device: str = "cpu",
) -> dict[str, np.ndarray | None]:
    """`Clip.poses` and `Clip.still_pose`, float32 (num_frames, people, 130, 3) and (people, 18 or 130, 3), in the
    request's pixels and, where it asks for it, brought to the figure of the still. {} without poses.

    body_only: hands and faces are left out (18 points each). Raises ProtocolError, and EngineError where the still's
    pose is needed and can't be known.
    """
    if request.poses is None:
        return {}
    track = PoseTrack.from_bytes(read_blob(request.poses))
    if track.num_frames != request.num_frames:
        raise ProtocolError(
            f"The pose track must have as many frames as the clip ({request.num_frames})",
            track.num_frames,
            "Export the poses again for this frame range.",
            "bad_poses",
        )
    scale = np.array([request.width / track.width, request.height / track.height, 1], np.float32)
    poses, still_pose = np.frombuffer(track.points, "<f4").reshape(track.shape) * scale, None
    if track.still_pose is not None:
        still_pose = np.frombuffer(track.still_pose, "<f4").reshape(track.shape[1:]) * scale
    if request.posealign == "auto":
        if still_pose is None:
            still_pose = found_pose(request, still, device)
        poses = keypoints.align(poses, still_pose)
    if body_only:
        poses, still_pose = (
            each if each is None else keypoints.split(each)[0] for each in (poses, still_pose)
        )
    return {"poses": poses, "still_pose": still_pose}


def found_pose(request: ClipRequest, still: np.ndarray | None, device: str = "cpu") -> np.ndarray:
    """The pose of the still's largest person, (1, 18, 3), as a detector sees it. Raises EngineError, code
    "still_pose_unknown", where there is no still, no detector, or nobody."""
    unknown = partial(
        EngineError, "The poses can't be brought to the still's figure: its pose isn't known",
        code="still_pose_unknown",
    )  # fmt: skip
    how = 'Turn on "Still Shows the Rig" and say at which frame'
    if still is None:
        raise unknown("no still", "Choose a reference still, or turn off Align to Still.")
    fitted, missing = frames.fit_still(still, request.width, request.height)[None], None
    for name in POSE_DETECTORS:
        try:
            (body,) = control.CONTROLS[name].people(fitted, device=device).bodies
        except EngineError as error:
            if error.code != "missing_model":
                raise
            missing = error
            continue
        if not body[..., 2].any():
            raise unknown(f"{name} sees nobody in it", f"{how}; or choose a still that shows a whole figure.")
        return body
    raise unknown(missing.message, f"{how}; or let a detector find it. {missing.remedy}") from missing
