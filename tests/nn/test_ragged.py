"""Every text in exactly one batch, no padding, no batch over budget."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_jina.nn import ragged


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100))
def test_batches_partition_the_texts(lengths: list[int], budget: int) -> None:
    texts = [np.full(length, i, dtype=np.int32) for i, length in enumerate(lengths)]
    seen: list[int] = []
    for batch in ragged.batches(texts, budget):
        assert len(batch.ids) <= budget or len(batch.order) == 1
        assert batch.ragged.buckets[0].start == 0
        assert batch.ragged.buckets[-1].stop == len(batch.ids)
        assert [a.stop for a in batch.ragged.buckets[:-1]] == [b.start for b in batch.ragged.buckets[1:]]
        assert len({b.length for b in batch.ragged.buckets}) == len(batch.ragged.buckets)
        assert sum(b.texts for b in batch.ragged.buckets) == len(batch.order)
        np.testing.assert_array_equal(batch.ids, np.concatenate([texts[i] for i in batch.order]))
        seen += batch.order.tolist()
    assert sorted(seen) == list(range(len(texts)))
    assert [lengths[i] for i in seen] == sorted(lengths, reverse=True)


def test_a_full_batch_is_really_full() -> None:
    texts = [np.zeros(10, dtype=np.int32)] * 7
    assert [len(batch.order) for batch in ragged.batches(texts, 30)] == [3, 3, 1]
