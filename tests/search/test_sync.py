"""An index follows its folder: what is new, changed, moved, gone, unreadable, or away for a while."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlx_jina import Index, InputError, Where, encoder
from mlx_jina.encoder import Encoder
from mlx_jina.errors import IndexFileError
from mlx_jina.search import updating, walk
from tests.support.notes import age, assert_as_new, dump

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.options import LoadOptions, VectorOptions


@pytest.fixture
def index(tmp_path: Path, tiny: Encoder) -> Iterator[Index]:
    """An index without a folder yet."""
    with Index(tmp_path / "index.db", tiny) as opened:
        yield opened


def paths(index: Index) -> set[str]:
    """Of all notes."""
    return {row.path for row in index.rows()}


def write(folder: Path, **notes: str) -> None:
    """Files in Markdown, "__" in their names standing for "/"."""
    for name, text in notes.items():
        path = folder / (name.replace("__", "/") + ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_changed_is_said_and_done(index: Index, folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    write(folder, a="apple", b="brake", sub__c="concert")
    report = index.sync(folder)
    assert sorted(report.added) == ["a.md", "b.md", "sub/c.md"]
    assert (report.vectors, report.without_vectors) == (3, 0)
    write(folder, a="another apple")
    (folder / "b.md").unlink()
    (folder / "sub/c.md").rename(folder / "c.md")
    write(folder, d="dough")
    report = index.sync()
    assert (report.changed, report.added, report.removed) == (["a.md"], ["d.md"], ["b.md"])
    assert report.moved == [("sub/c.md", "c.md")]
    assert_as_new(index.file, folder, tiny, tmp_path / "fresh")


def test_nothing_changed_writes_nothing(index: Index, folder: Path) -> None:
    write(folder, a="apple", b="brake")
    age(folder)
    index.sync(folder)
    connection = sqlite3.connect(index.file)
    before = connection.execute("pragma data_version").fetchone()
    report = index.sync()
    assert (report.unchanged, report.any_changes()) == (2, False)
    assert connection.execute("pragma data_version").fetchone() == before
    connection.close()


def test_one_change_is_one_transaction_of_words(index: Index, folder: Path) -> None:
    write(folder, a="apple", b="brake", c="concert")
    age(folder)
    index.sync(folder)

    def generation() -> int:
        connection = sqlite3.connect(index.file)
        value = connection.execute("select value from meta where key = 'generation'").fetchone()[0]
        connection.close()
        return int(value)

    before = generation()
    write(folder, a="another apple", d="dough")
    (folder / "b.md").unlink()
    index.sync(vectors=False)
    assert generation() == before + 1


def test_a_touched_file_keeps_all_it_has(index: Index, folder: Path) -> None:
    write(folder, a="apple")
    index.sync(folder)
    before = dump(index.file)["a.md"]
    age(folder, -5)
    report = index.sync()
    assert report.unchanged == 1
    after = dump(index.file)["a.md"]
    assert after["chunks"] == before["chunks"]
    assert after["vec"] == before["vec"]
    assert after["note"] != before["note"]


def test_a_young_file_is_read_again(index: Index, folder: Path) -> None:
    # Same size, same time, same inode: only its content says that it changed.
    write(folder, a="apple")
    index.sync(folder)
    status = (folder / "a.md").stat()
    with open(folder / "a.md", "r+") as file:
        file.write("brake")
    os.utime(folder / "a.md", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index.sync().changed == ["a.md"]
    assert index.search("brake", mode="words")


def test_an_old_file_is_read_again_only_on_demand(index: Index, folder: Path) -> None:
    write(folder, a="apple")
    age(folder)
    index.sync(folder)
    status = (folder / "a.md").stat()
    with open(folder / "a.md", "r+") as file:
        file.write("brake")
    os.utime(folder / "a.md", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index.sync().changed == []
    assert index.sync(verify=True).changed == ["a.md"]


def test_a_time_that_goes_backwards_is_a_change(index: Index, folder: Path) -> None:
    write(folder, a="apple")
    index.sync(folder)
    write(folder, a="brake")
    age(folder, 1000)
    assert index.sync().changed == ["a.md"]


def test_moves_embed_nothing(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch, tiny: Encoder) -> None:
    write(folder, **{f"old__n{n}": f"# Title {n}\n\nSome words {n}" for n in range(20)})
    age(folder)
    index.sync(folder)
    (folder / "old").rename(folder / "new")
    monkeypatch.setattr(tiny, "encode_document", lambda *_, **__: pytest.fail("embedded"))
    monkeypatch.setattr(updating.Update, "_bytes", lambda *_: pytest.fail("read"))
    report = index.sync()
    assert len(report.moved) == 20
    assert not report.added
    assert not report.removed


def test_copies_and_undo_embed_nothing(
    index: Index, folder: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, a="# Apple\n\nSome words", b="# Brake\n\nOther words")
    index.sync(folder)
    shutil.copy(folder / "a.md", folder / "copy.md")
    (folder / "b.md").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(tiny, "encode_document", lambda *_, **__: pytest.fail("embedded"))
        assert index.sync().vectors == 1
        # The cache remembers what was deleted.
        write(folder, b="# Brake\n\nOther words")
        assert index.sync().vectors == 1


def test_a_folder_that_was_renamed_is_followed(index: Index, folder: Path) -> None:
    (folder / "a.md").write_text("bread")
    index.sync(folder)
    renamed = folder.rename(folder.with_name("renamed"))
    (renamed / "b.md").write_text("axolotl")
    report = index.sync()
    assert (report.added, report.unchanged) == (["b.md"], 1)
    assert report.warnings == [f"{renamed} is the folder that was at {folder}; its notes are kept"]
    assert index.search("axolotl")[0].absolute_path == str(renamed / "b.md")
    assert index.sync().warnings == []


def test_a_folder_that_was_moved_is_followed_from_within(
    index: Index, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub").mkdir()
    (folder / "a.md").write_text("bread")
    index.sync(folder)
    (tmp_path / "far").mkdir()
    moved = folder.rename(tmp_path / "far/away")
    with pytest.raises(InputError, match="once the folder is back"):
        index.sync()
    monkeypatch.chdir(moved / "sub")
    assert index.sync(dry_run=True).warnings
    assert index.status().folders == (str(folder),)
    index.sync()
    assert index.status().folders == (str(moved),)


def test_a_new_folder_is_none_that_was_renamed(index: Index, folder: Path) -> None:
    """Though a file system gives it the inode of one that is gone."""
    (folder / "a.md").write_text("bread")
    index.sync(folder)
    renamed = folder.rename(folder.with_name("renamed"))
    (renamed / "a.md").rename(renamed / "other.md")
    with pytest.raises(InputError, match="once the folder is back"):
        index.sync()


def test_a_moved_copy_on_another_disk_is_still_a_move(index: Index, folder: Path) -> None:
    write(folder, a="# Apple\n\nSome words")
    index.sync(folder)
    ids = {row.id for row in index.rows()}
    # Another inode, the same content.
    write(folder, sub__a="# Apple\n\nSome words")
    (folder / "a.md").unlink()
    assert index.sync().moved == [("a.md", "sub/a.md")]
    assert {row.id for row in index.rows()} == ids


def test_a_new_name_is_a_new_title(index: Index, folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    write(folder, first="Some words", titled="# Title\n\nWords")
    index.sync(folder)
    (folder / "first.md").rename(folder / "second.md")
    (folder / "titled.md").rename(folder / "renamed.md")
    index.sync()
    assert [hit.path for hit in index.search("second", mode="words")] == ["second.md"]
    assert index.search("first", mode="words") == []
    assert [hit.path for hit in index.search("renamed", mode="words")] == ["renamed.md"]
    assert_as_new(index.file, folder, tiny, tmp_path / "fresh")


def test_two_names_are_swapped(index: Index, folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    write(folder, a="apple words", b="brake words")
    index.sync(folder)
    (folder / "a.md").rename(folder / "x")
    (folder / "b.md").rename(folder / "a.md")
    (folder / "x").rename(folder / "b.md")
    index.sync()
    assert_as_new(index.file, folder, tiny, tmp_path / "fresh")


def test_letter_case_is_a_name(index: Index, folder: Path) -> None:
    write(folder, Readme="one note")
    index.sync(folder)
    (folder / "Readme.md").rename(folder / "README.md")
    assert index.sync().moved == [("Readme.md", "README.md")]
    # On Linux both may be there, and so may names that differ by little else.
    write(folder, Readme="two notes", my_note="three", **{"my note": "four", "my%note": "five"})
    index.sync()
    assert paths(index) == {"README.md", "Readme.md", "my_note.md", "my note.md", "my%note.md"}
    assert [hit.path for hit in index.search("three four", mode="words", where=Where(glob="my_note.md"))] == [
        "my_note.md"
    ]
    assert [hit.path for hit in index.search("three four five", mode="words", where=Where(glob="my%note.md"))] == [
        "my%note.md"
    ]


def test_names_are_compared_in_nfc_and_opened_as_they_are(index: Index, folder: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café.md") for form in ("NFC", "NFD"))
    (folder / decomposed).write_text("words of the note")
    index.sync(folder)
    (hit,) = index.search("words", mode="words")
    assert hit.path == composed
    assert Path(hit.absolute_path).read_text() == "words of the note"
    # A Mac may give back the other spelling after a copy; it is the same note.
    (folder / decomposed).rename(folder / composed)
    report = index.sync()
    assert not report.any_changes()
    assert Path(index.search("words", mode="words")[0].absolute_path).exists()
    # Linux can hold both.
    (folder / decomposed).write_text("another note")
    index.sync()
    assert len(paths(index)) == 2


def test_names_that_are_no_unicode(index: Index, folder: Path) -> None:
    with open(os.fsencode(folder) + b"/caf\xe9 \xff.md", "w") as file:
        file.write("words of the note")
    index.sync(folder)
    (hit,) = index.search("words", mode="words")
    assert hit.path == "caf\\xe9 \\xff.md"
    assert os.path.exists(hit.absolute_path)
    assert hit.uri.endswith("caf%E9%20%FF.md")
    assert index.sync().unchanged == 1


def test_ignored_files_and_folders(index: Index, folder: Path) -> None:
    write(
        folder,
        a="apple",
        drafts__b="brake",
        build__c="x",
        keep__build__d="x",
        node_modules__e="x",
    )
    for name in (".obsidian/x.md", ".hidden.md", "note.md~", "image.png", "__pycache__/x.py", "sub/secret.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("hidden")
    (folder / ".gitignore").write_text("/build\n*.log\n!\n")
    (folder / "sub/.gitignore").write_text("secret.md\n")
    (folder / ".mlx-jina-ignore").write_text("drafts/\n")
    index.sync(folder)
    assert paths(index) == {"a.md", "keep/build/d.md"}
    (folder / ".mlx-jina-ignore").write_text("# nothing\n")
    assert index.sync().added == ["drafts/b.md"]
    index.sync(folder, exclude=["a.md"])
    assert paths(index) == {"drafts/b.md", "keep/build/d.md"}
    # Kept for the next time.
    index.sync()
    assert paths(index) == {"drafts/b.md", "keep/build/d.md"}
    (folder / "x.log").write_text("log")
    (folder / "y.strange").write_text("strange")
    index.sync(folder, include=["*.strange", "a.md"], exclude=[])
    assert paths(index) == {"a.md", "y.strange"}
    with pytest.raises(InputError, match="not patterns"):
        index.sync(folder, include=["!"])


def test_links_are_not_followed(index: Index, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside, secret="secret")
    write(folder, sub__a="apple")
    (folder / "loop").symlink_to(folder)
    (folder / "sub/up").symlink_to("..")
    (folder / "out").symlink_to(outside)
    (folder / "secret.md").symlink_to(outside / "secret.md")
    (folder / "same.md").symlink_to(folder / "sub/a.md")
    (folder / "dangling.md").symlink_to("nowhere.md")
    index.sync(folder)
    assert paths(index) == {"sub/a.md"}
    # The folder itself may be one.
    (tmp_path / "link").symlink_to(folder)
    assert index.sync(tmp_path / "link").unchanged == 1


def test_a_link_that_takes_a_file_s_place_is_not_followed(
    index: Index, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, a="apple")
    (tmp_path / "secret.md").write_text("secret")

    def late(folder_of_index: str, selection: walk.Selection) -> walk.Scan:
        found = walk.scan(folder_of_index, selection)
        (folder / "a.md").unlink()
        (folder / "a.md").symlink_to(tmp_path / "secret.md")
        return found

    monkeypatch.setattr("mlx_jina.search.sync.scan", late)
    assert [path for path, _ in index.sync(folder).skipped] == ["a.md"]
    assert index.search("secret", mode="words") == []


def test_a_bad_file_stops_nothing(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, good="good words", late="late words", denied="denied words")
    (folder / "binary.md").write_bytes(b"\0\1\2" * 100)
    (folder / "broken.ipynb").write_text("{")
    (folder / "windows.md").write_bytes(b"gr\xfcn")
    index.sync(folder)
    opened = os.open
    errors = {"late.md": errno.ETIMEDOUT, "denied.md": errno.EACCES, "good.md": errno.EDEADLK}

    def failing(path: str, *arguments: int, dir_fd: int | None = None) -> int:
        if (number := errors.get(os.path.basename(path))) is not None:
            raise OSError(number, os.strerror(number))
        return opened(path, *arguments, dir_fd=dir_fd)

    for name in errors:
        (folder / name).write_text("changed words")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        report = index.sync()
    assert {path for path, _ in report.skipped} == set(errors)
    # What was known of them serves until they can be read.
    assert [hit.path for hit in index.search("denied", mode="words")] == ["denied.md"]
    assert set(index.sync().changed) == set(errors)
    status = index.status()
    assert [path for path, _ in status.errors] == ["binary.md", "broken.ipynb"]
    assert [hit.path for hit in index.search("grün", mode="words")] == ["windows.md"]
    (folder / "binary.md").write_text("text now")
    index.sync()
    assert [path for path, _ in index.status().errors] == ["broken.ipynb"]


def test_a_parser_that_fails_stops_nothing(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_jina.search.documents import markdown

    write(folder, a="apple", bad="bad", c="concert")
    read = markdown.read

    def failing(text: str) -> object:
        if text == "bad":
            raise RecursionError("too deep")
        return read(text)

    monkeypatch.setattr(markdown, "read", failing)
    report = index.sync(folder)
    assert report.skipped == [("bad.md", "cannot be parsed (RecursionError: too deep)")]
    assert paths(index) == {"a.md", "c.md"}


def test_large_files_wait_for_a_larger_limit(index: Index, folder: Path) -> None:
    (folder / "large.txt").write_text("word " * 1000)
    report = index.sync(folder, max_size=1000)
    assert report.skipped == [("large.txt", "larger than 1,000 bytes (--max-size)")]
    assert (report.added, report.any_changes()) == ([], False)
    again = index.sync(verify=True)
    assert (again.unchanged, again.unread) == (0, 1)
    assert (index.sync().unchanged, index.sync().unread) == (0, 1)
    index.sync(folder, max_size=10_000)
    assert paths(index) == {"large.txt"}


def test_pdf_without_its_reader_is_tried_again_with_it(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    pytest.importorskip("pypdfium2")
    (folder / "a.pdf").write_bytes(b"%PDF-1.4 nonsense")
    age(folder)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pypdfium2", None)
        assert "pip install" in index.sync(folder).skipped[0][1]
        patch.setattr("mlx_jina.search.changes.has_pdf_reader", lambda: False)
        assert index.sync().skipped == []
    assert "not a PDF" in index.sync().skipped[0][1]


def test_icloud_s_placeholders_keep_their_notes(
    index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, a="apple", sub__b="brake", c="concert")
    age(folder)
    index.sync(folder)
    # The old way: a hidden file in place of the note.
    (folder / "sub/b.md").rename(folder / "sub/.b.md.icloud")
    # The new one: a flag, and a read that would download it.
    monkeypatch.setattr("mlx_jina.search.sync.scan", evicting("a.md", "new.md"))
    write(folder, new="never seen")
    age(folder, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updating.Update, "_bytes", lambda *_: pytest.fail("downloaded"))
        report = index.sync()
    assert {path for path, _ in report.skipped} == {"a.md", "new.md", "sub/b.md"}
    assert not report.any_changes()
    assert paths(index) == {"a.md", "sub/b.md", "c.md"}


def evicting(*names: str) -> object:
    """A scan that sees st_flags as macOS sets them for these files."""

    def scan(folder: str, selection: walk.Selection) -> walk.Scan:
        found = walk.scan(folder, selection)
        for name in names:
            status = os.stat(os.path.join(folder, name))
            flagged = type("Status", (), {"st_flags": 0x40000000 | 0x20})
            assert walk.is_dataless(flagged)  # type: ignore[arg-type]
            assert not walk.is_dataless(status)
            found.entries[name] = found.entries[name]._replace(dataless=True)
        return found

    return scan


def test_a_folder_that_is_away_keeps_its_notes(index: Index, folder: Path, tmp_path: Path) -> None:
    write(folder, a="apple", b="brake")
    index.sync(folder)
    (tmp_path / "else").mkdir()
    folder.rename(tmp_path / "else/where")
    with pytest.raises(InputError, match="keeps its notes"):
        index.sync()
    assert paths(index) == {"a.md", "b.md"}
    # Where a disk was, there may be an empty folder.
    folder.mkdir()
    report = index.sync()
    assert "is empty" in report.warnings[0]
    assert "--allow-mass-delete" in report.warnings[0]
    assert paths(index) == {"a.md", "b.md"}
    assert index.sync(allow_mass_delete=True).removed == ["a.md", "b.md"]


def test_mass_deletes_have_to_be_allowed(index: Index, folder: Path) -> None:
    write(folder, **{f"n{n}": f"note {n}" for n in range(210)})
    index.sync(folder, vectors=False)
    for n in range(150):
        (folder / f"n{n}.md").unlink()
    report = index.sync(vectors=False)
    assert "more than half" in report.warnings[0]
    assert index.status().notes == 210
    assert len(index.sync(vectors=False, allow_mass_delete=True).removed) == 150
    # Less than half, or not many, are somebody's wish.
    for n in range(150, 170):
        (folder / f"n{n}.md").unlink()
    assert len(index.sync(vectors=False).removed) == 20


def test_an_unreadable_folder_keeps_its_notes(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, a="apple", sub__b="brake")
    age(folder)
    index.sync(folder)
    scandir = os.scandir

    def failing(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("sub"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    report = index.sync()
    assert report.skipped == [("sub", "Permission denied")]
    assert not report.removed
    assert paths(index) == {"a.md", "sub/b.md"}


def test_a_moved_folder_is_the_same_folder(index: Index, folder: Path, tmp_path: Path) -> None:
    write(folder, a="apple")
    index.sync(folder)
    folder.rename(tmp_path / "moved")
    report = index.sync(tmp_path / "moved")
    assert report.unchanged == 1
    assert "that was at" in report.warnings[0]
    assert index.status().folders == (str(tmp_path / "moved"),)


def test_folders_of_one_index_do_not_overlap(index: Index, folder: Path, tmp_path: Path) -> None:
    write(folder, sub__a="apple")
    other = tmp_path / "other"
    write(other, b="brake")
    index.sync(folder)
    index.sync(other)
    assert paths(index) == {"sub/a.md", "b.md"}
    for nested in (folder / "sub", tmp_path):
        with pytest.raises(InputError, match="in one another"):
            index.sync(nested)
    # One of them may be away.
    (tmp_path / "far").mkdir()
    other.rename(tmp_path / "far/away")
    report = index.sync()
    assert "keeps its notes" in report.warnings[0]


def test_what_is_no_folder(index: Index, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder yet"):
        index.sync()
    with pytest.raises(InputError, match="does not exist"):
        index.sync(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder"):
        index.sync(tmp_path / "file")


def test_a_dry_run_changes_nothing(index: Index, folder: Path) -> None:
    write(folder, a="apple")
    report = index.sync(folder, dry_run=True)
    assert report.added == ["a.md"]
    assert (index.status().notes, index.status().folders) == (0, ())
    index.sync(folder)
    write(folder, b="brake")
    (folder / "a.md").unlink()
    report = index.sync(dry_run=True)
    assert (report.added, report.removed) == (["b.md"], ["a.md"])
    assert paths(index) == {"a.md"}


def test_words_come_before_vectors_and_new_notes_before_old(index: Index, folder: Path) -> None:
    for n in range(30):
        write(folder, **{f"n{n}": f"# Title {n}\n\n" + "words of a note. " * 50})
        os.utime(folder / f"n{n}.md", (1000 + n, 1000 + n))
    index.sync(folder, vectors=False)
    assert len(index.search("words", limit=50, mode="words")) == 30
    told = []
    index.sync(progress=lambda *each: told.append(each))
    assert told[-1] == ("vectors", 30, 30)
    connection = sqlite3.connect(index.file)
    order = [path for (path,) in connection.execute("select path from note order by id")]
    connection.close()
    assert order == [f"n{n}.md" for n in reversed(range(30))]


def test_a_deadline_leaves_the_rest_for_later(index: Index, folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    write(folder, **{f"n{n}": f"# Title {n}\n\nwords" for n in range(200)})
    report = index.sync(folder, seconds=0)
    assert report.waiting == 200
    report = index.sync(seconds=0.2)
    while report.waiting or report.without_vectors:
        report = index.sync(seconds=0.2)
    assert_as_new(index.file, folder, tiny, tmp_path / "fresh")


def test_a_slow_model_does_not_hold_up_a_search(
    index: Index, folder: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, **{f"n{n}": f"# Title {n}\n\n" + f"words {n} of a note. " * 100 for n in range(60)})
    encode = tiny.encode_document
    texts = 0

    def slow(batch: list[str], **options: Unpack[VectorOptions]) -> object:
        nonlocal texts
        texts += len(batch)
        time.sleep(0.05 * len(batch))
        return encode(batch, **options)

    monkeypatch.setattr(tiny, "encode_document", slow)
    index.sync(folder, vectors=False)
    started = time.monotonic()
    report = index.sync(seconds=0.5)
    assert 0 < report.vectors < 60
    assert report.without_vectors == 60 - report.vectors
    assert time.monotonic() - started < 3


def test_loading_the_model_takes_no_time_from_the_notes(
    folder: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, note="words")
    load = encoder.load

    def slow(name: str, **options: Unpack[LoadOptions]) -> Encoder:
        time.sleep(0.3)
        return load(name, **options)

    monkeypatch.setattr(encoder, "load", slow)
    with Index(tmp_path / "index.db", str(tiny_folder)) as index:
        assert index.sync(folder, seconds=0.2).vectors == 1


def test_a_note_larger_than_any_window_is_embedded_in_parts(
    index: Index, folder: Path, tmp_path: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_jina.search import embedding

    monkeypatch.setattr(embedding, "_FIRST_WINDOW", 600)
    monkeypatch.setattr(embedding, "_LARGEST_WINDOW", 600)
    write(
        folder,
        large="".join(f"## Part {n}\n\nwords of part {n}, and more of them. " * 3 + "\n\n" for n in range(80)),
    )
    index.sync(folder, vectors=False)
    encode = tiny.encode_document
    calls = 0

    def interrupted(batch: list[str], **options: Unpack[VectorOptions]) -> object:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return encode(batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "encode_document", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.sync()
    connection = sqlite3.connect(index.file)
    kept = connection.execute("select count(*) from cache").fetchone()[0]
    connection.close()
    assert kept > 5
    index.sync()
    assert_as_new(index.file, folder, tiny, tmp_path / "fresh")


def test_a_full_disk_loses_nothing(index: Index, folder: Path) -> None:
    write(folder, **{f"n{n}": "words of a note. " * 50 for n in range(20)})
    index.sync(folder, vectors=False)
    with index._database.alone() as connection:
        pages = connection.execute("pragma page_count").fetchone()[0]
        connection.execute(f"pragma max_page_count = {pages}")
    write(folder, **{f"m{n}": f"other words {n} of a note. " * 50 for n in range(150)})
    with pytest.raises(IndexFileError, match="the disk is full"):
        index.sync(vectors=False)
    assert index.check() == []
    assert len(index.search("words", limit=50, mode="words")) >= 20
    with index._database.alone() as connection:
        connection.execute("pragma max_page_count = 1000000")
    index.sync(vectors=False)
    assert index.status().notes == 170
    assert index.check() == []


def test_a_new_ending_is_another_reader(index: Index, folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    (folder / "a.md").write_text("# Title\n\nwords <!-- hidden -->")
    age(folder)
    index.sync(folder)
    (folder / "a.md").rename(folder / "a.txt")
    assert index.sync().moved == [("a.md", "a.txt")]
    assert [hit.title for hit in index.search("hidden", mode="words")] == ["a"]
    assert_as_new(index.file, folder, tiny, tmp_path / "fresh")
