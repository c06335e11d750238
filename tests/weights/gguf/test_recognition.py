"""Files of llama.cpp's converter: which model they are, and what follows from it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

import mlx_jina
from mlx_jina import catalog
from mlx_jina.cli.app import commands
from mlx_jina.errors import InputError
from mlx_jina.weights import convert
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, decoder_checkpoints, gguf_files

# As wide as the published model, and otherwise tiny.
SMALL = {
    "hidden": 1024,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 32,
    "intermediate": 64,
    "vocab": 512,
}
CODE = {"hidden": 896, "layers": 1, "heads": 14, "kv_heads": 2, "intermediate": 64, "vocab": 512}
OURS = "mlx-jina."
QUERY, DOCUMENT = "how do i bake bread", "light travels fast"


def as_llama_cpp(source: Path, target: Path, **general: Any) -> Path:
    """A .gguf less what only mlx-jina writes, under these keys below general."""
    kept = {
        key: value
        for key, value in GGUF(source).metadata.items()
        if not key.startswith((OURS, "general.name", "general.source", "general.finetune", "general.license"))
    }
    kept |= {f"general.{key.replace('__', '.')}": value for key, value in general.items()}
    return gguf_files.with_metadata(source, target, kept)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """v5-small-retrieval as a folder that says so, and as a .gguf of ours."""
    place = tmp_path_factory.mktemp("small")
    convert.to_mlx(
        str(checkpoints.v5_small(place / "v5-small", SMALL)), place / "v5-small-retrieval", task="retrieval"
    )
    convert.to_gguf(str(place / "v5-small-retrieval"), place / "ours.gguf", kind="F32")
    return place / "v5-small-retrieval", place / "ours.gguf"


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("code")
    source = decoder_checkpoints.code(place / "code-0.5b", CODE)
    convert.to_gguf(str(source), place / "ours.gguf", kind="F32")
    return source, place / "ours.gguf"


NAMES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("m.gguf", {"name": "Jina Embeddings V5 Text Small Retrieval"}, "general.name"),
    ("m.gguf", {"name": "jina-embeddings-v5-text-small", "finetune": "retrieval"}, "general.finetune 'retrieval'"),
    (
        "m.gguf",
        {"name": "x", "source__url": "https://huggingface.co/jinaai/jina-embeddings-v5-text-small-retrieval/"},
        "source.url",
    ),
    (
        "m.gguf",
        {"repo_url": "https://huggingface.co/jinaai/jina-embeddings-v5-text-small-retrieval-GGUF"},
        "repo_url",
    ),
    ("v5-small-retrieval-Q4_K_M.gguf", {}, "the file's name"),
    (
        "jina-embeddings-v5-text-small-retrieval-IQ4_XS.gguf",
        {"name": "78b0ebcb"},
        "the file's name",
    ),
    ("V5_Small_Retrieval-F16.gguf", {}, "the file's name"),
    ("models--jinaai--jina-embeddings-v5-text-small-retrieval-GGUF/snapshots/78b0/m.gguf", {}, "the folder"),
)


@pytest.mark.parametrize(("place", "general", "by"), NAMES)
def test_a_published_file_is_recognised(
    small: tuple[Path, Path], tmp_path: Path, place: str, general: dict[str, Any], by: str
) -> None:
    wanted = mlx_jina.load(small[0])
    path = as_llama_cpp(small[1], tmp_path / place, **general)
    model = mlx_jina.load(path)
    assert model.entry is catalog.find("v5-small-retrieval")
    assert model.prompts == {"query": "Query: ", "document": "Document: "}
    assert model.truncate_dims == (32, 64, 128, 256, 512, 768, 1024)
    assert model.tasks == ("retrieval",)
    assert model.max_length == 32_768
    assert model.fingerprint() == wanted.fingerprint()
    for task in (None, "retrieval"):
        np.testing.assert_allclose(model.encode_query(QUERY, task=task), wanted.encode_query(QUERY), atol=1e-6)
    np.testing.assert_allclose(model.encode(DOCUMENT), wanted.encode_document(DOCUMENT), atol=1e-6)
    assert np.abs(model.encode_query(QUERY) - model.encode_document(QUERY)).max() > 0.01
    assert mlx_jina.load(path, task="retrieval").fingerprint() == wanted.fingerprint()
    assert model.loaded.files.recognised is not None
    assert by in model.loaded.files.recognised.by


def test_info_says_what_was_recognised(small: tuple[Path, Path], tmp_path: Path) -> None:
    path = as_llama_cpp(small[1], tmp_path / "v5-small-retrieval-F32.gguf")
    done = CliRunner().invoke(commands, ["info", str(path)])
    assert (
        "recognised            jinaai/jina-embeddings-v5-text-small-retrieval, by the file's name" in done.output
    )


def test_conversions_keep_what_was_recognised(small: tuple[Path, Path], tmp_path: Path) -> None:
    path = as_llama_cpp(small[1], tmp_path / "v5-small-retrieval-F32.gguf")
    convert.to_mlx(str(path), tmp_path / "elsewhere")
    convert.to_gguf(str(path), tmp_path / "elsewhere.gguf", kind="F32")
    for target in (tmp_path / "elsewhere", tmp_path / "elsewhere.gguf"):
        model = mlx_jina.load(target)
        assert model.prompts == {"query": "Query: ", "document": "Document: "}
        assert model.truncate_dims == (32, 64, 128, 256, 512, 768, 1024)
        assert mlx_jina.load(target, task="retrieval").encode_query(QUERY).shape == (1024,)


def test_code_models_have_their_prompts(code: tuple[Path, Path], tmp_path: Path) -> None:
    path = as_llama_cpp(code[1], tmp_path / "jina-code-embeddings-0.5b-Q8_0.gguf")
    model, wanted = mlx_jina.load(path), mlx_jina.load(code[0])
    assert model.tasks == wanted.tasks
    for task in ("qa", "code2code"):
        np.testing.assert_allclose(
            model.encode_query(QUERY, task=task), wanted.encode_query(QUERY, task=task), atol=1e-6
        )


@pytest.mark.parametrize(
    ("place", "general"),
    [
        ("m.gguf", {"name": "Model"}),
        # Its weights alone answer for none of its tasks.
        ("v5-small.gguf", {}),
        # Names that contradict each other.
        ("v5-small-retrieval.gguf", {"name": "Jina Embeddings V5 Text Small Clustering"}),
        # Another model's name.
        ("v5-nano-retrieval.gguf", {}),
    ],
)
def test_a_file_that_says_too_little(
    small: tuple[Path, Path], tmp_path: Path, place: str, general: dict[str, Any]
) -> None:
    path = as_llama_cpp(small[1], tmp_path / place, **general)
    with pytest.warns(
        UserWarning, match=r"does not say which model it is.*v5-small-retrieval, v5-small-text-mat"
    ) as seen:
        model = mlx_jina.load(path)
    assert len(seen) == 1
    assert model.prompts == {}
    for name in ("v5-small-retrieval", "jinaai/jina-embeddings-v5-text-small-retrieval"):
        told = mlx_jina.load(path, as_model=name)
        wanted = mlx_jina.load(small[0])
        assert told.fingerprint() == wanted.fingerprint()
        np.testing.assert_allclose(told.encode_query(QUERY), wanted.encode_query(QUERY), atol=1e-6)
    convert.to_mlx(str(path), tmp_path / "mlx", as_model="v5-small-retrieval")
    assert mlx_jina.load(tmp_path / "mlx").fingerprint() == wanted.fingerprint()


def test_a_model_of_no_published_shape_is_not_asked_about(tmp_path: Path) -> None:
    source = decoder_checkpoints.code(tmp_path / "source")
    convert.to_gguf(str(source), tmp_path / "ours.gguf", kind="F32")
    path = as_llama_cpp(tmp_path / "ours.gguf", tmp_path / "code-0.5b.gguf", name="Jina Code Embeddings 0.5B")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mlx_jina.load(path).prompts == {}


def test_a_folder_can_be_told_too(small: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / file).write_bytes((small[0] / file).read_bytes())
    config = checkpoints.read_config(folder)
    for key in ("task_names", "gguf"):
        config.pop(key, None)
    checkpoints.write_json(folder / "config.json", config)
    assert mlx_jina.load(folder).prompts == {}
    told = mlx_jina.load(folder, as_model="v5-small-retrieval", task="retrieval")
    np.testing.assert_allclose(told.encode_query(QUERY), mlx_jina.load(small[0]).encode_query(QUERY), atol=1e-6)
    convert.to_gguf(str(folder), tmp_path / "m.gguf", as_model="v5-small-retrieval", kind="F32")
    assert mlx_jina.load(tmp_path / "m.gguf").prompts == told.prompts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-model", "as_model='no-such-model' is no published model; those are pocket"),
        (5, "as_model=5 must be a str or None"),
        ("v5-nano-retrieval", "is qwen3 with 1024 dimensions, but jinaai/.*nano-retrieval is eurobert with 768"),
        ("v5-small", "has no adapters, but .* has one for each task; .*small-retrieval"),
    ],
)
def test_what_a_file_cannot_be(small: tuple[Path, Path], tmp_path: Path, name: Any, words: str) -> None:
    path = as_llama_cpp(small[1], tmp_path / "m.gguf")
    for use in (
        lambda: mlx_jina.load(path, as_model=name),
        lambda: convert.to_mlx(str(path), tmp_path / "x", as_model=name),
    ):
        with pytest.raises(InputError, match=words):
            use()
    assert not (tmp_path / "x").exists()


def test_the_commands_take_it(small: tuple[Path, Path], tmp_path: Path) -> None:
    path = as_llama_cpp(small[1], tmp_path / "m.gguf")
    run = CliRunner().invoke
    done = run(
        commands, ["convert", "to-mlx", str(path), str(tmp_path / "mlx"), "--as-model", "v5-small-retrieval"]
    )
    assert done.exit_code == 0, done.output
    done = run(commands, ["info", str(path), "--as-model", "v5-small-retrieval"])
    assert "recognised            jinaai/jina-embeddings-v5-text-small-retrieval, by as_model" in done.output
    assert mx.load(str(tmp_path / "mlx/model.safetensors"))
