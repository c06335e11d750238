"""Rotary positions: Su et al. 2021, "RoFormer" (arXiv 2104.09864).

The angles' sines and cosines are computed in float64, once for all layers of a batch. MLX's own kernel for Metal
takes them with 2^-13 of noise, at thousands of radians with more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_jina.nn.ragged import Ragged

Rotations = tuple[mx.array, mx.array]
"""Of each token the cosines, and the sines, negative for a head's first half: (T, 1, 2, d/2) each."""


def rotations(batch: Ragged, width: int, theta: float, start: int = 0) -> Rotations:
    """The rotations of a batch for heads of `width` and angles to the base of `theta`; texts begin at `start`."""
    longest = start + max(bucket.length for bucket in batch.buckets)
    # Rounded up, so that one table serves many batches.
    cosines, sines = _table(1 << (longest - 1).bit_length(), width, theta)
    positions = batch.positions + start if start else batch.positions
    return cosines[positions], sines[positions]


@lru_cache(maxsize=16)
def _table(length: int, width: int, theta: float) -> Rotations:
    """The rotations of positions up to `length`."""
    frequencies = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    table = of_angles(np.arange(length)[:, None] * frequencies)
    # An unevaluated array would belong to the thread that asked first.
    mx.eval(table)
    return table


def sectioned(positions: npt.NDArray[np.intp], sections: Sequence[int], theta: float) -> Rotations:
    """Rotations for positions on several axes, (A, T): each axis turns as many angles as its section says.

    Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191), section 2.1.
    """
    axis = np.repeat(np.arange(len(sections)), sections)
    frequencies = theta ** (-np.arange(len(axis), dtype=np.float64) / len(axis))
    return of_angles(positions.T[:, axis] * frequencies)


def of_angles(angles: npt.NDArray[np.float64]) -> Rotations:
    """Rotations by angles of each token's own, (T, d/2)."""
    cosines, sines = np.cos(angles)[:, None], np.sin(angles)[:, None]
    halves = np.stack([cosines, cosines], 2), np.stack([-sines, sines], 2)
    return mx.array(halves[0].astype(np.float32)), mx.array(halves[1].astype(np.float32))


@partial(mx.compile, shapeless=True)
def _turned(x: mx.array, swapped: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    return (x.astype(mx.float32) * cosines + swapped.astype(mx.float32) * sines).astype(x.dtype)


def rotate(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    """Turn (T, H, d) in float32, rounded once; a head's halves are paired, as in GPT-NeoX."""
    shape = x.shape
    x = x.reshape(*shape[:2], 2, -1)
    # One kernel for all shapes: it takes no part in broadcasting.
    cosines, sines = mx.broadcast_to(cosines, x.shape), mx.broadcast_to(sines, x.shape)
    return _turned(x, x[:, :, ::-1], cosines, sines).reshape(shape)
