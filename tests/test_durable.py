"""The order in which every writer works: data is synced, renamed, its folder synced; then what was before goes."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlx_jina import durable
from mlx_jina.cli.app import commands
from mlx_jina.weights import convert
from tests.support import checkpoints

Event = tuple[str, str]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What is synced, renamed and removed, by name and in order."""
    seen: list[Event] = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def name_of(file: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        return f"{path.name}/" if stat.S_ISDIR(os.fstat(file).st_mode) else path.name

    def recorded(file: int) -> None:
        seen.append(("sync", name_of(file)))
        fsync(file)

    def renamed(source: Any, target: Any, **options: Any) -> None:
        seen.append(("rename", Path(target).name))
        replace(source, target, **options)

    def removed(path: Any, **options: Any) -> None:
        seen.append(("remove", Path(path).name))
        unlink(path, **options)

    monkeypatch.setattr(durable, "_FULL_SYNC", None)
    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "unlink", removed)
    return seen


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of open files are in /proc")


def in_order(events: list[Event], *wanted: Event) -> None:
    """These happened, in this order, with or without others between."""
    rest = iter(events)
    for event in wanted:
        assert event in rest, (event, events)


@needs_proc
@pytest.mark.parametrize("name", ["v.npy", "v.jsonl", "v.parquet"])
def test_vectors(tmp_path: Path, events: list[Event], name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    folder = tmp_path / "out"
    folder.mkdir()
    done = CliRunner().invoke(commands, ["encode", "a fox", "the dog", "-o", str(folder / name)])
    assert done.exit_code == 0, done.output
    partial, state = f"{name}.partial", f"{name}.partial.json"
    # The state counts rows that are on disk already, and is whole when it gets its name.
    in_order(events, ("sync", partial), ("sync", f"{state}.new"), ("rename", state), ("sync", "out/"))
    whole = f"{partial}.parquet" if name.endswith("parquet") else partial
    in_order(events, ("rename", state), ("sync", whole), ("rename", name), ("sync", "out/"), ("remove", state))
    if name.endswith("parquet"):
        in_order(events, ("rename", name), ("sync", "out/"), ("remove", partial))


@needs_proc
def test_a_gguf(tmp_path: Path, events: list[Event]) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    (tmp_path / "out").mkdir()
    convert.to_gguf(str(source), tmp_path / "out/m.gguf")
    in_order(events, ("sync", "m.gguf.partial"), ("rename", "m.gguf"), ("sync", "out/"))


@needs_proc
def test_a_folder(tmp_path: Path, events: list[Event]) -> None:
    source = checkpoints.v5_small(tmp_path / "model")
    (tmp_path / "out").mkdir()
    for force in (False, True):
        events.clear()
        convert.to_mlx(str(source), tmp_path / "out/mlx", force=force)
        named = events.index(("rename", "mlx"))
        files = ("config.json", "tokenizer.json", "config_sentence_transformers.json", "model.safetensors")
        adapters = ("adapter_config.json", "adapter_model.safetensors")
        for file in (*files, *adapters):
            assert ("sync", file) in events[:named]
        in_order(
            events, ("sync", "retrieval/"), ("sync", "adapters/"), ("sync", "mlx.partial/"), ("rename", "mlx")
        )
        assert events[named + 1] == ("sync", "out/")
    in_order(events, ("rename", "mlx.replaced"), ("sync", "out/"), ("rename", "mlx"), ("sync", "out/"))


def test_macos_asks_the_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(durable, "_FULL_SYNC", 51)
    monkeypatch.setattr(fcntl, "fcntl", lambda file, command: asked.append(command))
    monkeypatch.setattr(os, "fsync", lambda file: asked.append(0))
    durable.write_text(tmp_path / "x", "y")
    assert asked == [51]

    def unsupported(file: int, command: int) -> None:
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr(fcntl, "fcntl", unsupported)
    durable.sync_path(tmp_path / "x")
    assert asked == [51, 0]
