"""jina-reranker-v3's prompt: a query and all of its documents, each with a marker behind it.

As `rerank` of the model's own code has it: which texts are cut, and where a long list is cut into blocks. Scores
depend on what else is in a block and in which order, so that nothing here sorts documents, drops double ones, or
makes blocks of other sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_jina.errors import CheckpointError, InputError, TooLongError
from mlx_jina.text.pairs import Pair, PairOptions, check_pairs, cut_document, for_users_text, plain
from mlx_jina.text.tokenizer import Ids, Tokenizer, check

DOCUMENT_MARKER, QUERY_MARKER = "<|embed_token|>", "<|rerank_token|>"
# Tokens of a query and of a document, and documents of a block.
MAX_QUERY, MAX_DOCUMENT, MAX_DOCUMENTS = 512, 2048, 125

_START = (
    "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages "
    "based on how relevant they are to the query. If the query is a question, how relevant a passage "
    "is depends on how well it answers the question. If not, try to analyze the intent of the query "
    "and assess how well each passage satisfies the intent. If an instruction is provided, you should "
    "follow the instruction when determining the ranking.<|im_end|>\n<|im_start|>"
)
_HEAD = (
    "user\nI will provide you with {n} passages, each indicated by a numerical identifier. Rank the passages "
    "based on their relevance to query: {query}\n"
)
_INSTRUCTION = "<instruct>\n{}\n</instruct>\n"
_PASSAGE = '<passage id="{}">\n'
_AFTER_PASSAGE = "\n</passage>\n"
_QUERY = "<query>\n{}"
_AFTER_QUERY = "\n</query>"
_END = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Block:
    """One prompt."""

    ids: Ids
    pairs: list[int]
    """Which pair each of its documents belongs to, in the order of the prompt."""
    tokens: list[int]
    """Of each document alone."""


@dataclass(frozen=True)
class Lists:
    """The blocks of each query; tokens that were cut off documents, by pair, and queries that were cut."""

    blocks: list[list[Block]]
    cut: dict[int, int]
    queries_cut: int


class RankingPrompts:
    """The prompts of one tokenizer. Raises CheckpointError for a tokenizer without the markers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Before its special tokens become plain text.
        tokenizer.fast.encode_special_tokens = False
        self._start, self._end = plain(tokenizer.fast, [_START, _END])
        self.markers = _token(tokenizer, DOCUMENT_MARKER), _token(tokenizer, QUERY_MARKER)
        """The tokens behind a document and behind the query."""
        self._fast = for_users_text(tokenizer.fast)

    def lists(self, pairs: Sequence[Pair], options: PairOptions) -> Lists:
        """Pairs as lists, one for each query, in the order of the pairs. Errors name pairs by their index."""
        check_pairs(pairs)
        if options.instruction is not None:
            try:
                check([options.instruction])
            except InputError as error:
                raise InputError(f"the instruction {error.words}") from None
        of_query: dict[str, list[int]] = {}
        for index, (query, _) in enumerate(pairs):
            of_query.setdefault(query, []).append(index)
        documents = [_without_markers(document) for _, document in pairs]
        cut: dict[int, int] = {}
        limited = options if options.max_document_length else options._replace(max_document_length=MAX_DOCUMENT)
        kept = []
        for index, ids in enumerate(plain(self._fast, documents)):
            short = cut_document(ids, index, limited, cut)
            if index in cut:
                documents[index] = self._fast.decode(short.tolist())
            kept.append(len(short))
        queries = [self._query(query, options) for query in of_query]
        blocks = [
            self._blocks(query, tokens, [(i, documents[i], kept[i]) for i in indices], limited)
            for (query, tokens, _), indices in zip(queries, of_query.values(), strict=True)
        ]
        return Lists(blocks, cut, sum(was_cut for _, _, was_cut in queries))

    def _query(self, query: str, options: PairOptions) -> tuple[str, int, bool]:
        """A query as it is read, its tokens, and whether it was cut."""
        query = _without_markers(query)
        (ids,) = plain(self._fast, [query])
        if len(ids) <= MAX_QUERY:
            return query, len(ids), False
        if not options.truncate:
            raise TooLongError(f"the query has {len(ids)} tokens, and this model reads {MAX_QUERY} of a query")
        return self._fast.decode(ids[:MAX_QUERY].tolist()), MAX_QUERY, True

    def _blocks(
        self, query: str, query_tokens: int, documents: Sequence[tuple[int, str, int]], options: PairOptions
    ) -> list[Block]:
        """The list of one query; `documents` are pairs' indices, texts and tokens.

        The prompt's own words count for nothing in `max_length`, as in the model's own code.
        """
        blocks: list[Block] = []
        waiting: list[tuple[int, str, int]] = []
        room = options.max_length - 2 * query_tokens
        for document in documents:
            waiting.append(document)
            room -= document[2]
            if len(waiting) == MAX_DOCUMENTS or room <= (options.max_document_length or MAX_DOCUMENT):
                blocks.append(self._block(query, waiting, options.instruction))
                waiting, room = [], options.max_length - 2 * query_tokens
        return [*blocks, self._block(query, waiting, options.instruction)] if waiting else blocks

    def _block(self, query: str, documents: Sequence[tuple[int, str, int]], instruction: str | None) -> Block:
        head = _HEAD.format(n=len(documents), query=query)
        between = head if instruction is None else head + _INSTRUCTION.format(instruction)
        parts = []
        for number, (_, document, _) in enumerate(documents):
            parts.append(f"{between}{_PASSAGE.format(number)}{document}")
            between = _AFTER_PASSAGE
        # Special tokens part a text before anything else does, so that each part is tokenised by itself.
        rows = plain(self._fast, [*parts, f"{between}{_QUERY.format(query)}", _AFTER_QUERY])
        document_marker, query_marker = (np.array([marker], dtype=np.int32) for marker in self.markers)
        passages = [piece for row in rows[:-2] for piece in (row, document_marker)]
        ids = np.concatenate([self._start, *passages, rows[-2], query_marker, rows[-1], self._end])
        return Block(ids, [index for index, _, _ in documents], [tokens for _, _, tokens in documents])


def _token(tokenizer: Tokenizer, name: str) -> int:
    token: int | None = tokenizer.fast.token_to_id(name)
    if token is None:
        raise CheckpointError(f"the tokenizer has no {name}, and is not jina-reranker-v3's")
    return token


def _without_markers(text: str) -> str:
    return text.replace(DOCUMENT_MARKER, "").replace(QUERY_MARKER, "")
