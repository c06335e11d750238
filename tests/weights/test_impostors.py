"""What lies in the place of a file, or beside it: named, with what to do, and nothing is read without bound."""

from __future__ import annotations

import gzip
import resource
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

import mlx_jina
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import convert, json_file
from mlx_jina.weights.gguf.describe import describe
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, gguf_files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
CONTENT = {
    "pointer": (POINTER, "is a git-lfs pointer and not the file itself; run `git lfs pull`"),
    "page": (PAGE, "is an HTML page and not the file itself"),
    "gzip": (gzip.compress(b"{}" * 99), "is compressed by gzip"),
    "torch": (b"PK\x03\x04" + bytes(99), "torch's own format"),
}
FILES = ("model.safetensors", "config.json", "tokenizer.json", "modules.json", "config_sentence_transformers.json")


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("name", FILES)
def test_something_else_than_the_file(bert: Path, tmp_path: Path, name: str, kind: str) -> None:
    content, words = CONTENT[kind]
    (bert / name).write_bytes(content)
    for use in (mlx_jina.load, lambda path: convert.to_mlx(str(path), tmp_path / "x")):
        with pytest.raises(CheckpointError, match=words) as caught:
            use(bert)
        assert str(bert / name) in str(caught.value)


@pytest.mark.parametrize("kind", CONTENT)
def test_something_else_than_a_gguf(tmp_path: Path, kind: str) -> None:
    content, words = CONTENT[kind]
    (tmp_path / "m.gguf").write_bytes(content)
    for path in (tmp_path / "m.gguf", tmp_path):
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(path)


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_something_else_than_an_adapter(small: Path, name: str, kind: str) -> None:
    content, words = CONTENT[kind]
    (small / "adapters/retrieval" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        mlx_jina.load(small)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_other_encodings_of_json(bert: Path, name: str) -> None:
    plain = mlx_jina.load(bert).encode("a fox")
    content = (bert / name).read_text(encoding="utf-8")
    (bert / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    np.testing.assert_array_equal(mlx_jina.load(bert).encode("a fox"), plain)
    for encoding in ("utf-16", "utf-16-be"):
        mark = b"" if encoding == "utf-16" else b"\xfe\xff"
        (bert / name).write_bytes(mark + content.encode(encoding))
        with pytest.raises(CheckpointError, match="is UTF-16 text; write it again as UTF-8"):
            mlx_jina.load(bert)


@pytest.mark.parametrize(
    ("present", "missing", "words"),
    [
        (
            "pytorch_model.bin",
            "model.safetensors",
            "torch's own format, .* writes safetensors",
        ),
        ("vocab.txt", "tokenizer.json", "transformers makes a tokenizer.json of it"),
        ("sentencepiece.bpe.model", "tokenizer.json", "transformers makes a tokenizer.json of it"),
    ],
)
def test_what_would_be_needed_first(bert: Path, present: str, missing: str, words: str) -> None:
    (bert / missing).unlink()
    (bert / present).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"lacks {missing} .*{words}"):
        mlx_jina.load(bert)


def test_a_blob_that_is_gone_from_the_cache(bert: Path) -> None:
    (bert / "model.safetensors").unlink()
    (bert / "model.safetensors").symlink_to("../../blobs/4d7a")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors is a link to \.\./\.\./blobs/4d7a, which is gone"
    ):
        mlx_jina.load(bert)


def test_a_folder_of_many_files_is_not_listed_whole(bert: Path) -> None:
    (bert / "tokenizer.json").unlink()
    for number in range(500):
        (bert / f"note-{number}.md").touch()
    with pytest.raises(CheckpointError) as caught:
        mlx_jina.load(bert)
    assert len(str(caught.value)) < 1000
    assert "and 492 more" in str(caught.value)


# ---- what macOS leaves on other disks

APPLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(4080)


def test_apple_doubles_are_no_files_of_a_model(small: Path, tmp_path: Path) -> None:
    wanted = mlx_jina.load(small).encode("a fox", task="retrieval")
    ggufs = tmp_path / "ggufs"
    ggufs.mkdir()
    convert.to_gguf(str(small), ggufs / "m.gguf", kind="F32")
    for folder in (small, ggufs):
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            path.with_name(f"._{path.name}").write_bytes(APPLE)
    (small / "adapters/._retrieval").mkdir()
    for path in (small, ggufs, ggufs / "m.gguf"):
        np.testing.assert_allclose(mlx_jina.load(path).encode("a fox", task="retrieval"), wanted, atol=1e-6)
    convert.to_mlx(str(small), tmp_path / "mlx")
    for name in ("config.json", "model.safetensors", "adapters"):
        (tmp_path / "mlx" / f"._{name}").write_bytes(APPLE)
    (tmp_path / "mlx/.DS_Store").touch()
    convert.to_mlx(str(small), tmp_path / "mlx", force=True)
    assert not list((tmp_path / "mlx").glob("._*"))


def test_adapters_without_a_list_of_tasks(small: Path) -> None:
    config = checkpoints.read_config(small)
    del config["task_names"]
    checkpoints.write_json(small / "config.json", config)
    shutil.copytree(small / "adapters/retrieval", small / "adapters/.retrieval")
    assert set(mlx_jina.load(small).tasks) == set(checkpoints.V5_TASKS)


# ---- sizes


def _grown(before: int) -> float:
    """Megabytes that this process's peak has grown by."""
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json"])
def test_json_without_end(bert: Path, name: str) -> None:
    mlx_jina.load(bert)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (bert / name).open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(CheckpointError, match="has 10737 MB, which"):
        mlx_jina.load(bert)
    assert _grown(before) < 100
    assert json_file.LIMIT == 64 << 20


def test_a_safetensors_header_without_end(bert: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (bert / "model.safetensors").open("wb") as file:
        file.write((40 << 30).to_bytes(8, "little"))
        file.truncate(41 << 30)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        mlx_jina.load(bert)
    assert _grown(before) < 100


def test_an_array_without_end(tmp_path: Path) -> None:
    path, count = tmp_path / "m.gguf", 25_000_000
    key = b"tokenizer.ggml.token_type"
    header = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + struct.pack("<IIQ", 9, 5, count)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = GGUF(path)
    assert len(opened.metadata[key.decode()]) == count
    with pytest.raises(CheckpointError, match="has 25000000 numbers, more than any model's"):
        opened.get(key.decode(), list)
    assert ("tokenizer.ggml.token_type", "25000000 x int32") in list(describe(path))
    assert _grown(before) < 150


def test_a_split_gguf(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="F32")
    split = {"split.no": 0, "split.count": 3, "split.tensors.count": 99}
    gguf_files.with_metadata(
        tmp_path / "m.gguf", tmp_path / "p.gguf", {**GGUF(tmp_path / "m.gguf").metadata, **split}
    )
    with pytest.raises(CheckpointError, match=r"is one of 3 parts of a model; .*llama-gguf-split --merge"):
        mlx_jina.load(tmp_path / "p.gguf")
