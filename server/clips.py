"""From a request to a clip: inputs decoded, `musev_engine` asked, its events put into the protocol's words.

Imported by the worker process alone, for it imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch

from blender_addon.protocol import (
    BODY_POINTS,
    ClipRequest,
    Done,
    FrameReady,
    Message,
    PoseTrack,
    Preview,
    Progress,
    ProtocolError,
)
from musev_engine import frames, loading, pipeline
from server.models import engine_version, places


def make_clip(job: str, request: ClipRequest, read_blob: Callable[[str], bytes]) -> Iterator[Message]:
    """The product's engine, see `worker_process`."""
    yield Progress(job, "load", 0, 1)
    models = load(request.model)
    clip = clip_of(request, read_blob)
    yield Progress(job, "load", 1, 1)
    step = 0
    for event in pipeline.generate(clip, models):
        match event:
            case pipeline.Progress():
                step, windows = event.step, (event.window, event.num_windows)
                yield Progress(job, event.phase, step, event.num_steps, None, *windows)
            case pipeline.Preview():
                middle = len(event.frames) // 2
                yield Preview(job, step, event.first + middle, frames.encode_png(event.frames[middle]))
            case pipeline.Frames():
                for offset, picture in enumerate(event.frames):
                    yield FrameReady(job, event.first + offset, frames.encode_png(picture))
    yield Done(
        job,
        request.frames_out,
        device=str(models.device),
        model_sha256=models.sha256,
        model_licence=models.licence,
        engine_version=engine_version(),
    )


@functools.lru_cache(maxsize=1)  # one model stays loaded from clip to clip
def load(name: str) -> loading.Models:
    """A shipped model or one of the models folder, by a name of `models_here`, on the GPU in half precision where
    there is one. Raises EngineError."""
    place = places().get(name)
    shipped = place is None or (loading.SHIPPED / name).is_dir()  # an unknown name: load_models tells it
    chosen = {} if shipped or place.motion is None else {"motion": place.motion, "t2i": place.t2i}
    if torch.cuda.is_available():
        chosen |= {"device": "cuda", "dtype": torch.float16}
    return loading.load_models(name if shipped else place.folder, **chosen)


def clip_of(request: ClipRequest, read_blob: Callable[[str], bytes]) -> pipeline.Clip:
    """The request with its inputs in place: still uint8 (h, w, 3), poses float32 (t, people, 18, 3).

    Raises ProtocolError for an unreadable still, a damaged pose track, or one of another length; EngineError
    for what the engine does not take.
    """
    values = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    for told_to_others in ("mode", "result", "model", "fps", "output_frames", "output_fps", "between"):
        del values[told_to_others]
    for to_come in ("posealign", "source", "source_strength", "controls", "mask"):
        del values[to_come]
    if values["motion_speed"] is None:
        del values["motion_speed"]
    if request.still is not None:
        try:
            values["still"] = frames.decode_still(read_blob(request.still))
        except ValueError as error:
            remedy = "Give a PNG or JPEG file that opens in an image viewer."
            raise ProtocolError(str(error), request.still, remedy, "unreadable_still") from error
    if request.poses is not None:
        values |= poses_of(PoseTrack.from_bytes(read_blob(request.poses)), request)
    return pipeline.Clip(**values)


def poses_of(track: PoseTrack, request: ClipRequest) -> dict[str, np.ndarray | None]:
    """The track's points in the request's pixels."""
    if track.num_frames != request.num_frames:
        raise ProtocolError(
            f"The pose track must have as many frames as the clip ({request.num_frames})",
            track.num_frames,
            "Export the poses again for this frame range.",
            "bad_poses",
        )
    scale = np.array([request.width / track.width, request.height / track.height, 1], np.float32)
    poses = np.frombuffer(track.points, "<f4").reshape(track.shape)[..., :BODY_POINTS, :] * scale
    if track.still_pose is None:
        return {"poses": poses, "still_pose": None}
    still_pose = np.frombuffer(track.still_pose, "<f4").reshape(track.shape[1:])[..., :BODY_POINTS, :] * scale
    return {"poses": poses, "still_pose": still_pose}
