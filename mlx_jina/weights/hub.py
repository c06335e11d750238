"""A model's name to a local folder. The only module that may touch the network."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mlx_jina import catalog
from mlx_jina.errors import ModelNotFoundError, shown
from mlx_jina.text import prompts

logger = logging.getLogger(__name__)

# The files that loading needs. Repositories also hold ONNX, OpenVINO and PyTorch copies, and code.
FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "artifact.metadata",
    "modules.json",
    # An adapter on the whole model, which is refused.
    "adapter_config.json",
    # Of the modules that modules.json names, such as 1_Pooling, and the limit of the first.
    "*/config.json",
    "sentence_*_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "projector.safetensors",
    "model-?????-of-?????.safetensors",
    # Of a model that sees: how large pictures may be, and what is subtracted from their pixels.
    "preprocessor_config.json",
)


def file_patterns(task: str | None) -> list[str]:
    """Patterns of the files to fetch, with those of all adapters or of the task's."""
    name = "*" if task is None else prompts.split_task(task)[0]
    # In transformers' layout of v3, adapters lie in folders beside the model.
    v3_folder = "*" if task is None else re.sub(r"\W", "_", task)
    files = ("adapter_config.json", "adapter_model.safetensors")
    # v4 has the adapters of all tasks in one file.
    places = (f"adapters/{name}", "adapters", v3_folder)
    return [*FILES, *(f"{place}/{file}" for place in places for file in files)]


def embedded(name: str) -> Path:
    """The folder of a model that ships inside the package."""
    return Path(__file__).parents[1] / name


def gguf_files(folder: Path) -> list[Path]:
    """The .gguf files of a folder; not hidden ones, such as macOS leaves beside each file on other disks."""
    return sorted(path for path in folder.glob("*.gguf") if not path.name.startswith("."))


def holds_gguf(path: Path) -> bool:
    """Whether this is a .gguf, or a folder of such files and not of Hugging Face's."""
    return path.is_file() or (not (path / "config.json").is_file() and bool(gguf_files(path)))


def holds_model(path: Path) -> bool:
    """Whether this is a .gguf, or a folder of either layout."""
    return (path / "config.json").is_file() or holds_gguf(path)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that is too long for one is a model's, or a mistake."""
    try:
        return path.exists()
    except OSError:
        return False


def split_alias(argument: str) -> tuple[str, str]:
    """ALIAS=NAME as (alias, name), where the alias may be "". A path may have an equals sign in it."""
    alias, equals, name = argument.partition("=")
    if not equals or catalog.find(argument) or exists(Path(os.path.expanduser(argument))):
        return "", argument
    return alias, name


def resolve(
    name: str,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    task: str | None = None,
    kind: catalog.Kind = "embedding",
) -> Path:
    """A folder that holds the model: the package's own, a local path, the Hugging Face cache, or a download.

    A complete snapshot in the cache is used without any network call. Raises ModelNotFoundError, which names
    models of the `kind` that is wanted.
    """
    if (path := local(name, kind)) is not None:
        return path
    entry = catalog.find(name)
    return _from_hub(entry.repo if entry else name, entry, revision, local_files_only, cache_dir, task)


def local(name: str, kind: catalog.Kind = "embedding") -> Path | None:
    """The file or folder that a name means; None for a repository, whether it is in the cache or not.

    Raises ModelNotFoundError for a name that is neither.
    """
    if not str(name):
        raise ModelNotFoundError("the name of the model is empty; for this folder, it is '.'")
    entry = catalog.find(name)
    if entry is not None and "/" not in entry.repo:
        return embedded(entry.repo)
    path = Path(os.path.expanduser(name))
    # A folder that is called like a known model may have something else in it.
    if exists(path) and (entry is None or holds_model(path)):
        if not path.is_dir() and not path.is_file():
            raise ModelNotFoundError(f"{path} is neither a folder nor a file")
        return path
    if entry is None and (name.count("/") != 1 or name.startswith((".", "~", "/"))):
        raise _unknown(name, kind)
    return None


def _unknown(name: str, kind: catalog.Kind = "embedding") -> ModelNotFoundError:
    meant = catalog.nearest(name)
    return ModelNotFoundError(
        f"{shown(name)} is neither a folder, nor a Hugging Face id (owner/name), nor a known model "
        f"({f'did you mean {meant!r}?' if meant else ', '.join(catalog.short_names(kind))})"
    )


def _from_hub(
    repo: str,
    entry: catalog.Entry | None,
    revision: str | None,
    local_files_only: bool,
    cache_dir: str | Path | None,
    task: str | None,
) -> Path:
    # Imported here: it costs a third of a second, and `pocket` and local folders do without.
    import huggingface_hub
    from huggingface_hub import constants

    snapshot = partial(
        huggingface_hub.snapshot_download,
        repo,
        revision=revision,
        cache_dir=cache_dir,
        allow_patterns=file_patterns(task),
    )
    if (cached := _cached(snapshot, repo, task, merged=entry is not None and entry.merged)) is not None:
        return cached
    absent = f"{repo!r} is not in the cache at {Path(os.path.expanduser(cache_dir or constants.HF_HUB_CACHE))}"
    # Whoever wants scores or vectors of tokens has no use for it.
    instead = ", or use the model inside this package: 'pocket'" if not entry or entry.kind == "embedding" else ""
    if local_files_only or constants.HF_HUB_OFFLINE:
        raise ModelNotFoundError(f"{absent}, and downloads are off. Run once with the network on{instead}")
    if entry is not None:
        # A misspelt task should not cost a download.
        prompts.choose_task(task, None, entry.tasks)
    licence = f"licence {entry.license}" if entry else "see its model card for the licence"
    logger.warning("Downloading %s from the Hugging Face hub (%s)", repo, licence)
    return _downloaded(snapshot, repo, revision, absent, instead)


def _cached(snapshot: Callable[..., str], repo: str, task: str | None, merged: bool) -> Path | None:
    """The snapshot in the cache, if it has every file that is needed. Uses no network."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    from mlx_jina.weights.folder import missing_files

    try:
        folder = Path(snapshot(local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise _unknown(repo) from None
    return None if missing_files(folder, task, merged) else folder


def _downloaded(snapshot: Callable[..., str], repo: str, revision: str | None, absent: str, instead: str) -> Path:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        # A snapshot waits for ever for a hub that accepts the connection and then says nothing.
        HfApi().repo_info(
            repo, revision=revision or constants.DEFAULT_REVISION, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        return Path(snapshot())
    except RepositoryNotFoundError:
        raise ModelNotFoundError(f"{repo!r} does not exist on the Hugging Face hub, or is private") from None
    # The errors of the HTTP client and of the hub's storage have no common class.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelNotFoundError(
            f"{absent}, and it could not be downloaded ({reason}). Check the network{instead}"
        ) from error
