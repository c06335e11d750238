"""Qwen2.5-VL, the causal decoder of jina-embeddings-v4, pooled by the mean of a text's tokens.

Bai et al. 2025, "Qwen2.5-VL Technical Report" (arXiv 2502.13923); Günther et al. 2025, "jina-embeddings-v4"
(arXiv 2506.18902) for the embeddings, and for the projector that makes a short vector of each token. A token of a
text has one position on all three axes of its rotary positions, so that the decoder is Qwen2's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.catalog import Kind
from mlx_jina.errors import CheckpointError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.config import expect, required, with_head_dim
from mlx_jina.models.qwen2 import Qwen2
from mlx_jina.models.qwen3 import Config
from mlx_jina.nn import pooling
from mlx_jina.nn.ragged import Ragged

if TYPE_CHECKING:
    from typing_extensions import Self

PROJECTOR = "multi_vector_projector"
TOWER = "visual."
"""What the names of the vision tower's tensors begin with."""
# Jina's processor takes no more, although config.json has more positions.
LONGEST = 32_768


class Qwen25VL(Qwen2):
    """The language model; see `EncoderModel` for what the rest of the package asks of it."""

    architecture: ClassVar[str] = "qwen2_5_vl"
    also: ClassVar[tuple[Kind, ...]] = ("multi-vector",)
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "mean"
    unused: ClassVar[tuple[str, ...]] = (*Qwen2.unused, TOWER)
    plain_text: ClassVar[bool] = True

    def __init__(self, c: Config, projected: int = 0, sections: Sequence[int] | None = None) -> None:
        super().__init__(c)
        self.sections = sections
        self.max_length = min(self.max_length, LONGEST)
        self.projected = projected
        if projected:
            self.multi_vector_projector = nn.Linear(c.hidden_size, projected)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """With a projector if there are tensors of one."""
        expect(config, "attention_bias", (True, None))
        sections = _check_sections(config)
        # The sections say which axis turns which angles, and scale none.
        config = {**with_head_dim(config), "rope_scaling": None}
        projected = any(name.startswith(f"{PROJECTOR}.") for name in names)
        return cls(
            Config.read(config, qk_norm=False, qkv_bias=True, causal=True),
            required(config, "multi_vector_projector_dim", int) if projected else 0,
            sections,
        )

    def __call__(self, ids: mx.array, batch: Ragged) -> mx.array:
        """The mean of the states of each text's tokens, in float32: ids (T,) to (B, D)."""
        return pooling.mean(self.hidden(ids, batch), batch)

    def for_tokens(self) -> Qwen25VLTokens:
        """These weights, with a vector for each token. Raises CheckpointError if there is no projector."""
        if not self.projected:
            raise CheckpointError(
                "there is no multi_vector_projector among the weights, which makes the vectors of tokens: .gguf "
                "files and the repositories jina-embeddings-v4-vllm-* have none, jinaai/jina-embeddings-v4 has it"
            )
        return Qwen25VLTokens(self)


class Qwen25VLTokens(EncoderModel):
    """The same model for late interaction: every token's state, projected."""

    architecture: ClassVar[str] = Qwen25VL.architecture
    kind: ClassVar[Kind] = "multi-vector"
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "none"
    float16: ClassVar[bool] = Qwen25VL.float16
    unused: ClassVar[tuple[str, ...]] = Qwen25VL.unused

    def __init__(self, model: Qwen25VL) -> None:
        super().__init__(dimension=model.projected, max_length=model.max_length, vocab_size=model.vocab_size)
        self.model = model

    def hidden(self, ids: mx.array, batch: Ragged) -> mx.array:
        """The projected state of every token: ids (T,) to (T, D)."""
        return self.projected(self.model.hidden(ids, batch))

    def projected(self, states: mx.array) -> mx.array:
        """(T, width) to (T, D)."""
        return self.model.multi_vector_projector(states)

    def __call__(self, ids: mx.array, batch: Ragged) -> mx.array:
        """The vector of every token in float32, not normalised: ids (T,) to (T, D)."""
        return self.hidden(ids, batch).astype(mx.float32)


def sections_of(config: Mapping[str, Any]) -> list[int] | None:
    """How many of a head's angles turn with time, height and width; None where config.json does not say."""
    for key in ("rope_parameters", "rope_scaling"):
        block = config.get(key)
        found = block.get("mrope_section") if isinstance(block, Mapping) else None
        if found is not None:
            if not isinstance(found, list) or len(found) != 3 or not all(type(x) is int and x > 0 for x in found):
                raise CheckpointError(
                    f"config.json: 'mrope_section' is {found!r}; only three sizes are implemented"
                )
            return found
    return None


def _check_sections(config: Mapping[str, Any]) -> list[int] | None:
    """Refuse rotary positions that are scaled; those of three sections are not, whatever they are called."""
    sections = sections_of(config)
    scaling = config.get("rope_scaling")
    if scaling is None:
        return sections
    kinds = {scaling.get("rope_type"), scaling.get("type")} if isinstance(scaling, Mapping) else {scaling}
    if not kinds <= {"default", "mrope", None} or not scaling.keys() <= {"mrope_section", "rope_type", "type"}:
        raise CheckpointError(f"config.json: 'rope_scaling' is {scaling!r}; only three sections are implemented")
    return sections
