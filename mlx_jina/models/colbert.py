"""ColBERT, the late interaction of jina-colbert-v2 and -v1-en: every token's state projected to a short vector.

Khattab and Zaharia 2020, "ColBERT" (arXiv 2004.12832); Jha et al. 2024, "Jina-ColBERT-v2" (arXiv 2408.16672). The
encoder is that of jina-embeddings-v3 (v2) or of jina-embeddings-v2 (v1-en). What a query and a document look like,
text/late_interaction.py knows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.catalog import Kind
from mlx_jina.errors import CheckpointError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.config import required
from mlx_jina.models.jina_bert import JinaBert
from mlx_jina.models.xlm_roberta import XLMRoberta
from mlx_jina.nn.ragged import Ragged

if TYPE_CHECKING:
    from typing_extensions import Self

ENCODER = "bert."
"""What the names of the encoder's tensors begin with."""
_ENCODERS: Mapping[str, type[EncoderModel]] = {"bert": JinaBert, "xlm-roberta": XLMRoberta}


class ColBERT(EncoderModel):
    """The model; a text has one vector for each of its tokens."""

    architecture: ClassVar[str] = "colbert"
    kind: ClassVar[Kind] = "multi-vector"
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "none"
    # As of both encoders.
    float16: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = tuple(
        f"{ENCODER}{prefix}" for encoder in _ENCODERS.values() for prefix in encoder.unused
    )

    def __init__(self, encoder: EncoderModel, dimension: int) -> None:
        super().__init__(dimension=dimension, max_length=encoder.max_length, vocab_size=encoder.vocab_size)
        self.bert = encoder
        self.linear = nn.Linear(encoder.dimension, dimension, bias=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """The empty model; `config["colbert"]` is the checkpoint's artifact.metadata."""
        architecture = _ENCODERS.get(str(config.get("model_type")))
        if architecture is None:
            raise CheckpointError(
                f"a ColBERT with an encoder of model_type {config.get('model_type')!r} is not one that mlx-jina "
                "runs; jina-colbert-v2 and jina-colbert-v1-en are"
            )
        own = [name.removeprefix(ENCODER) for name in names if name.startswith(ENCODER)]
        encoder = architecture.from_config(config, own)
        return cls(encoder, required(config["colbert"], "dim", int))

    def hidden(self, ids: mx.array, batch: Ragged) -> mx.array:
        """The projected state of every token: ids (T,) to (T, D)."""
        return self.linear(self.bert.hidden(ids, batch))

    def __call__(self, ids: mx.array, batch: Ragged) -> mx.array:
        """The vector of every token in float32, not normalised: ids (T,) to (T, D)."""
        return self.hidden(ids, batch).astype(mx.float32)
