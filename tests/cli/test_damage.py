"""Indexes that are damaged in all kinds of ways: an answer or one line, and `--rebuild` gets out of it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mlx_jina.errors import IndexFileError
from mlx_jina.search import location, schema
from mlx_jina.search.database import Database
from mlx_jina.search.index import Index
from tests.support.checkpoints import tiny_jina_bert
from tests.support.command import run

NOTES = {
    "bread.md": "---\ntags: [food]\naliases: [loaf]\n---\n# Sourdough\n\nFeed the starter with flour. [[car]].\n",
    "car.md": "The engine of the car needs new oil and a belt.\n",
    "long.md": "# Long\n\n" + "".join(f"## Part {n}\n\n" + f"Some words of part {n}. " * 60 for n in range(4)),
}
FAR = "pragma foreign_keys = off"
WRITABLE = "pragma writable_schema = on"
SPACE = "update meta set value = {} where key = 'space'"
DAMAGE: Sequence[Sequence[str]] = (
    # Tables.
    ("drop table fts",),
    ("drop table cache",),
    ("drop table vec",),
    ("drop table meta",),
    (FAR, "drop table root"),
    ("drop view words",),
    ("alter table bits_next rename column b to zz",),
    ("alter table cache rename column at to zz",),
    ("alter table note rename column title to zz",),
    ("pragma user_version = 99",),
    ("pragma user_version = 0",),
    ("pragma user_version = 1",),
    ("pragma user_version = -1",),
    # The index of words.
    ("delete from fts_data",),
    (WRITABLE, "drop table fts_data"),
    (WRITABLE, "drop table fts_idx"),
    (WRITABLE, "drop table fts_docsize"),
    ("delete from fts_docsize",),
    ("delete from fts_config",),
    ("update fts_docsize set sz = 'abcd'",),
    ("update fts_data set block = x'' where id = 1",),
    ("update fts_data set block = x'01010101' where id = 1",),
    ("create trigger hi before update on note begin select raise(abort, 'hi'); end",),
    # What is said of all of it.
    ("delete from meta",),
    (SPACE.format("'[]'"),),
    (SPACE.format("'x'"),),
    (SPACE.format("null"),),
    ("delete from meta where key = 'space'",),
    (SPACE.format("""'{"model": 5}'"""),),
    (SPACE.format("json_set(value, '$.dimension', 0)"),),
    (SPACE.format("json_set(value, '$.dimension', 24)"),),
    (SPACE.format("json_set(value, '$.known', '5')"),),
    ("replace into meta values ('next space', 'x')",),
    ("replace into meta values ('weight', 'x')",),
    ("replace into meta values ('weight', 1e300)",),
    ("update meta set value = null where key = 'fingerprint'",),
    # Folders.
    ("update root set selection = ''",),
    ("update root set selection = '{}'",),
    ("update root set selection = json_set(selection, '$.max_size', 'a')",),
    ("update root set selection = json_set(selection, '$.exclude', json('[\"!\"]'))",),
    ("update root set path = path || '/../notes'",),
    ("update root set path = 'a' || char(0) || 'b'",),
    ("update root set path = x'00ff'",),
    (FAR, "delete from root"),
    # Notes.
    ("update note set title = x'ff' where id = 1",),
    ("update note set title = cast(x'ff' as text)",),
    ("update note set tags = '5'",),
    ("update note set aliases = '{}'",),
    ("update note set path = x'ff' where path = 'long.md'",),
    ("update note set words_at = 'x'",),
    ("update note set modified = 1e300",),
    ("update note set modified = 0 where path = 'car.md'",),
    ("update note set title = 'Other' where path = 'car.md'",),
    ("update note set tags = '[]', aliases = '[]'",),
    ("update note set properties = '{}'",),
    ("update note set hash = randomblob(16)",),
    ("update note set error = 'x'",),
    (FAR, "delete from note"),
    ("delete from tag",),
    ("delete from link",),
    ("update name set key = 'loan' where key = 'loaf'",),
    ("update name set note = 'x'",),
    ("update link set target = x'ff00'",),
    # Passages.
    (
        "create temp table old as select id, hash from chunk",
        "update chunk set hash = (select hash from old where id = (chunk.id >> 20) % 3 + 1 << 20) "
        "where id & 1048575 = 0",
    ),
    ("update chunk set start = 9223372036854775807",),
    ("update chunk set id = -id",),
    ("delete from chunk",),
    ("delete from chunk where id % 2 = 1",),
    ("update chunk set stop = 'x'",),
    ("update chunk set end_line = x'ff'",),
    ("update chunk set body = x'ff'",),
    ("update chunk set heading = 'x'",),
    # Vectors.
    ("update vec set v = 5",),
    ("update vec set v = x''",),
    ("update vec set v = zeroblob(length(v))",),
    ("update vec set v = substr(v, 1, length(v) / 2)",),
    ("insert into vec select note + 1000, v from vec limit 1",),
    ("update bits set b = 'text'",),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_jina_bert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A home with notes and an index of them."""
    home = tmp_path_factory.mktemp("home")
    (home / "notes").mkdir()
    for name, text in NOTES.items():
        (home / "notes" / name).write_text(text)
        # Younger ones are read again, as they may change once more within a tick.
        os.utime(home / "notes" / name, (1_700_000_000, 1_700_000_000))
    done = run("index", home / "notes", "--index", home / "whole.db", "-m", model)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same notes, and an index that may be damaged."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(whole)
    shutil.copy(whole / "whole.db", tmp_path / "index.db")
    return tmp_path


def change(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.create_function("apart", 1, schema.apart, deterministic=True)
        for statement in statements:
            connection.execute(statement)


def check(*arguments: str | Path) -> int:
    """Run a command, which answers or says one thing and how to go on. A traceback would be raised here."""
    done = run(*arguments)
    if done.returncode:
        assert done.returncode == 1
        *_, error = done.stderr.splitlines()
        assert error.startswith("error: "), done.stderr
        assert "--rebuild" in error or "--check" in error, (arguments, done.stderr)
    return done.returncode


def answers(file: Path) -> list[object]:
    """What an index says in all the ways that it is asked."""
    found: list[object] = []
    for arguments in (
        ("search", "starter flour", "--no-sync", "--mode", "meaning", "--chunks", "--json"),
        ("search", "starter words", "--no-sync", "--json"),
        ("search", "tag:food", "--no-sync", "--json"),
        ("search", "title:loaf", "--no-sync", "--json"),
        ("search", "engine after:2020", "--no-sync", "--json"),
        ("related", "car.md", "--all", "--json"),
        ("related", "car.md", "--json"),
    ):
        done = run(*arguments, "--index", file)
        assert done.returncode == 0, done.stderr
        hits = json.loads(done.stdout)["hits"]
        assert hits, arguments
        found += [
            (hit["path"], hit["start"], hit["title"], hit["tags"], round(hit["cosine"] or 0, 3)) for hit in hits
        ]
    return found


@pytest.mark.parametrize("statements", DAMAGE, ids=" ".join)
def test_rebuild_gets_out_of_it(home: Path, statements: Sequence[str], model: Path) -> None:
    file = home / "index.db"
    right = answers(file)
    change(file, *statements)
    check("search", "starter flour", "--index", file, "--json")
    check("search", "starter flour", "--index", file, "--no-sync", "--explain")
    check("related", "bread.md", "--index", file)
    check("duplicates", "--index", file, "--json")
    check("index", "--status", "--index", file)
    assert check("index", "--check", "--index", file) == 1
    shutil.copy(file, home / "other.db")
    if check("index", "--check", "--repair", "--index", home / "other.db") == 0:
        assert check("index", "--index", home / "other.db") == 0
        assert check("index", "--check", "--index", home / "other.db") == 0
        assert answers(home / "other.db") == right
    assert check("index", "--rebuild", "--index", file) == 1
    assert check("index", "notes", "--rebuild", "--index", file, "-m", model) == 0
    assert len(list(home.glob("index.db.corrupt-*[0-9]"))) == 1
    assert check("index", "--check", "--index", file) == 0
    assert answers(file) == right


def test_nothing_kept_aside_replaces_another(tmp_path: Path) -> None:
    file = tmp_path / "index.db"
    kept = []
    for text in ("first", "second", "third"):
        file.write_text(text)
        kept.append(location.keep_aside(file))
    assert [aside.read_text() for aside in kept] == ["first", "second", "third"]


def test_what_is_kept_aside_is_said(home: Path, model: Path) -> None:
    file = home / "index.db"
    (home / "more").mkdir()
    (home / "more" / "a.md").write_text("other words")
    assert check("index", home / "more", "--index", file) == 0
    change(file, "delete from chunk")
    done = run("index", "notes", "--rebuild", "--dry-run", "--index", file)
    assert not list(home.glob("*.corrupt-*")), done.stderr
    done = run("index", "notes", "--rebuild", "--index", file, "-m", model)
    assert done.returncode == 0, done.stderr
    line = done.stderr.splitlines()[0]
    assert f"{file}.corrupt-" in line
    assert f"it had {Path.cwd()}/notes, {home}/more" in line
    assert f"mlx-jina index {home}/more --index {file}" in line
    assert all(option in line for option in ("--include", "--exclude", "--max-size", "--weight"))
    # Nothing is wrong any more.
    assert "kept" not in run("index", "notes", "--rebuild", "--index", file).stderr


def test_an_empty_file(home: Path, model: Path) -> None:
    file = home / "index.db"
    for arguments in (["search", "words"], ["index", "--status"], ["index", "--check"], ["index"]):
        file.write_bytes(b"")
        done = run(*arguments, "--index", file)
        assert done.returncode == 1
        assert done.stderr.endswith(
            "index.db is empty, no index of notes yet; `mlx-jina index FOLDER` fills it\n"
        ), done.stderr
    done = run("index", "notes", "--rebuild", "--index", file, "-m", model)
    assert (done.returncode, "kept" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize("version", [0, schema.VERSION])
@pytest.mark.parametrize(
    "tables",
    [
        ("x(y)",),
        ("note(id, body)", "tag(name)", "meta(name, content)", "link(a, b)", "root(x)", "chunk(id, note, text)"),
    ],
    ids=" ".join,
)
def test_another_programs_file_stays(home: Path, version: int, tables: Sequence[str]) -> None:
    file = home / "other.db"
    created = [f"create table {table}" for table in tables]
    change(file, *created, "create virtual table fts using fts5(text)", f"pragma user_version = {version}")
    before = file.read_bytes()
    done = run("index", "notes", "--rebuild", "--index", file)
    assert (done.returncode, done.stderr) == (1, f"error: {file} is no index of notes\n")
    assert file.read_bytes() == before


def test_what_is_no_damage_keeps_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock, and a file that cannot be written."""
    file = home / "index.db"
    monkeypatch.setattr("mlx_jina.search.database._PATIENCE", 0.1)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        done = run("index", "notes", "--rebuild", "--index", file)
    assert (done.returncode, "another program" in done.stderr) == (1, True), done.stderr
    monkeypatch.setattr(Database, "_is_writable", lambda self: False)
    done = run("index", "notes", "--rebuild", "--index", file)
    assert (done.returncode, "read-only" in done.stderr) == (1, True), done.stderr
    assert not list(home.glob("*.corrupt-*"))


def test_a_rebuild_of_notes_without_passages_ends(home: Path) -> None:
    change(home / "index.db", "delete from chunk")
    with Index(home / "index.db") as index:
        index.rebuild()
        assert len(index.check()) > 3


def test_a_later_versions_keys_are_passed_over(home: Path) -> None:
    change(home / "index.db", SPACE.format("json_set(value, '$.later', 1)"))
    assert check("search", "starter", "--index", home / "index.db") == 0
    assert check("index", "--check", "--index", home / "index.db") == 0


def test_a_mistake_of_ours_is_none_of_the_files(home: Path) -> None:
    with Index(home / "index.db") as index:
        with pytest.raises(KeyError, match="ours"), index._database.reading():
            raise KeyError("ours")
        with index._database.alone() as connection:
            connection.execute("update note set tags = '5'")
        with pytest.raises(IndexFileError, match="damaged"), index._database.writing():
            raise KeyError("theirs")


def test_a_dimension_that_divides_the_models_is_mended(home: Path) -> None:
    change(home / "index.db", SPACE.format("json_set(value, '$.dimension', 16)"))
    assert [check("search", "starter", "--index", home / "index.db", "--no-sync") for _ in range(2)] == [1, 0]
    assert check("index", "--check", "--index", home / "index.db") == 0


def test_dates_of_another_time_zone_are_no_damage(
    home: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    (home / "dated").mkdir()
    (home / "dated/2024-05-01.md").write_text("a day")
    (home / "dated/a.md").write_text("---\ncreated: 2024-05-01\nmodified: 2024-05-02 12:00\n---\nwords")
    try:
        for zone, command in (("Pacific/Kiritimati", ()), ("Pacific/Pago_Pago", ("--check",))):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert check("index", home / "dated", *command, "--index", home / "dated.db", "-m", model) == 0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_file_that_was_replaced_is_not_read_on(home: Path) -> None:
    """As by a server, whose answers would be of notes that nobody has any more."""
    file = home / "index.db"
    with Index(file) as index:
        assert index.search("starter", mode="words")
        shutil.copy(file, home / "other.db")
        (home / "other.db").replace(file)
        for use in (lambda: index.search("starter", mode="words"), index.sync, index.status):
            with pytest.raises(IndexFileError, match="has been deleted or replaced since it was opened"):
                use()
