"""From one embedding of a picture or a face to the few tokens that cross-attention reads.

The unconditional tokens for guidance are the projection of a zero embedding, not zero tokens.
"""

from typing import Self

from torch import Tensor, nn


class ImageProjModel(nn.Module):
    """IP-Adapter's projection of a CLIP image embedding (https://arxiv.org/abs/2308.06721)."""

    def __init__(self, embedding_dim: int = 1024, token_dim: int = 768, tokens: int = 4):
        super().__init__()
        self.token_dim = token_dim
        self.proj = nn.Linear(embedding_dim, tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    @classmethod
    def from_state_dict(cls, weights: dict[str, Tensor]) -> Self:
        """Build with the sizes that the weights have. Raises `RuntimeError` for missing or extra keys,
        `KeyError` for weights of another kind."""
        token_dim = len(weights["norm.weight"])
        out, embedding_dim = weights["proj.weight"].shape
        model = cls(embedding_dim, token_dim, out // token_dim)
        model.load_state_dict(weights)
        return model

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, e) or (b, 1, e) -> tokens (b, 4, d). Zeros give the unconditional tokens."""
        embedding = embedding.reshape(-1, embedding.shape[-1]).to(self.norm.weight.dtype)
        return self.norm(self.proj(embedding).unflatten(-1, (-1, self.token_dim)))


class FaceProjModel(nn.Module):
    """IP-Adapter FaceID's projection of a face embedding (InsightFace, 512 numbers, unit length)."""

    def __init__(
        self, embedding_dim: int = 512, token_dim: int = 768, tokens: int = 4, hidden: int | None = None
    ):
        super().__init__()
        hidden = hidden or 2 * embedding_dim
        self.token_dim = token_dim
        self.proj = nn.Sequential(
            nn.Linear(embedding_dim, hidden), nn.GELU(), nn.Linear(hidden, tokens * token_dim)
        )
        self.norm = nn.LayerNorm(token_dim)

    @classmethod
    def from_state_dict(cls, weights: dict[str, Tensor]) -> Self:
        """Build with the sizes that the weights have. Raises as `ImageProjModel.from_state_dict`."""
        token_dim = len(weights["norm.weight"])
        hidden, embedding_dim = weights["proj.0.weight"].shape
        model = cls(embedding_dim, token_dim, len(weights["proj.2.weight"]) // token_dim, hidden)
        model.load_state_dict(weights)
        return model

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, e) or (b, 1, e) -> tokens (b, 4, d). Zeros give the unconditional tokens."""
        embedding = embedding.reshape(-1, embedding.shape[-1]).to(self.norm.weight.dtype)
        return self.norm(self.proj(embedding).unflatten(-1, (-1, self.token_dim)))
