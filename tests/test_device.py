"""Which backend and which BLAS: found where there is one, silent where there is none."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_jina import InputError, device

linux = pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is chosen on Linux only")

REPORT = """
from mlx_jina import device
{change}
print(device.use_fast_blas())
import mlx.core as mx, time
a = mx.random.normal((512, 512)); mx.eval(a @ a)
print(device.blas())
"""


def report(change: str = "") -> list[str]:
    code = REPORT.format(change=change)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


@linux
def test_no_fast_blas_is_no_error() -> None:
    name, words = report("device._blas_candidates = lambda: ['libmissing.so.0', '/nowhere/libopenblas.so']")
    assert name == "None"
    assert "bundled reference BLAS" in words


@linux
def test_an_installed_blas_is_used() -> None:
    if not device._blas_candidates():
        pytest.skip("no OpenBLAS or MKL on this machine")
    name, words = report()
    assert name == words
    assert "openblas" in name or "mkl" in name


@linux
def test_it_says_so_when_mlx_came_first() -> None:
    first = "import mlx.core; device._blas_candidates = lambda: {candidates}"
    name, _, *warning = report(first.format(candidates=["libopenblas.so.0"]))
    assert name == "None"
    assert "mlx.core was imported before mlx_jina.load, so MLX cannot use libopenblas.so.0" in warning[0]
    name, _, *warning = report(first.format(candidates=[]))
    assert (name, warning) == ("None", [])


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    assert device.compute_dtype(mx.bfloat16) == mx.float32
    assert device.compute_dtype(mx.bfloat16, "float16") == mx.float16
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    assert device.compute_dtype(mx.bfloat16) == mx.bfloat16
    with pytest.raises(InputError, match="dtype='int4' is not one of"):
        device.compute_dtype(mx.float32, "int4")
