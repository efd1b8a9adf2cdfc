"""The words that Blender and the engine speak: requests, events, limits and defaults.

Standard library only, with `records.py` beneath it, so both ends import it. It knows no socket, no picture and no
network: it turns frozen dataclasses into bytes and back, and refuses what does not fit with a `ProtocolError` that
names the field, the value and the remedy.

A message without a `data` field travels as a WebSocket text message: one JSON object, `{"type": …, fields…}`.
A message with a `data` field travels as a binary one: a little-endian uint32 length, that many bytes of JSON
header, and the rest is the payload.
"""

from __future__ import annotations

import hashlib
import math
import sys
import typing
from array import array
from dataclasses import dataclass
from fractions import Fraction

from .records import (
    MAX_ITEMS,
    MAX_JSON_BYTES,
    Problem,
    ProtocolError,
    Record,
    build,
    json_text,
    kinds,
    limited,
    pack,
    parse,
    plain,
    unpack,
)

PROTOCOL_VERSION = 3  # raised when the words change; releases have their own numbers
SUBPROTOCOL = f"musev.v{PROTOCOL_VERSION}"

MAX_MESSAGE_BYTES = 32 * 1024 * 1024  # holds a 2048 x 2048 frame as PNG, however noisy
MAX_BLOB_BYTES = 64 * 1024 * 1024  # a still, a pose track or some of a clip's pictures
SLICE_BYTES = 256 * 1024  # an upload goes in slices, so that no tick of Blender's timer is long
MAX_CLIENT_BYTES = MAX_JSON_BYTES + 4 * SLICE_BYTES  # of a message that an engine reads

MAX_FRAMES = MAX_ITEMS
MAX_PEOPLE = 8
MIN_SIZE, MAX_SIZE, SIZE_STEP = 64, 2048, 8  # pixels; the VAE halves three times
BODY_POINTS, HAND_POINTS, FACE_POINTS = 18, 21, 70  # OpenPose's; a face's last two are the pupils
POINTS = BODY_POINTS + 2 * HAND_POINTS + FACE_POINTS  # of one person: body, left hand, right hand, face
MAX_CONTROLS = 8
MAX_PROMPTS = 64  # of a clip's prompt track
MAX_PINS = 64
MAX_LORAS = 16
MAX_LORA_WEIGHT = 10.0  # either way
MAX_PICTURE_BLOBS = 256  # that the frames of one kind of picture come in

JOB_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
SHA256 = r"[0-9a-f]{64}"
PLUGIN_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
MAX_PLUGINS = 500  # of one kind
MODEL_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
# the roles of models that a file can be added as
ADDABLE = ("t2i", "lora", "embedding", "vae", "ip-adapter", "controlnet")
MODEL_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
MAX_MODEL_BYTES = 16 * 2**30
MAX_WAITING = 256  # jobs in an engine's queue
JOBS_A_PAGE = 64
PLACES = ("back", "front", "replace")
JOB_STATES = ("queued", "running", "done", "failed", "cancelled")


class Message(Record):
    """A record that travels by itself. Its class name is its `type` on the wire."""


# --- what is asked for ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Control(Record):
    """Pictures that one ControlNet follows, one for each generated frame.

    name: of the control, as in MuseV ('depth', 'normal_bae', 'lineart', …). pictures: the sha256 of the blobs that
    hold them (`Pictures.to_bytes()`), in order. detect: they are plain frames, and the engine's preprocessor of that
    name finds the control in them; otherwise they are the control pictures themselves. scale: weight of the
    ControlNet; start, end: the part of the denoising in which it acts, 0..1.
    """

    name: str = limited(pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
    pictures: tuple[str, ...] = limited(pattern=SHA256, longest=MAX_PICTURE_BLOBS)
    detect: bool = False
    scale: float = limited(1.0, low=0.0, high=4.0)
    start: float = limited(0.0, low=0.0, high=1.0)
    end: float = limited(1.0, low=0.0, high=1.0)


@dataclass(frozen=True)
class Pin(Record):
    """A generated frame that is given: the clip leads to it and on from it, and it comes back as it was given, cut to
    the clip's proportions about its middle and scaled. picture: the sha256 of an image file's bytes."""

    frame: int = limited(low=0, high=MAX_FRAMES - 1)
    picture: str = limited(pattern=SHA256)


@dataclass(frozen=True)
class LoraChoice(Record):
    """A LoRA that the engine has, by its id. weight: 1 is all of what it learned, 0 nothing of it, less than 0 the
    opposite."""

    name: str = limited(pattern=MODEL_ID)
    weight: float = limited(1.0, low=-MAX_LORA_WEIGHT, high=MAX_LORA_WEIGHT)


@dataclass(frozen=True)
class PromptSpan(Record):
    """The prompt of the generated frames `first` to `last`, both of them in it."""

    first: int = limited(low=0, high=MAX_FRAMES - 1)
    last: int = limited(low=0, high=MAX_FRAMES - 1)
    text: str = limited(longest=2000)


@dataclass(frozen=True)
class ClipRequest(Record):
    """Everything a clip depends on: the same request and the same models give the same clip.

    mode: 'still' animates `still` by `prompt`; 'text' needs no picture; 'pose' follows `poses`, looking like
    `still` where one is given; 'video' makes `source` anew. result: 'clip', or 'poses' for the pose pictures that
    the ControlNet would be shown, and nothing generated. width, height: pixels, multiples of 8.

    num_frames: how many frames are generated, fps of them a second. output_frames, output_fps: what comes back where
    that is not the same: output frame k shows the time k / output_fps, the frames between generated ones made as
    `between` says: 'held' repeats, 'blended' mixes, 'flow' moves the pixels along optical flow. motion_speed: MuseV's
    sample rate of frames; None: what the model and fps make of it.

    prompts: other prompts for some of the generated frames; where they overlap one goes over into the next, outside
    them `prompt` stands. noise_width, noise_height: the size that the first noise is drawn for, None for the clip's
    own: a draft of a larger clip begins with that one's noise.

    `still` and `poses` are the sha256 of blobs (an image file's bytes; `PoseTrack.to_bytes()`); `source` (plain
    frames) and `mask` (white where the clip is to be opaque; the frames then come with an alpha channel) are those of
    blobs of `Pictures`, one picture for each generated frame. source_strength: 0 keeps the source, 1 next to nothing
    of it. posealign: 'auto' brings the poses to the figure of the still. end_still: another still, whose look the clip
    goes over into along the frames that are made.

    shared_seed: the seed of the noise that all frames share, where it is not `seed`: frames made anew look like those
    of the clip around them. pins: frames that are given, at most one for each. A pin at frame 0 is that frame also
    where a still is animated; the still then says how things look.

    context_frames, context_overlap: length of a parallel-denoise window and how many frames neighbours share.
    context_schedule: how the windows are laid; predictor: what predicts the noise; names from `Menus`.
    overlap_weights: how overlapping predictions are averaged. scheduler: 'model' is the checkpoint's own
    choice. w_ind_noise: share (0..1) of noise that is each frame's own, where noise_type is 'video_fusion'.
    ip_adapter_scale, control_scale: weights of the still's image tokens and of the pose ControlNet. loras: what is
    added to the model's weights, in this order; each once. vae, ip_adapter: ids of models that stand in for the
    model's own, "" for those. Raises ProtocolError.
    """

    mode: str = limited("still", choices=("still", "text", "pose", "video"))
    result: str = limited("clip", choices=("clip", "poses"))
    prompt: str = limited("", longest=2000)
    negative_prompt: str = limited("", longest=2000)
    model: str = limited("mini", pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
    width: int = limited(128, low=MIN_SIZE, high=MAX_SIZE, step=SIZE_STEP)
    height: int = limited(128, low=MIN_SIZE, high=MAX_SIZE, step=SIZE_STEP)
    num_frames: int = limited(48, low=1, high=MAX_FRAMES)
    fps: float = limited(24.0, low=0.1, high=240.0)
    output_frames: int | None = limited(None, low=1, high=MAX_FRAMES)
    output_fps: float | None = limited(None, low=0.1, high=240.0)
    between: str = limited("held", choices=("held", "blended", "flow"))
    num_inference_steps: int = limited(10, low=1, high=200)
    guidance_scale: float = limited(1.0, low=1.0, high=30.0)
    seed: int = limited(0, low=0, high=2**31 - 1)
    shared_seed: int | None = limited(None, low=0, high=2**31 - 1)
    still: str | None = limited(None, pattern=SHA256)
    end_still: str | None = limited(None, pattern=SHA256)
    poses: str | None = limited(None, pattern=SHA256)
    posealign: str = limited("off", choices=("off", "auto"))
    source: tuple[str, ...] = limited((), pattern=SHA256, longest=MAX_PICTURE_BLOBS)
    source_strength: float = limited(0.6, low=0.0, high=1.0)
    controls: tuple[Control, ...] = limited((), longest=MAX_CONTROLS)
    mask: tuple[str, ...] = limited((), pattern=SHA256, longest=MAX_PICTURE_BLOBS)
    pins: tuple[Pin, ...] = limited((), longest=MAX_PINS)
    context_frames: int = limited(12, low=1, high=64)
    context_overlap: int = limited(4, low=0, high=63)
    context_schedule: str = limited("shifting", pattern=PLUGIN_NAME)
    predictor: str = limited("musev", pattern=PLUGIN_NAME)
    overlap_weights: str = limited("triangular", choices=("triangular", "flat"))
    scheduler: str = limited(
        "model", choices=("model", "euler", "euler_ancestral", "ddim", "ddpm", "dpm++", "lcm")
    )
    noise_type: str = limited("video_fusion", choices=("video_fusion", "random"))
    w_ind_noise: float = limited(0.5, low=0.0, high=1.0)
    motion_speed: float | None = limited(None, low=0.0, high=1000.0)
    ip_adapter_scale: float = limited(1.0, low=0.0, high=4.0)
    control_scale: float = limited(1.0, low=0.0, high=4.0)
    prompts: tuple[PromptSpan, ...] = limited((), longest=MAX_PROMPTS)
    noise_width: int | None = limited(None, low=MIN_SIZE, high=MAX_SIZE, step=SIZE_STEP)
    noise_height: int | None = limited(None, low=MIN_SIZE, high=MAX_SIZE, step=SIZE_STEP)
    loras: tuple[LoraChoice, ...] = limited((), longest=MAX_LORAS)
    vae: str = limited("", pattern=f"({MODEL_ID})?")
    ip_adapter: str = limited("", pattern=f"({MODEL_ID})?")

    def __post_init__(self):
        super().__post_init__()
        self._check_prompts()
        names = [lora.name for lora in self.loras]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ProtocolError("A LoRA is chosen twice", twice[0], "Give it one weight.", "bad_request")
        for side, noise in (("width", self.noise_width), ("height", self.noise_height)):
            if noise is not None and noise < getattr(self, side):
                raise ProtocolError(
                    f"noise_{side} must not be less than {side} ({getattr(self, side)})", noise,
                    "Leave it out, or give the size of the final clip.", "bad_request",
                )  # fmt: skip
        for mode, needed, message, remedy in (
            ("still", "still", "Mode 'still' animates a picture, and none was given", "Choose a reference still."),
            ("pose", "poses", "Mode 'pose' follows a rig, and no poses were given", "Choose an armature and a camera."),
            ("video", "source", "Mode 'video' makes frames anew, and none were given", "Choose a source strip."),
        ):  # fmt: skip
            if self.mode == mode and not getattr(self, needed):
                raise ProtocolError(message, None, remedy, f"no_{needed}")
        unused = {
            "text": ("still", "poses", "source"), "still": ("poses", "source"), "pose": (), "video": ("poses",),
        }[self.mode]  # fmt: skip
        for name in unused:
            if getattr(self, name):
                raise ProtocolError(
                    f"Mode {self.mode!r} makes no use of {name}", getattr(self, name), "Choose another mode."
                )
        if self.context_overlap >= self.context_frames:
            raise ProtocolError(
                f"context_overlap must be less than context_frames ({self.context_frames})",
                self.context_overlap,
                "Lower the overlap.",
                "bad_request",
            )
        pinned = [pin.frame for pin in self.pins]
        if outside := [frame for frame in pinned if frame >= self.num_frames]:
            raise ProtocolError(
                f"A pin is outside the clip of {self.num_frames} frames", outside[0],
                f"Choose 0 to {self.num_frames - 1}.", "bad_request",
            )  # fmt: skip
        if twice := [frame for frame in set(pinned) if pinned.count(frame) > 1]:
            raise ProtocolError("A frame has two pins", twice[0], "Give each frame one.", "bad_request")

    def _check_prompts(self) -> None:
        for span in self.prompts:
            if not span.first <= span.last < self.num_frames:
                raise ProtocolError(
                    f"A prompt must lie within the {self.num_frames} generated frames", (span.first, span.last),
                    f"Choose 0 <= first <= last <= {self.num_frames - 1}.", "bad_request",
                )  # fmt: skip

    @property
    def blobs(self) -> tuple[str, ...]:
        """The sha256 of every input the engine needs."""
        pictures = (
            *self.source,
            *self.mask,
            *(blob for control in self.controls for blob in control.pictures),
            *(pin.picture for pin in self.pins),
        )
        return tuple(sorted({blob for blob in (self.still, self.end_still, self.poses, *pictures) if blob}))

    @property
    def frames_out(self) -> int:
        """How many frames come back."""
        return self.output_frames or self.num_frames

    @property
    def rates(self) -> tuple[Fraction, Fraction]:
        """Frames a second that are generated, and that come back, exactly."""
        return exact_rate(self.fps), exact_rate(self.output_fps or self.fps)


@dataclass(frozen=True)
class PoseTrack(Record):
    """Keypoints of every frame and person, in pixels of a width x height picture.

    points: little-endian float32 of shape (num_frames, num_people, 130, 3): body 18, left hand 21, right hand 21,
    face 70, each in OpenPose's order; the last axis is x px (right), y px (down), visibility 0..1 (0: not there, x
    and y mean nothing; between: drawn as dark as that). numpy: `array.astype("<f4").tobytes()`, and back
    `np.frombuffer(track.points, "<f4").reshape(track.shape)`. still_pose: the same for the reference still,
    (num_people, 130, 3), or None. Raises ProtocolError.
    """

    width: int = limited(low=1, high=16384)
    height: int = limited(low=1, high=16384)
    fps: float = limited(low=0.1, high=240.0)
    num_frames: int = limited(low=1, high=MAX_FRAMES)
    num_people: int = limited(low=1, high=MAX_PEOPLE)
    points: bytes
    still_pose: bytes | None = None
    version: int = limited(2, choices=(2,))

    def __post_init__(self):
        super().__post_init__()
        one_frame = self.num_people * POINTS * 3 * 4
        _check_points("PoseTrack.points", self.points, self.num_frames * one_frame)
        if self.still_pose is not None:
            _check_points("PoseTrack.still_pose", self.still_pose, one_frame)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.num_frames, self.num_people, POINTS, 3)

    def to_bytes(self) -> bytes:
        header = {"format": "musev.poses", **plain(self)}
        points, still_pose = header.pop("points"), header.pop("still_pose")
        return pack(header | {"has_still_pose": still_pose is not None}, points + (still_pose or b""))

    @classmethod
    def from_bytes(cls, raw: bytes) -> PoseTrack:
        """Raises ProtocolError if `raw` is not exactly one pose track."""
        header, payload = _unpack_blob("pose track", "musev.poses", raw)
        still_floats = header.pop("has_still_pose", None)
        if not isinstance(still_floats, bool) or {"points", "still_pose"} & header.keys():
            raise ProtocolError("A pose track's header is damaged", still_floats, "Export the poses again.")
        num_people = header.get("num_people")
        cut = len(payload)
        if still_floats and isinstance(num_people, int):
            cut -= num_people * POINTS * 3 * 4
        still_pose = payload[max(cut, 0) :] if still_floats else None
        return build(cls, header | {"points": payload[: max(cut, 0)], "still_pose": still_pose})


@dataclass(frozen=True)
class Pictures(Record):
    """Consecutive pictures of one size, each a whole PNG file: control pictures, masks, source frames.

    sizes: bytes of each file; data: the files one after another. A clip's pictures may come in several of these, so
    that none is large. Raises ProtocolError.
    """

    width: int = limited(low=1, high=16384)
    height: int = limited(low=1, high=16384)
    sizes: tuple[int, ...] = limited(low=1, longest=MAX_FRAMES)
    data: bytes
    version: int = limited(1, choices=(1,))

    def __post_init__(self):
        super().__post_init__()
        if not self.sizes or sum(self.sizes) != len(self.data):
            raise ProtocolError(
                "Pictures.sizes must add up to the bytes that came",
                (sum(self.sizes), len(self.data)), "Send whole pictures, one at least.",
            )  # fmt: skip

    @classmethod
    def of(cls, width: int, height: int, files: typing.Sequence[bytes]) -> Pictures:
        return cls(width, height, tuple(len(file) for file in files), b"".join(files))

    @property
    def files(self) -> typing.Iterator[bytes]:
        """The PNG files, in order."""
        first = 0
        for size in self.sizes:
            yield self.data[first : first + size]
            first += size

    def to_bytes(self) -> bytes:
        header = {"format": "musev.pictures", **plain(self)}
        return pack(header, header.pop("data"))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Pictures:
        """Raises ProtocolError if `raw` is not exactly such pictures."""
        header, payload = _unpack_blob("set of pictures", "musev.pictures", raw)
        return build(cls, header | {"data": payload})


# --- records inside messages ----------------------------------------------------------------------


@dataclass(frozen=True)
class ModelInfo(Record):
    """One model this engine can use. `installed`: its files are there. Sizes are in pixels and bytes. native_fps:
    frames a second of the clips it learned from; it moves most naturally at that rate."""

    name: str
    licence: str
    installed: bool
    width: int
    height: int
    size_bytes: int
    source: str = ""
    native_fps: float = limited(3.0, low=0.1, high=240.0)  # MuseV's own


@dataclass(frozen=True)
class PhaseTime(Record):
    phase: str
    seconds: float


@dataclass(frozen=True)
class JobInfo(Record):
    """One job as the engine's store has it. state: one of JOB_STATES; frames_done of frames_out are there to fetch.
    submitted_at, ended_at: seconds since 1970. mode … seed: of its request; prompt: its beginning. problem: of a failed
    one, its beginning. retry_of: the job that this one repeats.
    """

    job: str = limited(pattern=JOB_ID)
    state: str = limited(choices=JOB_STATES)
    owner: str = limited("", longest=64)
    frames_done: int = limited(0, low=0)
    frames_out: int = limited(1, low=1)
    submitted_at: float = 0.0
    ended_at: float | None = None
    retry_of: str | None = limited(None, pattern=JOB_ID)
    mode: str = "still"
    result: str = "clip"
    model: str = ""
    prompt: str = limited("", longest=80)
    width: int = 0
    height: int = 0
    seed: int = 0
    problem: str = limited("", longest=160)


@dataclass(frozen=True)
class Change(Record):
    """A field of ClipRequest, and what it would be."""

    name: str = limited(pattern=PLUGIN_NAME)
    value: int


@dataclass(frozen=True)
class Remedy(Record):
    """What would make a clip fit: the changes of its request, what they are called, and the estimate they give."""

    label: str = limited(longest=100)
    changes: tuple[Change, ...]
    seconds: float = limited(low=0.0)
    memory_mb: float = limited(low=0.0)


@dataclass(frozen=True)
class ShelfModel(Record):
    """One known model. licence: its name, as `DownloadModel` must say it. commercial: whether one may sell what it
    makes, None where not known. size_bytes: None where not known. installed: all its files are here. removable: they
    lie in the engine's own models folder. url: where it comes from, "" of one that was `added` by a file. trigger: the
    words in a prompt that bring out what it learned, as far as its file tells. num_inference_steps, guidance_scale:
    those that a LoRA was made for, if that is few steps.
    """

    id: str = limited(pattern=MODEL_ID)
    role: str
    title: str
    licence: str
    licence_url: str
    commercial: bool | None = None
    size_bytes: int | None = None
    installed: bool = False
    removable: bool = False
    url: str = ""
    added: bool = False
    trigger: str = limited("", longest=200)
    num_inference_steps: int | None = limited(None, low=1, high=200)
    guidance_scale: float | None = limited(None, low=1.0, high=30.0)


# --- client → engine ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submit(Message):
    """Make this clip. Sent twice with one `job` it makes one job. Answered by NeedBlobs (upload, then submit
    again), Accepted, or Refused.

    place: in the queue: 'back'; 'front', before all that wait; 'replace': at the back, and those jobs of the same
    owner that wait (not the running one) are cancelled. owner: whose it is, a name that a client makes up and keeps,
    such as one for each .blend file; "": this connection's, whatever it submits without a name. previews: send
    Preview messages while it is denoised.
    """

    job: str = limited(pattern=JOB_ID)
    request: ClipRequest
    place: str = limited("back", choices=PLACES)
    owner: str = limited("", longest=64)
    previews: bool = True


@dataclass(frozen=True)
class BlobSlice(Message):
    """Bytes [offset, offset + len(data)) of the blob `sha256` of `size` bytes; slices come in order."""

    sha256: str = limited(pattern=SHA256)
    offset: int = limited(low=0, high=MAX_BLOB_BYTES)
    size: int = limited(low=1, high=MAX_BLOB_BYTES)
    data: bytes


@dataclass(frozen=True)
class Cancel(Message):
    job: str = limited(pattern=JOB_ID)


@dataclass(frozen=True)
class Move(Message):
    """Put a waiting job elsewhere in the queue. Told to all by Queue; Refused, code 'not_waiting', if it doesn't
    wait."""

    job: str = limited(pattern=JOB_ID)
    place: str = limited("front", choices=("back", "front"))


@dataclass(frozen=True)
class Retry(Message):
    """Make the clip of `of`, a job that has ended, once more, as the new job `job`; a job itself ends only once. The
    engine still has its request and inputs. Else as Submit; Refused, code 'unknown_job' or 'not_ended'."""

    job: str = limited(pattern=JOB_ID)
    of: str = limited(pattern=JOB_ID)
    place: str = limited("back", choices=PLACES)
    owner: str = limited("", longest=64)
    previews: bool = True


@dataclass(frozen=True)
class AskJobs(Message):
    """Which jobs does the engine have? owner: of this one alone, "": all. skip: leave out so many, the newest.
    Answered by Jobs. A client that finds its own there resumes them."""

    owner: str = limited("", longest=64)
    skip: int = limited(0, low=0)


@dataclass(frozen=True)
class AskEstimate(Message):
    """What would this clip take? number: comes back with the answer, an Estimate. The inputs that the request names
    need not be there: none is read."""

    number: int
    request: ClipRequest


@dataclass(frozen=True)
class AskModels(Message):
    """Answered by ModelShelf."""


@dataclass(frozen=True)
class DownloadModel(Message):
    """Get a known model from the hub. licence_accepted: the licence's name, exactly as ShelfModel told it, for whoever
    asks has accepted it. Answered by ModelProgress, or Refused."""

    id: str = limited(pattern=MODEL_ID)
    licence_accepted: str = limited(longest=200)


@dataclass(frozen=True)
class VerifyModel(Message):
    """Read a model's files and compare their hashes. Answered by ModelProgress, or Refused."""

    id: str = limited(pattern=MODEL_ID)


@dataclass(frozen=True)
class RemoveModel(Message):
    """Delete a model's files from the models folder. Answered by ModelProgress, or Refused: code 'model_in_use' while a
    clip that is being made or waits needs it."""

    id: str = limited(pattern=MODEL_ID)


@dataclass(frozen=True)
class AddModel(Message):
    """Take a file of mine as a model. Answered by SendModel, after which the file comes in ModelSlices on this very
    connection; or by Refused. id: what it will be called; suffix: of the file's name; size: bytes. role: one of
    ADDABLE, "" for what the file seems to be. title, licence, licence_url, commercial: as in ShelfModel; licence ""
    where it isn't known. stands_for: of a ControlNet, the known one in whose place it is used, "" for the one that its
    name tells.

    Told by ModelProgress: running while it arrives and is looked into, then its end. The file is in the models folder
    whole or not at all. CancelModel throws away what has come of it; what had come when the connection or the engine
    ended is kept for some days, and gone on with by who says AddModel of that name, suffix and size again. sha256: of
    the file, where all of it was sent and only the answer lacks.
    """

    id: str = limited(pattern=MODEL_ID)
    suffix: str = limited(choices=MODEL_SUFFIXES)
    size: int = limited(low=16, high=MAX_MODEL_BYTES)
    role: str = limited("", choices=("", *ADDABLE))
    title: str = limited("", longest=200)
    licence: str = limited("", longest=200)
    licence_url: str = limited("", pattern=r"(https?://\S+)?", longest=500)
    commercial: bool | None = None
    stands_for: str = limited("", pattern=f"({MODEL_ID})?")
    sha256: str = limited("", pattern=f"({SHA256})?")


@dataclass(frozen=True)
class ModelSlice(Message):
    """Bytes [offset, offset + len(data)) of the file of an AddModel, in order: from where SendModel says, or from 0.
    sha256: of the whole file, in the slice that ends it. Those of a file that is no longer wanted are passed over."""

    id: str = limited(pattern=MODEL_ID)
    offset: int = limited(low=0, high=MAX_MODEL_BYTES)
    data: bytes
    sha256: str = limited("", pattern=f"({SHA256})?")


@dataclass(frozen=True)
class CancelModel(Message):
    """Stop what is being done with a model, or was to be done. A download begun goes on from there the next time."""

    id: str = limited(pattern=MODEL_ID)


@dataclass(frozen=True)
class Resume(Message):
    """I am back, and have these frames of this job: send the others, and how it ends."""

    job: str = limited(pattern=JOB_ID)
    have: tuple[int, ...] = limited((), longest=MAX_FRAMES)


@dataclass(frozen=True)
class AskStatus(Message):
    """Answered by EngineStatus."""


@dataclass(frozen=True)
class Shutdown(Message):
    """End the engine. What it still had to do waits in its state folder."""


# --- engine → client ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Greeting(Message):
    """The one line that an engine prints when it listens (Refused, where it can't): url is ws://HOST:PORT."""

    protocol_version: int
    url: str
    pid: int


@dataclass(frozen=True)
class Welcome(Message):
    """The engine's first word on every connection."""

    protocol_version: int
    engine_version: str
    pid: int
    models: tuple[ModelInfo, ...]


@dataclass(frozen=True)
class Menus(Message):
    """What one may choose from in this engine, by name: its own and other packages' plug-ins. Said after Welcome, as
    soon as it is known, and whenever it has changed. controls: those whose ControlNet is here. left_out: a line for
    each plug-in that doesn't work, with its package and why.
    """

    motion_models: tuple[str, ...] = limited((), longest=MAX_PLUGINS)
    window_schedules: tuple[str, ...] = limited((), longest=MAX_PLUGINS)
    control_preprocessors: tuple[str, ...] = limited((), longest=MAX_PLUGINS)
    predictors: tuple[str, ...] = limited((), longest=MAX_PLUGINS)
    controls: tuple[str, ...] = limited((), longest=MAX_PLUGINS)
    left_out: tuple[str, ...] = limited((), longest=MAX_PLUGINS)


@dataclass(frozen=True)
class EngineStatus(Message):
    """queued, running: numbers of jobs. worker_pid: None while no worker process runs."""

    queued: int
    running: int
    worker_pid: int | None


@dataclass(frozen=True)
class NeedBlobs(Message):
    job: str = limited(pattern=JOB_ID)
    blobs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accepted(Message):
    """The job stands in the engine's store, `queue_position` jobs before it. replaced: the jobs cancelled for it."""

    job: str = limited(pattern=JOB_ID)
    queue_position: int = 0
    replaced: tuple[str, ...] = limited((), pattern=JOB_ID, longest=MAX_WAITING)


@dataclass(frozen=True)
class Queue(Message):
    """All jobs that have not ended, in the order in which they are made. Told to every client after Welcome and
    whenever it has changed. running: the one that is being made."""

    running: str | None = limited(None, pattern=JOB_ID)
    waiting: tuple[str, ...] = limited((), pattern=JOB_ID, longest=MAX_WAITING)


@dataclass(frozen=True)
class Jobs(Message):
    """Jobs of the engine's store, newest first: `JOBS_A_PAGE` at most, of `total`. Ended ones are kept for a week."""

    jobs: tuple[JobInfo, ...] = limited((), longest=JOBS_A_PAGE)
    total: int = 0


@dataclass(frozen=True)
class Estimate(Message):
    """What a clip would take. seconds: of its making, in phases; wait_s: until it begins, at the back of the queue.
    memory_mb: the most it holds, of the GPU's memory where `device` is one; free_memory_mb: what there is for it, None
    where that isn't known. num_jobs_known: finished jobs of this model and device that it is reckoned from; 0: not
    measured yet, a guess. remedies: where it doesn't fit, what would.
    """

    number: int
    seconds: float = limited(low=0.0)
    phases: tuple[PhaseTime, ...] = ()
    wait_s: float = limited(0.0, low=0.0)
    memory_mb: float = limited(0.0, low=0.0)
    free_memory_mb: float | None = None
    device: str = ""
    num_jobs_known: int = limited(0, low=0)
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True)
class ModelShelf(Message):
    """The known models. ready: those that clips can be made with, as Welcome told them then. offline: why nothing can
    be downloaded, "" where it can. Told when asked for, and to every client when a model has come or gone."""

    models: tuple[ShelfModel, ...] = ()
    ready: tuple[ModelInfo, ...] = ()
    offline: str = ""


@dataclass(frozen=True)
class SendModel(Message):
    """Send the file of your AddModel. offset: so many bytes of it are here from an upload that broke off, and sha256 is
    theirs: a client whose file begins so sends what follows them, any other the whole file."""

    id: str = limited(pattern=MODEL_ID)
    offset: int = limited(0, low=0, high=MAX_MODEL_BYTES)
    sha256: str = limited("", pattern=f"({SHA256})?")


@dataclass(frozen=True)
class ModelProgress(Message):
    """What is being done with a model, told to every client; one is seen to at a time, and files that are added arrive
    beside that. file, done_bytes, total_bytes: of a download, or of a file that is added. results: what verifying
    found, a line for each file; intact: whether every one is what it should be. problem: why it failed."""

    id: str = limited(pattern=MODEL_ID)
    action: str = limited("download", choices=("download", "verify", "remove", "add"))
    state: str = limited("running", choices=("waiting", "running", "done", "failed", "cancelled"))
    file: str = ""
    done_bytes: int = limited(0, low=0)
    total_bytes: int = limited(0, low=0)
    results: tuple[str, ...] = ()
    intact: bool | None = None
    problem: Problem | None = None


@dataclass(frozen=True)
class Refused(Message):
    """A message was not taken; nothing has changed. `job` says whose it was, where that is known; `model` which known
    model's."""

    problem: Problem
    job: str | None = limited(None, pattern=JOB_ID)
    model: str | None = limited(None, pattern=MODEL_ID)


@dataclass(frozen=True)
class Progress(Message):
    """`step` steps of `num_steps` within `phase` ('load', 'prepare', 'denoise', 'decode') are done and, of
    the next one, `window` windows of `num_windows`. eta_s: seconds left in the phase, once that is known;
    total_eta_s: seconds until the clip is done, from what earlier clips took."""

    job: str = limited(pattern=JOB_ID)
    phase: str = limited(longest=40)
    step: int = limited(0, low=0)
    num_steps: int = limited(0, low=0)
    eta_s: float | None = None
    window: int = limited(0, low=0)
    num_windows: int = limited(0, low=0)
    total_eta_s: float | None = None


@dataclass(frozen=True)
class Preview(Message):
    """How `frame`, of those that are generated, looks after `step`: roughly, and a quarter of its size; data: one
    PNG."""

    job: str = limited(pattern=JOB_ID)
    step: int = limited(low=0)
    frame: int = limited(low=0, high=MAX_FRAMES - 1)
    data: bytes


@dataclass(frozen=True)
class FrameReady(Message):
    """A finished frame of those that come back, 0-based; data: one PNG, 8-bit sRGB, of the request's width and height,
    with an alpha channel (straight, not multiplied in) where the request has a mask."""

    job: str = limited(pattern=JOB_ID)
    frame: int = limited(low=0, high=MAX_FRAMES - 1)
    data: bytes


@dataclass(frozen=True)
class Done(Message):
    """Ending 1 of 3. `model_sha256` names the weights that made the clip; peak_memory_mb is the most that the worker
    held while it made it, None where the system does not tell; gpu_memory_mb the same of the GPU's, if it has one."""

    job: str = limited(pattern=JOB_ID)
    num_frames: int = limited(low=1, high=MAX_FRAMES)
    phases: tuple[PhaseTime, ...] = ()
    peak_memory_mb: float | None = None
    device: str = ""
    model_sha256: str = ""
    model_licence: str = ""
    engine_version: str = ""
    gpu_memory_mb: float | None = None


@dataclass(frozen=True)
class Failed(Message):
    """Ending 2 of 3."""

    job: str = limited(pattern=JOB_ID)
    problem: Problem


@dataclass(frozen=True)
class Cancelled(Message):
    """Ending 3 of 3."""

    job: str = limited(pattern=JOB_ID)


Ending = Done | Failed | Cancelled
MESSAGES = {message.__name__: message for message in Message.__subclasses__()}


# --- bytes and back -------------------------------------------------------------------------------


def encode(message: Message) -> str | bytes:
    """The WebSocket message: str travels as text, bytes as binary. Raises ProtocolError if it is too
    large."""
    header = {"type": type(message).__name__, **plain(message)}
    if "data" in header:
        raw = pack(header, header.pop("data"))
    elif len(raw := json_text(header)) > MAX_JSON_BYTES:  # in characters: our JSON is all ASCII
        raise ProtocolError(f"A control message has at most {MAX_JSON_BYTES} bytes", len(raw), "Send less.")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"A message has at most {MAX_MESSAGE_BYTES} bytes", len(raw), "Send less.")
    return raw


def decode(raw: str | bytes) -> Message:
    """The message that `encode` wrote. Raises ProtocolError for anything else."""
    if len(raw) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"A message has at most {MAX_MESSAGE_BYTES} bytes", len(raw), "Send less.")
    header, payload = (parse(raw), None) if isinstance(raw, str) else unpack(raw)
    name = header.pop("type", None)
    message = MESSAGES.get(name) if isinstance(name, str) else None
    if message is None:
        raise ProtocolError("Unknown message type", name, f"Known are {', '.join(MESSAGES)}.")
    if (payload is not None) != ("data" in kinds(message)):
        raise ProtocolError(
            f"{name} came in the wrong kind of WebSocket message",
            type(raw).__name__,
            "Messages with data are binary, all others text.",
        )
    return build(message, header if payload is None else header | {"data": payload})


def request_json(request: ClipRequest) -> str:
    """One canonical text for a request: equal texts mean equal clips."""
    return json_text(dict(sorted(plain(request).items())))


def request_from_json(text: str) -> ClipRequest:
    return build(ClipRequest, parse(text))


def exact_rate(fps: float) -> Fraction:
    """The rate that a number of frames a second stands for: 23.976 is 24000/1001, as 29.97 and its like; any other the
    nearest fraction with a denominator up to 1001."""
    ntsc = round(fps * 1.001)
    if ntsc and abs(fps - ntsc / 1.001) < 0.0005:
        return Fraction(ntsc * 1000, 1001)
    return Fraction(fps).limit_denominator(1001)


def blob_sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_points(name: str, raw: bytes, size: int) -> None:
    if len(raw) != size:
        raise ProtocolError(
            f"{name} must have {size} bytes: frames x people x {POINTS} x 3 float32",
            len(raw),
            "Send points of that shape.",
        )
    if _surely_fit(raw):
        return
    numbers = array("f")
    numbers.frombytes(raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    if not math.isfinite(sum(numbers)):  # float32 numbers can't overflow this float64 sum
        raise ProtocolError(
            f"{name} holds a number that is not finite", "nan or inf", "Mark it not visible instead."
        )
    visibility = numbers[2::3]
    if min(visibility) < 0 or max(visibility) > 1:
        raise ProtocolError(
            f"{name} holds a visibility outside 0..1",
            (min(visibility), max(visibility)),
            "Use 1 for seen, 0 for not seen.",
        )


def _surely_fit(raw: bytes) -> bool:
    """Whether points are finite and their visibility 0..1, told from their bits without a Python number for each: a
    clip's are checked within one tick of Blender's timer. False where that can't be told."""
    exponents = raw[3::4]  # sign and the upper seven bits
    bits = array("I")
    if bits.itemsize != 4 or len(exponents.translate(None, b"\x7f\xff")) < len(exponents):
        return False
    bits.frombytes(raw)
    if sys.byteorder == "big":
        bits.byteswap()
    return max(bits[2::3]) <= 0x3F800000  # 1.0; what is greater is more than it, or negative


def _unpack_blob(what: str, form: str, raw: bytes) -> tuple[dict, bytes]:
    """Header, without its format, and payload of a blob of that format."""
    if len(raw) > MAX_BLOB_BYTES:
        raise ProtocolError(f"A {what} has at most {MAX_BLOB_BYTES} bytes", len(raw), "Use fewer frames.")
    header, payload = unpack(raw)
    if header.pop("format", None) != form:
        raise ProtocolError(f"This is not a {what}", raw[:40], f"Send a blob of the format {form}.")
    return header, payload
