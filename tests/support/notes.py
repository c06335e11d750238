"""Folders of notes, and what an index holds of one, to be compared."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from mlx_jina import Index
from mlx_jina.encoder import Encoder
from mlx_jina.search import schema

WORDS = (
    "sourdough starter flour water oven engine oil motor brake vector index search model apple orchard river "
    "stone music piano concert garden tomato seed winter snow ice train station ticket window mirror paint"
).split()


def text(rng: random.Random, sections: int = 2) -> str:
    """A small note in Markdown."""
    parts = [f"# {' '.join(rng.sample(WORDS, 2)).title()}"] if rng.random() < 0.5 else []
    if rng.random() < 0.3:
        parts.insert(0, f"---\ntags: [{rng.choice(WORDS)}]\n---")
    for _ in range(rng.randint(1, sections)):
        parts.append(f"## {rng.choice(WORDS)}")
        parts += [" ".join(rng.choices(WORDS, k=rng.randint(5, 60))) + "." for _ in range(rng.randint(1, 3))]
    return "\n\n".join(parts) + "\n"


def dump(file: Path) -> dict[str, Any]:
    """All that an index says of its notes, by their paths, without ids and times of its own."""
    connection = sqlite3.connect(file)
    connection.create_function("apart", 1, schema.apart, deterministic=True)
    found: dict[str, Any] = {}
    columns = "path, name, size, mtime_ns, inode, hash, title, aliases, tags, properties, created, modified, error"
    for own, *values in connection.execute(f"select id, {columns} from note"):
        span = own << schema.NOTE_BITS, (own + 1 << schema.NOTE_BITS) - 1
        rows: dict[str, Any] = {"note": values}
        sql = f"select id - {span[0]}, start, stop, line, end_line, heading, lead, body, hash, picture from chunk"
        rows["chunks"] = connection.execute(f"{sql} where id between ? and ? order by id", span).fetchall()
        for table in ("name", "tag"):
            rows[table] = connection.execute(
                f"select key from {table} where note = ? order by 1", (own,)
            ).fetchall()
        rows["link"] = connection.execute(
            "select target, line, alt from link where note = ? order by 1, 2", (own,)
        ).fetchall()
        sql = "select path, line from embed join note on id = picture where note = ? order by 1, 2"
        rows["embed"] = connection.execute(sql, (own,)).fetchall()
        for table, column in (("vec", "v"), ("bits", "b")):
            rows[table] = connection.execute(f"select {column} from {table} where note = ?", (own,)).fetchall()
        found[values[0]] = rows
    found["counts"] = {
        table: connection.execute(f"select count(*) from {table}").fetchone()[0]
        for table in (
            "chunk",
            "name",
            "tag",
            "link",
            "embed",
            "vec",
            "bits",
            "fts_docsize",
            "vec_next",
            "bits_next",
        )
    }
    # Raises if FTS5's index is not that of the chunks.
    connection.execute("insert into fts(fts, rank) values ('integrity-check', 1)")
    connection.close()
    return found


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Row by row; vectors up to what batches of other sizes change in their last bit."""
    assert found.keys() == expected.keys()
    for path, rows in found.items():
        others = expected[path]
        if path == "counts":
            assert rows == others
            continue
        for table in rows.keys() - {"vec", "bits"}:
            assert rows[table] == others[table], (path, table)
        for (own,), (other,) in zip(rows["vec"], others["vec"], strict=True):
            np.testing.assert_allclose(np.frombuffer(own, np.float16), np.frombuffer(other, np.float16), atol=2e-3)
        assert len(rows["bits"]) == len(others["bits"])


def assert_as_new(file: Path, folder: Path, model: Encoder, place: Path) -> None:
    """An index is what a new one of the same folder is, and nothing is wrong with it."""
    with Index(file, model) as index:
        problems = index.check()
    assert not problems, problems
    place.mkdir(exist_ok=True)
    fresh = place / "fresh.db"
    for ending in ("", "-wal", "-shm"):
        fresh.with_name(fresh.name + ending).unlink(missing_ok=True)
    with Index(fresh, model) as index:
        index.sync(folder)
    assert_equal(dump(file), dump(fresh))


def make_first_version(file: Path) -> None:
    """Turn an index without pictures into what it was before there were any."""
    connection = sqlite3.connect(file)
    for statement in (
        *("drop index chunk_picture", "drop index link_alt", "drop table embed"),
        *("alter table chunk drop column picture", "alter table link drop column alt"),
        "delete from meta where key in ('pictures', 'captions')",
        "update meta set value = json_remove(value, '$.sees') where key = 'space'",
        "pragma user_version = 1",
    ):
        connection.execute(statement)
    connection.commit()
    connection.close()


def age(folder: Path, seconds: float = 10) -> None:
    """Make all files look as if nobody had touched them lately."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            moment = status.st_mtime_ns - int(seconds * 1e9)
            os.utime(path, ns=(moment, moment))
