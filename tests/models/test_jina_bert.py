"""JinaBERT against a float64 forward pass of the same random weights, in all four layouts."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import CheckpointError
from mlx_jina.choices import Dtype
from mlx_jina.models import build
from mlx_jina.nn import alibi, ragged
from tests.support import checkpoints, reference
from tests.support.checkpoints import LAYOUTS
from tests.support.tolerance import bound

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "",
    "what is deep learning?",
    "a man riding a horse in paris " * 12,
    "vector search on mac",
    "the quick brown fox jumps over the lazy god",
]


def expected(folder: Path, layout: str, texts: list[str], ids: list[list[int]]) -> reference.Array:
    """Unit vectors (N, D) of the folder's own tensors."""
    config = checkpoints.read_config(folder)
    weights = {
        name: np.array(value.astype(mx.float32)) for name, value in checkpoints.read_tensors(folder).items()
    }
    hidden = (reference.jina_bert(weights, config, layout, np.array(text)) for text in ids)
    return reference.unit(np.stack([states.mean(axis=0) for states in hidden]))


@pytest.mark.parametrize("heads", [4, 6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_with_float64(tmp_path: Path, layout: str, heads: int) -> None:
    checkpoints.tiny_jina_bert(tmp_path, layout, heads=heads)
    model = mlx_jina.load(tmp_path)
    got = model.encode(TEXTS)
    np.testing.assert_allclose(
        got, expected(tmp_path, layout, TEXTS, model.tokenize(TEXTS)), rtol=0, atol=bound(5e-7)
    )


def published_shape(folder: Path, layout: str, layers: int, heads: int, std: float | None = None) -> Path:
    """Random weights at the real width; the vocabulary, which changes nothing else, is small."""
    config = checkpoints.jina_bert_config(
        layout, hidden=64 * heads, layers=layers, heads=heads, intermediate=256 * heads, vocab=400
    )
    weights = checkpoints.jina_bert_weights(layout, config, std=std)
    return checkpoints.write_folder(folder, config, weights, checkpoints.wordpiece_tokenizer(400))


@pytest.mark.parametrize(
    ("layers", "heads", "layout"),
    [
        (4, 8, "original"),
        pytest.param(12, 12, "original", marks=pytest.mark.slow),
        pytest.param(12, 12, "qk-post-norm", marks=pytest.mark.slow),
    ],
    ids=["small-en", "base-en", "base-code"],
)
def test_agrees_at_the_published_shapes(tmp_path: Path, layers: int, heads: int, layout: str) -> None:
    model = mlx_jina.load(published_shape(tmp_path, layout, layers, heads))
    truth = expected(tmp_path, layout, TEXTS[:3], model.tokenize(TEXTS[:3]))
    np.testing.assert_allclose(model.encode(TEXTS[:3]), truth, rtol=0, atol=bound(2e-6))


@pytest.mark.parametrize(
    ("layers", "heads", "layout"),
    [
        (4, 8, "original"),
        pytest.param(12, 12, "original", marks=pytest.mark.slow),
        pytest.param(12, 12, "qk-post-norm", marks=pytest.mark.slow),
    ],
    ids=["small-en", "base-en", "base-code"],
)
@pytest.mark.parametrize(("dtype", "cosine"), [("float16", 0.99999), ("bfloat16", 0.9999)])
def test_half_precision_at_the_published_shapes(
    tmp_path: Path, dtype: Dtype, cosine: float, layers: int, heads: int, layout: str
) -> None:
    published_shape(tmp_path, layout, layers, heads, std=0.02)
    model = mlx_jina.load(tmp_path, dtype=dtype)
    truth = expected(tmp_path, layout, TEXTS[:3], model.tokenize(TEXTS[:3]))
    assert (model.encode(TEXTS[:3]) * truth).sum(axis=-1).min() >= cosine


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_reads_half_precision_files_exactly(tmp_path: Path, dtype: mx.Dtype) -> None:
    checkpoints.tiny_jina_bert(tmp_path, dtype=dtype)
    model = mlx_jina.load(tmp_path, dtype="float32")
    truth = expected(tmp_path, "original", TEXTS, model.tokenize(TEXTS))
    np.testing.assert_allclose(model.encode(TEXTS), truth, rtol=0, atol=bound(5e-7))


def test_neighbours_change_nothing(tmp_path: Path) -> None:
    model = mlx_jina.load(checkpoints.tiny_jina_bert(tmp_path))
    together = model.encode(TEXTS)
    alone = np.stack([model.encode(text) for text in TEXTS])
    backwards = model.encode(TEXTS[::-1])[::-1]
    small_batches = model.encode(TEXTS, batch_tokens=8)
    for other in (alone, backwards, small_batches):
        np.testing.assert_allclose(other, together, rtol=0, atol=bound(3e-7))


def test_reversal_is_invisible_but_a_swap_is_not(tmp_path: Path) -> None:
    """Symmetric ALiBi and mean pooling see distances only; order still matters."""
    checkpoints.tiny_jina_bert(tmp_path)
    model = build(checkpoints.read_config(tmp_path), checkpoints.read_tensors(tmp_path))
    ids = np.random.default_rng(0).permutation(300)[:40].astype(np.int32)
    swapped = ids.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    batch = ragged.flatten([ids, ids[::-1].copy(), swapped], np.arange(3))
    straight, reverse, swap = np.array(model(mx.array(batch.ids), batch.ragged))
    np.testing.assert_allclose(straight, reverse, rtol=0, atol=bound(2e-6))
    assert np.abs(straight - swap).max() > 1e-4


@pytest.mark.parametrize("heads", [1, 4, 6, 8, 12, 16, 20])
def test_slopes_for_any_head_count(heads: int) -> None:
    np.testing.assert_allclose(alibi.slopes(heads), reference.slopes(heads), rtol=1e-12)


def test_sequence_classification_prefix_is_accepted(tmp_path: Path) -> None:
    plain = mlx_jina.load(checkpoints.tiny_jina_bert(tmp_path / "plain"))
    tensors = {f"bert.{name}": value for name, value in checkpoints.read_tensors(tmp_path / "plain").items()}
    config = checkpoints.read_config(tmp_path / "plain")
    prefixed = tmp_path / "prefixed"
    checkpoints.write_json(prefixed / "config.json", config)
    mx.save_safetensors(str(prefixed / "model.safetensors"), tensors)
    (prefixed / "tokenizer.json").write_bytes((tmp_path / "plain" / "tokenizer.json").read_bytes())
    assert mlx_jina.load(prefixed).fingerprint() == plain.fingerprint()


class TestRefusals:
    """A checkpoint that would not run exactly is refused by name instead of half-loaded."""

    @staticmethod
    def damaged(folder: Path, change: dict[str, object], drop: str = "", add: str = "") -> Path:
        checkpoints.tiny_jina_bert(folder)
        checkpoints.write_json(folder / "config.json", checkpoints.read_config(folder) | change)
        tensors = {
            name: value for name, value in checkpoints.read_tensors(folder).items() if not drop or drop not in name
        }
        mx.eval(tensors)
        if add:
            tensors[add] = mx.zeros((4, 4))
        mx.save_safetensors(str(folder / "model.safetensors"), tensors)
        return folder

    @pytest.mark.parametrize(
        ("change", "drop", "add", "message"),
        [
            ({}, "mlp.gated_layers", "", "none of JinaBERT's four layouts"),
            ({}, "gated_layers", "embeddings.position_embeddings.weight", "none of JinaBERT's four layouts"),
            ({}, "layer.1.attention.self.query.bias", "", "lacks encoder.layer.1.attention.self.query.bias"),
            ({}, "", "encoder.layer.0.extra.weight", "holds encoder.layer.0.extra.weight"),
            ({"hidden_size": 32}, "", "", r"has shape \(.*asks for"),
            ({"hidden_act": "relu"}, "", "", "'hidden_act' is 'relu'"),
            ({"feed_forward_type": "reglu"}, "", "", "'feed_forward_type' is 'reglu'"),
            ({"position_embedding_type": "absolute"}, "", "", "'position_embedding_type' is 'absolute'"),
            ({"layer_norm_eps": None}, "", "", "'layer_norm_eps' should be float"),
            ({"num_attention_heads": 3}, "", "", "hidden_size 64 is not a multiple"),
            ({"model_type": "gpt2"}, "", "", "model_type 'gpt2'"),
        ],
    )
    def test_names_the_reason(
        self, tmp_path: Path, change: dict[str, object], drop: str, add: str, message: str
    ) -> None:
        with pytest.raises(CheckpointError, match=message):
            mlx_jina.load(self.damaged(tmp_path, change, drop, add))

    def test_plain_bert(self, tmp_path: Path) -> None:
        """The trap that makes other tools load JinaBERT with random layers, the other way round."""
        folder = self.damaged(tmp_path, {}, "mlp.", "encoder.layer.0.intermediate.dense.weight")
        tensors = checkpoints.read_tensors(folder)
        tensors["embeddings.position_embeddings.weight"] = mx.zeros((512, 64))
        mx.eval(tensors)
        mx.save_safetensors(str(folder / "model.safetensors"), tensors)
        with pytest.raises(CheckpointError, match="none of JinaBERT's four layouts"):
            mlx_jina.load(folder)
