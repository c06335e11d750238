"""Vectors and blocks by llama.cpp, through the xllamacpp wheel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from ctypes import CDLL, c_bool, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

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


@cache
def _library() -> CDLL:
    x = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    (path,) = Path(x.__file__).parent.glob("xllamacpp.*.so")
    library = CDLL(str(path))
    library.ggml_quantize_chunk.restype = c_size_t
    library.ggml_quantize_chunk.argtypes = [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]
    library.ggml_quantize_requires_imatrix.restype = c_bool
    return library


def requires_imatrix(kind: Type) -> bool:
    """Whether ggml refuses to write a type without an importance matrix."""
    return bool(_library().ggml_quantize_requires_imatrix(int(kind)))


def quantize(values: npt.NDArray[np.float32], kind: Type) -> npt.NDArray[Any]:
    """Rows of whole blocks as the bytes that ggml's own quantiser makes of them."""
    block, size = GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    out = np.zeros((rows, columns // block * size), dtype=np.uint8)
    source = np.ascontiguousarray(values)
    made = _library().ggml_quantize_chunk(int(kind), source.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert made == out.nbytes
    return out
