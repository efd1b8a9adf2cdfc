"""Attention as MuseV uses it: over frames that share keys, over prompts, over a reference still.

Tokens of all frames travel as (b*t, n, c), batch-major. Keys and values that all frames of a batch element
share, as a prompt's or a reference's, are projected once per batch element, never once per frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]
SelfTokens = dict[nn.Module, KeysValues]  # by the self-attention whose they are
CUDA_GRID_LIMIT = 65535  # the fused CUDA kernels put the batch on a grid axis of this length


@dataclass(frozen=True)
class Cues:
    """What every block is told in one call of a network; b batch elements of t frames.

    temb (b*t, 4*c0): time embedding.  femb (b, t, 4*c0): frame embedding; None skips the temporal layers.
    text (b, n, d) or per frame (b, t, n, d).  image, face: tokens of the same two forms, or None.
    condition_index (k,): positions along t of the clean frames, which every frame looks at; or None.
    seen: keys and values (b, m, c) that every frame looks at besides, of each self-attention; or None.
    written: where each self-attention leaves those of its own frames, (b, t*n, c); or None.
    """

    frames: int
    temb: Tensor
    text: Tensor
    femb: Tensor | None = None
    image: Tensor | None = None
    image_scale: float = 1.0
    face: Tensor | None = None
    face_scale: float = 1.0
    condition_index: Tensor | None = None
    seen: Mapping[nn.Module, KeysValues] | None = None
    written: SelfTokens | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in each head: q (b, n, c), k and v (b, m, c) -> (b, n, c).

    The one place that picks a kernel. On a CPU that needs gradients, plain products: backward through SDPA's
    CPU kernel takes about twice as long.
    """
    if q.is_cuda and len(q) > CUDA_GRID_LIMIT:
        parts = zip(q.split(CUDA_GRID_LIMIT), k.split(CUDA_GRID_LIMIT), v.split(CUDA_GRID_LIMIT), strict=True)
        return torch.cat([attend(*part, heads) for part in parts])
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if q.device.type == "cpu" and torch.is_grad_enabled():
        out = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention's projections under SD1.5's names; forward is self-attention over (b, n, c)."""

    def __init__(self, channels: int, heads: int, context_channels: int | None = None):
        super().__init__()
        context_channels = context_channels or channels
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out[0](attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))

    def also_shared(self, own: Tensor, shared: Tensor) -> Tensor:
        """Each frame's own keys (b*t, n, c) followed by those its batch element shares (b, m, c)."""
        frames = len(own) // len(shared)
        shared = shared.to(own.dtype)[:, None].expand(-1, frames, -1, -1)
        return torch.cat([own.unflatten(0, (-1, frames)), shared], dim=2).flatten(0, 1)


class ConditionedSelfAttention(Attention):
    """Spatial self-attention in which every frame also sees the tokens of the condition frames, and those that this
    same layer wrote of other pictures (reference-only).

    A condition frame sees itself twice, as in the original. Without generated frames (t = 1) or condition
    frames this is plain self-attention.
    """

    def forward(self, x: Tensor, cues: Cues) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if cues.written is not None:
            cues.written[self] = tuple(each.unflatten(0, (-1, cues.frames)).flatten(1, 2) for each in (k, v))
        if cues.condition_index is not None and cues.frames > 1:
            k, v = (self.also_shared(own, self._of_condition(own, cues)) for own in (k, v))
        if cues.seen is not None:
            k, v = (self.also_shared(*each) for each in zip((k, v), cues.seen[self], strict=True))
        return self.to_out[0](attend(q, k, v, self.heads))

    def _of_condition(self, own: Tensor, cues: Cues) -> Tensor:
        return own.unflatten(0, (-1, cues.frames)).index_select(1, cues.condition_index).flatten(1, 2)


class PromptAttention(Attention):
    """Cross-attention to text, plus decoupled attention to image and face tokens (IP-Adapter,
    https://arxiv.org/abs/2308.06721): the three results are added before the output projection."""

    def __init__(self, channels: int, heads: int, context_channels: int, image: bool, face: bool):
        super().__init__(channels, heads, context_channels)
        if image:
            self.to_k_ip = nn.Linear(context_channels, channels, bias=False)
            self.to_v_ip = nn.Linear(context_channels, channels, bias=False)
        if face:
            self.ip_adapter_face_to_k_ip = nn.Linear(context_channels, channels, bias=False)
            self.ip_adapter_face_to_v_ip = nn.Linear(context_channels, channels, bias=False)

    def forward(self, x: Tensor, cues: Cues) -> Tensor:
        q = self.to_q(x)
        out = self._read(q, cues.text, self.to_k, self.to_v)
        if cues.image is not None:
            out = out + cues.image_scale * self._read(q, cues.image, self.to_k_ip, self.to_v_ip)
        if cues.face is not None:
            face = self._read(q, cues.face, self.ip_adapter_face_to_k_ip, self.ip_adapter_face_to_v_ip)
            out = out + cues.face_scale * face
        return self.to_out[0](out)

    def _read(self, q: Tensor, tokens: Tensor, to_k: nn.Linear, to_v: nn.Linear) -> Tensor:
        """Tokens (b, n, d) serve all frames at once, queries side by side; (b, t, n, d) one frame each."""
        if tokens.ndim == 4:
            tokens = tokens.flatten(0, 1)
        queries = q.reshape(len(tokens), -1, q.shape[-1])
        return attend(queries, to_k(tokens), to_v(tokens), self.heads).reshape(q.shape)


class ReferenceFusion(Attention):
    """Every frame's tokens look at the reference's and at their own; the result is added (no normalisation).

    Starts as the identity: its output projection is zero.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__(channels, heads)
        nn.init.zeros_(self.to_out[0].weight)
        nn.init.zeros_(self.to_out[0].bias)

    def tokens(self, reference: Tensor) -> KeysValues:
        """Keys and values (b, t2*h2*w2, c) of a map (b, c, t2, h2, w2), good for every frame and step."""
        reference = reference.flatten(2).transpose(1, 2)
        return self.to_k(reference), self.to_v(reference)

    def forward(self, x: Tensor, reference: KeysValues) -> Tensor:
        """x (b*t, c, h, w) -> same shape."""
        own = x.flatten(2).transpose(1, 2)
        k = self.also_shared(self.to_k(own), reference[0])
        v = self.also_shared(self.to_v(own), reference[1])
        out = self.to_out[0](attend(self.to_q(own), k, v, self.heads))
        return x + out.transpose(1, 2).reshape(x.shape)
