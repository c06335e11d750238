"""Jina embeddings on Apple Silicon: `load` a model, `encode` texts, get NumPy vectors.

    import mlx_jina

    model = mlx_jina.load("pocket")
    vectors = model.encode(["How do I bake bread?", "Sourdough for beginners"])

The first use of a name imports what it needs: `import mlx_jina` alone takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlx_jina import errors
from mlx_jina.errors import (
    CheckpointError,
    ForkError,
    InputError,
    MlxJinaError,
    ModelNotFoundError,
    ModelTooLargeError,
    NumericalError,
    PictureError,
    TooLongError,
    TruncationWarning,
)

if TYPE_CHECKING:
    from mlx_jina import integrations, ray, vectors
    from mlx_jina.encoder import Chunk, ChunkedDocument, Encoder, Image, Token, TokenVectors, load
    from mlx_jina.multi_vector import MultiVectorEncoder, load_multi_vector
    from mlx_jina.process import limit_cache
    from mlx_jina.reranker import Reranker, load_reranker
    from mlx_jina.search.index import Index
    from mlx_jina.search.query import Where

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Chunk",
    "ChunkedDocument",
    "Encoder",
    "ForkError",
    "Image",
    "Index",
    "InputError",
    "MlxJinaError",
    "ModelNotFoundError",
    "ModelTooLargeError",
    "MultiVectorEncoder",
    "NumericalError",
    "PictureError",
    "Reranker",
    "Token",
    "TokenVectors",
    "TooLongError",
    "TruncationWarning",
    "Where",
    "__version__",
    "errors",
    "integrations",
    "limit_cache",
    "load",
    "load_multi_vector",
    "load_reranker",
    "ray",
    "vectors",
]

# Names that are imported on first use, by the module that has them.
_MODULES = ("integrations", "ray", "vectors")
_NAMES = {
    "mlx_jina.encoder": ("Chunk", "ChunkedDocument", "Encoder", "Image", "Token", "TokenVectors", "load"),
    "mlx_jina.multi_vector": ("MultiVectorEncoder", "load_multi_vector"),
    "mlx_jina.process": ("limit_cache",),
    "mlx_jina.reranker": ("Reranker", "load_reranker"),
    "mlx_jina.search.index": ("Index",),
    "mlx_jina.search.query": ("Where",),
}


# Behind `TYPE_CHECKING`, or type checkers would take any name for one of this package.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"mlx_jina.{name}")
        module = next((module for module, names in _NAMES.items() if name in names), None)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if not module.startswith("mlx_jina.search"):
            # A fast BLAS has to be opened before MLX is imported.
            from mlx_jina.cpu import blas

            blas.open_fast()
        return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
