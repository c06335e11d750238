"""Padded batches, for peers that are a model only: sorted by length, as sentence-transformers does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

TEXTS, TOKENS = 32, 8192


def sorted_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Batches of indices, the longest texts first, each as large as `TEXTS` and `TOKENS` allow."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        chosen = order[start : start + max(1, min(TEXTS, TOKENS // lengths[order[start]]))]
        yield chosen
        start += len(chosen)


def padded(tokenizer: Tokenizer, run: Callable[[Any, Any], Any]) -> Callable[[Sequence[str], int], Any]:
    """`run` maps ids and mask (B, L) to vectors (B, D), the mask being 1 for tokens and 0 for padding."""

    def encode(texts: Sequence[str], longest: int) -> Any:
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
        vectors: list[Any] = [None] * len(ids)
        for chosen in sorted_batches([len(text) for text in ids]):
            batch = np.zeros((len(chosen), len(ids[chosen[0]])), dtype=np.int32)
            mask = np.zeros_like(batch)
            for row, index in enumerate(chosen):
                batch[row, : len(ids[index])] = ids[index]
                mask[row, : len(ids[index])] = 1
            for index, vector in zip(chosen, run(batch, mask), strict=True):
                vectors[index] = vector
        return np.stack(vectors)

    return encode
