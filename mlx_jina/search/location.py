"""Where the index of a folder lies: by default with the user's other application data, never among the notes."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote

from mlx_jina.errors import IndexFileError, InputError
from mlx_jina.search import identity
from mlx_jina.search.identity import Identity

SUFFIX = ".db"

# Where WAL's shared memory does not work, or another program copies files while they change.
_NETWORK = frozenset("9p afpfs afs ceph cifs davfs fuse.sshfs ncpfs nfs nfs4 smb smb2 smb3 smbfs webdav".split())
_MOUNTS = "/proc/self/mounts"
_SYNCED = ("Library/Mobile Documents", "Library/CloudStorage", "Dropbox", "OneDrive", "Google Drive", "Nextcloud")


def data_folder() -> Path:
    """Where indexes lie that nobody named a file for. Raises IndexFileError for a user without a home folder."""
    if not os.path.isabs(os.path.expanduser("~")):
        raise IndexFileError("your home folder is unknown (HOME is not set): name the index's file by --index")
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Application Support/mlx-jina/indexes"))
    base = os.environ.get("XDG_DATA_HOME", "")
    # The specification says that a relative path is to be ignored.
    data = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.local/share"))
    return data / "mlx-jina" / "indexes"


def default_file(folder: str | Path) -> Path:
    """What a new index of a folder is called: NAME-HASH.db, the hash of its real path and its inode.

    Numbers of devices are not hashed: those of external disks change with every mount.
    """
    real = os.path.realpath(folder)
    try:
        inode = os.stat(real).st_ino
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    own = f"{real}\0{inode}".encode("utf-8", "surrogateescape")
    name = re.sub(r"[^\w.-]+", "-", os.path.basename(real), flags=re.ASCII).strip("-.")[:40] or "notes"
    return data_folder() / f"{name}-{hashlib.sha256(own).hexdigest()[:10]}{SUFFIX}"


def default_files() -> Iterator[Path]:
    """The indexes in the default place."""
    try:
        yield from sorted(path for path in data_folder().iterdir() if path.suffix == SUFFIX)
    except (FileNotFoundError, NotADirectoryError):
        return


def check(file: Path) -> None:
    """Raise IndexFileError for a place where an index would be damaged: a network's or a synchronised folder."""
    real = os.path.realpath(file)
    for part in _SYNCED:
        if f"/{part}/" in real:
            raise IndexFileError(
                f"{file} lies in {part!r}, which is copied while it changes; keep the index elsewhere: without "
                f"--index it is in {data_folder()}"
            )
    if (kind := file_system(os.path.dirname(real))) in _NETWORK:
        raise IndexFileError(
            f"{file} is on a network's file system ({kind}), where SQLite's readers miss changes; keep "
            f"the index on this machine: without --index it is in {data_folder()}"
        )


def file_system(folder: str) -> str:
    """The kind of file system that a folder is on, as `mount` calls it; "" if nobody knows."""
    if sys.platform == "darwin":
        return _file_system_of_mac(folder)
    best, kind = "", ""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                _, place, own, *_ = line.split(" ")
                place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)
                if len(place) >= len(best) and (folder + "/").startswith(place.rstrip("/") + "/"):
                    best, kind = place, own
    except (OSError, ValueError):
        return ""
    return kind


def _file_system_of_mac(folder: str) -> str:
    """From `statfs`, which Python does not have."""
    import ctypes

    # struct statfs with 64-bit inodes: f_fstypename is 16 bytes after 72 of numbers (sys/mount.h).
    found = ctypes.create_string_buffer(4096)
    if ctypes.CDLL(None).statfs(os.fsencode(folder), found) != 0:
        return ""
    return found.raw[72:88].split(b"\0")[0].decode("ascii", "replace")


def socket_of(file: str | Path) -> Path | None:
    """Where a server that has an index listens to this user's own programs; None if that path would be too long.

    The folder of sockets is the user's alone, so whoever can connect may read the notes anyway.
    """
    own = hashlib.sha256(os.fsencode(os.path.realpath(file))).hexdigest()[:16]
    path = data_folder().parent / "run" / f"{own}.sock"
    # Of sockaddr_un, 104 bytes on a Mac and 108 on Linux.
    return path if len(os.fsencode(path)) < 100 else None


def index_of(folder: str | Path) -> Path:
    """The index of a folder: the one that has it, also if it has moved since, or else a file that is not there."""
    found = _that_has(os.path.realpath(folder), _known)
    return found or _unused(default_file(folder).with_suffix(""), SUFFIX)


def choose(index: str | None) -> Path:
    """The index that somebody means: a file, a folder that has one, or by default the one for where we are.

    That is the index of the current folder or of one above it, or else the only one that there is. Raises
    InputError if there is none, or not only one.
    """
    if index is not None:
        path = Path(os.path.expanduser(index))
        return index_of(path) if path.is_dir() else path
    known = cache(_known)
    here = Path(os.path.realpath(os.getcwd()))
    for folder in (here, *here.parents):
        if (file := _that_has(str(folder), known)) is not None:
            return file
    files = list(default_files())
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError("there is no index yet; make one of the folder with your notes: mlx-jina index FOLDER")
    names = ", ".join(folder.path for _, folder in known())
    raise InputError(f"there are several indexes; go to a folder that has one, or name it with --index: {names}")


def folders_of(file: Path) -> list[Identity]:
    """Those that an index has; none of what cannot be read."""
    try:
        with closing(_reader(file)) as connection:
            found = identity.all_of(connection)
    except (sqlite3.Error, UnicodeDecodeError):
        return []
    return [replace(folder, notes=partial(_notes, file, own)) for own, folder in found.items()]


def remembering(path: str) -> Path:
    """The index of a folder that need not be there any more. Raises InputError if there is none."""
    if os.path.isdir(path) and (file := _that_has(path, _known)) is not None:
        return file
    for file, folder in _known():
        if folder.path == path:
            return file
    raise InputError(f"no index has {path}; mlx-jina index --list says which folders there are")


def _known() -> list[tuple[Path, Identity]]:
    """The folders of all indexes in the default place."""
    return [(file, folder) for file in default_files() for folder in folders_of(file)]


def _that_has(path: str, known: Callable[[], Sequence[tuple[Path, Identity]]]) -> Path | None:
    """The index of the folder that has this real path."""
    file = default_file(path)
    if file.exists():
        # What cannot be read is found by its name, and its damage is told.
        folders = folders_of(file)
        if not folders or any(folder.is_at(path) for folder in folders):
            return file
    here = [(file, folder) for file, folder in known() if folder.path == path or folder.has_inode_of(path)]
    for file, folder in here:
        if folder.has_inode_of(path) and folder.is_at(path):
            return file
    for file, folder in here:
        # What has its path may be a copy, and the folder itself beside it under another name.
        if (folder.is_at(path) or identity.is_empty(path)) and not any(True for _ in folder.moved_to()):
            return file
    return None


def _notes(file: Path, root: int) -> list[str]:
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(_reader(file)) as connection:
        return identity.latest_notes(connection, root)
    return []


def _reader(file: Path) -> sqlite3.Connection:
    # Without a log beside it nobody writes to a file, and whoever may only read would leave one.
    mode = "ro" if file.with_name(file.name + "-wal").exists() else "ro&immutable=1"
    return sqlite3.connect(f"file:{quote(os.fsencode(file))}?mode={mode}", uri=True)


def _unused(file: Path, ending: str = "") -> Path:
    """A name with an ending that nothing has, numbered where that needs it."""
    numbers = itertools.chain([""], map("-{}".format, itertools.count(2)))
    names = (f"{file.name}{number}{ending}" for number in numbers)
    return next(path for path in map(file.with_name, names) if not path.exists())


def delete(file: Path) -> None:
    """Delete an index, also behind a link, and what SQLite keeps beside it."""
    real = Path(os.path.realpath(file))
    for ending in ("-wal", "-shm", ""):
        real.with_name(real.name + ending).unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def keep_aside(file: Path) -> Path:
    """Rename a damaged index to NAME.corrupt-DATE, with what SQLite keeps beside it. Returns the new name."""
    aside = _unused(file.with_name(f"{file.name}.corrupt-{time.strftime('%Y-%m-%d-%H%M%S')}"))
    for ending in ("-wal", "-shm", ""):
        part = file.with_name(file.name + ending)
        if part.exists():
            part.rename(aside.with_name(aside.name + ending))
    return aside
