"""Rotary positions: Su et al. 2021, "RoFormer" (arXiv 2104.09864).

The angles' sines and cosines are computed in float64, once for all layers of a batch. MLX's own kernel for Metal
takes them with 2^-13 of noise, at thousands of radians with more.
"""

from __future__ import annotations

from functools import lru_cache, partial

import mlx.core as mx
import numpy as np

from mlx_jina.nn.ragged import Ragged


def rotations(batch: Ragged, width: int, theta: float) -> mx.array:
    """How each token of a batch is turned, for heads of `width` and angles to the base of `theta`: (T, 2, width).

    Cosines, and sines that are negative for a head's first half.
    """
    longest = max(bucket.length for bucket in batch.buckets)
    # Rounded up, so that one table serves many batches.
    return _table(1 << (longest - 1).bit_length(), width, theta)[batch.positions]


@lru_cache(maxsize=16)
def _table(length: int, width: int, theta: float) -> mx.array:
    """The rotations of positions up to `length`: (length, 2, width)."""
    frequencies = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    angles = np.arange(length)[:, None] * frequencies
    cosines, sines = np.cos(angles), np.sin(angles)
    table = mx.array(np.stack([np.hstack([cosines, cosines]), np.hstack([-sines, sines])], 1).astype(np.float32))
    # Or it would belong to the thread that asked first.
    mx.eval(table)
    return table


@partial(mx.compile, shapeless=True)
def _turned(x: mx.array, swapped: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    return (x.astype(mx.float32) * cosines + swapped.astype(mx.float32) * sines).astype(x.dtype)


def rotate(x: mx.array, rotations: mx.array) -> mx.array:
    """Turn (T, H, d) by (T, 2, d), in float32, rounded once; a head's halves are paired, as in GPT-NeoX."""
    tokens, heads, width = x.shape
    halves = x.reshape(tokens, heads, 2, width // 2)
    angles = rotations.reshape(tokens, 2, 1, 2, width // 2)
    # One kernel for all shapes: it takes no part in broadcasting.
    cosines, sines = (mx.broadcast_to(angles[:, i], halves.shape) for i in (0, 1))
    return _turned(halves, halves[:, :, ::-1], cosines, sines).reshape(x.shape)
