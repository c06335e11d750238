"""jina-colbert-v2 and jina-colbert-v1-en as stanford-futuredata/ColBERT saves them.

The encoder's tensors lie beside `linear.weight`, and the settings in artifact.metadata, a JSON file. v2's encoder
is that of jina-embeddings-v3 under the names of its repository, without adapters; v1-en's is JinaBERT.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina.errors import CheckpointError
from mlx_jina.models.colbert import ENCODER
from mlx_jina.text import late_interaction
from mlx_jina.weights import jina_v3

METADATA = "artifact.metadata"
ARCHITECTURE = "HF_ColBERT"
XLM_ROBERTA = "xlm-roberta"
_PROJECTION = "linear.weight"
# What the configuration class of v2's repository takes where config.json says nothing.
_ROTARY_BASE = 10_000.0
_TRUNCATED = (64, 96, 128)


def is_one(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder holds a ColBERT."""
    return ARCHITECTURE in (config.get("architectures") or ()) or (folder / METADATA).is_file()


def translate(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, mx.array], metadata: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """config.json and tensors under the names of models/colbert.py; `metadata` is what artifact.metadata says.

    Raises CheckpointError.
    """
    if metadata is None:
        raise CheckpointError(f"{folder} is a ColBERT without {METADATA}, which says what its markers are")
    try:
        settings = late_interaction.settings_of(metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    config = {**config, "colbert": settings}
    encoder = {name: tensor for name, tensor in tensors.items() if name != _PROJECTION}
    if config.get("model_type") == XLM_ROBERTA:
        config = _read_xlm_roberta(config)
        encoder, _ = jina_v3.translate(folder, {}, encoder)
    named = {f"{ENCODER}{name}": tensor for name, tensor in encoder.items()}
    if _PROJECTION in tensors:
        named[_PROJECTION] = tensors[_PROJECTION]
    return config, named


def _read_xlm_roberta(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json in the keys of models/xlm_roberta.py, with the sizes that v2 was trained to be cut to."""
    settings = jina_v3.read_config({"rotary_emb_base": _ROTARY_BASE, **config})
    sizes = [size for size in _TRUNCATED if size <= config["colbert"]["dim"]]
    return {**settings, "model_type": XLM_ROBERTA, "architectures": [ARCHITECTURE], "matryoshka_dims": sizes}
