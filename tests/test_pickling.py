"""Models that travel: by pickle, copy, joblib, scikit-learn's clone, and to processes that are spawned."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import weakref
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import Encoder, Index, ModelNotFoundError
from mlx_jina.engine import loaded_model
from mlx_jina.integrations.sentence_transformers import SentenceTransformer
from tests.support import checkpoints, colbert_checkpoints, reranker_checkpoints
from tests.support.tolerance import bound

TEXTS = ["how do i bake bread?", "light travels fast in vacuum"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.tiny_jina_bert(tmp_path_factory.mktemp("v2") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Encoder:
    return mlx_jina.load(folder)


def elsewhere(content: bytes) -> Encoder:
    """What arrives in a process that has never seen the model."""
    loaded_model._known.__init__()  # type: ignore[misc]
    arrived: Encoder = pickle.loads(content)
    return arrived


def test_a_copy_is_the_model(model: Encoder) -> None:
    assert copy.copy(model) is model
    assert copy.deepcopy({"model": model})["model"] is model
    assert pickle.loads(pickle.dumps(model)) is model


def test_a_pickle_is_small_and_loads_again(model: Encoder) -> None:
    content = pickle.dumps(model)
    assert len(content) < 1000
    other = elsewhere(content)
    assert other is not model
    assert other.fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(other.encode(TEXTS), model.encode(TEXTS))
    # Tasks of a pool bring it along one after another.
    name = weakref.ref(other)
    del other
    gc.collect()
    assert pickle.loads(content) is name()


def test_rerankers_travel(tmp_path: Path) -> None:
    folder = reranker_checkpoints.v3(tmp_path / "v3", mx.bfloat16)
    model = mlx_jina.load_reranker(folder, dtype="float32")
    assert copy.deepcopy({"model": model})["model"] is model
    assert pickle.loads(pickle.dumps(model)) is model
    content = pickle.dumps(model)
    loaded_model._known.__init__()  # type: ignore[misc]
    other: mlx_jina.Reranker = pickle.loads(content)
    assert other is not model
    assert (type(other), other.dtype, other.path) == (mlx_jina.Reranker, "float32", folder)
    assert other.score("bread", TEXTS).tolist() == model.score("bread", TEXTS).tolist()


def test_late_interaction_travels(tmp_path: Path) -> None:
    model = mlx_jina.load_multi_vector(colbert_checkpoints.v2(tmp_path / "colbert"))
    assert copy.copy(model) is model
    content = pickle.dumps(model)
    assert len(content) < 1000
    loaded_model._known.__init__()  # type: ignore[misc]
    other: mlx_jina.MultiVectorEncoder = pickle.loads(content)
    assert other is not model
    np.testing.assert_array_equal(other.encode_query(TEXTS[0]), model.encode_query(TEXTS[0]))


def test_options_travel(tmp_path: Path) -> None:
    folder = checkpoints.v5_small(tmp_path / "small", dtype=mx.bfloat16)
    model = mlx_jina.load(folder, task="retrieval", dtype="float32")
    other = elsewhere(pickle.dumps(model))
    assert (other.tasks, other.dtype) == (("retrieval",), "float32")
    np.testing.assert_array_equal(other.encode_query(TEXTS), model.encode_query(TEXTS))


def test_a_relative_path_leads_to_the_same_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    content = pickle.dumps(mlx_jina.load("./model"))
    monkeypatch.chdir("/")
    assert elsewhere(content).path == folder


def test_a_revision_travels(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch may mean another commit by then."""
    cache = tmp_path / "hub" / "models--someone--model"
    snapshot = cache / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    os.symlink(folder, snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    monkeypatch.chdir(tmp_path)
    model = mlx_jina.load("someone/model", cache_dir="hub")
    content = pickle.dumps(model)
    (cache / "refs" / "main").write_text("b" * 40)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(elsewhere(content).encode(TEXTS), model.encode(TEXTS))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    folder = checkpoints.tiny_jina_bert(tmp_path / "model")
    content = pickle.dumps(mlx_jina.load(folder))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFoundError, match="is neither a folder"):
        elsewhere(content)


def encoded(model: Encoder, texts: list[str]) -> tuple[int, list[list[float]]]:
    """In another process."""
    return id(model), model.encode(texts).tolist()


def found(index: Index, text: str) -> list[str]:
    """In another process."""
    return [hit.path for hit in index.search(text)]


def test_processes_that_are_spawned(model: Encoder, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "bread.md").write_text("How to bake bread.")
    with multiprocessing.get_context("spawn").Pool(1) as pool, Index(tmp_path / "i.db", model) as index:
        rows = pool.map(partial(encoded, model), [TEXTS, TEXTS], chunksize=1)
        for _, vectors in rows:
            np.testing.assert_allclose(vectors, model.encode(TEXTS), atol=bound(1e-6))
        # Loaded once.
        assert rows[0][0] == rows[1][0]
        index.sync(tmp_path / "notes")
        assert pool.apply(found, (index, "bread")) == found(index, "bread") != []


def test_joblib(model: Encoder) -> None:
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config("loky", n_jobs=1):
        rows = joblib.Parallel()(joblib.delayed(encoded)(model, [text]) for text in TEXTS)
    np.testing.assert_allclose([row[0] for _, row in rows], model.encode(TEXTS), atol=bound(1e-6))
    assert joblib.hash(model) == joblib.hash(copy.deepcopy(model))


def test_a_step_of_scikit_learn(model: Encoder) -> None:
    pytest.importorskip("sklearn")
    from sklearn.base import BaseEstimator, TransformerMixin, clone

    class Embed(TransformerMixin, BaseEstimator):
        def __init__(self, model: Encoder) -> None:
            self.model = model

    # A model is a parameter, which clone() copies.
    assert clone(Embed(model), safe=True).model is model


def test_adapters_travel(model: Encoder) -> None:
    adapter = SentenceTransformer("pocket", truncate_dim=64)
    expected = adapter.encode(TEXTS)
    for other in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        np.testing.assert_array_equal(other.encode(TEXTS), expected)


def test_adapters_of_other_libraries_travel() -> None:
    pytest.importorskip("langchain_core")
    from mlx_jina.integrations.langchain import MLXJinaEmbeddings

    adapter = MLXJinaEmbeddings("pocket", truncate_dim=64)
    for other in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert other.embed_query("a fox") == adapter.embed_query("a fox")
    pytest.importorskip("llama_index.core")
    from mlx_jina.integrations.llama_index import MLXJinaEmbedding

    llama = MLXJinaEmbedding(model_name="pocket")
    assert pickle.loads(pickle.dumps(llama)).get_query_embedding("a fox") == llama.get_query_embedding("a fox")
    pytest.importorskip("chromadb")
    from mlx_jina.integrations.chroma import MLXJinaEmbeddingFunction

    chroma = MLXJinaEmbeddingFunction("pocket")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(chroma))(["a fox"]), chroma(["a fox"]))
