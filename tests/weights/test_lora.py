"""PEFT adapters: fused as defined, run beside the weights to the same result, and refused when they do not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_jina.errors import CheckpointError
from mlx_jina.nn.lora import LoRALinear
from mlx_jina.weights import lora
from tests.support import checkpoints
from tests.support.tolerance import bound

CONFIG = checkpoints.v5_small_config(**checkpoints.V5_TINY)
WEIGHTS = checkpoints.v5_small_weights(CONFIG)
PAIRS = checkpoints.v5_adapter_weights(CONFIG, 4, 1)
MODULE = "layers.1.mlp.down_proj"
A, B = f"base_model.model.{MODULE}.lora_A.weight", f"base_model.model.{MODULE}.lora_B.weight"


def written(folder: Path, weights: dict[str, Any] | None = None, **changes: Any) -> Path:
    checkpoints.write_adapter(folder, checkpoints.v5_adapter_config(4, **changes), weights or PAIRS)
    return folder


def base(dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    return {name: mx.array(value).astype(dtype) for name, value in WEIGHTS.items()}


def test_fuse_rounds_once(tmp_path: Path) -> None:
    fused = lora.fuse(base(mx.bfloat16), lora.read(written(tmp_path, lora_alpha=6)), mx.bfloat16)
    stored = base(mx.bfloat16)[f"{MODULE}.weight"].astype(mx.float32)
    exact = np.array(stored).astype(np.float64) + 1.5 * PAIRS[B].astype(np.float64) @ PAIRS[A]
    found = fused[f"{MODULE}.weight"]
    assert found.dtype == mx.bfloat16
    # Half a unit in the last of bfloat16's 8 digits, plus float32's own.
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), exact, rtol=2**-8 + 1e-6, atol=bound(1e-6))
    assert mx.array_equal(fused["embed_tokens.weight"], base(mx.bfloat16)["embed_tokens.weight"])


def test_beside_equals_fused(tmp_path: Path) -> None:
    adapter = lora.read(written(tmp_path, lora_alpha=2))
    linear = nn.Linear(96, 64, bias=False)
    linear.weight = base()[f"{MODULE}.weight"]
    both = LoRALinear(linear, adapter.pairs[MODULE], mx.float32)
    x = mx.array(np.random.default_rng(0).normal(size=(10, 96)).astype(np.float32))
    wanted = x @ lora.fuse(base(), adapter, mx.float32)[f"{MODULE}.weight"].T
    assert mx.abs(both(x) - wanted).max() < bound(2e-5)


def test_rank_and_alpha_patterns_are_honoured_as_in_peft(tmp_path: Path) -> None:
    pairs = {name: value for name, value in PAIRS.items() if MODULE not in name}
    rng = np.random.default_rng(0)
    pairs[A] = rng.normal(size=(2, 96)).astype(np.float32)
    pairs[B] = rng.normal(size=(64, 2)).astype(np.float32)
    folder = written(
        tmp_path,
        pairs,
        rank_pattern={r"layers\.1\.mlp\.down_proj": 2},
        alpha_pattern={"1.mlp.down_proj": 10, "q_proj": 1},
    )
    adapter = lora.read(folder)
    assert adapter.pairs[MODULE].scale == 5
    assert adapter.pairs["layers.0.self_attn.q_proj"].scale == 0.25
    assert adapter.pairs["layers.0.self_attn.k_proj"].scale == 1


def test_a_model_prefix_makes_no_difference(tmp_path: Path) -> None:
    prefixed = {name.replace("base_model.model.", "base_model.model.model."): x for name, x in PAIRS.items()}
    assert lora.read(written(tmp_path, prefixed)).pairs.keys() == lora.read(written(tmp_path)).pairs.keys()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "'peft_type' is not 'LORA'"),
        ({"use_rslora": True}, "'use_rslora' is True"),
        ({"use_dora": True}, "'use_dora' is True"),
        ({"bias": "all"}, "'bias' is 'all'"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"fan_in_fan_out": True}, "'fan_in_fan_out' is True"),
        ({"modules_to_save": ["norm"]}, "'modules_to_save'"),
        ({"layers_to_transform": [0]}, "'layers_to_transform'"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"something_new": {"a": 1}}, "'something_new'"),
        ({"r": 8}, r"its rank is 8"),
        ({"r": "4"}, "'r' of .* is '4'"),
        ({"lora_alpha": 0}, "'lora_alpha' of .* is 0"),
        ({"rank_pattern": {"down_proj": 2}}, r"down_proj has A \(4, 96\) and B \(64, 4\), but its rank is 2"),
        ({"target_modules": "all-linear"}, "only a list of names"),
        ({"target_modules": ["q_proj"]}, "not in 'target_modules'"),
        ({"target_modules": [*checkpoints.V5_TARGETS, "lm_head"]}, "nothing for lm_head"),
    ],
)
def test_settings_that_would_change_the_result_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        lora.read(written(tmp_path, **changes))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({name: x for name, x in PAIRS.items() if name != B}, f"{MODULE} has only its lora_A"),
        ({name: x for name, x in PAIRS.items() if MODULE not in name}, f"nothing for {MODULE}"),
        (PAIRS | {A: np.ones((4, 95), np.float32)}, f"changes {MODULE} as (64, 95), which has shape (64, 96)"),
        (
            {name.replace("layers.1.", "layers.7."): x for name, x in PAIRS.items()},
            "which does not exist in the base model",
        ),
        (PAIRS | {"base_model.model.norm.weight": np.ones(64, np.float32)}, "base_model.model.norm.weight (64,)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, weights: dict[str, Any], reason: str) -> None:
    folder = written(tmp_path, weights)
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        lora.fuse(base(), lora.read(folder), mx.float32)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        lora.read(tmp_path)
    checkpoints.write_json(tmp_path / "adapter_config.json", checkpoints.v5_adapter_config(4))
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors"):
        lora.read(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        lora.read(tmp_path)
