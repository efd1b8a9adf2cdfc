"""How frames that are made meet those beside them that stay: led to them while there is noise, of their tint, and going
over from what one side is told into what the other is."""

import itertools
from collections.abc import Collection, Mapping

import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin

from musev_engine import frames
from musev_engine.sampling import Predict, Settle

PUT_BACK = 0.5  # measured with tests.seams: 0 and 0.8 leave larger seams
MAX_TINT = 12 / 255  # what differs by more from one frame to the next is another picture, not another tint


def keeping(
    kept: dict[int, torch.Tensor], noise: torch.Tensor, scheduler: SchedulerMixin, timesteps: torch.Tensor
) -> Settle:
    """Puts frames that are known back in their place before a step, by its number, or after the last one.

    Before a step they are their own clean latents, noised as all are there, with one noise throughout; after the last
    they are clean: so the others are made to fit them (replacement: Ho et al., arXiv 2204.03458, section 3.1; Lugmayr
    et al., arXiv 2201.09865). By itself that fits loosely, as Ho et al. say. So as far as a step led a known frame
    astray it is taken to have led those beside it, and they are put back along with it, by half as much at each frame
    further on (`PUT_BACK`; ours, in place of their gradient).
    kept: clean latents (b, c, 1, h, w) by frame. noise: (b, c, t, h, w), of all frames.
    """
    places = sorted(kept)
    shares = _shares_of_neighbours(places, noise.shape[2]).to(noise.device)
    clean = torch.cat([kept[place] for place in places], dim=2).float()
    own_noise = noise[:, :, places].to(clean)

    def keep(latents: torch.Tensor, step: int) -> torch.Tensor:
        is_over = step == len(timesteps)
        known = clean if is_over else scheduler.add_noise(clean, own_noise, timesteps[step].reshape(1))
        astray = known.to(latents) - latents[:, :, places]
        return latents + torch.einsum("bckhw,kt->bcthw", astray, shares.to(latents))

    return keep


def _shares_of_neighbours(kept: list[int], num_frames: int) -> torch.Tensor:
    """(len(kept), num_frames): how much of what a kept frame is put back by goes to each frame. A frame that isn't kept
    takes from the nearest one on each side."""
    shares = torch.zeros(len(kept), num_frames)
    for frame in range(num_frames):
        before = [k for k in kept if k <= frame][-1:]
        after = [k for k in kept if k >= frame][:1]
        for k in {*before, *after}:
            shares[kept.index(k), frame] = PUT_BACK ** abs(k - frame)
    return shares


def tints(kept: Mapping[int, np.ndarray], latents: torch.Tensor, vae: AutoencoderKL) -> torch.Tensor | None:
    """What is to be added to decoded pictures, (t, 3, 1, 1), so that none has another tint than a frame beside it that
    stays; None where no frame stays.

    The frames of a clip differ a little in tint, because their noise does. What one lacks is told by the median of its
    difference to the frame beside it over the picture, in which what moves has no part. Frames that were made have what
    they lack at both ends added, at each end nearly all of it and then less and less (ours).
    kept: uint8 (h, w, 3) by frame, of the decoded size. latents: (1, c, t, h/8, w/8).
    """
    if not kept:
        return None
    num_frames = latents.shape[2]
    added = torch.zeros(num_frames, 3, 1, 1, device=latents.device)

    def lacks(frame: int, beside: int) -> torch.Tensor:
        if beside not in kept:
            return added.new_zeros(3)
        (made,) = frames.decode(vae, latents[:, :, frame : frame + 1])
        apart = (
            (frames.to_tensor(kept[beside][None], latents.device) - made)[0].flatten(1).median(dim=1).values
        )
        return apart * (apart.abs().amax() <= MAX_TINT)

    for first, last in _runs(num_frames, kept):
        between = first - 1 in kept and last + 1 in kept
        share = torch.arange(last + 1 - first, device=latents.device) + (0.5 if between else last + 1 in kept)
        share = (share / len(share))[:, None]
        of_run = (1 - share) * lacks(first, first - 1) + share * lacks(last, last + 1)
        added[first : last + 1] = of_run[..., None, None]
    return added


def going_over(one: Predict, other: Predict, shares: torch.Tensor) -> Predict:
    """Predictions of `one` that go over into those of `other` along the frames: a mixture is what a network would
    predict for something between the two (Liu et al., arXiv 2206.01714, compose diffusion models so).
    shares: (t,), how much of the other's each frame has, 0…1."""

    def predict(latents: torch.Tensor, t: torch.Tensor, windows: list[list[int]]) -> torch.Tensor:
        of_other = torch.stack([shares[window] for window in windows]).to(latents)
        if not of_other.any():
            return one(latents, t, windows)
        if bool((of_other == 1).all()):
            return other(latents, t, windows)
        predictions = (each(latents, t, windows) for each in (one, other))
        return torch.lerp(*predictions, of_other[:, None, None, :, None, None])

    return predict


def shares_of_end(num_frames: int, given: Collection[int]) -> torch.Tensor:
    """(num_frames,): how much each frame has of what the clip's end is told: nothing before the frames that are made,
    all after them, and between as much more from each to the next. given: the frames that aren't made."""
    made = [frame for frame in range(num_frames) if frame not in given]
    first, last = (made[0], made[-1]) if made else (0, num_frames - 1)
    return ((torch.arange(num_frames) - first + 1) / (last - first + 2)).clamp(0, 1)


def _runs(num_frames: int, kept: Mapping[int, object]) -> list[tuple[int, int]]:
    """(first, last) of the frames between those that stay."""
    edges = [-1, *sorted(kept), num_frames]
    return [(one + 1, other - 1) for one, other in itertools.pairwise(edges) if other - one > 1]
