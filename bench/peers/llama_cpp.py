"""llama.cpp through xllamacpp's server, on a GGUF of our own writer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.models import Model

NAME, PACKAGE = "llama.cpp", "xllamacpp"
FAMILIES = ("jina_bert", "qwen3", "eurobert")
SLOTS, BATCH = 4, 512
SETTINGS = (
    f"its server within the process (xllamacpp), on our GGUF: {SLOTS} slots, flash attention, {BATCH} tokens a "
    "batch (the longest text where it attends both ways), "
    "all layers on the GPU where there is one; its embedding mode also computes Qwen3's logits"
)


def options(model: Model) -> tuple[str, ...]:
    """Types of the weights."""
    return ("F16", "Q8_0")


def load(folder: Path, option: str) -> Callable[[Sequence[str], int], Any]:
    """Texts to vectors. Longer texts than the server has room for get a new server."""
    from bench.models import CACHE

    gguf = CACHE / f"{folder.name}-{option}.gguf"
    if not gguf.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "convert.to_gguf", str(folder), str(gguf), "--type", option]
        subprocess.run(command, check=True)
    import numpy as np
    import xllamacpp

    from bench.machine import threads

    causal = '"qwen3"' in (folder / "config.json").read_text(encoding="utf-8")
    server, room = None, 0

    def encode(texts: Sequence[str], longest: int) -> Any:
        nonlocal server, room
        if longest > room:
            server, room = None, max(BATCH, longest)
            p = xllamacpp.CommonParams()
            p.model.path = str(gguf)
            p.embedding = True
            p.n_parallel, p.n_ctx, p.n_batch = SLOTS, SLOTS * (room + 8), room
            p.n_ubatch = BATCH if causal else room
            p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads()
            p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
            server = xllamacpp.Server(p)
        assert server is not None
        rows = server.handle_embeddings({"input": list(texts)})["data"]
        return np.array([row["embedding"] for row in sorted(rows, key=lambda row: row["index"])])

    return encode
