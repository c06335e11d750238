"""What type checkers say of calls: wrong ones are refused, and of right ones they know what comes out."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_jina
from mlx_jina import Encoder, MultiVectorEncoder, options
from mlx_jina.engine import plan

pytest.importorskip("mypy")

ROOT = Path(mlx_jina.__file__).parents[1]

HEAD = """
from pathlib import Path
import numpy as np
import mlx_jina
import mlx_jina.ray
from mlx_jina import Encoder, vectors
from mlx_jina.integrations.sentence_transformers import SentenceTransformer
from mlx_jina.options import ChunkOptions, EncodeOptions, LoadOptions

model = mlx_jina.load("pocket")
late = mlx_jina.load_multi_vector("colbert-v2")
texts = ["one", "two"]
"""

# Each line is a mistake of its own.
WRONG = """
mlx_jina.lode("pocket")
mlx_jina.load("pocket", dtype="float8")
mlx_jina.load("pocket", cache="here")
mlx_jina.load("pocket", None)
model.encode(texts, truncat_dim=64)
model.encode(texts, truncate_dim="64")
model.encode(texts, precision="int9")
model.encode(texts, output="words")
model.encode(texts, output="tokens", late_chunking=True)
model.encode(texts, "retrieval")
model.encode(texts, batch_size=32)
model.encode(texts, convert_to_tensor=True)
model.encode(inputs=texts)
model.encode([1, 2])
model.encode({"a text", "in a set"})
model.encode(None)
model.encode_query("one", output="tokens")
model.encode_query("one", prompt_nam="query")
model.encode_document(texts, precision="bits")
model.encode_tokens(texts, late_chunking=True)
model.encode_tokens(texts, max_lenght=5)
model.encode_stream(texts, show_progress_bar=True)
model.encode_stream(texts, normalise_embeddings=True)
model.encode_chunks(texts, chunk="sentnce")
model.encode_chunks(texts, "word")
model.encode_chunks(texts, chunk_token=64)
model.encode_chunks(texts, late="yes")
model.encode_chunks_stream(texts, "sentence", overlap="8")
model.plan(presision="int8")
model.similarity(np.zeros((1, 8)), np.zeros((1, 8)), precision="int7")
model.fingerprint(["retrieval"])
model.encode("one").vectors
model.encode(texts, output="tokens").shape
model.encode_chunks("one")[0]
vectors.quantize(np.zeros((1, 8), np.float32), "int4")
vectors.dequantize(np.zeros((1, 8), np.int8), "sign")
vectors.similarity(np.zeros(8), np.zeros(8), "float64")
mlx_jina.limit_cache("1 GB")
mlx_jina.ray.Encoder("pocket", truncat_dim=64)
mlx_jina.ray.Encoder("pocket", precision="int9")
SentenceTransformer("pocket").encode(texts, precision="float16")
SentenceTransformer("pocket").encode(texts, output_value="tokens")
mlx_jina.load_multi_vector("v4", task=1)
late.encode_query("one", max_lenght=64)
late.encode_document(texts, precision="int9")
late.rank("one", "two")
late.rank("one", texts)[0].score
late.similarity(3.0, texts, "words")
options: EncodeOptions = {"truncat_dim": 64}
loading: LoadOptions = {"dtype": "int8"}
chunking: ChunkOptions = {"chunk_tokens": 64, "overlaps": 8}
"""

RIGHT = """
from typing import Any
from typing_extensions import Unpack, assert_type
from mlx_jina import Chunk, ChunkedDocument, MultiVectorEncoder, Token, TokenVectors
from mlx_jina.choices import Precision
from mlx_jina.options import Texts
from mlx_jina.vectors import AnyRows, AnyVector, Floats, FloatRows, FloatVector

assert_type(model, Encoder)
assert_type(model.encode("one"), FloatVector)
assert_type(model.encode(texts), FloatRows)
assert_type(model.encode(("one", "two"), task="retrieval", truncate_dim=64), FloatRows)
assert_type(model.encode(np.array(texts)), FloatRows)
assert_type(model.encode([]), FloatRows)
assert_type(model.encode("one", precision="ubinary"), AnyVector)
assert_type(model.encode(texts, precision="int8", ranges=np.zeros((2, 256))), AnyRows)
assert_type(model.encode(texts, late_chunking=True, show_progress_bar=False), FloatRows)
assert_type(model.encode("one", output="tokens"), TokenVectors)
assert_type(model.encode(texts, output="tokens", precision="float16"), list[TokenVectors])
assert_type(model.encode_query("one"), FloatVector)
assert_type(model.encode_query(texts, precision="binary"), AnyRows)
assert_type(model.encode_document(texts), FloatRows)
assert_type(model.encode_document("one", precision="float16"), AnyVector)
assert_type(model.encode_tokens("one"), TokenVectors)
assert_type(model.encode_tokens(texts, normalize_embeddings=False), list[TokenVectors])
assert_type(model.encode_chunks("one", "paragraph", chunk_tokens=None), ChunkedDocument)
assert_type(model.encode_chunks(texts, chunk="fixed", overlap=8, late=False), list[ChunkedDocument])
assert_type(model.encode_chunks("one").chunks, tuple[Chunk, ...])
assert_type(model.tokens("one"), list[list[Token]])
assert_type(model.similarity(model.encode("one"), model.encode(texts)), Floats)
assert_type(late, MultiVectorEncoder)
assert_type(late.encode_query("one", max_length=64), AnyRows)
assert_type(late.encode_document(texts, precision="int8", truncate_dim=64), list[AnyRows])
assert_type(late.similarity(late.encode_query("one"), late.encode_document(texts)), Floats)
assert_type(late.rank("one", texts, top_k=1)[0]["score"], float)

def either(given: str | list[str], chosen: Precision, **options: Unpack[EncodeOptions]) -> None:
    assert_type(model.encode(given), FloatVector | FloatRows)
    assert_type(model.encode(texts, precision=chosen), AnyRows)
    model.encode(texts, **options)

def passed_on(any_texts: Texts, loading: LoadOptions, chunks: ChunkOptions) -> Any:
    other = mlx_jina.load(Path("pocket"), task="retrieval", **loading)
    return [other.encode_chunks(any_texts, "fixed", **chunks), list(other.encode_stream(any_texts, max_length=5))]

try:
    model.encode(texts)
except mlx_jina.TooLongError as error:
    assert_type(error.position, int | None)
mlx_jina.limit_cache(1 << 30)
mlx_jina.ray.Encoder("pocket", task="retrieval", dtype="float16", column="text", truncate_dim=64)
mlx_jina.InputError("is empty", position=3)
"""


def test_options_are_those_of_the_methods() -> None:
    """A name that one has and the other lacks would be no option, or one that type checkers refuse."""
    encode = inspect.signature(Encoder.encode).parameters.keys() - {"self", "texts"}
    chunks = inspect.signature(Encoder.encode_chunks_stream).parameters.keys()
    load = inspect.signature(mlx_jina.load).parameters.keys() - {"name", "task"}
    assert options.LoadOptions.__optional_keys__ == load
    assert options.VectorOptions.__optional_keys__ | {"precision"} == encode
    own = {"late_chunking", "output", "show_progress_bar"}
    assert options.EncodeOptions.__optional_keys__ == encode - own
    assert inspect.signature(plan.make).parameters.keys() - {"loaded"} == encode - own
    late = inspect.signature(MultiVectorEncoder.plan).parameters.keys() - {"self", "side"}
    assert options.MultiVectorOptions.__optional_keys__ == late
    assert options.CutOptions.__optional_keys__ == chunks - {"self", "texts", "chunk", "advance", "options"}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """The first error of each line, of both files by one run."""
    folder = tmp_path_factory.mktemp("calls")
    (folder / "wrong.py").write_text(HEAD + WRONG, encoding="utf-8")
    (folder / "right.py").write_text(HEAD + RIGHT, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    files = [str(folder / "wrong.py"), str(folder / "right.py")]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert not done.stderr, done.stderr
    errors: dict[str, dict[int, str]] = {"wrong": {}, "right": {}}
    for name, line, message in re.findall(r"(wrong|right)\.py:(\d+): error: (.*)", done.stdout):
        errors[name].setdefault(int(line), message)
    assert "Found" in done.stdout, done.stdout
    return errors


def test_wrong_calls_are_refused(said: dict[str, dict[int, str]]) -> None:
    first = HEAD.count("\n") + 2
    calls = dict(enumerate(WRONG.strip().splitlines(), first))
    assert [call for line, call in calls.items() if line not in said["wrong"]] == []
    # And nothing else is: the head has no mistakes.
    assert said["wrong"].keys() == calls.keys()


def test_right_calls_are_understood(said: dict[str, dict[int, str]]) -> None:
    lines = (HEAD + RIGHT).splitlines()
    assert {lines[line - 1]: message for line, message in said["right"].items()} == {}
