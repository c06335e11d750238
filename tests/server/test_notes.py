"""An index of notes over HTTP: its routes, who is let in, what can be read, and the command line that finds it."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_jina.search import location
from mlx_jina.search.database import Cancelled
from mlx_jina.search.expansion import Expansion
from mlx_jina.search.hits import check_uri
from mlx_jina.server import expanding
from mlx_jina.server.expanding import Expanding, RequestExpander
from tests.support import language_models, reranker_checkpoints
from tests.support.command import run
from tests.support.process import Server

NOTES = {
    "bread.md": "---\ntags: [food]\n---\n# Sourdough\n\nFeed the starter with flour every day.\n",
    "kitchen/soup.md": "# Soup\n\nBoil lentils with cumin. See [[Sourdough]].\n",
    "garage/car.md": "# Car\n\nChange the oil of the engine every year.\n",
    "evil.md": "# <img src=x onerror=alert(1)>\n\n</script><script>alert(2)</script>\n",
}
KEY = "sesame"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some notes, and a file beside them that nobody may read."""
    home = tmp_path_factory.mktemp("home")
    for name, text in NOTES.items():
        (home / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "notes" / name).write_text(text)
    (home / "secret.md").write_text("nobody reads this")
    (home / "notes" / "link.md").symlink_to(home / "secret.md")
    return home


@pytest.fixture(scope="module")
def notes(home: Path) -> Iterator[Server]:
    """A server with an index that it makes itself, and a key, which the Unix socket needs not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        reranker = reranker_checkpoints.v1(home / "reranker")
        words = ("--expand", language_models.tiny(home / "words"))
        options = ("pocket", f"reranker={reranker}", "--index", home / "notes", "--api-key", KEY, *words)
        with Server(*options) as running:
            running.client.headers["Authorization"] = f"Bearer {KEY}"
            wait_for_vectors(running)
            yield running


def wait_for_vectors(server: Server) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (status,) = server.client.get("/v1/indexes").json()["data"]
        if status["notes"] and not status["waiting"]:
            return
        time.sleep(0.1)
    raise AssertionError(server.log)


def alone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command while the server does not look at the notes, which it does when it likes."""
    deadline = time.monotonic() + 30
    while "is updating this index" in (done := run(*arguments)).stderr:
        assert time.monotonic() < deadline
    return done


def search(server: Server, query: str, **fields: Any) -> dict[str, Any]:
    answer = server.client.post("/v1/search", json={"query": query, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def paths(found: dict[str, Any]) -> list[str]:
    return [hit["path"] for hit in found["hits"]]


def test_search(notes: Server, home: Path) -> None:
    found = search(notes, "feed the starter", limit=2)
    assert (found["mode"], found["model"], found["warning"]) == ("hybrid", "pocket", None)
    hit = found["hits"][0]
    assert (hit["path"], hit["line"], hit["tags"]) == ("bread.md", 4, ["food"])
    assert hit["absolute_path"] == f"{home}/notes/bread.md"
    assert [hit["snippet"][a:b] for a, b in hit["highlights"]] == ["Feed", "the", "starter"]
    assert paths(search(notes, "vehicle maintenance", mode="meaning"))[0] == "garage/car.md"
    assert paths(search(notes, "oil", where={"glob": "kitchen"})) == ["kitchen/soup.md"]
    assert paths(search(notes, "flour", where={"tags": ["food"]})) == ["bread.md"]
    assert paths(search(notes, "flour", mode="words", where=None)) == ["bread.md"]
    assert search(notes, "flour", explain=True)["explanation"]["words"] == {"flour": 1}
    name = notes.client.get("/v1/indexes").json()["data"][0]["file"]
    assert search(notes, "flour", index=name)["hits"]
    # A note that is written now is found by who asks for it at once, and soon by who does not.
    (home / "notes" / "new.md").write_text("# Zebra\n\nStripes.\n")
    assert paths(search(notes, "stripes", mode="words", sync=True)) == ["new.md"]
    (home / "notes" / "new.md").unlink()
    assert paths(search(notes, "stripes", mode="words", sync=True)) == []


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 422, "query: Field required"),
        ({"query": "x", "limit": 0}, 422, "limit: "),
        ({"query": "x", "limit": 10_000}, 422, "limit: "),
        ({"query": "x", "mode": "regex"}, 422, "mode: "),
        ({"query": "x" * 10_001}, 422, "query: "),
        ({"query": "x", "limt": 3}, 422, "limt: there is no such field"),
        ({"query": "x", "where": {"tag": "food"}}, 422, "where.tag: there is no such field"),
        ({"query": "x", "where": {"since": "yesterday"}}, 400, "'yesterday' is no date"),
        ({"query": "x", "index": "/etc/passwd"}, 404, "this server has no index '/etc/passwd'"),
        ({"query": "x", "uri": "{path.__class__}"}, 400, "is no URI template"),
        ({"query": "x", "uri": "{line:>999999999}"}, 400, "is no URI template"),
    ],
)
def test_mistakes(notes: Server, fields: dict[str, Any], status: int, message: str) -> None:
    answer = notes.client.post("/v1/search", json=fields)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_fields_of_two_names_may_say_the_same(notes: Server) -> None:
    answer = notes.client.post("/v1/search", json={"query": "oil", "q": "oil", "limit": 1, "n": 1})
    assert len(answer.json()["hits"]) == 1
    answer = notes.client.post("/v1/search", json={"query": "oil", "limit": 1, "n": 2})
    assert (answer.status_code, "limit and n contradict" in answer.text) == (422, True)


def test_hits_are_reranked_by_a_model_of_the_server(notes: Server) -> None:
    hits = search(notes, "oil of the engine", rerank="reranker", limit=4)["hits"]
    assert all(0 < hit["rerank"] < 1 for hit in hits)
    assert hits == sorted(hits, key=lambda hit: -hit["score"])
    metrics = notes.client.get("/metrics").text
    assert re.search(r'texts_total\{model="reranker"\} 4\.0', metrics)
    assert search(notes, "oil")["hits"][0]["rerank"] is None
    for name in ("/etc/passwd", "absent"):
        answer = notes.client.post("/v1/search", json={"query": "oil", "rerank": name})
        assert answer.status_code == 404


def test_questions_are_reworded_by_the_model_of_the_server(notes: Server, home: Path) -> None:
    for asked in (True, str(home / "words")):
        why = search(notes, "oil of the engine", mode="words", expand=asked, explain=True)["explanation"]
        assert why["expansion"] == {"rewordings": [], "answer": ""}
    for more in ({}, {"expand": None}, {"expand": False}):
        assert search(notes, "oil", explain=True, **more)["explanation"]["expansion"] is None
    # A name opens nothing: it is that of the model, or an error.
    for name in ("/etc/passwd", "absent", str(home / "reranker")):
        answer = notes.client.post("/v1/search", json={"query": "oil", "expand": name})
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "expand")
    done = run("serve", "--expand", "x")
    assert (done.returncode, done.stderr) == (
        1,
        "error: --expand rewords questions to notes, which --index names\n",
    )


def test_few_questions_wait_for_a_language_model() -> None:
    asked: list[str] = []
    begun, done = threading.Event(), threading.Event()

    class Slow:
        def expand(self, query: str, /) -> Expansion:
            asked.append(query)
            begun.set()
            assert done.wait(60)
            return Expansion((f"another {query}",))

    shared = Expanding("slow", Slow())
    waiting = RequestExpander(shared, lambda: False)
    gone = RequestExpander(shared, lambda: True)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(waiting.expand, "a")
        assert begun.wait(60)
        with pytest.raises(Cancelled):
            gone.expand("nobody wants it any more")
        others = [threads.submit(waiting.expand, "a") for _ in range(expanding.MOST)]
        # One too many, which is whichever came last, and does without.
        refused = next(as_completed(others)).exception()
        assert "busy with 4 other questions" in str(refused)
        done.set()
        kept = [each.result() for each in others if each.exception() is None]
    assert {first.result(), *kept} == {Expansion(("another a",))}
    # The same question needs no second answer.
    assert (asked, len(kept)) == (["a"], expanding.MOST - 1)


@pytest.mark.parametrize("template", ["{path!r}", "{path.x}", "{path[0]}", "{0}", "{}", "{line:>9}", "{", "{x}"])
def test_templates_of_uris_only_name_parts(template: str) -> None:
    with pytest.raises(ValueError, match="is no URI template"):
        check_uri(template)
    assert check_uri("x://{path}?line={line}#{{}}") == "x://{path}?line={line}#{{}}"


def test_as_omnisearch_answers(notes: Server) -> None:
    answer = notes.client.get("/search", params={"q": "feed starters"})
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    first = answer.json()[0]
    text = NOTES["bread.md"]
    assert first == {
        "score": first["score"],
        "vault": "notes",
        "path": "bread.md",
        "basename": "bread",
        "foundWords": ["feed", "starter"],
        "matches": [
            {"match": "Feed", "offset": text.index("Feed")},
            {"match": "starter", "offset": text.index("starter")},
        ],
        "excerpt": "Feed the starter with flour every day.",
    }


def test_notes_and_their_neighbours(notes: Server) -> None:
    hit = search(notes, "sourdough")["hits"][0]
    note = notes.client.get("/note", params={"id": hit["id"], "from_line": 4, "lines": 3}).json()
    assert (note["path"], note["lines"], note["tags"]) == ("bread.md", 7, ["food"])
    assert note["text"] == "# Sourdough\n\nFeed the starter with flour every day.\n"
    assert notes.client.get("/note", params={"id": hit["id"]}).json()["text"] == NOTES["bread.md"]
    for given in ({"id": hit["id"]}, {"path": "bread.md"}, {"path": "Sourdough"}):
        near = notes.client.get("/related", params={**given, "limit": 10}).json()
        assert "kitchen/soup.md" not in paths(near)
    near = notes.client.get("/related", params={"id": hit["id"], "limit": 1, "linked": True}).json()
    assert paths(near) == ["kitchen/soup.md"]
    told = {"threshold": 0.01, "limit": 1}
    pairs = notes.client.get("/duplicates", params=told).json()
    assert (pairs["threshold"], len(pairs["duplicates"])) == (0.01, 1)
    assert {"path", "other", "cosine", "identical"} == pairs["duplicates"][0].keys()
    assert notes.client.get("/duplicates").json()["duplicates"] == []
    assert notes.client.get("/duplicates?threshold=2").status_code == 422
    places = notes.client.get("/v1/map").json()["notes"]
    assert [place["path"] for place in places] == sorted(NOTES)
    assert all(-1 <= place[axis] <= 1 for place in places for axis in "xy")


# ---- who is let in, and to what

ROUTES = [
    ("POST", "/v1/search", {"json": {"query": "starter"}}),
    ("GET", "/search?q=starter", {}),
    ("GET", "/related?path=bread.md", {}),
    ("GET", "/duplicates", {}),
    ("GET", "/note?id=1048576", {}),
    ("GET", "/v1/indexes", {}),
    ("GET", "/v1/map", {}),
]
FOREIGN: list[dict[str, str]] = [
    {"Host": "evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "127.0.0.1.evil.example:7171"},
    {"Host": "192.168.1.7"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "https://obsidian.md"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
]


@pytest.mark.parametrize(("method", "path", "more"), ROUTES, ids=[path for _, path, _ in ROUTES])
def test_foreign_pages_and_keys(notes: Server, method: str, path: str, more: dict[str, Any]) -> None:
    assert notes.client.request(method, path, **more).status_code == 200
    for headers in FOREIGN:
        answer = notes.client.request(method, path, headers=headers, **more)
        assert (answer.status_code, "starter" in answer.text) == (403, False), headers
        assert "Access-Control-Allow-Origin" not in answer.headers
    for key in ("", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", KEY):
        answer = notes.client.request(method, path, headers={"Authorization": key}, **more)
        assert (answer.status_code, "starter" in answer.text) == (401, False), key
    # A key in the address would be in histories.
    query = "&" if "?" in path else "?"
    answer = httpx2.request(method, f"{notes.url}{path}{query}api_key={KEY}", **more)
    assert answer.status_code == 401
    # Obsidian and this machine's own pages are let in, with the key.
    for origin in ("app://obsidian.md", "http://localhost:3000"):
        site = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
        answer = notes.client.request(method, path, headers=site, **more)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize(
    "given",
    [
        "id=0",
        "id=-1",
        "id=99999999999",
        f"id={1 << 52}",
        f"id={1 << 64}",
        "id=1e9",
        "id=bread.md",
        "id=../secret.md",
        "id=%2e%2e%2fsecret.md",
        "id=/etc/passwd",
        "path=../secret.md",
        "path=bread.md",
        "",
    ],
)
def test_only_notes_can_be_read(notes: Server, given: str) -> None:
    answer = notes.client.get(f"/note?{given}")
    assert answer.status_code in (400, 422)
    assert "nobody reads" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "../secret.md",
        "kitchen/../../secret.md",
        "/etc/passwd",
        "{home}/secret.md",
        "file:///etc/passwd",
        "link.md",
        "bread.md%00.png",
        "..%2fsecret.md",
        "%2e%2e/secret.md",
        "",
    ],
)
def test_nor_has_anything_else_neighbours(notes: Server, home: Path, path: str) -> None:
    answer = notes.client.get(f"/related?path={path.format(home=home)}")
    assert (answer.status_code, "hits" in answer.json()) == (400, False)


@pytest.mark.parametrize(
    "path", ["/note/../secret.md", "/notes/bread.md", "/..%2fsecret.md", "/static/../x", "//etc"]
)
def test_there_are_no_files_behind_paths(notes: Server, path: str) -> None:
    with socket.create_connection(("127.0.0.1", notes.port), timeout=30) as client:
        request = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
        )
        client.sendall(request.encode())
        assert client.makefile("rb").readline() == b"HTTP/1.1 404 Not Found\r\n"


def test_a_link_that_takes_a_notes_place_is_not_followed(notes: Server, home: Path) -> None:
    hit = search(notes, "lentils")["hits"][0]
    kitchen = home / "notes" / "kitchen"
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "soup.md").write_text("nobody reads this")
    kitchen.rename(home / "kept")
    kitchen.symlink_to(home / "elsewhere")
    answer = notes.client.get("/note", params={"id": hit["id"]})
    kitchen.unlink()
    (home / "kept").rename(kitchen)
    assert (answer.status_code, "nobody reads" in answer.text) == (400, False)
    search(notes, "lentils", sync=True)


def test_texts_and_names_are_not_logged(notes: Server) -> None:
    search(notes, "verysecretword")
    notes.client.get("/search", params={"q": "verysecretword"})
    for word in ("verysecretword", "bread.md", "Sourdough"):
        assert word not in notes.log


# ---- the command line finds the server


def test_a_search_asks_the_server(notes: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    path = location.socket_of(location.index_of(home / "notes"))
    assert path is not None
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    before = notes.metric("requests_total")
    found = run("search", "feed the starter", "--index", home / "notes", "--explain", "--json")
    assert found.returncode == 0, found.stderr
    assert notes.metric("requests_total") > before
    theirs = json.loads(found.stdout)
    # Another way to the same answer: a model that is named is loaded.
    options = ("--index", home / "notes", "--explain", "-m", "pocket")
    ours = json.loads(run("search", "feed the starter", *options, "--json").stdout)
    assert {**theirs, "took_ms": 0} == {**ours, "took_ms": 0}
    index = ("--index", home / "notes")
    # It also rewords questions by its own language model.
    before = notes.metric("requests_total")
    found = run("search", "oil", *index, "--expand", home / "words", "--explain", "--mode", "words")
    assert "and for no answer" in found.stdout, found.stderr
    assert notes.metric("requests_total") > before + 1
    for more in ((), ("--paths",), ("--jsonl",), ("--in", "kitchen"), ("--explain",), ("--uri", "vscode")):
        here = alone("search", "oil", *index, *more)
        there = alone("search", "oil", *index, "-m", "pocket", *more)
        assert (here.stdout, here.stderr) == (there.stdout, there.stderr)
    wrong = run("search", "oil", *index, "--since", "yesterday")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "error: 'yesterday' is no date; write one as 2026-11-26\n"


def test_a_folder_that_moved_is_followed_beside_a_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "other"))
    assert run("index", home / "notes").returncode == 0
    moved = home / "far/away"
    moved.parent.mkdir()
    index = ("--index", moved, "--paths", "-n", "1")
    with Server("--index", home / "notes") as running:
        wait_for_vectors(running)
        (home / "notes").rename(moved)
        try:
            for _ in range(2):
                assert alone("search", "oil", *index).stdout == f"{moved}/garage/car.md\n"
        finally:
            moved.rename(home / "notes")


def test_a_server_that_went_away_is_no_matter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "other"))
    with Server("--index", home / "notes") as running:
        wait_for_vectors(running)
        path = location.socket_of(location.index_of(home / "notes"))
        assert path is not None
        assert path.exists()
        with Server("--index", home / "notes") as second:
            assert "mlx-jina search will not find this server: another server has this index" in second.log
        assert path.exists()
        running.stop(signal.SIGKILL)
    assert path.exists()
    found = run("search", "oil", "--index", home / "notes", "--paths", "-n", "1")
    assert (found.stdout, found.stderr) == (f"{home}/notes/garage/car.md\n", "")
    with Server("--index", home / "notes") as running:
        assert "will not find" not in running.log
        assert running.stop() == 0
    assert not path.exists()


def test_what_cannot_be_served(home: Path) -> None:
    done = run("serve", "--index", home / "absent.db")
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {home}/absent.db does not exist; `mlx-jina index FOLDER` makes an index\n",
    )
