"""From a request to a clip, with an untrained model of the embedded model's own architecture."""

import dataclasses
import os
from array import array

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from blender_addon.protocol import (
    POINTS,
    ClipRequest,
    Done,
    FrameReady,
    PoseTrack,
    Preview,
    Progress,
    ProtocolError,
    blob_sha256,
)
from musev_engine import frames, loading
from musev_engine.errors import EngineError
from musev_engine.training import autoencoder, denoiser, mini
from musev_engine.training.words import write_tokenizer
from server import clips, models
from server.worker_process import PhaseClock, make, problem_of

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
        clips.load.cache_clear()
        yield folder
    clips.load.cache_clear()


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
    clip = clips.clip_of(request, blobs.__getitem__)
    assert clip.poses.shape == (3, 1, 18, 3) and clip.still_pose.shape == (1, 18, 3)
    assert clip.poses[2, 0, 5].tolist() == [21.0, 7.5, 1.0]


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


def test_memory_that_is_not_there_is_told():
    assert problem_of(torch.OutOfMemoryError("CUDA out of memory")).code == "out_of_memory"
