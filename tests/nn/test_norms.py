"""Against float64, for the formulas of a CPU and for MLX's own, which a GPU keeps."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_jina import device
from mlx_jina.nn import norms

WIDTH = 96
X = np.random.default_rng(0).normal(3, 2, size=(5, 7, WIDTH)).astype(np.float32)
WEIGHT, BIAS = np.random.default_rng(1).normal(1, 0.1, size=(2, WIDTH)).astype(np.float32)


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: request.param == "gpu")


@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.float32, 3e-6), (mx.float16, 1e-2)])
@pytest.mark.parametrize("centred", [True, False])
def test_norms(centred: bool, dtype: mx.Dtype, tolerance: float) -> None:
    norm = norms.LayerNorm(WIDTH, 1e-5) if centred else norms.RMSNorm(WIDTH, 1e-5)
    norm.update({"weight": mx.array(WEIGHT), **({"bias": mx.array(BIAS)} if centred else {})})
    norm.set_dtype(dtype)
    x = X.astype(np.float64)
    if centred:
        x = x - x.mean(axis=-1, keepdims=True)
    expected = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * WEIGHT + (BIAS if centred else 0)
    got = norm(mx.array(X).astype(dtype))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.array(got.astype(mx.float32)), expected, rtol=0, atol=tolerance)


def test_a_sum_is_taken_in_float32() -> None:
    norm = norms.LayerNorm(WIDTH, 1e-5)
    large, small = mx.full((1, WIDTH), 1000.0), mx.array(X[0, :1] / 100)
    halves = large.astype(mx.float16), small.astype(mx.float16)
    got, expected = (
        norms.add_norm(norm, *halves),
        norms.add_norm(norm, *(half.astype(mx.float32) for half in halves)),
    )
    np.testing.assert_allclose(np.array(got.astype(mx.float32)), np.array(expected), atol=2e-2)
    assert got.dtype == mx.float16
