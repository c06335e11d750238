"""Rotary positions: Su et al. 2021, "RoFormer" (arXiv 2104.09864)."""

from __future__ import annotations

import mlx.core as mx


def rotate(x: mx.array, positions: mx.array, theta: float) -> mx.array:
    """Turn (T, H, d) by each token's position (T,); the halves of a head are paired, as in GPT-NeoX."""
    # One call for a whole ragged batch: each token is a "text" of one token with its own offset.
    x = mx.fast.rope(x[:, :, None], x.shape[-1], traditional=False, base=theta, scale=1.0, offset=positions)
    return x[:, :, 0]
