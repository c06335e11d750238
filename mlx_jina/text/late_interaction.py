"""Queries and documents as models of late interaction read them.

jina-embeddings-v4 has a vector for each token of a text, the prompt included. ColBERT has a marker in front, and
mask tokens behind a query; its rules are those of the checkpoints' own code, stanford-futuredata/ColBERT 0.2.22.
Khattab and Zaharia 2020 (arXiv 2004.12832), section 3.2.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_jina.errors import CheckpointError, InputError, TooLongError
from mlx_jina.text.pairs import for_users_text
from mlx_jina.text.prompts import Side
from mlx_jina.text.tokenizer import Ids, Tokenizer

# What ColBERT's code takes where artifact.metadata lacks a key.
DEFAULTS: Mapping[str, Any] = {
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_maxlen": 32,
    "doc_maxlen": 220,
    "dim": 128,
    "attend_to_mask_tokens": False,
    "mask_punctuation": True,
}
_MASKS = ("[MASK]", "<mask>")
# Tokens of a text, at least: [CLS], marker, one token, [SEP].
SHORTEST = 4


def settings_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an artifact.metadata that shape vectors. Raises CheckpointError."""
    settings = {key: metadata.get(key, default) for key, default in DEFAULTS.items()}
    for key, default in DEFAULTS.items():
        if type(settings[key]) is not type(default):
            kind = type(default).__name__
            raise CheckpointError(f"artifact.metadata: {key!r} should be {kind}, found {settings[key]!r}")
    if min(settings["query_maxlen"], settings["doc_maxlen"]) < SHORTEST:
        raise CheckpointError(f"artifact.metadata: a text needs {SHORTEST} tokens at least, found {settings}")
    return settings


class LateInteraction:
    """Texts to ids, and which rows are kept: every token has a vector, and a query is what it is."""

    shortest = 1
    """Tokens of a text, at least."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer = tokenizer
        self.max_lengths: dict[Side, int] = {"query": max_length, "document": max_length}
        """Tokens of a query and of a document, at most, where a call does not say how many."""

    def uncut(self, side: Side, texts: Sequence[str], positions: Sequence[int] | None = None) -> list[Ids]:
        """Ids of each text, prompt included, at full length. Errors name texts by `positions`."""
        return self._tokenizer.encode(texts, positions)

    def cut(
        self, side: Side, ids: Sequence[Ids], positions: Sequence[int], max_length: int, truncate: bool
    ) -> list[Ids]:
        """Ids at `max_length` at most. Raises TooLongError if none may be cut, InputError for no ids at all."""
        for position, text in zip(positions, ids, strict=True):
            if not len(text):
                raise InputError("is empty, and this model adds no token of its own", position=position)
            if len(text) > max_length and not truncate:
                raise TooLongError(
                    f"has {len(text)} tokens, more than max_length={max_length}; truncate=True cuts it",
                    position=position,
                )
        return [self._tokenizer.truncate(text, max_length) for text in ids]

    def unseen(self, ids: Ids) -> int:
        """How many tokens at a query's end no token attends to."""
        return 0

    def kept(self, side: Side, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of a text's tokens have a vector."""
        return np.ones(len(ids), dtype=bool)


class ColBERT(LateInteraction):
    """A ColBERT checkpoint's rules: a query has exactly so many tokens, and a document's punctuation no vector."""

    shortest = SHORTEST

    def __init__(self, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
        super().__init__(tokenizer, settings["doc_maxlen"])
        # A "[MASK]" in a user's text would be expansion, and a marker would say that a document is a query.
        self._plain = Tokenizer(for_users_text(tokenizer.fast))
        frame = np.array(tokenizer.fast.encode("a").ids, dtype=np.int32)
        self._before, self._after = frame[: tokenizer.leading], frame[len(frame) - tokenizer.closing :]
        self._markers: dict[Side, int] = {
            "query": self._id(settings["query_token_id"]),
            "document": self._id(settings["doc_token_id"]),
        }
        self.mask: int = self._id(*_MASKS)
        """The token that fills a query up."""
        # Special tokens and marker included.
        self.max_lengths["query"] = settings["query_maxlen"]
        self.attends_to_mask: bool = settings["attend_to_mask_tokens"]
        """Whether a query's tokens attend to the mask tokens that fill it up."""
        self._skips_punctuation: bool = settings["mask_punctuation"]

    def _id(self, *names: str) -> int:
        found = next((i for name in names if (i := self._tokenizer.fast.token_to_id(name)) is not None), None)
        if found is None:
            raise CheckpointError(f"the tokenizer has no {' and no '.join(names)}, which ColBERT puts into texts")
        return found

    @cached_property
    def _skipped(self) -> npt.NDArray[np.int32]:
        """Ids of the tokens of a document whose vectors are dropped: the first id of each punctuation mark.

        In XLM-RoBERTa's vocabulary that of "." is the word boundary "▁", so that "." itself keeps its vector: the
        checkpoint was trained so.
        """
        if not self._skips_punctuation:
            return np.empty(0, dtype=np.int32)
        encoded = [self._tokenizer.fast.encode(mark, add_special_tokens=False).ids for mark in string.punctuation]
        return np.unique(np.array([ids[0] for ids in encoded if ids], dtype=np.int32))

    def uncut(self, side: Side, texts: Sequence[str], positions: Sequence[int] | None = None) -> list[Ids]:
        """Ids of each text with its marker, at full length. Errors name texts by `positions`."""
        encoded = self._plain.encode(texts, positions)
        if not self._plain.special_tokens:
            encoded = [np.concatenate([self._before, ids, self._after]) for ids in encoded]
        return [np.insert(ids, 1, self._markers[side]) for ids in encoded]

    def cut(
        self, side: Side, ids: Sequence[Ids], positions: Sequence[int], max_length: int, truncate: bool
    ) -> list[Ids]:
        """Ids at `max_length`, to which a query is filled up. Raises TooLongError if none may be cut."""
        texts = super().cut(side, ids, positions, max_length, truncate)
        if side == "document":
            return texts
        return [np.pad(text, (0, max_length - len(text)), constant_values=self.mask) for text in texts]

    def unseen(self, ids: Ids) -> int:
        """How many tokens at a query's end no token attends to."""
        if self.attends_to_mask:
            return 0
        return len(ids) - 1 - int(np.flatnonzero(ids != self.mask)[-1])

    def kept(self, side: Side, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of a text's tokens have a vector: all of a query's, and a document's but for punctuation."""
        return np.isin(ids, self._skipped, invert=True) if side == "document" else np.ones(len(ids), dtype=bool)
