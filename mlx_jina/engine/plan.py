"""Check the options of one call, and keep them as the plan for its texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_jina import vectors
from mlx_jina.choices import Precision
from mlx_jina.errors import InputError
from mlx_jina.models.base import EncoderModel

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlx_jina.weights.loading import Loaded


@dataclass(frozen=True)
class Plan:
    """How a call's texts become vectors."""

    model: EncoderModel
    prefix: str
    max_length: int
    truncate: bool
    dimension: int
    normalize: bool
    precision: Precision
    ranges: vectors.Floats | None
    batch_tokens: int
    max_pixels: int | None = None


def make(
    loaded: Loaded,
    *,
    task: str | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    allow_untrained_dim: bool = False,
    max_length: int | None = None,
    truncate: bool = True,
    normalize_embeddings: bool = True,
    precision: Precision = "float32",
    ranges: npt.ArrayLike | None = None,
    batch_tokens: int | None = None,
    max_pixels: int | None = None,
) -> Plan:
    """The plan of a call with these options of `Encoder.encode`. Raises InputError."""
    name, prompt_name = loaded.prompts.choose_task(task, prompt_name)
    model = loaded.model_for(name)
    vectors.check_precision(precision)
    if precision.endswith("int8") and ranges is None and not normalize_embeddings:
        raise InputError(
            f"precision={precision!r} needs normalize_embeddings=True, or `ranges` of such vectors "
            "(vectors.ranges_of)"
        )
    special = loaded.files.tokenizer.special_tokens
    limit = model.max_length if max_length is None else max_length
    if not special < limit <= model.max_length:
        raise InputError(
            f"max_length={max_length} must lie between {special + 1} and this model's {model.max_length}"
        )
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch_tokens={batch_tokens} must be at least 1")
    if max_pixels is not None:
        if loaded.vision is None or not loaded.vision.sees:
            raise InputError(f"max_pixels={max_pixels} is for models that see pictures: v4 and v5-omni")
        loaded.vision.preprocessor.limited(max_pixels)
    dimension = vectors.check_dimension(truncate_dim, model.dimension, loaded.truncate_dims, allow_untrained_dim)
    return Plan(
        model=model,
        prefix=loaded.prompts.prefix(name, prompt_name, prompt),
        max_length=limit,
        truncate=truncate,
        dimension=dimension,
        normalize=normalize_embeddings,
        precision=precision,
        ranges=None if ranges is None else vectors.check_ranges(ranges, dimension),
        batch_tokens=batch_tokens or loaded.budget.batch_tokens,
        max_pixels=max_pixels,
    )
