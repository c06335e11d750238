"""Text to token ids: no padding, no hidden limit, special tokens always kept."""

from __future__ import annotations

import io
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, models
from tokenizers import Tokenizer as FastTokenizer

from mlx_jina.errors import CheckpointError, InputError, MlxJinaError

Ids = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]
D = TypeVar("D", bound=np.generic)
# What a call of the library makes of texts: for each a row for every token, of its id, and perhaps of its offsets.
Columns = tuple[npt.NDArray[Any], ...]
Run = Callable[[Sequence[str], "Sequence[int] | None"], list[Columns]]

# A text of more characters is tokenised from its beginning, as far as its first tokens need it.
LARGE = 1 << 18
# So many characters are tokenised in one call of the library, whose objects take some 200 bytes for a token; a
# longer text is refused where not even so many characters of it give as many tokens as a model takes.
GROUP = 1 << 20
MOST = 1 << 22
# A text of more characters than a group is tokenised in parts where all of it counts. It is parted at a space
# between words, where tokens of so many characters on either side are the same together and apart. So many places
# are tried.
_SPACE = re.compile(r"(?<=[^\W_])[ \n](?=[^\W_])")
_NEAR, _TRIES = 256, 64
_SURROGATE = re.compile("[\ud800-\udfff]")


@contextmanager
def failures(words: str) -> Iterator[None]:
    """Whatever the `tokenizers` library raises inside becomes a CheckpointError that begins with `words`.

    It raises bare Exception, and where its Rust code panics a BaseException, which would end any program.
    """
    try:
        yield
    except BaseException as error:
        panicked = type(error).__name__ == "PanicException"
        if isinstance(error, MlxJinaError) or not (panicked or isinstance(error, Exception)):
            raise
        raise CheckpointError(f"{words}: {error}") from None


class Token(NamedTuple):
    """One token, which stands for the characters `start` to `stop` of its text; special tokens have None."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Tokenizer:
    """A checkpoint's `tokenizer.json`, run by the `tokenizers` library.

    Stateless and without chance: padding, truncation and the dropout of training, which some files bring along,
    are switched off, so that threads may share it. Raises CheckpointError for one that cannot tokenise.
    """

    def __init__(self, fast: FastTokenizer) -> None:
        fast.no_padding()
        fast.no_truncation()
        if isinstance(fast.model, models.BPE):
            fast.model.dropout = None
        self.fast = fast
        with failures("the tokenizer cannot tokenise a text"):
            mask = fast.encode("a").special_tokens_mask
        self.leading: int = next((i for i, special in enumerate(mask) if not special), 0)
        """How many special tokens stand before every text."""
        self.closing: int = next((i for i, special in enumerate(reversed(mask)) if not special), 0)
        """How many special tokens stand after every text."""

    @classmethod
    def from_json(cls, content: str, path: Path) -> Tokenizer:
        """The tokenizer of a `tokenizer.json`, which was read from `path`. Raises CheckpointError."""
        with failures(f"{path} is not a tokenizer that can be read"):
            fast = FastTokenizer.from_str(content)
        if (fast.truncation or {}).get("direction") == "left":
            raise CheckpointError(
                f"{path}: its 'truncation' cuts long texts at their beginning, which is not implemented"
            )
        try:
            return cls(fast)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

    @property
    def special_tokens(self) -> int:
        """How many tokens are added to every text (such as [CLS] and [SEP])."""
        return self.leading + self.closing

    def encode(
        self, texts: Sequence[str], positions: Sequence[int] | None = None, max_length: int | None = None
    ) -> list[Ids]:
        """Ids of each text, special tokens included, at full length. Errors name texts by `positions`.

        With `max_length`, a text of millions of characters is read only as far as it takes to know its first
        tokens, and that there are more of them.
        """
        return [ids for (ids,) in self._each(texts, positions, max_length, self._ids)]

    def _each(
        self, texts: Sequence[str], positions: Sequence[int] | None, max_length: int | None, run: Run
    ) -> list[Columns]:
        """What `run` makes of each text; of a large one it gets a part at a time, and no more than is needed."""
        check(texts, positions)
        places = positions or range(len(texts))
        found: list[Columns] = []
        for start, stop in _groups(texts):
            text = texts[start]
            if max_length is not None and len(text) > LARGE:
                found.append(self._first(text, places[start], max_length, run))
            elif len(text) > GROUP:
                found.append(self._parts(text, places[start], run))
            else:
                found += run(texts[start:stop], places[start:stop])
        return found

    def _first(self, text: str, position: int, max_length: int, run: Run) -> Columns:
        """The rows of a large text, or of so much of it that they are certainly more than `max_length`."""
        size, most = LARGE, max(MOST, max_length * self._longest)
        while size < len(text) and size <= most:
            (columns,) = run([text[:size]], [position])
            # The end of the part may be cut amid a word.
            if len(columns[0]) > 2 * max_length:
                return columns
            size *= 4
        if len(text) > most:
            raise InputError(
                f"has {len(text)} characters, of which the first {size // 4} are only {len(columns[0])} "
                "tokens; take out what is no text, such as long runs of spaces",
                position=position,
            )
        return run([text], [position])[0]

    def _parts(self, text: str, position: int, run: Run) -> Columns:
        """The rows of a large text, from parts of it whose tokens are those of the whole."""
        parts: list[list[npt.NDArray[Any]]] = []
        start = 0
        while start < len(text):
            stop = self._seam(text, start + GROUP)
            (columns,) = run([text[start:stop]], [position])
            first, last = self.leading if start else 0, self.closing if stop < len(text) else 0
            own = [column[first : len(column) - last] for column in columns]
            for offsets in own[1:]:
                # Special tokens at the end stand for no characters.
                offsets[: len(offsets) - (self.closing - last)] += start
            parts.append(own)
            start = stop
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _seam(self, text: str, start: int) -> int:
        """Where a text can be parted from here on without any token being another one; its end if nowhere."""
        for number, space in enumerate(_SPACE.finditer(text, start)):
            at = space.start()
            left, right = text[max(0, at - _NEAR) : at], text[at : at + _NEAR]
            with failures("the tokenizer failed"):
                whole, *halves = self.fast.encode_batch_fast([left + right, left, right], add_special_tokens=False)
            if whole.ids == halves[0].ids + halves[1].ids:
                return at
            if number == _TRIES:
                break
        return len(text)

    @cached_property
    def _longest(self) -> int:
        """Characters of the longest token."""
        return max(map(len, self.fast.get_vocab()), default=1)

    def _ids(self, texts: Sequence[str], positions: Sequence[int] | None) -> list[Columns]:
        encodings = self._run(self.fast.encode_batch_fast, texts, positions)
        try:
            return [(np.array(encoding.ids, dtype=np.int32),) for encoding in encodings]
        except OverflowError:
            raise CheckpointError("the tokenizer gives an id of 2^31 or more, which no model has") from None

    def _ids_and_offsets(self, texts: Sequence[str], positions: Sequence[int] | None) -> list[Columns]:
        return [
            (
                np.array(encoding.ids, dtype=np.int32),
                np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
            )
            for encoding in self._run(self.fast.encode_batch, texts, positions)
        ]

    def _run(
        self,
        encode: Callable[[Sequence[str]], list[Encoding]],
        texts: Sequence[str],
        positions: Sequence[int] | None,
    ) -> list[Encoding]:
        """A call of the library for a batch. Raises InputError that names the text which it fails at."""
        try:
            with failures("the tokenizer failed"):
                return encode(texts)
        except CheckpointError:
            for position, text in zip(positions or range(len(texts)), texts, strict=True):
                try:
                    with failures("cannot be tokenised"):
                        encode([text])
                except CheckpointError as error:
                    raise InputError(str(error), position=position) from None
            raise

    def encode_with_offsets(
        self, texts: Sequence[str], positions: Sequence[int] | None = None, max_length: int | None = None
    ) -> list[tuple[Ids, Offsets]]:
        """`encode`, and for each token the characters that it stands for: start and stop, (L, 2).

        Special tokens have (0, 0). Tokens that share a character, as bytes of it do, each have all of it.
        """
        return [(ids, spans) for ids, spans in self._each(texts, positions, max_length, self._ids_and_offsets)]

    def tokens(self, texts: Sequence[str], special_tokens: bool = True) -> list[list[Token]]:
        """Tokens of each text with their places in it, with or without the special ones around it."""
        check(texts)
        encode = partial(self.fast.encode_batch, add_special_tokens=special_tokens)
        return [
            [
                Token(id, name, True, None, None) if special else Token(id, text[start:stop], False, start, stop)
                for id, name, special, (start, stop) in zip(
                    encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
                )
            ]
            for text, encoding in zip(texts, self._run(encode, texts, None), strict=True)
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


def _groups(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Start and stop of texts to tokenise in one call, which uses all cores; a large text stands alone."""
    start, characters = 0, 0
    for index, text in enumerate(texts):
        full = characters + len(text) > GROUP or len(text) > LARGE or len(texts[start]) > LARGE
        if index > start and full:
            yield start, index
            start, characters = index, 0
        characters += len(text)
    if texts:
        yield start, len(texts)


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


def many(texts: Iterable[str]) -> Iterable[str]:
    """The argument, if its items can be the texts that are meant. Raises InputError with what to pass instead.

    Keys of a mapping, names of a table's columns, letters of a str are all str, and none of them is a text.
    """
    kind = type(texts).__name__
    if isinstance(texts, str):
        raise InputError(
            f"texts must be many, not one str, each letter of which would be one: pass [{_short(texts)}]"
        )
    if isinstance(texts, (bytes, bytearray, memoryview)):
        raise InputError(f"texts must be str, not {kind}: decode it first")
    if isinstance(texts, Mapping):
        raise InputError(f"texts must be a list of str, not a {kind}: pass its values, list(d.values())")
    if isinstance(texts, (set, frozenset)):
        raise InputError(f"texts must have an order, which a {kind} has not: pass sorted(texts), or a list")
    if isinstance(texts, io.IOBase):
        raise InputError(
            "texts must be a list of str, not an open file, whose lines have their ends: pass "
            "[line.rstrip('\\n') for line in file], or [file.read()] for one text"
        )
    if isinstance(texts, array):
        raise InputError("texts must be a list of str, not an array of letters: pass [texts.tounicode()]")
    # A table of pandas, polars or Arrow; a series or an array has one column, and no name for it.
    if hasattr(texts, "columns"):
        raise InputError(f"texts must be a list of str, not a table ({kind}): pass one of its columns")
    if not isinstance(texts, Iterable) or getattr(texts, "shape", None) == ():
        raise InputError(f"texts must be a str or a list of str, not {kind}")
    return texts


def _short(text: str) -> str:
    return repr(text if len(text) < 20 else f"{text[:20]}...")


def listed(texts: str | Iterable[str]) -> list[str]:
    """One text or many as a list, all checked before anything is computed. Raises InputError."""
    items = [texts] if isinstance(texts, str) else list(many(texts))
    check(items)
    return items
