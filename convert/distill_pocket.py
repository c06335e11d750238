"""Make the `pocket` model: collect texts, ask the teacher, train the student, export, evaluate.

    python -m convert.distill_pocket all --work /some/folder mlx_jina/pocket stsb-dev.csv

Needs Debian 12's apt-get and dpkg, and `pip install '.[distill]'`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

SEED = 1
VOCABULARY = 25_000

work_option = click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Folder for everything made."
)
folder = click.Path(path_type=Path)


def read_corpus(work: Path) -> list[list[str]]:
    with (work / "corpus.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@work_option
@click.option("--captions", default=60_000, show_default=True, help="Caption families; other kinds in proportion.")
def collect(work: Path, captions: int) -> None:
    """Fetch the Debian packages and write corpus.jsonl: a family of related texts per line."""
    from convert.pocket import corpus, teacher, texts

    texts.fetch(work)
    words = sorted(t for t in teacher.tokenizer().get_vocab() if t.isascii() and t.isalpha() and len(t) > 2)
    corpus.collect(work, work / "corpus.jsonl", words, SEED, captions)


@main.command()
@work_option
@click.option("--workers", default=2, show_default=True, help="Single-threaded processes.")
@click.option("--worker", type=int, hidden=True, help="The number of this process, in a worker.")
def teach(work: Path, workers: int, worker: int | None) -> None:
    """Write the teacher's vectors. Training also works with the chunks of a run that was stopped."""
    if worker is None:
        command = [sys.executable, "-m", "convert.distill_pocket", "teach", "--work", str(work), "--worker"]
        for process in [subprocess.Popen([*command, str(i)]) for i in range(workers)]:
            if process.wait():
                raise click.ClickException("a worker failed")
        return
    import numpy as np
    import torch

    from convert.pocket import teacher

    torch.set_num_threads(1)
    if worker == 0:
        np.save(work / "tokens.npy", teacher.single_tokens().astype(np.float16))
    teacher.teach(read_corpus(work), work / "teach", worker)


@main.command()
@work_option
@click.option(
    "--minutes", default=60.0, show_default=True, help="Length of the run; the learning rate follows it."
)
@click.option("--threads", default=2, show_default=True)
def train(work: Path, minutes: float, threads: int) -> None:
    """Choose the vocabulary, then train the student and write student/."""
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    from convert.pocket import student, teacher, training, vocab

    torch.set_num_threads(threads)
    out = work / "student"
    out.mkdir(exist_ok=True)
    corpus = read_corpus(work)
    old = teacher.tokenizer()
    kept = vocab.choose(old.get_vocab(), vocab.count(old, corpus), VOCABULARY)
    (out / "tokenizer.json").write_text(vocab.prune((teacher.folder() / "tokenizer.json").read_text(), kept))
    families, vectors = training.load(
        corpus, work / "teach", teacher.CHUNK, Tokenizer.from_file(str(out / "tokenizer.json"))
    )
    words = np.load(work / "tokens.npy").astype(np.float32)[[old.token_to_id(t) for t in kept]]

    def save(model: student.Student, run: dict[str, Any]) -> None:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")
        (out / "run.json").write_text(json.dumps(run, indent=2) + "\n")

    basis = training.principal(vectors[:200_000], student.HIDDEN)
    training.train(families, vectors, words, basis, minutes, SEED, save)


@main.command()
@work_option
@click.argument("out", type=folder)
def export(work: Path, out: Path) -> None:
    """Write the 8-bit MLX folder OUT; a README.md already there is carried over."""
    from convert.pocket import export as exporter

    exporter.export(work / "student/model.safetensors", work / "student/tokenizer.json", out)


@main.command()
@work_option
@click.argument("out", type=folder)
@click.argument("sts", type=folder)
def evaluate(work: Path, out: Path, sts: Path) -> None:
    """Spearman on STS, a csv of sentence, sentence, score: the folder OUT, the float student, the teacher."""
    import numpy as np
    import torch
    from tokenizers import Tokenizer

    from convert.pocket import evaluate as evaluation
    from convert.pocket import export as exporter
    from convert.pocket import student, teacher, training

    tokenizer, old = Tokenizer.from_file(str(out / "tokenizer.json")), teacher.tokenizer()
    sources = {
        "8-bit": exporter.read_weights(out / "model.safetensors"),
        "float32": exporter.read_weights(work / "student/model.safetensors"),
    }
    scores: dict[str, dict[int, float]] = {}
    for name, weights in sources.items():
        model = student.Student(tokenizer.get_vocab_size())
        model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        scores[name] = evaluation.sts(sts, partial(training.encode, model, tokenizer), [256, 128, 64])

    def taught(texts: list[str]) -> Any:
        ids = [e.ids for e in old.encode_batch_fast(texts, add_special_tokens=False)]
        return teacher.encode(ids, dtype="float32").astype(np.float32)

    scores["teacher"] = evaluation.sts(sts, taught, [teacher.WIDTH])
    click.echo(json.dumps(scores, indent=2))


@main.command("all")
@work_option
@click.argument("out", type=folder)
@click.argument("sts", type=folder)
@click.pass_context
def everything(context: click.Context, work: Path, out: Path, sts: Path) -> None:
    """Every stage with its defaults."""
    context.invoke(collect, work=work)
    context.invoke(teach, work=work)
    context.invoke(train, work=work)
    context.invoke(export, work=work, out=out)
    context.invoke(evaluate, work=work, out=out, sts=sts)


if __name__ == "__main__":
    main()
