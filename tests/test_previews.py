"""Previews: a model's latents as small pictures, cheaply; which frames, how often, and not at all where not wanted."""

import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from blender_addon.protocol import Cancelled, Preview, Progress
from musev_engine import frames, loading, networks, pipeline, previews
from server.clips import MAX_SKETCHES, SKETCH_SHARE, Sketches
from tests.conversation import Conversation, running_engine, text_request

JOB = "0" * 8 + "-0000" * 3 + "-" + "0" * 12


@pytest.fixture(scope="module")
def vae():
    return networks.load_vae(loading.SHIPPED / "mini" / "vae", device="cpu", dtype=torch.float32)


def figure():
    """A picture unlike those that the colours were fitted to: uint8 (128, 128, 3)."""
    picture = np.full((128, 128, 3), (70, 110, 160), np.uint8)
    picture[80:] = (90, 140, 60)
    picture[20:100, 50:78] = (200, 60, 40)
    picture[8:28, 54:74] = (230, 190, 160)
    return picture


def test_a_preview_shows_what_the_vae_would(vae):
    colours = previews.colours_of(vae)
    assert colours.weight.shape == (3, vae.config.latent_channels) and colours.residual < 0.06
    latents = frames.encode(vae, figure()[None])[0]
    drawn = colours.draw(latents)
    assert drawn.shape == (1, 32, 32, 3) and drawn.dtype == np.uint8
    whole = next(frames.decode(vae, latents[None]))
    wanted = frames.to_pixels(functional.adaptive_avg_pool2d(whole, (32, 32)))
    error = np.sqrt(np.mean((drawn.astype(float) - wanted) ** 2)) / 255
    flat = np.sqrt(np.mean((wanted - wanted.mean(axis=(1, 2), keepdims=True)) ** 2)) / 255
    print(f"residual {colours.residual:.3f}, error {error:.3f} of a contrast of {flat:.3f}")
    assert error < flat / 2


def test_the_colours_are_fitted_once_and_always_the_same(vae):
    once = previews.colours_of(vae)
    assert previews.colours_of(vae) is once
    again = previews._fit(vae)
    assert torch.equal(again.weight, once.weight) and torch.equal(again.bias, once.bias)


def test_a_linear_latent_is_read_back_exactly():
    """Latents that are colours already, mixed: nothing is left over."""

    class Mixed:
        config, device, dtype = type("", (), {"scaling_factor": 1.0}), torch.device("cpu"), torch.float32

        def encode(self, pictures):
            small = functional.avg_pool2d(pictures, 8)
            mean = torch.stack([small[:, 0], small[:, 1] - small[:, 2], small[:, 2] * 3, small.sum(1)], dim=1)
            return type("", (), {"latent_dist": type("", (), {"mean": mean})})

    colours = previews.colours_of(Mixed())
    assert colours.residual < 0.005  # of 8-bit pictures
    flat = torch.tensor([0.5, -0.25, 0.75, 0.75])  # of the colour (0.5, 0, 0.25) on a scale from -1 to 1
    shown = colours.draw(flat[:, None, None, None].expand(4, 1, 2, 2))
    assert np.abs(shown[0, 1, 1].astype(int) - [191, 128, 159]).max() <= 2


class Colours:
    """Takes its time, by a clock of its own."""

    def __init__(self, takes):
        self.takes, self.now = takes, 0.0

    def draw(self, latents):
        self.now += self.takes
        return np.full((latents.shape[1], 4, 4, 3), latents[0, 0, 0, 0].item(), np.uint8)

    def clock(self):
        return self.now


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (5, [0, 2]), (24, [0, 8, 12, 16]), (400, None)])
def test_the_middle_and_every_eighth_frame_are_shown(count, shown):
    colours = Colours(0.0)
    event = pipeline.Preview(tuple(range(100, 100 + count)), torch.full((4, count, 2, 2), 7.0))
    told = list(Sketches(JOB, colours, colours.clock).take(3, event))
    numbers = [each.frame - 100 for each in told]
    assert all(each.step == 3 for each in told) and numbers == sorted(set(numbers))
    assert numbers == shown if shown else (count // 2 in numbers and len(numbers) <= MAX_SKETCHES + 1)
    assert np.asarray(Image.open(io.BytesIO(told[0].data))).tolist() == np.full((4, 4, 3), 7).tolist()


def test_previews_take_a_hundredth_of_the_time_at_most():
    colours = Colours(takes=0.01)
    sketches = Sketches(JOB, colours, colours.clock)
    event, spent, shown = pipeline.Preview((0,), torch.zeros(4, 1, 2, 2)), 0.0, 0
    for step in itertools.count():
        before = colours.now
        shown += bool(list(sketches.take(step, event)))
        spent += colours.now - before
        colours.now += 0.1  # the step itself
        if colours.now > 100:
            break
    assert shown > 90 and spent <= 1.02 * SKETCH_SHARE * colours.now
    assert math.isclose(SKETCH_SHARE, 0.01)


def test_who_wants_no_previews_gets_none(tmp_path):
    with running_engine(tmp_path) as process:
        talk = Conversation.with_engine(process)
        for wanted in (False, True):
            job = talk.submit(text_request("endless"), previews=wanted)
            talk.until(Progress, job, count=5)
            talk.client.cancel(job)
            talk.until(Cancelled, job)
            assert bool(talk.of(Preview, job)) == wanted
