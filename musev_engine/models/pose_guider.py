"""PoseGuider: pose drawings as features that are added to the denoiser's first convolution, in place of a ControlNet.

AnimateAnyone's idea (arXiv 2311.17117), under the key names of Moore Threads' published checkpoint
(MooreThreads/Moore-AnimateAnyone, `pose_guider.pth`).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

HALVINGS = 3  # drawings are eight times as large as latents


class PoseGuider(nn.Module):
    """A stack of convolutions without normalisation; starts without a say: its last projection is zero."""

    def __init__(self, channels: int = 320, widths: Sequence[int] = (16, 32, 96, 256)):
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, wider in pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, wider, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    @classmethod
    def of_sizes(cls, shapes: Mapping[str, Sequence[int]]) -> Self:
        """As large as a checkpoint with these shapes. Raises KeyError for another kind's."""
        steps = range(1, 2 * HALVINGS, 2)
        widths = [shapes["conv_in.weight"][0], *(shapes[f"blocks.{i}.weight"][0] for i in steps)]
        return cls(shapes["conv_out.weight"][0], widths)

    def forward(self, drawings: Tensor) -> Tensor:
        """Pose drawings (k, 3, 8h, 8w) in [0, 1] -> `UNet3D`'s pose_embedding (k, channels, h, w)."""
        x = drawings.to(self.conv_in.weight.dtype)
        for conv in (self.conv_in, *self.blocks):
            x = F.silu(conv(x))
        return self.conv_out(x)
