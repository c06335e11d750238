"""What the words of queries match, read from FTS5's index once and kept in memory.

To rank a chunk takes FTS5 five times as long as to say where a word is in it, and questions share their common
words. BM25 is a sum over words: NumPy computes what each brings to every chunk, to the last bit as FTS5 would.
"""

from __future__ import annotations

import math
import sqlite3
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_jina.search.database import one
from mlx_jina.search.schema import COLUMNS, TOKENIZER, WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]
    Matches = tuple[npt.NDArray[np.int32], Floats]
    """Places of chunks in the list of all, ascending, and BM25 of each."""

BM25 = f"-bm25(fts, {', '.join(map(str, WEIGHTS))})"
"""In SQL, the more the better."""
# Of SQLite's bm25 (https://sqlite.org/fts5.html#the_bm25_function).
_K1, _B, _LEAST_IDF = 1.2, 0.75, 1e-6
# What is kept: counts of so many terms, and so many matches, which take 12 bytes each.
_COUNTS = 10_000
_MATCHES = 4_000_000
# FTS5 ranks so many matches while NumPy is imported.
_FEW = 50_000


@dataclass
class _Kept:
    """What is known of terms in one state of an index."""

    generation: int
    counts: dict[str, int] = field(default_factory=dict)
    matches: dict[str, Matches] = field(default_factory=dict)
    """The term that was asked for last is the last one."""
    size: int = 0
    """How many these are."""
    chunks: Integers | None = None
    """Ids of all, ascending."""
    lengths: Floats | None = None
    """What BM25 adds to the frequency of a term in each of them: k1 * (1 - b + b * length / mean length)."""


class Terms:
    """What terms match, kept while an index stays as it is. Safe to share between threads."""

    def __init__(self) -> None:
        self._kept = _Kept(-1)
        self._first = True
        self._lock = threading.Lock()
        self._tokens = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._tokens.execute(f"create virtual table typed using fts5(text, tokenize='{TOKENIZER}')")
        self._tokens.execute("create virtual table token using fts5vocab(typed, instance)")

    def close(self) -> None:
        """Free the memory."""
        with self._lock:
            self._kept = _Kept(-1)
            self._tokens.close()

    def counts(self, connection: sqlite3.Connection, terms: Iterable[str], most: int) -> dict[str, int]:
        """In how many chunks each term occurs, counted up to `most`, which is the same while the index is."""
        kept = self._of(connection)
        sql = "select count(*) from (select 1 from fts where fts match ? limit ?)"
        for term in terms:
            if term not in kept.counts:
                kept.counts[term] = one(connection, sql, term, most)
        return {term: kept.counts[term] for term in terms}

    def scores(
        self, connection: sqlite3.Connection, counts: Mapping[str, int], total: int
    ) -> tuple[Integers, Floats] | None:
        """All chunks (N) and their BM25 (N), the sum over the terms in `counts` in their order; 0 for no match.

        None where FTS5 does better: at a first search, which then needs no NumPy, and where there is no room.
        """
        # Terms in more than half of all chunks, `total`, were counted no further.
        matches = sum(count if count <= total // 2 else total for count in counts.values())
        first, self._first = self._first, False
        if not 0 < matches <= _MATCHES or (first and matches <= _FEW):
            return None
        import numpy as np

        kept = self._of(connection)
        if kept.chunks is None or kept.lengths is None:
            kept.chunks, kept.lengths = _chunks(connection)
        scores = np.zeros(len(kept.chunks))
        for term in counts:
            places, own = self._matches(connection, kept, kept.chunks, kept.lengths, term)
            scores[places] += own
        return kept.chunks, scores

    def _matches(
        self, connection: sqlite3.Connection, kept: _Kept, chunks: Integers, lengths: Floats, term: str
    ) -> Matches:
        found = kept.matches.get(term)
        if found is None:
            token = self._token(term)
            if token is None:
                found = _of_phrase(connection, chunks, term)
            else:
                # Whether "be" is meant, or all that begins so.
                last = f"{token}{chr(sys.maxunicode)}" if term.endswith("*") else token
                found = _of_tokens(connection, chunks, lengths, token, last)
        with self._lock:
            if kept.matches.pop(term, None) is None:
                kept.size += len(found[0])
            kept.matches[term] = found
            while kept.size > _MATCHES and len(kept.matches) > 1:
                kept.size -= len(kept.matches.pop(next(iter(kept.matches)))[0])
        return found

    def _token(self, term: str) -> str | None:
        """What FTS5 looks for in place of the word in a term; None for more words than one."""
        with self._lock:
            # What is undone at the end costs a quarter of what is deleted.
            self._tokens.execute("begin")
            try:
                self._tokens.execute("insert into typed values (?)", (term,))
                tokens = self._tokens.execute("select term from token").fetchall()
            finally:
                self._tokens.execute("rollback")
        return tokens[0][0] if len(tokens) == 1 else None

    def _of(self, connection: sqlite3.Connection) -> _Kept:
        generation = one(connection, "select value from meta where key = 'generation'")
        kept = self._kept
        if kept.generation != generation or len(kept.counts) > _COUNTS:
            kept = self._kept = _Kept(generation)
        return kept


def _chunks(connection: sqlite3.Connection) -> tuple[Integers, Floats]:
    """The ids of all chunks, and what BM25 makes of their lengths."""
    import numpy as np

    # As one text: rows one by one take Python twice as long. A size is a varint for each column.
    ids, sizes = connection.execute(
        "select group_concat(id), group_concat(hex(sz), '') from (select id, sz from fts_docsize order by id)"
    ).fetchone()
    data = np.frombuffer(bytes.fromhex(sizes), np.uint8)
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.repeat(ends, ends - starts + 1) - np.arange(len(data))
    values = np.add.reduceat((data & 0x7F).astype(np.int64) << 7 * places, starts)
    tokens = values.reshape(-1, len(COLUMNS)).sum(axis=1)
    mean = float(tokens.sum()) / len(tokens)
    return np.fromstring(ids, np.int64, sep=","), _K1 * (1 - _B + _B * tokens / mean)


def _of_tokens(
    connection: sqlite3.Connection, chunks: Integers, lengths: Floats, first: str, last: str
) -> Matches:
    """Of all tokens from the first to the last, as if they were one."""
    import numpy as np

    cases = " ".join(f"when '{name}' then {place}" for place, name in enumerate(COLUMNS))
    sql = (
        f"select group_concat(doc * {len(COLUMNS)} + case col {cases} end) from temp.instance "
        "where term between ? and ?"
    )
    found = np.fromstring(one(connection, sql, first, last) or "", np.int64, sep=",")
    # Several tokens come one after another, and SQL promises no order of one's places.
    found.sort()
    ids, columns = np.divmod(found, len(COLUMNS))
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    ids = ids[starts]
    places = _places(chunks, ids)
    frequency = np.add.reduceat(np.array(WEIGHTS)[columns], starts) if len(starts) else np.zeros(0)
    idf = math.log((len(chunks) - len(ids) + 0.5) / (len(ids) + 0.5))
    return places, max(idf, _LEAST_IDF) * (frequency * (_K1 + 1) / (frequency + lengths[places]))


def _of_phrase(connection: sqlite3.Connection, chunks: Integers, expression: str) -> Matches:
    import numpy as np

    sql = f"select rowid, {BM25} from fts where fts match ? order by rowid"
    rows = connection.execute(sql, (expression,)).fetchall()
    ids = np.fromiter((chunk for chunk, _ in rows), np.int64, len(rows))
    scores = np.fromiter((score for _, score in rows), np.float64, len(rows))
    return _places(chunks, ids), scores


def _places(chunks: Integers, ids: Integers) -> npt.NDArray[np.int32]:
    import numpy as np

    places = np.searchsorted(chunks, ids)
    if len(ids) and not (ids[-1] <= chunks[-1] and np.array_equal(chunks[places], ids)):
        # What FTS5 says where its tables contradict each other.
        raise sqlite3.DatabaseError("database disk image is malformed")
    return places.astype(np.int32)
