"""Vectors, tokens and blocks by llama.cpp, through the xllamacpp wheel."""

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

from tests.support import reference

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

    llama.cpp runs in a process of its own, because it aborts on an error.
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


_RERANK = """
import json, sys
import xllamacpp as x
p = x.CommonParams()
p.model.path = sys.argv[1]
p.embedding = True
p.pooling_type = x.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
p.n_ctx, p.n_batch, p.n_ubatch, p.n_parallel = 1024, 1024, 1024, 1
p.cpuparams.n_threads = 2
p.warmup = False
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
p.cache_type_k = x.ggml_type.GGML_TYPE_F32
p.cache_type_v = x.ggml_type.GGML_TYPE_F32
answer = x.Server(p).handle_rerank({"query": sys.argv[2], "documents": sys.argv[3:]})
rows = {row["index"]: row["relevance_score"] for row in answer["results"]}
print("ANSWER", json.dumps([rows[i] for i in range(len(rows))]))
"""


def scores(path: Path, query: str, documents: Sequence[str]) -> npt.NDArray[np.float64]:
    """What llama.cpp's `--rerank` says of documents, in their order."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    command = [sys.executable, "-c", _RERANK, str(path), query, *documents]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert answers, done.stdout[-2000:] + done.stderr[-3000:]
    return np.array(json.loads(answers[0].removeprefix("ANSWER")))


# The C interface, of which the wheel has no Python form. Settings go in and out whole, so only that there is room
# for them matters.
_TOKENIZER = """
import json, sys
from ctypes import *
class Settings(Structure):
    _fields_ = [("room", c_char * 1024)]
llama = CDLL(sys.argv[1])
quiet = CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda *_: None)
llama.llama_log_set(quiet, None)
llama.llama_model_default_params.restype = Settings
llama.llama_model_load_from_file.restype = llama.llama_model_get_vocab.restype = c_void_p
llama.llama_model_get_vocab.argtypes = [c_void_p]
llama.llama_tokenize.argtypes = [c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool]
model = llama.llama_model_load_from_file(sys.argv[2].encode(), llama.llama_model_default_params())
vocab = llama.llama_model_get_vocab(model)
rows = []
for text in json.load(sys.stdin):
    raw = text.encode()
    out = (c_int32 * (len(raw) + 8))()
    for special in (True, False):
        count = llama.llama_tokenize(vocab, raw, len(raw), out, len(out), True, special)
        rows.append(out[:count])
print("ANSWER", json.dumps(rows))
"""


def tokens(path: Path, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of each text, twice: with special tokens in the text taken as tokens, and as plain text."""
    command = [sys.executable, "-c", _TOKENIZER, str(_shared_object()), str(path)]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=120)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert answers, done.stdout[-2000:] + done.stderr[-3000:]
    rows = json.loads(answers[0].removeprefix("ANSWER"))
    return rows[::2], rows[1::2]


def _shared_object() -> Path:
    x = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    (path,) = Path(x.__file__).parent.glob("xllamacpp.*.so")
    return path


@cache
def _library() -> CDLL:
    library = CDLL(str(_shared_object()))
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
