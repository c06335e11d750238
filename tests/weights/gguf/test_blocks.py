"""Blocks: packed without rounding, made within their types' error, and run packed as on a GPU."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, quants
from gguf import GGMLQuantizationType as Type

import mlx_jina
from mlx_jina import device
from mlx_jina.choices import GGUFType
from mlx_jina.weights import checkpoint, convert
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf import iquants as gguf_iquants
from mlx_jina.weights.gguf import kquants as gguf_kquants
from mlx_jina.weights.gguf import reader as gguf_reader
from tests.support import checkpoints, llama_cpp
from tests.support.tolerance import bound

K_TYPES = (Type.Q4_K, Type.Q5_K, Type.Q6_K)
RNG = np.random.default_rng(0)


def _blocks(kind: Type, rows: int, columns: int) -> np.ndarray:
    """Random bytes as blocks, with sane halves where a type has them."""
    if kind not in K_TYPES:
        return quants.quantize(RNG.normal(0, 1, (rows, columns)).astype(np.float32), kind)
    block, size = GGML_QUANT_SIZES[kind]
    raw = RNG.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    halves = RNG.uniform(-0.1, 0.1, (len(raw), 2)).astype(np.float16).view(np.uint8)
    if kind is Type.Q6_K:
        raw[:, -2:] = halves[:, :2]
    else:
        raw[:, :4] = halves
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", sorted(gguf_blocks.REPACKABLE, key=str))
def test_repacked_blocks_hold_exactly_the_same_values(kind: Type) -> None:
    raw = _blocks(kind, 6, 512)
    packed = gguf_blocks.repack(raw, kind, 512)
    scales, biases = (mx.array(part).astype(mx.float32) for part in (packed.scales, packed.biases))
    values = mx.dequantize(mx.array(packed.weight), scales, biases, 32, packed.bits)
    np.testing.assert_array_equal(np.array(values), quants.dequantize(raw, kind))


UNREADABLE = ("Q8_1", "Q8_K", "Q1_0", "Q2_0", "F64", "I8", "I16", "I32", "I64")
READABLE = [kind for kind in Type if kind.name not in UNREADABLE]


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: str(kind.name))
def test_every_type_that_the_gguf_package_decodes_is_read(kind: Type) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    raw = RNG.integers(0, 120, (3, 512 // block * size), dtype=np.uint8)
    ours = np.array(gguf_blocks.dequantize(raw, kind, (3, 512)).astype(mx.float32))
    np.testing.assert_array_equal(ours, quants.dequantize(raw, kind).astype(np.float32))


def test_blocks_larger_than_a_piece_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _blocks(Type.Q4_K, 7, 512)
    whole = np.array(gguf_blocks.dequantize(raw, Type.Q4_K, (7, 512)))
    packed = gguf_blocks.repack(raw, Type.Q4_K, 512)
    monkeypatch.setattr(gguf_blocks, "PIECE", 1024)
    np.testing.assert_array_equal(np.array(gguf_blocks.dequantize(raw, Type.Q4_K, (7, 512))), whole)
    for one, other in zip(gguf_blocks.repack(raw, Type.Q4_K, 512), packed, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", gguf_iquants.TYPES + gguf_kquants.TYPES)
def test_blocks_made_in_threads_are_the_same(monkeypatch: pytest.MonkeyPatch, kind: Type) -> None:
    weights = mx.array(RNG.normal(0, 1, (7, 512)).astype(np.float32))
    whole = gguf_blocks.quantize(weights, kind)
    monkeypatch.setattr(gguf_kquants, "_PIECE", 256)
    monkeypatch.setattr(gguf_kquants, "_THREADS", 4)
    np.testing.assert_array_equal(gguf_blocks.quantize(weights, kind), whole)


@pytest.mark.parametrize("kind", gguf_iquants.TYPES + gguf_kquants.TYPES)
def test_our_own_blocks_lose_no_more_than_ggml_s(kind: Type) -> None:
    normal = RNG.normal(0, 1, (64, 1024)).astype(np.float32)
    heavy = RNG.standard_t(4, (64, 1024)).astype(np.float32)
    for weights in (normal, heavy):
        ours, theirs = gguf_blocks.quantize(mx.array(weights), kind), llama_cpp.quantize(weights, kind)
        assert ours.shape == theirs.shape
        error, bound = (np.sqrt(np.mean((quants.dequantize(raw, kind) - weights) ** 2)) for raw in (ours, theirs))
        assert error < 1.025 * bound


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_other_blocks_are_ggml_s_to_the_byte(name: str) -> None:
    weights = RNG.normal(0, 1, (64, 1024)).astype(np.float32)
    np.testing.assert_array_equal(
        gguf_blocks.quantize(mx.array(weights), Type[name]), llama_cpp.quantize(weights, Type[name])
    )


# The largest error of a weight, in parts of its row's largest.
COARSE = {Type.Q2_K: 0.4, Type.Q3_K: 0.3, Type.IQ4_NL: 0.1, Type.IQ4_XS: 0.1, Type.IQ3_S: 0.3}


@pytest.mark.parametrize("kind", gguf_iquants.TYPES + gguf_kquants.TYPES)
def test_blocks_of_odd_weights(kind: Type) -> None:
    weights = np.zeros((6, 256), dtype=np.float32)
    weights[1] = 3
    weights[2] = -3
    weights[3, 7] = 1
    weights[4] = np.linspace(-1e-7, 1e-7, 256)
    weights[5] = np.linspace(-1e3, 1e3, 256)
    with np.errstate(all="raise", under="ignore"):
        back = quants.dequantize(gguf_blocks.quantize(mx.array(weights), kind), kind)
    np.testing.assert_array_equal(back[0], 0)
    error = np.abs(back - weights).max(axis=1)
    assert (error <= COARSE.get(kind, 0.04) * np.abs(weights).max(axis=1) + 1e-6).all()


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_K_M", "Q4_0"])
def test_packed_weights_run_as_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: GGUFType) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", heads=16, layers=4)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind=kind)
    texts = ["how do i bake bread", "the quick brown fox " * 30]
    expanded = mlx_jina.load(tmp_path / "m.gguf", dtype="float32")
    with monkeypatch.context() as patched:
        patched.setattr(device, "on_gpu", lambda: True)
        packed = mlx_jina.load(tmp_path / "m.gguf", dtype="float32")
        natural = mlx_jina.load(tmp_path / "m.gguf")
    model = packed.loaded.model_for(None)
    assert isinstance(model, nn.Module)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.QuantizedLinear)]
    assert len(layers) >= 16
    assert {layer.group_size for layer in layers} == {32}
    assert packed.fingerprint() == expanded.fingerprint()
    assert abs(packed.encode(texts) - expanded.encode(texts)).max() < bound(2e-5)
    # Scales of Q8_0 and Q4_0 are in float16 and stay it; those of K types have more digits.
    assert natural.dtype == ("float32" if kind == "Q5_K_M" else "float16")


def test_packed_qwen3_never_rounds_its_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoints.v5_small(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", task="retrieval", kind="Q8_0")
    expanded = mlx_jina.load(tmp_path / "m.gguf")
    with monkeypatch.context() as patched:
        patched.setattr(device, "on_gpu", lambda: True)
        packed = mlx_jina.load(tmp_path / "m.gguf")
        half = mlx_jina.load(tmp_path / "m.gguf", dtype="bfloat16")
    assert (packed.dtype, half.dtype) == ("float32", "bfloat16")
    assert packed.fingerprint() == expanded.fingerprint()
    texts = ["how do i bake bread", "light travels fast in vacuum " * 20]
    assert abs(packed.encode(texts) - expanded.encode(texts)).max() < bound(2e-5)


def test_packed_takes_the_space_of_the_file(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", heads=16)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="Q8_0")
    packed, full = (gguf_reader.read(tmp_path / "m.gguf", packed=way).tensors.values() for way in (True, False))
    assert checkpoint.stored_dtype(full) == mx.float32
    assert sum(x.nbytes for x in packed) < 0.32 * sum(x.nbytes for x in full)
