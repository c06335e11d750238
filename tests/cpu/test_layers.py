"""One short text's products, in pieces for several cores, are those of `nn.Linear`."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_jina import device
from mlx_jina.cpu import layers
from mlx_jina.nn import pieces


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "multiplies_small", lambda: True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize(
    ("rows", "width", "outputs", "together"),
    [(1, 2048, 768, 128), (12, 1024, 1536, 64), (32, 3072, 512, 8), (5, 512, 2056, 8), (9, 4096, 272, 16)],
)
def test_pieces(rows: int, width: int, outputs: int, together: int, cores: int, bias: bool) -> None:
    layer, x = layers.Linear(width, outputs, bias), mx.random.normal((rows, width))
    assert layers._together(x, layer.weight) == together
    with pieces.on_cores(cores):
        got = layer(x)
    np.testing.assert_allclose(np.array(got), np.array(nn.Linear.__call__(layer, x)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "width", "outputs", "dtype"),
    [
        (33, 1024, 1024, mx.float32),
        (12, 1024, 1023, mx.float32),
        (12, 512, 512, mx.float32),
        (12, 1024, 1024, mx.float16),
    ],
    ids=["many rows", "no divisor", "small weights", "half precision"],
)
def test_whole(rows: int, width: int, outputs: int, dtype: mx.Dtype) -> None:
    x, weight = mx.zeros((rows, width), dtype), mx.zeros((outputs, width), dtype)
    assert layers._together(x, weight) == 0


def test_many_cores_share_large_weights_only() -> None:
    layer, x = layers.Linear(1024, 1024), mx.random.normal((12, 1024))
    with pieces.on_cores(40):
        got = layer(x)
    np.testing.assert_allclose(np.array(got), np.array(nn.Linear.__call__(layer, x)), rtol=0, atol=1e-4)
