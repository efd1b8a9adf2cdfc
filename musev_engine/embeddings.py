"""Textual inversion: words that stand for learned vectors (https://arxiv.org/abs/2208.01618), all of them.

Files are those of AUTOMATIC1111's web UI (`.pt` with `string_to_param`, `.safetensors` with `emb_params`), whose
word is the file's name, and diffusers' (the word is the key).
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from musev_engine.checkpoints import bad_model, open_weights, read_all, seems

MAX_VECTORS = 75  # as many as CLIP reads at once


def add_embeddings(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, files: Iterable[Path]
) -> tuple[str, ...]:
    """Teach the text encoder each file's word and return the words. A prompt that has the word gets all its vectors.

    Raises EngineError, before anything is changed, for a file that is no textual inversion or one for another
    text encoder, and for a word that the tokenizer has already.
    """
    embedding = text_encoder.get_input_embeddings()
    width = embedding.weight.shape[1]
    vocabulary = tokenizer.get_vocab().keys()
    learned: dict[str, torch.Tensor] = {}
    for path in files:
        word, vectors = _read(path, width)
        if word in learned or {word, f"{word.lower()}</w>"} & vocabulary:
            raise bad_model(
                f"The word of the embedding {path} is taken", word, "Give the file a name of its own."
            )
        learned[word] = vectors
    if not learned:
        return ()

    for word, vectors in learned.items():
        names = [word, *(_further(word, k) for k in range(1, len(vectors)))]
        tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=True) for name in names])
    first = tokenizer.convert_tokens_to_ids(next(iter(learned)))
    weight = torch.cat([embedding.weight[:first], *(v.to(embedding.weight) for v in learned.values())])
    embedding.weight = nn.Parameter(weight, requires_grad=False)
    embedding.num_embeddings = text_encoder.config.vocab_size = len(weight)
    return tuple(learned)


def with_all_vectors(tokenizer: CLIPTokenizer, ids: list[int]) -> list[int]:
    """Token ids in which each embedding's word is followed by the rest of its vectors."""
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    expanded = []
    for i in ids:
        expanded.append(i)
        k = 1
        while i in added and added.get(i + k) == _further(added[i], k):
            expanded.append(i + k)
            k += 1
    return expanded


def _further(word: str, k: int) -> str:
    """The token of a word's vector k > 0, which nobody writes."""
    return f"{word}<{k}>"


def _read(path: Path, width: int) -> tuple[str, torch.Tensor]:
    """A file's word and vectors (n, width)."""
    weights = open_weights(path)
    vectors = [key for key in weights if key == "emb_params" or key.startswith("string_to_param.")]
    if vectors:
        word = path.stem
    elif len(weights) == 1:
        vectors = list(weights)
        word = vectors[0]
    else:
        like = seems(weights)
        raise bad_model(
            f"{path} holds no textual inversion",
            f"it seems to be {like}" if like else ", ".join(list(weights)[:5]) or "nothing",
            "Take a file made by textual inversion for Stable Diffusion 1.5.",
        )
    shape = weights[vectors[0]].shape
    shape = (1, *shape) if len(shape) == 1 else shape
    if len(shape) != 2 or shape[1] != width or not 1 <= shape[0] <= MAX_VECTORS or len(vectors) != 1:
        known = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL"}
        like = known.get(shape[-1]) if shape and shape[-1] != width else None
        raise bad_model(
            f"The embedding {path} isn't for this text encoder",
            f"shape {shape}, as for {like}" if like else f"shape {shape}",
            f"Take one of 1 to {MAX_VECTORS} vectors of {width} numbers.",
        )
    read = read_all({"vectors": weights[vectors[0]].reshaped(shape)})["vectors"]
    if not read.isfinite().all():
        raise bad_model(
            f"The embedding {path} is damaged", "numbers that aren't finite", "Download it again."
        )
    return word, read
