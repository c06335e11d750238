"""BM25 of a query's words, term by term, against FTS5's own of all of them together."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlx_jina import Index
from mlx_jina.encoder import Encoder
from mlx_jina.errors import IndexFileError
from mlx_jina.search import postings, words
from mlx_jina.search.database import is_damage
from mlx_jina.search.postings import BM25, Postings
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


def _warm(postings: Postings, connection: sqlite3.Connection) -> Postings:
    """As after many searches."""
    postings._of(connection).ranked = 10**9
    return postings


def test_terms_add_up_to_what_fts5_says_of_all_of_them(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "CHUNKS", 20)
    rng = random.Random(1)
    with index._database.reading() as connection:
        warm = _warm(Postings(), connection)
        for _ in range(200):
            terms = _asked(rng)
            allowed = None if rng.random() < 0.7 else set(rng.sample(range(202), 40))
            for asked in (Postings(), warm):
                _check(connection, words.rank(connection, terms, allowed, 1, asked), terms, 20, allowed)
        assert len(warm._state.postings) > 100


def test_fts5_ranks_until_it_has_ranked_as_many_matches_as_there_are_chunks(index: Index) -> None:
    known = Postings()
    with index._database.reading() as connection:
        (total,) = connection.execute("select count(*) from fts_docsize").fetchone()
        (matches,) = known.counts(connection, ['"word5"'], total).values()
        for number in range(1, total):
            words.rank(connection, ['"word5"'], None, 10, known)
            if (number - 1) * matches > total:
                break
            assert not known._state.postings
        assert list(known._state.postings) == ['"word5"']


def test_common_words_need_not_be_looked_at(index: Index) -> None:
    """What `_plans` leaves out changes neither the first chunks nor their scores, to the last bit."""
    rng, pruned = random.Random(3), 0
    sql = f"select rowid, {BM25} as score from fts where fts match ? order by score desc, rowid limit ?"
    with index._database.reading() as connection:
        (total,) = connection.execute("select count(*) from fts_docsize").fetchone()
        for _ in range(200):
            terms = [f'"{word}"' for word in rng.sample(VOCABULARY, rng.randrange(2, 7))]
            counts = Postings().counts(connection, terms, total // 2 + 1)
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


def test_terms_are_kept(index: Index) -> None:
    terms = ['"word5"', '"word39"', '"word1 word2"']
    statements: list[str] = []
    with index._database.reading() as connection:
        known = _warm(Postings(), connection)
        first, second = (words.rank(connection, terms, None, 10, known) for _ in range(2))
        assert first == second
        assert list(known._state.postings) == terms
        connection.set_trace_callback(statements.append)
        assert words.rank(connection, terms[::-1], None, 10, known).scores == pytest.approx(
            second.scores, rel=1e-12
        )
        words.rank(connection, terms, {1, 2}, 10, known)
        connection.set_trace_callback(None)
    assert statements
    assert not any("match" in statement or "instance" in statement for statement in statements)


@pytest.mark.parametrize("kept", [False, True])
def test_a_long_note_does_not_take_all_places(index: Index, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    monkeypatch.setattr(words, "CHUNKS", 5)
    if not kept:
        monkeypatch.setattr(postings, "_MOST_MATCHES", 0)
    terms = ['"alone"', '"word9"']
    with index._database.reading() as connection:
        known = _warm(Postings(), connection)
        found = words.rank(connection, terms, None, 10, known)
        assert bool(known._state.postings) == kept
        assert len({chunk >> NOTE_BITS for chunk in list(found.scores)[:5]}) == 1
        assert len({chunk >> NOTE_BITS for chunk in found.scores}) >= 10
        _check(connection, found, terms, 50)


def test_what_is_kept_is_bounded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "_MOST_MATCHES", 1000)
    with index._database.reading() as connection:
        known = _warm(Postings(), connection)
        for start in range(0, 60, 3):
            terms = [f'"{word}"' for word in VOCABULARY[start : start + 3]]
            for _ in range(2):
                _check(connection, words.rank(connection, terms, None, 10, known), terms, words.CHUNKS)
            state = known._state
            assert state.matches == sum(len(places) for places, _ in state.postings.values()) <= 1000
        # What was asked for last stays.
        assert list(state.postings)[-3:] == terms
        assert '"word1"' not in state.postings
        # More than fit are FTS5's.
        monkeypatch.setattr(postings, "_MOST_MATCHES", 10)
        assert known.scores(connection, {'"word1"': 11}, 1000) is None


def test_an_index_that_changed_is_asked_anew(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    (folder / "a.md").write_text("# A\n\nsalt and pepper")
    (folder / "b.md").write_text("# B\n\nflour")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder, vectors=False)
        for _ in range(4):
            assert [hit.path for hit in index.search("salt", mode="words")] == ["a.md"]
        assert '"salt"' in index._postings._state.postings
        (folder / "a.md").write_text("# A\n\npepper")
        (folder / "b.md").write_text("# B\n\nflour and salt")
        index.sync(folder, vectors=False)
        for _ in range(4):
            assert [hit.path for hit in index.search("salt", mode="words")] == ["b.md"]
        # Vectors change no words.
        assert '"salt"' in (state := index._postings._state).postings
        index.sync(folder)
        assert index._vectors is None
        index.search("salt")
        assert index._postings._state is state
        # A change that leaves all lengths as they are.
        (folder / "a.md").write_text("# A\n\nsalt")
        (folder / "b.md").write_text("# B\n\nflour and mint")
        index.sync(folder)
        assert [hit.path for hit in index.search("salt", mode="words")] == ["a.md"]


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
                monkeypatch.setattr(postings, "_MOST_MATCHES", most)
                known = _warm(Postings(), connection)
                for _ in range(2):
                    found = words.rank(connection, terms, None, 10, known)
                    _check(connection, found, terms, words.CHUNKS)
                    assert len(found.scores) == 20
                assert list(known._state.postings) == kept


def test_an_empty_index_has_no_words(tmp_path: Path, tiny: Encoder) -> None:
    with Index(tmp_path / "index.db", tiny) as index:
        for _ in range(2):
            assert index.search("anything", mode="words") == []


def _damaged(tmp_path: Path, folder: Path, tiny: Encoder, damage: str) -> Index:
    """An index of three notes after a statement of SQL."""
    for number in range(3):
        (folder / f"{number}.md").write_text("salt and pepper")
    index = Index(tmp_path / "index.db", tiny)
    index.sync(folder, vectors=False)
    with index._database.alone() as connection:
        connection.execute(damage)
    return index


@pytest.mark.parametrize(
    "damage",
    [
        "delete from fts_docsize where id = (select max(id) from fts_docsize)",
        "delete from fts_docsize where id = (select min(id) from fts_docsize)",
        "update fts_docsize set sz = x'01'",
        "update fts_docsize set sz = x'01' where id = (select min(id) from fts_docsize)",
        "update fts_docsize set sz = x'0101010101'",
        "update fts_docsize set sz = x'0101010101010101'",
        "update fts_docsize set sz = x'01010181'",
        "update fts_docsize set sz = x'0101018181818181818101'",
        "update fts_docsize set sz = null where id = (select max(id) from fts_docsize)",
        "update fts_docsize set sz = x''",
        "update fts_docsize set sz = '\u00e4'",
        # One too long, and one too short by as much.
        "update fts_docsize set sz = case id when (select min(id) from fts_docsize) then x'0101010101' "
        "when (select max(id) from fts_docsize) then x'010101' else sz end",
    ],
)
def test_lengths_that_are_none_are_damage(tmp_path: Path, folder: Path, tiny: Encoder, damage: str) -> None:
    with _damaged(tmp_path, folder, tiny, damage) as index:
        with index._database.reading() as connection:
            _warm(index._postings, connection)
        with pytest.raises(IndexFileError, match="the file is damaged"):
            index.search("salt", mode="words")


@pytest.mark.parametrize(
    "damage",
    [
        "update vec set v = substr(v, 1, 10)",
        "update vec set v = substr(v, 1, 10) where note = (select min(note) from vec)",
        "drop table vec",
        "alter table chunk drop column lead",
    ],
)
def test_vectors_that_are_none_are_damage(tmp_path: Path, folder: Path, tiny: Encoder, damage: str) -> None:
    def use(each: Callable[[Index], object]) -> None:
        with pytest.raises(IndexFileError, match="the file is damaged") as raised, Index(file, tiny) as index:
            each(index)
        assert is_damage(raised.value.__cause__)

    for number in range(3):
        (folder / f"{number}.md").write_text("salt and pepper")
    file = tmp_path / "index.db"
    with Index(file, tiny) as index:
        index.sync(folder)
        with index._database.alone() as connection:
            connection.execute(damage)
    use(lambda index: list(index.rows()))
    if "chunk" not in damage:
        use(lambda index: index.search("salt"))
        use(lambda index: index.related("0.md"))


@pytest.mark.parametrize("table", ["fts_docsize", "chunk"])
def test_words_without_their_chunks_are_damage(tmp_path: Path, folder: Path, tiny: Encoder, table: str) -> None:
    with (
        _damaged(tmp_path, folder, tiny, f"delete from {table}") as index,
        pytest.raises(IndexFileError, match="the file is damaged"),
    ):
        index.search("salt pepper", mode="words")


@pytest.mark.parametrize(
    "damage",
    [
        "update note set tags = '[1'",
        "update root set selection = '{'",
        # No UTF-8, which SQLite's module cannot read either.
        "update note set title = cast(x'ff' as text)",
        "replace into meta values ('space', '{')",
    ],
)
def test_values_that_are_no_json_are_damage(tmp_path: Path, folder: Path, tiny: Encoder, damage: str) -> None:
    def use(index: Index) -> None:
        index.search("salt")
        index.sync()

    with (
        _damaged(tmp_path, folder, tiny, damage) as index,
        pytest.raises(IndexFileError, match="the file is damaged") as raised,
    ):
        use(index)
    assert is_damage(raised.value.__cause__)


def test_a_schema_that_cannot_be_read_is_damage(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    """SQLite's own message is no UTF-8 then."""
    damage = "update sqlite_master set name = cast(x'ff' as text), sql = cast(x'ff' as text) where name = 'note'"
    with _damaged(tmp_path, folder, tiny, "pragma writable_schema = on") as index:
        with index._database.alone() as connection:
            connection.execute(damage)
        index.close()
        with pytest.raises(IndexFileError, match="the file is damaged") as raised:
            Index(index.file, tiny)
    assert is_damage(raised.value.__cause__)


def test_stems_that_end_within_a_letter(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    """Porter's rules drop one of two equal letters, and take bytes for letters."""
    (folder / "a.md").write_text("a\u0924ed \u092cting")
    (folder / "b.md").write_text("a\u0924ing \u2c71ed")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder, vectors=False)
        for query in ("a\u0924ed", "a\u0924", "\u092cting", "\u2c71ed"):
            index._postings = Postings()
            found = [
                index.search(query, mode="words", prefix=prefix) for prefix in (False, True) for _ in range(5)
            ]
            assert bool(index._postings._state.postings) == bool(found[0])
            assert all(hits == found[0] for hits in found[:5])
            assert all(hits == found[5] for hits in found[5:])
