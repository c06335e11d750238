"""An index's folders, one after the other: words of what changed, and which pictures belong to which notes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mlx_jina.errors import InputError
from mlx_jina.search import captions, pictures, roots
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
        known = roots.all_of(connection)
    if not known:
        raise InputError(f"{database.file} has no folder yet; name the one with your notes: mlx-jina index FOLDER")
    for root in known:
        try:
            root = _where_it_is(database, root, options.dry_run, report)
            sync_words(database, _with_pictures(root, taken), options, report, progress)
        except InputError as error:
            if len(known) == 1:
                raise
            report.warnings.append(str(error))


def _where_it_is(database: Database, root: Root, dry_run: bool, report: Report) -> Root:
    """A known folder, also if it was renamed or we are in it."""
    with database.reading() as connection:
        if roots.is_there(connection, root):
            return root
        path = roots.moved_to(connection, root)
        if path is None and roots.has_notes_in(connection, root, root.path):
            # Put back from a backup.
            path = root.path
    return root if path is None else _root(database, path, Settings(), dry_run, report)


def _with_pictures(root: Root, taken: bool) -> Root:
    return root._replace(selection=dataclasses.replace(root.selection, pictures=taken))


def _root(database: Database, folder: str | Path, settings: Settings, dry_run: bool, report: Report) -> Root:
    path = roots.real_path(folder)
    with database.reading() as connection:
        root = roots.is_current(connection, path, settings)
    if root is not None:
        return root
    # What a reader writes is undone.
    with database.reading() if dry_run else database.writing() as connection:
        root, moved = roots.put(connection, path, settings)
    for before, now in moved:
        report.warnings.append(f"{now} is the folder that was at {before}; its notes are kept")
    return root
