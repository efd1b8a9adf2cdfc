"""Trains the embedded model's denoiser: UNet, ReferenceNet, pose ControlNet, image projection and both CLIP encoders.

First everything but the layers along time learns from single frames: the still stands clean among noisy frames of
the same clip (MuseV's own way), poses go through the ControlNet, and a share of the steps has a caption alone. Then
the layers along time learn from whole clips, the rest standing still. The target is v (Salimans & Ho,
arXiv 2202.00512) with zero terminal signal (Lin et al., arXiv 2305.08891), as the shipped scheduler config says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from musev_engine.control import draw_poses
from musev_engine.models.attention import ReferenceFusion
from musev_engine.models.projections import ImageProjModel
from musev_engine.models.referencenet import ReferenceNet
from musev_engine.models.unet import UNet3D
from musev_engine.training.data import PERMUTATIONS, Clips, sample
from musev_engine.training.loop import Schedule, train

TEXT_WIDTH, IMAGE_WIDTH = 96, 128
WIDTHS, HEADS, GROUPS = (64, 160, 160), 2, 16
SHARED = {
    "in_channels": 4, "out_channels": 4, "sample_size": 16, "act_fn": "silu", "attention_head_dim": HEADS,
    "block_out_channels": list(WIDTHS), "cross_attention_dim": TEXT_WIDTH, "downsample_padding": 1,
    "layers_per_block": 1, "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": GROUPS,
}  # fmt: skip
UNET = SHARED | {
    "_class_name": "UNet3DConditionModel",
    "down_block_types": ["CrossAttnDownBlock3D"] * 2 + ["DownBlock3D"],
    "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 2,
    "ip_adapter_cross_attn": True, "keep_vision_condtion": True, "need_refer_emb": True,
    "need_t2i_ip_adapter_face": False, "need_transformer_in": False, "need_zero_vis_cond_temb": True,
    "resnet_2d_skip_time_act": True, "use_anivv1_cfg": True,
}  # fmt: skip
REFERENCE = SHARED | {
    "down_block_types": ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2,
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0,
}  # fmt: skip
SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0,
}  # fmt: skip
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PACKED = {  # part of a packed model -> its weights' file
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "referencenet": "referencenet/diffusion_pytorch_model.safetensors",
    "controlnet": "controlnet/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "image_encoder": "image_encoder/model.safetensors",
    "image_proj": "ip_adapter_image_proj.safetensors",
}
EYE = 64  # pixels, both ways, that the image encoder sees
NATIVE_FPS = (
    8  # frames a second at which a clip moves as fast as MuseV's do at 3: both are told motion_speed 8 then
)


class Denoiser(nn.Module):
    """Everything between the latents' noise and its prediction."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.unet = UNet3D.from_config(UNET)
        self.referencenet = ReferenceNet.from_config(REFERENCE)
        self.controlnet = ControlNetModel(
            in_channels=4, down_block_types=tuple(REFERENCE["down_block_types"]), block_out_channels=WIDTHS,
            layers_per_block=1, norm_num_groups=GROUPS, cross_attention_dim=TEXT_WIDTH, attention_head_dim=HEADS,
            conditioning_embedding_out_channels=(16, 32, 48, 64),
        )  # fmt: skip
        # Plain products: faster backward than SDPA on a CPU.
        self.controlnet.set_attn_processor(AttnProcessor())
        # Zero output convolutions protect a trained UNet; from scratch they only delay the pose.
        for conv in [*self.controlnet.controlnet_down_blocks, self.controlnet.controlnet_mid_block,
                     self.controlnet.controlnet_cond_embedding.conv_out]:  # fmt: skip
            nn.init.normal_(conv.weight, std=0.02)
        for fusion in self.unet.modules():
            if isinstance(fusion, ReferenceFusion):
                nn.init.normal_(fusion.to_out[0].weight, std=0.02)
        self.image_proj = ImageProjModel(IMAGE_WIDTH, TEXT_WIDTH, 4)
        self.text_encoder = CLIPTextModel(CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=TEXT_WIDTH, intermediate_size=2 * TEXT_WIDTH, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=77, projection_dim=TEXT_WIDTH,
            bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1,
        ))  # fmt: skip
        self.image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(
            hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=3, image_size=EYE,
            patch_size=8, projection_dim=IMAGE_WIDTH,
        ))  # fmt: skip

    def text(self, ids: Tensor) -> Tensor:
        """Token ids (b, 77) -> (b, 77, d)."""
        return self.text_encoder(ids).last_hidden_state

    def image_tokens(self, stills: Tensor, keep: Tensor) -> Tensor:
        """CLIP-normalised stills (b, 3, EYE, EYE) -> (b, 4, d); those not kept count as "no image"."""
        embeds = self.image_encoder(stills).image_embeds
        return self.image_proj(embeds * keep[:, None].to(embeds))

    def forward(
        self, latents: Tensor, timestep: Tensor, text: Tensor, poses: Tensor | None, still: Tensor | None,
        tokens: Tensor | None, motion_speed: float = 1.0, skip_temporal: bool = True,
    ) -> Tensor:  # fmt: skip
        """latents (b, 4, t, h, w), noisy; still (b, 4, 1, h, w) clean, set before them; poses (b * all, 3, H, W) in
        [0, 1] for the still and the frames -> prediction (b, 4, t, h, w)."""
        sequence, condition, reference = latents, None, None
        if still is not None:
            sequence, condition = torch.cat([still, latents], dim=2), [0]
            reference = self.referencenet(still, 0, tokens)
        residuals = None
        if poses is not None:
            frames = sequence.shape[2]
            flat = sequence.transpose(1, 2).flatten(0, 1)
            down, mid = self.controlnet(
                flat,
                timestep.repeat_interleave(frames),
                text.repeat_interleave(frames, 0),
                poses,
                return_dict=False,
            )
            residuals = (down, mid)
        out = self.unet(
            sequence, timestep, text, condition_index=condition, motion_speed=motion_speed, image_tokens=tokens,
            reference=reference, control_residuals=residuals, skip_temporal=skip_temporal,
        )  # fmt: skip
        return out[:, :, out.shape[2] - latents.shape[2] :]


@dataclass(frozen=True)
class Encoded:
    """Clips as the denoiser learns them, n of 1 + t frames."""

    latents: np.ndarray  # float16 (n, 1 + t, 4, h, w), scaled
    masks: np.ndarray  # uint8 (n, 1 + t, h, w), 0 or 1
    keypoints: np.ndarray  # float32 (n, 1 + t, 18, 3), pixels
    eyes: np.ndarray  # uint8 (n, EYE, EYE, 3), the stills as the image encoder sees them
    ids: np.ndarray  # int64 (n, 77), token ids of the caption
    speed: np.ndarray  # float32 (n,), motion speed


def encode(
    clips: Clips,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    folder: Path,
    device: str,
    seed: int,
    variants: int,
) -> Encoded:
    """Encodes every clip `variants` times, each mirrored and recoloured by chance; keeps the result in `folder`."""
    path = folder / "encoded.npz"
    if not path.exists():
        rng, made = np.random.default_rng(seed), {name: [] for name in Encoded.__dataclass_fields__}
        for k in tqdm(range(len(clips) * variants), desc="encode", mininterval=5):
            drawn = sample(
                clips,
                k % len(clips),
                bool(rng.integers(2)),
                PERMUTATIONS[rng.integers(6) if k >= len(clips) else 0],
            )
            pixels = (
                torch.from_numpy(drawn.pictures)
                .permute(0, 3, 1, 2)
                .to(device, memory_format=torch.channels_last)
            )
            with torch.no_grad(), torch.autocast(device, torch.bfloat16):
                mean = vae.encode(pixels.float() / 127.5 - 1).latent_dist.mean * vae.config.scaling_factor
            mask = F.max_pool2d(torch.from_numpy(drawn.masks)[:, None].float(), 8)[:, 0] > 60
            made["latents"].append(mean.float().cpu().numpy().astype(np.float16))
            made["masks"].append(mask.numpy().astype(np.uint8))
            made["keypoints"].append(drawn.keypoints)
            made["eyes"].append(cv2.resize(drawn.pictures[0], (EYE, EYE), interpolation=cv2.INTER_AREA))
            made["ids"].append(
                np.array(tokenizer(drawn.caption, padding="max_length", truncation=True).input_ids)
            )
            made["speed"].append(np.float32(8.0 * NATIVE_FPS / clips.about[k % len(clips)]["fps"]))
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, **{name: np.stack(value) for name, value in made.items()})
        part.replace(path)
    with np.load(path) as stored:
        return Encoded(**{name: stored[name] for name in Encoded.__dataclass_fields__})


@dataclass(frozen=True)
class Batch:
    """One step's tensors; see `Denoiser.forward`."""

    latents: Tensor
    masks: Tensor
    poses: Tensor | None
    still: Tensor | None
    eyes: Tensor
    ids: Tensor
    keep_image: Tensor
    speed: float


def see(eyes: np.ndarray) -> Tensor:
    """uint8 (b, EYE, EYE, 3) -> CLIP-normalised (b, 3, EYE, EYE)."""
    pixels = torch.from_numpy(eyes).float() / 255
    return ((pixels - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 3, 1, 2)


def make_batch(
    data: Encoded, rng: np.random.Generator, groups: int, frames: int, along_time: bool, empty: np.ndarray
) -> Batch:
    """A random batch: mostly a still and `frames` poses of its clip; one step in six captions (and poses) alone."""
    captions_alone = not along_time and rng.uniform() < 0.17
    if captions_alone:
        groups, frames = groups * 3, 1
    rows = rng.integers(len(data.latents), size=groups)
    if along_time:
        same = np.flatnonzero(data.speed == data.speed[rows[0]])  # motion speed is one number a call
        rows = same[rng.integers(len(same), size=groups)]
        picks = np.tile(np.arange(1, frames + 1), (groups, 1)) + rng.integers(
            data.latents.shape[1] - frames, size=(groups, 1)
        )
    else:
        picks = np.stack(
            [
                rng.choice(
                    np.arange(0 if captions_alone else 1, data.latents.shape[1]), frames, replace=False
                )
                for _ in rows
            ]
        )
    # Any frame may be the still, so that near and far poses both occur.
    stills = np.where(rng.uniform(size=groups) < 0.7, 0, rng.integers(data.latents.shape[1], size=groups))
    height, width = (8 * n for n in data.latents.shape[-2:])

    def frames_of(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array[rows[:, None], picks].astype(np.float32))

    poses = None
    if rng.uniform() < (0.5 if captions_alone else 0.9):
        drawn = [
            draw_poses(data.keypoints[row, pick][:, None], width, height)
            for row, pick in zip(rows, picks, strict=True)
        ]
        if not captions_alone:  # the still's own pose is known half the time
            own = (
                draw_poses(data.keypoints[rows, stills][:, None], width, height)
                * (rng.uniform(size=groups) < 0.5)[:, None, None, None]
            )
            drawn = [
                np.concatenate([mine[None], rest])
                for mine, rest in zip(own.astype(np.uint8), drawn, strict=True)
            ]
        poses = torch.from_numpy(np.concatenate(drawn)).permute(0, 3, 1, 2).float() / 255
    ids = np.where(
        (rng.uniform(size=groups) < (0.1 if captions_alone else 0.3))[:, None], empty, data.ids[rows]
    )
    return Batch(
        latents=frames_of(data.latents).transpose(1, 2),
        masks=frames_of(data.masks)[:, None],
        poses=poses,
        still=None
        if captions_alone
        else torch.from_numpy(data.latents[rows, stills].astype(np.float32))[:, :, None],
        eyes=see(data.eyes[rows]),
        ids=torch.from_numpy(ids),
        keep_image=torch.from_numpy(rng.uniform(size=groups) > 0.1),
        speed=float(data.speed[rows[0]]) if along_time else 1.0,
    )


def denoising_loss(
    model: Denoiser, scheduler: DDIMScheduler, batch: Batch, device: str, along_time: bool
) -> Tensor:
    """Squared error of v; the person counts three times. Noise is half shared by a clip's frames, as MuseV draws it."""
    latents = batch.latents.to(device)
    b, c, t, h, w = latents.shape
    noise = (0.5**0.5 * (torch.randn(b, c, 1, h, w) + torch.randn(b, c, t, h, w))).to(device)
    timestep = torch.randint(1000, (b,), device=device)
    noisy = scheduler.add_noise(latents, noise, timestep)
    target = scheduler.get_velocity(latents, noise, timestep)

    def moved(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(device)

    with torch.autocast(device, torch.bfloat16):
        text = model.text(batch.ids.to(device))
        tokens = (
            None
            if batch.still is None
            else model.image_tokens(batch.eyes.to(device), batch.keep_image.to(device))
        )
        predicted = model(
            noisy, timestep, text, moved(batch.poses), moved(batch.still), tokens, batch.speed, not along_time
        )
    weight = 1 + 2 * batch.masks.to(device)
    return (weight * (predicted.float() - target).square()).mean()


@torch.no_grad()
def draw(
    model: Denoiser,
    scheduler: DDIMScheduler,
    data: Encoded,
    rows: list[int],
    frames: int,
    device: str,
    steps: int = 8,
) -> Tensor:
    """Denoises each row's first frames under their poses: latents (b, 4, frames, h, w)."""
    rng = torch.Generator().manual_seed(0)
    height, width = (8 * n for n in data.latents.shape[-2:])
    still = torch.from_numpy(data.latents[rows, 0].astype(np.float32))[:, :, None].to(device)
    drawings = [
        np.concatenate(
            [
                np.zeros((1, height, width, 3), np.uint8),
                draw_poses(data.keypoints[r, 1 : frames + 1][:, None], width, height),
            ]
        )
        for r in rows
    ]
    poses = (torch.from_numpy(np.concatenate(drawings)).permute(0, 3, 1, 2).float() / 255).to(device)
    shape = (len(rows), 4, frames, height // 8, width // 8)
    latents = (
        0.5**0.5 * (torch.randn(*shape[:2], 1, *shape[3:], generator=rng) + torch.randn(shape, generator=rng))
    ).to(device)
    text = model.text(torch.from_numpy(data.ids[rows]).to(device))
    tokens = model.image_tokens(
        see(data.eyes[rows]).to(device), torch.ones(len(rows), dtype=torch.bool, device=device)
    )
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        v = model(
            latents,
            t.expand(len(rows)).to(device),
            text,
            poses,
            still,
            tokens,
            float(data.speed[rows[0]]),
            model.skip_time,
        )
        latents = scheduler.step(v, t, latents).prev_sample
    return latents


def train_denoiser(
    data: Encoded, shown: Encoded, vae: AutoencoderKL, vocabulary: int, empty: np.ndarray, folder: Path,
    schedule: Schedule, time_schedule: Schedule, device: str, seed: int, groups: int = 8, start: Path | None = None,
) -> Denoiser:  # fmt: skip
    """Both stages, each resumable; `shown` holds clips that are never trained on, for the sample sheets.

    `start`: folder of a packed model to go on from.
    """
    torch.manual_seed(seed)
    model = Denoiser(vocabulary).to(device)
    if start is not None:
        for name, file in PACKED.items():
            state = {key.removeprefix("image_proj."): value for key, value in load_file(start / file).items()}
            getattr(model, name).load_state_dict(state)
    model.skip_time = True
    scheduler = DDIMScheduler.from_config(SCHEDULER)
    rows = list(range(min(8, len(shown.latents))))

    def sheet(path: Path) -> None:
        frames = 4 if model.skip_time else 8
        latents = draw(model, scheduler, shown, rows, frames, device)
        truth = torch.from_numpy(shown.latents[rows, : frames + 1].astype(np.float32)).transpose(1, 2)
        pictures = [_decoded(vae, x.to(device)) for x in (truth[:, :, :1], truth[:, :, 1:], latents)]
        mse = (pictures[1] - pictures[2]).square().mean().item() / 4
        print(
            f"\n{path.stem}: {-10 * np.log10(mse):.2f} dB against the VAE's own picture of the truth",
            flush=True,
        )
        strip = torch.cat(
            [torch.cat([a, x], dim=1) for a, x in ((pictures[0], pictures[1]), (pictures[0], pictures[2]))],
            dim=3,
        )
        image = strip.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
        cv2.imwrite(str(path), ((image + 1) * 127.5).round().byte().numpy()[..., ::-1])

    def loss_of(along_time: bool):
        def loss(step: int, progress: float) -> Tensor:
            torch.manual_seed(seed + 1_000_000 * along_time + step)
            rng = np.random.default_rng((seed, along_time, step))
            batch = make_batch(
                data, rng, groups if not along_time else 3, 4 if not along_time else 11, along_time, empty
            )
            return denoising_loss(model, scheduler, batch, device, along_time)

        return loss

    along = [p for name, p in model.unet.named_parameters() if "temp_" in name or "frame_embedding" in name]
    for p in along:
        p.requires_grad_(False)
    train("frames", model, loss_of(False), schedule, folder / "frames.pt", sheet)
    model.requires_grad_(False)
    for p in along:
        p.requires_grad_(True)
    model.skip_time = False
    train("time", model, loss_of(True), time_schedule, folder / "time.pt", sheet)
    return model


@torch.no_grad()
def _decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """(b, 4, t, h, w) -> (b, t, 3, H, W) in [-1, 1]."""
    b = len(latents)
    flat = latents.transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
    return (
        torch.cat([vae.decode(part).sample for part in flat.split(16)])
        .clamp(-1, 1)
        .float()
        .cpu()
        .unflatten(0, (b, -1))
    )
