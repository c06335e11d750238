"""Make the `pocket` model: collect texts, ask the teacher, train the student, export, evaluate.

    python -m convert.distill_pocket all --work FOLDER mlx_jina/pocket --sts stsb-dev.csv --collection cranfield

Needs Debian 12's dpkg and apt-get (after `apt-get update`), npm, and `pip install '.[distill]'`. Every stage
leaves what is done in FOLDER, and goes on from there when it is started again: what a stage shall make anew is
deleted by hand.
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

path = click.Path(path_type=Path)
work_option = click.option("--work", type=path, required=True, help="Folder for everything made.")
sts_option = click.option("--sts", type=path, required=True, help="A csv of sentence, sentence, score.")
collection_option = click.option(
    "--collection", "collections", type=path, multiple=True, help="A folder in BEIR's layout."
)

passes_option = click.option(
    "--passes", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Over all texts."
)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@work_option
@sts_option
@collection_option
@click.option("--captions", default=60_000, show_default=True, help="Families of made-up sentences.")
def collect(work: Path, sts: Path, collections: tuple[Path, ...], captions: int) -> None:
    """Fetch the sources and write corpus.jsonl, without anything that is in the test collections."""
    from convert.pocket import corpus, sources, teacher

    if (work / "corpus.jsonl").exists():
        return
    try:
        sources.fetch(work)
    except (ValueError, subprocess.CalledProcessError) as error:
        raise click.ClickException(str(error)) from error
    words = sorted(t for t in teacher.tokenizer().get_vocab() if t.isascii() and t.isalpha() and len(t) > 2)
    kept_out = [sts, *(folder / name for folder in collections for name in ("corpus.jsonl", "queries.jsonl"))]
    counts = corpus.collect(work, words, kept_out, captions, SEED)
    (work / "corpus.json").write_text(json.dumps(counts, indent=2) + "\n")


@main.command()
@work_option
@click.option("--workers", default=2, show_default=True, help="Single-threaded processes, where there is no GPU.")
@click.option("--worker", type=int, hidden=True, help="The number of this process, in a worker.")
def teach(work: Path, workers: int, worker: int | None) -> None:
    """Write the teacher's vectors. Training also works with the chunks of a run that was stopped."""
    import numpy as np
    import torch

    from convert.pocket import corpus, student, teacher

    if student.device().type != "cpu":
        worker, workers = 0, 1
    if worker is None:
        command = [sys.executable, "-m", "convert.distill_pocket", "teach", "--work", str(work)]
        command += ["--workers", str(workers), "--worker"]
        for process in [subprocess.Popen([*command, str(i)]) for i in range(workers)]:
            if process.wait():
                raise click.ClickException("a worker failed")
        return
    torch.set_num_threads(1)
    if worker == 0 and not (work / "tokens.npy").exists():
        np.save(work / "tokens.npy", teacher.single_tokens().astype(np.float16))
    teacher.teach(corpus.read(work), work / "teach", worker, workers, SEED)


@main.command()
@work_option
@passes_option
@click.option("--threads", default=2, show_default=True)
def train(work: Path, passes: float, threads: int) -> None:
    """Train the student and write student/; state.pt there is where a run that was stopped goes on."""
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    from convert.pocket import corpus, student, teacher, training

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(SEED)
    out = work / "student"
    out.mkdir(exist_ok=True)
    (out / "tokenizer.json").write_text(teacher.student_tokenizer(), encoding="utf-8")
    tokenizer, old = Tokenizer.from_file(str(out / "tokenizer.json")), teacher.tokenizer()
    lessons = training.load(corpus.read(work), work / "teach", teacher.CHUNK, tokenizer)
    basis = training.principal(lessons.vectors[:: max(1, len(lessons.vectors) // 200_000)], student.HIDDEN)
    np.save(out / "basis.npy", basis)
    kept = [old.token_to_id(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())]
    words = np.load(work / "tokens.npy").astype(np.float32)[kept] @ basis
    model = training.start(words / np.linalg.norm(words, axis=1, keepdims=True))
    trainer = training.Trainer(model, lessons, basis, passes, SEED)
    if (out / "state.pt").exists():
        try:
            trainer.restore(torch.load(out / "state.pt", map_location=student.device()))
        except ValueError as error:
            raise click.ClickException(str(error)) from error

    def save(trained: training.Trainer) -> None:
        torch.save(trained.state(), out / "state.part")
        (out / "state.part").replace(out / "state.pt")

    trainer.run(save)
    save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors")


@main.command()
@work_option
@click.argument("out", type=path)
def export(work: Path, out: Path) -> None:
    """Write the 8-bit MLX folder OUT; a README.md already there is carried over."""
    from convert.pocket import export as exporter

    exporter.export(work / "student/model.safetensors", work / "student/tokenizer.json", out)


@main.command()
@work_option
@sts_option
@collection_option
@click.argument("out", type=path)
def evaluate(work: Path, sts: Path, collections: tuple[Path, ...], out: Path) -> None:
    """Spearman on STS and nDCG@10 on collections: the folder OUT, the float student, the teacher.

    For OUT also how near it is to the teacher by length of text.
    """
    import numpy as np
    import torch
    from tokenizers import Tokenizer

    from convert.pocket import evaluate as evaluation
    from convert.pocket import export as exporter
    from convert.pocket import student, teacher, training

    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    basis = np.load(work / "student/basis.npy")
    encoders: dict[str, Any] = {}
    for name, weights in (
        ("8-bit", out / "model.safetensors"),
        ("float32", work / "student/model.safetensors"),
    ):
        model = student.Student(tokenizer.get_vocab_size())
        model.load_state_dict({k: torch.from_numpy(v) for k, v in exporter.read_weights(weights).items()})
        encoders[name] = partial(training.encode, model, tokenizer), list(training.DIMS)
    encoders["teacher"] = teacher.encode_texts, [teacher.WIDTH]
    scores = {}
    for name, (encode, dims) in encoders.items():
        click.echo(f"evaluating {name} ...", err=True)
        scores[name] = {
            "sts": evaluation.sts(sts, encode, dims),
            **{folder.name: evaluation.retrieval(folder, encode, dims) for folder in collections},
        }
    click.echo("comparing with the teacher ...", err=True)
    near = partial(evaluation.by_length, tokenizer=tokenizer, encode=encoders["8-bit"][0])
    lengths = {
        folder.name: near(folder, teach=lambda texts: teacher.encode_whole(texts) @ basis)
        for folder in collections
    }
    click.echo(json.dumps({**scores, "by length": lengths}, indent=2))


@main.command("all")
@work_option
@sts_option
@collection_option
@passes_option
@click.argument("out", type=path)
@click.pass_context
def everything(
    context: click.Context, work: Path, sts: Path, collections: tuple[Path, ...], passes: float, out: Path
) -> None:
    """Every stage."""
    context.invoke(collect, work=work, sts=sts, collections=collections)
    context.invoke(teach, work=work)
    context.invoke(train, work=work, passes=passes)
    context.invoke(export, work=work, out=out)
    context.invoke(evaluate, work=work, sts=sts, collections=collections, out=out)


if __name__ == "__main__":
    main()
