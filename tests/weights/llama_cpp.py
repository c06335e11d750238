"""Vectors by llama.cpp, through the xllamacpp wheel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests import reference

_PROGRAM = """
import json, sys
import xllamacpp as x
path, ids, adapters = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
p = x.CommonParams()
p.model.path = path
p.embedding = True
p.n_ctx, p.n_batch, p.n_ubatch, p.n_parallel = 512, 512, 512, 1
p.cpuparams.n_threads = 2
p.warmup = False
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
p.cache_type_k = x.ggml_type.GGML_TYPE_F32
p.cache_type_v = x.ggml_type.GGML_TYPE_F32
rows = []
for adapter in adapters or [None]:
    p.lora_adapters = [x.CommonAdapterLoraInfo(adapter, 1.0)] if adapter else []
    server = x.Server(p)
    rows += [server.handle_embeddings({"input": [i]})["data"][0]["embedding"] for i in ids]
print("ANSWER", json.dumps(rows))
"""


def vectors(
    path: Path, inputs: Sequence[str] | Sequence[Sequence[int]], adapters: Sequence[Path] = ()
) -> npt.NDArray[np.float64]:
    """Unit vectors (N, D) of texts or of token ids; (A N, D) with each of A adapters in turn.

    In a process of its own: llama.cpp aborts on what it dislikes.
    """
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    rows = [row if isinstance(row, str) else [int(i) for i in row] for row in inputs]
    command = [sys.executable, "-c", _PROGRAM, str(path), json.dumps(rows), *map(str, adapters)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert answers, done.stdout[-2000:] + done.stderr[-3000:]
    return reference.unit(
        np.array(json.loads(answers[0].removeprefix("ANSWER"))).reshape(len(rows) * max(1, len(adapters)), -1)
    )
