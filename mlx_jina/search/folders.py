"""An index's folders, one after the other: words of what changed, and which pictures belong to which notes."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from mlx_jina.errors import InputError
from mlx_jina.search import captions, identity, pictures, roots
from mlx_jina.search.changes import Options, Report
from mlx_jina.search.database import Database
from mlx_jina.search.model import Model, Progress
from mlx_jina.search.roots import Root, Settings
from mlx_jina.search.sync import forget_other_chunks, sync_words


def sync_folders(
    database: Database,
    model: Model,
    folder: str | Path | None,
    settings: Settings,
    options: Options,
    report: Report,
    progress: Progress,
) -> None:
    """Bring the words of a folder, which may be new, or of all that are known up to date.

    Raises InputError for a folder that is not there.
    """
    taken = pictures.are_taken(database, model)
    if not options.dry_run:
        forget_other_chunks(database)
        pictures.switch(database, taken)
    if folder is not None:
        root = _root(database, folder, settings, options.dry_run, report)
        sync_words(database, _with_pictures(root, taken), options, report, progress)
    else:
        _sync_known(database, taken, options, report, progress)
    if taken and not options.dry_run:
        captions.refresh(database)


def _sync_known(database: Database, taken: bool, options: Options, report: Report, progress: Progress) -> None:
    with database.reading() as connection:
        known, moves, replaced = roots.all_of(connection), roots.moves(connection), _replaced(connection)
    if any(moves):
        with _changing(database, options.dry_run) as connection:
            report.warnings += roots.follow(connection, moves)
            known, replaced = roots.all_of(connection), _replaced(connection)
    if not known:
        raise InputError(f"{database.file} has no folder yet; name the one with your notes: mlx-jina index FOLDER")
    for root in known:
        try:
            if root.id in replaced:
                raise InputError(roots.other_folder(database.file, root.path))
            sync_words(database, _with_pictures(root, taken), options, report, progress)
        except InputError as error:
            if len(known) == 1:
                raise
            report.warnings.append(str(error))


def _changing(database: Database, dry_run: bool) -> AbstractContextManager[sqlite3.Connection]:
    """A transaction, of which nothing is kept if `dry_run`: what a reader writes is undone."""
    return database.reading() if dry_run else database.writing()


def _replaced(connection: sqlite3.Connection) -> set[int]:
    """Folders whose names other ones have."""
    return {own for own, folder in identity.all_of(connection).items() if folder.is_replaced()}


def _with_pictures(root: Root, taken: bool) -> Root:
    return root._replace(selection=dataclasses.replace(root.selection, pictures=taken))


def _root(database: Database, folder: str | Path, settings: Settings, dry_run: bool, report: Report) -> Root:
    path = roots.real_path(folder)
    with database.reading() as connection:
        root = roots.is_current(connection, path, settings)
    if root is not None:
        return root
    with _changing(database, dry_run) as connection:
        root, said = roots.put(connection, database.file, path, settings)
    report.warnings += said
    return root
