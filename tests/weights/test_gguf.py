"""Our .gguf against the folder it came from, against llama.cpp, and against damage."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.weights import convert, folder, gguf_blocks, gguf_model, gguf_tokenizer
from mlx_jina.weights.gguf_file import GGUF
from tests import checkpoints, reference

ORACLE = """
import json, sys
import xllamacpp as x
path, ids = sys.argv[1], json.loads(sys.argv[2])
p = x.CommonParams()
p.model.path = path
p.embedding = True
p.n_ctx, p.n_batch, p.n_ubatch, p.n_parallel = 512, 512, 512, 1
p.cpuparams.n_threads = 2
p.warmup = False
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
p.cache_type_k = x.ggml_type.GGML_TYPE_F32
p.cache_type_v = x.ggml_type.GGML_TYPE_F32
server = x.Server(p)
print("ANSWER", json.dumps([server.handle_embeddings({"input": [i]})["data"][0]["embedding"] for i in ids]))
"""


def llama(path: Path, ids: list[list[int]]) -> Any:
    """Unit vectors by llama.cpp, in a process of its own: it aborts on what it does not like."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(path), json.dumps(ids)], capture_output=True, text=True, timeout=120
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert answers, done.stdout[-2000:] + done.stderr[-3000:]
    return reference.unit(np.array(json.loads(answers[0].removeprefix("ANSWER"))).reshape(len(ids), -1))


def _same(source: Path, target: Path) -> None:
    ours = folder.read(source).tensors
    read = gguf_model.read(target).tensors
    kept = {name: x for name, x in ours.items() if not name.startswith("pooler.")}
    assert kept.keys() == read.keys()
    for name, tensor in kept.items():
        assert mx.array_equal(tensor.astype(mx.float32), read[name].astype(mx.float32)), name


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
@pytest.mark.parametrize(("kind", "dtype"), [("F32", mx.float32), ("F16", mx.float16), ("BF16", mx.bfloat16)])
def test_plain_types_come_back_exactly(tmp_path: Path, layout: str, kind: str, dtype: mx.Dtype) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", layout, dtype=dtype)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind=kind)
    _same(source, tmp_path / "m.gguf")
    convert.to_mlx(str(tmp_path / "m.gguf"), tmp_path / "back")
    _same(tmp_path / "back", tmp_path / "m.gguf")


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
@pytest.mark.parametrize(("kind", "bound"), [("F32", 1e-6), ("F16", 1e-5), ("Q8_0", 2e-3), ("Q4_0", 3e-3)])
def test_llama_cpp_gives_the_same_vectors(tmp_path: Path, layout: str, kind: str, bound: float) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", layout)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind=kind)
    ids = [[2, 100, 120, 3], [2, *range(60, 140), 3]]
    files = gguf_model.read(tmp_path / "m.gguf")
    rows = [
        reference.jina_bert(
            {name: np.array(x.astype(mx.float32)) for name, x in files.tensors.items()},
            dict(files.config),
            layout,
            np.array(row),
        ).mean(axis=0)
        for row in ids
    ]
    cosines = (reference.unit(np.array(rows)) * llama(tmp_path / "m.gguf", ids)).sum(axis=1)
    assert 1 - cosines.min() < bound


@pytest.mark.parametrize("kind", sorted(gguf_blocks.REPACKABLE, key=str))
def test_repacked_blocks_hold_exactly_the_same_values(kind: Type) -> None:
    rng = np.random.default_rng(0)
    size = {Type.Q4_K: 144, Type.Q5_K: 176}.get(kind)
    if size is None:
        raw = quants.quantize(rng.normal(0, 1, (6, 512)).astype(np.float32), kind)
    else:
        raw = rng.integers(0, 256, (12, size), dtype=np.uint8)
        raw[:, :4] = rng.uniform(0.01, 0.1, (12, 2)).astype(np.float16).view(np.uint8)
        raw = raw.reshape(6, -1)
    packed = gguf_blocks.repack(raw, kind, 512)
    scales, biases = (mx.array(part).astype(mx.float32) for part in (packed.scales, packed.biases))
    values = mx.dequantize(mx.array(packed.weight), scales, biases, 32, packed.bits)
    np.testing.assert_array_equal(np.array(values), quants.dequantize(raw, kind))


def test_wordpiece_is_rebuilt_from_the_keys(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf")
    file = GGUF(tmp_path / "m.gguf")
    original, _ = gguf_tokenizer.read(file)
    del file.metadata[gguf_tokenizer.WHOLE]
    rebuilt, _ = gguf_tokenizer.read(file)
    texts = ["", " how do I  bake Bread? ", "ÉCOLE e\u0301", "日本語 text", "x" * 120, "[MASK] a\x07b", "🙂 ##s"]
    assert [list(i) for i in rebuilt.encode(texts)] == [list(i) for i in original.encode(texts)]


def test_damage_is_one_error(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="Q8_0")
    whole = (tmp_path / "m.gguf").read_bytes()
    damaged = tmp_path / "damaged.gguf"
    rng = random.Random(0)
    table = whole.index(b"token_embd.weight")
    for _ in range(500):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(min(len(data), table + 4000)) if data else 0
            data[at : at + rng.choice((1, 4, 8))] = rng.choice((b"\xff" * 8, b"\0" * 8, rng.randbytes(4)))
        damaged.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            gguf_model.read(damaged)


def test_a_read_only_file_and_an_existing_target(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    target = tmp_path / "m.gguf"
    convert.to_gguf(str(source), target)
    target.chmod(0o444)
    assert gguf_model.read(target).config["hidden_size"] == 64
    with pytest.raises(InputError, match="--force"):
        convert.to_gguf(str(source), target)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150000, resource.RLIM_INFINITY))\n"
        "from mlx_jina.weights import convert; from pathlib import Path; import sys\n"
        "try: getattr(convert, sys.argv[1])(sys.argv[2], Path(sys.argv[3]))\n"
        "except OSError as error: print('OSError', error)\n"
    )
    for function, name in (("to_gguf", "m.gguf"), ("to_mlx", "mlx")):
        done = subprocess.run(
            [sys.executable, "-c", program, function, str(source), str(tmp_path / name)],
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith("OSError"), done.stderr
        assert sorted(os.listdir(tmp_path)) == ["model"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 150000
