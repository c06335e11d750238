"""The second stage: a reranker reads the best hits, and scores are blended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlx_jina
from mlx_jina import Index, InputError, NumericalError
from mlx_jina.encoder import Encoder
from mlx_jina.search import ranking
from mlx_jina.search.ranking import Ranked
from tests.support import reranker_checkpoints
from tests.support.command import run


class Scripted:
    """Likes texts that have a word."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.read: list[str] = []

    def score(self, query: str, documents: list[str], /) -> list[float]:
        self.read = documents
        return [float(self.word in text) for text in documents]


@pytest.fixture
def index(tmp_path: Path, folder: Path, tiny: Encoder) -> Index:
    for n in range(40):
        text = f"# Note {n}\n\nThe oil of engine {n}{' oil' * (40 - n)}.\n"
        (folder / f"n{n:02}.md").write_text(text + ("A zebra.\n" if n in (0, 5, 25, 39) else ""))
    index = Index(tmp_path / "notes.db", tiny)
    index.sync(folder)
    return index


def test_a_blend_keeps_shares_by_place() -> None:
    before = [Ranked(n, 1 - n / 100, None, None) for n in range(40)]
    liked = ranking.blend(before, [1.0 if n in (3, 12, 29) else 0.0 for n in range(30)])
    assert len(liked) == 40
    found = {each.chunk: each for each in liked}
    assert found[0].score == pytest.approx(0.75 * 1)
    assert found[3].score == pytest.approx(0.6 * 0.97 + 0.4)
    assert found[4].score == pytest.approx(0.6 * 0.96)
    assert found[12].score == pytest.approx(0.4 * 0.88 + 0.6)
    assert [each.chunk for each in liked[:3]] == [3, 12, 29]
    # What it did not read stays behind, as it was.
    assert liked[30:] == before[30:]
    # A score that is no probability cannot push anything out.
    assert ranking.blend(before, [9.0])[0].rerank == 1
    named = [before[0], before[1]._replace(named=True)]
    assert ranking.blend(ranking.ordered(named), [0.0, 1.0])[0].chunk == 1


def test_it_reads_the_best_thirty(index: Index) -> None:
    scorer = Scripted("zebra")
    plain = index.find("engine oil", 40, "words")
    found = index.find("engine oil", 5, "words", rerank=scorer)
    assert len(scorer.read) == 30
    assert scorer.read[0].startswith(f"{plain.hits[0].title}\n")
    read = {hit.id for hit in plain.hits[:30] if "zebra" in hit.text}
    assert {hit.id for hit in found.hits if hit.rerank} == read
    assert len(found.hits) == 5
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    # None of it without one.
    assert all(hit.rerank is None for hit in plain.hits)
    # Filters alone have nothing to be read for, nor has a query that finds nothing.
    assert index.find("after:2020", rerank=scorer).hits[0].rerank is None
    assert not index.find("xylophone", mode="words", rerank=scorer).hits


def test_what_goes_wrong_with_it_is_said(index: Index) -> None:
    class Failing:
        def score(self, query: str, documents: list[str], /) -> list[float]:
            raise NumericalError("a score is not finite")

    plain = index.find("engine oil", 5, "words")
    found = index.find("engine oil", 5, "words", rerank=Failing())
    assert found.warning == "not reranked: a score is not finite"
    assert [hit.id for hit in found.hits] == [hit.id for hit in plain.hits]
    with pytest.raises(InputError, match="rerank='a-name' must be a loaded reranker, not str"):
        index.find("oil", rerank="a-name")  # type: ignore[arg-type]


def test_a_real_reranker(index: Index, tmp_path: Path) -> None:
    model = reranker_checkpoints.v1(tmp_path / "reranker")
    reranker = mlx_jina.load_reranker(model)
    found = index.find("engine oil", 10, "words", rerank=reranker)
    scripted = Scripted("")
    index.find("engine oil", 10, "words", rerank=scripted)
    for hit in found.hits:
        (text,) = (text for text in scripted.read if text.startswith(f"{hit.title}\n"))
        assert hit.rerank == pytest.approx(reranker.score("engine oil", [text])[0], abs=1e-6)
    options = ("--index", index.file, "--mode", "words", "--no-sync", "-n", "10", "--rerank", model)
    rows = json.loads(run("search", "engine oil", *options, "--json").stdout)["hits"]
    assert [row["id"] for row in rows] == [hit.id for hit in found.hits]
    assert [row["rerank"] for row in rows] == [round(hit.rerank or 0, 4) for hit in found.hits]
    assert "rerank 0." in run("search", "engine oil", *options, "--explain").stdout
    wrong = run("search", "x", "--index", index.file, "--rerank", tmp_path)
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
