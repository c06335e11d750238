"""Options of `load` and of `Encoder`'s methods, for type checkers and for code that passes options on.

    def encode_notes(notes: list[str], **options: Unpack[EncodeOptions]) -> Vectors:
        return model.encode(notes, **options)

`Unpack` is in typing since Python 3.11, and in typing_extensions before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

from mlx_jina.choices import Activation, ChunkKind, Dtype, Precision

if TYPE_CHECKING:
    import numpy.typing as npt


class Texts(Protocol):
    """A sequence of texts, such as a list, a tuple or an array; a str, itself a sequence of str, is none."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, index: int, /) -> str: ...
    # Excludes str, whose `__contains__` takes a str only.
    def __contains__(self, value: object, /) -> bool: ...


class PlaceOptions(TypedDict, total=False):
    """Where a model comes from and what it computes in: options of `mlx_jina.load_reranker`."""

    revision: str | None
    local_files_only: bool
    dtype: Dtype | None
    cache_dir: str | Path | None


class LoadOptions(PlaceOptions, total=False):
    """Options of `mlx_jina.load` besides the task."""

    as_model: str | None


class TextOptions(TypedDict, total=False):
    """Options of `Encoder.encode` besides the precision: prompt, length, and what happens to vectors."""

    task: str | None
    prompt_name: str | None
    prompt: str | None
    truncate_dim: int | None
    allow_untrained_dim: bool
    max_length: int | None
    truncate: bool
    normalize_embeddings: bool
    ranges: npt.ArrayLike | None
    batch_tokens: int | None


class EncodeOptions(TextOptions, total=False):
    """Options of every `encode` method; `Encoder.encode` explains each."""

    precision: Precision


class VectorOptions(TextOptions, total=False):
    """Options of the methods that give one vector for each text, besides the precision."""

    late_chunking: bool
    output: Literal["vectors"]
    show_progress_bar: bool | None


class TokenOptions(EncodeOptions, total=False):
    """Options of `Encoder.encode_tokens`."""

    show_progress_bar: bool | None


class MultiVectorOptions(TypedDict, total=False):
    """Options of `MultiVectorEncoder.encode_query` and of `encode_document`, which explains each."""

    truncate_dim: int | None
    allow_untrained_dim: bool
    max_length: int | None
    truncate: bool
    precision: Precision
    ranges: npt.ArrayLike | None
    batch_tokens: int | None
    show_progress_bar: bool | None


class CutOptions(TypedDict, total=False):
    """How documents are cut: options of `Encoder.encode_chunks` alone."""

    chunk_tokens: int | None
    overlap: int
    late: bool
    language: str


class ChunkingOptions(CutOptions, total=False):
    """`CutOptions`, and the kind of boundary to cut at."""

    chunk: ChunkKind


class ChunkOptions(EncodeOptions, CutOptions, total=False):
    """Options of `Encoder.encode_chunks`, which explains those that `encode` does not have."""


class RerankOptions(TypedDict, total=False):
    """Options of the methods of a `Reranker`; `Reranker.score` explains each."""

    instruction: str | None
    activation: Activation
    max_length: int | None
    truncate: bool
    batch_tokens: int | None
    show_progress_bar: bool | None
