"""The protocol: what is encoded is decoded, and whatever does not fit is refused by name."""

import dataclasses
import json
import struct
import subprocess
import sys
import uuid
from array import array
from fractions import Fraction
from pathlib import Path

import pytest

from blender_addon import protocol
from blender_addon.protocol import (
    MESSAGES,
    BlobSlice,
    Cancel,
    Change,
    ClipRequest,
    Control,
    Done,
    FrameReady,
    JobInfo,
    ModelInfo,
    PhaseTime,
    Pictures,
    Pin,
    PoseTrack,
    Problem,
    ProtocolError,
    Record,
    Refused,
    Remedy,
    Resume,
    ShelfModel,
    Submit,
    decode,
    encode,
)

ROOT = Path(__file__).parent.parent
JOB, SHA = str(uuid.uuid4()), "ab" * 32
EXAMPLES = {  # by the name of the field, or else its type
    "job": JOB,
    "sha256": SHA,
    "code": "some_code",
    "request": ClipRequest(mode="text", prompt="a dancer – naïve ☂"),
    "problem": Problem("disk_full", "The disk is full", "/tmp", "Free some space."),
    "models": (ModelInfo("mini", "CC0", True, 128, 128, 1),),
    "phases": (PhaseTime("denoise", 1.5),),
    "blobs": (SHA,),
    "have": (0, 3),
    "place": "front",
    "owner": "a file",
    "of": JOB,
    "waiting": (JOB,),
    "replaced": (JOB,),
    "jobs": (JobInfo(JOB, "failed", ended_at=1.5, retry_of=JOB, problem="x"), JobInfo(JOB, "queued")),
    "remedies": (Remedy("Half the size", (Change("width", 64), Change("height", 64)), 1.5, 100.0),),
    "ready": (ModelInfo("mini", "CC0", True, 128, 128, 1),),
    "action": "verify",
    "state": "failed",
    "intact": False,
    "previews": False,
    tuple[str, ...]: ("word", "other"),
    str: "word",
    int: 7,
    float: 0.5,
    bytes: b"\x00\xff",
}

OTHERWISE = {  # where a name stands for something else
    "AddModel": {"suffix": ".ckpt", "size": 2**34, "role": "lora", "commercial": False, "licence_url": ""},
    "ModelShelf": {"models": (ShelfModel("musev", "motion", "A model", "MIT", "https://x", size_bytes=5),)},
    "Queue": {"running": JOB},
    "Refused": {"model": "musev"},
}


def example(message):
    kinds = protocol.kinds(message)
    shown = EXAMPLES | OTHERWISE.get(message.__name__, {})
    return message(**{name: shown.get(name, shown.get(kind)) for name, kind in kinds.items()})


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_comes_back_as_it_went(name):
    message = example(MESSAGES[name])
    raw = encode(message)
    assert decode(raw) == message
    assert isinstance(raw, bytes) == ("data" in protocol.kinds(type(message)))


def test_every_message_with_defaults_comes_back():
    for message in (
        Done(JOB, 4),
        Resume(JOB),
        Submit(JOB, ClipRequest(mode="text")),
        Refused(Problem("x", "y")),
    ):
        assert decode(encode(message)) == message


def test_a_request_has_one_text_and_survives_it():
    request = ClipRequest(mode="pose", poses=SHA, still=SHA, fps=24, seed=5)
    assert protocol.request_from_json(protocol.request_json(request)) == request
    assert protocol.request_json(request) == protocol.request_json(dataclasses.replace(request, fps=24.0))
    assert request.blobs == (SHA,)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"width": 130}, ("ClipRequest.width", "130", "128 or 136")),
        ({"height": 32}, ("ClipRequest.height", "32", "64 to 2048")),
        ({"num_frames": 0}, ("ClipRequest.num_frames", "0", "1 to 10000")),
        ({"num_frames": True}, ("ClipRequest.num_frames", "True", "int")),
        ({"num_frames": 2.0}, ("ClipRequest.num_frames", "2.0", "int")),
        ({"fps": float("nan")}, ("ClipRequest.fps", "nan", "finite")),
        ({"fps": 10**400}, ("ClipRequest.fps", "float")),
        ({"guidance_scale": 0.0}, ("ClipRequest.guidance_scale", "0.0", "1.0 to 30.0")),
        ({"seed": 2**31}, ("ClipRequest.seed", str(2**31))),
        ({"prompt": "x" * 2001}, ("ClipRequest.prompt", "2001", "Shorten")),
        ({"prompt": "\ud800"}, ("ClipRequest.prompt", "Unicode")),
        ({"prompt": None}, ("ClipRequest.prompt", "None", "str")),
        ({"still": "../../etc/passwd"}, ("ClipRequest.still", "../../etc/passwd")),
        ({"model": "../mini"}, ("ClipRequest.model", "../mini")),
        ({"scheduler": "magic"}, ("ClipRequest.scheduler", "magic", "euler")),
        ({"mode": "still"}, ("'still'", "Choose a reference still")),
        ({"mode": "pose"}, ("'pose'", "Choose an armature")),
        ({"still": SHA}, ("'text'", "still", "another mode")),
        ({"mode": "still", "still": SHA, "poses": SHA}, ("'still'", "poses", "another mode")),
        ({"context_frames": 4, "context_overlap": 4}, ("context_overlap", "4", "Lower")),
        ({"mode": "text", "num_frames": 4, "pins": (Pin(4, SHA),)}, ("outside the clip of 4", "4", "0 to 3")),
        ({"mode": "text", "pins": (Pin(4, SHA), Pin(4, SHA))}, ("two pins", "4", "Give each frame one")),
    ],
)
def test_a_request_that_does_not_fit_is_refused_by_name_value_and_remedy(fields, named):
    with pytest.raises(ProtocolError) as error:
        ClipRequest(**{"mode": "text"} | fields)
    assert all(part in str(error.value) for part in named), str(error.value)
    assert error.value.problem.remedy


def raw_binary(header, payload=b""):
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + payload


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"type": 3}',
        '{"type": ["Cancel"]}',
        '{"type": "Record"}',
        '{"type": "Problem", "code": "x", "message": "y"}',
        '{"type": "Cancel"}',
        f'{{"type": "Cancel", "job": "{JOB}", "extra": 1}}',
        f'{{"type": "Cancel", "job": "{JOB.upper()}"}}',
        f'{{"type": "Cancel", "job": "{JOB}\\n"}}',
        '{"type": "Cancel", "job": null}',
        f'{{"type": "Resume", "job": "{JOB}", "have": [0, "1"]}}',
        f'{{"type": "Resume", "job": "{JOB}", "have": {{"0": 1}}}}',
        f'{{"type": "Submit", "job": "{JOB}", "request": []}}',
        f'{{"type": "Submit", "job": "{JOB}", "request": {{"mode": "text", "path": "/"}}}}',
        f'{{"type": "FrameReady", "job": "{JOB}", "frame": 0, "data": "x"}}',
        '{"type": "Cancel", "job": NaN}',
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        '{"type": "EngineStatus", "queued": ' + "9" * 5000 + "}",
        b"",
        b"\xff\xff\xff\xff",
        b"\x10\x00\x00\x00{}",
        struct.pack("<I", 2) + b"\xff\xfe",
        raw_binary({"type": "Cancel", "job": JOB}),
        raw_binary({"type": "FrameReady", "job": JOB, "frame": -1}),
        raw_binary({"type": "FrameReady", "job": JOB, "frame": 0, "data": "x", "more": 1}, b"y"),
        raw_binary({"type": "BlobSlice", "sha256": "x", "offset": 0, "size": 1}, b"y"),
    ],
)
def test_what_is_no_message_is_refused(raw):
    with pytest.raises(ProtocolError) as error:
        decode(raw)
    assert error.value.problem.message


def test_what_is_too_large_is_refused_on_both_sides():
    with pytest.raises(ProtocolError, match="at most"):
        encode(FrameReady(JOB, 0, bytes(protocol.MAX_MESSAGE_BYTES)))
    with pytest.raises(ProtocolError, match="at most"):
        decode('{"type": "Cancel", "job": "' + "x" * protocol.MAX_JSON_BYTES + '"}')
    with pytest.raises(ProtocolError, match="size"):
        BlobSlice(SHA, 0, protocol.MAX_BLOB_BYTES + 1, b"x")
    longest = Resume(JOB, tuple(range(protocol.MAX_FRAMES)))
    assert decode(encode(longest)) == longest


PEOPLE = 2 * protocol.POINTS  # points of a frame


def track(**fields):
    points = array("f", [1.5, 2.5, 1.0] * PEOPLE * 3)
    return PoseTrack(**{"width": 64, "height": 48, "fps": 24.0, "num_frames": 3, "num_people": 2,
                        "points": points.tobytes()} | fields)  # fmt: skip


def test_a_pose_track_comes_back_as_it_went():
    for still_pose in (None, array("f", [9.0, 8.0, 0.0] * PEOPLE).tobytes()):
        poses = track(still_pose=still_pose)
        assert PoseTrack.from_bytes(poses.to_bytes()) == poses
        assert poses.shape == (3, 2, 130, 3)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_frames": 4}, "points"),
        ({"num_people": 9}, "num_people"),
        ({"points": array("f", [float("nan"), 1, 1] * 3 * PEOPLE).tobytes()}, "not finite"),
        ({"points": array("f", [float("inf"), 1, 1] * 3 * PEOPLE).tobytes()}, "not finite"),
        ({"points": array("f", [1, 1, 2] * 3 * PEOPLE).tobytes()}, "visibility"),
        ({"points": array("f", [1, 1, -0.5] * 3 * PEOPLE).tobytes()}, "visibility"),
        ({"points": array("f", [-3e38, 1, 1.0000001] * 3 * PEOPLE).tobytes()}, "visibility"),
        ({"still_pose": b"1234"}, "still_pose"),
        ({"version": 1}, "version"),
    ],
)
def test_a_pose_track_that_does_not_fit_is_refused(fields, named):
    with pytest.raises(ProtocolError, match=named):
        track(**fields)


def test_points_of_any_size_are_taken():
    for numbers in ([-3.4e38, 1e-40, 1.0], [-0.0, 3.4e38, -0.0], [5.0, -7.0, 0.3]):
        points = array("f", numbers * 3 * PEOPLE).tobytes()
        assert track(points=points).points == points


def test_damaged_pose_tracks_are_refused():
    raw = track(still_pose=array("f", [0.0] * 3 * PEOPLE).tobytes()).to_bytes()
    for damaged in (
        b"",
        raw[:3],
        raw[:-1],
        raw + b"\0",
        raw.replace(b"musev.poses", b"musev.stuff"),
        raw.replace(b'"num_people":2', b'"num_people":-'),
        raw.replace(b"true", b"null"),
    ):
        with pytest.raises(ProtocolError):
            PoseTrack.from_bytes(damaged)


def test_pictures_come_back_as_they_went():
    pictures = Pictures.of(64, 48, [b"first", b"2", b"the third"])
    again = Pictures.from_bytes(pictures.to_bytes())
    assert again == pictures and list(again.files) == [b"first", b"2", b"the third"]


def test_pictures_that_do_not_fit_are_refused():
    raw = Pictures.of(64, 48, [b"first", b"second"]).to_bytes()
    for damaged in (
        b"",
        raw[:-1],
        raw + b"\0",
        raw.replace(b"[5,6]", b"[5,7]"),
        raw.replace(b"[5,6]", b"[11]")[:-1],
    ):
        with pytest.raises(ProtocolError):
            Pictures.from_bytes(damaged)
    for sizes in ((), (0, 6), (-1, 7), (6.0,)):
        with pytest.raises(ProtocolError, match="sizes"):
            Pictures(64, 48, sizes, b"inside")


def test_a_request_names_every_input():
    one, two, three, four, five = (letter * 64 for letter in "abcde")
    depth = Control("depth", (two, one))
    pins = (Pin(3, five), Pin(0, one))
    request = ClipRequest(mode="video", source=(three,), mask=(four,), controls=(depth,), pins=pins)
    assert request.blobs == (one, two, three, four, five)
    request = ClipRequest(mode="text", end_still=two, pins=pins)
    assert request.blobs == (one, two, five)
    assert protocol.request_from_json(protocol.request_json(request)) == request
    with pytest.raises(ProtocolError, match=r"source\[0\]"):
        ClipRequest(mode="video", source=("../secret",))
    with pytest.raises(ProtocolError, match=r"pictures\[1\]"):
        Control("depth", (one, "x"))
    with pytest.raises(ProtocolError, match="source strip"):
        ClipRequest(mode="video")


def test_what_comes_back_may_be_more_than_is_generated():
    assert ClipRequest(mode="text", num_frames=12).frames_out == 12
    assert ClipRequest(mode="text", num_frames=12, output_frames=96, output_fps=24.0).frames_out == 96


def test_a_prompt_track_comes_back_as_it_went_and_lies_within_the_clip():
    spans = (protocol.PromptSpan(0, 3, "a hill"), protocol.PromptSpan(2, 7, "das Meer äöü"))
    request = ClipRequest(mode="text", num_frames=8, prompts=spans, noise_width=256, noise_height=128)
    assert protocol.request_from_json(protocol.request_json(request)) == request
    for first, last in ((5, 8), (4, 3)):
        with pytest.raises(ProtocolError, match=r"within the 8 generated frames \(got"):
            ClipRequest(mode="text", num_frames=8, prompts=(protocol.PromptSpan(first, last, "a"),))


def test_noise_is_never_drawn_for_less_than_the_clip():
    with pytest.raises(ProtocolError, match=r"noise_height must not be less than height \(128\) \(got 64\)"):
        ClipRequest(mode="text", noise_height=64)


def test_records_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cancel(JOB).job = "other"


def test_every_record_says_what_it_is():
    def all_records(record):
        return [record, *(r for child in record.__subclasses__() for r in all_records(child))]

    assert all(
        dataclasses.is_dataclass(record) for record in all_records(Record)[1:] if record.__name__ != "Message"
    )
    assert all(MESSAGES[name].__name__ == name for name in MESSAGES)


def test_the_protocol_needs_the_standard_library_alone():
    """It loads with no site-packages at all."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom blender_addon.protocol import SUBPROTOCOL"
    code += "; print(SUBPROTOCOL)"
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == protocol.SUBPROTOCOL


def test_a_rate_is_the_fraction_that_people_mean_by_it():
    for fps, meant in (
        (23.976, Fraction(24000, 1001)), (24 / 1.001, Fraction(24000, 1001)), (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)), (2.997, Fraction(3000, 1001)), (24, 24), (12.5, Fraction(25, 2)),
        (19.2, Fraction(96, 5)), (0.1, Fraction(1, 10)), (240, 240),
    ):  # fmt: skip
        assert protocol.exact_rate(fps) == meant
    assert ClipRequest(mode="text", fps=3).rates == (3, 3)
    assert ClipRequest(mode="text", fps=3, output_fps=23.976).rates == (3, Fraction(24000, 1001))
