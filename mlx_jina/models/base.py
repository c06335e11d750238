"""What every model is to the rest of the package."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.catalog import Kind
from mlx_jina.errors import CheckpointError
from mlx_jina.nn import pooling
from mlx_jina.nn.ragged import Ragged

if TYPE_CHECKING:
    from typing_extensions import Self


class EncoderModel(nn.Module):
    """Token ids to contextual states, and to one vector per text; parameters carry the checkpoint's names.

    Axes: B texts, T tokens of a batch, D width.
    """

    architecture: ClassVar[str]
    """The name of the architecture, in error messages and in the tables of other file formats."""
    kind: ClassVar[Kind] = "embedding"
    """What the model gives for a text."""
    also: ClassVar[tuple[Kind, ...]] = ()
    """What else it can give, by `for_tokens`."""
    pooling: ClassVar[Literal["mean", "last", "first", "none"]]
    """How the states of a text's tokens become one vector; "none" where each token has its own."""
    float16: ClassVar[bool]
    """Whether activations stay within float16's range."""
    unused: ClassVar[tuple[str, ...]]
    """Prefixes of tensor names that belong to other heads and are left unread."""
    plain_text: ClassVar[bool] = False
    """Whether special tokens that stand in a text are characters like any other."""

    def __init__(self, *, dimension: int, max_length: int, vocab_size: int) -> None:
        super().__init__()
        self.dimension = dimension
        """Width of a vector."""
        self.max_length = max_length
        """Tokens of the longest text."""
        self.vocab_size = vocab_size
        """Rows of the table that token ids look up."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """The empty model for a config.json and the names of the tensors beside it. Raises CheckpointError."""
        raise NotImplementedError

    def hidden(self, ids: mx.array, batch: Ragged) -> mx.array:
        """Contextual states of every token: ids (T,) to (T, D)."""
        raise NotImplementedError

    def __call__(self, ids: mx.array, batch: Ragged) -> mx.array:
        """One vector per text in float32, not normalised: ids (T,) to (B, D)."""
        return pooling.mean(self.hidden(ids, batch), batch)

    def for_tokens(self) -> EncoderModel:
        """The same weights with a vector for each token. Raises CheckpointError without those."""
        raise CheckpointError(f"a {self.architecture} has no vectors of tokens for late interaction")
