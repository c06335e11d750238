"""Conversion at published sizes: random weights, vocabularies of the real length."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

import mlx_jina
from bench import convert as bench
from bench import models
from mlx_jina.choices import GGUFType
from mlx_jina.weights import convert, folder
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, decoder_checkpoints, llama_cpp, reference

pytestmark = pytest.mark.slow

TEXTS = ["How do I bake bread?", "Light travels fast in vacuum. " * 6]
# Lowest cosine to llama.cpp, which rounds activations where weights are quantised; worse with every layer.
BOUNDS = {"F32": 0.99999, "F16": 0.99999, "Q8_0": 0.998, "Q4_0": 0.99, "Q4_K_M": 0.99}
COUNTS = {
    "F32": {"F32": 310},
    "F16": {"F16": 197, "F32": 113},
    "Q8_0": {"Q8_0": 197, "F32": 113},
    "Q4_0": {"Q4_0": 196, "Q6_K": 1, "F32": 113},
    "Q4_K_M": {"Q4_K": 168, "Q6_K": 29, "F32": 113},
}


def _cosine(path: Path) -> float:
    """The lowest between our vectors of a file and llama.cpp's."""
    ids = [row.tolist() for row in gguf_tokenizer.read(GGUF(path))[0].encode(TEXTS)]
    ours = reference.unit(mlx_jina.load(path, dtype="float32").encode(TEXTS, prompt=""))
    return float((ours * llama_cpp.vectors(path, ids)).sum(axis=1).min())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    models.v5_small(folder, 28)
    return folder


@pytest.mark.parametrize("kind", COUNTS)
def test_v5_small(source: Path, tmp_path: Path, kind: GGUFType) -> None:
    path = tmp_path / "m.gguf"
    seconds, memory = bench.converted(str(source), path, kind)
    # Of the processor's time, and the least of three, so that what else runs here matters little.
    opened = float("inf")
    for _ in range(3):
        start = time.process_time()
        file = GGUF(path)
        opened = min(opened, time.process_time() - start)
    print(f"{kind}: {seconds:.1f} s, {memory / 1e6:.0f} MB, opened in {opened:.2f} s")
    assert memory < 1.5e9
    assert opened < 0.3
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 151_936
    assert len(file.metadata["tokenizer.ggml.merges"]) == 151_387
    assert Counter(entry.type.name for entry in file.entries.values()) == COUNTS[kind]
    cosine = _cosine(path)
    print(f"{kind}: lowest cosine to llama.cpp {cosine}")
    assert cosine > BOUNDS[kind]
    path.unlink()


@pytest.mark.parametrize("kind", ["MLX bfloat16", "MLX 8"])
def test_v5_small_as_an_mlx_folder(source: Path, tmp_path: Path, kind: str) -> None:
    seconds, memory = bench.converted(str(source), tmp_path / "mlx", kind)
    print(f"{kind}: {seconds:.1f} s, {memory / 1e6:.0f} MB")
    assert memory < 1.5e9
    assert ("quantization" in folder.read_config(tmp_path / "mlx")) == (kind == "MLX 8")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str | None]]:
    """Checkpoints of the other architectures, each with the task to fuse."""
    place = tmp_path_factory.mktemp("others")
    base = checkpoints.jina_bert_config(
        "original", hidden=768, layers=12, heads=12, intermediate=3072, vocab=30528
    )
    weights = checkpoints.jina_bert_weights("original", base)
    v2 = checkpoints.write_folder(place / "v2", base, weights, checkpoints.wordpiece_tokenizer(30528))
    return {
        "v2-base-en": (v2, None),
        "v5-nano": (
            decoder_checkpoints.v5_nano(place / "nano", decoder_checkpoints.NANO, tasks=["retrieval"]),
            "retrieval",
        ),
        "code-0.5b": (decoder_checkpoints.code(place / "code", decoder_checkpoints.CODE_05B), "nl2code"),
    }


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("model", ["v2-base-en", "v5-nano", "code-0.5b"])
def test_other_architectures(
    others: dict[str, tuple[Path, str | None]], tmp_path: Path, model: str, kind: GGUFType
) -> None:
    source, task = others[model]
    convert.to_gguf(str(source), tmp_path / "m.gguf", task=task, kind=kind)
    cosine = _cosine(tmp_path / "m.gguf")
    print(f"{model} {kind}: lowest cosine to llama.cpp {cosine}")
    assert cosine > BOUNDS[kind]
    (tmp_path / "m.gguf").unlink()
