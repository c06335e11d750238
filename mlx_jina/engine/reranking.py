"""Pairs to logits: rows of tokens, batched without padding, a common beginning computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_jina import device
from mlx_jina.choices import Activation
from mlx_jina.cpu import blas, steady
from mlx_jina.cpu import cores as cpu_cores
from mlx_jina.engine.pipeline import Pipeline, piece_tokens
from mlx_jina.engine.plan import Plan
from mlx_jina.errors import NumericalError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.qwen3 import KeysAndValues
from mlx_jina.models.rerankers import Head, Qwen3Reranker
from mlx_jina.nn import pieces
from mlx_jina.nn.ragged import Batch
from mlx_jina.nn.steady import independent
from mlx_jina.text.pairs import Group
from mlx_jina.text.tokenizer import Ids


@dataclass(frozen=True)
class Scored:
    """What became of pairs, in their order: (N,) each."""

    raw: npt.NDArray[np.float64]
    """Logits, or of a listwise model cosines."""
    tokens: npt.NDArray[np.int64]
    """Tokens that the model read for a pair, special tokens and a shared beginning included; of a list's document
    its own only."""
    cut: npt.NDArray[np.int64]
    """Tokens that were cut off a pair."""
    windows: npt.NDArray[np.int64]
    """Rows that a pair was read in."""
    blocks: npt.NDArray[np.int64]
    """Which prompt of its list a document was in; 0 for all pairs of a cross-encoder."""
    total_tokens: int
    """Tokens that the model read; a beginning counts for each pair that shares it."""
    computed_tokens: int
    """Tokens that the model computed for all pairs together; a shared beginning counts once."""
    queries_cut: int = 0
    """How many queries were cut."""
    cosines: bool = False
    """Whether the raw scores are cosines."""

    @property
    def texts_cut(self) -> int:
        """How many documents and queries were cut."""
        return int((self.cut > 0).sum()) + self.queries_cut

    def scores(self, activation: Activation) -> npt.NDArray[np.float32]:
        """Scores as `Reranker.score` returns them."""
        if activation == "none" or self.cosines:
            return self.raw.astype(np.float32)
        return np.exp(-np.logaddexp(0, -self.raw)).astype(np.float32)


class Work(Protocol):
    """Pairs that are ready to be scored."""

    @property
    def rows(self) -> int:
        """How many rows, or documents, `run` tells of."""
        ...

    def run(self, pipeline: Pipeline, plan: Plan, done: Callable[[int], object]) -> Scored:
        """Score the pairs; `done` is told how many rows a forward pass finished."""
        ...


@dataclass(frozen=True)
class PointwiseWork:
    """Pairs that are scored each by itself."""

    head: Head
    groups: Sequence[Group]
    count: int

    @property
    def rows(self) -> int:
        """What `done` counts: rows of tokens."""
        return sum(len(group.rows) for group in self.groups)

    def run(self, pipeline: Pipeline, plan: Plan, done: Callable[[int], object]) -> Scored:
        """The logits of all pairs, each the largest of its rows'. `done` is told how many rows are finished.

        Raises NumericalError, which names the pair, if a logit is not finite.
        """
        return _score(pipeline, plan, self.head, self.groups, self.count, done)


def _score(
    pipeline: Pipeline, plan: Plan, head: Head, groups: Sequence[Group], count: int, done: Callable[[int], object]
) -> Scored:
    logits = np.full(count, -np.inf)
    tokens, cut, windows = (np.zeros(count, dtype=np.int64) for _ in range(3))
    computed = 0
    for group in groups:
        pool = _Continued(group.beginning, pipeline, plan) if len(group.beginning) else _alone
        features = pipeline.forward(group.rows, group.pairs, plan, lambda rows: done(len(rows)), pool)
        # A row's sum does not depend on the other rows, as a matrix product's might.
        found = (features.astype(np.float64) * head.weight).sum(axis=1) + head.bias
        if (bad := np.flatnonzero(~np.isfinite(found))).size:
            raise NumericalError(
                "has a score that came out as NaN or infinite; the model's weights are probably damaged",
                position=group.pairs[bad[0]],
            )
        lengths = [len(row) for row in group.rows]
        np.maximum.at(logits, group.pairs, found)
        np.add.at(tokens, group.pairs, [len(group.beginning) + length for length in lengths])
        np.add.at(windows, group.pairs, 1)
        for index, lost in group.cut.items():
            cut[index] = lost
        computed += len(group.beginning) + sum(lengths)
    blocks = np.zeros(count, dtype=np.int64)
    return Scored(logits, tokens, cut, windows, blocks, int(tokens.sum()), computed)


def _alone(model: EncoderModel, batch: Batch) -> mx.array:
    """What the head reads, of rows that share nothing: (B, D)."""
    larger = independent(batch)
    with steady.rows():
        return model(mx.array(larger.ids), larger.ragged)[: len(batch.order)]


class _Continued:
    """What the head reads, of rows that continue one beginning: (B, D)."""

    def __init__(self, beginning: Ids, pipeline: Pipeline, plan: Plan) -> None:
        self._beginning = beginning
        self._past: dict[mx.Dtype, list[KeysAndValues]] = {}
        pipeline.thread.run(self._begin, plan.model, piece_tokens(plan))

    def _begin(self, model: EncoderModel, most: int) -> list[KeysAndValues]:
        """On the model's thread: keys and values of the beginning, in the model's dtype of the moment."""
        assert isinstance(model, Qwen3Reranker)
        with pieces.at_most(most), cpu_cores.using(blas.cores()), steady.rows():
            past = model.beginning(mx.array(self._beginning))
        if device.on_gpu():
            mx.async_eval(past)
        else:
            # Threads of other cores read it.
            mx.eval(past)
        self._past[model.norm.weight.dtype] = past
        return past

    def __call__(self, model: EncoderModel, batch: Batch) -> mx.array:
        assert isinstance(model, Qwen3Reranker)
        # A row that is computed once more, in float32, needs its beginning so.
        past = self._past.get(model.norm.weight.dtype) or self._begin(model, pieces.tokens())
        larger = independent(batch)
        with steady.rows():
            return model.continued(past, mx.array(larger.ids), larger.ragged)[: len(batch.order)]
