"""Files beside tokenizer.json, by which transformers changes what the tokenizer does.

Only tokenizer.json is run. Settings of the other files that say the same are well; those that would make other
tokens in transformers are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_jina.errors import CheckpointError, some
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import json_file

FILE, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
# Where these files name a token; nothing is ever padded here.
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
_LISTED = ("additional_special_tokens", "extra_special_tokens")


def check(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuse settings that contradict a folder's tokenizer.json. Raises CheckpointError."""
    added = {token.content for token in tokenizer.fast.get_added_tokens_decoder().values()}
    for path in (folder / name for name in (FILE, SPECIAL, ADDED)):
        if not path.is_file():
            continue
        config = json_file.read(path)
        names = list(config) if path.name == ADDED else list(_tokens(config))
        if unknown := [name for name in names if name not in added]:
            raise CheckpointError(
                f"{path}: tokenizer.json has no added token {some(map(repr, unknown))}; with transformers, texts "
                "with it would have other tokens"
            )
        if path.name == FILE:
            _check_settings(path, config, tokenizer)


def _check_settings(path: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    for key, value in _settings(tokenizer):
        if _content(config.get(key)) not in (None, value):
            raise CheckpointError(
                f"{path}: {key!r} is {_content(config[key])!r}, but in tokenizer.json it is {value!r}; with "
                "transformers, texts would have other tokens"
            )


def _tokens(config: Mapping[str, Any]) -> Iterator[str]:
    """Tokens that transformers adds to the tokenizer, if it does not have them."""
    named = [config.get(key) for key in _NAMED]
    for key in _LISTED:
        listed = config.get(key) or []
        named += listed.values() if isinstance(listed, Mapping) else listed if isinstance(listed, list) else []
    decoder = config.get("added_tokens_decoder")
    named += decoder.values() if isinstance(decoder, Mapping) else []
    yield from (content for token in named if isinstance(content := _content(token), str) and content)


def _content(token: Any) -> Any:
    """A token's text, where it is an object with more."""
    return token.get("content") if isinstance(token, Mapping) else token


def _settings(tokenizer: Tokenizer) -> Iterator[tuple[str, bool | str]]:
    """What tokenizer.json does, by the names of tokenizer_config.json."""
    fast = tokenizer.fast
    yield "truncation_side", "right"
    yield "split_special_tokens", False
    around = fast.encode("a").tokens
    if tokenizer.leading == 1 and tokenizer.closing == 1:
        yield "cls_token", around[0]
        yield "sep_token", around[-1]
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
