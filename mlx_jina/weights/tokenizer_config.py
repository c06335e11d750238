"""tokenizer_config.json beside tokenizer.json: transformers lets it change what the tokenizer does.

Only tokenizer.json is run. Settings of the other file that say the same are well; those that would make other
tokens in transformers are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_jina.errors import CheckpointError
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import json_file

FILE = "tokenizer_config.json"


def check(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuse settings that contradict a folder's tokenizer.json. Raises CheckpointError."""
    if not (path := folder / FILE).is_file():
        return
    config = json_file.read(path)
    for key, value in _settings(tokenizer):
        if config.get(key) not in (None, value):
            raise CheckpointError(
                f"{path}: {key!r} is {config[key]!r}, but in tokenizer.json it is {value!r}; with transformers, "
                "texts would have other tokens"
            )


def _settings(tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """What tokenizer.json does, by the names of tokenizer_config.json."""
    fast = tokenizer.fast
    for part in _parts(fast.normalizer, "normalizers"):
        if part.get("type") == "BertNormalizer":
            lowercase, strip = part["lowercase"], part["strip_accents"]
            yield "do_lower_case", lowercase
            yield "strip_accents", lowercase if strip is None else strip
            yield "tokenize_chinese_chars", part["handle_chinese_chars"]
    for part in _parts(fast.pre_tokenizer, "pretokenizers"):
        if part.get("type") == "ByteLevel":
            yield "add_prefix_space", part["add_prefix_space"]
        elif part.get("type") == "Metaspace":
            yield "add_prefix_space", part["prepend_scheme"] != "never"


def _parts(component: Any, key: str) -> list[dict[str, Any]]:
    """The steps of a normaliser or pre-tokeniser as JSON."""
    if component is None:
        return []
    state: dict[str, Any] = json.loads(component.__getstate__())
    return state.get(key, [state]) if state.get("type") == "Sequence" else [state]
