"""Late interaction against a float64 pass and sentence-transformers, on tiny copies of both repositories."""

from __future__ import annotations

import json
import string
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

import mlx_jina
from mlx_jina import catalog, device, vectors
from mlx_jina.choices import Dtype
from mlx_jina.engine import pipeline
from mlx_jina.errors import CheckpointError, InputError, NumericalError, TooLongError, TruncationWarning
from mlx_jina.text import late_interaction
from mlx_jina.text.prompts import Side
from mlx_jina.weights import hub, loading
from mlx_jina.weights.convert import to_gguf, to_mlx
from tests.support import bare, checkpoints, colbert_checkpoints, reference, v3_checkpoints
from tests.support.tolerance import bound

NAMES = ("v1", "v2")
HALVES: tuple[Dtype, ...] = ("bfloat16", "float16")
QUERIES = [
    "what is the capital of france?",
    "bread",
    "",
    "light travels fast in vacuum " * 9,
    "how do i bake bread, and what is deep learning",
    "a [MASK] <mask> [QueryMarker] [unused0]",
]
DOCUMENTS = [
    "paris is the capital of france.",
    "how do i bake bread?! the quick, brown fox (jumps) over lazy dog...",
    "",
    "a man riding a horse [DocumentMarker] </s> [SEP]",
    "vector search on mac: embeddings work offline; " * 20,
    *bare.TEXTS,
]


@dataclass(frozen=True)
class Rules:
    """How queries and documents are read, written from ColBERT's code and not from mlx_jina."""

    markers: tuple[int, int]
    mask: int
    attends: bool
    theta: float = colbert_checkpoints.V2_BASE
    punctuation: bool = True


def rules(name: str) -> Rules:
    settings, fast = colbert_checkpoints.metadata(name), colbert_checkpoints.tokenizer(name)

    def of(token: str) -> int:
        found = fast.token_to_id(token)
        assert found is not None
        return found

    markers = of(settings["query_token_id"]), of(settings["doc_token_id"])
    return Rules(markers, of("[MASK]" if name == "v1" else "<mask>"), settings["attend_to_mask_tokens"])


def read_as_text(fast: Tokenizer) -> Tokenizer:
    """A copy without special tokens, which XLM-RoBERTa's vocabulary has among its pieces; ids stay."""
    content = json.loads(fast.to_str())
    special = {token["content"] for token in content.pop("added_tokens")}
    pieces = content["model"]["vocab"]
    content["model"]["vocab"] = [
        (f" {i}" if piece in special else piece, x) for i, (piece, x) in enumerate(pieces)
    ]
    return Tokenizer.from_str(json.dumps({**content, "added_tokens": [], "post_processor": None}))


def expected(
    name: str,
    side: Side,
    texts: Sequence[str],
    own: Rules | None = None,
    shape: dict[str, int] = colbert_checkpoints.SHAPE,
) -> list[npt.NDArray[Any]]:
    """Unit vectors in float64."""
    own = own or rules(name)
    fast = colbert_checkpoints.tokenizer(name)
    fast.encode_special_tokens = True
    first_id, *_, last_id = fast.encode("a").ids
    without_special = read_as_text(fast) if name == "v2" else fast
    encoder, projection = colbert_checkpoints.weights(name, shape)
    config = {**colbert_checkpoints.config(name, shape), "rotary_emb_base": own.theta}
    first = [fast.encode(mark, add_special_tokens=False).ids[:1] for mark in string.punctuation]
    skipped = {ids[0] for ids in first if ids} if own.punctuation and side == "document" else set()
    longest = 32 if side == "query" else 512
    found = []
    for text in texts:
        ids = [first_id, *without_special.encode(text, add_special_tokens=False).ids, last_id]
        ids = [*ids[: longest - 2], ids[-1]] if len(ids) > longest - 1 else ids
        ids = [ids[0], own.markers[side == "document"], *ids[1:]]
        seen = None if own.attends else len(ids)
        ids += [own.mask] * (longest - len(ids)) if side == "query" else []
        row = np.array(ids)
        if name == "v1":
            states = reference.jina_bert(encoder, config, "original", row, seen)
        else:
            states = reference.xlm_roberta(encoder, config, row, seen)
        rows = reference.unit(states @ projection["linear.weight"].astype(np.float64).T)
        found.append(rows[[i not in skipped for i in ids]])
    return found


def max_sim(queries: Sequence[npt.NDArray[Any]], documents: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.array([[(q @ d.T).max(axis=1).sum() for d in documents] for q in queries])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("colbert")
    return {name: colbert_checkpoints.write(base / name, name, doc_maxlen=512) for name in NAMES}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, mlx_jina.MultiVectorEncoder]:
    return {name: mlx_jina.load_multi_vector(folder, dtype="float32") for name, folder in folders.items()}


def encoded(model: mlx_jina.MultiVectorEncoder, side: Side, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        return [*(model.encode_query if side == "query" else model.encode_document)([*texts])]


def assert_near(found: Sequence[npt.NDArray[Any]], wanted: Sequence[npt.NDArray[Any]], atol: float) -> None:
    assert [x.shape for x in found] == [x.shape for x in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=bound(atol))


# ---- numbers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gpu", [False, True], ids=["here", "formulas of a GPU"])
def test_agrees_with_float64(
    models: dict[str, mlx_jina.MultiVectorEncoder], name: str, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpu:
        monkeypatch.setattr(device, "on_gpu", lambda: True)
        mx.disable_compile()
    try:
        queries = encoded(models[name], "query", QUERIES)
        documents = encoded(models[name], "document", DOCUMENTS)
        single = models[name].encode_query(QUERIES[0])
    finally:
        mx.enable_compile()
    wanted = expected(name, "query", QUERIES), expected(name, "document", DOCUMENTS)
    assert_near(queries, wanted[0], 2e-6)
    assert_near(documents, wanted[1], 2e-6)
    assert_near([single], wanted[0][:1], 2e-6)
    scores = models[name].similarity(queries, documents)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, max_sim(*wanted), rtol=0, atol=bound(1e-4))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_float64_at_the_published_size(tmp_path: Path, name: str) -> None:
    shape = colbert_checkpoints.PUBLISHED[name]
    model = mlx_jina.load_multi_vector(
        colbert_checkpoints.write(tmp_path / name, name, shape, doc_maxlen=512), dtype="float32"
    )
    sides = encoded(model, "query", QUERIES), encoded(model, "document", DOCUMENTS[:4])
    wanted = expected(name, "query", QUERIES, None, shape), expected(name, "document", DOCUMENTS[:4], None, shape)
    for found, rows in zip(sides, wanted, strict=True):
        assert_near(found, rows, 4e-6)
    np.testing.assert_allclose(model.similarity(*sides), max_sim(*wanted), rtol=0, atol=bound(1e-4))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_queries_of_compiled_graphs(folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query alone runs a compiled graph on a GPU once its shape has come before."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    model = mlx_jina.load_multi_vector(folders[name], dtype="float32")
    texts = ["bread", "paris", "what is bread", "what is paris", "how do i bake bread"]
    wanted = model.encode_query(texts)
    for _ in range(3):
        assert_near([model.encode_query(text) for text in texts], wanted, 2e-6)
    (graphs,) = model.pipeline._compiled.values()
    assert sum(graph is not None for graph in graphs._compiled.values()) == (3 if name == "v1" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_what_would_be_wrong_shows(name: str) -> None:
    """The agreement above fails by more than a hundred tolerances for each thing that could be mistaken."""
    own, texts = rules(name), [QUERIES[0], QUERIES[1]]
    right_documents = expected(name, "document", DOCUMENTS[:2])
    right = max_sim(expected(name, "query", texts), right_documents)
    wrong = {
        "markers swapped": replace(own, markers=own.markers[::-1]),
        "attention to mask tokens": replace(own, attends=not own.attends),
        "another token for expansion": replace(own, mask=own.mask - 1),
        "punctuation kept": replace(own, punctuation=False),
    }
    if name == "v2":
        wrong["the angles of v3"] = replace(own, theta=20_000.0)
    for mistake, changed in wrong.items():
        queries = expected(name, "query", texts, changed)
        documents = expected(name, "document", DOCUMENTS[:2], changed)
        if mistake == "punctuation kept":
            assert sum(map(len, documents)) > sum(map(len, right_documents))
        else:
            assert np.abs(max_sim(queries, documents) - right).max() > 1e-2, mistake


def test_agrees_with_sentence_transformers(tmp_path: Path) -> None:
    """Its own list of punctuation is another one for XLM-RoBERTa, so none is skipped here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers 6")
        if not hasattr(library, "MultiVectorEncoder"):
            pytest.skip("needs sentence-transformers 6")
        theirs = library.MultiVectorEncoder(
            str(colbert_checkpoints.native_v2(tmp_path / "native")), device="cpu", local_files_only=True
        )
        queries = theirs.encode_query(QUERIES[:5], convert_to_numpy=True)
        documents = theirs.encode_document(DOCUMENTS[:3], convert_to_numpy=True)
        scores = theirs.similarity(queries, documents).numpy()
    model = mlx_jina.load_multi_vector(
        colbert_checkpoints.write(tmp_path / "v2", "v2", mask_punctuation=False), dtype="float32"
    )
    own = encoded(model, "query", QUERIES[:5]), encoded(model, "document", DOCUMENTS[:3])
    assert_near(own[0], [reference.unit(x) for x in queries], 2e-6)
    assert_near(own[1], [reference.unit(x) for x in documents], 2e-6)
    np.testing.assert_allclose(model.similarity(*own), scores, rtol=0, atol=bound(1e-4))


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_and_batches_change_nothing(models: dict[str, mlx_jina.MultiVectorEncoder], name: str) -> None:
    model = models[name]
    sides: dict[Side, Sequence[str]] = {"query": QUERIES, "document": DOCUMENTS}
    for side, texts in sides.items():
        together = encoded(model, side, texts)
        assert_near(encoded(model, side, texts[::-1])[::-1], together, 1e-6)
        assert_near([encoded(model, side, [text])[0] for text in texts], together, 1e-6)
    assert_near(model.encode_query(QUERIES[:3], batch_tokens=1), model.encode_query(QUERIES[:3]), 1e-6)


def test_half_precision(folders: dict[str, Path], models: dict[str, mlx_jina.MultiVectorEncoder]) -> None:
    for name in NAMES:
        for dtype in HALVES:
            half = mlx_jina.load_multi_vector(folders[name], dtype=dtype)
            rows, exact = (model.encode_query(QUERIES[0]) for model in (half, models[name]))
            assert (rows * exact).sum(axis=1).min() > (0.998 if dtype == "bfloat16" else 0.9999)


# ---- what a text becomes


def test_only_the_first_id_of_punctuation_is_dropped(models: dict[str, mlx_jina.MultiVectorEncoder]) -> None:
    """In XLM-RoBERTa's vocabulary that of "." is the word boundary, which loses its vector, and "." keeps it."""
    for name in NAMES:
        fast = colbert_checkpoints.tokenizer(name)
        texts = models[name]._texts
        assert isinstance(texts, late_interaction.ColBERT)
        own = {fast.encode(mark, add_special_tokens=False).ids[0] for mark in string.punctuation}
        assert set(texts._skipped.tolist()) == own
    fast = colbert_checkpoints.tokenizer("v2")
    assert fast.encode(".", add_special_tokens=False).tokens == ["▁", "."]
    texts = models["v2"]._texts
    assert isinstance(texts, late_interaction.ColBERT)
    skipped = texts._skipped
    assert fast.token_to_id("▁") in skipped
    assert fast.token_to_id(".") not in skipped
    assert len(models["v1"].encode_document("paris , . !")) == len(models["v1"].encode_document("paris"))


@pytest.mark.parametrize("name", NAMES)
def test_text_never_becomes_a_special_token(models: dict[str, mlx_jina.MultiVectorEncoder], name: str) -> None:
    fast, own = colbert_checkpoints.tokenizer(name), rules(name)
    special = {*own.markers, own.mask, *fast.encode("").ids}
    text = " ".join([*colbert_checkpoints.MARKERS, *fast.get_vocab()])
    # XLM-RoBERTa's normaliser makes the narrow letters of the wide ones.
    wide = "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)
    for ids in models[name]._texts.uncut("document", [text, wide]):
        assert ids[1] == own.markers[1]
        # v1's markers are rows that BERT's vocabulary leaves unused, which no text gives.
        assert not special & {*ids[2:-1].tolist()}


def test_lengths(models: dict[str, mlx_jina.MultiVectorEncoder]) -> None:
    model = models["v1"]
    assert (model.query_length, model.document_length, model.dimension) == (32, 512, 128)
    assert [len(rows) for rows in model.encode_query(["a", "bread"])] == [32, 32]
    assert len(model.encode_query("bread", max_length=128)) == 128
    with pytest.warns(TruncationWarning) as caught:
        assert len(model.encode_document(["a", "bread " * 600])[1]) == 512
    assert str(caught[0].message).startswith("1 text was longer than 512 tokens")
    assert len(model.encode_document("bread " * 600, max_length=8192)) == 603
    assert model.count_tokens(["a", "bread " * 600]) == [4, 603]
    with pytest.raises(TooLongError, match="text 1 has 603 tokens, more than max_length=512"):
        model.encode_document(["a", "bread " * 600], truncate=False)
    with pytest.raises(TooLongError, match="text 0 has 43 tokens, more than max_length=32"):
        model.encode_query(["bread " * 40], truncate=False)
    for length in (0, 3, 8193):
        with pytest.raises(InputError, match=f"max_length={length} must lie between 4 and this model's 8192"):
            model.encode_document("a", max_length=length)


def test_a_long_document_is_whole(models: dict[str, mlx_jina.MultiVectorEncoder]) -> None:
    """Longer than a piece, so that it is computed piece by piece."""
    text = "light travels fast in vacuum " * 300
    for name in NAMES:
        long = models[name].encode_document(text, max_length=8192)
        np.testing.assert_allclose(
            long, models[name].encode_document(text, max_length=8192, batch_tokens=64), atol=bound(1e-5)
        )


def test_nothing_and_what_is_no_text(models: dict[str, mlx_jina.MultiVectorEncoder]) -> None:
    assert models["v2"].encode_query([]) == models["v2"].encode_document([]) == []
    with pytest.raises(InputError, match="text 1 is of type int"):
        models["v2"].encode_document(["a", 3])  # type: ignore[list-item]


# ---- small vectors


def test_dimensions(models: dict[str, mlx_jina.MultiVectorEncoder]) -> None:
    model = models["v2"]
    assert model.truncate_dims == (64, 96, 128)
    whole = model.encode_document(DOCUMENTS[0])
    for size in (64, 96):
        cut = model.encode_document(DOCUMENTS[0], truncate_dim=size)
        np.testing.assert_allclose(cut, reference.unit(whole[:, :size]), atol=bound(1e-6))
    with pytest.raises(InputError, match=r"truncate_dim=32 is not a size that this model was trained for \(64, 9"):
        model.encode_query("a", truncate_dim=32)
    assert model.encode_query("a", truncate_dim=32, allow_untrained_dim=True).shape == (32, 32)
    with pytest.raises(InputError, match="no Matryoshka training"):
        models["v1"].encode_query("a", truncate_dim=64)


@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_precisions(models: dict[str, mlx_jina.MultiVectorEncoder], precision: Any) -> None:
    model = models["v2"]
    exact = model.encode_query(QUERIES[:2]), model.encode_document(DOCUMENTS[:3])
    stored = model.encode_document(DOCUMENTS[:3], precision=precision)
    for rows, small in zip(exact[1], stored, strict=True):
        np.testing.assert_array_equal(small, vectors.quantize(rows, precision))
    side = None if precision == "float16" else precision
    scores = model.similarity(exact[0], stored, side)
    meant = [vectors.dequantize(x, precision) for x in stored]
    length = np.sqrt(128) if "binary" in precision else 1
    np.testing.assert_allclose(scores, max_sim(exact[0], [x / length for x in meant]), atol=1e-4)
    if "binary" not in precision:
        np.testing.assert_allclose(scores, max_sim(*exact), atol=0.5)
    # Beside floats the type and the width say what is stored.
    np.testing.assert_array_equal(model.similarity(exact[0], stored), scores)
    if precision != "float16":
        both = model.encode_query(QUERIES[:2], precision=precision)
        with pytest.raises(InputError, match="may hold buckets or packed bits"):
            model.similarity(both, stored)
        assert model.similarity(both, stored, precision).shape == (2, 3)


# ---- MaxSim


def test_max_sim_of_many_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries = [rng.standard_normal((n, 8)).astype(np.float32) for n in (3, 1, 32, 5)]
    documents = [rng.standard_normal((n, 8)).astype(np.float32) for n in (1, 40, 7, 7, 300, 2)]
    wanted = max_sim(queries, documents)
    for rows in (1, 8, 45, 10_000):
        monkeypatch.setattr(vectors, "SIMILARITY_ROWS", rows)
        monkeypatch.setattr(vectors, "MAX_SIM_ROWS", rows)
        np.testing.assert_allclose(vectors.max_sim(queries, documents), wanted, atol=1e-4)
    np.testing.assert_allclose(vectors.max_sim(queries[0], documents[1]), wanted[:1, 1:2], atol=1e-4)
    assert vectors.max_sim([], documents).shape == (0, 6)
    assert vectors.max_sim(queries, []).shape == (4, 0)


def test_max_sim_refuses() -> None:
    one = np.ones((2, 8), dtype=np.float32)
    with pytest.raises(InputError, match=r"text 1 of the documents has the shape \(0, 8\)"):
        vectors.max_sim([one], [one, one[:0]])
    with pytest.raises(InputError, match=r"text 0 of the queries has the shape \(8,\)"):
        vectors.max_sim([one[0]], [one])
    with pytest.raises(InputError, match="text 1 of the documents has vectors of 4 columns of float32"):
        vectors.max_sim([one], [one, one[:, :4]])
    with pytest.raises(InputError, match="vectors of 8 and 4 dimensions cannot be compared"):
        vectors.max_sim([one], [one[:, :4]])
    with pytest.raises(InputError, match="not int"):
        vectors.max_sim(3, [one])


def test_rank(models: dict[str, mlx_jina.MultiVectorEncoder]) -> None:
    model = models["v1"]
    query, documents = QUERIES[0], [*DOCUMENTS[:4], DOCUMENTS[0]]
    scores = model.similarity([model.encode_query(query)], model.encode_document(documents))[0]
    ranked = model.rank(query, documents)
    assert [each["corpus_id"] for each in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert [each["score"] for each in ranked] == sorted(scores.tolist(), reverse=True)
    assert ranked[0].keys() == {"corpus_id", "score"}
    # Equal ones stay in order.
    assert [each["corpus_id"] for each in ranked if each["corpus_id"] in (0, 4)] == [0, 4]
    (best,) = model.rank(query, documents, top_k=1, return_documents=True, precision="int8")
    assert best.keys() == {"corpus_id", "score", "text"}
    assert best["text"] == documents[best["corpus_id"]]
    assert model.rank(query, []) == []
    for empty in ("", " \n"):
        with pytest.raises(InputError, match="the query is empty"):
            model.rank(empty, documents)
    with pytest.raises(InputError, match="top_k=0 must be at least 1"):
        model.rank(query, documents, top_k=0)
    with pytest.raises(InputError, match="a list of one"):
        model.rank(query, "one document")  # type: ignore[arg-type]


# ---- files


def test_load_and_load_multi_vector_open_their_own_kind(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in folders.items():
        with pytest.raises(CheckpointError, match=r"every token: mlx_jina\.load_multi_vector opens it"):
            mlx_jina.load(folder)
        entry = catalog.find({"v1": "colbert-v1-en", "v2": "colbert-v2"}[name])
        assert entry is not None
        assert entry.kind == "multi-vector"
        # Before anything is downloaded.
        with pytest.raises(CheckpointError, match=r"every token: mlx_jina\.load_multi_vector opens it"):
            mlx_jina.load(entry.repo)
    for other in (checkpoints.tiny_jina_bert(tmp_path / "v2"), v3_checkpoints.original(tmp_path / "v3"), "pocket"):
        with pytest.raises(CheckpointError, match=r"an embedding model, .* mlx_jina\.load opens it"):
            mlx_jina.load_multi_vector(other)


def test_licence_and_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Each process says it once.
    loading._warn_of_licence.cache_clear()
    model = mlx_jina.load_multi_vector(colbert_checkpoints.v2(tmp_path / "jina-colbert-v2"), dtype="float32")
    assert model.entry is catalog.find("colbert-v2")
    assert "jinaai/jina-colbert-v2 is licensed CC-BY-NC-4.0" in caplog.text
    assert "embeddings-v3" not in caplog.text
    assert model.document_length == 8192


def test_artifact_metadata_is_fetched_and_needed(tmp_path: Path) -> None:
    assert "artifact.metadata" in hub.FILES
    folder = colbert_checkpoints.v1(tmp_path / "one")
    (folder / "artifact.metadata").unlink()
    with pytest.raises(CheckpointError, match=r"one is a ColBERT without artifact\.metadata"):
        mlx_jina.load_multi_vector(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"query_maxlen": "32"}, r"artifact\.metadata: 'query_maxlen' should be int, found '32'"),
        ({"attend_to_mask_tokens": None}, "'attend_to_mask_tokens' should be bool, found None"),
        ({"doc_maxlen": 3}, "4 tokens at least"),
        ({"dim": 96}, r"linear\.weight has shape \(128, 64\), but its config\.json asks for \(96, 64\)"),
        ({"query_token_id": "[Q]"}, r"the tokenizer has no \[Q\]"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        mlx_jina.load_multi_vector(colbert_checkpoints.write(tmp_path / "one", "v1", **changes))


def test_what_metadata_lacks_is_the_default_of_the_checkpoints_code() -> None:
    assert late_interaction.settings_of({}) == dict(late_interaction.DEFAULTS)
    assert late_interaction.settings_of({"doc_maxlen": 300, "nbits": 2})["doc_maxlen"] == 300


def test_fingerprints_tell_settings_apart(
    folders: dict[str, Path], models: dict[str, mlx_jina.MultiVectorEncoder], tmp_path: Path
) -> None:
    again = mlx_jina.load_multi_vector(folders["v1"], dtype="float32").fingerprint()
    other = colbert_checkpoints.write(tmp_path / "other", "v1", doc_maxlen=512, attend_to_mask_tokens=True)
    assert again == models["v1"].fingerprint()
    assert (
        len({again, models["v2"].fingerprint(), mlx_jina.load_multi_vector(other, dtype="float32").fingerprint()})
        == 3
    )


def test_a_vector_that_is_not_finite_never_leaves(tmp_path: Path) -> None:
    for name in NAMES:
        folder = colbert_checkpoints.write(tmp_path / name, name)
        tensors = checkpoints.read_tensors(folder)
        tensors["linear.weight"] = tensors["linear.weight"] * mx.array(float("nan"))
        mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
        model = mlx_jina.load_multi_vector(folder)
        with pytest.raises(NumericalError, match="text 0 has a vector that came out as NaN"):
            model.encode_query("bread")
        with pytest.raises(NumericalError, match="has a vector that came out as NaN"):
            model.encode_document(["bread", "a"])


def test_one_row_of_damage_is_named(tmp_path: Path) -> None:
    folder = colbert_checkpoints.v1(tmp_path / "one")
    tensors = checkpoints.read_tensors(folder)
    table = np.array(tensors["bert.embeddings.word_embeddings.weight"])
    table[colbert_checkpoints.tokenizer("v1").token_to_id("bread")] = np.inf
    tensors["bert.embeddings.word_embeddings.weight"] = mx.array(table)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    model = mlx_jina.load_multi_vector(folder)
    with pytest.raises(NumericalError, match="text 2 has"):
        model.encode_query(["paris", "fox", "bread", "dog"])
    assert len(model.encode_query(["paris", "fox", "dog"])) == 3


def test_queries_of_a_search_run_the_pool_that_a_gpu_compiles(
    models: dict[str, mlx_jina.MultiVectorEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    compute = pipeline.Pipeline.compute

    def recorded(self: Any, plan: Any, pool: Any, batch: Any) -> Any:
        seen.append((pool, batch.ragged.buckets[0].unseen))
        return compute(self, plan, pool, batch)

    monkeypatch.setattr(pipeline.Pipeline, "compute", recorded)
    models["v1"].encode_query("bread")
    models["v2"].encode_query("bread")
    assert seen == [(pipeline.whole, 28), (pipeline.whole, 0)]


def test_conversion_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for folder in folders.values():
        for convert in (to_mlx, to_gguf):
            with pytest.raises(CheckpointError, match="a colbert is not converted"):
                convert(str(folder), tmp_path / "target")
    assert [*tmp_path.iterdir()] == []
