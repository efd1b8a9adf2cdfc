"""The one border between pixels and tensors.

Pixels are uint8 (t, h, w, 3), sRGB; tensors are what the VAE takes and gives. PNG bytes come in and go out
here too, their size checked before memory is taken for them.
"""

import io
from collections.abc import Iterator
from math import ceil

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageOps, UnidentifiedImageError

from musev_engine.provenance import with_xmp

MAX_STILL_PIXELS = 8192 * 8192
PIXELS_AT_ONCE = 2**20  # what the VAE takes in one call: four frames of 512×512, or 64 of 128×128


def encode_png(frame: np.ndarray, xmp: str = "", by_left: bool = False) -> bytes:
    """One frame, uint8 (h, w, 3) or, with straight alpha, (h, w, 4), as PNG bytes; xmp: what it says of itself, see
    `provenance`. by_left: each pixel is stored by its difference to the one on its left, which is quick to undo without
    a library, and a little larger."""
    swapped = cv2.COLOR_RGB2BGR if frame.shape[-1] == 3 else cv2.COLOR_RGBA2BGRA
    how = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    if by_left and hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.12 on
        how += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
    ok, png = cv2.imencode(".png", cv2.cvtColor(frame, swapped), how)
    if not ok:
        raise ValueError(f"a frame of {frame.shape} and {frame.dtype} can't be written as PNG")
    return with_xmp(png.tobytes(), xmp) if xmp else png.tobytes()


def decode_still(
    data: bytes,
    max_pixels: int = MAX_STILL_PIXELS,
    *,
    what: str = "the still",
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """PNG or JPEG bytes -> uint8 (h, w, 3), upright; what is transparent lies on black. what: it is called in errors.

    Raises ValueError when the bytes aren't such a picture, are cut off, hold more than `max_pixels`, or have another
    `size` (width, height) than is expected (told from the header, before they are unpacked).
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > max_pixels:
                raise ValueError(
                    f"{what} is {picture.width}×{picture.height}; give at most {max_pixels} pixels"
                )
            if size not in (None, picture.size):
                raise ValueError(f"{what} is {picture.width}×{picture.height}, and not {size[0]}×{size[1]}")
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16-bit grey, which PIL would cut off at 255
                picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
            picture = picture.convert("RGBA")
            black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
            return np.asarray(Image.alpha_composite(black, picture).convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, OSError) as error:
        raise ValueError(
            f"{what} ({len(data)} bytes) can't be read: {error}; give a whole PNG or JPEG"
        ) from error


def fit_still(
    still: np.ndarray,
    width: int,
    height: int,
    compat: str = "",
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """Cut a still, uint8 (h, w, 3) or (h, w), to the target's proportions about its middle and scale it: uint8
    (height, width, 3). A still of the right size comes back as it is; with compat="musev" it loses its last
    column and row and is scaled all the same, as every picture does there."""
    if still.shape[:2] == (height, width) and compat != "musev":
        return still
    box = _middle(*still.shape[:2], width, height)
    if compat == "musev":
        left, top, right, bottom = map(ceil, box)
        full_height, full_width = still.shape[:2]
        still, box = still[top : min(bottom, full_height - 1), left : min(right, full_width - 1)], None
    return np.asarray(Image.fromarray(still).resize((width, height), resample, box=box))


def fit_frames(frames: np.ndarray, width: int, height: int, compat: str = "") -> np.ndarray:
    """The same for frames of a video, uint8 (t, h, w, 3), scaled bilinearly."""
    return np.stack([fit_still(each, width, height, compat, Image.Resampling.BILINEAR) for each in frames])


def _middle(height: int, width: int, to_width: int, to_height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest part about the middle that has the target's proportions."""
    scale = min(width / to_width, height / to_height)
    left, top = (width - to_width * scale) / 2, (height - to_height * scale) / 2
    return left, top, width - left, height - top


def to_tensor(frames: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (t, h, w, 3) -> float32 (t, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(frames)).to(device).permute(0, 3, 1, 2).float() / 255


def to_pixels(pictures: torch.Tensor, compat: str = "") -> np.ndarray:
    """float (t, 3, h, w), 0…1 -> uint8 (t, h, w, 3); what lies outside is cut off. Values are rounded or, with
    compat="musev", cut off at the whole number below."""
    values = pictures.clamp(0, 1) * 255
    values = values.floor() if compat == "musev" else values.round()
    return values.byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode(vae: AutoencoderKL, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Frames, uint8 (t, h, w, 3) or float (t, 3, h, w) in [0, 1], as clean latents: float32 (1, c, t, h/8, w/8),
    the mean (never a sample) times the VAE's scaling factor."""
    latents = []
    height, width = frames.shape[2:] if isinstance(frames, torch.Tensor) else frames.shape[1:3]
    for chunk in _chunks(frames, height * width):
        chunk = chunk.to(vae.device) if isinstance(chunk, torch.Tensor) else to_tensor(chunk, vae.device)
        latents.append(vae.encode((chunk * 2 - 1).to(vae.dtype)).latent_dist.mean.float())
    return (torch.cat(latents) * vae.config.scaling_factor).transpose(0, 1).unsqueeze(0)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Latents (1, c, t, h, w) as pictures, a few frames at a time and in order: float32 (k, 3, 8h, 8w) in
    [0, 1]."""
    rows = (latents[0].transpose(0, 1) / vae.config.scaling_factor).to(vae.dtype)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    for chunk in _chunks(rows, rows.shape[2] * rows.shape[3] * factor**2):
        yield (vae.decode(chunk).sample.float() / 2 + 0.5).clamp(0, 1)


def match_histograms(frames: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Frames, uint8 (t, h, w, 3), with the colours of a model frame (h, w, 3): in each channel of each frame a
    value becomes the one of the same rank in the model's (Gonzalez and Woods, Digital Image Processing, 3.3.2)."""
    matched = np.empty_like(frames)
    for channel in range(3):
        counts = np.bincount(model[..., channel].ravel(), minlength=256)
        values = counts.nonzero()[0]
        ranks = counts[values].cumsum() / model[..., channel].size
        for frame, out in zip(frames[..., channel], matched[..., channel], strict=True):
            own_ranks = np.bincount(frame.ravel(), minlength=256).cumsum() / frame.size
            out[:] = np.interp(own_ranks, ranks, values).astype(np.uint8)[frame]
    return matched


def _chunks(rows, pixels_of_one: int) -> Iterator:
    size = max(1, PIXELS_AT_ONCE // pixels_of_one)
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
