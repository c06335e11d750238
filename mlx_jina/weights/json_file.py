"""A checkpoint's JSON files, bounded, and what stands in the place of a file that never arrived."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from mlx_jina.errors import CheckpointError

T = TypeVar("T", dict[str, Any], list[Any])

# Of the largest tokenizer.json of these models a few times over; a file of zeros has no end.
LIMIT = 64 << 20
# What begins like this is no JSON, no safetensors and no .gguf.
_IMPOSTORS = (
    (
        b"version https://git-lfs",
        "is a git-lfs pointer and not the file itself; run `git lfs pull` in its repository, or download the file",
    ),
    (b"<!doctype html", "is an HTML page and not the file itself; download the file again"),
    (b"<html", "is an HTML page and not the file itself; download the file again"),
    (b"\x1f\x8b", "is compressed by gzip; unpack it first"),
    (b"PK\x03\x04", "is a zip archive or torch's own format, which would have to be executed; take safetensors"),
    (b"\xff\xfe", "is UTF-16 text; write it again as UTF-8"),
    (b"\xfe\xff", "is UTF-16 text; write it again as UTF-8"),
)


def impostor(path: Path) -> str | None:
    """What a file is that cannot be what its name says, in words that follow the name; None if it may be that."""
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip()
    except OSError:
        return None
    lower = head.lower()
    return next((words for start, words in _IMPOSTORS if lower.startswith(start.lower())), None)


def read(path: Path) -> dict[str, Any]:
    """One JSON object. Raises CheckpointError."""
    return _read(path, dict, "object")


def read_list(path: Path) -> list[Any]:
    """One JSON array. Raises CheckpointError."""
    return _read(path, list, "array")


def text(path: Path) -> str:
    """The content of a file that holds JSON. Raises CheckpointError."""
    try:
        if (size := path.stat().st_size) > LIMIT:
            raise CheckpointError(
                f"{path} has {size / 1e6:.0f} MB, which is no JSON of a model; download it again"
            )
        # A byte-order mark is no part of the content.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}{_lost(path)}") from None
    except UnicodeDecodeError as error:
        if (words := impostor(path)) is not None:
            raise CheckpointError(f"{path} {words}") from None
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None


def _read(path: Path, kind: type[T], name: str) -> T:
    content = text(path)
    try:
        value = json.loads(content)
    # Also numbers too long to read, and brackets nested too deep.
    except (ValueError, RecursionError) as error:
        if (words := impostor(path)) is not None:
            raise CheckpointError(f"{path} {words}") from None
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} should hold a JSON {name}")
    return value


def _lost(path: Path) -> str:
    """Of a link in the Hugging Face cache whose file is gone."""
    return f": it is a link to {path.readlink()}, which is gone; download it again" if path.is_symlink() else ""
