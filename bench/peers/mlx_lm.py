"""mlx-lm's Qwen3 used as an encoder: its causal mask, right padding, the last token's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers.batches import padded

if TYPE_CHECKING:
    from bench.models import Model

NAME, PACKAGE = "mlx-lm", "mlx_lm"
FAMILIES = ("qwen3",)
SETTINGS = (
    "its Qwen3 as an encoder: right padding, 32 texts a batch sorted by length, at most 8,192 tokens; the same "
    "BLAS as ours"
)


def options(model: Model) -> tuple[str, ...]:
    """The precision of ours."""
    return (model.precision(),)


def load(folder: Path, option: str) -> Callable[[Sequence[str], int], Any]:
    """Texts to vectors."""
    import json

    from mlx_jina.cpu import blas

    blas.open_fast()
    import mlx.core as mx
    import numpy as np
    from mlx_lm.models import qwen3
    from tokenizers import Tokenizer

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = qwen3.Qwen3Model(qwen3.ModelArgs.from_dict(config))
    model.load_weights(str(folder / "model.safetensors"))
    model.set_dtype(getattr(mx, option))
    mx.eval(model.parameters())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def run(ids: Any, mask: Any) -> Any:
        last = mx.array(mask.sum(axis=1) - 1)
        return np.array(model(mx.array(ids))[mx.arange(len(ids)), last].astype(mx.float32))

    return padded(tokenizer, run)
