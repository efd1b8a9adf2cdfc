"""Everything the network is told besides noise and time, prepared once before the loop.

`predictor` turns it into the one function that the loop knows. Under guidance every tensor holds the
unconditional half first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ControlNetModel
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from musev_engine.models.attention import SelfTokens
from musev_engine.models.pose_guider import PoseGuider
from musev_engine.models.projections import FaceProjModel, ImageProjection
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import ReferenceTokens, UNet3D
from musev_engine.prompt_track import PromptTrack
from musev_engine.sampling import Predict
from musev_engine.windows import Timeline

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Control:
    """A ControlNet, or a PoseGuider, and the pictures it follows.

    `pictures`: frames of the timeline -> float (len(frames), 3, 8h, 8w) in [0, 1], asked for at each window, so
    that a long clip needs no memory for them. `scale` multiplies what it adds. It acts at step i of n where
    `start` <= i/n and (i + 1)/n <= `end`. `guess`: it sees the conditional half alone, and its residuals grow from
    the outer to the inner layers (ControlNet's guess mode, arXiv 2302.05543); a PoseGuider has no such mode.
    """

    net: ControlNetModel | PoseGuider
    pictures: Callable[[list[int]], torch.Tensor]
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False

    def acts(self, step: int, num_steps: int) -> bool:
        return bool(self.scale) and step / num_steps >= self.start and (step + 1) / num_steps <= self.end

    def shown(self, sequences: list[list[int]], rows: int) -> torch.Tensor:
        """What the windows show, (rows, t, 3, 8h, 8w): each window's for as many neighbouring rows."""
        return aligned(torch.stack([self.pictures(sequence) for sequence in sequences]), rows)


@dataclass(frozen=True)
class Conditions:
    """What a clip's predictions depend on. B is b, or 2b under guidance with the unconditional half first.

    prompt_embeds: (B, n, d); the others may have fewer rows, see `aligned`. prompt_track: what the timeline's frames
    are told instead, where it isn't the same for all. guided: whether there are two halves.
    timeline: which frames are made, which given. condition_latents: (b, c, n_c, h, w) the clean frames, in the
    order of `timeline.pinned`.
    reference: ReferenceNet's keys and values, of batch B; self_reference: the UNet's own.
    image_tokens, face_tokens: (B, n, d).
    image_scale, face_scale: their weights in cross-attention. controls: their residuals are added up.
    motion_speed: of the frame indices. skip_temporal: single frames, without the layers along time.
    ending: what the frames go over into along the clip, and how much of it each frame that is made has, (t,).
    """

    prompt_embeds: torch.Tensor
    guided: bool
    timeline: Timeline
    condition_latents: torch.Tensor | None = None
    reference: ReferenceTokens | None = None
    self_reference: SelfTokens | None = None
    image_tokens: torch.Tensor | None = None
    image_scale: float = 1.0
    face_tokens: torch.Tensor | None = None
    face_scale: float = 1.0
    controls: tuple[Control, ...] = ()
    motion_speed: float = 8.0
    skip_temporal: bool = False
    prompt_track: PromptTrack | None = None
    ending: tuple["Conditions", torch.Tensor] | None = None

    def text(self, sequences: list[list[int]]) -> torch.Tensor:
        """What the windows are told, by half, window and clip: (rows, n, d), or (rows, t, n, d) of each frame."""
        halves = 1 + self.guided
        if self.prompt_track is None:
            return _repeated(self.prompt_embeds, len(sequences), halves)
        each = [self.prompt_track.at(sequence).unflatten(0, (halves, -1)) for sequence in sequences]
        return torch.stack(each, dim=1).flatten(0, 2)


def predictor(unet: UNet3D, conditions: Conditions, timesteps: torch.Tensor) -> Predict:
    """The function `denoise` calls for a run of these `timesteps`.

    Under guidance its rows are the unconditional and the conditional half: they are averaged over the windows
    first and joined by `sampling.classifier_free` then, as in MuseV.
    """
    steps = {float(t): number for number, t in enumerate(timesteps)}
    timeline, clean, halves = conditions.timeline, conditions.condition_latents, 1 + conditions.guided
    place_of = {frame: place for place, frame in enumerate(timeline.pinned)}

    def predict(latents: torch.Tensor, t: torch.Tensor, windows: list[list[int]]) -> torch.Tensor:
        sequences = [timeline.seen(window) for window in windows]
        layout = [frame in place_of for frame in sequences[0]]
        if any([frame in place_of for frame in each] != layout for each in sequences):
            # one call has condition frames in one set of places
            return torch.cat([predict(latents[i : i + 1], t, [windows[i]]) for i in range(len(windows))])
        given = [place for place, is_given in enumerate(layout) if is_given]
        made = [place for place, is_given in enumerate(layout) if not is_given]
        sample = latents.new_empty(*latents.shape[:3], len(layout), *latents.shape[4:])
        sample[:, :, :, made] = latents
        for row, sequence in zip(sample, sequences, strict=True):
            if given:
                row[:, :, given] = clean[:, :, [place_of[sequence[place]] for place in given]].to(row)
        sample = sample.flatten(0, 1).repeat(halves, 1, 1, 1, 1)  # half, then window, then clip

        def of_windows(each: torch.Tensor | None) -> torch.Tensor | None:
            if each is None:
                return None
            return _repeated(aligned(each, len(conditions.prompt_embeds)), len(windows), halves)

        reference, own = conditions.reference, conditions.self_reference
        if reference is not None and len(windows) > 1:
            reference = reference.map(of_windows)
        if own is not None and len(windows) > 1:
            own = {layer: tuple(map(of_windows, kv)) for layer, kv in own.items()}
        text, step = conditions.text(sequences), (steps[float(t)], len(steps))
        noise_pred = unet(
            sample, t, text,
            condition_index=given,
            motion_speed=conditions.motion_speed,
            image_tokens=of_windows(conditions.image_tokens),
            image_scale=conditions.image_scale,
            face_tokens=of_windows(conditions.face_tokens),
            face_scale=conditions.face_scale,
            reference=reference,
            self_reference=own,
            control_residuals=_control_residuals(conditions, sample, text, t, sequences, step),
            pose_embedding=_pose_embedding(conditions, sample, sequences, step),
            skip_temporal=conditions.skip_temporal,
        )  # fmt: skip
        halved = noise_pred[:, :, made].float().unflatten(0, (halves, len(windows), -1))
        return halved.transpose(0, 1).flatten(1, 2)

    return predict


def aligned(each: torch.Tensor, rows: int) -> torch.Tensor:
    """Fewer rows than there are clips: each stands for as many neighbours; where they don't divide evenly, the
    first for all (as in MuseV)."""
    if rows % len(each):
        each = each[:1]
    return each.repeat_interleave(rows // len(each), dim=0)


def _repeated(each: torch.Tensor, windows: int, halves: int) -> torch.Tensor:
    """(halves · b, …) -> (halves · windows · b, …)."""
    rows = each.unflatten(0, (halves, 1, -1))
    return rows.expand(-1, windows, *rows.shape[2:]).flatten(0, 2)


@torch.no_grad()
def image_tokens(
    image_encoder: CLIPVisionModelWithProjection,
    image_proj: ImageProjection,
    stills: np.ndarray,
    guided: bool,
) -> torch.Tensor:
    """Stills, uint8 (n, h, w, 3), as tokens for cross-attention, (1, 4n, d), of IP-Adapter Plus (1, 16n, d): an image
    prompt (IP-Adapter, arXiv 2308.06721). Under guidance (2, 4n, d): the unconditional ones are the projection of
    zeros, of IP-Adapter Plus that of a picture of zeros."""
    pictures = torch.stack([_seen_by_clip(still, image_encoder.config.image_size) for still in stills])
    pictures = pictures.to(image_encoder.device, image_encoder.dtype)
    if image_proj.reads == "hidden_states":
        halves = [
            image_encoder(each, output_hidden_states=True).hidden_states[-2]
            for each in ([torch.zeros_like(pictures), pictures] if guided else [pictures])
        ]
    else:
        embeds = image_encoder(pictures).image_embeds
        halves = [torch.zeros_like(embeds), embeds] if guided else [embeds]
    return torch.stack([image_proj(half).flatten(0, 1) for half in halves])


@torch.no_grad()
def face_tokens(face_proj: FaceProjModel, embeds: np.ndarray, guided: bool) -> torch.Tensor:
    """Embeddings of faces, float (n, e), as tokens for cross-attention, (1, 4n, d) (IP-Adapter FaceID). Under
    guidance (2, 4n, d): the unconditional ones are the projection of zeros."""
    embeds = torch.from_numpy(np.asarray(embeds, np.float32)).to(face_proj.norm.weight.device)
    halves = [torch.zeros_like(embeds), embeds] if guided else [embeds]
    return torch.stack([face_proj(half).flatten(0, 1) for half in halves])


@torch.no_grad()
def reference_tokens(
    referencenet: ReferenceNet, unet: UNet3D, still_latents: torch.Tensor, text: torch.Tensor
) -> ReferenceTokens:
    """What the UNet's fusion layers read of the stills, once for all windows and steps.

    still_latents: (b, c, n, h, w) clean, for both halves; text: (B, n, d), the image tokens if there are any, else the
    prompt's embeddings.
    """
    stills = still_latents.repeat(len(text) // len(still_latents), 1, 1, 1, 1)
    maps = referencenet(stills, 0, text)
    return unet.prepare_reference(*maps)


@torch.no_grad()
def self_reference_tokens(unet: UNet3D, still_latents: torch.Tensor, text: torch.Tensor) -> SelfTokens:
    """The same without a ReferenceNet: what the UNet's own self-attention sees in the stills (reference-only).
    text: (B, n, d), the prompt's embeddings."""
    return unet.read_pictures(still_latents.repeat(len(text) // len(still_latents), 1, 1, 1, 1), text)


def _control_residuals(
    conditions: Conditions,
    sample: torch.Tensor,
    text: torch.Tensor,
    t: torch.Tensor,
    sequences: list[list[int]],
    step: tuple[int, int],
) -> tuple[list[torch.Tensor], torch.Tensor] | None:
    """The ControlNets' residuals for whole windows, condition frames included, or None.

    The nets are diffusers' own, for single pictures: frames are folded into the batch."""
    total = None
    for control in conditions.controls:
        if isinstance(control.net, PoseGuider) or not control.acts(*step):
            continue
        guess = control.guess and conditions.guided
        rows = slice(len(sample) // 2 if guess else 0, None)  # the conditional half, or all
        shown = sample[rows]
        pictures = control.shown(sequences, len(sample) // (1 + conditions.guided))
        pictures = pictures.to(sample.device, control.net.dtype)
        down, mid = control.net(
            shown.transpose(1, 2).flatten(0, 1).to(control.net.dtype),
            t,
            (
                text[rows].flatten(0, 1)
                if text.ndim == 4
                else text[rows].repeat_interleave(sample.shape[2], dim=0)
            ).to(control.net.dtype),
            pictures.repeat(len(shown) // len(pictures), 1, 1, 1, 1).flatten(0, 1),
            conditioning_scale=control.scale,
            guess_mode=control.guess,
            return_dict=False,
        )
        if guess:
            down = [torch.cat([torch.zeros_like(each), each]) for each in down]
            mid = torch.cat([torch.zeros_like(mid), mid])
        if total is not None:
            down = [one + other for one, other in zip(total[0], down, strict=True)]
            mid = total[1] + mid
        total = (list(down), mid)
    return total


def _pose_embedding(
    conditions: Conditions, sample: torch.Tensor, sequences: list[list[int]], step: tuple[int, int]
) -> torch.Tensor | None:
    """What PoseGuiders add after the UNet's first convolution, (rows · t, c0, h, w), or None. The same for both
    halves."""
    total, halves = None, 1 + conditions.guided
    for control in conditions.controls:
        if not isinstance(control.net, PoseGuider) or not control.acts(*step):
            continue
        drawings = control.shown(sequences, len(sample) // halves).to(sample.device)
        added = control.scale * control.net(drawings.flatten(0, 1)).repeat(halves, 1, 1, 1)
        total = added if total is None else total + added
    return total


def _seen_by_clip(still: np.ndarray, size: int) -> torch.Tensor:
    """uint8 (h, w, 3) -> (3, size, size), cut and normalised as CLIP's own preprocessing does."""
    height, width = still.shape[:2]
    scale = size / min(height, width)
    width, height = (size if side == min(height, width) else int(side * scale) for side in (width, height))
    resized = np.asarray(Image.fromarray(still).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    cut = torch.from_numpy(resized[top : top + size, left : left + size].astype(np.float32) / 255)
    return ((cut - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(2, 0, 1)
