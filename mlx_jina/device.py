"""Which backend computes, in which dtype, with how much memory.

mlx.core is imported inside the functions: `use_fast_blas` only works before its first import.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_jina.choices import DTYPES
from mlx_jina.errors import InputError

if TYPE_CHECKING:
    import mlx.core as mx

_fast_blas: str | None = None
# Opened library, and what its functions for the number of threads are called.
_opened: ctypes.CDLL | None = None
_THREADS = (
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)

# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h: what is larger goes back to the system at once (no more is
# allowed), and so does what is free beyond that at the heap's end.
_MALLOC = ((-3, 32 << 20), (-1, 64 << 20))

# Who wants a BLAS of one thread now, and how many it had before.
_counting = threading.Lock()
_callers = 0
_threads_before = 1


def _blas_candidates() -> Iterator[str]:
    """Libraries with the plain `cblas_sgemm` names, best first: OpenBLAS of pip, of conda, of the system; MKL.

    What is installed beside this package goes first: it was chosen for this environment, and its version is known.
    """
    wheel = find_spec("scipy_openblas32")
    for folder in (wheel.submodule_search_locations if wheel else None) or ():
        yield from map(str, Path(folder, "lib").glob("libopenblas*.so"))
    environment = Path(sys.prefix, "lib")
    yield from map(str, sorted(environment.glob("libopenblas.so.*")))
    if system := ctypes.util.find_library("openblas"):
        yield system
    yield from map(str, sorted(environment.glob("libmkl_rt.so.*")))


def use_fast_blas() -> str | None:
    """Open OpenBLAS or MKL ahead of the reference BLAS inside MLX's Linux CPU wheel (some 30 times slower).

    A Mac never needs it. Returns the library's name, or None when there is none, or when mlx.core came first
    (its symbols are bound at import), which is worth a warning.
    """
    global _fast_blas, _opened
    if sys.platform != "linux" or _fast_blas:
        return _fast_blas
    candidates = _blas_candidates()
    if "mlx.core" in sys.modules:
        if not on_gpu() and (best := next(iter(candidates), None)):
            warnings.warn(
                f"mlx.core was imported before mlx_jina.load, so MLX cannot use {Path(best).name} and "
                "computes many times slower; write `from mlx_jina import load` above `import mlx.core`",
                RuntimeWarning,
                stacklevel=3,
            )
        return None
    for path in candidates:
        try:
            _opened = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        _fast_blas = Path(path).name
        break
    return _fast_blas


def blas() -> str:
    """The matrix library behind MLX's CPU backend, in words."""
    if sys.platform == "darwin":
        return "Accelerate"
    return _fast_blas or "MLX's bundled reference BLAS (slow; install libopenblas or `mlx-jina[fast-cpu]`)"


def slow_blas() -> str | None:
    """What to tell whoever waits for MLX's reference BLAS, in one line with the remedies; None if nobody does.

    The command line and the server say it once; the library never does.
    """
    if sys.platform != "linux" or _fast_blas or on_gpu():
        return None
    return (
        "MLX has only its reference BLAS here, which is some 30 times slower than OpenBLAS: "
        "apt install libopenblas0-pthread, or pip install 'mlx-jina[fast-cpu]'"
    )


def _blas_threads() -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """How to ask and tell the BLAS its number of threads, if it can be told."""
    for get, set_ in _THREADS:
        if _opened is not None and hasattr(_opened, get):
            return getattr(_opened, get), getattr(_opened, set_)
    return None


@cache
def lanes() -> int:
    """Forward passes to run side by side: one on a GPU, one for each core that BLAS may use on a CPU."""
    threads = _blas_threads()
    return 1 if threads is None or on_gpu() else threads[0]()


@cache
def multiplies_small() -> bool:
    """Whether the BLAS multiplies small matrices as they stand, as OpenBLAS does where there is AVX-512."""
    if on_gpu() or _opened is None or not hasattr(_opened, "openblas_get_corename"):
        return False
    name = _opened.openblas_get_corename
    name.restype = ctypes.c_char_p
    return name() in (b"SkylakeX", b"Cooperlake", b"SapphireRapids")


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Each matrix product on its caller's core, until the last of those who want it so has ended."""
    global _callers, _threads_before
    threads = _blas_threads()
    if threads is None:
        yield
        return
    with _counting:
        if not _callers:
            _threads_before = threads[0]()
            threads[1](1)
        _callers += 1
    try:
        yield
    finally:
        with _counting:
            _callers -= 1
            if not _callers:
                threads[1](_threads_before)


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


def tune_process() -> None:
    """Set up a process that is there to embed: the command line, the server, a benchmark. Before MLX is imported.

    Unlike `mlx_jina.load`, this changes what other code in the process may depend on.
    """
    let_idle_threads_sleep()
    use_fast_blas()
    limit_cache()


def let_idle_threads_sleep() -> None:
    """OpenBLAS's idle threads spin for 2**26 ticks (20 ms or so), on cores that other threads need."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")


def limit_cache(limit: int | None = None) -> None:
    """Bound the freed memory that MLX keeps, which texts of ever new lengths would otherwise fill without end.

    `limit` is in bytes, and holds for everything that computes with MLX in this process. A program that embeds for
    long calls this once; `mlx_jina.load` does not, and `mlx-jina` on the command line does. None leaves the choice
    to what suits the machine: on a GPU a sixteenth of the memory that it recommends to use, at most 1 GiB; on a
    CPU nothing where glibc's malloc can be told to keep freed memory instead, 256 MiB elsewhere.

    Raises InputError for a negative limit.
    """
    if limit is not None and limit < 0:
        raise InputError(f"limit={limit} must be a number of bytes")
    import mlx.core as mx

    if limit is not None:
        mx.set_cache_limit(limit)
    elif on_gpu():
        info = mx.device_info()
        recommended = info.get("max_recommended_working_set_size") or info.get("memory_size") or 4 << 30
        mx.set_cache_limit(min(int(recommended) // 16, 1 << 30))
    else:
        # MLX reuses a buffer only for one of nearly the same size, malloc for any smaller one.
        mx.set_cache_limit(0 if _let_malloc_keep() else 256 << 20)


def _let_malloc_keep() -> bool:
    """Tell malloc to keep freed memory for whoever asks next; false if it is one that cannot be told."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*each) for each in _MALLOC)
