"""What does one long text cost in memory? The shape of jina-embeddings-v2-small-en, random weights.

    python -m bench.long_text [TOKENS ...]

Prints a Markdown table: peak MLX memory above the weights, beside the size of the ALiBi bias alone had it
been written out as (H, L, L).
"""

from __future__ import annotations

import sys
import time

import numpy as np

from mlx_jina import batching, device

device.use_fast_blas()
import mlx.core as mx  # noqa: E402

from mlx_jina.models.jina_bert import Config, JinaBert  # noqa: E402

HEADS = 8
SMALL = Config(
    layout="original",
    hidden_size=512,
    num_hidden_layers=4,
    num_attention_heads=HEADS,
    intermediate_size=2048,
    vocab_size=30528,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
    max_position_embeddings=8192,
)


def main() -> None:
    """Print the table."""
    model = JinaBert(SMALL)
    mx.eval(model.parameters())
    print(f"Backend {device.backend()}, {device.blas()}\n")
    print("| tokens | peak above weights | dense bias alone | seconds |")
    print("|---|---|---|---|")
    for length in map(int, sys.argv[1:] or (512, 2048, 8192)):
        ids = np.random.default_rng(0).integers(0, SMALL.vocab_size, length).astype(np.int32)
        batch = batching.flatten([ids], np.zeros(1, dtype=np.intp))
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        start = time.perf_counter()
        mx.eval(model(mx.array(batch.ids), batch.runs))
        seconds = time.perf_counter() - start
        peak = (mx.get_peak_memory() - before) / 1e6
        print(
            f"| {length:,} | {peak:.0f} MB | {HEADS * length**2 * 4 / 1e6:,.0f} MB | {seconds:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
