"""mlx-jina, as `load` and `encode` give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from bench.models import Model

NAME, PACKAGE = "mlx-jina", "mlx_jina"
FAMILIES = ("jina_bert", "qwen3", "eurobert")
SETTINGS = (
    "`load(folder)`, `encode(texts)`, in the precision that it takes by itself: float32 on a CPU, the published "
    "half precision on a GPU"
)


def options(model: Model) -> tuple[str, ...]:
    """What the backend computes in by default."""
    return (model.precision(),)


def load(folder: Path, option: str) -> Callable[[Sequence[str], int], Any]:
    """Texts to vectors."""
    import mlx_jina
    from mlx_jina.choices import Dtype

    mlx_jina.limit_cache()
    model = mlx_jina.load(folder, dtype=cast(Dtype, option))
    return lambda texts, longest: model.encode(texts, prompt="", max_length=max(longest, 8))
