"""`mlx-jina encode --chunk`: one row per chunk, which says where it is; resumable as any other output."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import mlx_jina
from mlx_jina.engine import pipeline
from tests.support.checkpoints import WORDS, tiny_jina_bert, v5_small
from tests.support.command import SMALL, run
from tests.support.tolerance import bound

DOCUMENTS = 400
OPTIONS = ("--chunk", "sentence", "--late", "--chunk-tokens", "12")


@pytest.fixture(autouse=True, scope="module")
def small_windows() -> Iterator[None]:
    """A few thousand lines make many blocks, as in the processes of `SMALL`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "WINDOW_TEXTS", 64)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_jina_bert(tmp_path_factory.mktemp("model"), heads=2, layers=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of several sentences with ids, some with line ends and characters beyond ASCII."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("input") / "documents.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(DOCUMENTS):
            sentences = [f"The {' '.join(rng.choices(WORDS, k=rng.randint(2, 9)))} 👋🏽." for _ in range(i % 5)]
            print(
                json.dumps({"id": f"d{i}", "text": rng.choice(["\r\n", " ", "\n\n"]).join(sentences)}), file=file
            )
    return path


@pytest.fixture(scope="module")
def whole(model: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The finished file of each format that has room for spans."""
    finished = {}
    for suffix in (".jsonl", ".parquet"):
        path = tmp_path_factory.mktemp("whole") / f"v{suffix}"
        done = run("encode", "-m", model, "-i", source, "-o", path, *OPTIONS)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        finished[suffix] = path.read_bytes()
    return finished


def test_rows_say_where_their_chunks_are(whole: dict[str, bytes], model: Path, source: Path) -> None:
    texts = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
    expected = mlx_jina.load(model).encode_chunks(texts, chunk_tokens=12)
    rows = [json.loads(line) for line in whole[".jsonl"].splitlines()]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    chunks = [(i, chunk) for i, document in enumerate(expected) for chunk in document.chunks]
    assert len(rows) == len(chunks) > DOCUMENTS
    for row, (number, chunk) in zip(rows, chunks, strict=True):
        assert (row["document"], row["id"]) == (number, f"d{number}")
        assert (row["start"], row["end"]) == chunk.span
        assert (row["token_start"], row["token_end"]) == chunk.token_span
        assert row["text"] == chunk.text == texts[number][row["start"] : row["end"]]
    vectors = np.concatenate([document.vectors for document in expected])
    np.testing.assert_allclose([row["embedding"] for row in rows], vectors, atol=bound(1e-6))


def test_parquet_has_the_same_columns(whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "v.parquet").write_bytes(whole[".parquet"])
    table = pq.read_table(tmp_path / "v.parquet")
    rows = [json.loads(line) for line in whole[".jsonl"].splitlines()]
    for name in ("index", "id", "document", "start", "end", "token_start", "token_end", "text"):
        assert table[name].to_pylist() == [row[name] for row in rows]
    assert table["file"].null_count == len(rows)
    assert str(table["start"].type) == "int64"
    embeddings = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(embeddings, np.array([row["embedding"] for row in rows], dtype=np.float32))


@pytest.mark.parametrize("suffix", [".jsonl", pytest.param(".parquet", marks=pytest.mark.slow)])
def test_killed_and_resumed_is_the_same_file(
    suffix: str, whole: dict[str, bytes], model: Path, source: Path, tmp_path: Path
) -> None:
    path, state = tmp_path / f"v{suffix}", tmp_path / f"v{suffix}.partial.json"
    command = ["encode", "-m", str(model), "-i", str(source), "-o", str(path), "--resume", *OPTIONS]
    with subprocess.Popen([*SMALL, *command], stderr=subprocess.PIPE) as process:
        while not (state.exists() and json.loads(state.read_text())["texts"]) and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = json.loads(state.read_text())
    assert 0 < before["texts"] < DOCUMENTS
    assert before["rows"] > before["texts"]
    refused = run(*command, "--overlap", "2")
    assert "was made with --overlap 0, and this run has --overlap 2; --force starts over" in refused.stderr
    assert "--chunk sentence, and this run has no --chunk;" in run(*command[:-5]).stderr
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == whole[suffix]
    assert sorted(left.name for left in tmp_path.iterdir()) == [path.name, f"{path.name}.state.json"]


def test_standard_output_and_no_limit(model: Path) -> None:
    done = run("encode", "-m", model, "--chunk", "sentence", "--chunk-tokens", "0", "The fox. A dog.", "Bread")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["document"], row["text"]) for row in rows] == [(0, "The fox. "), (0, "A dog."), (1, "Bread")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunk", "sentence", "-o", "v.npy"], "v.npy has no place for where chunks are"),
        (["--overlap", "3"], "--overlap needs --chunk paragraph|sentence|fixed"),
        (["--no-late"], "--late needs --chunk"),
        (["--chunk", "word"], "'word' is not one of 'paragraph', 'sentence', 'fixed'"),
        (["--chunk", "fixed", "--chunk-tokens", "0"], "--chunk fixed needs --chunk-tokens"),
        (
            ["--chunk", "fixed", "--overlap", "256"],
            "--overlap 256 must lie between 0 and 255, less",
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("encode", "-m", model, "A text.", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_last_token_model_says_what_it_can_do(tmp_path: Path) -> None:
    folder = v5_small(tmp_path / "v5")
    command = ("encode", "-m", folder, "--task", "retrieval", "A text. Two.", "--chunk", "sentence")
    done = run(*command, "-o", tmp_path / "v.jsonl")
    assert done.returncode == 1
    assert "takes the last token's state" in done.stderr
    assert not (tmp_path / "v.jsonl.partial").exists()
    assert run(*command, "--no-late").returncode == 0
