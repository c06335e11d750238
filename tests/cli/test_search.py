"""`mlx-jina index`, `search`, `related` and `duplicates` as people and scripts run them."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mlx_jina.search.location import index_of
from tests.support.command import PROGRAM, run

NOTES = {
    "bread.md": "---\ntags: [food]\n---\n# Sourdough\n\n## Feeding\n\nFeed the starter with flour every day.\n",
    "garage/car.md": "The engine of the car needs new oil and a belt.\n",
    "garage/motor.md": "A motor wants oil and a new belt, as every engine does.\n",
    "travel.txt": "The express to the coast leaves the station at nine.\n",
}
Command = Callable[..., subprocess.CompletedProcess[str]]


def enter(home: Path, patch: pytest.MonkeyPatch) -> Path:
    """Be at home in this folder, which gets notes if it has none."""
    patch.setenv("HOME", str(home))
    patch.setenv("XDG_DATA_HOME", str(home / "data"))
    patch.delenv("MLX_JINA_URI", raising=False)
    patch.chdir(home)
    if not (home / "notes").exists():
        for name, text in NOTES.items():
            (home / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
            (home / "notes" / name).write_text(text)
            os.utime(home / "notes" / name, (1_700_000_000, 1_700_000_000))
    return home


def with_index(home: Path) -> Path:
    done = run("index", "notes")
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, with notes in it."""
    return enter(tmp_path, monkeypatch)


@pytest.fixture
def indexed(home: Path) -> Path:
    """The same, indexed."""
    return with_index(home)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return with_index(enter(tmp_path_factory.mktemp("home"), patch))


@pytest.fixture
def shared(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One home with an index for all tests that change nothing."""
    return enter(kept, monkeypatch)


def modules_of(*arguments: str) -> set[str]:
    """What a command imports."""
    code = (
        "import sys\nfrom mlx_jina import cli\n"
        "try:\n    cli.main()\nfinally:\n    print(sorted(sys.modules), file=sys.stderr)\n"
    )
    done = run(*arguments, program=(sys.executable, "-c", code))
    assert done.returncode == 0, done.stderr
    return set(ast.literal_eval(done.stderr.splitlines()[-1]))


def test_the_first_minute(home: Path) -> None:
    done = run("search", "how do I feed my starter?", program=PROGRAM)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "error: there is no index yet; make one of the folder with your notes: mlx-jina index FOLDER\n"
    )
    done = run("index", "notes", program=PROGRAM)
    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(r"4 added, 0 unchanged, in \d+\.\d s\n", done.stderr)
    # Not among the notes, and nobody else can read it.
    assert {path.name for path in (home / "notes").rglob("*") if path.is_file()} == {
        Path(name).name for name in NOTES
    }
    done = run("search", "how do I feed my starter?", program=PROGRAM)
    assert done.stdout.startswith(
        "bread.md:4  1.00  Sourdough > Feeding\n    Feed the starter with flour every day.\n"
    )
    assert done.stderr == ""
    done = run("search", "motor", "vehicle", "--limit", "2", "--in", "garage")
    # One by its words and one by what it means.
    assert {line.split(":")[0] for line in done.stdout.splitlines()[::2]} == {"garage/motor.md", "garage/car.md"}


def test_a_search_sees_what_changed_a_moment_ago(indexed: Path) -> None:
    (indexed / "notes/new.md").write_text("Zebras have stripes.")
    (indexed / "notes/travel.txt").unlink()
    assert run("search", "zebra", "--no-sync", "--mode", "words").stdout == ""
    done = run("search", "striped animals", "-n", "1")
    assert done.stdout.startswith("new.md:1  1.00  new\n")
    assert done.stderr == ""
    assert "travel" not in run("search", "coast", "-n", "9").stdout


def test_words_alone_import_little(indexed: Path) -> None:
    heavy = {"mlx", "numpy", "tokenizers", "yaml", "markdown_it", "pathspec", "tqdm", "huggingface_hub", "asyncio"}
    assert not heavy & {name.partition(".")[0] for name in modules_of("search", "starter", "--mode", "words")}
    # A note that changed has to be read, and still no model is needed.
    (indexed / "notes/new.md").write_text("---\ntitle: Zebra\n---\nstripes")
    loaded = {name.partition(".")[0] for name in modules_of("search", "stripes", "--mode", "words")}
    assert not {"mlx", "numpy", "tokenizers", "huggingface_hub"} & loaded
    assert {"yaml", "markdown_it"} <= loaded


def test_json(shared: Path) -> None:
    done = run("search", "feed starter", "--json", "--tag", "food")
    found = json.loads(done.stdout)
    head = {"query", "mode", "model", "fingerprint", "took_ms", "stale", "warning", "chunks"}
    assert found.keys() == head | {"hits"}
    assert (found["query"], found["mode"], found["model"]) == ("feed starter", "hybrid", "pocket")
    assert found["stale"] == {"words": 0, "vectors": 0}
    (hit,) = found["hits"]
    text = (shared / "notes/bread.md").read_text()
    assert hit == {
        "id": hit["id"],
        "path": "bread.md",
        "absolute_path": str(shared / "notes/bread.md"),
        "line": 4,
        "end_line": 8,
        "start": text.index("# Sourdough"),
        "stop": len(text) - 1,
        "title": "Sourdough",
        "heading": hit["heading"],
        "tags": ["food"],
        "modified": "2023-11-14T22:13:20+00:00",
        "score": 1.0,
        "cosine": hit["cosine"],
        "bm25": hit["bm25"],
        "rerank": None,
        "snippet": "Feed the starter with flour every day.",
        "highlights": [[0, 4], [9, 16]],
        "more": 0,
        "picture": False,
        "shown_in": [],
        "uri": f"file://{shared}/notes/bread.md",
    }
    lines = run("search", "oil", "--jsonl", "-n", "3").stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines][:2] == ["garage/motor.md", "garage/car.md"]
    explained = json.loads(run("search", "the oil", "--json", "--explain").stdout)["explanation"]
    assert explained["words"] == {"the": 3, "oil": 2}
    assert explained["dropped"] == ["the"]


def test_what_alfred_shows(shared: Path) -> None:
    done = run("search", "feed starter", "--alfred", "--tag", "food", "--uri", "vscode")
    shown = json.loads(done.stdout)
    (item,) = shown["items"]
    path = str(shared / "notes/bread.md")
    assert (shown["skipknowledge"], item["title"].partition(" > ")[0], item["type"]) == (True, "Sourdough", "file")
    assert item["subtitle"] == "bread.md:4  Feed the starter with flour every day."
    assert (item["arg"], item["quicklookurl"], item["text"]["copy"]) == (path, path, f"{path}:4")
    assert item["mods"]["cmd"]["arg"] == f"vscode://file{path}:4"
    nothing = run("search", "xylophone", "--alfred", "--mode", "words")
    assert json.loads(nothing.stdout)["items"] == [
        {"title": "No note found", "subtitle": "xylophone", "valid": False}
    ]
    assert (nothing.returncode, nothing.stderr) == (0, "")


def test_paths(indexed: Path) -> None:
    (indexed / "notes/two\nlines.md").write_text("oil oil oil")
    done = run("search", "oil", "--paths", "-0", "--mode", "words")
    names = ["two\nlines.md", "garage/car.md", "garage/motor.md"]
    assert done.stdout.split("\0") == [*(str(indexed / "notes" / name) for name in names), ""]
    assert run("search", "engine", "--paths", "--mode", "words").stdout.splitlines() == [
        str(indexed / "notes/garage/car.md"),
        str(indexed / "notes/garage/motor.md"),
    ]
    # A terminal is shown nothing that it would obey.
    assert "two\N{REPLACEMENT CHARACTER}lines.md:1" in run("search", "oil", "--mode", "words").stdout


def test_explanations(shared: Path) -> None:
    done = run("search", "the oil", "--explain", "-n", "1")
    assert re.search(r"    cosine -?0\.\d{3}, bm25 \d\.\d\d\n", done.stdout)
    assert "mode hybrid, 4 chunks\n" in done.stdout
    assert "  the: in more than half of all chunks, left out\n" in done.stdout
    assert "  oil: in 2 chunks\n" in done.stdout
    assert "filters let 2 notes through" in run("search", "oil", "--explain", "--in", "garage").stdout


def test_related_and_duplicates(indexed: Path) -> None:
    done = run("related", "notes/garage/car.md", "-n", "1")
    assert done.stdout.startswith("garage/motor.md:1  0.")
    assert (
        run("related", "notes/garage/car.md:1", "-n", "1", "--paths").stdout
        == f"{indexed}/notes/garage/motor.md\n"
    )
    assert json.loads(run("related", "garage/car.md", "--json").stdout)["hits"][0]["path"] == "garage/motor.md"
    done = run("duplicates")
    assert (done.stdout, done.stderr) == ("", "no two notes are as alike as 0.95\n")
    (indexed / "notes/copy.txt").write_text(NOTES["travel.txt"])
    run("index")
    assert run("duplicates").stdout == "identical  copy.txt  travel.txt\n"
    found = json.loads(run("duplicates", "--json", "--threshold", "0.5").stdout)["duplicates"]
    assert found[0] == {"path": "copy.txt", "other": "travel.txt", "cosine": 1.0, "identical": True}


def test_status_check_compact_and_list(indexed: Path) -> None:
    file = index_of(indexed / "notes")
    assert file.parent == indexed / "data/mlx-jina/indexes"
    status = run("index", "--status").stdout
    assert f"folder      {indexed}/notes\n" in status
    assert "notes       4 in 4 chunks, 0 without vectors\n" in status
    found = json.loads(run("index", "notes", "--status", "--json").stdout)
    assert (found["notes"], found["model"], found["folders"]) == (4, "pocket", [f"{indexed}/notes"])
    assert run("index", "--list").stdout.startswith(f"{indexed}/notes  4 notes, ")
    assert json.loads(run("index", "--list", "--json").stdout)[0]["file"] == str(file)
    done = run("index", "--check")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing is wrong" in done.stderr
    assert re.search(r"MB before, .* MB now", run("index", "--compact").stderr)


def test_nothing_to_index_is_said(home: Path) -> None:
    (home / "empty").mkdir()
    done = run("index", "empty")
    assert (done.returncode, done.stderr[:28]) == (0, "there is nothing to index: n")
    assert run("search", "x", "--index", "empty").stderr == "the index has no notes\n"
    (home / "empty/a.md").write_bytes(b"\0")
    assert run("index", "empty").stderr.startswith("0 unchanged, in ")
    assert "0 unchanged, 1 still cannot be read (--status names them)" in run("index", "empty").stderr
    (home / "empty/b.md").write_text("one note")
    run("index", "empty")
    assert run("index", "--list").stdout.startswith(f"{home}/empty  1 note, ")


def test_dry_runs_and_what_is_skipped(indexed: Path) -> None:
    (indexed / "notes/new.md").write_text("new")
    (indexed / "notes/bread.md").rename(indexed / "notes/loaf.md")
    (indexed / "notes/garage/car.md").unlink()
    (indexed / "notes/binary.md").write_bytes(b"\0\0")
    done = run("index", "--dry-run")
    assert sorted(done.stdout.splitlines()) == [
        "added    new.md",
        "moved    bread.md -> loaf.md",
        "removed  garage/car.md",
    ]
    assert done.stderr.startswith("would be 1 added, 1 moved, 1 removed, 2 unchanged, in ")
    assert "skipped: binary.md: not text: it has NUL bytes\n" in done.stderr
    assert "garage/car.md" in run("search", "car", "--no-sync", "--paths").stdout


def test_several_folders_and_one_index_for_them(home: Path) -> None:
    (home / "office").mkdir()
    (home / "office/a.md").write_text("zebra at work")
    assert run("index", "notes", "office").returncode == 0
    done = run("search", "zebra")
    assert "error: there are several indexes" in done.stderr
    assert run("search", "zebra", "--index", "office", "--paths").stdout == f"{home}/office/a.md\n"
    assert run("index", "notes", "office", "--index", "both.db").returncode == 0
    assert json.loads(run("index", "--index", "both.db", "--status", "--json").stdout)["notes"] == 5
    os.chdir(home / "office")
    assert run("search", "zebra", "--paths").stdout == f"{home}/office/a.md\n"


def test_a_folder_that_moved_is_searched_by_its_new_name(indexed: Path) -> None:
    moved = indexed / "far/away/notes"
    moved.parent.mkdir(parents=True)
    (indexed / "notes").rename(moved)
    done = run("search", "oil", "--index", "far/away/notes", "-n", "1", "--paths")
    assert done.stdout == f"{moved}/garage/motor.md\n"
    assert f"{moved} is the folder that was at {indexed}/notes" in done.stderr
    assert run("search", "oil", "-n", "1", "--paths").stdout == f"{moved}/garage/motor.md\n"


def test_folders_are_forgotten(indexed: Path) -> None:
    file = index_of(indexed / "notes")
    (indexed / "office").mkdir()
    (indexed / "office/a.md").write_text("zebra at work")
    assert run("index", "notes", "office", "--index", "both.db").returncode == 0
    (indexed / "office/a.md").unlink()
    (indexed / "office").rmdir()
    done = run("index", "office", "--forget", "--index", "both.db")
    assert (done.returncode, done.stderr) == (
        0,
        f"both.db: {indexed}/office is forgotten; it still has {indexed}/notes\n",
    )
    assert "zebra" not in run("search", "zebra", "--index", "both.db").stdout
    done = run("index", "office", "--forget", "--index", "both.db")
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {indexed}/both.db does not have {indexed}/office; it has {indexed}/notes\n",
    )
    Path("link.db").symlink_to(file)
    for more in (["--dry-run"], ["--list"], ["--status"], ["--exclude", "x"], ["--index", "link.db", "--rebuild"]):
        done = run("index", "notes", "--forget", *more)
        assert (done.returncode, done.stderr) == (
            1,
            f"error: --forget does nothing else: leave out {more[-1 if more[0] == '--index' else 0]}\n",
        )
    done = run("index", "notes", "--forget")
    assert (done.returncode, done.stderr) == (0, f"{indexed}/notes is forgotten, and its index {file} deleted\n")
    assert not [path for path in file.parent.iterdir() if path.suffix != ".lock"]
    assert (indexed / "notes/bread.md").exists()
    done = run("index", "notes", "--forget")
    assert (
        done.stderr == f"error: no index has {indexed}/notes; mlx-jina index --list says which folders there are\n"
    )
    assert run("index", "--forget").stderr == "error: --forget lets go of a folder: name it\n"


def test_an_index_that_cannot_be_locked_is_searched(indexed: Path) -> None:
    """As anybody's but its owner's."""
    lock = Path(f"{index_of(indexed / 'notes')}.words.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    done = run("search", "oil", "-n", "1", "--paths")
    assert done.stdout == f"{indexed}/notes/garage/motor.md\n"
    assert "the index is searched as it is: " in done.stderr
    assert f"cannot be updated: Is a directory ({lock.name})" in done.stderr
    done = run("index")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_damaged_index_is_kept_aside_and_made_anew(indexed: Path) -> None:
    file = index_of(indexed / "notes")
    file.write_bytes(b"nothing of a database is left of it" * 1000)
    for command in (["search", "oil"], ["index"], ["index", "--check"]):
        done = run(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "the file is damaged; `mlx-jina index FOLDER --rebuild` keeps it aside" in done.stderr
    advice, _ = run("index", "--list").stderr.splitlines()
    assert advice.endswith(f"; with this file: mlx-jina index FOLDER --rebuild --index {file}; or delete it")
    done = run("index", "notes", "--rebuild")
    assert done.returncode == 0, done.stderr
    assert "the damaged index is kept as" in done.stderr
    assert run("search", "oil", "-n", "1").stdout.startswith("garage/motor.md")
    assert len(list(file.parent.glob("*.corrupt-*"))) == 1


def test_only_what_can_be_repaired_is(indexed: Path) -> None:
    file = index_of(indexed / "notes")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("update vec set v = substr(v, 1, 10)")
    done = run("index", "--check", "--repair")
    assert (done.returncode, done.stderr) == (0, "")
    assert "all of this is repaired" in done.stdout
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    data = bytearray(file.read_bytes())
    # Pages of the middle.
    start = len(data) // 16384 // 2 * 16384
    data[start : start + 3 * 16384] = b"\xff" * 3 * 16384
    file.write_bytes(data)
    done = run("index", "--check", "--repair")
    assert (done.returncode, "nothing else was checked" in done.stdout) == (1, True)
    assert done.stderr.endswith("damaged; --rebuild makes it anew\n")


def test_another_model(indexed: Path, tmp_path: Path) -> None:
    from tests.support.checkpoints import tiny_jina_bert

    other = tiny_jina_bert(tmp_path / "other")
    done = run("search", "oil", "-m", other)
    assert done.returncode == 0
    assert done.stdout.startswith("garage/")
    assert done.stderr.startswith("searched by words alone: this index has vectors of 'pocket'")
    assert done.stderr.count("--rebuild") == done.stderr.count("\n") == 1
    done = run("search", "oil", "-m", other, "--mode", "meaning")
    assert done.returncode == 1
    assert done.stderr.startswith("error: this index has vectors of 'pocket'")
    assert done.stderr.count("\n") == 1
    done = run("index", "-m", other)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 or "added" in done.stderr
    (indexed / "notes/new.md").write_text("a note that has no vector when its index is rebuilt")
    done = run("index", "notes", "-m", other, "--rebuild")
    assert done.returncode == 0
    assert "by words alone" not in done.stderr
    assert f"all vectors are of '{other}' now" in done.stderr
    assert run("search", "oil").stderr == ""


def test_a_model_in_the_cache(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look into the cache imports MLX, before which a Linux machine's BLAS has to be opened."""
    from tests.support.checkpoints import tiny_jina_bert

    repository = indexed / "cache" / "models--jinaai--jina-embeddings-v2-base-en"
    tiny_jina_bert(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setenv("HF_HUB_CACHE", str(indexed / "cache"))
    done = run("search", "oil", "-m", "v2-base-en", program=PROGRAM)
    assert done.stdout.startswith("garage/")
    assert done.stderr.startswith("searched by words alone: this index has vectors of 'pocket'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "absent"], "absent does not exist"),
        (["index", "notes/travel.txt"], "is no folder, and notes are indexed by folders: name /"),
        (["index", "--exclude"], "requires an argument; see mlx-jina index --help"),
        (["index", "--repair"], "--repair mends what --check finds"),
        (["index", "--json"], "--json is for --status and --list"),
        (["index", "--exclude", "x"], "belong to a folder: name it"),
        (["index", "notes", "--include", "!"], "not patterns as in .gitignore"),
        (["index", "notes", "--include", ""], "'*' is everything"),
        (["index", "--weight", "2"], "2.0 is not in the range"),
        (["search", "x", "--index", "absent.db"], "absent.db does not exist"),
        (["search", "x", "--index", "~nobody-here/a.db"], "~nobody-here/a.db does not exist"),
        (["index", "~nobody-here"], "~nobody-here"),
        (["index", ""], "the name of a folder is empty"),
        (["index", "notes/oil.md"], "oil.md"),
        (["index", "notes", "--watch", "--dry-run"], "give one of them"),
        (["search", "x", "--json", "--paths"], "--json and --paths are two formats"),
        (["search", "x", "--jsonl", "--json"], "--json and --jsonl are two formats"),
        (["search", "x", "--uri", "{path.__class__}"], "is no URI template"),
        (["search", "x", "--uri", "{line:>1000000000}"], "is no URI template"),
        (["search", "x", "--uri", "{path"], "is no URI template"),
        (["search", "x", "--uri", ""], "is no URI template"),
        (["search", "x", "--in", ""], "--in '' names no folder or note"),
        (["index", "notes", "--rebuild", "--words-only"], "--words-only makes none: give one of them"),
        (["search", "x", "--tag", "#"], "--tag '#' is no tag"),
        (["search", "x", "-m", "pockte"], "nor a known model (did you mean 'pocket'?)"),
        (["search", "x", "--mode", "words", "-m", "pockte"], "nor a known model (did you mean 'pocket'?)"),
        (["search", "x", "-m", "someone/never-here"], "is not in the cache at"),
        (["search", "x", "--limt", "5"], "--limit"),
        (["search", "x", "--min-score", "nan"], "--min-score nan must lie between 0 and 1"),
        (["search", "x", "--min-cosine", "-5"], "--min-cosine -5.0 must lie between -1 and 1"),
        (["search", "x", "-0"], "-0 ends paths"),
        (["search", "x", "--uri", "{nothing}"], "is no URI template"),
        (["search", "x", "--since", "yesterday"], "'yesterday' is no date"),
        (["search", "x", "-n", "0"], "0 is not in the range"),
        (["search"], "Missing argument 'QUERY...'"),
        (["related", "absent.md"], "'absent.md' is not in this index"),
        (["duplicates", "--threshold", "7"], "--threshold 7.0 must lie between 0 and 1"),
    ],
)
def test_mistakes_are_one_line(shared: Path, arguments: Sequence[str], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_folder_that_is_away_is_said_and_searched(indexed: Path) -> None:
    (indexed / "far").mkdir()
    (indexed / "notes").rename(indexed / "far/away")
    done = run("search", "oil", "-n", "1")
    assert done.stdout.startswith("garage/motor.md")
    assert "the index is searched as it is" in done.stderr
    assert "keeps its notes" in done.stderr


def test_on_a_terminal_matches_are_bold_and_places_are_links(shared: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "search", "feed starter", "-n", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        # What a closed terminal says on Linux.
        except OSError:
            pass
        process.wait()
    os.close(ours)
    text = shown.decode()
    link = f"\x1b]8;;file://{shared}/notes/bread.md\x1b\\bread.md:4\x1b]8;;\x1b\\"
    assert link in text
    assert "\x1b[1mFeed\x1b[0m the \x1b[1mstarter\x1b[0m with" in text


def test_a_watched_folder_is_followed(indexed: Path) -> None:
    pytest.importorskip("watchfiles")
    command = [*PROGRAM, "index", "--watch"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "unchanged" in process.stderr.readline()
        assert process.stderr.readline() == f"following {indexed}/notes; Ctrl-C ends it\n"
        deadline = time.monotonic() + 60
        # The system may take a moment to tell of changes.
        while time.monotonic() < deadline:
            (indexed / "notes/new.md").write_text(f"zebra {time.monotonic()}")
            if run("search", "zebra", "--mode", "words", "--no-sync").stdout:
                break
            time.sleep(0.1)
        assert process.stderr.readline() == "new.md\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read()
