"""Any checkpoint to an MLX folder or a .gguf, one tensor in memory at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from tqdm import tqdm

from mlx_jina import device, durable, models
from mlx_jina.choices import MODES, RECIPES, Bits, Dtype, GGUFType, GroupSize, Mode, Recipe
from mlx_jina.errors import InputError
from mlx_jina.models.qwen2_5_vl import PROJECTOR, TOWER
from mlx_jina.options import check as check_options
from mlx_jina.weights import (
    checkpoint,
    folder,
    json_file,
    lora,
    quantize,
    replace,
    rerankers,
    safetensors_file,
    vision,
)
from mlx_jina.weights.gguf import architectures, writer
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import types as gguf_types
from mlx_jina.weights.jina_v4 import PREPROCESSOR
from mlx_jina.weights.open import open_source
from mlx_jina.weights.quantize import Packing
from mlx_jina.weights.safetensors_file import Layout, Output
from mlx_jina.weights.source import Source, Weight

# Few rows are no matrix to save memory on, and every text's vector passes through some of them. v4's projector is
# small, and its vision tower loses most by rounding.
_NEVER_QUANTIZED = ("embeddings.token_type_embeddings", "embeddings.position_embeddings", PROJECTOR, TOWER)
# Of a folder with a model that sees: what mlx-jina knows of pictures besides config.json.
_COPIED = (PREPROCESSOR,)

# The packing of a layer by its name, None to leave the layer as it is.
PackingOf = Callable[[str], Packing | None]


@contextmanager
def _progress(total: int, show: bool | None) -> Iterator[Callable[[int], object]]:
    # Packaged programs have no standard streams.
    disable = True if sys.stderr is None else None if show is None else not show
    with tqdm(total=total, desc="Converting", unit="B", unit_scale=True, disable=disable) as bar:
        yield bar.update


def to_gguf(
    source: str | Path,
    target: str | Path,
    *,
    task: str | None = None,
    as_model: str | None = None,
    kind: GGUFType = "F16",
    force: bool = False,
    show_progress: bool | None = None,
) -> None:
    """Write a checkpoint as a .gguf that llama.cpp and `mlx_jina.load` take.

    `as_model` is the published model that the source is, as in `mlx_jina.load`. `task` fuses its adapter. Without
    it the adapters, if there are any, are written beside `target` as lora-TASK-TARGET, which llama.cpp loads with
    `--lora`.
    """
    check_options(
        source=source,
        target=target,
        task=task,
        as_model=as_model,
        kind=kind,
        force=force,
        show_progress=show_progress,
    )
    file_type, target = gguf_types.check(kind), Path(target)
    replace.check_file(target, force)
    opened = open_source(str(source), task, as_model)
    replace.refuse_source(target, opened.path)
    architecture = architectures.of_config(opened.config)
    adapters = gguf_lora.files(opened, architecture, target)
    adapter_paths = [adapter.target for adapter in adapters]
    # The adapters of an earlier model of this name would pass for this model's.
    stale = gguf_lora.named_after(target) - {*adapter_paths}
    existing = [path for path in (*stale, *adapter_paths) if path.exists()]
    if existing and not force:
        raise replace.exists_error(existing[0])
    files = [*adapters, writer.model_file(opened, architecture, target, file_type)]
    with _progress(sum(file.nbytes for file in files), show_progress) as advance:
        gguf_file.write(files, advance)
    for path in stale:
        path.unlink()


def to_mlx(
    source: str | Path,
    target: str | Path,
    *,
    task: str | None = None,
    as_model: str | None = None,
    dtype: Dtype | None = None,
    bits: Bits | None = None,
    group_size: GroupSize | None = None,
    mode: Mode | None = None,
    recipe: Recipe | None = None,
    force: bool = False,
    show_progress: bool | None = None,
) -> None:
    """Write a checkpoint as a folder that `mlx_jina.load` and MLX's other loaders take; `as_model` as there.

    `bits` or `mode` quantises the matrices; what is left out of `bits`, `group_size` and `mode` is MLX's default
    (affine, 4 bits, groups of 64; the other modes have one number of bits and one size). `recipe` is one of
    mlx-lm's for affine weights of two widths, for models whose layers have mlx-lm's names. `dtype` is that of what
    is not packed. Of a .gguf, blocks that MLX can hold exactly stay packed unless one of these asks for something
    else; a folder's packed matrices are expanded first. `task` fuses its adapter; without it the adapters, if
    there are any, go beside the weights as they are: into adapters/TASK, of v3 into TASK as transformers names it.
    """
    check_options(
        source=source,
        target=target,
        task=task,
        as_model=as_model,
        dtype=dtype,
        bits=bits,
        group_size=group_size,
        mode=mode,
        recipe=recipe,
        force=force,
        show_progress=show_progress,
    )
    device.check_dtype(dtype)
    packing = _packing(bits, group_size, mode, recipe)
    target = replace.check_folder(Path(target), force)
    opened = open_source(str(source), task, as_model)
    replace.refuse_source(target, opened.path)
    packing_of = _packing_of(opened, packing, recipe)
    tower = _omni_tower(opened)
    outputs, block = _outputs(
        opened, getattr(mx, dtype) if dtype else None, packing_of, folder.LANGUAGE_MODEL if tower else ""
    )
    outputs += [_kept_output(name, tensor) for name, tensor in tower.items()]
    with replace.replacing_folder(target) as beside:
        _write_json(beside / "config.json", _config(opened, block, sees=bool(tower) or _sees(opened)))
        durable.write_text(beside / "tokenizer.json", opened.tokenizer_json)
        for name in _COPIED if tower or _sees(opened) else ():
            if opened.path.is_dir() and (opened.path / name).is_file():
                durable.write_text(beside / name, json_file.text(opened.path / name))
        if opened.prompts:
            _write_json(beside / "config_sentence_transformers.json", opened.sentence_transformers_config)
        adapter_outputs = [output for adapter in opened.adapters.values() for output in lora.outputs(adapter)]
        total = sum(output.nbytes for output in (*outputs, *adapter_outputs))
        with _progress(total, show_progress) as advance:
            for name, adapter in opened.adapters.items():
                place = folder.adapter_folder(opened.config.get("model_type"), name)
                lora.write(beside / place, adapter, advance)
            safetensors_file.write(beside / "model.safetensors", outputs, advance)


def _packing(bits: int | None, group_size: int | None, mode: str | None, recipe: str | None) -> Packing | None:
    """How matrices are packed, if they are. Refuses what MLX has not and what contradicts itself."""
    if recipe is not None:
        if recipe not in RECIPES:
            raise InputError(f"recipe {recipe!r} is not one of {', '.join(RECIPES)}")
        if bits is not None or mode not in (None, quantize.AFFINE):
            raise InputError(f"recipe {recipe} decides on the bits of each layer; leave out bits and mode")
    elif bits is None and mode is None:
        if group_size is not None:
            raise InputError(f"group size {group_size} is for quantised weights; say how many bits or which mode")
        return None
    if mode is not None and mode not in MODES:
        raise InputError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    try:
        return quantize.packing_of(mode or quantize.AFFINE, bits, group_size)
    except ValueError as error:
        raise InputError(f"weights cannot be quantised like this: {error}") from None


def _packing_of(source: Source, packing: Packing | None, recipe: str | None) -> PackingOf | None:
    """How each layer's weight is packed; None if they stay as they are."""
    if packing is None:
        return None
    if recipe is None:
        return lambda _: packing
    # Imported here: it takes seconds.
    from mlx_lm.convert import mixed_quant_predicate_builder

    model: Any = checkpoint.build(source.path, source.config, source.weights)
    try:
        predicate: Any = mixed_quant_predicate_builder(recipe, model, packing.group_size)
    except ValueError:
        raise InputError(
            f"recipe {recipe} gives more bits to layers that mlx-lm calls v_proj and down_proj, which "
            f"{source.path} does not have; say how many bits or which mode instead"
        ) from None
    modules = dict(model.named_modules())
    return lambda layer: Packing(**predicate(layer, modules[layer]))


def _config(source: Source, block: Mapping[str, Any] | None, *, sees: bool) -> dict[str, Any]:
    """config.json of the new folder, with this `quantization` block, and the tower's settings if there is one."""
    config = rerankers.published_config(source.config) if source.kind == "reranker" else source.config
    gone = quantize.BLOCKS if sees else (*quantize.BLOCKS, "vision_config")
    config = {key: value for key, value in config.items() if key not in gone}
    if block is not None:
        config["quantization"] = block
    if source.general:
        config["gguf"] = source.general
    return config


def _naming(source: Source) -> Callable[[str], str | None]:
    """The names in model.safetensors of tensors and layers; None for a tensor that is left out."""
    if source.kind == "reranker":
        # Tensors of other heads are gone already.
        return partial(rerankers.published_name, models.identify(source.config).architecture)
    architecture = architectures.of_config(source.config)

    def naming(name: str) -> str | None:
        # A layer is all of what a prefix names: "lm_head" of "lm_head.".
        return None if f"{name}.".startswith(architecture.unused) else f"{architecture.mlx_prefix}{name}"

    return naming


def _sees(source: Source) -> bool:
    """Whether a vision tower is among the weights, as it is in v4's folders."""
    return any(name.startswith(TOWER) for name in source.weights)


def _omni_tower(source: Source) -> dict[str, mx.array]:
    """The tower of v5-omni, which stands beside the language model's weights and stays as it is."""
    if _sees(source) or not source.path.is_dir() or not isinstance(source.config.get("vision_config"), Mapping):
        return {}
    return vision.omni_tower(source.path)


def _outputs(
    source: Source, dtype: mx.Dtype | None, packing_of: PackingOf | None, prefix: str
) -> tuple[list[Output], dict[str, Any] | None]:
    """What goes into model.safetensors, under names with a prefix, and config.json's `quantization` block."""
    naming = _naming(source)
    outputs: list[Output] = []
    packings: dict[str, Packing] = {}
    keeps_blocks = dtype is None and packing_of is None
    for name, weight in source.weights.items():
        layer = name.removesuffix(".weight")
        if (target := naming(layer)) is None:
            continue
        target = f"{prefix}{target}"
        packing = packing_of(layer) if packing_of is not None and _is_matrix(name, weight) else None
        if keeps_blocks and weight.pack is not None:
            blocks = weight.pack()
            packings[target] = Packing(gguf_blocks.GROUP, blocks.bits)
            outputs.append(_packed_output(target, blocks, weight.pack))
        elif packing is not None and weight.shape[-1] % packing.group_size == 0:
            packings[target] = packing
            outputs.append(_quantized_output(target, weight, dtype or weight.dtype, packing))
        else:
            outputs.append(_plain_output(f"{target}{name[len(layer) :]}", weight, dtype or weight.dtype))
    return outputs, quantize.block(packings) if packings else None


def _is_matrix(name: str, weight: Weight) -> bool:
    is_weight = name.endswith(".weight") and len(weight.shape) == 2
    return is_weight and not name.startswith((*_NEVER_QUANTIZED, *rerankers.HEADS))


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


def _quantized_output(layer: str, weight: Weight, dtype: mx.Dtype, packing: Packing) -> Output:
    rows, columns = weight.shape
    parts = packing.layout(columns, dtype)
    layout: Layout = {f"{layer}.{part}": ((rows, width), kind) for part, (width, kind) in parts.items()}
    return Output(layout, lambda: dict(zip(layout, quantize.pack(weight.make(), packing, dtype), strict=True)))


def _plain_output(name: str, weight: Weight, dtype: mx.Dtype) -> Output:
    return Output({name: (weight.shape, dtype)}, lambda: {name: weight.make().astype(dtype)})


def _kept_output(name: str, tensor: mx.array) -> Output:
    return Output({name: (tensor.shape, tensor.dtype)}, lambda: {name: tensor})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    durable.write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
