"""Which BLAS MLX computes with on Linux, and what is said of a slow one."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_jina import device
from mlx_jina.cpu import blas
from tests.support.command import run
from tests.support.process import Server

linux = pytest.mark.skipif(
    sys.platform != "linux" or device.on_gpu(), reason="the BLAS is chosen on Linux, for a CPU only"
)

REPORT = """
from mlx_jina.cpu import blas
{change}
print(blas.open_fast())
import mlx.core as mx, time
a = mx.random.normal((512, 512)); mx.eval(a @ a)
print(blas.name())
"""


def report(change: str = "") -> list[str]:
    code = REPORT.format(change=change)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


@linux
def test_no_fast_blas_is_no_error() -> None:
    name, words = report("blas._candidates = lambda: ['libmissing.so.0', '/nowhere/libopenblas.so']")
    assert name == "None"
    assert "bundled reference BLAS" in words


@linux
def test_an_installed_blas_is_used() -> None:
    if not any(blas._candidates()):
        pytest.skip("no OpenBLAS or MKL on this machine")
    name, words = report()
    assert name == words
    assert "openblas" in name or "mkl" in name


@linux
def test_it_says_so_when_mlx_came_first() -> None:
    first = "import mlx.core; blas._candidates = lambda: {candidates}"
    name, _, *warning = report(first.format(candidates=["libopenblas.so.0"]))
    assert name == "None"
    assert "mlx.core was imported before mlx_jina.load, so MLX cannot use libopenblas.so.0" in warning[0]
    name, _, *warning = report(first.format(candidates=[]))
    assert (name, warning) == ("None", [])


@linux
@pytest.mark.skipif(find_spec("scipy_openblas32") is None, reason="needs pip install 'mlx-jina[fast-cpu]'")
def test_the_blas_of_fast_cpu_needs_nothing_of_the_system() -> None:
    name, words = report("import ctypes.util; ctypes.util.find_library = lambda name: None")
    assert name == words
    assert name.startswith("libopenblas")


@linux
@pytest.mark.parametrize(
    ("vendor", "flags", "own", "told"),
    [
        ("AuthenticAMD", "fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl", None, "SKYLAKEX"),
        ("AuthenticAMD", "fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl", "ZEN", "ZEN"),
        ("AuthenticAMD", "fma avx2", None, None),
        ("AuthenticAMD", "fma avx2 avx512f avx512cd", None, None),
        ("GenuineIntel", "fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl", None, None),
    ],
)
def test_openblas_is_told_of_avx512(
    vendor: str, flags: str, own: str | None, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenBLAS knows Intel's processors by what they can do, and AMD's by their number."""
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if own:
        monkeypatch.setenv("OPENBLAS_CORETYPE", own)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n", encoding="utf-8")
    with blas._told_of_avx512(cpuinfo):
        assert os.environ.get("OPENBLAS_CORETYPE") == told
    assert os.environ.get("OPENBLAS_CORETYPE") == own
    with blas._told_of_avx512(tmp_path / "missing"):
        assert os.environ.get("OPENBLAS_CORETYPE") == own


@linux
def test_openblas_uses_the_avx512_of_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if find_spec("scipy_openblas32") is None or "avx512vl" not in Path("/proc/cpuinfo").read_text("utf-8"):
        pytest.skip("no AVX-512 here, or no OpenBLAS")
    assert report("import atexit; atexit.register(lambda: print(blas.multiplies_small()))")[2] == "True"


def test_what_is_installed_beside_the_package_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "wheel": tmp_path / "site-packages" / "scipy_openblas32" / "lib" / "libopenblas_python.so",
        "conda": tmp_path / "lib" / "libopenblas.so.0",
        "mkl": tmp_path / "lib" / "libmkl_rt.so.3",
    }
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    spec = SimpleNamespace(submodule_search_locations=[str(files["wheel"].parents[1])])
    monkeypatch.setattr(blas, "find_spec", {"scipy_openblas32": spec}.get)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", {"openblas": "libopenblas.so.0"}.get)
    assert list(blas._candidates()) == [
        str(files["wheel"]),
        str(files["conda"]),
        "libopenblas.so.0",
        str(files["mkl"]),
    ]
    # Later releases of the wheel export only names with a prefix.
    files["wheel"].rename(files["wheel"].with_name("libscipy_openblas.so"))
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    assert list(blas._candidates()) == [str(files["conda"]), str(files["mkl"])]


# The command line where there is no fast BLAS.
SLOW = (
    sys.executable,
    "-W",
    "error",
    "-c",
    "from mlx_jina import cli\nfrom mlx_jina.cpu import blas\nblas._candidates = lambda: iter(())\ncli.main()",
)


@linux
def test_the_command_line_says_once_that_the_blas_is_slow(tmp_path: Path) -> None:
    done = run("encode", "--model", "pocket", "a text", "another", program=SLOW)
    (line,) = done.stderr.splitlines()
    assert "30 times slower" in line
    assert "apt install libopenblas0-pthread" in line
    assert "pip install 'mlx-jina[fast-cpu]'" in line
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    texts = tmp_path / "texts.txt"
    texts.write_text("a text", encoding="utf-8")
    compared = run("convert", "compare", "pocket", "pocket", "--texts", texts, program=SLOW)
    assert (compared.returncode, compared.stderr.splitlines()) == (0, [line])


@linux
def test_the_server_says_once_that_the_blas_is_slow() -> None:
    with Server("pocket", program=SLOW) as server:
        for _ in range(2):
            assert server.embed("a text").status_code == 200
        assert server.log.count("30 times slower") == 1
        assert "reference BLAS" in server.client.get("/health").json()["blas"]


@linux
def test_the_library_says_nothing_of_a_slow_blas() -> None:
    code = "blas._candidates = lambda: iter(())\nimport mlx_jina\nmlx_jina.load('pocket').encode('a text')"
    name, words = report(code)
    assert (name, "bundled reference BLAS" in words) == ("None", True)
