"""jina-embeddings-v3 as its repository has it, turned into the layout of transformers' `jina_embeddings_v3`.

The original keeps all adapters in the one checkpoint, in the form of torch's parametrizations: for each layer the
plain weight as `parametrizations.weight.original`, and `0.lora_A` and `0.lora_B` with one slice per task, in the
order of config.json's `lora_adaptations`. Names are those of its own XLM-RoBERTa, with queries, keys and values in
one matrix. transformers writes these names too, without the adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina.errors import CheckpointError
from mlx_jina.nn.lora import Pair
from mlx_jina.weights import safetensors_file
from mlx_jina.weights.lora import Adapter

MODEL_TYPE, REPO = "jina_embeddings_v3", "jinaai/jina-embeddings-v3"
TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")

_RENAMES = (
    (r"^roberta\.", ""),
    (r"^emb_ln\.", "embeddings.LayerNorm."),
    (r"^encoder\.layers\.", "layers."),
    (r"^(layers\.\d+)\.mixer\.Wqkv\.", r"\1.self_attn.qkv_proj."),
    (r"^(layers\.\d+)\.mixer\.out_proj\.", r"\1.self_attn.o_proj."),
    (r"^(layers\.\d+)\.norm1\.", r"\1.post_attention_layernorm."),
    (r"^(layers\.\d+)\.norm2\.", r"\1.post_mlp_layernorm."),
    (r"\.parametrizations\.weight\.original$", ".weight"),
)
_STACK = re.compile(r"(.+)\.parametrizations\.weight\.0\.lora_([AB])")
_EMBEDDINGS = ("embeddings.word_embeddings", "embeddings.token_type_embeddings")
# Keys of the original config.json that have other names in transformers' layout, or that are about training.
_LEFT_OUT = re.compile(r"auto_map|rotary_emb_base|lora_\w+|load_trained_adapters|use_flash_attn|task_instructions")


def folder_of(task: str) -> str:
    """The folder of a task's adapter in transformers' layout."""
    return re.sub(r"\W", "_", task)


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a config.json belongs to this model, in either layout."""
    return config.get("model_type") == MODEL_TYPE or _is_original(config)


def _is_original(config: Mapping[str, Any]) -> bool:
    # Rerankers have absolute positions.
    if "XLMRobertaForSequenceClassification" in (config.get("architectures") or ()):
        return False
    return config.get("model_type") == "xlm-roberta" and "rotary_emb_base" in config


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json in the keys of transformers' `jina_embeddings_v3`."""
    if not _is_original(config):
        return dict(config)
    settings = {key: value for key, value in config.items() if not _LEFT_OUT.fullmatch(key)}
    rope = {"rope_type": "default", "rope_theta": config["rotary_emb_base"]}
    settings |= {"model_type": MODEL_TYPE, "architectures": ["JinaEmbeddingsV3Model"], "rope_parameters": rope}
    if sizes := config.get("matryoshka_dimensions"):
        settings["matryoshka_dims"] = sizes
    return settings


def translate(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, mx.array]
) -> tuple[dict[str, mx.array], dict[str, Adapter]]:
    """Tensors under transformers' names, and the adapters that were among them.

    `config` is the original config.json. Tensors of transformers' layout keep their names.
    """
    plain: dict[str, mx.array] = {}
    stacks: dict[str, dict[str, mx.array]] = {}
    for name, tensor in tensors.items():
        name = _renamed(name)
        if match := _STACK.fullmatch(name):
            try:
                safetensors_file.check_floating(name, tensor)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
            stacks.setdefault(match[1], {})[match[2]] = tensor
            continue
        module, _, leaf = name.rpartition(".")
        plain |= {f"{part}.{leaf}": rows for part, rows in _parts(module, tensor).items()}
    return plain, _adapters(path, config, stacks)


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _parts(module: str, tensor: mx.array) -> dict[str, mx.array]:
    """The rows that queries, keys and values have of their one matrix; any other module as it is."""
    if not module.endswith(".qkv_proj"):
        return {module: tensor}
    rows = mx.split(tensor, 3, axis=0)
    return {module.replace("qkv_proj", f"{part}_proj"): x for part, x in zip("qkv", rows, strict=True)}


# The A and B of every task, (tasks, ...), by module.
_Stacks = Mapping[str, Mapping[str, mx.array]]


def _adapters(path: Path, config: Mapping[str, Any], stacks: _Stacks) -> dict[str, Adapter]:
    """One adapter for each of config.json's tasks."""
    tasks = list(config.get("lora_adaptations") or ()) if _is_original(config) else []
    rank, alpha = config.get("lora_rank"), config.get("lora_alpha")
    if bool(tasks) != bool(stacks) or (tasks and not (rank and alpha)):
        raise CheckpointError(
            f"{path}: config.json has lora_adaptations {tasks}, lora_rank {rank!r} and lora_alpha {alpha!r}, but "
            f"{len(stacks)} of the checkpoint's layers have adapters"
        )
    for module, halves in stacks.items():
        _check_stack(path, module, halves, len(tasks), rank)
    return {
        task: Adapter(path, REPO, _pairs(stacks, index, float(alpha) / int(rank)))  # type: ignore[arg-type]
        for index, task in enumerate(tasks)
    }


def _check_stack(path: Path, module: str, halves: Mapping[str, mx.array], tasks: int, rank: Any) -> None:
    """Refuse a layer whose A and B do not have a slice of this rank for every task."""
    shapes = {half: halves[half].shape if half in halves else None for half in "AB"}
    first, last = ("B", "A") if module in _EMBEDDINGS else ("A", "B")
    sliced = all(shape is not None and len(shape) == 3 and shape[0] == tasks for shape in shapes.values())
    if not sliced or not halves[first].shape[1] == halves[last].shape[2] == rank:
        raise CheckpointError(
            f"{path}: {module} has lora_A {shapes['A']} and lora_B {shapes['B']}, not {tasks} slices of "
            f"rank {rank} each"
        )


def _pairs(stacks: _Stacks, task: int, scale: float) -> dict[str, Pair]:
    """The pairs of the task with this number."""
    pairs: dict[str, Pair] = {}
    for module, halves in stacks.items():
        a, b = halves["A"][task], halves["B"][task]
        if module in _EMBEDDINGS:
            # An embedding has its rows in A.
            a, b = b, a
        pairs |= {part: Pair(a, rows, scale) for part, rows in _parts(module, b).items()}
    return pairs
