"""Options of a wrong type: one clear error in every public method, never Python's own from within."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from mlx_jina import Encoder, Index, InputError, Where, process, vectors
from mlx_jina import options as module
from mlx_jina.compare import compare
from mlx_jina.weights import convert
from tests.support import checkpoints, colbert_checkpoints, reranker_checkpoints

# What a person passes by mistake; each option takes a few of them.
VALUES: dict[str, Any] = {
    "str": "64",
    "int": 5,
    "float": 1.5,
    "bool": True,
    "bytes": b"x",
    "list": [1],
    "dict": {},
    "0-d array": np.array(64),
    "array": np.array([1, 2]),
    "object": object(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.tiny_jina_bert(tmp_path_factory.mktemp("v2"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Encoder:
    return mlx_jina.load(folder)


@pytest.fixture(scope="module")
def index(model: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Index:
    notes = tmp_path_factory.mktemp("notes")
    (notes / "a.md").write_text("the quick brown fox")
    index = Index(tmp_path_factory.mktemp("index") / "notes.db", model)
    index.sync(notes)
    return index


def refused(call: Callable[..., Any], **options: Any) -> bool:
    """Whether a call refuses its only odd option by name; any error but an InputError fails the test."""
    (name,) = options
    try:
        call(**options)
    except InputError as error:
        return name in str(error)
    return False


def test_methods_of_the_encoder(model: Encoder) -> None:
    texts = ["fox"]
    methods: dict[str, Callable[..., Any]] = {
        "encode": lambda **o: model.encode(texts, **o),
        "encode_query": lambda **o: model.encode_query(texts, **o),
        "encode_document": lambda **o: model.encode_document(texts, **o),
        "encode_tokens": lambda **o: model.encode_tokens(texts, **o),
        "encode_stream": lambda **o: list(model.encode_stream(texts, **o)),
        "encode_chunks": lambda **o: model.encode_chunks(texts, **o),
    }
    # By the kinds of values that are allowed; the others are refused.
    fits = {
        "task": (),
        "prompt_name": (),
        "prompt": ("str",),
        "truncate_dim": (),
        "allow_untrained_dim": ("bool",),
        "max_length": ("int",),
        "truncate": ("bool",),
        "normalize_embeddings": ("bool",),
        "precision": (),
        "ranges": (),
        "batch_tokens": ("int",),
        # Only of a model that sees.
        "max_pixels": (),
    }
    assert set(fits) == set(module.EncodeOptions.__optional_keys__)
    for called, method in methods.items():
        for name, allowed in fits.items():
            for kind, value in VALUES.items():
                assert refused(method, **{name: value}) != (kind in allowed), (called, name, kind)
    for name, allowed in {"late_chunking": ("bool",), "output": ()}.items():
        for kind, value in VALUES.items():
            assert refused(methods["encode"], **{name: value}) != (kind in allowed), (name, kind)
    for name in ("chunk", "chunk_tokens", "overlap", "late"):
        for kind in ("float", "bytes", "list", "dict", "0-d array", "array", "object"):
            assert refused(methods["encode_chunks"], **{name: VALUES[kind]}), (name, kind)


def test_methods_of_a_reranker(tmp_path: Path) -> None:
    model = mlx_jina.load_reranker(reranker_checkpoints.v3(tmp_path / "v3"))
    fits: dict[str, tuple[str, ...]] = {
        "instruction": ("str",),
        "activation": (),
        "max_length": ("int",),
        "max_document_length": ("int",),
        "truncate": ("bool",),
        "batch_tokens": ("int",),
        "show_progress_bar": ("bool",),
    }
    ranks: dict[str, tuple[str, ...]] = {"top_k": ("int",), "return_documents": ("bool",)}
    methods: dict[str, tuple[Callable[..., Any], dict[str, tuple[str, ...]]]] = {
        "score": (lambda **o: model.score("bread", ["fox"], **o), fits),
        "predict": (lambda **o: model.predict([("bread", "fox")], **o), fits),
        "details": (lambda **o: model.details("bread", ["fox"], **o), {**fits, "advance": ()}),
        "rank": (lambda **o: model.rank("bread", ["fox"], **o), {**fits, **ranks}),
    }
    for method, (call, options) in methods.items():
        for name, kinds in options.items():
            for kind, value in VALUES.items():
                assert kind in kinds or refused(call, **{name: value}), (method, name, kind)
        with pytest.raises(TypeError):
            call(threshold=0.5)
    assert set(fits) == set(module.RerankOptions.__annotations__)


def test_methods_of_late_interaction(tmp_path: Path) -> None:
    model = mlx_jina.load_multi_vector(colbert_checkpoints.v2(tmp_path / "colbert"))
    fits: dict[str, tuple[str, ...]] = {
        "task": (),
        "truncate_dim": (),
        "allow_untrained_dim": ("bool",),
        "max_length": ("int",),
        "truncate": ("bool",),
        "precision": (),
        "batch_tokens": ("int",),
        "show_progress_bar": ("bool",),
    }
    for call in (
        lambda **o: model.encode_query(["fox"], **o),
        lambda **o: model.encode_document(["fox"], **o),
        lambda **o: model.rank("fox", ["fox"], **o),
    ):
        for name, kinds in fits.items():
            for kind, value in VALUES.items():
                assert kind in kinds or refused(call, **{name: value}), (name, kind)
    assert {*fits, "ranges"} == set(module.MultiVectorOptions.__annotations__)


@pytest.mark.parametrize("load", [mlx_jina.load_reranker, mlx_jina.load_multi_vector])
def test_loading_other_models(load: Callable[..., Any]) -> None:
    for name in ("revision", "local_files_only", "dtype", "cache_dir"):
        assert refused(lambda **o: load("nowhere", **o), **{name: 1.5}), name


def test_the_words(model: Encoder) -> None:
    with pytest.raises(InputError, match="truncate_dim='64' must be a whole number or None, not str"):
        model.encode("a", truncate_dim="64")  # type: ignore[call-overload]
    with pytest.raises(InputError, match="prompt=5 must be a str or None, not int"):
        model.encode("a", prompt=5)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"max_length=array\(64\) must be a whole number or None, not ndarray"):
        model.encode_query("a", max_length=np.array(64))  # type: ignore[call-overload]


def test_numbers_of_numpy_will_do(model: Encoder) -> None:
    rows = model.encode(["a fox"], truncate_dim=np.int64(64), truncate=np.bool_(True))  # type: ignore[call-overload]
    assert np.array_equal(rows, model.encode(["a fox"]))


def test_load(folder: Path) -> None:
    for name in ("name", "task", "revision", "local_files_only", "dtype", "cache_dir", "as_model"):
        for kind in ("float", "bytes", "list", "dict", "0-d array", "array", "object"):
            options = {"name": folder, name: VALUES[kind]}
            with pytest.raises(InputError):
                mlx_jina.load(**options)


def test_every_option_of_convert_and_of_an_index_has_a_type(folder: Path, index: Index, tmp_path: Path) -> None:
    functions: list[Callable[..., Any]] = [convert.to_gguf, convert.to_mlx]
    for function in functions:
        for name in inspect.signature(function).parameters:
            for kind in ("float", "bytes", "list", "dict", "0-d array", "array", "object"):
                options = {"source": folder, "target": tmp_path / "x", name: VALUES[kind]}
                with pytest.raises(InputError):
                    function(**options)
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (index.sync, {}),
        (index.search, {"text": "fox"}),
        (index.related, {"path": "a.md"}),
        (index.duplicates, {}),
        (index.set_weight, {}),
        (index.check, {}),
        (index.compact, {}),
        (index.rebuild, {}),
        (Index, {"file": tmp_path / "new.db"}),
        # Only a search looks at it.
        (
            lambda **options: index.search("fox", where=Where(**options)),
            {field.name: field.default for field in dataclasses.fields(Where)},
        ),
    ]
    more = {index.search: ("chunks", "recent", "min_score", "min_cosine", "cancelled")}
    for call, given in calls:
        names = [*(name for name in inspect.signature(call).parameters if name != "options"), *given]
        for name in (*names, *more.get(call, ())):
            for kind in ("bytes", "dict", "0-d array", "array", "object"):
                with pytest.raises(InputError):
                    call(**{**given, name: VALUES[kind]})
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "new.db").exists()


def test_one_pattern_is_no_list_of_patterns(index: Index) -> None:
    with pytest.raises(InputError, match=r"include='\*.md' must be a list of str or None, not str"):
        index.sync(include="*.md")


def test_paths_are_names_too(folder: Path, tmp_path: Path) -> None:
    convert.to_mlx(folder, str(tmp_path / "copy"))
    assert compare(folder, tmp_path / "copy", ["a fox"]).min > 0.999


@pytest.mark.parametrize(
    ("a", "b", "options", "words"),
    [
        (np.array(5.0), [1.0], {}, r"a must be a vector \(D,\) or vectors \(N, D\), not of shape \(\)"),
        ([1.0], np.zeros((2, 2, 2)), {}, r"b must be a vector .*\(2, 2, 2\)"),
        ("text", [1.0], {}, "a must be an array of numbers, not of <U4"),
        ([[1.0, 2.0], [3.0]], [1.0], {}, "a must be an array of numbers"),
        ([1j], [1.0], {}, "a must be an array of numbers, not of complex128"),
        ([1.0], [1.0], {"precision": 5}, "precision=5 is not one of float32"),
        ([1.0], [1.0], {"precision": np.array(["a", "b"])}, "precision=.* is not one of float32"),
        (np.ones(4, np.int8), np.ones(4), {"ranges": "x"}, "ranges must be an array of numbers"),
    ],
)
def test_similarity(a: Any, b: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        vectors.similarity(a, b, **options)


def test_other_functions_of_vectors() -> None:
    with pytest.raises(InputError, match="precision='int4' is not one of"):
        vectors.quantize(np.ones((1, 8), np.float32), "int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision=None is not one of"):
        vectors.dequantize(np.ones((1, 8), np.int8), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="calibration must be an array of numbers"):
        vectors.ranges_of("text")
    with pytest.raises(InputError, match="limit='5' must be a number of bytes"):
        process.limit_cache("5")  # type: ignore[arg-type]


def test_a_long_value_is_shown_in_part(model: Encoder) -> None:
    with pytest.raises(InputError) as caught:
        model.encode("a", prompt=list(range(10_000)))  # type: ignore[call-overload]
    assert len(str(caught.value)) < 200
