"""Qwen2, the causal decoder of jina-code-embeddings (Qwen2.5-Coder), pooled at the last token.

Yang et al. 2024, "Qwen2 Technical Report" (arXiv 2407.10671); Kryvosheieva et al. 2025 (arXiv 2508.21290) for the
embeddings. Qwen3 with biases on queries, keys and values in place of norms on the first two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mlx_jina.models.config import expect, with_head_dim
from mlx_jina.models.qwen3 import Config, Qwen3

if TYPE_CHECKING:
    from typing_extensions import Self


class Qwen2(Qwen3):
    """The model; see `EncoderModel` for what the rest of the package asks of it."""

    architecture: ClassVar[str] = "qwen2"
    # Activations leave its range: Qwen2-1.5B has NaN after its second layer (github.com/QwenLM/Qwen3/issues/826).
    float16: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """Where Qwen3's biases are an option, Qwen2's are not."""
        expect(config, "attention_bias", (True, None))
        return cls(Config.read(with_head_dim(config), qk_norm=False, qkv_bias=True, causal=True))
