"""The vectors of every query and document for late interaction, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_jina.engine.pipeline import (
    Item,
    Pipeline,
    Pool,
    ahead,
    check_ids,
    finish,
    prompted,
    retry,
    usable,
    whole,
)
from mlx_jina.engine.plan import Plan
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn import ragged
from mlx_jina.nn.ragged import Batch, Bucket, Ragged
from mlx_jina.text.late_interaction import LateInteraction
from mlx_jina.text.prompts import Side
from mlx_jina.text.tokenizer import Ids
from mlx_jina.vectors import Vectors


class MultiVectors(NamedTuple):
    """One text's token vectors (n, D), with how many tokens the text was run, and whether it was cut."""

    vectors: Vectors
    tokens: int
    cut: bool


def multi_vectors(
    pipeline: Pipeline,
    texts: LateInteraction,
    side: Side,
    items: Iterable[Item],
    plan: Plan,
    advance: Callable[[int], object],
) -> Iterator[tuple[list[int], list[MultiVectors]]]:
    """Positions of each window of texts, and what became of them.

    The plan's `max_length` counts prompt and marker. A ColBERT's document has fewer vectors than tokens, for
    punctuation has none.
    """

    def prepare(window: Sequence[Item]) -> tuple[list[int], list[Ids], list[bool]]:
        positions, prefixed = prompted(window, plan)
        uncut = texts.uncut(side, prefixed, positions)
        ids = texts.cut(side, uncut, positions, plan.max_length, plan.truncate)
        # Neighbours of which equally many tokens are unseen are computed together.
        order = sorted(range(len(ids)), key=lambda i: texts.unseen(ids[i])) if side == "query" else range(len(ids))
        cut = [len(uncut[i]) > plan.max_length for i in order]
        return [positions[i] for i in order], [ids[i] for i in order], cut

    for _, (positions, ids, cut) in ahead(items, prepare):
        counts = [len(text) for text in ids]
        rows = np.split(_rows(pipeline, texts, side, ids, positions, plan, advance), np.cumsum(counts)[:-1])
        found = []
        for text, own, was_cut in zip(ids, rows, cut, strict=True):
            found.append(MultiVectors(finish(own[texts.kept(side, text)], plan), len(text), was_cut))
        yield positions, found


def _rows(
    pipeline: Pipeline,
    texts: LateInteraction,
    side: Side,
    ids: Sequence[Ids],
    positions: Sequence[int],
    plan: Plan,
    advance: Callable[[int], object],
) -> Vectors:
    """A row for every token of every text, checked."""

    def with_unseen(model: EncoderModel, batch: Batch) -> mx.array:
        return whole(model, hide(batch, texts))

    pool: Pool = whole if side == "document" else with_unseen
    if len(ids) > 1:
        counts = [len(text) for text in ids]
        return pipeline.forward(ids, positions, plan, lambda done: advance(len(done)), pool=pool, counts=counts)
    batch = ragged.flatten(ids, np.zeros(1, dtype=np.intp))
    check_ids(batch, plan.model)
    shown = batch if side == "document" else hide(batch, texts)
    # By the pool that a GPU compiles: a query of a search is computed alone, and all queries have one length.
    rows = pipeline.thread.run(pipeline.compute, plan, whole, shown)[0][1]
    if not usable(rows, plan).all():
        rows = pipeline.thread.run(retry, plan, pool, ids, 0, positions[0])
    advance(1)
    return rows


def hide(batch: Batch, texts: LateInteraction) -> Batch:
    """The batch of queries with the tokens marked that no token attends to."""
    buckets: list[Bucket] = []
    for bucket in batch.ragged.buckets:
        start = bucket.start
        rows = batch.ids[bucket.start : bucket.stop].reshape(bucket.texts, bucket.length)
        for unseen, group in groupby(texts.unseen(row) for row in rows):
            own = Bucket(start, sum(1 for _ in group), bucket.length, unseen)
            buckets.append(own)
            start = own.stop
    return replace(batch, ragged=Ragged(tuple(buckets)))
