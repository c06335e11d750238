"""A tokenizer as GGUF metadata: the keys that llama.cpp reads, and a `tokenizers` object rebuilt from such keys.

Our files also hold the whole tokenizer.json. Where a file has it, the tokenizer is made from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer

from mlx_jina.errors import CheckpointError, some
from mlx_jina.text.tokenizer import Tokenizer, failures
from mlx_jina.weights.gguf import unigram as gguf_unigram
from mlx_jina.weights.gguf.file import GGUF

PREFIX = "tokenizer.ggml"
WHOLE = "tokenizer.huggingface.json"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
SPACE = "\u2581"

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_QWEN = ("qwen2", "deepseek-r1-qwen", "qwen35")
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "jina-v5-nano")
_GPT2 = ("gpt-2", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe", "default")
# How models spell their special tokens, by GGUF's names for these ("seperator" is its own spelling).
_SPELLINGS = {
    "bos": ("<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>"),
    "unknown": ("[UNK]", "<unk>"),
    "seperator": ("[SEP]", "</s>"),
    "padding": ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"),
    "cls": ("[CLS]", "<s>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}


def _walk(node: Any) -> list[Mapping[str, Any]]:
    """Every object in a tokenizer.json's pre_tokenizer or normalizer, with those inside of sequences."""
    if not isinstance(node, Mapping):
        return []
    children = node.get("pretokenizers") or node.get("normalizers") or []
    return [node, *(descendant for child in children for descendant in _walk(child))]


def pre_of_v2(names: Iterable[str], tensors: Collection[str]) -> str:
    """llama.cpp's name for a byte-level v2 tokenizer. llama.cpp splits words alike under each of these names.

    The language is in one of the model's `names` (the one asked for, its folder's, those in config.json);
    otherwise the layout of the `tensors` tells code and Spanish from German.
    """
    for name in names:
        if languages := re.findall(r"v2-(?:base-)?(es|de|code)\b", name.lower()):
            return f"jina-v2-{languages[-1]}"
    if any(name.endswith("mlp.up_gated_layer.weight") for name in tensors):
        return "jina-v2-code"
    return "jina-v2-es" if any(".layer_norm_q." in name for name in tensors) else "jina-v2-de"


def _kind(content: Mapping[str, Any], v2: str) -> tuple[str, str]:
    """`tokenizer.ggml.model` and `.pre` of a tokenizer.json; `v2` is the name of a byte-level v2 one."""
    model = content["model"]["type"]
    splitters = _walk(content.get("pre_tokenizer"))
    types = {splitter["type"] for splitter in splitters}
    if model == "WordPiece":
        return "bert", "jina-v2-en"
    if model == "Unigram":
        return "t5", "default"
    if model == "BPE" and "ByteLevel" in types:
        patterns = {s["pattern"].get("Regex") for s in splitters if s["type"] == "Split"}
        if patterns == {LLAMA3_SPLIT}:
            return "gpt2", "jina-v5-nano"
        if patterns == {QWEN_SPLIT}:
            return "gpt2", "qwen2"
        if not patterns:
            return "gpt2", v2
    if model == "BPE" and types and types <= {"Whitespace", "Sequence"}:
        return "whitespace", "whitespace"
    raise CheckpointError(
        f"a {model} tokenizer that splits by {some(sorted(types)) or 'nothing'} has no form in GGUF that is "
        "written here"
    )


def _vocabulary(content: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, int]]:
    """Every token of a tokenizer.json and its type in GGUF, by id."""
    vocab = content["model"]["vocab"]
    scored = isinstance(vocab, list)
    tokens = dict(enumerate(token for token, _ in vocab)) if scored else {i: token for token, i in vocab.items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    for added in content.get("added_tokens") or ():
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if scored:
        kinds[content["model"]["unk_id"]] = UNKNOWN
    return tokens, kinds


def _tokens(content: Mapping[str, Any], rows: int, phantom: bool) -> tuple[list[str], list[int]]:
    """Every row's token and its type. Rows without a token get a filler: no two may be equal, and none empty.

    `phantom`: a space is put before each word, and the ## of its continuations is left out.
    """
    by_id, kinds = _vocabulary(content)
    if by_id and max(by_id) >= rows:
        raise CheckpointError(f"the tokenizer has the id {max(by_id)}, but the model only {rows} rows for tokens")
    tokens = []
    for i in range(rows):
        token = by_id.get(i, f"[PAD{i}]")
        if phantom and kinds.get(i) == NORMAL:
            token = token[2:] if token.startswith("##") else SPACE + token
        tokens.append(token)
    if len(set(tokens)) != rows:
        raise CheckpointError("the tokenizer has two tokens that would be the same in GGUF")
    return tokens, [kinds.get(i, UNUSED) for i in range(rows)]


def _ends(tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """The special tokens before and after every text."""
    encoding = tokenizer.fast.encode("a")
    special = encoding.special_tokens_mask
    first = encoding.ids[0] if special[0] else None
    last = encoding.ids[-1] if special[-1] else None
    if sum(special) != (first is not None) + (last is not None):
        raise CheckpointError(
            f"the tokenizer puts {sum(special)} special tokens around a text; GGUF has a place for one at each end"
        )
    return first, last


def _special_ids(tokenizer: Tokenizer, first: int | None, last: int | None) -> dict[str, int]:
    """The keys of special tokens: those at the ends of a text, and others by their usual spellings."""
    ends = {"bos": first, "cls": first, "eos": last, "seperator": last}
    keys: dict[str, int] = {}
    for name, spellings in _SPELLINGS.items():
        ids = (ends.get(name), *map(tokenizer.fast.token_to_id, spellings))
        if (token := next((i for i in ids if i is not None), None)) is not None:
            keys[f"{name}_token_id"] = token
    return keys


def _pieces(content: Mapping[str, Any], model: str, rows: int) -> dict[str, Any]:
    """The keys that tell how words are put together from tokens."""
    if model == "t5":
        splitters, normalizers = (_walk(content.get(part)) for part in ("pre_tokenizer", "normalizer"))
        return gguf_unigram.metadata(content, splitters, normalizers, rows)
    if model == "bert":
        return {}
    merges = content["model"]["merges"]
    return {"merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]}


def _normalizer(content: Mapping[str, Any], model: str) -> dict[str, bool]:
    """The keys of what happens to characters first."""
    keys = {} if model in ("gpt2", "t5") else {"normalizer.lowercase": False}
    for node in _walk(content.get("normalizer")):
        if node["type"] in ("BertNormalizer", "Lowercase"):
            keys["normalizer.lowercase"] = bool(node.get("lowercase", True))
        if node.get("strip_accents") is not None:
            keys["normalizer.strip_accents"] = bool(node["strip_accents"])
    return keys


def metadata(
    raw: str, tokenizer: Tokenizer, rows: int, token_types: int | None, v2: str = "jina-v2-de"
) -> dict[str, Any]:
    """All tokenizer keys, in GGUF's names, for a tokenizer.json and a model with `rows` token vectors.

    `v2` names the byte-level tokenizer of a v2 model, see pre_of_v2.
    """
    content = json.loads(raw)
    model, pre = _kind(content, v2)
    tokens, kinds = _tokens(content, rows, phantom=model == "bert")
    first, last = _ends(tokenizer)
    keys: dict[str, Any] = {"model": model, "pre": pre, "tokens": tokens, "token_type": kinds}
    if token_types is not None:
        keys["token_type_count"] = token_types
    keys |= _pieces(content, model, rows)
    keys |= _special_ids(tokenizer, first, last)
    keys["add_bos_token"], keys["add_eos_token"] = first is not None, last is not None
    # The separator between the texts of a pair, which is not the one that closes a text.
    keys["add_sep_token"] = pre == "jina-v2-code"
    keys |= _normalizer(content, model)
    return {**{f"{PREFIX}.{key}": value for key, value in keys.items()}, WHOLE: raw}


def _wordpiece(file: GGUF, tokens: Sequence[str], kinds: Sequence[int]) -> FastTokenizer:
    # Old converters call every token normal, and write special ones as they are.
    old = CONTROL not in kinds

    def original(token: str, kind: int) -> str:
        if kind in (CONTROL, UNUSED, UNKNOWN, USER_DEFINED) or (old and re.fullmatch(r"\[.*\]", token)):
            return token
        return token[1:] if token.startswith(SPACE) else f"##{token}"

    vocab = {original(token, kind): i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))}
    unknown = _special(file, tokens, "unknown") or "[UNK]"
    fast = FastTokenizer(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    fast.normalizer = normalizers.BertNormalizer(
        lowercase=file.get(f"{PREFIX}.normalizer.lowercase", bool, True),
        strip_accents=file.get(f"{PREFIX}.normalizer.strip_accents", bool, None, required=False),
    )
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    return fast


def _bpe(file: GGUF, tokens: Sequence[str], model: str) -> FastTokenizer:
    merges = file.get(f"{PREFIX}.merges", list)
    pairs = [(left, right) for left, _, right in (str(merge).partition(" ") for merge in merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    pre = file.metadata.get(f"{PREFIX}.pre", "default")
    whitespace = model == "whitespace"
    fast = FastTokenizer(
        models.BPE(
            vocab,
            pairs,
            unk_token=_special(file, tokens, "unknown") if whitespace else None,
            ignore_merges=pre in _LLAMA3,
        )
    )
    if whitespace:
        if file.get(f"{PREFIX}.normalizer.lowercase", bool, False):
            fast.normalizer = normalizers.Lowercase()
        fast.pre_tokenizer = pre_tokenizers.Whitespace()
        return fast
    if pre in _GPT2:
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif pre in (*_QWEN, *_LLAMA3):
        if pre in _QWEN:
            fast.normalizer = normalizers.NFC()
        split = Regex(QWEN_SPLIT if pre in _QWEN else LLAMA3_SPLIT)
        fast.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(split, behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        raise CheckpointError(f"{file.path}: the pre-tokenizer {pre!r} is not one that can be rebuilt")
    fast.decoder = decoders.ByteLevel()
    return fast


def _unigram(file: GGUF, tokens: Sequence[str], kinds: Sequence[int]) -> FastTokenizer:
    scores = file.get(f"{PREFIX}.scores", list)
    if len(scores) != len(tokens):
        raise CheckpointError(
            f"{file.path}: metadata '{PREFIX}.scores' has {len(scores)}, not {len(tokens)} entries"
        )
    return gguf_unigram.rebuild(
        tokens,
        [kind != UNUSED for kind in kinds],
        scores,
        # T5's own, which llama.cpp assumes.
        file.get(f"{PREFIX}.unknown_token_id", int, 2),
        file.get(f"{PREFIX}.precompiled_charsmap", list, []),
        prefix=file.get(f"{PREFIX}.add_space_prefix", bool, True),
        squeeze=file.get(f"{PREFIX}.remove_extra_whitespaces", bool, False),
    )


def _special(file: GGUF, tokens: Sequence[str], name: str) -> str | None:
    key = f"{PREFIX}.{name}_token_id"
    token = file.metadata.get(key)
    if token is None:
        return None
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < len(tokens):
        raise CheckpointError(f"{file.path}: metadata {key!r} is {token!r}, but there are {len(tokens)} tokens")
    return tokens[token]


def _template(file: GGUF, tokens: Sequence[str], model: str) -> processors.TemplateProcessing | None:
    """The special tokens around a text. Old files lack the flags; those of BERT tokenizers mean both."""
    pre = str(file.metadata.get(f"{PREFIX}.pre", ""))
    default = model in ("bert", "whitespace", "t5") or pre.startswith(("jina-v1", "jina-v2"))
    before = _special(file, tokens, "bos") or _special(file, tokens, "cls")
    after = _special(file, tokens, "seperator") if model == "bert" else None
    after = after or _special(file, tokens, "eos")
    if not file.get(f"{PREFIX}.add_bos_token", bool, default):
        before = None
    if not file.get(f"{PREFIX}.add_eos_token", bool, default):
        after = None
    used = [token for token in (before, after) if token]
    if not used:
        return None
    single = " ".join(filter(None, (before, "$A", after)))
    # RoBERTa and XLM-RoBERTa put two between the texts of a pair, and have one type of tokens.
    roberta = model == "t5" or pre.startswith(("jina-v1", "jina-v2"))
    between, second = (after, "$B") if roberta else (None, "$B:1")
    closing = after and (after if roberta else f"{after}:1")
    pair = " ".join(filter(None, (single, between, second, closing)))
    ids = {token: i for i, token in enumerate(tokens)}
    return processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, ids[token]) for token in dict.fromkeys(used)]
    )


def _added(token: str, kind: int, pre: str) -> AddedToken:
    # RoBERTa's and EuroBERT's masks include the space before them. GGUF has no key for that.
    lstrip = (pre.startswith("jina-v2-") and token == "<mask>") or (pre == "jina-v5-nano" and token == "<|mask|>")
    return AddedToken(token, special=kind == CONTROL, normalized=False, lstrip=lstrip)


def _rebuilt(file: GGUF) -> FastTokenizer:
    model = file.get(f"{PREFIX}.model", str)
    tokens = file.get(f"{PREFIX}.tokens", list)
    kinds = file.get(f"{PREFIX}.token_type", list, [NORMAL] * len(tokens))
    if not all(isinstance(token, str) for token in tokens) or len(kinds) != len(tokens):
        raise CheckpointError(f"{file.path}: metadata '{PREFIX}.tokens' and '{PREFIX}.token_type' do not fit")
    if model == "bert":
        fast = _wordpiece(file, tokens, kinds)
    elif model in ("gpt2", "whitespace"):
        fast = _bpe(file, tokens, model)
    elif model == "t5":
        fast = _unigram(file, tokens, kinds)
        kinds = [CONTROL if kind == UNKNOWN else kind for kind in kinds]
    else:
        raise CheckpointError(f"{file.path}: metadata '{PREFIX}.model' is {model!r}, which cannot be rebuilt")
    for kind, add in ((CONTROL, fast.add_special_tokens), (USER_DEFINED, fast.add_tokens)):
        special = [token for token, row_kind in zip(tokens, kinds, strict=True) if row_kind == kind]
        add([_added(token, kind, str(file.metadata.get(f"{PREFIX}.pre"))) for token in special])
    if (template := _template(file, tokens, model)) is not None:
        fast.post_processor = template
    return fast


def read(file: GGUF) -> tuple[Tokenizer, str]:
    """The tokenizer of a .gguf, and its tokenizer.json: the one in the file, or one rebuilt from the keys."""
    tokenizer_json = file.get(WHOLE, str, None, required=False)
    key = f"{PREFIX}.*" if tokenizer_json is None else WHOLE
    with failures(f"{file.path}: metadata {key!r} is not a tokenizer"):
        fast = _rebuilt(file) if tokenizer_json is None else FastTokenizer.from_str(tokenizer_json)
    try:
        return Tokenizer(fast), tokenizer_json or fast.to_str()
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: metadata {key!r}: {error}") from None
