"""XLM-RoBERTa's unigram tokenizer in the keys that llama.cpp calls `t5`, and rebuilt from them.

Kudo 2018, "Subword Regularization" (arXiv 1804.10959): of all ways to cut a text, the pieces with the highest sum
of scores. SentencePiece normalises by a table, `precompiled_charsmap`, which both sides hold as it is.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

from mlx_jina.errors import CheckpointError, some

SPACE = "\u2581"
# What llama.cpp's converter gives to rows without a token.
NO_SCORE = -10000.0
_SPLITTERS = {"Sequence", "WhitespaceSplit", "Metaspace"}
# Besides the table, both libraries drop spaces at the ends, and all spaces but one elsewhere.
_NORMALIZERS = {"Sequence", "Precompiled", "Strip", "Replace"}


def metadata(
    content: Mapping[str, Any],
    splitters: Sequence[Mapping[str, Any]],
    normalizers: Sequence[Mapping[str, Any]],
    rows: int,
) -> dict[str, Any]:
    """Keys that only this kind has, for a tokenizer.json taken apart and a model with `rows` token vectors."""
    metaspace = _metaspace(content, splitters, normalizers)
    scores = [float(score) for _, score in content["model"]["vocab"]]
    kinds = {node["type"] for node in (*splitters, *normalizers)}
    keys = {
        "scores": [*scores, *[NO_SCORE] * (rows - len(scores))],
        # Older tokenizer.json files have a flag for it.
        "add_space_prefix": metaspace.get("prepend_scheme", "always") != "never"
        and metaspace.get("add_prefix_space", True),
        "remove_extra_whitespaces": bool(kinds & {"WhitespaceSplit", "Replace"}),
    }
    tables = [b64decode(node["precompiled_charsmap"]) for node in normalizers if node["type"] == "Precompiled"]
    return {**keys, **({"precompiled_charsmap": tables[0]} if tables else {})}


def _metaspace(
    content: Mapping[str, Any], splitters: Sequence[Mapping[str, Any]], normalizers: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The one splitter that marks where words begin. Raises CheckpointError for what GGUF has no keys for."""
    others = {node["type"] for node in splitters} - _SPLITTERS
    others |= {node["type"] for node in normalizers} - _NORMALIZERS
    metaspaces = [node for node in splitters if node["type"] == "Metaspace" and node["replacement"] == SPACE]
    if others or len(metaspaces) != 1 or content["model"].get("byte_fallback"):
        raise CheckpointError(
            f"a Unigram tokenizer with {some(sorted(others)) or 'byte fallback or without Metaspace'} has no "
            "form in GGUF that is written here"
        )
    return metaspaces[0]


def rebuild(
    tokens: Sequence[str],
    used: Sequence[bool],
    scores: Sequence[float],
    unknown: int,
    charsmap: Sequence[int],
    *,
    prefix: bool,
    squeeze: bool,
) -> FastTokenizer:
    """A tokenizer from its keys. Rows at the end that are not `used` are no pieces of any text."""
    count = max((i + 1 for i, is_used in enumerate(used) if is_used), default=0)
    pieces = list(zip(tokens[:count], scores[:count], strict=True))
    fast = FastTokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    if charsmap:
        fast.normalizer = normalizers.Precompiled(bytes(charsmap))
    metaspace = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always" if prefix else "never")
    splitters = [pre_tokenizers.WhitespaceSplit(), metaspace] if squeeze else [metaspace]
    fast.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    fast.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always" if prefix else "never")
    return fast
