"""Models that name their tasks in other ways than v5, and what they take when none is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mlx_jina
from tests.support import decoder_checkpoints, v3_checkpoints
from tests.support.process import Server


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tasks")
    return {"v3-tiny": v3_checkpoints.original(root / "v3"), "code-tiny": decoder_checkpoints.code(root / "code")}


@pytest.fixture(scope="module")
def served(folders: dict[str, Path]) -> Iterator[Server]:
    with Server(*(f"{name}={folder}" for name, folder in folders.items())) as running:
        yield running


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, mlx_jina.Encoder]:
    return {name: mlx_jina.load(folder) for name, folder in folders.items()}


@pytest.mark.parametrize(
    ("name", "fields", "task"),
    [
        ("v3-tiny", {}, None),
        ("v3-tiny", {"task": "retrieval.query"}, "retrieval.query"),
        ("v3-tiny", {"model": "v3-tiny:retrieval.passage"}, "retrieval.passage"),
        ("v3-tiny", {"model": "v3-tiny:query"}, "retrieval.query"),
        ("v3-tiny", {"input_type": "search_document"}, "retrieval.passage"),
        ("v3-tiny", {"model": "v3-tiny:retrieval.query", "input_type": "query"}, "retrieval.query"),
        ("v3-tiny", {"task": "text-matching"}, "text-matching"),
        ("v3-tiny", {"input_type": "clustering"}, "separation"),
        ("code-tiny", {}, "nl2code.query"),
        ("code-tiny", {"input_type": "document"}, "nl2code.passage"),
        ("code-tiny", {"task": "code2code.passage"}, "code2code.passage"),
        ("code-tiny", {"task": "qa", "input_type": "query"}, "qa.query"),
    ],
)
def test_each_way_to_say_it(
    served: Server, encoders: dict[str, mlx_jina.Encoder], name: str, fields: dict[str, str], task: str | None
) -> None:
    answer = served.embed("a man riding", **{"model": name, **fields})
    assert answer.status_code == 200, answer.text
    encoder = encoders[name]
    np.testing.assert_allclose(
        answer.json()["data"][0]["embedding"], encoder.encode("a man riding", task=task), atol=1e-5
    )
    assert answer.headers["X-Embedding-Fingerprint"] == encoder.fingerprint(task)


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "clustering"},
        {"task": "retrieval.query", "input_type": "document"},
        {"task": "retrieval"},
        {"model": "v3-tiny:query", "task": "retrieval.passage"},
    ],
)
def test_what_is_unknown_or_contradicts_is_refused(served: Server, fields: dict[str, str]) -> None:
    answer = served.embed("a", **{"model": "v3-tiny", **fields})
    assert answer.status_code == 400, answer.text
