"""A folder with config.json, safetensors and tokenizer.json: Hugging Face's and MLX's layout alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx

from mlx_jina import catalog, models
from mlx_jina.errors import CheckpointError, some
from mlx_jina.models.config import names as config_names
from mlx_jina.text import prompts
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import (
    checkpoint,
    colbert,
    jina_v3,
    jina_v4,
    json_file,
    lora,
    modules,
    projector,
    quantize,
    safetensors_file,
    tokenizer_config,
)
from mlx_jina.weights.checkpoint import Checkpoint

T = TypeVar("T")

_TORCH = (".bin", ".pt", ".pth", ".ckpt")
_VOCABULARIES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "tokenizer.model")


def _is_plain_name(name: object) -> bool:
    """Whether this names something in a folder, and nowhere else."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name) is not None


def check_task(task: object, path: Path) -> str:
    """A task's name from the file `path`. Folders and files get this name, so that a path is refused."""
    if not isinstance(task, str) or not _is_plain_name(task):
        raise CheckpointError(f"{path}: {task!r} is no name of a task")
    return task


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the one that has all, as in transformers, or those of its index."""
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        shards = json_file.read(index).get("weight_map")
        if not isinstance(shards, dict) or not all(_is_plain_name(shard) for shard in shards.values()):
            raise CheckpointError(f"{index}: 'weight_map' should map tensors to files beside it")
        return [folder / shard for shard in sorted(set(shards.values()))]
    return [folder / "model.safetensors"]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. The settings of the text model come first where the model also sees or hears."""
    config = json_file.read(folder / "config.json")
    if jina_v4.is_one(config):
        return jina_v4.read_config(config)
    text_config = config.get("text_config")
    return {**config, **text_config} if isinstance(text_config, dict) else config


def adapter_folder(kind: str | None, task: str) -> str:
    """Where a folder of this model_type has the adapter of a task."""
    return jina_v3.folder_of(task) if kind == jina_v3.MODEL_TYPE else f"adapters/{task}"


def adapter_folders(folder: Path, merged: bool = False) -> dict[str, str]:
    """Where adapters lie beside the base weights, by task; also where config.json lists one that is missing."""
    if merged:
        return {}
    config = read_config(folder)
    kind = config.get("model_type")
    try:
        tasks: Sequence[str] | None = config_names(config, "task_names")
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    if jina_v4.has_adapters(config):
        return {
            check_task(task, folder / "config.json"): jina_v4.adapter_folder(folder, task)
            for task in (catalog.V4_TASKS if tasks is None else tasks)
        }
    if kind == jina_v3.MODEL_TYPE and tasks is None:
        tasks = jina_v3.TASKS
    elif kind != "jina_embeddings_v5" or not tasks:
        # A hidden folder is not one that anybody named after a task.
        tasks = sorted(path.parent.name for path in folder.glob(f"adapters/[!.]*/{lora.CONFIG_FILE}"))
    return {task: adapter_folder(kind, check_task(task, folder / "config.json")) for task in tasks}


def _choose(tasks: Mapping[str, T], task: str | None) -> Mapping[str, T]:
    """The entries of all tasks, or the one of `task`."""
    if not tasks or task is None:
        return tasks
    name, _ = prompts.choose_task(task, None, tuple(tasks))
    return {} if name is None else {name: tasks[name]}


def missing_files(folder: Path, task: str | None = None, merged: bool = False) -> list[str]:
    """Names of the files that a folder lacks to be loaded, for one task or for all."""
    needed = [folder / "config.json", folder / "tokenizer.json", *weight_files(folder)]
    needed += modules.needed_files(folder)
    if needed[0].is_file():
        needed += projector.missing(folder, read_config(folder))
        # Without its adapter a model would answer all the same, from the base weights.
        for place in _choose(adapter_folders(folder, merged), task).values():
            needed += [folder / place / file for file in (lora.CONFIG_FILE, lora.WEIGHTS_FILE)]
    return [path.relative_to(folder).as_posix() for path in dict.fromkeys(needed) if not path.is_file()]


def _incomplete(folder: Path, missing: Sequence[str]) -> CheckpointError:
    """What a folder lacks, and what to do where something else stands in its place."""
    names = sorted(path.name for path in folder.iterdir())
    words = [f"{folder} lacks {some(missing)} (it has: {some(names) or 'nothing'})"]
    for name in missing:
        if (folder / name).is_symlink():
            words.append(f"{name} is a link to {(folder / name).readlink()}, which is gone: download it again")
    if "model.safetensors" in missing and (torch := [name for name in names if name.endswith(_TORCH)]):
        words.append(
            f"{torch[0]} is torch's own format, which would be executed: load it with transformers, and "
            "save_pretrained writes safetensors"
        )
    if "tokenizer.json" in missing and any(name in names for name in _VOCABULARIES):
        words.append("transformers makes a tokenizer.json of it: AutoTokenizer, from_pretrained, save_pretrained")
    if "config.json" in missing and lora.CONFIG_FILE in names:
        words.append("it is an adapter alone: merge it into its model with PEFT's merge_and_unload, and load that")
    return CheckpointError("; ".join(words))


# A model with a head keeps the encoder under one of these names.
BASE_MODEL_PREFIXES = ("bert.", "model.")
LANGUAGE_MODEL = "language_model."
# No vector depends on these heads, although some adapters change them.
POOLER = ("pooler.",)


def _without_prefix(name: str) -> str:
    name = name.removeprefix(LANGUAGE_MODEL)
    prefix = next((prefix for prefix in BASE_MODEL_PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _text_model(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """The tensors under the encoder's names. Of a model that also sees or hears, only its language model's."""
    language = {name: tensor for name, tensor in tensors.items() if name.startswith(LANGUAGE_MODEL)}
    found: dict[str, mx.array] = {}
    for name, tensor in (language or tensors).items():
        if (short := _without_prefix(name)) in found:
            raise CheckpointError(f"it holds {short} twice, also as {name}")
        found[short] = tensor
    return found


def _read_tensors(folder: Path) -> dict[str, mx.array]:
    """The tensors of all files. Raises CheckpointError for one that is there twice: which is right is unknown."""
    tensors: dict[str, mx.array] = {}
    for path in weight_files(folder):
        part = safetensors_file.read(path)
        if twice := sorted(tensors.keys() & part.keys()):
            raise CheckpointError(f"{path} holds {some(twice, 3)}, which another file of the model holds too")
        tensors |= part
    return tensors


def read(folder: Path, task: str | None = None, merged: bool = False, *, encoder: bool = True) -> Checkpoint:
    """Read a folder, with all of its adapters or the one of `task`. Code in the folder is never executed.

    `merged`: there are no adapters, though config.json may list tasks. `encoder`: it gives vectors, of which
    sentence-transformers' files say more.
    """
    if missing := missing_files(folder, task, merged):
        raise _incomplete(folder, missing)
    if (folder / lora.CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder} has an {lora.CONFIG_FILE} beside config.json, an adapter that transformers puts on the "
            f"model: merge it with PEFT's merge_and_unload, or take {lora.CONFIG_FILE} away"
        )
    config, tensors = read_config(folder), _read_tensors(folder)
    if projector.is_beside(folder):
        tensors |= projector.read(folder)
    is_v4 = jina_v4.is_one(config)
    try:
        tensors = jina_v4.translate(tensors) if is_v4 else _text_model(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    if colbert.is_one(folder, config):
        return _read_colbert(folder, config, tensors)
    settings = modules.read_settings(folder) if encoder else {}
    try:
        config = quantize.normalized(config, tensors, jina_v4.renamed if is_v4 else _without_prefix)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    adapters = {
        name: lora.read(folder / place, name if place == jina_v4.ADAPTERS else None)
        for name, place in _choose(adapter_folders(folder, merged), task).items()
    }
    if jina_v3.is_one(config):
        tensors, stacked_adapters = jina_v3.translate(folder, config, tensors)
        adapters |= _choose(stacked_adapters, task)
    config = jina_v3.read_config(config)
    if encoder:
        config = _with_modules(folder, config)
    if jina_v4.has_adapters(config):
        settings = jina_v4.settings()
    return Checkpoint(
        path=folder,
        config=config,
        tensors=tensors,
        tokenizer=_tokenizer(folder / "tokenizer.json"),
        prompts=settings.get("prompts") or config.get("task_instructions") or {},
        default_prompt_name=settings.get("default_prompt_name"),
        adapters={name: adapter.without(POOLER) for name, adapter in adapters.items()},
    )


def _read_colbert(folder: Path, config: dict[str, Any], tensors: dict[str, mx.array]) -> Checkpoint:
    """A late-interaction model. What sentence-transformers says of it besides follows from these files."""
    path = folder / colbert.METADATA
    metadata = json_file.read(path) if path.is_file() else None
    config, tensors = colbert.translate(folder, config, tensors, metadata)
    return Checkpoint(folder, config, tensors, _tokenizer(folder / "tokenizer.json"))


def _tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_json(json_file.text(path), path)
    except CheckpointError as error:
        if (words := json_file.impostor(path)) is not None:
            raise CheckpointError(f"{path} {words}") from error
        raise
    tokenizer_config.check(path.parent, tokenizer)
    return tokenizer


def _with_modules(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """config.json with what sentence-transformers' files say besides. Raises CheckpointError."""
    found = modules.read(folder)
    try:
        modules.check(found, models.identify(config).pooling, folder)
    except CheckpointError as error:
        raise checkpoint.located(folder, error) from None
    return config if found.max_seq_length is None else {**config, checkpoint.LIMIT: found.max_seq_length}
