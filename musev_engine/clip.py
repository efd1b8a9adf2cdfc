"""What is asked for and what comes back: one clip, and the events of its making."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from musev_engine import plugins
from musev_engine.drawing import NUM_BODY_POINTS
from musev_engine.errors import EngineError
from musev_engine.keypoints import NUM_POINTS
from musev_engine.prompt_track import PromptSpan, check_spans
from musev_engine.sampling import GUIDANCE_METHODS, NOISE_TYPES
from musev_engine.schedulers import SCHEDULERS
from musev_engine.windows import OVERLAP_WEIGHTS

if TYPE_CHECKING:
    import torch

MAX_SIZE, MAX_FRAMES, MAX_STEPS = 2048, 10_000, 1000  # pixels, frames, steps


@dataclass(frozen=True, eq=False)
class ConditionImage:
    """A picture, uint8 (h, w, 3) of any size, that frame `index` of the clip shall be (-1: the last)."""

    picture: np.ndarray
    index: int = 0

    def __post_init__(self) -> None:
        _check_pixels("condition image", self.picture, (None, None, 3))


@dataclass(frozen=True, eq=False)
class ControlVideo:
    """What a ControlNet is shown: `frames`, uint8 (num_frames, h, w, 3), one for each frame of the clip, cut to its
    proportions about the middle. `still`, uint8 (h, w, 3) of the same size: that of a still that stands beside the
    clip (None: black).

    controlnet: its name in `Models.controlnets`. scale: of its residuals, 0…10. start, end: 0…1, the part of the
    steps in which it acts.
    """

    controlnet: str
    frames: np.ndarray
    still: np.ndarray | None = None
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_pixels(f"{self.controlnet}'s frames", self.frames, (None, None, None, 3))
        if self.still is not None:
            _check_pixels(f"{self.controlnet}'s still", self.still, self.frames.shape[1:])
        _check_bounds(self, ("scale", 0, 10), ("start", 0, 1), ("end", 0, 1))


@dataclass(frozen=True)
class FirstFrame:
    """How a picture is made alone, by the image model, before the clip: the first frame where none is given, or,
    with `redraw`, the given one drawn anew at `strength` (0: as it is, 1: from nothing but noise).

    The other values are the clip's own where they are None. with_*: which of the clip's pictures it is shown.
    """

    redraw: bool = False
    strength: float = 0.8
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_end: float | None = None
    guidance_method: str = "linear"
    negative_prompt: str | None = None
    with_references: bool = True
    with_image_prompts: bool = True
    with_faces: bool = True

    def __post_init__(self) -> None:
        _check_bounds(
            self,
            ("strength", 0, 1), ("num_inference_steps", 1, MAX_STEPS), ("guidance_scale", 0, 100),
            ("guidance_scale_end", 0, 100),
        )  # fmt: skip
        _check_choices(self, ("guidance_method", GUIDANCE_METHODS))


@dataclass(frozen=True)
class SerialDenoise:
    """Each shot leans, at every step, on the last `overlap` frames that the one before had at that step: on their
    latents, on their noise predictions, or both (MuseV's `record_mid_video_*` and `video_overlap`)."""

    overlap: int = 1
    latents: bool = True
    noise_preds: bool = True

    def __post_init__(self) -> None:
        _check_bounds(self, ("overlap", 1, MAX_FRAMES))


@dataclass(frozen=True, eq=False)
class Clip:
    """Everything a clip depends on: the same clip and the same models give the same frames.

    Size and steps
      width, height: pixels, multiples of 8. guidance_scale: 1 is none; it goes to guidance_scale_end (None:
      stays) by guidance_method. scheduler: "model" for its own, or one of `schedulers`; eta: of its noise.
      prompts: other prompts for some of the frames, see `prompt_track`; what stands for no frame of the clip (a
      reference, a still beside it) is told what frame 0 is.
    What the clip shows
      still: uint8 (h, w, 3), any size; it is cut to the clip's proportions about its middle. It is frame 0 or, with
      poses or controls, stands beside the clip, whose frames are then all new (see `begins_with_still`).
      condition_images: pictures that frames of the clip shall be, any number of them; where one is frame 0, the still
      is beside the clip or, without poses and controls, only how things look. kept_frames: pictures that frames of the
      clip are as well, but that go through the loop with the others, noised like them, so that those beside them go on
      from them (replacement: arXiv 2204.03458, section 3.1; arXiv 2201.09865): for a clip that is to fit into another.
      Without a still, the first of them stands beside the clip. end_still: as the still, of how things look in the
      end: one goes over into the other along the frames that are made. first_frame: how frame 0 is made where
      none of these says what it is. references, image_prompts: stills of any size, for the ReferenceNet and
      as image prompts; None: the still, or what is frame 0; () for none. reference_only: the image model itself looks
      at the references, with no ReferenceNet. face_embeds: float (n, e), see FaceID.
      ip_adapter_scale, face_scale: their weights. prompt_only_use_image_prompt: with a model that has no layers
      for image prompts, theirs take the place of the text's.
    What the clip follows
      poses: float32 (num_frames, people, 18, 3) of x, y in the clip's pixels and visibility, or with hands and faces
      (…, 130, 3), see `keypoints`. still_pose: (people, 18 or 130, 3) of the fitted still; None: it isn't known.
      control_scale: the poses' weight.
      controls: pictures for other ControlNets. guess_mode: ControlNets lead even without a prompt.
      video: uint8 (num_frames, h, w, 3), cut to the clip's proportions; the clip is this video, changed as far as
      video_strength says: 0 is the video itself, 1 keeps next to nothing of it.
    Shots
      shots: how many frames of the clip each shot makes, () for all in one. A shot goes on from the last
      n_vision_condition frames of the one before or, with fix_condition_images, from the first one's; with
      n_vision_condition 0 no shot has condition frames that weren't asked for. fixed_*: False lets the last frames
      of the shot before take the place of the references, image prompts or faces. serial: see `SerialDenoise`.
    Windows
      context_*: see `windows`; context_batch_size: windows predicted in one call. overlap_weights: how they meet.
    Noise and motion
      noise_type, w_ind_noise: see `sampling.draw_noise`; initial_common_latent: float (c, height / 8, width / 8), the
      frames' shared noise; shared_seed: the seed of a clip whose shared noise it is. noise_width, noise_height: the
      size in pixels that the noise is drawn for, the clip's own (None) or larger: clips of two sizes begin alike where
      this is the same. img_weight: how far the noise leans to the condition frames, 0 for not at all.
      motion_speed: MuseV's sample rate of frames. skip_temporal: each frame for itself.
    need_hist_match: all frames get the colours of frame 0. predictor: "musev", or a plug-in's. compat="musev":
    MuseV's accidents too, see `shots`.

    Raises EngineError for a value out of bounds.
    """

    prompt: str = ""
    negative_prompt: str = ""
    prompts: tuple[PromptSpan, ...] = ()
    width: int = 128
    height: int = 128
    num_frames: int = 48
    num_inference_steps: int = 10
    guidance_scale: float = 1.0
    guidance_scale_end: float | None = None
    guidance_method: str = "linear"
    seed: int = 0
    shared_seed: int | None = None
    scheduler: str = "model"
    eta: float = 0.0

    still: np.ndarray | None = None
    condition_images: tuple[ConditionImage, ...] = ()
    kept_frames: tuple[ConditionImage, ...] = ()
    end_still: np.ndarray | None = None
    first_frame: FirstFrame = field(default_factory=FirstFrame)
    references: tuple[np.ndarray, ...] | None = None
    reference_only: bool = False
    image_prompts: tuple[np.ndarray, ...] | None = None
    face_embeds: np.ndarray | None = None
    ip_adapter_scale: float = 1.0
    face_scale: float = 1.0
    prompt_only_use_image_prompt: bool = False

    poses: np.ndarray | None = None
    still_pose: np.ndarray | None = None
    control_scale: float = 1.0
    controls: tuple[ControlVideo, ...] = ()
    guess_mode: bool = False
    video: np.ndarray | None = None
    video_strength: float = 1.0

    shots: tuple[int, ...] = ()
    n_vision_condition: int = 1
    fix_condition_images: bool = False
    fixed_refer_image: bool = True
    fixed_ip_adapter_image: bool = True
    fixed_refer_face_image: bool = True
    serial: SerialDenoise | None = None

    context_frames: int = 12
    context_overlap: int = 4
    context_stride: int = 1
    context_batch_size: int = 1
    context_schedule: str = "shifting"
    overlap_weights: str = "triangular"

    noise_type: str = "video_fusion"
    w_ind_noise: float = 0.5
    img_weight: float = 0.001
    initial_common_latent: np.ndarray | None = None
    noise_width: int | None = None
    noise_height: int | None = None
    motion_speed: float = 8.0
    skip_temporal: bool = False
    need_hist_match: bool = False
    predictor: str = "musev"
    compat: str = ""

    def __post_init__(self) -> None:
        _check_bounds(
            self,
            ("width", 8, MAX_SIZE), ("height", 8, MAX_SIZE), ("num_frames", 1, MAX_FRAMES),
            ("num_inference_steps", 1, MAX_STEPS), ("guidance_scale", 0, 100), ("guidance_scale_end", 0, 100),
            ("seed", 0, 2**63 - 1), ("shared_seed", 0, 2**63 - 1), ("eta", 0, 1), ("ip_adapter_scale", 0, 10),
            ("face_scale", 0, 10), ("control_scale", 0, 10), ("video_strength", 0, 1),
            ("n_vision_condition", 0, MAX_FRAMES),
            ("context_frames", 1, MAX_FRAMES), ("context_overlap", 0, self.context_frames - 1),
            ("context_stride", 1, MAX_FRAMES), ("context_batch_size", 1, MAX_FRAMES), ("w_ind_noise", 0, 1),
            ("img_weight", 0, 1), ("motion_speed", 0, 1000),
            ("noise_width", self.width, MAX_SIZE), ("noise_height", self.height, MAX_SIZE),
        )  # fmt: skip
        for name in ("width", "height", "noise_width", "noise_height"):
            if (value := getattr(self, name) or 0) % 8:
                near = value // 8 * 8
                raise EngineError(f"{name} must be a multiple of 8", value, f"Choose {near} or {near + 8}.")
        _check_choices(
            self,
            ("guidance_method", GUIDANCE_METHODS), ("compat", ("", "musev")), ("noise_type", NOISE_TYPES),
            ("overlap_weights", OVERLAP_WEIGHTS), ("scheduler", ("model", *SCHEDULERS)),
            ("context_schedule", plugins.found("musev.window_schedules")),
            ("predictor", plugins.found("musev.predictors")),
        )  # fmt: skip
        for name, shape in (
            ("poses", (self.num_frames, None, _points(self.poses), 3)),
            ("still_pose", (None, _points(self.still_pose), 3)),
            ("face_embeds", (None, None)),
            ("initial_common_latent", (None, self.height // 8, self.width // 8)),
        ):
            if getattr(self, name) is not None:
                _check_shape(name, getattr(self, name), shape)
        for name, picture in (
            ("still", self.still),
            ("end_still", self.end_still),
            *(("reference", each) for each in self.references or ()),
            *(("image prompt", each) for each in self.image_prompts or ()),
        ):
            if picture is not None:
                _check_pixels(name, picture, (None, None, 3))
        for name, frames in (
            ("video", self.video),
            *((f"{control.controlnet}'s frames", control.frames) for control in self.controls),
        ):
            if frames is not None:
                _check_pixels(name, frames, (self.num_frames, None, None, 3))
        check_spans(self.prompts, self.num_frames)
        self._check_frames()

    def _check_frames(self) -> None:
        n = self.num_frames
        if self.shots and (min(self.shots) < 1 or sum(self.shots) != n):
            raise EngineError(
                "The shots' frames must add up to the clip's", self.shots, f"Give lengths that sum to {n}."
            )
        images = (*self.condition_images, *self.kept_frames)
        places = [each.index % n if -n <= each.index < n else None for each in images]
        if None in places:
            wrong = images[places.index(None)].index
            raise EngineError("A condition image is outside the clip", wrong, f"Choose {-n} to {n - 1}.")
        if twice := next((place for place in places if places.count(place) > 1), None):
            raise EngineError("A frame has two condition images", twice, "Give each frame one.")

    @property
    def begins_with_still(self) -> bool:
        """Whether frame 0 is the condition frame itself: the still that is animated, or the frame that is
        made first for want of a still. With a still and poses or controls, the still is beside the clip."""
        return self.still is None or not self.follows_control

    @property
    def follows_control(self) -> bool:
        return self.poses is not None or bool(self.controls)

    @property
    def pinned(self) -> dict[int, np.ndarray]:
        """The condition images by the frames that they are, from 0."""
        return {each.index % self.num_frames: each.picture for each in self.condition_images}

    @property
    def kept(self) -> dict[int, np.ndarray]:
        """The kept frames' pictures by the frames that they are, from 0."""
        return {each.index % self.num_frames: each.picture for each in self.kept_frames}


def shot_lengths(time_size: int, n_batch: int, *, given_frames: int = 0) -> tuple[int, ...]:
    """MuseV's `time_size` and `n_batch` as `Clip.shots`. `given_frames`: condition images that come before the
    first shot's own `time_size` frames; 0 where the first frame is made and counts among them."""
    return (given_frames + time_size, *[time_size] * (n_batch - 1))


def _check_bounds(thing: object, *bounds: tuple[str, float, float]) -> None:
    for name, low, high in bounds:
        value = getattr(thing, name)
        if value is not None and not low <= value <= high:
            raise EngineError(f"{name} is out of bounds", value, f"Choose {low} to {high}.")


def _check_choices(thing: object, *choices: tuple[str, Iterable[str]]) -> None:
    for name, known in choices:
        if getattr(thing, name) not in known:
            listed = ", ".join(repr(choice) for choice in known)
            raise EngineError(f"{name} isn't known", repr(getattr(thing, name)), f"Choose one of {listed}.")


def _check_shape(name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        wanted in (got, None) for wanted, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise EngineError(f"{name} has another shape", array.shape, f"Give ({wanted}).")


def _points(poses: np.ndarray | None) -> int:
    """How many points a person of these poses must have: with hands and faces, or the body's."""
    return NUM_POINTS if poses is not None and poses.shape[-2:-1] == (NUM_POINTS,) else NUM_BODY_POINTS


def _check_pixels(name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    _check_shape(name, array, shape)
    if array.dtype != np.uint8 or not array.size:
        raise EngineError(f"The {name} holds no pixels", f"{array.dtype} {array.shape}", "Give uint8.")


@dataclass(frozen=True)
class Progress:
    """`step` steps of `num_steps` of `phase` ("prepare", "first frame", "denoise", "decode") are done and, in
    the next one, `window` windows of `num_windows`. Clips of several shots denoise and decode one after the
    other; their steps are counted through all of them."""

    phase: str
    step: int
    num_steps: int
    window: int = 0
    num_windows: int = 0


@dataclass(frozen=True)
class Preview:
    """How far the frames `numbers` have come: the present guess at their clean latents, (c, len(numbers), h, w), which
    `previews` draws."""

    numbers: tuple[int, ...]
    latents: "torch.Tensor"


@dataclass(frozen=True)
class Frames:
    """Finished frames `first`…, uint8 (k, h, w, 3). They come in order and without gaps."""

    first: int
    frames: np.ndarray


Event = Progress | Preview | Frames
