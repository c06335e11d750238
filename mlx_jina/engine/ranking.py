"""Documents in the order of their scores, under the names of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mlx_jina.errors import InputError
from mlx_jina.vectors import Floats

if TYPE_CHECKING:
    from typing_extensions import NotRequired


class Ranked(TypedDict):
    """A document and its place in the list that was given."""

    corpus_id: int
    """The document's index in that list."""
    score: float
    text: NotRequired[str]
    """With `return_documents`."""


def check_top_k(top_k: int | None) -> None:
    """Raise InputError for a number of documents that nobody can want."""
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k={top_k} must be at least 1; None ranks all documents")


def ranked(scores: Floats, documents: Sequence[str], top_k: int | None, *, with_text: bool) -> list[Ranked]:
    """The `top_k` documents of the highest `scores` (N,), best first; equal ones stay in their own order."""
    order = np.argsort(-scores, kind="stable")[:top_k].tolist()
    found: list[Ranked] = [{"corpus_id": i, "score": float(scores[i])} for i in order]
    if with_text:
        for each in found:
            each["text"] = documents[each["corpus_id"]]
    return found
