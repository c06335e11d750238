"""`mlx-jina encode`, also as `python -m mlx_jina.encode`: texts in, vectors out, as a stream."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mlx_jina.errors import NAMED, InputError, MlxJinaError
from mlx_jina.files import inputs

if TYPE_CHECKING:
    from mlx_jina.encoder import Encoder
    from mlx_jina.engine.distributed import Team
    from mlx_jina.files.inputs import Record
    from mlx_jina.files.outputs import Label
    from mlx_jina.options import ChunkingOptions, EncodeOptions, LoadOptions
    from mlx_jina.text.chunking import Chunk
    from mlx_jina.vectors import Vectors

    # Texts, and the rows to write for them: a vector for each label.
    Block = tuple[list[Record], list[Label], Vectors]

DEFAULT_MODEL = "pocket"

# Options of `Encoder.encode` that change no vector, and so may differ when a job is resumed.
CHANGES_NOTHING = ("batch_tokens", "truncate", "allow_untrained_dim")


class Named:
    """Names to list at the end of a run: the first ones, and how many there are."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._count = 0

    def add(self, name: str) -> None:
        """One more."""
        self._count += 1
        if self._count <= NAMED:
            self._first.append(name)

    def add_because(self, name: str, reason: str) -> None:
        """One more, and what is wrong with it."""
        self.add(f"{name}: {reason}")

    def tell(self, what: str) -> None:
        """A line for each, if there are any."""
        if self._count:
            more = [f"and {self._count - NAMED:,} more"] if self._count > NAMED else []
            tell("\n  ".join([f"{what} ({self._count:,}):", *self._first, *more]))


@dataclass(frozen=True)
class Source:
    """Texts themselves, or `paths` that hold texts ("-" is standard input), under `field` in .jsonl and .csv."""

    texts: Sequence[str]
    paths: Sequence[str]
    field: str | None
    skips: bool = False
    """Whether notes of a folder that cannot be read are left out."""
    pictures: bool = False
    """Whether the pictures of a folder are read."""

    def records(self, skipped: Named) -> Iterator[Record]:
        """The texts in order; what is left out is named."""
        if not self.paths:
            return inputs.from_arguments(self.texts)
        told = skipped.add_because if self.skips else None
        return inputs.from_paths(self.paths, self.field, told, pictures=self.pictures)

    def count(self) -> int | None:
        """How many texts there are, or None where that is unknown. Reads the files once."""
        return inputs.count(self.paths, pictures=self.pictures) if self.paths else len(self.texts)


def run(
    source: Source,
    output: Path | None,
    model: str | None,
    loading: LoadOptions,
    options: EncodeOptions,
    *,
    chunking: ChunkingOptions | None = None,
    resume: bool,
    force: bool,
) -> None:
    """Encode `source` to `output`, or as JSON lines to standard output.

    `loading` are options of `mlx_jina.load`, `options` those of `Encoder.encode`. With `chunking`, the further
    options of `Encoder.encode_chunks`, every chunk of a text is a row.
    """

    def opened() -> Encoder:
        return open_model(model, loading)

    given = os.environ.get("MLX_RANK")
    if given is None:
        _run(source, output, opened, options, chunking, resume, force)
        return
    if chunking:
        raise InputError("--chunk works in one process: start it without mlx.launch")
    # Imported here, because a single process does without, and would take an eighth longer to start.
    from mlx_jina.engine import distributed

    if rank := int(given):
        tell(f"process {rank} encoded {distributed.follow(opened, rank, options)} texts")
    else:
        with distributed.Helpers() as helpers:
            _run(source, output, lambda: distributed.Team(opened(), helpers), options, chunking, resume, force)


def _run(
    source: Source,
    output: Path | None,
    opened: Callable[[], Encoder | Team],
    options: EncodeOptions,
    chunking: ChunkingOptions | None,
    resume: bool,
    force: bool,
) -> None:
    source = _checked(source)
    if output is not None and str(output) == inputs.STDIN:
        # As with --input: the standard stream.
        output = None
    if options["precision"] in ("int8", "uint8") and not options["normalize_embeddings"]:
        raise InputError(f"--precision {options['precision']} needs --normalize: it stores vectors of unit length")
    if output is None:
        if resume or force:
            raise InputError(f"--{'resume' if resume else 'force'} needs a file to write: --output")
        _to_stdout(_job(source, opened(), options, chunking))
        return
    from mlx_jina import process
    from mlx_jina.files import resumable

    if chunking and output.suffix.lower() == ".npy":
        raise InputError(f"{output} has no place for where chunks are: with --chunk, write .jsonl or .parquet")
    resumable.check(output, source.paths, resume=resume, force=force)
    job = _job(source, opened(), options, chunking)
    with process.wired():
        _to_file(job, output, resume)


def open_model(model: str | None, loading: LoadOptions) -> Encoder:
    """Load `model`, or `pocket` with a line that says so."""
    from mlx_jina import process
    from mlx_jina.cpu import blas

    process.tune()
    from mlx_jina import load

    if slow := blas.slow():
        tell(slow)
    if model is None:
        tell(
            f"using {DEFAULT_MODEL!r}, the small English model inside this package; choose a Jina model with "
            "--model, for example --model v2-small-en"
        )
    return load(DEFAULT_MODEL if model is None else model, **loading)


def tell(words: str) -> None:
    """Print a line for the user to standard error; standard output is for data alone."""
    print(words, file=sys.stderr, flush=True)


def _checked(source: Source) -> Source:
    if source.texts and source.paths:
        raise InputError("texts come either as arguments or from --input, not both")
    paths = list(source.paths)
    if list(source.texts) == [inputs.STDIN] or not (source.texts or paths):
        paths = [inputs.STDIN]
    if paths.count(inputs.STDIN) > 1:
        raise InputError("standard input (-) can be read only once")
    inputs.check(paths, source.field)
    if inputs.STDIN in paths and sys.stdin.isatty():
        tell("reading texts from the terminal, one a line; end with Ctrl-D")
    if paths:
        return Source((), paths, source.field, source.skips)
    if (path := next((text for text in source.texts if os.path.exists(text)), None)) is not None:
        tell(f"hint: {path!r} is encoded as a text; to read the file, use --input {path}")
    return source


@dataclass(frozen=True)
class _Job:
    """Texts, the encoder, and the options of one command."""

    source: Source
    encoder: Encoder | Team
    options: EncodeOptions
    chunking: ChunkingOptions | None

    def empty(self) -> Vectors:
        """An output without rows, of the right width and dtype. Raises InputError for options that do not fit."""
        if self.chunking:
            self.encoder.encode_chunks_stream([], **self.options, **self.chunking)
        return self.encoder.encode([], **self.options)

    def labels(self) -> Mapping[str, type]:
        """Keys and types of the label of every row."""
        from mlx_jina.files.outputs import CHUNK_LABELS, LABELS

        return CHUNK_LABELS if self.chunking else LABELS

    def shaping(self) -> dict[str, Any]:
        """All options that change the rows, and the model's fingerprint."""
        options = {**self.options, **(self.chunking or {})}
        kept = {key: value for key, value in options.items() if key not in CHANGES_NOTHING}
        kept["truncate_dim"] = self.options["truncate_dim"] or self.encoder.dimension
        if kept.get("max_pixels") is None:
            # As in outputs of versions that did not have it.
            kept.pop("max_pixels", None)
        kept["max_length"] = self.options["max_length"] or self.encoder.max_length
        return {"model": self.encoder.fingerprint(self.options["task"]), "dtype": self.encoder.dtype, **kept}


def _job(
    source: Source, encoder: Encoder | Team, options: EncodeOptions, chunking: ChunkingOptions | None
) -> _Job:
    """The job; pictures are looked for where the model sees them, and each gets one vector."""
    pictures = encoder.sees and not chunking
    return _Job(replace(source, pictures=pictures), encoder, options, chunking)


def _to_stdout(job: _Job) -> None:
    from mlx_jina.files.outputs import JsonLines

    empty = job.empty()
    lines = JsonLines(empty.shape[1], empty.dtype, job.labels())
    stdout = sys.stdout.buffer
    written = 0
    skipped = Named()
    stream = _Stream(job, job.source.records(skipped), skipped)
    for _, labels, rows in stream.blocks(0):
        for chunk in lines.block(written, labels, rows):
            with _uninterrupted():
                stdout.write(chunk)
                stdout.flush()
        written += len(rows)
    stream.end()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until whole lines are written."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    late: list[tuple[int, FrameType | None]] = []
    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, lambda *arrived: late.append(arrived))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for arrived, _ in late:
        signal.raise_signal(arrived)


def _to_file(job: _Job, output: Path, resume: bool) -> None:
    from mlx_jina.files.resumable import Partial

    # This also checks the options, before the file exists.
    empty = job.empty()
    finished = False
    with Partial(
        output, empty.shape[1], empty.dtype, job.shaping(), resume=resume, labels=job.labels()
    ) as partial:
        try:
            skipped = Named()
            records = partial.skip_done(job.source.records(skipped))
            if finished := partial.finished:
                tell(f"{output} is finished: nothing to resume")
                return
            stream = _Stream(job, records, skipped)
            for done, labels, rows in stream.blocks(partial.texts):
                # A mistake in the input ends its window early. --resume has to make that window again as a whole,
                # or the bytes would not be those of a run without the mistake.
                partial.append(done, labels, rows, resumable=stream.failure is None)
            stream.end()
            partial.finish()
            finished = True
        finally:
            if not finished and partial.rows and partial.path.exists():
                tell(f"the first {partial.rows} vectors are in {partial.path}; --resume continues")


class _Stream:
    """Feed records to the encoder, and pair them with their vectors."""

    def __init__(self, job: _Job, records: Iterator[Record], skipped: Named) -> None:
        self._job = job
        self._records = records
        self._skipped = skipped
        self._cut = Named()
        self._taken = 0
        self._waiting: deque[Record] = deque()
        self.failure: InputError | OSError | None = None

    def blocks(self, start: int) -> Iterator[Block]:
        """Records and their rows, block by block, with a progress bar if stderr is a terminal.

        `start` texts were done before.
        """
        from tqdm import tqdm

        total = self._job.source.count() if sys.stderr.isatty() else None
        # disable=None shows the bar on a terminal only.
        with tqdm(initial=start, total=total, desc="Encoding", unit=" texts", disable=None) as bar:
            try:
                make = self._chunks(start, bar.update) if self._job.chunking else self._whole(bar.update)
                for block in make:
                    self._taken += len(block[0])
                    yield block
            except MlxJinaError as error:
                raise self._located(error, start) from error
            finally:
                self._skipped.tell("skipped")
                self._cut.tell("cut")

    def _whole(self, advance: Callable[[int], object]) -> Iterator[Block]:
        """Blocks with a row for every text."""
        encode = self._job.encoder.encode_stream
        for rows in encode(self._texts(), advance=advance, shortened=self._shortened, **self._job.options):
            records = [self._waiting.popleft() for _ in range(len(rows))]
            yield records, [_label(record) for record in records], rows

    def _chunks(self, start: int, advance: Callable[[int], object]) -> Iterator[Block]:
        """Blocks with a row for every chunk of a text."""
        import numpy as np

        encoder, options, chunking = self._job.encoder, self._job.options, self._job.chunking or {}
        number = start
        for documents in encoder.encode_chunks_stream(self._texts(), advance=advance, **options, **chunking):
            records = [self._waiting.popleft() for _ in range(len(documents))]
            labels = [
                {**_label(record), "document": index, **_place(chunk)}
                for index, (record, document) in enumerate(zip(records, documents, strict=True), number)
                for chunk in document.chunks
            ]
            yield records, labels, np.concatenate([document.vectors for document in documents])
            number += len(documents)

    def end(self) -> None:
        """Raise the error that stopped the input, once all rows before it are written."""
        if self.failure is not None:
            raise self.failure

    def _texts(self) -> Iterator[Any]:
        try:
            for record in self._records:
                self._waiting.append(record)
                yield record.text if record.picture is None else self._seen(record)
        except (InputError, OSError) as error:
            self.failure = error

    def _seen(self, record: Record) -> Any:
        """A picture for the encoder. Raises InputError where none fits."""
        from mlx_jina.vision.images import Image

        if not self._job.source.pictures:
            why = "--chunk takes texts only" if self._job.chunking else "this model sees none here; v4 does"
            raise InputError(f"{record.origin} is a picture, and {why}")
        return Image(b"" if record.picture is None else record.picture)

    def _shortened(self, position: int) -> None:
        if origin := self._waiting[position - self._taken].origin:
            self._cut.add(origin)

    def _located(self, error: MlxJinaError, start: int) -> MlxJinaError:
        """The error with file and line in place of the encoder's count of texts."""
        if error.position is None:
            return error
        record = self._waiting[error.position - self._taken]
        counted = type(error)(error.words, position=error.position + start)
        return type(error)(f"{record.origin}: {counted}") if record.origin else counted


def _label(record: Record) -> Label:
    return dict([record.label] if record.label else [])


def _place(chunk: Chunk) -> Label:
    (start, end), (token_start, token_end) = chunk.span, chunk.token_span
    places = {"start": start, "end": end, "token_start": token_start, "token_end": token_end}
    return {**places, "text": chunk.text}
