"""What is asked for and what comes back: one clip, and the events of its making."""

from dataclasses import dataclass

import numpy as np

from musev_engine.control import NUM_BODY_POINTS
from musev_engine.errors import EngineError
from musev_engine.sampling import GUIDANCE_METHODS, NOISE_TYPES
from musev_engine.schedulers import SCHEDULERS
from musev_engine.windows import OVERLAP_WEIGHTS, SCHEDULES

MAX_SIZE, MAX_FRAMES, MAX_STEPS = 2048, 10_000, 1000  # pixels, frames, steps


@dataclass(frozen=True, eq=False)
class Clip:
    """Everything a clip depends on: the same clip and the same models give the same frames.

    width, height: pixels, multiples of 8. guidance_scale: 1 is none; it goes to guidance_scale_end (None:
    stays) by guidance_method. still: uint8 (h, w, 3), any size; it is cut to the clip's proportions about its
    middle. poses: float32 (num_frames, people, 18, 3) of x, y in the clip's pixels and visibility, see
    `control`. still_pose: (people, 18, 3) of the fitted still; None: its pose isn't known.
    context_*: the windows, see `windows`. scheduler: "model" for its own, or one of `schedulers`.
    noise_type, w_ind_noise: see `sampling.draw_noise`. img_weight: how far the noise leans to the still.
    motion_speed: MuseV's sample rate of frames. ip_adapter_scale, control_scale: weights of the still's image
    tokens and of the poses. compat="musev": MuseV's accidents too, see `sampling.denoise`.

    Raises EngineError for a value out of bounds.
    """

    prompt: str = ""
    negative_prompt: str = ""
    width: int = 128
    height: int = 128
    num_frames: int = 48
    num_inference_steps: int = 10
    guidance_scale: float = 1.0
    guidance_scale_end: float | None = None
    guidance_method: str = "linear"
    seed: int = 0
    still: np.ndarray | None = None
    poses: np.ndarray | None = None
    still_pose: np.ndarray | None = None
    context_frames: int = 12
    context_overlap: int = 4
    context_schedule: str = "shifting"
    overlap_weights: str = "triangular"
    scheduler: str = "model"
    eta: float = 0.0
    noise_type: str = "video_fusion"
    w_ind_noise: float = 0.5
    img_weight: float = 0.001
    motion_speed: float = 8.0
    ip_adapter_scale: float = 1.0
    control_scale: float = 1.0
    compat: str = ""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("width", 8, MAX_SIZE), ("height", 8, MAX_SIZE), ("num_frames", 1, MAX_FRAMES),
            ("num_inference_steps", 1, MAX_STEPS), ("guidance_scale", 0, 100), ("seed", 0, 2**63 - 1),
            ("context_frames", 1, MAX_FRAMES), ("context_overlap", 0, self.context_frames - 1),
            ("eta", 0, 1), ("w_ind_noise", 0, 1), ("img_weight", 0, 1), ("motion_speed", 0, 1000),
            ("ip_adapter_scale", 0, 10), ("control_scale", 0, 10),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise EngineError(f"{name} is out of bounds", value, f"Choose {low} to {high}.")
        for name in ("width", "height"):
            if (value := getattr(self, name)) % 8:
                near = value // 8 * 8
                raise EngineError(f"{name} must be a multiple of 8", value, f"Choose {near} or {near + 8}.")
        for name, choices in (
            ("guidance_method", GUIDANCE_METHODS), ("context_schedule", SCHEDULES), ("compat", ("", "musev")),
            ("overlap_weights", OVERLAP_WEIGHTS), ("scheduler", ("model", *SCHEDULERS)),
            ("noise_type", NOISE_TYPES),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                listed = ", ".join(repr(choice) for choice in choices)
                raise EngineError(
                    f"{name} isn't known", repr(getattr(self, name)), f"Choose one of {listed}."
                )
        for name, shape in (
            ("still", (None, None, 3)),
            ("poses", (self.num_frames, None, NUM_BODY_POINTS, 3)),
            ("still_pose", (None, NUM_BODY_POINTS, 3)),
        ):
            array = getattr(self, name)
            if array is None:
                continue
            if array.ndim != len(shape) or any(
                wanted not in (got, None) for wanted, got in zip(shape, array.shape, strict=True)
            ):
                wanted = ", ".join("any" if n is None else str(n) for n in shape)
                raise EngineError(f"{name} has another shape", array.shape, f"Give ({wanted}).")
        if self.still is not None and (self.still.dtype != np.uint8 or not self.still.size):
            raise EngineError(
                "The still holds no pixels", f"{self.still.dtype} {self.still.shape}", "Give uint8."
            )

    @property
    def begins_with_still(self) -> bool:
        """Whether frame 0 is the condition frame itself: the still that is animated, or the frame that is
        made first for want of a still. With a still and poses, the still is beside the clip, not in it."""
        return self.still is None or self.poses is None


@dataclass(frozen=True)
class Progress:
    """`step` steps of `num_steps` of `phase` ("prepare", "first frame", "denoise", "decode") are done and, in
    the next one, `window` windows of `num_windows`."""

    phase: str
    step: int
    num_steps: int
    window: int = 0
    num_windows: int = 0


@dataclass(frozen=True)
class Preview:
    """What frames `first`… look like so far, uint8 (k, h, w, 3)."""

    first: int
    frames: np.ndarray


@dataclass(frozen=True)
class Frames:
    """Finished frames `first`…, uint8 (k, h, w, 3). They come in order and without gaps."""

    first: int
    frames: np.ndarray


Event = Progress | Preview | Frames
