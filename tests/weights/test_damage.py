"""Damaged and hostile files: one clear error, little time and memory."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlx_jina.errors import CheckpointError
from mlx_jina.weights import convert, safetensors_file
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import reader as gguf_reader
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints

# Loads every file named on standard input, with a bound on memory; prints what came of each.
LOADER = """
import resource, sys, time
import mlx.core as mx
import mlx_jina
mlx_jina.load(sys.argv[1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
for line in sys.stdin:
    start = time.perf_counter()
    try:
        mlx_jina.load(line.strip())
        result = "loaded"
    except mlx_jina.CheckpointError as error:
        result = f"refused {error}"
    print(f"{time.perf_counter() - start:.3f} {result!r}", flush=True)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the bound on memory is Linux's")


def _load_all(model: Path, paths: list[Path]) -> list[tuple[float, str]]:
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(model)],
        input="".join(f"{path}\n" for path in paths),
        capture_output=True,
        text=True,
        timeout=300,
    )
    rows = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert len(rows) == len(paths), f"it ended at {paths[len(rows)]}: {done.stderr[-3000:]}"
    return [(float(seconds), result) for seconds, result in rows]


def _mutated(whole: bytes, rng: random.Random, end: int) -> bytes:
    """One to three changes within the first `end` bytes, or an end that comes too soon."""
    data = bytearray(whole)
    if rng.random() < 0.25:
        del data[rng.randrange(len(data)) :]
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(max(1, min(len(data), end)))
        how = rng.randrange(4)
        if how == 0:
            data[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 1 << rng.randrange(64))))
        elif how == 1:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 2:
            del data[at : at + rng.randrange(1, 40)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
    return bytes(data)


def _check(results: list[tuple[float, str]], paths: list[Path]) -> None:
    refused = 0
    for (seconds, result), path in zip(results, paths, strict=True):
        assert seconds < 5, path
        if "refused" in result:
            refused += 1
            assert path.name in result or path.parent.name in result, result
    assert refused > len(paths) // 2


@linux
def test_mutated_gguf(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="Q8_0")
    whole = (tmp_path / "m.gguf").read_bytes()
    start = min(entry.offset for entry in GGUF(tmp_path / "m.gguf").entries.values())
    rng = random.Random(0)
    paths = [tmp_path / f"{i}.gguf" for i in range(500)]
    for i, path in enumerate(paths):
        # The tensor table and the first keys are small beside the vocabulary: half of the changes go there.
        table = whole.index(b"token_embd.weight") - 8
        head, rest = (whole[:table], whole[table:]) if i % 2 else (b"", whole)
        path.write_bytes(head + _mutated(rest, rng, start - len(head)))
    _check(_load_all(tmp_path / "m.gguf", paths), paths)


@linux
def test_mutated_adapters(tmp_path: Path) -> None:
    source, base = checkpoints.v5_small(tmp_path / "model"), tmp_path / "m.gguf"
    convert.to_gguf(str(source), base, kind="Q8_0")
    adapter = gguf_lora.name_of("retrieval", base)
    whole = adapter.read_bytes()
    start = min(entry.offset for entry in GGUF(adapter).entries.values())
    rng = random.Random(0)
    folders = [tmp_path / f"folder-{i}" for i in range(200)]
    for folder in folders:
        folder.mkdir()
        for file in tmp_path.glob("*.gguf"):
            (folder / file.name).symlink_to(file)
        (folder / adapter.name).unlink()
        (folder / adapter.name).write_bytes(_mutated(whole, rng, start))
    _check(_load_all(base, folders), folders)


def _relabelled(whole: bytes, rng: random.Random) -> bytes:
    """A header of the right length, in which one tensor's row says something else."""
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    name = rng.choice([name for name in header if name != "__metadata__"])
    row = header.pop(name)
    key = rng.choice(("dtype", "shape", "data_offsets", "name", "gone"))
    numbers = (-1, 0, 1, 3, 64, 1 << 31, 1 << 62, 1 << 70, 1.5, None, "64", [64], True)
    if key == "dtype":
        row[key] = rng.choice(("F16", "I64", "U8", "BOOL", "F8_E4M3", "f32", "", None, 3))
    elif key in row:
        row[key] = [rng.choice(numbers) for _ in range(rng.randrange(5))]
    if key != "gone":
        header[rng.choice((name, "x" * 1000, "\ud83d\ude42")) if key == "name" else name] = row
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + whole[end:]


@linux
def test_mutated_safetensors(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", layers=1)
    whole = (source / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    folders = [tmp_path / f"folder-{i}" for i in range(500)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (folder / name).symlink_to(source / name)
        (folder / "model.safetensors").write_bytes(_relabelled(whole, rng) if i % 2 else _mutated(whole, rng, end))
    _check(_load_all(source, folders), folders)


def test_safetensors_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    fine = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    whole = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    twice = b'{"a": {"dtype": "F32", "shape": [64], "shape": [4], "data_offsets": [0, 16]}}'
    for header, reason in (
        (b"[]", "invalid type: sequence"),
        (b"{", "EOF while parsing"),
        (b"\xff\xff", "invalid UTF-8 in header"),
        (b"[" * 100_000, "invalid JSON in header"),
        (b'{"a":' * 100_000, "invalid JSON in header"),
        (twice, "duplicate field `shape`"),
        ({"a": 1}, "invalid type: integer `1`"),
        ({"a": {**fine, "dtype": "F33"}}, "unknown variant `F33`"),
        ({"a": {**fine, "shape": [-2]}}, "invalid value: integer `-2`"),
        ({"a": {**fine, "shape": [True, 2]}}, "invalid type: boolean `true`"),
        ({"a": {**fine, "shape": [1 << 40, 1 << 40]}}, "overflow computing buffer size"),
        ({"a": {**whole, "shape": [5]}}, "invalid shape, data type, or offset"),
        ({"a": {**fine, "data_offsets": [8, 0]}}, "invalid offset for tensor `a`"),
        ({"a": {**fine, "data_offsets": [16, 24]}}, "invalid offset for tensor `a`"),
        ({"a": fine, "b": {**fine, "data_offsets": [4, 12]}}, "invalid offset for tensor `b`"),
        # What is missing at the end, and what nothing in the header is about.
        ({"a": {**whole, "shape": [8], "data_offsets": [0, 32]}}, "file not fully covered"),
        ({"a": fine}, "file not fully covered"),
        ({"a": {**whole, "dtype": "F64", "shape": [2]}}, "MLX cannot read .*unsupported dtype F64"),
    ):
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(16))
        with pytest.raises(CheckpointError, match=reason) as caught:
            safetensors_file.read(path)
        assert str(path) in str(caught.value)
    for content, reason in (
        (b"", "header too small"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "header too large"),
        ((100).to_bytes(8, "little") + b"{}", "invalid header length"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{reason}.*fetch or copy it again"):
            safetensors_file.read(path)


def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="F16")
    whole = (tmp_path / "m.gguf").read_bytes()
    file = GGUF(tmp_path / "m.gguf")
    cuts = {0, 1, 4, 8, 16, 24, whole.index(b"token_embd.weight")}
    cuts |= {whole.index(key.encode()) for key in file.metadata if key.encode() in whole}
    cuts |= {whole.index(name.encode()) for name in file.entries}
    cuts |= {entry.offset for entry in file.entries.values()}
    cuts |= {entry.offset + entry.nbytes - 1 for entry in file.entries.values()}
    short = tmp_path / "short.gguf"
    for cut in sorted(cuts):
        short.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"short\.gguf"):
            gguf_reader.read(short)


def test_a_huge_array_is_not_believed(tmp_path: Path) -> None:
    key = b"general.tags"
    pair = struct.pack("<Q", len(key)) + key
    path = tmp_path / "m.gguf"
    for value in (
        struct.pack("<IIQ", 9, 8, 1 << 40),
        struct.pack("<IIQ", 9, 4, 1 << 62),
        struct.pack("<IQ", 8, 1 << 63),
    ):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair + value + bytes(64))
        with pytest.raises(CheckpointError, match=r"m\.gguf.*'general\.tags'"):
            GGUF(path)


NOBODY = """
import os, sys
import mlx_jina
from mlx_jina.weights import convert
from pathlib import Path
path = Path(sys.argv[1])
# Once as who we are: another user may not read the interpreter's own files.
mlx_jina.load(path).encode("how do i bake bread")
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(mlx_jina.load(path).encode("how do i bake bread").shape)
try:
    convert.to_gguf(str(path), path.parent / "new.gguf")
except OSError as error:
    print(type(error).__name__, error.filename)
"""


def test_read_only_files_and_folders(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    convert.to_gguf(str(source), shelf / "m.gguf")
    (shelf / "m.gguf").chmod(0o444)
    shelf.chmod(0o555)
    for above in (tmp_path, *tmp_path.parents):
        if above == Path(tempfile.gettempdir()):
            break
        above.chmod(above.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, str(shelf / "m.gguf")], capture_output=True, text=True, timeout=120
    )
    shelf.chmod(0o755)
    assert done.stdout.splitlines() == ["(64,)", f"PermissionError {shelf / 'new.gguf'}"], done.stderr
