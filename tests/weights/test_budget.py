"""Memory: what a model takes, how large its batches are, and what is refused before it is read."""

from __future__ import annotations

import gc
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_jina
from mlx_jina import ModelTooLargeError, catalog, device, process
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn import ragged
from mlx_jina.weights import budget
from mlx_jina.weights.budget import Budget
from tests.nn.test_pieces import MODELS, SHAPE
from tests.support import bare, checkpoints
from tests.support.tolerance import no_cuda

GB = 10**9
# What Metal recommends to use at most, of 8 GB and of 192 GB.
AIR, STUDIO = int(5.7 * GB), int(155 * GB)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(device, "backend", lambda: "metal")
    return monkeypatch


def describe(mac: pytest.MonkeyPatch, architecture: str, memory: int) -> None:
    info = {"architecture": architecture, "max_recommended_working_set_size": memory}
    mac.setattr(mx, "device_info", lambda: info)


@pytest.mark.parametrize(
    ("architecture", "memory", "bytes_of_a_number", "tokens"),
    [
        ("applegpu_g13g", AIR, 2, 8_192),
        ("applegpu_g13g", AIR, 0.6, 8_192),
        # v5-small in float32 leaves an 8 GB Mac half a batch.
        ("applegpu_g13g", AIR, 4, 6_144),
        ("applegpu_g15s", STUDIO, 2, 16_384),
        ("applegpu_g15d", STUDIO, 2, 32_768),
        ("applegpu_g17p", AIR, 2, 4_096),
        ("unheard of", AIR, 2, 8_192),
    ],
)
def test_batches_of_v5_small(
    mac: pytest.MonkeyPatch, architecture: str, memory: int, bytes_of_a_number: float, tokens: int
) -> None:
    describe(mac, architecture, memory)
    entry = catalog.find("v5-small")
    assert entry is not None
    token = budget.OUTPUTS * max(2, int(bytes_of_a_number)) * 3072
    plan = Budget(device.memory(), int(entry.parameters * bytes_of_a_number), token, process.cache_bytes())
    assert plan.fits
    assert plan.batch_tokens == tokens


@no_cuda
@pytest.mark.parametrize("lengths", [[128] * 16, [*range(256, 16, -16)]], ids=["equal", "mixed"])
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_stays_within_its_budget(name: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a CPU, where MLX lets a hundred operations wait and not eleven command buffers."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(device, "backend", lambda: "metal")
    # Fused functions exist on GPUs only; elsewhere all scores and many parts of norms are written out.
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda q, k, v, **_: mx.depends(q, [k, v]))
    for norm in ("rms_norm", "layer_norm"):
        monkeypatch.setattr(mx.fast, norm, lambda x, *_: mx.negative(x))
    # The relation of the published models.
    monkeypatch.setitem(SHAPE, "intermediate", 4 * SHAPE["hidden"])
    model = MODELS[name]()
    mx.eval(model.parameters())
    ids = bare.random_ids(lengths, SHAPE["vocab"])
    batch = ragged.flatten(ids, np.arange(len(ids)))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(model(mx.array(batch.ids), batch.ragged))
    assert mx.get_peak_memory() - before <= budget.token_bytes(model, mx.float32) * len(batch.ids)


# MiB above the weights, as MLX counted them on an H200 with weights in half precision, and tokens.
@pytest.mark.parametrize(
    ("name", "layers", "widest", "peaks"),
    [
        ("v5-small", 28, 3072, {16_384: 15_874, 8_192: 14_709}),
        ("v5-nano", 12, 3072, {16_384: 11_499, 8_192: 3_812}),
        ("v2-small", 4, 4096, {16_384: 4_594, 8_192: 1_282}),
    ],
)
def test_measured_peaks_of_cuda(
    name: str, layers: int, widest: int, peaks: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "backend", lambda: "cuda")
    model = EncoderModel(dimension=8, max_length=8, vocab_size=8)
    model.layers = [nn.Linear(8, widest) for _ in range(layers)]
    for tokens, peak in peaks.items():
        assert peak << 20 <= budget.token_bytes(model, mx.bfloat16) * tokens


class TestRefusals:
    def limited(self, monkeypatch: pytest.MonkeyPatch, folder: Path, share: float) -> None:
        """Memory of so many times the folder's weights, and what a batch takes."""
        encoder = mlx_jina.load(folder)
        token = budget.token_bytes(encoder.loaded.model_for(None), encoder.loaded.dtype)
        monkeypatch.setattr(process, "cache_bytes", lambda: 1 << 20)
        rest = process.cache_bytes() + budget.FEWEST_TOKENS * token + int(share * encoder.nbytes)
        del encoder
        gc.collect()
        memory = mx.get_active_memory() + rest
        monkeypatch.setattr(device, "memory", lambda: memory)

    def test_before_anything_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = checkpoints.tiny_jina_bert(tmp_path)
        self.limited(monkeypatch, folder, 0.9)
        evaluated: list[object] = []
        monkeypatch.setattr(mx, "eval", evaluated.append)
        with pytest.raises(ModelTooLargeError, match=r"for its weights in float32 .* free for models here"):
            mlx_jina.load(folder)
        assert not evaluated

    def test_a_gpu_is_offered_half_precision(self, tmp_path: Path, mac: pytest.MonkeyPatch) -> None:
        describe(mac, "applegpu_g13g", AIR)
        folder = checkpoints.tiny_jina_bert(tmp_path)
        self.limited(mac, folder, 0.9)
        with pytest.raises(
            ModelTooLargeError, match="What would fit: dtype='bfloat16'; 8 bits, by `mlx-jina convert"
        ):
            mlx_jina.load(folder, dtype="float32")
        mlx_jina.load(folder, dtype="bfloat16")

    def test_smaller_models(self, tmp_path: Path, mac: pytest.MonkeyPatch) -> None:
        describe(mac, "applegpu_g13g", AIR)
        files = mlx_jina.load(checkpoints.tiny_jina_bert(tmp_path)).loaded.files
        error = budget._too_large(files, Budget(AIR, 8 * GB, 100_000, GB // 3), mx.bfloat16, packed=True)
        assert "8.0 GB for its weights and" in str(error)
        assert str(error).endswith("a smaller model, such as code-1.5b or v5-small")
