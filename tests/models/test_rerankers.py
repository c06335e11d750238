"""jina-reranker-v1 and v2 and bge against float64 NumPy and sentence-transformers' CrossEncoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from mlx_jina import device
from mlx_jina.errors import CheckpointError
from tests.support import checkpoints, rerank_reference, reranker_checkpoints
from tests.support.bare import TEXTS
from tests.support.tolerance import assert_same_scores, bound

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

QUERY = "how do i bake bread"
DOCUMENTS = [text for text in TEXTS if text]
KINDS: dict[str, Callable[[Path], Path]] = {
    "v1": reranker_checkpoints.v1,
    "v2": lambda folder: reranker_checkpoints.v2(folder, 602),
    "bge": lambda folder: reranker_checkpoints.bge(folder, 602),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[kind](tmp_path_factory.mktemp("rerankers") / kind)


@pytest.fixture(scope="module")
def model(folder: Path) -> mlx_jina.Reranker:
    return mlx_jina.load_reranker(folder, dtype="float32")


def rows(folder: Path, documents: list[str], query: str = QUERY) -> list[list[int]]:
    """Token ids of pairs, by the tokenizers library itself."""
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [fast.encode(query, document).ids for document in documents]


def expected(kind: str, folder: Path, ids: list[list[int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Logits of whole rows in float64."""
    config = checkpoints.read_config(folder)
    if kind == "v1":
        weights = reranker_checkpoints.v1_weights()
        return np.array([rerank_reference.jina_bert(weights, config, row) for row in ids])
    weights = reranker_checkpoints.stock_weights(config)
    return np.array([rerank_reference.roberta(weights, config, row) for row in ids])


def test_logits_equal_float64(kind: str, folder: Path, model: mlx_jina.Reranker) -> None:
    wanted = expected(kind, folder, rows(folder, DOCUMENTS))
    assert wanted.std() > 0.1
    found = model.score(QUERY, DOCUMENTS, activation="none")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=bound(1e-5), rtol=0)
    np.testing.assert_allclose(model.score(QUERY, DOCUMENTS), 1 / (1 + np.exp(-wanted)), atol=bound(2e-6), rtol=0)


def test_xlm_roberta_equals_sentence_transformers(tmp_path: Path) -> None:
    """Also where a pair is longer than the model reads."""
    folder = reranker_checkpoints.bge(tmp_path / "bge", 130)
    checkpoints.write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast"}
        | {"model_max_length": 128, "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"},
    )
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(checkpoints.WORDS, n)) for n in (3, 20, 60, 150, 1, 90, 45, 70)]
    pairs = [(a, b) for a in texts for b in texts]
    wanted = rerank_reference.cross_encoder(folder, pairs)
    for path in (folder, reranker_checkpoints.v2(tmp_path / "v2", 130)):
        with pytest.warns(mlx_jina.TruncationWarning):
            found = mlx_jina.load_reranker(path, dtype="float32").predict(pairs, activation="none")
        np.testing.assert_allclose(found, wanted, atol=bound(1e-5), rtol=0)


def test_one_is_many_is_any_order_to_the_bit(model: mlx_jina.Reranker) -> None:
    rng = np.random.default_rng(1)
    documents = [" ".join(rng.choice(checkpoints.WORDS, n)) for n in rng.integers(0, 90, 40)] + DOCUMENTS
    scores = model.score(QUERY, documents, activation="none")
    order = rng.permutation(len(documents))
    assert_same_scores(model.score(QUERY, [documents[i] for i in order], activation="none"), scores[order])
    alone = [model.score(QUERY, [document], activation="none")[0] for document in documents]
    if device.backend() == "cpu":
        assert_same_scores(alone, scores)
        assert_same_scores(model.score(QUERY, documents, activation="none", batch_tokens=200), scores)
    else:
        np.testing.assert_allclose(alone, scores, atol=bound(1e-6))


def test_positions_start_after_the_padding_token(tmp_path: Path) -> None:
    folder = reranker_checkpoints.v2(tmp_path / "v2")
    config = checkpoints.read_config(folder)
    weights = reranker_checkpoints.stock_weights(config)
    ids = rows(folder, DOCUMENTS[:1])[0]
    found = mlx_jina.load_reranker(folder, dtype="float32").score(QUERY, DOCUMENTS[:1], activation="none")[0]
    others = [rerank_reference.roberta(weights, config, ids, start) for start in (0, 1)]
    assert min(abs(found - other) for other in others) > 1e-2


def test_v1_in_half_precision(tmp_path: Path) -> None:
    """The same order, and logits within bfloat16's rounding over two layers."""
    folder = reranker_checkpoints.v1(tmp_path / "v1")
    exact, half = (
        mlx_jina.load_reranker(folder, dtype=dtype).score(QUERY, DOCUMENTS, activation="none")
        for dtype in ("float32", "bfloat16")
    )
    assert 0 < abs(exact - half).max() < 0.05


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position_embedding_type": "rotary"}, "position_embedding_type"),
        ({"hidden_act": "gelu_new"}, "hidden_act"),
        ({"layer_norm_eps": None}, "layer_norm_eps"),
    ],
)
def test_a_setting_that_would_be_computed_differently(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = reranker_checkpoints.v2(tmp_path / "v2")
    config = checkpoints.read_config(folder) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        mlx_jina.load_reranker(folder)


def test_two_labels_are_no_score(tmp_path: Path) -> None:
    folder = reranker_checkpoints.bge(tmp_path / "bge")
    config = checkpoints.read_config(folder)
    weights = reranker_checkpoints.stock_weights(config)
    for part in ("weight", "bias"):
        weights[f"classifier.out_proj.{part}"] = np.concatenate([weights[f"classifier.out_proj.{part}"]] * 2)
    from tests.support import v3_checkpoints

    checkpoints.write_folder(folder, config, weights, v3_checkpoints.tokenizer())
    with pytest.raises(CheckpointError, match=r"classifier\.out_proj.*shape \(2"):
        mlx_jina.load_reranker(folder)
