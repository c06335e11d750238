"""Conversion at the real size of jina-embeddings-v5-text-small: random weights, a vocabulary like Qwen's."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import mlx_jina
from bench import convert as bench
from bench import v5_shape
from mlx_jina.weights import gguf_tokenizer
from mlx_jina.weights.gguf_file import GGUF
from tests.weights import llama_cpp

pytestmark = pytest.mark.slow

TYPES = {"F16": {"F16": 197, "F32": 113}, "Q4_K_M": {"Q4_K": 168, "Q6_K": 29, "F32": 113}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v5_shape.random_model(tmp_path_factory.mktemp("real") / "model")


@pytest.mark.parametrize("kind", TYPES)
def test_memory_open_time_and_vectors(source: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.gguf"
    seconds, memory = bench.converted(str(source), path, kind)
    start = time.perf_counter()
    file = GGUF(path)
    opened = time.perf_counter() - start
    print(f"{kind}: {seconds:.1f} s, {memory / 1e6:.0f} MB, opened in {opened:.2f} s")
    assert memory < 1.5e9
    assert opened < 0.3
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 151_936
    assert len(file.metadata["tokenizer.ggml.merges"]) == 151_387
    assert Counter(entry.type.name for entry in file.entries.values()) == TYPES[kind]
    texts = ["How do I bake bread?", "Light travels fast in vacuum. " * 6]
    ids = [row.tolist() for row in gguf_tokenizer.read(file)[0].encode(texts)]
    ours = mlx_jina.load(path, dtype="float32").encode(texts, prompt="").astype(np.float64)
    cosines = (ours * llama_cpp.vectors(path, ids)).sum(axis=1)
    print(f"{kind}: cosines to llama.cpp {cosines}")
    assert cosines.min() > {"F16": 0.99999, "Q4_K_M": 0.99}[kind]
