"""Options of `load` and of `Encoder`'s methods: for type checkers, for code that passes options on, and checked.

    def encode_notes(notes: list[str], **options: Unpack[EncodeOptions]) -> Vectors:
        return model.encode(notes, **options)

`Unpack` is in typing since Python 3.11, and in typing_extensions before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

from mlx_jina.choices import Activation, ChunkKind, Dtype, Precision
from mlx_jina.errors import InputError, shown

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
    max_pixels: int | None


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

    task: str | None
    truncate_dim: int | None
    allow_untrained_dim: bool
    max_length: int | None
    truncate: bool
    precision: Precision
    ranges: npt.ArrayLike | None
    batch_tokens: int | None
    show_progress_bar: bool | None


class PictureOptions(TypedDict, total=False):
    """Options of `Encoder.encode_images`, which explains those that `encode` does not have."""

    task: str | None
    prompt_name: str | None
    prompt: str | None
    truncate_dim: int | None
    allow_untrained_dim: bool
    normalize_embeddings: bool
    precision: Precision
    ranges: npt.ArrayLike | None
    batch_tokens: int | None


class TokenPictureOptions(TypedDict, total=False):
    """Options of `MultiVectorEncoder.encode_images`."""

    task: str | None
    precision: Precision
    ranges: npt.ArrayLike | None
    batch_tokens: int | None


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
    max_document_length: int | None
    truncate: bool
    batch_tokens: int | None
    show_progress_bar: bool | None


def _is_flag(value: object) -> bool:
    # By name, because NumPy may not be imported, or not yet whole: another thread may be importing it.
    kind = type(value)
    return kind is bool or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not _is_flag(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not _is_flag(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)


def _are_texts_or_one(value: object) -> bool:
    return isinstance(value, str) or _are_texts(value)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_flag_or_function(value: object) -> bool:
    return _is_flag(value) or callable(value)


_FLAG, _WHOLE, _NUMBER, _TEXT, _PATH, _FUNCTION = (
    ("True or False", _is_flag),
    ("a whole number", _is_whole),
    ("a number", _is_number),
    ("a str", _is_text),
    ("a str or a Path", _is_path),
    ("a function", callable),
)

# What the values of options are, by the option's name. A name means the same in every method.
_KINDS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("name", "source", "target", "cache_dir", "file", "folder", "path"), _PATH),
    **dict.fromkeys(("revision", "as_model", "task", "prompt_name", "prompt", "language", "column"), _TEXT),
    **dict.fromkeys(("dtype", "precision", "output", "chunk", "kind", "mode", "recipe", "text"), _TEXT),
    **dict.fromkeys(("truncate_dim", "max_length", "batch_tokens", "chunk_tokens", "overlap", "limit"), _WHOLE),
    **dict.fromkeys(("max_document_length", "top_k"), _WHOLE),
    **dict.fromkeys(("instruction", "activation"), _TEXT),
    "return_documents": _FLAG,
    **dict.fromkeys(("bits", "group_size", "max_size", "max_pixels", "line", "id", "size"), _WHOLE),
    **dict.fromkeys(("min_score", "min_cosine", "threshold", "weight", "seconds"), _NUMBER),
    **dict.fromkeys(("local_files_only", "allow_untrained_dim", "truncate", "normalize_embeddings"), _FLAG),
    **dict.fromkeys(("late_chunking", "show_progress_bar", "late", "special_tokens", "create", "force"), _FLAG),
    **dict.fromkeys(("show_progress", "verify", "allow_mass_delete", "dry_run", "vectors", "chunks"), _FLAG),
    **dict.fromkeys(("recent", "linked", "repair", "prefix"), _FLAG),
    **dict.fromkeys(("include", "exclude"), ("a list of str", _are_texts)),
    **dict.fromkeys(("glob", "tags"), ("a str or a list of str", _are_texts_or_one)),
    **dict.fromkeys(("title", "default_prompt_name", "output_value", "similarity_fn_name"), _TEXT),
    **dict.fromkeys(("prompts", "model_kwargs", "processor_kwargs", "config_kwargs"), ("a dict", _is_mapping)),
    **dict.fromkeys(("convert_to_numpy", "convert_to_tensor", "trust_remote_code"), _FLAG),
    "cache_folder": _PATH,
    "wait": ("True, False or a function", _is_flag_or_function),
    **dict.fromkeys(("advance", "shortened", "progress", "cancelled"), _FUNCTION),
}
# Those that may be None, which is their default.
_OPTIONAL = frozenset(
    "cache_dir folder revision as_model task prompt_name prompt dtype recipe mode truncate_dim max_length "
    "batch_tokens chunk_tokens max_pixels bits group_size max_size line min_score min_cosine seconds "
    "show_progress_bar show_progress progress cancelled include exclude default_prompt_name output_value "
    "similarity_fn_name prompts model_kwargs processor_kwargs config_kwargs cache_folder instruction "
    "max_document_length top_k".split()
)


def check(**options: object) -> None:
    """Raise InputError for an option whose value is not of the type that its name stands for.

    NumPy's numbers will do, arrays of one will not. An option without a type here is its method's to check.
    """
    for name, value in options.items():
        if name not in _KINDS or (value is None and name in _OPTIONAL):
            continue
        words, fits = _KINDS[name]
        if not fits(value):
            also = " or None" if name in _OPTIONAL else ""
            raise InputError(f"{name}={shown(value)} must be {words}{also}, not {type(value).__name__}")
