"""Batches whose texts do not depend on each other to the last bit, for scores that are compared.

For few rows matrix libraries have other kernels, which sum in another order. So few rows are computed as more.
OpenBLAS without AVX-512 is beyond that: its kernels sum the rows of a block differently, by their place in it.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_jina import device
from mlx_jina.nn.ragged import Batch, Bucket, Ragged, flatten

# OpenBLAS has other kernels up to 18 rows, and cpu/layers.py up to 32.
ROWS = 40


def at_least(rows: mx.array) -> mx.array:
    """Rows (B, ...), repeated up to `ROWS` of them."""
    count = rows.shape[0]
    return rows if count >= ROWS else rows[mx.array(np.arange(ROWS) % count)]


def independent(batch: Batch) -> Batch:
    """The texts of a batch, attended to as if each was alone, and copies of the shortest up to `ROWS` tokens."""
    missing = ROWS - len(batch.ids)
    if missing > 0:
        texts = np.split(batch.ids, batch.ragged.starts[1:])
        copies = -(-missing // len(texts[-1]))
        batch = flatten([*texts, *[texts[-1]] * copies], np.arange(len(texts) + copies))
    if device.on_gpu():
        return Batch(batch.ids, Ragged(batch.ragged.buckets, always_padded=True), batch.order)
    # How a CPU cuts attention in blocks depends on how many texts there are of one length.
    alone = [
        Bucket(bucket.start + i * bucket.length, 1, bucket.length)
        for bucket in batch.ragged.buckets
        for i in range(bucket.texts)
    ]
    return Batch(batch.ids, Ragged(tuple(alone)), batch.order)
