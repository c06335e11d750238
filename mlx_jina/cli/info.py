"""`mlx-jina info`: what is installed, what computes, which models are here."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_jina import __version__, catalog, device
from mlx_jina.catalog import Entry
from mlx_jina.cpu import blas
from mlx_jina.errors import InputError, ModelNotFoundError
from mlx_jina.weights import hub

if TYPE_CHECKING:
    from mlx_jina import Encoder, MultiVectorEncoder, Reranker
    from mlx_jina.engine.loaded_model import LoadedModel
    from mlx_jina.options import LoadOptions, PlaceOptions

PACKAGES = ("mlx", "mlx-lm", "tokenizers", "numpy", "huggingface-hub", "gguf", "pyarrow", "icu4py")

Row = tuple[str, ...]
MODEL_COLUMNS: Row = ("model", "dimensions", "max length", "licence", "size", "where")


def run(model: str | None, loading: LoadOptions, *, as_json: bool = False) -> None:
    """Print facts of `model`, or for None of this machine: as a table, or as one JSON object."""
    if as_json:
        facts = _machine(loading["cache_dir"]) if model is None else _facts(model, loading)
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    elif model is None:
        _print([*_versions(), ("", ""), *_backend()])
        print()
        _print([MODEL_COLUMNS, *_models(loading["cache_dir"])])
    else:
        _print(_model(model, loading))


def _machine(cache_dir: str | Path | None) -> dict[str, Any]:
    """What `info` says of a machine, for programs."""
    # The backend first: a fast BLAS is opened before anything imports MLX.
    facts = {"versions": dict(map(_pair, _versions())), "backend": dict(map(_pair, _backend()))}
    models = [dict(zip(MODEL_COLUMNS, map(_number, row), strict=True)) for row in _models(cache_dir)]
    return {**facts, "models": models}


def _pair(row: Row) -> tuple[str, str]:
    name, value = row
    return name, value


def _number(cell: str) -> str | int:
    return int(cell) if cell.isdecimal() else cell


def _facts(name: str, loading: LoadOptions) -> dict[str, Any]:
    """What `info` says of a model, for programs."""
    if (known := _known_reranker(name)) is not None:
        return _reranker_facts(known.repo, known, _open_reranker(known.repo, loading))
    # Imported here, after the fast BLAS is open: it imports MLX.
    from mlx_jina.weights.kinds import RerankerError

    try:
        entry, model = _described_by(name, loading)
    except RerankerError:
        return _reranker_facts(name, None, _open_reranker(name, loading))
    facts: dict[str, Any] = {"model": entry.repo if entry else name, "here": model is not None}
    if entry:
        facts |= {"name": entry.title, "licence": entry.license, "languages": entry.languages, "type": entry.kind}
        facts |= {"dimension": entry.dimension, "max_length": entry.max_length}
    if model is None:
        return facts
    recognised = model.loaded.files.recognised
    return {
        **facts,
        "path": str(model.path),
        "type": model.kind,
        "dimension": model.dimension,
        "truncate_dims": model.truncate_dims,
        "max_length": model.max_length,
        "tasks": model.tasks,
        "prompts": model.prompts,
        "pictures": model.sees,
        "dtype": model.dtype,
        "bytes": model.nbytes,
        "batch_tokens": model.loaded.budget.batch_tokens,
        "recognised": recognised and recognised.entry.repo,
        "quantised": _quantised(model),
        "fingerprints": _by_task(model),
    }


def _quantised(model: LoadedModel) -> list[str]:
    """How layers are packed in the files, in words."""
    from mlx_jina.weights import quantize

    return quantize.describe(model.loaded.packings)


def _described_by(name: str, loading: LoadOptions) -> tuple[Entry | None, Encoder | MultiVectorEncoder | None]:
    """A model's row in the catalog, and the model itself, if it is here: nothing is downloaded to be described."""
    # Before MLX is imported.
    blas.open_fast()
    entry = catalog.find(name)
    try:
        return entry, _open(name, {**loading, "local_files_only": True})
    except ModelNotFoundError:
        if entry is None:
            raise
        return entry, None


def _model(name: str, loading: LoadOptions) -> list[Row]:
    if (known := _known_reranker(name)) is not None:
        return _reranker(known.repo, known, _open_reranker(known.repo, loading))
    # Imported here, after the fast BLAS is open: it imports MLX.
    from mlx_jina.weights.kinds import RerankerError

    try:
        entry, model = _described_by(name, loading)
    except RerankerError:
        return _reranker(name, None, _open_reranker(name, loading))
    rows: list[Row] = [("model", entry.title if entry else name)]
    if entry:
        rows += [("licence", entry.license), ("languages", entry.languages)]
    if entry and model is None:
        rows += [("type", entry.kind)]
        rows += [("dimensions", str(entry.dimension)), ("max length", f"{entry.max_length} tokens")]
    if model is None:
        return [*rows, ("here", "no; using it downloads it")]
    return [
        *rows,
        ("type", model.kind),
        ("dimensions", str(model.dimension)),
        ("trained to be cut to", ", ".join(map(str, model.truncate_dims)) or "none"),
        ("max length", f"{model.max_length} tokens"),
        *_reading(model),
        *_pictures(model),
        ("dtype here", model.dtype),
        *_memory(model),
        *_recognised(model),
        *(("quantised", line) for line in _quantised(model)),
        *_fingerprints(model),
        ("here", str(model.path)),
    ]


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


def _pictures(model: LoadedModel) -> Iterator[Row]:
    """Whether the model sees pictures, and which."""
    if model.sees and model.loaded.vision is not None:
        limit = model.loaded.vision.preprocessor.max_pixels
        yield "pictures", f"up to {limit:,} pixels; larger ones are made smaller"


def _known_reranker(name: str) -> Entry | None:
    """A reranker's row in the catalog."""
    # Before MLX is imported.
    blas.open_fast()
    entry = catalog.find(name)
    return entry if entry is not None and entry.kind == "reranker" else None


def _open_reranker(name: str, loading: LoadOptions) -> Reranker | None:
    """The reranker, if it is here."""
    from mlx_jina import load_reranker

    places: PlaceOptions = {
        "revision": loading.get("revision"),
        "cache_dir": loading.get("cache_dir"),
        "dtype": loading.get("dtype"),
        "local_files_only": True,
    }
    try:
        return load_reranker(name, **places)
    except ModelNotFoundError:
        return None


def _reranker(name: str, entry: Entry | None, reranker: Reranker | None) -> list[Row]:
    rows: list[Row] = [("model", name), ("kind", "reranker: load_reranker, mlx-jina rerank")]
    if entry is not None:
        rows += [("licence", entry.license), ("languages", entry.languages)]
        rows += [("max length", f"{entry.max_length} tokens")] if reranker is None else []
    if reranker is None:
        return [*rows, ("here", "no; reranking with it downloads it")]
    return [
        *rows,
        ("max length", f"{reranker.max_length} tokens"),
        ("reads", "all documents at once" if reranker.listwise else "each document with the query"),
        ("instruction", "yes" if reranker.takes_instruction else "none"),
        ("dtype here", reranker.dtype),
        *_memory(reranker),
        *(("quantised", line) for line in _quantised(reranker)),
        ("here", str(reranker.path)),
    ]


def _reranker_facts(name: str, entry: Entry | None, reranker: Reranker | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"model": name, "here": reranker is not None, "type": "reranker"}
    if entry is not None:
        facts |= {"licence": entry.license, "languages": entry.languages, "max_length": entry.max_length}
    if reranker is None:
        return facts
    return {
        **facts,
        "path": str(reranker.path),
        "max_length": reranker.max_length,
        "instruction": reranker.takes_instruction,
        "listwise": reranker.listwise,
        "dtype": reranker.dtype,
        "bytes": reranker.nbytes,
        "batch_tokens": reranker.loaded.budget.batch_tokens,
        "quantised": _quantised(reranker),
    }


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


def _by_task(encoder: LoadedModel) -> dict[str, str]:
    """Fingerprints by task; of a model without tasks by an empty name."""
    return {task or "": encoder.fingerprint(task) for task in encoder.tasks or (None,)}


def _fingerprints(encoder: LoadedModel) -> Iterator[Row]:
    """A line for each task, or one line where vectors of all tasks may be mixed."""
    found = _by_task(encoder)
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
