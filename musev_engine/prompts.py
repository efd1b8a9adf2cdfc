"""Prompts -> embeddings: templates, weights in brackets, and texts longer than CLIP's window.

The grammar is the field's: `(x)` raises by 1.1, `[x]` lowers by 1.1, `(x:1.4)` sets, `\\(` is a bracket. It
and the long texts follow what MuseV does (the "long prompt weighting" of the SD community).
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from musev_engine.embeddings import with_all_vectors
from musev_engine.errors import EngineError

CHUNK = 75  # tokens between CLIP's begin and end marks
MAX_CHUNKS = 16  # 1200 tokens: about 900 words; MuseV breaks at more than 3
MAX_CHARACTERS = 20_000  # before anything looks at the text
BRACKET_FACTOR = 1.1

_PIECE = re.compile(
    r"\\(?P<literal>[()\[\]\\])|:(?P<weight>[+-]?[\d.]+)\)|(?P<mark>[()\[\]])|[^\\()\[\]:]+|.", re.DOTALL
)


@dataclass(frozen=True)
class NegativeSet:
    """What a clip shall not look like: a text, and textual inversions (by their tokens, the files' names) that say it
    in fewer tokens. They have an effect only where they are loaded."""

    text: str = ""
    embeddings: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        return ", ".join([*self.embeddings, *([self.text] if self.text else [])])


_FLAWS = "(low quality:1.4), (worst quality:1.4), blurry, jpeg artefacts, watermark, signature, text, cropped"
_BODIES = (
    f"{_FLAWS}, (deformed hands:1.3), (extra fingers:1.3), missing fingers, extra limbs, fused limbs, long neck, "
    "(two heads:1.4), distorted face, crossed eyes, bad anatomy, out of frame, duplicate"
)
# By MuseV's names, with the embeddings that each names there; the words are our own.
NEGATIVE_SETS: dict[str, NegativeSet] = {
    "Empty": NegativeSet(),
    "V1": NegativeSet(_FLAWS),
    "V2": NegativeSet(_BODIES, ("badhandv4", "ng_deepnegative_v1_75t")),
    "V3": NegativeSet("bad quality", ("badhandv4", "ng_deepnegative_v1_75t")),
    "V4": NegativeSet(
        "bad quality", ("badhandv4", "ng_deepnegative_v1_75t", "EasyNegativeV2", "bad_prompt_version2-neg")
    ),
    "V5": NegativeSet(_BODIES),
}


def negative_prompt(name: str) -> str:
    """The prompt of a named negative set. Raises EngineError for an unknown name, with the nearest."""
    if name not in NEGATIVE_SETS:
        raise EngineError(
            "No negative set has this name", name, _nearest(name, NEGATIVE_SETS), "unknown_name"
        )
    return NEGATIVE_SETS[name].prompt


def fill_template(prompt: str, values: Mapping[str, object]) -> str:
    """The prompt with each `{name}` replaced by its value, as `(eye blinks:{eye_blinks_factor})`; `{{` and `}}` are
    braces. Raises EngineError for a name that has no value."""

    def value(found: re.Match) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found["name"] not in values:
            raise EngineError(
                "The prompt asks for a value that isn't given", found[0], _nearest(found["name"], values)
            )
        return str(values[found["name"]])

    return re.sub(r"\{\{|\}\}|\{(?P<name>\w+)\}", value, prompt)


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    listed = ", ".join(known) or "none"
    return f"Did you mean {' or '.join(near)}?" if near else f"There are: {listed}."


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
    its weight; then the whole is scaled so that its mean stays. Raises EngineError over MAX_CHUNKS chunks.
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
    if len(prompt) > MAX_CHARACTERS:
        raise EngineError("The prompt is too long", f"{len(prompt)} characters", _SHORTEN)
    ids, weights = [], []
    for text, weight in parse_prompt(prompt):
        segment = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        segment = with_all_vectors(tokenizer, segment)
        ids += segment
        weights += [weight] * len(segment)
    if len(ids) > MAX_CHUNKS * CHUNK:
        raise EngineError("The prompt is too long", f"{len(ids)} tokens", _SHORTEN)
    return ids, weights


_SHORTEN = f"Shorten it to {MAX_CHUNKS * CHUNK} tokens, about {MAX_CHUNKS * CHUNK * 3 // 4} words."


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise EngineError("A weight in the prompt is no number", text, "Write it as (word:1.2).") from error
