"""`mlx-jina info`: what is installed, what computes, which models are here."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_jina import __version__, catalog, device
from mlx_jina.catalog import Entry
from mlx_jina.cpu import blas
from mlx_jina.errors import InputError, ModelNotFoundError
from mlx_jina.weights import hub

if TYPE_CHECKING:
    from mlx_jina import Encoder, MultiVectorEncoder
    from mlx_jina.engine.loaded_model import LoadedModel
    from mlx_jina.options import LoadOptions, PlaceOptions

PACKAGES = ("mlx", "mlx-lm", "tokenizers", "numpy", "huggingface-hub", "gguf", "pyarrow", "icu4py")

Row = tuple[str, ...]


def run(model: str | None, loading: LoadOptions) -> None:
    """Print facts of `model`, or for None of this machine."""
    if model is None:
        _machine(loading["cache_dir"])
    else:
        _model(model, loading)


def _machine(cache_dir: str | Path | None) -> None:
    _print([*_versions(), ("", ""), *_backend()])
    print()
    _print([("model", "dimensions", "max length", "licence", "size", "where"), *_models(cache_dir)])


def _model(name: str, loading: LoadOptions) -> None:
    # Before MLX is imported.
    blas.open_fast()
    from mlx_jina.weights import quantize

    entry = catalog.find(name)
    if entry is not None and entry.kind == "reranker":
        _reranker(entry, loading)
        return
    rows = [("model", entry.repo if entry else name)]
    if entry:
        rows += [("licence", entry.license), ("languages", entry.languages)]
    try:
        # Nothing is downloaded only to be described.
        model = _open(name, {**loading, "local_files_only": True})
    except ModelNotFoundError:
        if entry is None:
            raise
        rows += [("type", entry.kind)]
        rows += [("dimensions", str(entry.dimension)), ("max length", f"{entry.max_length} tokens")]
        rows += [("here", "no; using it downloads it")]
        _print(rows)
        return
    _print(
        [
            *rows,
            ("type", model.kind),
            ("dimensions", str(model.dimension)),
            ("trained to be cut to", ", ".join(map(str, model.truncate_dims)) or "none"),
            ("max length", f"{model.max_length} tokens"),
            *_reading(model),
            ("dtype here", model.dtype),
            *_memory(model),
            *_recognised(model),
            *(("quantised", line) for line in quantize.describe(model.loaded.packings)),
            *_fingerprints(model),
            ("here", str(model.path)),
        ]
    )


def _open(name: str, options: LoadOptions) -> Encoder | MultiVectorEncoder:
    from mlx_jina import load, load_multi_vector
    from mlx_jina.weights import kinds

    path = hub.resolve(name, options.get("revision"), True, options.get("cache_dir"))
    if kinds.of(path) == "multi-vector":
        return load_multi_vector(name, **options)
    return load(name, **options)


def _reading(model: Encoder | MultiVectorEncoder) -> Iterator[Row]:
    """How the model reads texts."""
    from mlx_jina import MultiVectorEncoder

    if isinstance(model, MultiVectorEncoder):
        yield "query", f"{model.query_length} vectors"
        yield "document", f"{model.document_length} tokens, unless max_length says more"
        return
    prompts = ", ".join(f"{key}={value!r}" for key, value in model.prompts.items())
    yield "tasks", ", ".join(model.tasks) or "none"
    yield "prompts", prompts or "none"


def _reranker(entry: Entry, loading: LoadOptions) -> None:
    from mlx_jina import load_reranker

    rows: list[Row] = [("model", entry.repo), ("kind", "reranker: load_reranker, mlx-jina rerank")]
    rows += [("licence", entry.license), ("languages", entry.languages)]
    try:
        places: PlaceOptions = {
            "revision": loading.get("revision"),
            "cache_dir": loading.get("cache_dir"),
            "dtype": loading.get("dtype"),
            "local_files_only": True,
        }
        reranker = load_reranker(entry.repo, **places)
    except ModelNotFoundError:
        rows += [("max length", f"{entry.max_length} tokens"), ("here", "no; reranking with it downloads it")]
        _print(rows)
        return
    rows += [("max length", f"{reranker.max_length} tokens")]
    rows += [("instruction", "yes" if reranker.takes_instruction else "none")]
    rows += [("dtype here", reranker.dtype), *_memory(reranker), ("here", str(reranker.path))]
    _print(rows)


def _memory(encoder: LoadedModel) -> Iterator[Row]:
    budget = encoder.loaded.budget
    batch = budget.batch_tokens * budget.token
    yield "weights in memory", _megabytes(encoder.nbytes)
    yield "a batch", f"{budget.batch_tokens} tokens, {_megabytes(batch)} at most"
    yield "freed memory kept", _megabytes(budget.cache)
    yield "free for models", _megabytes(budget.memory)


def _recognised(encoder: LoadedModel) -> Iterator[Row]:
    if (found := encoder.loaded.files.recognised) is not None:
        yield "recognised", f"{found.entry.repo}, by {found.by}"


def _fingerprints(encoder: LoadedModel) -> Iterator[Row]:
    """A line for each task, or one line where vectors of all tasks may be mixed."""
    found = {task: encoder.fingerprint(task) for task in encoder.tasks or (None,)}
    if len(set(found.values())) == 1:
        yield "fingerprint", next(iter(found.values()))
    else:
        for task, own in found.items():
            yield f"fingerprint {task}", own


def _versions() -> Iterator[Row]:
    yield "mlx-jina", __version__
    yield "python", platform.python_version()
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            yield package, "not installed"
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"


def _backend() -> Iterator[Row]:
    blas.open_fast()
    import mlx.core as mx

    details = mx.device_info()
    backend = device.backend()
    yield "backend", backend
    yield "device", str(details.get("device_name") or platform.processor() or platform.machine())
    yield "dtype", "float32" if backend == "cpu" else "the checkpoint's own"
    if backend == "cpu":
        yield "BLAS", blas.name()
    else:
        # Before the first product, which decides.
        device.keep_float32()
        exact = device.multiplies_float32()
        yield "float32 products", "in float32" if exact else "in TF32, as MLX_ENABLE_TF32 says"
    yield "memory for models", _megabytes(device.memory())
    yield "tokens of a batch", f"{device.default_batch_tokens()}, fewer where memory is short"


def _models(cache_dir: str | Path | None) -> Iterator[Row]:
    """The models inside the package, then those of the catalogue or of jinaai in the Hugging Face cache."""
    # Imported here: it costs a third of a second.
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from mlx_jina.weights.folder import missing_files

    for entry in catalog.ENTRIES:
        if "/" not in entry.repo and (folder := hub.embedded(entry.repo)).is_dir():
            size = sum(path.stat().st_size for path in folder.iterdir())
            yield _described(entry.repo, _megabytes(size), "inside this package")
    try:
        cached = scan_cache_dir(cache_dir).repos
    except CacheNotFound:
        return
    except ValueError as error:
        raise InputError(f"{cache_dir} is no folder that could be a Hugging Face cache: {error}") from None
    for repo in sorted(cached, key=lambda repo: repo.repo_id):
        if repo.repo_type == "model" and (catalog.find(repo.repo_id) or repo.repo_id.startswith("jinaai/")):
            complete = any(not missing_files(Path(revision.snapshot_path)) for revision in repo.revisions)
            where = str(repo.repo_path) if complete else f"{repo.repo_path} (incomplete)"
            yield _described(repo.repo_id, _megabytes(repo.size_on_disk), where)


def _described(repo: str, size: str, where: str) -> Row:
    entry = catalog.find(repo)
    known = (str(entry.dimension), str(entry.max_length), entry.license) if entry else ("?", "?", "?")
    return (repo, *known, size, where)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _print(rows: Sequence[Row]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
