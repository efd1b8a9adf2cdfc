"""From what an encoder makes of a picture or a face to the few tokens that cross-attention reads.

The unconditional tokens for guidance are the projection of a zero embedding, not zero tokens (`ImageProjModel`,
`FaceProjModel`), or of what the encoder makes of a grey picture (`Resampler`).

Each has `SIGN`, a key that only its checkpoints have, and `of_sizes`, which builds it as large as a checkpoint's
shapes say. `reads` is the output of the vision encoder that it takes, `embedding_dim` wide.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = Mapping[str, Sequence[int]]


class Projection(nn.Module):
    """What the three have in common."""

    @classmethod
    @abstractmethod
    def of_sizes(cls, shapes: Shapes) -> Self:
        """As large as a checkpoint with these shapes."""

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor]) -> Self:
        """Build with the sizes that the weights have. Raises `RuntimeError` for missing or extra keys,
        `KeyError` for weights of another kind."""
        model = cls.of_sizes({key: value.shape for key, value in weights.items()})
        model.load_state_dict(weights)
        return model


class ImageProjModel(Projection):
    """IP-Adapter's projection of a CLIP image embedding (https://arxiv.org/abs/2308.06721)."""

    SIGN = "proj.weight"
    reads = "image_embeds"

    def __init__(self, embedding_dim: int = 1024, token_dim: int = 768, tokens: int = 4):
        super().__init__()
        self.embedding_dim, self.token_dim = embedding_dim, token_dim
        self.proj = nn.Linear(embedding_dim, tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    @classmethod
    def of_sizes(cls, shapes: Shapes) -> Self:
        (token_dim,), (out, embedding_dim) = shapes["norm.weight"], shapes["proj.weight"]
        return cls(embedding_dim, token_dim, out // token_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, e) or (b, 1, e) -> tokens (b, 4, d). Zeros give the unconditional tokens."""
        embedding = embedding.reshape(-1, embedding.shape[-1]).to(self.norm.weight.dtype)
        return self.norm(self.proj(embedding).unflatten(-1, (-1, self.token_dim)))


class FaceProjModel(Projection):
    """IP-Adapter FaceID's projection of a face embedding (InsightFace, 512 numbers, unit length)."""

    SIGN = "proj.0.weight"

    def __init__(
        self, embedding_dim: int = 512, token_dim: int = 768, tokens: int = 4, hidden: int | None = None
    ):
        super().__init__()
        hidden = hidden or 2 * embedding_dim
        self.embedding_dim, self.token_dim = embedding_dim, token_dim
        self.proj = nn.Sequential(
            nn.Linear(embedding_dim, hidden), nn.GELU(), nn.Linear(hidden, tokens * token_dim)
        )
        self.norm = nn.LayerNorm(token_dim)

    @classmethod
    def of_sizes(cls, shapes: Shapes) -> Self:
        (token_dim,), (hidden, embedding_dim) = shapes["norm.weight"], shapes["proj.0.weight"]
        return cls(embedding_dim, token_dim, shapes["proj.2.weight"][0] // token_dim, hidden)

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, e) or (b, 1, e) -> tokens (b, 4, d). Zeros give the unconditional tokens."""
        embedding = embedding.reshape(-1, embedding.shape[-1]).to(self.norm.weight.dtype)
        return self.norm(self.proj(embedding).unflatten(-1, (-1, self.token_dim)))


class Resampler(Projection):
    """IP-Adapter Plus: learned queries that read all of the vision encoder's patches, a Perceiver
    (https://arxiv.org/abs/2103.03206, https://arxiv.org/abs/2308.06721).

    Published sizes: 16 queries, 4 layers, 12 heads of 64 channels; `hidden_states[-2]` of CLIP ViT-H, 1280 wide.
    """

    SIGN = "latents"
    HEAD = 64  # channels of a head, as in all published files
    reads = "hidden_states"

    def __init__(
        self,
        embedding_dim: int = 1280,
        token_dim: int = 768,
        tokens: int = 16,
        width: int = 768,
        layers: int = 4,
        inner: int = 768,
        hidden: int = 3072,
    ):
        super().__init__()
        self.embedding_dim = embedding_dim
        self.latents = nn.Parameter(torch.randn(1, tokens, width) * width**-0.5)
        self.proj_in = nn.Linear(embedding_dim, width)
        self.proj_out = nn.Linear(width, token_dim)
        self.norm_out = nn.LayerNorm(token_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, inner, self.HEAD), _feed_forward(width, hidden)])
            for _ in range(layers)
        )

    @classmethod
    def of_sizes(cls, shapes: Shapes) -> Self:
        (_, tokens, width), (token_dim,) = shapes["latents"], shapes["norm_out.weight"]
        return cls(
            embedding_dim=shapes["proj_in.weight"][1],
            token_dim=token_dim,
            tokens=tokens,
            width=width,
            layers=len({key.split(".")[1] for key in shapes if key.startswith("layers.")}),
            inner=shapes["layers.0.0.to_q.weight"][0],
            hidden=shapes["layers.0.1.1.weight"][0],
        )

    def forward(self, patches: Tensor) -> Tensor:
        """(b, n, e) -> tokens (b, 16, d)."""
        patches = self.proj_in(patches.to(self.proj_in.weight.dtype))
        tokens = self.latents.expand(len(patches), -1, -1)
        for attention, feed_forward in self.layers:
            tokens = tokens + attention(patches, tokens)
            tokens = tokens + feed_forward(tokens)
        return self.norm_out(self.proj_out(tokens))


class PerceiverAttention(nn.Module):
    """Queries attend to the patches and to themselves."""

    def __init__(self, width: int, inner: int, head: int):
        super().__init__()
        self.heads = inner // head
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, patches: Tensor, tokens: Tensor) -> Tensor:
        """patches (b, n, c), tokens (b, m, c) -> (b, m, c)."""
        tokens = self.norm2(tokens)
        k, v = self.to_kv(torch.cat([self.norm1(patches), tokens], dim=1)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_q(tokens), k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, hidden, bias=False),
        nn.GELU(),
        nn.Linear(hidden, width, bias=False),
    )


ImageProjection = ImageProjModel | Resampler
PROJECTIONS = (ImageProjModel, FaceProjModel, Resampler)
