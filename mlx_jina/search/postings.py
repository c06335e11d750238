"""Where words are, read from FTS5's index once and kept in memory.

BM25 is a sum over words, and questions share the common ones. To say where a word is takes FTS5 a fraction of the
time in which it ranks the same chunks, so NumPy computes what each word brings to each chunk, as SQLite's bm25
would but for rounding, and adds.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_jina.search.database import damaged, one
from mlx_jina.search.schema import COLUMNS, TOKENIZER, WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]
    Posting = tuple[npt.NDArray[np.int32], Floats]
    """The places of chunks in the list of all, ascending, and what a term adds to the BM25 of each."""

BM25 = f"-bm25(fts, {', '.join(map(str, WEIGHTS))})"
"""In SQL, the more the better."""
# Of SQLite's bm25 (https://sqlite.org/fts5.html#the_bm25_function).
_K1, _B, _LEAST_IDF = 1.2, 0.75, 1e-6
MOST_FREQUENCY = _K1 + 1
"""A term brings less than so many times its idf, however often it occurs in a chunk."""
# Terms whose counts are kept, and matches of postings that are, of 12 bytes each.
_MOST_COUNTS = 10_000
_MOST_MATCHES = 4_000_000
# What sorts behind every continuation of a token in UTF-8.
_LAST = b"\xff"


def idf(chunks: int, matches: int) -> float:
    """What SQLite's bm25 weighs a term by that is in some of all chunks."""
    # A damaged index may have fewer chunks than matches; FTS5 says so where it ranks.
    found = math.log((max(chunks, matches) - matches + 0.5) / (matches + 0.5))
    return found if found > 0 else _LEAST_IDF


@dataclass
class _State:
    """What is known of one state of FTS5's index."""

    version: object
    counts: dict[str, int] = field(default_factory=dict)
    ranked: int = 0
    """Matches that were left to FTS5."""
    chunks: tuple[Integers, Floats] | None = None
    """The ids of all, ascending, and k1 * (1 - b + b * length / mean length) of each."""
    postings: dict[str, Posting] = field(default_factory=dict)
    """By term; the one that was asked for last is the last one."""
    matches: int = 0
    """In all postings."""


class Postings:
    """The postings of terms, kept while the words of an index stay as they are. Safe to share between threads."""

    def __init__(self) -> None:
        self._state = _State(None)
        self._lock = threading.Lock()
        self._tokens = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._tokens.execute(f"create virtual table typed using fts5(text, tokenize='{TOKENIZER}')")
        self._tokens.execute("create virtual table token using fts5vocab(typed, instance)")

    def close(self) -> None:
        """Free the memory."""
        with self._lock:
            self._state = _State(None)
            self._tokens.close()

    def counts(self, connection: sqlite3.Connection, terms: Iterable[str], most: int) -> dict[str, int]:
        """In how many chunks each term occurs, counted up to `most`, which is the same while the index is."""
        state = self._of(connection)
        sql = "select count(*) from (select 1 from fts where fts match ? limit ?)"
        for term in terms:
            if term not in state.counts:
                state.counts[term] = one(connection, sql, term, most)
        return {term: state.counts[term] for term in terms}

    def scores(
        self, connection: sqlite3.Connection, counts: Mapping[str, int], total: int
    ) -> tuple[Integers, Floats] | None:
        """All chunks (N) and their BM25 (N), the sum over the terms in `counts` in their order; 0 for no match.

        None where FTS5 does better: until it has ranked as many matches as there are chunks, `total`, since all
        their lengths have to be read first; and where there are more matches than are kept.
        """
        # Terms in more than half of all chunks were counted no further.
        matches = sum(count if count <= total // 2 else total for count in counts.values())
        state = self._of(connection)
        if state.ranked <= total or not 0 < matches <= _MOST_MATCHES:
            state.ranked += matches
            return None
        import numpy as np

        if state.chunks is None:
            state.chunks = _chunks(connection)
        ids, lengths = state.chunks
        scores = np.zeros(len(ids))
        for term in counts:
            places, own = self._posting(connection, state, ids, lengths, term)
            scores[places] += own
        return ids, scores

    def _posting(
        self, connection: sqlite3.Connection, state: _State, ids: Integers, lengths: Floats, term: str
    ) -> Posting:
        found = state.postings.get(term)
        if found is None:
            token = self._token(term)
            if token is None:
                found = _of_phrase(connection, ids, term)
            else:
                # Whether "be" is meant, or all that begins so.
                last = token + _LAST if term.endswith("*") else token
                found = _of_tokens(connection, ids, lengths, token, last)
        with self._lock:
            if state.postings.pop(term, None) is None:
                state.matches += len(found[0])
            state.postings[term] = found
            while state.matches > _MOST_MATCHES and len(state.postings) > 1:
                state.matches -= len(state.postings.pop(next(iter(state.postings)))[0])
        return found

    def _token(self, term: str) -> bytes | None:
        """What FTS5 looks for in place of the word in a term; None for more words than one.

        A stem may end within a letter, as Porter's rules count bytes.
        """
        with self._lock:
            # What is undone at the end costs a quarter of what is deleted.
            self._tokens.execute("begin")
            try:
                self._tokens.execute("insert into typed values (?)", (term,))
                tokens = self._tokens.execute("select cast(term as blob) from token").fetchall()
            finally:
                self._tokens.execute("rollback")
        return tokens[0][0] if len(tokens) == 1 else None

    def _of(self, connection: sqlite3.Connection) -> _State:
        # Every change of the words changes FTS5's averages or its list of segments, and vectors change neither.
        version = connection.execute("select block from fts_data where id in (1, 10)").fetchall()
        state = self._state
        if state.version != version or len(state.counts) > _MOST_COUNTS:
            state = self._state = _State(version)
        return state


def _chunks(connection: sqlite3.Connection) -> tuple[Integers, Floats]:
    """The ids of all chunks, and what BM25 makes of their lengths. Raises DatabaseError."""
    import numpy as np

    # As text: rows one by one take Python twice as long.
    count, ids_text, sizes_text, data_text = connection.execute(
        "select count(*), group_concat(id), group_concat(length(cast(sz as blob))), group_concat(hex(sz), '') "
        "from (select id, sz from fts_docsize order by id)"
    ).fetchone()
    ids, sizes = _integers(ids_text, count), _integers(sizes_text, count)
    # A size is a varint for each column: its last byte is below 128, and its other bytes are not.
    data = np.frombuffer(bytes.fromhex(data_text), np.uint8)
    ends = np.flatnonzero(data < 0x80)
    if len(ends) != len(COLUMNS) * count or not np.array_equal(
        ends[len(COLUMNS) - 1 :: len(COLUMNS)] + 1, sizes.cumsum()
    ):
        raise damaged()
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= 5:
        raise damaged()
    shifts = np.repeat(ends, ends - starts + 1) - np.arange(len(data))
    columns = np.add.reduceat((data & 0x7F).astype(np.int64) << 7 * shifts, starts)
    lengths = columns.reshape(count, -1).sum(axis=1)
    mean = float(lengths.sum()) / count
    return ids, _K1 * (1 - _B + _B * lengths / mean)


def _of_tokens(
    connection: sqlite3.Connection, ids: Integers, lengths: Floats, first: bytes, last: bytes
) -> Posting:
    """Of all tokens from the first to the last, as if they were one."""
    import numpy as np

    cases = " ".join(f"when '{name}' then {place}" for place, name in enumerate(COLUMNS))
    count, text = connection.execute(
        f"select count(*), group_concat(doc * {len(COLUMNS)} + case col {cases} end) from temp.instance "
        "where term between cast(? as text) and cast(? as text)",
        (first, last),
    ).fetchone()
    found = _integers(text, count)
    # Several tokens come one after another, and SQL promises no order of one's places.
    found.sort()
    chunks, columns = np.divmod(found, len(COLUMNS))
    starts = np.flatnonzero(np.diff(chunks, prepend=-1))
    places = _places(ids, chunks[starts])
    frequency = np.add.reduceat(np.array(WEIGHTS)[columns], starts) if len(starts) else np.zeros(0)
    scores = frequency * MOST_FREQUENCY / (frequency + lengths[places])
    return places, idf(len(ids), len(places)) * scores


def _of_phrase(connection: sqlite3.Connection, ids: Integers, expression: str) -> Posting:
    import numpy as np

    sql = f"select rowid, {BM25} from fts where fts match ? order by rowid"
    rows = connection.execute(sql, (expression,)).fetchall()
    chunks = np.fromiter((chunk for chunk, _ in rows), np.int64, len(rows))
    return _places(ids, chunks), np.fromiter((score for _, score in rows), np.float64, len(rows))


def _integers(text: str | None, count: int) -> Integers:
    """Numbers with commas between them, as many as there should be."""
    import numpy as np

    found = np.array([], np.int64) if text is None else np.fromstring(text, np.int64, sep=",")
    if len(found) != count:
        raise damaged()
    return found


def _places(ids: Integers, chunks: Integers) -> npt.NDArray[np.int32]:
    """Of some chunks in the list of all, both ascending."""
    import numpy as np

    places = np.searchsorted(ids, chunks)
    if len(chunks) and not (chunks[-1] <= ids[-1] and np.array_equal(ids[places], chunks)):
        raise damaged()
    return places.astype(np.int32)
