"""The CPU's layers compute what MLX's own do."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_jina
from mlx_jina import device
from mlx_jina.cpu import blas, cores, layers
from tests.support import checkpoints


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "multiplies_small", lambda: True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("rows", "width", "outputs", "together"),
    [
        (1, 2048, 768, 128),
        (12, 1024, 1536, 64),
        (32, 3072, 512, 8),
        (5, 512, 2056, 8),
        (9, 4096, 272, 16),
        (11, 512, 512, 64),
    ],
)
def test_linear_in_pieces(rows: int, width: int, outputs: int, together: int, count: int, bias: bool) -> None:
    layer, x = layers.Linear(width, outputs, bias), mx.random.normal((rows, width))
    assert layers._together(x, layer.weight) == together
    with cores.using(count):
        got = layer(x)
    np.testing.assert_allclose(np.array(got), np.array(nn.Linear.__call__(layer, x)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "width", "outputs", "dtype"),
    [
        (33, 1024, 1024, mx.float32),
        (12, 1024, 1023, mx.float32),
        (12, 256, 256, mx.float32),
        (12, 1024, 1024, mx.float16),
    ],
    ids=["many rows", "no divisor", "small weights", "half precision"],
)
def test_linear_whole(rows: int, width: int, outputs: int, dtype: mx.Dtype) -> None:
    x, weight = mx.zeros((rows, width), dtype), mx.zeros((outputs, width), dtype)
    assert layers._together(x, weight) == 0


def test_many_cores_share_large_weights_only() -> None:
    layer, x = layers.Linear(1024, 1024), mx.random.normal((12, 1024))
    with cores.using(40):
        got = layer(x)
    np.testing.assert_allclose(np.array(got), np.array(nn.Linear.__call__(layer, x)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "width", "sizes"), [(1, 256, (256, 256, 256)), (18, 768, (256,)), (7, 64, (64, 192))]
)
def test_layers_of_few_rows_share_a_product(rows: int, width: int, sizes: tuple[int, ...], bias: bool) -> None:
    own = [layers.Linear(width, size, bias) for size in sizes]
    x = mx.random.normal((rows, width))
    assert all(layers._by_copy_is_faster(x, layer.weight) for layer in own)
    for _ in range(2):
        got = layers.products(x, *own)
        for part, layer in zip(got, own, strict=True):
            expected = np.array(nn.Linear.__call__(layer, x))
            np.testing.assert_allclose(np.array(part), expected, rtol=1e-5, atol=1e-4)
        kept = own[0]._copy
        layers.products(x, *own)
        assert own[0]._copy is kept
        # The copy of the old weights must not outlive them.
        name = "bias" if bias else "weight"
        own[-1].update({name: mx.random.normal(own[-1][name].shape)})


@pytest.mark.parametrize(
    ("rows", "width", "outputs", "dtype"),
    [
        (19, 256, 256, mx.float32),
        (12, 1024, 512, mx.float32),
        (12, 256, 96, mx.float32),
        (12, 256, 256, mx.float16),
    ],
    ids=["many rows", "large weights", "no divisor", "half precision"],
)
def test_layers_that_keep_no_copy(rows: int, width: int, outputs: int, dtype: mx.Dtype) -> None:
    layer, x = layers.Linear(width, outputs), mx.random.normal((rows, width)).astype(dtype)
    layer.set_dtype(dtype)
    (got,) = layers.products(x, layer)
    assert not hasattr(layer, "_copy")
    expected = np.array(nn.Linear.__call__(layer, x).astype(mx.float32))
    np.testing.assert_allclose(np.array(got.astype(mx.float32)), expected, rtol=1e-5, atol=1e-4)


WIDTH = 96
X = np.random.default_rng(0).normal(3, 2, size=(5, 7, WIDTH)).astype(np.float32)
WEIGHT, BIAS = np.random.default_rng(1).normal(1, 0.1, size=(2, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.float32, 3e-6), (mx.float16, 1e-2)])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("repeats", [1, layers.FEW_ROWS])
def test_norms_against_float64(repeats: int, centred: bool, dtype: mx.Dtype, tolerance: float) -> None:
    norm = (nn.LayerNorm if centred else nn.RMSNorm)(WIDTH, 1e-5)
    norm.update({"weight": mx.array(WEIGHT), **({"bias": mx.array(BIAS)} if centred else {})})
    norm.set_dtype(dtype)
    layers.adapt(norm)
    assert type(norm).__module__ == layers.__name__
    rows = np.tile(X, (repeats, 1, 1))
    x = rows.astype(np.float64)
    if centred:
        x = x - x.mean(axis=-1, keepdims=True)
    expected = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * WEIGHT + (BIAS if centred else 0)
    got = norm(mx.array(rows).astype(dtype))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.array(got.astype(mx.float32)), expected, rtol=0, atol=tolerance)


def test_a_loaded_model_has_them_on_a_cpu_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.v5_small(tmp_path)
    for gpu in (False, True):
        monkeypatch.setattr(device, "on_gpu", lambda gpu=gpu: gpu)
        model = mlx_jina.load(folder, dtype="float32")
        kinds = {type(module) for own in model.loaded.models.values() for module in own.modules()}
        plain, ours = {nn.Linear, nn.RMSNorm}, {layers.Linear, layers.RMSNorm}
        assert kinds.isdisjoint(ours if gpu else plain)
        assert kinds >= (plain if gpu else ours)
