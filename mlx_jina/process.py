"""Settings of the whole process, for programs to make; `mlx_jina.load` makes none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_jina import device
from mlx_jina.cpu import blas
from mlx_jina.errors import InputError


def tune() -> None:
    """Set up a process whose purpose is to embed, such as the command line's. Call `tune` before MLX is imported.

    Unlike `mlx_jina.load`, `tune` changes what other code in the process may depend on.
    """
    blas.let_idle_threads_sleep()
    blas.open_fast()
    device.keep_float32()
    limit_cache()


def limit_cache(limit: int | None = None) -> None:
    """Bound MLX's cache of freed memory, which otherwise grows with every new length of text.

    `limit` is in bytes, and holds for everything that computes with MLX in this process. A program that embeds for
    long calls `limit_cache` once; `mlx-jina` on the command line does so by itself, and `mlx_jina.load` never
    does. None takes what suits the machine: on a GPU a sixteenth of the memory that Metal recommends to use, at
    most 1 GiB; on a CPU no cache where glibc's malloc can keep freed memory instead, and 256 MiB elsewhere.

    Raises InputError for a negative limit.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise InputError(f"limit={limit!r} must be a number of bytes")
    import mlx.core as mx

    if limit is None:
        # MLX reuses a buffer only for one of nearly the same size, malloc for any smaller one.
        limit = 0 if not device.on_gpu() and blas.let_malloc_keep() else cache_bytes()
    mx.set_cache_limit(limit)


def cache_bytes() -> int:
    """What MLX's cache may hold of freed memory."""
    return min(device.memory() // 16, 1 << 30) if device.on_gpu() else 256 << 20


@contextmanager
def wired() -> Iterator[None]:
    """Keep a model's weights in memory meanwhile, which a Mac otherwise pages out after a pause.

    As mlx-lm does while it generates; only Metal has it.
    """
    import mlx.core as mx

    if device.backend() != "metal":
        yield
        return
    before = mx.set_wired_limit(device.memory())
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_wired_limit(before)
