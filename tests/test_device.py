"""Which backend and which BLAS: found where there is one, silent where there is none."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_jina import InputError, device
from tests.support import checkpoints
from tests.support.command import run
from tests.support.process import Server

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
    if not any(device._blas_candidates()):
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


@linux
@pytest.mark.skipif(find_spec("scipy_openblas32") is None, reason="needs pip install 'mlx-jina[fast-cpu]'")
def test_the_blas_of_fast_cpu_needs_nothing_of_the_system() -> None:
    name, words = report("import ctypes.util; ctypes.util.find_library = lambda name: None")
    assert name == words
    assert name.startswith("libopenblas")


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
    monkeypatch.setattr(device, "find_spec", {"scipy_openblas32": spec}.get)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", {"openblas": "libopenblas.so.0"}.get)
    assert list(device._blas_candidates()) == [
        str(files["wheel"]),
        str(files["conda"]),
        "libopenblas.so.0",
        str(files["mkl"]),
    ]
    # Later releases of the wheel export only names with a prefix.
    files["wheel"].rename(files["wheel"].with_name("libscipy_openblas.so"))
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    assert list(device._blas_candidates()) == [str(files["conda"]), str(files["mkl"])]


# The command line where there is no fast BLAS.
SLOW = (
    sys.executable,
    "-W",
    "error",
    "-c",
    "from mlx_jina import cli, device\ndevice._blas_candidates = lambda: iter(())\ncli.main()",
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
    code = "device._blas_candidates = lambda: iter(())\nimport mlx_jina\nmlx_jina.load('pocket').encode('a text')"
    name, words = report(code)
    assert (name, "bundled reference BLAS" in words) == ("None", True)


# Prints what other code in a process depends on: whether the environment is as it was, MLX's cache limit, and
# whether malloc maps 31 MB anew ("?" if it cannot say). It does so by default, as nothing as large was ever freed,
# and not once mallopt has told it to keep what is smaller than 32 MB.
PROCESS = """
import ctypes, os, sys
import mlx_jina

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.getenv.restype = ctypes.c_char_p

class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

def mapped():
    libc.mallinfo2.restype = Mallinfo2
    return libc.mallinfo2().hblks

def maps():
    if not hasattr(libc, "mallinfo2"):
        return "?"
    before = mapped()
    libc.malloc(31 << 20)
    return mapped() > before

environment = dict(os.environ)
mlx_jina.load
import mlx.core as mx
mx.set_cache_limit(123456789)

def report():
    same = dict(os.environ) == environment and libc.getenv(b"OPENBLAS_THREAD_TIMEOUT") is None
    limit = mx.set_cache_limit(123456789)
    mx.set_cache_limit(limit)
    print(same, limit, maps())

model = mlx_jina.load(sys.argv[1])
model.encode(["the fox", "the quick brown fox jumps over the lazy dog"])
report()
{then}
report()
"""


def process(folder: Path, then: str) -> tuple[str, str]:
    """What is reported after `load` and `encode`, and after what comes then."""
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_THREAD_TIMEOUT"}
    command = [sys.executable, "-c", PROCESS.replace("{then}", then), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    before, after = done.stdout.splitlines()
    return before, after


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.tiny_jina_bert(tmp_path_factory.mktemp("v2"))


def test_loading_and_encoding_leave_the_process_alone(folder: Path) -> None:
    before, after = process(folder, "mlx_jina.limit_cache(1 << 20)")
    assert before in ("True 123456789 True", "True 123456789 ?")
    assert after == before.replace("123456789", str(1 << 20))


@pytest.mark.skipif(device.on_gpu() or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's malloc only")
def test_what_suits_a_cpu_is_left_to_malloc(folder: Path) -> None:
    _, after = process(folder, "mlx_jina.limit_cache()")
    assert after == "True 0 False"


@linux
def test_a_program_of_ours_tunes_its_process(folder: Path) -> None:
    """As the command line does before it loads a model."""
    _, after = process(folder, "from mlx_jina.cli.encode import open_model; open_model(sys.argv[1], {})")
    assert after.startswith("False ")
    assert "123456789" not in after


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(InputError, match="limit=-1 must be a number of bytes"):
        device.limit_cache(-1)


def test_a_gpu_keeps_a_sixteenth(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "set_cache_limit", limits.append)
    for info in (
        {"max_recommended_working_set_size": 8 << 30},
        {"max_recommended_working_set_size": 96 << 30},
        {"memory_size": 4 << 30},
        {},
    ):
        monkeypatch.setattr(mx, "device_info", lambda info=info: info)
        device.limit_cache()
    assert limits == [512 << 20, 1 << 30, 256 << 20, 256 << 20]


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    assert device.compute_dtype(mx.bfloat16) == mx.float32
    assert device.compute_dtype(mx.bfloat16, "float16") == mx.float16
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    assert device.compute_dtype(mx.bfloat16) == mx.bfloat16
    with pytest.raises(InputError, match="dtype='int4' is not one of"):
        device.compute_dtype(mx.float32, "int4")
