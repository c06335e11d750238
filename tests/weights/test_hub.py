"""Names to files: the real hub client against a local hub, and a filled cache with sockets forbidden."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import ModelNotFoundError
from tests.support import checkpoints, hub_server

SMALL = "jinaai/jina-embeddings-v2-small-en"

LOAD = """
import sys, numpy as np, mlx_jina
try:
    model = mlx_jina.load(sys.argv[1], local_files_only=len(sys.argv) > 3)
except mlx_jina.MlxJinaError as error:
    sys.exit(f"{type(error).__name__}: {error}")
np.save(sys.argv[2], model.encode(["the quick brown fox", "paris"]))
"""

NO_SOCKETS = """
import sys
def forbid(event, arguments):
    if event in ("socket.__new__", "socket.connect", "socket.getaddrinfo"):
        raise AssertionError(f"the network was touched: {event}")
sys.addaudithook(forbid)
"""


def run(code: str, *arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own: the hub client reads its settings at import."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A v2 repository as published: with copies in other formats, and code that must never run."""
    folder = checkpoints.tiny_jina_bert(tmp_path / "repository")
    config = checkpoints.read_config(folder)
    config["auto_map"] = {"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"}
    checkpoints.write_json(folder / "config.json", config)
    for extra in ("onnx/model.onnx", "pytorch_model.bin", "vocab.txt", "1_Pooling/config.json", "README.md"):
        checkpoints.write_json(folder / extra, {})
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    model = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    checkpoints.write_json(folder / "modules.json", [model, pooling])
    (folder / "modeling_bert.py").write_text("raise SystemExit('remote code was executed')", encoding="utf-8")
    return folder


def test_files_that_say_how_vectors_are_made_are_fetched(repository: Path, tmp_path: Path) -> None:
    checkpoints.write_json(repository / "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    with hub_server.serve({SMALL: repository}) as (endpoint, _):
        done = run(LOAD, SMALL, str(tmp_path / "x.npy"), home=tmp_path / "hf", HF_ENDPOINT=endpoint)
    assert "asks for 'pooling_mode_cls_token' pooling" in done.stderr
    # A snapshot that another program fetched in part is not taken for whole.
    next((tmp_path / "hf").rglob("snapshots/*/1_Pooling/config.json")).unlink()
    done = run(NO_SOCKETS + LOAD, SMALL, str(tmp_path / "x.npy"), home=tmp_path / "hf", HF_HUB_OFFLINE="1")
    assert "is not in the cache" in done.stderr


def test_download_then_no_network_at_all(repository: Path, tmp_path: Path) -> None:
    with hub_server.serve({SMALL: repository}) as (endpoint, fetched):
        first = run(LOAD, "v2-small-en", str(tmp_path / "first.npy"), home=tmp_path / "hf", HF_ENDPOINT=endpoint)
    assert first.returncode == 0, first.stderr
    assert f"Downloading {SMALL} from the Hugging Face hub (licence apache-2.0)" in first.stderr
    needed = ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json"]
    assert sorted(fetched) == needed
    again = run(NO_SOCKETS + LOAD, SMALL, str(tmp_path / "again.npy"), home=tmp_path / "hf")
    assert again.returncode == 0, again.stderr
    expected = mlx_jina.load(repository).encode(["the quick brown fox", "paris"])
    for name in ("first.npy", "again.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name), expected)


def test_an_interrupted_download_is_completed(repository: Path, tmp_path: Path) -> None:
    with hub_server.serve({SMALL: repository}) as (endpoint, _):
        run(LOAD, SMALL, str(tmp_path / "a.npy"), home=tmp_path / "hf", HF_ENDPOINT=endpoint)
        (weights,) = (tmp_path / "hf").rglob("model.safetensors")
        weights.unlink()
        offline = run(LOAD, SMALL, str(tmp_path / "b.npy"), "local", home=tmp_path / "hf", HF_ENDPOINT=endpoint)
        assert offline.stderr.startswith(f"ModelNotFoundError: {SMALL!r} is not in the cache at ")
        online = run(LOAD, SMALL, str(tmp_path / "b.npy"), home=tmp_path / "hf", HF_ENDPOINT=endpoint)
    assert online.returncode == 0, online.stderr


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_with_nothing_cached(tmp_path: Path, how: str) -> None:
    arguments = ["v2-small-en", str(tmp_path / "x.npy")] + (["local"] if how == "argument" else [])
    environment = {"HF_HUB_OFFLINE": "1"} if how == "environment" else {}
    result = run(NO_SOCKETS + LOAD, *arguments, home=tmp_path, **environment)
    assert result.returncode == 1
    for part in (SMALL, str(tmp_path / "hub"), "'pocket'"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_of_vectors_is_no_remedy_for_a_reranker(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Run once with the network on$"):
        mlx_jina.load_reranker("bge-reranker-v2-m3", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize(
    ("endpoint", "message"), [("http://127.0.0.1:9", "Check the network"), (None, "does not exist")]
)
def test_a_failed_download_says_why(tmp_path: Path, endpoint: str | None, message: str) -> None:
    with hub_server.serve({}) as (empty_hub, _):
        result = run(LOAD, SMALL, "x.npy", home=tmp_path, HF_ENDPOINT=endpoint or empty_hub)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("cut", [0, pytest.param(50_000, marks=pytest.mark.slow)])
def test_a_connection_that_breaks_is_no_traceback(tmp_path: Path, repository: Path, cut: int) -> None:
    with hub_server.serve({SMALL: repository}, cut) as (endpoint, _):
        result = run(LOAD, SMALL, "x.npy", home=tmp_path / "home", HF_ENDPOINT=endpoint)
    assert "ModelNotFoundError: 'jinaai/jina-embeddings-v2-small-en' is not in the cache" in result.stderr
    assert "could not be downloaded" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_cannot_be_right_is_said_before_the_download(tmp_path: Path, repository: Path) -> None:
    load = "import mlx_jina; mlx_jina.load('v2-small-en', {})"
    with hub_server.serve({SMALL: repository}) as (endpoint, fetched):
        for wrong, words in (("task='retreival'", "'retreival' is unknown"), ("dtype='fp16'", "not one of")):
            result = run(load.format(wrong), home=tmp_path / "home", HF_ENDPOINT=endpoint)
            assert words in result.stderr.splitlines()[-1]
    assert fetched == []


def test_sharded_checkpoints_load(tmp_path: Path) -> None:
    whole = checkpoints.tiny_jina_bert(tmp_path / "whole")
    sharded = checkpoints.tiny_jina_bert(tmp_path / "sharded")
    tensors = checkpoints.read_tensors(sharded)
    mx.eval(tensors)
    (sharded / "model.safetensors").unlink()
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(weight_map.values()):
        part = {name: tensors[name] for name in tensors if weight_map[name] == shard}
        mx.save_safetensors(str(sharded / shard), part)
    checkpoints.write_json(sharded / "model.safetensors.index.json", {"weight_map": weight_map})
    assert mlx_jina.load(sharded).fingerprint() == mlx_jina.load(whole).fingerprint()
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(mlx_jina.CheckpointError, match=r"lacks model-00002-of-00002\.safetensors"):
        mlx_jina.load(sharded)


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"'v9-huge' is neither.*v2-small-en"):
        mlx_jina.load("v9-huge")
    with pytest.raises(ModelNotFoundError, match=r"'v9-huge' is neither.* model \(jina-reranker-v1-tiny-en, "):
        mlx_jina.load_reranker("v9-huge")
    with pytest.raises(ModelNotFoundError, match=r"'v9-huge' is neither.* model \(v4, colbert-v2, "):
        mlx_jina.load_multi_vector("v9-huge")
    for wrong, right in (
        ("pockt", "pocket"),
        ("V5smal", "v5-small"),
        ("bge-reranker-v2", "bge-reranker-v2-m3"),
    ):
        with pytest.raises(ModelNotFoundError, match=f"did you mean '{right}"):
            mlx_jina.load(wrong)
    for wrong in ("models/", "my folder/model", "data/run--2"):
        with pytest.raises(ModelNotFoundError, match=f"'{wrong}' is neither a folder, nor a Hugging Face id"):
            mlx_jina.load(wrong)
    with pytest.raises(mlx_jina.CheckpointError, match=r"lacks config\.json, tokenizer\.json, model\.safetensors"):
        mlx_jina.load(tmp_path)
    # A home that nobody has, a name that no file system takes, a folder by no name, a device.
    with pytest.raises(ModelNotFoundError, match="'~nobody-here/model' is neither a folder"):
        mlx_jina.load("~nobody-here/model")
    with pytest.raises(ModelNotFoundError, match=r"'a/b{60,}\.\.\. is neither a folder"):
        mlx_jina.load("a/" + "b" * 5000)
    with pytest.raises(ModelNotFoundError, match="the name of the model is empty"):
        mlx_jina.load("")
    with pytest.raises(ModelNotFoundError, match="/dev/null is neither a folder nor a file"):
        mlx_jina.load("/dev/null")


def test_a_folder_that_is_called_like_a_known_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    third = mlx_jina.load(repository.rename(tmp_path / "v3"))
    assert third.entry is None
    assert third.truncate_dims == ()
    # Results of v5-small, say, are not v5-small.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v5-small").mkdir()
    with pytest.raises(ModelNotFoundError, match="downloads are off"):
        mlx_jina.load("v5-small", local_files_only=True, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "config.json is not valid JSON"),
        ("config.json", b"[]", "should hold a JSON object"),
        ("tokenizer.json", b"{}", "is not a tokenizer that can be read"),
        ("model.safetensors", b"nonsense", "cannot be read as safetensors"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    checkpoints.tiny_jina_bert(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(mlx_jina.CheckpointError, match=message):
        mlx_jina.load(tmp_path)


def test_quantised_mlx_folders_load(tmp_path: Path) -> None:
    """The 8-bit layout that mlx-lm writes, dequantised on a CPU and kept packed on a GPU."""
    # Wider than a group, as every published model is: for one group MLX has a kernel of its own on some cards.
    folder = checkpoints.tiny_jina_bert(tmp_path, heads=8)
    full = mlx_jina.load(folder).encode(["the quick brown fox", "paris"])
    tensors: dict[str, mx.array] = {}
    for name, value in checkpoints.read_tensors(folder).items():
        if value.ndim == 2 and value.shape[-1] % 64 == 0 and "token_type" not in name:
            layer = name.removesuffix(".weight")
            packed = mx.quantize(value, group_size=64, bits=8)
            tensors |= dict(zip((name, f"{layer}.scales", f"{layer}.biases"), packed, strict=True))
        else:
            tensors[name] = value
    mx.eval(tensors)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    config = checkpoints.read_config(folder) | {"quantization": {"group_size": 64, "bits": 8}}
    checkpoints.write_json(folder / "config.json", config)
    got = mlx_jina.load(folder).encode(["the quick brown fox", "paris"])
    assert (got * full).sum(axis=1).min() > 0.999
