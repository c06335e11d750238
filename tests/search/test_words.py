"""BM25 of a query's words, term by term, against FTS5's own of all of them together."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_jina import Index
from mlx_jina.encoder import Encoder
from mlx_jina.errors import IndexFileError
from mlx_jina.search import postings, words
from mlx_jina.search.postings import BM25, Terms
from mlx_jina.search.schema import NOTE_BITS

# Of many words with one stem, and one that is in most chunks.
VOCABULARY = [f"word{n}" for n in range(40)] + [f"{stem}{end}" for stem in "abcde" for end in ("t", "ted", "ting")]
VOCABULARY += ["common", "Caf\u00e9", "\u6771", "\u4eac", "x.1"]


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
    sql = f"select rowid, {BM25} as score from fts where fts match ?"
    rows = connection.execute(f"{sql} order by score desc, rowid", (" OR ".join(kept),))
    expected = {chunk: score for chunk, score in rows if allowed is None or chunk >> NOTE_BITS in allowed}
    assert list(found.scores.values()) == pytest.approx(list(expected.values())[:limit], rel=1e-12)
    assert found.scores == pytest.approx({chunk: expected[chunk] for chunk in found.scores}, rel=1e-12)


def _asked(rng: random.Random) -> list[str]:
    """Terms of every kind: words, phrases, beginnings, and words that nothing matches."""
    shapes = ['"{0}"', '"{0}"', '"{0}"', '"{0} {1}"', '"word{2}" *', '"{3}" *', '"missing{2}"']
    drawn = (
        rng.choice(shapes).format(*rng.choices(VOCABULARY, k=2), rng.randrange(1, 6), rng.choice("abcxw"))
        for _ in range(rng.randrange(1, 8))
    )
    return list(dict.fromkeys(drawn))


def test_terms_add_up_to_what_fts5_says_of_all_of_them(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "CHUNKS", 20)
    rng, known = random.Random(1), Terms()
    with index._database.reading() as connection:
        for number in range(200):
            terms = _asked(rng)
            allowed = None if rng.random() < 0.7 else set(rng.sample(range(202), 40))
            # The first one is FTS5's.
            assert bool(known._kept.matches) == (number > 0)
            for asked in (known, Terms()):
                _check(connection, words.rank(connection, terms, allowed, 1, asked), terms, 20, allowed)
            if number == 0:
                words.rank(connection, ['"word1"'], None, 1, known)


def test_terms_are_kept(index: Index) -> None:
    known, terms = Terms(), ['"word5"', '"word39"', '"word1 word2"']
    statements: list[str] = []
    with index._database.reading() as connection:
        first, second = (words.rank(connection, terms, None, 10, known) for _ in range(2))
        assert first.scores == pytest.approx(second.scores, rel=1e-12)
        assert list(known._kept.matches) == terms
        connection.set_trace_callback(statements.append)
        assert words.rank(connection, terms[::-1], None, 10, known).scores == pytest.approx(
            second.scores, rel=1e-12
        )
        words.rank(connection, terms, {1, 2}, 10, known)
        connection.set_trace_callback(None)
    assert statements
    assert not any("match" in statement or "instance" in statement for statement in statements)


def test_many_matches_are_read_at_a_first_search_too(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "_FEW", 10)
    known = Terms()
    with index._database.reading() as connection:
        _check(connection, words.rank(connection, ['"word1"'], None, 10, known), ['"word1"'], words.CHUNKS)
    assert list(known._kept.matches) == ['"word1"']


@pytest.mark.parametrize("kept", [False, True])
def test_a_long_note_does_not_take_all_places(index: Index, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    monkeypatch.setattr(words, "CHUNKS", 5)
    if not kept:
        monkeypatch.setattr(postings, "_MATCHES", 0)
    terms, known = ['"alone"', '"word9"'], Terms()
    with index._database.reading() as connection:
        for _ in range(2):
            found = words.rank(connection, terms, None, 10, known)
        assert bool(known._kept.matches) == kept
        assert len({chunk >> NOTE_BITS for chunk in list(found.scores)[:5]}) == 1
        assert len({chunk >> NOTE_BITS for chunk in found.scores}) >= 10
        _check(connection, found, terms, 50)


def test_what_is_kept_is_bounded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "_MATCHES", 1000)
    known = Terms()
    with index._database.reading() as connection:
        for start in range(0, 60, 3):
            terms = [f'"{word}"' for word in VOCABULARY[start : start + 3]]
            for _ in range(2):
                _check(connection, words.rank(connection, terms, None, 10, known), terms, words.CHUNKS)
            assert known._kept.size == sum(len(places) for places, _ in known._kept.matches.values()) <= 1000
        # What was asked for last stays.
        assert list(known._kept.matches)[-3:] == terms
        assert '"word1"' not in known._kept.matches
        # More than fit are FTS5's.
        monkeypatch.setattr(postings, "_MATCHES", 10)
        assert known.scores(connection, {'"word1"': 11}, 1000) is None


def test_an_index_that_changed_is_asked_anew(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    (folder / "a.md").write_text("# A\n\nsalt and pepper")
    (folder / "b.md").write_text("# B\n\nflour")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder, vectors=False)
        for _ in range(3):
            assert [hit.path for hit in index.search("salt", mode="words")] == ["a.md"]
        (folder / "a.md").write_text("# A\n\npepper")
        (folder / "b.md").write_text("# B\n\nflour and salt")
        index.sync(folder, vectors=False)
        for _ in range(3):
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
            for most, kept in ((40, terms), (39, [])):
                monkeypatch.setattr(postings, "_MATCHES", most)
                known = Terms()
                for _ in range(3):
                    found = words.rank(connection, terms, None, 10, known)
                    _check(connection, found, terms, words.CHUNKS)
                    assert len(found.scores) == 20
                assert list(known._kept.matches) == kept


def test_an_empty_index_has_no_words(tmp_path: Path, tiny: Encoder) -> None:
    with Index(tmp_path / "index.db", tiny) as index:
        for _ in range(2):
            assert index.search("anything", mode="words") == []


def test_a_word_of_a_chunk_that_is_not_there_is_damage(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    for number in range(3):
        (folder / f"{number}.md").write_text("salt")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder, vectors=False)
        index.search("pepper", mode="words")
        for gone in ("max(id)", "min(id)"):
            with index._database.alone() as connection:
                connection.execute(f"delete from fts_docsize where id = (select {gone} from fts_docsize)")
            index._terms = Terms()
            index.search("pepper", mode="words")
            with pytest.raises(IndexFileError, match="the file is damaged"):
                index.search("salt", mode="words")
