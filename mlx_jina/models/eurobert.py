"""EuroBERT, the bidirectional encoder of jina-embeddings-v5-text-nano, pooled at its closing token.

Boizard et al. 2025, "EuroBERT" (arXiv 2503.05500); Akram et al. 2026 (arXiv 2602.15547) for the embeddings. Qwen3
without the norms on queries and keys, in which every token sees the whole text. Published checkpoints say
`model_type: jina_embeddings_v5` (base weights and four adapters), which they share with v5-small but for
`"is_decoder": false`, or `eurobert` (one adapter merged).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mlx_jina.errors import CheckpointError
from mlx_jina.models.config import expect, with_head_dim
from mlx_jina.models.qwen3 import Config, Qwen3

if TYPE_CHECKING:
    from typing_extensions import Self


class EuroBert(Qwen3):
    """The model; see `EncoderModel` for what the rest of the package asks of it."""

    architecture: ClassVar[str] = "eurobert"
    # A SwiGLU whose neurons fire strongly leaves its range (see tests/models/test_eurobert.py), and nothing
    # published bounds this one's.
    float16: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """Also checks that the tensors are not Qwen3's, under a setting that contradicts them."""
        expect(config, "is_decoder", (False, None))
        expect(config, "attention_bias", (False, None))
        if "layers.0.self_attn.q_norm.weight" in names:
            raise CheckpointError(
                f"a {config.get('model_type')!r} checkpoint with layers.0.self_attn.q_norm is not EuroBERT; "
                'v5-small, which has it, does not say "is_decoder": false in config.json'
            )
        return cls(
            Config.read(_with_plain_rope(with_head_dim(config)), qk_norm=False, qkv_bias=False, causal=False)
        )


def _with_plain_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """EuroBERT's own code says "linear", factor 1, for rotary angles that are not scaled."""
    plain = dict(config)
    if _is_unscaled(config.get("rope_scaling")):
        plain["rope_scaling"] = None
    if _is_unscaled(config.get("rope_parameters")):
        plain["rope_parameters"] = {**config["rope_parameters"], "rope_type": "default"}
    return plain


def _is_unscaled(rope: Any) -> bool:
    if not isinstance(rope, Mapping):
        return False
    kind = rope.get("rope_type", rope.get("type"))
    return kind == "default" or (kind == "linear" and rope.get("factor") == 1)
