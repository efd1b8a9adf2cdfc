"""Prompts: long ones, templates, named negative sets, and what is refused."""

from pathlib import Path

import pytest
import torch

from musev_engine.errors import EngineError
from musev_engine.prompts import (
    CHUNK,
    MAX_CHUNKS,
    NEGATIVE_SETS,
    encode_prompts,
    fill_template,
    negative_prompt,
    parse_prompt,
)
from tests.golden_models import text_encoder_and_tokenizer

OPEN = Path(__file__).parent / "golden" / "open"


@pytest.fixture(scope="module")
def clip():
    return text_encoder_and_tokenizer(OPEN)


def num_tokens(tokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def test_a_prompt_over_225_tokens_is_read_to_its_end(clip):
    long = "a red cat on a hill " * 20
    tokens = num_tokens(clip[1], long)
    assert tokens > 225
    embeds, other = (encode_prompts(*clip, [text]) for text in (long + "sun", long + "sea"))
    assert embeds.shape[1] == 77 * -(-num_tokens(clip[1], long + "sun") // CHUNK)
    begins = 77 * (tokens // CHUNK)
    assert torch.allclose(embeds[:, :begins], other[:, :begins], rtol=0.05, atol=0.05)
    assert not torch.allclose(embeds[:, begins:], other[:, begins:], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("words", [2000, 10_000])
def test_a_prompt_without_end_is_one_clear_error(clip, words):
    with pytest.raises(EngineError, match=rf"too long .* Shorten it to {MAX_CHUNKS * CHUNK} tokens"):
        encode_prompts(*clip, ["cat " * words])


def test_an_odd_weight_is_refused():
    with pytest.raises(EngineError, match=r"no number \(got 1\.2\.3\)"):
        parse_prompt("a (cat:1.2.3)")


def test_templates_are_filled():
    filled = fill_template(
        "(1{sex}:1),(eye blinks:{eye_blinks_factor}), {{as is}}", {"sex": "girl", "eye_blinks_factor": 1.8}
    )
    assert filled == "(1girl:1),(eye blinks:1.8), {as is}"
    assert parse_prompt(filled)[1] == ("eye blinks", 1.8)
    assert fill_template("no names, a { alone", {}) == "no names, a { alone"


def test_a_template_without_its_value_names_the_nearest():
    with pytest.raises(EngineError, match=r"got \{eye_blink_factor\}\). Did you mean eye_blinks_factor\?"):
        fill_template("{eye_blink_factor}", {"eye_blinks_factor": 1.8})


def test_negative_sets_name_the_embeddings_that_musevs_do(clip):
    assert list(NEGATIVE_SETS) == ["Empty", "V1", "V2", "V3", "V4", "V5"]
    assert [len(each.embeddings) for each in NEGATIVE_SETS.values()] == [0, 0, 2, 2, 4, 0]
    assert negative_prompt("V3") == "badhandv4, ng_deepnegative_v1_75t, bad quality"
    assert negative_prompt("Empty") == "" and negative_prompt("V5") in negative_prompt("V2")
    for name in NEGATIVE_SETS:
        assert torch.isfinite(encode_prompts(*clip, [negative_prompt(name)])).all()
    with pytest.raises(EngineError, match=r"got V22\). Did you mean"):
        negative_prompt("V22")
