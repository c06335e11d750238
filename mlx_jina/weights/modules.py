"""What sentence-transformers' files say of how vectors are made: obeyed, or refused by name.

modules.json lists modules and their folders; the first is the model itself, whose sentence_bert_config.json may
limit texts. What mlx-jina computes after the model is one pooling, and the normalisation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_jina.errors import CheckpointError, shown, some
from mlx_jina.weights import json_file

FILE, MODULE_CONFIG, SETTINGS = "modules.json", "config.json", "config_sentence_transformers.json"
TOKENIZER = "tokenizer_config.json"
# Later ones are names of older releases; the first that a folder has is read.
LIMITS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Poolings of sentence-transformers, old and new names, by ours.
_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "lasttoken": "last",
}
# Modules that change nothing when a trained model runs.
_IDENTITIES = ("Dropout", "Normalize")
# Keys of the first module's settings that change nothing for a text, and what the others may be.
_LIMITS_ONLY: Mapping[str, tuple[Any, ...]] = {
    "do_lower_case": (False,),
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "query_expansion": (False,),
    "query_length": (),
    "document_length": (),
    "tokenizer_name_or_path": (),
}
# Keys that hold arguments for transformers, old and new names, and those that change no vector here; code is never
# executed, and of what is padded nothing remains.
_OF_LOADING = ("trust_remote_code", "revision", "cache_dir", "local_files_only", "token")
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("config_args", "config_kwargs"), _OF_LOADING),
    **dict.fromkeys(
        ("model_args", "model_kwargs"),
        (*_OF_LOADING, "attn_implementation", "dtype", "torch_dtype", "device_map", "low_cpu_mem_usage"),
    ),
    **dict.fromkeys(
        ("tokenizer_args", "processor_kwargs"),
        (*_OF_LOADING, "use_fast", "padding_side", "clean_up_tokenization_spaces"),
    ),
}
# What of the model's output is pooled, and with which arguments its tokenizer is called.
_TEXT_OUTPUT = {"method": "forward", "method_output_name": "last_hidden_state"}
_OF_CALLS = ("padding", "pad_to_multiple_of", "return_tensors")
_NORMALIZE_ONLY: Mapping[str, tuple[Any, ...]] = {
    "module_input_name": ("sentence_embedding",),
    "module_output_name": ("sentence_embedding",),
}


@dataclass(frozen=True)
class Modules:
    """What a folder asks for; None where it says nothing."""

    pooling: str | None = None
    include_prompt: bool = True
    max_seq_length: int | None = None


def needed_files(folder: Path) -> list[Path]:
    """Files without which it is not known how vectors are made: those of modules.json's poolings."""
    return [folder / module["path"] / MODULE_CONFIG for module in _listed(folder) if _kind(module) == "Pooling"]


def read_settings(folder: Path) -> dict[str, Any]:
    """config_sentence_transformers.json; empty without it. Raises CheckpointError for what is no dense encoder."""
    if not (path := folder / SETTINGS).is_file():
        return {}
    settings = json_file.read(path)
    if (kind := settings.get("model_type")) not in (None, "SentenceTransformer"):
        raise CheckpointError(f"{path}: 'model_type' is {kind!r}; only 'SentenceTransformer' is implemented")
    check_prompts(path, settings)
    return settings


def check_prompts(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse prompts that are no texts, and a default one that is not among them. Raises CheckpointError."""
    prompts, name = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{path}: 'prompts' should be texts by name, found {shown(prompts)}")
    # Some models have one of this name for each task.
    if name is not None and not any(key == name or key.endswith(f"_{name}") for key in prompts):
        names = some(prompts) or "none"
        raise CheckpointError(f"{path}: 'default_prompt_name' is {shown(name)}, but the prompts are: {names}")


def read(folder: Path) -> Modules:
    """Read these files, where a folder has them. Raises CheckpointError for what mlx-jina does not compute."""
    pooling, include_prompt = None, True
    for index, module in enumerate(_listed(folder)):
        kind, place = _kind(module), folder / module["path"]
        if kind == "Pooling":
            pooling, include_prompt = _pooling(place / MODULE_CONFIG)
        elif kind == "Normalize" and (place / MODULE_CONFIG).is_file():
            _expect(place / MODULE_CONFIG, _NORMALIZE_ONLY)
        elif index == 0 and kind == "Transformer" and module["path"]:
            raise CheckpointError(
                f"{folder / FILE} has the model in the folder {module['path']!r}: load {place} instead, if only "
                "pooling and normalisation follow it"
            )
        elif (index, kind) != (0, "Transformer") and kind not in _IDENTITIES:
            raise CheckpointError(
                f"{folder / FILE} puts a module {module['type']!r} ({module['path'] or 'no folder'}) behind the "
                "model, which is not implemented: vectors would be others than in sentence-transformers"
            )
    return Modules(pooling, include_prompt, _max_seq_length(folder))


def check(modules: Modules, pooling: str, folder: Path) -> None:
    """Refuse another pooling than the architecture's. Raises CheckpointError."""
    if modules.pooling not in (None, pooling):
        raise CheckpointError(
            f"{folder / FILE} asks for {modules.pooling!r} pooling, but this architecture's models are pooled by "
            f"{pooling!r}; other poolings are not implemented"
        )
    if pooling == "mean" and not modules.include_prompt:
        raise CheckpointError(
            f"{folder / FILE}: 'include_prompt' is false in its pooling, which is not implemented"
        )


def _listed(folder: Path) -> list[dict[str, str]]:
    """Type and path of each module; empty without modules.json."""
    if not (path := folder / FILE).is_file():
        return []
    content: Any = json_file.read_list(path)
    first = content[0].get("type") if content and isinstance(content[0], dict) else None
    if first is None or not str(first).endswith("Transformer"):
        raise CheckpointError(f"{path} should list modules of which the first is a Transformer, found {first!r}")
    for module in content:
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise CheckpointError(f"{path} should list modules with 'type' and 'path', found {module!r}")
        place = module.setdefault("path", "")
        if not isinstance(place, str) or ".." in Path(place).parts or Path(place).is_absolute():
            raise CheckpointError(f"{path}: {place!r} is no folder beside it")
    return list(content)


def _kind(module: Mapping[str, str]) -> str:
    return module["type"].rpartition(".")[2]


def _pooling(path: Path) -> tuple[str, bool]:
    """The name of the pooling, ours where mlx-jina has it, and whether tokens of prompts take part."""
    config: dict[str, Any] = json_file.read(path)
    modes = config.get("pooling_mode")
    if modes is None:
        # As sentence-transformers takes them: whatever is not false.
        modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        modes = modes or ["pooling_mode_mean_tokens"]
    names: list[Any] = modes if isinstance(modes, list) else [modes]
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: 'pooling_mode' should be a name, found {modes!r}")
    return " and ".join(_POOLINGS.get(name, name) for name in names), bool(config.get("include_prompt", True))


def _expect(path: Path, only: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """A module's settings, of which these have the values that are implemented; null always is."""
    config: dict[str, Any] = json_file.read(path)
    for key, allowed in only.items():
        if config.get(key) is not None and config[key] not in allowed:
            raise CheckpointError(f"{path}: {key!r} is {config[key]!r}, which is not implemented")
    return config


def _expect_block(path: Path, name: str, block: Any, allowed: Collection[str]) -> None:
    """Refuse arguments other than those `allowed`; null is none."""
    if block is not None and (not isinstance(block, dict) or block.keys() - allowed):
        raise CheckpointError(f"{path}: {name!r} is {shown(block)}, which is not implemented")


def _max_seq_length(folder: Path) -> int | None:
    path = next((path for name in LIMITS if (path := folder / name).is_file()), None)
    if path is None:
        # The code in Jina's repositories passes over the number in tokenizer_config.json.
        return None
    key = "max_seq_length"
    config = _expect(path, _LIMITS_ONLY)
    for name, allowed in _ARGUMENTS.items():
        _expect_block(path, name, config.get(name), allowed)
    modalities, calls = config.get("modality_config") or {}, config.get("processing_kwargs") or {}
    if not isinstance(modalities, dict) or modalities.get("text", _TEXT_OUTPUT) != _TEXT_OUTPUT:
        raise CheckpointError(f"{path}: 'modality_config' is {shown(modalities)}, which is not implemented")
    for name in ("common", "text") if isinstance(calls, dict) else ():
        _expect_block(path, f"processing_kwargs.{name}", calls.get(name), _OF_CALLS)
    limit = config.get(key)
    if limit is None and (tokenizer := folder / TOKENIZER).is_file():
        # sentence-transformers takes this one then, and since its release 6 writes no other.
        path, key = tokenizer, "model_max_length"
        limit = json_file.read(path).get(key)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit <= 0):
        raise CheckpointError(f"{path}: {key!r} should be a number of tokens, found {limit!r}")
    return limit
