"""MTEB with the encoder of `mlx_jina.integrations.mteb`: its own checks, a task on local rows, the tasks of v5."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from tests.support import reranker_checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

# Rows of the shape of STS-B's: two sentences and how alike they are, from 0 to 5.
ROWS = [
    ("A man is playing a guitar.", "A man plays the guitar.", 4.8),
    ("A woman is slicing an onion.", "Someone cuts an onion.", 3.9),
    ("A dog runs across the field.", "A cat sleeps on the sofa.", 0.8),
    ("The stock market fell sharply today.", "Shares dropped a lot today.", 4.2),
    ("A child is riding a horse.", "A child is riding a bicycle.", 2.0),
    ("The plane is taking off.", "He is cooking soup in the kitchen.", 0.0),
]


@pytest.fixture(scope="module")
def mteb() -> Any:
    return pytest.importorskip("mteb")


def test_scores_are_those_of_the_vectors(mteb: Any, tmp_path: Path) -> None:
    """A task of MTEB's own class on a local file, against Spearman's correlation of `encode`'s vectors."""
    from mteb.tasks.sts.eng.sts_benchmark_sts import STSBenchmarkSTS
    from scipy.stats import spearmanr

    from mlx_jina.integrations.mteb import MLXJinaEncoder

    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "test.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "score"), *ROWS])

    class Local(STSBenchmarkSTS):
        metadata = STSBenchmarkSTS.metadata.model_copy(
            update={"name": "LocalSTS", "dataset": {"path": str(tmp_path / "data"), "revision": "1"}}
        )

    cache = mteb.cache.ResultCache(tmp_path / "results")
    result = mteb.evaluate(MLXJinaEncoder("pocket"), Local(), cache=cache, co2_tracker=False)
    model = mlx_jina.load("pocket")
    first, second, alike = zip(*ROWS, strict=True)
    cosines = np.sum(model.encode(list(first)) * model.encode(list(second)), axis=1)
    assert result.model_name == "mlx-jina/pocket"
    assert result.task_results[0].get_score() == pytest.approx(spearmanr(cosines, alike).statistic, abs=1e-6)


def test_tasks_and_sides(mteb: Any, folder: str) -> None:
    from mlx_jina.integrations.mteb import MLXJinaEncoder

    encoder, model = MLXJinaEncoder(folder, embed_dim=64), mlx_jina.load(folder)
    loader = [{"text": ["one", "two"]}, {"text": ["three"]}]
    texts = ["one", "two", "three"]
    for task, side, want in (
        ("NFCorpus", "query", "retrieval.query"),
        ("NFCorpus", "document", "retrieval.passage"),
        ("STSBenchmark", None, "text-matching"),
        ("Banking77Classification", None, "classification"),
        ("TwentyNewsgroupsClustering", None, "clustering"),
    ):
        metadata = mteb.get_task(task).metadata
        prompt_type = mteb.types.PromptType(side) if side else None
        got = encoder.encode(loader, task_metadata=metadata, prompt_type=prompt_type)
        np.testing.assert_array_equal(got, model.encode(texts, task=want, truncate_dim=64))


@pytest.mark.parametrize("make", [reranker_checkpoints.v1, reranker_checkpoints.v3])
def test_a_reranking_task(mteb: Any, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """MTEB's own run of a made-up reranking task, scored again from `Reranker.score`."""
    from mteb.mocks.mock_tasks import MockRerankingTask

    from mlx_jina.integrations.mteb import MLXJinaCrossEncoder

    folder = make(tmp_path / "model")
    cache = mteb.cache.ResultCache(tmp_path / "results")
    task = MockRerankingTask()
    result = mteb.evaluate(MLXJinaCrossEncoder(str(folder)), task, cache=cache, co2_tracker=False)
    scores = result.task_results[0].scores["test"][0]
    # MTEB forgets a task's rows once it is scored.
    task.load_data()
    split = task.dataset["default"]["test"]
    texts = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in split["corpus"]}
    model = mlx_jina.load_reranker(folder)
    precisions = []
    for query in split["queries"]:
        ids = split["top_ranked"][query["id"]]
        order = model.rank(query["text"], [texts[i] for i in ids])
        relevant = [split["relevant_docs"][query["id"]].get(ids[hit["corpus_id"]], 0) > 0 for hit in order]
        hits = np.flatnonzero(relevant)
        precisions.append(np.mean([(n + 1) / (place + 1) for n, place in enumerate(hits)]))
    assert scores["map_at_1000"] == pytest.approx(np.mean(precisions), abs=1e-5)


def test_the_command_passes_mtebs_own_checks(mteb: Any, tmp_path: Path) -> None:
    """`mock-run` runs every kind of task on made-up rows."""
    command = [sys.executable, "-m", "mlx_jina.integrations.mteb", "mock-run", "-m", "pocket"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "passed all expected checks" in done.stdout
