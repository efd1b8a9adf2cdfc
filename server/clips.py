"""From a request to a clip: `musev_engine` asked, its events put into the protocol's words.

Imported by the worker process alone, for it imports torch.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from blender_addon.protocol import ClipRequest, Control, Done, FrameReady, Message, Preview, Progress
from musev_engine import control, frames, keypoints, pipeline
from musev_engine.clip import ControlVideo
from musev_engine.errors import EngineError
from musev_engine.inbetween import Inbetween, places
from musev_engine.previews import LatentColours, colours_of
from musev_engine.prompt_track import PromptSpan
from musev_engine.provenance import xmp_of
from server import extras, inputs, models
from server.loaded import models_of, net_of

SKETCHED, MAX_SKETCHES = 8, 16  # a preview of each 8th frame, and at most of so many
SKETCH_SHARE = 0.01  # of the time
SLOWEST = 1.0  # motion_speed; below it neighbouring frames would get one number (`UNet3D.forward`)


def make_clip(
    job: str, request: ClipRequest, read_blob: Callable[[str], bytes], previews: bool = True
) -> Iterator[Message]:
    """The product's engine, see `worker_process`."""
    if request.result == "poses":
        return _pose_pictures(job, request, read_blob)
    return _clip(job, request, read_blob, previews)


def _clip(
    job: str, request: ClipRequest, read_blob: Callable[[str], bytes], previews: bool
) -> Iterator[Message]:
    yield Progress(job, "load", 0, 1)
    loaded = models_of(request)
    sketches = Sketches(job, colours_of(loaded.vae)) if previews else None
    yield Progress(job, "load", 1, 1)
    yield Progress(job, "prepare", 0, 1)
    _forget_peak_memory()
    clip = clip_of(request, read_blob)
    held = clip.kept  # these come back as they were given, not as the VAE shows them
    own = loaded.licence or models.licence(request.model)
    licence = " and ".join(dict.fromkeys(filter(None, (own, *extras.licences(request)))))
    xmp = xmp_of(f"MuseV for Blender {models.engine_version()}", request.model, licence)
    outgoing = Outgoing(job, request, inputs.mask_of(request, read_blob), xmp)
    step = 0
    for event in pipeline.generate(clip, loaded):
        match event:
            case pipeline.Progress():
                step, windows = event.step, (event.window, event.num_windows)
                yield Progress(job, event.phase, step, event.num_steps, None, *windows)
            case pipeline.Preview() if sketches is not None:
                yield from sketches.take(step, event)
            case pipeline.Frames():
                for number, picture in enumerate(event.frames, event.first):
                    yield from outgoing.take(held.get(number, picture))
    yield Done(
        job,
        request.frames_out,
        device=str(loaded.device),
        model_sha256=loaded.sha256,
        model_licence=licence,
        engine_version=models.engine_version(),
        gpu_memory_mb=_peak_gpu_memory_mb(),
    )


def _pose_pictures(job: str, request: ClipRequest, read_blob: Callable[[str], bytes]) -> Iterator[Message]:
    """What the pose ControlNet would be shown; no model is loaded."""
    yield Progress(job, "draw", 0, request.num_frames)
    inputs.check_memory(request)
    still = inputs.still_of(request, read_blob)
    body_only = models.traits(request.model).body_only
    poses = inputs.poses_of(request, read_blob, still, body_only=body_only, device=_device()).get("poses")
    if poses is None:
        raise EngineError("There are no poses to draw", request.mode, "Choose Pose to Clip and an armature.")
    held = dataclasses.replace(request, between="held")  # half-blended sticks are no pose
    outgoing = Outgoing(job, held, inputs.mask_of(request, read_blob))
    for number in range(request.num_frames):
        (drawn,) = keypoints.draw(poses[number : number + 1], request.width, request.height)
        yield from outgoing.take(drawn)
        yield Progress(job, "draw", number + 1, request.num_frames)
    yield Done(job, request.frames_out, device=_device(), engine_version=models.engine_version())


class Sketches:
    """The previews of some frames of a clip: the middle one and every 8th (of a long clip fewer), after a step. They
    take no more than `SKETCH_SHARE` of the time: where steps are short, some steps have none.

    clock: gives seconds, as time.monotonic does.
    """

    def __init__(self, job: str, colours: LatentColours, clock: Callable[[], float] = time.monotonic):
        self._job, self._colours, self._clock, self._next = job, colours, clock, -math.inf

    def take(self, step: int, event: pipeline.Preview) -> Iterator[Preview]:
        begun = self._clock()
        if begun < self._next:
            return
        count = len(event.numbers)
        stride = max(SKETCHED, math.ceil(count / MAX_SKETCHES))
        chosen = sorted({count // 2, *range(0, count, stride)})
        made = [
            Preview(self._job, step, event.numbers[place], frames.encode_png(picture, by_left=True))
            for place, picture in zip(chosen, self._colours.draw(event.latents[:, chosen]), strict=True)
        ]
        ended = self._clock()
        self._next = ended + (ended - begun) / SKETCH_SHARE
        yield from made


class Outgoing:
    """Generated frames in order -> the messages of those that come back. mask: uint8 (num_frames, h, w) or None.
    xmp: what each says of itself."""

    def __init__(self, job: str, request: ClipRequest, mask: np.ndarray | None, xmp: str = ""):
        fps, output_fps = request.rates
        where = places(request.num_frames, fps, request.frames_out, output_fps, request.between)
        self._between, self._job = Inbetween(where, request.between), job
        self._masks = None if mask is None else iter(mask)
        self._xmp = xmp

    def take(self, picture: np.ndarray) -> Iterator[FrameReady]:
        """The next frame, uint8 (h, w, 3)."""
        if self._masks is not None:
            picture = np.dstack([picture, next(self._masks)])
        for numbers, shown in self._between.take(picture):
            png = frames.encode_png(shown, self._xmp)
            for number in numbers:
                yield FrameReady(self._job, number, png)


# --- models ---------------------------------------------------------------------------------------------


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _forget_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the clip before left there
        torch.cuda.reset_peak_memory_stats()


def _peak_gpu_memory_mb() -> float | None:
    """The most that torch has reserved of the GPU's memory, which is more than what tensors took."""
    return torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else None


# --- the clip -------------------------------------------------------------------------------------------


def clip_of(request: ClipRequest, read_blob: Callable[[str], bytes]) -> pipeline.Clip:
    """The request with its inputs in place, as `inputs` gives them.

    Raises ProtocolError for an unreadable or damaged input, or one of another length; EngineError for what the engine
    does not take.
    """
    inputs.check_memory(request)
    own = {field.name for field in dataclasses.fields(pipeline.Clip)} - {"controls", "prompts"}
    values = {
        field.name: getattr(request, field.name) for field in dataclasses.fields(request) if field.name in own
    }
    traits = models.traits(request.model)
    if request.motion_speed is None:
        values["motion_speed"] = motion_speed(traits.native_fps, request.fps)
    values["still"] = inputs.still_of(request, read_blob)
    values["end_still"] = inputs.end_still_of(request, read_blob)
    values["kept_frames"] = inputs.pins_of(request, read_blob)
    values |= inputs.poses_of(
        request, read_blob, values["still"], body_only=traits.body_only, device=_device()
    )
    values["prompts"] = tuple(PromptSpan(each.first, each.last, each.text) for each in request.prompts)
    values["controls"] = tuple(
        _control_video(each, request, read_blob, values["still"]) for each in request.controls
    )
    if request.source:
        values["video"] = inputs.pictures_of(request.source, "source", request, read_blob)
        values["video_strength"] = request.source_strength
    return pipeline.Clip(**values)


def motion_speed(native_fps: float, fps: float) -> float:
    """How fast a model is told that frames move, fps of them a second. It is 8 at the model's own rate (MuseV's clips
    were every 8th of 24 frames a second) and falls as frames come closer, as far as the layers can tell them apart."""
    return max(SLOWEST, 8.0 * native_fps / fps)


def _control_video(
    wanted: Control, request: ClipRequest, read_blob: Callable[[str], bytes], still: np.ndarray | None
) -> ControlVideo:
    """What a ControlNet is shown. Where the pictures are looked at by a detector, so is the still."""
    pictures, beside = inputs.pictures_of(wanted.pictures, wanted.name, request, read_blob), None
    if wanted.detect:
        pictures = control.preprocess(wanted.name, pictures, device=_device())
        if still is not None:
            fitted = frames.fit_still(still, request.width, request.height)
            (beside,) = control.preprocess(wanted.name, fitted[None], device=_device())
    net = net_of(wanted.name)
    return ControlVideo(net, pictures, beside, scale=wanted.scale, start=wanted.start, end=wanted.end)
