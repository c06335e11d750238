"""Files of every type: our forward pass against float64 over what the gguf package decodes, and llama.cpp."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, quants

import mlx_jina
from mlx_jina.choices import GGUFType
from mlx_jina.errors import InputError
from mlx_jina.weights import convert
from mlx_jina.weights.gguf import architectures, names
from mlx_jina.weights.gguf import reader as gguf_reader
from mlx_jina.weights.gguf import types as gguf_types
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, decoder_checkpoints, llama_cpp, reference
from tests.support.tolerance import bound

TEXTS = ["how do i bake bread", "the quick brown fox jumps over the lazy dog " * 3, "light"]
# Rows of whole blocks of 256.
WIDE = {**checkpoints.V5_TINY, "layers": 2, "hidden": 256, "head_dim": 64, "intermediate": 512}
NANO_WIDE = {**decoder_checkpoints.NANO_TINY, "layers": 2, "hidden": 256, "heads": 4, "intermediate": 512}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each checkpoint is made once."""
    return tmp_path_factory.mktemp("sources")


def _source(shelf: Path, model: str) -> tuple[Path, str | None]:
    """A checkpoint, and the task to fuse."""
    path, task = shelf / model, "retrieval" if model in ("qwen3", "eurobert") else None
    if not path.exists():
        if model == "qwen3":
            checkpoints.v5_small(path, WIDE, tasks=["retrieval"])
        elif model == "eurobert":
            decoder_checkpoints.v5_nano(path, NANO_WIDE, tasks=["retrieval"])
        else:
            checkpoints.tiny_jina_bert(path, model, heads=16)
    return path, task


def _dequantized(path: Path, source: Path, config: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """A file's weights in float64 under the names of the folder that it was made from, by the gguf package."""
    theirs = {
        tensor.name: quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in GGUFReader(path).tensors
    }
    ours = checkpoints.read_tensors(source)
    pieces = names.to_gguf(source, architectures.of_config(config), ours)
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for name, piece in sorted(pieces.items(), key=lambda item: item[1].index):
        parts.setdefault(piece.name, []).append(theirs[name])
    return {name: np.concatenate(rows).reshape(ours[name].shape) for name, rows in parts.items()}


def _vectors(path: Path, source: Path, model: str) -> npt.NDArray[Any]:
    config = checkpoints.read_config(source)
    weights = _dequantized(path, source, config)
    ids = gguf_reader.read(path).tokenizer.encode(TEXTS)
    if model in ("qwen3", "eurobert"):
        config = {**config, "head_dim": 64}
        states = [reference.qwen3(weights, config, row, causal=model == "qwen3")[-1] for row in ids]
    else:
        states = [reference.jina_bert(weights, config, model, row).mean(axis=0) for row in ids]
    return reference.unit(np.stack(states))


EVERY = [("qwen3", kind) for kind in gguf_types.FILE_TYPES]
OTHERS = [("eurobert", "Q4_0"), *((model, "Q5_K_M") for model in ("eurobert", *checkpoints.LAYOUTS))]


@pytest.mark.parametrize(("model", "kind"), EVERY + OTHERS)
def test_our_vectors_are_those_of_the_decoded_weights(
    tmp_path: Path, shelf: Path, model: str, kind: GGUFType
) -> None:
    source, task = _source(shelf, model)
    convert.to_gguf(str(source), tmp_path / "m.gguf", task=task, kind=kind)
    assert gguf_types.FILE_TYPES[kind] in {entry.type for entry in GGUF(tmp_path / "m.gguf").entries.values()}
    ours = mlx_jina.load(tmp_path / "m.gguf", dtype="float32").encode(TEXTS, prompt="")
    assert abs(ours - _vectors(tmp_path / "m.gguf", source, model)).max() < bound(1e-6)


@pytest.mark.parametrize("kind", [Type.TQ1_0, Type.TQ2_0])
def test_types_for_ternary_weights_are_only_read(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch, kind: Type
) -> None:
    with pytest.raises(InputError, match=f"type '{kind.name}' is not one of"):
        gguf_types.check(kind.name)
    monkeypatch.setitem(gguf_types.FILE_TYPES, kind.name, kind)
    name: Any = kind.name
    test_our_vectors_are_those_of_the_decoded_weights(tmp_path, shelf, "qwen3", name)


# llama.cpp rounds activations as well, the more so the fewer bits its kernels expect.
LLAMA = {"Q4_K_M": 3e-3, "IQ4_XS": 5e-3, "Q3_K_M": 5e-3, "IQ3_S": 5e-3, "Q2_K": 5e-3}


@pytest.mark.parametrize("kind", LLAMA)
def test_llama_cpp_reads_our_blocks(tmp_path: Path, shelf: Path, kind: GGUFType) -> None:
    source, task = _source(shelf, "qwen3")
    convert.to_gguf(str(source), tmp_path / "m.gguf", task=task, kind=kind)
    ids = [row.tolist() for row in gguf_reader.read(tmp_path / "m.gguf").tokenizer.encode(TEXTS)]
    cosines = (llama_cpp.vectors(tmp_path / "m.gguf", ids) * _vectors(tmp_path / "m.gguf", source, "qwen3")).sum(
        axis=1
    )
    assert 1 - cosines.min() < LLAMA[kind]


MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


# Counts of files that llama-quantize made of Qwen3-0.6B (28 layers) and of v2-small (4).
@pytest.mark.parametrize(
    ("file_type", "layers", "counts"),
    [
        ("Q4_K_M", 28, {"Q4_K": 168, "Q6_K": 29}),
        ("Q4_K_M", 4, {"Q4_K": 24, "Q6_K": 5}),
        ("Q2_K", 4, {"Q2_K": 16, "Q3_K": 12, "Q6_K": 1}),
        # By its rules.
        ("Q3_K_M", 28, {"Q3_K": 112, "Q4_K": 81, "Q5_K": 3, "Q6_K": 1}),
        ("Q3_K_L", 28, {"Q3_K": 112, "Q5_K": 84, "Q6_K": 1}),
        ("Q3_K_S", 28, {"Q3_K": 196, "Q6_K": 1}),
        ("Q4_K_S", 28, {"Q4_K": 189, "Q5_K": 7, "Q6_K": 1}),
        ("IQ4_XS", 28, {"IQ4_XS": 193, "Q5_K": 3, "Q6_K": 1}),
        ("IQ3_M", 28, {"IQ3_S": 137, "Q4_K": 59, "Q6_K": 1}),
        ("Q4_0", 28, {"Q4_0": 196, "Q6_K": 1}),
        ("Q8_0", 28, {"Q8_0": 197}),
    ],
)
def test_types_are_mixed_as_by_llama_quantize(file_type: str, layers: int, counts: dict[str, int]) -> None:
    tensors = ["token_embd.weight", *(f"blk.{i}.{m}.weight" for i in range(layers) for m in MATRICES)]
    assert Counter(gguf_types.choose(name, (256, 256), file_type, layers).name for name in tensors) == counts


def test_many_heads_on_few_keys_spare_the_values() -> None:
    for file_type, kind in (("Q2_K", "Q4_K"), ("IQ4_NL", "Q5_K"), ("IQ3_S", "Q4_K"), ("Q4_0", "Q4_0")):
        assert gguf_types.choose("blk.9.attn_v.weight", (256, 256), file_type, 28, 7).name == kind
        assert (
            gguf_types.choose("blk.9.attn_q.weight", (256, 256), file_type, 28, 7)
            == gguf_types.FILE_TYPES[file_type]
        )


def test_types_that_do_not_fit_a_row_give_way() -> None:
    for file_type, kind in (("Q4_K_M", "Q5_0"), ("Q2_K", "Q4_0"), ("IQ3_S", "IQ4_NL")):
        assert gguf_types.choose("blk.0.attn_q.weight", (8, 96), file_type, 4).name == kind
    assert gguf_types.choose("token_embd.weight", (8, 96), "Q4_0", 4) == Type.Q8_0
    assert gguf_types.choose("blk.0.attn_q.weight", (8, 40), "Q8_0", 4) == Type.F16
    assert gguf_types.choose("token_types.weight", (2, 96), "F16", 4) == Type.F32


def test_what_needs_calibration_says_so() -> None:
    for name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"):
        with pytest.raises(InputError, match="importance matrix"):
            gguf_types.check(name.lower())
    assert not any(llama_cpp.requires_imatrix(kind) for kind in gguf_types.FILE_TYPES.values())
