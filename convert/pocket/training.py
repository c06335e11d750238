"""Distillation of the student on the teacher's vectors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as fn

from convert.pocket.graphs import Graphs
from convert.pocket.student import HIDDEN, Student, device

DIMS = (64, 128, 256)
BATCH_TOKENS, BATCH_TEXTS, LONGEST = 4096, 256, 2048
# A GPU takes so many times as much at once.
GPU_BATCH = 4
RATE, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.98), 0.01, 1.0
# Of activations, and of the similarities that rank.
DTYPE = torch.bfloat16
# Steps in which the rate grows, and the share of all steps in which it falls.
WARMUP, COOLDOWN = 1000, 0.25
BANK, NEAR, TEMPERATURE = 8192, 8, 0.05
# Of one batch's error: similarities among its texts, and the order in which it ranks other texts.
SIMILARITY_WEIGHT, RANKING_WEIGHT = 20.0, 1.0

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Lessons:
    """Texts, in the order of the corpus, and what the teacher says of them."""

    ids: Sequence[Array]
    """Of each text, the student's tokens."""
    vectors: Array
    """(N, 384) in float16."""


def principal(vectors: Array, width: int) -> Array:
    """Leading directions (384, width) of vectors that are not centred, so that dot products are preserved."""
    x = vectors.astype(np.float32)
    values, directions = np.linalg.eigh(x.T @ x)
    return np.ascontiguousarray(directions[:, np.argsort(-values)[:width]])


def tokenised(tokenizer: Any, texts: Sequence[str]) -> list[Array]:
    return [np.array(encoded.ids, np.uint16) for encoded in tokenizer.encode_batch_fast(texts)]


def load(corpus: Sequence[Sequence[str]], folder: Path, chunk: int, tokenizer: Any) -> Lessons:
    """Those of every chunk of families that the teacher has finished."""
    ids: list[Array] = []
    vectors: list[Array] = []
    for path in sorted(folder.glob("*.npy")):
        part = corpus[int(path.stem) : int(path.stem) + chunk]
        ids += tokenised(tokenizer, [text for family in part for text in family])
        vectors.append(np.load(path))
    return Lessons(ids, np.concatenate(vectors))


def padded_length(lengths: Array) -> Array:
    """At most an eighth more, or three tokens."""
    steps = 2 ** np.maximum(2, np.log2(lengths).astype(np.int64) - 3)
    padded: Array = -(-lengths // steps) * steps
    return padded


def batches(lengths: Array, rng: np.random.Generator, size: int = 1) -> list[Array]:
    """One pass: batches of rows in random order, each `size` times as large as on a CPU.

    Texts of a batch have one padded length, so that shapes come again.
    """
    rows = rng.permutation(np.flatnonzero(lengths <= LONGEST))
    padded = padded_length(lengths)
    made: list[Array] = []
    for longest in np.unique(padded[rows]):
        alike = rows[padded[rows] == longest]
        count = size * min(BATCH_TEXTS, BATCH_TOKENS // int(longest))
        made += [alike[start : start + count] for start in range(0, len(alike), count)]
    return [made[i] for i in rng.permutation(len(made))]


def table(texts: Sequence[Array], longest: int) -> Array:
    """Tokens (B, L) of texts, padded with zeros."""
    out = np.zeros((len(texts), longest), np.int64)
    for row, ids in zip(out, texts, strict=True):
        row[: len(ids)] = ids
    return out


def bank(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """Rows to be ranked for those of a batch: their neighbours in the corpus, and random others.

    A passage's queries, its sentences and the rest of its document stand next to it, and are hard to tell apart.
    """
    near = (rows[:, None] + np.arange(-NEAR, NEAR + 1)).ravel()
    return np.concatenate([near.clip(0, count - 1), rng.integers(0, count, BANK)])


def similarity_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the similarities (B, B) of a batch's texts, the mean over the widths.

    Most pairs are unrelated, so the error of a pair has a weight that grows with the teacher's similarity.
    """
    wanted = teacher @ teacher.T
    weight = (wanted.square() + 0.02).fill_diagonal_(0)
    weight /= weight.sum()
    error = student.new_zeros(())
    for dim in DIMS:
        unit = fn.normalize(student[:, :dim], dim=-1)
        error = error + (weight * (unit @ unit.T - wanted).square()).sum() / len(DIMS)
    return error


def ranking_error(
    student: Tensor,
    teacher: Tensor,
    others: Tensor,
    basis: Tensor,
    same: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Divergence of how the student ranks other texts from how the teacher does, the mean over the widths.

    Each text (B) is a query against the teacher's vectors (M, 384) of many `others`, which stand in for the
    student's own: both are in one space, and no passage needs to be encoded to be ranked. `same` (B, M) is where
    a text would meet itself. Similarities are computed in `dtype`.
    """

    def similarities(queries: Tensor, passages: Tensor) -> Tensor:
        return ((queries / TEMPERATURE).to(dtype) @ passages.to(dtype).T).float()

    wanted = similarities(teacher, others).masked_fill(same, -torch.inf).softmax(-1)
    entropy = torch.special.entr(wanted).sum(-1).mean()
    reduced = others @ basis
    error = student.new_zeros(())
    for dim in DIMS:
        logits = similarities(fn.normalize(student[:, :dim], dim=-1), fn.normalize(reduced[:, :dim], dim=-1))
        error = error + (fn.cross_entropy(logits.masked_fill(same, -1e4), wanted) - entropy) / len(DIMS)
    return error


def start(words: Array) -> Student:
    """A student whose word vectors are the teacher's vectors of single tokens."""
    model = Student(len(words))
    table: Any = model.embeddings["word_embeddings"]
    with torch.no_grad():
        table.weight.copy_(torch.from_numpy(words))
    return model


def rate(step: int, steps: int) -> float:
    """The share of the full rate: a warm-up, a plateau and a straight way down to zero.

    Until the way down nothing depends on the number of steps, so a run can still be made longer or shorter
    (Hu et al., MiniCPM, https://arxiv.org/abs/2404.06395). A run at its end can be made longer as well: it goes
    back to the plateau (Wen et al., https://arxiv.org/abs/2410.05192).
    """
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (COOLDOWN * steps))


class Trainer:
    """A model on its way through the lessons; its state can be kept, and training goes on from it."""

    def __init__(self, model: Student, lessons: Lessons, basis: Array, passes: float, seed: int) -> None:
        self.device = device()
        self.model, self.lessons, self.seed = model.to(self.device), lessons, seed
        self.basis = torch.from_numpy(basis).to(self.device)
        self.vectors = torch.from_numpy(lessons.vectors).to(self.device)
        self.weights = torch.tensor([1.0, SIMILARITY_WEIGHT, RANKING_WEIGHT], device=self.device)
        on_gpu = self.device.type != "cpu"
        self.learn = Graphs(self._learn) if on_gpu else self._learn
        self.lengths = np.array([len(ids) for ids in lessons.ids])
        self.size = GPU_BATCH if on_gpu else 1
        made = (
            batches(self.lengths, np.random.default_rng([seed, i]), self.size) for i in range(math.ceil(passes))
        )
        plan = [batch for one in made for batch in one if len(batch) > 1]
        self.plan = plan[: round(passes / math.ceil(passes) * len(plan))]
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embeddings" not in n]
        others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embeddings" in n]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": params, "weight_decay": decay, "base": base, "lr": torch.zeros((), device=self.device)}
                for params, decay, base in ((matrices, DECAY, RATE), (others, 0.0, RATE / 2))
            ],
            betas=BETAS,
            fused=True,
            capturable=on_gpu,
        )
        self.step = 0

    def state(self) -> dict[str, Any]:
        model, optimiser = self.model.state_dict(), self.optimiser.state_dict()
        counts = {"step": self.step, "steps": len(self.plan), "texts": len(self.lessons.ids), "size": self.size}
        return {"model": model, "optimiser": optimiser, **counts}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the state of a run with other lessons, other batches or another rate so far."""
        if state["texts"] != len(self.lessons.ids):
            raise ValueError(
                f"training began with {state['texts']} texts, and now there are {len(self.lessons.ids)}: "
                "delete state.pt to begin anew"
            )
        if state["size"] != self.size:
            raise ValueError(
                f"training began with batches of {state['size']} times what a CPU takes, and here they are of "
                f"{self.size}: delete state.pt to begin anew"
            )
        steps = {state["steps"], len(self.plan)}
        ended = state["step"] == state["steps"]
        plateau = (1 - COOLDOWN) * (len(self.plan) if ended else min(steps))
        if len(steps) > 1 and state["step"] > plateau:
            raise ValueError(
                f"training is at step {state['step']} of {state['steps']}, too far to become one of "
                f"{len(self.plan)}: delete state.pt to begin anew"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def losses(self, ids: Tensor, lengths: Tensor, own: Tensor, ranked: Tensor) -> Tensor:
        """(cosine, similarity, ranking) errors of texts, whose rows are `own`, with others to rank."""
        student = self.model(ids, lengths, DTYPE)
        teacher, others = (fn.normalize(self.vectors[rows].float(), dim=-1) for rows in (own, ranked))
        same = own[:, None] == ranked
        cosine = (1 - fn.cosine_similarity(student, teacher @ self.basis)).mean()
        return torch.stack(
            [
                cosine,
                similarity_error(student, teacher),
                ranking_error(student, teacher, others, self.basis, same, DTYPE),
            ]
        )

    def _learn(self, ids: Tensor, lengths: Tensor, own: Tensor, ranked: Tensor) -> Tensor:
        """One step. Returns the errors."""
        errors = self.losses(ids, lengths, own, ranked)
        total: Any = errors @ self.weights
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return errors.detach()

    def _inputs(self, rows: Array) -> list[Tensor]:
        """Of the step of a batch. On a GPU as a table, whose shape is that of other steps, on a CPU unpadded."""
        texts, lengths = [self.lessons.ids[row] for row in rows], self.lengths[rows]
        ids = (
            np.concatenate(texts).astype(np.int64)
            if self.device.type == "cpu"
            else table(texts, int(padded_length(lengths).max()))
        )
        ranked = bank(rows, len(self.vectors), np.random.default_rng([self.seed, self.step]))
        return [torch.from_numpy(each) for each in (ids, lengths, rows, ranked)]

    def run(self, save: Callable[[Trainer], None], every: float = 600.0) -> None:
        """Go to the end of the plan. `save` is called every so many seconds, and at the end."""
        began = saved = time.monotonic()
        sums, tokens = torch.zeros_like(self.weights), 0
        while self.step < len(self.plan):
            rows = self.plan[self.step]
            for group in self.optimiser.param_groups:
                group["lr"].fill_(group["base"] * rate(self.step, len(self.plan)))
            sums += self.learn(*self._inputs(rows))
            self.step += 1
            tokens += int(self.lengths[rows].sum())
            if self.step % 100 == 0:
                means = " ".join(f"{value:.4f}" for value in (sums / 100).tolist())
                pace = tokens / (time.monotonic() - began)
                print(f"{self.step} of {len(self.plan)}: {means}, {pace:.0f} tokens/s", flush=True)
                sums.zero_()
            if time.monotonic() - saved > every:
                saved = time.monotonic()
                save(self)
        save(self)


def encode(model: Student, tokenizer: Any, texts: Sequence[str]) -> Array:
    """Float32 vectors (N, 256), unnormalised, in input order."""
    ids = tokenised(tokenizer, texts)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = np.zeros((len(ids), HIDDEN), np.float32)
    with torch.no_grad():
        for at in range(0, len(order), 64):
            rows = order[at : at + 64]
            lengths = torch.tensor([len(ids[row]) for row in rows])
            flat = np.concatenate([ids[row] for row in rows]).astype(np.int64)
            out[rows] = model(torch.from_numpy(flat), lengths).numpy()
    return out
