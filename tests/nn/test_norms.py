"""Sums that norms see are taken in float32."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_jina.nn import norms

WIDTH = 96
X = np.random.default_rng(0).normal(3, 2, size=(7, WIDTH)).astype(np.float32)


def test_a_sum_is_taken_in_float32() -> None:
    norm = nn.LayerNorm(WIDTH, 1e-5)
    large, small = mx.full((1, WIDTH), 1000.0), mx.array(X[:1] / 100)
    halves = large.astype(mx.float16), small.astype(mx.float16)
    got, expected = (
        norms.add_norm(norm, *halves),
        norms.add_norm(norm, *(half.astype(mx.float32) for half in halves)),
    )
    np.testing.assert_allclose(np.array(got.astype(mx.float32)), np.array(expected), atol=2e-2)
    assert got.dtype == mx.float16


def test_a_residual_stream_is_rounded_after_its_norm() -> None:
    norm = nn.RMSNorm(WIDTH, 1e-5)
    norm.set_dtype(mx.float16)
    got = norms.rounded_norm(norm, mx.array(X))
    assert got.dtype == mx.float16
    expected = X / np.sqrt((X.astype(np.float64) ** 2).mean(axis=-1, keepdims=True))
    np.testing.assert_allclose(np.array(got.astype(mx.float32)), expected, atol=2e-3)
