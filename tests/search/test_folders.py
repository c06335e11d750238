"""Folders that are renamed, moved, swapped, copied or put back keep their own index, and get nobody else's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_jina.encoder import Encoder
from mlx_jina.search import location
from mlx_jina.search.changes import Report
from mlx_jina.search.index import Index

Sync = Callable[[Path], Report]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the indexes are."""
    place = tmp_path / "data"
    monkeypatch.setattr(location, "data_folder", lambda: place)
    return place


@pytest.fixture
def sync(tiny: Encoder) -> Sync:
    """`mlx-jina index FOLDER`."""

    def run(folder: Path) -> Report:
        with Index(location.index_of(folder), tiny) as index:
            return index.sync(folder)

    return run


def made(folder: Path, word: str) -> Path:
    """A folder of notes with the same names as any other."""
    folder.mkdir(parents=True)
    for name in "abc":
        (folder / f"{name}.md").write_text(f"{word} {name}", encoding="utf-8")
    return folder


def found(folder: Path, model: Encoder, word: str) -> list[str]:
    """What `mlx-jina search --index FOLDER WORD` finds, whose sync knows no folder's name."""
    with Index(location.choose(str(folder)), model, create=False) as index:
        index.sync()
        hits = index.search(word, mode="words")
    assert all(Path(hit.absolute_path).read_text(encoding="utf-8").startswith(word) for hit in hits)
    return sorted(hit.absolute_path for hit in hits)


def paths(folder: Path) -> list[str]:
    return [str(folder / f"{name}.md") for name in "abc"]


def test_swapped_names(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    apple, bread = made(tmp_path / "one", "apple"), made(tmp_path / "two", "bread")
    for folder in (apple, bread):
        sync(folder)
    apple.rename(tmp_path / "aside")
    bread.rename(tmp_path / "one")
    (tmp_path / "aside").rename(tmp_path / "two")
    bread, apple = apple, bread
    for _ in range(2):
        assert found(apple, tiny, "apple") == paths(apple)
        assert found(bread, tiny, "bread") == paths(bread)
        assert found(apple, tiny, "bread") == found(bread, tiny, "apple") == []
    assert not sync(apple).changed


def test_a_new_folder_under_an_old_name(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    old = made(tmp_path / "notes", "apple")
    sync(old)
    old = old.rename(tmp_path / "old")
    new = made(tmp_path / "notes", "bread")
    assert sync(new).added
    assert found(old, tiny, "apple") == paths(old)
    assert found(new, tiny, "bread") == paths(new)
    report = sync(old)
    assert [report.added, report.changed, report.moved, report.removed] == [[], [], [], []]
    assert location.index_of(old) != location.index_of(new)


def test_an_empty_folder_that_is_left_under_the_old_name(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    left = made(tmp_path / "notes", "apple")
    sync(left)
    moved = left.rename(tmp_path / "moved")
    left.mkdir()
    report = sync(moved)
    assert report.warnings == [f"{moved} is the folder that was at {left}; its notes are kept"]
    assert [report.added, report.moved] == [[], []]
    left.rmdir()
    assert found(moved, tiny, "apple") == paths(moved)
    with Index(location.index_of(moved), tiny) as index:
        assert index.status().folders == (str(moved),)
        assert not index.duplicates()


def test_from_inside_of_either_folder(
    tmp_path: Path, sync: Sync, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = made(tmp_path / "notes", "apple")
    sync(old)
    old = old.rename(tmp_path / "far")
    new = made(tmp_path / "notes", "bread")
    sync(new)
    for folder in (old, new):
        monkeypatch.chdir(folder)
        assert location.choose(None) == location.index_of(folder)


def test_put_back_from_a_backup(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    folder = made(tmp_path / "notes", "apple")
    sync(folder)
    file = location.index_of(folder)
    shutil.copytree(folder, tmp_path / "far/backup")
    aside = folder.rename(tmp_path / "far/gone")
    shutil.copytree(tmp_path / "far/backup", folder)
    shutil.rmtree(aside)
    assert location.index_of(folder) == file
    assert found(folder, tiny, "apple") == paths(folder)
    # Then it is this folder that is followed.
    renamed = folder.rename(tmp_path / "renamed")
    assert found(renamed, tiny, "apple") == paths(renamed)


def test_a_copy_has_its_own_index(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    folder = made(tmp_path / "notes", "apple")
    sync(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert sync(copy).added
    assert found(folder, tiny, "apple") == paths(folder)
    assert found(copy, tiny, "apple") == paths(copy)


def test_a_name_taken_over_within_one_index(tmp_path: Path, tiny: Encoder) -> None:
    old = made(tmp_path / "notes", "apple")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(old)
        old = old.rename(tmp_path / "old")
        new = made(tmp_path / "notes", "bread")
        report = index.sync(new)
        assert report.warnings == [f"{old} is the folder that was at {new}; its notes are kept"]
        assert len(report.added) == 3
        assert not index.sync().changed
        assert index.status().folders == (str(old), str(new))
        assert sorted(hit.absolute_path for hit in index.search("apple", mode="words")) == paths(old)
        assert sorted(hit.absolute_path for hit in index.search("bread", mode="words")) == paths(new)
