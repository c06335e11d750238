"""A query and a document as one row of token ids, as each kind of reranker was trained to read them.

No text of a user's becomes a special token: "<|im_end|>" in a document is seven characters.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from mlx_jina.errors import CheckpointError, InputError, TooLongError
from mlx_jina.text.tokenizer import Ids, Tokenizer, check, failures

# Of two neighbouring windows of a document, as in jina-reranker-v2's own code.
OVERLAP = 80

# Qwen3-Reranker's prompt, from its model card. A template read from a file may have lost the final newlines.
QWEN_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
QWEN_HEAD = "<Instruct>: {}\n<Query>: {}\n<Document>:"
QWEN_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

Pair = tuple[str, str]


class PairOptions(NamedTuple):
    """How pairs become tokens."""

    max_length: int
    """Tokens of one row."""
    truncate: bool
    """Whether a document may be cut; otherwise a longer one is an error."""
    windows: bool
    """Whether a long document is read in several rows, where the model can, instead of being cut."""
    instruction: str | None
    max_document_length: int | None = None
    """Tokens of a document; None is no other limit than a row's, or the model's own."""


@dataclass
class Group:
    """Rows that begin alike: `beginning` is computed once for all of them."""

    beginning: Ids
    rows: list[Ids] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)
    """Which pair each row belongs to."""
    cut: dict[int, int] = field(default_factory=dict)
    """Tokens that were cut off, by pair."""


class PairTexts(Protocol):
    """How one kind of cross-encoder reads pairs."""

    special_tokens: int
    """Tokens of a row that are neither the query's nor the document's."""

    def groups(self, pairs: Sequence[Pair], options: PairOptions) -> list[Group]:
        """All pairs as rows. Errors name pairs by their index."""
        ...


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Raise InputError for an empty query, and for what is no text."""
    check([document for _, document in pairs])
    for index, query in enumerate(query for query, _ in pairs):
        if not isinstance(query, str):
            raise InputError(f"has a query of type {type(query).__name__}; it must be a str", position=index)
        if not query.strip():
            raise InputError("has an empty query", position=index)
    check([query for query, _ in pairs])


def for_users_text(fast: FastTokenizer) -> FastTokenizer:
    """The same tokenizer, for which the spelling of a special token is text like any other."""
    fast.encode_special_tokens = True
    content = json.loads(fast.to_str()) if type(fast.model).__name__ == "Unigram" else None
    if content is None:
        return fast
    # A unigram model has them among its pieces as well. No piece of a text has a space in it.
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    content["model"]["vocab"] = [
        (f" {piece}" if piece in special else piece, score) for piece, score in content["model"]["vocab"]
    ]
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    content["post_processor"] = None
    return FastTokenizer.from_str(json.dumps(content))


def plain(fast: FastTokenizer, texts: Sequence[str]) -> list[Ids]:
    """Ids of texts without special tokens around them."""
    with failures("the tokenizer failed"):
        encodings = fast.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


def _cut(options: PairOptions, index: int, length: int, kept: int) -> int:
    """How many of a pair's tokens are cut off. Raises TooLongError if they may not be."""
    if length > kept and not options.truncate:
        raise TooLongError(
            f"is too long by {length - kept} tokens for max_length={options.max_length} with its query; "
            "truncate=True cuts it",
            position=index,
        )
    return max(0, length - kept)


def cut_document(document: Ids, index: int, options: PairOptions, cut: dict[int, int]) -> Ids:
    """A document at its own limit; what it loses is noted by its `index`. Raises TooLongError if it may not be."""
    limit = options.max_document_length
    if limit is None or len(document) <= limit:
        return document
    if not options.truncate:
        raise TooLongError(
            f"has {len(document)} tokens, more than max_document_length={limit}; truncate=True cuts it",
            position=index,
        )
    cut[index] = len(document) - limit
    return document[:limit]


class BertPairs:
    """`[CLS] query [SEP] document [SEP]`, or with the special tokens that the tokenizer puts around a pair.

    Raises CheckpointError for a tokenizer without these tokens: the score is read from the first one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._fast = for_users_text(tokenizer.fast)
        with failures("the tokenizer cannot tokenise a pair"):
            encoding = tokenizer.fast.encode("a", "a")
        ids, sides = np.array(encoding.ids, dtype=np.int32), encoding.sequence_ids
        # Which of the two texts each token is of, and None for special tokens.
        runs = [(side, len(list(run))) for side, run in itertools.groupby(sides)]
        if [side for side, _ in runs] != [None, 0, None, 1, None]:
            raise CheckpointError(
                "the tokenizer does not put special tokens before, between and after a query and a document; its "
                "tokenizer.json ('post_processor') is not a reranker's"
            )
        self._before, _, self._between, _, self._after = np.split(ids, np.cumsum([n for _, n in runs])[:-1])
        self.special_tokens = len(self._before) + len(self._between) + len(self._after)

    def groups(self, pairs: Sequence[Pair], options: PairOptions) -> list[Group]:
        """All pairs in one group without a common beginning."""
        if options.instruction is not None:
            raise InputError("this reranker takes no instruction")
        check_pairs(pairs)
        distinct = list(dict.fromkeys(query for query, _ in pairs))
        queries = dict(zip(distinct, plain(self._fast, distinct), strict=True))
        documents = plain(self._fast, [document for _, document in pairs])
        group = Group(np.empty(0, dtype=np.int32))
        for index, ((text, _), document) in enumerate(zip(pairs, documents, strict=True)):
            document = cut_document(document, index, options, group.cut)
            parts = self._windows if options.windows else self._truncated
            for query, part in parts(queries[text], document, index, options, group.cut):
                group.rows.append(
                    np.concatenate([self._before, query, self._between, part, self._after], dtype=np.int32)
                )
                group.pairs.append(index)
        return [group] if group.rows else []

    def _windows(
        self, query: Ids, document: Ids, index: int, options: PairOptions, cut: dict[int, int]
    ) -> Iterator[tuple[Ids, Ids]]:
        """The query with the whole document, or with windows of it; the last one ends where the document ends."""
        most = options.max_length // 2 - self.special_tokens
        if len(query) > most:
            raise TooLongError(
                f"the query has {len(query)} tokens; with max_length={options.max_length} it may have {most}, "
                "which leaves half of a row to a document"
            )
        room = options.max_length - self.special_tokens - len(query)
        step = room - min(OVERLAP, room // 4)
        start = 0
        while start + room < len(document):
            yield query, document[start : start + room]
            start += step
        yield query, document[max(0, len(document) - room) :]

    def _truncated(
        self, query: Ids, document: Ids, index: int, options: PairOptions, cut: dict[int, int]
    ) -> Iterator[tuple[Ids, Ids]]:
        """The longer of the two loses its end ("longest_first" of Hugging Face's tokenizers)."""
        room = options.max_length - self.special_tokens
        short, long = sorted((len(query), len(document)))
        long = max(short, room - short)
        if short + long > room:
            short, long = room // 2, room - room // 2
        kept = (short, long) if len(query) <= len(document) else (long, short)
        lost = [_cut(options, index, len(x), k) for x, k in zip((query, document), kept, strict=True)]
        if any(lost):
            cut[index] = cut.get(index, 0) + sum(lost)
        yield query[: kept[0]], document[: kept[1]]


class QwenPairs:
    """Qwen3-Reranker's prompt. All documents of a query share everything before their first token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Before its special tokens become plain text.
        tokenizer.fast.encode_special_tokens = False
        self._prefix, self._suffix = plain(tokenizer.fast, [QWEN_PREFIX, QWEN_SUFFIX])
        self._fast = for_users_text(tokenizer.fast)
        self.special_tokens = len(self._prefix) + len(self._suffix)

    def groups(self, pairs: Sequence[Pair], options: PairOptions) -> list[Group]:
        """A group for each query; a document's end is cut, and the prompt after it never."""
        check_pairs(pairs)
        instruction = QWEN_INSTRUCTION if options.instruction is None else options.instruction
        try:
            check([instruction])
        except InputError as error:
            raise InputError(f"the instruction {error.words}") from None
        room = options.max_length - self.special_tokens
        distinct = list(dict.fromkeys(query for query, _ in pairs))
        heads = [QWEN_HEAD.format(instruction, query) for query in distinct]
        head_of = dict(zip(distinct, zip(heads, plain(self._fast, heads), strict=True), strict=True))
        for _, head in head_of.values():
            if len(head) >= room:
                raise TooLongError(
                    f"the query and the instruction have {len(head)} tokens, which leaves none of "
                    f"max_length={options.max_length} to a document"
                )
        bodies = plain(self._fast, [f"{head_of[query][0]} {document}" for query, document in pairs])
        groups: dict[bytes, Group] = {}
        for index, ((query, _), body) in enumerate(zip(pairs, bodies, strict=True)):
            head, cut = head_of[query][1], dict[int, int]()
            body = np.concatenate([body[: len(head)], cut_document(body[len(head) :], index, options, cut)])
            lost = cut.get(index, 0) + _cut(options, index, len(body), room)
            body = body[:room]
            beginning = np.concatenate([self._prefix, _common(head, body)])
            group = groups.setdefault(beginning.tobytes(), Group(beginning))
            group.rows.append(np.concatenate([body[len(beginning) - len(self._prefix) :], self._suffix]))
            group.pairs.append(index)
            if lost:
                group.cut[index] = lost
        return list(groups.values())


def _common(head: Ids, body: Ids) -> Ids:
    """The longest common beginning. It is all of `head`, unless a tokenizer joins a colon with what follows."""
    length = min(len(head), len(body))
    different = np.flatnonzero(head[:length] != body[:length])
    return head[: different[0] if len(different) else length]
