"""Adapters beside the weights compute W x + scale B A x, whatever the layer is, and leave W alone."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
import pytest

from mlx_jina.nn import lora

RANK, SCALE = 4, 0.5
RNG = np.random.default_rng(0)


def normal(*shape: int) -> npt.NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


class Model(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 64)
        self.plain = nn.Linear(64, 96, bias=False)
        self.biased = nn.Linear(64, 96)


PAIRS = {
    name: lora.Pair(mx.array(normal(RANK, columns)), mx.array(normal(rows, RANK)), SCALE)
    for name, (rows, columns) in lora.shapes(Model()).items()
}


def exact(layer: Any, pair: lora.Pair) -> npt.NDArray[np.float64]:
    """W + scale B A in float64."""
    weight = layer.weight
    if "bits" in vars(layer):
        weight = mx.dequantize(weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    full: npt.NDArray[np.float64] = np.array(weight, np.float64)
    return full + pair.scale * np.array(pair.b, np.float64) @ np.array(pair.a, np.float64)


@pytest.mark.parametrize("packed", [False, True])
def test_attached_layers_compute_the_sum(packed: bool) -> None:
    model = Model()
    if packed:
        nn.quantize(model, group_size=32, bits=8)
    wanted = {name: exact(model[name], pair) for name, pair in PAIRS.items()}
    before = {name: np.array(model[name].weight) for name in PAIRS}
    lora.attach(model, PAIRS, mx.float32)
    x, ids = normal(7, 64), np.array([3, 3, 49, 0])
    bias = np.array(model.biased.layer.bias, np.float64)
    for output, target in (
        (model.words(mx.array(ids)), wanted["words"][ids]),
        (model.plain(mx.array(x)), x @ wanted["plain"].T),
        (model.biased(mx.array(x)), x @ wanted["biased"].T + bias),
    ):
        assert output.dtype == mx.float32
        np.testing.assert_allclose(np.array(output), target, atol=2e-5 * np.abs(target).max())
    for name, layer in (("words", model.words.layer), ("plain", model.plain.layer)):
        np.testing.assert_array_equal(np.array(layer.weight), before[name])


def test_shapes_are_those_of_full_weights() -> None:
    model = Model()
    shapes = lora.shapes(model)
    assert shapes == {"words": (50, 64), "plain": (96, 64), "biased": (96, 64)}
    nn.quantize(model, group_size=32, bits=4)
    assert lora.shapes(model) == shapes


def test_only_named_layers_change() -> None:
    model = Model()
    lora.attach(model, {"plain": PAIRS["plain"]}, mx.float32)
    kinds = [type(layer).__name__ for layer in (model.words, model.plain, model.biased)]
    assert kinds == ["Embedding", "LoRALinear", "Linear"]
