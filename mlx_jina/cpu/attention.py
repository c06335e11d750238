"""Attention on a CPU, where MLX fuses nothing: small blocks of scores, and nothing for keys that cannot matter.

Each function returns the blocks that make up its result; nn/attention.py evaluates and joins them.
Axes: b texts of one length, L tokens of one text, n of its queries, H heads, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_jina.cpu import cores, steady
from mlx_jina.cpu.elementwise import LOG2_E, exp2

# For each group of heads, blocks of queries: functions of no argument that return (b, H, n, d).
Blocks = Sequence[Sequence[Callable[[], mx.array]]]

# Bytes of a block's scores, at most: so many stay in a core's caches.
SCORE_BYTES = 2 << 20
# Queries of a block, if possible: BLAS rearranges the keys for each block, so blocks rather have fewer heads.
QUERIES = 128
# Queries of a causal block: with fewer, fewer scores are masked in vain; with more, matrix products are faster.
CAUSAL_QUERIES = 64
# Added to scores that do not count.
MASKED = -1e30
# Neighbouring buckets are computed as one text up to this many tokens, to start fewer operations.
TOGETHER = 96
# Scores of one call of attention that are few, for `few`.
FEW_SCORES = 4096
# Texts of at least this many tokens skip keys that cannot matter. A block then has at most this many queries: with
# fewer queries a block looks at fewer keys in vain, with more there are fewer products.
LONG, LONG_QUERIES = 2048, 256
# For rows of at least this many scores, the largest score is found in two steps, over this many parts.
LONG_ROW, ROW_PARTS = 256, 8


def bidirectional(queries: mx.array, keys: mx.array, values: mx.array) -> Blocks:
    """Attention of each query to every position: (b, H, n, d) to keys and values (b, H', L, d); H' divides H."""
    count = queries.shape[2]
    together, block = _block(queries, keys)
    # MLX's CPU matmul would copy views with gaps, for every block again.
    queries, keys, values = (mx.contiguous(x) for x in (queries, keys, values))

    def run(head: int, start: int) -> mx.array:
        q, k, v = _heads(queries, keys, values, slice(head, head + together))
        return _attend(q[:, :, start : start + block], k, v)

    return [[partial(run, h, i) for i in range(0, count, block)] for h in range(0, keys.shape[1], together)]


def causal(queries: mx.array, keys: mx.array, values: mx.array) -> Blocks:
    """Attention of each query to its own position and the ones before.

    Queries (b, H, n, d) are the last n of the L positions of keys and values (b, H', L, d); H' divides H.
    """
    texts, heads, count, _ = queries.shape
    kv_heads, length = keys.shape[1:3]
    together, _ = _block(queries, keys)
    spans = causal_spans(count, length, SCORE_BYTES // (texts * heads // kv_heads * together * 4))
    # MLX's CPU matmul would copy views with gaps, for every block again.
    queries, keys, values = (mx.contiguous(x) for x in (queries, keys, values))

    def run(head: int, start: int, stop: int) -> mx.array:
        q, k, v = _heads(queries, keys, values, slice(head, head + together))
        # Later keys would be masked anyway.
        seen = length - count + stop
        return _attend(q[:, :, start:stop], k[:, :, :seen], v[:, :, :seen], "causal")

    return [[partial(run, h, *span) for span in spans] for h in range(0, kv_heads, together)]


def causal_spans(count: int, length: int, cells: int) -> list[tuple[int, int]]:
    """Cut the last `count` of `length` positions into blocks of at most `cells` scores, few of them masked.

    A block up to position `stop` has scores against `stop` keys, so the first ones may have more queries.
    """
    first = length - count
    spans = []
    start = first
    while start < length:
        # n queries from `start` have n * (start + n) scores.
        fitting = (math.isqrt(start * start + 4 * cells) - start) // 2
        stop = min(start + max(1, min(fitting, max(CAUSAL_QUERIES, count // 8))), length)
        spans.append((start - first, stop - first))
        start = stop
    return spans


def alibi(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array, slopes: Sequence[float]) -> Blocks:
    """Attention of (b, H, L, d) to the first K tokens, with a bias (1, H, L, K) for keys in reverse order.

    The bias is times LOG2_E; `slopes` (H) say how it falls with the distance.
    """
    texts, heads, length, _ = queries.shape
    ranges = visible_ranges(queries, keys, slopes) if LONG <= length == keys.shape[2] else [length]
    keys, values = (mx.contiguous(x[:, :, ::-1]) for x in (keys, values))
    if min(ranges) < length:
        views = [
            (slice(h, h + 1), visible, _visible_block(texts, length, visible)) for h, visible in enumerate(ranges)
        ]
    else:
        together, block = _block(queries, keys)
        # Most texts are one block. Cutting it would lengthen Python's share of a small forward pass by a tenth.
        if together == heads and block == length:
            return [[partial(_attend, queries, keys, values, bias)]]
        views = [(slice(h, h + together), length, block) for h in range(0, heads, together)]

    def run(own: slice, visible: int, start: int, stop: int) -> mx.array:
        seen = slice(max(0, length - stop - visible), min(length - start + visible, length))
        q, k, v = queries[:, own, start:stop], keys[:, own, seen], values[:, own, seen]
        return _attend(q, k, v, bias[:, own, start:stop, seen])

    return [
        [partial(run, own, visible, i, min(i + block, length)) for i in range(0, length, block)]
        for own, visible, block in views
    ]


def written_out(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array) -> Blocks:
    """Attention of a few tokens (1, H, L, d) with a bias (H, L, L), such as the result of `apart`."""
    return [[partial(_attend, queries, keys, values, bias)]]


def neighbours(tokens: Sequence[int]) -> Iterator[slice]:
    """Group buckets, of so many `tokens` each, for one computation: each operation takes microseconds to start."""
    first = total = 0
    for index, count in enumerate(tokens):
        if index > first and total + count > TOGETHER:
            yield slice(first, index)
            first, total = index, 0
        total += count
    yield slice(first, len(tokens))


def apart(slopes: Sequence[float], lengths: Sequence[int]) -> mx.array:
    """ALiBi's bias (H, L, L), times LOG2_E, for texts of these lengths in one row, each kept from the others."""
    owners = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(owners))
    distances = np.abs(positions[:, None] - positions)
    falls = np.array(slopes)[:, None, None] * -LOG2_E
    return mx.array(np.where(owners[:, None] == owners, falls * distances, MASKED).astype(np.float32))


def visible_ranges(queries: mx.array, keys: mx.array, slopes: Sequence[float]) -> list[int]:
    """How many tokens away each head's keys may matter: farther ones get less than 2^-24 of a query's attention.

    No score exceeds the product of the norms, the largest is no less than that of a query's own key, and the bias
    falls with the distance. Lin et al. 2025, "Adaptive Computation Pruning" (arXiv 2504.06949).
    """
    length, width = queries.shape[2:]
    q, k = queries.astype(mx.float32), keys.astype(mx.float32)
    # A part that all keys share moves all scores of a query alike, and would only make the norms larger.
    k = k - k.mean(axis=2, keepdims=True)
    ones = mx.ones((width, 1))
    products = []
    for x, y in ((q, q), (k, k), (q, k)):
        products.append((x * y) @ ones)
        # Evaluated one at a time, because each product is as large as the whole text.
        mx.eval(products[-1])
    q_norms, k_norms, own = products
    excess = (mx.sqrt(q_norms * k_norms.max(axis=2, keepdims=True)) - own).max(axis=(0, 2, 3))
    falls = np.array(excess) * width**-0.5 + math.log(length * 2**24)
    distances = np.ceil(falls / slopes)
    # NaN is not less than any length, so a head with NaN sees everything.
    return [int(distance) if distance < length else length for distance in distances]


def _visible_block(texts: int, length: int, visible: int) -> int:
    """How many queries of one head make a block: n of them see n + 2 * visible keys, or all."""
    cells = SCORE_BYTES // (texts * 4)
    fitting = max(math.isqrt(visible**2 + cells) - visible, cells // length, 1)
    return cores.share(length, min(fitting, LONG_QUERIES))


def _block(queries: mx.array, keys: mx.array) -> tuple[int, int]:
    """How many key heads and queries make a block."""
    texts, heads, count, _ = queries.shape
    kv_heads, length = keys.shape[1:3]
    cells = SCORE_BYTES // (texts * heads // kv_heads * length * 4)
    together = min(kv_heads, max(1, cells // QUERIES))
    return together, cores.share(count, max(1, min(count, cells // together)))


def _heads(queries: mx.array, keys: mx.array, values: mx.array, own: slice) -> tuple[mx.array, mx.array, mx.array]:
    """The queries, keys and values of the key heads in `own`."""
    shared = queries.shape[1] // keys.shape[1]
    return queries[:, own.start * shared : own.stop * shared], keys[:, own], values[:, own]


def _attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None = None) -> mx.array:
    """Softmax attention of (b, H, n, d) to keys and values (b, H', L, d); H' divides H.

    A mask is added to the scores times LOG2_E; "causal" aligns the last query with the last key. Unless scores are
    few, three things differ from MLX's own attention: a faster exponential, a division after the second product
    instead of before it, and one matrix for the queries of all heads that share a key.
    """
    texts, heads, count, width = queries.shape
    kv_heads, length = keys.shape[1:3]
    queries = queries.astype(mx.float32) * (LOG2_E * width**-0.5)
    grouped = queries.reshape(texts, kv_heads, -1, width)
    scores = (grouped @ keys.swapaxes(-1, -2)).reshape(texts, heads, count, length)
    if mask == "causal":
        mask = mx.where(mx.arange(length) > mx.arange(length - count, length)[:, None], MASKED, 0.0)
    if isinstance(mask, mx.array):
        scores = scores + mask
    if few(texts * heads, count, length):
        shares, total = mx.softmax(scores * math.log(2), axis=-1), None
    else:
        shares = exp2(scores - _largest(scores))
        # A product with ones takes a fifth of the time of MLX's sum.
        total = shares.sum(axis=-1, keepdims=True) if steady.wanted() else shares @ mx.ones((length, 1))
    grouped = shares.astype(values.dtype).reshape(texts, kv_heads, -1, length) @ values
    attended = grouped.reshape(texts, heads, count, width)
    return attended if total is None else (attended / total).astype(values.dtype)


def few(heads: int, queries: int, keys: int | None = None) -> bool:
    """Whether scores are so few that fewer operations matter more than faster ones, such as `exp2`."""
    return heads * queries * (queries if keys is None else keys) <= FEW_SCORES


def _largest(scores: mx.array) -> mx.array:
    """The largest of each row of a contiguous array, (b, H, n, 1).

    MLX's CPU backend searches one row number by number, but compares two whole rows at once. So a long row is
    viewed as several rows.
    """
    *outer, length = scores.shape
    if length < LONG_ROW:
        return scores.max(axis=-1, keepdims=True)
    width = length // ROW_PARTS
    parts = mx.as_strided(scores, (math.prod(outer), ROW_PARTS, width), (length, width, 1)).max(axis=1)
    largest = parts.max(axis=-1).reshape(*outer, 1)
    if rest := length % ROW_PARTS:
        largest = mx.maximum(largest, scores[..., -rest:].max(axis=-1, keepdims=True))
    return largest
