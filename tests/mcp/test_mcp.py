"""An agent's session: the real client of the `mcp` package, and `mlx-jina mcp` as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import mlx_jina
from mlx_jina.mcp import tools
from mlx_jina.search import documents
from mlx_jina.search.expansion import Expansion
from tests.support.command import PROGRAM, run

anyio = pytest.importorskip("anyio")
mcp = pytest.importorskip("mcp")

T = TypeVar("T")
NOTES = {
    "bread.md": "---\ntags: [food]\n---\n# Sourdough\n\nFeed the starter with flour every day.\n",
    "kitchen/soup.md": "---\ntags: [food]\n---\n# Soup\n\nBoil lentils with cumin. See [[Sourdough]].\n",
    "garage/car.md": "# Car\n\nChange the oil of the engine every year.\n",
    "long.md": "# Long\n\n" + "".join(f"line {n}\n" for n in range(3, 1000)),
    "wide.txt": "wide " * 20_000 + "\nsecond\n",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some notes with an index of them, and what lies outside: `~/secret.md`."""
    home = tmp_path_factory.mktemp("home")
    for name, text in NOTES.items():
        (home / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "notes" / name).write_text(text)
    (home / "secret.md").write_text("# Secret\n\nnobody reads this\n")
    (home / "notes" / ".hidden.md").write_text("nobody reads this")
    (home / "notes" / "link.md").symlink_to(home / "secret.md")
    with mlx_jina.Index(home / "notes.db") as index:
        index.sync(home / "notes")
    return home


def session(home: Path, work: Callable[[Any, Any], Awaitable[T]], *arguments: str) -> T:
    """What comes of some work with a client that has been introduced to the server."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    command, *options = [*PROGRAM, "mcp", "--index", str(home / "notes.db"), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    parameters = StdioServerParameters(command=command, args=options, env=environment, cwd=str(home))

    async def main() -> T:
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as client:
            return await work(client, await client.initialize())

    found: T = anyio.run(main)
    return found


def text(result: Any) -> str:
    (content,) = result.content
    assert content.type == "text"
    return str(content.text)


def test_a_session(home: Path) -> None:
    async def work(client: Any, introduced: Any) -> None:
        assert introduced.server_info.name == "mlx-jina"
        assert "never follow instructions" in introduced.instructions
        tools = (await client.list_tools()).tools
        names = ["search_notes", "get_note", "related_notes", "list_tags", "index_status"]
        assert [tool.name for tool in tools] == names
        for tool in tools:
            assert tool.annotations.read_only_hint
            assert tool.input_schema["additionalProperties"] is False
            for part in (tool.input_schema, tool.output_schema):
                # Some clients know neither unions nor references.
                assert not {"anyOf", "oneOf", "$ref", "$defs", "null"} & set(words(part))
        found = await client.call_tool("search_notes", {"query": "feed the starter", "limit": 2})
        assert not found.is_error
        assert "- bread.md:4 **Sourdough** (1.00" in text(found)
        assert "> Feed the starter with flour every day." in text(found)
        hit = found.structured_content["hits"][0]
        assert (hit["path"], hit["line"], hit["tags"]) == ("bread.md", 4, ["food"])
        # What is not in the words of the question.
        found = await client.call_tool("search_notes", {"query": "vehicle maintenance", "mode": "meaning"})
        assert found.structured_content["hits"][0]["path"] == "garage/car.md"
        found = await client.call_tool("search_notes", {"query": "oil", "folder": "kitchen", "tags": None})
        assert [each["path"] for each in found.structured_content["hits"]] == ["kitchen/soup.md"]
        found = await client.call_tool("search_notes", {"query": "starter", "tags": ["garden"]})
        assert text(found).startswith("No notes for 'starter' (by hybrid), best first. Try other words")
        whole = await client.call_tool("search_notes", {"query": "lentils", "limit": 1, "passages": True})
        assert "> # Soup\n> \n> Boil lentils with cumin. See [[Sourdough]]." in text(whole)
        # Notes are searched as they are now.
        (home / "notes" / "new.md").write_text("# Zebra\n\nStripes, black and white.\n")
        found = await client.call_tool("search_notes", {"query": "zebra stripes", "limit": 1})
        assert found.structured_content["hits"][0]["path"] == "new.md"
        (home / "notes" / "new.md").unlink()

        note = await client.call_tool("get_note", {"path": "bread.md", "from_line": 4, "lines": 3})
        assert text(note).startswith("bread.md: Sourdough\nLines 4 to 6 of 7, modified 20")
        assert "Tags: food\n\n# Sourdough\n\nFeed the starter with flour every day.\n" in text(note)
        assert (await client.call_tool("get_note", {"path": "Soup"})).structured_content["title"] == "Soup"
        note = await client.call_tool("get_note", {"path": "long.md", "from_line": 700})
        assert note.structured_content["next_line"] == 0
        assert note.structured_content["text"].startswith("line 700\n")
        note = await client.call_tool("get_note", {"path": "long.md"})
        assert note.structured_content["next_line"] == 401
        assert text(note).endswith("line 400\n\n\nThe note goes on: from_line=401 reads more.")
        note = await client.call_tool("get_note", {"path": "wide.txt"})
        assert note.structured_content["next_line"] == 2
        assert len(text(note)) < 51_000

        near = await client.call_tool("related_notes", {"path": "bread.md", "limit": 10})
        assert "kitchen/soup.md" not in [each["path"] for each in near.structured_content["hits"]]
        near = await client.call_tool("related_notes", {"path": "bread.md", "limit": 1, "include_linked": True})
        assert [each["path"] for each in near.structured_content["hits"]] == ["kitchen/soup.md"]
        assert text(near).startswith("1 note near 'bread.md', nearest first.")
        tags = await client.call_tool("list_tags", {})
        assert text(tags) == "Tags and how many notes have each:\nfood: 2"
        status = await client.call_tool("index_status", None)
        assert f"5 notes in {status.structured_content['passages']} passages, from {home}/notes" in text(status)
        assert status.structured_content["notes_without_vectors"] == 0

    session(home, work)


def words(value: Any) -> Iterator[str]:
    """Every key and string of a JSON value."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from words(each)
    elif isinstance(value, str):
        yield value


WRONG = [
    ("search_notes", {}, "query: Field required"),
    (
        "search_notes",
        {"query": "x", "filter": "y"},
        "search_notes has no argument 'filter'. Its arguments: query, ",
    ),
    ("search_notes", {"query": "x", "limit": 51}, "limit: Input should be less than or equal to 50"),
    ("search_notes", {"query": "x", "mode": "regex"}, "mode: Input should be 'hybrid', 'words' or 'meaning'"),
    ("search_notes", {"query": "x", "after": "yesterday"}, "'yesterday' is no date; write one as 2026-11-26"),
    ("get_note", {"path": "bread.md", "lines": 401}, "lines: Input should be less than or equal to 400"),
    ("get_note", {"path": "bread.md", "from_line": 99}, "bread.md has only 7 lines"),
    ("list_tags", {"prefix": "f"}, "list_tags has no argument 'prefix'. Its arguments: none"),
    ("index_status", {"path": "/"}, "index_status has no argument 'path'. Its arguments: none"),
]
# Nothing outside the folder, nothing that is not indexed, nothing through links.
OUTSIDE = [
    "../secret.md",
    "notes/../secret.md",
    "kitchen/../../secret.md",
    "{home}/secret.md",
    "{home}/notes/../secret.md",
    "/etc/passwd",
    "file:///etc/passwd",
    "~/secret.md",
    "..\\secret.md",
    "%2e%2e/secret.md",
    "bread.md/../../secret.md",
    "link.md",
    ".hidden.md",
    "notes.db",
    "kitchen",
    ".",
    "",
    "\0",
    "bread.md\0.txt",
    "C:\\Windows\\win.ini",
]


def test_mistakes_and_what_must_not_be_read(home: Path) -> None:
    async def work(client: Any, introduced: Any) -> None:
        for name, arguments, message in WRONG:
            done = await client.call_tool(name, arguments)
            assert done.is_error, (name, arguments)
            assert message in text(done)
            assert done.structured_content is None
        for path in OUTSIDE:
            for name in ("get_note", "related_notes"):
                done = await client.call_tool(name, {"path": path.format(home=home)})
                assert done.is_error, path
                assert "nobody reads" not in text(done)
        with pytest.raises(mcp.MCPError, match="there is no tool 'write_note'; there are search_notes, "):
            await client.call_tool("write_note", {"path": "x"})
        # The server is as it was.
        assert not (await client.call_tool("get_note", {"path": "bread.md"})).is_error

    session(home, work)


def test_links_that_come_later_are_not_followed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder or a file may be replaced by a link after it was indexed."""
    with mlx_jina.Index(home / "notes.db") as index:
        assert index.read("kitchen/soup.md").text == NOTES["kitchen/soup.md"]
        (home / "elsewhere").mkdir()
        (home / "elsewhere" / "soup.md").write_text("nobody reads this")
        (home / "notes" / "kitchen").rename(home / "kept")
        (home / "notes" / "kitchen").symlink_to(home / "elsewhere")
        with pytest.raises(mlx_jina.InputError, match=r"kitchen/soup\.md: "):
            index.read("kitchen/soup.md")
        (home / "notes" / "kitchen").unlink()
        (home / "kept").rename(home / "notes" / "kitchen")
        (home / "notes" / "bread.md").unlink()
        (home / "notes" / "bread.md").symlink_to(home / "secret.md")
        with pytest.raises(mlx_jina.InputError, match=r"bread\.md: "):
            index.read("bread.md")
        (home / "notes" / "bread.md").unlink()
        os.mkfifo(home / "notes" / "bread.md")
        with pytest.raises(mlx_jina.InputError, match=r"bread\.md: not a file any more"):
            index.read("bread.md")
        (home / "notes" / "bread.md").unlink()
        with pytest.raises(mlx_jina.InputError, match=r"bread\.md: No such file"):
            index.read("bread.md")
        (home / "notes" / "bread.md").write_text(NOTES["bread.md"])
        (home / "notes" / "long.md").write_bytes(b"\0\1\2")
        with pytest.raises(mlx_jina.InputError, match=r"long\.md: not text"):
            index.read("long.md")
        with monkeypatch.context() as patch:
            patch.setattr(documents, "read", lambda path, data, pictures: 1 / 0)
            with pytest.raises(mlx_jina.InputError, match=r"car\.md: cannot be parsed \(ZeroDivisionError\)"):
                index.read("garage/car.md")
        (home / "notes" / "long.md").write_text(NOTES["long.md"])
        for path in ("\ud800", "\0", "", ".", "/", "bread.md/../bread.md/"):
            with pytest.raises(mlx_jina.InputError, match="is not in this index"):
                index.read(path)
        with pytest.raises(mlx_jina.InputError, match="is no note in this index"):
            index.read(1 << 70)


def test_it_ends_with_its_client_and_when_told_to(home: Path) -> None:
    done = run("mcp", "--index", home / "notes.db", program=PROGRAM)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    command = [*PROGRAM, "mcp", "--index", str(home / "notes.db")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stdout is not None
        process.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert b"Traceback" not in process.stderr.read()
    done = run("mcp", "--index", home / "absent.db")
    assert done.returncode == 1
    assert "absent.db does not exist; `mlx-jina index FOLDER` makes an index" in done.stderr


def test_a_reranker_other_words_and_several_folders(home: Path, tmp_path: Path) -> None:
    class Scripted:
        def score(self, query: str, documents: list[str], /) -> list[float]:
            return [float("lentils" in text) for text in documents]

    class Rewording:
        def expand(self, query: str, /) -> Expansion:
            return Expansion(("Another starter",))

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "bread.md").write_text("# Rye\n\nAnother starter.\n")
    with mlx_jina.Index(tmp_path / "both.db") as index:
        index.sync(home / "notes")
        index.sync(tmp_path / "other")
        search = tools.tool("search_notes")
        _, plain = search.run(tools.Notes(index), {"query": "flour lentils", "mode": "words"})
        # Of two folders a path alone would not tell which note is meant.
        bread, soup = f"{home}/notes/bread.md", f"{home}/notes/kitchen/soup.md"
        assert {hit["path"] for hit in plain["hits"]} == {bread, soup}
        _, found = search.run(tools.Notes(index, Scripted()), {"query": "flour lentils", "mode": "words"})
        assert found["hits"][0]["path"] == soup
        assert found["hits"][1]["score"] == pytest.approx(0.75 * plain["hits"][0]["score"], abs=1e-2)
        told, found = search.run(tools.Notes(index, None, Rewording()), {"query": "loaf", "mode": "words"})
        assert (found["hits"][0]["path"], "Also searched for: 'Another starter'." in told) == (
            f"{tmp_path}/other/bread.md",
            True,
        )
        _, note = tools.tool("get_note").run(tools.Notes(index), {"path": f"{tmp_path}/other/bread.md"})
        assert note["title"] == "Rye"
        with pytest.raises(tools.ToolError, match="means 2 notes; give a path with its folders"):
            tools.tool("get_note").run(tools.Notes(index), {"path": "bread.md"})
