"""Where texts are cut: spans that tile, for every script, tokenizer and kind of boundary."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from mlx_jina import InputError
from mlx_jina.choices import CHUNK_KINDS, ChunkKind
from mlx_jina.text.chunking import Chunking, Text
from mlx_jina.text.tokenizer import Tokenizer
from tests.support import checkpoints

PIECES = [
    *"aZ .,!?;:-'\"()\n\r\t\u00a0\u2028\u2029\u0085\x00",
    *("\r\n", "\n\n", "\r\n\r\n", "\n \n", " \n", "  "),
    *("Mr. ", "e.g. ", "U.S. ", "3.50", "fox jumps ", "The dog. ", "Wait! "),
    *("Straße. ", "İstanbul. ", "e\u0301t\u0301. ", "\u0301", "ﬁ", "ﷺ", "½ "),
    *("今天天气很好。", "「どこ!」。", "안녕하세요. ", "नमस्ते दुनिया। ", "مرحبا بالعالم؟ ", "สวัสดีครับ", "שלום. "),
    *("👩\u200d👩\u200d👧", "👋🏽", "🇩🇪", "\u200b", "\ufeff", "\u202e", "[SEP]", "▁"),
]
texts = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join)


def metaspace() -> FastTokenizer:
    """A Unigram like XLM-RoBERTa's: spaces open words, and NFKC changes lengths."""
    tokenizer = FastTokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(["".join(PIECES)] * 4, trainer)
    return tokenizer


def trimmed_bytes() -> FastTokenizer:
    """RoBERTa's byte-level pre-tokeniser, whose offsets leave out the space that opens a word."""
    tokenizer = checkpoints.qwen_tokenizer()
    tokenizer.normalizer = None
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


TOKENIZERS = {
    "wordpiece": Tokenizer(checkpoints.wordpiece_tokenizer(320)),
    "bytes": Tokenizer(checkpoints.qwen_tokenizer()),
    "trimmed bytes": Tokenizer(trimmed_bytes()),
    "metaspace": Tokenizer(metaspace()),
}


def own_offsets(name: str, text: str) -> list[tuple[int, int]]:
    """Characters of each token but the special ones."""
    tokenizer = TOKENIZERS[name]
    ((_, offsets),) = tokenizer.encode_with_offsets([text])
    return [(a, b) for a, b in offsets[tokenizer.leading : len(offsets) - tokenizer.closing].tolist()]


def cut(
    name: str, text: str, kind: ChunkKind = "sentence", tokens: int | None = None, overlap: int = 0
) -> list[str]:
    """The texts of the chunks."""
    offsets = TOKENIZERS[name].encode_with_offsets([text])[0][1]
    tokenizer = TOKENIZERS[name]
    own = offsets[tokenizer.leading : len(offsets) - tokenizer.closing]
    return [text[a:b] for a, b in Text(text, own).chunks(Chunking(kind, tokens, overlap, "en"))]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts, st.sampled_from(CHUNK_KINDS), st.none() | st.integers(1, 12), st.data())
@settings(max_examples=150, deadline=None)
def test_chunks_tile_the_text(
    name: str, text: str, kind: ChunkKind, limit: int | None, data: st.DataObject
) -> None:
    if limit is None and kind == "fixed":
        limit = 5
    overlap = data.draw(st.integers(0, (limit or 1) - 1))
    tokenizer = TOKENIZERS[name]
    ((_, all_offsets),) = tokenizer.encode_with_offsets([text])
    offsets = all_offsets[tokenizer.leading : len(all_offsets) - tokenizer.closing]
    document = Text(text, offsets)
    spans = document.chunks(Chunking(kind, limit, overlap, "en"))
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    counts = document.before([stop for _, stop in spans]) - document.before([start for start, _ in spans])
    for (start, stop), (next_start, next_stop) in pairwise(spans):
        assert start < next_start <= stop < next_stop
        if not overlap:
            assert next_start == stop
        assert document.before([stop])[0] - document.before([next_start])[0] <= overlap
    if len(spans) > 1:
        assert counts.min() > 0
        assert all(text[start:stop].strip() for start, stop in spans)
    for (start, stop), count in zip(spans, counts, strict=True):
        first = int(document.before([start])[0])
        for a, b in offsets[first : first + count].tolist():
            # What a token stands for is in its chunk, but for spaces in front.
            word = text[a:b]
            a += len(word) - len(word.lstrip())
            assert b <= stop
            assert a >= min(start, b)
        if limit and count > limit:
            assert not document.cuts("character", start, stop, "en")


@pytest.mark.parametrize("name", ["wordpiece", "bytes", "trimmed bytes"])
def test_sentences_and_paragraphs(name: str) -> None:
    text = "Mr. Fox paid $3.50.  He left!\r\n\r\nA dog? “好的。”他说。\n \nनमस्ते। End"
    assert cut(name, text) == [
        "Mr. Fox paid $3.50.  ",
        "He left!\r\n\r\n",
        "A dog? ",
        "“好的。”",
        "他说。\n \n",
        "नमस्ते। ",
        "End",
    ]
    assert cut(name, text, "paragraph") == [
        "Mr. Fox paid $3.50.  He left!\r\n\r\n",
        "A dog? “好的。”他说。\n \n",
        "नमस्ते। End",
    ]


def test_pieces_are_packed_and_long_ones_cut_finer() -> None:
    """One token a word, and one for each full stop."""
    text = "The fox. A dog. How do i bake bread what is deep learning a man. On paris."
    assert cut("wordpiece", text, tokens=6) == [
        "The fox. A dog. ",
        "How do i bake bread what ",
        "is deep learning a man. ",
        "On paris.",
    ]
    assert cut("wordpiece", text, "fixed", tokens=4)[:2] == ["The fox. A ", "dog. How do "]
    paragraphs = "The fox. A dog.\n\nOn paris. A man.\n\nBread."
    assert cut("wordpiece", paragraphs, "paragraph", tokens=8) == [
        "The fox. A dog.\n\n",
        "On paris. A man.\n\nBread.",
    ]
    assert cut("wordpiece", paragraphs, "paragraph", tokens=5)[:2] == ["The fox. ", "A dog.\n\n"]


def test_overlap_prefers_whole_sentences() -> None:
    text = "The fox. A dog. On paris. How do i bake bread what is deep learning. Light."
    assert cut("wordpiece", text, tokens=10, overlap=4) == [
        "The fox. A dog. ",
        "A dog. On paris. ",
        # With all of the chunk before, that one would say nothing.
        "paris. How do i bake bread what ",
        "i bake bread what is deep learning. ",
        "deep learning. Light.",
    ]


def test_no_overlap_where_one_character_fills_the_chunk() -> None:
    # It is decomposed to 18 characters.
    assert cut("metaspace", "Mr. aa今天天气很好。\ufdfa", "paragraph", 5, 2)[-1] == "\ufdfa"


def test_neither_a_token_nor_a_character_is_divided() -> None:
    """A family is 18 bytes and as many tokens; the vocabulary has some words whole."""
    assert cut("bytes", "👩\u200d👩\u200d👧👋🏽e\u0301", tokens=1) == ["👩\u200d👩\u200d👧", "👋🏽", "e\u0301"]
    assert cut("wordpiece", "foxxy", tokens=1) == ["fox", "x", "y"]
    assert cut("wordpiece", "learning fox", tokens=1) == ["learning ", "fox"]


def test_thai_is_cut_between_words() -> None:
    text = "ผมชื่อสมชายยินดีที่ได้รู้จัก"
    chunks = cut("bytes", text, tokens=30)
    assert len(chunks) > 1
    assert "".join(chunks) == text
    assert chunks[0] == "ผมชื่อ"


def test_abbreviations_are_a_language_s_own() -> None:
    text = "El Sr. Fox vive en la Avda. Mayor. Bien."
    offsets = TOKENIZERS["wordpiece"].encode_with_offsets([text])[0][1][1:-1]
    spanish, english = (
        Text(text, offsets).chunks(Chunking("sentence", None, 0, language)) for language in ("es", "en")
    )
    assert [text[a:b] for a, b in spanish] == ["El Sr. Fox vive en la Avda. Mayor. ", "Bien."]
    assert len(english) == 4


@pytest.mark.parametrize(
    ("kind", "tokens", "overlap", "message"),
    [
        ("word", 8, 0, "chunk='word' is not one of paragraph, sentence, fixed"),
        ("fixed", None, 0, "chunk='fixed' needs chunk_tokens="),
        ("sentence", None, 2, "overlap=2 needs chunk_tokens"),
        ("sentence", 0, 0, "chunk_tokens=0 must be at least 1"),
        ("sentence", 8, 8, "overlap=8 must lie between 0 and 7, less than chunk_tokens=8"),
        ("sentence", 8, -1, "overlap=-1 must lie between"),
    ],
)
def test_nonsense_is_refused(kind: Any, tokens: int | None, overlap: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Chunking(kind, tokens, overlap, "en")


@pytest.mark.parametrize("language", ["", "klingon", "e", "en@ss=none", "en US"])
def test_what_is_no_language_is_refused(language: str) -> None:
    with pytest.raises(InputError, match="is no code of a language, such as en or pt_BR"):
        Chunking("sentence", None, 0, language)


def test_without_icu_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "icu4py", None)
    with pytest.raises(InputError, match=r"pip install 'mlx-jina\[chunking\]'"):
        cut("wordpiece", "the fox")
