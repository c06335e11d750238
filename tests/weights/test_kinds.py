"""`load` refuses what would be loaded as an encoder and is none, and says which function opens it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import mlx_jina
from mlx_jina import catalog
from mlx_jina.errors import CheckpointError
from mlx_jina.weights.open import open_source
from tests.support import checkpoints, colbert_checkpoints, decoder_checkpoints, reranker_checkpoints

OPENS = r"mlx_jina\.load_reranker opens it"


@pytest.mark.parametrize("make", [reranker_checkpoints.v1, reranker_checkpoints.v2, reranker_checkpoints.bge])
def test_rerankers_are_no_encoders(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path / "model")
    with pytest.raises(CheckpointError, match=f"is a reranker \\(config.json has the architecture .*{OPENS}"):
        mlx_jina.load(folder)
    assert open_source(str(folder)).kind == "reranker"
    for options in ({"task": "retrieval"}, {"as_model": "v5-small-retrieval"}):
        with pytest.raises(CheckpointError, match=OPENS):
            open_source(str(folder), **options)


def merged_qwen(folder: Path) -> Path:
    """A plain Qwen3, as Qwen3-Reranker and Qwen3-Embedding are."""
    config = {**checkpoints.v5_small_config(**checkpoints.V5_TINY), "model_type": "qwen3"}
    del config["task_names"], config["auto_map"]
    config["architectures"] = ["Qwen3ForCausalLM"]
    weights = {f"model.{name}": x for name, x in checkpoints.v5_small_weights(config).items()}
    return checkpoints.write_folder(folder, config, weights, checkpoints.qwen_tokenizer())


def test_qwen3_reranker_by_its_name_or_its_card(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"is called .*Qwen3-Reranker-0.6B.*{OPENS}"):
        mlx_jina.load(merged_qwen(tmp_path / "Qwen3-Reranker-0.6B"))
    folder = merged_qwen(tmp_path / "renamed")
    assert mlx_jina.load(folder).architecture == "qwen3"
    (folder / "README.md").write_text("---\npipeline_tag: text-ranking\n---\n# Model\n")
    with pytest.raises(CheckpointError, match=f"README.md says 'pipeline_tag: text-ranking'.*{OPENS}"):
        mlx_jina.load(folder)
    (folder / "README.md").write_text("# Qwen3-Reranker-0.6B\n")
    with pytest.raises(CheckpointError, match=OPENS):
        mlx_jina.load(folder)
    (folder / "README.md").write_text("# Qwen3-Embedding\nBest with a reranker.\n## Rerank\n")
    assert mlx_jina.load(folder).architecture == "qwen3"


def test_colbert_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"late-interaction.*mlx_jina\.load_multi_vector opens it"):
        mlx_jina.load_reranker("jina-colbert-v2")
    with pytest.raises(CheckpointError):
        mlx_jina.load_reranker(colbert_checkpoints.v2(tmp_path / "model"))


@pytest.mark.parametrize("entry", catalog.RERANKERS, ids=lambda entry: entry.repo)
def test_names_are_refused_before_a_download(entry: catalog.Entry) -> None:
    for name in (entry.repo, *entry.aliases):
        with pytest.raises(CheckpointError, match=f"{entry.repo} is a reranker: {OPENS}"):
            mlx_jina.load(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jinaai/jina-reranker-v3.5", "sliding-window"),
        ("jinaai/jina-reranker-m0", "images"),
        ("jinaai/jina-reranker-v3-GGUF", "download one .gguf and projector.safetensors"),
    ],
)
def test_rerankers_that_do_not_run_here(name: str, words: str) -> None:
    for load in (mlx_jina.load, mlx_jina.load_reranker):
        with pytest.raises(CheckpointError, match=words):
            load(name)


def test_a_listwise_folder_is_refused(tmp_path: Path) -> None:
    folder = merged_qwen(tmp_path / "model")
    config = checkpoints.read_config(folder) | {"architectures": ["JinaForRanking"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="JinaForRanking"):
        mlx_jina.load(folder)
    with pytest.raises(CheckpointError, match="lacks projector"):
        mlx_jina.load_reranker(folder)


def test_encoders_still_open(tmp_path: Path) -> None:
    assert mlx_jina.load(decoder_checkpoints.code(tmp_path / "code")).architecture == "qwen2"
