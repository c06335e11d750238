"""Distillation of the student on the teacher's vectors, on a CPU, for a given number of minutes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as fn

from convert.pocket.student import HIDDEN, Student

DIMS = (64, 128, 256)
BATCH_TOKENS, BATCH_TEXTS, LONGEST = 4096, 640, 2048
RATE, WARMUP, BETAS, DECAY, CLIP = 2e-3, 0.03, (0.9, 0.98), 0.01, 1.0
SIMILARITY_WEIGHT = 20.0

Array = npt.NDArray[Any]
Family = list[tuple[Array, int]]  # token ids and row in the teacher's vectors


def principal(vectors: Array, width: int) -> Array:
    """Leading directions (384, width) of vectors that are not centred, so that dot products are preserved."""
    x = vectors.astype(np.float32)
    values, directions = np.linalg.eigh(x.T @ x)
    return np.ascontiguousarray(directions[:, np.argsort(-values)[:width]])


def tokenised(tokenizer: Any, texts: list[str]) -> list[Array]:
    return [np.array(e.ids, np.uint16) for e in tokenizer.encode_batch_fast(texts)]


def load(corpus: list[list[str]], folder: Path, chunk: int, tokenizer: Any) -> tuple[list[Family], Array]:
    """Families of every finished chunk in the teacher's folder, with the vectors stacked."""
    families: list[Family] = []
    vectors: list[Array] = []
    rows = 0
    for path in sorted(folder.glob("*.npy")):
        part = corpus[int(path.stem) : int(path.stem) + chunk]
        ids = iter(tokenised(tokenizer, [t for f in part for t in f]))
        vectors.append(np.load(path))
        for family in part:
            families.append([(next(ids), rows + i) for i in range(len(family))])
            rows += len(family)
    return families, np.concatenate(vectors)


def batches(families: list[Family], rng: random.Random) -> Iterator[Family]:
    """One epoch of batches of near-equal length; the texts of a family stay together."""
    lengths = [max(len(ids) for ids, _ in f) * rng.uniform(0.85, 1.15) for f in families]
    made: list[Family] = [[]]
    tokens = 0
    for i in sorted(range(len(families)), key=lengths.__getitem__):
        family = [item for item in families[i] if len(item[0]) <= LONGEST]
        size = sum(len(ids) for ids, _ in family)
        if made[-1] and (tokens + size > BATCH_TOKENS or len(made[-1]) + len(family) > BATCH_TEXTS):
            made.append([])
            tokens = 0
        made[-1].extend(family)
        tokens += size
    rng.shuffle(made)
    yield from (b for b in made if len(b) > 1)


def loss(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine to the teacher's reduced vectors, and squared error of similarities at every width.

    Most pairs are unrelated, so the error of a pair has a weight that grows with the teacher's similarity.
    """
    wanted = teacher @ teacher.T
    weight = (wanted.square() + 0.02).fill_diagonal_(0)
    weight /= weight.sum()
    error = torch.zeros(())
    for dim in DIMS:
        z = fn.normalize(student[:, :dim], dim=-1)
        error = error + (weight * (z @ z.T - wanted).square()).sum() / len(DIMS)
    return (1 - fn.cosine_similarity(student, target)).mean(), error


def start(vocab: int, words: Array) -> Student:
    """A student whose word vectors are the teacher's vectors of single tokens."""
    model = Student(vocab)
    table: Any = model.embeddings["word_embeddings"]
    with torch.no_grad():
        table.weight[: len(words)] = torch.from_numpy(words)
    return model


def rate(progress: float) -> float:
    if progress < WARMUP:
        return progress / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def train(
    families: list[Family],
    vectors: Array,
    words: Array,
    basis: Array,
    minutes: float,
    seed: int,
    save: Callable[[Student, dict[str, Any]], None],
) -> None:
    """Run until the minutes are over; the learning rate follows the clock. `save` is called now and then."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = start(len(words), fn.normalize(torch.from_numpy(words @ basis), dim=-1).numpy())
    projection = torch.from_numpy(basis)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embeddings" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embeddings" in n]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": DECAY, "base": RATE},
            {"params": others, "weight_decay": 0.0, "base": RATE / 2},
        ],
        betas=BETAS,
        fused=True,
    )
    begin = time.time()
    saved, step, tokens, texts, epoch = begin, 0, 0, 0, 0
    sums = np.zeros(2)
    while True:
        for batch in batches(families, rng):
            progress = (time.time() - begin) / (60 * minutes)
            if progress >= 1:
                save(model, {"steps": step, "tokens": tokens, "texts": texts, "epochs": epoch})
                return
            for part in optimiser.param_groups:
                part["lr"] = part["base"] * rate(progress)
            teacher = torch.from_numpy(vectors[[row for _, row in batch]].astype(np.float32))
            out = model([torch.from_numpy(ids.astype(np.int64)) for ids, _ in batch], torch.bfloat16)
            cosine, error = loss(out, fn.normalize(teacher, dim=-1), teacher @ projection)
            total: Any = cosine + SIMILARITY_WEIGHT * error
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
            optimiser.zero_grad()
            step, tokens, texts = step + 1, tokens + sum(len(ids) for ids, _ in batch), texts + len(batch)
            sums += cosine.item(), error.item()
            if step % 100 == 0:
                mean, sums = sums / 100, np.zeros(2)
                pace = tokens / (time.time() - begin)
                print(f"{step} {progress:.3f} cos {mean[0]:.4f} sim {mean[1]:.5f} {pace:.0f} tok/s", flush=True)
            if time.time() - saved > 600:
                saved = time.time()
                save(model, {"steps": step, "tokens": tokens, "texts": texts, "epochs": epoch})
        epoch += 1


def encode(model: Student, tokenizer: Any, texts: list[str]) -> Array:
    """Float32 vectors, unnormalised, in input order."""
    ids = tokenised(tokenizer, texts)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = np.zeros((len(ids), HIDDEN), np.float32)
    with torch.no_grad():
        for at in range(0, len(order), 64):
            rows = order[at : at + 64]
            out[rows] = model([torch.from_numpy(ids[r].astype(np.int64)) for r in rows]).numpy()
    return out
