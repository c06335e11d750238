"""How fast are notes found and indexed? Ratios and differences, measured side by side in one run.

    python -m bench.search_speed [--only cold warm sync indexing] [--chunks 10000 --chunks 100000] [--keep DIR]

Notes are made up: words of Zipf's distribution, the 20,000 common ones English (of `pocket`'s vocabulary, which
is ordered by how common they are), the rare ones made up with lengths like English ones; a title, sections,
four chunks a note in the mean. They are files, read into an index as always; only vectors are random where
nothing depends on their values (cold, warm and sync), since computing a million would take a day.

- cold: `mlx-jina search` against `mlx-jina encode` of the same question, and `--mode words` against `--help`, as
  processes in alternation; the difference of the medians is what the search itself costs.
- warm: p50 and p95 of searches in one process, in wall and in CPU time, and of the encoding in it: the first ones
  after the index was opened, and as many other ones after them, when where common words are is kept.
- sync: a folder in which nothing changed, and one in which one file did.
- indexing: texts a second into the index, vectors included, against `Encoder.encode_document` of the same chunks;
  and the highest memory above that of the loaded model.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import click
import numpy as np
import psutil

import mlx_jina
from mlx_jina.search import chunks as chunking
from mlx_jina.search import embedding, notes, schema, spaces
from mlx_jina.search.hits import Mode
from mlx_jina.search.model import Model
from mlx_jina.weights import hub

QUESTIONS = ("cold", "warm", "sync", "indexing")
VOCABULARY = 60_000
CHUNKS_A_NOTE = 4
PROGRAM = (sys.executable, "-m", "mlx_jina")


@cache
def _english() -> list[str]:
    """Words of the vocabulary of `pocket`, most common first."""
    path = hub.embedded("pocket") / "tokenizer.json"
    vocabulary: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    words = [word for word, _ in sorted(vocabulary.items(), key=lambda each: each[1])]
    # Before "the" stand single characters, which are ordered otherwise.
    return [word for word in words[words.index("the") :] if word.isascii() and word.isalpha()]


class Texts:
    """Made-up notes, the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        rng = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        english = _english()
        self.words = english + [
            "".join(rng.choices(letters, weights=range(26, 0, -1), k=min(12, 4 + int(rng.expovariate(0.25)))))
            for _ in range(VOCABULARY - len(english))
        ]

    def draw(self, count: int) -> list[str]:
        """Words as they follow on each other in a text."""
        ranks = self.rng.zipf(1.15, size=2 * count + 20)
        ranks = ranks[ranks <= VOCABULARY][:count] - 1
        return [self.words[rank] for rank in ranks]

    def note(self) -> str:
        """About four chunks of 120 words, under a title."""
        parts = [f"# {' '.join(self.draw(4)).title()}"]
        for _ in range(max(1, int(self.rng.poisson(CHUNKS_A_NOTE)))):
            words = self.draw(118)
            sentences = [" ".join(words[n : n + 13]).capitalize() + "." for n in range(0, len(words), 13)]
            parts += [f"## {' '.join(self.draw(3))}", " ".join(sentences)]
        return "\n\n".join(parts) + "\n"

    def question(self) -> str:
        """Six words, common and rare ones as in the texts."""
        return " ".join(dict.fromkeys(self.draw(6)))


def write_notes(folder: Path, chunks: int) -> int:
    """Notes that make about so many chunks, a hundred a folder. Returns how many."""
    texts = Texts()
    count = max(1, chunks // CHUNKS_A_NOTE)
    for number in range(count):
        place = folder / f"folder {number // 100}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"note {number}.md").write_text(texts.note(), encoding="utf-8")
    return count


def fill(index: mlx_jina.Index, model: mlx_jina.Encoder) -> None:
    """Random vectors for all notes without."""
    space = spaces.verify(index._database, Model(model))
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, space.dimension)) + rng.standard_normal(space.dimension)
    with index._database.reading() as connection:
        waiting = [own for (own,) in connection.execute("select id from note where vectors_at is null")]
    for start in range(0, len(waiting), 1000):
        with index._database.writing() as connection:
            for note in waiting[start : start + 1000]:
                rows = connection.execute("select hash from chunk where id between ? and ?", schema.span(note))
                hashes = [own for (own,) in rows]
                vectors = centres[rng.integers(200)] + 0.8 * rng.standard_normal((len(hashes), space.dimension))
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                data = vectors.astype(np.float16).tobytes()
                notes.put_vectors(connection, note, hashes, data, embedding.signs(data, space.dimension), "")
                connection.execute("update note set vectors_at = 0 where id = ?", (note,))


@contextmanager
def prepared(chunks: int, keep: Path | None) -> Iterator[tuple[Path, Path]]:
    """A folder of notes and its index, kept for another run if asked for."""
    with tempfile.TemporaryDirectory() as temporary:
        place = (keep or Path(temporary)) / str(chunks)
        folder, file = place / "notes", place / "index.db"
        if not file.exists():
            count = write_notes(folder, chunks)
            print(f"  indexing {count:,} notes ...", file=sys.stderr, flush=True)
            with mlx_jina.Index(file) as index:
                started = time.process_time()
                index.sync(folder, vectors=False)
                seconds = time.process_time() - started
                fill(index, mlx_jina.load("pocket"))
                status = index.status()
            text, size = sum(path.stat().st_size for path in folder.rglob("*.md")), file.stat().st_size
            print(
                f"{status.notes:,} notes, {status.chunks:,} chunks, {text / 1e6:.1f} MB of text: words in "
                f"{seconds:.1f} s of CPU, file {size / 1e6:.1f} MB, which is twice the text and "
                f"{(size - 2 * text) / status.chunks:.0f} bytes a chunk",
                flush=True,
            )
        with mlx_jina.Index(file) as index:
            if index.status().fingerprint != mlx_jina.load("pocket").fingerprint():
                raise click.ClickException(f"{place} is of an earlier pocket: delete it, and it is made anew")
        yield folder, file


def cold(folder: Path, file: Path, rounds: int) -> None:
    """Whole processes, in alternation."""
    question = Texts(1).question()
    search = (*PROGRAM, "search", question, "--index", str(file))
    commands = {
        "encode": (*PROGRAM, "encode", question),
        "search": search,
        "--help": (*PROGRAM, "--help"),
        "words": (*search, "--mode", "words"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            if number:
                seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for ours, base in (("search", "encode"), ("words", "--help")):
        paired = [a - b for a, b in zip(seconds[ours], seconds[base], strict=True)]
        print(
            f"cold {ours}: {median[ours]:.3f} s against {median[base]:.3f} s of {base}: "
            f"{statistics.median(paired):+.3f} s, pair by pair"
        )


def warm(file: Path, searches: int) -> None:
    """Searches in one process."""
    texts = Texts(2)
    questions = {place: [texts.question() for _ in range(searches)] for place in ("first", "later")}
    model = mlx_jina.load("pocket")
    for mode in ("hybrid", "words"):
        with mlx_jina.Index(file, model) as index:
            started = time.perf_counter()
            index.search("the first one", mode=mode)
            print(f"warm {mode}: the very first {1000 * (time.perf_counter() - started):.0f} ms")
            for place, asked in questions.items():
                print(f"  {place} {searches}: {_searched(index, model, asked, mode)}")


def _searched(index: mlx_jina.Index, model: mlx_jina.Encoder, questions: Sequence[str], mode: Mode) -> str:
    wall, cpu, encoding = [], [], []
    for question in questions:
        before = time.perf_counter(), time.process_time()
        index.search(question, mode=mode)
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
        before = time.perf_counter(), time.process_time()
        model.encode_query(question, show_progress_bar=False)
        encoding.append(time.process_time() - before[1])
    encoded = f", of it encoding {1000 * statistics.median(encoding):.1f}" if mode == "hybrid" else ""
    return (
        f"wall p50 {_p(wall, 50):.1f} p95 {_p(wall, 95):.1f} ms; "
        f"CPU p50 {_p(cpu, 50):.1f} p95 {_p(cpu, 95):.1f} ms{encoded}"
    )


def sync(folder: Path, file: Path, rounds: int) -> None:
    """Scans of a folder."""
    with mlx_jina.Index(file) as index:
        index.sync(folder, vectors=False)
        for name in ("unchanged", "one changed"):
            wall, cpu = [], []
            for number in range(rounds):
                if name != "unchanged":
                    path = next(folder.rglob("*.md"))
                    path.write_text(path.read_text() + f"\n\nword{number}\n")
                before = time.perf_counter(), time.process_time()
                report = index.sync(vectors=False)
                wall.append(time.perf_counter() - before[0])
                cpu.append(time.process_time() - before[1])
            files = report.unchanged + len(report.changed)
            print(f"sync of {files:,} files, {name}: wall {_p(wall, 50):.0f} ms, CPU {_p(cpu, 50):.0f} ms")


def indexing(chunks: int, rounds: int) -> None:
    """Against the encoder alone, in alternation."""
    model = mlx_jina.load("pocket")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "notes")
        write_notes(folder, chunks)
        ratios: dict[str, list[float]] = {"wall": [], "CPU": []}
        for number in range(rounds):
            with mlx_jina.Index(Path(place, f"{number}.db"), model) as index, _peak() as peak:
                ours = _timed(partial(index.sync, folder))
                texts = [chunking.embedded(row.title, row.heading, "", row.text) for row in index.rows()]
            base = _timed(partial(model.encode_document, texts, show_progress_bar=False))
            for name, own, other in zip(ratios, ours, base, strict=True):
                ratios[name].append(other / own)
            print(
                f"indexing {len(texts):,} chunks: {len(texts) / ours[0]:.0f} a second; memory "
                f"{peak() / 1e6:.0f} MB above the loaded model's",
                flush=True,
            )
        shares = ", ".join(f"{statistics.median(values):.2f} by {name} time" for name, values in ratios.items())
        print(f"indexing: median {shares} of the encoder's rate")


def _timed(what: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of CPU time."""
    before = time.perf_counter(), time.process_time()
    what()
    return time.perf_counter() - before[0], time.process_time() - before[1]


@contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """The highest resident memory above that at the start, looked at a hundred times a second."""
    process = psutil.Process()
    start = highest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: highest - start
    finally:
        done.set()
        thread.join()


def _p(seconds: Sequence[float], percent: float) -> float:
    return 1000 * float(np.percentile(seconds, percent))


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(QUESTIONS), default=QUESTIONS)
@click.option("--chunks", multiple=True, type=int, default=(10_000, 100_000), show_default=True)
@click.option("--rounds", type=int, default=9, show_default=True)
@click.option("--searches", type=int, default=200, show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Where notes and indexes stay.")
def main(only: Sequence[str], chunks: Sequence[int], rounds: int, searches: int, keep: Path | None) -> None:
    """Command line."""
    for count in chunks:
        print(f"## {count:,} chunks", flush=True)
        if set(only) & {"cold", "warm", "sync"}:
            with prepared(count, keep) as (folder, file):
                if "cold" in only:
                    cold(folder, file, rounds)
                if "warm" in only:
                    warm(file, searches)
                if "sync" in only:
                    sync(folder, file, rounds)
        if "indexing" in only:
            indexing(count, max(1, rounds // 3))


if __name__ == "__main__":
    main()
