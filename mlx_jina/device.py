"""Which backend computes, and in which dtype. mlx.core is imported inside the functions: a BLAS goes before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_jina.choices import DTYPES
from mlx_jina.errors import InputError

if TYPE_CHECKING:
    import mlx.core as mx


def on_gpu() -> bool:
    """Whether MLX computes on a GPU (Metal on a Mac, CUDA elsewhere)."""
    import mlx.core as mx

    return bool(mx.default_device() == mx.Device(mx.gpu))


def backend() -> str:
    """`metal`, `cuda` or `cpu`."""
    import mlx.core as mx

    if not on_gpu():
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def check_dtype(wanted: str | None) -> None:
    """Raise InputError for what is no name of a dtype; None is the default."""
    if wanted is not None and wanted not in DTYPES:
        raise InputError(f"dtype={wanted!r} is not one of {', '.join(DTYPES)}")


def compute_dtype(stored: mx.Dtype, wanted: str | None = None) -> mx.Dtype:
    """The dtype to run in: as asked, else the checkpoint's own on a GPU and float32 on a CPU.

    MLX's half-precision matmul on CPU is a plain loop, 40 times slower than float32.
    """
    import mlx.core as mx

    if wanted is not None:
        check_dtype(wanted)
        dtype: mx.Dtype = getattr(mx, wanted)
        return dtype
    return stored if on_gpu() else mx.float32


def default_batch_tokens() -> int:
    """Tokens per forward pass that keep this backend busy; more only costs memory."""
    return 16_384 if on_gpu() else 4_096
