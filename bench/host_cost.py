"""What does Python pay for a query and for a batch, before a GPU computes anything? python -m bench.host_cost

A small model on a fast GPU waits for its graph: each operation costs Python some microseconds, however small it
is. Counted on the branch of the formulas for Metal, which any machine can build: operations in the graph (one for
each function of mx.fast and for each fused kernel), calls of attention, Python calls, and milliseconds until the
graph is queued. Beside it mlx-lm's Qwen3 of the same shape, which pads mixed texts in sorted batches of 32.
Weights are zeros; no text is tokenised.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import io
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mlx_jina.cpu import blas

blas.open_fast()
import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from mlx.utils import tree_map  # noqa: E402

from bench.harness import Options, Section, spread  # noqa: E402
from bench.texts import mixed_lengths  # noqa: E402
from mlx_jina import device, models  # noqa: E402
from mlx_jina.models.base import EncoderModel  # noqa: E402
from mlx_jina.nn import ragged  # noqa: E402
from mlx_jina.nn.compiled import CompiledByShape  # noqa: E402
from mlx_jina.nn.ragged import Ragged  # noqa: E402
from tests.support import checkpoints, decoder_checkpoints  # noqa: E402

QUERY_TOKENS = 12
# Texts of mixed lengths, about as many as a batch has.
MIXED_TEXTS = 128
PADDED_TEXTS = 32
CALLS, QUICK_CALLS = 200, 20
VOCABULARY = 1000
OURS, COMPILED, THEIRS = "mlx-jina, a length's first query", "mlx-jina, compiled", "mlx-lm, Qwen3 of this shape"
MIXED, THEIR_MIXED = "mlx-jina, a batch of mixed lengths", "mlx-lm, the same texts padded"
# Who is beside whom.
BESIDE = {OURS: THEIRS, COMPILED: THEIRS, MIXED: THEIR_MIXED}

Forward = Callable[[], Sequence[mx.array]]


def run(options: Options) -> Section:
    """Rows for each model and each way to run it."""
    section = Section(
        "Host cost",
        f"{' '.join((__doc__ or '').split()[1:])} A query has {QUERY_TOKENS} tokens, a batch {MIXED_TEXTS} texts.",
    )
    with _gpu_branch():
        for name, config in _configs(options.quick).items():
            rows: dict[str, dict[str, Any]] = {}
            for side, make in (("ours", _ours), ("theirs", _theirs)):
                try:
                    forwards = make(config)
                except importlib.metadata.PackageNotFoundError:
                    section.skipped[f"{name}, {side}"] = "mlx-lm is not installed"
                    continue
                for label, forward in forwards.items():
                    rows[label] = _measured(forward, QUICK_CALLS if options.quick else CALLS)
                del forwards
                gc.collect()
            for label, row in rows.items():
                theirs = rows.get(BESIDE.get(label, ""), {}).get("host, ms", [None])[0]
                ratio = None if theirs is None else round(row["host, ms"][0] / theirs, 2)
                section.rows.append({"model": name, "run by": label, **row, "of mlx-lm's time": ratio})
    return section


@contextmanager
def _gpu_branch() -> Iterator[None]:
    """A machine without a GPU builds a GPU's graphs, and computes none of them.

    There MLX takes the functions of mx.fast apart. Each of them becomes one operation here, as it is on a GPU.
    """
    if device.on_gpu():
        yield
        return
    stand_ins: dict[tuple[Any, str], Any] = {
        (device, "on_gpu"): lambda: True,
        (device, "backend"): lambda: "metal",
        (mx.fast, "rms_norm"): lambda x, *_: mx.negative(x),
        (mx.fast, "layer_norm"): lambda x, *_: mx.negative(x),
        (mx.fast, "rope"): lambda x, *_, **__: mx.negative(x),
        (mx.fast, "scaled_dot_product_attention"): _attention,
    }
    before = {(owner, name): getattr(owner, name) for owner, name in stand_ins}
    try:
        for (owner, name), function in stand_ins.items():
            setattr(owner, name, function)
        yield
    finally:
        for (owner, name), function in before.items():
            setattr(owner, name, function)


def _attention(
    q: mx.array, k: mx.array, v: mx.array, *, mask: mx.array | str | None = None, **_: object
) -> mx.array:
    masks = [mask] if isinstance(mask, mx.array) else []
    return mx.depends(q, [k, v, *masks])


def _configs(quick: bool) -> dict[str, dict[str, Any]]:
    """config.json of the published shapes, with few words."""
    v5 = {**checkpoints.V5_SMALL, "vocab": VOCABULARY}
    nano = {**decoder_checkpoints.NANO, "vocab": VOCABULARY}
    if quick:
        v5["layers"] = nano["layers"] = 2
    return {
        "v2-small": checkpoints.jina_bert_config(
            "original", hidden=512, layers=4, heads=8, intermediate=2048, vocab=VOCABULARY
        ),
        "v5-nano": {**decoder_checkpoints.nano_config(**nano), "model_type": "eurobert"},
        "v5-small": {**checkpoints.v5_small_config(**v5), "model_type": "qwen3"},
    }


def _names(config: dict[str, Any]) -> set[str]:
    """Tensors by which the architecture is told."""
    return {"encoder.layer.0.mlp.gated_layers.weight", *(f"layers.{i}" for i in range(99))} | (
        {f"layers.0.self_attn.{norm}.weight" for norm in ("q_norm", "k_norm")}
        if config["model_type"] == "qwen3"
        else set()
    )


def _zeros(model: nn.Module, dtype: mx.Dtype) -> None:
    model.update(tree_map(lambda x: mx.zeros(x.shape, dtype), model.parameters()))
    mx.eval(model.parameters())


def _ours(config: dict[str, Any]) -> dict[str, Forward]:
    model: EncoderModel = models.build(config, _names(config))
    _zeros(model, mx.float16 if model.float16 else mx.bfloat16)
    batch = ragged.flatten([np.arange(QUERY_TOKENS, dtype=np.int32)], np.zeros(1, dtype=np.intp))
    mixed = ragged.flatten(_mixed(), np.arange(MIXED_TEXTS))
    compiled = CompiledByShape(model, most=1)
    return {
        OURS: lambda: [model(mx.array(batch.ids), batch.ragged)],
        COMPILED: lambda: [compiled(mx.array(batch.ids), batch.ragged)],
        # A new one each time, since how its texts are padded is a part of the work.
        MIXED: lambda: [model(mx.array(mixed.ids), Ragged(mixed.ragged.buckets))],
    }


def _mixed() -> list[npt.NDArray[np.int32]]:
    """Texts of mixed lengths, longest first."""
    lengths = sorted(mixed_lengths(MIXED_TEXTS), reverse=True)
    return [np.arange(length, dtype=np.int32) % VOCABULARY for length in lengths]


def _theirs(config: dict[str, Any]) -> dict[str, Forward]:
    importlib.metadata.version("mlx-lm")
    from mlx_lm.models.qwen3 import ModelArgs, Qwen3Model

    heads = config["num_attention_heads"]
    args = ModelArgs(
        model_type="qwen3",
        hidden_size=config["hidden_size"],
        num_hidden_layers=config["num_hidden_layers"],
        intermediate_size=config["intermediate_size"],
        num_attention_heads=heads,
        rms_norm_eps=1e-6,
        vocab_size=VOCABULARY,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        max_position_embeddings=8192,
        rope_theta=1e6,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        tie_word_embeddings=True,
    )
    model = Qwen3Model(args)
    _zeros(model, mx.bfloat16)
    ids = np.arange(QUERY_TOKENS, dtype=np.int32)
    mixed = _mixed()

    def padded() -> list[mx.array]:
        """Causal attention sees no padding after a text."""
        found = []
        for start in range(0, len(mixed), PADDED_TEXTS):
            texts = mixed[start : start + PADDED_TEXTS]
            rows = np.stack([np.pad(text, (0, len(texts[0]) - len(text))) for text in texts])
            last = mx.array([len(text) - 1 for text in texts])
            found.append(model(mx.array(rows))[mx.arange(len(texts)), last])
        return found

    return {THEIRS: lambda: [model(mx.array(ids)[None])[:, -1]], THEIR_MIXED: padded}


def _measured(forward: Forward, calls: int) -> dict[str, Any]:
    """The graph's operations, Python's calls, and milliseconds of each call."""
    for _ in range(3):
        output = forward()
    dot = io.StringIO()
    mx.export_to_dot(dot, *output)
    operations = re.findall(r'label ?="(\w+)"', dot.getvalue())
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        forward()
        seconds.append(time.perf_counter() - start)
    return {
        "operations": len(operations),
        "calls of attention": operations.count("Depends"),
        "Python calls": _python_calls(forward),
        "host, ms": [round(1000 * x, 3) for x in spread(seconds)],
    }


def _python_calls(function: Callable[[], object]) -> int:
    count = 0

    def event(frame: FrameType, kind: str, argument: object) -> None:
        nonlocal count
        count += kind == "call"

    sys.setprofile(event)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench.host_cost", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Two layers and few calls.")
    given = parser.parse_args()
    section = run(Options(quick=given.quick, rounds=1, seconds=0, models=(), peers=()))
    for row in section.rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items() if value is not None))
    for name, reason in section.skipped.items():
        print(f"{name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
