"""`mlx_jina.Index`: what people call, and what happens to the file."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import Index, InputError, Where, catalog
from mlx_jina.encoder import Encoder
from mlx_jina.errors import IndexFileError
from mlx_jina.search import chunks, database, location, schema
from mlx_jina.search.model import Model
from mlx_jina.search.spaces import OtherModelError
from tests.support.checkpoints import tiny_jina_bert
from tests.support.notes import assert_as_new, assert_equal, dump, make_first_version

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.options import VectorOptions


@pytest.fixture
def index(tmp_path: Path, folder: Path, pocket: Encoder) -> Iterator[Index]:
    """Notes that link to each other."""
    notes = {
        "bread.md": "# Sourdough\n\nFeed the starter with flour. See [[Oven]] and [the car](garage/car.md).\n",
        "Oven.md": "Bake the loaf of bread in a hot oven with flour and a starter.\n",
        "pizza.md": "# Pizza\n\nDough of flour and water with a starter, baked in an oven.\n",
        "garage/car.md": "The engine of the car needs new oil.\n",
        "garage/motor.md": "A motor wants oil and a new belt, as every engine does.\n",
    }
    for name, text in notes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with Index(tmp_path / "index.db", pocket) as opened:
        opened.sync(folder)
        yield opened


def test_the_package_has_it_and_costs_nothing() -> None:
    code = "import sys, mlx_jina; mlx_jina.Index, mlx_jina.Where; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"mlx", "numpy", "tokenizers", "yaml", "markdown_it", "pathspec"} & set(modules)
    assert mlx_jina.Index is Index
    assert mlx_jina.Where is Where


def test_a_hit_has_its_place(index: Index, folder: Path) -> None:
    hit = index.search("motor oil")[0]
    assert hit.path == "garage/motor.md"
    assert hit.absolute_path == str(folder / "garage/motor.md")
    assert (folder / hit.path).read_text()[slice(*hit.span)] == hit.text
    assert (hit.line, hit.end_line, hit.title, hit.heading, hit.tags) == (1, 1, "motor", "", ())
    assert hit.modified == pytest.approx((folder / hit.path).stat().st_mtime)


def test_uris(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_JINA_URI", raising=False)
    (folder / "with space.md").write_text("# Title\n\nx\n\n## Über uns\n\n" + "zebra " * 100)
    index.sync()
    hit = index.search("zebra")[0]
    assert hit.uri == f"file://{folder}/with%20space.md"
    assert hit.uri_by("vscode") == f"vscode://file{folder}/with%20space.md:5"
    (folder / ".obsidian").mkdir()
    assert hit.uri == f"obsidian://open?path={folder}/with%20space.md%23%C3%9Cber%20uns"
    assert hit.uri_by("adv-uri") == "obsidian://adv-uri?vault=notes&filepath=with%20space.md&line=5"
    monkeypatch.setenv("MLX_JINA_URI", "x:{file}@{line}")
    assert hit.uri == "x:with%20space.md@5"
    for bad in ("{nothing}", "{", "{path.x}"):
        with pytest.raises(InputError, match="no URI template"):
            hit.uri_by(bad)


def test_related_notes_leave_out_those_that_are_linked(index: Index, folder: Path) -> None:
    assert index.related("bread.md")[0].path == "pizza.md"
    assert {hit.path for hit in index.related("bread.md")} == {"pizza.md", "garage/motor.md"}
    assert [hit.path for hit in index.related(folder / "bread.md", linked=True)][:2] in (
        ["Oven.md", "pizza.md"],
        ["pizza.md", "Oven.md"],
    )
    # A link is one in both directions.
    assert "bread.md" not in {hit.path for hit in index.related("Oven.md")}
    assert "bread.md" not in {hit.path for hit in index.related("garage/car.md")}
    assert index.related("garage/car.md")[0].path == "garage/motor.md"
    assert index.related("Sourdough")[0].path == "pizza.md"
    assert len(index.related("Pizza", limit=2)) == 2
    assert index.related("garage/car.md", line=1)[0].path == "garage/motor.md"
    with pytest.raises(InputError, match="not in this index"):
        index.related("absent.md")


def test_duplicates(index: Index, folder: Path) -> None:
    assert index.duplicates() == []
    text = (folder / "pizza.md").read_text()
    (folder / "copy.md").write_text(text)
    (folder / "almost.md").write_text(text.replace("baked", "made"))
    (folder / "empty.md").touch()
    (folder / "empty too.md").touch()
    index.sync()
    same, near = index.duplicates(0.9)[:2]
    assert (same.path, same.other, same.identical) == ("copy.md", "pizza.md", True)
    assert (near.path, near.other, near.identical) == ("almost.md", "copy.md", False)
    assert 0.9 < near.cosine < 1.001
    # The other copy is compared with nobody.
    assert sum("pizza.md" in (pair.path, pair.other) for pair in index.duplicates(0.9)) == 1
    with pytest.raises(InputError, match="threshold"):
        index.duplicates(1.5)


def test_rows_are_all_there_is(index: Index, folder: Path, pocket: Encoder) -> None:
    rows = list(index.rows())
    assert [row.path for row in rows] == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.md")
    )
    for row in rows:
        assert (folder / row.path).read_text()[slice(*row.span)] == row.text
        expected = pocket.encode_document(
            chunks.embedded(row.title, row.heading, "", row.text), show_progress_bar=False
        )
        assert row.vector is not None
        np.testing.assert_allclose(row.vector, expected, atol=2e-3)
    (folder / "new.md").write_text("new")
    index.sync(vectors=False)
    assert [row.vector is None for row in index.rows()].count(True) == 1


def test_status(index: Index, folder: Path, pocket: Encoder) -> None:
    status = index.status()
    assert (status.notes, status.chunks, status.waiting) == (5, 5, 0)
    assert (status.folders, status.model, status.dimension) == ((str(folder),), str(pocket.path), 256)
    assert status.fingerprint == pocket.fingerprint()
    assert status.bytes > 10_000


def test_search_before_there_are_vectors(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    (folder / "a.md").write_text("words")
    with Index(tmp_path / "index.db", tiny) as index:
        assert index.search("words") == []
        index.sync(folder, vectors=False)
        found = index.find("words")
        assert [hit.path for hit in found.hits] == ["a.md"]
        assert found.mode == "words"
        assert "no vectors yet" in (found.warning or "")
        with pytest.raises(InputError, match="no vectors yet"):
            index.search("words", mode="meaning")
        with pytest.raises(InputError, match="no vectors yet"):
            index.related("a.md")
        assert index.search("words", mode="words")[0].cosine is None


def test_a_model_that_is_not_there_leaves_words(tmp_path: Path, folder: Path, tiny_folder: Path) -> None:
    copy = tiny_jina_bert(tmp_path / "model")
    (folder / "a.md").write_text("words")
    with Index(tmp_path / "index.db", str(copy)) as index:
        index.sync(folder)
        assert index.find("words").mode == "hybrid"
    copy.rename(tmp_path / "gone")
    with Index(tmp_path / "index.db") as opened, pickle.loads(pickle.dumps(opened)) as index:
        found = index.find("words")
        assert (found.mode, len(found.hits)) == ("words", 1)
        assert "searched by words alone" in (found.warning or "")
        with pytest.raises(mlx_jina.ModelNotFoundError):
            index.find("words", mode="meaning")


def test_a_misspelt_model_is_an_error_and_makes_no_index(tmp_path: Path) -> None:
    with pytest.raises(mlx_jina.ModelNotFoundError, match="did you mean 'pocket'"):
        Index(tmp_path / "index.db", "pockte")
    assert not (tmp_path / "index.db").exists()


def test_another_model_is_refused_and_rebuilt_beside(
    tmp_path: Path, folder: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = mlx_jina.load(tiny_jina_bert(tmp_path / "other", seed=5, heads=2))
    for n in range(30):
        (folder / f"{n}.md").write_text(f"# Title {n}\n\nwords of note {n}")
    file = tmp_path / "index.db"
    with Index(file, tiny) as index:
        index.sync(folder)
        before = [hit.id for hit in index.search("note 7")]
    with Index(file, other) as index:
        found = index.find("note 7")
        assert found.mode == "words"
        assert found.hits
        for part in (str(tiny.path), str(other.path), tiny.fingerprint(), other.fingerprint(), "--rebuild"):
            assert part in (found.warning or "")
        with pytest.raises(InputError, match="--rebuild"):
            index.search("note 7", mode="meaning")
        (folder / "new.md").write_text("new")
        with pytest.raises(InputError, match="--rebuild"):
            index.sync()
        # The words of it are there all the same.
        assert [hit.path for hit in index.search("new", mode="words")] == ["new.md"]
        (folder / "new.md").unlink()
        index.sync(vectors=False)
        # Stopped halfway, the old vectors serve.
        encode, calls = other.encode_document, []

        def interrupted(batch: list[str], **options: Unpack[VectorOptions]) -> object:
            calls.append(len(batch))
            if len(calls) > 1:
                raise KeyboardInterrupt
            return encode(batch, **options)

        with monkeypatch.context() as patch:
            patch.setattr("mlx_jina.search.embedding._FIRST_WINDOW", 100)
            patch.setattr("mlx_jina.search.embedding._LARGEST_WINDOW", 100)
            patch.setattr(other, "encode_document", interrupted)
            with pytest.raises(KeyboardInterrupt):
                index.rebuild()
        assert index.status().rebuilding == str(other.path)
        assert index.check() == []
    with Index(file, tiny) as index:
        assert [hit.id for hit in index.search("note 7")] == before
        # Edits go on meanwhile.
        (folder / "3.md").write_text("# Another\n\nwords")
        index.sync()
    done = dump(file)["counts"]["vec_next"]
    assert 0 < done < 30
    with Index(file, other) as index:
        calls.clear()
        index.rebuild()
        assert index.find("note 7").mode == "hybrid"
        assert index.status().fingerprint == other.fingerprint()
        assert (index.status().rebuilding, index.status().dimension) == (None, other.dimension)
    assert_as_new(file, folder, other, tmp_path / "fresh")


def test_weights_under_the_same_name_are_another_model(tmp_path: Path, folder: Path) -> None:
    model = tiny_jina_bert(tmp_path / "model", seed=1)
    (folder / "a.md").write_text("words")
    with Index(tmp_path / "index.db", str(model)) as index:
        index.sync(folder)
    with Index(tmp_path / "index.db") as index:
        assert index.find("words").mode == "hybrid"
    tiny_jina_bert(tmp_path / "model", seed=2)
    with Index(tmp_path / "index.db") as index:
        assert "--rebuild" in (index.find("words").warning or "")


def test_an_earlier_pocket_is_said_and_rebuilt(
    tmp_path: Path, folder: Path, pocket: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    first = shutil.copytree(pocket.path, package / "pocket")
    monkeypatch.setattr("mlx_jina.weights.hub.embedded", lambda name: package / name)
    (folder / "a.md").write_text("a fox in the snow")
    with Index(tmp_path / "index.db", "pocket") as index:
        index.sync(folder)
        old = index.status().fingerprint
    assert old == pocket.fingerprint()
    weights: Any = mx.load(str(first / "model.safetensors"))
    name = "encoder.layer.0.mlp.wo.bias"
    mx.save_safetensors(str(first / "model.safetensors"), {**weights, name: weights[name] + 1})
    with Index(tmp_path / "index.db") as index:
        found = index.find("fox")
        assert (found.mode, len(found.hits)) == ("words", 1)
        assert f"vectors of an earlier 'pocket' ({old})" in (found.warning or "")
        assert (found.warning or "").endswith("to replace them: mlx-jina index --rebuild -m pocket")
        # Nothing is new, and only another version of pocket or of this package may bring other weights by a name.
        index.sync()
        entry = catalog.find("pocket")
        assert entry is not None
        with monkeypatch.context() as patch:
            patch.setattr(catalog, "find", lambda _: replace(entry, version=0))
            with pytest.raises(OtherModelError, match="an earlier 'pocket'"):
                index.sync()
        monkeypatch.setattr("mlx_jina.search.model.__version__", "later")
        with pytest.raises(OtherModelError, match="an earlier 'pocket'"):
            index.sync()
        index.rebuild()
        assert index.find("fox").mode == "hybrid"
        assert index.status().fingerprint not in (None, old)


def test_weights_are_not_read_for_every_search(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_jina_bert(tmp_path / "model")
    (folder / "a.md").write_text("words")
    with Index(tmp_path / "index.db", str(model)) as index:
        index.sync(folder)
    monkeypatch.setattr(Encoder, "fingerprint", lambda *_: pytest.fail("read all weights"))
    with Index(tmp_path / "index.db") as index:
        assert index.find("words").mode == "hybrid"
    monkeypatch.undo()
    # A copy of the same weights is the same model, whatever its files look like.
    for path in model.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
    with Index(tmp_path / "index.db") as index:
        assert index.find("words").mode == "hybrid"


def test_a_new_state_is_seen_by_whoever_has_the_index_open(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    (folder / "a.md").write_text("words")
    with Index(tmp_path / "index.db", tiny) as one, Index(tmp_path / "index.db", tiny) as other:
        one.sync(folder)
        assert len(other.search("anything")) == 1
        (folder / "b.md").write_text("more words")
        one.sync()
        assert len(other.search("anything")) == 2
        (folder / "a.md").unlink()
        one.sync()
        assert [hit.path for hit in other.search("anything")] == ["b.md"]


def test_other_rules_for_chunks_read_all_notes_anew(
    tmp_path: Path, folder: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.md").write_text("# Title\n\n" + "Some words of a note. " * 200)
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        before = index.status().chunks
    monkeypatch.setattr(schema, "CHUNKS", schema.CHUNKS + 1)
    monkeypatch.setattr(chunks, "TOKENS", 50)
    with Index(tmp_path / "index.db", tiny) as index:
        assert index.sync().changed == ["a.md"]
        assert index.status().chunks > 2 * before
        assert index.sync().unchanged == 1
    assert_as_new(tmp_path / "index.db", folder, tiny, tmp_path / "fresh")


# ---- the file


def test_nobody_else_may_read_it(index: Index) -> None:
    for path in index.file.parent.glob("index.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_file_that_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match="does not exist"):
        Index(tmp_path / "absent.db", create=False)
    (tmp_path / "text.db").write_text("this is no database, and long enough to be read as one " * 50)
    with pytest.raises(IndexFileError, match=r"damaged.*--rebuild"):
        Index(tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("create table x(y)")
    other.commit()
    other.close()
    with pytest.raises(IndexFileError, match="no index of notes"):
        Index(tmp_path / "other.db")
    # Somebody's note is not an index that could be made anew.
    (tmp_path / "note.md").write_text("this is no database, and long enough to be read as one " * 50)
    with pytest.raises(IndexFileError, match=r"note\.md is no index of notes$"):
        Index(tmp_path / "note.md")
    (tmp_path / "empty.db").touch()
    with pytest.raises(IndexFileError, match="no index of notes"):
        Index(tmp_path / "empty.db", create=False)
    with Index(tmp_path / "empty.db") as index:
        assert index.status().notes == 0
    with pytest.raises(IndexFileError):
        Index(tmp_path)


def test_versions_of_the_schema(
    tmp_path: Path, folder: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.md").write_text("words")
    file = tmp_path / "index.db"
    with Index(file, tiny) as index:
        index.sync(folder)
    now = schema.VERSION
    colour = {now: ("alter table note add column colour text",)}
    monkeypatch.setattr(schema, "VERSION", now + 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {**colour, now + 1: ("update note set colour = 'red'",)})
    with Index(file, tiny) as index, index._database.reading() as connection:
        assert connection.execute("select colour from note").fetchall() == [("red",)]
        assert connection.execute("pragma user_version").fetchone() == (now + 2,)
    monkeypatch.undo()
    with pytest.raises(IndexFileError, match=rf"newer mlx-jina \(schema {now + 2}, here {now}\)"):
        Index(file)
    # Not one step of two is left.
    (tmp_path / "second.db").write_bytes(b"")
    with Index(tmp_path / "second.db", tiny) as index:
        pass
    monkeypatch.setattr(schema, "VERSION", now + 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {**colour, now + 1: ("nonsense",)})
    with pytest.raises(IndexFileError):
        Index(tmp_path / "second.db")
    monkeypatch.undo()
    with Index(tmp_path / "second.db") as index:
        assert index.status().notes == 0


def test_an_index_of_the_first_version(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    """Before there were pictures."""
    (folder / "a.md").write_text("words and a [[link]]")
    file = tmp_path / "index.db"
    with Index(file, tiny) as index:
        index.sync(folder)
    before = dump(file)
    make_first_version(file)
    for create in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
            with pytest.raises(
                IndexFileError, match=r"earlier mlx-jina \(schema 1, here 2\) and cannot be written"
            ):
                Index(file, create=create)
    with Index(file, tiny) as index:
        # Read anew, and not embedded anew.
        assert [hit.path for hit in index.search("words", mode="meaning")] == ["a.md"]
        assert index.sync(vectors=False).changed == ["a.md"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Model, "encode_documents", None)
            assert index.sync().without_vectors == 0
        assert [hit.path for hit in index.search("words")] == ["a.md"]
        assert index.check() == []
    assert_equal(dump(file), before)


def test_a_damaged_file_says_so(index: Index) -> None:
    index.close()
    with sqlite3.connect(index.file) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    data = bytearray(index.file.read_bytes())
    data[16384 * 2 : 16384 * 8] = b"\xff" * 16384 * 6
    index.file.write_bytes(data)

    def use() -> None:
        with Index(index.file) as opened:
            assert opened.check()[0].startswith("SQLite")
            opened.search("oven flour", mode="words")
            list(opened.rows())

    with pytest.raises(IndexFileError, match="damaged") as raised:
        use()
    assert database.is_damage(raised.value.__cause__)


def test_check_finds_what_is_wrong_and_mends_it(
    index: Index, folder: Path, tmp_path: Path, pocket: Encoder
) -> None:
    (folder / "long.md").write_text("# Long\n\n" + "Some words of a note. " * 300)
    index.sync()
    assert index.check() == []
    with sqlite3.connect(index.file) as connection:
        connection.create_function("apart", 1, schema.apart, deterministic=True)
        ids = dict(connection.execute("select path, id from note"))
        connection.execute("update vec set v = zeroblob(length(v)) where note = ?", (ids["pizza.md"],))
        connection.execute("update vec set v = substr(v, 3) where note = ?", (ids["long.md"],))
        connection.execute("delete from bits where note = ?", (ids["Oven.md"],))
        connection.execute("update chunk set body = 'other' where note = ?", (ids["bread.md"],))
        connection.execute("insert into tag values ('stray', 99999)")
        connection.execute("insert into vec values (99999, x'00')")
        connection.execute("update note set vectors_at = null where id = ?", (ids["garage/car.md"],))
    connection.close()
    problems = "\n".join(index.check())
    for part in (
        "pizza.md: a vector that is not of unit length",
        "long.md: not a vector for each",
        "Oven.md: bits",
        "bread.md: chunks that are not the text of their spans",
        "tag: 1 rows",
        "vec: 1 rows",
        "garage/car.md: vectors that are not said",
        "words: FTS5's index",
    ):
        assert part in problems, part
    assert "repaired" in index.check(repair=True)[-1]
    index.sync()
    assert index.check() == []
    assert_as_new(index.file, folder, pocket, tmp_path / "fresh")


def test_compact_gives_space_back(index: Index, folder: Path) -> None:
    (folder / "large.md").write_text("".join(f"word{n} " for n in range(100_000)))
    index.sync(vectors=False)
    (folder / "large.md").unlink()
    index.sync()
    before = index.status().bytes
    assert index.compact() < before / 2
    assert index.check() == []
    assert index.search("oven")


def test_a_read_only_index_is_searched(index: Index, folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    index.close()
    index.file.chmod(0o400)
    index.file.parent.chmod(0o500)
    try:
        with Index(index.file) as opened:
            assert opened.search("oven")
            with pytest.raises(IndexFileError, match="read-only"):
                opened.set_weight(0.4)
    finally:
        index.file.parent.chmod(0o700)


def test_read_only_as_the_database_sees_it(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root writes everywhere, so this asks what anybody else would be told.
    index.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Index(index.file) as opened:
        assert opened.search("oven")
        with pytest.raises(IndexFileError, match="read-only"):
            opened.set_weight(0.4)


def test_sqlite_without_fts5_and_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "sqlite_version_info", (3, 30, 1))
        with pytest.raises(IndexFileError, match=r"SQLite .* needs 3\.31"):
            Index(tmp_path / "index.db")
    monkeypatch.setattr(schema, "TABLES", schema.TABLES.replace("using fts5", "using fts9"))
    monkeypatch.setitem(database._MEANINGS, "no such module: fts9", database._MEANINGS["no such module: fts5"])
    with pytest.raises(IndexFileError, match="no FTS5"):
        Index(tmp_path / "index.db")
    monkeypatch.undo()
    # Nothing half made is left of it.
    with Index(tmp_path / "index.db") as index:
        assert index.status().notes == 0


def test_places_that_would_damage_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("Dropbox", "Library/CloudStorage/OneDrive-Me", "Library/Mobile Documents/com~apple~CloudDocs"):
        with pytest.raises(IndexFileError, match="copied while it changes"):
            Index(tmp_path / place / "index.db")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(location, "file_system", lambda _: "smbfs")
    with pytest.raises(IndexFileError, match="network"):
        Index(tmp_path / "index.db")


def test_file_systems_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert location.file_system(str(tmp_path))
    if sys.platform == "linux":
        assert location.file_system("/proc/self") == "proc"
    mounts = "/dev/x / ext4 rw 0 0\nserver:/a /mnt/with\\040space nfs4 rw 0 0\n"
    monkeypatch.setattr(location, "_MOUNTS", str(tmp_path / "mounts"))
    (tmp_path / "mounts").write_text(mounts)
    monkeypatch.setattr(sys, "platform", "linux")
    assert location.file_system("/mnt/with space/index") == "nfs4"
    assert location.file_system("/mnt/with") == "ext4"


def test_the_default_place(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", "/Users/me")
    assert str(location.data_folder()) == "/Users/me/Library/Application Support/mlx-jina/indexes"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert str(location.data_folder()) == "/Users/me/.local/share/mlx-jina/indexes"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    file = location.index_of(folder)
    assert file.parent == tmp_path / "data/mlx-jina/indexes"
    assert file.name.startswith("notes-")
    assert location.default_file(tmp_path / "notes") == file
    assert location.default_file(tmp_path) != file


def test_nobody_is_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(IndexFileError, match=r"HOME is not set.: name the index's file by --index"):
        location.data_folder()


def test_the_index_for_where_we_are(
    tmp_path: Path, folder: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(location, "data_folder", lambda: tmp_path / "data/mlx-jina/indexes")
    (folder / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no index yet"):
        location.choose(None)
    file = location.index_of(folder)
    with Index(file, tiny) as index:
        index.sync(folder)
    # The only one.
    assert location.choose(None) == file
    other = tmp_path / "other"
    other.mkdir()
    with Index(location.index_of(other), tiny) as index:
        index.sync(other)
    with pytest.raises(InputError, match=r"several indexes.*notes.*other"):
        location.choose(None)
    monkeypatch.chdir(folder / "sub")
    assert location.choose(None) == file
    assert location.choose(str(other)) == location.index_of(other)
    assert location.choose("some.db") == Path("some.db")
    # A folder takes its index along, and one that is put back from a backup finds it.
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "moved")
    assert location.index_of(tmp_path / "moved") == file
    with Index(file, tiny) as index:
        index.sync(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert location.choose(None) == file
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved/sub").rmdir()
    (tmp_path / "away").mkdir()
    (tmp_path / "moved").rename(tmp_path / "away/backup")
    (tmp_path / "moved").mkdir()
    assert location.index_of(tmp_path / "moved") == file
