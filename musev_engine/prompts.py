"""Prompts -> embeddings: weights in brackets, and texts longer than CLIP's window.

The grammar is the field's: `(x)` raises by 1.1, `[x]` lowers by 1.1, `(x:1.4)` sets, `\\(` is a bracket. It
and the long texts follow what MuseV does (the "long prompt weighting" of the SD community).
"""

import re
from math import ceil

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from musev_engine.embeddings import with_all_vectors
from musev_engine.errors import EngineError

CHUNK = 75  # tokens between CLIP's begin and end marks
MAX_CHUNKS = 3
BRACKET_FACTOR = 1.1

_PIECE = re.compile(
    r"\\(?P<literal>[()\[\]\\])|:(?P<weight>[+-]?[\d.]+)\)|(?P<mark>[()\[\]])|[^\\()\[\]:]+|.", re.DOTALL
)


def parse_prompt(prompt: str) -> list[tuple[str, float]]:
    """The prompt as (text, weight) segments; neighbours of one weight are one, an empty prompt is one.

    A bracket that is never closed reaches to the end; one that was never opened is text.
    """
    segments: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # open brackets, by the segment that each begins with

    def close(bracket: str, factor: float) -> None:
        for segment in segments[opened[bracket].pop() :]:
            segment[1] *= factor

    for piece in _PIECE.finditer(prompt):
        mark, weight = piece["mark"], piece["weight"]
        if mark in opened:
            opened[mark].append(len(segments))
        elif weight and opened["("]:
            close("(", _number(weight))
        elif mark == ")" and opened["("]:
            close("(", BRACKET_FACTOR)
        elif mark == "]" and opened["["]:
            close("[", 1 / BRACKET_FACTOR)
        else:
            segments.append([piece["literal"] or piece[0], 1.0])
    while opened["("]:
        close("(", BRACKET_FACTOR)
    while opened["["]:
        close("[", 1 / BRACKET_FACTOR)

    merged: list[tuple[str, float]] = []
    for text, weight in segments:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged or [("", 1.0)]


@torch.no_grad()
def encode_prompts(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Weighted embeddings, float32 on the CPU, (len(prompts), 77 · m, d) for m chunks, as the longest needs.

    Each chunk of 75 tokens is encoded by itself between CLIP's marks. A token's embedding is multiplied by
    its weight; then the whole is scaled so that its mean stays. Raises EngineError over 225 tokens.
    """
    tokenised = [_tokens(tokenizer, prompt) for prompt in prompts]
    chunks = max(1, ceil(max(len(ids) for ids, _ in tokenised) / CHUNK))
    embeddings = []
    for ids, weights in tokenised:
        padding = chunks * CHUNK - len(ids)
        content = torch.tensor(ids + [tokenizer.pad_token_id] * padding).view(chunks, CHUNK)
        begin, end = (torch.full((chunks, 1), i) for i in (tokenizer.bos_token_id, tokenizer.eos_token_id))
        window = torch.cat([begin, content, end], dim=1).to(text_encoder.device)
        plain = text_encoder(window).last_hidden_state.flatten(0, 1).cpu().double()  # (77 · m, d)

        ones = torch.ones(chunks, 1)
        scale = torch.tensor(weights + [1.0] * padding).view(chunks, CHUNK)
        weighted = plain * torch.cat([ones, scale, ones], dim=1).view(-1, 1)
        # the means are near zero: their ratio wants all the digits there are
        embeddings.append((weighted * (plain.mean() / weighted.mean())).float())
    return torch.stack(embeddings)


def _tokens(tokenizer: CLIPTokenizer, prompt: str) -> tuple[list[int], list[float]]:
    """The prompt's token ids without marks, and each one's weight. Segments are tokenised one by one."""
    ids, weights = [], []
    for text, weight in parse_prompt(prompt):
        segment = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        segment = with_all_vectors(tokenizer, segment)
        ids += segment
        weights += [weight] * len(segment)
    if len(ids) > MAX_CHUNKS * CHUNK:
        raise EngineError(
            "The prompt is too long", f"{len(ids)} tokens", f"Shorten it to {MAX_CHUNKS * CHUNK} tokens."
        )
    return ids, weights


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise EngineError("A weight in the prompt is no number", text, "Write it as (word:1.2).") from error
