"""GGUF's tables are about the same models that mlx-jina builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_jina import models
from mlx_jina.weights.gguf import architectures, names
from mlx_jina.weights.gguf.reader import POOLING
from tests.support import checkpoints, decoder_checkpoints, v3_checkpoints

BERT = checkpoints.jina_bert_config("original", hidden=64, layers=2, heads=2, intermediate=96, vocab=100)
SMALL = checkpoints.v5_small_config(**checkpoints.V5_TINY)
NANO = decoder_checkpoints.nano_config(**decoder_checkpoints.NANO_TINY)
CODE = decoder_checkpoints.code_config(**decoder_checkpoints.CODE_TINY)
V3 = v3_checkpoints.native_config(**v3_checkpoints.V3_TINY)


def test_every_model_has_a_table() -> None:
    assert [architecture.model for architecture in architectures.ARCHITECTURES] == [*models.ARCHITECTURES]


@pytest.mark.parametrize(
    ("name", "config", "weights"),
    [
        ("jina-bert-v2", BERT, checkpoints.jina_bert_weights("original", BERT)),
        ("qwen3", SMALL, checkpoints.v5_small_weights(SMALL)),
        ("qwen3", {**SMALL, "model_type": "qwen3"}, checkpoints.v5_small_weights(SMALL)),
        ("eurobert", NANO, decoder_checkpoints.nano_weights(NANO)),
        ("eurobert", {**NANO, "model_type": "eurobert"}, decoder_checkpoints.nano_weights(NANO)),
        ("qwen2", CODE, decoder_checkpoints.code_weights(CODE)),
        ("jina-bert-v3", V3, v3_checkpoints.native_weights(V3)),
    ],
)
def test_a_table_is_about_the_model_that_is_built(
    name: str, config: dict[str, Any], weights: dict[str, Any]
) -> None:
    architecture = architectures.of_config(config)
    model = models.build(config, weights)
    assert architecture.name == name
    assert architecture.model is type(model)
    assert (POOLING[architecture.pooling], architecture.unused) == (model.pooling, model.unused)
    # Both ways, and nothing left over.
    tensors = [tensor for tensor in weights if not tensor.startswith(model.unused)]
    gguf_names = names.to_gguf(Path(), architecture, tensors)
    parts, _ = names.from_gguf(Path(), architecture, gguf_names, (1, 1, 1), up_halves=1)
    assert parts.keys() == {*tensors}
