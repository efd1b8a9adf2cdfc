"""The original's numbers for all but the networks: windows, noise, schedulers, prompts, whole loops."""

import json
from pathlib import Path

import pytest
import torch

from musev_engine.errors import EngineError
from musev_engine.prompts import encode_prompts, parse_prompt
from tests.golden_data import NotCovered, read_json
from tests.parity import cases
from tests.parity_loops import CHECKS, _text

OPEN = Path(__file__).parent / "golden" / "open"
CASES = [(kind, path) for kind, path in cases(OPEN) if kind in CHECKS]


@pytest.mark.parametrize(
    ("kind", "path"), CASES, ids=[path.relative_to(OPEN).as_posix() for _, path in CASES]
)
def test_case_is_the_originals(kind, path):
    with torch.no_grad():
        results = CHECKS[kind](path, OPEN)
    assert results and not [each for each in results if not each.ok]


def test_a_case_that_asks_for_more_is_not_called_right(tmp_path):
    case = tmp_path / "pipeline" / "other"
    case.mkdir(parents=True)
    info = read_json(OPEN / "pipeline" / "musev_given_latents" / "case.json")
    info["args"]["context_batch_size"] = 2
    (case / "case.json").write_text(json.dumps(info))
    with pytest.raises(NotCovered, match="context_batch_size"):
        CHECKS["pipeline"](case, tmp_path)


@pytest.mark.parametrize(("prompt", "segments"), read_json(OPEN / "text_embeddings" / "parse.json"))
def test_prompts_fall_into_the_originals_segments(prompt, segments):
    assert [list(segment) for segment in parse_prompt(prompt)] == segments


def test_a_prompt_that_is_too_long_or_has_an_odd_weight_is_refused():
    text_encoder, tokenizer = _text(OPEN)
    with pytest.raises(EngineError, match=r"too long .* Shorten it to 225 tokens"):
        encode_prompts(text_encoder, tokenizer, ["cat " * 300])
    with pytest.raises(EngineError, match=r"no number \(got 1\.2\.3\)"):
        parse_prompt("a (cat:1.2.3)")


def test_both_prompts_get_as_many_chunks_as_the_longer_needs():
    text_encoder, tokenizer = _text(OPEN)
    embeds = encode_prompts(text_encoder, tokenizer, ["", "a b c d e f g h " * 12])
    assert embeds.shape[:2] == (2, 2 * 77)
    alone = encode_prompts(text_encoder, tokenizer, [""])
    assert torch.allclose(embeds[0, :77], alone[0], atol=1e-5)
