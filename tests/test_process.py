"""What a program sets for its whole process, and `load` leaves alone."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_jina
from mlx_jina import InputError, device, process
from tests.support import checkpoints, v3_checkpoints

linux = pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is chosen on Linux only")


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
    # On a GPU `load` asks for products in float32, and says so.
    environment["MLX_ENABLE_TF32"] = os.environ.get("MLX_ENABLE_TF32", "")
    same = {"MLX_ENABLE_TF32": "", **os.environ} == environment and libc.getenv(b"OPENBLAS_THREAD_TIMEOUT") is None
    limit = mx.set_cache_limit(123456789)
    mx.set_cache_limit(limit)
    print(same, limit, maps())

model = mlx_jina.load(sys.argv[1])
model.encode(["the fox", "the quick brown fox jumps over the lazy dog"])
report()
{then}
report()
"""


def after_load(folder: Path, then: str) -> tuple[str, str]:
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
    before, after = after_load(folder, "mlx_jina.limit_cache(1 << 20)")
    assert before in ("True 123456789 True", "True 123456789 ?")
    assert after == before.replace("123456789", str(1 << 20))


@pytest.mark.skipif(device.on_gpu() or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's malloc only")
def test_what_suits_a_cpu_is_left_to_malloc(folder: Path) -> None:
    _, after = after_load(folder, "mlx_jina.limit_cache()")
    assert after == "True 0 False"


@linux
def test_a_program_of_ours_tunes_its_process(folder: Path) -> None:
    """As the command line does before it loads a model."""
    _, after = after_load(folder, "from mlx_jina.cli.encode import open_model; open_model(sys.argv[1], {})")
    assert after.startswith("False ")
    assert "123456789" not in after


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(InputError, match="limit=-1 must be a number of bytes"):
        process.limit_cache(-1)


def test_a_gpu_keeps_a_sixteenth(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "set_cache_limit", limits.append)
    for info in (
        {"max_recommended_working_set_size": 8 << 30},
        {"max_recommended_working_set_size": 96 << 30},
        {"total_memory": 4 << 30},
    ):
        monkeypatch.setattr(mx, "device_info", lambda info=info: info)
        process.limit_cache()
    assert limits == [512 << 20, 1 << 30, int(0.95 * (4 << 30)) // 16]


def test_products_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own setting stays."""
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    device.keep_float32()
    assert os.environ["MLX_ENABLE_TF32"] == "0"
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    device.keep_float32()
    assert os.environ["MLX_ENABLE_TF32"] == "1"
    # A CPU has nothing else.
    assert device.multiplies_float32() or device.on_gpu()


def test_whoever_asks_for_float32_and_does_not_get_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.tiny_jina_bert(tmp_path)
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(device, "multiplies_float32", lambda: False)
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    with pytest.warns(RuntimeWarning, match="set MLX_ENABLE_TF32=0 before it starts"):
        mlx_jina.load(folder, dtype="float32")
    mlx_jina.load(folder, dtype="bfloat16")


def test_weights_stay_wired_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [0]

    def set_wired_limit(limit: int) -> int:
        limits.append(limit)
        return limits[-2]

    monkeypatch.setattr(device, "backend", lambda: "metal")
    monkeypatch.setattr(device, "memory", lambda: 5 << 30)
    monkeypatch.setattr(mx, "set_wired_limit", set_wired_limit)
    with process.wired():
        assert limits == [0, 5 << 30]
    assert limits == [0, 5 << 30, 0]


# As packaged programs on a Mac run.
WITHOUT_STREAMS = """
import sys, logging, traceback
from pathlib import Path
try:
    sys.stdin = sys.stdout = sys.stderr = None
    import mlx_jina
    from mlx_jina.weights import convert
    model = mlx_jina.load("pocket")
    for show in (None, True, False):
        assert model.encode(["a fox"] * 3, show_progress_bar=show, max_length=3).shape == (3, 256)
        model.encode_tokens(["a fox"], show_progress_bar=show)
        model.encode_chunks(["a fox"], "fixed", show_progress_bar=show)
        convert.to_mlx("pocket", Path(sys.argv[2]) / f"mlx{show}", show_progress=show)
        convert.to_gguf("pocket", Path(sys.argv[2]) / f"{show}.gguf", show_progress=show)
    # Warns of its licence by logging.
    mlx_jina.load(sys.argv[3], as_model="v3")
    words = "ok"
except BaseException:
    words = traceback.format_exc()
Path(sys.argv[1]).write_text(words)
"""


def test_programs_without_standard_streams(tmp_path: Path) -> None:
    source = v3_checkpoints.native(tmp_path / "v3", {**v3_checkpoints.V3_TINY, "hidden": 1024, "heads": 16})
    said = tmp_path / "said"
    command = [sys.executable, "-c", WITHOUT_STREAMS, str(said), str(tmp_path), str(source)]
    subprocess.run(command, check=False, timeout=120)
    assert said.read_text() == "ok"
