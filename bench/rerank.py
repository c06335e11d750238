"""How fast are documents reranked, beside other programs? Qwen3-Reranker-0.6B's shape with random weights.

    python -m bench.rerank [--documents 20] [--tokens 100] [--layers 28] [--rounds 3] [--peers PART ...]

Prints a Markdown table: documents a second of each program, in a process of its own and on the same number of
threads, and its time over ours, round by round in alternation; and the same of the seconds that all its threads
computed, on which other work of the machine bears less. Scores are compared with ours first. Above the table
stands how many tokens the beginning saves that all documents of a query share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine, models, texts
from bench.harness import PAUSE_SECONDS, ratio, spread
from mlx_jina.text import pairs

OURS = "mlx-jina float32"
QUERY = "how do I write the rows of a table to a file?"
Score = Callable[[str, Sequence[str]], Sequence[float]]


def ours(folder: Path) -> Score:
    """mlx-jina."""
    import mlx_jina

    mlx_jina.limit_cache()
    reranker = mlx_jina.load_reranker(folder, dtype="float32")
    return lambda query, documents: reranker.score(query, documents).tolist()


def cross_encoder(folder: Path) -> Score:
    """sentence-transformers' CrossEncoder, with the prompt as its users write it for such a copy of the model."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(machine.threads())
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    head, end = pairs.QWEN_HEAD.rsplit("\n", 1)

    def score(query: str, documents: Sequence[str]) -> Sequence[float]:
        asked = f"{pairs.QWEN_PREFIX}{head.format(pairs.QWEN_INSTRUCTION, query)}\n"
        rows = [(asked, f"{end} {document}{pairs.QWEN_SUFFIX}") for document in documents]
        found: list[float] = model.predict(rows, show_progress_bar=False).tolist()
        return found

    return score


def llama_cpp(folder: Path) -> Score:
    """llama.cpp's `--rerank` in F16, on our own .gguf, with flash attention and four slots."""
    import xllamacpp

    gguf = models.CACHE / f"{folder.name}-F16.gguf"
    if not gguf.exists():
        command = [sys.executable, "-m", "convert.to_gguf", str(folder), str(gguf), "--type", "F16"]
        subprocess.run(command, check=True)
    p = xllamacpp.CommonParams()
    p.model.path = str(gguf)
    p.embedding = True
    p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    p.n_parallel, p.n_ctx, p.n_batch, p.n_ubatch = 4, 4 * 1024, 2048, 512
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = machine.threads()
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    server = xllamacpp.Server(p)

    def score(query: str, documents: Sequence[str]) -> Sequence[float]:
        rows = server.handle_rerank({"query": query, "documents": list(documents)})["results"]
        return [row["relevance_score"] for row in sorted(rows, key=lambda row: row["index"])]

    return score


# How far a program's probabilities may be from ours.
PEERS: dict[str, tuple[Callable[[Path], Score], float]] = {
    OURS: (ours, 0.0),
    "sentence-transformers CrossEncoder float32": (cross_encoder, 1e-4),
    "llama.cpp F16": (llama_cpp, 5e-2),
}


class Process:
    """A program in a process of its own, which scores the documents for every line that it gets."""

    def __init__(self, peer: str, folder: Path, documents: Sequence[str]) -> None:
        command = [sys.executable, "-m", "bench.rerank", "--peer", peer, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(documents) + "\n")
        self._process.stdin.flush()

    def run(self) -> dict[str, Any]:
        """Seconds, seconds of all threads together, and scores."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


def child(peer: str, folder: Path) -> None:
    """What `Process` runs."""
    # Replies have a descriptor of their own, because libraries print to standard output, also from C.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    score = PEERS[peer][0](folder)
    documents = json.loads(sys.stdin.readline())
    for _ in sys.stdin:
        start, computing = time.perf_counter(), time.process_time()
        scores = list(score(QUERY, documents))
        spent = {"seconds": time.perf_counter() - start, "computing": time.process_time() - computing}
        replies.write(json.dumps({**spent, "scores": scores}) + "\n")
        replies.flush()


def report(folder: Path, documents: Sequence[str], rounds: int, chosen: Sequence[str]) -> list[str]:
    """Lines of Markdown."""
    running = {peer: Process(peer, folder, documents) for peer in chosen}
    try:
        first = {peer: process.run()["scores"] for peer, process in running.items()}
        for peer, scores in first.items():
            far = float(abs(np.array(scores) - first[OURS]).max())
            assert far <= PEERS[peer][1], f"{peer} computes something else: {far:.1e} from ours"
        times: dict[str, list[dict[str, Any]]] = {peer: [] for peer in running}
        for turn in range(rounds):
            for peer in (*chosen[turn % len(chosen) :], *chosen[: turn % len(chosen)]):
                time.sleep(PAUSE_SECONDS)
                times[peer].append(running[peer].run())
    finally:
        for process in running.values():
            process.end()
    lines = ["| program | documents/s | its time over ours | its threads' time over ours |", "|---|---|---|---|"]
    for peer, runs in times.items():
        speed = spread([len(documents) / each["seconds"] for each in runs])
        over = (
            ratio([each[kind] for each in runs], [each[kind] for each in times[OURS]])
            for kind in ("seconds", "computing")
        )
        shown = ("{:.2f} ({:.2f}-{:.2f})".format(*each) for each in (speed, *over))
        lines.append(f"| {peer} | {' | '.join(shown)} |")
    return lines


def saving(folder: Path, documents: Sequence[str]) -> str:
    """What the shared beginning saves, in words."""
    import mlx_jina

    details = mlx_jina.load_reranker(folder).details(QUERY, documents)
    share = 1 - details.computed_tokens / details.total_tokens
    return (
        f"{len(documents)} documents, {details.total_tokens:,} tokens of prompts, of which "
        f"{details.computed_tokens:,} are computed: {share:.0%} saved by the beginning that they share"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="bench.rerank", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=100, help="Tokens of a document.")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peers", nargs="+", default=("",), metavar="PART", help="Only programs with PART in them."
    )
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        child(given.peer[0], Path(given.peer[1]))
        return
    folder = models.reranker(given.layers)
    tokenizer = models.tokenizer_of(folder)
    documents = texts.of_lengths(tokenizer, [given.tokens] * given.documents)
    chosen = [peer for peer in PEERS if peer == OURS or any(part in peer for part in given.peers)]
    print(f"{machine.processor()}, {machine.threads()} threads, {machine.commit()}")
    print(f"{saving(folder, documents)}\n")
    print("\n".join(report(folder, documents, given.rounds, chosen)))


if __name__ == "__main__":
    main()
