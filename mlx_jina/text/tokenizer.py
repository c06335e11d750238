"""Text to token ids: no padding, no hidden limit, special tokens always kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as FastTokenizer

from mlx_jina.errors import CheckpointError, InputError

Ids = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]
D = TypeVar("D", bound=np.generic)

_SURROGATE = re.compile("[\ud800-\udfff]")


class Token(NamedTuple):
    """One token, which stands for the characters `start` to `stop` of its text; special tokens have None."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Tokenizer:
    """A checkpoint's `tokenizer.json`, run by the `tokenizers` library.

    Stateless: padding and truncation that some files bring along are switched off, so threads may share it.
    """

    def __init__(self, fast: FastTokenizer) -> None:
        fast.no_padding()
        fast.no_truncation()
        self.fast = fast
        mask = fast.encode("a").special_tokens_mask
        self.leading: int = next((i for i, special in enumerate(mask) if not special), 0)
        """How many special tokens stand before every text."""
        self.closing: int = next((i for i, special in enumerate(reversed(mask)) if not special), 0)
        """How many special tokens stand after every text."""

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json`."""
        try:
            return cls(FastTokenizer.from_file(str(path)))
        # The library raises bare Exception for whatever it cannot parse.
        except Exception as error:
            raise CheckpointError(f"{path} is not a tokenizer that can be read: {error}") from error

    @property
    def special_tokens(self) -> int:
        """How many tokens are added to every text (such as [CLS] and [SEP])."""
        return self.leading + self.closing

    def encode(self, texts: Sequence[str], positions: Sequence[int] | None = None) -> list[Ids]:
        """Ids of each text, special tokens included, at full length. Errors name texts by `positions`."""
        check(texts, positions)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in self.fast.encode_batch_fast(texts)]

    def encode_with_offsets(
        self, texts: Sequence[str], positions: Sequence[int] | None = None
    ) -> list[tuple[Ids, Offsets]]:
        """`encode`, and for each token the characters that it stands for: start and stop, (L, 2).

        Special tokens have (0, 0). Tokens that share a character, as bytes of it do, each have all of it.
        """
        check(texts, positions)
        return [
            (
                np.array(encoding.ids, dtype=np.int32),
                np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
            )
            for encoding in self.fast.encode_batch(texts)
        ]

    def tokens(self, texts: Sequence[str], special_tokens: bool = True) -> list[list[Token]]:
        """Tokens of each text with their places in it, with or without the special ones around it."""
        check(texts)
        return [
            [
                Token(id, name, True, None, None) if special else Token(id, text[start:stop], False, start, stop)
                for id, name, special, (start, stop) in zip(
                    encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
                )
            ]
            for text, encoding in zip(
                texts, self.fast.encode_batch(texts, add_special_tokens=special_tokens), strict=True
            )
        ]

    def truncate(self, tokens: npt.NDArray[D], max_length: int) -> npt.NDArray[D]:
        """Cut ids (L,) or offsets (L, 2) at the text's end, and keep the closing special tokens."""
        if len(tokens) <= max_length:
            return tokens
        return np.concatenate([tokens[: max_length - self.closing], tokens[len(tokens) - self.closing :]])

    def canonical(self) -> str:
        """The tokenizer as JSON in one fixed spelling, for fingerprints."""
        content: dict[str, Any] = json.loads(self.fast.to_str())
        return json.dumps(content, sort_keys=True)


def check(texts: Sequence[str], positions: Sequence[int] | None = None) -> None:
    """Raise InputError for an item that is no str or no Unicode; the error names the position."""
    for position, text in zip(positions or range(len(texts)), texts, strict=True):
        if not isinstance(text, str):
            raise InputError(f"is of type {type(text).__name__}; every text must be a str", position=position)
        if (surrogate := _SURROGATE.search(text)) is not None:
            raise InputError(
                f"holds a lone surrogate ({surrogate[0]!a}) at character {surrogate.start()}, which is not valid "
                "Unicode; decode its source as UTF-8 with errors='replace'",
                position=position,
            )


def listed(texts: str | Iterable[str]) -> list[str]:
    """One text or many as a list, all checked before anything is computed. Raises InputError."""
    if not isinstance(texts, Iterable):
        raise InputError(f"texts must be a str or a list of str, not {type(texts).__name__}")
    items = [texts] if isinstance(texts, str) else list(texts)
    check(items)
    return items
