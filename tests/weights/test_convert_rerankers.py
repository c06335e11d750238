"""Rerankers as MLX folders: the same scores, with names that transformers knows where it has the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import convert
from tests.support import checkpoints, rerank_reference, reranker_checkpoints
from tests.support.tolerance import bound

QUERY, DOCUMENTS = "What is the capital of France?", ["paris", "bake bread", "", "light travels fast"]
MODELS: dict[str, Callable[[Path], Path]] = {
    "v1": reranker_checkpoints.v1,
    "v2": reranker_checkpoints.v2,
    "bge": reranker_checkpoints.bge,
    "v3": reranker_checkpoints.v3,
    "v3-mlx": reranker_checkpoints.v3_mlx,
    "Qwen3-Reranker-0.6B": reranker_checkpoints.qwen,
    "Qwen3-Reranker-8B": lambda folder: reranker_checkpoints.qwen(folder, tied=False),
    "seq-cls": reranker_checkpoints.qwen_classifier,
}


def score(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return mlx_jina.load_reranker(path).score(QUERY, DOCUMENTS)


@pytest.fixture(scope="module", params=MODELS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param](tmp_path_factory.mktemp("rerankers") / request.param)


def test_the_scores_are_the_same(source: Path, tmp_path: Path) -> None:
    convert.to_mlx(source, tmp_path / "copy")
    wanted = score(source)
    assert np.array_equal(score(tmp_path / "copy"), wanted)
    with pytest.raises(CheckpointError, match=r"is a reranker .*load_reranker opens it"):
        mlx_jina.load(tmp_path / "copy")
    # A second time, and packed.
    convert.to_mlx(tmp_path / "copy", tmp_path / "packed", bits=8)
    assert 0 < abs(score(tmp_path / "packed") - wanted).max() < 0.05
    convert.to_mlx(tmp_path / "packed", tmp_path / "unpacked", dtype="float32")
    np.testing.assert_allclose(score(tmp_path / "unpacked"), score(tmp_path / "packed"), atol=bound(2e-6), rtol=0)


def test_heads_are_never_packed(source: Path, tmp_path: Path) -> None:
    convert.to_mlx(source, tmp_path / "packed", bits=4, group_size=32)
    tensors = checkpoints.read_tensors(tmp_path / "packed")
    heads = ("classifier.", "score.", "projector.", "pooler.", "bert.pooler.")
    found = {name: x.dtype for name, x in tensors.items() if name.startswith(heads)}
    assert found
    assert set(found.values()) == {mx.float32}
    assert any(x.dtype == mx.uint32 for x in tensors.values())


@pytest.mark.parametrize("name", ["v2", "bge", "Qwen3-Reranker-0.6B", "Qwen3-Reranker-8B"])
def test_transformers_loads_it(name: str, tmp_path: Path) -> None:
    """Also jina-reranker-v2, whose repository needs code of its own."""
    convert.to_mlx(MODELS[name](tmp_path / name), tmp_path / "copy")
    model = mlx_jina.load_reranker(tmp_path / "copy")
    rows = rerank_reference.rows_of(model, QUERY, DOCUMENTS)
    found = rerank_reference.classifier_logits(tmp_path / "copy", rows)
    wanted = model.score(QUERY, DOCUMENTS, activation="none")
    np.testing.assert_allclose(found, wanted, atol=bound(1e-5), rtol=0)


def test_two_rows_are_no_and_yes(tmp_path: Path) -> None:
    convert.to_mlx(MODELS["Qwen3-Reranker-0.6B"](tmp_path / "Qwen3-Reranker-0.6B"), tmp_path / "copy")
    config = checkpoints.read_config(tmp_path / "copy")
    assert config["id2label"] == {"0": "no", "1": "yes"}
    checkpoints.write_json(tmp_path / "copy" / "config.json", config | {"id2label": {"0": "LABEL_0"}})
    with pytest.raises(CheckpointError, match=r"score\.weight has 2 rows, for the labels"):
        mlx_jina.load_reranker(tmp_path / "copy")


def test_in_half_precision(tmp_path: Path) -> None:
    source = MODELS["v3"](tmp_path / "v3")
    convert.to_mlx(source, tmp_path / "half", dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < abs(score(tmp_path / "half") - score(source)).max() < 0.05
