"""Any checkpoint to an MLX folder or a .gguf, one tensor in memory at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from gguf import GGMLQuantizationType as Type
from tqdm import tqdm

from mlx_jina import catalog, hub
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.tokens import Tokenizer
from mlx_jina.weights import (
    folder,
    gguf_blocks,
    gguf_file,
    gguf_model,
    gguf_tokenizer,
    lora,
    names,
    quantize,
    safetensors_file,
)
from mlx_jina.weights.gguf_file import GGUF

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
BITS, GROUP_SIZES = (4, 6, 8), (32, 64, 128)
# Two rows are no matrix to save memory on, and every text's vector passes through one of them.
_NEVER_QUANTIZED = ("embeddings.token_type_embeddings",)


@dataclass(frozen=True)
class Weight:
    """One tensor that can be made when needed, and is then kept by nobody."""

    shape: tuple[int, ...]
    dtype: mx.Dtype
    make: Callable[[], mx.array]


@dataclass(frozen=True)
class Source:
    """A checkpoint opened for conversion."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, Weight]
    tokenizer: Tokenizer
    tokenizer_json: str
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    general: dict[str, Any]
    # Modules of a .gguf whose blocks MLX can hold as they are.
    packed: gguf_model.Tensors | None = field(default=None)


def _from_gguf(path: Path, task: str | None) -> Source:
    if task is not None:
        raise InputError(f"{path} is one file without adapters; --task needs a folder that has them")
    file = GGUF(path)
    config, tensors = gguf_model.open_tensors(file, packed=True)
    tokenizer, raw = gguf_tokenizer.read(file)
    stored = gguf_model._json(file, gguf_model.PROMPTS)

    def weight(name: str) -> Weight:
        return Weight(tensors.shape(name), tensors.dtype(name), lambda: tensors[name])

    return Source(
        path=path,
        config=config,
        weights={name: weight(name) for name in tensors},
        tokenizer=tokenizer,
        tokenizer_json=raw,
        prompts=stored.get("prompts") or {},
        default_prompt_name=stored.get("default_prompt_name"),
        general={
            key.removeprefix("general."): value
            for key, value in file.metadata.items()
            if key.startswith("general.")
            and key.removeprefix("general.") not in ("architecture", "type", "file_type", "quantization_version")
            and key != "general.alignment"
        },
        packed=tensors,
    )


def _plain(config: Mapping[str, Any], tensors: dict[str, mx.array]) -> dict[str, Weight]:
    """Full weights of a folder's tensors; quantised ones are expanded. Takes the tensors out of the dictionary."""

    def weight(name: str) -> Weight:
        held = tensors[name]
        module = name.removesuffix(".weight")
        if f"{module}.scales" not in tensors or not name.endswith(".weight"):
            # Once read, an array keeps its data: the last reference has to go with it.
            shape, dtype = held.shape, held.dtype
            return Weight(shape, dtype, lambda: tensors.pop(name))
        parts = {f"{module}.{part}": tensors[f"{module}.{part}"] for part in ("weight", "scales", "biases")}
        scales = parts[f"{module}.scales"]
        columns = scales.shape[-1] * quantize._parameters(config, module)["group_size"]

        def expand() -> mx.array:
            mine = {key: tensors.pop(key) for key in parts}
            return quantize.dequantize(mine, config, mx.float32)[name]

        shape = (*scales.shape[:-1], columns)
        parts = dict.fromkeys(parts, mx.array(0))
        return Weight(shape, mx.float32, expand)

    return {
        name: weight(name)
        for name in tensors
        if not (name.endswith((".scales", ".biases")) and f"{name.rpartition('.')[0]}.weight" in tensors)
    }


def _with_adapter(weights: dict[str, Weight], adapter: lora.Adapter) -> dict[str, Weight]:
    """Weights with an adapter fused in when their turn comes."""
    for module in adapter.pairs:
        if f"{module}.weight" not in weights:
            raise CheckpointError(f"{adapter.path}: it changes {module}, which does not exist in the base model")

    def fused(name: str, plain: Weight) -> Weight:
        module = name.removesuffix(".weight")
        if module not in adapter.pairs or not name.endswith(".weight"):
            return plain
        own = lora.Adapter(adapter.path, adapter.base, {module: adapter.pairs[module]})
        return Weight(plain.shape, plain.dtype, lambda: lora.fuse({name: plain.make()}, own)[name])

    return {name: fused(name, plain) for name, plain in weights.items()}


def _from_folder(path: Path, task: str | None, entry: catalog.Entry | None) -> Source:
    merged = entry is not None and len(entry.tasks) == 1
    files = folder.read(path, task, merged=merged)
    if files.adapters and task is None:
        raise InputError(
            f"{path} has an adapter for each task; choose one with --task: {', '.join(files.adapters)}"
        )
    entry = entry or next((catalog.find(adapter.base) for adapter in files.adapters.values()), None)
    config = dict(files.config)
    weights = _plain(config, files.tensors)
    for adapter in files.adapters.values():
        weights = _with_adapter(weights, adapter)
    general: dict[str, Any] = {"name": entry.repo.rpartition("/")[2] if entry else path.name}
    if task is not None:
        general["finetune"] = task
        config["task_names"] = [task]
        if config.get("model_type") == "jina_embeddings_v5":
            # With its adapter fused it is an ordinary model, and no longer asks for files beside it.
            config.update(model_type="qwen3", architectures=["Qwen3Model"])
    if entry is not None:
        general["license"] = entry.license
        if "/" in entry.repo:
            general["source.url"] = f"https://huggingface.co/{entry.repo}"
    if path.parent.name == "snapshots":
        general["source.revision"] = path.name
    general.update(config.pop("gguf", {}))
    return Source(
        path=path,
        config=config,
        weights=weights,
        tokenizer=files.tokenizer,
        tokenizer_json=(path / "tokenizer.json").read_text(encoding="utf-8"),
        prompts=files.prompts or (entry.prompts if entry else {}),
        default_prompt_name=files.default_prompt_name or (entry.default_prompt_name if entry else None),
        general=general,
    )


def open_source(name: str, task: str | None = None) -> Source:
    """A model's name, folder or .gguf, opened without reading its weights."""
    path = hub.resolve(name, task=task)
    if not path.is_dir():
        return _from_gguf(path, task)
    return _from_folder(path, task, catalog.find(name) or catalog.find(path.name))


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
    kind: str = "F16",
    force: bool = False,
    show_progress: bool | None = None,
) -> None:
    """Write a checkpoint as one .gguf that llama.cpp and `mlx_jina.load` take."""
    if kind.upper() not in gguf_blocks.WRITABLE:
        raise InputError(
            f"type {kind!r} is not one of {', '.join(gguf_blocks.WRITABLE)}; llama.cpp's llama-quantize makes "
            "others from an F32 or F16 file"
        )
    if target.exists() and not force:
        raise InputError(f"{target} exists already; --force replaces it")
    wanted = Type[kind.upper()]
    opened = open_source(source, task)
    if target.exists() and opened.path.exists() and os.path.samefile(target, opened.path):
        raise InputError(f"{target} is also the source")
    architecture = names.of_config(opened.config)
    pieces = names.to_gguf(architecture, opened.weights)
    # Parts of one tensor follow each other, so that it is read once.
    order = {name: i for i, name in enumerate(opened.weights)}
    rows = sorted(pieces.items(), key=lambda item: (order[item[1].name], item[1].index))
    held: dict[str, mx.array] = {}

    def make(piece: names.Piece, chosen: Type, last: bool) -> Any:
        full = held.pop(piece.name) if piece.name in held else opened.weights[piece.name].make()
        if not last:
            held[piece.name] = full
        size = full.shape[0] // piece.of
        return gguf_blocks.quantize(full[piece.index * size : (piece.index + 1) * size], chosen)

    outputs = []
    for position, (name, piece) in enumerate(rows):
        full = opened.weights[piece.name].shape
        shape = (full[0] // piece.of, *full[1:])
        chosen = gguf_model.choose_type(name, shape, wanted)
        last = position + 1 == len(rows) or rows[position + 1][1].name != piece.name
        outputs.append(
            gguf_file.Output(name, chosen, shape, lambda p=piece, c=chosen, z=last: make(p, c, z))  # type: ignore[misc]
        )
    metadata = gguf_model.metadata(
        architecture, opened.config, wanted, opened.general, opened.prompts, opened.default_prompt_name
    )
    metadata |= gguf_tokenizer.metadata(
        opened.tokenizer_json, opened.tokenizer, opened.config["vocab_size"], opened.config.get("type_vocab_size")
    )
    with _progress(sum(output.nbytes for output in outputs), show_progress) as advance:
        gguf_file.write(target, architecture.name, metadata, outputs, force=force, advance=advance)


def _packed_output(opened: Source, module: str) -> safetensors_file.Output:
    tensors = opened.packed
    assert tensors is not None
    shape, bits = tensors.shape(f"{module}.weight"), tensors.bits[module]
    groups = (*shape[:-1], shape[-1] // gguf_blocks.GROUP)
    # Whether float16 can hold the scales exactly shows only in the blocks themselves.
    held = tensors.pack(module)
    scale_dtype = mx.float16 if held.scales.dtype == "float16" else mx.float32
    layout = {
        f"{module}.weight": ((*shape[:-1], shape[-1] * bits // 32), mx.uint32),
        f"{module}.scales": (groups, scale_dtype),
        f"{module}.biases": (groups, scale_dtype),
    }

    def make() -> dict[str, mx.array]:
        packed = tensors.pack(module)
        return dict(zip(layout, map(mx.array, (packed.weight, packed.scales, packed.biases)), strict=True))

    return safetensors_file.Output(layout, make)


def _outputs(
    opened: Source, dtype: mx.Dtype | None, bits: int | None, group: int
) -> tuple[list[safetensors_file.Output], dict[str, Any] | None]:
    """What goes into model.safetensors, and config.json's quantization block."""
    outputs: list[safetensors_file.Output] = []
    keep = opened.packed if opened.packed is not None and dtype is None and bits is None else None
    quantized = False
    for name, weight in opened.weights.items():
        module = name.removesuffix(".weight")
        kind = dtype or weight.dtype
        if keep is not None and name.endswith(".weight") and module in keep.bits:
            outputs.append(_packed_output(opened, module))
        elif (
            bits is not None
            and name.endswith(".weight")
            and len(weight.shape) == 2
            and not weight.shape[-1] % group
            and module not in _NEVER_QUANTIZED
        ):
            quantized = True
            layout: dict[str, tuple[tuple[int, ...], mx.Dtype]] = {
                name: ((weight.shape[0], weight.shape[1] * bits // 32), mx.uint32),
                f"{module}.scales": ((weight.shape[0], weight.shape[1] // group), kind),
                f"{module}.biases": ((weight.shape[0], weight.shape[1] // group), kind),
            }

            def pack(weight: Weight = weight, kind: mx.Dtype = kind, keys: list[str] = list(layout)) -> Any:  # noqa: B006
                return dict(zip(keys, mx.quantize(weight.make().astype(kind), group, bits), strict=True))

            outputs.append(safetensors_file.Output(layout, pack))
        else:

            def cast(name: str = name, weight: Weight = weight, kind: mx.Dtype = kind) -> dict[str, mx.array]:
                return {name: weight.make().astype(kind)}

            outputs.append(safetensors_file.Output({name: (weight.shape, kind)}, cast))
    if keep is not None and keep.bits:
        return outputs, gguf_model.quantization(keep.bits)
    return outputs, {"group_size": group, "bits": bits} if quantized else None


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
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if bits is not None and bits not in BITS:
        raise InputError(f"bits {bits} is not one of {', '.join(map(str, BITS))}")
    if group_size not in GROUP_SIZES:
        raise InputError(f"group size {group_size} is not one of {', '.join(map(str, GROUP_SIZES))}")
    if target.exists() and not force:
        raise InputError(f"{target} exists already; --force replaces it")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist")
    opened = open_source(source, task)
    if target.exists() and os.path.samefile(target, opened.path):
        raise InputError(f"{target} is also the source")
    unused = names.of_config(opened.config).unused
    for name in [name for name in opened.weights if name.startswith(unused)]:
        del opened.weights[name]
    outputs, block = _outputs(opened, DTYPES[dtype] if dtype else None, bits, group_size)
    config = {key: value for key, value in opened.config.items() if key != "quantization"}
    if block is not None:
        config["quantization"] = block
    if opened.general:
        config["gguf"] = opened.general
    beside = target.with_name(f"{target.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        _write_json(beside / "config.json", config)
        (beside / "tokenizer.json").write_text(opened.tokenizer_json, encoding="utf-8")
        if opened.prompts:
            own = {"prompts": dict(opened.prompts), "default_prompt_name": opened.default_prompt_name}
            _write_json(beside / "config_sentence_transformers.json", own)
        with _progress(sum(output.nbytes for output in outputs), show_progress) as advance:
            safetensors_file.write(beside / "model.safetensors", outputs, advance)
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
        os.replace(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
