"""How hits are ordered, and that large indexes find what small ones do."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_jina import Index, Where, load
from mlx_jina.encoder import Encoder
from mlx_jina.search import meaning, postings, words
from mlx_jina.search.database import one
from mlx_jina.search.meaning import ExactVectors, Meaning, SignVectors, Vectors
from mlx_jina.search.ranking import balanced, best_of_notes, fuse
from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.words import Words
from mlx_jina.vectors import Floats
from tests.support.notes import text

NOTES = {
    "sourdough.md": "# Sourdough\n\nFeed the starter with flour and water every morning, and bake at noon.",
    "oven.md": "# Kitchen\n\nThe oven gets hot; a loaf wants steam and a stone.",
    "car.md": "# Garage\n\nThe engine of the car needs new oil and another belt.",
    "train.md": "# Travel\n\nThe express to the coast leaves the station at nine.",
    "music.md": "# Piano\n\nPractise scales slowly before the concert.",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, pocket: Encoder) -> Iterator[Index]:
    """Notes of different subjects."""
    folder = tmp_path_factory.mktemp("notes")
    for name, content in NOTES.items():
        (folder / name).write_text(content)
    with Index(tmp_path_factory.mktemp("index") / "index.db", pocket) as opened:
        opened.sync(folder)
        yield opened


def note(number: int, chunk: int = 0) -> int:
    """The id of a chunk."""
    return (number << NOTE_BITS) + chunk


def test_scores_are_the_sum_of_both_halves() -> None:
    found = Words({note(1): 8.0, note(2): 4.0})
    near = Meaning({note(3): 0.9, note(1): 0.6, note(2): 0.3}, mean=0.1, best=0.9)
    scores = {each.chunk: each.score for each in fuse(found, near, 0.5)}
    assert scores == pytest.approx({note(3): 0.5, note(1): 0.5 * 0.625 + 0.5, note(2): 0.5 * 0.25 + 0.25})
    assert [each.chunk for each in fuse(found, near, 0.5)] == [note(1), note(3), note(2)]
    # Without a word, meaning decides alone; without vectors, words do.
    assert fuse(Words({}), near, 0.5)[0].score == 1
    assert [each.score for each in fuse(found, None, 0.5)] == [1, 0.5]
    # Where all are alike, nobody divides by nothing.
    same = Meaning({note(1): 0.5}, mean=0.5, best=0.5)
    assert fuse(Words({}), same, 0.5)[0].score == 1
    # A half that knows nothing of a chunk counts nothing.
    assert fuse(Words({note(7): 2.0}), near, 0.5)[0].score == 0.5
    assert fuse(found, near, 0.5, {2})[0].chunk == note(2)


def test_what_is_less_alike_than_the_mean_is_unrelated() -> None:
    # Of two notes that a filter lets through one is below the mean of both.
    near = Meaning({note(1): 0.58, note(2): 0.53}, mean=0.555, best=0.58)
    first, second = fuse(Words({note(2): 1.5}), near, 0.4)
    assert (first.chunk, second.chunk) == (note(2), note(1))
    assert [first.score, second.score] == pytest.approx([0.6, 0.4], abs=1e-3)
    # It still orders what is equal.
    near = Meaning({note(3): 0.9, note(1): 0.2, note(2): 0.1}, mean=0.4, best=0.9)
    assert [each.chunk for each in fuse(Words({}), near, 0.5)] == [note(3), note(1), note(2)]
    # The mean of two notes that hardly differ says nothing of them.
    near = Meaning({note(1): 0.5, note(2): 0.49999}, mean=0.499995, best=0.5)
    assert [each.score for each in fuse(Words({}), near, 0.5)] == pytest.approx([1, 1], abs=1e-4)


def test_a_note_is_its_best_chunk() -> None:
    found = Words({note(1, 3): 8.0, note(1, 1): 8.0, note(2): 7.0, note(1, 0): 1.0})
    assert [each.chunk for each in best_of_notes(fuse(found, None, 0.5))] == [note(1, 1), note(2)]


def test_meaning_finds_what_words_miss(index: Index) -> None:
    for query, path in (("motor vehicle maintenance", "car.md"), ("railway journey", "train.md")):
        assert index.search(query, mode="words") == [] or index.search(query, mode="words")[0].path != path
        assert index.search(query)[0].path == path
        assert index.search(query, mode="meaning")[0].path == path
    hit = index.search("feed starter")[0]
    assert (hit.path, hit.score) == ("sourdough.md", 1.0)
    assert hit.cosine is not None
    assert hit.bm25 is not None
    assert index.search("railway journey", mode="meaning")[0].bm25 is None


def test_titles_and_aliases_come_first(index: Index) -> None:
    assert index.search("kitchen")[0].path == "oven.md"
    # The title is all that the word and the note have in common.
    assert index.search("  TRAVEL ", mode="meaning")[0].path == "train.md"
    # The file's own name is a name, too.
    assert index.search("car", mode="words")[0].path == "car.md"


def test_words_in_most_chunks_are_left_out_and_said(index: Index) -> None:
    why = index.find("the oven").explanation
    assert why.dropped == ('"the"',)
    # Counting stops where a word is in more than half.
    assert why.counts == {'"the"': 3, '"oven"': 1}
    # Unless there is nothing else, or nothing else that occurs.
    for query in ("the", "whatever the"):
        assert index.find(query, mode="words").explanation.dropped == ()
        assert len(index.search(query, mode="words")) == 5


def test_dropped_words_change_no_order(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [hit.path for hit in index.search("the oven and the station", mode="words")]
    monkeypatch.setattr(words, "_dropped", lambda *_: [])
    assert [hit.path for hit in index.search("the oven and the station", mode="words")][: len(before)] == before


def test_explanations_add_up(index: Index) -> None:
    found = index.find("hot oven for a loaf")
    why = found.explanation
    assert why.mean is not None
    assert why.best is not None
    assert why.best_bm25 is not None
    assert why.weight is not None
    for hit in found.hits:
        assert hit.cosine is not None
        by_meaning = (hit.cosine - why.mean) / (why.best - why.mean)
        expected = why.weight * by_meaning + (1 - why.weight) * (hit.bm25 or 0) / why.best_bm25
        assert hit.score == pytest.approx(min(1, max(0, expected)), abs=1e-6)
    assert (why.chunks, why.allowed, found.mode) == (5, None, "hybrid")
    assert index.find("oven", where=Where(glob="oven.md")).explanation.allowed == 1


@pytest.mark.parametrize(
    ("weight", "covered", "expected"),
    [(0.4, 1.0, 0.4), (0.4, 0.35, 0.4), (0.4, 0.175, 4 / 7), (0.4, 0.0, 1.0), (0.0, 0.1, 0.0), (1.0, 0.1, 1.0)],
)
def test_words_that_found_little_count_less(weight: float, covered: float, expected: float) -> None:
    assert balanced(weight, Words({1: 2.0}, covered=covered)) == pytest.approx(expected)


def test_words_that_no_note_has_lower_the_weight_of_the_others(index: Index) -> None:
    weights = [
        index.find(f"oven {rest}").explanation.weight or 0.0 for rest in ("", "zyzzyva", "zyzzyva quixotry")
    ]
    assert 0 < weights[0] < weights[1] < weights[2] < 1


def test_filters_leave_out_notes_before_ranking(index: Index) -> None:
    # However bad it is, the only note that is allowed is the best.
    for query in ("sourdough starter", "motor vehicle"):
        (hit,) = index.search(query, where=Where(glob="music.md"))
        assert hit.path == "music.md"
        found = index.find(query, where=Where(glob=["music.md", "train.md"])).explanation
        assert found.mean != index.find(query).explanation.mean
    assert index.search("sourdough", where=Where(glob="absent")) == []


def test_a_whole_path_is_a_filter_too(index: Index) -> None:
    root = index.status().folders[0]
    for glob in (f"{root}/music.md", f"{root}/mus*.md", "/music.md"):
        assert {hit.path for hit in index.search("sourdough", where=Where(glob=glob))} == {"music.md"}
    assert len(index.search("sourdough", where=Where(glob=root))) == len(index.search("sourdough"))
    assert index.search("sourdough", where=Where(glob=f"{root}/absent")) == []


def test_the_weight_is_the_index_s(index: Index) -> None:
    query = "bake while on a railway journey"
    by_words, by_meaning = (index.search(query, mode=mode)[0].path for mode in ("words", "meaning"))
    assert by_words != by_meaning
    index.set_weight(0)
    assert index.search(query)[0].path == by_words
    index.set_weight(1)
    assert index.search(query)[0].path == by_meaning
    index.set_weight(0.5)


def test_without_one_the_weight_is_the_model_s(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    (folder / "a.md").write_text("# Bread\n\nFeed a starter.")
    for name, model, weight in (("tiny", tiny, 0.5), ("name", "pocket", 0.4), ("loaded", load("pocket"), 0.4)):
        with Index(tmp_path / f"{name}.db", model) as index:
            index.sync(folder)
            assert index.find("starter").explanation.weight == weight


def test_limits_and_thresholds(index: Index) -> None:
    assert len(index.search("oven", limit=2)) == 2
    assert [hit.path for hit in index.search("oven", min_score=0.9)] == ["oven.md"]
    assert index.search("oven", min_cosine=0.99) == []
    assert len(index.search("oven", limit=50)) == 5


def test_several_hits_of_a_note(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    filler = "Nothing to see here. " * 60
    (folder / "a.md").write_text("".join(f"## Part {n}\n\nzebra {filler}\n\n" for n in range(4)))
    (folder / "b.md").write_text(f"zebra {filler}")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        first, second = index.search("zebra", mode="words")
        assert {first.path, second.path} == {"a.md", "b.md"}
        assert sum(hit.more for hit in (first, second)) >= 1
        assert [hit.path for hit in index.search("zebra", mode="words", chunks=True)].count("a.md") == 4


def test_one_long_note_does_not_take_all_places(
    tmp_path: Path, folder: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "CHUNKS", 5)
    monkeypatch.setattr(meaning, "CHUNKS", 5)
    (folder / "long.md").write_text("".join(f"## Part {n}\n\n{'zebra ' * 80}\n\n" for n in range(40)))
    for n in range(10):
        (folder / f"{n}.md").write_text(f"One zebra, and {'other words ' * 40}")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        assert len({hit.path for hit in index.search("zebra", mode="words")}) == 10
        assert len({hit.path for hit in index.search("zebra")}) == 10


def test_recent_notes_can_be_preferred(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    (folder / "old.md").write_text("---\nmodified: 2001-01-01\n---\nzebra zebra")
    (folder / "new.md").write_text("zebra and many other words that make the note long")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        assert [hit.path for hit in index.search("zebra", mode="words")] == ["old.md", "new.md"]
        assert [hit.path for hit in index.search("zebra", mode="words", recent=True)] == ["new.md", "old.md"]


def test_equal_hits_are_ordered_by_path(tmp_path: Path, folder: Path, tiny: Encoder) -> None:
    for name in ("c", "a", "d", "b"):
        (folder / name).mkdir()
        (folder / name / "note.md").write_text("zebra")
    with Index(tmp_path / "index.db", tiny) as index:
        index.sync(folder)
        for mode in ("words", "hybrid"):
            hits = index.search("zebra", mode=mode, limit=3)
            assert [hit.path for hit in hits] == ["a/note.md", "b/note.md", "c/note.md"]


# ---- exact and by signs


def clustered(rng: np.random.Generator, notes: int, dimension: int) -> list[tuple[int, Floats]]:
    """Vectors as models make them: notes of one subject near each other, chunks of a note nearer still."""
    centres = rng.standard_normal((200, dimension)) + rng.standard_normal(dimension)
    found = []
    for number in range(1, notes + 1):
        own = centres[rng.integers(200)] + 0.7 * rng.standard_normal(dimension)
        rows = own + 0.5 * rng.standard_normal((rng.integers(1, 8), dimension))
        found.append((number, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)))
    return found


def stored(notes: list[tuple[int, Floats]]) -> sqlite3.Connection:
    """The tables that searches read."""
    from mlx_jina.search.embedding import signs

    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "create table vec(note integer primary key, v); create table bits(note integer primary key, b)"
    )
    for number, rows in notes:
        data = rows.astype(np.float16).tobytes()
        connection.execute("insert into vec values (?, ?)", (number, data))
        connection.execute("insert into bits values (?, ?)", (number, signs(data, rows.shape[1])))
    return connection


def both(connection: sqlite3.Connection, dimension: int) -> tuple[Vectors, Vectors]:
    """The two ways to search."""
    exact = ExactVectors(dimension, connection.execute("select note, v from vec order by note").fetchall())
    return exact, SignVectors(dimension, connection.execute("select note, b from bits order by note").fetchall())


def test_signs_find_what_all_vectors_find() -> None:
    rng = np.random.default_rng(0)
    dimension = 256
    notes = clustered(rng, 3000, dimension)
    connection = stored(notes)
    exact, by_signs = both(connection, dimension)
    same = total = 0
    for _ in range(60):
        query = notes[rng.integers(len(notes))][1][0] + 0.06 * rng.standard_normal(dimension).astype(np.float32)
        query /= np.linalg.norm(query)
        a, b = (vectors.rank(connection, query, None, (), 10) for vectors in (exact, by_signs))
        assert a is not None
        assert b is not None
        best = list(a.scores)[:10]
        same += len({*best} & {*list(b.scores)[:10]})
        total += 10
        for chunk in set(best) & b.scores.keys():
            assert b.scores[chunk] == pytest.approx(a.scores[chunk], abs=1e-5)
        assert b.mean == pytest.approx(a.mean, abs=0.05)
    assert same >= 0.99 * total, same / total


@pytest.mark.parametrize("kind", [0, 1])
def test_filters_and_what_is_asked_for(kind: int) -> None:
    rng = np.random.default_rng(1)
    notes = clustered(rng, 600, 64)
    connection = stored(notes)
    vectors = both(connection, 64)[kind]
    query = notes[3][1][0]
    allowed = set(range(100, 200))
    asked = [note(150, 0), note(400, 0), note(150, 999), note(10_000, 0)]
    found = vectors.rank(connection, query, allowed, asked, 10)
    assert found is not None
    assert {chunk >> NOTE_BITS for chunk in found.scores} <= allowed
    assert note(150) in found.scores
    assert found.best == max(found.scores.values())
    rows = np.concatenate([rows for number, rows in notes if number in allowed])
    owners = np.concatenate([np.full(len(rows), number) for number, rows in notes if number in allowed])
    means = {number: rows.sum(axis=0) / np.linalg.norm(rows.sum(axis=0)) for number, rows in notes}
    expected = (rows @ query + np.array([means[owner] @ query for owner in owners])) / 2
    assert found.best == pytest.approx(expected.max(), abs=2e-3)
    if kind == 0:
        assert found.mean == pytest.approx(expected.mean(), abs=2e-3)
    assert vectors.rank(connection, query, {5000}, (), 10) is None
    assert vectors.rank(connection, query, set(), (), 10) is None
    nearest = vectors.nearest_notes(connection, query, set(means) - {4}, 5)
    cosines = sorted(((means[number] @ query, number) for number in means if number != 4), reverse=True)
    found_notes, expected_notes = (
        [chunk >> NOTE_BITS for chunk, _ in nearest],
        [number for _, number in cosines[:5]],
    )
    assert found_notes == expected_notes if kind == 0 else len({*found_notes} & {*expected_notes}) >= 4


@pytest.mark.parametrize("kind", [0, 1])
def test_no_vectors(kind: int) -> None:
    connection = stored([])
    vectors = both(connection, 64)[kind]
    assert len(vectors) == 0
    assert vectors.rank(connection, np.zeros(64, np.float32), None, (), 10) is None


def test_bits_are_counted_without_numpy_2_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    bits = meaning._words(rng.integers(0, 256, (50, 20), dtype=np.uint8))
    query = meaning._words(rng.integers(0, 256, (1, 20), dtype=np.uint8))
    expected = np.array([sum(int(x).bit_count() for x in column) for column in (bits ^ query).T])
    np.testing.assert_array_equal(meaning._distances(bits, query), expected)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    np.testing.assert_array_equal(meaning._distances(bits, query), expected)


def test_a_large_index_is_searched_by_signs(
    tmp_path: Path, folder: Path, pocket: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    for n in range(40):
        (folder / f"{n}.md").write_text(text(rng))
    with Index(tmp_path / "index.db", pocket) as index:
        index.sync(folder)
        exact = [(hit.path, hit.line) for hit in index.search("oven and flour")]
        neighbours = [hit.path for hit in index.related("0.md")]
        pairs = index.duplicates(0.8)
        monkeypatch.setattr(meaning, "EXACT_BYTES", 0)
        index._vectors = None
        assert [(hit.path, hit.line) for hit in index.search("oven and flour")] == exact
        assert isinstance(index._vectors, tuple)
        assert isinstance(index._vectors[1], SignVectors)
        assert [hit.path for hit in index.related("0.md")] == neighbours
        assert [(pair.path, pair.other) for pair in index.duplicates(0.8)] == [(p.path, p.other) for p in pairs]


def test_ndcg_of_the_bench() -> None:
    from bench.search import ndcg

    assert ndcg(["a", "b"], {"a": 1, "b": 1}) == 1
    assert ndcg(["x", "a"], {"a": 1}) == pytest.approx(1 / math.log2(3))
    assert ndcg(["b", "a"], {"a": 4, "b": 1}) == pytest.approx((1 + 4 / math.log2(3)) / (4 + 1 / math.log2(3)))
    assert ndcg([], {"a": 1}) == 0


def test_words_are_counted_once_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.md").write_text(f"fox {number}" if number < 2 else "snow")
    asked: list[object] = []

    def spy(connection: sqlite3.Connection, sql: str, *values: object) -> Any:
        asked.append(values)
        return one(connection, sql, *values)

    monkeypatch.setattr(postings, "one", spy)
    with Index(tmp_path / "index.db") as index:
        index.sync(folder, vectors=False)
        for _ in range(3):
            assert index.find("fox fox", mode="words").explanation.counts == {'"fox"': 2}
        assert asked.count(('"fox"', 3)) == 1
        (folder / "2.md").write_text("a fox again")
        index.sync(vectors=False)
        assert index.find("fox", mode="words").explanation.counts == {'"fox"': 3}
