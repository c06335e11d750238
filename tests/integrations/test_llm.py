"""The plugin of the llm command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from tests.support import checkpoints

pytest.importorskip("llm")


@pytest.fixture
def model() -> Any:
    from mlx_jina.integrations.llm import MLXJinaEmbeddingModel

    return MLXJinaEmbeddingModel("pocket", query=False)


def test_vectors(model: Any) -> None:
    texts = ["bread", "a fox"]
    np.testing.assert_array_equal([*model.embed_multi(texts)], mlx_jina.load("pocket").encode(texts))


def test_cut_texts_are_told_in_words_for_llms_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No line of our source, and no option that llm cannot pass."""
    from mlx_jina.integrations.llm import MLXJinaEmbeddingModel

    folder = checkpoints.tiny_jina_bert(tmp_path / "tiny")
    limits = dict.fromkeys(("max_position_embeddings", "model_max_length"), 64)
    checkpoints.write_json(folder / "config.json", checkpoints.read_config(folder) | limits)
    model = MLXJinaEmbeddingModel(str(folder), query=False)
    assert len([*model.embed_multi(["a fox", "bread " * 100])]) == 2
    assert capsys.readouterr().err == "Warning: 1 of the texts had more than 64 tokens, and were cut.\n"


def test_the_plugin_costs_llm_nothing() -> None:
    """It is imported by each call of llm, also by those that embed nothing."""
    code = """
import sys, llm
before = {*sys.modules}
import mlx_jina.integrations.llm
print(*sorted({name.partition(".")[0] for name in {*sys.modules} - before} - sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mlx_jina"]
