"""`--watch`: what the system reports, and how often that is acted upon."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from mlx_jina import Index, InputError
from mlx_jina.cli.index import index as index_command
from mlx_jina.encoder import Encoder
from mlx_jina.search import watch
from mlx_jina.search.changes import Report


class Changes:
    """What watchfiles would report, at moments of a clock of one's own."""

    def __init__(self, moments: list[tuple[float, set[str]]]) -> None:
        self.moments = moments
        self.now = 0.0

    def __call__(self, *folders: str, **options: object) -> object:
        for moment, paths in self.moments:
            self.now = moment
            yield {(1, path) for path in paths}

    def time(self) -> float:
        """Seconds."""
        return self.now


def synced(moments: list[tuple[float, set[str]]], monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """When an index is synchronised for these reports, and whether with vectors."""
    pytest.importorskip("watchfiles")
    changes = Changes(moments)
    calls: list[tuple[float, bool]] = []

    class Fake:
        def status(self) -> object:
            return type("Status", (), {"folders": ("/notes",)})

        def sync(self, *, vectors: bool, **_: object) -> Report:
            calls.append((changes.now, vectors))
            return Report()

    monkeypatch.setattr("watchfiles.watch", changes)
    monkeypatch.setattr(watch.time, "time", changes.time)  # type: ignore[attr-defined]
    assert len(list(watch.follow(Fake()))) == len(calls)  # type: ignore[arg-type]
    return calls


def test_who_types_is_not_embedded_with_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    typing = [(second, {"/notes/a.md"}) for second in range(2, 13, 2)]
    silence: list[tuple[float, set[str]]] = [(20, set()), (25, set())]
    assert synced([*typing, *silence], monkeypatch) == [
        (2, False),
        (4, False),
        (6, True),
        (8, False),
        (10, False),
        (12, True),
    ]
    # What is left over comes when it is quiet.
    assert synced([(6, {"/notes/a.md"}), (8, {"/notes/a.md"}), (13, set()), (18, set())], monkeypatch) == [
        (6, True),
        (8, False),
        (13, True),
    ]


def test_a_whole_scan_now_and_then_and_after_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet: list[tuple[float, set[str]]] = [(second, set()) for second in (5, 300, 599, 601, 605, 5000, 5005)]
    assert [moment for moment, _ in synced(quiet, monkeypatch)] == [601, 5000]
    # A clock that is set back is no reason to wait for ever.
    back: list[tuple[float, set[str]]] = [(700, set()), (100, set()), (105, set())]
    assert [moment for moment, _ in synced(back, monkeypatch)] == [700, 100]


def test_hidden_paths() -> None:
    folders = ("/home/me/.notes", "/vault")
    for path in (
        "/vault/.obsidian/workspace.json",
        "/vault/sub/.trash/a.md",
        "/vault/.git",
        "/home/me/.notes/.x/a.md",
    ):
        assert watch.is_hidden(path, folders), path
    for path in (
        "/vault/a.md",
        "/home/me/.notes/a.md",
        "/vault/.gitignore",
        "/vault/sub/.mlx-jina-ignore",
        "/vault/b",
    ):
        assert not watch.is_hidden(path, folders), path


def test_a_folder_is_followed(folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    pytest.importorskip("watchfiles")
    (folder / "a.md").write_text("words")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        stop = threading.Event()
        timers = [
            threading.Timer(0.3, lambda: (folder / "b.md").write_text("more")),
            threading.Timer(60, stop.set),
        ]
        for timer in timers:
            timer.start()
        seen = []
        for report in watch.follow(index, stop=stop):
            seen += report.added + report.warnings
            if report.added:
                # A disk that is away ends nothing.
                (tmp_path / "far").mkdir()
                folder.rename(tmp_path / "far/away")
            if report.warnings:
                stop.set()
        for timer in timers:
            timer.cancel()
        assert seen[0] == "b.md"
        assert "keeps its notes" in seen[-1]


def test_what_it_needs_is_said(tmp_path: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with Index(tmp_path / "index.db", tiny) as index, pytest.raises(InputError, match=r"mlx-jina\[watch\]"):
        next(watch.follow(index))


def test_what_it_needs_is_said_before_anything_is_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputError, match=r"mlx-jina\[watch\]"):
        index_command.main(["notes", "--watch", "--index", str(tmp_path / "index.db")], standalone_mode=False)
    assert not (tmp_path / "index.db").exists()
