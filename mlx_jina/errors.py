"""Every error that mlx-jina raises on purpose.

    MlxJinaError
    ├── InputError           (ValueError)       a text or an option that cannot be used
    │   ├── TooLongError                        a text of more tokens than the limit
    │   └── PictureError                        a picture that cannot be read or used
    ├── ModelNotFoundError   (LookupError)      no such model, or not on this machine
    ├── CheckpointError      (ValueError)       files that are not a model which runs here exactly
    ├── ModelTooLargeError   (MemoryError)      a model that the device's memory cannot hold
    ├── NumericalError       (ArithmeticError)  a vector came out as NaN, infinite or zero
    ├── IndexFileError       (RuntimeError)     an index of notes that cannot be opened, read or written
    └── ForkError            (RuntimeError)     this process was forked from one that had loaded a model

    TruncationWarning        (UserWarning)      texts were longer than the limit and were cut

The message says what was wrong, where, and what to do. Programs read attributes instead of the message:
`error.position` is the index of the text at fault, `warning.count` the number of texts that were cut.
"""

from __future__ import annotations

from collections.abc import Iterable

# Names that a message lists, and characters of a value or a name that it shows.
NAMED = 10
SHOWN = 80


def some(names: Iterable[object], limit: int = NAMED) -> str:
    """The first names of a list as a message shows them, and how many more there are; empty for none."""
    listed = [_cut(str(name)) for name in names]
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def shown(value: object) -> str:
    """The repr of a value that a file or a caller gave, as a message shows it."""
    return _cut(repr(value))


def _cut(words: str) -> str:
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}..."


class MlxJinaError(Exception):
    """Base of all errors below.

    `position` is the index of the text at fault among the texts of the call, or None if no text is at fault. The
    words of an error with a position follow the text's name: "has 9 tokens" is shown as "text 3 has 9 tokens".
    """

    _what = "text"

    def __init__(self, words: str, *, position: int | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.position = position

    def __str__(self) -> str:
        return self.words if self.position is None else f"{self._what} {self.position} {self.words}"


class InputError(MlxJinaError, ValueError):
    """A text or an option that cannot be used."""


class TooLongError(InputError):
    """A text has more tokens than the limit, and the caller asked not to cut texts."""


class PictureError(InputError):
    """A picture that cannot be read, or not be used; `position` is its index among the pictures or texts."""

    _what = "picture"


class ModelNotFoundError(MlxJinaError, LookupError):
    """The name is unknown, or its files are not on this machine and cannot be fetched."""


class CheckpointError(MlxJinaError, ValueError):
    """The files are damaged, incomplete, or of an architecture that would not run exactly."""


class ModelTooLargeError(MlxJinaError, MemoryError):
    """The model's weights and its smallest batch take more memory than is free for models."""


class NumericalError(MlxJinaError, ArithmeticError):
    """A vector came out as NaN, infinite or zero, and did so again in float32."""


class IndexFileError(MlxJinaError, RuntimeError):
    """A file with an index of notes is damaged, in use, newer than this version, or its disk is full."""


class ForkError(MlxJinaError, RuntimeError):
    """The process was forked from one that had loaded a model, and a fork does not copy the model's threads."""


class TruncationWarning(UserWarning):
    """`count` texts were longer than `max_length` tokens and were cut."""

    def __init__(self, count: int, max_length: int) -> None:
        super().__init__(count, max_length)
        self.count = count
        self.max_length = max_length

    def __str__(self) -> str:
        texts = "1 text was" if self.count == 1 else f"{self.count} texts were"
        return f"{texts} longer than {self.max_length} tokens and cut; truncate=False makes it an error"
