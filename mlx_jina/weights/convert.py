"""Any checkpoint to an MLX folder or a .gguf, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
from tqdm import tqdm

from mlx_jina import device
from mlx_jina.choices import BITS, GROUP_SIZES, Bits, Dtype, GGUFType, GroupSize
from mlx_jina.errors import InputError
from mlx_jina.weights import folder, lora, quantize, replace, safetensors_file
from mlx_jina.weights.gguf import architectures, writer
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import types as gguf_types
from mlx_jina.weights.gguf.architectures import Architecture
from mlx_jina.weights.open import open_source
from mlx_jina.weights.safetensors_file import Layout, Output
from mlx_jina.weights.source import Source, Weight

# Two rows are no matrix to save memory on, and every text's vector passes through one of them.
_NEVER_QUANTIZED = ("embeddings.token_type_embeddings",)


@contextmanager
def _progress(total: int, show: bool | None) -> Iterator[Callable[[int], object]]:
    disable = None if show is None else not show
    with tqdm(total=total, desc="Converting", unit="B", unit_scale=True, disable=disable) as bar:
        yield bar.update


def to_gguf(
    source: str,
    target: Path,
    *,
    task: str | None = None,
    kind: GGUFType = "F16",
    force: bool = False,
    show_progress: bool | None = None,
) -> None:
    """Write a checkpoint as a .gguf that llama.cpp and `mlx_jina.load` take.

    `task` fuses its adapter. Without it the adapters, if there are any, are written beside `target` as
    lora-TASK-TARGET, which llama.cpp loads with `--lora`.
    """
    file_type = gguf_types.check(kind)
    replace.check_file(target, force)
    checkpoint = open_source(source, task)
    replace.refuse_source(target, checkpoint.path)
    architecture = architectures.of_config(checkpoint.config)
    adapters = gguf_lora.files(checkpoint, architecture, target)
    adapter_paths = [adapter.target for adapter in adapters]
    # The adapters of an earlier model of this name would pass for this model's.
    stale = gguf_lora.named_after(target) - {*adapter_paths}
    existing = [path for path in (*stale, *adapter_paths) if path.exists()]
    if existing and not force:
        raise replace.exists_error(existing[0])
    files = [*adapters, writer.model_file(checkpoint, architecture, target, file_type)]
    with _progress(sum(file.nbytes for file in files), show_progress) as advance:
        gguf_file.write(files, advance)
    for path in stale:
        path.unlink()


def to_mlx(
    source: str,
    target: Path,
    *,
    task: str | None = None,
    dtype: Dtype | None = None,
    bits: Bits | None = None,
    group_size: GroupSize = 64,
    force: bool = False,
    show_progress: bool | None = None,
) -> None:
    """Write a checkpoint as a folder that `mlx_jina.load` and MLX's other loaders take.

    Of a .gguf, blocks that MLX can hold exactly stay packed unless `dtype` or `bits` asks for something else.
    `task` fuses its adapter; without it the adapters, if there are any, go beside the weights as they are: into
    adapters/TASK, of v3 into TASK as transformers names it.
    """
    _check_form(dtype, bits, group_size)
    target = replace.check_folder(target, force)
    checkpoint = open_source(source, task)
    replace.refuse_source(target, checkpoint.path)
    architecture = architectures.of_config(checkpoint.config)
    outputs, block = _outputs(checkpoint, architecture, getattr(mx, dtype) if dtype else None, bits, group_size)
    with replace.replacing_folder(target) as beside:
        _write_json(beside / "config.json", _config(checkpoint, block))
        (beside / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
        if checkpoint.prompts:
            _write_json(beside / "config_sentence_transformers.json", checkpoint.sentence_transformers_config)
        adapter_outputs = [output for adapter in checkpoint.adapters.values() for output in lora.outputs(adapter)]
        total = sum(output.nbytes for output in (*outputs, *adapter_outputs))
        with _progress(total, show_progress) as advance:
            for name, adapter in checkpoint.adapters.items():
                place = folder.adapter_folder(checkpoint.config.get("model_type"), name)
                lora.write(beside / place, adapter, advance)
            safetensors_file.write(beside / "model.safetensors", outputs, advance)


def _check_form(dtype: str | None, bits: int | None, group_size: int) -> None:
    """Refuse a form of weights that cannot be written."""
    device.check_dtype(dtype)
    if bits is not None and bits not in BITS:
        raise InputError(f"bits {bits} is not one of {', '.join(map(str, BITS))}")
    if group_size not in GROUP_SIZES:
        raise InputError(f"group size {group_size} is not one of {', '.join(map(str, GROUP_SIZES))}")


def _config(source: Source, block: Mapping[str, Any] | None) -> dict[str, Any]:
    """config.json of the new folder, with this `quantization` block."""
    config = {key: value for key, value in source.config.items() if key not in quantize.BLOCKS}
    if block is not None:
        config["quantization"] = block
    if source.general:
        config["gguf"] = source.general
    return config


def _outputs(
    source: Source, architecture: Architecture, dtype: mx.Dtype | None, bits: int | None, group_size: int
) -> tuple[list[Output], dict[str, Any] | None]:
    """What goes into model.safetensors, and config.json's `quantization` block."""
    outputs: list[Output] = []
    layer_bits: dict[str, int] = {}
    keeps_blocks = dtype is None and bits is None
    for name, weight in source.weights.items():
        if name.startswith(architecture.unused):
            continue
        layer = f"{architecture.mlx_prefix}{name.removesuffix('.weight')}"
        if keeps_blocks and weight.pack is not None:
            blocks = weight.pack()
            layer_bits[layer] = blocks.bits
            outputs.append(_packed_output(layer, blocks, weight.pack))
        elif bits is not None and _is_quantizable(name, weight, group_size):
            layer_bits[layer] = bits
            outputs.append(_quantized_output(layer, weight, dtype or weight.dtype, bits, group_size))
        else:
            outputs.append(_plain_output(f"{architecture.mlx_prefix}{name}", weight, dtype or weight.dtype))
    block_group_size = gguf_blocks.GROUP if keeps_blocks else group_size
    return outputs, quantize.block(layer_bits, block_group_size) if layer_bits else None


def _is_quantizable(name: str, weight: Weight, group_size: int) -> bool:
    layer, _, leaf = name.rpartition(".")
    matrix = leaf == "weight" and len(weight.shape) == 2 and layer not in _NEVER_QUANTIZED
    return matrix and weight.shape[-1] % group_size == 0


def _packed_output(layer: str, blocks: gguf_blocks.Packed, pack: Callable[[], gguf_blocks.Packed]) -> Output:
    """A layer in its own blocks, which `pack` makes once more when the layer's turn comes."""
    # Whether float16 can hold the scales exactly shows only in the blocks themselves.
    scale_dtype = mx.float16 if blocks.scales.dtype == "float16" else mx.float32
    dtypes = (mx.uint32, scale_dtype, scale_dtype)
    layout: Layout = {
        f"{layer}.{part}": (array.shape, dtype)
        for part, array, dtype in zip(quantize.PARTS, blocks[:3], dtypes, strict=True)
    }
    return Output(layout, lambda: dict(zip(layout, map(mx.array, pack()[:3]), strict=True)))


def _quantized_output(layer: str, weight: Weight, dtype: mx.Dtype, bits: int, group_size: int) -> Output:
    rows, columns = weight.shape
    shapes = ((rows, columns * bits // 32), (rows, columns // group_size), (rows, columns // group_size))
    layout: Layout = {
        f"{layer}.{part}": (shape, part_dtype)
        for part, shape, part_dtype in zip(quantize.PARTS, shapes, (mx.uint32, dtype, dtype), strict=True)
    }

    def make() -> dict[str, mx.array]:
        return dict(zip(layout, mx.quantize(weight.make().astype(dtype), group_size, bits), strict=True))

    return Output(layout, make)


def _plain_output(name: str, weight: Weight, dtype: mx.Dtype) -> Output:
    return Output({name: (weight.shape, dtype)}, lambda: {name: weight.make().astype(dtype)})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
