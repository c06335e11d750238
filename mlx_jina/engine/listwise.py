"""Lists of documents to cosines: each block of documents in one prompt, whose parts depend on each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_jina.engine.pipeline import Pipeline
from mlx_jina.engine.plan import Plan
from mlx_jina.engine.reranking import Scored
from mlx_jina.errors import NumericalError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.listwise import ListwiseReranker
from mlx_jina.nn.ragged import Batch
from mlx_jina.text.listwise import Block, Lists

Vectors = npt.NDArray[np.float64]


@dataclass
class _Embedded:
    """The vectors of one query's list, block by block."""

    documents: list[Vectors] = field(default_factory=list)
    """(N, D) of each block, of unit length."""
    queries: list[Vectors] = field(default_factory=list)
    """(D,) of each block."""


@dataclass(frozen=True)
class ListwiseWork:
    """Pairs that are ready to be scored as lists."""

    lists: Lists
    count: int
    markers: tuple[int, int]

    @property
    def rows(self) -> int:
        """What `done` counts: documents."""
        return self.count

    def run(self, pipeline: Pipeline, plan: Plan, done: Callable[[int], object]) -> Scored:
        """Scores of all pairs. `done` is told after each block how many documents it had.

        Raises NumericalError for a score that is not finite.
        """
        cosines = np.zeros(self.count)
        tokens, cut, numbers = (np.zeros(self.count, dtype=np.int64) for _ in range(3))
        total = 0
        for blocks in self.lists.blocks:
            embedded = _Embedded()
            for number, block in enumerate(blocks):
                vectors = self._vectors(block, pipeline, plan)
                embedded.documents.append(_unit(vectors[:-1]))
                embedded.queries.append(vectors[-1])
                tokens[block.pairs], numbers[block.pairs] = block.tokens, number
                total += len(block.ids)
                done(len(block.pairs))
            for block, scores in zip(blocks, _cosines(embedded), strict=True):
                cosines[block.pairs] = scores
        for index, lost in self.lists.cut.items():
            cut[index] = lost
        return Scored(
            cosines,
            tokens,
            cut,
            windows=np.ones(self.count, dtype=np.int64),
            blocks=numbers,
            total_tokens=total,
            computed_tokens=total,
            queries_cut=self.lists.queries_cut,
            cosines=True,
        )

    def _vectors(self, block: Block, pipeline: Pipeline, plan: Plan) -> Vectors:
        """The vectors of a block's documents, and behind them the query's: (N + 1, D)."""

        def marked(model: EncoderModel, batch: Batch) -> mx.array:
            assert isinstance(model, ListwiseReranker)
            rows = np.flatnonzero(np.isin(batch.ids, self.markers))
            return model.marked(mx.array(batch.ids), batch.ragged, rows)

        counts = [len(block.pairs) + 1]
        try:
            vectors = pipeline.forward([block.ids], [block.pairs[0]], plan, len, marked, counts)
        except NumericalError:
            raise NumericalError(
                f"a score of documents {block.pairs[0]} to {block.pairs[-1]} came out as NaN or infinite, also in "
                "float32; the model's weights are probably damaged"
            ) from None
        return vectors.astype(np.float64)


def _unit(rows: Vectors) -> Vectors:
    unit: Vectors = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit


def _cosines(embedded: _Embedded) -> list[Vectors]:
    """Cosines (N,) of each block's documents with one query for all blocks.

    This query is the mean of the blocks' own, each weighed by how well its best document answers it.
    """
    weights = [
        (1 + (documents @ _unit(query)).max()) / 2
        for documents, query in zip(embedded.documents, embedded.queries, strict=True)
    ]
    query = _unit(np.average(embedded.queries, axis=0, weights=weights))
    return [documents @ query for documents in embedded.documents]
