"""From a request to a clip, with an untrained model of the embedded model's own architecture."""

import dataclasses
import io
import os
from array import array

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from blender_addon.protocol import (
    POINTS,
    ClipRequest,
    Control,
    Done,
    FrameReady,
    Pictures,
    Pin,
    PoseTrack,
    Preview,
    Progress,
    PromptSpan,
    ProtocolError,
    blob_sha256,
)
from musev_engine import frames, keypoints, loading
from musev_engine.errors import EngineError
from musev_engine.provenance import TRAINED_MEDIA
from musev_engine.training import autoencoder, denoiser, mini
from musev_engine.training.words import write_tokenizer
from server import clips, loaded, models
from server import inputs as clip_inputs
from server.problems import problem_of
from server.worker_process import PhaseClock, make

JOB = "0" * 8 + "-0000" * 3 + "-" + "0" * 12


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A folder of shipped models that holds one, untrained, by the name of mini."""
    folder = tmp_path_factory.mktemp("assets")
    torch.manual_seed(0)
    vocabulary = write_tokenizer(folder / "words")
    vae = AutoencoderKL.from_config(autoencoder.CONFIG)
    card = "---\nlicense: cc0-1.0\n---\n"
    mini.pack(denoiser.Denoiser(vocabulary), vae, folder / "words", folder / "mini", card)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "SHIPPED", folder)
        loaded.forget()
        yield folder
    loaded.forget()


def inputs(num_frames):
    """A request for 64 x 64 pixels with poses made for twice that, and its blobs."""
    picture = np.zeros((80, 100, 3), np.uint8)
    picture[20:60, 40:60] = (200, 30, 20)
    points = array("f", [v for k in range(num_frames) for p in range(POINTS) for v in (40 + k, 3 * p, 1.0)])
    track = PoseTrack(128, 128, 24.0, num_frames, 1, points.tobytes(), points[: POINTS * 3].tobytes())
    blobs = {blob_sha256(data): data for data in (frames.encode_png(picture), track.to_bytes())}
    still, poses = blobs
    request = ClipRequest(
        mode="pose",
        still=still,
        poses=poses,
        width=64,
        height=64,
        num_frames=num_frames,
        num_inference_steps=2,
    )
    return request, blobs


def test_a_clip_is_made_from_a_still_and_poses(shipped):
    request, blobs = inputs(14)
    sent = []
    make(JOB, request, clips.make_clip, blobs.__getitem__, sent.append, lambda job: False, PhaseClock())
    assert isinstance(sent[-1], Done)
    assert sent[-1].model_licence == "cc0-1.0" and len(sent[-1].model_sha256) == 64
    assert [m.frame for m in sent if isinstance(m, FrameReady)] == list(range(14))
    assert all(frames.decode_still(m.data).shape == (64, 64, 3) for m in sent if isinstance(m, FrameReady))
    assert any(isinstance(m, Preview) for m in sent)
    progress = [m for m in sent if isinstance(m, Progress)]
    phases = [phase.phase for phase in sent[-1].phases]
    assert phases == list(dict.fromkeys(m.phase for m in progress))
    assert {"load", "denoise", "decode"} <= set(phases)
    assert any(m.num_windows == 2 for m in progress)
    assert any(m.eta_s is not None for m in progress)

    again = []
    make(JOB, request, clips.make_clip, blobs.__getitem__, again.append, lambda job: False, PhaseClock())
    pixels = [[m.data for m in run if isinstance(m, FrameReady)] for run in (sent, again)]
    assert pixels[0] == pixels[1]
    for frame in pixels[0]:  # they say what made them; what was shown on the way doesn't
        with Image.open(io.BytesIO(frame)) as opened:
            told = opened.text["XML:com.adobe.xmp"]
        assert TRAINED_MEDIA in told and "mini" in told and "cc0-1.0" in told and "MuseV for Blender" in told
    assert not any(b"iTXt" in m.data for m in sent if isinstance(m, Preview))


def test_cancel_stops_between_windows(shipped):
    request, blobs = inputs(14)
    sent = []

    def cancelled(job):
        return any(isinstance(m, Progress) and m.window for m in sent)

    make(JOB, request, clips.make_clip, blobs.__getitem__, sent.append, cancelled, PhaseClock())
    assert type(sent[-1]).__name__ == "Cancelled"
    assert not any(isinstance(m, (FrameReady, Done)) for m in sent)


def test_poses_come_in_the_clips_own_pixels():
    request, blobs = inputs(3)
    request = dataclasses.replace(request, model="of-the-hub")
    clip = clips.clip_of(request, blobs.__getitem__)
    assert clip.poses.shape == (3, 1, 130, 3) and clip.still_pose.shape == (1, 130, 3)
    assert clip.poses[2, 0, 5].tolist() == [21.0, 7.5, 1.0]


def test_a_model_that_never_saw_hands_and_faces_is_shown_bodies():
    request, blobs = inputs(3)
    assert models.traits("mini").body_only
    clip = clips.clip_of(request, blobs.__getitem__)
    assert clip.poses.shape == (3, 1, 18, 3) and clip.still_pose.shape == (1, 18, 3)


def test_inputs_that_do_not_fit_are_told():
    request, blobs = inputs(3)
    not_a_picture = dict.fromkeys(blobs, os.urandom(100))
    with pytest.raises(ProtocolError) as error:
        clips.clip_of(request, not_a_picture.__getitem__)
    assert error.value.code == "unreadable_still"
    longer, _ = inputs(4)
    wrong_length = dataclasses.replace(longer, still=request.still, poses=request.poses)
    with pytest.raises(ProtocolError) as error:
        clips.clip_of(wrong_length, blobs.__getitem__)
    assert (error.value.code, error.value.value) == ("bad_poses", "3")


def test_a_model_that_is_not_there_is_told(shipped):
    request = ClipRequest(mode="text", model="musev-xxl")
    with pytest.raises(EngineError) as error:
        next(event for event in clips.make_clip(JOB, request, {}.__getitem__) if event.step)
    problem = problem_of(error.value)
    assert problem.code == "bad_model" and "musev-xxl" in str(problem) and "mini" in problem.remedy


def test_what_the_server_says_of_its_models_is_so(shipped, monkeypatch):
    monkeypatch.setattr(models, "ASSETS", shipped)
    (told,) = models.models_here()
    assert (told.name, told.licence, told.installed) == ("mini", "cc0-1.0", True)
    assert told.size_bytes == sum(p.stat().st_size for p in (shipped / "mini").rglob("*") if p.is_file())
    assert (told.width, told.height) == (128, 128)
    assert told.native_fps == 3.0  # this card says none


def test_the_embedded_model_is_told_of_speeds_as_it_was_trained(monkeypatch):
    (mini_told,) = (model for model in models.models_here() if model.name == "mini")
    assert mini_told.native_fps == 8.0 and models.traits("mini").body_only
    for fps in (8, 12, 24):  # of the clips that it learned from
        assert clips.motion_speed(mini_told.native_fps, fps) == pytest.approx(64 / fps)


def test_motion_speed_is_musevs_at_musevs_rate_and_never_too_slow_to_tell_frames_apart():
    assert [clips.motion_speed(3.0, fps) for fps in (1, 3, 6, 24, 60)] == [24, 8, 4, 1, 1]
    request = ClipRequest(mode="text", model="of-the-hub", fps=6)
    assert clips.clip_of(request, {}.__getitem__).motion_speed == 4
    assert clips.clip_of(dataclasses.replace(request, motion_speed=0.5), {}.__getitem__).motion_speed == 0.5


def test_memory_that_is_not_there_is_told():
    assert problem_of(torch.OutOfMemoryError("CUDA out of memory")).code == "out_of_memory"


# --- pictures -------------------------------------------------------------------------------------------


def pictures(levels, size=(64, 64), per_blob=2):
    """Grey pictures of these brightnesses -> names of their blobs, and the blobs."""
    files = [frames.encode_png(np.full((*size[::-1], 3), level, np.uint8)) for level in levels]
    made = [Pictures.of(*size, files[k : k + per_blob]).to_bytes() for k in range(0, len(files), per_blob)]
    return tuple(map(blob_sha256, made)), {blob_sha256(data): data for data in made}


def sent_by(request, blobs):
    sent = []
    make(JOB, request, clips.make_clip, blobs.__getitem__, sent.append, lambda job: False, PhaseClock())
    assert isinstance(sent[-1], Done)
    return sent


def decoded(sent):
    """Frame number -> its pixels, as PIL reads them."""
    pngs = {m.frame: m.data for m in sent if isinstance(m, FrameReady)}
    return {frame: np.asarray(Image.open(io.BytesIO(png))) for frame, png in pngs.items()}


def test_the_source_and_control_pictures_reach_the_clip():
    greys = [10, 20, 30]
    (source, one), (depth, other) = pictures(greys), pictures(greys, size=(128, 32))
    request = ClipRequest(
        mode="video", model="of-the-hub", width=64, height=64, num_frames=3, source=source, source_strength=0.4,
        controls=(Control("depth", depth, scale=0.7, start=0.1, end=0.8),),
    )  # fmt: skip
    clip = clips.clip_of(request, (one | other).__getitem__)
    assert clip.video.shape == (3, 64, 64, 3) and clip.video[:, 5, 5, 0].tolist() == greys
    assert clip.video_strength == 0.4
    (control,) = clip.controls
    assert control.controlnet == "control_v11f1p_sd15_depth" and control.frames[:, 5, 5, 0].tolist() == greys
    assert control.frames.shape == (3, 64, 64, 3)
    assert (control.scale, control.start, control.end) == (0.7, 0.1, 0.8)


def test_the_prompt_track_and_the_noises_size_reach_the_clip():
    request = ClipRequest(
        mode="text", num_frames=8, prompt="a", prompts=(PromptSpan(1, 4, "b"), PromptSpan(3, 7, "c")),
        noise_width=256, noise_height=192,
    )  # fmt: skip
    clip = clips.clip_of(request, {}.__getitem__)
    assert [(span.first, span.last, span.text) for span in clip.prompts] == [(1, 4, "b"), (3, 7, "c")]
    assert (clip.noise_width, clip.noise_height) == (256, 192)


def test_plain_frames_are_looked_at_by_the_controls_detector():
    plain = np.zeros((64, 64, 3), np.uint8)
    plain[:, 32:] = 255
    file = Pictures.of(64, 64, [frames.encode_png(plain)] * 2).to_bytes()
    still = frames.encode_png(plain)
    request = ClipRequest(
        mode="still", model="of-the-hub", width=64, height=64, num_frames=2, still=blob_sha256(still),
        controls=(Control("canny", (blob_sha256(file),), detect=True),),
    )  # fmt: skip
    blobs = {blob_sha256(each): each for each in (file, still)}
    (control,) = clips.clip_of(request, blobs.__getitem__).controls
    edges = control.frames[1, :, :, 0] > 0
    assert edges[:, 30:34].any(axis=1).all() and not edges[:, :28].any() and not edges[:, 36:].any()
    assert np.array_equal(control.still, control.frames[0])


@pytest.mark.parametrize(
    ("levels", "size", "told"),
    [
        ([1, 2], (64, 64), "as many pictures as the clip has frames"),
        ([1, 2, 3, 4], (64, 64), "as many pictures as the clip has frames"),
    ],
)
def test_another_number_of_pictures_is_told(levels, size, told):
    source, blobs = pictures(levels, size)
    request = ClipRequest(mode="video", width=64, height=64, num_frames=3, source=source)
    with pytest.raises(ProtocolError, match=told) as error:
        clips.clip_of(request, blobs.__getitem__)
    assert error.value.code == "bad_pictures"


def test_pictures_that_are_not_what_they_say_are_told():
    file = frames.encode_png(np.zeros((64, 64, 3), np.uint8))
    for wrong, told in (
        (Pictures.of(64, 80, [file]), "frame 0 of the source is 64×64, and not 64×80"),
        (Pictures.of(64, 64, [b"no picture"]), "frame 0 of the source .* can't be read"),
        (Pictures.of(64, 64, [file[:-40]]), "frame 0 of the source .* can't be read"),
    ):
        data = wrong.to_bytes()
        request = ClipRequest(mode="video", width=64, height=64, num_frames=1, source=(blob_sha256(data),))
        with pytest.raises(ProtocolError, match=told):
            clips.clip_of(request, {blob_sha256(data): data}.__getitem__)


def test_pictures_that_would_fill_the_memory_are_refused_before_they_are_read():
    request = ClipRequest(
        mode="video", width=2048, height=2048, num_frames=10_000, source=("ab" * 32,), mask=("cd" * 32,)
    )
    with pytest.raises(ProtocolError, match=r"156\.2 GiB") as error:
        clips.clip_of(request, None)
    assert error.value.code == "too_large"


def pinned_in(request, blobs, shades):
    """The request with plain pictures as pins, frame -> grey, of twice its size."""
    files = {
        frame: frames.encode_png(np.full((128, 128, 3), grey, np.uint8)) for frame, grey in shades.items()
    }
    pins = tuple(Pin(frame, blob_sha256(data)) for frame, data in files.items())
    more = {blob_sha256(data): data for data in files.values()}
    return dataclasses.replace(request, pins=pins), blobs | more


@pytest.mark.parametrize("mode", ["pose", "still", "text"])
def test_pins_come_back_as_they_were_given_and_the_frames_around_them_change(shipped, mode):
    request, blobs = inputs(14)
    left_out = {"pose": {}, "still": {"poses": None}, "text": {"poses": None, "still": None}}[mode]
    request = dataclasses.replace(request, mode=mode, prompt="red", **left_out)
    shades = {0: 40, 1: 200, 9: 90, 13: 250}
    made, other = (decoded(sent_by(*pinned_in(request, blobs, each))) for each in (shades, shades | {9: 10}))
    assert sorted(made) == list(range(14))
    for frame in made:
        # No VAE in between: PSNR is infinite.
        is_pin = frame in shades and (made[frame] == shades[frame]).all()
        assert bool(is_pin) == (frame in shades), frame
    near, far = (np.abs(made[frame].astype(int) - other[frame]).mean() for frame in (8, 13))
    assert near > 0 and far == 0


def test_the_look_of_the_end_is_a_picture_too():
    ends = frames.encode_png(np.full((64, 128, 3), 77, np.uint8))
    request = ClipRequest(mode="text", num_frames=2, end_still=blob_sha256(ends))
    assert (clips.clip_of(request, lambda sha256: ends).end_still == 77).all()
    with pytest.raises(ProtocolError) as error:
        clips.clip_of(request, lambda sha256: b"no")
    assert error.value.code == "unreadable_still"


def test_a_pin_that_is_no_picture_is_told():
    request = ClipRequest(mode="text", num_frames=2, pins=(Pin(1, blob_sha256(b"no")),))
    with pytest.raises(ProtocolError, match=r"pin at frame 1 .* can't be read"):
        clip_inputs.pins_of(request, lambda sha256: b"no")


def test_the_mask_becomes_an_alpha_channel_that_goes_with_its_frame(shipped):
    mask, blobs = pictures([0, 100, 255])
    request = ClipRequest(
        mode="text", width=64, height=64, num_frames=3, num_inference_steps=1, fps=6, output_frames=7,
        output_fps=12, between="blended", mask=mask,
    )  # fmt: skip
    shown = decoded(sent_by(request, blobs))
    assert sorted(shown) == list(range(7)) and all(each.shape == (64, 64, 4) for each in shown.values())
    assert [int(shown[k][9, 9, 3]) for k in range(7)] == [0, 50, 100, 178, 255, 255, 255]
    plain = decoded(sent_by(dataclasses.replace(request, mask=()), {}))
    assert all(np.array_equal(plain[k], shown[k][..., :3]) for k in (2, 4))


@pytest.mark.parametrize("between", ["held", "blended", "flow"])
def test_frames_come_back_at_the_rate_that_is_asked_for(shipped, between):
    request = ClipRequest(
        mode="text", width=64, height=64, num_frames=3, num_inference_steps=1, fps=8, motion_speed=8
    )
    own = decoded(sent_by(request, {}))
    slower = dataclasses.replace(request, output_frames=7, output_fps=24, between=between)
    sent = sent_by(slower, {})
    shown = decoded(sent)
    assert sent[-1].num_frames == 7 and sorted(shown) == list(range(7))
    assert all(np.array_equal(shown[3 * k], own[k]) for k in range(3))
    held = np.array_equal(shown[1], own[0]) and np.array_equal(shown[5], own[1])
    assert held == (between == "held")


# --- posealign ------------------------------------------------------------------------------------------


def figure(x, size):
    """One person's 130 points, `size` pixels a unit, the neck at (x, 20)."""
    body = [
        (0, -1), (0, 0), (-1, 0), (-1.2, 1), (-1.3, 2), (1, 0), (1.2, 1), (1.3, 2), (-0.5, 2.2), (-0.5, 3.5),
        (-0.5, 5), (0.5, 2.2), (0.5, 3.5), (0.5, 5), (-0.2, -1.2), (0.2, -1.2), (-0.4, -1.1), (0.4, -1.1),
    ]  # fmt: skip
    points = np.zeros((POINTS, 3), np.float32)
    points[:18] = [(x + px * size, 20 + py * size, 1) for px, py in body]
    points[18:39] = points[7] + (0, size / 6, 0)  # the left hand hangs at the left wrist
    return points


def alike(one, other):
    """The same drawing, but for the last bit of where a stick's edge lies."""
    return np.abs(one.astype(int) - other).max() <= 8


def alignment(still_pose):
    """A request for the pose pictures of two frames, brought to the figure of a still."""
    poses = np.stack([figure(30 + k, 6) for k in range(2)])[:, None]
    told = None if still_pose is None else still_pose[None].tobytes()
    track = PoseTrack(128, 128, 24.0, 2, 1, poses.tobytes(), told).to_bytes()
    still = frames.encode_png(np.full((128, 128, 3), 90, np.uint8))
    request = ClipRequest(
        mode="pose", result="poses", model="of-the-hub", num_frames=2, posealign="auto",
        poses=blob_sha256(track), still=blob_sha256(still),
    )  # fmt: skip
    return request, {blob_sha256(data): data for data in (track, still)}


def test_the_aligned_pose_pictures_come_without_a_model():
    request, blobs = alignment(figure(80, 12))
    sent = sent_by(dataclasses.replace(request, output_frames=4, output_fps=48), blobs)
    assert sent[-1].model_sha256 == "" and [m.frame for m in sent if isinstance(m, FrameReady)] == [
        0,
        1,
        2,
        3,
    ]
    shown = decoded(sent)
    assert not any(b"iTXt" in m.data for m in sent if isinstance(m, FrameReady))  # a drawing
    (truth,) = keypoints.draw(figure(80, 12)[None, None], 128, 128)
    assert alike(shown[0], truth) and np.array_equal(shown[1], shown[0])
    assert truth[45:50, 94:98, 2].any()  # the hand, at the left wrist, came along
    assert not np.array_equal(shown[2], shown[0])


def test_a_clip_gets_the_aligned_poses_too():
    request, blobs = alignment(figure(80, 12))
    clip = clips.clip_of(dataclasses.replace(request, result="clip"), blobs.__getitem__)
    assert clip.poses[0, 0, 1, :2] == pytest.approx((80, 20), abs=1e-3)
    assert clip.poses[0, 0, 18, :2] == pytest.approx(clip.poses[0, 0, 7, :2] + (0, 2), abs=1e-3)


def test_a_stills_pose_that_nobody_knows_is_told_with_what_would_find_it():
    request, blobs = alignment(None)
    with pytest.raises(EngineError) as error:
        sent_by(request, blobs)
    told = problem_of(error.value)
    assert told.code == "still_pose_unknown" and "Still Shows the Rig" in told.remedy
    assert "body_pose_model.pth (209 MB)" in told.value and "musev models download" in told.remedy
    with pytest.raises(EngineError, match="no still"):
        sent_by(dataclasses.replace(request, still=None), blobs)


def test_a_detector_that_is_here_finds_the_stills_pose(monkeypatch):
    class Found:
        bodies = figure(80, 12)[None, None, :18]

    seen = []

    def people(kind, pictures, resolution=None, *, device="cpu"):
        seen.append((kind.files[0].partition("/")[0], pictures.shape))
        if "dwpose" in kind.files[0]:
            raise EngineError("not here", "", "", code="missing_model")
        return Found

    monkeypatch.setattr(clip_inputs.control.ControlKind, "people", people)
    request, blobs = alignment(None)
    (truth,) = keypoints.draw(figure(80, 12)[None, None], 128, 128)
    assert alike(decoded(sent_by(request, blobs))[0], truth)
    assert seen == [("annotator-dwpose", (1, 128, 128, 3)), ("annotator-openpose", (1, 128, 128, 3))]
    Found.bodies = np.zeros_like(Found.bodies)
    with pytest.raises(EngineError, match="sees nobody"):
        sent_by(request, blobs)


# --- ControlNets ----------------------------------------------------------------------------------------


def test_a_small_model_has_no_controlnets_but_its_own(shipped):
    depth, blobs = pictures([9])
    request = ClipRequest(mode="text", width=64, height=64, num_frames=1, controls=(Control("depth", depth),))
    with pytest.raises(EngineError) as error:
        sent_by(request, blobs)
    assert problem_of(error.value).code == "bad_model" and "control_v11f1p_sd15_depth" in str(error.value)
    assert "it has: control_v11p_sd15_openpose" in str(error.value)
    with pytest.raises(EngineError, match="Did you mean depth"):
        sent_by(dataclasses.replace(request, controls=(Control("dept", depth),)), blobs)
