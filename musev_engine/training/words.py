"""A CLIP tokenizer for the captions' words, made from nothing but the list of them.

Every known word is one token; anything else falls apart into bytes, as CLIP's own byte-pair encoding does
(Radford et al., arXiv 2103.00020, section 2.4), so no prompt is ever refused.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

WORDS = tuple(
    """
    black grey white red orange yellow green cyan blue purple pink brown
    a an the in and with on of is at to
    person man woman dancer character figure bald hat hair shirt trousers shorts skirt
    dance dancing dances walk walking wave waving jumping jack squat squatting kick kicking sway swaying reach reaching
    wall floor background standing left right arm arms leg legs up down clip video picture , .
    """.split()  # noqa: SIM905
)
START, END = "<|startoftext|>", "<|endoftext|>"


def _byte_letters() -> list[str]:
    """The printable letter that stands for each of the 256 bytes in byte-pair vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in printable}
    spare = (chr(256 + k) for k in range(256))
    return [letters.get(b) or next(spare) for b in range(256)]


def _joined(parts: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: joins the pair of the lowest rank until none is left."""
    while True:
        known = [(merges[pair], k) for k, pair in enumerate(itertools.pairwise(parts)) if pair in merges]
        if not known:
            return parts
        _, k = min(known)
        parts[k : k + 2] = [parts[k] + parts[k + 1]]


def write_tokenizer(folder: Path) -> int:
    """Writes vocab.json, merges.txt and the two small configs; returns the vocabulary's size."""
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges: dict[tuple[str, str], int] = {}  # pair -> rank
    for word in dict.fromkeys(WORDS):
        parts = _joined([*word[:-1], word[-1] + "</w>"], merges)
        while len(parts) > 1:  # a later, lower-ranked merge leaves the words before it as they are
            merges[parts[0], parts[1]] = len(merges)
            parts[:2] = [parts[0] + parts[1]]
            if parts[0] not in tokens:
                tokens.append(parts[0])
    tokens += [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: k for k, token in enumerate(tokens)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    return len(tokens)
