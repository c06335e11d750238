"""Where llama.cpp splits text otherwise than a model's own tokenizer, though both read the same file.

What is asserted here is the table in docs/conversion.md.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer

from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import convert
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, llama_cpp
from tests.weights.gguf import test_tokenizer

WORDS = " ".join(checkpoints.WORDS[:12])
TEXTS: dict[str, list[str]] = {
    "English, code, numbers": [WORDS, "def f(x):\n    return x**2  # 12345.6", "Don't! https://a.org/?b=c&d=%20e"],
    "accents, composed": ["café à Zürich", "łódź, São Paulo, Ñandú"],
    "accents, decomposed": [unicodedata.normalize("NFD", "café à Zürich"), "n\u0303 a\u0308\u0304"],
    "Cyrillic, Greek": ["привет мир, Ёлка", "Ελλάδα καλημέρα"],
    "Arabic, Hebrew": ["مرحبا بالعالم ١٢٣", "שלום עולם"],
    "Devanagari": ["नमस्ते दुनिया", "क्षत्रिय"],
    "Thai": ["สวัสดีชาวโลก"],
    "Chinese": ["你好世界\uff0c深度学习"],
    "Japanese, voiced": ["ございます", "ガギグ"],
    "Korean": ["안녕하세요 세계"],
    "emoji with joiners": ["🙂 👩\u200d👩\u200d👧 👍🏽 🇩🇪"],
    "control characters": ["a\x07b\u200b\ufeff c\u00a0d\u3000e\u2028f"],
    "NUL": ["a\x00b"],
    "words of 101 characters": ["x" * 101],
    "white space around": ["  two   words \n\n", " "],
    "characters without a token": ["a ꙮ b"],
    "</s>": ["a</s>b"],
}
# Each tokenizer's own special token within a text.
SPECIAL = {
    "v2-en (WordPiece)": "a [MASK] b [SEP]",
    "v2-es, -de, -code (byte-level BPE)": "a <mask> b",
    "v2-zh (BPE of characters)": "a <mask> b",
    "v5-small (Qwen)": "a <|im_end|> b",
    "v5-nano (Llama 3)": "a <|im_end|> b",
}


def _characters() -> list[str]:
    """All of TEXTS, in small letters, whole and taken apart; but for the one that is there to be unknown."""
    every = {c for rows in TEXTS.values() for text in rows for c in text.lower() if c != "ꙮ"}
    return sorted(every | {c for text in every for c in unicodedata.normalize("NFD", text)})


def _wordpiece() -> FastTokenizer:
    """With a token for every character of TEXTS, and so nothing unknown by accident."""
    content = json.loads(checkpoints.wordpiece_tokenizer(260).to_str())
    vocab = content["model"]["vocab"]
    for character in _characters():
        for token in (character, f"##{character}"):
            vocab.setdefault(token, len(vocab))
    return FastTokenizer.from_str(json.dumps(content))


def _chinese() -> FastTokenizer:
    """With every character but white space, which it never sees."""
    content = json.loads(test_tokenizer.chinese().to_str())
    vocab = content["model"]["vocab"]
    for character in _characters():
        vocab.setdefault(character, len(vocab))
    return FastTokenizer.from_str(json.dumps(content))


MAKERS: dict[str, Callable[[], FastTokenizer]] = {
    "v2-en (WordPiece)": _wordpiece,
    "v2-es, -de, -code (byte-level BPE)": test_tokenizer.roberta,
    "v2-zh (BPE of characters)": _chinese,
    "v5-small (Qwen)": checkpoints.qwen_tokenizer,
    "v5-nano (Llama 3)": test_tokenizer.llama3,
}
# Real vocabularies of the same kinds, in llama.cpp's folder models/.
REAL: dict[str, tuple[str, dict[str, Any], str]] = {
    "v2-en (WordPiece)": ("bert-bge", {}, "a [MASK] b"),
    "v2-es, -de, -code (byte-level BPE)": ("gpt-2", {}, "a <|endoftext|> b"),
    "v5-small (Qwen)": ("qwen2", {}, "a <|im_end|> b"),
    "v5-nano (Llama 3)": ("llama-bpe", test_tokenizer.PUBLISHED["v5-nano"][1], "a <|end_of_text|> b"),
}
DIFFERENT: dict[str, set[str]] = {
    "v2-en (WordPiece)": {"Devanagari", "Korean", "words of 101 characters"},
    "v2-es, -de, -code (byte-level BPE)": set(),
    "v2-zh (BPE of characters)": {"characters without a token", "NUL"},
    "v5-small (Qwen)": {"accents, decomposed"},
    "v5-nano (Llama 3)": set(),
}


def _check(folder: Path, fast: FastTokenizer, special: str, wanted: set[str]) -> None:
    raw = fast.to_str()
    config = checkpoints.jina_bert_config(
        "original", hidden=32, layers=1, heads=2, intermediate=32, vocab=fast.get_vocab_size()
    )
    checkpoints.write_folder(folder / "model", config, checkpoints.jina_bert_weights("original", config), fast)
    convert.to_gguf(str(folder / "model"), folder / "m.gguf")
    texts = [*(text for rows in TEXTS.values() for text in rows), special]
    ours = [row.tolist() for row in Tokenizer(FastTokenizer.from_str(raw)).encode(texts)]
    known, plain = llama_cpp.tokens(folder / "m.gguf", texts)
    other = {text for text, a, b in zip(texts, ours, known, strict=True) if a != b}
    assert {name for name, rows in TEXTS.items() if other & set(rows)} == wanted
    # As llama-server tokenizes; and as llama-cpp-python's embed() does.
    assert ours[-1] == known[-1] != plain[-1]


@pytest.mark.parametrize("model", MAKERS)
def test_where_llama_cpp_differs(tmp_path: Path, model: str) -> None:
    _check(tmp_path, MAKERS[model](), SPECIAL[model], DIFFERENT[model])


@pytest.mark.parametrize("model", REAL)
def test_where_llama_cpp_differs_on_real_vocabularies(tmp_path: Path, model: str) -> None:
    name, changes, special = REAL[model]
    path = Path(os.environ.get("GGUF_VOCABS", "")) / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(f"set GGUF_VOCABS to llama.cpp's folder models/, for {path.name}")
    file = GGUF(path)
    file.metadata.update(changes)
    # Qwen has an ordinary token of this name, which llama.cpp makes a special one.
    more = {"</s>"} if name == "qwen2" else set()
    _check(tmp_path, gguf_tokenizer.read(file)[0].fast, special, DIFFERENT[model] | more)
