"""Running a model without its encoder: token ids in, unit vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_jina import device, models
from mlx_jina.cpu.layers import adapt
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn import ragged

Ids = npt.NDArray[np.int32]

TEXTS = [
    "hello world, how do I bake bread?",
    "a",
    "",
    "light travels fast in vacuum " * 30,
    "今天天气很好\uff0c我们去公园散步吧。",
    "Die Hauptstadt von Deutschland ist Berlin – übrigens: cafe\u0301",
    "def cosine(a, b):\n    return sum(x*y for x, y in zip(a, b))",
    "مرحبا بالعالم 👋🏽 नमस्ते",
    "light travels fast in vacuum " * 30,
]


def build(config: dict[str, Any], weights: dict[str, Any], dtype: mx.Dtype = mx.float32) -> EncoderModel:
    """A model with these weights, from a config that need not describe them."""
    built = models.build(config, weights)
    built.load_weights([(name, mx.array(value).astype(dtype)) for name, value in weights.items()])
    if not device.on_gpu():
        adapt(built)
    return built


def pooled(built: EncoderModel, texts: Sequence[Ids]) -> npt.NDArray[np.float32]:
    """Unit vectors in input order, from one batch."""
    (batch,) = ragged.batches(texts, 1 << 30)
    out = np.empty((len(texts), built.dimension), dtype=np.float32)
    out[batch.order] = np.array(built(mx.array(batch.ids), batch.ragged))
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


def last_states(built: EncoderModel, texts: Sequence[Ids]) -> tuple[npt.NDArray[np.float32], ...]:
    """The pooled states, and the last tokens' states of `hidden`, both in the order of the batch."""
    (batch,) = ragged.batches(texts, 1 << 30)
    states = np.array(built.hidden(mx.array(batch.ids), batch.ragged))
    return np.array(built(mx.array(batch.ids), batch.ragged)), states[np.array(batch.ragged.last_rows)]


def random_ids(lengths: Sequence[int], vocab: int, seed: int = 0) -> list[Ids]:
    """Texts of these many tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, length).astype(np.int32) for length in lengths]


def massive(weights: dict[str, Any], gain: float = 400.0) -> dict[str, Any]:
    """Weights with one feed-forward neuron that fires strongly, as in trained decoders on some tokens."""
    changed = {name: value.copy() for name, value in weights.items()}
    for part in ("gate", "up"):
        changed[f"layers.0.mlp.{part}_proj.weight"][7] *= gain
    changed["layers.0.mlp.down_proj.weight"][:, 7] /= gain
    return changed
