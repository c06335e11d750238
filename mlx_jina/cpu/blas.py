"""The BLAS behind MLX's CPU backend on Linux, and the malloc. A Mac has Accelerate, and uses nothing of this file.

This file does not import mlx.core: `open_fast` only works before the first import of mlx.core.
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

from mlx_jina import device

_fast: str | None = None
# The opened library, and the names that libraries give to the functions for the number of threads.
_opened: ctypes.CDLL | None = None
_THREADS = (
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)

# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h. Blocks above the first (the largest value that glibc allows)
# go back to the system when they are freed, as does free memory above the second at the heap's end.
_MALLOC = ((-3, 32 << 20), (-1, 64 << 20))

# What OpenBLAS's kernels for AVX-512 are made of, in the words of /proc/cpuinfo.
_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}

# How many callers want a BLAS of one thread now, and how many threads the BLAS had before.
_counting = threading.Lock()
_callers = 0
_threads_before = 1


def _candidates() -> Iterator[str]:
    """Libraries with the plain `cblas_sgemm` names, best first: OpenBLAS of pip, of conda, of the system; MKL.

    The library that is installed beside this package comes first, because somebody chose it for this environment.
    """
    wheel = find_spec("scipy_openblas32")
    for folder in (wheel.submodule_search_locations if wheel else None) or ():
        yield from map(str, Path(folder, "lib").glob("libopenblas*.so"))
    environment = Path(sys.prefix, "lib")
    yield from map(str, sorted(environment.glob("libopenblas.so.*")))
    if system := ctypes.util.find_library("openblas"):
        yield system
    yield from map(str, sorted(environment.glob("libmkl_rt.so.*")))


@contextmanager
def _told_of_avx512(cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[None]:
    """Where OpenBLAS is opened: it takes an AMD processor that is newer than itself for one without AVX-512."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:
            # The first processor's share: the kernel takes its time for each of hundreds.
            words = set(file.read(8192).split())
    except OSError:
        words = set()
    if "OPENBLAS_CORETYPE" in os.environ or "AuthenticAMD" not in words or not words >= _AVX512:
        yield
        return
    os.environ["OPENBLAS_CORETYPE"] = "SKYLAKEX"
    try:
        yield
    finally:
        del os.environ["OPENBLAS_CORETYPE"]


def open_fast() -> str | None:
    """Open OpenBLAS or MKL ahead of the reference BLAS inside MLX's Linux CPU wheel (some 30 times slower).

    Returns the library's name, or None: on a Mac, where no library is found, or, with a warning, where mlx.core
    was imported before (MLX binds its symbols when it is imported).
    """
    global _fast, _opened
    if sys.platform != "linux" or _fast:
        return _fast
    candidates = _candidates()
    if "mlx.core" in sys.modules:
        if not device.on_gpu() and (best := next(iter(candidates), None)):
            warnings.warn(
                f"mlx.core was imported before mlx_jina.load, so MLX cannot use {Path(best).name} and "
                "computes many times slower; write `from mlx_jina import load` above `import mlx.core`",
                RuntimeWarning,
                stacklevel=3,
            )
        return None
    for path in candidates:
        try:
            with _told_of_avx512():
                _opened = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        _fast = Path(path).name
        break
    return _fast


def name() -> str:
    """The matrix library behind MLX's CPU backend, in words."""
    if sys.platform == "darwin":
        return "Accelerate"
    return _fast or "MLX's bundled reference BLAS (slow; install libopenblas or `mlx-jina[fast-cpu]`)"


def slow() -> str | None:
    """A line for users about MLX's slow reference BLAS, with the remedies; None where a fast one is in use.

    The command line and the server print the line once; the library never does.
    """
    if sys.platform != "linux" or _fast or device.on_gpu():
        return None
    return (
        "MLX has only its reference BLAS here, which is some 30 times slower than OpenBLAS: "
        "apt install libopenblas0-pthread, or pip install 'mlx-jina[fast-cpu]'"
    )


def _threads() -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """Functions that get and set the BLAS's number of threads, or None where it has none."""
    for get, set_ in _THREADS:
        if _opened is not None and hasattr(_opened, get):
            return getattr(_opened, get), getattr(_opened, set_)
    return None


@cache
def cores() -> int:
    """Forward passes to run side by side: one on a GPU, one for each core that BLAS may use on a CPU."""
    threads = _threads()
    return 1 if threads is None or device.on_gpu() else threads[0]()


@cache
def multiplies_small() -> bool:
    """Whether the BLAS multiplies small matrices as they stand, as OpenBLAS does where there is AVX-512."""
    if device.on_gpu() or _opened is None or not hasattr(_opened, "openblas_get_corename"):
        return False
    corename = _opened.openblas_get_corename
    corename.restype = ctypes.c_char_p
    return corename() in (b"SkylakeX", b"Cooperlake", b"SapphireRapids")


@contextmanager
def single_threaded() -> Iterator[None]:
    """Multiply on the caller's core only. The last block to end gives the BLAS its threads back."""
    global _callers, _threads_before
    threads = _threads()
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


def let_idle_threads_sleep() -> None:
    """Have idle OpenBLAS threads sleep at once: by default they spin for some 20 ms on cores that others need."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")


def let_malloc_keep() -> bool:
    """Have malloc keep freed memory for the next caller. Returns False for a malloc without that setting."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*each) for each in _MALLOC)
