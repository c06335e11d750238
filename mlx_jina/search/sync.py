"""An index kept in step with a folder: what changed since the last scan, and the words of it."""

from __future__ import annotations

from mlx_jina.errors import InputError
from mlx_jina.search import schema
from mlx_jina.search.changes import Options, Report, compare
from mlx_jina.search.database import Database, one
from mlx_jina.search.model import Progress
from mlx_jina.search.roots import Root, forgetting
from mlx_jina.search.walk import scan


def sync_words(database: Database, root: Root, options: Options, report: Report, progress: Progress) -> None:
    """Bring what an index says of a folder's files up to date, but their vectors.

    Raises InputError for a folder that is not there.
    """
    try:
        found = scan(root.path, root.selection)
    except OSError as error:
        raise InputError(
            f"{root.path}: {error.strerror}; the index keeps its notes, and goes on once the folder is back; "
            f"{forgetting(database.file, root.path)}"
        ) from None
    with database.reading() as connection:
        changes = compare(connection, root, found, options, report)
    if changes.changed or changes.gone:
        # Not before: it imports all that is needed to read notes.
        from mlx_jina.search.updating import Update

        Update(database, root, options, report, progress).run(changes)


def forget_other_chunks(database: Database) -> None:
    """Have all notes read anew if their chunks were cut by other rules than today's."""
    with database.reading() as connection:
        if one(connection, "select value from meta where key = 'chunks'") == schema.CHUNKS:
            return
    with database.writing() as connection:
        # So they look changed, and not only touched.
        connection.execute("update note set size = -1, hash = x'00'")
        connection.execute("replace into meta values ('chunks', ?)", (schema.CHUNKS,))
