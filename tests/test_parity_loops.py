"""The original's numbers for all but the networks: windows, noise, schedulers, prompts, whole loops and chains."""

import json
from pathlib import Path

import pytest
import torch

from musev_engine.prompts import encode_prompts
from tests import parity_loops
from tests.golden_data import NotCovered, read_json
from tests.golden_models import text_encoder_and_tokenizer
from tests.parity import all_checks, cases

OPEN = Path(__file__).parent / "golden" / "open"
CHECKS = {kind: all_checks()[kind] for kind in (*parity_loops.CHECKS, "pipeline", "predictor")}
CASES = [(kind, path) for kind, path in cases(OPEN) if kind in CHECKS]


@pytest.mark.parametrize(
    ("kind", "path"), CASES, ids=[path.relative_to(OPEN).as_posix() for _, path in CASES]
)
def test_case_is_the_originals(kind, path):
    with torch.no_grad():
        results = CHECKS[kind](path, OPEN)
    assert results and not [each for each in results if not each.ok]


@pytest.mark.parametrize("kind", ["pipeline", "predictor"])
def test_a_case_that_asks_for_more_is_not_called_right(tmp_path, kind):
    case = tmp_path / kind / "other"
    case.mkdir(parents=True)
    info = read_json(next(path for known, path in CASES if known == kind) / "case.json")
    info["args"]["hyper_resolution"] = 2
    (case / "case.json").write_text(json.dumps(info))
    with pytest.raises(NotCovered, match="hyper_resolution"):
        CHECKS[kind](case, tmp_path)


def test_both_prompts_get_as_many_chunks_as_the_longer_needs():
    text_encoder, tokenizer = text_encoder_and_tokenizer(OPEN)
    embeds = encode_prompts(text_encoder, tokenizer, ["", "a b c d e f g h " * 12])
    assert embeds.shape[:2] == (2, 2 * 77)
    alone = encode_prompts(text_encoder, tokenizer, [""])
    assert torch.allclose(embeds[0, :77], alone[0], atol=1e-5)
