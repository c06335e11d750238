"""One vector for every token of a text, computed from the whole text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_jina.engine.pipeline import (
    Item,
    Pipeline,
    ahead,
    check_length,
    finish,
    own_characters,
    prompted,
    warn_of_cut,
)
from mlx_jina.engine.plan import Plan
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn.ragged import Batch
from mlx_jina.text.tokenizer import Ids, Offsets
from mlx_jina.vectors import Vectors


@dataclass(frozen=True)
class TokenVectors:
    """Every token of a text as it was run, special tokens and prompt included.

    Row i of `vectors` (L, D) is that of token `ids[i]`, which stands for the characters `spans[i]`, (L, 2), of the
    text; those of special tokens and prompt are (0, 0).
    """

    vectors: Vectors
    spans: Offsets
    ids: Ids


def token_vectors(
    pipeline: Pipeline, items: Iterable[Item], plan: Plan, advance: Callable[[int], object]
) -> Iterator[tuple[list[int], list[TokenVectors]]]:
    """Positions and token vectors of each window of texts, which are cut as `Pipeline.windows` cuts them."""
    cut = 0

    def prepare(window: Sequence[Item]) -> list[tuple[Ids, Offsets]]:
        positions, texts = prompted(window, plan)
        encoded = pipeline.tokenizer.encode_with_offsets(texts, positions, plan.max_length)
        for position, (ids, _) in zip(positions, encoded, strict=True):
            check_length(ids, position, plan)
        return encoded

    for positions, encoded in ahead(items, prepare):
        cut += sum(len(ids) > plan.max_length for ids, _ in encoded)
        truncate = partial(pipeline.tokenizer.truncate, max_length=plan.max_length)
        ids = [truncate(ids) for ids, _ in encoded]
        spans = [truncate(own_characters(offsets, plan)) for _, offsets in encoded]
        counts = [len(text) for text in ids]
        rows = pipeline.forward(
            ids, positions, plan, lambda texts: advance(len(texts)), pool=_every_token, counts=counts
        )
        vectors = np.split(finish(rows, plan), np.cumsum(counts)[:-1])
        yield positions, [TokenVectors(*text) for text in zip(vectors, spans, ids, strict=True)]
    warn_of_cut(cut, plan)


def _every_token(model: EncoderModel, batch: Batch) -> mx.array:
    """On the model's thread: the state of each token."""
    return model.hidden(mx.array(batch.ids), batch.ragged).astype(mx.float32)
