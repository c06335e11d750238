"""A smaller WordPiece vocabulary: the teacher's tokenizer less the tokens an English text rarely needs."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def essential(token: str) -> bool:
    """Special tokens, every single ASCII character with its continuation form, and printed punctuation."""
    bare = token.removeprefix("##")
    if token in SPECIAL or (len(bare) == 1 and bare.isascii()):
        return True
    return len(token) == 1 and (unicodedata.category(token)[0] in "PS" or "\u00a0" < token < "\u0250")


def count(tokenizer: Any, corpus: list[list[str]]) -> Counter[str]:
    """How often each token occurs in the corpus."""
    counts: Counter[int] = Counter()
    for at in range(0, len(corpus), 10_000):
        texts = [t for family in corpus[at : at + 10_000] for t in family]
        for encoded in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            counts.update(encoded.ids)
    return Counter({tokenizer.id_to_token(i): n for i, n in counts.items()})


def choose(vocab: dict[str, int], counts: Counter[str], size: int) -> list[str]:
    """The `size` tokens to keep, in the teacher's order.

    The teacher's ids run from frequent to rare, so a token ranks by the better of its id and its count here.
    """
    by_count = {t: i for i, (t, _) in enumerate(counts.most_common())}
    candidates = [t for t in vocab if t.isascii() and not t.startswith("[unused") and not essential(t)]
    # Pieces of words rank lower, because shorter pieces can spell them; nothing replaces a whole word's vector.
    rank = {
        t: min(vocab[t] * (1.6 if t.startswith("##") else 1.0), by_count.get(t, 10**6) * 1.2) for t in candidates
    }
    kept = {t for t in vocab if essential(t)}
    kept.update(sorted(candidates, key=lambda t: rank[t])[: size - len(kept)])
    return sorted(kept, key=lambda t: vocab[t])


def prune(tokenizer_json: str, kept: list[str]) -> str:
    """The tokenizer with only `kept`, renumbered from 0, without truncation or padding."""
    config: dict[str, Any] = json.loads(tokenizer_json)
    ids = {t: i for i, t in enumerate(kept)}
    config["truncation"] = config["padding"] = None
    config["model"]["vocab"] = ids
    for added in config["added_tokens"]:
        added["id"] = ids[added["content"]]
    config["added_tokens"].sort(key=lambda a: a["id"])
    for special in config["post_processor"]["special_tokens"].values():
        special["ids"] = [ids[t] for t in special["tokens"]]
    return json.dumps(config, ensure_ascii=False)
