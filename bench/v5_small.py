"""How much faster is a flat row of tokens than padded batches? Qwen3 at jina-embeddings-v5-text-small's widths.

    python -m bench.v5_small [--layers 4] [--rounds 3] [--long TOKENS]

All sides have the same random weights. Every round runs each side in turn, and ratios are medians over rounds. The
other side is mlx-embeddings' Qwen3 where that package is installed, else mlx-lm's with right padding and a causal
mask. "Same depth" leaves out the saving in the last layer, whose share grows as layers get fewer. --long prints
instead the memory that one long text takes above the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_jina import device, process
from mlx_jina.cpu import blas
from mlx_jina.nn import ragged

blas.open_fast()
import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from mlx_jina.cpu import attention  # noqa: E402
from mlx_jina.engine import cores  # noqa: E402
from mlx_jina.engine.pipeline import evaluated  # noqa: E402
from mlx_jina.models.qwen3 import Config, Qwen3  # noqa: E402
from mlx_jina.nn.ragged import Batch, Bucket  # noqa: E402

VOCAB = 20_000
Texts = Sequence[npt.NDArray[np.int32]]
Encode = Callable[[Texts], npt.NDArray[np.float32]]


def config(layers: int) -> Config:
    """v5-small's config.json, with another depth and a small vocabulary, which changes no time."""
    return Config(
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        vocab_size=VOCAB,
        rms_norm_eps=1e-6,
        rope_theta=3.5e6,
        max_position_embeddings=32768,
        qk_norm=True,
        qkv_bias=False,
        causal=True,
    )


def flat(model: Qwen3, *, whole_depth: bool = False) -> Encode:
    """mlx-jina: sorted, unpadded batches."""

    def pooled(share: Batch) -> npt.NDArray[np.float32]:
        ids = mx.array(share.ids)
        if whole_depth:
            return evaluated(model.hidden(ids, share.ragged)[share.ragged.last_rows])
        return evaluated(model(ids, share.ragged))

    def encode(texts: Texts) -> npt.NDArray[np.float32]:
        out = np.empty((len(texts), model.dimension), dtype=np.float32)
        for batch in ragged.batches(texts, device.default_batch_tokens()):
            for share, rows in cores.run(pooled, batch):
                out[share.order] = rows
        return out

    return encode


def _other_model(c: Config, weights: list[tuple[str, mx.array]]) -> tuple[str, nn.Module, bool]:
    """The padded implementation, and whether it takes an attention mask."""
    settings: dict[str, Any] = {"model_type": "qwen3", "tie_word_embeddings": True, **vars(c)}
    model: nn.Module
    try:
        from mlx_embeddings.models import qwen3 as theirs

        name, model, masked = "mlx-embeddings", theirs.Qwen3Model(theirs.ModelArgs(**settings)), True
    except ImportError:
        from mlx_lm.models import qwen3 as port

        name, model, masked = "mlx-lm", port.Qwen3Model(port.ModelArgs(**settings)), False
    model.load_weights(weights)
    return name, model, masked


def padded(model: nn.Module, masked: bool, size: int, *, by_length: bool = False) -> Encode:
    """Right-padded batches of `size` texts, in input order or sorted."""

    def encode(texts: Texts) -> npt.NDArray[np.float32]:
        lengths = np.array([len(ids) for ids in texts])
        order = np.argsort(-lengths, kind="stable") if by_length else np.arange(len(texts))
        out = np.empty((len(texts), 1024), dtype=np.float32)
        for start in range(0, len(texts), size):
            chosen = order[start : start + size]
            ids = np.zeros((len(chosen), lengths[chosen].max()), dtype=np.int32)
            mask = np.zeros_like(ids)
            for row, index in enumerate(chosen):
                ids[row, : lengths[index]] = texts[index]
                mask[row, : lengths[index]] = 1
            states = model(mx.array(ids), mx.array(mask)) if masked else model(mx.array(ids))
            out[chosen] = np.array(states[mx.arange(len(chosen)), mx.array(lengths[chosen] - 1)])
        return out

    return encode


def matmuls(c: Config, model: Qwen3, texts: Texts) -> Callable[[], None]:
    """Only the matrix products of `flat(model)`, of linear layers and of attention, on data of the same shapes."""
    linears = [module for _, module in model.layers[0].named_modules() if isinstance(module, nn.Linear)]
    queries_per_key = c.num_attention_heads // c.num_key_value_heads

    @cache
    def numbers(*shape: int) -> mx.array:
        x = mx.random.normal(shape)
        mx.eval(x)
        return x

    def attention_products(bucket: Bucket, count: int) -> list[mx.array]:
        """The products of attention for the last `count` queries of each text, in the blocks that a CPU runs."""
        found = []
        cells = attention.SCORE_BYTES // (bucket.texts * c.num_attention_heads * 4)
        for start, stop in attention.causal_spans(count, bucket.length, cells):
            heads = (bucket.texts, c.num_key_value_heads)
            rows, keys = queries_per_key * (stop - start), bucket.length - count + stop
            found.append(numbers(*heads, rows, c.head_dim) @ numbers(*heads, keys, c.head_dim).swapaxes(2, 3))
            found.append(numbers(*heads, rows, keys) @ numbers(*heads, keys, c.head_dim))
        return found

    def run() -> None:
        for batch in ragged.batches(texts, device.default_batch_tokens()):
            for layer in range(c.num_hidden_layers):
                last = layer == c.num_hidden_layers - 1
                for linear in linears:
                    rows, columns = linear.weight.shape
                    on_all = not last or (rows, columns) == (c.num_key_value_heads * c.head_dim, c.hidden_size)
                    count = len(batch.ids) if on_all else len(batch.order)
                    mx.eval(inputs[columns][:count] @ linear.weight.T)
                for part in batch.ragged.buckets:
                    mx.eval(attention_products(part, 1 if last else part.length))

    widest = max(len(batch.ids) for batch in ragged.batches(texts, device.default_batch_tokens()))
    inputs = {n: mx.random.normal((widest, n)) for n in (c.hidden_size, 2048, c.intermediate_size)}
    mx.eval(inputs)
    return run


def corpora() -> dict[str, Texts]:
    """Texts as random ids, by name."""
    rng = np.random.default_rng(0)

    def ids(lengths: Sequence[int] | npt.NDArray[Any]) -> Texts:
        return [rng.integers(0, VOCAB, int(n)).astype(np.int32) for n in lengths]

    mixed = np.clip(np.exp(rng.normal(np.log(80), 0.9, 24)), 5, 1024)
    return {
        "mixed log-normal": ids(mixed),
        "64 short texts": ids(rng.integers(4, 24, 64)),
        "equal lengths of 128": ids([128] * 16),
    }


def seconds(function: Callable[[], object]) -> float:
    """One run, on the clock."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(c: Config, rounds: int) -> None:
    """Print the table of ratios."""
    ours = Qwen3(c)
    mx.eval(ours.parameters())
    name, other, masked = _other_model(c, list(dict(tree_flatten(ours.parameters())).items()))
    print(f"Backend {device.backend()}, {blas.name()}, {c.num_hidden_layers} layers, against {name}\n")
    print("| texts | tokens | batches of the other side | same depth | as it runs | matmul share |")
    print("|---|---|---|---|---|---|")
    for corpus, texts in corpora().items():
        total = sum(map(len, texts))
        ways = {"all texts": padded(other, masked, len(texts))}
        if corpus.startswith("mixed"):
            ways["16, input order"] = padded(other, masked, 16)
            ways["16, by length"] = padded(other, masked, 16, by_length=True)
        sides = {"ours": flat(ours), "depth": flat(ours, whole_depth=True), **ways}
        bare = matmuls(c, ours, texts)
        expected = sides["ours"](texts)
        for side in sides.values():
            np.testing.assert_allclose(side(texts), expected, atol=1e-3)
        bare()
        times: list[dict[str, float]] = []
        for _ in range(rounds):
            row = {label: seconds(partial(side, texts)) for label, side in sides.items()}
            times.append({**row, "bare": seconds(bare)})
        share = statistics.median(t["bare"] / t["ours"] for t in times)
        for label in ways:
            depth, runs = (statistics.median(t[label] / t[side] for t in times) for side in ("depth", "ours"))
            print(f"| {corpus} | {total:,} | {label} | {depth:.2f} | {runs:.2f} | {share:.0%} |", flush=True)


def long_text(c: Config, length: int) -> None:
    """Print the memory that one text takes above the weights."""
    model = Qwen3(c)
    mx.eval(model.parameters())
    process.limit_cache()
    ids = np.random.default_rng(0).integers(0, VOCAB, length).astype(np.int32)
    batch = ragged.flatten([ids], np.zeros(1, dtype=np.intp))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    taken = seconds(lambda: mx.eval(model(mx.array(batch.ids), batch.ragged)))
    peak = (mx.get_peak_memory() - before) / 1e6
    print(f"{length:,} tokens, {c.num_hidden_layers} layers: {peak:,.0f} MB above the weights, {taken:.0f} s")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", type=int, metavar="TOKENS")
    arguments = parser.parse_args()
    c = config(arguments.layers)
    if arguments.long:
        long_text(c, arguments.long)
    else:
        compare(c, arguments.rounds)


if __name__ == "__main__":
    main()
