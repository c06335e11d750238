"""Backend and dtype. Functions import mlx.core late, because a fast BLAS has to be opened before it."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from mlx_jina.choices import DTYPES
from mlx_jina.errors import InputError

if TYPE_CHECKING:
    import mlx.core as mx

# By the last letter of Metal's name for a chip, whose GPU cores double from one to the next: phones, base and Pro,
# Max, Ultra (MLX's metal/device.cpp).
_METAL_TOKENS = {"p": 4_096, "g": 8_192, "s": 16_384, "d": 32_768}


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
    """Raise InputError unless `wanted` is the name of a dtype, or None for the default."""
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
    """Tokens of a batch that keep this device busy; more only costs memory."""
    import mlx.core as mx

    if not on_gpu():
        return 4_096
    if backend() == "cuda":
        return 16_384
    return _METAL_TOKENS.get(str(mx.device_info()["architecture"])[-1:], 8_192)


def memory() -> int:
    """Bytes that models may use: what Metal recommends, nearly all of a CUDA card's, a CPU's whole machine's."""
    import mlx.core as mx

    info = mx.device_info() if on_gpu() else {}
    if recommended := info.get("max_recommended_working_set_size"):
        return int(recommended)
    if total := info.get("total_memory"):
        # As MLX's allocator for CUDA bounds itself.
        return int(0.95 * int(total))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def keep_float32() -> None:
    """Have MLX multiply float32 in float32, as far as this process has not multiplied yet.

    From the M5 on, and on CUDA, MLX takes TF32 otherwise, which keeps 10 bits of 23. A user's own setting stays.
    """
    os.environ.setdefault("MLX_ENABLE_TF32", "0")


@cache
def multiplies_float32() -> bool:
    """Whether products of float32 are computed in float32, which the first of them decided."""
    import mlx.core as mx

    x = mx.full((128, 128), 1 + 2**-12)
    return bool(mx.all(x @ mx.eye(128) == x).item())
