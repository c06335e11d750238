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


def _check(
    connection: sqlite3.Connection,
    found: words.Words,
    terms: list[str],
    limit: int,
    allowed: set[int] | None = None,
) -> None:
    """Compare with what FTS5 says of all terms at once, but for the last bits, which depend on the compiler."""
    kept = [term for term in terms if term not in found.dropped]
    sql = f"select rowid, -bm25(fts, {', '.join(map(str, WEIGHTS))}) as score from fts where fts match ?"
    rows = connection.execute(f"{sql} order by score desc, rowid", (" OR ".join(kept),))
    expected = {chunk: score for chunk, score in rows if allowed is None or chunk >> NOTE_BITS in allowed}
    assert list(found.scores.values()) == pytest.approx(list(expected.values())[:limit], rel=1e-12)
    assert found.scores == pytest.approx({chunk: expected[chunk] for chunk in found.scores}, rel=1e-12)


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
            allowed = None if rng.random() < 0.7 else set(rng.sample(range(202), 40))
            for _ in range(2):
                _check(connection, words.rank(connection, terms, allowed, 1, known), terms, 20, allowed)
        assert known._kept.matches


def test_terms_are_kept_when_they_come_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    known, terms = words.Terms(), ['"word5"', '"word50"']
    statements: list[str] = []
    with index._database.reading() as connection:
        counts = known.counts(connection, terms, 1000)
        assert counts['"word50"'] <= 60 < counts['"word5"']
        for first, kept in ((True, set()), (False, set(terms)), (False, set(terms))):
            assert (known.scores(connection, counts, 1000) is None) == first
            assert set(known._kept.matches) == kept
        connection.set_trace_callback(statements.append)
        words.rank(connection, terms, None, 10, known)
        assert not any("match" in statement for statement in statements)
        # A filter leaves FTS5 less to do than all that is known.
        words.rank(connection, terms, {1, 2}, 10, known)
        assert any("match" in statement for statement in statements)
        connection.set_trace_callback(None)
        # A rare new term is read at once, a common one is FTS5's first.
        for new, read in (('"word55"', True), ('"word1"', False)):
            counts = known.counts(connection, [*terms, new], 1000)
            assert (known.scores(connection, counts, 1000) is not None) == read
            assert (new in known._kept.matches) == read
        monkeypatch.setattr(words, "_MANY", counts['"word1"'] - 1)
        assert known.scores(connection, counts, 1000) is None


def test_common_words_need_not_be_looked_at(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `_plans` leaves out changes neither the first chunks nor their scores, to the last bit."""
    rng, pruned = random.Random(3), 0
    sql = f"select rowid, {words._BM25} as score from fts where fts match ? order by score desc, rowid limit ?"
    with index._database.reading() as connection:
        (total,) = connection.execute("select count(*) from fts_docsize").fetchone()
        for _ in range(200):
            terms = [f'"{word}"' for word in rng.sample(VOCABULARY, rng.randrange(2, 7))]
            counts = words.Terms().counts(connection, terms, total // 2 + 1)
            limit = rng.choice([1, 5, 20, 60])
            expected = connection.execute(sql, (" OR ".join(terms), limit)).fetchall()
            *plans, (every, least) = words._plans(counts, total, limit)
            assert (every, least) == (" OR ".join(terms), 0)
            for expression, bound in plans:
                found = connection.execute(sql, (expression, limit)).fetchall()
                if len(found) == limit and found[-1][1] >= bound:
                    assert found == expected
                    pruned += 1
            best = words._by_fts5(connection, counts, total, None)(limit)
            assert list(best.items()) == expected
    assert pruned > 20


@pytest.mark.parametrize("kept", [False, True])
def test_a_long_note_does_not_take_all_places(index: Index, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    monkeypatch.setattr(words, "CHUNKS", 5)
    if not kept:
        monkeypatch.setattr(words, "_MANY", 0)
    terms, known = ['"alone"', '"word9"'], words.Terms()
    with index._database.reading() as connection:
        for _ in range(2):
            found = words.rank(connection, terms, None, 10, known)
        assert bool(known._kept.matches) == kept
        assert len({chunk >> NOTE_BITS for chunk in list(found.scores)[:5]}) == 1
        assert len({chunk >> NOTE_BITS for chunk in found.scores}) >= 10
        _check(connection, found, terms, 50)


def test_what_is_kept_is_bounded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MATCHES", 100)
    known = words.Terms()
    with index._database.reading() as connection:
        for start in range(0, 60, 3):
            terms = [f'"{word}"' for word in VOCABULARY[start : start + 3]]
            for _ in range(3):
                _check(connection, words.rank(connection, terms, None, 10, known), terms, words.CHUNKS)
            assert known._kept.size == sum(len(chunks) for chunks, _ in known._kept.matches.values())
        # One query may go beyond it.
        assert 0 < len(known._kept.matches) <= 3
        assert len(known._kept.counts) == 60


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


def test_words_of_most_chunks_are_kept_too(
    tmp_path: Path, folder: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (folder / f"{number}.md").write_text(f"the of number{number}")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder, vectors=False)
        terms = ['"the"', '"of"']
        with index._database.reading() as connection:
            # They were counted to 11, and may match all 20.
            for many, kept in ((40, set(terms)), (39, set())):
                monkeypatch.setattr(words, "_MANY", many)
                known = words.Terms()
                for _ in range(3):
                    found = words.rank(connection, terms, None, 10, known)
                    _check(connection, found, terms, words.CHUNKS)
                    assert len(found.scores) == 20
                assert set(known._kept.matches) == kept
