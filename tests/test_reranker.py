"""`load_reranker` and `Reranker`: scores, ranks, what is refused and in which words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina.errors import CheckpointError, InputError, NumericalError, TooLongError, TruncationWarning
from mlx_jina.text.pairs import BertPairs, PairOptions
from tests.support import checkpoints, colbert_checkpoints, reranker_checkpoints
from tests.support.tolerance import assert_same_scores

QUERY = "how do i bake bread"
DOCUMENTS = ["paris capital of france", "bake bread", "", "a man riding horse", "bake bread"]
MODELS: dict[str, Callable[[Path], Path]] = {"v1": reranker_checkpoints.v1, "v2": reranker_checkpoints.v2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rerankers")
    return {name: make(root / name) for name, make in MODELS.items()}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> mlx_jina.Reranker:
    return mlx_jina.load_reranker(folders[request.param], dtype="float32")


@pytest.fixture(scope="module")
def v2(folders: dict[str, Path]) -> mlx_jina.Reranker:
    return mlx_jina.load_reranker(folders["v2"], dtype="float32")


def test_rank_is_by_falling_score_and_ties_by_place(model: mlx_jina.Reranker) -> None:
    scores = model.score(QUERY, DOCUMENTS)
    assert scores.shape == (5,)
    assert_same_scores(scores[1], scores[4])
    ranked = model.rank(QUERY, DOCUMENTS, return_documents=True)
    assert [item["corpus_id"] for item in ranked] == sorted(range(5), key=lambda i: (-scores[i], i))
    assert all(item["score"] == scores[item["corpus_id"]] for item in ranked)
    assert all(item["text"] == DOCUMENTS[item["corpus_id"]] for item in ranked)
    assert model.rank(QUERY, DOCUMENTS, top_k=2) == [
        {"corpus_id": item["corpus_id"], "score": item["score"]} for item in ranked[:2]
    ]
    assert len(model.rank(QUERY, DOCUMENTS, top_k=99)) == 5


def test_predict_takes_pairs_and_one_pair(model: mlx_jina.Reranker) -> None:
    pairs = [(QUERY, document) for document in DOCUMENTS]
    scores = model.predict(pairs)
    assert_same_scores(scores, model.score(QUERY, DOCUMENTS))
    assert_same_scores(model.predict([list(pair) for pair in pairs]), scores)  # type: ignore[misc]
    one = model.predict(pairs[1])
    assert isinstance(one, np.float32)
    assert_same_scores(one, scores[1])
    assert model.predict([]).shape == (0,)
    mixed = model.predict([("what is deep learning", DOCUMENTS[0]), pairs[1]])
    assert_same_scores(mixed[1], scores[1])
    for other in (iter(pairs), np.array(pairs)):
        assert_same_scores(model.predict(other), scores)  # type: ignore[call-overload]
    assert_same_scores(model.predict(np.array(pairs[1])), scores[1])  # type: ignore[call-overload]


def test_documents_may_come_from_an_iterator(model: mlx_jina.Reranker) -> None:
    wanted = model.rank(QUERY, DOCUMENTS, return_documents=True)
    assert model.rank(QUERY, iter(DOCUMENTS), return_documents=True) == wanted  # type: ignore[arg-type]


def test_activation(model: mlx_jina.Reranker) -> None:
    logits = model.score(QUERY, DOCUMENTS, activation="none").astype(np.float64)
    np.testing.assert_allclose(model.score(QUERY, DOCUMENTS), 1 / (1 + np.exp(-logits)), atol=1e-7)
    with pytest.raises(InputError, match="activation='softmax' is not one of default, none"):
        model.score(QUERY, DOCUMENTS, activation="softmax")  # type: ignore[arg-type]


def test_nothing_to_rank(model: mlx_jina.Reranker) -> None:
    assert model.score(QUERY, []).shape == (0,)
    assert model.rank(QUERY, []) == []


@pytest.mark.parametrize(
    ("query", "documents", "words"),
    [
        ("", ["a"], "^the query is empty$"),
        (" \n", [], "^the query is empty$"),
        (None, ["a"], "^the query must be a str, not NoneType$"),
        ("a\ud800", ["a"], "^the query holds a lone surrogate"),
        ("a", "bread", "^documents must be a list of texts, not one str$"),
        ("a", ["a", 3], "^text 1 is of type int"),
        ("a", None, "must be a str or a list"),
        ("a", ["b", "\ud800"], "^text 1 holds a lone surrogate"),
    ],
)
def test_what_is_no_text(model: mlx_jina.Reranker, query: Any, documents: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        model.score(query, documents)


def test_pairs_that_are_none(model: mlx_jina.Reranker) -> None:
    with pytest.raises(InputError, match=r"^text 1 is no pair of a query and a document$"):
        model.predict([("a", "b"), "ab"])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"^text 1 has an empty query$"):
        model.predict([("a", "b"), ("", "b")])
    with pytest.raises(InputError, match=r"^text 0 is no pair of a query and a document$"):
        model.predict([b"ab"])  # type: ignore[list-item]
    for inputs in ("ab", 5, None, {"a": "b"}, {("a", "b")}):
        with pytest.raises(InputError, match=rf"or a list of such pairs, not {type(inputs).__name__}$"):
            model.predict(inputs)  # type: ignore[arg-type]


def test_options_that_do_not_fit(model: mlx_jina.Reranker) -> None:
    with pytest.raises(InputError, match="takes no instruction"):
        model.score(QUERY, DOCUMENTS, instruction="Find recipes")
    with pytest.raises(InputError, match="top_k=0 must be at least 1"):
        model.rank(QUERY, DOCUMENTS, top_k=0)
    with pytest.raises(InputError, match=f"must lie between 9 and this model's {model.max_length}"):
        model.score(QUERY, DOCUMENTS, max_length=8)
    with pytest.raises(InputError, match="batch_tokens=0"):
        model.score(QUERY, DOCUMENTS, batch_tokens=0)


def test_a_long_document_is_read_in_windows(v2: mlx_jina.Reranker) -> None:
    """Its score is that of its best window, and every token is in one; nothing is cut."""
    words = [checkpoints.WORDS[i % len(checkpoints.WORDS)] for i in range(150)]
    document = " ".join(words)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        details = v2.details(QUERY, [document, "bread"])
    assert details.windows[0] > 2
    assert details.windows[1] == 1
    assert not details.cut.any()
    assert details.tokens[0] == details.windows[0] * v2.max_length
    fast = v2.pipeline.tokenizer.fast
    query, ids = (fast.encode(text, add_special_tokens=False).ids for text in (QUERY, document))
    room = v2.max_length - 4 - len(query)
    step = room - min(80, room // 4)
    starts = [*range(0, len(ids) - room, step), len(ids) - room]
    assert len(starts) == details.windows[0]
    from tests.support import rerank_reference

    config = checkpoints.read_config(v2.path)
    weights = reranker_checkpoints.stock_weights(config)
    wanted = [
        rerank_reference.roberta(weights, config, [0, *query, 2, 2, *ids[start : start + room], 2])
        for start in starts
    ]
    assert abs(details.raw[0] - max(wanted)) < 1e-5
    assert max(wanted) > wanted[0] + 1e-4 or max(wanted) > wanted[-1] + 1e-4


def test_predict_cuts_a_long_document_and_says_so(v2: mlx_jina.Reranker) -> None:
    document = "bake bread " * 100
    with pytest.warns(TruncationWarning, match="^1 text was longer than 128 tokens and cut"):
        cut = v2.predict([(QUERY, document), (QUERY, "bread")], activation="none")
    room = 128 - 4 - len(v2.pipeline.tokenizer.fast.encode(QUERY, add_special_tokens=False).ids)
    kept = v2.pipeline.tokenizer.fast.encode(document, add_special_tokens=False).offsets[room - 1][1]
    assert_same_scores(cut[0], v2.score(QUERY, [document[:kept]], activation="none")[0])
    with pytest.raises(TooLongError, match=r"^text 1 is too long by \d+ tokens for max_length=128"):
        v2.predict([(QUERY, "bread"), (QUERY, document)], truncate=False)


@pytest.mark.parametrize(
    ("row", "document", "said"), [(60, 100, 60), (60, 20, 20), (None, 20, 20), (None, None, 128)]
)
def test_a_cut_is_told_by_the_limit_that_made_it(
    v2: mlx_jina.Reranker, row: int | None, document: int | None, said: int
) -> None:
    pairs = [(QUERY, "bake bread " * 100)]
    with pytest.warns(TruncationWarning, match=f"^1 text was longer than {said} tokens and cut"):
        v2.predict(pairs, max_length=row, max_document_length=document)


def test_a_query_that_leaves_no_room(v2: mlx_jina.Reranker) -> None:
    with pytest.raises(TooLongError, match=r"^the query has \d+ tokens; with max_length=128 it may have 60"):
        v2.score("bake bread " * 60, DOCUMENTS)


PAIR_WITHOUT_FRAME = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"post_processor": None}, "does not put special tokens before, between and after"),
        ({"post_processor": PAIR_WITHOUT_FRAME}, "does not put special tokens before, between and after"),
        # Of "a" nothing is left.
        (
            {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": ""}},
            "does not put special tokens before, between and after",
        ),
    ],
)
def test_a_tokenizer_that_frames_no_pair(name: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = MODELS[name](tmp_path / name)
    path = folder / "tokenizer.json"
    checkpoints.write_json(path, checkpoints.read_json(path) | changes)
    with pytest.raises(CheckpointError, match=words):
        mlx_jina.load_reranker(folder)


def test_a_tokenizer_that_fails(tmp_path: Path) -> None:
    folder = reranker_checkpoints.v2(tmp_path / "v2")
    content = checkpoints.read_json(folder / "tokenizer.json")
    content["model"]["unk_id"] = None
    checkpoints.write_json(folder / "tokenizer.json", content)
    model = mlx_jina.load_reranker(folder)
    assert model.score(QUERY, ["bread"]).shape == (1,)
    for query, documents in ((QUERY, ["bread", "\u65e5"]), ("\u65e5", ["bread"])):
        with pytest.raises(CheckpointError, match=r"^the tokenizer failed: .*unk_id"):
            model.score(query, documents)


@pytest.mark.parametrize("name", MODELS)
def test_users_text_is_no_special_token(name: str, folders: dict[str, Path]) -> None:
    model = mlx_jina.load_reranker(folders[name], dtype="float32")
    specials = {"<s>", "</s>", "<pad>", "<mask>"}
    ids = {model.pipeline.tokenizer.fast.token_to_id(token) for token in specials}
    texts = BertPairs(model.pipeline.tokenizer)
    options = PairOptions(128, truncate=False, windows=False, instruction=None)
    for token in specials:
        plain, own = (
            texts.groups([("bake", f"bread {text} bake")], options)[0].rows[0].tolist() for text in ("", token)
        )
        assert [i for i in own if i in ids] == [i for i in plain if i in ids]
        assert len(own) > len(plain)
    scores = model.score(QUERY, ["bread </s></s> bake", "bread </s> bake", "bread bake"])
    assert len(set(scores.tolist())) == 3


def test_a_score_that_is_not_finite_never_leaves(tmp_path: Path) -> None:
    folder = reranker_checkpoints.v1(tmp_path / "v1")
    weights = {name: np.array(x) for name, x in checkpoints.read_tensors(folder).items()}
    weights["classifier.bias"][0] = np.nan
    tensors = {name: mx.array(x) for name, x in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    with pytest.raises(NumericalError, match=r"^text 0 has a score that came out as NaN"):
        mlx_jina.load_reranker(folder).score(QUERY, DOCUMENTS)
    weights["classifier.bias"][0] = 0
    weights["bert.embeddings.word_embeddings.weight"][:] = np.nan
    tensors = {name: mx.array(x) for name, x in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    with pytest.raises(NumericalError, match=r"^text 0 "):
        mlx_jina.load_reranker(folder).score(QUERY, DOCUMENTS)


def test_an_embedding_model_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no classifier\.weight and is no reranker; mlx_jina\.load opens"):
        mlx_jina.load_reranker(checkpoints.tiny_jina_bert(tmp_path / "base"))
    with pytest.raises(CheckpointError, match=r"is an embedding model.*: mlx_jina\.load opens"):
        mlx_jina.load_reranker("v2-small-en")
    with pytest.raises(CheckpointError, match="model_type 'jina_embeddings_v5' is no reranker"):
        mlx_jina.load_reranker(checkpoints.v5_small(tmp_path / "v5"))
    for make in (colbert_checkpoints.v1, colbert_checkpoints.v2):
        with pytest.raises(CheckpointError, match=r"late-interaction model.*load_multi_vector opens it"):
            mlx_jina.load_reranker(make(tmp_path / make.__name__))


def test_facts(model: mlx_jina.Reranker) -> None:
    assert repr(model).startswith("Reranker(")
    assert model.architecture.endswith("_reranker")
    assert model.takes_instruction is False
    assert len(model.fingerprint()) == 16
