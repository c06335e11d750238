"""Against float64, for the formulas of a CPU and for those of a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import pytest

from mlx_jina import device
from mlx_jina.cpu import elementwise
from mlx_jina.nn import activations
from mlx_jina.vectors import Floats

X = np.concatenate([np.linspace(-130, 130, 26_001), np.linspace(-6, 6, 20_001), [0.0, -1e4, 1e4]])
X = X.astype(np.float32)


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(device, "on_gpu", lambda: request.param == "gpu")
    mx.disable_compile()
    yield
    mx.enable_compile()


def computed(function: Callable[[mx.array], mx.array]) -> Floats:
    return np.array(function(mx.array(X)))


def test_exp2() -> None:
    within = np.abs(X) <= 126
    expected = np.exp2(X[within].astype(np.float64))
    # MLX's own for x86 is the worse one.
    rtol = 3e-7 if elementwise.on_x86() else 1e-5
    np.testing.assert_allclose(computed(elementwise.exp2)[within], expected, rtol=rtol)
    assert computed(elementwise.exp2)[-2] < 2e-38
    # Zero, but for numbers that CUDA still has and others have not.
    assert np.array(elementwise.exp2(mx.array([-3e38, -1e30, -1e7, -128.0]))).max() < 2**-126


def silu(x: mx.array) -> mx.array:
    return activations.swiglu(x, mx.ones_like(x))


def test_swiglu() -> None:
    x = X.astype(np.float64)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(computed(silu), x / (1 + np.exp(-x)), rtol=1e-6, atol=1e-13)


def test_gelu() -> None:
    x = X.astype(np.float64)
    expected = x * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x.tolist()])) / 2
    assert np.all(np.abs(computed(activations.gelu) - expected) <= 3e-7 * np.abs(x).clip(1))


def test_not_a_number_stays_one() -> None:
    x = mx.array([math.nan])
    for function in (elementwise.exp2, silu, activations.gelu):
        assert np.isnan(np.array(function(x))).all()


def test_gated_and_rounded_once() -> None:
    x, up = mx.random.normal((100,)), mx.random.normal((100,))
    for gated, plain in ((activations.geglu, activations.gelu), (activations.swiglu, silu)):
        np.testing.assert_allclose(np.array(gated(x, up)), np.array(plain(x) * up), rtol=1e-6)
        half = gated(x.astype(mx.bfloat16), up.astype(mx.bfloat16))
        exact = gated(x.astype(mx.bfloat16).astype(mx.float32), up.astype(mx.bfloat16).astype(mx.float32))
        assert half.dtype == mx.bfloat16
        assert mx.array_equal(half, exact.astype(mx.bfloat16))
