"""How much a draft tells of its final: structural similarity of the two, beside that of another seed's final.

    python -m tests.measure_drafts [--model mini] [--seeds 4] [--size 128]

A draft has half the size and 4 steps, and begins with the final's noise averaged down. It prints, for text and for
poses, the mean similarity (SSIM, Wang et al. 2004, over 8 x 8 areas of luminance) of drafts to their own final and to
another's, and of drafts whose noise was drawn at their own size.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate

from musev_engine.loading import Models, load_models
from musev_engine.pipeline import Clip, Frames, generate

AREA, DRAFT_STEPS = 8, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    models = load_models(args.model)
    for name, clip in clips(args.size).items():
        own, other, unlike = similarities(clip, models, args.seeds)
        print(
            f"{name}: own final {own:.3f}, another seed's {other:.3f}, own seed without its noise {unlike:.3f}"
        )


def clips(size: int) -> dict[str, Clip]:
    """The finals, but for their seeds."""
    text = Clip(prompt="a red figure dances", width=size, height=size, num_frames=12, num_inference_steps=10)
    points = np.ones((12, 1, 18, 3), np.float32)
    points[..., 0] = np.linspace(0.3, 0.6, 18) * size + np.arange(12)[:, None, None]
    points[..., 1] = np.linspace(0.1, 0.9, 18) * size
    return {"text": text, "poses": replace(text, poses=points)}


def similarities(clip: Clip, models: Models, seeds: int) -> tuple[float, float, float]:
    half = {"width": clip.width // 2, "height": clip.height // 2, "num_inference_steps": DRAFT_STEPS}
    scaled = {} if clip.poses is None else {"poses": clip.poses * (0.5, 0.5, 1)}
    finals = [luminance(replace(clip, seed=seed), models) for seed in range(seeds)]
    own, other, unlike = [], [], []
    for seed in range(seeds):
        plain = replace(clip, seed=seed, **half, **scaled)
        draft = luminance(replace(plain, noise_width=clip.width, noise_height=clip.height), models)
        own.append(similarity(draft, finals[seed]))
        other += [similarity(draft, final) for number, final in enumerate(finals) if number != seed]
        unlike.append(similarity(luminance(plain, models), finals[seed]))
    return tuple(float(np.mean(each)) for each in (own, other, unlike))


def luminance(clip: Clip, models: Models) -> torch.Tensor:
    """The clip's frames, (n, 1, h, w) in [0, 1]."""
    frames = np.concatenate([event.frames for event in generate(clip, models) if isinstance(event, Frames)])
    return torch.from_numpy(frames @ np.array([0.299, 0.587, 0.114]) / 255).float()[:, None]


def similarity(small: torch.Tensor, large: torch.Tensor) -> float:
    """Mean SSIM of two clips of one length at the smaller one's size."""
    large = interpolate(large, small.shape[-2:], mode="area")

    def mean(each: torch.Tensor) -> torch.Tensor:
        return avg_pool2d(each, AREA, stride=1)

    a, b = mean(small), mean(large)
    var_a, var_b = mean(small**2) - a**2, mean(large**2) - b**2
    cov = mean(small * large) - a * b
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * a * b + c1) * (2 * cov + c2)) / ((a**2 + b**2 + c1) * (var_a + var_b + c2))).mean().item()


if __name__ == "__main__":
    main()
