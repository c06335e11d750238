"""`mlx-jina index`: folders into an index, and what is to be known of one."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from mlx_jina.errors import IndexFileError, InputError
from mlx_jina.search import location, roots
from mlx_jina.search.changes import Report
from mlx_jina.search.database import NewerFileError, is_damage
from mlx_jina.search.index import Index
from mlx_jina.search.lock import Wait
from mlx_jina.search.model import Progress
from mlx_jina.search.rows import Row
from mlx_jina.search.status import Status

# Files that are named where nobody asks for all.
_NAMED = 10


@dataclass(frozen=True)
class Wanted:
    """The options of `mlx-jina index`."""

    include: Sequence[str] | None
    exclude: Sequence[str] | None
    max_size: int | None
    """In bytes."""
    words_only: bool
    dry_run: bool
    verify: bool
    rebuild: bool
    allow_mass_delete: bool
    wait: bool
    weight: float | None
    verbose: bool


def update(folders: Sequence[str], index: str | None, model: str | None, wanted: Wanted, watch: bool) -> None:
    """Bring indexes up to date, and keep one so if it is to be watched."""
    if not folders and (wanted.include or wanted.exclude or wanted.max_size):
        raise InputError("--include, --exclude and --max-size belong to a folder: name it")
    if watch:
        from mlx_jina.search.watch import require

        # All vectors may take an hour: before it, not after it.
        require()
    targets = _targets(folders, index)
    if wanted.rebuild and wanted.words_only:
        raise InputError("--rebuild makes all vectors anew and --words-only makes none: give one of them")
    if watch and wanted.dry_run:
        raise InputError("--watch takes in what changes and --dry-run only says it: give one of them")
    if watch and len(targets) > 1:
        raise InputError("--watch follows one index: start it once for each folder, or give them one --index")
    for file, own in targets:
        if wanted.rebuild and not wanted.dry_run:
            _keep_aside_if_damaged(file, model, own, _waiting if wanted.wait else False)
        with Index(file, model, create=bool(own)) as opened:
            _update(opened, own, wanted)
            if watch:
                _follow(opened, vectors=not wanted.words_only)


def _update(opened: Index, folders: Sequence[str], wanted: Wanted) -> None:
    if wanted.weight is not None:
        opened.set_weight(wanted.weight)
    targets: Sequence[str | None] = folders or [None]
    for folder in targets:
        _sync(opened, folder, wanted)
    if wanted.rebuild and not wanted.dry_run:
        with _bar() as progress:
            done = opened.rebuild(wait=_waiting if wanted.wait else False, progress=progress)
        _tell_some("skipped", done.skipped, wanted.verbose)
        for warning in done.warnings:
            _tell(f"warning: {warning}")
        _tell(f"all vectors are of {opened.status().model!r} now")


def _follow(index: Index, vectors: bool) -> None:
    """Follow every change, until somebody stops it."""
    from mlx_jina.search import watch

    folders = ", ".join(index.status().folders)
    _tell(f"following {folders}; Ctrl-C ends it")
    for report in watch.follow(index, vectors=vectors):
        changed = [*report.added, *report.changed, *(new for _, new in report.moved), *report.removed]
        if changed:
            more = f" and {len(changed) - 3:,} more" if len(changed) > 3 else ""
            _tell(f"{', '.join(changed[:3])}{more}")
        for warning in report.warnings:
            _tell(f"warning: {warning}")


def inspect(
    folders: Sequence[str],
    index: str | None,
    *,
    status: bool,
    check: bool,
    repair: bool,
    compact: bool,
    as_json: bool,
    no_wait: bool,
) -> None:
    """Look into indexes, and mend or shrink them. Raises IndexFileError for damage."""
    damaged = []
    wait = False if no_wait else _waiting
    for file, _ in _targets(folders, index):
        with Index(file, create=False) as opened:
            problems = opened.check(repair=repair, wait=wait) if check else []
            for problem in problems:
                print(problem)
            if check and not problems:
                _tell(f"{file}: nothing is wrong")
            if problems and not (repair and not opened.check(wait=wait)):
                damaged.append(str(file))
            if compact:
                before = opened.status().bytes
                _tell(f"{file}: {_size(before)} before, {_size(opened.compact(wait=wait))} now")
            if status:
                _status(opened.status(), as_json)
    if damaged:
        advice = "--rebuild makes it anew" if repair else "--check --repair mends what it can"
        raise IndexFileError(f"{', '.join(damaged)}: damaged; {advice}")


def forget(folders: Sequence[str], index: str | None, *, no_wait: bool) -> None:
    """Let go of folders, and of an index that has no other. Raises InputError for a folder that no index has."""
    if not folders:
        raise InputError("--forget lets go of a folder: name it")
    for folder in folders:
        path = os.path.realpath(os.path.expanduser(folder))
        file = location.remembering(path) if index is None else location.choose(index)
        with Index(file, create=False) as opened:
            if opened.forget(path, wait=False if no_wait else _waiting):
                _tell(f"{path} is forgotten, and its index {file} deleted")
            else:
                _tell(f"{file}: {path} is forgotten; it still has {', '.join(opened.status().folders)}")


def export(folders: Sequence[str], index: str | None, uri: str) -> None:
    """Write what an index holds to LanceDB. Raises InputError for an index without vectors."""
    from mlx_jina.search import lance

    targets = _targets(folders, index)
    if len(targets) > 1:
        raise InputError("--to writes one index: name one folder, or give them one --index")
    (file, _), *_ = targets
    with Index(file, create=False) as opened:
        status = opened.status()
        if status.dimension is None or status.model is None or status.fingerprint is None:
            raise InputError(f"{file.name} has no vectors yet; `mlx-jina index` makes them")
        about = {"model": status.model, "fingerprint": status.fingerprint}
        with _bar("passages") as progress:
            count = lance.write(_counted(opened, status.chunks, progress), uri, status.dimension, about=about)
    left = f"; without vectors, and left out: {_counting(status.waiting, 'note')}" if status.waiting else ""
    _tell(f"{count:,} passages are in table {lance.TABLE!r} of {uri}{left}")


def _counted(index: Index, total: int, progress: Progress) -> Iterator[Row]:
    for done, row in enumerate(index.rows(), 1):
        yield row
        if done % 1000 == 0:
            progress("written", done, total)


def list_all(as_json: bool) -> None:
    """The indexes in the default place."""
    found = []
    for file in location.default_files():
        try:
            with Index(file, create=False) as opened:
                found.append(opened.status())
        except IndexFileError as error:
            # Nobody knows any more which folder it is of.
            anew = f"; with this file: mlx-jina index FOLDER --rebuild --index {quote(str(file))}; or delete it"
            _tell(f"{error}{anew if is_damage(error.__cause__) else ''}")
    if as_json:
        print(json.dumps([dataclasses.asdict(status) for status in found], ensure_ascii=False))
        return
    for status in found:
        folders = ", ".join(status.folders) or "no folder yet"
        print(
            f"{folders}  {_counting(status.notes, 'note')}, {_size(status.bytes)}, {status.model or 'words only'}"
        )
        print(f"    {status.file}")
    if not found:
        _tell(f"no index in {location.data_folder()}; mlx-jina index FOLDER makes one")


def report(done: Report, wanted: Wanted, seconds: float) -> None:
    """Say what a sync did."""
    lists = (("added", done.added), ("changed", done.changed), ("moved", done.moved), ("removed", done.removed))
    counts = [f"{len(paths):,} {name}" for name, paths in lists if paths]
    would = "would be " if wanted.dry_run else ""
    if not (counts or done.unchanged or done.unread or done.skipped or done.waiting or done.warnings):
        _tell("there is nothing to index: no Markdown, text, HTML, code or other notes")
        return
    unread = [f"{done.unread:,} still cannot be read (--status names them)"] if done.unread else []
    _tell(f"{would}{', '.join([*counts, f'{done.unchanged:,} unchanged', *unread])}, in {seconds:.1f} s")
    if wanted.verbose or wanted.dry_run:
        for name, paths in lists:
            for path in paths:
                print(f"{name:8} {path if isinstance(path, str) else ' -> '.join(path)}")
    _tell_some("skipped", done.skipped, wanted.verbose)
    _tell_some("note", done.remarks, wanted.verbose)
    for warning in done.warnings:
        _tell(f"warning: {warning}")
    if done.without_vectors and not (wanted.dry_run or wanted.rebuild):
        _tell(f"found by words alone until they have vectors: {_counting(done.without_vectors, 'note')}")


def _tell_some(name: str, pairs: Sequence[tuple[str, str]], verbose: bool) -> None:
    """Files and what is to be said of each."""
    shown = pairs if verbose else pairs[:_NAMED]
    for path, why in shown:
        _tell(f"{name}: {path}: {why}")
    if len(pairs) > len(shown):
        _tell(f"{name}: {len(pairs) - len(shown):,} more files (--verbose names them)")


def _sync(opened: Index, folder: str | None, wanted: Wanted) -> None:
    started = time.monotonic()
    with _bar() as progress:
        done = opened.sync(
            folder,
            include=wanted.include,
            exclude=wanted.exclude,
            max_size=wanted.max_size,
            verify=wanted.verify or wanted.rebuild,
            allow_mass_delete=wanted.allow_mass_delete,
            dry_run=wanted.dry_run,
            vectors=not (wanted.words_only or wanted.rebuild),
            wait=_waiting if wanted.wait else False,
            progress=progress,
        )
    report(done, wanted, time.monotonic() - started)


def _targets(folders: Sequence[str], index: str | None) -> list[tuple[Path, list[str]]]:
    """Files of indexes, and the folders that go into each."""
    if not folders:
        return [(location.choose(index), [])]
    for folder in folders:
        # Before a file is made for what is no folder.
        roots.real_path(folder)
    if index is not None:
        return [(Path(os.path.expanduser(index)), list(folders))]
    return [(location.index_of(Path(os.path.expanduser(folder))), [folder]) for folder in folders]


def _keep_aside_if_damaged(file: Path, model: str | None, folders: Sequence[str], wait: Wait) -> None:
    """Let a file begin anew with which anything is wrong: all of it comes from the notes.

    Still it is not deleted. Raises IndexFileError where nobody names a folder to begin with.
    """
    if not file.exists() or file.stat().st_size == 0:
        return
    try:
        with Index(file, model, create=False) as opened:
            if not opened.check(wait=wait):
                return
        if not folders:
            raise IndexFileError(f"{file}: damaged; `mlx-jina index FOLDER --rebuild` makes it anew")
    except IndexFileError as error:
        if not folders or not (isinstance(error, NewerFileError) or is_damage(error.__cause__)):
            raise
    known = [folder.path for folder in location.folders_of(file)]
    _tell(f"the damaged index is kept as {location.keep_aside(file)}{_lost(file, known, folders)}")


def _lost(file: Path, known: Sequence[str], folders: Sequence[str]) -> str:
    """What has to be said again of an index that begins anew."""
    named = {roots.real_path(folder) for folder in folders}
    had = f"; it had {', '.join(known)}" if known else ""
    left = [path for path in known if path not in named]
    again = "".join(
        f"; index this one again: mlx-jina index {quote(path)} --index {quote(str(file))}" for path in left
    )
    return f"{had}{again}; give --include, --exclude, --max-size and --weight again where it had any"


def _status(status: Status, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(status), ensure_ascii=False))
        return
    updated = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.updated)) if status.updated else "never"
    rows = [
        ("index", status.file),
        *(("folder", folder) for folder in status.folders),
        ("notes", f"{status.notes:,} in {_counting(status.chunks, 'chunk')}, {status.waiting:,} without vectors"),
        *([("pictures", f"{status.pictures:,} of the chunks")] if status.pictures else []),
        ("size", _size(status.bytes)),
        ("last read", updated),
        (
            "model",
            f"{status.model} ({status.fingerprint}), {status.dimension} dimensions" if status.model else "none",
        ),
    ]
    if status.rebuilding:
        rows.append(("rebuilding", f"with {status.rebuilding}; mlx-jina index --rebuild goes on"))
    rows += [("not read", f"{path}: {why}") for path, why in status.errors]
    for name, value in rows:
        print(f"{name:10}  {value}")


@contextmanager
def _bar(unit: str = "notes") -> Iterator[Progress]:
    """Progress on a terminal, after a moment."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def advance(what: str, done: int, total: int) -> None:
        if what not in bars:
            # disable=None: only on a terminal.
            bars[what] = tqdm(total=total, desc=what.capitalize(), unit=f" {unit}", delay=1, disable=None)
        bars[what].update(done - bars[what].n)

    try:
        yield advance
    finally:
        for bar in bars.values():
            bar.close()


def _waiting(who: str) -> None:
    _tell(f"waiting for {who}, which is updating this index")


def _counting(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _tell(words: str) -> None:
    """A line for the person at the terminal; data alone goes to standard output."""
    print(words, file=sys.stderr, flush=True)
