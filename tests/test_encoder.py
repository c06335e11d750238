"""The Python API: shapes, options, limits, threads, bad input, damaged weights."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import InputError, NumericalError, TruncationWarning, catalog, vectors
from mlx_jina.choices import Precision
from mlx_jina.encoder import Encoder
from mlx_jina.engine import pipeline
from mlx_jina.nn import ragged
from mlx_jina.weights import folder as folders
from tests.support import checkpoints
from tests.support.tolerance import bound

TEXTS = ["the quick brown fox", "how do i bake bread?", "paris is the capital of france"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.tiny_jina_bert(tmp_path_factory.mktemp("v2"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Encoder:
    return mlx_jina.load(folder)


class TestShapes:
    def test_a_list_gives_rows(self, model: Encoder) -> None:
        out = model.encode(TEXTS)
        assert out.shape == (3, 64)
        assert out.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=bound(1e-6))

    def test_one_str_gives_one_vector(self, model: Encoder) -> None:
        assert model.encode("the fox").shape == (64,)

    @pytest.mark.parametrize(("precision", "columns"), [("float32", 64), ("int8", 64), ("ubinary", 8)])
    def test_an_empty_list_gives_no_rows(self, model: Encoder, precision: Precision, columns: int) -> None:
        assert model.encode([], precision=precision).shape == (0, columns)

    def test_any_sequence_of_str_will_do(self, model: Encoder) -> None:
        np.testing.assert_array_equal(model.encode(tuple(TEXTS)), model.encode(TEXTS))
        np.testing.assert_array_equal(model.encode(np.array(TEXTS)), model.encode(TEXTS))

    def test_input_order_is_kept(self, model: Encoder) -> None:
        texts = [" ".join(["fox"] * n) for n in (30, 1, 17, 2, 30, 9)]
        out = model.encode(texts, batch_tokens=40)
        np.testing.assert_allclose(out, np.stack([model.encode(text) for text in texts]), atol=bound(3e-7))

    def test_facts(self, model: Encoder) -> None:
        assert (model.dimension, model.max_length, model.tasks) == (64, 8192, ())


class TestOptions:
    def test_raw_vectors(self, model: Encoder) -> None:
        raw = model.encode(TEXTS, normalize_embeddings=False)
        assert np.abs(np.linalg.norm(raw, axis=1) - 1).max() > 0.1
        np.testing.assert_allclose(vectors.normalize(raw), model.encode(TEXTS), atol=bound(1e-7))

    def test_untrained_dimensions_are_refused_unless_asked_for(self, model: Encoder) -> None:
        with pytest.raises(InputError, match="no Matryoshka training"):
            model.encode(TEXTS, truncate_dim=32)
        cut = model.encode(TEXTS, truncate_dim=32, allow_untrained_dim=True)
        np.testing.assert_allclose(cut, vectors.normalize(model.encode(TEXTS)[:, :32]), atol=bound(1e-6))

    def test_sides_work_without_prompts(self, model: Encoder) -> None:
        np.testing.assert_array_equal(model.encode_query(TEXTS), model.encode(TEXTS))
        np.testing.assert_array_equal(model.encode_document(TEXTS), model.encode(TEXTS))

    def test_a_progress_bar_is_shown(self, model: Encoder, capfd: pytest.CaptureFixture[str]) -> None:
        np.testing.assert_array_equal(model.encode(TEXTS, show_progress_bar=True), model.encode(TEXTS))
        assert "Encoding: 100%" in capfd.readouterr().err

    def test_what_changes_nothing_is_no_option(self, model: Encoder) -> None:
        for name in ("inputs", "sentences", "batch_size", "device", "convert_to_numpy", "output_value"):
            options: dict[str, Any] = {name: None}
            for call in (model.encode, model.encode_query, model.encode_tokens, model.encode_chunks):
                with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                    call(TEXTS, **options)

    def test_prompt_is_a_prefix(self, model: Encoder) -> None:
        np.testing.assert_array_equal(model.encode("fox", prompt="the "), model.encode("the fox"))

    def test_stream_gives_the_same_rows_in_order(self, model: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mlx_jina.engine.pipeline.WINDOW_TEXTS", 4)
        texts = [" ".join(["fox"] * (n % 7 + 1)) for n in range(19)]
        blocks = list(model.encode_stream(iter(texts)))
        assert [len(block) for block in blocks] == [4, 4, 4, 4, 3]
        np.testing.assert_allclose(np.concatenate(blocks), model.encode(texts), atol=bound(3e-7))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"task": "retrieval"}, "task='retrieval' is unknown.*one vector space"),
            ({"prompt_name": "query"}, "prompt_name='query' is unknown.*without prompts"),
            ({"truncate_dim": 65}, "between 1 and 64"),
            ({"truncate_dim": 0}, "between 1 and 64"),
            ({"max_length": 2}, "between 3 and this model's 8192"),
            ({"max_length": 8193}, "between 3 and this model's 8192"),
            ({"precision": "int4"}, "precision='int4' is not one of"),
            ({"precision": "int8", "normalize_embeddings": False}, "or `ranges` of such"),
            ({"precision": "int8", "ranges": np.zeros((2, 3))}, r"shape \(2, 64\)"),
            ({"batch_tokens": 0}, "at least 1"),
        ],
    )
    def test_nonsense_is_refused(self, model: Encoder, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            model.encode(TEXTS, **options)


class TestLength:
    def test_over_long_texts_are_cut_with_one_warning(self, model: Encoder) -> None:
        long = " ".join(["fox"] * 40)
        with pytest.warns(TruncationWarning, match="2 texts were longer than 10 tokens"):
            out = model.encode([long, "fox", long + " dog"], max_length=10)
        np.testing.assert_allclose(out[0], model.encode(" ".join(["fox"] * 8)), atol=bound(3e-7))
        np.testing.assert_allclose(out[0], out[2], atol=bound(3e-7))

    def test_or_named_as_an_error(self, model: Encoder) -> None:
        with pytest.raises(InputError, match="text 1 has 42 tokens, more than max_length=10"):
            model.encode(["fox", " ".join(["fox"] * 40)], max_length=10, truncate=False)

    def test_the_limit_is_the_models_own_and_not_512(self, model: Encoder) -> None:
        text = " ".join(["fox"] * 598)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            whole = model.encode(text)
        assert np.abs(whole - model.encode(text + " dog")).max() > 1e-6

    def test_truncation_keeps_the_closing_token(self, folder: Path) -> None:
        tokenizer = folders.read(folder).tokenizer
        (ids,) = tokenizer.encode(["the quick brown fox"])
        assert tokenizer.truncate(ids, 4).tolist() == [*ids[:3], ids[-1]]

    def test_counts(self, model: Encoder) -> None:
        assert model.count_tokens(["", "the fox", "the " * 9000]) == [2, 4, 9002]
        assert len(model.tokenize("the fox")[0]) == 4


class TestTexts:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "   ",
            "\t\n",
            "🦊👩‍👩‍👧‍👦",
            "a\x00b",
            "é",
            "日本語 中文 한국어",
            "x" * 1_000_000,
            "\u202eright to left",
        ],
        ids=["empty", "blank", "whitespace", "emoji", "nul", "accent", "cjk", "1 MB word", "bidi"],
    )
    def test_odd_ones_work(self, model: Encoder, text: str) -> None:
        assert np.isfinite(model.encode([text, "fox"])).all()

    def test_lone_surrogates_are_named(self, model: Encoder) -> None:
        with pytest.raises(InputError, match=r"text 2 holds a lone surrogate \('\\udcff'\) at character 1"):
            model.encode(["fox", "a longer text about dogs", "a\udcff"])

    @pytest.mark.parametrize("item", [None, 3, b"bytes", ["nested"]])
    def test_other_types_are_named(self, model: Encoder, item: Any) -> None:
        with pytest.raises(InputError, match=f"text 1 is of type {type(item).__name__}"):
            model.encode(["fox", item])

    def test_nothing_is_computed_beside_a_bad_one(self, model: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipeline.Pipeline, "_step", None)
        many = [f"text {i}" for i in range(2 * pipeline.WINDOW_TEXTS)]
        calls: list[Any] = [model.encode, model.encode_tokens, model.encode_chunks]
        for call in calls:
            with pytest.raises(InputError, match=f"text {len(many)} is of type float"):
                call([*many, float("nan")])
            with pytest.raises(InputError, match="must be a str or a list of str, not float"):
                call(float("nan"))


class TestNumbers:
    """NaN, infinity and zero never leave."""

    @staticmethod
    def damaged(folder: Path, target: Path, value: float, token: int, dtype: mx.Dtype) -> Path:
        tensors = checkpoints.read_tensors(folder)
        words = np.array(tensors["embeddings.word_embeddings.weight"])
        words[token] = value
        tensors["embeddings.word_embeddings.weight"] = mx.array(words)
        target.mkdir()
        mx.save_safetensors(
            str(target / "model.safetensors"), {name: tensor.astype(dtype) for name, tensor in tensors.items()}
        )
        for name in ("config.json", "tokenizer.json"):
            (target / name).write_bytes((folder / name).read_bytes())
        return target

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_the_text_is_named(self, folder: Path, model: Encoder, tmp_path: Path, value: float) -> None:
        token = model.tokenize("fox")[0][1]
        broken = mlx_jina.load(self.damaged(folder, tmp_path / "broken", value, token, mx.float32))
        assert np.isfinite(broken.encode(["a dog", "bread"])).all()
        with pytest.raises(NumericalError, match="text 1 has a vector that came out as NaN"):
            broken.encode(["a much longer text about a dog", "the fox", "bread"])

    def test_an_overflow_of_half_precision_is_repaired(self, folder: Path, tmp_path: Path) -> None:
        """A feed-forward whose product exceeds 65,504 before it is scaled down again."""
        tensors = checkpoints.read_tensors(folder)
        tensors["encoder.layer.0.mlp.gated_layers.weight"] *= 300
        tensors["encoder.layer.0.mlp.wo.weight"] /= 300**2
        mx.eval(tensors)
        checkpoints.tiny_jina_bert(tmp_path)
        mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
        half = mlx_jina.load(tmp_path, dtype="float16")
        batch = ragged.flatten(half._tokenizer.encode(TEXTS), np.arange(3))
        run = half.loaded.model_for(None)
        broken = half._thread.run(lambda: np.array(run(mx.array(batch.ids), batch.ragged)))
        assert not np.isfinite(broken).all()
        whole = mlx_jina.load(tmp_path, dtype="float32").encode(TEXTS)
        for _ in range(2):
            assert (half.encode(TEXTS) * whole).sum(axis=1).min() > 0.999


class TestThreads:
    def test_eight_threads_and_asyncio_give_the_serial_vectors(self, folder: Path) -> None:
        with ThreadPoolExecutor(1) as loader:
            model = loader.submit(mlx_jina.load, folder).result()
        jobs = [[f"{text} {n}" for text in TEXTS for _ in range(20)] for n in range(8)]
        serial = [model.encode(texts, batch_tokens=64) for texts in jobs]
        with ThreadPoolExecutor(8) as threads:
            parallel = list(threads.map(lambda texts: model.encode(texts, batch_tokens=64), jobs))

        async def gather() -> list[Any]:
            return await asyncio.gather(
                *(asyncio.to_thread(model.encode, texts, batch_tokens=64) for texts in jobs)
            )

        for other in (parallel, asyncio.run(gather())):
            for expected, got in zip(serial, other, strict=True):
                np.testing.assert_array_equal(got, expected)

    def test_a_failing_call_leaves_the_model_usable(self, model: Encoder) -> None:
        with pytest.raises(InputError):
            model.encode(["fox"] * 50 + ["\ud800"])
        assert model.encode("fox").shape == (64,)


def test_the_process_ends_cleanly(folder: Path) -> None:
    """MLX (0.32) aborts when a thread that used it ends during the interpreter's exit; ours does not end."""
    code = """if True:
        import sys, mlx_jina
        for _ in range(3):
            model = mlx_jina.load(sys.argv[1])
            model.encode(["a fox", "paris"])
        if sys.argv[2] == "dropped":
            del model
    """
    for state in ("alive", "dropped") * 2:
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder), state], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


FORK = """
import multiprocessing, sys
import mlx_jina

model = mlx_jina.load(sys.argv[1])
context = multiprocessing.get_context("fork")

def use() -> None:
    for call in (lambda: model.encode("x"), lambda: mlx_jina.load(sys.argv[1])):
        try:
            call()
        except mlx_jina.ForkError as error:
            print(error)

child = context.Process(target=use)
child.start()
child.join(20)
print(child.exitcode)
child.kill()
print(model.encode("x").shape)
"""


def test_a_forked_process_is_told_so(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, folder], capture_output=True, text=True, timeout=60)
    words, again, code, shape = done.stdout.splitlines()
    assert "load models only after forking" in words
    assert again == words
    assert (code, shape) == ("0", "(64,)")


class TestFingerprint:
    def test_pocket_has_a_version(self) -> None:
        """Other weights need another version in the catalog: add a row here."""
        fingerprints = {1: "f07ec0407a81c742", 2: "d956d4ab5a330418", 3: "d07fb5d5913f88f7", 4: "29f81c97b3259d52"}
        entry = catalog.find("pocket")
        assert entry is not None
        assert entry.version is not None
        assert mlx_jina.load("pocket").fingerprint() == fingerprints[entry.version]
        assert entry.title == f"pocket v{entry.version}"

    def test_depends_on_values_and_not_on_files(self, folder: Path, model: Encoder, tmp_path: Path) -> None:
        checkpoints.tiny_jina_bert(tmp_path / "other", seed=1)
        assert mlx_jina.load(folder).fingerprint() == model.fingerprint()
        assert mlx_jina.load(tmp_path / "other").fingerprint() != model.fingerprint()
        checkpoints.tiny_jina_bert(tmp_path / "half", dtype=mx.float16)
        halves = {mlx_jina.load(tmp_path / "half", dtype=dtype).fingerprint() for dtype in ("float16", "float32")}
        assert len(halves) == 1
        assert halves != {model.fingerprint()}

    def test_depends_on_the_tokenizer(self, folder: Path, model: Encoder, tmp_path: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        content = (folder / "tokenizer.json").read_text(encoding="utf-8")
        (tmp_path / "tokenizer.json").write_text(
            content.replace('"lowercase":true', '"lowercase":false').replace(
                '"lowercase": true', '"lowercase": false'
            ),
            encoding="utf-8",
        )
        assert mlx_jina.load(tmp_path).fingerprint() != model.fingerprint()


class Table:
    """What pandas, polars and Arrow have in common: names of columns, which are what iterating gives."""

    columns = ("text",)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"q1": "how", "q2": "why"}, r"not a dict: pass its values"),
        (Counter(["a", "b"]), r"not a Counter: pass its values"),
        (MappingProxyType({"q1": "how"}), "not a mappingproxy: pass its values"),
        ({"how", "why"}, "must have an order, which a set has not"),
        (frozenset(["how"]), "must have an order, which a frozenset has not"),
        (Table(), r"not a table \(Table\): pass one of its columns"),
        (b"how", "not bytes: decode it first"),
        (bytearray(b"how"), "not bytearray: decode it first"),
        (np.array("how"), "not ndarray"),
        (array("u", "how"), "not an array of letters"),
        # Their ends would be part of the lines.
        (io.StringIO("how\nwhy\n"), "not an open file, whose lines have their ends"),
        (5, "not int"),
    ],
)
def test_what_iterates_over_something_else_than_texts(model: mlx_jina.Encoder, texts: Any, words: str) -> None:
    uses: tuple[Callable[[], object], ...] = (
        lambda: model.encode(texts),
        lambda: model.encode_query(texts),
        lambda: model.encode_document(texts),
        lambda: model.encode(texts, late_chunking=True),
        lambda: model.encode_tokens(texts),
        lambda: model.encode_chunks(texts),
        lambda: list(model.encode_stream(texts)),
        lambda: list(model.encode_chunks_stream(texts)),
        lambda: model.tokenize(texts),
        lambda: model.tokens(texts),
        lambda: model.count_tokens(texts),
    )
    for use in uses:
        with pytest.raises(InputError, match=words):
            use()


def test_a_str_where_many_texts_are_meant(model: mlx_jina.Encoder) -> None:
    for stream in (model.encode_stream, model.encode_chunks_stream):
        with pytest.raises(InputError, match=r"not one str, each letter of which would be one: pass \['abc'\]"):
            list(stream("abc"))


def test_columns_of_tables_are_texts(model: mlx_jina.Encoder) -> None:
    wanted = model.encode(["how", "why"])
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"text": ["how", "why"]})
    columns: list[Any] = [frame["text"], frame["text"].to_numpy(), frame.text.tolist()]
    for texts in (*columns, {"a": "how", "b": "why"}.values()):
        np.testing.assert_array_equal(model.encode(texts), wanted)
    for table in (frame, frame[["text"]], pyarrow.table({"text": ["how", "why"]})):
        with pytest.raises(InputError, match="not a table"):
            model.encode(table)
