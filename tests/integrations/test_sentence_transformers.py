"""`mlx_jina.integrations.sentence_transformers` beside sentence-transformers itself, on the same weights."""

from __future__ import annotations

import inspect
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from mlx_jina import InputError, TruncationWarning
from mlx_jina.integrations.sentence_transformers import SentenceTransformer, checks, tensors
from tests.support import checkpoints, decoder_checkpoints, v3_checkpoints
from tests.support.tolerance import bound, place_matters

TEXTS = ["how do i bake bread", "a", "def add(a, b): return a + b", "paris is the capital of france " * 9]
NAMES = {"query": "find: ", "document": "kept: ", "code": "write code: "}


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch", reason="needs torch (pip install --group reference)")
        return pytest.importorskip("sentence_transformers", reason="needs it (pip install --group reference)")


@pytest.fixture(scope="module")
def pair(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, SentenceTransformer]:
    """A last-token model with prompts, which normalises: theirs, and ours of the folder that theirs saved."""
    folder = tmp_path_factory.mktemp("code")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = modules(theirs, decoder_checkpoints.code(folder / "plain"), "lasttoken", unit=True)
        reference = theirs.SentenceTransformer(modules=built, device="cpu", prompts=NAMES)
        reference.save(str(folder / "saved"))
    return reference, SentenceTransformer(str(folder / "saved"))


@pytest.fixture(scope="module")
def raw(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, SentenceTransformer]:
    """The mean of v3's states without a task, which nothing normalises."""
    folder = v3_checkpoints.native(tmp_path_factory.mktemp("v3") / "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = modules(theirs, folder, "mean", unit=False)
    write_modules(folder, "Transformer", "Pooling")
    return theirs.SentenceTransformer(modules=built, device="cpu"), SentenceTransformer(str(folder))


def modules(theirs: Any, folder: Path, pooling: str, unit: bool) -> list[Any]:
    parts = theirs.sentence_transformer.modules
    transformer = parts.Transformer(str(folder), model_kwargs={"dtype": "float32"})
    built = [transformer, parts.Pooling(transformer.get_embedding_dimension(), pooling)]
    return [*built, parts.Normalize()] if unit else built


def write_modules(folder: Path, *kinds: str) -> None:
    listed = [{"idx": i, "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")


def same(ours: Any, reference: Any, atol: float = 3e-6) -> None:
    """The same kinds of things in the same shapes, with the same numbers."""
    assert type(ours) is type(reference)
    if isinstance(reference, list):
        assert len(ours) == len(reference)
        for one, other in zip(ours, reference, strict=True):
            same(one, other, atol)
        return
    assert (tuple(ours.shape), ours.dtype) == (tuple(reference.shape), reference.dtype)
    allowed = 2 * atol if place_matters() else atol
    np.testing.assert_allclose(np.asarray(ours), np.asarray(reference), rtol=0, atol=allowed)


METHODS = (
    "__init__",
    "encode",
    "encode_query",
    "encode_document",
    "similarity",
    "similarity_pairwise",
    "get_embedding_dimension",
    "get_sentence_embedding_dimension",
    "get_max_seq_length",
    "truncate_embeddings",
    "truncate_sentence_embeddings",
)


@pytest.mark.parametrize("name", METHODS)
def test_signatures_are_theirs(theirs: Any, name: str) -> None:
    ours, reference = (
        [(p.name, p.kind, p.default) for p in inspect.signature(getattr(each, name)).parameters.values()]
        for each in (SentenceTransformer, theirs.SentenceTransformer)
    )
    assert ours == reference


@pytest.mark.parametrize("inputs", [TEXTS, TEXTS[0], TEXTS[:1], tuple(TEXTS), np.array(TEXTS), []])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_embeddings": True},
        {"truncate_dim": 24},
        {"truncate_dim": 24, "normalize_embeddings": True},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"prompt_name": "code", "batch_size": 1},
        {"prompt": "say: "},
        {"precision": "binary"},
        {"precision": "ubinary", "convert_to_tensor": True},
        {"output_value": "token_embeddings"},
        {"output_value": "token_embeddings", "precision": "ubinary"},
    ],
)
def test_results_are_theirs(pair: Any, inputs: Any, options: dict[str, Any]) -> None:
    reference, ours = pair
    same(ours.encode(inputs, **options), reference.encode(inputs, **options))


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_buckets_are_theirs(pair: Any, precision: Any) -> None:
    """A float on a bucket's edge may fall on either side of it, so ours are made of their floats."""
    reference, ours = pair
    floats = reference.encode(TEXTS)
    quantize = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    (found,) = tensors.quantized([floats], precision)
    same(found, quantize(floats, precision), atol=0)
    same(ours.encode(TEXTS, precision=precision), reference.encode(TEXTS, precision=precision), atol=1)
    with pytest.raises(ValueError, match="single embedding"):
        reference.encode("one", precision=precision)
    with pytest.raises(InputError, match="at least 2 vectors"):
        ours.encode("one", precision=precision)


def test_what_nothing_normalises_stays_as_it_is(raw: Any) -> None:
    reference, ours = raw
    assert np.abs(np.linalg.norm(ours.encode(TEXTS), axis=1) - 1).min() > 0.1
    options: list[dict[str, Any]] = [{}, {"normalize_embeddings": True}, {"truncate_dim": 20}]
    for each in options:
        same(ours.encode(TEXTS, **each), reference.encode(TEXTS, **each), atol=bound(2e-5))


def test_sides_are_theirs(pair: Any) -> None:
    reference, ours = pair
    for name in ("encode_query", "encode_document"):
        options: list[dict[str, Any]] = [{}, {"prompt": ""}, {"prompt_name": "code"}, {"output_value": None}]
        for each in options[:3]:
            same(getattr(ours, name)(TEXTS, **each), getattr(reference, name)(TEXTS, **each))
        same(getattr(ours, name)(sentences=TEXTS), getattr(reference, name)(TEXTS))
    same(ours.encode_query(TEXTS), ours.encode(TEXTS, prompt_name="query"))


def test_a_dict_for_each_text(pair: Any) -> None:
    reference, ours = pair
    (alone,), (theirs,) = (each.encode(TEXTS[:1], output_value=None) for each in (ours, reference))
    for key in ("input_ids", "attention_mask", "token_embeddings", "sentence_embedding"):
        same(alone[key], theirs[key])
    whole = ours.encode(TEXTS, output_value=None)
    assert [len(each["input_ids"]) for each in whole] == ours.encoder.count_tokens(TEXTS)
    same(ours.encode("a", output_value=None)["sentence_embedding"], whole[1]["sentence_embedding"])


@pytest.mark.parametrize("name", tensors.MATRICES)
def test_similarities_are_theirs(pair: Any, name: Any) -> None:
    reference, ours = pair
    a, b = reference.encode(TEXTS), 3 * reference.encode(TEXTS[::-1])
    reference.similarity_fn_name = ours.similarity_fn_name = name
    try:
        for one, other in ((a, b), (a[0], b), (list(a), list(b)), (a * 0, b)):
            same(ours.similarity(one, other), reference.similarity(one, other), atol=bound(1e-5))
        same(ours.similarity_pairwise(a, b), reference.similarity_pairwise(a, b), atol=bound(1e-5))
        as_tensors = [each.encode(TEXTS, convert_to_tensor=True) for each in (ours, reference)]
        same(ours.similarity(*as_tensors[:1] * 2), reference.similarity(*as_tensors[1:] * 2), atol=bound(1e-5))
    finally:
        reference.similarity_fn_name = ours.similarity_fn_name = "cosine"


def test_prompts_are_theirs(theirs: Any, pair: Any) -> None:
    _, ours = pair
    folder = str(ours.encoder.path)
    options: list[dict[str, Any]] = [
        {},
        {"prompts": {"query": "ask: ", "other": "x"}},
        {"prompts": {"query": ""}, "default_prompt_name": "document"},
    ]
    for each in options:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = theirs.SentenceTransformer(folder, device="cpu", **each)
        mine = SentenceTransformer(folder, **each)
        assert (mine.prompts, mine.default_prompt_name) == (other.prompts, other.default_prompt_name)
        same(mine.encode(TEXTS), other.encode(TEXTS))
        same(mine.encode_query(TEXTS), other.encode_query(TEXTS))


def test_facts_are_theirs(pair: Any) -> None:
    reference, ours = pair
    for truncate_dim in (None, 16):
        with ours.truncate_embeddings(truncate_dim), reference.truncate_embeddings(truncate_dim):
            assert ours.get_embedding_dimension() == reference.get_embedding_dimension()
            same(ours.encode(TEXTS), reference.encode(TEXTS))
    assert ours.truncate_dim is None
    assert ours.device == reference.device
    assert ours.to("cpu") is ours.eval() is ours


# ---- from here on without sentence-transformers


@pytest.fixture(scope="module")
def ours() -> SentenceTransformer:
    return SentenceTransformer("pocket", trust_remote_code=True)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it."""
    monkeypatch.setattr(tensors, "torch", lambda: None)


@pytest.mark.usefixtures("no_torch")
def test_without_torch_arrays_take_the_place_of_tensors(ours: SentenceTransformer) -> None:
    rows = ours.encode(TEXTS)
    many = ours.encode(TEXTS, convert_to_numpy=False)
    assert [type(each) for each in many] == [np.ndarray] * len(TEXTS)
    np.testing.assert_array_equal(np.stack(many), rows)
    assert isinstance(ours.similarity(rows, rows), np.ndarray)
    assert ours.encode("a", output_value="token_embeddings").shape == (3, 256)
    assert ours.device == "cpu"
    with pytest.raises(InputError, match="convert_to_tensor=True needs torch"):
        ours.encode(TEXTS, convert_to_tensor=True)


def test_vectors_are_the_encoders(ours: SentenceTransformer) -> None:
    unit = mlx_jina.load("pocket").encode(TEXTS)
    np.testing.assert_allclose(ours.encode(TEXTS, normalize_embeddings=True), unit, atol=bound(1e-6))
    # Pocket's own modules normalise, and it has no prompts.
    np.testing.assert_allclose(ours.encode(TEXTS), unit, atol=bound(1e-6))
    np.testing.assert_array_equal(ours.encode_query(TEXTS), ours.encode(TEXTS))


def test_tasks(tmp_path: Path) -> None:
    """Adapters: named in the call, or fused at the start; v5 and v3 normalise, whatever is asked for."""
    folder = str(decoder_checkpoints.v5_nano(tmp_path / "jina-embeddings-v5-text-nano"))
    kept, encoder = SentenceTransformer(folder), mlx_jina.load(folder)
    fused = SentenceTransformer(folder, model_kwargs={"default_task": "clustering"})
    assert kept.default_prompt_name == "document"
    np.testing.assert_allclose(
        fused.encode(TEXTS, normalize_embeddings=True), encoder.encode(TEXTS, task="clustering"), atol=1e-6
    )
    for task in ("retrieval", "clustering", "retrieval.query"):
        expected = encoder.encode(TEXTS, task=task, prompt="Document: ")
        np.testing.assert_allclose(kept.encode(TEXTS, task=task), expected, atol=bound(1e-6))
    query = kept.encode_query(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(query, encoder.encode_query(TEXTS, task="retrieval"), atol=bound(1e-6))
    with pytest.raises(InputError, match="needs a task"):
        kept.encode(TEXTS)
    with pytest.raises(InputError, match="task='translation' is unknown"):
        kept.encode(TEXTS, task="translation")


def test_sides_of_v3_are_tasks(tmp_path: Path) -> None:
    folder = str(v3_checkpoints.native(tmp_path / "v3"))
    v3, encoder = SentenceTransformer(folder), mlx_jina.load(folder)
    for side, task in (("query", "retrieval.query"), ("document", "retrieval.passage")):
        expected = encoder.encode(TEXTS, task=task)
        found = getattr(v3, f"encode_{side}")(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(found, expected, atol=bound(1e-6))
        # As in the model card.
        found = v3.encode(TEXTS, task=task, prompt_name=task, normalize_embeddings=True)
        np.testing.assert_allclose(found, expected, atol=bound(1e-6))


def test_modules_say_whether_vectors_are_normalised(tmp_path: Path) -> None:
    checkpoints.tiny_jina_bert(tmp_path)
    assert not checks.normalizes(mlx_jina.load(tmp_path))
    for kinds, unit in ((("Transformer", "Pooling"), False), (("Transformer", "Pooling", "Normalize"), True)):
        write_modules(tmp_path, *kinds)
        model = SentenceTransformer(str(tmp_path))
        assert np.allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1, atol=bound(1e-5)) == unit
        # Cut after that, and not normalised again.
        assert not np.allclose(np.linalg.norm(model.encode(TEXTS, truncate_dim=20), axis=1), 1, atol=1e-2)


def test_the_limit_can_be_lowered(ours: SentenceTransformer) -> None:
    short = SentenceTransformer("pocket", processor_kwargs={"model_max_length": 8, "padding_side": "left"})
    assert (ours.max_seq_length, short.max_seq_length, short.get_max_seq_length()) == (8192, 8, 8)
    with pytest.warns(TruncationWarning, match="2 texts were longer than 8 tokens"):
        cut = short.encode(TEXTS)
    short.max_seq_length = 8192
    assert np.abs(short.encode(TEXTS[-1]) - cut[-1]).max() > 1e-3
    with pytest.raises(InputError, match="max_length=8193 must lie between"):
        short.max_seq_length = 8193


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:7"}, "device='cuda:7': MLX computes on '(cpu|metal|cuda)'"),
        ({"device": "tpu"}, "device='tpu': MLX computes on"),
        ({"device": ["cpu", "cpu"]}, "one device, and one process"),
        ({"batch_size": -3}, "batch_size=-3 must be a positive number"),
        ({"batch_size": 2.5}, "batch_size=2.5 must be a positive number"),
        ({"pool": {}}, "pool belongs to a pool of processes"),
        ({"chunk_size": 10}, "chunk_size belongs to a pool"),
        ({"output_value": "tokens"}, "output_value='tokens' is neither"),
        ({"output_value": None, "precision": "int8"}, "output_value=None gives float32"),
        ({"precision": "float16"}, "precision='float16' is not one of float32, int8"),
        ({"prompt_name": "question"}, "prompt_name='question' is unknown to this model"),
        ({"truncate_dim": 257}, "truncate_dim=257 must lie between 1 and 256"),
        ({"task": "retrieval"}, "task='retrieval' is unknown"),
        ({"max_length": 10}, "encode has no use for max_length here"),
        ({"sentences": ["twice"]}, "sentences is an earlier name of inputs"),
    ],
)
def test_what_cannot_hold_is_refused(ours: SentenceTransformer, options: Any, message: str) -> None:
    for call in (ours.encode, ours.encode_query, ours.encode_document):
        with pytest.raises(InputError, match=message):
            call(inputs=TEXTS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": [1]}, "modules holds modules of torch"),
        ({"device": "cuda:1"}, "device='cuda:1': MLX computes on"),
        ({"backend": "onnx"}, "backend='onnx': there is one backend"),
        ({"token": "hf_x"}, "hf auth login"),
        ({"use_auth_token": "hf_x"}, "hf auth login"),
        ({"model_card_data": object()}, "model_card_data is for training"),
        ({"default_prompt_name": "nobody"}, "prompt_name='nobody' is unknown"),
        ({"similarity_fn_name": "maxsim"}, "similarity_fn_name='maxsim' is not one of"),
        ({"truncate_dim": 0}, "truncate_dim=0 must lie between"),
        ({"model_kwargs": {"dtype": "int4"}}, "dtype='int4' is not one of"),
        ({"model_kwargs": {"device_map": "cuda:3"}}, "device='cuda:3'"),
        ({"model_kwargs": {"provider": "x"}}, "model_kwargs has no use for provider"),
        ({"model_kwargs": {"attn_implementation": "linear"}}, "attn_implementation='linear' is not one of"),
        ({"config_kwargs": {"hidden_size": 8}}, "config_kwargs has no use for hidden_size"),
        ({"processor_kwargs": {"padding_side": "both"}}, "padding_side='both'"),
        ({"tokenizer_kwargs": {"max_length": 8}}, "processor_kwargs has no use for max_length"),
    ],
)
def test_what_only_torch_could_do_is_refused(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SentenceTransformer("pocket", **options)


def test_what_model_cards_ask_for_is_taken() -> None:
    """Of v5 and of code, which name a dtype and an attention."""
    asked: dict[str, Any] = {
        "model_kwargs": {"torch_dtype": "bfloat16", "attn_implementation": "sdpa", "device_map": "auto"},
        "config_kwargs": {"_attn_implementation": "flash_attention_2"},
        "tokenizer_kwargs": {"padding_side": "left"},
    }
    half = SentenceTransformer("pocket", trust_remote_code=True, **asked)
    assert half.encoder.dtype == "bfloat16"
    if find_spec("torch"):
        torch = pytest.importorskip("torch")
        assert SentenceTransformer("pocket", model_kwargs={"dtype": torch.float16}).encoder.dtype == "float16"
    assert SentenceTransformer("pocket", model_kwargs={"dtype": "auto"}).encoder.dtype == "float32"


def test_what_is_missing_says_where_to_look(ours: SentenceTransformer) -> None:
    assert not hasattr(ours, "fit")
    with pytest.raises(AttributeError, match="encodes and compares, and has no 'fit'; its model is in"):
        ours.fit()
    with pytest.raises(InputError, match="text 1 is of type int") as caught:
        ours.encode(["a", 3])  # type: ignore[list-item]
    assert caught.value.position == 1
