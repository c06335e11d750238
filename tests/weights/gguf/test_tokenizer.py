"""Tokenizers as GGUF metadata and back: the same ids, whatever the text."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer

from mlx_jina.errors import CheckpointError
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import convert
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, decoder_checkpoints, llama_cpp, v3_checkpoints
from tests.support.tolerance import bound

SCRIPTS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCXYZ ÀÉÎÕÜßŒ łşğ",
    "привет мир ЁЖ",
    "Ελλάδα καλημέρα",
    "مرحبا بالعالم ١٢٣",
    "שלום עולם",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก",
    "你好世界深度学习",
    "こんにちはカタカナ",
    "안녕하세요 세계",
    "e\u0301 n\u0303 \u1112\u1161\u11ab a\u0308\u0304",
    "0123456789 ½ ² ٣",
    ".,;:!?()[]{}<>/\\|\"'`~@#$%^&*-_=+",
    "🙂🚀👩\u200d👩\u200d👧🇩🇪👍🏽",
    "\t\n\r \u00a0\u3000\u200b\x07\x00\ufeff\u2028",
)
WHOLE = (
    "",
    " ",
    "   two   words   ",
    "x" * 101,
    "x" * 100,
    "don't I'LL we've",
    "[MASK] [CLS]a[SEP] [PAD]",
    "<s>a</s> <mask>b <unk> <pad>",
    "<|endoftext|> a<|im_start|>b<|im_end|>",
    "def f(x):\n    return x**2  # square\n",
    "https://example.org/a?b=c&d=%20e",
    "line\r\nline\n\n\nend ",
)


def lines(count: int = 1200) -> list[str]:
    """Texts of all scripts, mixed and not, with whatever tokenizers disagree about."""
    rng = random.Random(4)
    made = list(WHOLE)
    while len(made) < count:
        parts = []
        for _ in range(rng.randrange(1, 6)):
            script = rng.choice(SCRIPTS)
            parts.append("".join(rng.choice(script) for _ in range(rng.randrange(1, 12))))
            parts.append(rng.choice(("", " ", "  ", rng.choice(checkpoints.WORDS), rng.choice(WHOLE))))
        made.append("".join(parts))
    return made


def _around(vocab: dict[str, int], first: str, last: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocab[first]), (last, vocab[last])]
    )


def roberta(prefix: bool = False) -> FastTokenizer:
    """Byte-level BPE as in v2-base-es, -de and -code."""
    fast = FastTokenizer(models.BPE(unk_token=None))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=specials, show_progress=False
    )
    fast.train_from_iterator([" ".join(checkpoints.WORDS)] * 2, trainer)
    fast.post_processor = _around(fast.get_vocab(), "<s>", "</s>")
    return fast


def chinese(lower: bool = True) -> FastTokenizer:
    """BPE over characters between white space, as in v2-base-zh."""
    fast = FastTokenizer(models.BPE(unk_token="<unk>"))
    fast.normalizer = normalizers.Lowercase() if lower else None
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, show_progress=False)
    fast.train_from_iterator([" ".join(checkpoints.WORDS), "你好世界 深度学习 你好", *"AZ.,!"] * 2, trainer)
    fast.post_processor = _around(fast.get_vocab(), "<s>", "</s>")
    return fast


def llama3() -> FastTokenizer:
    """Byte-level BPE with Llama 3's split and an end token, as in v5-nano."""
    content = json.loads(checkpoints.qwen_tokenizer().to_str())
    content["normalizer"] = None
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = gguf_tokenizer.LLAMA3_SPLIT
    content["model"]["ignore_merges"] = True
    fast = FastTokenizer.from_str(json.dumps(content))
    fast.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", fast.token_to_id("<|im_end|>"))]
    )
    return fast


def _keys(fast: FastTokenizer, v2: str = "jina-v2-de", rows: int | None = None) -> dict[str, Any]:
    raw = fast.to_str()
    count = rows or fast.get_vocab_size()
    return gguf_tokenizer.metadata(raw, Tokenizer(FastTokenizer.from_str(raw)), count, None, v2)


class _File(GGUF):
    """Metadata without a file."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.path = Path("m.gguf")
        # Bytes come back as the array that they are in a file.
        self.metadata = {key: list(x) if isinstance(x, bytes) else x for key, x in metadata.items()}


KINDS = {
    "bert": (lambda: checkpoints.wordpiece_tokenizer(320), "bert", "jina-v2-en", (True, True)),
    "byte-level": (roberta, "gpt2", "jina-v2-de", (True, True)),
    "zh": (chinese, "whitespace", "whitespace", (True, True)),
    "zh, cased": (lambda: chinese(lower=False), "whitespace", "whitespace", (True, True)),
    "qwen": (checkpoints.qwen_tokenizer, "gpt2", "qwen2", (False, False)),
    "llama3": (llama3, "gpt2", "jina-v5-nano", (False, True)),
    "unigram": (v3_checkpoints.tokenizer, "t5", "default", (True, True)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_lines_have_the_same_ids(kind: str) -> None:
    make, model, pre, added = KINDS[kind]
    original = make()
    # More rows than tokens, as published models have.
    keys = _keys(original, rows=original.get_vocab_size() + 7)
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == (model, pre)
    assert (keys["tokenizer.ggml.add_bos_token"], keys["tokenizer.ggml.add_eos_token"]) == added
    tokens = keys["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == len(tokens) == original.get_vocab_size() + 7
    assert "" not in tokens
    texts = lines()
    assert len(set(texts)) >= 1000
    wanted = [row.tolist() for row in Tokenizer(original).encode(texts)]
    for metadata in (keys, {key: value for key, value in keys.items() if key != gguf_tokenizer.WHOLE}):
        tokenizer, raw = gguf_tokenizer.read(_File(metadata))
        assert [row.tolist() for row in tokenizer.encode(texts)] == wanted
        assert [row.tolist() for row in Tokenizer(FastTokenizer.from_str(raw)).encode(texts)] == wanted


@pytest.mark.parametrize(
    ("names", "tensors", "pre"),
    [
        (["jinaai/jina-embeddings-v2-base-es"], [], "jina-v2-es"),
        (["jinaai/jina-embeddings-v2-base-de"], ["encoder.layer.0.mlp.up_gated_layer.weight"], "jina-v2-de"),
        (["/models/jina-embeddings-v2-base-code-f16"], [], "jina-v2-code"),
        (["/jina-embeddings-v2-de/jina-embeddings-v2-base-es"], [], "jina-v2-es"),
        (["model", "jina-v2-es"], [], "jina-v2-es"),
        (["model"], ["encoder.layer.0.mlp.up_gated_layer.weight"], "jina-v2-code"),
        (["model"], ["encoder.layer.0.attention.self.layer_norm_q.weight"], "jina-v2-es"),
        (["model"], ["encoder.layer.0.mlp.gated_layers.weight"], "jina-v2-de"),
    ],
)
def test_which_v2_tokenizer(names: list[str], tensors: list[str], pre: str) -> None:
    assert gguf_tokenizer.pre_of_v2(names, tensors) == pre
    keys = _keys(roberta(), v2=pre)
    assert keys["tokenizer.ggml.pre"] == pre
    assert keys["tokenizer.ggml.add_sep_token"] is (pre == "jina-v2-code")


def test_a_folder_s_layout_names_its_tokenizer(tmp_path: Path) -> None:
    for layout, pre in (("qk-post-norm", "jina-v2-code"), ("qk-devlin-norm", "jina-v2-es")):
        source = checkpoints.tiny_jina_bert(tmp_path / layout, layout)
        roberta().save(str(source / "tokenizer.json"))
        convert.to_gguf(str(source), tmp_path / f"{layout}.gguf")
        assert GGUF(tmp_path / f"{layout}.gguf").metadata["tokenizer.ggml.pre"] == pre


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_tokenizes_plain_text_alike(tmp_path: Path, kind: str) -> None:
    make = KINDS[kind][0]
    if kind == "llama3":
        source, task = decoder_checkpoints.v5_nano(tmp_path / "model"), "retrieval"
    elif kind == "unigram":
        source, task = v3_checkpoints.original(tmp_path), "separation"
    elif kind == "qwen":
        source, task = checkpoints.v5_small(tmp_path / "model"), "retrieval"
    else:
        source, task = checkpoints.tiny_jina_bert(tmp_path / "model"), None
        make().save(str(source / "tokenizer.json"))
    convert.to_gguf(str(source), tmp_path / "m.gguf", task=task, kind="F32")
    texts = ["how do i bake bread", "light travels fast, in vacuum.", "vector search on mac"]
    ids = [row.tolist() for row in gguf_tokenizer.read(GGUF(tmp_path / "m.gguf"))[0].encode(texts)]
    by_text, by_ids = (llama_cpp.vectors(tmp_path / "m.gguf", inputs) for inputs in (texts, ids))
    assert abs(by_text - by_ids).max() < bound(1e-6)


def test_llama_cpp_tokenizes_every_script_alike_for_v3(tmp_path: Path) -> None:
    """But for several combining marks on one letter, which tokenizers normalises together and llama.cpp singly."""
    convert.to_gguf(str(v3_checkpoints.original(tmp_path)), tmp_path / "m.gguf", task="separation", kind="F32")
    texts = [text for text in (*SCRIPTS, *WHOLE) if not re.search("[\u0300-\u036f\x00]|</?s>", text)]
    assert len(texts) >= 24
    ids = [row.tolist() for row in gguf_tokenizer.read(GGUF(tmp_path / "m.gguf"))[0].encode(texts)]
    by_text, by_ids = (llama_cpp.vectors(tmp_path / "m.gguf", inputs) for inputs in (texts, ids))
    assert abs(by_text - by_ids).max() < bound(1e-6)


def test_special_tokens_have_their_ids() -> None:
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in _keys(roberta()).items()}
    assert [keys[f"{name}_token_id"] for name in ("bos", "eos", "padding", "unknown", "mask")] == [0, 2, 1, 3, 4]
    assert keys["token_type"][:5] == [gguf_tokenizer.CONTROL] * 5
    qwen = checkpoints.qwen_tokenizer()
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in _keys(qwen).items()}
    assert keys["eos_token_id"] == qwen.token_to_id("<|im_end|>")
    assert keys["padding_token_id"] == keys["bos_token_id"] == qwen.token_to_id("<|endoftext|>")


def test_what_gguf_cannot_say_is_refused() -> None:
    odd = checkpoints.qwen_tokenizer()
    odd.pre_tokenizer = pre_tokenizers.Digits()
    with pytest.raises(CheckpointError, match="splits by Digits"):
        _keys(odd)
    with pytest.raises(CheckpointError, match="rows for tokens"):
        _keys(roberta(), rows=10)
    twice = roberta()
    vocab = twice.get_vocab()
    twice.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A </s>", special_tokens=[(name, vocab[name]) for name in ("<s>", "</s>")]
    )
    with pytest.raises(CheckpointError, match="puts 3 special tokens"):
        _keys(twice)


# What llama.cpp's converter knows tokenizers by: the ids of one text in a real vocabulary, hashed.
CHECK = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n"
    "🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 "
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 "
    "?我想在apple工作1314151天\uff5e ------======= "
    "нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? "
    "'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
BOS, EOS = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"
PUBLISHED: dict[str, tuple[str, dict[str, Any], str]] = {
    "v2-en": ("bert-bge", {}, "0876d13b50744004aa9aeae05e7b0647eac9d801b5ba4668afc01e709c15e19f"),
    "v5-small": (
        "qwen2",
        {BOS: False, EOS: False},
        "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea",
    ),
    "Qwen3-Embedding": (
        "qwen2",
        {BOS: False, EOS: True, "tokenizer.ggml.eos_token_id": 151643},
        "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c",
    ),
    "Llama 3": ("llama-bpe", {BOS: True}, "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5"),
    "v5-nano": (
        "llama-bpe",
        {BOS: False, EOS: True, "tokenizer.ggml.pre": "jina-v5-nano", "tokenizer.ggml.eos_token_id": 128001},
        "a023e9fdc5a11f034d3ef515b92350e56fb2af1f66c6b6811a4444ea9bf8763d",
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_tokenizers(model: str) -> None:
    name, changes, wanted = PUBLISHED[model]
    path = Path(os.environ.get("GGUF_VOCABS", "")) / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(f"set GGUF_VOCABS to llama.cpp's folder models/, for {path.name}")
    file = GGUF(path)
    file.metadata.update(changes)
    tokenizer, _ = gguf_tokenizer.read(file)
    ids = tokenizer.encode([CHECK])[0].tolist()
    assert hashlib.sha256(str(ids).encode()).hexdigest() == wanted
