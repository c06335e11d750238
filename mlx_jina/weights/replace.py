"""Targets of a conversion: which of them are refused, and how a folder takes the place of another one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_jina import durable
from mlx_jina.errors import InputError
from mlx_jina.weights import hub, lora

# What an MLX folder has, adapters of v3 excepted, which lie beside in folders of their tasks' names; and what
# Finder leaves everywhere.
_WRITTEN = (
    "config.json",
    "tokenizer.json",
    "config_sentence_transformers.json",
    "preprocessor_config.json",
    "model.safetensors",
    "adapters",
    ".DS_Store",
)


def exists_error(target: Path) -> InputError:
    """The error for a target that would have to be replaced."""
    return InputError(f"{target} exists already; --force replaces it")


def check_target(target: Path, force: bool) -> None:
    """Refuse a target that exists, without `force`, or whose parent does not."""
    if target.exists() and not force:
        raise exists_error(target)
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist")


def check_file(target: Path, force: bool) -> None:
    """Refuse a target that cannot become a file."""
    check_target(target, force)
    if target.is_dir():
        raise InputError(f"{target} is a folder; a .gguf is one file")


def check_folder(target: Path, force: bool) -> Path:
    """Refuse a target that cannot become a folder, or whose replacement would destroy what no conversion wrote.

    Returns the absolute path, because the temporary folder beside "." needs a name too.
    """
    check_target(target, force)
    target = Path(os.path.abspath(target))
    for path in (target, _beside(target), _aside(target)):
        foreign = [inner.name for inner in path.iterdir() if not _is_written(inner)] if path.is_dir() else []
        if foreign:
            raise InputError(f"{path} also holds {min(foreign)}, which no conversion wrote; choose another folder")
    return target


def _is_written(path: Path) -> bool:
    """Whether a conversion writes something of this name, or an adapter's folder; or macOS beside such a file."""
    return path.name.removeprefix("._") in _WRITTEN or (path / lora.CONFIG_FILE).is_file()


def refuse_source(target: Path, source: Path) -> None:
    """Refuse to replace the source itself, a part of it, or a folder that it lies in."""
    if not target.exists():
        return
    place, origin = target.resolve(), source.resolve()
    if place == origin:
        raise InputError(f"{target} is also the source")
    if place in origin.parents:
        raise InputError(f"the source {source} is in {target}, which would be replaced")
    if origin in place.parents and (target.is_dir() or hub.holds_gguf(source)):
        raise InputError(f"{target} is in the source {source}, and may be a part of it")


def _beside(target: Path) -> Path:
    """Where a folder is made, before it takes its place."""
    return target.with_name(f"{target.name}.partial")


def _aside(target: Path) -> Path:
    """Where the old folder is, until the new one has its place."""
    return target.with_name(f"{target.name}.replaced")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place at the end, or is removed on any error.

    The old one is moved aside until the new one is there, so that one of them is always whole.
    """
    beside = _beside(target)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        yield beside
        durable.sync_tree(beside)
        _swap(beside, target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        code = error.errno or errno.EIO
        raise OSError(code, os.strerror(code), error.filename or str(target)) from error
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _remove(_aside(target))


def _swap(beside: Path, target: Path) -> None:
    aside = _aside(target)
    if target.exists():
        _remove(aside)
        durable.replace(target, aside)
    try:
        durable.replace(beside, target)
    except OSError:
        if aside.exists():
            durable.replace(aside, target)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
