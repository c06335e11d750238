"""Folders that are renamed, moved, swapped, copied or put back keep their own index, and get nobody else's."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mlx_jina.encoder import Encoder
from mlx_jina.errors import InputError
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


def made_other(folder: Path, word: str) -> Path:
    """A folder of notes with names of its own."""
    folder.mkdir()
    for name in "xyz":
        (folder / f"{name}.md").write_text(f"{word} {name}", encoding="utf-8")
    return folder


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


def test_a_new_folder_with_the_inode_and_the_old_name_of_a_deleted_one(
    tmp_path: Path, sync: Sync, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = made(tmp_path / "notes", "apple")
    sync(old)
    file = location.index_of(old)
    moved = old.rename(tmp_path / "moved")
    sync(moved)
    shutil.rmtree(moved)
    new = made_other(old, "bread")
    # Where the file system does not give it the inode by itself.
    file.rename(location.default_file(new))
    with closing(sqlite3.connect(location.default_file(new))) as connection, connection:
        connection.execute("update root set device = ?, inode = ?", (new.stat().st_dev, new.stat().st_ino))
    assert not location.index_of(new).exists()
    sync(new)
    assert found(new, tiny, "bread") == [str(new / f"{name}.md") for name in "xyz"]
    assert found(new, tiny, "apple") == []
    monkeypatch.chdir(new)
    assert location.choose(None) == location.index_of(new)
    assert sorted(folder.path for _, folder in location._known()) == [str(moved), str(new)]


def test_another_folder_has_the_name_of_one_that_moved_away(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    old = made(tmp_path / "notes", "apple")
    sync(old)
    (tmp_path / "far").mkdir()
    old = old.rename(tmp_path / "far/notes")
    new = made_other(tmp_path / "notes", "bread")
    assert not location.index_of(new).exists()
    sync(new)
    for _ in range(2):
        with Index(location.index_of(new), tiny) as index:
            hits = index.search("bread", mode="words")
            assert sorted(hit.absolute_path for hit in hits) == [str(new / f"{name}.md") for name in "xyz"]
            assert index.search("apple", mode="words") == []
        sync(old)
        assert found(old, tiny, "apple") == paths(old)


def test_another_folder_has_the_name_within_one_index(tmp_path: Path, tiny: Encoder) -> None:
    old, kept = made(tmp_path / "notes", "apple"), made(tmp_path / "kept", "carrot")
    (tmp_path / "far").mkdir()
    with Index(tmp_path / "index.db", tiny) as index:
        for folder in (old, kept):
            index.sync(folder)
        moved = old.rename(tmp_path / "far/notes")
        new = made_other(old, "bread")
        report = index.sync()
        (warning,) = report.warnings
        assert warning.startswith(f"{new} is not the folder that was indexed under this name")
        assert warning.endswith(f"mlx-jina index {new} --forget --index {index.file}")
        assert not report.any_changes()
        with pytest.raises(InputError, match="is not the folder that was indexed"):
            index.sync(new)
        assert len(index.search("apple", mode="words")) == 3
        # Either it is found again,
        assert [str(each) for each in index.sync(moved).warnings] == [
            f"{moved} is the folder that was at {old}; its notes are kept"
        ]
        assert len(index.sync(new).added) == 3
        # or let go.
        new.rename(tmp_path / "far/new")
        index.forget(old)
        assert index.status().folders == (str(moved), str(kept))
        assert index.search("bread", mode="words") == []
        assert index.check() == []
        with pytest.raises(InputError, match=f"does not have {old}; it has {moved}, {kept}"):
            index.forget(old)
        # By its new name, before anything has seen it, and the last one with the file.
        renamed = moved.rename(tmp_path / "renamed")
        assert [index.forget(renamed), index.forget(kept)] == [False, True]
        assert not index.file.exists()


def test_an_empty_place_deletes_nothing(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    """As that of a disk that is not mounted."""
    folder = made(tmp_path / "disk", "apple")
    sync(folder)
    (tmp_path / "far").mkdir()
    away = folder.rename(tmp_path / "far/disk")
    folder.mkdir()
    with Index(location.choose(str(folder)), tiny, create=False) as index:
        assert "a disk may be missing" in index.sync().warnings[0]
        assert len(index.search("apple", mode="words")) == 3
    assert not sync(folder).any_changes()
    folder.rmdir()
    away.rename(folder)
    assert found(folder, tiny, "apple") == paths(folder)
    folder.rename(tmp_path / "far/disk")
    folder.mkdir()
    with Index(location.index_of(folder), tiny) as index:
        assert len(index.sync(folder, allow_mass_delete=True).removed) == 3


def test_a_renamed_folder_below_another_one(
    tmp_path: Path, sync: Sync, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = made(tmp_path / "around", "apple")
    inner = made(around / "inner", "bread")
    for folder in (around, inner):
        sync(folder)
    own = location.index_of(inner)
    inner = inner.rename(around / "renamed")
    monkeypatch.chdir(inner)
    assert location.choose(None) == own
    assert found(inner, tiny, "bread") == paths(inner)


def test_a_folder_that_moved_into_another_one_of_the_index(tmp_path: Path, tiny: Encoder) -> None:
    inner, around = made(tmp_path / "inner", "apple"), made(tmp_path / "around", "bread")
    with Index(tmp_path / "index.db", tiny) as index:
        for folder in (inner, around):
            index.sync(folder)
        moved = inner.rename(around / "inner")
        dry = index.sync(dry_run=True)
        assert index.status().folders == (str(inner), str(around))
        report = index.sync()
        assert (
            report.warnings == dry.warnings == [f"{inner} is in {around} now, and no folder of its own any more"]
        )
        assert index.status().folders == (str(around),)
        assert sorted(hit.absolute_path for hit in index.search("apple", mode="words")) == paths(moved)
        assert index.check() == []


def test_a_folder_that_moved_into_another_one_that_does_not_read_it(tmp_path: Path, tiny: Encoder) -> None:
    inner, around = made(tmp_path / "inner", "apple"), made(tmp_path / "around", "bread")
    (around / ".gitignore").write_text("inner\n")
    with Index(tmp_path / "index.db", tiny) as index:
        for folder in (inner, around):
            index.sync(folder)
        moved = inner.rename(around / "inner")
        for _ in range(2):
            assert index.sync().removed == []
            assert index.status().folders == (str(moved), str(around))
            assert sorted(hit.absolute_path for hit in index.search("apple", mode="words")) == paths(moved)


@pytest.mark.parametrize("count", [2, 3])
def test_folders_of_one_index_change_places(tmp_path: Path, tiny: Encoder, count: int) -> None:
    """All at once: none is taken for another one, or for one that is gone."""
    folders = [tmp_path / f"folder{n}" for n in range(count)]
    with Index(tmp_path / "index.db", tiny) as index:
        for n, folder in enumerate(folders):
            folder.mkdir()
            (folder / f"note{n}.md").write_text(f"note of number{n}")
            index.sync(folder)
        for n, folder in enumerate(folders):
            folder.rename(tmp_path / f"aside{n}")
        for n in range(count):
            (tmp_path / f"aside{n}").rename(folders[(n + 1) % count])
        report = index.sync()
        assert (report.any_changes(), len(report.warnings)) == (False, count)
        for n in range(count):
            (hit,) = index.search(f"number{n}", mode="words")
            assert hit.absolute_path == str(folders[(n + 1) % count] / f"note{n}.md")
        assert index.sync().warnings == []


def test_one_folder_has_the_place_of_another_one_that_was_deleted(tmp_path: Path, tiny: Encoder) -> None:
    apple, bread = made(tmp_path / "apple", "apple"), made_other(tmp_path / "bread", "bread")
    with Index(tmp_path / "index.db", tiny) as index:
        for folder in (apple, bread):
            index.sync(folder)
        shutil.rmtree(bread)
        apple.rename(bread)
        assert index.sync().warnings == [
            f"{apple} has the place of {bread} now, and what that was is forgotten",
            f"{bread} is the folder that was at {apple}; its notes are kept",
        ]
        assert sorted(hit.absolute_path for hit in index.search("apple", mode="words")) == paths(bread)
        assert index.search("bread", mode="words") == []


def test_the_folder_that_is_there_is_forgotten(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    """And not the one that had its name before."""
    old = made(tmp_path / "notes", "apple")
    sync(old)
    renamed = old.rename(tmp_path / "renamed")
    new = made_other(tmp_path / "notes", "bread")
    sync(new)
    assert location.remembering(str(new)) == location.index_of(new)
    assert location.remembering(str(renamed)) == location.index_of(renamed)
    with Index(location.remembering(str(new)), tiny) as index:
        assert index.forget(new)
    assert found(renamed, tiny, "apple") == paths(renamed)


def test_a_folder_and_its_copy_change_places(tmp_path: Path, sync: Sync, tiny: Encoder) -> None:
    folder = made(tmp_path / "notes", "apple")
    sync(folder)
    (tmp_path / "far").mkdir()
    copy = Path(shutil.copytree(folder, tmp_path / "far/copy"))
    folder.rename(tmp_path / "aside")
    copy.rename(folder)
    moved = (tmp_path / "aside").rename(copy)
    with Index(location.choose(str(moved)), tiny, create=False) as index:
        assert index.sync(moved).warnings == [f"{moved} is the folder that was at {folder}; its notes are kept"]
        assert index.status().folders == (str(moved),)
