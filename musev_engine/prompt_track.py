"""Prompts that change along a clip: which text each frame is told, and how one goes over into the next.

Spans of frames have a text each. A frame's embedding is that of the span it lies in; where spans overlap, their
embeddings are mixed by weights that change linearly from frame to frame and sum to 1. Outside all spans the clip's
own prompt stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from musev_engine.errors import EngineError


@dataclass(frozen=True)
class PromptSpan:
    """The generated frames `first` to `last`, both of them in it, and their prompt. Raises EngineError."""

    first: int
    last: int
    text: str

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise EngineError(
                "A prompt's frames must go from a first, 0 at least, to a last one",
                (self.first, self.last),
                "Give 0 <= first <= last.",
            )


def check_spans(spans: Sequence[PromptSpan], num_frames: int) -> None:
    """Raises EngineError for a span beyond the clip."""
    for span in spans:
        if span.last >= num_frames:
            raise EngineError(
                "A prompt reaches beyond the clip", (span.first, span.last), f"End it at {num_frames - 1}."
            )


def texts_of(prompt: str, spans: Sequence[PromptSpan], num_frames: int) -> tuple[list[str], np.ndarray]:
    """The texts that a clip's frames are told, each once, and how much each frame is told of them: float32
    (num_frames, len(texts)), every row summing to 1.

    Of two spans that overlap the one that begins first (of two that begin together, the one that ends first) goes over
    into the other through all frames they share. One that lies within another rises to its middle, where it stands
    alone, and falls again. Of more than two, each weighs as the product of what it has beside each of the others.
    """
    texts = list(dict.fromkeys([prompt, *(span.text for span in spans)]))
    weights = np.zeros((num_frames, len(texts)))
    ordered = sorted(spans, key=lambda span: (span.first, span.last))
    shares = [np.zeros(num_frames) for _ in ordered]
    for own, span in zip(shares, ordered, strict=True):
        own[span.first : span.last + 1] = 1
    for i, before in enumerate(ordered):
        for j in range(i + 1, len(ordered)):
            after = ordered[j]
            first, last = after.first, min(before.last, after.last)
            if first > last:
                continue
            rising = _rising(first, last, falls_again=before.first < first and after.last < before.last)
            shares[j][first : last + 1] *= rising
            shares[i][first : last + 1] *= 1 - rising
    for own, span in zip(shares, ordered, strict=True):
        weights[:, texts.index(span.text)] += own
    total = weights.sum(axis=1, keepdims=True)
    weights = np.divide(weights, total, out=weights, where=total > 0)
    weights[total[:, 0] == 0, 0] = 1  # outside all spans
    told = weights.any(axis=0)
    return [text for text, is_told in zip(texts, told, strict=True) if is_told], weights[:, told].astype("f4")


def _rising(first: int, last: int, falls_again: bool) -> np.ndarray:
    """What the later of two spans has of the frames that both cover."""
    steps = np.arange(1, last - first + 2)
    if falls_again:
        return np.minimum(steps, steps[::-1]) / (len(steps) + 1) * 2
    return steps / (len(steps) + 1)


@dataclass(frozen=True)
class PromptTrack:
    """embeds: (B, k, n, d), of k texts, padded to one length. weights: (t, k), how much each of t frames is told of
    them."""

    embeds: torch.Tensor
    weights: torch.Tensor

    def at(self, frames: Sequence[int]) -> torch.Tensor:
        """(B, len(frames), n, d): what these frames are told."""
        weights = self.weights[list(frames)].to(self.embeds)
        return torch.einsum("tk,bknd->btnd", weights, self.embeds)

    def of(self, frames: Sequence[int]) -> Self:
        """The track of a timeline that shows these frames."""
        return type(self)(self.embeds, self.weights[list(frames)])

    @property
    def is_plain(self) -> bool:
        """Whether all frames are told one text."""
        return self.embeds.shape[1] == 1
