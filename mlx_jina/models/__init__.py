"""One architecture, one file. Which of them a checkpoint is gets decided here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mlx_jina.errors import CheckpointError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.colbert import ColBERT
from mlx_jina.models.eurobert import EuroBert
from mlx_jina.models.jina_bert import JinaBert
from mlx_jina.models.listwise import ListwiseReranker
from mlx_jina.models.qwen2 import Qwen2
from mlx_jina.models.qwen2_5_vl import Qwen25VL
from mlx_jina.models.qwen3 import Qwen3
from mlx_jina.models.rerankers import JinaBertReranker, Qwen3Reranker, XLMRobertaReranker
from mlx_jina.models.xlm_roberta import XLMRoberta

ARCHITECTURES: tuple[type[EncoderModel], ...] = (JinaBert, Qwen3, EuroBert, Qwen2, Qwen25VL, XLMRoberta)

_BY_MODEL_TYPE: Mapping[str, type[EncoderModel]] = {
    "bert": JinaBert,
    "eurobert": EuroBert,
    "jina_embeddings_v3": XLMRoberta,
    "qwen2": Qwen2,
    "qwen2_5_vl": Qwen25VL,
    "qwen3": Qwen3,
    # Names that weights/rerankers.py gives to checkpoints whose config.json does not tell them from an encoder's.
    JinaBertReranker.architecture: JinaBertReranker,
    ListwiseReranker.architecture: ListwiseReranker,
    Qwen3Reranker.architecture: Qwen3Reranker,
}


def identify(config: Mapping[str, Any]) -> type[EncoderModel]:
    """The architecture of a config.json. Raises CheckpointError for one that mlx-jina does not run."""
    if "colbert" in config:
        return ColBERT
    model_type = str(config.get("model_type"))
    if model_type.startswith("jina_embeddings_v5"):
        # v5-small and v5-nano share their model_type.
        return EuroBert if config.get("is_decoder") is False else Qwen3
    if model_type == "xlm-roberta" and "XLMRobertaForSequenceClassification" in (
        config.get("architectures") or ()
    ):
        return XLMRobertaReranker
    if model_type not in _BY_MODEL_TYPE:
        raise CheckpointError(
            f"model_type {config.get('model_type')!r} (architectures {config.get('architectures')}) is not one "
            "that mlx-jina runs"
        )
    return _BY_MODEL_TYPE[model_type]


def build(config: Mapping[str, Any], names: Collection[str]) -> EncoderModel:
    """The empty model for a config.json and the names of the tensors beside it. Raises CheckpointError."""
    architecture = identify(config)
    # Layers without tensors would fill the memory before anyone missed them.
    if isinstance(layers := config.get("num_hidden_layers"), int) and layers > len(names):
        raise CheckpointError(
            f"config.json: num_hidden_layers is {layers}, but there are only {len(names)} tensors"
        )
    return architecture.from_config(config, names)
