"""Any checkpoint to an MLX folder or a .gguf, one tensor in memory at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from gguf import GGMLQuantizationType as Type
from tqdm import tqdm

from mlx_jina.errors import InputError
from mlx_jina.weights import folder, lora, safetensors_file
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import names
from mlx_jina.weights.gguf import reader as gguf_model
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf import types as gguf_types
from mlx_jina.weights.safetensors_file import Layout, Output
from mlx_jina.weights.source import Source, Weight, open_source

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
BITS, GROUP_SIZES = (4, 6, 8), (32, 64, 128)
# What an MLX folder has, adapters of v3 excepted, which lie beside in folders of their tasks' names; and what
# Finder leaves everywhere.
_WRITTEN = (
    "config.json",
    "tokenizer.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "adapters",
    ".DS_Store",
)
# Two rows are no matrix to save memory on, and every text's vector passes through one of them.
_NEVER_QUANTIZED = ("embeddings.token_type_embeddings",)


@contextmanager
def _progress(total: int, show: bool | None) -> Iterator[Callable[[int], object]]:
    disable = None if show is None else not show
    with tqdm(total=total, desc="Converting", unit="B", unit_scale=True, disable=disable) as bar:
        yield bar.update


def _check_target(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise _exists(target)
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist")


def _exists(target: Path) -> InputError:
    return InputError(f"{target} exists already; --force replaces it")


def _refuse_source(target: Path, source: Source) -> None:
    """Neither the source itself nor a part of it, nor a folder that it lies in, is to be replaced."""
    own, other = target.resolve(), source.path.resolve()
    if not target.exists():
        return
    if own == other:
        raise InputError(f"{target} is also the source")
    if own in other.parents:
        raise InputError(f"the source {source.path} is in {target}, which would be replaced")
    if other in own.parents and (target.is_dir() or folder.holds_gguf(source.path)):
        raise InputError(f"{target} is in the source {source.path}, and may be a part of it")


def _is_ours(path: Path) -> bool:
    """Whether `to_mlx` writes something of this name, or an adapter's folder."""
    return path.name in _WRITTEN or (path / lora.CONFIG_FILE).is_file()


def _refuse_foreign(target: Path) -> None:
    """A folder with anything in it that `to_mlx` does not write is not replaced."""
    if target.is_dir() and (foreign := sorted(path.name for path in target.iterdir() if not _is_ours(path))):
        raise InputError(f"{target} also holds {foreign[0]}, which no conversion wrote; choose another folder")


def to_gguf(
    source: str,
    target: Path,
    *,
    task: str | None = None,
    kind: str = "F16",
    force: bool = False,
    show_progress: bool | None = None,
) -> None:
    """Write a checkpoint as a .gguf that llama.cpp and `mlx_jina.load` take.

    `task` fuses its adapter. Without it the adapters, if there are any, are written beside `target` as
    lora-TASK-TARGET, which llama.cpp loads with `--lora`.
    """
    kind = gguf_types.check(kind)
    _check_target(target, force)
    if target.is_dir():
        raise InputError(f"{target} is a folder; a .gguf is one file")
    opened = open_source(source, task)
    _refuse_source(target, opened)
    architecture = names.of_config(opened.path, opened.config)
    adapters = gguf_lora.files(opened, architecture, target)
    # Those of an earlier model of this name would pass for this one's.
    old = gguf_lora.named_after(target) - {adapter.target for adapter in adapters}
    if not force and (there := [path for path in (*old, *(a.target for a in adapters)) if path.exists()]):
        raise _exists(there[0])
    files = [*adapters, _model_file(opened, architecture, target, kind)]
    with _progress(sum(file.nbytes for file in files), show_progress) as advance:
        gguf_file.write(files, advance)
    for path in old:
        path.unlink()


def _model_file(opened: Source, architecture: names.Architecture, target: Path, kind: str) -> gguf_file.File:
    pieces = names.to_gguf(opened.path, architecture, opened.weights)
    # Parts of one tensor follow each other, so that it is read once.
    order = {name: i for i, name in enumerate(opened.weights)}
    rows = sorted(pieces.items(), key=lambda item: (order[item[1].name], item[1].index))
    held: dict[str, mx.array] = {}

    def make(piece: names.Piece, chosen: Type) -> Any:
        full = held.pop(piece.name) if piece.name in held else opened.weights[piece.name].make()
        if piece.index + 1 < piece.of:
            held[piece.name] = full
        size = full.shape[0] // piece.of
        return gguf_blocks.quantize(full[piece.index * size : (piece.index + 1) * size], chosen)

    layers, heads = int(opened.config["num_hidden_layers"]), int(opened.config["num_attention_heads"])
    heads_per_kv = heads // int(opened.config.get("num_key_value_heads") or heads)
    outputs = []
    for name, piece in rows:
        full = opened.weights[piece.name].shape
        shape = (full[0] // piece.of, *full[1:])
        chosen = gguf_types.choose(name, shape, kind, layers, heads_per_kv)
        outputs.append(gguf_file.Output(name, chosen, shape, partial(make, piece, chosen)))
    metadata = gguf_model.metadata(opened, architecture, kind)
    metadata |= gguf_tokenizer.metadata(
        opened.tokenizer_json,
        opened.tokenizer,
        opened.config["vocab_size"],
        opened.config.get("type_vocab_size"),
        gguf_tokenizer.pre_of_v2(opened.names, opened.weights),
    )
    return gguf_file.File(target, architecture.name, metadata, outputs)


def _packed_output(tensors: gguf_model.Tensors, module: str) -> Output:
    shape, bits = tensors.shape(f"{module}.weight"), tensors.bits[module]
    groups = (*shape[:-1], shape[-1] // gguf_blocks.GROUP)
    # Whether float16 can hold the scales exactly shows only in the blocks themselves.
    scale_dtype = mx.float16 if tensors.pack(module).scales.dtype == "float16" else mx.float32
    layout: Layout = {
        f"{module}.weight": ((*shape[:-1], shape[-1] * bits // 32), mx.uint32),
        f"{module}.scales": (groups, scale_dtype),
        f"{module}.biases": (groups, scale_dtype),
    }

    def make() -> dict[str, mx.array]:
        packed = tensors.pack(module)
        return dict(zip(layout, map(mx.array, (packed.weight, packed.scales, packed.biases)), strict=True))

    return Output(layout, make)


def _plain_output(name: str, weight: Weight, dtype: mx.Dtype) -> Output:
    return Output({name: (weight.shape, dtype)}, lambda: {name: weight.make().astype(dtype)})


def _quantized_output(module: str, weight: Weight, dtype: mx.Dtype, bits: int, group: int) -> Output:
    rows, columns = weight.shape
    layout: Layout = {
        f"{module}.weight": ((rows, columns * bits // 32), mx.uint32),
        f"{module}.scales": ((rows, columns // group), dtype),
        f"{module}.biases": ((rows, columns // group), dtype),
    }

    def make() -> dict[str, mx.array]:
        return dict(zip(layout, mx.quantize(weight.make().astype(dtype), group, bits), strict=True))

    return Output(layout, make)


def _renamed(output: Output, prefix: str) -> Output:
    layout = {f"{prefix}{name}": kind for name, kind in output.layout.items()}
    return Output(layout, lambda: {f"{prefix}{name}": array for name, array in output.make().items()})


def _outputs(
    opened: Source, dtype: mx.Dtype | None, bits: int | None, group: int
) -> tuple[list[Output], dict[str, Any] | None]:
    """What goes into model.safetensors, and config.json's quantization block."""
    outputs: list[Output] = []
    keep = opened.packed if dtype is None and bits is None else None
    block: dict[str, Any] | None = None
    for name, weight in opened.weights.items():
        module, _, leaf = name.rpartition(".")
        kind = dtype or weight.dtype
        matrix = leaf == "weight" and len(weight.shape) == 2 and module not in _NEVER_QUANTIZED
        if keep is not None and leaf == "weight" and module in keep.bits:
            block = gguf_model.quantization(keep.bits)
            outputs.append(_packed_output(keep, module))
        elif bits is not None and matrix and not weight.shape[-1] % group:
            block = {"group_size": group, "bits": bits}
            outputs.append(_quantized_output(module, weight, kind, bits, group))
        else:
            outputs.append(_plain_output(name, weight, kind))
    return outputs, block


def _beside(target: Path) -> Path:
    """Where a folder is made, before it takes its place."""
    return target.with_name(f"{target.name}.partial")


def _aside(target: Path) -> Path:
    """Where the old one is meanwhile."""
    return target.with_name(f"{target.name}.replaced")


@contextmanager
def _replacing_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place at the end, or is removed on any error.

    The old one is moved aside until the new one is there, so that one of them is always whole.
    """
    beside, aside = _beside(target), _aside(target)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        yield beside
        if target.exists():
            _remove(aside)
            os.replace(target, aside)
        try:
            os.replace(beside, target)
        except OSError:
            if aside.exists():
                os.replace(aside, target)
            raise
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        code = error.errno or errno.EIO
        raise OSError(code, os.strerror(code), error.filename or str(target)) from error
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def to_mlx(
    source: str,
    target: Path,
    *,
    task: str | None = None,
    dtype: str | None = None,
    bits: int | None = None,
    group_size: int = 64,
    force: bool = False,
    show_progress: bool | None = None,
) -> None:
    """Write a checkpoint as a folder that `mlx_jina.load` and MLX's other loaders take.

    Of a .gguf, blocks that MLX can hold exactly stay packed unless `dtype` or `bits` asks for something else.
    `task` fuses its adapter; without it the adapters, if there are any, go beside the weights as they are: into
    adapters/TASK, of v3 into TASK as transformers names it.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if bits is not None and bits not in BITS:
        raise InputError(f"bits {bits} is not one of {', '.join(map(str, BITS))}")
    if group_size not in GROUP_SIZES:
        raise InputError(f"group size {group_size} is not one of {', '.join(map(str, GROUP_SIZES))}")
    _check_target(target, force)
    # Also of "." a name, and what lies beside it.
    target = Path(os.path.abspath(target))
    for path in (target, _beside(target), _aside(target)):
        _refuse_foreign(path)
    opened = open_source(source, task)
    _refuse_source(target, opened)
    architecture = names.of_config(opened.path, opened.config)
    for name in [name for name in opened.weights if name.startswith(architecture.unused)]:
        del opened.weights[name]
    outputs, block = _outputs(opened, DTYPES[dtype] if dtype else None, bits, group_size)
    # mlx-lm writes the block under both names.
    blocks = ("quantization", "quantization_config")
    config = {key: value for key, value in opened.config.items() if key not in blocks}
    if (prefix := architecture.mlx_prefix) and block is not None:
        block = {f"{prefix}{key}" if isinstance(own, dict) else key: own for key, own in block.items()}
    outputs = [_renamed(output, prefix) for output in outputs] if prefix else outputs
    if block is not None:
        config["quantization"] = block
    if opened.general:
        config["gguf"] = opened.general
    with _replacing_folder(target) as beside:
        _write_json(beside / "config.json", config)
        (beside / "tokenizer.json").write_text(opened.tokenizer_json, encoding="utf-8")
        if opened.prompts:
            own = {"prompts": dict(opened.prompts), "default_prompt_name": opened.default_prompt_name}
            _write_json(beside / "config_sentence_transformers.json", own)
        beside_them = [output for adapter in opened.adapters.values() for output in lora.outputs(adapter)]
        with _progress(sum(output.nbytes for output in (*outputs, *beside_them)), show_progress) as advance:
            for name, adapter in opened.adapters.items():
                place = folder.adapter_folder(config.get("model_type"), name)
                lora.write(beside / place, adapter, advance)
            safetensors_file.write(beside / "model.safetensors", outputs, advance)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
