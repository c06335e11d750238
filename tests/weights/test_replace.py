"""Interrupted conversions leave the old target whole, and --force replaces only what a conversion wrote."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mlx_jina
from mlx_jina.errors import InputError
from mlx_jina.weights import convert
from tests.support import checkpoints


class TestForce:
    """--force replaces what a conversion wrote, and nothing else."""

    def test_a_folder_with_other_things(self, bert: Path, tmp_path: Path) -> None:
        target = tmp_path / "thesis"
        target.mkdir()
        (target / "thesis.txt").write_text("years of work", encoding="utf-8")
        with pytest.raises(InputError, match=r"also holds thesis\.txt, which no conversion wrote"):
            convert.to_mlx(str(bert), target, force=True)
        target.rename(tmp_path / "new.partial")
        with pytest.raises(InputError, match=r"also holds thesis\.txt, which no conversion wrote"):
            convert.to_mlx(str(bert), tmp_path / "new")
        assert (tmp_path / "new.partial" / "thesis.txt").exists()

    def test_a_folder_around_the_source(self, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        around = tmp_path / "around"
        around.mkdir()
        inside = bert.rename(around / "adapters")
        with pytest.raises(InputError, match=r"is in .*around, which would be replaced"):
            convert.to_mlx(str(inside), around, force=True)
        monkeypatch.chdir(around)
        with pytest.raises(InputError, match="would be replaced"):
            convert.to_mlx("adapters", Path(), force=True)
        assert mlx_jina.load(inside).dimension == 64

    def test_a_file_of_the_source(self, bert: Path, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        convert.to_gguf(str(bert), tmp_path / "m" / "m.gguf")
        before = (tmp_path / "m" / "m.gguf").read_bytes()
        for make in (convert.to_gguf, convert.to_mlx):
            with pytest.raises(InputError, match=r"may be a part of it|would be replaced|also holds"):
                make(str(tmp_path / "m"), tmp_path / "m" / "m.gguf", force=True)
        assert (tmp_path / "m" / "m.gguf").read_bytes() == before

    def test_what_was_made_before_is_replaced(self, small: Path, tmp_path: Path) -> None:
        for _ in range(2):
            convert.to_mlx(str(small), tmp_path / "out", force=True)
        assert set(mlx_jina.load(tmp_path / "out").tasks) == set(mlx_jina.load(small).tasks)


FULL = """
import resource, signal, sys
from pathlib import Path
from mlx_jina.weights import convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150000, resource.RLIM_INFINITY))
try:
    getattr(convert, sys.argv[1])(sys.argv[2], Path(sys.argv[3]), force=True)
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize(("function", "name"), [("to_gguf", "new.gguf"), ("to_mlx", "new")])
@pytest.mark.parametrize("make", [checkpoints.tiny_jina_bert, checkpoints.v5_small])
def test_a_full_disk_leaves_nothing_new(
    tmp_path: Path, make: Callable[[Path], Path], function: str, name: str
) -> None:
    source, target = make(tmp_path / "model"), tmp_path / name
    # Files beside the target: of v5-small the adapters, which fit where the base does not.
    beside = [f"lora-{task}-{name}" for task in checkpoints.V5_TASKS] if make is checkpoints.v5_small else []
    wanted = sorted(["model", name, *beside]) if function == "to_gguf" else ["model", name]
    for there in (False, True):
        if there:
            getattr(convert, function)(str(source), target)
        done = subprocess.run(
            [sys.executable, "-c", FULL, function, str(source), str(target)], capture_output=True, text=True
        )
        assert done.stdout.split() == [str(errno.EFBIG), str(target)], done.stderr
        assert sorted(os.listdir(tmp_path)) == (wanted if there else ["model"])
    mlx_jina.load(target)


SLOW = """
import sys, time
from pathlib import Path
from mlx_jina.weights import convert, source
make = source.Weight.__init__
def slow(weight, shape, dtype, function, pack=None):
    def later():
        time.sleep(0.1)
        return function()
    make(weight, shape, dtype, later, pack)
source.Weight.__init__ = slow
getattr(convert, sys.argv[1])(sys.argv[2], Path(sys.argv[3]), force=True)
"""


@pytest.mark.parametrize(("function", "name"), [("to_gguf", "new.gguf"), ("to_mlx", "new")])
def test_a_killed_conversion_leaves_the_old_and_the_next_succeeds(
    tmp_path: Path, function: str, name: str
) -> None:
    source, target = checkpoints.tiny_jina_bert(tmp_path / "model"), tmp_path / name
    getattr(convert, function)(str(source), target)
    before = mlx_jina.load(target).fingerprint()
    process = subprocess.Popen([sys.executable, "-c", SLOW, function, str(source), str(target)])
    beside = tmp_path / f"{name}.partial"
    deadline = time.monotonic() + 60
    while not beside.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert beside.exists()
    assert mlx_jina.load(target).fingerprint() == before
    getattr(convert, function)(str(source), target, force=True)
    assert sorted(os.listdir(tmp_path)) == ["model", name]
    assert mlx_jina.load(target).fingerprint() == before


def test_the_old_folder_stays_until_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (checkpoints.tiny_jina_bert(tmp_path / f"model-{i}", seed=i) for i in (1, 2))
    target = tmp_path / "mlx"
    convert.to_mlx(str(first), target)
    old = mlx_jina.load(target).fingerprint()
    moved = os.replace

    def failing(before: Path, after: Path) -> None:
        if after == target and before.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        moved(before, after)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="Input/output error"):
            convert.to_mlx(str(second), target, force=True)
    assert mlx_jina.load(target).fingerprint() == old
    assert sorted(os.listdir(tmp_path)) == ["mlx", "model-1", "model-2"]
    with pytest.raises(InputError, match="--force"):
        convert.to_mlx(str(second), target)
    convert.to_mlx(str(second), target, force=True)
    assert mlx_jina.load(target).fingerprint() == mlx_jina.load(second).fingerprint() != old
    assert sorted(os.listdir(tmp_path)) == ["mlx", "model-1", "model-2"]
