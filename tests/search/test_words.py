"""BM25 of a query's words, term by term, against FTS5's own of all of them together."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_jina import Index
from mlx_jina.encoder import Encoder
from mlx_jina.search import words
from mlx_jina.search.schema import NOTE_BITS, WEIGHTS

VOCABULARY = [f"word{n}" for n in range(60)]


def _text(rng: random.Random) -> str:
    """Sections of a few words, common and rare ones, under a title of one."""
    said = [rng.choices(VOCABULARY, [1 / (1 + n) for n in range(60)], k=rng.randrange(1, 30)) for _ in range(4)]
    return f"# {rng.choice(VOCABULARY)}\n\n" + "\n\n".join(f"## {each[0]}\n\n{' '.join(each)}" for each in said)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny: Encoder) -> Iterator[Index]:
    """200 notes, and one of twenty chunks of the same word."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("notes")
    for number in range(200):
        (folder / f"{number}.md").write_text(_text(rng))
    (folder / "long.md").write_text("# Alone\n\n" + 20 * f"## Alone\n\n{'alone ' * 200}\n\n")
    with Index(tmp_path_factory.mktemp("index") / "index.db", tiny) as opened:
        opened.sync(folder, vectors=False)
        yield opened


def _together(
    connection: sqlite3.Connection, terms: list[str], limit: int, allowed: set[int] | None = None
) -> list[tuple[int, float]]:
    """What FTS5 says of all terms at once."""
    sql = f"select rowid, -bm25(fts, {', '.join(map(str, WEIGHTS))}) as score from fts where fts match ?"
    rows = connection.execute(f"{sql} order by score desc, rowid", (" OR ".join(terms),))
    return [row for row in rows if allowed is None or row[0] >> NOTE_BITS in allowed][:limit]


def test_terms_add_up_to_what_fts5_says_of_all_of_them(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "CHUNKS", 20)
    rng, known = random.Random(1), words.Terms()
    shapes = ['"{0}"', '"{0}"', '"{0}"', '"{0} {1}"', '"word{2}" *']
    with index._database.reading() as connection:
        for _ in range(100):
            terms = list(
                dict.fromkeys(
                    rng.choice(shapes).format(*rng.choices(VOCABULARY, k=2), rng.randrange(1, 6))
                    for _ in range(rng.randrange(1, 8))
                )
            )
            allowed = None if rng.random() < 0.5 else set(rng.sample(range(202), 40))
            found = words.rank(connection, terms, allowed, 1, known)
            kept = [term for term in terms if term not in found.dropped]
            assert list(found.scores.items()) == _together(connection, kept, words.CHUNKS, allowed)


def test_a_long_note_does_not_take_all_places(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "CHUNKS", 5)
    with index._database.reading() as connection:
        terms = ['"alone"', '"word9"']
        found = list(words.rank(connection, terms, None, 10, words.Terms()).scores.items())
        assert len({chunk >> NOTE_BITS for chunk, _ in found[:5]}) == 1
        assert len({chunk >> NOTE_BITS for chunk, _ in found}) >= 10
        assert found == _together(connection, terms, 50)


def test_what_is_kept_is_bounded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_POSTINGS", 100)
    known = words.Terms()
    with index._database.reading() as connection:
        for start in range(0, 60, 3):
            terms = [f'"{word}"' for word in VOCABULARY[start : start + 3]]
            found = words.rank(connection, terms, None, 10, known)
            kept = [term for term in terms if term not in found.dropped]
            assert list(found.scores.items()) == _together(connection, kept, words.CHUNKS)
            # One term may go beyond it.
            assert known._kept.size <= 100 + 600
            assert known._kept.size == sum(len(chunks) for chunks, _ in known._kept.postings.values())


def test_an_index_that_changed_is_asked_anew(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    (folder / "a.md").write_text("# A\n\nsalt and pepper")
    (folder / "b.md").write_text("# B\n\nflour")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder, vectors=False)
        assert [hit.path for hit in index.search("salt", mode="words")] == ["a.md"]
        (folder / "a.md").write_text("# A\n\npepper")
        (folder / "b.md").write_text("# B\n\nflour and salt")
        index.sync(folder, vectors=False)
        assert [hit.path for hit in index.search("salt", mode="words")] == ["b.md"]
