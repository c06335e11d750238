"""What can be proven about Metal without a Mac: every operation has a kernel, and attention is fused."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_jina import device, models
from mlx_jina.engine import late_chunking, token_vectors
from mlx_jina.engine import pictures as pictures_engine
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.jina_bert import JinaBert
from mlx_jina.models.rerankers import Qwen3Reranker
from mlx_jina.nn import alibi, attention, lora, ragged, steady
from mlx_jina.weights import checkpoint, folder, loading, rerankers
from tests.support import (
    bare,
    checkpoints,
    colbert_checkpoints,
    decoder_checkpoints,
    reranker_checkpoints,
    v3_checkpoints,
    v4_checkpoints,
)

# Primitives with an `eval_gpu` in mlx/backend/metal or mlx/backend/gpu (MLX 0.31 and 0.32) that an encoder
# may need. Those that throw there (SVD, Load, Cholesky, ...) are the ones to keep out.
METAL = frozenset(
    "Abs Add AddMM Arange AsStrided AsType Broadcast Concatenate Contiguous Cos Divide Erf Exp ExpandDims Flatten "
    "Full Gather GreaterEqual LayerNorm Less Log Matmul Max Maximum Minimum Multiply Negative Power "
    "QuantizedMatmul RMSNorm Reshape RoPE Rsqrt ScaledDotProductAttention Select Sigmoid Sin Slice Softmax Split "
    "Sqrt Square Squeeze Subtract Sum Tanh Transpose Unflatten View".split()
)


def primitives(output: mx.array) -> set[str]:
    """Names of the operations in an unevaluated graph; fused element-wise ones are taken apart."""
    dot = io.StringIO()
    mx.export_to_dot(dot, output)
    found: set[str] = set()
    for label in re.findall(r'label ?="(\w+)"', dot.getvalue()):
        found |= set(re.findall("[A-Z][a-z]+", label)) - {"Compiled"} if label.startswith("Compiled") else {label}
    return found


def strides(array: mx.array) -> tuple[int, ...]:
    """Bytes between neighbours, as MLX lays the array out."""
    return tuple(np.array(array, copy=False).strides)


def jina_bert(layout: str) -> tuple[JinaBert, dict[str, Any]]:
    config = checkpoints.jina_bert_config(layout, hidden=128, layers=2, heads=2, intermediate=96, vocab=100)
    weights = checkpoints.jina_bert_weights(layout, config)
    model = models.build(config, weights)
    assert isinstance(model, JinaBert)
    tensors = {name: mx.array(value) for name, value in weights.items() if not name.startswith(model.unused)}
    checkpoint.assign(model, tensors, Path())
    return model, config


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model believes that it runs on a GPU, also where it was compiled for the CPU before."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(device, "backend", lambda: "metal")
    mx.disable_compile()
    yield
    mx.enable_compile()


# Texts of one length, and texts that are padded to share a call of attention.
LENGTHS = ((9, 9), (9, 9, 4))


def batch_of(lengths: Sequence[int]) -> ragged.Batch:
    return ragged.flatten([np.arange(length, dtype=np.int32) for length in lengths], np.arange(len(lengths)))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
def test_every_primitive_has_a_metal_kernel(layout: str, lengths: Sequence[int], as_on_gpu: None) -> None:
    model, _ = jina_bert(layout)
    batch = batch_of(lengths)
    used = primitives(model(mx.array(batch.ids), batch.ragged))
    assert {"Matmul", "Softmax", "Erf", "AsStrided" if len(lengths) == 2 else "Gather"} <= used
    assert used <= METAL


def test_every_primitive_of_late_chunking_has_a_metal_kernel(as_on_gpu: None) -> None:
    model = cast("EncoderModel", jina_bert("original")[0])
    batch = batch_of((9, 4))
    assert primitives(late_chunking._means([[(0, 3), (2, 9)], [(0, 4)]], model, batch)) <= METAL
    assert primitives(token_vectors._every_token(model, batch)) <= METAL


ROTARY = ("qwen3", "eurobert", "qwen2", "xlm_roberta")


def rotary(name: str, dtype: mx.Dtype = mx.float32) -> EncoderModel:
    """Two layers with heads of 64, the width that v3, v5-nano and code-0.5b have."""
    shape = {"hidden": 128, "layers": 2, "heads": 2, "intermediate": 96, "vocab": 128}
    if name == "eurobert":
        config = decoder_checkpoints.nano_config(**shape)
        return bare.build(config, decoder_checkpoints.nano_weights(config), dtype)
    if name == "qwen2":
        config = decoder_checkpoints.code_config(**shape, kv_heads=1)
        return bare.build(config, decoder_checkpoints.code_weights(config), dtype)
    if name == "xlm_roberta":
        config = v3_checkpoints.native_config(**shape)
        weights = v3_checkpoints.native_weights(config)
        return bare.build(config, {key: x for key, x in weights.items() if "pooler" not in key}, dtype)
    config = checkpoints.v5_small_config(**shape, kv_heads=1, head_dim=64)
    return bare.build(config, checkpoints.v5_small_weights(config), dtype)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", ROTARY)
def test_every_primitive_of_a_rotary_model_has_a_metal_kernel(
    name: str, lengths: Sequence[int], as_on_gpu: None
) -> None:
    batch = batch_of(lengths)
    used = primitives(rotary(name)(mx.array(batch.ids), batch.ragged))
    assert {"Matmul", "Softmax", "Gather"} <= used
    assert used & {"Exp", "Erf"}
    assert used <= METAL


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_every_primitive_of_late_interaction_has_a_metal_kernel(name: str, as_on_gpu: None) -> None:
    shape = {"hidden": 128, "layers": 2, "heads": 2, "intermediate": 96, "vocab": 128}
    model = colbert_checkpoints.built(name, shape)
    batch = batch_of((9, 9, 4))
    hidden = ragged.Ragged((ragged.Bucket(0, 2, 9, unseen=5), ragged.Bucket(18, 1, 4, unseen=1)))
    for buckets in (batch.ragged, hidden):
        assert primitives(model(mx.array(batch.ids), buckets)) <= METAL


@pytest.fixture(scope="module")
def v4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v4_checkpoints.v4(tmp_path_factory.mktemp("metal") / "v4")


def test_every_primitive_of_v4_has_a_metal_kernel(v4: Path, as_on_gpu: None) -> None:
    loaded = loading.load(v4, "v4", "code", "float32")
    model, seen = loaded.model_for(None), loaded.vision
    assert seen is not None
    pictures = [
        seen.preprocessor.picture(v4_checkpoints.pixels(*size)) for size in ((308, 420), (60, 90), (60, 90))
    ]
    template = seen.template("")
    texts = [pictures_engine._ids(template, picture) for picture in pictures]
    batch = ragged.flatten(texts, np.arange(3))
    for each in (model, model.for_tokens()):
        assert primitives(each(mx.array(batch.ids), batch.ragged)) <= METAL
        used = primitives(pictures_engine._pooled(seen, template, pictures, each, batch))
        assert {"Matmul", "Softmax", "Erf", "Gather"} <= used
        assert used <= METAL


def test_a_page_is_computed_without_waiting(v4: Path, as_on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loading.load(v4, "v4", "code", "float32")
    seen = loaded.vision
    assert seen is not None
    page = seen.preprocessor.limited(602_112).picture(v4_checkpoints.pixels(1754, 1240))
    assert page.tokens == 736
    template = seen.template("")
    batch = ragged.flatten([pictures_engine._ids(template, page)], np.arange(1))
    # The tower itself is evaluated when it is read.
    assert seen.tower is not None
    waits: list[Any] = []
    monkeypatch.setattr(mx, "eval", waits.append)
    pictures_engine._pooled(seen, template, [page], loaded.model_for(None), batch)
    assert not waits


RERANKERS: dict[str, Callable[[Path], Path]] = {
    "v1": reranker_checkpoints.v1,
    "v2": reranker_checkpoints.v2,
    "qwen": reranker_checkpoints.qwen,
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", RERANKERS)
def test_every_primitive_of_a_reranker_has_a_metal_kernel(
    name: str, lengths: Sequence[int], as_on_gpu: None, tmp_path: Path
) -> None:
    files = rerankers.translate(folder.read(RERANKERS[name](tmp_path / name), encoder=False), name)
    model = checkpoint.build(files.path, files.config, files.tensors)
    checkpoint.assign(model, files.without(model.unused).tensors, files.path)
    mx.eval(model.parameters())
    batch = steady.independent(batch_of(lengths))
    ids = mx.array(batch.ids)
    if isinstance(model, Qwen3Reranker):
        past = model.beginning(mx.arange(7))
        used = primitives(model.continued(past, ids, batch.ragged))
    else:
        used = primitives(model(ids, batch.ragged))
    assert {"Matmul", "Softmax", "Gather"} <= used
    assert used <= METAL


def test_every_primitive_of_adapters_has_a_metal_kernel() -> None:
    model = rotary("xlm_roberta")
    assert isinstance(model, nn.Module)
    shapes = {"layers.0.mlp.fc1": (96, 128), "layers.1.mlp.fc1": (96, 128)}
    shapes["embeddings.word_embeddings"] = (128, 128)
    pairs = {
        name: lora.Pair(mx.ones((4, columns)), mx.ones((rows, 4)), 0.25)
        for name, (rows, columns) in shapes.items()
    }
    lora.attach(model, pairs, mx.float32)
    batch = batch_of([9])
    assert primitives(model(mx.array(batch.ids), batch.ragged)) <= METAL


def test_the_check_can_fail() -> None:
    assert not primitives(mx.linalg.cholesky(mx.eye(2), stream=mx.cpu)) <= METAL


class TestFusedAttention:
    """The conditions of `has_fused_kernel` and `eval_gpu` in metal/scaled_dot_product_attention.cpp."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch, as_on_gpu: None) -> list[dict[str, Any]]:
        """The arguments of every attention call while a model believes it runs on a GPU."""
        seen: list[dict[str, Any]] = []
        fused = mx.fast.scaled_dot_product_attention

        def spy(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
            seen.append({"q": q, "k": k, "v": v, **options})
            return fused(q, k, v, **options)

        monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", spy)
        monkeypatch.setattr(attention, "QUERIES", 64)
        return seen

    def check(self, calls: Sequence[dict[str, Any]], dtype: mx.Dtype) -> None:
        """What every call has to be for a fused kernel to take it without a copy."""
        for call in calls:
            q, k, v = (call[name] for name in ("q", "k", "v"))
            mask = call.get("mask")
            assert q.shape[-1] == k.shape[-1] == v.shape[-1]
            assert q.shape[-1] in attention.FUSED_WIDTHS
            # A short query takes the vector kernel, which wants no more queries than keys.
            assert q.shape[2] <= k.shape[2]
            assert {part.dtype for part in (q, k, v)} == {dtype}
            if isinstance(mask, mx.array):
                assert mask.dtype == dtype
                wanted = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
                assert all(size in (1, full) for size, full in zip(mask.shape, wanted, strict=True))
                assert mask.shape[-1] == k.shape[2]
                if dtype != mx.bfloat16:  # which Python's buffers cannot express
                    assert strides(mask)[-1] == mask.itemsize

    @pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
    def test_jina_bert(self, calls: list[dict[str, Any]], dtype: mx.Dtype) -> None:
        model, config = jina_bert("original")
        model.apply(lambda x: x.astype(dtype))
        alone, several = batch_of([100]), batch_of([260, 100, 97, 9, 3])
        layers = config["num_hidden_layers"]
        mx.eval(model(mx.array(alone.ids), alone.ragged))
        view = (1, 2, 100, 100)
        assert [(call["q"].shape[:3], call["mask"].shape) for call in calls] == [
            ((1, 2, stop - start), (*view[:2], stop - start, 100)) for start, stop in ((0, 64), (64, 100))
        ] * layers
        self.check(calls, dtype)
        calls.clear()
        mx.eval(model(mx.array(several.ids), several.ragged))
        # The biases of 9 and 3 tokens and of 100 and 97 are written out, and that of 260 is a view.
        assert [(call["q"].shape[0], call["q"].shape[2], call["mask"].shape[0]) for call in calls] == [
            (2, 16, 2), (2, 64, 2), (2, 48, 2), *[(1, 64, 1)] * 4, (1, 4, 1)
        ] * layers  # fmt: skip
        self.check(calls, dtype)

    @pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
    @pytest.mark.parametrize("name", ROTARY)
    def test_rotary_models(self, calls: list[dict[str, Any]], name: str, dtype: mx.Dtype) -> None:
        model, causal = rotary(name, dtype), name.startswith("qwen")
        alone, several = batch_of([100]), batch_of([100, 97, 9, 3, 3])
        mx.eval(model(mx.array(alone.ids), alone.ragged))
        # A layer in two blocks for 100 tokens; the last with the last token's query, which alone is pooled.
        assert [call["q"].shape[2] for call in calls] == [64, 36, *([64, 36] if name == "xlm_roberta" else [1])]
        self.check(calls, dtype)
        assert {call.get("mask") for call in calls} == {"causal" if causal else None}
        calls.clear()
        mx.eval(model(mx.array(several.ids), several.ragged))
        layer = [(3, 16), (2, 64), (2, 48)]
        last = layer if name == "xlm_roberta" else [(3, 1), (2, 1)]
        assert [(call["q"].shape[0], call["q"].shape[2]) for call in calls] == [*layer, *last]
        self.check(calls, dtype)
        for call in calls:
            texts, _, count, _ = call["q"].shape
            if causal and count > 1:
                # What follows a text is seen by no token of the text.
                assert call["mask"] == "causal"
            else:
                assert call["mask"].shape == (texts, 1, 1, call["k"].shape[2])

    def test_queries_of_late_interaction(self, calls: list[dict[str, Any]]) -> None:
        """No mask of tokens is written out: the bias stays a view, and hidden keys are left out."""
        shape = {"hidden": 128, "layers": 2, "heads": 2, "intermediate": 96, "vocab": 128}
        model = colbert_checkpoints.built("v1", shape)
        batch = ragged.Ragged((ragged.Bucket(0, 3, 32, unseen=20),))
        mx.eval(model(mx.arange(96), batch))
        assert [(call["q"].shape[2], call["k"].shape[2]) for call in calls] == [(32, 12)] * 2
        for call in calls:
            assert call["mask"].shape == (1, 2, 32, 12)
            # The kernel for more than 8 queries, which may be more than the keys.
            assert strides(call["mask"]) == (0, 63 * 4, 4, 4)

    @pytest.mark.parametrize(
        ("hidden", "heads"), [(512, 8), (768, 12), (256, 4), (2048, 16), (896, 14), (1536, 12), (1024, 16)]
    )
    def test_published_head_widths_are_fused(self, hidden: int, heads: int) -> None:
        assert hidden // heads in attention.FUSED_WIDTHS

    def test_the_mask_is_a_view_whose_last_stride_is_one(self) -> None:
        values = alibi.hankel_values(mx.array(alibi.slopes(4)), 50)
        assert primitives(alibi.hankel_bias(values)[:, :, 8:24]) <= METAL
        mx.eval(values)
        assert primitives(alibi.hankel_bias(values)[:, :, 8:24]) <= {"AsStrided", "Flatten", "Slice"}
        assert strides(alibi.hankel_bias(values)[:, :, 8:24]) == (0, 99 * 4, 4, 4)
