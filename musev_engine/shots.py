"""How shots follow one another: what each is given, and what it hands on.

A clip is made in one shot or in several, each a run of the loop of its own. A shot's timeline begins with the
condition frames that aren't its own to show (a still beside the clip, the last frames of the shot before), then
come its frames of the clip, some of which may be condition images.

What MuseV's scripts do otherwise, by accident, and `compat="musev"` brings back:

| MuseV | here |
|---|---|
| `strength` and `video_strength` change nothing | they are the part of the steps that is taken |
| a first frame that is redrawn, or made under control, replaces given references and image prompts | it does not |
| redrawing under control starts from noise alone, unless there is a source video | from the given picture |
| fixed condition frames get the control picture of the shot before | their own |
| every still loses its last column and row (`frames.fit_still`) | only what proportions ask for |
| Euler draws noise that it throws away (`sampling.denoise`) | it doesn't |
| DPM-Solver++ ends at timestep 0 (`schedulers.set_timesteps`) | where the noise ends |
"""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch

from musev_engine.clip import Clip, SerialDenoise
from musev_engine.frames import fit_still, to_tensor
from musev_engine.sampling import Guide
from musev_engine.windows import Timeline

BESIDE = -1  # instead of a frame's number: the still that stands beside the clip

# How much a shot takes from the one before it (MuseV's numbers), and on which frames and steps.
LATENTS_KEPT, NOISE_KEPT = 0.1, 0.01
FIRST_LATENT, FIRST_NOISE = 0, 1
STEPS_AFTER_WHICH_LATENTS_LEAN = 2


@dataclass(frozen=True)
class Shot:
    """Frames [first, end) of the clip. `ahead`: the frames of the clip, or BESIDE, that stand before them in the
    timeline and aren't shown. `pinned`: clean latents (1, c, 1, h, w) by their place in the timeline. `kept`: the same
    of frames that are known, too, but go through the loop with those that are made. `twins`: places of `ahead` that are
    one of these frames, and its own place."""

    first: int
    end: int
    ahead: tuple[int, ...] = ()
    pinned: dict[int, torch.Tensor] = field(default_factory=dict)
    kept: dict[int, torch.Tensor] = field(default_factory=dict)
    twins: dict[int, int] = field(default_factory=dict)

    @property
    def timeline(self) -> Timeline:
        return Timeline(len(self.ahead) + self.end - self.first, self.pinned, self.twins)

    @property
    def condition_latents(self) -> torch.Tensor | None:
        """(1, c, n_c, h, w), in the order of their places."""
        return (
            torch.cat([self.pinned[place] for place in sorted(self.pinned)], dim=2) if self.pinned else None
        )

    def frame_of(self, place: int) -> int:
        """The clip's frame at a place of the timeline, or BESIDE."""
        return self.ahead[place] if place < len(self.ahead) else self.first + place - len(self.ahead)

    @property
    def head(self) -> tuple[tuple[int, ...], torch.Tensor | None]:
        """The condition frames at the timeline's head: which frames they are, and their latents."""
        count = next(i for i in range(len(self.pinned) + 1) if i not in self.pinned)
        latents = torch.cat([self.pinned[i] for i in range(count)], dim=2) if count else None
        return tuple(self.frame_of(i) for i in range(count)), latents

    def whole(self, made: torch.Tensor | None) -> torch.Tensor:
        """The timeline's latents (1, c, t, h, w), from those that were made and the condition frames."""
        if made is None or not self.pinned:
            return self.condition_latents if made is None else made
        places = self.timeline.free + sorted(self.pinned)
        order = sorted(range(len(places)), key=places.__getitem__)
        return torch.cat([made, self.condition_latents], dim=2)[:, :, order]


def plan_shots(clip: Clip) -> list[tuple[int, int]]:
    """(first, end) of each shot's frames."""
    ends = np.cumsum(clip.shots or (clip.num_frames,)).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def follow(
    clip: Clip, first: int, end: int, opening: Shot, last: Shot | None, last_latents: torch.Tensor | None,
    images: dict[int, torch.Tensor], kept: dict[int, torch.Tensor],
) -> Shot:  # fmt: skip
    """The shot of frames [first, end). The first one begins as `opening` says, which is then the first shot itself;
    the others with the last frames of the one before, or always as the first. images: latents of the clip's
    condition images, by frame; kept: of the kept frames.

    A kept frame with no other one next to it says too little while the noise is strong: its clean twin stands before
    the windows that it is in.
    """
    known, alone = images.keys() | kept.keys(), []
    if last is None:
        ahead, carried = opening.ahead, opening.pinned
        alone = [
            k for k in sorted(kept) if first <= k < end and not {k - 1, k + 1} & known and k not in ahead
        ]
        num_ahead = len(ahead)
        carried = {place + len(alone) * (place >= num_ahead): each for place, each in carried.items()}
        carried |= {num_ahead + i: kept[frame] for i, frame in enumerate(alone)}
        ahead = (*ahead, *alone)
    elif clip.fix_condition_images:
        ahead, latents = opening.head
        carried = dict(enumerate(latents.split(1, dim=2))) if latents is not None else {}
        if clip.compat == "musev":
            ahead = tuple(range(first - len(ahead), first))
    else:
        latents = last_latents.split(1, dim=2)
        carried = dict(enumerate(latents[max(0, len(latents) - clip.n_vision_condition) :]))
        ahead = tuple(range(first - len(carried), first))

    def own(known: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        return {len(ahead) + frame - first: each for frame, each in known.items() if first <= frame < end}

    twins = {ahead.index(frame): len(ahead) + frame - first for frame in alone}
    return Shot(first, end, ahead, carried | own(images), own(kept), twins)


@dataclass(frozen=True)
class Looks:
    """The pictures that say what things look like, float (n, 3, h, w) in [0, 1], and faces' embeddings (n, e)."""

    references: torch.Tensor | None = None
    image_prompts: torch.Tensor | None = None
    faces: np.ndarray | None = None

    @classmethod
    def of(cls, clip: Clip) -> Self:
        """Those that the clip gives. Where it leaves them open: its still or, without one, the first frame that is
        given."""
        images = clip.pinned | clip.kept
        default = clip.still if clip.still is not None else images[min(images)] if images else None

        def pictures(given: tuple[np.ndarray, ...] | None) -> torch.Tensor | None:
            given = given if given is not None else () if default is None else (default,)
            fitted = [fit_still(each, clip.width, clip.height, clip.compat) for each in given]
            return to_tensor(np.stack(fitted)) if fitted else None

        return cls(pictures(clip.references), pictures(clip.image_prompts), clip.face_embeds)

    def for_first_frame(self, clip: Clip) -> Self:
        with_ = clip.first_frame
        return type(self)(
            self.references if with_.with_references else None,
            self.image_prompts if with_.with_image_prompts else None,
            self.faces if with_.with_faces else None,
        )

    def after_first_frame(self, clip: Clip, made: torch.Tensor) -> Self:
        """What was made takes the place of what wasn't given."""
        replaces_all = clip.compat == "musev" and (clip.first_frame.redraw or clip.follows_control)
        return replace(
            self,
            references=made if clip.references is None or replaces_all else self.references,
            image_prompts=made if clip.image_prompts is None or replaces_all else self.image_prompts,
        )

    def after_shot(self, clip: Clip, last: torch.Tensor) -> Self:
        return replace(
            self,
            references=self.references if clip.fixed_refer_image else last,
            image_prompts=self.image_prompts if clip.fixed_ip_adapter_image else last,
        )


@dataclass
class Trace:
    """The last frames of a shot at every step: `latents`, first those that the loop began with, then those after
    each step; `noise_preds`, each step's windows' average before guidance."""

    latents: list[torch.Tensor] = field(default_factory=list)
    noise_preds: list[torch.Tensor] = field(default_factory=list)


class Leaning:
    """Serial denoising: keeps this shot's `trace`, and lets its first frames lean on that of the shot `before`."""

    def __init__(self, serial: SerialDenoise, before: Trace | None, num_steps: int) -> None:
        self.serial, self.before, self.num_steps, self.trace = serial, before, num_steps, Trace()

    def begin(self, latents: torch.Tensor) -> torch.Tensor:
        return self._latents(latents, 0)

    def settle(self, latents: torch.Tensor, step: int) -> torch.Tensor:
        return self._latents(latents, step + 1)

    def _latents(self, latents: torch.Tensor, number: int) -> torch.Tensor:
        if self.before and self.serial.latents and number <= STEPS_AFTER_WHICH_LATENTS_LEAN:
            latents = blend(latents, self.before.latents[number], LATENTS_KEPT, FIRST_LATENT)
        self.trace.latents.append(latents[:, :, -self.serial.overlap :])
        return latents

    def over(self, guide: Guide) -> Guide:
        """`guide`, of predictions that lean."""

        def leaning(noise_pred: torch.Tensor, step: int) -> torch.Tensor:
            if self.before and self.serial.noise_preds and step <= self.num_steps // 2:
                noise_pred = blend(noise_pred, self.before.noise_preds[step], NOISE_KEPT, FIRST_NOISE)
            self.trace.noise_preds.append(noise_pred[:, :, -self.serial.overlap :])
            return guide(noise_pred, step)

        return leaning


def blend(frames: torch.Tensor, old: torch.Tensor, kept: float, first: int) -> torch.Tensor:
    """`frames` (b, c, t, h, w) with `kept` · old in those from `first`, as many as there are old ones (b, c, k, h, w);
    none beyond the end."""
    end = min(first + old.shape[2], frames.shape[2])
    frames = frames.clone()
    if end > first:
        frames[:, :, first:end] = kept * old[:, :, : end - first] + (1 - kept) * frames[:, :, first:end]
    return frames
