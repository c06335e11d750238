"""Pairs as token ids: cut as the tokenizers library cuts, and as Qwen3-Reranker was trained."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
from packaging.version import Version
from tokenizers import Tokenizer as FastTokenizer

from mlx_jina.text.pairs import BertPairs, PairOptions
from mlx_jina.text.tokenizer import Tokenizer
from tests.support import checkpoints, reranker_checkpoints, v3_checkpoints

TOKENIZERS = {"roberta": reranker_checkpoints.roberta_tokenizer, "xlm-roberta": v3_checkpoints.tokenizer}


def copy(fast: FastTokenizer) -> FastTokenizer:
    return FastTokenizer.from_str(fast.to_str())


# Where both texts are too long for an odd number of tokens, the longer one has the odd token.
ODD_TO_THE_LONGER = Version(version("tokenizers")) >= Version("0.23.3")


@pytest.mark.skipif(not ODD_TO_THE_LONGER, reason="tokenizers before 0.23.3 gives the shorter text an odd token")
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_longer_text_is_cut_as_by_the_tokenizers_library(kind: str) -> None:
    fast = TOKENIZERS[kind]()
    theirs, texts = copy(fast), BertPairs(Tokenizer(copy(fast)))
    rng = np.random.default_rng(0)
    for _ in range(300):
        query, document = (" ".join(rng.choice(checkpoints.WORDS, n)) for n in rng.integers(1, 25, 2))
        length = int(rng.integers(9, 60))
        theirs.enable_truncation(length, strategy="longest_first")
        (group,) = texts.groups([(query, document)], PairOptions(length, True, False, None))
        assert group.rows[0].tolist() == theirs.encode(query, document).ids
        theirs.no_truncation()
        assert group.cut.get(0, 0) == len(theirs.encode(query, document).ids) - len(group.rows[0])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_windows_cover_every_token_and_the_last_is_full(kind: str) -> None:
    fast = TOKENIZERS[kind]()
    texts, plain = BertPairs(Tokenizer(copy(fast))), copy(fast)
    document = " ".join(checkpoints.WORDS[i % len(checkpoints.WORDS)] for i in range(200))
    whole = plain.encode(document, add_special_tokens=False).ids
    query = plain.encode("bake bread", add_special_tokens=False).ids
    for length in (40, 64, 100, 400, len(whole) + len(query) + 4, len(whole) + len(query) + 3):
        (group,) = texts.groups([("bake bread", document)], PairOptions(length, True, True, None))
        room = length - 4 - len(query)
        parts = [row[len(query) + 3 : -1].tolist() for row in group.rows]
        assert all(row[: len(query) + 3].tolist() == [0, *query, 2, 2] and row[-1] == 2 for row in group.rows)
        assert all(len(part) == min(room, len(whole)) for part in parts)
        joined = parts[0]
        for i, part in enumerate(parts[1:], 1):
            start = i * (room - min(80, room // 4)) if i < len(parts) - 1 else len(whole) - room
            assert start <= len(joined)
            joined = joined[:start] + part
        assert joined == whole
        assert (len(parts) == 1) == (len(whole) <= room)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ordinary_text_has_the_tokens_of_the_file(kind: str) -> None:
    fast = TOKENIZERS[kind]()
    texts, theirs = BertPairs(Tokenizer(copy(fast))), copy(fast)
    documents = ["", " ", "a < s > b", "x</ s>y", "今天天气很好", "mask", "paris\n\ncapital"]
    (group,) = texts.groups([("bake bread", text) for text in documents], PairOptions(99, True, False, None))
    assert [row.tolist() for row in group.rows] == [theirs.encode("bake bread", text).ids for text in documents]
